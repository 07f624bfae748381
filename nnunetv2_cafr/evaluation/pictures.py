"""Sagittal slices with reference and prediction: side by side in colour, or as outlines over one image."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from PIL import Image
from skimage.measure import approximate_polygon, find_contours

from dataset_conversion.geometry import orient
from nnunetv2_cafr.spine import colour_of

PICTURE_SIZE, JPEG_QUALITY = 420, 80  # pixels of the longer side, at most


@dataclass(frozen=True)
class PictureRow:
    """Files of one case: image, reference and prediction of the same geometry, and the text at its left."""

    title: str
    image: Path
    reference: Path
    prediction: Path


def side_by_side(rows: Sequence[PictureRow], label_names: dict[int, str], target: Path) -> None:
    """Writes a PNG with a row per case: image, reference, prediction, in the slice with the most reference voxels.

    Args:
        rows: the cases; arrays are (slices, rows, columns), pixels may be anisotropic.
        label_names: text for each label; labels that are not named are drawn without text.
        target: the PNG file.
    """
    figure, axes = plt.subplots(len(rows), 3, figsize=(10.5, 3.9 * len(rows)), squeeze=False)
    for row, (left, middle, right) in zip(rows, axes, strict=True):
        image = sitk.ReadImage(str(row.image))
        column_spacing, row_spacing, _ = image.GetSpacing()
        values, reference, prediction = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in (row.image, row.reference, row.prediction)
        )
        middle_slice = int(np.argmax((reference > 0).sum((1, 2))))
        for axis, labels, title in (
            (left, None, row.title),
            (middle, reference, "reference"),
            (right, prediction, "prediction"),
        ):
            axis.imshow(
                values[middle_slice],
                cmap="gray",
                aspect=row_spacing / column_spacing,
                vmin=np.percentile(values, 1),
                vmax=np.percentile(values, 99.5),
            )
            if labels is not None:
                _draw_labels(axis, labels[middle_slice], label_names)
            axis.set_title(title, fontsize=11)
            axis.set_axis_off()
    figure.tight_layout()
    figure.savefig(target, dpi=110)
    plt.close(figure)


def _draw_labels(axis: Axes, labels: np.ndarray, names: dict[int, str]) -> None:
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
        names: text, x and y in mm of each reference structure whose place mostly carries another label.
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

    Raises:
        ValueError: if the three do not have one size.
    """
    volumes = [sitk.ReadImage(str(file)) for file in (image, reference, prediction)]
    flat = volumes[0].GetDimension() == 2 or volumes[0].GetSize()[2] == 1
    views = volumes if flat else [orient(volume) for volume in volumes]
    if len({view.GetSize() for view in views}) > 1:
        sizes = [volume.GetSize() for volume in volumes]
        raise ValueError(f"{image}, {reference}, {prediction}: sizes {sizes}, expected one grid")
    column, row = views[0].GetSpacing()[:2]
    values, truth, guess = (np.atleast_3d(sitk.GetArrayFromImage(view)) for view in views)
    if views[0].GetDimension() == 2:
        values, truth, guess = (np.moveaxis(array, 2, 0) for array in (values, truth, guess))
    wrong, held = (truth != guess).sum((1, 2)), (truth > 0).sum((1, 2))
    index = int(np.argmax(wrong if wrong.any() else held))
    which = "the image" if flat else f"sagittal slice {index + 1} of {len(values)}"
    reason = "the most wrong voxels" if wrong.any() else "the most of the reference, no voxel is wrong"
    height, width = values.shape[1] * row, values.shape[2] * column
    return OutlinedSlice(
        jpeg=_jpeg(values[index], width, height, min(row, column)),
        width=width,
        height=height,
        reference=_outlines(truth[index], row, column),
        prediction=_outlines(guess[index], row, column),
        names=list(_mistaken(truth[index], guess[index], label_names, row, column)),
        what=which if flat else f"{which}: {reason}",
    )


def _jpeg(values: np.ndarray, width: float, height: float, finest: float) -> str:
    low, high = np.percentile(values, [1, 99.5])
    grey = np.clip((values.astype(np.float32) - low) / max(high - low, 1e-12), 0, 1) * 255
    pixel = max(finest, max(width, height) / PICTURE_SIZE)
    picture = Image.fromarray(grey.astype(np.uint8)).resize((round(width / pixel), round(height / pixel)))
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(target.getvalue()).decode()


def _outlines(labels: np.ndarray, row: float, column: float) -> str:
    path = ""
    for label in np.unique(labels[labels > 0]):
        for line in find_contours(np.pad(labels == label, 1).astype(float), 0.5):
            # Padding moves by one voxel, and the centre of a voxel lies half a voxel behind its corner.
            points = approximate_polygon((line - 0.5) * [row, column], 0.35 * min(row, column))
            path += "M" + "L".join(f"{x:.1f} {y:.1f}" for y, x in points) + "Z"
    return path


def _mistaken(
    truth: np.ndarray, guess: np.ndarray, names: Mapping[int, str], row: float, column: float
) -> Iterator[tuple[str, float, float]]:
    for label in np.unique(truth[truth > 0]):
        place = truth == label
        found = int(np.bincount(guess[place].astype(int)).argmax())
        if found != label:
            y, x = np.argwhere(place).mean(0) + 0.5
            text = f"{names.get(int(label), int(label))} \u2192 {names.get(found, found) if found else 'missed'}"
            yield text, float(x * column), float(y * row)
