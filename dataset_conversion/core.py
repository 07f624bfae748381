"""The names that `nnunetv2_cafr.quality` takes from here; the modules that they come from are the place to look."""

from pathlib import Path

import SimpleITK as sitk

from dataset_conversion import reading
from dataset_conversion.geometry import DIRECTION_TOLERANCE, ORIGIN_TOLERANCE, SPACING_TOLERANCE
from dataset_conversion.labels import INTEGRAL_TOLERANCE
from dataset_conversion.report import Problem

__all__ = ["DIRECTION_TOLERANCE", "INTEGRAL_TOLERANCE", "ORIGIN_TOLERANCE", "SPACING_TOLERANCE", "read_volume"]


def read_volume(path: Path) -> tuple[sitk.Image | None, list[Problem]]:
    """As `reading.read_volume`, but the image alone."""
    volume, problems = reading.read_volume(path)
    return (None if volume is None else volume.image), problems
