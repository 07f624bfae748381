"""Distances between the surfaces of two masks, in mm, as surface-distance (DeepMind, Apache-2.0) defines them.

Every surface element counts by its area (in 2-D, its length), so the numbers do not depend on how finely an oblique
surface is sampled. The distances d from the elements of each surface to the nearest element of the other one give
  HD    the largest of all d
  HD95  the larger of the two directed 95th percentiles of d
  ASSD  the mean of d over the elements of both surfaces together
  NSD   the share of both surfaces together with d <= tolerance (normalised surface Dice)
Tools that skip the areas or take the percentile of both directions at once differ by millimetres on thick slices.
Voxels blur oblique surfaces: two concentric spheres 6 mm apart have an ASSD of 5.7 mm in voxels of 0.5 mm, and of 5.4
mm in slices of 2 mm.

The elements and their areas are the library's; the nearest one is found in a k-d tree instead of a distance map. That
gives the same numbers, and a few islands far away do not make it a map of the whole image.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.ndimage import correlate, find_objects
from scipy.spatial import KDTree
from surface_distance import lookup_tables


class SurfaceScores(NamedTuple):
    """Distances in mm, and the normalised surface Dice, 0 to 1."""

    hd_mm: float
    hd95_mm: float
    assd_mm: float
    nsd: float


ROUNDING = 1e-7
ONE_IS_EMPTY = SurfaceScores(math.inf, math.inf, math.inf, 0.0)
BOTH_ARE_EMPTY = SurfaceScores(math.nan, math.nan, math.nan, math.nan)


def surface_scores(
    reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float], tolerance_mm: float
) -> SurfaceScores:
    """Scores of two boolean masks of one shape, in 2-D or 3-D, with `spacing` in mm per axis."""
    in_reference, in_prediction = bool(reference.any()), bool(prediction.any())
    if not (in_reference and in_prediction):
        return ONE_IS_EMPTY if in_reference or in_prediction else BOTH_ARE_EMPTY
    (elements, areas), (other_elements, other_areas) = (
        _surface(mask, tuple(spacing)) for mask in (reference, prediction)
    )
    forth = _distances(elements, other_elements, spacing)
    back = _distances(other_elements, elements, spacing)
    distances, all_areas = np.concatenate([forth, back]), np.concatenate([areas, other_areas])
    return SurfaceScores(
        hd_mm=float(distances.max()),
        hd95_mm=max(_percentile(forth, areas, 95), _percentile(back, other_areas, 95)),
        assd_mm=float(np.average(distances, weights=all_areas)),
        nsd=float(all_areas[distances <= tolerance_mm].sum() / all_areas.sum()),
    )


@lru_cache
def _area_table(spacing: tuple[float, ...]) -> np.ndarray:
    """Area of the surface element by the code of the 2 x 2 (x 2) voxels around it; 0 within and outside the mask."""
    if len(spacing) == 2:
        return lookup_tables.create_table_neighbour_code_to_contour_length(spacing)
    return lookup_tables.create_table_neighbour_code_to_surface_area(spacing)


def _surface(mask: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Corners of voxels that lie on the surface, (n, axes) in voxels, and the areas around them in mm^2, or mm."""
    (box,) = find_objects(mask.view(np.uint8))
    flat = mask.ndim == 2
    kernel = lookup_tables.ENCODE_NEIGHBOURHOOD_2D_KERNEL if flat else lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL
    codes = correlate(np.pad(mask[box].view(np.uint8), [(0, 1)] * mask.ndim), kernel, mode="constant")
    on_surface = (codes != 0) & (codes != kernel.sum())
    corners = np.argwhere(on_surface) + [part.start for part in box]
    return corners, _area_table(spacing)[codes[on_surface]]


def _distances(elements: np.ndarray, other: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """From each element to the nearest other one, in mm."""
    _, nearest = KDTree(other * np.asarray(spacing)).query(elements * np.asarray(spacing))
    # Whole steps times the spacing: a tolerance that is a multiple of it is not missed by rounding.
    return np.linalg.norm((elements - other[nearest]) * spacing, axis=1)


def _percentile(distances: np.ndarray, areas: np.ndarray, percent: float) -> float:
    """Least distance within which `percent` of the area lies."""
    order = np.argsort(distances)
    share = np.cumsum(areas[order]) / areas.sum()
    # Exactly 95 % is frequent in small masks, and rounding (of spacings in float32, too) must not decide about it.
    place = int(np.searchsorted(share, percent / 100 - ROUNDING))
    return float(distances[order][min(place, len(order) - 1)])
