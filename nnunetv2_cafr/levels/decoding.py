"""One consistent numbering for one study: whole structures get the levels that fit their row best.

Borders are left as the network drew them, and so is a study that is consistent already. A study whose numbering is
doubtful is left as it is and flagged:
  levels uncertain      another shift of the whole row explains the votes nearly as well, there is no row, or one
                        beside it
  transitional anatomy  one vertebra more or less (L6, T13, sacralised L5) explains them better
No step of this kind can detect that every label is shifted by one: only a labelled sacrum, the position of the lowest
vertebra in the image (flag `lower end`), and a scan that shows less or more than those of the training (`field of
view`) are evidence against it.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from nnunetv2_cafr.levels.components import (
    ASIDE,
    FEWEST,
    FULL,
    Anatomy,
    Grid,
    NoOrderError,
    Structure,
    dissect,
)
from nnunetv2_cafr.levels.field_of_view import doubt_about_height, height_of
from nnunetv2_cafr.levels.path import (
    DISC,
    SACRUM_WEIGHT,
    VERTEBRA,
    Path,
    Row,
    Slot,
    best_path,
    columns,
)
from nnunetv2_cafr.spine import CERVICAL, SACRUM, Spine

THRESHOLD = (
    0.2  # confidence below which a study is flagged and left as it is; documentation/level_rules.md has what chose it
)
UNCERTAIN, TRANSITIONAL, FIELD_OF_VIEW, TILTED, UPSIDE_DOWN, LOWER_END, MISSED, BEYOND = (
    "levels uncertain",
    "transitional anatomy",
    "field of view",
    "tilted",
    "upside down",
    "lower end",
    "missed",
    "beyond the table",
)
TILT = 20.0  # degrees: training turns patches by 15, and 81 references lean by 17 at most
LEAST_WEIGHT = 0.2  # of a structure's vote; one that has FULL of the median structure's voxels has 1
LONG = 1.6  # times the lower quartile of the vertebrae's lengths: may be two
TWIN = 0.3  # of the median vertebra: two with as much in one place of the column are two
LABELLED = 0.2  # of the median vertebra: voxels that make a label no accident
# Of the median vertebra: so much more between two bodies than between others is room for one
# (documentation/level_rules.md).
ROOM = 0.6
SACRUM_TOP = 0.4  # levels from S1's upper end to its centre
OPEN_END = 1.2  # levels of image below the lowest vertebra that would show another one
# Levels of image above the highest structure and below the lowest: so much, and so little, where up is down.
OPEN_TOP, CLOSED_BOTTOM = 0.8, 0.1
# Per level, in sizes of whole vertebrae and in their distances together: more growth upwards, and up is rather down. In
# 42 references with as many vertebrae as GROWN they become smaller, by 0.08 on the median, or grow by 0.001 at most.
GROWTH, GROWN = 0.03, 6
CHIP = 0.45  # of the median vertebra: less makes no whole body of the lowest one
ONE = 1.2  # of the median length: two pieces with what is between them are no longer
HALF = 0.75  # of the median length and of the pitch: two neighbours with less are rather one; 81 references: 0.81
FARTHEST = 47.0  # mm from vertebra to vertebra; those of 81 references are 28 to 39 apart
NEAR, IN_FRONT, BEHIND = 0.75, 1.0, 2.0  # levels: how far a fragment lies from its structure, at most


@dataclass(frozen=True)
class Evidence:
    """Class probabilities (n, labels) at flat indices (n,) of the label map, in rising order; a sample is enough."""

    voxels: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def of_volume(cls, labels: np.ndarray, probabilities: np.ndarray) -> "Evidence":
        """From a volume (labels, z, y, x), where the label map is not background."""
        voxels = np.flatnonzero(labels)
        return cls(voxels, probabilities.reshape(len(probabilities), -1)[:, voxels].T)


@dataclass(frozen=True)
class Level:
    """What became of a structure or a fragment. `found` is the label of most of its voxels, both are names or ''."""

    kind: str
    voxels: int
    found: str
    decoded: str


@dataclass(frozen=True)
class Decoding:
    """A study's label map (z, y, x) and what is to be said about it.

    Args:
        confidence: at most 1, by how much the votes fit any other shift worse; NaN where there is no row.
        flags: kinds, and the reason of each.
        levels: structures from the bottom upwards.
        islands: fragments that were taken out.
        changed: voxels that carry another label than before.
    """

    labels: np.ndarray
    confidence: float
    flags: dict[str, str]
    levels: list[Level]
    islands: list[Level]
    changed: int


def decode(
    labels: np.ndarray,
    spine: Spine,
    grid: Grid,
    evidence: Evidence | None = None,
    threshold: float = THRESHOLD,
    trained: tuple[float, float] | None = None,
) -> Decoding:
    """Gives every structure the level that the whole row speaks for.

    Args:
        labels: label map (z, y, x) of unsigned integers; it is not written to.
        evidence: the network's probabilities; without them every voxel votes for its label.
        threshold: of the confidence, see the module.
        trained: smallest and largest height of the cases that the network was trained on, in mm; None if unknown.
    """
    decoding = _decode(labels, spine, grid, evidence, threshold)
    held = set(np.unique(decoding.labels).tolist())
    gaps = spine.gaps([name for name, own in spine.labels.items() if held & set(own)])
    if gaps and MISSED not in decoding.flags:  # a fragment far from the row is the only one above
        decoding = replace(decoding, flags={**decoding.flags, MISSED: ", ".join(gaps)})
    if doubt := doubt_about_height(height_of(labels.shape, grid), trained):
        return replace(decoding, flags={**decoding.flags, FIELD_OF_VIEW: doubt})
    return decoding


def _decode(labels: np.ndarray, spine: Spine, grid: Grid, evidence: Evidence | None, threshold: float) -> Decoding:
    try:
        anatomy = dissect(labels, spine, grid)
        row = _row(anatomy, spine, evidence)
        paths = [best_path(row, column) for column in columns(spine)]
    except NoOrderError as error:
        return Decoding(labels, math.nan, {UNCERTAIN: str(error)}, [], [], 0)
    best = max(paths, key=lambda path: path.score)
    path = max((path for path in paths if path.column.labelled), key=lambda path: path.score)
    if not np.isfinite(path.score):
        reason = f"{len(row.kinds)} structures in a row, more than the labels have levels"
        return Decoding(labels, math.nan, {UNCERTAIN: reason}, [], [], 0)
    flags = _flags(path, best, row, anatomy, spine, threshold)
    held = UNCERTAIN in flags or not best.column.labelled
    targets = [path.column.slots[slot] for slot in path.slots]
    given = [
        one.label if held else _target(one.label, slot.labels)
        for one, slot in zip(anatomy.structures, targets, strict=True)
    ]
    of_fragments = [] if held else [_of_fragment(one, anatomy, given, spine, grid) for one in anatomy.fragments]
    if not held and (doubt := _doubt_about_fragments(anatomy, of_fragments, given, spine)):
        flags[UNCERTAIN] = doubt
        held, given = True, [one.label for one in anatomy.structures]
    levels = [
        Level(("vertebra", "disc")[one.kind], one.voxels, _name(one.label, spine), _name(label, spine))
        for one, label in zip(anatomy.structures, given, strict=True)
    ]
    if not held:
        decoding = _relabelled(labels, anatomy, targets, of_fragments, levels, flags, path.margin, spine)
        if not (lost := _lost_neck(labels, decoding.labels, spine)):
            return decoding
        flags[UNCERTAIN] = f"{', '.join(lost)} would be lost: bodies of the neck are small beside all others"
        levels = [replace(level, decoded=level.found) for level in levels]
    return Decoding(labels, path.margin, flags, levels, [], 0)


def _lost_neck(before: np.ndarray, after: np.ndarray, spine: Spine) -> list[str]:
    """Cervical vertebrae whose label or most of whose voxels would go: the others tell decoding sizes and distances."""
    lost = []
    for name in CERVICAL:
        for label in spine.labels.get(name, ()):
            had = before == label
            if had.any() and (not (after == label).any() or np.mean(after[had] == 0) > 0.5):
                lost.append(name)
    return lost


def _doubt_about_fragments(
    anatomy: Anatomy, of_fragments: Sequence[int], given: Sequence[int], spine: Spine
) -> str | None:
    """What fragments of vertebrae as large as structures say against the row: another one, or a gap at its end."""
    bodies = [(one, label) for one, label in zip(anatomy.structures, given, strict=True) if one.kind == VERTEBRA]
    least = LABELLED * np.median([one.voxels for one, _ in bodies])
    large = [
        (one, label)
        for one, label in zip(anatomy.fragments, of_fragments, strict=True)
        if one.kind == VERTEBRA and one.voxels >= least
    ]
    if (aside := sum(label == 0 for _, label in large)) >= FEWEST:
        return f"{aside} pieces off the row are as large as vertebrae: another spine?"
    room = _room([one for one, _ in bodies])
    for one, label in large:
        if label == 0 or label in given:  # a part of its body
            continue
        end, last = min(bodies, key=lambda body: abs(body[0].place - one.place))
        between = abs(spine.positions[label] - spine.positions[last]) / 2 - 1 if last else 0
        gap = _gaps(sorted((one, end), key=lambda body: body.place))[0]
        if gap - between * anatomy.pitch > room:
            return f"there is room for another vertebra between {_name(last, spine)} and {_name(label, spine)}"
    return None


def _room(bodies: Sequence[Structure]) -> float:
    """The gap in mm from which there is room for another vertebra; of few gaps several may be of missed ones."""
    return float(ROOM * np.median([one.length for one in bodies]) + np.quantile(_gaps(bodies), 0.25))


def _gaps(bodies: Sequence[Structure]) -> list[float]:
    """From each of these, from the bottom upwards, to the next one, in mm."""
    return [high.place - low.place - (high.length + low.length) / 2 for low, high in pairwise(bodies)]


def _name(label: int, spine: Spine) -> str:
    return spine.names.get(label, "")


def _target(label: int, allowed: Sequence[int]) -> int:
    """The label of a slot; a slot with several (sacrum, S1) leaves them apart, one without any is background."""
    return label if label in allowed else (allowed[0] if allowed else 0)


def _row(anatomy: Anatomy, spine: Spine, evidence: Evidence | None) -> Row:
    structures = anatomy.structures
    number = max(max(spine.names), len(structures[0].labels) - 1) + 1
    votes = np.zeros((len(structures), number))
    for index, one in enumerate(structures):
        votes[index, : len(one.labels)] = one.labels
    kinds = np.array([one.kind for one in structures])
    counted = np.zeros((2, number), bool)
    for kind, of_kind in ((VERTEBRA, spine.labels), (DISC, spine.discs)):
        counted[kind, [label for values in of_kind.values() for label in values]] = True
    if evidence is not None:
        _vote(votes, counted[kinds], anatomy, evidence)
    votes *= counted[kinds]
    votes /= votes.sum(1, keepdims=True)

    weights, places = np.empty(len(structures)), np.empty(len(structures))
    for kind in (VERTEBRA, DISC):
        same = [index for index in range(len(structures)) if kinds[index] == kind]
        if not same:
            continue
        voxels = np.median([structures[index].voxels for index in same])
        length = float(np.median([structures[index].length for index in same]))
        for index in same:
            one = structures[index]
            weights[index] = np.clip(one.voxels / (FULL * voxels), LEAST_WEIGHT, 1)
            places[index] = one.place
            if one.length < length and one.low_cut != one.high_cut:  # where its centre would be if all were visible
                side = 1 if one.high_cut else -1
                places[index] += side * (length - one.length) / 2
    sacral = list(spine.labels.get(SACRUM, ()))
    if sacral and kinds[0] == VERTEBRA and votes[0, sacral].sum() > 0.5:
        weights[0] = SACRUM_WEIGHT
        places[0] = structures[0].place + structures[0].length / 2 - SACRUM_TOP * anatomy.pitch
    return Row(kinds, places / anatomy.pitch, votes, weights, bool((kinds == DISC).any()))


def _vote(votes: np.ndarray, counted: np.ndarray, anatomy: Anatomy, evidence: Evidence) -> None:
    """Probabilities of each structure, in place of its labels, where the evidence gives any to its kind.

    Args:
        votes: (n, labels), changed.
        counted: (n, labels), labels of the structure's kind.
    """
    where = np.searchsorted(anatomy.voxels, evidence.voxels)
    where[where == len(anatomy.voxels)] = 0
    known = anatomy.voxels[where] == evidence.voxels
    structure_of = np.full(int(anatomy.owner.max()) + 1, len(votes))
    for index, one in enumerate(anatomy.structures):
        structure_of[one.pieces] = index
    structure = structure_of[anatomy.owner[where[known]]]
    sums = np.zeros((len(votes), votes.shape[1]))
    for label in range(min(votes.shape[1], evidence.probabilities.shape[1])):
        of_label = evidence.probabilities[known, label]
        sums[:, label] = np.bincount(structure, of_label, len(votes) + 1)[:-1]
    told = (sums * counted).any(1)
    votes[told] = sums[told]


def _flags(path: Path, best: Path, row: Row, anatomy: Anatomy, spine: Spine, threshold: float) -> dict[str, str]:
    flags = {}
    if path.margin < threshold:
        flags[UNCERTAIN] = f"confidence {path.margin:.2f}, below {threshold:g}: another shift fits as well, or nearly"
    elif (reason := next(_contradictions(path, row, anatomy, spine), None)) is not None:
        flags[UNCERTAIN] = reason
    if best.column.anomaly:
        flags[TRANSITIONAL] = best.column.anomaly
    slots = path.column.slots
    if missed := [slots[place].name for place in _missed(path)]:
        flags[MISSED] = ", ".join(missed)
    if beyond := [slots[place].name for place in path.slots if not slots[place].labels]:
        flags[BEYOND] = ", ".join(beyond)
    if anatomy.lean > TILT:
        turned = f"the spine is turned by {anatomy.lean:.0f} degrees against the image's axis"
        flags[TILTED] = f"{turned}, and a network tells levels by where they lie"
    return flags | dict(_open_ends(path, anatomy, spine))


def _open_ends(path: Path, anatomy: Anatomy, spine: Spine) -> Iterator[tuple[str, str]]:
    """Flags of a row that ends where the image and the labels go on."""
    names = [path.column.slots[place].name for place in path.slots if path.column.slots[place].kind == VERTEBRA]
    lowest, highest = names[0], names[-1]
    above_lowest = lowest not in (SACRUM, *[name for name in spine.vertebrae if name != SACRUM][:1])
    if above_lowest and anatomy.below > OPEN_END * anatomy.pitch:
        yield LOWER_END, f"nothing found below {lowest}, though the image goes on for {anatomy.below:.0f} mm"
    labelled = [name for name in spine.vertebrae if name in spine.labels]
    goes_on = highest not in labelled[-2:] and anatomy.above > OPEN_TOP * anatomy.pitch
    if goes_on and anatomy.below < CLOSED_BOTTOM * anatomy.pitch:
        goes_on_for = f"nothing found above {highest}, though the image goes on for {anatomy.above:.0f} mm"
        yield UPSIDE_DOWN, f"{goes_on_for}, and it ends below {lowest}: does the header swap up and down?"
    elif (growth := _growth(path, anatomy)) > GROWTH:
        yield UPSIDE_DOWN, f"vertebrae grow upwards, by {growth:.0%} a level: does the header swap up and down?"


def _whole(path: Path, anatomy: Anatomy) -> dict[int, Structure]:
    """Vertebrae, by their place in the column, that are in one piece and not cut by the image's edge."""
    taken = Counter(map(int, path.slots))
    return {
        int(place): one
        for place, one in zip(path.slots, anatomy.structures, strict=True)
        if one.kind == VERTEBRA and taken[int(place)] == 1 and not (one.low_cut or one.high_cut)
    }


