"""The commands of the README in fresh processes: the demo's, continue, export, install elsewhere, predict again."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from nnunetv2_cafr.cli import main

TRAINER = "nnUNetTrainer_CAFR_budget2x3"
DATASET = "Dataset511_SpineMRI"
IMAGES = "Dataset512_SpineMRI/imagesTr"  # of the case that is held out
MODEL = f"{DATASET}/{TRAINER}__nnUNetPlans__2d"
DEMO = ["--budget", "2x3", "--cases", "5", "1", "--size", "72", "64", "2"]


@pytest.fixture(scope="module")
def demo(make_nnunet_folders: Callable):
    """The demo's whole chain, convert to relabel, with a budget that teaches nothing: its folders, and what it said."""
    folders = replace((empty := make_nnunet_folders()), root=empty.root / "demo")
    result = folders.run("nnUNetv2_cafr", "demo", "--out", folders.root, *DEMO, check=False)
    assert result.returncode == 1, result.stdout[-3000:]
    return folders, result.stdout


@pytest.fixture(scope="module")
def trained(demo):
    return demo[0]


def read_maps(folder) -> dict[str, np.ndarray]:
    return {path.name: sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in folder.glob("*.nii.gz")}


def test_the_demo_says_that_it_taught_too_little_and_skips_what_is_done(demo, capsys):
    folders, said = demo
    out = folders.root
    assert "taught it too little" in said
    scores = (out / "scores.csv").read_text().splitlines()
    assert len(scores) == 2
    with Image.open(out / "demo.png") as picture:
        assert picture.size == (4 * 385, 429)  # a case's image, reference, prediction, and that with consistent levels

    assert main(["demo", "--out", str(out), *DEMO]) == 1
    assert capsys.readouterr().out.count("done before") == 7
    assert (out / "scores.csv").read_text().splitlines() == scores

    # As after a kill while predicting, when nnU-Net has written plans.json and no label map yet.
    (out / "done.json").write_text(json.dumps(json.loads((out / "done.json").read_text())[:5]))
    (predicted,) = (out / "predictions").glob("*.nii.gz")
    predicted.unlink()
    assert main(["demo", "--out", str(out), *DEMO]) == 1
    assert capsys.readouterr().out.count("done before") == 5
    assert (out / "scores.csv").read_text().splitlines() == scores

    with pytest.raises(SystemExit, match="other settings"):
        main(["demo", "--out", str(out), "--budget", "2x2"])
    with pytest.raises(SystemExit, match="which is not a demo's"):
        main(["demo", "--out", str(folders.raw)])


def test_training_leaves_what_nnunet_users_expect(trained):
    fold = trained.results / MODEL / "fold_0"
    present = {path.name for path in fold.iterdir()}
    assert {"checkpoint_final.pth", "checkpoint_best.pth", "progress.png", "loss_terms.png", "validation"} <= present
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 1
    (log,) = fold.glob("training_log_*.txt")
    assert "LIMITED TRAINING" in log.read_text()
    assert log.read_text().count("train_loss terms: dice") == 2
    checkpoint = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["trainer_name"] == TRAINER
    assert checkpoint["inference_allowed_mirroring_axes"] == (1,)


def test_continuing_by_c_goes_on_from_the_checkpoint(trained, make_nnunet_folders):
    folders = make_nnunet_folders()
    (folders.raw / DATASET).symlink_to(trained.raw / DATASET)
    (folders.preprocessed / DATASET).symlink_to(trained.preprocessed / DATASET)
    shutil.copytree(trained.results / MODEL, folders.results / MODEL)
    final = folders.results / MODEL / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(final, weights_only=False)
    # what an interruption in the second epoch leaves: the state after the first
    checkpoint["current_epoch"] = 1
    checkpoint["logging"] = {key: value[:1] for key, value in checkpoint["logging"].items()}
    torch.save(checkpoint, final.with_name("checkpoint_latest.pth"))
    final.unlink()
    output = folders.call("nnUNetv2_train", 511, "2d", 0, "-tr", TRAINER, "-device", "cpu", "--c")
    assert "Epoch 1" in output
    assert "Epoch 0" not in output
    again = torch.load(final, weights_only=False)
    assert again["current_epoch"] == 2
    assert again["logging"]["clr_weight"] == [0.0, 0.01]
    assert again["logging"]["train_clr"][0] == checkpoint["logging"]["train_clr"][0]


def test_exported_and_installed_elsewhere_predicts_the_same(trained, make_nnunet_folders, tmp_path):
    here = read_maps(trained.root / "predictions")
    (name,) = here
    image = sitk.ReadImage(str(trained.raw / IMAGES / name.replace(".nii.gz", "_0000.nii.gz")))
    assert here[name].shape == image.GetSize()[::-1]

    archive = tmp_path / "cafr.zip"
    trained.call("nnUNetv2_export_model_to_zip", "-d", 511, "-o", archive, "-c", "2d", "-tr", TRAINER, "-f", 0)
    elsewhere = make_nnunet_folders()
    elsewhere.call("nnUNetv2_install_pretrained_model_from_zip", archive)
    which = ["-d", DATASET, "-c", "2d", "-f", 0, "-tr", TRAINER, "-device", "cpu", "-npp", 0, "-nps", 0]
    elsewhere.run("nnUNetv2_predict", *which, "-i", trained.raw / IMAGES, "-o", tmp_path / "there")
    there = read_maps(tmp_path / "there")
    assert there.keys() == here.keys()
    np.testing.assert_array_equal(there[name], here[name])


def test_doctor_finds_every_trainer(trained):
    output = trained.run("nnUNetv2_cafr", "doctor").stdout
    assert "NOT" not in output
    assert "nnunetv2_cafr.training.cafr" in output
    assert "All is well." in output


def test_doctor_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "no"))
    monkeypatch.delenv("nnUNet_results", raising=False)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "DOES NOT EXIST" in said
    assert "export nnUNet_results=" in said


def test_cost_of_a_plans_file(trained):
    assert "nnUNetTrainer_CAFR" in trained.call("nnUNetv2_cafr", "cost", "-d", 511, "-c", "2d", "--repeats", 1)
    with pytest.raises(SystemExit, match="3d_lowres"):
        trained.call("nnUNetv2_cafr", "cost", "-d", 511, "-c", "3d_lowres")
