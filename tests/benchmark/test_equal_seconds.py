"""Lengths that follow from measured seconds per step: each arm its own, measured once, never changed by a later arm."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nnunetv2_cafr.benchmark import fairness, stepping
from nnunetv2_cafr.benchmark.clock import CLOCK_FOLDER, Clock, Measurement
from nnunetv2_cafr.benchmark.jobs import jobs_of, timing
from nnunetv2_cafr.benchmark.matrix import Matrix
from nnunetv2_cafr.commands import benchmark as command
from nnunetv2_cafr.commands.benchmark import _claimed

from .test_fairness import RECORD, write

STEPS = {"LevelSafe": 0.8, "CAFR": 0.3}


def measured(code: str = "3", **step_seconds: float) -> Measurement:
    return Measurement(step_seconds, {name: (value, value) for name, value in step_seconds.items()}, "", "cpu", code)


@pytest.fixture
def matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Matrix:
    """Three arms, two seeds, 10 epochs of 50 iterations and 400 s of stepping; two arms are timed."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    arms = ("LevelSafe", "CAFR", "CAFR-paper")
    return Matrix(
        *("Dataset001_X", "2d", "nnUNetPlans", arms, (0,), (0, 1), "10x50", (100,), (), "cpu"),
        budget_seconds="400",
        clock=Clock((measured(**STEPS),)),
    )


def lengths(matrix: Matrix) -> dict[str, str]:
    return {name: matrix.trainer(one) for name, one in matrix.first_trainings(equal_seconds=True).items()}


def test_the_cheaper_step_gives_more_iterations(matrix):
    assert lengths(matrix) == {
        "LevelSafe": "nnUNetTrainer_LevelSafe_seed0_budget10x50",  # 400 s / 0.8 s
        "CAFR": "nnUNetTrainer_CAFR_seed0_budget27x50",  # 400 s / 0.3 s = 26.7 x 50
    }
    by_arm = dataclasses.replace(matrix, budget_seconds="LevelSafe")
    assert by_arm.seconds == pytest.approx(400) and lengths(by_arm) == lengths(matrix)
    assert lengths(dataclasses.replace(matrix, budget_seconds="1"))["CAFR"].endswith("_budget1x50"), "at least an epoch"


def test_full_lengths_stand_beside_equal_seconds(matrix):
    """The arm that gives the seconds trains as long as nnU-Net does."""
    full = dataclasses.replace(matrix, budget="full", budget_seconds="LevelSafe")
    for training in full.trainings():
        epochs, iterations = full.length_of(training).counts
        settings = {**RECORD["settings"], "num_epochs": epochs, "num_iterations_per_epoch": iterations}
        write(full, training, {**RECORD, "device": "cpu", "settings": settings})
    assert [line for line in fairness.differences(full) if line.startswith("num_epochs")] == []


def test_what_whole_epochs_take_is_told(matrix):
    line, _ = command.lengths(dataclasses.replace(matrix, budget_seconds="30"))
    assert line == "LevelSafe: 0.8 s a step, 1 epoch of 50 iterations in 40 s, where 30 s are asked"
    line, _ = command.lengths(dataclasses.replace(matrix, budget="full", budget_seconds="LevelSafe"))
    assert "1000 epochs of 250 iterations in 200,000 s" in line


def test_a_training_that_serves_both_comparisons_runs_once(matrix, tmp_path):
    jobs = jobs_of(matrix, tmp_path)
    trained = [job.command[5] for job in jobs if job.command[0] == "nnUNetv2_train"]
    assert len(set(trained)) == len(trained) == 2 * 4  # seeds; LevelSafe, CAFR twice, the paper's recipe
    scored = {str(job.output.parent.relative_to(tmp_path)) for job in jobs if job.name.startswith("score")}
    assert "evaluation/equal-seconds/LevelSafe/seed1/fold0-10x50" in scored
    assert "evaluation/equal-seconds/CAFR/seed1/fold0-27x50" in scored, "not taken for the scores of another length"
    assert "evaluation/validation/LevelSafe/seed1/fold0" in scored
    assert not any("equal-seconds/CAFR-paper" in name for name in scored), "it has its own length"


