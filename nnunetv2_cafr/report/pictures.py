"""Sagittal slices with reference and prediction: side by side in colour, or as outlines over one image.

Names of levels stand in the structures, or beside the vertebrae.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from skimage import measure

from dataset_conversion.geometry import orient, orientation_of
from nnunetv2_cafr.slices import LETTER, contours_of, jpeg_of, svg_path
from nnunetv2_cafr.spine import IGNORE, colour_of, disc_of, vertebra_of

PICTURE_SIZE = 420  # pixels of the longer side, at most
LINES = 26  # of text in the height of an outlined slice
CRUMB, PIECE = 0.15, 0.5  # of the median vertebra in a slice: smaller ones are not named, further pieces of one neither


@dataclass(frozen=True)
class PictureRow:
    """Files of one case: an image with its title, and label maps of the same geometry by title, the reference first."""

    title: str
    image: Path
    label_maps: Mapping[str, Path]


def side_by_side(rows: Sequence[PictureRow], label_names: dict[int, str], target: Path) -> None:
    """Writes a PNG with a row per case: the image, and each label map, in the slice with the most reference voxels.

    Args:
        rows: the cases, with as many label maps each; arrays are (slices, rows, columns), pixels may be anisotropic.
        label_names: text for each label; labels that are not named are drawn without text.
        target: the PNG file.
    """
    columns = 1 + len(rows[0].label_maps)
    figure, axes = plt.subplots(len(rows), columns, figsize=(3.5 * columns, 3.9 * len(rows)), squeeze=False)
    for row, axes_of_row in zip(rows, axes, strict=True):
        image = sitk.ReadImage(str(row.image))
        column_spacing, row_spacing, _ = image.GetSpacing()
        values, reference, *others = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in (row.image, *row.label_maps.values())
        )
        middle_slice = int(np.argmax((reference > 0).sum((1, 2))))
        titles = (row.title, *row.label_maps)
        for axis, labels, title in zip(axes_of_row, (None, reference, *others), titles, strict=True):
            axis.imshow(
                values[middle_slice],
                cmap="gray",
                aspect=row_spacing / column_spacing,
                vmin=np.percentile(values, 1),
                vmax=np.percentile(values, 99.5),
            )
            if labels is not None:
                draw_labels(axis, labels[middle_slice], label_names)
            axis.set_title(title, fontsize=11)
            axis.set_axis_off()
    figure.tight_layout()
    figure.savefig(target, dpi=110)
    plt.close(figure)


def draw_labels(axis: Axes, labels: np.ndarray, names: Mapping[int, str]) -> None:
    """Colours, outlines and names of the structures of a slice (rows, columns) on what the axis shows."""
    for label in np.unique(labels[labels > 0]):
        mask = labels == label
        colour = np.array(colour_of(names.get(int(label), ""), int(label))) / 255
        overlay = np.zeros((*mask.shape, 4))
        overlay[mask] = (*colour, 0.45)
        axis.imshow(overlay, aspect=axis.get_aspect())
        axis.contour(mask, [0.5], colors=[colour], linewidths=0.9)
        name = names.get(int(label), "")
        if name and mask.sum() > 3:
            y, x = np.argwhere(mask).mean(0)
            axis.text(
                x,
                y,
                name,
                color="white",
                fontsize=6,
                ha="center",
                va="center",
                path_effects=[withStroke(linewidth=1.5, foreground="black")],
            )


@dataclass(frozen=True)
class OutlinedSlice:
    """A slice as base64 of a JPEG, and outlines as d of SVG paths in mm from its upper left corner.

    Args:
        names: text, x and y of its centre in mm.
        what: which slice it is, and why this one.
    """

    jpeg: str
    width: float
    height: float
    reference: str
    prediction: str
    names: Sequence[tuple[str, float, float]]
    what: str


def outlined_slice(image: Path, reference: Path, prediction: Path, label_names: Mapping[int, str]) -> OutlinedSlice:
    """The sagittal slice with the most wrong voxels; of a prediction without errors, that with the most reference.

    Its names are those of reference structures whose place mostly carries another label.

    Raises:
        ValueError: if the three do not have one size.
    """
    (values, truth, guess), row, column, flat = _sagittal((image, reference, prediction), label_names)
    wrong, held = (truth != guess).sum((1, 2)), (truth > 0).sum((1, 2))
    index = int(np.argmax(wrong if wrong.any() else held))
    which = _which(index, values, flat)
    reason = "the most wrong voxels" if wrong.any() else "the most of the reference, no voxel is wrong"
    height, width = values.shape[1] * row, values.shape[2] * column
    return OutlinedSlice(
        jpeg=jpeg_of(values[index], row, column, PICTURE_SIZE),
        width=width,
        height=height,
        reference=_outlines(truth[index], row, column),
        prediction=_outlines(guess[index], row, column),
        names=_mistaken(truth[index], guess[index], label_names, row, column),
        what=which if flat else f"{which}: {reason}",
    )


def named_slices(
    image: Path, reference: Path, predictions: Sequence[Path], label_names: Mapping[int, str]
) -> list[OutlinedSlice]:
    """The sagittal slice with the most of the reference, once for each label map, the reference's first.

    The names are those of the vertebrae, beside them; in brackets what the reference has there, where that is another.

    Raises:
        ValueError: if the files do not have one size.
    """
    (values, truth, *guesses), row, column, flat = _sagittal((image, reference, *predictions), label_names)
    index = int(np.argmax((truth > 0).sum((1, 2))))
    height, width = values.shape[1] * row, values.shape[2] * column
    jpeg = jpeg_of(values[index], row, column, PICTURE_SIZE)
    slices = []
    for labels in (truth, *guesses):
        lines = _outlines(labels[index], row, column)
        slices.append(
            OutlinedSlice(
                jpeg=jpeg,
                width=width,
                height=height,
                reference=lines if labels is truth else "",
                prediction="" if labels is truth else lines,
                names=_beside(labels[index], truth[index], label_names, row, column),
                what=_which(index, values, flat),
            )
        )
    return slices


def _sagittal(files: Sequence[Path], label_names: Mapping[int, str]) -> tuple[list[np.ndarray], float, float, bool]:
    """Volumes (slices, rows, columns), mm of a row and of a column, and whether they are a single picture as it is.

    As in the scores, what the reference ignores is background in all label maps. Colours are averaged.

    Args:
        files: image, reference and predictions.
    """
    volumes = [sitk.ReadImage(str(file)) for file in files]
    flat = volumes[0].GetDimension() == 2 or (
        volumes[0].GetSize()[2] == 1 and orientation_of(volumes[0])[2] not in "LR"  # a sagittal slice can be hung
    )
    views = volumes if flat else [orient(volume) for volume in volumes]
    if len({view.GetSize() for view in views}) > 1:
        sizes = [volume.GetSize() for volume in volumes]
        raise ValueError(f"{', '.join(map(str, files))}: sizes {sizes}, expected one grid")
    column, row = views[0].GetSpacing()[:2]
    arrays = [sitk.GetArrayFromImage(view) for view in views]
    if views[0].GetNumberOfComponentsPerPixel() > 1:
        arrays[0] = arrays[0].mean(-1)
    ignored = np.isin(arrays[1], [label for label, name in label_names.items() if name == IGNORE])
    for labels in arrays[1:]:
        labels[ignored] = 0
    return [array[None] if array.ndim == 2 else array for array in arrays], row, column, flat


def _which(index: int, values: np.ndarray, flat: bool) -> str:
    return "the image" if flat else f"sagittal slice {index + 1} of {len(values)}"


def _beside(
    labels: np.ndarray, truth: np.ndarray, names: Mapping[int, str], row: float, column: float
) -> list[tuple[str, float, float]]:
    """Names of the vertebrae."""
    vertebrae = [one for one, name in names.items() if vertebra_of(name)]
    parts = _parts(np.where(np.isin(labels, vertebrae), labels, 0))
    if not parts:
        return []
    largest: dict[int, float] = {}
    for part in parts:
        found = int(labels[tuple(part.coords[0])])
        largest[found] = max(largest.get(found, 0), part.area)
    median = np.median(list(largest.values()))
    named = []
    for part in parts:
        found = int(labels[tuple(part.coords[0])])
        if part.area >= (CRUMB if part.area == largest[found] else PIECE) * median:
            true = int(np.bincount(truth[tuple(part.coords.T)].astype(int)).argmax())
            missing = f" ({names.get(true, true) if true else 'nothing'})"
            named.append((names[found] + ("" if true == found else missing), part))
    return _aside(named, labels.shape, row, column)


def _parts(labels: np.ndarray) -> list[Any]:
    return measure.regionprops(measure.label(labels, connectivity=2))


def _aside(
    named: Sequence[tuple[str, Any]], shape: tuple[int, ...], row: float, column: float
) -> list[tuple[str, float, float]]:
    """Text and its centre, in front of the parts or behind them, where the slice has more room; none over another."""
    if not named:
        return []
    height, width, size = shape[0] * row, shape[1] * column, shape[0] * row / LINES
    left, right = min(part.bbox[1] for _, part in named), max(part.bbox[3] for _, part in named)
    in_front = left >= shape[1] - right
    placed: list[tuple[str, float, float]] = []
    above = -np.inf
    for text, part in sorted(named, key=lambda one: one[1].centroid[0]):
        half = (len(text) + 1) * LETTER * size / 2
        x = part.bbox[1] * column - half if in_front else part.bbox[3] * column + half
        above = max((part.centroid[0] + 0.5) * row, above + size, size / 2)
        placed.append((text, float(np.clip(x, half, max(half, width - half))), above))
    below = height + size / 2
    for index in reversed(range(len(placed))):
        text, x, y = placed[index]
        below = min(y, below - size)
        placed[index] = text, x, float(below)
    return placed


def _outlines(labels: np.ndarray, row: float, column: float) -> str:
    return "".join(
        svg_path(contours_of(labels == label, row, column, 0.35 * min(row, column)))
        for label in np.unique(labels[labels > 0])
    )


def _mistaken(
    truth: np.ndarray, guess: np.ndarray, names: Mapping[int, str], row: float, column: float
) -> list[tuple[str, float, float]]:
    """What structures of the reference are called that carry another label; of discs, those beside no such vertebra."""
    wrong = {}
    for label in np.unique(truth[truth > 0]):
        found = int(np.bincount(guess[truth == label].astype(int)).argmax())
        if found != label:
            text = f"{names.get(int(label), int(label))} \u2192 {names.get(found, found) if found else 'missed'}"
            largest = max(_parts(truth == label), key=lambda part: part.area)
            wrong[names.get(int(label), str(label))] = text, largest
    vertebrae = {vertebra_of(name) for name in wrong}
    return _aside(
        [one for name, one in wrong.items() if not vertebrae & set(disc_of(name) or ())], truth.shape, row, column
    )
