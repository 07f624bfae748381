"""The phantom keeps what makes the task hard, and is reproducible voxel by voxel."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_cafr.phantom import make_case, write_dataset
from nnunetv2_cafr.phantom.dataset import DIRECTION

SIZE = (128, 96, 12)
SEEDS = range(6)


@pytest.fixture(scope="module")
def cases() -> list[tuple[sitk.Image, sitk.Image]]:
    return [make_case(seed, size=SIZE) for seed in SEEDS]


def arrays(case: tuple[sitk.Image, sitk.Image]) -> tuple[np.ndarray, np.ndarray]:
    return sitk.GetArrayFromImage(case[0]), sitk.GetArrayFromImage(case[1])


def test_same_seed_same_voxels(cases: list[tuple[sitk.Image, sitk.Image]]) -> None:
    for ours, again in zip(arrays(cases[0]), arrays(make_case(0, size=SIZE)), strict=True):
        np.testing.assert_array_equal(ours, again)
    assert not np.array_equal(arrays(cases[0])[1], arrays(cases[1])[1])


def test_grid_is_sagittal(cases: list[tuple[sitk.Image, sitk.Image]]) -> None:
    for image, mask in cases:
        assert image.GetSize() == (96, 128, 12)  # x runs over columns
        assert image.GetSpacing() == pytest.approx((300 / 128, 300 / 128, 4.4))
        assert image.GetDirection() == DIRECTION
        for name in ("Size", "Spacing", "Origin", "Direction"):
            assert getattr(image, f"Get{name}")() == getattr(mask, f"Get{name}")()


def test_levels_lie_in_order_along_the_spine(cases: list[tuple[sitk.Image, sitk.Image]]) -> None:
    numbers = set()
    for case in cases:
        _, mask = arrays(case)
        rows = {int(label): np.nonzero(mask == label)[1].mean() for label in np.unique(mask) if label}
        vertebrae = [label for label in rows if label <= 10]
        discs = [label for label in rows if label > 10]
        assert vertebrae == list(range(1, len(vertebrae) + 1))
        assert discs[: len(vertebrae) - 1] == list(range(11, 10 + len(vertebrae)))
        # S, L5/S, L5, L4/L5, ... each lies above the one before (rows run downwards).
        upwards = [1, *(label for i in range(2, len(vertebrae) + 1) for label in (9 + i, i))]
        heights = [rows[label] for label in upwards]
        assert heights == sorted(heights, reverse=True)
        assert (mask[:, 0] > 0).any(), "the uppermost level is to be cut by the border"
        numbers.add(len(vertebrae))
    assert numbers <= {7, 8, 9, 10}
    assert len(numbers) > 1, "the field of view is to differ from case to case"


def test_vertebrae_look_alike_and_the_spine_ends_laterally(cases: list[tuple[sitk.Image, sitk.Image]]) -> None:
    for case in cases:
        image, mask = arrays(case)
        # Compared in the bodies' middle columns, where coil bias is about equal for neighbours.
        l4, l3 = (np.median(image[mask == label]) for label in (3, 4))
        assert 0.7 < l4 / l3 < 1.4
        sizes = [np.count_nonzero(mask == label) for label in (3, 4)]
        assert 0.8 < sizes[0] / sizes[1] < 1.25
        areas = (mask > 0).sum((1, 2))
        assert min(areas[0], areas[-1]) < 0.35 * areas.max()


@pytest.mark.parametrize("size", [(32, 32, 1), (50, 101, 3)])
def test_odd_sizes(size: tuple[int, int, int]) -> None:
    image, mask = make_case(3, size=size, spacing=(300 / size[0], 2.0, 5.0))
    assert image.GetSize() == mask.GetSize() == (size[1], size[0], size[2])
    assert image.GetSpacing() == pytest.approx((2.0, 300 / size[0], 5.0))


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="size is"):
        make_case(0, size=(16, 96, 12))
    with pytest.raises(ValueError, match="spacing is"):
        make_case(0, spacing=(1, 0, 4))
    with pytest.raises(ValueError, match="at least one case"):
        write_dataset(tmp_path, num_train=0)
    (tmp_path / "MRSpineSeg_Challenge_SMU").mkdir()
    with pytest.raises(FileExistsError, match="remove it"):
        write_dataset(tmp_path, num_train=1)


def test_data_set_has_the_layout_of_spinemri(tmp_path: Path) -> None:
    root = write_dataset(tmp_path, num_train=2, num_test=1, seed=5, size=(32, 32, 3), progress=False)
    images, tests = ({int(path.name[4:-7]) for path in (root / part / "MR").iterdir()} for part in ("train", "test1"))
    assert len(images) == 2
    assert len(tests) == 1
    assert images | tests == {1, 2, 3}
    for number in images:
        mask = sitk.ReadImage(str(root / "train" / "Mask" / f"mask_case{number}.nii.gz"))
        assert mask.GetPixelID() == sitk.sitkFloat32
        expected = make_case((5, number), size=(32, 32, 3))[1]
        np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), sitk.GetArrayFromImage(expected))
