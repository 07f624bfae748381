"""Spines with every kind of level error, whose numbers are known beforehand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from nnunetv2_cafr.evaluation.level_errors import LevelErrors, level_accuracy, level_errors, match_vertebrae

NAMES = {1: "S", 2: "L5", 3: "L4", 4: "L3", 5: "L2", 6: "L1", 11: "L5/S", 12: "L4/L5"}
RIGHT = LevelErrors(4, 4, 4, 0, 0, 1.0, 1.0)


def spine(*labels: int, shape: tuple[int, int] = (3, 12)) -> np.ndarray:
    """Blocks of 8 rows with these labels, from the top down, with gaps of 2 rows: (slices, rows, columns)."""
    volume = np.zeros((shape[0], 10 * len(labels), shape[1] + 8), np.int32)
    for place, label in enumerate(labels):
        volume[:, 10 * place : 10 * place + 8, 4 : 4 + shape[1]] = label
    return volume


REFERENCE = spine(0, 4, 3, 2, 1, 0)


def errors_of(reference: np.ndarray, prediction: np.ndarray, names: dict[int, str]) -> LevelErrors:
    return level_errors(match_vertebrae(reference, prediction, names), names)


def test_perfect() -> None:
    assert errors_of(REFERENCE, REFERENCE, NAMES) == RIGHT


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ((0, 5, 4, 3, 2, 0), replace(RIGHT, right_level=0, shifted_up=4, all_right=0)),
        ((0, 4, 3, 2, 2, 0), replace(RIGHT, right_level=3, shifted_up=1, all_right=0)),
        ((0, 3, 2, 1, 1, 0), replace(RIGHT, right_level=1, shifted_down=3, all_right=0)),
        ((0, 6, 5, 4, 3, 0), replace(RIGHT, right_level=0, all_right=0)),  # by two levels
        ((0, 0, 3, 2, 1, 0), replace(RIGHT, found=3, right_level=3, all_right=0, instance_dice=0.75)),
        ((0, 11, 3, 2, 1, 0), replace(RIGHT, found=3, right_level=3, all_right=0, instance_dice=0.75)),
        ((5, 4, 3, 2, 1, 0), RIGHT),  # what the reference does not show is not judged
    ],
)
def test_levels(levels: tuple[int, ...], expected: LevelErrors) -> None:
    assert errors_of(REFERENCE, spine(*levels), NAMES) == expected
    assert errors_of(REFERENCE[1], spine(*levels)[1], NAMES) == expected, "in 2-D"


def test_levels_that_few_people_have_may_be_skipped() -> None:
    names = {1: "S", 7: "L6", 2: "L5", 3: "L4"}
    six = errors_of(spine(3, 2, 1), spine(3, 7, 1), names)
    assert (six.right_level, six.shifted_down) == (2, 1)
    sacrum = errors_of(spine(3, 2, 1), spine(3, 1, 1), names)
    assert (sacrum.right_level, sacrum.shifted_down) == (2, 1)


def test_islands_and_pieces_find_their_place() -> None:
    prediction = REFERENCE.copy()
    prediction[:, ::3, 0] = 6  # islands in the background
    prediction[1, 12, 6] = 1  # and inside the uppermost vertebra
    errors = errors_of(REFERENCE, prediction, NAMES)
    assert errors == RIGHT
    halves = REFERENCE.copy()
    halves[:, 20:23][halves[:, 20:23] == 3] = 4  # three rows of eight carry the next label, and touch nothing of it
    assert errors_of(REFERENCE, halves, NAMES) == RIGHT
    halves[:, 20:25][REFERENCE[:, 20:25] == 3] = 4
    assert errors_of(REFERENCE, halves, NAMES) == replace(RIGHT, right_level=3, shifted_up=1, all_right=0)


def test_a_reference_in_parts_is_one_instance() -> None:
    reference = spine(0, 3, 2, 1, 1, 1)
    shifted = spine(0, 4, 3, 2, 2, 2)
    assert errors_of(reference, reference, NAMES) == LevelErrors(3, 3, 3, 0, 0, 1.0, 1.0)
    assert errors_of(reference, shifted, NAMES) == LevelErrors(3, 3, 0, 3, 0, 0.0, 1.0)


def test_a_piece_over_two_vertebrae_belongs_to_one() -> None:
    prediction = REFERENCE.copy()
    prediction[:, 20:38, 4:16] = 0
    prediction[:, 22:38, 4:16] = 3  # most of L4 and all of L5 are one block called L4
    errors = errors_of(REFERENCE, prediction, NAMES)
    assert (errors.found, errors.right_level, errors.shifted_up) == (3, 2, 1)
    assert errors.instance_dice == pytest.approx((1 + 2 * 8 / (8 + 16) + 0 + 1) / 4)


def test_found_begins_at_a_dice_of_one_half() -> None:
    for rows, found in ((2, 3), (3, 4)):  # of 8: Dice 0.4, 0.55
        prediction = REFERENCE.copy()
        prediction[:, 10 + rows : 18] = 0
        assert errors_of(REFERENCE, prediction, NAMES).found == found


def test_own_label_wins_where_no_other_has_as_many_voxels() -> None:
    reference = spine(4, 3, 12, 2)  # three vertebrae and a disc
    assert level_accuracy(reference, reference, NAMES) == (4, 4)
    assert level_accuracy(reference, spine(4, 4, 12, 2), NAMES) == (4, 3)
    assert level_accuracy(reference, spine(4, 3, 11, 2), NAMES) == (4, 3), "discs count"
    assert level_accuracy(reference, spine(4, 3, 0, 2), NAMES) == (4, 3), "missed"
    thin = np.where(np.arange(reference.shape[1])[:, None] % 8 == 0, reference, 0)
    assert level_accuracy(reference, thin, NAMES) == (4, 4), "background has no vote"
    halves = reference.copy()
    halves[:, 10:14][halves[:, 10:14] == 3] = 4
    assert level_accuracy(reference, halves, NAMES) == (4, 3), "a draw is not won"
    assert level_accuracy(reference, np.where(reference == 3, 9, reference), NAMES) == (4, 3), "by any label"


def test_no_vertebra() -> None:
    errors = errors_of(np.zeros_like(REFERENCE), REFERENCE, NAMES)
    assert (errors.vertebrae, errors.found) == (0, 0)
    assert math.isnan(errors.all_right) and math.isnan(errors.instance_dice)
    missed = errors_of(REFERENCE, np.zeros_like(REFERENCE), NAMES)
    assert missed == LevelErrors(4, 0, 0, 0, 0, 0.0, 0.0)
