"""Sagittal slices with reference and prediction side by side, each structure drawn in its colour and named."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke


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
    colours = matplotlib.colormaps["tab20"]
    for label in np.unique(labels[labels > 0]):
        mask = labels == label
        colour = colours((int(label) * 7) % 20)
        overlay = np.zeros((*mask.shape, 4))
        overlay[mask] = (*colour[:3], 0.45)
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
