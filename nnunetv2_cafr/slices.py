"""A slice for a page: a grey picture as JPEG, and the contours of structures as SVG paths over it, in mm."""

import base64
import io
from collections.abc import Iterable

import numpy as np
from PIL import Image
from skimage.measure import approximate_polygon, find_contours

JPEG_QUALITY = 82
LETTER = 0.6  # width of one, of its height, in names over a slice


def jpeg_of(values: np.ndarray, row: float, column: float, size: int) -> str:
    """Base64 of a slice (rows, columns) with square pixels, from the 1st to the 99.5th percentile.

    Args:
        row, column: height and width of a pixel in mm.
        size: pixels of the longer side, at most.
    """
    low, high = np.percentile(values, [1, 99.5])
    grey = np.clip((values.astype(np.float32) - low) / max(high - low, 1e-12), 0, 1) * 255
    height, width = values.shape[0] * row, values.shape[1] * column
    pixel = max(min(row, column), max(width, height) / size)
    target = (max(round(width / pixel), 1), max(round(height / pixel), 1))
    picture = Image.fromarray(grey.astype(np.uint8)).resize(target, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()


def contours_of(mask: np.ndarray, row: float, column: float, tolerance: float) -> tuple[np.ndarray, ...]:
    """Closed lines (n, 2) around a structure (rows, columns), x and y in mm from the slice's upper left corner.

    Args:
        row, column: height and width of a pixel in mm.
        tolerance: how far a line may be from the pixels' border, in mm.
    """
    places = np.argwhere(mask)
    (top, left), (bottom, right) = places.min(0), places.max(0)
    padded = np.pad(mask[top : bottom + 1, left : right + 1], 1).astype(float)
    # Padding moves by one pixel, and the centre of a pixel lies half a pixel behind its corner.
    corner = np.array([top, left]) - 0.5
    return tuple(
        approximate_polygon((line + corner) * [row, column], tolerance)[:, ::-1] for line in find_contours(padded, 0.5)
    )


def svg_path(lines: Iterable[np.ndarray]) -> str:
    """The attribute d of an SVG path of closed lines (n, 2)."""
    return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line) + "Z" for line in lines)
