"""The sagittal picture of a case: a small JPEG, and the contours of its structures as lines over it.

Contours are vectors, not pixels: they stay sharp, can be switched off, and are named in text.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from PIL import Image
from skimage.measure import approximate_polygon, find_contours

from dataset_conversion.geometry import orient, orientation_of
from nnunetv2_cafr.quality.measures import grey_values
from nnunetv2_cafr.spine import colour_of, disc_of

JPEG_QUALITY = 82
WIDEST, HIGHEST = 440, 480  # pixels on a page, in the proportions of the patient
LETTERS = 44  # a name's letters are so many times smaller than the longer side


@dataclass(frozen=True)
class Outline:
    """Contour of a structure in the picture. Points and boxes are (x, y) in mm from the upper left corner."""

    label: int
    name: str
    lines: tuple[np.ndarray, ...]  # closed, (n, 2)
    box: tuple[float, float, float, float]  # left, top, right, bottom
    centre: tuple[float, float]

    @property
    def path(self) -> str:
        """The attribute d of an SVG path."""
        return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line) + "Z" for line in self.lines)

    @property
    def colour(self) -> tuple[int, int, int]:
        return colour_of(self.name, self.label)

    def name_place(self, letter: float) -> tuple[float, float, str]:
        """Where the name stands, x and y, and its text-anchor: in the structure, or in front of a disc, which is flat.

        Args:
            letter: height of its letters in mm.
        """
        x, y = self.centre
        return (x, y, "middle") if disc_of(self.name) is None else (self.box[0] - letter / 3, y, "end")


@dataclass(frozen=True)
class Picture:
    """A slice. `what` says which one."""

    jpeg: str  # base64
    width: float  # mm
    height: float  # mm
    outlines: tuple[Outline, ...]
    what: str

    @property
    def widest(self) -> float:
        """Pixels from left to right on a page, at most."""
        return min(WIDEST, HIGHEST * self.width / self.height)

    @property
    def letter(self) -> float:
        """Height of the names' letters in mm."""
        return max(self.width, self.height) / LETTERS


def draw(
    image: sitk.Image, labels: np.ndarray | None, names: Mapping[int, str], size: int, oriented: bool = True
) -> Picture:
    """The sagittal slice that shows the most structures (of those, the most voxels); without labels, the middle one.

    Args:
        image: three dimensions; two-dimensional pictures have one slice and are shown as they are, as is a single
            slice that is not sagittal.
        labels: (z, y, x) on the image's grid, or None.
        names: of the labels that are outlined.
        size: pixels of the longer side, at most.
        oriented: whether the image's direction is more than SimpleITK's invention; else those slices are shown that lie
            farthest apart, as they are stored.
    """
    if image.GetNumberOfComponentsPerPixel() > 1:
        averaged = sitk.GetImageFromArray(grey_values(image))
        averaged.CopyInformation(image)
        image = averaged
    flat = image.GetSize()[2] == 1 and not (oriented and orientation_of(image)[2] in "LR")
    # x to the back, y down, z to the right: slices as radiologists hang them, the front at the left.
    hang = orient if oriented else _across_thickest
    view = image if flat else hang(image)
    values = sitk.GetArrayViewFromImage(view)
    shown = None
    if labels is not None:
        mask = sitk.GetImageFromArray(labels)
        mask.CopyInformation(image)
        shown = sitk.GetArrayFromImage(mask if flat else hang(mask))
    index = len(values) // 2
    if shown is not None and shown.any():
        index = max(range(len(shown)), key=lambda k: (len(np.unique(shown[k])), np.count_nonzero(shown[k])))
    column, row, _ = view.GetSpacing()
    height, width = values.shape[1] * row, values.shape[2] * column
    outlines = () if shown is None else tuple(_outlines(shown[index], names, column, row))
    number = f"slice {index + 1} of {len(values)}"
    what = f"sagittal {number} from the left" if oriented else f"{number} as stored, the file tells no direction"
    what = "the image" if flat else what
    return Picture(_jpeg(values[index], width, height, min(column, row), size), width, height, outlines, what)


def _across_thickest(image: sitk.Image) -> sitk.Image:
    """The axes in their order, but that of the largest spacing last (of equals, the last)."""
    thickest = max(range(3), key=lambda axis: (image.GetSpacing()[axis], axis))
    return sitk.PermuteAxes(image, [axis for axis in range(3) if axis != thickest] + [thickest])


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


def _outlines(labels: np.ndarray, names: Mapping[int, str], column: float, row: float) -> list[Outline]:
    outlines = []
    scale = np.array([row, column])
    tolerance = max(0.3 * min(row, column), 0.001 * max(labels.shape[0] * row, labels.shape[1] * column))
    for label, name in names.items():
        places = np.argwhere(labels == label)
        if not len(places):
            continue
        (top, left), (bottom, right) = places.min(0), places.max(0)
        padded = np.pad(labels[top : bottom + 1, left : right + 1] == label, 1).astype(float)
        corner = np.array([top, left]) - 0.5  # of the padded box, in pixels from the picture's border
        lines = tuple(
            approximate_polygon((line + corner) * scale, tolerance)[:, ::-1] for line in find_contours(padded, 0.5)
        )
        y, x = (places.mean(0) + 0.5) * scale
        box = (float(left * column), float(top * row), float((right + 1) * column), float((bottom + 1) * row))
        outlines.append(Outline(label, name, lines, box, (float(x), float(y))))
    return outlines
