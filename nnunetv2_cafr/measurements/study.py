"""All measures of one label map: which structures there are, their middle slices, and what can be said of each.

Bodies and discs are measured in the sagittal slice nearest to their own middle, as radiologists do, from left to right
across the slices. The definitions and where they come from are in documentation/measurements.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.ndimage import find_objects

from nnunetv2_cafr.measurements.label_map import LabelMap
from nnunetv2_cafr.measurements.section import (
    NotMeasurableError,
    Outline,
    Section,
    body_part,
    largest_part,
    outline,
    own_axes,
    upper_part,
)
from nnunetv2_cafr.spine import OPTIONAL, SACRUM, Spine

# What is measured of which kind; the names carry the units.
VOLUME, WIDTH = "volume_ml", "width_mm"
HEIGHTS = ("height_anterior_mm", "height_middle_mm", "height_posterior_mm")
WEDGE, SLIP = "wedge_angle_deg", "slip_mm"
DISC_HEIGHT, DISC_INDEX = "disc_height_mm", "disc_height_index"
LORDOSIS, COBB = "lumbar_lordosis_deg", "cobb_angle_deg"
MEASURES = {
    "vertebra": (VOLUME, *HEIGHTS, WIDTH, WEDGE, SLIP),
    "disc": (VOLUME, WIDTH, DISC_HEIGHT, DISC_INDEX),
    "sacrum": (VOLUME,),
}
DIGITS = 3
OBLIQUE_LIMIT = 20.0  # degrees; cos 20 is 0.94, so what is measured in the slices is 6 % wrong at most
VERTEBRA_MM = (4.0, 100.0)  # of a label with its processes, from a newborn's upwards; beyond, the unit is another one
FEWEST_VOXELS = 50  # of a structure: fewer are a chip of it
CANAL = 5.0  # mm from a body to its arch, at least
FEWEST_SLICES = 3  # across a structure, for its width
CUT_SHARE = 0.1  # of a section that reaches the outermost slices: more, and the structure is cut
FEWEST_IN_CURVE = 3  # vertebrae that show a curve to the side
COARSEST = 4.0  # degrees that a voxel's height makes over an end plate; more, and heights are two voxels off
NO_BODY = {"C1": "it is a ring without a body", "C2": "its dens takes the place of an upper end plate"}
PLATES = (0.75, 1.25)  # of the line through a leaning disc from one end plate to the other: a width that it may be
SLIP_OFF = 1.0  # mm, or a voxel in the slice: so far oblique slices may put a slip wrong
SCOLIOSIS = 10.0  # degrees from which a curve to the side has a name, and is said to which side (SRS)
MID_BODY = 0.95  # of the largest coronal section: those that go through the middle of the body
SACRUM_REACH = (
    0.6  # of the height of the vertebra above: what is looked at of the sacrum, its first segment's upper part
)
EDGES = (("lower", "upper"), ("anterior", "posterior"), ("right", "left"))  # of the image, axes (s, p, l)


@dataclass
class Level:
    """One vertebra or disc of a study.

    Args:
        name: L4, or L4/L5; as the label table writes it where it counts from the bottom.
        values: by measure; None where there is a reason.
        reasons: why a value is empty, by measure.
    """

    name: str
    kind: str
    values: dict[str, float | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def give(self, measure: str, value: float | np.floating[Any]) -> None:
        self.values[measure] = round(float(value), DIGITS) + 0.0  # never -0.0

    def refuse(self, reason: str, *measures: str) -> None:
        """Leaves measures empty that have no value and no reason yet."""
        for measure in measures or MEASURES[self.kind]:
            if measure not in self.values:
                self.values[measure] = None
                self.reasons[measure] = reason

    @property
    def distinct_reasons(self) -> list[str]:
        """Each reason once, without those that another one begins with."""
        reasons = list(dict.fromkeys(self.reasons.values()))
        return [one for one in reasons if not any(other.startswith(one) for other in reasons if other != one)]


@dataclass(frozen=True)
class Angle:
    """The angle between two end plates in degrees; None with a reason.

    Args:
        measure: LORDOSIS, positive where the spine is hollow behind, or COBB, which has no sign.
        convex: of COBB from 10 degrees on, the side to which the spine is convex.
    """

    measure: str
    between: str
    degrees: float | None
    reason: str = ""
    convex: str = ""


@dataclass(frozen=True)
class StudyMeasurements:
    """Levels from the bottom upwards, and the angles of the whole spine."""

    levels: list[Level]
    lordosis: Angle
    cobb: Angle

    @property
    def angles(self) -> tuple[Angle, ...]:
        return self.lordosis, self.cobb


class _Structure:
    """A vertebra or a disc in the label map, and what is found out about it on the way.

    Args:
        between: of a disc, the vertebrae below and above it.
        place: on the way up: a vertebra's place in the order, a disc half a place beside it.
        mask: (s, p, l), a window of the label map.
        corner: index of the window's first voxel.
        cut: edges of the image that it reaches.
    """

    def __init__(
        self,
        level: Level,
        between: tuple[str, ...],
        place: float,
        mask: np.ndarray,
        corner: tuple[int, int, int],
        cut: Sequence[str],
        spacing: tuple[float, float, float],
    ) -> None:
        self.level, self.between, self.place = level, between, place
        self.mask, self.corner, self.cut, self.spacing = mask, corner, cut, spacing
        self.slice = int(np.rint(np.median(np.nonzero(mask)[2]))) + corner[2]  # its middle one, in the label map
        self.outline: Outline | None = None
        self.leaves = 0.0  # degrees by which the spine leaves the slices there
        self.fault = ""  # why it has no outline

    def section(self, slice_: int) -> Section | None:
        """The part of its section that is measured: body, disc or S1; None where it has none."""
        index = slice_ - self.corner[2]
        if not 0 <= index < self.mask.shape[2] or not (mask := self.mask[:, :, index]).any():
            return None
        if self.level.kind == "vertebra":
            part = body_part(mask, CANAL / self.spacing[1])
        else:
            part = upper_part(mask) if self.level.kind == "sacrum" else largest_part(mask)
        return Section(part, self.corner[:2], self.spacing[:2])

    @property
    def unmeasured(self) -> str:
        """That it has no outline, and why."""
        return f"{self.level.name} is not measured: {self.fault}"

    def centre(self) -> np.ndarray | None:
        """(p, s, l) of its section in its middle slice, in mm."""
        section = self.section(self.slice)
        return None if section is None else np.append(section.points.mean(0), self.slice * self.spacing[2])


def measure(label_map: LabelMap, spine: Spine) -> StudyMeasurements:
    """Measures the levels of a label map.

    Raises:
        ValueError: if it holds none of the spine's labels, or shows them upside down or in a size that no vertebra has.
    """
    structures = list(_find(label_map, spine))
    if not structures:
        raise ValueError("no vertebra and no disc, expected are labels of spine levels; is it of another network?")
    _check_upright(structures)
    _check_size(structures)
    for one in structures:
        _measure_volume(one)
    vertebrae = {one.level.name: one for one in structures if one.level.kind != "disc"}
    for one in sorted(structures, key=lambda one: one.level.kind == "sacrum"):  # which asks for the one above it
        _measure_outline(one, structures, label_map, spine)
    for one in structures:
        if one.level.kind == "vertebra":
            _measure_slip(one, vertebrae, label_map, spine)
        elif one.level.kind == "disc":
            _measure_index(one, vertebrae)
    bodies = [one for one in structures if one.level.kind == "vertebra" and one.level.name not in NO_BODY]
    cobb = _cobb(bodies, vertebrae, label_map, spine)
    return StudyMeasurements([one.level for one in structures], _lordosis(vertebrae, spine), cobb)


def _find(label_map: LabelMap, spine: Spine) -> Iterator[_Structure]:
    """Structures that the label map holds, from the bottom upwards."""
    wanted: list[tuple[float, str, str, tuple[str, ...], tuple[int, ...]]] = []
    for index, name in enumerate(spine.vertebrae):
        if labels := spine.labels.get(name):
            wanted.append((index, name, "sacrum" if name == SACRUM else "vertebra", (), labels))
    for (lower, upper), labels in spine.discs.items():
        if lower in spine.vertebrae:
            place = spine.vertebrae.index(lower) + 0.5
        elif upper in spine.vertebrae:
            place = spine.vertebrae.index(upper) - 0.5
        else:
            continue
        numbered = lower.startswith("vertebra_")
        name = spine.names[labels[0]] if numbered else f"{upper}/{lower}"
        wanted.append((place, name, "disc", (lower, upper), labels))
    wanted.sort(key=lambda one: one[0])
    number_of = np.zeros(int(max(label_map.labels.max(), *spine.names)) + 1, np.uint8)
    for number, (*_, labels) in enumerate(wanted, start=1):
        number_of[list(labels)] = number
    numbers = number_of[label_map.labels]
    for number, box in enumerate(find_objects(numbers), start=1):
        if box is not None:
            place, name, kind, between, _ = wanted[number - 1]
            corner = (box[0].start, box[1].start, box[2].start)
            cut = [
                edge
                for axis, side in enumerate(box)
                for edge in _edges(axis, side.start, side.stop - 1, label_map.labels.shape)
            ]
            yield _Structure(Level(name, kind), between, place, numbers[box] == number, corner, cut, label_map.spacing)


def _edges(axis: int, first: int, last: int, shape: Sequence[int]) -> list[str]:
    """Names of the image's edges that indices from `first` to `last` reach."""
    reached = (first == 0, last == shape[axis] - 1)
    return [edge for edge, cut in zip(EDGES[axis], reached, strict=True) if cut]


