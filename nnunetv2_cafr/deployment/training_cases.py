"""How the cases lie that a network was trained on, and how large they are, from what its training left on the disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

from dataset_conversion.reading import lacks_orientation
from nnunetv2_cafr.levels.field_of_view import height_of
from nnunetv2_cafr.levels.files import grid_of
from nnunetv2_cafr.training.orientation import unoriented_cases
from nnunetv2_cafr.voxel_order import NO_ORDER, properties_of, stored_order_of


@dataclass(frozen=True)
class TrainingCase:
    """One case; both are None where its file does not say how it lies.

    Args:
        order: in which it is stored.
        height: mm that it shows from bottom to top.
    """

    order: str | None
    height: float | None


UNKNOWN = TrainingCase(None, None)


def cases_of_training(
    plans: Mapping[str, Any], description: Mapping[str, Any], folder: Path | None = None
) -> list[TrainingCase]:
    """The training cases, from the first place that tells; none where nothing is left of them.

    These are the preprocessed cases, the raw images, and the label maps of the folds' validation, which are stored as
    their cases are.

    Args:
        plans: content of the plans file.
        description: content of dataset.json.
        folder: of the trained model.
    """
    dataset, ending = plans.get("dataset_name"), description.get("file_ending")
    if not dataset or not ending:
        return []
    if nnUNet_preprocessed.is_set():
        for identifier in {one.get("data_identifier", "") for one in plans["configurations"].values()} - {""}:
            preprocessed = Path(nnUNet_preprocessed.get(), dataset, identifier)
            if preprocessed.is_dir() and any(preprocessed.iterdir()):
                cases = infer_dataset_class(str(preprocessed))(str(preprocessed))
                unknown = unoriented_cases(dataset, description)
                return [
                    UNKNOWN
                    if name in unknown
                    else _of_properties(cases.load_case(name)[3], plans["transpose_backward"])
                    for name in cases.identifiers
                ]
    files: list[Path] = []
    if nnUNet_raw.is_set():
        files = sorted(Path(nnUNet_raw.get(), dataset, "imagesTr").glob(f"*_0000{ending}"))
    if not files and folder is not None:
        files = sorted(folder.glob(f"fold_*/validation/*{ending}"))
    return [_of_file(file) for file in files]


def orders_of(cases: Iterable[TrainingCase]) -> dict[str, int]:
    """How many cases are stored in which voxel order, or in none."""
    return dict(Counter(case.order or NO_ORDER for case in cases).most_common())


def heights_of(cases: Iterable[TrainingCase]) -> tuple[float, float] | None:
    """The smallest and the largest height, in mm; None where a case does not tell its own."""
    heights = [case.height for case in cases]
    known = [height for height in heights if height is not None]
    return (min(known), max(known)) if known and len(known) == len(heights) else None


def _of_properties(properties: Mapping[str, Any], transpose_backward: Sequence[int]) -> TrainingCase:
    """From what nnU-Net's preprocessor keeps of a case."""
    shape = [properties["shape_before_cropping"][axis] for axis in transpose_backward]
    return TrainingCase(stored_order_of(properties), height_of(shape, grid_of(properties)))


def _of_file(file: Path) -> TrainingCase:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        if lacks_orientation(file):
            return UNKNOWN
        reader.ReadImageInformation()
    except RuntimeError:
        return UNKNOWN
    properties = properties_of(reader)
    return TrainingCase(stored_order_of(properties), height_of(reader.GetSize()[::-1], grid_of(properties)))


def spacing_range(preprocessed: Path) -> dict[str, list[float]] | None:
    """Smallest and largest spacing of the training cases in mm, as nnU-Net's reader orders axes; None if unknown."""
    try:
        spacings = json.loads((preprocessed / "dataset_fingerprint.json").read_text(encoding="utf-8"))["spacings"]
        axes = list(zip(*spacings, strict=True))
        return {"smallest": [min(axis) for axis in axes], "largest": [max(axis) for axis in axes]} if axes else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
