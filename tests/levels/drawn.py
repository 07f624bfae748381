"""Spines drawn as blocks along an arc: label maps with any levels, bend and field of view, and their faults."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset_conversion.spinemri import TABLE
from nnunetv2_cafr.levels.components import Grid
from nnunetv2_cafr.spine import read_spine

LABELS = {"background": 0, **{structure.name: label for label, structure in TABLE.items()}}
SPINE = read_spine(LABELS)
LEVELS = ("S", "L5", "L4", "L3", "L2", "L1", "T12", "T11")
STEP, SLICE = 1.5, 4.0  # mm of a pixel and between slices
HEIGHT, GAP, DEPTH, WIDTH = 27.0, 8.0, 34.0, 44.0  # mm of a body; the gap is filled by a disc
UP, BACK = np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0])
GRID = Grid(np.array([[SLICE, 0, 0], [0, 0, STEP], [0, -STEP, 0]]), UP, BACK)  # sagittal: rows run down, columns back


@dataclass
class Drawn:
    """A label map (slices, rows, columns), and which block each voxel is of: places from the bottom, discs + 0.5."""

    labels: np.ndarray
    block: np.ndarray

    def of(self, level: str) -> np.ndarray:
        return self.labels == LABELS[level]

    def copy(self) -> "Drawn":
        return Drawn(self.labels.copy(), self.block)


def draw(
    levels: Sequence[str] = LEVELS,
    bend: float = 0.0,
    scoliosis: float = 0.0,
    discs: bool = True,
    shape: tuple[int, int, int] = (12, 240, 160),
    bottom: float = 40.0,
) -> Drawn:
    """A spine that bends by `bend` degrees from its lowest to its highest vertebra, `scoliosis` mm to a side.

    Args:
        bottom: mm of image below the lowest block.
    """
    labels, block = np.zeros(shape, np.uint8), np.full(shape, -1.0)
    z, y, x = np.meshgrid(*(np.arange(size) for size in shape), indexing="ij")
    across, up, back = (z - shape[0] / 2) * SLICE, (shape[1] - 1 - y) * STEP, (x - shape[2] / 2) * STEP
    pitch, number = HEIGHT + GAP, len(levels)
    angle = np.deg2rad(bend) / max(number - 1, 1)
    centre, tilt = np.array([bottom + HEIGHT / 2, -np.deg2rad(bend) * 20]), -np.deg2rad(bend) / 2
    for index, level in enumerate(levels):
        side = scoliosis * np.sin(np.pi * index / max(number - 1, 1))
        for place, half, name in (
            (0.0, HEIGHT / 2, level),
            (pitch / 2, GAP / 2, f"{levels[index + 1]}/{level}" if index + 1 < number and discs else ""),
        ):
            direction = tilt if place == 0 else tilt + angle / 2
            middle = centre + place * np.array([np.cos(direction), np.sin(direction)])
            along = (up - middle[0]) * np.cos(direction) + (back - middle[1]) * np.sin(direction)
            beside = (back - middle[1]) * np.cos(direction) - (up - middle[0]) * np.sin(direction)
            inside = (np.abs(along) < half) & (np.abs(beside) < DEPTH / 2) & (np.abs(across - side) < WIDTH / 2)
            if name:
                inside &= labels == 0
                labels[inside] = LABELS.get(name, 0)
                block[inside] = index + (0.5 if place else 0.0)
        centre = centre + pitch * np.array([np.cos(tilt + angle / 2), np.sin(tilt + angle / 2)])
        tilt += angle
    return Drawn(labels, block)
