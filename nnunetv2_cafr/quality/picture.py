"""The sagittal picture of a case: a small JPEG, and the contours of its structures as lines over it.

Contours are vectors, not pixels: they stay sharp, can be switched off, and are named in text.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from PIL import Image
from skimage.measure import approximate_polygon, find_contours

from dataset_conversion.geometry import orient
from nnunetv2_cafr.quality.measures import Structure, grey_values

JPEG_QUALITY = 82


@dataclass(frozen=True)
class Outline:
    """Contour of a structure in the picture. Points and boxes are (x, y) in mm from the upper left corner."""

    label: int
    name: str
    path: str  # d of an SVG path
    box: tuple[float, float, float, float]  # left, top, right, bottom
    centre: tuple[float, float]


@dataclass(frozen=True)
class Picture:
    """A slice. `what` says which one."""

    jpeg: str  # base64
    width: float  # mm
    height: float  # mm
    outlines: tuple[Outline, ...]
    what: str


def draw(image: sitk.Image, labels: np.ndarray | None, structures: Sequence[Structure], size: int) -> Picture:
    """The sagittal slice that shows the most structures (of those, the most voxels); without labels, the middle one.

    Args:
        image: three dimensions; two-dimensional pictures have one slice and are shown as they are.
        labels: (z, y, x) on the image's grid, or None.
        size: pixels of the longer side, at most.
    """
    if image.GetNumberOfComponentsPerPixel() > 1:
        averaged = sitk.GetImageFromArray(grey_values(image))
        averaged.CopyInformation(image)
        image = averaged
    flat = image.GetSize()[2] == 1
    # x to the back, y down, z to the right: slices as radiologists hang them, the front at the left.
    view = image if flat else orient(image)
    values = sitk.GetArrayViewFromImage(view)
    shown = None
    if labels is not None:
        mask = sitk.GetImageFromArray(labels)
        mask.CopyInformation(image)
        shown = sitk.GetArrayFromImage(mask if flat else orient(mask))
    index = len(values) // 2
    if shown is not None and shown.any():
        index = max(range(len(shown)), key=lambda k: (len(np.unique(shown[k])), np.count_nonzero(shown[k])))
    column, row, _ = view.GetSpacing()
    height, width = values.shape[1] * row, values.shape[2] * column
    outlines = () if shown is None else tuple(_outlines(shown[index], structures, column, row))
    what = "the image" if flat else f"sagittal slice {index + 1} of {len(values)} from the left"
    return Picture(_jpeg(values[index], width, height, min(column, row), size), width, height, outlines, what)


def _jpeg(values: np.ndarray, width: float, height: float, finest: float, size: int) -> str:
    """Base64 of the slice (rows, columns) with square pixels, from the 1st to the 99.5th percentile."""
    low, high = np.percentile(values, [1, 99.5])
    grey = np.clip((values.astype(np.float32) - low) / max(high - low, 1e-12), 0, 1) * 255
    pixel = max(finest, max(width, height) / size)
    target = (max(round(width / pixel), 1), max(round(height / pixel), 1))
    picture = Image.fromarray(grey.astype(np.uint8)).resize(target, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()


def _outlines(labels: np.ndarray, structures: Sequence[Structure], column: float, row: float) -> list[Outline]:
    outlines = []
    scale = np.array([row, column])
    tolerance = max(0.3 * min(row, column), 0.001 * max(labels.shape[0] * row, labels.shape[1] * column))
    for structure in structures:
        places = np.argwhere(labels == structure.label)
        if not len(places):
            continue
        (top, left), (bottom, right) = places.min(0), places.max(0)
        padded = np.pad(labels[top : bottom + 1, left : right + 1] == structure.label, 1).astype(float)
        corner = np.array([top, left]) - 0.5  # of the padded box, in pixels from the picture's border
        path = ""
        for line in find_contours(padded, 0.5):
            points = approximate_polygon((line + corner) * scale, tolerance)[:, ::-1]
            path += "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z"
        y, x = (places.mean(0) + 0.5) * scale
        box = (float(left * column), float(top * row), float((right + 1) * column), float((bottom + 1) * row))
        outlines.append(Outline(structure.label, structure.name, path, box, (float(x), float(y))))
    return outlines
