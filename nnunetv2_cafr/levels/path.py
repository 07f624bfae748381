"""The best numbering of a row of vertebrae and discs: dynamic programming over the order of the levels (Viterbi).

A column is a row of slots from the bottom upwards, S, L5/S, L5, L4/L5, L4 ... Every structure takes a slot, none lower
than that of the structure below. One slot up is free, all else has a cost: a slot left out (a missed structure), or
taken twice (a structure in two pieces), more so where the distance in the image contradicts it. The columns of people
with one vertebra more or less are compared with the usual one, for a warning.

This is VERIDAH's search (arXiv 2601.14066) with discs as states of their own and with distances. Costs are ours, in
units of the logarithm of a probability.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunetv2_cafr.spine import OPTIONAL, SACRUM, Spine

VERTEBRA, DISC = 0, 1
FLOOR = 0.02  # share that every level has of a structure's votes: how far a confident vote can be wrong
WORST = math.log(FLOOR)
SACRUM_WEIGHT = 3.0  # no other structure looks like the sacrum, so its vote counts as so many
PRICE_MISSED = {VERTEBRA: 2.0, DISC: 0.3}
PRICE_SPLIT = 1.5
PRICE_OPTIONAL = 2.0  # a label of an L6 or T13 that few people have
PRICE_ANOMALY = 8.0  # one vertebra more or less, which the labels do not provide for: about two wrong votes
PRICE_BEYOND = 2.0  # a structure above the highest level of the table; below the lowest one there are two prices
DISTANCE_SPREAD, DISTANCE_MOST = 0.7, 3.0  # half levels of deviation for a price of 1/2; the highest price
TOO_CLOSE = 1.5  # half levels: so much less distance than a step needs forbids leaving out a vertebra
PADS = 3  # levels without a label above the table's, and one below it
SHIFTS = (-3, -2, -1, 1, 2, 3)


@dataclass(frozen=True)
class Slot:
    """A place in a column. `votes` are the labels that speak for it, `labels` those that it may carry; or none."""

    kind: int
    name: str
    votes: tuple[int, ...]
    labels: tuple[int, ...]
    price: float = 0.0


@dataclass(frozen=True)
class Column:
    """Slots from the bottom upwards, vertebrae at even places, discs at odd ones.

    Args:
        anomaly: what is unusual about it, in words.
        labelled: whether the label table provides for it.
    """

    slots: tuple[Slot, ...]
    anomaly: str
    labelled: bool
    price: float


@dataclass(frozen=True)
class Row:
    """Structures from the bottom upwards.

    Args:
        kinds: (n,) VERTEBRA or DISC.
        places: (n,) of their centres along the curve, in levels (distance between two vertebrae = 1).
        votes: (n, labels) share of each label, 1 over the labels of the structure's kind.
        weights: (n,) of a structure's vote.
        discs_expected: whether discs are predicted at all, so that a missing one is worth a price.
    """

    kinds: np.ndarray
    places: np.ndarray
    votes: np.ndarray
    weights: np.ndarray
    discs_expected: bool


@dataclass(frozen=True)
class Path:
    """Slots (n,) of a row's structures in a column, the score, and by how much the votes fit any other shift worse.

    A margin of 1, the most: every structure votes for its slot with certainty. 0: another shift is as good; below, it
    would be better, but leads beyond the column's end.
    """

    column: Column
    slots: np.ndarray
    score: float
    margin: float


def columns(spine: Spine) -> list[Column]:
    """The usual column first, then those with a vertebra more or less."""
    order = list(spine.vertebrae)
    usual = [name for name in order if name not in OPTIONAL]
    found = [Column(_slots(spine, usual), "", True, 0.0)]
    for optional, twin in (("L6", "L5"), ("T13", "T12")):
        if optional in order:
            chosen = [name for name in order if name not in OPTIONAL or name == optional]
            found.append(Column(_slots(spine, chosen), f"{optional} is there", True, PRICE_OPTIONAL))
        elif twin in usual:
            index = usual.index(twin)
            chosen = [*usual[:index], optional, *usual[index:]]
            slots = _slots(spine, chosen, {optional: spine.labels.get(twin, ())})
            found.append(Column(slots, f"one vertebra more at {twin} ({optional}?)", False, PRICE_ANOMALY))
    if set(OPTIONAL) <= set(order):
        found.append(Column(_slots(spine, order), "L6 and T13 are there", True, 2 * PRICE_OPTIONAL))
    for absent, neighbours in (("L5", (SACRUM, "L4")), ("T12", ("L1", "T11"))):
        if absent in usual and all(name in spine.labels for name in neighbours):
            chosen = [name for name in usual if name != absent]
            words = "sacralised L5?" if absent == "L5" else "eleven thoracic vertebrae?"
            found.append(Column(_slots(spine, chosen), f"no {absent} ({words})", False, PRICE_ANOMALY))
    return found


def _slots(spine: Spine, vertebrae: Sequence[str], twins: dict[str, tuple[int, ...]] | None = None) -> tuple[Slot, ...]:
    twins = twins or {}
    slots: list[Slot] = []
    if vertebrae[0] != SACRUM:
        slots += [
            Slot(VERTEBRA, f"below {vertebrae[0]}", (), (), 2 * PRICE_BEYOND),
            _disc_slot(spine, None, vertebrae[0]),
        ]
    for lower, upper in zip(vertebrae, [*vertebrae[1:], None], strict=True):
        labels = spine.labels.get(lower, ())
        slots += [Slot(VERTEBRA, lower, labels or twins.get(lower, ()), labels), _disc_slot(spine, lower, upper)]
    for number in range(PADS):
        beyond = f"{number + 1} above {vertebrae[-1]}"
        slots += [Slot(VERTEBRA, beyond, (), (), PRICE_BEYOND), Slot(DISC, f"disc {beyond}", (), (), PRICE_BEYOND)]
    return tuple(slots)


def _disc_slot(spine: Spine, lower: str | None, upper: str | None) -> Slot:
    """The disc between two vertebrae that follow one another in a column, as the table may or may not know it."""
    known = {pair: labels for pair, labels in spine.discs.items() if lower in pair or upper in pair}
    if (labels := spine.discs.get((lower or "", upper or ""))) is not None:
        return Slot(DISC, spine.names[labels[0]], labels, labels)
    if lower is None:  # the lowest disc, whose lower vertebra has no label
        labels = next((labels for (_, above), labels in known.items() if above == upper), ())
        return Slot(DISC, spine.names[labels[0]] if labels else f"disc below {upper}", labels, labels)
    if upper is None:  # the highest one
        labels = next((labels for (below, _), labels in known.items() if below == lower), ())
        return Slot(DISC, spine.names[labels[0]] if labels else f"disc above {lower}", labels, labels)
    # Beside a vertebra more or less: any disc that the usual column has there.
    near = tuple(label for (low, up), labels in known.items() for label in labels if low == lower or up == upper)
    return Slot(DISC, f"{upper}/{lower}", near, ())


def best_path(row: Row, column: Column) -> Path:
    """The path of the highest score through a column, and its margin."""
    support = _support(row, column)
    score = support[0]
    back = []
    for index in range(1, len(row.kinds)):
        step = score[:, None] - _prices(row, column, index)
        back.append(step.argmax(0))
        score = step.max(0) + support[index]
    slots = [int(score.argmax())]
    for pointers in reversed(back):
        slots.append(int(pointers[slots[-1]]))
    path = np.array(slots[::-1])
    own = support[np.arange(len(path)), path].sum()
    others = max(_shifted(row, support, path, shift) for shift in SHIFTS)
    most = -WORST * row.weights.sum()
    return Path(column, path, float(score.max()) - column.price, float((own - others) / most))


def _support(row: Row, column: Column) -> np.ndarray:
    """Weighted logarithm (n, slots) of the votes for each slot, -infinity for a slot of the other kind."""
    support = np.full((len(row.kinds), len(column.slots)), -np.inf)
    for index, slot in enumerate(column.slots):
        share = row.votes[:, list(slot.votes)].sum(1) if slot.votes else np.zeros(len(row.kinds))
        support[:, index] = row.weights * np.log(FLOOR + (1 - FLOOR) * np.minimum(share, 1)) - slot.price
        support[row.kinds != slot.kind, index] = -np.inf
    return support


def _prices(row: Row, column: Column, index: int) -> np.ndarray:
    """Price (from slot, to slot) of the step to a structure from the one below it."""
    number = len(column.slots)
    steps = np.arange(number)[None] - np.arange(number)[:, None]
    passed = np.cumsum([0.0, *(_missed_price(slot, row.discs_expected) for slot in column.slots)])
    missed = passed[None, :-1] - passed[1:, None]  # slots between the two
    price = np.where(steps > 0, missed, PRICE_SPLIT)
    deviation = 2 * (row.places[index] - row.places[index - 1]) - steps
    distance = np.minimum((deviation / DISTANCE_SPREAD) ** 2 / 2, DISTANCE_MOST)
    if column.slots[0].name == SACRUM:  # S1 to S5 are several bones, and how much of them is visible varies
        price[0, 0] = distance[0, 0] = 0
    price = price + distance
    price[(steps < 0) | ((steps == 0) & (deviation > TOO_CLOSE)) | ((steps > 2) & (deviation < -TOO_CLOSE))] = np.inf
    return price


def _missed_price(slot: Slot, discs_expected: bool) -> float:
    return 0.0 if slot.kind == DISC and not discs_expected else PRICE_MISSED[slot.kind]


def _shifted(row: Row, support: np.ndarray, path: np.ndarray, shift: int) -> float:
    """Score of a path that is moved by whole levels; beyond the column nothing speaks for it."""
    moved = path + 2 * shift
    inside = (moved >= 0) & (moved < support.shape[1])
    values = support[np.arange(len(path)), np.clip(moved, 0, support.shape[1] - 1)]
    return float(np.where(inside, values, row.weights * WORST).sum())
