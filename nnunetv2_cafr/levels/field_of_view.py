"""Whether a scan shows as much of the spine as those that a network was trained on.

A network that has always seen the same part of the spine tells levels by where they lie in the image, and on a scan
that shows less, or more, a whole row may be off by one: consistent, and wrong. documentation/levels.md has figures.
"""

from collections.abc import Sequence

import numpy as np

from nnunetv2_cafr.levels.components import Grid

LOWEST, HIGHEST = 0.9, 1.15  # of the lowest and the highest training case: beyond, levels are no longer to be trusted


def height_of(shape: Sequence[int], grid: Grid) -> float | None:
    """How much an array (z, y, x) shows, in mm, along its axis nearest to the patient's up; None if up is unknown."""
    if grid.up is None:
        return None
    lengths = np.linalg.norm(grid.steps, axis=0)
    axis = int(np.abs(grid.up @ grid.steps / lengths).argmax())
    return float(shape[axis] * lengths[axis])


def doubt_about_height(height: float | None, trained: tuple[float, float] | None) -> str | None:
    """Why levels are doubtful in a scan of this height; None where they are not, or a height is unknown.

    Args:
        trained: smallest and largest height of the training cases, in mm.
    """
    if height is None or trained is None or LOWEST * trained[0] <= height <= HIGHEST * trained[1]:
        return None
    low, high = (f"{one:.0f}" for one in trained)
    usual = f"{low} mm" if low == high else f"{low} to {high} mm"
    return (
        f"{height:.0f} mm from bottom to top, and the network was trained on {usual}: it may have told the levels by "
        "where they lie in the image"
    )
