"""From voxels to structures: which of them are one vertebra or one disc, whatever their labels say.

An *atom* is a 26-connected part of one label. Atoms of vertebrae that touch are a *clump*, and so are those of discs. A
clump as long as two levels is cut across the spine where it is thinnest; atoms that lie in one part all but a little
stay whole, so that a border that the network drew remains. What lies on the curve is a *structure* of the spine; the
rest are fragments: posterior elements, chips and islands.

Thresholds are relative to the spine's own pitch (distance from vertebra to vertebra) and to its structures' sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cc3d
import numpy as np
from scipy.ndimage import find_objects, uniform_filter1d

from nnunetv2_cafr.levels.curve import Curve, fit_curve
from nnunetv2_cafr.levels.path import DISC, VERTEBRA
from nnunetv2_cafr.spine import SACRUM, Spine

LARGE = 0.25  # of the median over labels of their largest atoms: fit to show where the spine runs
REACH = 0.8  # of a vertebra's standard deviation across: how far a centre may lie off the curve that it shapes
LONE = 1.35  # times as long as deep: at most, for a clump that tells the height of one vertebra
PITCH_PER_HEIGHT = 1.3  # a vertebral body and a disc, in bodies
LONGEST = {VERTEBRA: 1.25, DISC: 0.8}  # heights of a vertebra; a longer clump may be several structures
SHAPES = {VERTEBRA: (0.85, 1.5), DISC: (0.2, 0.7)}  # heights of a vertebra, shortest and longest length of a segment
# Prices of a cut of the median area, of a height too long or too short, of a height without a prevailing label.
CUT, OUTSIDE, MIXED = 0.5, 4.0, 1.0
EVEN = 0.05  # of squared lengths: of cuts that are alike, that into equal parts
WHOLE = 0.8  # share of an atom in one part
ASIDE, SACRUM_ASIDE = 0.65, 1.5  # levels off the curve, at most, for the centre of a structure
SMALLEST, SMALLEST_CUT = 0.12, 0.03  # of the median structure of its kind; the latter at the image's border
# Voxels of S1 in those of the median vertebra, at least, and of S2 in those of S1, at most; levels from the sacrum to a
# vertebra above it, at least. By anatomy and drawn spines: no reference at hand has a sacrum.
S1, S2, SACRUM_GAP = 0.75, 0.7, 0.1
FAR = 0.85  # levels from the rest of the row: more than one missed vertebra leaves between its discs
FULL = 0.5  # of the median structure of its kind: surely one
SAME = 0.5  # overlap along the curve that makes two pieces one structure
BINS = 20  # per height of a vertebra, of the profile along the curve
EDGE = 0.2  # of a clump's length: a disc farther inside parts two vertebrae
UNIFORM = 12**0.5  # length of a rod by its standard deviation
FEWEST = 3  # vertebrae that make an order


class NoOrderError(ValueError):
    """A study without an order that could be judged; says why."""


@dataclass(frozen=True)
class Grid:
    """How array axes (z, y, x) lie in the patient.

    Args:
        steps: (3, 3), column by column the mm of one step along an axis.
        up, back: unit vectors to the head and to the back in the same space; None if the file does not say.
    """

    steps: np.ndarray
    up: np.ndarray | None = None
    back: np.ndarray | None = None

    @property
    def directions(self) -> np.ndarray:
        """(3, 3), column by column the unit vector of an array axis."""
        return self.steps / np.linalg.norm(self.steps, axis=0)

    @property
    def up_axis(self) -> int | None:
        """The array axis nearest to the patient's up."""
        return None if self.up is None else int(np.abs(self.up @ self.directions).argmax())


@dataclass
class Structure:
    """One vertebra or disc of the spine, or a fragment.

    Args:
        pieces: numbers of its pieces in `Anatomy.owner`.
        clump: that its lowest piece is a part of.
        place, length: of its centre along the curve and of its extent, in mm.
        offset: mm (3,) from the curve to its centre.
        low_cut, high_cut: whether it reaches the image's border below, above.
        labels: voxels by label.
    """

    kind: int
    pieces: list[int]
    clump: int
    voxels: int
    place: float
    length: float
    offset: np.ndarray
    low_cut: bool
    high_cut: bool
    labels: np.ndarray

    @property
    def label(self) -> int:
        """The label of most voxels."""
        return int(self.labels.argmax())


