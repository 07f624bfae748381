"""Shifts are counted whatever the shape of a piece, before and after level decoding, and their figure is drawn."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from nnunetv2_cafr.evaluation import means
from nnunetv2_cafr.evaluation.level_errors import match_vertebrae
from nnunetv2_cafr.evaluation.level_shifts import CONSISTENT, PREDICTED, SHIFTS, draw_level_shifts, level_shifts
from nnunetv2_cafr.evaluation.reading import CasePair
from nnunetv2_cafr.evaluation.scores import Evaluation
from nnunetv2_cafr.evaluation.scoring import evaluate_folders

from ..levels.drawn import LABELS, SLICE, STEP, draw

NAMES = {1: "S", 2: "L5", 3: "L4", 4: "L3", 5: "L2", 6: "L1", 7: "T12"}


def column(*labels: int) -> np.ndarray:
    """Blocks of 4x4 voxels from the bottom upwards, with background between."""
    volume = np.zeros((2, 60, 12), int)
    for index, label in enumerate(labels):
        volume[:, 52 - 7 * index : 56 - 7 * index, 4:8] = label
    return volume


def shifts_of(reference: np.ndarray, prediction: np.ndarray, names: dict[int, str]) -> dict[str, int]:
    return level_shifts(match_vertebrae(reference, prediction, names), names)


def test_every_shift():
    reference = column(1, 2, 3, 4, 5, 6)
    prediction = column(1, 3, 2, 0, 7, 2)
    prediction[:, :3, 9:12] = 4  # extra
    counts = shifts_of(reference, prediction, NAMES)
    assert counts == {
        **dict.fromkeys(SHIFTS, 0),
        "0": 1,
        "+1": 1,
        "-1": 1,
        "missed": 1,
        "+2": 1,
        "farther": 1,
        "extra": 1,
    }
    assert shifts_of(reference, reference, NAMES) == {**dict.fromkeys(SHIFTS, 0), "0": 6}


def test_levels_that_few_people_have_are_no_step():
    """L5, L4, L1 and T12 called S, L6, T13 and T13: one level each, where the reference has neither L6 nor T13."""
    names = dict(enumerate(("S", "L6", "L5", "L4", "L3", "L2", "L1", "T13", "T12"), start=1))
    counts = shifts_of(column(3, 7, 9), column(1, 8, 8), names)
    assert {shift: number for shift, number in counts.items() if number} == {"-1": 2, "+1": 1}
    assert shifts_of(column(2, 3, 4), column(2, 1, 2), names)["-2"] == 2


def test_figure(tmp_path):
    table = pd.DataFrame({"predicted": dict.fromkeys(SHIFTS, 1), "decoded": dict.fromkeys(SHIFTS, 2)}).T
    draw_level_shifts(table, tmp_path / "shifts.png")
    assert (tmp_path / "shifts.png").stat().st_size > 5000


IGNORE = 50


def write(path: Path, labels: np.ndarray, order: str = "PIR") -> Path:
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((STEP, STEP, SLICE))
    image.SetDirection((0, 0, -1, 1, 0, 0, 0, -1, 0))
    sitk.WriteImage(sitk.DICOMOrient(image, order), path)
    return path


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """A swap below a voxel-thin ignored slab that cuts a body in two, in another voxel order, and a shift in the middle
    that the decoding leaves."""
    folder = tmp_path_factory.mktemp("maps")
    truth = draw(("L5", "L4", "L3", "L2", "L1", "T12", "T11", "T10"), shape=(6, 240, 100))
    reference, swapped, shifted = truth.labels.copy(), truth.labels.copy(), truth.labels.copy()
    reference[:, int(np.flatnonzero(truth.of("L1").any((0, 2))).mean())] = IGNORE
    swapped[truth.of("L3")], swapped[truth.of("L2")] = LABELS["L2"], LABELS["L3"]
    shifted[(truth.block >= 4) & (truth.labels > 1)] -= 1
    pairs = [
        CasePair("swap", "1", write(folder / "a.nii.gz", reference), write(folder / "b.nii.gz", swapped, "RAS")),
        CasePair("shift", "2", write(folder / "c.nii.gz", truth.labels), write(folder / "d.nii.gz", shifted)),
    ]
    names = {label: name for name, label in LABELS.items() if label} | {IGNORE: "ignore"}
    return evaluate_folders(pairs, names, num_processes=1, progress=False)


def test_before_and_after_level_decoding(evaluation, tmp_path):
    rows = evaluation.shifts.set_index(["case", "label_maps"])
    found = {key: {shift: rows.loc[key, shift] for shift in SHIFTS if rows.loc[key, shift]} for key in rows.index}
    assert found == {
        ("swap", PREDICTED): {"0": 6, "+1": 1, "-1": 1},
        ("swap", CONSISTENT): {"0": 8},
        ("shift", PREDICTED): {"0": 4, "-1": 4},
        ("shift", CONSISTENT): {"0": 4, "-1": 4},
    }
    assert rows.loc[("swap", CONSISTENT), "dice"] == 1
    predicted = evaluation.shifts[evaluation.shifts["label_maps"] == PREDICTED].set_index("case")["dice"]
    pd.testing.assert_series_equal(predicted, means.per_case(evaluation, "dice", "present"))
    table = means.shift_summary(evaluation)
    assert table["0"].tolist() == [10, 12]
    assert table["patients_all_right"].tolist() == [0, 0.5]
    assert table.loc[CONSISTENT, ["better", "worse", "flagged"]].tolist() == [1, 0, 1]
    evaluation.write(tmp_path)
    pd.testing.assert_frame_equal(means.shift_summary(Evaluation.read(tmp_path)), table)


def test_labels_without_order_have_none(tmp_path):
    names = {1: "Anterior", 2: "Posterior"}
    pair = CasePair("a", "a", *[write(tmp_path / "a.nii.gz", np.ones((2, 8, 8), np.uint8))] * 2)
    evaluation = evaluate_folders([pair], names, num_processes=1, progress=False)
    assert evaluation.shifts.empty and means.shift_summary(evaluation).empty
    evaluation.write(tmp_path / "scores")
    assert Evaluation.read(tmp_path / "scores").shifts.empty
    (tmp_path / "scores" / "level_shifts.csv").unlink()
    with pytest.raises(ValueError, match=r"lacks level_shifts.csv.*score them again"):
        Evaluation.read(tmp_path / "scores")
