"""How much a scan shows, in whatever order its voxels are stored, and when that makes its levels doubtful."""

from itertools import permutations

import numpy as np
import pytest

from nnunetv2_cafr.levels.components import Grid
from nnunetv2_cafr.levels.decoding import FIELD_OF_VIEW, UNCERTAIN, decode
from nnunetv2_cafr.levels.field_of_view import doubt_about_height, height_of

from .drawn import GRID, LABELS, SPINE, STEP, UP, draw


@pytest.mark.parametrize("axes", permutations(range(3)))
def test_height_in_any_order_and_tilted(axes):
    """By 20 degrees; the axis nearest to up counts, however thick the voxels of another are."""
    tilt = np.deg2rad(20)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    steps = turn @ np.diag([4.0, 30.0, -2.0])
    shape = np.array([5, 50, 120])
    grid = Grid(steps[:, axes], UP)
    assert height_of(shape[list(axes)], grid) == pytest.approx(240)
    assert height_of(shape, Grid(steps)) is None


@pytest.mark.parametrize(("height", "doubtful"), [(269, True), (271, False), (402, False), (403, True), (None, False)])
def test_doubts(height, doubtful):
    assert bool(doubt_about_height(height, (300.0, 350.0))) == doubtful
    assert doubt_about_height(height, None) is None


def test_named_and_decoded():
    """The map is made consistent all the same, and a study without a row is named for both."""
    truth = draw()
    swapped = truth.labels.copy()
    swapped[truth.of("L3")], swapped[truth.of("L2")] = LABELS["L2"], LABELS["L3"]
    height = truth.labels.shape[1] * STEP
    found = decode(swapped, SPINE, GRID, trained=(2 * height, 2 * height))
    assert list(found.flags) == [FIELD_OF_VIEW]
    np.testing.assert_array_equal(found.labels, truth.labels)
    assert not decode(swapped, SPINE, GRID, trained=(height, 2 * height)).flags
    nothing = decode(np.zeros_like(swapped), SPINE, GRID, trained=(2 * height, 2 * height))
    assert list(nothing.flags) == [UNCERTAIN, FIELD_OF_VIEW]