@dataclass(frozen=True)
class Anatomy:
    """What the label map of one study holds.

    Args:
        voxels: (n,) flat indices of all voxels of vertebrae and discs.
        owner: (n,) the piece of each.
        structures: on the curve, from the bottom upwards.
        fragments: everything else.
        pitch: mm from vertebra to vertebra.
        below, above: mm of the image below the lowest structure, above the highest.
        lean: degrees between the curve and the image's axis that runs up; 0 if the file does not say which one does.
    """

    voxels: np.ndarray
    owner: np.ndarray
    structures: list[Structure]
    fragments: list[Structure]
    pitch: float
    below: float
    above: float
    lean: float


class _Groups:
    """Sums over the voxels of numbered groups: `number` is 0, 1, ... by voxel."""

    def __init__(self, number: np.ndarray) -> None:
        self.number = number
        self.voxels = np.bincount(number)
        self.first = np.zeros(len(self.voxels), np.int64)
        self.first[number[::-1]] = np.arange(len(number))[::-1]

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Means of values (n,) or (n, k)."""
        if values.ndim == 1:
            return np.bincount(self.number, values, len(self.voxels)) / self.voxels
        return np.stack([self.mean(column) for column in values.T], 1)

    def deviation(self, values: np.ndarray) -> np.ndarray:
        """Standard deviations of values (n,)."""
        return np.sqrt(np.maximum(self.mean(values**2) - self.mean(values) ** 2, 0))


def dissect(labels: np.ndarray, spine: Spine, grid: Grid) -> Anatomy:
    """The structures of a label map (z, y, x) of unsigned integers.

    Raises:
        NoOrderError: if there are fewer than FEWEST vertebrae, or which end is up cannot be told.
    """
    kind_of = np.zeros(int(max(labels.max(), *spine.names)) + 1, np.uint8)
    kind_of[[label for values in spine.labels.values() for label in values]] = VERTEBRA + 1
    kind_of[[label for values in spine.discs.values() for label in values]] = DISC + 1
    kinds = kind_of.take(labels)
    window = next(iter(find_objects((kinds > 0).view(np.uint8))), None)
    if window is None:
        raise NoOrderError("neither vertebrae nor discs")
    part, kinds = labels[window], kinds[window]
    inside = np.flatnonzero(kinds)
    index = np.stack(np.unravel_index(inside, part.shape), 1) + [side.start for side in window]
    label, kind = part.ravel()[inside], kinds.ravel()[inside] - 1
    atoms, clumps = (
        _Groups(cc3d.connected_components(values, connectivity=26).ravel()[inside].astype(np.int64) - 1)
        for values in (np.where(kinds > 0, part, 0), kinds)
    )
    points = index @ grid.steps.T
    sacral = np.isin(label, spine.labels.get(SACRUM, ()))
    depth = _depth(points, clumps, float(np.linalg.norm(grid.steps, axis=0).min()))
    curve = _find_curve(points, label, kind, atoms, sacral, depth)
    place, offset = curve.places(points)
    up = curve.frame[0] * _direction(place, label, atoms, spine, curve, grid)
    place *= np.sign(up @ curve.frame[0])
    height = _height(place, kind, atoms, clumps, sacral, depth)
    pitch = PITCH_PER_HEIGHT * height

    on_curve = np.linalg.norm(clumps.mean(offset), axis=1) <= ASIDE * pitch
    pieces = _Groups(_part(place, label, kind, atoms, clumps, on_curve, height))
    lowest, highest, below, above = _borders(index, labels.shape, up, grid)
    votes = np.bincount(pieces.number * len(kind_of) + label, minlength=len(pieces.voxels) * len(kind_of))
    places, lengths, offsets = pieces.mean(place), UNIFORM * pieces.deviation(place), pieces.mean(offset)
    cuts = [np.bincount(pieces.number, at_border, len(pieces.voxels)) > 0 for at_border in (lowest, highest)]
    everything = [
        Structure(
            kind=int(kind[pieces.first[number]]),
            pieces=[number],
            clump=int(clumps.number[pieces.first[number]]),
            voxels=int(pieces.voxels[number]),
            place=float(places[number]),
            length=float(lengths[number]),
            offset=offsets[number],
            low_cut=bool(cuts[0][number]),
            high_cut=bool(cuts[1][number]),
            labels=votes[number * len(kind_of) : (number + 1) * len(kind_of)],
        )
        for number in range(len(pieces.voxels))
    ]
    structures, fragments = _choose(everything, pitch, spine.labels.get(SACRUM, ()))
    if sum(one.kind == VERTEBRA for one in structures) < FEWEST:
        raise NoOrderError(f"fewer than {FEWEST} vertebrae in a row")
    voxels = np.ravel_multi_index(tuple(index.T), labels.shape)
    pitch = _refined(structures, pitch)
    return Anatomy(voxels, pieces.number, structures, fragments, pitch, below, above, _lean(up, grid))


def _lean(up: np.ndarray, grid: Grid) -> float:
    """Degrees between the spine's direction (3,) and the image's axis that runs up."""
    if grid.up_axis is None:
        return 0.0
    return float(np.degrees(np.arccos(min(1.0, abs(float(up @ grid.directions[:, grid.up_axis]))))))


def _depth(points: np.ndarray, clumps: _Groups, least: float) -> float:
    """How thick vertebrae are across the spine, in mm: from the middle one of the axes of the largest clumps.

    Args:
        least: of a voxel; what is drawn as a line of single ones has no variance across.
    """
    found = []
    for clump in np.argsort(clumps.voxels)[::-1][:FEWEST]:
        inside = points[clumps.number == clump]
        if len(inside) > 3:
            found.append(np.sqrt(max(0, np.linalg.eigvalsh(np.cov(inside.T))[1])))  # in rising order
    return max(least, UNIFORM * float(np.median(found))) if found else 1.0


def _find_curve(
    points: np.ndarray, label: np.ndarray, kind: np.ndarray, atoms: _Groups, sacral: np.ndarray, depth: float
) -> Curve:
    """The curve through the large atoms above the sacrum, which turns away from it."""
    large = np.zeros(len(atoms.voxels), bool)
    for one in (VERTEBRA, DISC):
        of_kind = kind[atoms.first] == one
        largest = [atoms.voxels[of_kind & (label[atoms.first] == name)].max() for name in np.unique(label[kind == one])]
        if largest:
            large |= of_kind & (atoms.voxels >= LARGE * np.median(largest))
    if (large & ~sacral[atoms.first]).sum() >= FEWEST:
        large &= ~sacral[atoms.first]
    if large.sum() < FEWEST:
        raise NoOrderError(f"fewer than {FEWEST} structures")
    return fit_curve(atoms.mean(points)[large], np.sqrt(atoms.voxels[large]), REACH * depth)


def _direction(place: np.ndarray, label: np.ndarray, atoms: _Groups, spine: Spine, curve: Curve, grid: Grid) -> float:
    """1 if the curve runs to the head, else -1: as the file says, else as most labels say.

    Raises:
        NoOrderError: if neither says it, or they contradict one another.
    """
    names = np.unique(label)
    largest = [int(np.where(label[atoms.first] == name, atoms.voxels, 0).argmax()) for name in names]
    where = atoms.mean(place)[largest]
    rank = np.array([spine.positions[int(name)] for name in names])
    pairs = np.sign(where[:, None] - where[None]) * np.sign(rank[:, None] - rank[None])
    votes = float(pairs.sum() / max(np.abs(pairs).sum(), 1))
    said = 0.0 if grid.up is None else float(curve.frame[0] @ grid.up)
    if abs(said) < 0.5:
        if not votes:
            raise NoOrderError("which end is up is told neither by the labels nor by the image's header")
        return float(np.sign(votes))
    if votes * np.sign(said) < -0.5:
        raise NoOrderError("the labels run downwards where the image's header says upwards; one of them is wrong")
    return float(np.sign(said))


def _height(
    place: np.ndarray, kind: np.ndarray, atoms: _Groups, clumps: _Groups, sacral: np.ndarray, depth: float
) -> float:
    """Of a vertebra along the curve, in mm: from clumps, or from atoms where most clumps hold several vertebrae."""
    for groups, longest, enough in ((clumps, LONE * depth, 2), (atoms, np.inf, 1)):
        chosen = (kind[groups.first] == VERTEBRA) & (groups.mean(sacral) < 0.5)
        heights = UNIFORM * groups.deviation(place)[_is_large(groups.voxels, chosen)]
        heights = heights[(heights > 0) & (heights <= longest)]
        if len(heights) >= enough:
            return float(np.median(heights))
    raise NoOrderError("no vertebra above the sacrum")


def _is_large(voxels: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Which of `among` are no crumbs: at least a share of the median of those that are no crumbs beside the largest."""
    if not among.any():
        return among
    rough = among & (voxels >= LARGE * voxels[among].max())
    return among & (voxels >= LARGE * np.median(voxels[rough]))


