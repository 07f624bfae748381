"""Right shape, wrong level: what Dice hides.

A vertebra that is outlined well and called L3 instead of L4 scores 0 twice.

The shapes are first matched without their labels. A *piece* is a 26-connected part of one predicted vertebra label. It
belongs to the reference vertebra that it shares most voxels with, and the pieces of a reference vertebra are its
predicted *instance*, whatever they are called: islands, a label that two vertebrae carry, and a vertebra that carries
two labels all find their place. Then
  instance Dice   of a reference vertebra and its instance; the mean over the vertebrae of a case, 0 where there is none
  found           instance Dice at least 0.5
  level           the label of most of the voxels that the instance shares with the vertebra
  right, shifted  of the found ones: the level is the reference's, or the next one up (towards the head) or down
Pieces that touch no reference vertebra are not judged here: references leave out vertebrae that the image cuts off. All
of this is ours; the paper has nothing of the kind.

`level_accuracy` asks less, and of discs too: whose label do most of the voxels of a reference structure carry that were
predicted as any structure?
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import cc3d
import numpy as np

from nnunetv2_cafr.spine import OPTIONAL, VERTEBRAE, is_vertebra, position

FOUND_DICE = 0.5
EXTRA = 0.25  # of the median vertebra of the reference


@dataclass(frozen=True)
class LevelErrors:
    """Numbers of reference vertebrae of one case; without any, `all_right` (0 or 1) and `instance_dice` are NaN."""

    vertebrae: int
    found: int
    right_level: int
    shifted_up: int
    shifted_down: int
    all_right: float
    instance_dice: float


def level_errors(match: Match, names: Mapping[int, str]) -> LevelErrors:
    """What a prediction's matched vertebrae say of its levels; `names` as for `match_vertebrae`."""
    steps = list(steps_of(match, names).values())
    right = steps.count(0)
    return LevelErrors(
        vertebrae=len(match.levels),
        found=len(steps),
        right_level=right,
        shifted_up=steps.count(1),
        shifted_down=steps.count(-1),
        all_right=float(right == len(match.levels)) if match.levels else math.nan,
        instance_dice=float(np.mean(list(match.dice.values()))) if match.dice else math.nan,
    )


def steps_of(match: Match, names: Mapping[int, str]) -> dict[str, int]:
    """How many levels too high each vertebra that is found is called; too low is negative.

    Levels are counted as the label table has them; L6 or T13 that the reference lacks is no step on the way to the
    others, and one from either neighbour.
    """
    place, places = 0.0, {}
    for name in (names[label] for label in chain_of(names)):
        if name in OPTIONAL and name not in match.levels:
            places[name] = place + 0.5
        else:
            place += 1
            places[name] = place
    ways = {name: places[level] - places[name] for name, level in match.levels.items() if level}
    return {name: round(math.copysign(math.ceil(abs(way)), way)) for name, way in ways.items()}


@dataclass(frozen=True)
class Match:
    """Vertebrae of a reference, from the sacrum upwards, and what a prediction has in their place.

    Args:
        dice: of each with its instance.
        levels: name of the level that each is called; '' if it is not found.
        extra: pieces that touch no vertebra of the reference and have at least EXTRA of its median vertebra's voxels.
    """

    dice: dict[str, float]
    levels: dict[str, str]
    extra: int


def chain_of(names: Mapping[int, str]) -> list[int]:
    """Labels of the vertebrae, from the sacrum upwards."""
    return sorted(
        (label for label, name in names.items() if is_vertebra(name)), key=lambda label: VERTEBRAE.index(names[label])
    )


def match_vertebrae(reference: np.ndarray, prediction: np.ndarray, names: Mapping[int, str]) -> Match:
    """Finds the vertebrae of a reference in a prediction, whatever they are called.

    Args:
        reference, prediction: integer label maps (0 = background) of one shape, 2-D or 3-D.
        names: of the labels; those that are vertebrae, sacrum included, count.
    """
    chain = chain_of(names)
    size = max(chain) + 1
    is_counted = np.zeros(int(max(reference.max(), prediction.max(), size - 1)) + 1, bool)
    is_counted[chain] = True
    reference, prediction = (np.where(is_counted[labels], labels, 0) for labels in (reference, prediction))
    pieces, number = cc3d.connected_components(
        prediction.astype(np.uint16), connectivity=26 if prediction.ndim == 3 else 8, return_N=True
    )
    shared = np.bincount(pieces.ravel().astype(np.int64) * size + reference.ravel(), minlength=(number + 1) * size)
    shared = shared.reshape(number + 1, size)  # voxels by [piece, label of the reference]; piece 0 is the background
    in_reference, in_piece = shared.sum(0), shared.sum(1)
    label_of = np.zeros(number + 1, int)
    label_of[pieces.ravel()] = prediction.ravel()
    owner = np.where(shared[:, 1:].any(1), shared[:, 1:].argmax(1) + 1, 0)
    owner[0] = 0

    dice, levels = {}, {}
    for label in (label for label in chain if in_reference[label]):
        mine = owner == label
        name = names[label]
        dice[name] = float(2 * shared[mine, label].sum() / (in_piece[mine].sum() + in_reference[label]))
        votes = np.bincount(label_of[mine], weights=shared[mine, label], minlength=size)
        levels[name] = names[int(votes.argmax())] if dice[name] >= FOUND_DICE else ""
    lone = in_piece[1:][owner[1:] == 0]
    typical = np.median(in_reference[1:][in_reference[1:] > 0]) if levels else math.inf
    return Match(dice, levels, int((lone >= EXTRA * typical).sum()))


def level_accuracy(reference: np.ndarray, prediction: np.ndarray, names: Mapping[int, str]) -> tuple[int, int]:
    """Structures (vertebrae and discs) of the reference, and those of them in which their own label wins.

    A label wins a structure if no other label has as many of its voxels, background aside.

    Args:
        reference, prediction: integer label maps (0 = background) of one shape.
        names: of the labels; those that are vertebrae, sacrum included, and discs count as structures.
    """
    structures = [label for label, name in names.items() if position(name) is not None]
    size = int(max(reference.max(), prediction.max(), *names)) + 1
    votes = np.bincount(reference.ravel().astype(np.int64) * size + prediction.ravel(), minlength=size * size)
    votes = votes.reshape(size, size)  # voxels by [label of the reference, predicted label]
    present = [label for label in structures if votes[label].any()]
    own = [votes[label, label] for label in present]
    others = [np.delete(votes[label], [0, label]).max() for label in present]
    return len(present), sum(bool(mine > other) for mine, other in zip(own, others, strict=True))
