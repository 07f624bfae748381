"""Whatever order and directions the voxels have: each keeps its value and its place, and slices become sagittal."""

from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from dataset_conversion.geometry import (
    ORIENTATION,
    check_axes,
    check_sagittal,
    check_same_grid,
    orient,
    orientation_of,
    slices_of_nnunet,
)

CODES = ["".join(code) for axes in permutations(("LR", "PA", "SI")) for code in product(*axes)]
PATH = Path("volume.nii.gz")


def rotation(angles: tuple[float, float, float]) -> np.ndarray:
    """Rotation by angles in degrees about x, y and z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(angles)):
        one = np.eye(3)
        first, second = (other for other in range(3) if other != axis)
        one[first, first] = one[second, second] = np.cos(angle)
        one[first, second], one[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ one
    return matrix


def make(code: str, angles: tuple[float, float, float], spacing: tuple[float, float, float]) -> sitk.Image:
    """A volume of distinct values in this voxel order, turned by some angles."""
    axis = sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation(code)
    image = sitk.GetImageFromArray(np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5))
    image.SetDirection((rotation(angles) @ np.array(axis).reshape(3, 3)).ravel().tolist())
    image.SetSpacing(spacing)
    image.SetOrigin((3.0, -20.0, 11.0))
    return image


angle = st.floats(-20, 20).map(lambda degrees: round(degrees, 3))  # ITK inverts no matrix with cosines of 1e-308
volumes = st.builds(make, st.sampled_from(CODES), st.tuples(angle, angle, angle), st.tuples(*[st.floats(0.3, 6.0)] * 3))


@given(volumes)
def test_every_voxel_keeps_its_value_and_its_place(image: sitk.Image) -> None:
    assert check_axes(PATH, image) == []
    turned = orient(image)
    assert orientation_of(turned) == ORIENTATION
    assert sorted(turned.GetSpacing()) == pytest.approx(sorted(image.GetSpacing()))
    values = sitk.GetArrayFromImage(turned)
    for z, y, x in np.ndindex(values.shape):
        place = turned.TransformIndexToPhysicalPoint((x, y, z))
        assert image[image.TransformPhysicalPointToIndex(place)] == values[z, y, x]


@given(volumes, st.sampled_from(CODES))
def test_a_mask_in_another_voxel_order_lies_on_the_same_grid(image: sitk.Image, code: str) -> None:
    assert check_same_grid(PATH, sitk.DICOMOrient(image, code), PATH, image) == []


@given(volumes, st.sampled_from(CODES), st.integers(0, 2), st.floats(0.2, 50), st.sampled_from([-1, 1]))
def test_a_shifted_mask_does_not(image: sitk.Image, code: str, axis: int, shift: float, sign: int) -> None:
    mask = sitk.DICOMOrient(image, code)
    origin = list(mask.GetOrigin())
    origin[axis] += sign * shift
    mask.SetOrigin(origin)
    assert any("origin" in problem.found for problem in check_same_grid(PATH, mask, PATH, image))


@given(volumes, st.floats(0.002, 0.5), st.sampled_from([(0, 1), (0, 2), (2, 1)]))
def test_shear_is_refused(image: sitk.Image, shear: float, axes: tuple[int, int]) -> None:
    direction = np.array(image.GetDirection()).reshape(3, 3)
    direction[:, axes[0]] += shear * direction[:, axes[1]]
    image.SetDirection(direction.ravel().tolist())
    assert "sheared" in check_axes(PATH, image)[0].found


def test_an_axis_between_two_of_the_patients_is_refused() -> None:
    assert check_axes(PATH, make("PIR", (35, 0, 0), (1, 1, 4))) == []
    assert "44 degrees off" in check_axes(PATH, make("PIR", (44, 0, 0), (1, 1, 4)))[0].found


@pytest.mark.parametrize(
    ("size", "spacing", "plane"),
    [
        ((24, 32, 4), (1, 1, 4), None),
        ((24, 32, 4), (6, 6, 4), None),  # few slices, if thin ones: still sagittal
        ((24, 24, 24), (1, 1, 1), None),
        ((40, 4, 40), (0.5, 5, 0.5), "axial slices: 4 steps of 5 mm from head to foot, 40 of 0.5 mm"),
        ((4, 40, 40), (5, 0.5, 0.5), "coronal slices: 4 steps of 5 mm from front to back"),
    ],
)
def test_slices_of_another_plane_are_named(
    make_volume: Callable[..., sitk.Image], size: tuple[int, ...], spacing: tuple[float, ...], plane: str | None
) -> None:
    problems = check_sagittal(PATH, make_volume(np.zeros(size[::-1], np.int16), spacing))
    assert len(problems) == (plane is not None)
    assert plane is None or plane in problems[0].found


def test_plane_of_nnunets_slices() -> None:
    assert slices_of_nnunet([(1, 1, 4), (6, 1, 4), (1, 1, 4)]) is None
    warning = slices_of_nnunet([(1, 6, 4), (1, 6, 4), (1, 1, 4)])
    assert warning is not None
    assert "will be axial" in warning