def _part(
    place: np.ndarray,
    label: np.ndarray,
    kind: np.ndarray,
    atoms: _Groups,
    clumps: _Groups,
    on_curve: np.ndarray,
    height: float,
) -> np.ndarray:
    """Number (n,) of the piece that each voxel belongs to: its clump, or a part of it."""
    piece = clumps.number.copy()
    lengths, centres, count = UNIFORM * clumps.deviation(place), clumps.mean(place), len(clumps.voxels)
    kinds = kind[clumps.first]
    discs = _is_large(clumps.voxels, kinds == DISC)
    for clump in np.flatnonzero(on_curve):
        inner = (0.5 - EDGE) * lengths[clump]
        within = discs & (np.abs(centres - centres[clump]) < inner) & (kinds[clump] == VERTEBRA)
        if lengths[clump] <= LONGEST[int(kinds[clump])] * height and not within.any():
            continue
        inside = np.flatnonzero(clumps.number == clump)
        shape = SHAPES[int(kinds[clump])]
        cuts = _cuts(place[inside], label[inside], np.sort(centres[within]), shape, height)
        part = np.searchsorted(cuts, place[inside])
        # An atom that lies in one part all but a little is not cut.
        atom = np.unique(atoms.number[inside], return_inverse=True)[1]
        shares = np.bincount(atom * (part.max() + 1) + part, minlength=(atom.max() + 1) * (part.max() + 1))
        shares = shares.reshape(-1, part.max() + 1)
        whole = shares.max(1) >= WHOLE * shares.sum(1)
        part = np.where(whole[atom], shares.argmax(1)[atom], part)
        piece[inside] = np.where(part > 0, count + part - 1, clump)
        count += part.max()
    return np.unique(piece, return_inverse=True)[1]