def _check_upright(structures: Sequence[_Structure]) -> None:
    """Levels and the image's header must agree about which end is up.

    Raises:
        ValueError: if most pairs of levels run downwards.
    """
    heights = np.array([np.nonzero(one.mask)[0].mean() + one.corner[0] for one in structures])
    pairs = np.sign(heights[None] - heights[:, None])[np.triu_indices(len(heights), 1)]
    if pairs.sum() < 0:
        raise ValueError(
            "levels that run downwards where the header says upwards; one of them is wrong. Correct the header, or the "
            "labels (nnUNetv2_cafr relabel)"
        )


def _check_size(structures: Sequence[_Structure]) -> None:
    """A header in cm, or of another image, would give every measure a wrong size.

    Raises:
        ValueError: if the vertebrae are smaller than a newborn's or larger than anybody's, the median of them.
    """
    if not (vertebrae := [one for one in structures if one.level.kind == "vertebra"]):
        return
    low, high = VERTEBRA_MM
    if not low <= (height := _median_height([one.mask for one in vertebrae], vertebrae)) <= high:
        if low <= _median_height([largest_part(one.mask) for one in vertebrae], vertebrae) <= high:
            raise ValueError(
                f"labels of vertebrae that are scattered over {height:.3g} mm from top to bottom, expected are {low:g} "
                f"to {high:g}: look at the label map; nnUNetv2_cafr relabel takes islands away"
            )
        raise ValueError(
            f"vertebrae of {height:.3g} mm from top to bottom, expected are {low:g} to {high:g}; is the spacing in the "
            "header in mm, and of this image? Correct it"
        )


