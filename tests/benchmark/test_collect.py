"""From a benchmark's folders to its page: two comparisons, seeds, held-out patients; scores are made up."""

import csv
import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

from nnunetv2_cafr.benchmark import collect
from nnunetv2_cafr.benchmark.clock import CLOCK_FOLDER, Measurement
from nnunetv2_cafr.benchmark.jobs import EQUAL_SECONDS, external_scores, references_of, scores_of
from nnunetv2_cafr.benchmark.matrix import Matrix
from nnunetv2_cafr.cli import main
from nnunetv2_cafr.commands.benchmark import _claimed
from nnunetv2_cafr.evaluation.means import nnunet_means
from nnunetv2_cafr.evaluation.scores import REFERENCE_CHECKSUMS, SETTINGS_FILE, Evaluation
from nnunetv2_cafr.files import sha256
from nnunetv2_cafr.training.continuation import BEST_VALIDATED

from ..report.synthetic_study import NAMES, evaluation
from .test_fairness import RECORD, write

SPLIT = {"train": ["a", "b"], "val": [f"case_{patient:03d}_0" for patient in range(7)]}
DICE = {("validation", "LevelSafe"): 0.80, ("validation", "CAFR"): 0.85}
DICE |= {(EQUAL_SECONDS, "LevelSafe"): 0.80, (EQUAL_SECONDS, "CAFR"): 0.90}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished benchmark of two arms and two seeds; CAFR steps in half the time."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    fixed = ("Dataset001_X", "2d", "nnUNetPlans", ("LevelSafe", "CAFR"), (0,), (0, 1), "2x4", (100,), (), "cpu")
    folder = tmp_path / "benchmark"
    with _claimed(folder, Matrix(*fixed, budget_seconds="LevelSafe")):
        pass
    clock = Measurement({"LevelSafe": 2.0, "CAFR": 1.0}, {}, "a quiet machine", "cpu", RECORD["nnunetv2-cafr code"])
    (folder / CLOCK_FOLDER).mkdir()
    (folder / CLOCK_FOLDER / "1.json").write_text(json.dumps(dataclasses.asdict(clock)))
    matrix = Matrix.read(folder)
    labels = {"background": 0, **{name: label for label, name in enumerate(NAMES, 1)}}
    description = {"labels": labels, "channel_names": {"0": "MR"}, "file_ending": ".nii.gz"}
    for place in (matrix.raw, matrix.preprocessed):
        place.mkdir(parents=True)
        (place / "dataset.json").write_text(json.dumps(description))
    patients = {case: {"patient": f"patient {number}"} for number, case in enumerate(SPLIT["val"] + SPLIT["train"])}
    (matrix.raw / "provenance.json").write_text(json.dumps({"cases": patients}))
    (matrix.preprocessed / "splits_final.json").write_text(json.dumps([SPLIT]))
    matrix.plans_file("nnUNetPlans").write_text(json.dumps({"configurations": {"2d": RECORD["configuration"]}}))
    extra = {"split": SPLIT, "nnunetv2-cafr git revision": None, "device": "cpu"}
    for training in matrix.trainings():
        epochs = matrix.length_of(training).epochs
        write(matrix, training, {**RECORD, **extra, "settings": {**RECORD["settings"], "num_epochs": epochs}})
        curves = {"train_losses": [1.0] * epochs}
        (matrix.fold_folder(training) / "training_curves.json").write_text(json.dumps(curves))
    for training in matrix.trainings():
        section = EQUAL_SECONDS if training.equal_seconds else "validation"
        scores = evaluation(DICE[section, training.arm.name], 7, training.seed)
        scores.write(scores_of(matrix, training, folder))
    return folder


def test_both_comparisons_stand_side_by_side_with_steps_and_iterations(folder):
    page = collect.report(folder, "the command").read_text(encoding="utf-8")
    for words in ("Held-out patients", "Equal seconds: 16 s", "At 16 s of stepping: level-safe", "a quiet machine"):
        assert words in page
    assert "Cross-validation" not in page
    tables = folder / "report" / "tables"
    rows = list(csv.DictReader((tables / "equal_seconds.csv").open()))
    dice = {row["Arm"]: row for row in rows if row["measure"].startswith("level-safe: Dice, %")}
    assert [dice["CAFR"][name] for name in ("Seconds a step", "Iterations, equal iterations", "Iterations, 16 s")] == [
        *("1.0", "8", "16")
    ]
    assert dice["LevelSafe"]["Iterations, 16 s"] == "8"
    assert float(dice["CAFR"]["Value, 16 s"]) > float(dice["CAFR"]["Value, equal iterations"]) + 4
    assert float(dice["LevelSafe"]["Minus reference, 16 s"]) < -8
    measures = {row["measure"].split(": ")[1].split(",")[0] for row in rows}
    assert {
        "Dice",
        "Dice of vertebrae",
        "Dice of discs",
        "NSD",
        "HD95",
        "Level accuracy",
        "All levels right",
    } <= measures
    for name in ("seeds", "equal-seconds_seeds", "equal-seconds_statistics"):
        assert (tables / f"{name}.csv").is_file()


def refusal(folder: Path) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(folder)])
    return str(stopped.value)


def test_arms_whose_epochs_miss_the_seconds_are_told(folder):
    notes = collect._notes(dataclasses.replace(Matrix.read(folder), budget_seconds="20"))
    assert any("Of these 20 s, whole epochs take LevelSafe 16 s:" in note for note in notes)


def test_lengths_that_do_not_follow_from_the_seconds_are_refused(folder):
    file = folder / CLOCK_FOLDER / "1.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "step_seconds": {"LevelSafe": 2.0, "CAFR": 0.5}}))
    with pytest.raises(SystemExit, match=r"budget8x4.* is not finished"):
        collect.report(folder, "the command")