def _cuts(
    place: np.ndarray, label: np.ndarray, discs: np.ndarray, shape: tuple[float, float], height: float
) -> np.ndarray:
    """Places where a clump is cut: at discs within it, and where thickness, length and labels say so."""
    cuts = list(discs)
    for low, high in pairwise([-np.inf, *discs, np.inf]):
        part = (place > low) & (place <= high)
        if part.any():
            cuts += _segments(place[part], label[part], shape, height)
    return np.sort(cuts)


def _segments(place: np.ndarray, label: np.ndarray, shape: tuple[float, float], height: float) -> list[float]:
    """Cuts between the segments of the lowest price, by dynamic programming over a profile along the curve.

    A segment costs how far its length is outside `shape` (in heights), and the share of voxels that do not carry its
    most frequent label; a cut costs the area that it cuts.
    """
    low = float(place.min())
    bins = ((place - low) * BINS / height).astype(np.int64)
    names, name = np.unique(label, return_inverse=True)
    profile = np.bincount(bins * len(names) + name, minlength=(bins.max() + 1) * len(names)).reshape(-1, len(names))
    area = uniform_filter1d(profile.sum(1).astype(float), 3, mode="nearest")
    area /= np.median(area[area > 0])
    sums = np.concatenate([np.zeros((1, len(names))), profile.cumsum(0)])
    total = len(area)
    best, last = np.full(total + 1, np.inf), np.zeros(total + 1, int)
    best[0] = 0
    for end in range(1, total + 1):
        starts = np.arange(end)
        length = (end - starts) / BINS
        outside = np.maximum(0, np.maximum(shape[0] - length, length - shape[1]))
        of_label = sums[end] - sums[starts]
        mixed = 1 - of_label.max(1) / np.maximum(of_label.sum(1), 1)
        price = best[starts] + OUTSIDE * outside**2 + MIXED * mixed * length + EVEN * length**2
        last[end] = price.argmin()
        best[end] = price.min() + (CUT * area[end] if end < total else 0)
    cuts = []
    end = int(last[total])
    while end > 0:
        cuts.append(low + end * height / BINS)
        end = int(last[end])
    return cuts


