"""Dice of label maps, per case: all structures together, and level by level.

Dice of a structure is 2 |R and P| / (|R| + |P|) over a case's voxels, nnU-Net's definition. A structure is *present* in
a case when the reference holds it; averaging only those keeps absent levels out, which otherwise count as 0, 1 or
nothing depending on the tool and move a mean by more than ten points. A structure that is predicted but absent shows
up in `foreground_dice` only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk


@dataclass(frozen=True)
class CaseScore:
    """Overlap of one case. `dice` maps each label that is present in the reference to its Dice."""

    case: str
    foreground_dice: float
    dice: dict[int, float]

    @property
    def present_class_dice(self) -> float:
        """Mean Dice of the labels present in this case; NaN where there is none."""
        return float(np.mean(list(self.dice.values()))) if self.dice else float("nan")


def score_case(case: str, reference: np.ndarray, prediction: np.ndarray) -> CaseScore:
    """Scores one label map (any shape, 0 = background) against its reference of the same shape.

    Raises:
        ValueError: if the shapes differ.
    """
    if reference.shape != prediction.shape:
        raise ValueError(f"{case}: the reference has shape {reference.shape}, the prediction {prediction.shape}")
    size = int(max(reference.max(), prediction.max())) + 1
    pairs = np.bincount(reference.ravel().astype(np.int64) * size + prediction.ravel(), minlength=size**2)
    confusion = pairs.reshape(size, size)  # [reference, prediction]
    in_reference, in_prediction = confusion.sum(1), confusion.sum(0)
    total = in_reference[1:].sum() + in_prediction[1:].sum()
    return CaseScore(
        case=case,
        foreground_dice=float(2 * confusion[1:, 1:].sum() / total) if total else float("nan"),
        dice={
            int(label): float(2 * confusion[label, label] / (in_reference[label] + in_prediction[label]))
            for label in np.flatnonzero(in_reference)
            if label != 0
        },
    )


def score_folders(reference_folder: Path, prediction_folder: Path, file_ending: str = ".nii.gz") -> Iterator[CaseScore]:
    """Scores every reference against the prediction of the same name, one case in memory at a time.

    Raises:
        FileNotFoundError: if there is no reference, or a reference has no prediction.
    """
    references = sorted(reference_folder.glob(f"*{file_ending}"))
    if not references:
        raise FileNotFoundError(f"No reference *{file_ending} in {reference_folder}")
    missing = [path.name for path in references if not (prediction_folder / path.name).is_file()]
    if missing:
        raise FileNotFoundError(f"{prediction_folder} lacks a prediction for {', '.join(missing)}")
    for path in references:
        reference, prediction = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in (path, prediction_folder / path.name)
        )
        yield score_case(path.name.removesuffix(file_ending), reference, prediction)