def _growth(path: Path, anatomy: Anatomy) -> float:
    """By what share whole vertebrae, and the distances between them, grow from level to level upwards; 0 if unknown."""
    whole = {place // 2: one for place, one in _whole(path, anatomy).items() if path.column.slots[place].name != SACRUM}
    distances = {level: whole[level + 1].place - one.place for level, one in whole.items() if level + 1 in whole}
    if len(whole) < GROWN or len(distances) < FEWEST:
        return 0.0
    sizes = {level: one.voxels for level, one in whole.items()}
    return float(sum(np.polyfit(list(series), np.log(list(series.values())), 1)[0] for series in (sizes, distances)))


def _missed(path: Path) -> list[int]:
    """Places in the column of the vertebrae that the row leaves out."""
    taken = {int(place) for place in path.slots if path.column.slots[place].kind == VERTEBRA}
    return [place for place in range(min(taken), max(taken), 2) if place not in taken]


def _contradictions(path: Path, row: Row, anatomy: Anatomy, spine: Spine) -> Iterator[str]:
    """Why a row that fits best may still be none, in words."""
    slots = path.column.slots
    bodies = [
        (slots[place], int(place), one)
        for place, one in zip(path.slots, anatomy.structures, strict=True)
        if one.kind == VERTEBRA
    ]
    size = float(np.median([one.voxels for *_, one in bodies]))
    lengths = [one.length for *_, one in bodies]
    length = float(np.median(lengths))
    lowest, _, structure = bodies[0]
    if lowest.name == SACRUM and row.votes[row.kinds == VERTEBRA][0, list(lowest.votes)].sum() < 0.5:
        yield f"the lowest vertebra is labelled {_name(structure.label, spine)}, but lies where {SACRUM} would"
    if anatomy.pitch > FARTHEST:
        yield f"the vertebrae lie {anatomy.pitch:.0f} mm apart, and no spine's are more than {FARTHEST:.0f} mm"
    share = sum(one.voxels for _, place, one in bodies if place == bodies[0][1]) / size
    if lowest.name != SACRUM and not structure.low_cut and share < CHIP:
        yield f"{lowest.name}, the lowest vertebra, has {share:.0%} of the others' size: rather a piece of the sacrum"
    gaps = _gaps([one for *_, one in bodies])
    room, whole = _room([one for *_, one in bodies]), _whole(path, anatomy)
    for index, (gap, (below, first, low), (above, second, high)) in enumerate(
        zip(gaps, bodies[:-1], bodies[1:], strict=True)
    ):
        if second - first == 2 and gap > room:
            yield f"there is room for another vertebra between {below.name} and {above.name}"
        two = min(low.voxels, high.voxels) > TWIN * size and low.length + gap + high.length > LONG * length
        if first == second and two and below.name != SACRUM:
            yield f"two vertebrae that follow one another would both be {below.name}"
        beside = [*bodies[max(0, index - 2) : index], *bodies[index + 2 : index + 4]]
        usual = max(length, _usual([one for slot, place, one in beside if place in whole and slot.name != SACRUM]))
        distance = anatomy.pitch * usual / length
        near = high.place - low.place < HALF * distance and max(low.length, high.length) < HALF * usual
        as_one = low.length + gap + high.length < ONE * usual  # two that are fractured are higher together
        if near and as_one and first in whole and second in whole:
            yield f"{below.name} and {above.name} are no higher together than others alone: pieces of one vertebra?"
    # Labelled all the same, off the row or in a structure that may be two: then the row was not understood.
    longest = LONG * np.quantile(lengths, 0.25)
    doubtful = [*anatomy.fragments, *(one for *_, one in bodies if one.length > longest)]
    held = sum((one.labels for one in doubtful), start=np.zeros_like(structure.labels))
    if labelled := [
        slots[place].name for place in _missed(path) if held[list(slots[place].labels)].sum() > LABELLED * size
    ]:
        yield f"{', '.join(labelled)} is labelled, but the row of vertebrae leaves no place for it"
    # The lowest label of a whole body; a part of one that has it is what decoding mends.
    found = [name for name in spine.vertebrae if any(one.label in spine.labels.get(name, ()) for *_, one in bodies)]
    if lowest.name != SACRUM and found[0] not in {slot.name for slot, *_ in bodies}:
        yield f"{found[0]} is the lowest level that is labelled, but the row of vertebrae would begin above it"


def _usual(beside: Sequence[Structure]) -> float:
    """Median length of the vertebrae next to two of them, which become shorter upwards; 0 if they are too few."""
    return float(np.median([one.length for one in beside])) if len(beside) > 1 else 0.0


def _relabelled(
    labels: np.ndarray,
    anatomy: Anatomy,
    targets: Sequence[Slot],
    of_fragments: Sequence[int],
    levels: list[Level],
    flags: dict[str, str],
    confidence: float,
    spine: Spine,
) -> Decoding:
    pieces = int(anatomy.owner.max()) + 1
    size = len(anatomy.structures[0].labels)
    new = np.tile(np.arange(size, dtype=np.int64), (pieces, 1))  # label by piece and former label
    for one, slot in zip(anatomy.structures, targets, strict=True):
        for piece in one.pieces:
            new[piece] = [_target(label, slot.labels) for label in range(size)]
    islands = []
    for one, label in zip(anatomy.fragments, of_fragments, strict=True):
        new[one.pieces[0], :] = label
        if label == 0:
            islands.append(Level(("vertebra", "disc")[one.kind], one.voxels, _name(one.label, spine), ""))
    flat = labels.ravel()
    before = flat[anatomy.voxels]
    after = new[anatomy.owner, before].astype(labels.dtype)
    changed = int((after != before).sum())
    if changed:
        flat = flat.copy()
        flat[anatomy.voxels] = after
    return Decoding(flat.reshape(labels.shape), confidence, flags, levels, islands, changed)


def _of_fragment(one: Structure, anatomy: Anatomy, given: Sequence[int], spine: Spine, grid: Grid) -> int:
    """Label of a fragment; 0 for an island.

    Posterior elements, far behind the curve, keep the company of the structure whose label they had. What lies beside
    the curve or in front of it is no part of a spine.
    """
    pitch = anatomy.pitch
    aside = float(np.linalg.norm(one.offset))
    behind = aside if grid.back is None else float(one.offset @ grid.back)
    sacral = one.label in spine.labels.get(SACRUM, ())
    if aside > (BEHIND if sacral or behind > 0.5 * aside else IN_FRONT) * pitch:
        return 0
    same = [index for index, other in enumerate(anatomy.structures) if other.kind == one.kind]
    if not same:
        return one.label

    def distance(index: int) -> float:
        return abs(anatomy.structures[index].place - one.place)

    here = min(same, key=distance)
    namesakes = [index for index in same if anatomy.structures[index].label == one.label]
    if aside > ASIDE * pitch:
        if namesakes and distance(nearest := min(namesakes, key=distance)) <= BEHIND * pitch:
            return given[nearest]
    elif _fits(one, anatomy, given, spine):
        holders = [index for index, label in enumerate(given) if label == one.label]
        if sacral or not holders or min(map(distance, holders)) <= NEAR * pitch:
            return one.label
    places = [anatomy.structures[index].place for index in same]
    reach = distance(here) + one.length / 2 - anatomy.structures[here].length / 2
    beyond = not min(places) <= one.place <= max(places) and reach > 0
    if beyond and one.label not in given and _fits(one, anatomy, given, spine):
        return one.label  # a part of the next one, at the image's edge
    if distance(here) <= NEAR * pitch:
        return given[here]
    return one.label if one.label not in given else 0


def _fits(one: Structure, anatomy: Anatomy, given: Sequence[int], spine: Spine) -> bool:
    """Whether a fragment's label agrees with those above and below it."""
    position = spine.positions
    return all(
        (other.place - one.place) * (position[label] - position[one.label]) >= 0
        for other, label in zip(anatomy.structures, given, strict=True)
        if label
    )
