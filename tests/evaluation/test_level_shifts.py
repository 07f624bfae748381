"""Shifts are counted whatever the shape of a piece, and its figure is drawn."""

import numpy as np
import pandas as pd

from nnunetv2_cafr.evaluation.level_shifts import SHIFTS, draw_level_shifts, level_shifts

NAMES = {1: "S", 2: "L5", 3: "L4", 4: "L3", 5: "L2", 6: "L1", 7: "T12"}


def column(*labels: int) -> np.ndarray:
    """Blocks of 4x4 voxels from the bottom upwards, with background between."""
    volume = np.zeros((2, 60, 12), int)
    for index, label in enumerate(labels):
        volume[:, 52 - 7 * index : 56 - 7 * index, 4:8] = label
    return volume


def test_every_shift():
    reference = column(1, 2, 3, 4, 5, 6)
    prediction = column(1, 3, 2, 0, 7, 2)
    prediction[:, :3, 9:12] = 4  # extra
    counts = level_shifts(reference, prediction, NAMES)
    assert counts == {
        **dict.fromkeys(SHIFTS, 0),
        "0": 1,
        "+1": 1,
        "-1": 1,
        "missed": 1,
        "+2": 1,
        "farther": 1,
        "extra": 1,
    }
    assert level_shifts(reference, reference, NAMES) == {**dict.fromkeys(SHIFTS, 0), "0": 6}


def test_figure(tmp_path):
    table = pd.DataFrame({"predicted": dict.fromkeys(SHIFTS, 1), "decoded": dict.fromkeys(SHIFTS, 2)}).T
    draw_level_shifts(table, tmp_path / "shifts.png")
    assert (tmp_path / "shifts.png").stat().st_size > 5000
