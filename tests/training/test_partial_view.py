"""Partial views of the spine: what is kept, where it lies, and which trainings have them."""

import pytest
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform

from nnunetv2_cafr.training.partial_view import PADDING, PartialView
from nnunetv2_cafr.training.variants import trainer_variant

ROWS, COLUMNS = 40, 6
UP_DOWN, FRONT_BACK = 0, 1  # patch axes of a sagittal slice


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_part_in_its_order_and_padding_around_it(axis):
    """Values count the cells along the axis from 1, so they say which part was kept."""
    shape = [COLUMNS] * 3
    shape[axis] = ROWS
    image = torch.arange(1.0, ROWS + 1).view([-1 if a == axis else 1 for a in range(3)]).expand(shape)[None].clone()
    view, kept, starts, places = PartialView(axis, least=0.35), set(), [], []
    for _ in range(400):
        out = view(image=image.clone(), segmentation=image.to(torch.int16))
        line = out["image"].movedim(1 + axis, 1).flatten(2)[0]
        assert (line == line[:, :1]).all()
        there = line[:, 0].nonzero()[:, 0]
        part = line[there, 0]
        assert torch.equal(there, torch.arange(len(there)) + there[0])
        assert torch.equal(part, torch.arange(len(part)) + part[0])
        assert torch.equal(out["segmentation"], torch.where(out["image"] > 0, out["image"], PADDING).to(torch.int16))
        kept.add(len(part))
        starts.append(int(part[0]) - 1)
        places.append(int(there[0]))
    assert kept == set(range(14, ROWS + 1))  # 0.35 of 40
    for reached in (starts, places):
        assert min(reached) == 0
        assert max(reached) >= 20


def pipeline_of(trainer, mirror_axes):
    rotation = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[0]
    return trainer.get_training_transforms([64, 48], rotation, None, mirror_axes, False).transforms


@pytest.mark.parametrize("name", ["CAFR_partialViews", "LevelSafe_partialViews_seed1_budget1x1"])
def test_patches_are_cut_along_up_and_down(name, construct):
    transforms = pipeline_of(construct(f"nnUNetTrainer_{name}"), (FRONT_BACK,))
    (where,) = (at for at, t in enumerate(transforms) if isinstance(getattr(t, "transform", None), PartialView))
    assert isinstance(transforms[where], RandomTransform)
    assert isinstance(transforms[where - 1], SpatialTransform)
    assert transforms[where].transform.axis == UP_DOWN


def test_only_for_trainers_that_know_up_from_down():
    assert trainer_variant("nnUNetTrainer_partialViews") is None


def test_other_trainers_see_whole_patches(construct):
    assert "PartialView" not in " ".join(map(str, pipeline_of(construct("nnUNetTrainer_CAFR"), (FRONT_BACK,))))


@pytest.mark.parametrize("up_down", [pytest.param(None, id="unknown"), pytest.param(0, id="across the slices")])
def test_refused_where_up_and_down_are_not_in_the_patch(up_down, construct, monkeypatch):
    trainer = construct("nnUNetTrainer_CAFR_partialViews")
    monkeypatch.setattr(trainer, "find_superior_inferior_axis", lambda: up_down)
    with pytest.raises(SystemExit, match="along up and down, an axis that is unknown"):
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
