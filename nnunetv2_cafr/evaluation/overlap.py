"""Dice and IoU of two masks, nnU-Net's definitions: 2 |R and P| / (|R| + |P|), and |R and P| / |R or P|.

Both are NaN where neither mask holds a voxel, and 0 where one of them does.
"""

from typing import NamedTuple

import numpy as np


class Overlap(NamedTuple):
    """Both from 0 to 1, or NaN where neither mask holds a voxel."""

    dice: float
    iou: float


def overlap(reference: np.ndarray, prediction: np.ndarray) -> Overlap:
    """Overlap of two boolean masks of one shape."""
    common = int(np.count_nonzero(reference & prediction))
    total = int(np.count_nonzero(reference)) + int(np.count_nonzero(prediction))
    if total == 0:
        return Overlap(float("nan"), float("nan"))
    return Overlap(2 * common / total, common / (total - common))
