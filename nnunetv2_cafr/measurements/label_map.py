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
from nnunetv2_cafr.label_reading import refuse_foreign_labels

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
        """From an image of whole numbers.

        Raises:
            ValueError: if it is a single slice.
        """
        if image.GetDimension() != 3 or min(image.GetSize()) < 2:
            raise ValueError(
                f"a single slice of {' x '.join(map(str, image.GetSize()))} voxels, expected a volume: of one slice "
                "nobody knows whether it shows the middle of a body; give the whole series"
            )
        turned = sitk.DICOMOrient(image, ORDER)
        left, back, up = turned.GetSpacing()
        normal = np.clip(abs(turned.GetDirection()[0]), 0, 1)
        return cls(sitk.GetArrayFromImage(turned), (up, back, left), float(np.degrees(np.arccos(normal))))


def read_label_map(
    path: Path, allowed: Collection[int], image: Path | None = None
) -> tuple[sitk.Image, sitk.Image | None]:
    """Reads a label map and its image, where one is given, and makes sure that they lie on one grid.

    Returns:
        Both of three dimensions; a single slice has one slice.

    Raises:
        ValueError: if a file cannot be read, the label map holds other values than `allowed` and 0, or the two grids
            differ; says what was found, what was expected and what to do.
    """
    mask = _read(path)
    found = np.unique(sitk.GetArrayViewFromImage(mask))
    refuse_foreign_labels(path, found, allowed)
    labels = sitk.Cast(mask, sitk.sitkUInt8 if found.max() < 256 else sitk.sitkUInt16)
    if image is None:
        return labels, None
    grey = _read(image)
    if problems := check_same_grid(path, mask, image, grey):
        raise ValueError(_sentence(problems[0]))
    return labels, grey


def _read(path: Path) -> sitk.Image:
    volume, problems = read_volume(path, flat=True)
    if volume is None or problems:
        raise ValueError("; ".join(map(_sentence, problems)))
    return sitk.JoinSeries(volume.image) if volume.image.GetDimension() == 2 else volume.image


def _sentence(problem: Problem) -> str:
    return f"{problem.path} cannot be measured: {problem.words}"