def test_an_arm_that_joins_is_measured_beside_an_old_one_and_changes_no_length(matrix, tmp_path):
    (first,) = timing(dataclasses.replace(matrix, clock=Clock()), tmp_path)
    assert first.output == tmp_path / CLOCK_FOLDER / "1.json" and first.command[-2:] == ("LevelSafe", "CAFR")
    assert timing(matrix, tmp_path) == []
    more = dataclasses.replace(matrix, arms=(*matrix.arms, "ResEncM"))
    (second,) = timing(more, tmp_path)
    assert second.output.name == "2.json" and second.command[-2:] == ("LevelSafe", "ResEncM")
    assert not more.first_trainings(equal_seconds=True), "no lengths before all are timed"
    # The machine is twice as slow this time.
    later = dataclasses.replace(more, clock=Clock((measured(**STEPS), measured(LevelSafe=1.6, ResEncM=4.0))))
    assert later.clock.step_seconds == pytest.approx({**STEPS, "ResEncM": 2.0})
    assert lengths(matrix).items() <= lengths(later).items()


def test_the_clock_is_read_from_its_folder(matrix, tmp_path):
    (tmp_path / CLOCK_FOLDER).mkdir()
    for number, one in ((1, measured(**STEPS)), (2, measured(LevelSafe=0.4, UNet=0.2))):
        (tmp_path / CLOCK_FOLDER / f"{number}.json").write_text(json.dumps(dataclasses.asdict(one)))
    with _claimed(tmp_path / "folder", matrix):
        pass
    (tmp_path / CLOCK_FOLDER).rename(tmp_path / "folder" / CLOCK_FOLDER)
    read = Matrix.read(tmp_path / "folder")
    assert read.clock.step_seconds == pytest.approx({**STEPS, "UNet": 0.4})
    assert dataclasses.replace(read, clock=matrix.clock) == matrix


def test_seconds_may_be_added_and_not_changed(matrix, tmp_path):
    folder = tmp_path / "folder"
    for seconds in ("", "400"):
        with _claimed(folder, dataclasses.replace(matrix, budget_seconds=seconds)):
            pass
    with (
        pytest.raises(SystemExit, match="budget_seconds 400, not 500"),
        _claimed(folder, dataclasses.replace(matrix, budget_seconds="500")),
    ):
        pass


def test_a_call_that_is_refused_changes_nothing_of_the_benchmark_at_work(matrix, tmp_path):
    folder = tmp_path / "folder"
    with _claimed(folder, matrix):
        with pytest.raises(SystemExit, match="at work"), _claimed(folder, dataclasses.replace(matrix, arms=("CAFR",))):
            pass
        assert Matrix.read(folder).arms == matrix.arms
    with _claimed(folder, dataclasses.replace(matrix, arms=("CAFR",))):
        assert Matrix.read(folder).arms == ("CAFR",)


def test_no_report_before_every_step_is_measured(matrix):
    with pytest.raises(SystemExit, match="the seconds per step of CAFR are not measured"):
        fairness.check_after(dataclasses.replace(matrix, clock=Clock((measured(LevelSafe=0.8),))))


def test_an_arm_joins_where_the_first_one_was_left_out(matrix, monkeypatch):
    arm = SimpleNamespace(device=torch.device("cpu"), batch={"data": torch.zeros(1)}, training_step=lambda: None)
    monkeypatch.setattr(stepping, "SteppingArm", lambda matrix, training: arm)
    later = dataclasses.replace(matrix, arms=("CAFR", "ResEncM"))
    measured = stepping.measure(later, later.clock.to_measure(later.untimed()))
    assert list(measured.step_seconds) == ["LevelSafe", "ResEncM"]


def test_an_ensemble_of_other_folds_is_predicted_and_scored_anew(matrix, tmp_path):
    def external(*folds: int) -> set[Path]:
        jobs = jobs_of(dataclasses.replace(matrix, folds=folds, externals=("Dataset002_Y",)), tmp_path)
        return {job.output for job in jobs if "Dataset002_Y" in job.name}

    assert len(external(0)) == 2 * 3 * 2  # prediction and scores, arms, seeds
    assert not external(0) & external(0, 1)
    assert external(1, 0) == external(0, 1)