def _median_height(masks: Sequence[np.ndarray], structures: Sequence[_Structure]) -> float:
    """Of these parts of the structures, in mm from top to bottom."""
    extents = [np.ptp(np.nonzero(mask)[0]) + 1 for mask in masks]
    return float(np.median([extent * one.spacing[0] for extent, one in zip(extents, structures, strict=True)]))


def _measure_volume(one: _Structure) -> None:
    voxels = int(one.mask.sum())
    if voxels < FEWEST_VOXELS:
        one.fault = f"too few voxels: {voxels}, at least {FEWEST_VOXELS} are needed"
        one.level.refuse(one.fault)
    elif one.cut:
        one.level.refuse(_cut(one.cut), VOLUME)
    else:
        one.level.give(VOLUME, voxels * np.prod(one.spacing) / 1000)


def _cut(edges: Sequence[str]) -> str:
    *first, last = edges
    return f"cut by the image's {', '.join(first)} and {last} edges" if first else f"cut by the image's {last} edge"


def _measure_outline(one: _Structure, structures: Sequence[_Structure], label_map: LabelMap, spine: Spine) -> None:
    """Everything that needs the outline of the structure alone."""
    if one.fault:
        return
    level = one.level
    try:
        _check_oblique(label_map)
        if level.name in NO_BODY:
            raise NotMeasurableError(NO_BODY[level.name])
        if level.kind == "sacrum":
            one.outline = _outline_of_sacrum(one, structures, label_map, spine)
            return
        found, slices = _outline_in_the_middle(one, structures, label_map)
        if level.kind == "vertebra":
            _check_lean(one, label_map)
        one.outline = found
    except NotMeasurableError as error:
        one.fault = str(error)
        level.refuse(one.fault)
        return
    if slices < FEWEST_SLICES:
        level.refuse(f"too few slices across it: {slices:.0f}, at least {FEWEST_SLICES} are needed", WIDTH)
    elif level.kind == "disc" and _ends_at_plates(one, slices * one.spacing[2], float(np.mean(one.outline.heights))):
        level.refuse(f"it leans to a side by {one.leaves:.0f} degrees: lines across it end at its end plates", WIDTH)
    else:
        level.give(WIDTH, slices * one.spacing[2])
    if level.kind == "vertebra":
        for measure_, height in zip(HEIGHTS, one.outline.heights, strict=True):
            level.give(measure_, height)
        level.give(WEDGE, np.degrees(one.outline.lower - one.outline.upper))
    else:
        level.give(DISC_HEIGHT, np.mean(one.outline.heights))


