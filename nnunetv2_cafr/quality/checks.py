"""Checks of one case: grey values, grid, labels, pieces, and the order of the levels along the spine.

Every threshold is ours and stands here; the page prints them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import binary_dilation, distance_transform_edt

from dataset_conversion.geometry import grid_differences, orientation_of, tilt_of
from dataset_conversion.labels import INTEGRAL_TOLERANCE
from nnunetv2_cafr import spine as levels
from nnunetv2_cafr.errors import millimetres, ranges, shorten
from nnunetv2_cafr.levels.decoding import TILT
from nnunetv2_cafr.quality.dataset import LabelTable
from nnunetv2_cafr.quality.findings import Finding, Severity
from nnunetv2_cafr.quality.measures import Geometry, Intensities, Piece, Structure, physical

CLIPPED_SHARE = 0.002  # of the voxels at the largest value ...
CLIPPED_RATIO = 5.0  # ... and so many times more than in the 1/256 of the range below it
FEWEST_GREY_VALUES = 16
TINY_SHARE = 0.01  # a piece below this share of its structure, or
TINY_VOXELS = 10  # of fewer voxels than this, is only a note
SACRAL_GAP = 15.0  # mm between boxes: S1 to S5 are bones of their own, with the remains of discs between them
ORDER_TOLERANCE = 3.0  # mm by which a level may lie below the one that it should lie above
HOLLOW_IN_FRONT = 3.0  # mm by which L2 to L4 may lie behind the line from L5 to L1; the most of 81 references is 2.4
TOUCH = 3.0  # mm between the surfaces of a disc and a vertebra; less still counts as touching


@dataclass(frozen=True)
class Source:
    """Where a finding comes from: the case, and the file below the data set's folder."""

    case: str
    file: str

    def finding(
        self, severity: Severity, check: str, found: str, expected: str, remedy: str, structure: str = ""
    ) -> Finding:
        return Finding(self.case, severity, check, structure, found, expected, remedy, self.file)


def check_grey_values(
    values: np.ndarray, intensity: Intensities, labels: np.ndarray | None, source: Source, axis: int = 0
) -> Iterator[Finding]:
    """Constant and clipped images and slices; `values` and `labels` are (z, y, x), slices follow along `axis`."""
    if intensity.minimum == intensity.maximum:
        yield source.finding(
            Severity.ERROR,
            "constant image",
            f"every voxel is {intensity.minimum:g}",
            "an image",
            "export the image again from its source, or leave the case out",
        )
        return
    yield from _check_clipping(values, intensity, source)
    yield from _check_slices(values, labels, source, axis)


def _check_clipping(values: np.ndarray, intensity: Intensities, source: Source) -> Iterator[Finding]:
    counts, edges = np.histogram(values, 256, (intensity.minimum, intensity.maximum))
    at_maximum = int(np.count_nonzero(values == values.max()))
    below = int(np.count_nonzero((values >= edges[-2]) & (values < values.max())))
    distinct = np.count_nonzero(counts)
    if distinct < FEWEST_GREY_VALUES:
        yield source.finding(
            Severity.WARNING,
            "few grey values",
            f"{distinct} of 256 bins of the range are in use",
            f"at least {FEWEST_GREY_VALUES}, as any scanner gives",
            "see whether the file is a mask, or the range was lost by a single far value",
        )
    elif at_maximum >= CLIPPED_SHARE * values.size and at_maximum > CLIPPED_RATIO * below:
        yield source.finding(
            Severity.WARNING,
            "clipped image",
            f"{at_maximum / values.size:.1%} of the voxels are {intensity.maximum:g}, the largest value",
            f"less than {CLIPPED_SHARE:.1%}: bright tissue has lost its contrast here",
            "export the image again with its full range (no window, no 8 bits), or accept it",
        )


