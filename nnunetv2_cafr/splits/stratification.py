"""Division of patients into parts that each hold every label: iterative stratification.

Sechidis, Tsoumakas and Vlahavas, On the Stratification of Multi-Label Data, ECML PKDD 2011: the labels are dealt out
one after the other, the rarest first, each of its patients to the part that lacks the label most. The rest is ours: the
number of patients of each part is fixed beforehand; where a label with enough patients is missing from a part all the
same, patients are exchanged; and of several such divisions, the one with the fewest gaps is taken, then the one whose
numbers of cases are closest to the shares.
"""

from collections.abc import Iterator, Sequence

import numpy as np

ATTEMPTS = 20


def stratify(holds: np.ndarray, cases: np.ndarray, weights: Sequence[int], seed: int) -> np.ndarray:
    """Divide patients so that parts resemble each other in labels, then in cases.

    Args:
        holds: (patients, labels), whether any case of the patient holds the label.
        cases: (patients,), how many cases the patient has.
        weights: (parts,), how the patients are shared out, in any unit.

    Returns:
        (patients,), index of each patient's part. Equal input gives equal output.
    """
    rng = np.random.default_rng(seed)
    shares = np.array(weights) / sum(weights)
    sizes = part_sizes(len(holds), weights)

    def cost(part_of: np.ndarray) -> tuple[int, float]:
        in_parts = np.bincount(part_of, cases, len(shares))
        return _gaps(_count(part_of, holds, len(shares))), float(np.square(in_parts - shares * cases.sum()).sum())

    divisions = [_close_gaps(_deal(holds, shares, sizes, rng), holds, shares) for _ in range(ATTEMPTS)]
    return min(divisions, key=cost)


def part_sizes(number: int, weights: Sequence[int]) -> np.ndarray:
    """Patients per part: each share rounded down, what is left over to the parts that lost most by that."""
    exact = [divmod(number * weight, sum(weights)) for weight in weights]
    sizes = np.array([whole for whole, _ in exact])
    losers = np.argsort([-remainder for _, remainder in exact], kind="stable")
    sizes[losers[: number - sizes.sum()]] += 1
    return sizes


def _deal(holds: np.ndarray, shares: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One iterative stratification; among parts that lack a label equally, chance decides."""
    room = sizes.copy()
    lacking = np.outer(shares, holds.sum(axis=0))
    part_of = np.full(len(holds), -1)
    while (left := part_of < 0).any():
        remaining = holds[left].sum(axis=0)
        if remaining.any():
            label = np.argmin(np.where(remaining > 0, remaining, len(holds) + 1))
            patients, need = np.flatnonzero(left & holds[:, label]), lacking[:, label]
        else:  # patients without any label
            patients, need = np.flatnonzero(left), np.zeros(len(shares))
        for patient in rng.permutation(patients):
            # The last key counts most; rounded, so that parts with the same history tie.
            part = np.lexsort((rng.random(len(shares)), need.round(9), room > 0))[-1]
            part_of[patient] = part
            room[part] -= 1
            lacking[part, holds[patient]] -= 1
    return part_of


def _count(part_of: np.ndarray, holds: np.ndarray, parts: int) -> np.ndarray:
    """(parts, labels), patients of each part that hold each label."""
    return np.stack([holds[part_of == part].sum(axis=0) for part in range(parts)])


def _missing(counts: np.ndarray) -> np.ndarray:
    """(parts, labels), where a label is missing although it has a patient for each part."""
    return (counts == 0) & (counts.sum(axis=0) >= len(counts))


def _gaps(counts: np.ndarray) -> int:
    return int(_missing(counts).sum())


def _close_gaps(part_of: np.ndarray, holds: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Exchange pairs of patients while that brings labels into parts that lack them; the closest to `shares` first."""
    wanted = np.outer(shares, holds.sum(axis=0))

    def exchanges(counts: np.ndarray) -> Iterator[tuple[int, float, int, int]]:
        for part, label in np.argwhere(_missing(counts)):
            for giver in np.flatnonzero(holds[:, label]):
                for taker in np.flatnonzero(part_of == part):
                    gain = holds[giver].astype(int) - holds[taker]
                    changed = counts.copy()
                    changed[part] += gain
                    changed[part_of[giver]] -= gain
                    yield _gaps(changed), float(np.square(changed - wanted).sum()), int(giver), int(taker)

    while True:
        counts = _count(part_of, holds, len(shares))
        best = min(exchanges(counts), default=None)
        if best is None or best[0] >= _gaps(counts):
            return part_of
        _, _, giver, taker = best
        part_of[[giver, taker]] = part_of[[taker, giver]]