def test_cases_without_known_patients_are_told(folder):
    matrix = Matrix.read(folder)
    assert not any("provenance.json" in note for note in collect._notes(matrix))
    (matrix.raw / "provenance.json").unlink()
    assert any(note.startswith("Dataset001_X has no provenance.json") for note in collect._notes(matrix))


def test_scores_of_other_cases_than_the_fold_validates_are_refused(folder):
    """All arms have them: left in the folders by trainings of an earlier split, say."""
    matrix = Matrix.read(folder)
    for training in matrix.trainings():
        evaluation(0.8, 8, training.seed).write(scores_of(matrix, training, folder))
    assert "has scores of case_007_0, which are none of its cases" in refusal(folder)


def test_scores_by_other_patients_than_are_known_now_are_refused(folder):
    """By a provenance.json that was corrected when all was scored."""
    patients = {case: {"patient": "the same"} for case in SPLIT["val"] + SPLIT["train"]}
    (Matrix.read(folder).raw / "provenance.json").write_text(json.dumps({"cases": patients}))
    assert "counts case_000_0, " in refusal(folder)


def test_scores_of_an_earlier_training_are_refused(folder):
    """One that was repeated by nnUNetv2_train, say."""
    matrix = Matrix.read(folder)
    training = next(matrix.trainings())
    file, summary = scores_of(matrix, training, folder), matrix.fold_folder(training) / "validation" / "summary.json"
    dice, _ = nnunet_means(Evaluation.read(file), "dice")
    for change, known in ((0.0, True), (0.01, False)):
        summary.write_text(json.dumps({"mean": {name: {"Dice": one + change} for name, one in dice.items()}}))
        os.utime(summary, (2e9, 2e9))
        if known:  # the folders were copied
            collect._validation_scores(matrix, training, folder)
        else:
            assert f"{file} has scores of an earlier training" in refusal(folder)


def test_scores_against_references_that_were_corrected_since_are_refused(folder):
    matrix = Matrix.read(folder)
    reference = references_of(matrix) / "case_000_0.nii.gz"
    reference.parent.mkdir()
    reference.write_bytes(b"before")
    training = next(matrix.trainings())
    file = scores_of(matrix, training, folder)
    scores = Evaluation.read(file)
    scores.settings[REFERENCE_CHECKSUMS] = {reference.name: sha256(reference)}
    scores.write(file)
    collect._validation_scores(matrix, training, folder)
    reference.write_bytes(b"corrected")
    assert f"{file} was made against other label maps than {reference.parent} holds now" in refusal(folder)


def test_scores_of_different_definitions_are_refused(folder):
    matrix = Matrix.read(folder)
    file = scores_of(matrix, next(matrix.trainings()), folder) / SETTINGS_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "tolerance_mm": 3.0}))
    assert "other versions, definitions or tolerances scored" in refusal(folder)
    file.unlink()
    assert f"{file} is missing: give the benchmark's line" in refusal(folder)


def test_external_scores_are_of_the_cases_that_are_there(folder):
    matrix, other = Matrix.read(folder), "Dataset002_Y"
    shutil.copytree(matrix.raw, matrix.raw.with_name(other))
    evaluation(0.8, 7, 0).write(external_scores(matrix, folder, other, "CAFR", 0))
    collect._external_scores(matrix, folder, other, SPLIT["val"], "CAFR", 0)
    with pytest.raises(ValueError, match=r"has scores of case_000_0, .*: remove .*predictions"):
        collect._external_scores(matrix, folder, other, SPLIT["val"][1:], "CAFR", 0)
    one_arm = dataclasses.replace(matrix, arms=("CAFR",), seeds=(0,))
    assert list(collect._older_than_trainings(one_arm, folder, other)) == []
    (training,) = collect._trainings(one_arm, "CAFR")
    os.utime(matrix.fold_folder(training) / "validation" / "summary.json", (2**32, 2**32))  # trained again
    assert list(collect._older_than_trainings(one_arm, folder, other)) == ["CAFR fold 0 seed 0"]


def test_what_all_arms_share_is_told_of_the_shared_plans(folder):
    """Whichever arm comes first."""
    matrix = dataclasses.replace(Matrix.read(folder), arms=("ResEncM", "CAFR"))
    training = next(matrix.trainings())
    write(matrix, training, {**RECORD, "configuration": {**RECORD["configuration"], "batch_size": 7}})
    assert collect._shared_record(matrix)["configuration"]["batch_size"] == 9


def test_a_benchmark_of_another_version_is_refused(folder):
    file = folder / "benchmark.json"
    content = json.loads(file.read_text())
    for other in ({"arms": ["CAFR", "Gone"]}, {"new": 1}):
        file.write_text(json.dumps({**content, **other}))
        assert "that this version of nnunetv2-cafr does not read" in refusal(folder)


def test_without_nnunets_folders_there_is_no_report(folder, monkeypatch):
    monkeypatch.delenv("nnUNet_results")
    assert refusal(folder).startswith("nnUNet_results is not set")


def test_maps_of_the_best_checkpoint_are_not_reported_as_the_final_one_s(folder):
    matrix = Matrix.read(folder)
    predictions = matrix.fold_folder(next(iter(matrix.trainings()))) / "validation"
    (predictions / BEST_VALIDATED).touch()
    with pytest.raises(SystemExit, match="best checkpoint"):
        collect.report(folder, "the command")


def test_a_prediction_that_was_deleted_stays_among_the_cases_to_draw(folder):
    """So that the page names it, and no other case is called the worst."""
    assert [case for case, _ in collect._files(Matrix.read(folder), "CAFR", ".nii.gz")] == SPLIT["val"]
