"""Surface distances against boxes sampled densely, spheres, shifts, and surface-distance's own distance maps."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_cafr.evaluation import surface
from nnunetv2_cafr.evaluation.surface import BOTH_ARE_EMPTY, ONE_IS_EMPTY, ROUNDING, surface_scores

Box = tuple[Sequence[int], Sequence[int]]  # first voxel, and the one after the last, per axis


def mask_of(box: Box, shape: Sequence[int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(start, stop) for start, stop in zip(*box, strict=True))] = True
    return mask


def sample(low: np.ndarray, high: np.ndarray, per_axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Points on all faces of a box in mm, and the area that each stands for."""
    points, areas = [], []
    for axis in range(len(low)):
        others = [other for other in range(len(low)) if other != axis]
        steps = [low[i] + (np.arange(per_axis) + 0.5) / per_axis * (high[i] - low[i]) for i in others]
        grid = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, len(others))
        for plane in (low[axis], high[axis]):
            points.append(np.insert(grid, axis, plane, axis=1))
            areas.append(np.full(len(grid), np.prod((high - low)[others]) / len(grid)))
    return np.concatenate(points), np.concatenate(areas)


def distance_to_box(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """To the surface of a box, from in- and outside."""
    outside = np.maximum(np.maximum(low - points, points - high), 0)
    inside = np.minimum(points - low, high - points).min(1)
    return np.where(inside > 0, inside, np.linalg.norm(outside, axis=1))


def twin(boxes: tuple[Box, Box], spacing: np.ndarray, tolerance: float) -> tuple[float, float, float, float]:
    """HD, HD95, ASSD and NSD of two boxes by sampling their continuous surfaces."""
    (a, b) = [tuple(np.asarray(corner) * spacing for corner in box) for box in boxes]
    distances, areas = [], []
    for (low, high), other in ((a, b), (b, a)):
        points, area = sample(low, high, 60 if len(spacing) == 3 else 2000)
        distances.append(distance_to_box(points, *other))
        areas.append(area)

    def percentile(d: np.ndarray, area: np.ndarray) -> float:
        order = np.argsort(d)
        return float(d[order][np.searchsorted(np.cumsum(area[order]), 0.95 * area.sum())])

    d, area = np.concatenate(distances), np.concatenate(areas)
    hd95 = max(map(percentile, distances, areas))
    return float(d.max()), hd95, float((d * area).sum() / area.sum()), float(area[d <= tolerance].sum() / area.sum())


@pytest.mark.parametrize(
    ("boxes", "spacing"),
    [
        ((((4, 10, 10), (8, 40, 30)), ((4, 14, 10), (8, 44, 30))), (4.0, 0.5, 0.5)),  # shifted
        ((((4, 10, 10), (10, 40, 30)), ((5, 6, 12), (9, 30, 44))), (4.0, 0.5, 0.5)),  # moved and stretched
        ((((4, 10, 10), (24, 40, 30)), ((8, 14, 16), (20, 34, 26))), (1.0, 1.0, 1.0)),  # one within the other
        ((((10, 10), (60, 30)), ((16, 12), (70, 50))), (0.4, 0.8)),
    ],
)
def test_boxes_sampled_densely(boxes: tuple[Box, Box], spacing: tuple[float, ...]) -> None:
    shape = (50, 60, 60) if len(spacing) == 3 else (80, 60)
    # Off the multiples of the voxels, where a sampled surface and a continuous one would fall on different sides.
    hd, hd95, assd, nsd = twin(boxes, np.array(spacing), 1.3)
    scores = surface_scores(mask_of(boxes[0], shape), mask_of(boxes[1], shape), spacing, 1.3)
    assert scores.hd_mm == pytest.approx(hd, rel=0.03)
    assert scores.hd95_mm == pytest.approx(hd95, abs=min(spacing))
    assert scores.assd_mm == pytest.approx(assd, rel=0.07)
    assert scores.nsd == pytest.approx(nsd, abs=0.05)


@pytest.mark.parametrize(
    ("spacing", "assd"), [((0.5, 0.5, 0.5), 5.71), ((2.0, 0.5, 0.5), 5.42)], ids=["cubes", "slices of 2 mm"]
)
def test_concentric_spheres_6_mm_apart(spacing: tuple[float, ...], assd: float) -> None:
    """Voxels blur the surfaces: the documented numbers, less than 6 mm."""
    step = np.array(spacing)[:, None, None, None]
    grid = np.indices([int(60 / length) for length in spacing])
    radius = np.linalg.norm((grid - grid.max((1, 2, 3), keepdims=True) / 2) * step, axis=0)
    scores = surface_scores(radius < 20, radius < 26, spacing, 5.0)
    assert scores.assd_mm == pytest.approx(assd, abs=0.01)
    assert scores.hd_mm == pytest.approx(6, abs=0.5)
    assert scores.nsd < 0.25
    assert surface_scores(radius < 20, radius < 26, spacing, 7.0).nsd == 1


@pytest.mark.parametrize("axis", range(3))
def test_a_shift_is_measured_in_mm_and_the_tolerance_is_inclusive(axis: int) -> None:
    spacing = (4.4, 0.3448, 0.7)
    mask = mask_of(((3, 8, 8), (7, 28, 28)), (12, 40, 40))
    moved = np.roll(mask, 3, axis)
    shift = 3 * spacing[axis]
    assert surface_scores(mask, moved, spacing, 0).hd_mm == pytest.approx(shift)
    assert surface_scores(mask, moved, spacing, shift).nsd == 1
    assert surface_scores(mask, moved, spacing, shift * 0.99).nsd < 1


def test_a_spike_moves_hd_but_not_hd95() -> None:
    mask = mask_of(((2, 10, 10), (8, 50, 50)), (10, 60, 60))
    spiked = mask.copy()
    spiked[4, 30, 50:58] = True
    scores = surface_scores(mask, spiked, (4.0, 0.5, 0.5), 1)
    assert scores.hd_mm == pytest.approx(4.0)
    assert scores.hd95_mm == 0


def test_directed_percentiles_are_not_mixed() -> None:
    """A far island is 7 % of the prediction's surface, and 3.6 % of both surfaces together."""
    mask = mask_of(((2, 2), (42, 42)), (60, 60))
    island = mask | mask_of(((50, 2), (53, 5)), (60, 60))
    share = 12 / (160 + 12)
    assert share > 0.05 > share / 2
    assert surface_scores(mask, island, (1, 1), 1).hd95_mm > 7
    assert surface_scores(island, mask, (1, 1), 1).hd95_mm > 7


def test_rounding_does_not_decide_about_exactly_95_percent_of_the_area() -> None:
    """190 of 200 equal areas, whose sum in floating point is a little less than 95 % of all."""
    assert surface._percentile(np.arange(200.0), np.full(200, 1.1), 95) == 189


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_same_numbers_as_surface_distance(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 8), min_size=2, max_size=3)))
    spacing = tuple(data.draw(st.sampled_from([0.25, 0.3448, 1.0, 4.4])) for _ in shape)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    reference, prediction = (rng.random(shape) < rng.uniform(0.1, 1) for _ in range(2))
    reference.flat[rng.integers(reference.size)] = prediction.flat[rng.integers(prediction.size)] = True
    surfaces = surface_distance.compute_surface_distances(reference, prediction, spacing)
    forth, back = surface_distance.compute_average_surface_distance(surfaces)
    areas = [surfaces[key].sum() for key in ("surfel_areas_gt", "surfel_areas_pred")]
    scores = surface_scores(reference, prediction, spacing, 1.1)
    assert scores == pytest.approx(
        (
            surface_distance.compute_robust_hausdorff(surfaces, 100),
            surface_distance.compute_robust_hausdorff(surfaces, 95 - 100 * ROUNDING),
            np.average([forth, back], weights=areas),
            surface_distance.compute_surface_dice_at_tolerance(surfaces, 1.1),
        ),
        rel=1e-9,
    )
    mirrored = surface_scores(prediction, reference, spacing, 1.1)
    assert mirrored == pytest.approx(scores)
    turned = surface_scores(reference.T, prediction.T, spacing[::-1], 1.1)
    assert turned == pytest.approx(scores)


def test_empty_masks() -> None:
    empty, full = np.zeros((3, 4, 4), bool), np.ones((3, 4, 4), bool)
    assert surface_scores(empty, full, (1, 1, 1), 1) == ONE_IS_EMPTY == (math.inf, math.inf, math.inf, 0)
    assert surface_scores(full, empty, (1, 1, 1), 1) == ONE_IS_EMPTY
    assert all(map(math.isnan, surface_scores(empty, empty, (1, 1, 1), 1)))
    assert all(map(math.isnan, BOTH_ARE_EMPTY))
