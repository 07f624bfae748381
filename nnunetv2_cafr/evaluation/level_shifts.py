"""Confusion by level shift: how many levels too low or too high the vertebrae of a reference are called."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from nnunetv2_cafr.evaluation.level_errors import chain_of, match_vertebrae

MISSED, EXTRA, RIGHT, FAR = "missed", "extra", "0", "farther"
SHIFTS = ("-2", "-1", RIGHT, "+1", "+2", FAR, MISSED, EXTRA)


def level_shifts(reference: np.ndarray, prediction: np.ndarray, names: Mapping[int, str]) -> dict[str, int]:
    """Vertebrae by shift of one case, + towards the head; `names` as for `level_errors`.

    Levels are counted as the label table has them. Extra are predicted vertebrae where the reference has none.
    """
    match = match_vertebrae(reference, prediction, names)
    rank = {names[label]: index for index, label in enumerate(chain_of(names))}
    counts = dict.fromkeys(SHIFTS, 0)
    for name, level in match.levels.items():
        shift = f"{rank[level] - rank[name]:+d}".replace("+0", RIGHT) if level else MISSED
        counts[shift if shift in counts else FAR] += 1
    counts[EXTRA] = match.extra
    return counts


def draw_level_shifts(table: pd.DataFrame, target: Path) -> None:
    """A figure of shares of the reference's vertebrae, with a row per arm.

    Args:
        table: counts, arms by SHIFTS.
        target: .png or .svg.
    """
    of_reference = table.drop(columns=EXTRA).sum(axis=1)
    shares = table.div(of_reference, axis=0)
    figure, axis = plt.subplots(figsize=(7.5, 0.9 + 0.5 * len(table)))
    # The right ones would outshine all errors.
    axis.imshow(shares.assign(**{RIGHT: 0.0}), cmap="Oranges", vmin=0, vmax=0.2, aspect="auto")
    for row, arm in enumerate(table.index):
        for column, shift in enumerate(table.columns):
            text = f"{shares.loc[arm, shift]:.1%}\n({table.loc[arm, shift]:.0f})"
            axis.text(column, row, text, ha="center", va="center", fontsize=8)
    axis.set_xticks(range(len(table.columns)), table.columns)
    axis.set_yticks(range(len(table)), table.index)
    axis.set_xlabel("levels too low (-) or too high (+), share of the reference's vertebrae")
    axis.tick_params(length=0)
    figure.tight_layout()
    figure.savefig(target, dpi=150)
    plt.close(figure)
