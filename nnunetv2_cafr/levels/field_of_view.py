"""Whether a scan shows as much of the spine as those that a network was trained on.

A network that has always seen the same part of the spine tells levels by where they lie in the image, and on a scan
that shows less, or more, a whole row may be off by one: consistent, and wrong. documentation/levels.md has figures.
"""

from collections.abc import Sequence

import numpy as np

from nnunetv2_cafr.levels.components import Grid

LOWEST, HIGHEST = 0.9, 1.15  # of the lowest and the highest training case: beyond, levels are no longer to be trusted
SIGNAL = 0.2  # of the image's range: a row whose brightest hundredth stays below it shows nothing; ours


def height_of(shape: Sequence[int], grid: Grid) -> float | None:
    """How high an array (z, y, x) is, in mm, along its axis nearest to the patient's up; None if up is unknown."""
    axis = grid.up_axis
    return None if axis is None else float(shape[axis] * np.linalg.norm(grid.steps[:, axis]))


def height_shown(image: np.ndarray, grid: Grid) -> float | None:
    """How much of its height an image (c, z, y, x) shows: without the rows at both ends that are empty or nearly so.

    A part of a scan in a matrix of the old size, or one of which a coil failed, has such rows. Of 81 scans of three
    sources none lost more than 2 % by it.
    """
    axis = grid.up_axis
    if axis is None:
        return None
    shown = np.zeros(image.shape[1 + axis], bool)
    for channel in image:
        low, high = np.percentile(channel, [1, 99])
        rows = np.percentile(np.moveaxis(channel, axis, 0).reshape(len(shown), -1), 99, axis=1)
        shown |= rows >= low + SIGNAL * (high - low)
    where = np.flatnonzero(shown)
    return float((where[-1] + 1 - where[0]) * np.linalg.norm(grid.steps[:, axis])) if where.size else 0.0


def doubt_about_height(height: float | None, trained: tuple[float, float] | None, empty: bool = False) -> str | None:
    """Why levels are doubtful in a scan of this height; None where they are not, or a height is unknown.

    Args:
        trained: smallest and largest height of the training cases, in mm.
        empty: whether the scan is higher, and nothing is to be seen in the rest.
    """
    if height is None or trained is None or LOWEST * trained[0] <= height <= HIGHEST * trained[1]:
        return None
    low, high = (f"{one:.0f}" for one in trained)
    usual = f"{low} mm" if low == high else f"{low} to {high} mm"
    seen = f"only {height:.0f} mm from bottom to top show anything" if empty else f"{height:.0f} mm from bottom to top"
    return f"{seen}, and the network was trained on {usual}: it may have told the levels by where they lie in the image"
