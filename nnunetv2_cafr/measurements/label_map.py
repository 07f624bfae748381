"""A label map as it lies in the patient, whatever the order of its voxels."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from dataset_conversion.geometry import check_same_grid
from dataset_conversion.problems import Problem
from dataset_conversion.reading import read_volume

ORDER = "LPS"  # x to the left, y backwards, z upwards


@dataclass(frozen=True)
class LabelMap:
    """Labels (s, p, l): rows upwards, columns backwards, sagittal slices to the left.

    Args:
        spacing: in mm, in the order of the array.
        oblique: degrees between the slices' normal and the patient's left/right axis.
    """

    labels: np.ndarray
    spacing: tuple[float, float, float]
    oblique: float

    @classmethod
    def of(cls, image: sitk.Image) -> LabelMap:
        """From a 3-D image of whole numbers."""
        turned = sitk.DICOMOrient(image, ORDER)
        left, back, up = turned.GetSpacing()
        normal = np.clip(abs(turned.GetDirection()[0]), 0, 1)
        return cls(sitk.GetArrayFromImage(turned), (up, back, left), float(np.degrees(np.arccos(normal))))


def read_label_map(path: Path, allowed: Collection[int], image: Path | None = None) -> LabelMap:
    """Reads a label map, and makes sure that it lies on the grid of `image` where one is given.

    Raises:
        ValueError: if a file cannot be read, the label map is no volume or holds other values than `allowed` and 0, or
            the two grids differ; says what was found, what was expected and what to do.
    """
    mask = _read(path)
    values = sitk.GetArrayViewFromImage(mask)
    found = np.unique(values)
    foreign = [f"{value:g}" for value in found if value != 0 and value not in allowed]
    if foreign:
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        raise ValueError(
            f"{path} holds {', '.join(foreign[:5])}{more}, but the labels are {min(allowed)} to {max(allowed)}. Give "
            "the dataset.json that it belongs to"
        )
    if min(mask.GetSize()) < 2:
        raise ValueError(
            f"{path} is a single slice of {' x '.join(map(str, mask.GetSize()))} voxels, expected is a volume: of one "
            "slice nobody knows whether it shows the middle of a body. Give the whole series"
        )
    if image is not None and (problems := check_same_grid(path, mask, image, _read(image))):
        raise ValueError(_sentence(problems[0]))
    return LabelMap.of(sitk.Cast(mask, sitk.sitkUInt8 if found.max() < 256 else sitk.sitkUInt16))


def _read(path: Path) -> sitk.Image:
    volume, problems = read_volume(path)
    if volume is None or problems:
        raise ValueError("; ".join(map(_sentence, problems)))
    return volume.image


def _sentence(problem: Problem) -> str:
    return f"{problem.path} cannot be measured: found {problem.found}, expected {problem.expected}; {problem.remedy}"