def _check_slices(values: np.ndarray, labels: np.ndarray | None, source: Source, axis: int) -> Iterator[Finding]:
    others = tuple({0, 1, 2} - {axis})
    constant = values.min(others) == values.max(others)
    if len(constant) < 3 or not constant.any():
        return
    filled = np.flatnonzero(~constant)
    empty = np.flatnonzero(constant)
    inner = empty[(filled[0] < empty) & (empty < filled[-1])].tolist()
    labelled = []
    if labels is not None and labels.shape == values.shape:
        labelled = np.flatnonzero(constant & labels.any(others)).tolist()
    if inner or labelled:
        places = ", ".join(map(str, sorted({*inner, *labelled})))
        yield source.finding(
            Severity.WARNING,
            "constant slices",
            f"{'zyx'[axis]} = {places} (counted from 0): one value in the whole slice"
            + (", and labels in it" if labelled else ""),
            "slices with content between slices with content",
            "export the image again; a slice was lost",
        )
    else:
        yield source.finding(
            Severity.NOTE,
            "constant slices",
            f"{int(constant.sum())} of {len(constant)} slices, at the ends and without labels, hold one value",
            "slices with content",
            "nothing, if the image was padded or masked on purpose",
        )


def check_same_grid(
    image: sitk.Image, mask: sitk.Image, source: Source, oriented: bool = True, kind: str = "mask"
) -> list[Finding]:
    """Whether a mask lies on its image's grid. nnU-Net pairs voxels by index, so size, spacing and order are errors.

    Args:
        oriented: whether both files say how they lie; else their orders are SimpleITK's invention.
        kind: "channel" of a further image of the case, in place of a mask.
    """
    check, remedy = (
        f"image and {kind}",
        f"resample the {kind} to the image's grid, or find the {kind} that belongs to it",
    )
    if image.GetSize() != mask.GetSize():
        found, expected = (" x ".join(map(str, grid.GetSize())) for grid in (mask, image))
        return [source.finding(Severity.ERROR, check, f"size {found}", f"size {expected}, as the image", remedy)]
    findings = []
    turned = oriented and orientation_of(image) != orientation_of(mask)
    for name, of_mask, of_image in grid_differences(mask, image):
        found, expected = (", ".join(f"{value:.4g}" for value in numbers) for numbers in (of_mask, of_image))
        severity = Severity.ERROR if name == "spacing" or (turned and name == "direction") else Severity.WARNING
        findings.append(source.finding(severity, check, f"{name} {found}", f"{name} {expected}, as the image", remedy))
    return findings


def check_labels(
    values: np.ndarray, counts: np.ndarray, table: LabelTable, spine: bool, source: Source
) -> Iterator[Finding]:
    """Values of a mask as stored, and voxels of each: whole numbers, all in dataset.json, and not only background."""
    known = {0, *table.names} | ({table.ignore} if table.ignore is not None else set())
    whole = np.abs(values - np.rint(values)) <= INTEGRAL_TOLERANCE
    is_known = [value in known for value in np.rint(values).astype(np.int64).tolist()]
    for wrong, check, expected, remedy in (
        (~whole, "fractional labels", "whole numbers", "export the mask again without interpolation"),
        (
            whole & ~np.array(is_known),
            "unknown label",
            f"labels of dataset.json: {ranges(sorted(known))}",
            "correct these voxels, or add the label to dataset.json",
        ),
    ):
        if wrong.any():
            shown = [f"{value:g} ({count} voxels)" for value, count in zip(values[wrong], counts[wrong], strict=True)]
            structure = ", ".join(f"label {value:g}" for value in values[wrong][:5])
            yield source.finding(Severity.ERROR, check, shorten(shown), expected, remedy, structure)
    if not np.isin(np.rint(values), [label for label in known if label not in (0, table.ignore)]).any():
        yield source.finding(
            Severity.ERROR if spine else Severity.WARNING,
            "empty mask",
            "no voxel of any structure",
            "at least one structure of dataset.json",
            "annotate the case, or move its image to imagesTs",
        )


def check_stored_labels(values: np.ndarray, counts: np.ndarray, source: Source) -> Iterator[Finding]:
    """What nnU-Net reads of whole numbers that are not stored as such: it casts down, so that 3 less a hair is 2."""
    if np.issubdtype(values.dtype, np.integer):
        return
    nearest = np.rint(values)
    read = values.astype(np.float32)
    near = (np.abs(values - nearest) <= INTEGRAL_TOLERANCE) & (read != nearest)
    if not near.any():
        return
    shown = [
        f"{np.format_float_positional(value)} ({count} voxels), which nnU-Net reads as {int(value)}"
        for value, count in zip(read[near], counts[near], strict=True)
    ]
    yield source.finding(
        Severity.ERROR,
        "labels beside whole numbers",
        shorten(shown),
        "labels stored as whole numbers: nnU-Net casts down, and what lies below is trained as the label before",
        "round the mask and store it as integers (SimpleITK: Cast(Round(mask), sitkUInt8)); our converters do so",
        ", ".join(f"label {value:g}" for value in nearest[near][:5]),
    )


