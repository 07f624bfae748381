"""Spines of blocks whose heights, angles and slips are known, drawn on any grid.

Blocks are trapezia in the patient's sagittal plane, (p, s) in mm backwards and upwards, and boxes from left to right.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ..levels.drawn import LABELS

DEPTH, WIDTH = 34.0, 44.0
WEDGE = float(2 * np.degrees(np.arctan(1 / DEPTH)))  # of the bodies of `scoliosis`


@dataclass(frozen=True)
class Block:
    """A body or a disc; `corners` (4, 2): lower front, lower back, upper back, upper front."""

    name: str
    anterior: float
    posterior: float
    corners: np.ndarray

    @property
    def upper(self) -> float:
        """Angle of the upper end plate in degrees, positive where it rises backwards."""
        return angle_of(self.corners[2] - self.corners[3])

    @property
    def lower(self) -> float:
        return angle_of(self.corners[1] - self.corners[0])


def angle_of(step: np.ndarray) -> float:
    return float(np.degrees(np.arctan2(step[1], step[0])))


def stack(
    blocks: Sequence[tuple[str, float, float]], tilt: float = 35.0, slips: dict[str, float] | None = None
) -> list[Block]:
    """Blocks (name, anterior, posterior height in mm) upon one another; the first one's upper plate rises by `tilt`.

    Args:
        slips: mm by which a body lies before its place, along the plate below it.
    """
    drawn: list[Block] = []
    corner, angle = np.zeros(2), np.radians(tilt)  # lower front corner and lower plate of the next
    for name, anterior, posterior in blocks:
        half = np.arctan2((anterior - posterior) / 2, DEPTH)
        own = angle - half if drawn else angle + half
        axes = np.array([[np.cos(own), np.sin(own)], [-np.sin(own), np.cos(own)]])
        shape = np.array([(0, -anterior / 2), (DEPTH, -posterior / 2), (DEPTH, posterior / 2), (0, anterior / 2)])
        shift = -(slips or {}).get(name, 0.0) * np.array([np.cos(angle), np.sin(angle)])
        corners = (shape - shape[0]) @ axes + corner + shift
        drawn.append(Block(name, anterior, posterior, corners))
        corner, angle = corners[3], np.radians(drawn[-1].upper)
    return drawn


LUMBAR = stack(
    [
        ("S", 30, 24), ("L5/S", 14, 8), ("L5", 28, 24), ("L4/L5", 12, 8), ("L4", 27, 27), ("L3/L4", 10, 8),
        ("L3", 26, 27), ("L2/L3", 9, 7), ("L2", 22, 27), ("L1/L2", 8, 7), ("L1", 25, 26),
    ],
    slips={"L4": 6.0},
)  # fmt: skip


def draw(
    blocks: Sequence[Block] = LUMBAR,
    spacing: tuple[float, float, float] = (1.0, 1.0, 4.0),
    turn: Sequence[float] = (0, 0, 0),
    width: float = WIDTH,
    margin: float = 12.0,
    sideways: float = 0.0,
    order: str = "LPS",
    arch: bool = False,
) -> sitk.Image:
    """A label map whose grid lies along the patient's axes.

    Args:
        spacing: (p, s, l) in mm.
        turn: degrees by which patient and grid together lie turned about the world's x, y and z.
        margin: mm of image around the blocks; negative cuts them.
        sideways: mm to the left per mm upwards.
        order: of the voxels in the file.
        arch: whether vertebrae have pedicles at both sides, and processes behind the canal and to the sides.
    """
    everything = np.concatenate([block.corners for block in blocks])
    low, high = everything.min(0) - margin, everything.max(0) + margin
    p, s = (np.arange(start + 0.37 * step, end, step) for start, end, step in zip(low, high, spacing, strict=False))
    side = width / 2 + max(margin, 0) + abs(sideways) * (high[1] - low[1])
    left = np.arange(-side + 0.21 * spacing[2], side, spacing[2])
    labels = np.zeros((len(s), len(p), len(left)), np.uint8)
    points = np.stack(np.meshgrid(p, s), -1)
    for block in blocks:
        inside = np.ones(points.shape[:2], bool)
        for start, end in zip(block.corners, np.roll(block.corners, -1, 0), strict=True):
            along, to = end - start, points - start
            inside &= along[0] * to[..., 1] - along[1] * to[..., 0] >= 0
        centre = sideways * (s - everything[:, 1].mean())
        across = np.abs(left[None] - centre[:, None]) <= width / 2
        drawn = inside[:, :, None] & across[:, None]
        if arch and "/" not in block.name and block.name != "S":
            behind = points - block.corners[1:3].mean(0)
            level = np.abs(behind[..., 1]) < 5
            pedicle, process = (
                level & (behind[..., 0] > low) & (behind[..., 0] < high) for low, high in ((-3, 20), (16, 44))
            )
            beside = np.abs(left[None] - centre[:, None])
            drawn |= pedicle[:, :, None] & ((beside > 12) & (beside < 20))[:, None]
            drawn |= process[:, :, None] & (beside < 4)[:, None]
            drawn |= (level & (behind[..., 0] > 14) & (behind[..., 0] < 20))[:, :, None] & (beside < 60)[:, None]
        labels[drawn & (labels == 0)] = LABELS[block.name]
    image = sitk.GetImageFromArray(labels)  # the array is (s, p, l): x to the left, y backwards, z upwards
    image.SetSpacing((spacing[2], spacing[0], spacing[1]))
    rotation = sitk.Euler3DTransform((0, 0, 0), *np.radians(turn)).GetMatrix()
    image.SetDirection(rotation)
    image.SetOrigin((np.reshape(rotation, (3, 3)) @ (left[0], p[0], s[0])).tolist())
    return image if order == "LPS" else sitk.DICOMOrient(image, order)


def scoliosis(tilt: float) -> list[Block]:
    """Blocks from L5 to T10 for `draw_coronal`: L4 leans by `tilt` degrees, T12 by as much to the other side.

    Each body is a wedge of `WEDGE` degrees, so that its two plates are told apart.
    """
    shares = {"L5": 0.6, "L4": 1.0, "L3": 0.5, "L2": 0.0, "L1": -0.5, "T12": -1.0, "T11": -0.6, "T10": 0.0}
    blocks: list[tuple[str, float, float]] = []
    for name, share in shares.items():
        if blocks:
            below = blocks[-1][0]
            half = DEPTH * np.tan(np.radians((shares[below] - share) * tilt - WEDGE) / 2)
            blocks.append((f"{name}/{below}", 8 + half, 8 - half))
        blocks.append((name, 28, 26))
    return stack(blocks, tilt=tilt * shares["L5"] - WEDGE / 2)


def draw_coronal(blocks: Sequence[Block], spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> sitk.Image:
    """A label map of blocks whose trapezia lie in the coronal plane, backs to the left; spacing (p, s, l) in mm."""
    drawn = draw(blocks, spacing[::-1])
    image = sitk.GetImageFromArray(sitk.GetArrayFromImage(drawn).transpose(0, 2, 1))
    image.SetSpacing((spacing[2], spacing[0], spacing[1]))
    return image
