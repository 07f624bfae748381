"""The commands of the README in fresh processes: train, continue, predict, export, install elsewhere, predict again."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunetv2_cafr.cli import main

TRAINER = "nnUNetTrainer_CAFR_budget2x3"


@pytest.fixture(scope="module")
def trained(phantom_dataset):
    """Trained for one epoch, then interrupted by taking its final checkpoint away, and continued by --c."""
    folders = phantom_dataset
    folders.run("nnUNetv2_train", 511, "2d", 0, "-tr", TRAINER, "-device", "cpu")
    return folders


def model_folder(folders, trainer: str = TRAINER) -> Path:
    return folders.results / "Dataset511_SpineMRI" / f"{trainer}__nnUNetPlans__2d"


def predict(folders, target: Path, *, workers: int) -> dict[str, np.ndarray]:
    images = folders.raw / "Dataset511_SpineMRI" / "imagesTs"
    which = ["-d", 511, "-c", "2d", "-f", 0, "-tr", TRAINER, "-i", images, "-o", target, "-device", "cpu"]
    folders.run("nnUNetv2_predict", *which, "-npp", workers, "-nps", workers)
    return {path.name: sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in target.glob("*.nii.gz")}


def test_training_leaves_what_nnunet_users_expect(trained):
    fold = model_folder(trained) / "fold_0"
    present = {path.name for path in fold.iterdir()}
    assert {"checkpoint_final.pth", "checkpoint_best.pth", "progress.png", "loss_terms.png", "validation"} <= present
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 2
    (log,) = fold.glob("training_log_*.txt")
    assert "LIMITED TRAINING" in log.read_text()
    assert log.read_text().count("train_loss terms: dice") == 2
    checkpoint = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["trainer_name"] == TRAINER
    assert checkpoint["inference_allowed_mirroring_axes"] == (1,)


def test_continuing_by_c_goes_on_from_the_checkpoint(trained):
    fold = model_folder(trained) / "fold_0"
    final = fold / "checkpoint_final.pth"
    checkpoint = torch.load(final, weights_only=False)
    # what an interruption in the second epoch leaves: the state after the first
    checkpoint["current_epoch"] = 1
    checkpoint["logging"] = {key: value[:1] for key, value in checkpoint["logging"].items()}
    torch.save(checkpoint, fold / "checkpoint_latest.pth")
    final.unlink()
    output = trained.run("nnUNetv2_train", 511, "2d", 0, "-tr", TRAINER, "-device", "cpu", "--c").stdout
    assert "Epoch 1" in output
    assert "Epoch 0" not in output
    again = torch.load(final, weights_only=False)
    assert again["current_epoch"] == 2
    assert again["logging"]["clr_weight"] == [0.0, 0.01]
    assert again["logging"]["train_clr"][0] == checkpoint["logging"]["train_clr"][0]


def test_exported_and_installed_elsewhere_predicts_the_same(trained, make_nnunet_folders: Callable, tmp_path):
    here = predict(trained, tmp_path / "here", workers=1)
    (name,) = here
    image = sitk.ReadImage(
        str(trained.raw / "Dataset511_SpineMRI" / "imagesTs" / name.replace(".nii.gz", "_0000.nii.gz"))
    )
    assert here[name].shape == image.GetSize()[::-1]

    archive = tmp_path / "cafr.zip"
    trained.run("nnUNetv2_export_model_to_zip", "-d", 511, "-o", archive, "-c", "2d", "-tr", TRAINER, "-f", 0)
    elsewhere = make_nnunet_folders()
    elsewhere.run("nnUNetv2_install_pretrained_model_from_zip", archive)
    (elsewhere.raw / "Dataset511_SpineMRI").symlink_to(trained.raw / "Dataset511_SpineMRI")
    there = predict(elsewhere, tmp_path / "there", workers=0)
    assert there.keys() == here.keys()
    np.testing.assert_array_equal(there[name], here[name])


def test_doctor_finds_every_trainer(phantom_dataset):
    output = phantom_dataset.run("nnUNetv2_cafr", "doctor").stdout
    assert "NOT" not in output
    assert "nnunetv2_cafr.training.cafr" in output
    assert "All is well." in output


def test_doctor_says_what_to_do(phantom_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(type(phantom_dataset), "environment", {"PATH": "/usr/bin", "nnUNet_raw": str(tmp_path / "no")})
    result = phantom_dataset.run("nnUNetv2_cafr", "doctor", check=False)
    assert result.returncode == 1
    assert "DOES NOT EXIST" in result.stdout
    assert "export nnUNet_results=" in result.stdout


def test_cost_of_a_plans_file(phantom_dataset, nnunet_environment):
    output = phantom_dataset.run("nnUNetv2_cafr", "cost", "-d", 511, "-c", "2d", "--repeats", 1).stdout
    assert "nnUNetTrainer_CAFR" in output
    with pytest.raises(SystemExit, match="3d_lowres"):
        main(["cost", "-d", "511", "-c", "3d_lowres"])


def test_demo_in_small_and_again(make_nnunet_folders, tmp_path, capsys):
    """The demo's chain with a budget that teaches nothing: it must say so, and skip what is done when run again."""
    folders = make_nnunet_folders()
    out = tmp_path / "demo"
    small = ["demo", "--out", str(out), "--budget", "1x2", "--cases", "5", "1", "--size", "72", "64", "2"]
    first = folders.run("nnUNetv2_cafr", *small, check=False)
    assert first.returncode == 1, first.stdout[-3000:]
    assert "taught it too little" in first.stdout
    scores = (out / "scores.csv").read_text().splitlines()
    assert len(scores) == 2
    assert (out / "demo.png").stat().st_size > 10_000

    assert main(small) == 1
    assert capsys.readouterr().out.count("done before") == 7
    assert (out / "scores.csv").read_text().splitlines() == scores

    with pytest.raises(SystemExit, match="other settings"):
        main(["demo", "--out", str(out), "--budget", "2x2"])
    with pytest.raises(SystemExit, match="which is not a demo's"):
        main(["demo", "--out", str(folders.root)])