def check_islands(structures: Sequence[Structure], mask: sitk.Image, source: Source) -> Iterator[Finding]:
    """Pieces of a structure beside its largest one. A sacrum is several bones: its pieces may lie SACRAL_GAP apart.

    A finding per structure; those of which every island is tiny share one note.
    """
    tiny = {}
    for structure in structures:
        sacrum = structure.level == levels.SACRUM
        islands = _far_pieces(structure.pieces, mask.GetSpacing()[::-1]) if sacrum else structure.pieces[1:]
        if not islands:
            continue
        if all(piece.voxels < max(TINY_VOXELS, TINY_SHARE * structure.voxels) for piece in islands):
            tiny[structure.name] = _describe(islands, structure)
            continue
        yield source.finding(
            Severity.WARNING,
            "island",
            f"beside the largest piece of {structure.pieces[0].voxels} voxels {_describe(islands, structure)}",
            f"pieces at most {SACRAL_GAP:g} mm apart" if sacrum else "one connected piece",
            "look there (voxels are counted from 0 in the image's order); erase or relabel what is not the structure",
            structure.name,
        )
    if tiny:
        yield source.finding(
            Severity.NOTE,
            "tiny island",
            ". ".join(f"{name}: {described}" for name, described in tiny.items()),
            "one connected piece of each structure",
            "nothing, or erase them; voxels are counted from 0 in the image's order",
            ", ".join(tiny),
        )


def _describe(islands: Sequence[Piece], structure: Structure) -> str:
    """Number, size and place of the three largest islands."""
    voxel = structure.volume / structure.voxels
    shown = "; ".join(
        f"{piece.voxels} {'voxel' if piece.voxels == 1 else 'voxels'} ({piece.voxels * voxel:.2g} ml) at x, y, z = "
        + ", ".join(str(round(place)) for place in piece.centre[::-1])
        for piece in islands[:3]
    )
    return shown + (f"; and {len(islands) - 3} more" if len(islands) > 3 else "")


def _far_pieces(pieces: Sequence[Piece], spacing: Sequence[float]) -> list[Piece]:
    """Pieces that no chain of gaps of at most SACRAL_GAP between bounding boxes links to the largest one."""
    near, far = [pieces[0]], list(pieces[1:])
    while linked := [piece for piece in far if any(_gap(piece, other, spacing) <= SACRAL_GAP for other in near)]:
        near += linked
        far = [piece for piece in far if piece not in linked]
    return far


def _gap(a: Piece, b: Piece, spacing: Sequence[float]) -> float:
    """Distance of two bounding boxes in mm."""
    between = np.maximum(np.maximum(np.subtract(a.low, b.high), np.subtract(b.low, a.high)) - 1, 0)
    return float(np.linalg.norm(between * np.asarray(spacing)))


def check_plane(geometry: Geometry, source: Source) -> Iterator[Finding]:
    """Spine levels are read from sagittal slices; nnU-Net's 2-D slices are the ones that lie farthest apart."""
    if geometry.plane in ("axial", "coronal"):
        yield source.finding(
            Severity.WARNING,
            "not sagittal",
            f"{geometry.plane} slices (orientation {geometry.orientation}, spacing {millimetres(geometry.spacing)})",
            "sagittal slices, on which neighbouring levels are seen together",
            "correct the direction in the header if it is wrong, or leave the series out",
        )


def check_tilt(image: sitk.Image, source: Source) -> Iterator[Finding]:
    """Levels are learned by where they lie in the image, and training turns patches by less than this."""
    if (tilt := tilt_of(image)) > TILT:
        yield source.finding(
            Severity.WARNING,
            "tilted",
            f"a voxel axis is {tilt:.0f} degrees off the patient's axes",
            f"at most {TILT:.0f} degrees",
            "correct the direction in the header if it is wrong, or resample the case along the patient's axes",
        )


