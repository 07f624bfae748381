"""Labels: what the values in a source's masks mean, and which values nnU-Net sees instead.

A source gives one table from mask values to structures, each of a kind (vertebrae, discs, ...). Every label scheme
follows from that table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from dataset_conversion.problems import Problem
from nnunetv2_cafr.errors import ranges, shorten

INTEGRAL_TOLERANCE = 1e-3  # how far a float may lie from the label that it stands for
UNKNOWN = 255  # in a look-up: a mask value that is not in the table
SWAPPED = 256  # more distinct values than a mask has: grey values
BACKGROUND = "background"


@dataclass(frozen=True)
class Structure:
    """Something that is labelled. `kind` is the plural that groups it with its like."""

    name: str
    kind: str


IGNORE = Structure("ignore", "ignore")  # nnU-Net's word for voxels that neither loss nor metrics look at

# Mask value -> structure; 0 is the background and not in the table. The order of the structures is that of the values
# that are written. Several values may stand for one structure.
LabelTable = Mapping[int, Structure]

SCHEMES = {
    "levels": "each structure is a label",
    "kinds": "one label for all vertebrae, one for all discs, ...",
    "regions": "nnU-Net's region-based training: all vertebrae, all discs, ..., and each structure as well",
}


@dataclass(frozen=True)
class Labelling:
    """A label scheme: `labels` and `regions_class_order` of `dataset.json`, and the value of each structure."""

    labels: Mapping[str, int | list[int]]
    regions_class_order: Sequence[int] | None
    values: Mapping[str, int]


def structures_of(table: LabelTable) -> list[Structure]:
    """The structures of a table, once each and in its order."""
    return list(dict.fromkeys(table.values()))


def make_labelling(structures: Sequence[Structure], scheme: str) -> Labelling:
    """Number the structures as nnU-Net wants it: consecutive values, 0 the background, the ignore label the highest.

    In the scheme `regions` a kind of several structures is a region of its own, with one more value: that of a voxel
    which is predicted as the kind, but as none of its structures. No mask holds that value. nnU-Net paints regions in
    the order of `regions_class_order`, so structures come after kinds.

    Raises:
        ValueError: if two structures would have one name, or there is no kind that could be a region.
    """
    ignored = IGNORE in structures
    known = [structure for structure in structures if structure != IGNORE]
    kinds = {kind: [s for s in known if s.kind == kind] for kind in dict.fromkeys(s.kind for s in known)}
    names = [structure.name for structure in known]
    for name in names:
        if names.count(name) > 1 or name in (BACKGROUND, IGNORE.name):
            raise ValueError(f"the structure name {name!r} is taken already; every structure needs its own")

    labels: dict[str, int | list[int]] = {BACKGROUND: 0}
    order: list[int] | None = None
    if scheme == "levels":
        values = {name: value for value, name in enumerate(names, 1)}
        labels |= values
        count = len(names)
    elif scheme == "kinds":
        of_kind = {kind: value for value, kind in enumerate(kinds, 1)}
        values = {structure.name: of_kind[structure.kind] for structure in known}
        labels |= of_kind
        count = len(kinds)
    elif scheme == "regions":
        values = {name: value for value, name in enumerate(names, 1)}
        groups = {kind: members for kind, members in kinds.items() if len(members) > 1}
        if not groups:
            raise ValueError("the scheme regions needs a kind of at least two structures")
        if clash := sorted(groups.keys() & values.keys()):
            raise ValueError(f"{clash[0]!r} names a kind and a structure; regions need different names")
        of_group = {kind: value for value, kind in enumerate(groups, len(names) + 1)}
        labels |= {kind: [*(values[s.name] for s in groups[kind]), of_group[kind]] for kind in groups}
        labels |= values
        order = [*of_group.values(), *values.values()]
        count = len(names) + len(groups)
    else:
        raise ValueError(f"the label scheme {scheme!r} is unknown; expected one of {', '.join(SCHEMES)}")
    if ignored:
        count += 1
        values[IGNORE.name] = count
        labels[IGNORE.name] = count
    if count >= UNKNOWN:
        raise ValueError(f"{count} labels are more than a mask of 8 bits holds; expected at most {UNKNOWN - 1}")
    return Labelling(labels, order, values)


def make_lookup(table: LabelTable, values: Mapping[str, int]) -> np.ndarray:
    """Written value (uint8) at the index of each mask value; `UNKNOWN` where the table has none."""
    lookup = np.full(max(table, default=0) + 1, UNKNOWN, np.uint8)
    lookup[0] = 0
    for value, structure in table.items():
        # Structures that occur in no mask have no value (see `Collection.open_ended`).
        lookup[value] = values.get(structure.name, UNKNOWN)
    return lookup


def map_labels(
    path: Path, mask: sitk.Image, lookup: np.ndarray, ignored: int | None = None
) -> tuple[np.ndarray | None, list[Problem]]:
    """Translate a mask's values, slice by slice to keep memory small.

    Args:
        ignored: the written value of voxels that nobody annotated.

    Returns:
        The array (z, y, x) of written values (uint8), or None, and what is wrong: values that are no integers or not in
        the table, no foreground, no background.
    """
    array = sitk.GetArrayViewFromImage(mask)
    written = np.empty(array.shape, np.uint8)
    for source, target in zip(array, written, strict=True):
        rounded = source if source.dtype.kind in "iu" else np.rint(source)
        if rounded.min() < 0 or rounded.max() >= len(lookup):
            return None, _explain(path, array, lookup)
        if rounded is not source and not np.abs(source - rounded).max() <= INTEGRAL_TOLERANCE:
            return None, _explain(path, array, lookup)
        lookup.take(rounded.astype(np.intp), out=target)
        if (target == UNKNOWN).any():
            return None, _explain(path, array, lookup)
    if not ((written != 0) & (written != ignored)).any():
        found, expected = "an empty mask: background only", "at least one labelled structure"
    elif written.all():
        found, expected = "a mask without background: every voxel is labelled", "some background"
    else:
        return written, []
    return None, [Problem(path, found, expected, "find the right mask, or leave the case out")]


def _explain(path: Path, array: np.ndarray, lookup: np.ndarray) -> list[Problem]:
    """Say which values of a mask are no labels; slow, and only needed to say what is wrong."""
    known = np.flatnonzero(lookup != UNKNOWN)
    expected = f"integers, of {ranges(known)}"
    found, counts = np.unique(array, return_counts=True)
    nearest = np.rint(found)
    # A float is a label if it lies next to an integer; beyond that, what it is not tells what to do about it.
    fractional = np.abs(found - nearest) > INTEGRAL_TOLERANCE
    foreign = ~fractional & ~np.isin(nearest, known)
    swapped = "; so many values look like an image: are image and mask swapped?" if len(found) > SWAPPED else ""
    problems = []
    for wrong, kind, remedy in (
        (fractional, "values that are no integers", "export the mask again without interpolation"),
        (foreign, "labels that are not in the label table", "correct these voxels, or leave the case out"),
    ):
        if wrong.any():
            shown = [f"{value:g} ({count} voxels)" for value, count in zip(found[wrong], counts[wrong], strict=True)]
            problems.append(Problem(path, f"{kind}: {shorten(shown)}", expected, remedy + swapped))
    return problems
