"""Turning arrays between the 48 voxel orders moves every voxel to where the header says that it lies."""

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient

from nnunetv2_cafr.voxel_order import (
    REORIENTING_READERS,
    affine_of,
    largest_shift,
    order_of,
    stored_order_of,
    turned,
    turned_affine,
    turned_onto,
    turned_spacing,
)

ORDERS = ["".join(order) for axes in permutations(("RL", "AP", "SI")) for order in product(*axes)]
READERS = [SimpleITKIO, NibabelIO, SimpleITKIOWithReorient, NibabelIOWithReorient]


@pytest.fixture(scope="module")
def oblique() -> sitk.Image:
    """A volume whose voxels are all different, in the order PIR and 17 degrees off."""
    image = sitk.GetImageFromArray(np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4))
    image.SetSpacing((0.5, 0.75, 4.0))
    image.SetOrigin((3.0, -20.0, 11.0))
    image.SetDirection(sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation("PIR"))
    turn = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.1)
    image.SetDirection((np.reshape(turn.GetMatrix(), (3, 3)) @ np.reshape(image.GetDirection(), (3, 3))).ravel())
    return image


@pytest.mark.parametrize("reader", READERS)
def test_every_order_by_every_reader(oblique, reader, tmp_path):
    """Against SimpleITK's own turning: voxels, spacing and place."""
    file = str(tmp_path / "volume.nii.gz")
    for order in ORDERS:
        sitk.WriteImage(sitk.DICOMOrient(oblique, order), file)
        (array,), properties = reader().read_images([file])
        found = order_of(properties)
        assert stored_order_of(properties) == order
        assert found == ("RAS" if reader.__name__ in REORIENTING_READERS else order)
        np.testing.assert_array_equal(turned(array, found, "PIR"), sitk.GetArrayViewFromImage(oblique))
        np.testing.assert_array_equal(turned(turned(array, found, "PIR"), "PIR", found), array)
        np.testing.assert_allclose(turned_spacing(properties["spacing"], found, "PIR"), (4.0, 0.75, 0.5), rtol=1e-6)
        affine = turned_affine(affine_of(properties), array.shape, found, "PIR")
        place = affine @ (3, 2, 1, 1)  # of the last voxel, in RAS
        expected = np.multiply(oblique.TransformIndexToPhysicalPoint((3, 2, 1)), (-1, -1, 1))
        np.testing.assert_allclose(place[:3], expected, atol=1e-4)


def test_turned_onto_another_grid_in_the_same_place(oblique, tmp_path):
    """Also 45 degrees off, where letters are no help."""
    file = str(tmp_path / "volume.nii.gz")
    for degrees in (0, 45):
        turn = np.reshape(sitk.Euler3DTransform((0, 0, 0), 0, 0, np.radians(degrees)).GetMatrix(), (3, 3))
        affines, arrays = [], []
        for order in ("PIR", "SAL"):
            image = sitk.DICOMOrient(oblique, order)
            image.SetOrigin((turn @ image.GetOrigin()).tolist())
            image.SetDirection((turn @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
            sitk.WriteImage(image, file)
            (array,), properties = SimpleITKIO().read_images([file])
            affines.append(affine_of(properties))
            arrays.append(array)
        array, affine = turned_onto(arrays[1], affines[1], affines[0])
        np.testing.assert_array_equal(array, arrays[0])
        assert largest_shift(affine, affines[0], array.shape) < 1e-4


def test_no_direction_no_order():
    assert order_of({"spacing": (999, 1, 1)}) is None
    assert order_of({"sitk_stuff": {"direction": (1.0, 0.0, 0.0, 1.0)}}) is None
    assert stored_order_of({"nibabel_stuff": {"original_affine": np.zeros((4, 4))}}) is None