def _check_lean(body: _Structure, label_map: LabelMap) -> None:
    """Raises NotMeasurableError if the body's own end plates lean to a side, more than its neighbours tell."""
    try:
        plates = _coronal_plates(body, label_map)
    except NotMeasurableError:  # too few slices show them
        return
    if (lean := abs(float(np.degrees(np.mean(plates))))) > OBLIQUE_LIMIT:
        raise NotMeasurableError(
            f"oblique slices: it leans to a side by {lean:.0f} degrees, at most {OBLIQUE_LIMIT:.0f} are measured"
        )


def _ends_at_plates(disc: _Structure, width: float, height: float) -> bool:
    """Whether lines from right to left may end where they leave a disc up and down, since it leans to a side."""
    shares = width * np.sin(np.radians(disc.leaves)) / height
    return bool(PLATES[0] < shares < PLATES[1])


def _check_oblique(label_map: LabelMap) -> None:
    if label_map.oblique > OBLIQUE_LIMIT:
        raise NotMeasurableError(
            f"oblique slices: {label_map.oblique:.0f} degrees off the patient's left/right axis, at most "
            f"{OBLIQUE_LIMIT:.0f} are measured"
        )


def _check_height_of_voxels(found: Outline, height: float) -> None:
    """End plates are stairs of voxels; of a few wide steps, no fit tells heights, wedges and slips."""
    coarse = float(np.degrees(np.arctan(height / (found.back - found.front))))
    if coarse > COARSEST:
        raise NotMeasurableError(
            f"voxels too high: one is {coarse:.1f} degrees of its end plates, at most {COARSEST:g} are measured"
        )


def _outline_in_the_middle(
    one: _Structure, structures: Sequence[_Structure], label_map: LabelMap
) -> tuple[Outline, float]:
    """The outline in the slice nearest to the body's own middle, which the arch and its processes do not shift.

    Returns:
        The outline, and how many slices the body has from right to left.

    Raises:
        NotMeasurableError: also if the image's edge cuts the section, or the body beside it, so that its middle is not
            known.
    """
    shape = label_map.labels.shape
    for moves in (2, 1, 0):
        section = one.section(one.slice)
        if section is None:
            raise NotMeasurableError("no section in its middle slice")
        voxels = section.voxels
        low, high = voxels.min(0), voxels.max(0)
        if cut := [edge for axis in (0, 1) for edge in _edges(axis, low[axis], high[axis], shape)]:
            raise NotMeasurableError(_cut(cut))
        found = outline(section, _first_angle(one, structures), one.level.kind)
        if one.level.kind == "vertebra":
            _check_height_of_voxels(found, one.spacing[0])
        core = voxels[found.inside(section.points)] - one.corner[:2]
        lines, index = one.mask[core[:, 0], core[:, 1]], one.slice - one.corner[2]
        last = one.slice + np.cumprod(lines[:, index:], 1).sum(1) - 1
        first = one.slice - np.cumprod(lines[:, index::-1], 1).sum(1) + 1
        sides = zip(EDGES[2], (first == 0, last == shape[2] - 1), strict=True)
        if cut := [edge for edge, reached in sides if reached.mean() > CUT_SHARE]:
            raise NotMeasurableError(f"{_cut(cut)}, so its middle is not known")
        middle = int(np.rint(np.median((first + last) / 2)))
        if middle == one.slice or not moves:
            break
        one.slice = middle
    return found, float(np.percentile(last - first + 1, 90))


