"""Reads a reference and its prediction as nnU-Net does, and refuses two that cannot be compared voxel by voxel."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from nnunetv2_cafr.errors import shorten
from nnunetv2_cafr.label_reading import read_label_file
from nnunetv2_cafr.levels.components import Grid
from nnunetv2_cafr.levels.files import grid_of_affine
from nnunetv2_cafr.spine import IGNORE, Spine, is_spine_table, level_names, read_spine, values_of
from nnunetv2_cafr.voxel_order import affine_of, largest_shift, turned_onto

SHIFT_TOLERANCE = 0.05  # of the smallest spacing, between corners of two label maps in one place

Label = int | tuple[int, ...]  # a tuple is a region: the union of these labels


@dataclass(frozen=True)
class CasePair:
    """Files of one case, and the patient that it is of."""

    case: str
    patient: str
    reference: Path
    prediction: Path


class LabelMaps(NamedTuple):
    """Two integer arrays of one shape, without axes of length one, and mm per axis; and the prediction as it is stored.

    Args:
        reference, prediction: voxels that the reference ignores are background in both.
        whole: the prediction (z, y, x), ignored voxels included.
        ignored: (z, y, x), which voxels the reference ignores.
        grid: of these two.
    """

    reference: np.ndarray
    prediction: np.ndarray
    spacing: tuple[float, ...]
    whole: np.ndarray
    ignored: np.ndarray
    grid: Grid


def label_table(labels: Mapping[str, Any]) -> dict[Label, str]:
    """Names by label, or by region, from the `labels` of a dataset.json; without background, with ignore."""
    table: dict[Label, str] = {}
    for name, value in labels.items():
        values = values_of(value)
        if any(int(one) != float(one) for one in values):
            raise ValueError(f"{name} is {value}, expected whole numbers")
        members = tuple(map(int, values))
        if any(members):
            label = members if len(members) > 1 else members[0]
            if label in table:
                raise ValueError(f"{table[label]} and {name} are both {value}, expected a value of its own for each")
            table[label] = name
    return table


class Classes:
    """What a label table means for scoring.

    Args:
        label_names: as `label_table` gives it.

    Attributes:
        spine: the labels by SpineMRI's names, where they are levels; otherwise empty. One for each level.
        twins: a level's other labels (S1 beside sacrum), and the one that `spine` has.
    """

    def __init__(self, label_names: Mapping[Any, str]) -> None:
        self.names: dict[Label, str] = {label: name for label, name in label_names.items() if name != IGNORE}
        self.ignore: int | None = next((label for label, name in label_names.items() if name == IGNORE), None)
        self.values = frozenset(member for label in self.names for member in members(label))
        # Levels and junctions ask for labels that exclude one another: none of regions.
        single = {label: name for label, name in self.names.items() if isinstance(label, int)}
        is_spine = len(single) == len(self.names) and is_spine_table(single.values())
        self.order = _order_of(single) if is_spine else None
        self.twins = {
            twin: first for first, *others in (self.order.labels.values() if self.order else ()) for twin in others
        }
        alone = {label: name for label, name in single.items() if label not in self.twins}
        self.spine: dict[int, str] = level_names(alone) if is_spine else {}

    def by_level(self, labels: np.ndarray) -> np.ndarray:
        """The label map with one label for each level, as in `spine`."""
        for twin, first in self.twins.items():
            labels = np.where(labels == twin, np.asarray(first, labels.dtype), labels)
        return labels


def _order_of(names: Mapping[int, str]) -> Spine | None:
    try:
        return read_spine({name: label for label, name in names.items()})
    except ValueError:  # no levels, or two labels for one of them
        return None


def members(label: Label) -> tuple[int, ...]:
    return label if isinstance(label, tuple) else (label,)


def read_pair(pair: CasePair, classes: Classes, reader: type[BaseReaderWriter]) -> LabelMaps:
    """Both label maps on the reference's grid.

    Raises:
        ValueError: if a file cannot be read or holds other values, or if the grids differ; names both.
    """
    ignore = set() if classes.ignore is None else {classes.ignore}
    reference, grid = _read(pair.reference, classes.values | ignore, reader)
    prediction, other = _read(pair.prediction, classes.values, reader)
    affine, of_prediction = grid.pop("affine"), other.pop("affine")
    if affine is not None and of_prediction is not None:
        turned, of_turned = turned_onto(prediction, of_prediction, affine)
        shift = largest_shift(affine, of_turned, reference.shape)
        if turned.shape == reference.shape and shift <= SHIFT_TOLERANCE * min(grid["spacing"]):
            prediction, other = turned, grid  # the same place, perhaps in another voxel order
    differences = [
        f"{key} {_words(value)} and {_words(other.get(key))}"
        for key, value in grid.items()
        if key not in other
        or np.shape(value) != np.shape(other[key])
        or not np.allclose(value, other[key], rtol=1e-4, atol=1e-3)
    ]
    if differences:
        raise ValueError(
            f"{pair.reference} and {pair.prediction} lie on different grids: {'; '.join(differences)}. Expected is a "
            "prediction on the reference's own grid, in whatever voxel order, as nnUNetv2_predict writes it; resample "
            "it, or look whether the two belong together"
        )
    ignored = reference == classes.ignore if classes.ignore is not None else np.zeros(reference.shape, bool)
    spacing = tuple(float(grid["spacing"][axis]) for axis, length in enumerate(reference.shape) if length > 1)
    return LabelMaps(
        np.where(ignored, 0, reference).squeeze(),
        np.where(ignored, 0, prediction).squeeze(),
        spacing,
        whole=prediction,
        ignored=ignored,
        grid=Grid(np.diag(np.asarray(grid["spacing"], float))) if affine is None else grid_of_affine(affine),
    )


def _read(path: Path, allowed: frozenset[int], reader: type[BaseReaderWriter]) -> tuple[np.ndarray, dict[str, Any]]:
    """Label map, and what tells its grid from another: shape, spacing, the header's geometry, and affine or None."""
    try:
        values, properties = read_label_file(path, reader)
    except ValueError as error:
        raise ValueError(f"{error}. If it is a prediction, predict the case again") from error
    if len(values) > 1:
        raise ValueError(f"{path} has {len(values)} channels; expected is one, of labels: export these")
    labels = values[0].astype(np.int32)
    if not np.array_equal(labels, values[0]):
        between = np.unique(values[0][values[0] != labels])
        shown = shorten([np.format_float_positional(value, trim="-") for value in between])
        raise ValueError(
            f"{path} holds {shown}, which are no integers; expected is a label map. Round it and store it "
            "as integers, or export it again without interpolation"
        )
    foreign = sorted(set(pd.unique(labels.ravel()).tolist()) - allowed - {0})
    if foreign:
        raise ValueError(
            f"{path} holds {_words(foreign)}, but the labels are {_words(sorted(allowed))}. Correct the file, or give "
            "the dataset.json that it belongs to"
        )
    header = properties.get("sitk_stuff") or properties.get("nibabel_stuff") or {}
    grid = {"shape": labels.shape, **header, "spacing": properties["spacing"], "affine": affine_of(properties)}
    return labels, grid


def _words(values: Any) -> str:
    if values is None or np.ndim(values) == 0:
        return str(values)
    return "(" + ", ".join(f"{value:.6g}" for value in np.ravel(values)) + ")"
