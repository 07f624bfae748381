"""What is measured of one case: its grid, its grey values, its structures, and a fingerprint of its content.

Arrays are (slices, rows, columns), that is (z, y, x); sizes and spacings are shown as (x, y, z), as viewers do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cc3d
import numpy as np
import SimpleITK as sitk

from dataset_conversion.geometry import orientation_of
from nnunetv2_cafr.spine import level_names

SLICE_RATIO = 1.3  # ours: slices are thick if they lie this much farther apart than the next largest spacing
PLANES = {"L": "sagittal", "R": "sagittal", "P": "coronal", "A": "coronal", "S": "axial", "I": "axial"}  # across them
WORLD_AXES = ("RL", "AP", "IS")  # what they can run towards


@dataclass(frozen=True)
class Geometry:
    """Grid of an image. `orientation` tells where x, y, z run to, such as PIR: posterior, inferior, right."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]  # mm
    orientation: str
    plane: str  # of thick slices: sagittal, coronal, axial; "none" where voxels are nearly cubic; "2-D"

    @classmethod
    def of(cls, image: sitk.Image, dimension: int) -> Geometry:
        size, spacing = image.GetSize(), image.GetSpacing()
        if dimension == 2:
            return cls(size[:2], spacing[:2], "2-D", "2-D")
        orientation, across = orientation_of(image), thick_axis(spacing)
        return cls(size, spacing, orientation, "none" if across is None else PLANES[orientation[across]])

    def along_world_axes(self) -> Geometry:
        """The same grid with its axes in the order left/right, front/back, up/down, whichever way they run."""
        if self.orientation == "2-D":
            return self
        order = [next(k for k, letter in enumerate(self.orientation) if letter in ends) for ends in WORLD_AXES]
        return replace(self, size=tuple(self.size[k] for k in order), spacing=tuple(self.spacing[k] for k in order))


@dataclass(frozen=True)
class Intensities:
    """Grey values of one channel."""

    minimum: float
    percentile_1: float
    median: float
    percentile_99: float
    maximum: float
    data_type: str


@dataclass(frozen=True)
class Piece:
    """A connected component (26 neighbours) of a structure."""

    voxels: int
    centre: tuple[float, float, float]  # index (z, y, x)
    low: tuple[int, int, int]  # bounding box (z, y, x), the last index included
    high: tuple[int, int, int]


@dataclass(frozen=True)
class Structure:
    """A label that occurs in a mask."""

    label: int
    name: str
    voxels: int
    volume: float  # ml
    cut: bool  # touches the first or last voxel of the up/down axis: only part of it is in the picture
    height: float  # mm upwards, of the centre of its largest piece
    pieces: tuple[Piece, ...]  # the largest first
    level: str  # SpineMRI's name of it, whatever the table's is; that one where it is no level


@dataclass(frozen=True)
class Fingerprint:
    """Content of an image, independent of header, data type and compression.

    Args:
        values: equal for the same voxels.
        ranks: equal also after any increasing change of the grey values (rescaled, other data type, gamma).
        arrangement: equal also for the same voxels mirrored, or with exchanged axes.
    """

    values: str
    ranks: str
    arrangement: str


def thick_axis(spacing: Sequence[float]) -> int | None:
    """The axis x, y or z (0 to 2) across thick slices; None where voxels are nearly cubic."""
    *_, next_, largest = sorted(spacing)
    return int(np.argmax(spacing)) if largest >= SLICE_RATIO * next_ else None


def up_down_axis(image: sitk.Image) -> int:
    """The image's axis x, y or z (0 to 2) closest to the patient's up/down direction."""
    return int(np.argmax(np.abs(np.reshape(image.GetDirection(), (3, 3))[2])))


def physical(image: sitk.Image, index: tuple[float, float, float]) -> np.ndarray:
    """Point in mm (towards left, back, up) of an array index (z, y, x)."""
    return np.array(image.TransformContinuousIndexToPhysicalPoint([float(i) for i in index[::-1]]))


