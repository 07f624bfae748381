"""Scores folders of label maps, one case in memory per process.

Every class of every case gets a row, present or not, so that all means, whichever way they count absent classes, follow
from the same table (see `means`). Images of a single slice are scored as 2-D images.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_file_ending
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from scipy.ndimage import find_objects

from dataset_conversion.reading import ending_of, fault_of
from nnunetv2_cafr.evaluation import TOLERANCE_MM
from nnunetv2_cafr.evaluation.junctions import BAND_MM, junction_band, junctions
from nnunetv2_cafr.evaluation.level_errors import FOUND_DICE, Match, level_accuracy, level_errors, match_vertebrae
from nnunetv2_cafr.evaluation.level_shifts import CONSISTENT, PREDICTED, level_shifts
from nnunetv2_cafr.evaluation.overlap import overlap
from nnunetv2_cafr.evaluation.reading import CasePair, Classes, Label, LabelMaps, members, read_pair
from nnunetv2_cafr.evaluation.scores import (
    CLASS_COLUMNS,
    DISTANCES,
    LEVEL_COLUMNS,
    METRICS,
    REFERENCE_CHECKSUMS,
    SHIFT_COLUMNS,
    Evaluation,
)
from nnunetv2_cafr.evaluation.surface import surface_scores
from nnunetv2_cafr.files import sha256
from nnunetv2_cafr.levels.decoding import decode
from nnunetv2_cafr.processes import in_processes

FOREGROUND = 0  # `label` of all classes as one
TOOLS = ("nnunetv2-cafr", "nnunetv2", "surface-distance", "connected-components-3d", "numpy", "scipy")
DEFINITIONS = {
    "dice, iou": "of voxels; NaN where neither label map holds the class, 0 where one of them does (as nnU-Net)",
    "hd_mm, hd95_mm, assd_mm": (
        "between surfaces whose elements count by their area: the largest distance; the larger of the two directed "
        "95th percentiles; the mean over both surfaces together. NaN where neither label map holds the class, infinite "
        "where one of them does"
    ),
    "nsd": "share of both surfaces within the tolerance of the other; NaN and 0 as Dice",
    "volume": "the class in 3-D",
    "slices": (
        "across the axis with the largest spacing, the first one of equals: each slice in 2-D. Dice, IoU and NSD are "
        "means over the slices in which either label map holds the class; distances are means over those in which both "
        "do, infinite if there is none"
    ),
    "junctions": (
        f"Dice and IoU of vertebrae and discs over the voxels within {BAND_MM:g} mm of both a vertebra and a disc next "
        "to it in the reference, in 3-D; no distances"
    ),
    "foreground": "all classes as one, against background",
    "levels": (
        "pieces (26-connected parts of one predicted vertebra label) belong to the reference vertebra that they share "
        "most voxels with; together they are its instance. instance_dice: mean over the reference's vertebrae (with "
        f"sacrum) of the Dice of vertebra and instance. found: that Dice is at least {FOUND_DICE:g}. right_level: "
        "found, and most of the shared voxels carry the reference's level; shifted_up, shifted_down: the next level "
        "towards the head, the feet. all_right: 1 where every vertebra of the reference is found at the right level. "
        "structures: vertebrae and discs of the reference; own_label_wins: of these, where no other label has as many "
        "of the structure's voxels, background aside"
    ),
    "level shifts": (
        "vertebrae of the reference, by how many levels of the label table too low (-) or too high (+) they are "
        "called; farther: more than two; missed: not found; extra: predicted vertebrae, of at least a quarter of the "
        "median vertebra's voxels, where the reference has none. level-consistent: the same label map after level "
        "decoding (nnUNetv2_cafr relabel) from its labels alone; flags are the decoding's"
    ),
    "ignore": "voxels with the ignore label in the reference are background in both label maps",
    "single slices": "an image of one slice is 2-D: its volumes are areas in mm^2",
}


class EvaluationError(RuntimeError):
    """A case cannot be scored; the message names it."""


class _CaseScores(NamedTuple):
    classes: list[dict[str, Any]]
    levels: dict[str, Any]
    shifts: list[dict[str, Any]]


def evaluate_folders(
    pairs: Sequence[CasePair],
    label_names: Mapping[Label, str] | Mapping[int, str],
    *,
    tolerance_mm: float = TOLERANCE_MM,
    num_processes: int,
    progress: bool,
) -> Evaluation:
    """Scores each prediction against its reference.

    Args:
        label_names: as `label_table` gives it. The label named "ignore" is no class: see DEFINITIONS.
        tolerance_mm: of the normalised surface Dice.
        num_processes: cases in memory at a time.

    Raises:
        FileNotFoundError: with every missing file.
        ValueError: if there is nothing to score, or two cases have one name.
        EvaluationError: naming the case, if a file cannot be read, or the two do not fit together.
        UserError: if a process was killed.
    """
    cases = [pair.case for pair in pairs]
    classes = Classes(label_names)
    if not pairs or not classes.names:
        raise ValueError(f"Nothing to score: {len(pairs)} cases, {len(classes.names)} classes")
    twice = sorted(case for case, count in Counter(cases).items() if count > 1)
    if twice:
        raise ValueError(f"Each case is scored once, but these come several times: {', '.join(twice)}")
    missing = [str(file) for pair in pairs for file in (pair.reference, pair.prediction) if not file.is_file()]
    if missing:
        raise FileNotFoundError("\n".join([f"{len(missing)} files are missing:", *missing]))
    example = pairs[0].reference
    if fault := fault_of(example):  # which nnU-Net would try to read, for all its readers
        raise EvaluationError(f"{pairs[0].case}: {fault}")
    try:
        reader = (
            SimpleITKIO  # as nnU-Net's for volumes; its reader of pictures would take 3 or 4 slices for colours
            if ending_of(example.name)
            else determine_reader_writer_from_file_ending(example.suffix, str(example), verbose=False)
        )
    except RuntimeError as error:
        raise EvaluationError(
            f"{pairs[0].case}: nnU-Net has no reader for {example}: give label maps as .nii.gz, .nrrd or .mha"
        ) from error
    scorer = _Scorer(classes, tolerance_mm, reader)
    scores = {
        pair.case: score for pair, score in in_processes(scorer, pairs, num_processes, "scoring", progress=progress)
    }
    ordered = [scores[case] for case in cases]
    return Evaluation(
        classes=pd.DataFrame([row for score in ordered for row in score.classes], columns=CLASS_COLUMNS),
        levels=pd.DataFrame([score.levels for score in ordered], columns=LEVEL_COLUMNS),
        settings={
            "references": sorted({str(pair.reference.parent) for pair in pairs}),
            "predictions": sorted({str(pair.prediction.parent) for pair in pairs}),
            "cases": len(pairs),
            REFERENCE_CHECKSUMS: {pair.reference.name: sha256(pair.reference) for pair in pairs},
            "labels": {str(label): name for label, name in label_names.items()},
            "tolerance_mm": tolerance_mm,
            "versions": {name: version(name) for name in TOOLS},
            "definitions": DEFINITIONS,
        },
        shifts=pd.DataFrame([row for score in ordered for row in score.shifts], columns=SHIFT_COLUMNS),
    )


@dataclass(frozen=True)
class _Scorer:
    """Scores one case; travels to other processes."""

    classes: Classes
    tolerance_mm: float
    reader: type[BaseReaderWriter]

    def __call__(self, pair: CasePair) -> _CaseScores:
        try:
            maps = read_pair(pair, self.classes, self.reader)
            who = {"case": pair.case, "patient": pair.patient}
            reference, prediction = map(self.classes.by_level, (maps.reference, maps.prediction))
            of_levels = maps._replace(reference=reference, prediction=prediction)
            rows = [{**who, **row} for row in (*self._class_rows(maps), *self._junction_rows(of_levels))]
            diagonal = float(np.linalg.norm(np.multiply(maps.reference.shape, maps.spacing)))
            spine = self.classes.spine
            levels: dict[str, Any] = {}
            shifts: list[dict[str, Any]] = []
            if spine:
                match = match_vertebrae(reference, prediction, spine)
                levels = asdict(level_errors(match, spine))
                levels["structures"], levels["own_label_wins"] = level_accuracy(reference, prediction, spine)
                shifts = [{**who, **row} for row in self._shift_rows(maps, reference, match)]
            return _CaseScores(rows, {**who, "diagonal_mm": diagonal, **levels}, shifts)
        except Exception as error:
            raise EvaluationError(f"{pair.case}: {str(error) or type(error).__name__}") from error

    def _class_rows(self, maps: LabelMaps) -> Iterator[dict[str, Any]]:
        """Rows of volume, slices and foreground."""
        boxes = [find_objects(labels) for labels in (maps.reference, maps.prediction)]
        slice_axis = int(np.argmax(maps.spacing))
        for label, name in (*self.classes.names.items(), (FOREGROUND, "foreground")):
            values = tuple(self.classes.values) if label == FOREGROUND else members(label)
            window = _joint_box([box[value - 1] for box in boxes for value in values if value <= len(box)])
            reference, prediction = (
                np.isin(labels[window], values) if window else np.zeros((0,) * labels.ndim, bool)
                for labels in (maps.reference, maps.prediction)
            )
            text = label if isinstance(label, int) else str(label)
            row = {"label": text, "name": name, **_volumes(reference, prediction, maps.spacing)}
            whole = self._mask_scores(reference, prediction, maps.spacing)
            if label == FOREGROUND:
                yield {"view": "foreground", **row, **whole}
            else:
                yield {"view": "volume", **row, **whole}
                yield {"view": "slices", **row, **self._slice_scores(reference, prediction, maps.spacing, slice_axis)}

    def _mask_scores(
        self, reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]
    ) -> dict[str, float]:
        surfaces = surface_scores(reference, prediction, spacing, self.tolerance_mm)
        return {**overlap(reference, prediction)._asdict(), **surfaces._asdict()}

    def _slice_scores(
        self, reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...], axis: int
    ) -> dict[str, float]:
        """Means over the slices across `axis`, see DEFINITIONS."""
        if reference.ndim == 2:
            return self._mask_scores(reference, prediction, spacing)
        in_plane = spacing[:axis] + spacing[axis + 1 :]
        slices = zip(np.moveaxis(reference, axis, 0), np.moveaxis(prediction, axis, 0), strict=True)
        scores = [self._mask_scores(*masks, in_plane) for masks in slices if masks[0].any() or masks[1].any()]
        means = {}
        for metric in METRICS:
            values = np.array([score[metric] for score in scores])
            if metric in DISTANCES and np.isfinite(values).any():
                values = values[np.isfinite(values)]
            means[metric] = float(values.mean()) if len(values) else math.nan
        return means

    def _shift_rows(self, maps: LabelMaps, by_level: np.ndarray, predicted: Match) -> Iterator[dict[str, Any]]:
        """Rows of the label map as it is, and after level decoding; none where the labels have no order.

        Args:
            by_level: the reference, a label for each level.
            predicted: the vertebrae of the label map as it is.
        """
        if self.classes.order is None:
            return
        # Ignored voxels take part in the decoding: without them the spine would have holes.
        decoding = decode(maps.whole.astype(np.uint32), self.classes.order, maps.grid)
        decoded = np.where(maps.ignored, 0, decoding.labels).squeeze().astype(maps.prediction.dtype)
        matched = match_vertebrae(by_level, self.classes.by_level(decoded), self.classes.spine)
        for name, labels, match, flags in (
            (PREDICTED, maps.prediction, predicted, ""),
            (CONSISTENT, decoded, matched, "; ".join(decoding.flags)),
        ):
            dice = [overlap(maps.reference == one, labels == one).dice for one in np.unique(maps.reference) if one]
            yield {
                "label_maps": name,
                **level_shifts(match, self.classes.spine),
                "dice": float(np.mean(dice)) if dice else math.nan,
                "flags": flags,
            }

    def _junction_rows(self, maps: LabelMaps) -> Iterator[dict[str, Any]]:
        """Rows of vertebrae and discs, from the voxels of the band in any order."""
        spine = self.classes.spine
        labels = sorted({label for pair in junctions(spine) for label in pair})
        band = junction_band(maps.reference, maps.spacing, spine)
        reference, prediction = maps.reference[band], maps.prediction[band]
        for label in labels:
            masks = reference == label, prediction == label
            row = {"view": "junctions", "label": label, "name": self.classes.names[label]}
            yield {**row, **_volumes(*masks, maps.spacing), **overlap(*masks)._asdict()}


def _volumes(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> dict[str, float]:
    voxel = math.prod(spacing)
    return {
        "reference_mm3": np.count_nonzero(reference) * voxel,
        "prediction_mm3": np.count_nonzero(prediction) * voxel,
    }


def _joint_box(boxes: Sequence[tuple[slice, ...] | None]) -> tuple[slice, ...]:
    """Smallest box around all of them; () if there is none."""
    found = [box for box in boxes if box is not None]
    return tuple(slice(min(p.start for p in parts), max(p.stop for p in parts)) for parts in zip(*found, strict=True))