def _first_angle(one: _Structure, structures: Sequence[_Structure]) -> float:
    """Where the structure's axes point by its neighbours' centres, in radians; 0 where there are none.

    Raises:
        NotMeasurableError: if the spine leaves the slices there.
    """
    near = [other for other in structures if other.level.kind != "sacrum" and abs(other.place - one.place) <= 1]
    centres = [centre for other in near if (centre := other.centre()) is not None]
    if len(centres) < 2:
        return 0.0
    step = centres[-1] - centres[0]
    one.leaves = float(np.degrees(np.arctan2(abs(step[2]), np.hypot(step[0], step[1]))))
    if one.leaves > OBLIQUE_LIMIT:
        raise NotMeasurableError(
            f"oblique slices: the spine leaves them by {one.leaves:.0f} degrees, at most {OBLIQUE_LIMIT:.0f} are "
            "measured"
        )
    return float(np.arctan2(-step[0], step[1]))


def _outline_of_sacrum(one: _Structure, structures: Sequence[_Structure], label_map: LabelMap, spine: Spine) -> Outline:
    """The upper end plate of S1, in the middle slice of the vertebra above.

    Raises:
        NotMeasurableError: if that vertebra, or an end plate, is not to be had.
    """
    above = next((other for other in structures if other.level.kind == "vertebra"), None)
    if above is None or _name_below(above, {SACRUM: one}, spine) != SACRUM:
        raise NotMeasurableError("the vertebra above it, which tells its middle, is not in the label map")
    if above.outline is None:
        raise NotMeasurableError(f"{above.level.name} above it, which tells its middle, is not measured: {above.fault}")
    section = one.section(above.slice)
    if section is None:
        raise NotMeasurableError(f"no section in the middle slice of {above.level.name}")
    reach = SACRUM_REACH * (above.outline.top - above.outline.bottom)
    found = outline(section, above.outline.lower, "sacrum", reach)
    voxels = section.voxels
    seen = voxels[(own_axes(found.angle) @ section.points.T)[1] >= found.top - reach]
    low, high = seen.min(0), seen.max(0)
    if cut := [edge for axis in (0, 1) for edge in _edges(axis, low[axis], high[axis], label_map.labels.shape)]:
        raise NotMeasurableError(_cut(cut))
    return found


def _name_below(one: _Structure, vertebrae: Mapping[str, _Structure], spine: Spine) -> str | None:
    """The vertebra below, past an L6 or T13 that this patient does not have; None where the labels name none."""
    for name in reversed(spine.vertebrae[: int(one.place)]):
        if name in vertebrae or name not in OPTIONAL:
            return name
    return None


def _measure_slip(one: _Structure, vertebrae: Mapping[str, _Structure], label_map: LabelMap, spine: Spine) -> None:
    name = _name_below(one, vertebrae, spine)
    if one.outline is None:
        return
    if name is None:
        one.level.refuse("the labels name no level below it", SLIP)
    elif (below := vertebrae.get(name)) is None:
        one.level.refuse(f"{name} below it is not in the label map", SLIP)
    elif below.outline is None:
        one.level.refuse(f"{name} below it is not measured: {below.fault}", SLIP)
    else:
        aside = abs(one.slice - below.slice) * one.spacing[2]
        if aside * np.sin(np.radians(label_map.oblique)) > max(SLIP_OFF, *one.spacing[:2]):
            one.level.refuse(
                f"oblique slices: {name} below it has its middle {aside:.0f} mm aside, in slices turned by "
                f"{label_map.oblique:.0f} degrees",
                SLIP,
            )
            return
        backwards = own_axes(below.outline.upper)[0]
        one.level.give(SLIP, (below.outline.upper_back - one.outline.lower_back) @ backwards)


def _measure_index(one: _Structure, vertebrae: Mapping[str, _Structure]) -> None:
    if one.outline is None:
        return
    beside = [name for name in reversed(one.between) if name not in (SACRUM, "vertebra_0")]
    bodies = [vertebrae[name] for name in beside if name in vertebrae]
    if missing := [name for name in beside if name not in vertebrae]:
        one.level.refuse(f"{' and '.join(missing)} beside it is not in the label map", DISC_INDEX)
    elif unmeasured := [body.unmeasured for body in bodies if body.outline is None]:
        one.level.refuse("; ".join(unmeasured), DISC_INDEX)
    else:
        heights = [body.outline.heights[1] for body in bodies if body.outline is not None]
        one.level.give(DISC_INDEX, np.mean(one.outline.heights) / np.mean(heights))