def check_order(structures: Sequence[Structure], mask: sitk.Image, source: Source) -> Iterator[Finding]:
    """Levels follow each other upwards from the sacrum: by the height of the centre of each one's largest piece."""
    placed = [(place, s) for s in structures if (place := levels.position(s.level)) is not None]
    expected = [s for _, s in sorted(placed, key=lambda pair: pair[0])]
    vertebrae = [s for s in expected if levels.is_vertebra(s.level)]
    if len(expected) < 2:
        return
    if len(vertebrae) >= levels.FEWEST_VERTEBRAE:
        along = physical(mask, vertebrae[-1].pieces[0].centre) - physical(mask, vertebrae[0].pieces[0].centre)
        ends = f"{vertebrae[0].name} to {vertebrae[-1].name}"
        way = ("left/right", "front/back", "up/down")[int(np.argmax(np.abs(along)))]
        upside_down = all(a.height > b.height for a, b in pairwise(vertebrae))
        if way != "up/down" or upside_down:
            yield source.finding(
                Severity.ERROR,
                "direction of the spine",
                f"the spine from {ends} runs " + ("downwards" if upside_down and way == "up/down" else way),
                "upwards, by the direction in the header",
                "correct the direction in the headers of image and mask, or the labels",
                ends,
            )
            return
        yield from _check_front(vertebrae, mask, source)
    found = sorted(expected, key=lambda s: s.height)
    heights = np.array([s.height for s in expected])
    # How far any level lies below one that should be lower.
    if np.max(np.maximum.accumulate(heights) - heights) <= ORDER_TOLERANCE:
        return
    wrong = [s.name for s, other in zip(expected, found, strict=True) if s is not other]
    yield source.finding(
        Severity.ERROR,
        "order of levels",
        "upwards: " + ", ".join(s.name for s in found),
        "upwards: " + ", ".join(s.name for s in expected),
        f"correct the labels of {', '.join(wrong)} in the mask",
        ", ".join(wrong),
    )


def _check_front(vertebrae: Sequence[Structure], mask: sitk.Image, source: Source) -> Iterator[Finding]:
    """A lumbar spine is hollow behind: L2 to L4 lie in front of the line from L5 to L1."""
    centres = {s.level: physical(mask, s.pieces[0].centre) for s in vertebrae}
    if not {"L5", "L1"} < centres.keys():
        return
    (low_y, low_z), (high_y, high_z) = centres["L5"][1:], centres["L1"][1:]
    behind = [
        centre[1] - np.interp(centre[2], [low_z, high_z], [low_y, high_y])
        for level, centre in centres.items()
        if level in ("L4", "L3", "L2")
    ]
    if behind and np.mean(behind) > HOLLOW_IN_FRONT:
        yield source.finding(
            Severity.WARNING,
            "front and back",
            f"L2 to L4 lie {np.mean(behind):.0f} mm behind the line from L5 to L1",
            "in front of it",
            "see whether front and back are swapped, in the header or in the mask",
            "L5 to L1",
        )


def check_discs(
    structures: Sequence[Structure], labels: np.ndarray, mask: sitk.Image, source: Source
) -> Iterator[Finding]:
    """A disc lies between two vertebrae: nearer than TOUCH mm to one at least. Left out where none is labelled."""
    by_level = {s.level: s for s in structures}
    if not any(map(levels.is_vertebra, by_level)):
        return
    spacing = mask.GetSpacing()[::-1]
    margin = [int(np.ceil(TOUCH / step)) + 1 for step in spacing]
    beside = np.ones((3, 3, 3), bool)
    for structure in structures:
        neighbours = levels.disc_of(structure.level)
        if neighbours is None:
            continue
        around = [by_level[level].label for level in neighbours if level in by_level]
        low = np.min([piece.low for piece in structure.pieces], axis=0)
        high = np.max([piece.high for piece in structure.pieces], axis=0)
        box = tuple(slice(max(a - m, 0), b + m + 1) for a, b, m in zip(low, high, margin, strict=True))
        part = labels[box]
        near = np.isin(part, around)
        # Between the surfaces of voxels: those that touch are 0 mm apart, however large they are.
        touching = binary_dilation(part == structure.label, beside)
        gap = distance_transform_edt(~touching, sampling=spacing)[near].min() if near.any() else np.inf
        if gap >= TOUCH:
            lower, upper = (by_level[level].name if level in by_level else level for level in neighbours)
            absent = [level for level in neighbours if level not in by_level]
            yield source.finding(
                Severity.WARNING,
                "disc without neighbour",
                f"{structure.name} touches neither {upper} nor {lower}"
                + (f" ({' and '.join(absent)} not in the mask)" if absent else ""),
                f"one of them less than {TOUCH:g} mm away",
                "see whether the disc lies at another level, and relabel or erase it",
                structure.name,
            )