def grey_values(image: sitk.Image) -> np.ndarray:
    """Array (z, y, x); colours are averaged."""
    values = sitk.GetArrayViewFromImage(image)
    return values.mean(-1) if image.GetNumberOfComponentsPerPixel() > 1 else values


def intensities(values: np.ndarray) -> Intensities:
    """Range of the grey values (z, y, x)."""
    low, median, high = np.percentile(values, [1, 50, 99])
    return Intensities(
        float(values.min()), float(low), float(median), float(high), float(values.max()), str(values.dtype)
    )


def structures(mask: sitk.Image, labels: np.ndarray, names: Mapping[int, str]) -> list[Structure]:
    """Every label above 0 that occurs in `labels` (z, y, x), named or not, by value."""
    components = cc3d.connected_components(labels, connectivity=26)
    statistics = cc3d.statistics(components)
    pieces: dict[int, list[Piece]] = {}
    for component, (voxels, box, centre) in enumerate(
        zip(statistics["voxel_counts"], statistics["bounding_boxes"], statistics["centroids"], strict=True)
    ):
        if component == 0 or voxels == 0:
            continue
        inside = components[box] == component
        label = int(labels[box][inside][0])
        z, y, x = ((int(side.start), int(side.stop) - 1) for side in box)
        piece = Piece(
            int(voxels), (float(centre[0]), float(centre[1]), float(centre[2])), (z[0], y[0], x[0]), (z[1], y[1], x[1])
        )
        pieces.setdefault(label, []).append(piece)
    axis = 2 - up_down_axis(mask)
    last = labels.shape[axis] - 1
    voxel = float(np.prod(mask.GetSpacing())) / 1000
    result = []
    level_of = level_names(names)
    for label, found in sorted(pieces.items()):
        ordered = tuple(sorted(found, key=lambda piece: -piece.voxels))
        number = sum(piece.voxels for piece in ordered)
        cut = last > 0 and any(piece.low[axis] == 0 or piece.high[axis] == last for piece in ordered)
        height = float(physical(mask, ordered[0].centre)[2])
        name = names.get(label, f"label {label}")
        result.append(Structure(label, name, number, number * voxel, cut, height, ordered, level_of.get(label, name)))
    return result


def fingerprint(values: np.ndarray) -> Fingerprint:
    """Fingerprint of grey values (z, y, x). Identical up to what the class says; not of resampled or lossy copies."""
    distinct, ranks, counts = _ranks(values)
    shape = str(values.shape).encode()
    of_ranks = hashlib.sha256(shape + ranks.tobytes()).hexdigest()
    # Sums over all slices of each axis, which mirroring reverses and exchanged axes exchange.
    profiles = [ranks.sum(tuple(other for other in range(3) if other != axis), dtype=np.int64) for axis in range(3)]
    sides = sorted(min(profile.tolist(), profile[::-1].tolist()) for profile in profiles)
    return Fingerprint(
        values=hashlib.sha256(distinct.astype(np.float64).tobytes() + of_ranks.encode()).hexdigest(),
        ranks=of_ranks,
        arrangement=hashlib.sha256(f"{sides} {counts.tolist()}".encode()).hexdigest(),
    )


def _ranks(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct values, each voxel's place among them (uint32), and how many voxels hold each."""
    if np.issubdtype(values.dtype, np.integer) and int(values.max()) - int(values.min()) < 2**20:
        low = int(values.min())
        counts = np.bincount((values.astype(np.int64) - low).ravel())
        occurs = counts > 0
        table = (np.cumsum(occurs) - 1).astype(np.uint32)
        return np.flatnonzero(occurs) + low, table[values.astype(np.int64) - low], counts[occurs]
    distinct, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return distinct, inverse.reshape(values.shape).astype(np.uint32), counts
