"""Confusion by level shift: how many levels too low or too high the vertebrae of a reference are called."""

import math
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from nnunetv2_cafr.evaluation.level_errors import chain_of, match_vertebrae
from nnunetv2_cafr.spine import OPTIONAL

MISSED, EXTRA, RIGHT, FAR = "missed", "extra", "0", "farther"
SHIFTS = ("-2", "-1", RIGHT, "+1", "+2", FAR, MISSED, EXTRA)
PREDICTED, CONSISTENT = "as predicted", "level-consistent"  # label maps: as they are, and after level decoding
HEADINGS = {"-2": "\u22122", "-1": "\u22121", RIGHT: "right"}  # for people
DARKEST, LIGHT_TEXT = 0.2, 0.12  # shares of vertebrae: the darkest colour, and from where on text is white


def level_shifts(reference: np.ndarray, prediction: np.ndarray, names: Mapping[int, str]) -> dict[str, int]:
    """Vertebrae by shift of one case, + towards the head; `names` as for `level_errors`.

    Levels are counted as the label table has them; L6 or T13 that the reference lacks is no step on the way to the
    others. Extra are predicted vertebrae where the reference has none.
    """
    match = match_vertebrae(reference, prediction, names)
    place, places = 0.0, {}
    for name in (names[label] for label in chain_of(names)):
        if name in OPTIONAL and name not in match.levels:
            places[name] = place + 0.5  # between its neighbours: one level from either
        else:
            place += 1
            places[name] = place
    counts = dict.fromkeys(SHIFTS, 0)
    for name, level in match.levels.items():
        counts[_shift(places[level] - places[name]) if level else MISSED] += 1
    counts[EXTRA] = match.extra
    return counts


def _shift(way: float) -> str:
    steps = math.copysign(math.ceil(abs(way)), way)
    shift = f"{steps:+.0f}" if steps else RIGHT
    return shift if shift in SHIFTS else FAR


def draw_level_shifts(table: pd.DataFrame, target: Path) -> None:
    """A figure of shares of the reference's vertebrae, with a row per arm.

    Args:
        table: counts, arms by SHIFTS.
        target: .png or .svg.
    """
    figure, axis = plt.subplots(figsize=(9.5, 0.9 + 0.4 * len(table)))
    draw_shares(axis, table)
    figure.tight_layout()
    figure.savefig(target, dpi=150)
    plt.close(figure)


def draw_shares(axis: Axes, table: pd.DataFrame) -> None:
    """The same into axes."""
    of_reference = table.drop(columns=EXTRA).sum(axis=1)
    shares = table.div(of_reference.where(of_reference > 0), axis=0).fillna(0)
    # The right ones would outshine all errors.
    axis.pcolormesh(
        shares.assign(**{RIGHT: 0.0}).to_numpy(), cmap="Oranges", vmin=0, vmax=DARKEST, edgecolor="white", linewidth=1
    )
    for row, (values, counts) in enumerate(zip(shares.to_numpy(), table.to_numpy(), strict=True)):
        for column, (shift, share, count) in enumerate(zip(table.columns, values, counts, strict=True)):
            axis.text(
                column + 0.5,
                row + 0.5,
                f"{share:.1%} ({count:,.1f})".replace(".0)", ")") if count else "0",
                ha="center",
                va="center",
                fontsize=8,
                fontweight="bold" if shift == RIGHT else "normal",
                color="white" if share > LIGHT_TEXT and shift != RIGHT else "black",
            )
    axis.set_xticks(np.arange(len(table.columns)) + 0.5, [HEADINGS.get(name, name) for name in table.columns])
    axis.set_yticks(np.arange(len(table)) + 0.5, table.index)
    axis.invert_yaxis()
    axis.set_xlabel("levels too low (\u2212) or too high (+): share of the reference's vertebrae (number)")
    axis.tick_params(length=0)
    for side in axis.spines.values():
        side.set_visible(False)