def _borders(
    index: np.ndarray, shape: Sequence[int], up: np.ndarray, grid: Grid
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Which voxels (n,) lie at the image's lower and upper border, and mm of the image below and above all of them."""
    along = up @ grid.steps
    axis = int(np.abs(along).argmax())
    first, last = index[:, axis] == 0, index[:, axis] == shape[axis] - 1
    step = abs(float(along[axis]))
    before, behind = step * int(index[:, axis].min()), step * int(shape[axis] - 1 - index[:, axis].max())
    return (first, last, before, behind) if along[axis] > 0 else (last, first, behind, before)


def _choose(
    everything: list[Structure], pitch: float, sacral: Sequence[int]
) -> tuple[list[Structure], list[Structure]]:
    """Structures on the curve, from the bottom upwards, and fragments."""
    structures: list[Structure] = []
    for kind in (VERTEBRA, DISC):
        near = []
        for one in everything:
            aside = SACRUM_ASIDE if one.label in sacral else ASIDE
            if one.kind == kind and np.linalg.norm(one.offset) <= aside * pitch:
                near.append(one)
        if not near:
            continue
        # A whole sacrum has the voxels of several vertebrae, and there is one of it.
        sizes = [one.voxels for one in near if one.label not in sacral] or [one.voxels for one in near]
        typical = float(np.median([size for size in sizes if size >= LARGE * max(sizes)]))
        chosen: list[Structure] = []
        last: Structure | None = None
        for one in sorted(near, key=lambda one: one.place):
            cut = one.low_cut or one.high_cut
            if one.voxels < (SMALLEST_CUT if cut else SMALLEST) * typical:
                continue
            if last and {chosen[-1].label, last.label, one.label} <= set(sacral):
                same = one.voxels < S1 * typical or _is_sacrum(last, one, pitch)
            else:
                same = bool(chosen) and _overlap(chosen[-1], one) >= SAME * min(chosen[-1].length, one.length)
            if same:
                chosen[-1] = _joined(chosen[-1], one)
            else:
                chosen.append(one)
            last = one
        structures += chosen
    structures = _connected(sorted(structures, key=lambda one: one.place), pitch, sacral)
    taken = {piece for one in structures for piece in one.pieces}
    return structures, [one for one in everything if one.pieces[0] not in taken]


def _connected(structures: list[Structure], pitch: float, sacral: Sequence[int]) -> list[Structure]:
    """The row without what lies far below or above it and is small: islands where the curve would go on."""
    bodies = [one for one in structures if one.kind == VERTEBRA]
    full = FULL * np.median([one.voxels for one in bodies]) if bodies else 0
    first, last = 0, len(structures)
    for index in range(1, len(structures)):
        low, high = structures[:index], structures[index:]
        gap = min(one.place - one.length / 2 for one in high) - max(one.place + one.length / 2 for one in low)
        if gap <= FAR * pitch:
            continue
        if not any(one.voxels >= full or one.label in sacral for one in low if one.kind == VERTEBRA):
            first = index
        elif not any(one.voxels >= full for one in high if one.kind == VERTEBRA):
            last = min(last, index)
    return structures[first:last]


def _overlap(lower: Structure, upper: Structure) -> float:
    """Of two pieces along the curve, in mm; negative where there is a gap between them."""
    return (lower.place + lower.length / 2) - (upper.place - upper.length / 2)


def _is_sacrum(lower: Structure, upper: Structure, pitch: float) -> bool:
    """Whether the upper one of two pieces that are called sacrum is a part of it, as large as a vertebra though it is.

    S1 to S5 may be drawn apart, but near one another, and S2 is much smaller than S1. What lies farther above a piece
    of its own size is a vertebra.
    """
    gap = -_overlap(lower, upper)
    return lower.clump == upper.clump or lower.voxels < S2 * upper.voxels or gap < SACRUM_GAP * pitch


def _joined(first: Structure, second: Structure) -> Structure:
    voxels = first.voxels + second.voxels
    share = first.voxels / voxels
    low = min(one.place - one.length / 2 for one in (first, second))
    high = max(one.place + one.length / 2 for one in (first, second))
    return Structure(
        kind=first.kind,
        pieces=first.pieces + second.pieces,
        clump=first.clump,
        voxels=voxels,
        place=share * first.place + (1 - share) * second.place,
        length=high - low,
        offset=share * first.offset + (1 - share) * second.offset,
        low_cut=first.low_cut or second.low_cut,
        high_cut=first.high_cut or second.high_cut,
        labels=first.labels + second.labels,
    )


def _refined(structures: list[Structure], pitch: float) -> float:
    """The pitch in mm, from distances between the centres of whole vertebrae."""
    places = np.array([one.place for one in structures if one.kind == VERTEBRA and not (one.low_cut or one.high_cut)])
    distances = np.diff(places)
    distances = distances[(distances > 0.65 * pitch) & (distances < 1.45 * pitch)]
    return float(np.median(distances)) if len(distances) >= 2 else pitch
