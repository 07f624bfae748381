"""Brightness of single structures: what changes, by how much, and which trainings have it."""

import pytest
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform

from nnunetv2_cafr.training.structure_brightness import StructureBrightness

STRUCTURES, IGNORED, PADDING = (1, 3), 9, -1
REACH = 3  # voxels over which a change fades, at most
MOST = 1.5


@pytest.mark.parametrize("axes", [2, 3])
def test_structures_change_on_their_own_and_nothing_else_does(axes):
    """Bands of 12 rows, each of one label: background, structures, padding, an ignored region."""
    bands = [0, 1, 0, 3, 0, PADDING, 0, IGNORED]
    segmentation = torch.tensor(bands).repeat_interleave(12).view(-1, *[1] * (axes - 1)).expand(-1, *[6] * (axes - 1))
    image = torch.stack([torch.rand(segmentation.shape), 100 * torch.rand(segmentation.shape)])
    deviation = image.flatten(1).std(dim=1)
    inner = [slice(12 * band + REACH, 12 * (band + 1) - REACH) for band in range(len(bands))]
    changes = []
    for _ in range(200):
        data = {"image": image.clone(), "segmentation": segmentation[None].to(torch.int16)}
        out = StructureBrightness(STRUCTURES, MOST)(**data)
        assert torch.equal(out["segmentation"], data["segmentation"])
        change = (out["image"] - image) / deviation.view(-1, *[1] * axes)
        for band, label in enumerate(bands):
            of_band = change[:, inner[band]].flatten(1)
            if label in STRUCTURES:
                torch.testing.assert_close(of_band, of_band[:, :1].expand_as(of_band), atol=1e-4, rtol=0)
            else:
                assert not of_band.any()
        changes.append(torch.stack([change[:, inner[bands.index(label)]].flatten(1)[:, 0] for label in STRUCTURES]))
    drawn = torch.stack(changes).flatten(1)  # (patches, structures and channels)
    assert drawn.abs().max() <= MOST + 1e-4
    assert (drawn.max(dim=0).values > 0.9).all()
    assert (drawn.min(dim=0).values < -0.9).all()
    assert (torch.corrcoef(drawn.T) - torch.eye(4)).abs().max() < 0.3


def pipeline_of(trainer):
    rotation = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[0]
    return trainer.get_training_transforms([64, 48], rotation, None, (1,), False, foreground_labels=[1, 2]).transforms


@pytest.mark.parametrize("name", ["CAFR", "LevelSafe", "CAFR_partialViews"])
def test_level_safe_trainings_have_it_before_noise_and_blur(name, construct):
    transforms = pipeline_of(construct(f"nnUNetTrainer_{name}"))
    (where,) = (at for at, t in enumerate(transforms) if isinstance(getattr(t, "transform", None), StructureBrightness))
    assert isinstance(transforms[where], RandomTransform)
    assert isinstance(transforms[where - 1], SpatialTransform)
    assert transforms[where].transform.labels == (1, 2)


@pytest.mark.parametrize("name", ["CAFR_nnUNetDA", "CAFR_paper"])
def test_stock_augmentation_and_the_papers_do_without(name, construct):
    assert "StructureBrightness" not in " ".join(map(str, pipeline_of(construct(f"nnUNetTrainer_{name}"))))
