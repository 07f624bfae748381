"""The sagittal picture of a case: a small JPEG, and the contours of its structures as lines over it.

Contours are vectors, not pixels: they stay sharp, can be switched off, and are named in text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from skimage import measure

from dataset_conversion.geometry import orient, orientation_of
from nnunetv2_cafr.quality.measures import grey_values
from nnunetv2_cafr.slices import LETTER, contours_of, jpeg_of, svg_path
from nnunetv2_cafr.spine import colour_of, disc_of

WIDEST, HIGHEST = 440, 480  # pixels on a page, in the proportions of the patient
LETTERS = 44  # a name's letters are so many times smaller than the longer side
DARK = 0.2  # luminance of lines that a black halo would not part from bone


@dataclass(frozen=True)
class Outline:
    """Contour of a structure in the picture, in mm from the upper left corner.

    Args:
        pieces: left end and centre (x, y) of those that are named, of at least half the largest one's area.
    """

    label: int
    name: str
    lines: tuple[np.ndarray, ...]  # closed, (n, 2)
    pieces: tuple[tuple[float, float, float], ...]

    @property
    def path(self) -> str:
        """The attribute d of an SVG path."""
        return svg_path(self.lines)

    @property
    def colour(self) -> tuple[int, int, int]:
        return colour_of(self.name, self.label)

    @property
    def halo(self) -> str:
        """Colour beside the line, which bone would hide."""
        red, green, blue = ((value / 255) ** 2.2 for value in self.colour)
        return "white" if 0.21 * red + 0.72 * green + 0.07 * blue < DARK else "black"


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

    def name_places(self, outline: Outline) -> Iterator[tuple[float, float, str]]:
        """Where its name stands, x and y, and the text-anchor: in each piece, or in front of a disc's, which are flat.

        All of it is inside the picture.
        """
        for left, x, y in outline.pieces:
            inside = min(max(y, 0.7 * self.letter), self.height - 0.7 * self.letter)
            if disc_of(outline.name) is None:
                yield x, inside, "middle"
            else:
                yield max(left - self.letter / 3, len(outline.name) * LETTER * self.letter), inside, "end"


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
    return Picture(jpeg_of(values[index], row, column, size), width, height, outlines, what)


def _across_thickest(image: sitk.Image) -> sitk.Image:
    """The axes in their order, but that of the largest spacing last (of equals, the last)."""
    thickest = max(range(3), key=lambda axis: (image.GetSpacing()[axis], axis))
    return sitk.PermuteAxes(image, [axis for axis in range(3) if axis != thickest] + [thickest])


def _outlines(labels: np.ndarray, names: Mapping[int, str], column: float, row: float) -> list[Outline]:
    outlines = []
    tolerance = max(0.3 * min(row, column), 0.001 * max(labels.shape[0] * row, labels.shape[1] * column))
    for label, name in names.items():
        parts = measure.regionprops(measure.label(labels == label, connectivity=2))
        if not parts:
            continue
        least = max(part.area for part in parts) / 2
        pieces = tuple(
            (part.bbox[1] * column, (part.centroid[1] + 0.5) * column, (part.centroid[0] + 0.5) * row)
            for part in parts
            if part.area >= least
        )
        outlines.append(Outline(label, name, contours_of(labels == label, row, column, tolerance), pieces))
    return outlines