def _lordosis(vertebrae: Mapping[str, _Structure], spine: Spine) -> Angle:
    """From the upper end plate of L1 to that of S1, or to the lower one of L5 where no sacrum is labelled."""
    end = SACRUM if SACRUM in vertebrae else "L5"
    between = "L1-S1" if end == SACRUM else "L1-L5"
    for name in ("L1", end):
        if name not in spine.labels:
            return Angle(LORDOSIS, between, None, f"the labels do not name {name}")
        if name not in vertebrae:
            return Angle(LORDOSIS, between, None, f"{name} is not in the label map")
    upper, lower = vertebrae["L1"], vertebrae[end]
    for one in (upper, lower):
        if one.outline is None:
            return Angle(LORDOSIS, between, None, one.unmeasured)
    assert upper.outline is not None and lower.outline is not None
    plate = lower.outline.upper if end == SACRUM else lower.outline.lower
    return Angle(LORDOSIS, between, round(float(np.degrees(plate - upper.outline.upper)), DIGITS) + 0.0)


def _cobb(
    bodies: Sequence[_Structure], vertebrae: Mapping[str, _Structure], label_map: LabelMap, spine: Spine
) -> Angle:
    """The largest angle between an upper end plate and the lower one of a vertebra further down, in the coronal plane.

    Vertebrae that the image's upper or lower edge cuts do not count; where any other gives no angle, the curve might
    end there, and none is given.
    """
    plates: list[tuple[str, float, float]] = []  # from the bottom upwards: name, upper and lower
    try:
        _check_oblique(label_map)
        for one in bodies:
            rows = np.flatnonzero(largest_part(one.mask).any((1, 2))) + one.corner[0]  # of its islands none
            if _edges(0, rows[0], rows[-1], label_map.labels.shape):
                continue
            below = _name_below(one, vertebrae, spine)
            if plates and below is not None and below != plates[-1][0]:
                raise NotMeasurableError(f"{below} below {one.level.name} is not in the label map")
            try:
                plates.append((one.level.name, *_coronal_plates(one, label_map)))
            except NotMeasurableError as error:
                raise NotMeasurableError(f"{one.level.name} is not measured: {error}") from error
        if len(plates) < FEWEST_IN_CURVE:
            raise NotMeasurableError(
                f"{len(plates)} whole vertebrae, at least {FEWEST_IN_CURVE} are needed to show a curve"
            )
    except NotMeasurableError as error:
        return Angle(COBB, "", None, str(error))
    pairs = [
        (upper[1] - lower[2], f"{upper[0]}-{lower[0]}")
        for index, upper in enumerate(plates)
        for lower in plates[:index]
    ]
    angle, between = max(pairs, key=lambda pair: abs(pair[0]))
    degrees = abs(float(np.degrees(angle)))
    convex = "" if degrees < SCOLIOSIS else "left" if angle > 0 else "right"
    return Angle(COBB, between, round(degrees, DIGITS), convex=convex)


def _coronal_plates(one: _Structure, label_map: LabelMap) -> tuple[float, float]:
    """Angles of the end plates in the coronal section through the middle of the body, upper and lower one.

    The body has the largest coronal sections, those of the arch behind it are smaller. In radians, positive where a
    plate rises to the left.

    Raises:
        NotMeasurableError: if that section is cut, or gives no outline.
    """
    if one.fault.startswith("too few voxels"):
        raise NotMeasurableError(one.fault)
    sections = [largest_part(one.mask[:, index]) for index in range(one.mask.shape[1])]
    sizes = np.array([section.sum() for section in sections])
    through_body = np.flatnonzero(sizes >= MID_BODY * sizes.max())
    cut = _edges(1, one.corner[1] + through_body[0], one.corner[1] + through_body[-1], label_map.labels.shape)
    section = Section(sections[through_body[len(through_body) // 2]], one.corner[::2], one.spacing[::2])
    voxels = section.voxels
    for axis, place in ((0, 0), (2, 1)):
        cut += _edges(axis, voxels[:, place].min(), voxels[:, place].max(), label_map.labels.shape)
    if cut:
        raise NotMeasurableError(_cut(cut))
    found = outline(section, 0.0, "vertebra", across="from right to left")
    _check_height_of_voxels(found, one.spacing[0])
    return found.upper, found.lower
