"""Confusion by level shift: how many levels too low or too high the vertebrae of a reference are called."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from nnunetv2_cafr.evaluation.level_errors import Match, steps_of

MISSED, EXTRA, RIGHT, FAR = "missed", "extra", "0", "farther"
SHIFTS = ("-2", "-1", RIGHT, "+1", "+2", FAR, MISSED, EXTRA)
PREDICTED, CONSISTENT = "as predicted", "level-consistent"  # label maps: as they are, and after level decoding
HEADINGS = {"-2": "\u22122", "-1": "\u22121", RIGHT: "right"}  # for people
DARKEST, LIGHT_TEXT = 0.2, 0.12  # shares of vertebrae: the darkest colour, and from where on text is white


def level_shifts(match: Match, names: Mapping[int, str]) -> dict[str, int]:
    """Vertebrae by shift of one case, + towards the head, as `steps_of` counts; `names` as for `match_vertebrae`.

    Extra are predicted vertebrae where the reference has none.
    """
    shifts = [f"{step:+d}" if step else RIGHT for step in steps_of(match, names).values()]
    counts = {**dict.fromkeys(SHIFTS, 0), **Counter(shift if shift in SHIFTS else FAR for shift in shifts)}
    return {**counts, MISSED: len(match.levels) - len(shifts), EXTRA: match.extra}


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
