"""The band around vertebra-disc junctions: closed forms, and a twin that measures every pair of voxels."""

import numpy as np
import pytest

from nnunetv2_cafr.evaluation.junctions import BAND_MM, junction_band, junctions

NAMES = {1: "S", 2: "L5", 3: "L4", 4: "L5/S", 5: "L4/L5", 6: "canal"}


def test_pairs() -> None:
    assert set(junctions(NAMES)) == {(1, 4), (2, 4), (2, 5), (3, 5)}
    assert junctions({1: "S", 2: "L5", 3: "L4"}) == []
    assert junctions({1: "L5", 2: "L5/S"}) == [(1, 2)]


def test_a_plane_has_the_band_on_both_sides() -> None:
    labels = np.zeros((4, 60, 20), int)
    labels[:, :20], labels[:, 20:32], labels[:, 32:] = 3, 5, 2
    band = junction_band(labels, (4.4, 0.5, 0.5), NAMES)
    rows = np.flatnonzero(band.all((0, 2)))
    assert (band.any((0, 2)) == band.all((0, 2))).all()
    # A voxel of one side counts up to BAND_MM from the nearest centre on the other.
    assert rows.tolist() == [*range(14, 26), *range(26, 38)]
    assert BAND_MM == 3


@pytest.mark.parametrize("spacing", [(4.4, 1.0, 1.0), (1.0, 2.5, 0.8), (1.5, 1.5, 1.5)])
def test_agrees_with_all_pairs_of_voxels(spacing: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 7, (2, 4, 4)), np.ones((2, 3, 3), int))
    where = np.argwhere(np.ones(labels.shape)) * spacing
    distance = {
        label: np.linalg.norm(where[:, None] - where[labels.ravel() == label][None], axis=2).min(1, initial=np.inf)
        for label in NAMES
    }
    expected = np.zeros(labels.size, bool)
    for vertebra, disc in ((1, 4), (2, 4), (2, 5), (3, 5)):
        expected |= (distance[vertebra] <= BAND_MM) & (distance[disc] <= BAND_MM)
    assert expected.any() and not expected.all()
    np.testing.assert_array_equal(junction_band(labels, spacing, NAMES), expected.reshape(labels.shape))


def test_what_is_not_there_has_no_junction() -> None:
    labels = np.zeros((30, 30), int)
    labels[5:10, 5:10] = 3  # L4 without a disc
    labels[20:25, 20:25] = 4  # L5/S far away from it, and of other vertebrae
    assert not junction_band(labels, (1, 1), NAMES).any()
