"""The command: what it would run, what it refuses, and one benchmark from training to report."""

import json
import os
import shutil
from pathlib import Path

import pytest
import SimpleITK as sitk

from nnunetv2_cafr.benchmark.arms import ARMS, parse_budget
from nnunetv2_cafr.cli import main

DATASET = "Dataset511_SpineMRI"


@pytest.fixture
def benchmark(nnunet_environment, tmp_path):
    """Runs the verb in this process, on the phantom, and returns its exit status."""

    def run(*arguments: object) -> int:
        options = ["benchmark", "-d", 511, "-device", "cpu", "-o", tmp_path / "benchmark", *arguments]
        return main([str(option) for option in options])

    return run


def test_dry_run_prints_nnunets_own_commands_and_touches_nothing(benchmark, tmp_path, capsys):
    arguments = ["--arms", "CAFR", "ResEncM", "-f", 0, 1, "--seeds", 3, "--budget", "2x5", "--train-fraction", 0.5]
    assert benchmark(*arguments, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "nnUNetv2_plan_experiment -d 511 -pl nnUNetPlannerResEncM"
    trainings = [line for line in lines if line.startswith("nnUNetv2_train")]
    assert len(trainings) == 2 * 2 * 2  # arms, folds, shares of the patients
    cafr = f"nnUNetv2_train {DATASET} 2d 1 -tr nnUNetTrainer_CAFR_seed3_budget2x5 -p nnUNetPlans -device cpu --c"
    half = f"nnUNetv2_train {DATASET} 2d 0 -tr nnUNetTrainer_LevelSafe_seed3_train50percent_budget2x5"
    assert cafr in trainings
    assert sum(line.startswith(half) and "-p nnUNetResEncUNetMPlans" in line for line in trainings) == 1
    assert not (tmp_path / "benchmark").exists()


def test_an_external_set_that_is_named_twice_is_predicted_once(benchmark, capsys):
    assert benchmark("--arms", "CAFR", "-f", 0, "--external", 511, DATASET, "--dry-run") == 0
    assert capsys.readouterr().out.count("nnUNetv2_predict") == 1


def test_equal_seconds_wait_for_the_measurement(benchmark, tmp_path, capsys):
    arguments = ["--arms", "CAFR", "LevelSafe", "-f", 0, "--budget", "4x5", "--dry-run", "--budget-seconds"]
    assert benchmark(*arguments, "LevelSafe") == 0
    printed = capsys.readouterr().out
    assert printed.count("nnUNetv2_train") == 2
    assert "# And those of equal seconds, when the steps of CAFR, LevelSafe have been measured" in printed

    (tmp_path / "benchmark" / "seconds_per_step").mkdir(parents=True)
    one = {"step_seconds": {"CAFR": 1, "LevelSafe": 2.5}, "spread": {}, "conditions": "", "device": "cpu", "code": ""}
    (tmp_path / "benchmark" / "seconds_per_step" / "1.json").write_text(json.dumps(one))
    assert benchmark(*arguments, "LevelSafe") == 0
    trained = [line.split()[5] for line in capsys.readouterr().out.splitlines() if line.startswith("nnUNetv2_train")]
    expected = ("CAFR_seed0_budget4x5", "LevelSafe_seed0_budget4x5", "CAFR_seed0_budget10x5")
    assert trained == [f"nnUNetTrainer_{name}" for name in expected]

    with pytest.raises(SystemExit, match="belongs to --budget-seconds"):
        benchmark("--measure-seconds", "--dry-run")
    with pytest.raises(SystemExit, match="ResEncM is no arm of this comparison"):
        benchmark(*arguments, "ResEncM")


def test_what_is_done_is_not_listed(benchmark, nnunet_environment, capsys):
    done = (
        nnunet_environment / DATASET / "nnUNetTrainer_CAFR_seed0_budget2x4__nnUNetPlans__2d" / "fold_0" / "validation"
    )
    done.mkdir(parents=True)
    (done / "summary.json").write_text("{}")
    assert benchmark("--arms", "CAFR", "-f", 0, 1, "--budget", "smoke", "--dry-run") == 0
    (training,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("nnUNetv2_train")]
    assert training.split()[3] == "1"


def test_folds_that_cannot_be_are_refused_in_the_dry_run_too(benchmark, nnunet_environment, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"no fold 7: .* 0 (1 2 3|to) 4$"):
        benchmark("-f", 0, 7, "--dry-run")
    preprocessed, raw = (Path(os.environ[name]) / DATASET for name in ("nnUNet_preprocessed", "nnUNet_raw"))
    copies = {name: tmp_path / name for name in ("nnUNet_preprocessed", "nnUNet_raw")}
    for name, source in (("nnUNet_preprocessed", preprocessed), ("nnUNet_raw", raw)):
        shutil.copytree(source, copies[name] / DATASET)
        monkeypatch.setenv(name, str(copies[name]))
    # which a training of another test may have left
    (copies["nnUNet_preprocessed"] / DATASET / "splits_final.json").unlink(missing_ok=True)
    file = copies["nnUNet_raw"] / DATASET / "provenance.json"
    provenance = json.loads(file.read_text())
    for number, entry in enumerate(provenance["cases"].values()):
        entry["patient"] = str(number % 3)
    file.write_text(json.dumps(provenance))
    with pytest.raises(SystemExit, match="6 training cases of 3 patients, too few for 5 folds"):
        benchmark("-f", 0, "--dry-run")
    (copies["nnUNet_preprocessed"] / DATASET / "splits_final.json").write_text('[{"train": [], "val": []}]')
    with pytest.raises(SystemExit, match=r"has no fold 1: give those that it has, -f 0$"):
        benchmark("-f", 0, 1, "--dry-run")
    for cut, reason in (('[{"train"', "cannot be read"), ("{}", "expected a list")):
        (copies["nnUNet_preprocessed"] / DATASET / "splits_final.json").write_text(cut)
        with pytest.raises(SystemExit, match=reason):
            benchmark("-f", 0, "--dry-run")


def test_a_configuration_that_is_not_planned_is_refused_in_the_dry_run_too(benchmark):
    with pytest.raises(SystemExit, match=r"no configuration '2dd', only 2d.*: give one of these by -c$"):
        benchmark("-c", "2dd", "--arms", "CAFR", "-f", 0, "--dry-run")


def test_arms_that_cannot_train_on_these_data_are_left_out_or_refused(benchmark, capsys):
    assert benchmark("-c", "3d_fullres", "-f", 0, "--budget", "smoke", "--dry-run") == 0
    printed = capsys.readouterr()
    for name in ("SwinUNet", "TransUNet", "CAFR-paper"):
        assert f"{name} is left out: it is 2-D" in printed.err
        assert f"{ARMS[name].trainer}_seed" not in printed.out
    assert printed.out.count("nnUNetv2_train") == len(ARMS) - 3
    with pytest.raises(SystemExit, match=r"Nothing was started: TransUNet is 2-D, and patches have 3 axes"):
        benchmark("-c", "3d_fullres", "--arms", "CAFR", "TransUNet", "-f", 0, "--dry-run")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "0x5"], "EPOCHSxITERATIONS"),
        (["--train-fraction", "1.5"], "a share is"),
        (["--arms", "Nothing"], "invalid choice"),
        (["--budget-seconds", "Nothing"], "whole seconds, or the name of an arm"),
    ],
)
def test_arguments_are_checked(arguments, message, benchmark, capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark(*arguments, "--dry-run")
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_budgets_are_in_the_trainers_names():
    assert [parse_budget(name).suffix for name in ("smoke", "short", "full", "7x9")] == [
        "_budget2x4",
        "_budget100x250",
        "",
        "_budget7x9",
    ]
    assert parse_budget("1x3").words == "1x3: 1 epoch of 3 iterations"


def test_each_network_of_the_papers_tables_has_an_arm():
    printed = {arm.printed_as for arm in ARMS.values()} - {""}
    assert printed == {"CAFR-Net", "U-Net", "Attention U-Net", "Swin-Unet", "TransUNet", "neither", "+ LAFR", "+ CLR"}


@pytest.mark.slow
def test_from_training_to_report(phantom_dataset, tmp_path):
    pytest.importorskip("snakemake", reason="the extra [cluster] is not installed (it needs Python 3.11)")
    # The external data: the same phantoms, a little brighter, predicted and scored as if they were others.
    external = phantom_dataset.raw / "Dataset520_SpineMRI"
    shutil.copytree(phantom_dataset.raw / DATASET, external)
    for image in (external / "imagesTr").iterdir():
        sitk.WriteImage(sitk.ReadImage(str(image)) + 1, str(image))
    phantom_dataset.run("nnUNetv2_cafr", "split", "-d", 511)
    folder = tmp_path / "benchmark"
    line = ["benchmark", "-d", 511, "-f", 0, "--budget", "1x2", "-device", "cpu", "-o", folder]
    line += ["--train-fraction", 0.5, "--external", 520, "--budget-seconds", "LevelSafe"]

    phantom_dataset.run("nnUNetv2_cafr", *line, "--arms", "CAFR", "LevelSafe")
    records = list(phantom_dataset.results.glob("*/*_budget1x2__*/fold_0/training_record.json"))
    assert len(records) == 4  # two arms on all and on half of the patients
    written = {record: record.stat().st_mtime_ns for record in records}
    page = (folder / "report" / "report.html").read_text(encoding="utf-8")
    for heading in ("Held-out patients", "External: Dataset520_SpineMRI", "Trained on 50 % of the patients"):
        assert heading in page
    assert "Equal iterations beside equal seconds" in page
    clock = (folder / "seconds_per_step" / "1.json").read_text()
    costs = json.loads((folder / "cost.json").read_text())["arms"]
    assert all(value > 0 for cost in costs.values() for key, value in cost.items() if key != "spread")

    # One more arm trains alone; what was there is not touched.
    phantom_dataset.run("nnUNetv2_cafr", *line, "--arms", "CAFR", "LevelSafe", "CAFR-noCLR")
    assert {record: record.stat().st_mtime_ns for record in records} == written
    assert (folder / "seconds_per_step" / "1.json").read_text() == clock
    assert list(json.loads((folder / "seconds_per_step" / "2.json").read_text())["step_seconds"]) == [
        "CAFR",
        "CAFR-noCLR",
    ]
    assert "CAFR-noCLR" in (folder / "report" / "tables" / "results.csv").read_text()

    # A record that says that another code trained an arm: no report, and the reason.
    changed = json.loads(records[0].read_text())
    changed[0]["nnunetv2-cafr code"] = "another"
    records[0].write_text(json.dumps(changed))
    refused = phantom_dataset.run("nnUNetv2_cafr", "report", folder, check=False)
    assert refused.returncode != 0 and "version of nnunetv2-cafr's code" in refused.stdout
