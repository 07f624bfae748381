"""Dice and IoU against a twin of voxel sets, and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_cafr.evaluation.overlap import overlap


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 1))
def test_agrees_with_sets_of_voxels(seed: int, dense: float, sparse: float) -> None:
    rng = np.random.default_rng(seed)
    reference, prediction = (rng.random((2, 3, 4)) < share for share in (dense, sparse))
    r, p = ({tuple(index) for index in np.argwhere(mask)} for mask in (reference, prediction))
    scores = overlap(reference, prediction)
    if not r and not p:
        assert math.isnan(scores.dice) and math.isnan(scores.iou)
    else:
        assert scores.dice == 2 * len(r & p) / (len(r) + len(p))
        assert scores.iou == len(r & p) / len(r | p)


def test_closed_forms() -> None:
    row = np.arange(10)
    assert overlap(row < 6, (row >= 3) & (row < 9)) == (0.5, pytest.approx(1 / 3))
    assert overlap(row < 6, row < 6) == (1, 1)
    assert overlap(row < 6, row < 0) == (0, 0)
    assert overlap(row < 0, row < 6) == (0, 0)
