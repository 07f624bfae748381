"""nnU-Net's own commands on scans in any voxel order, and trainings on cases that share none, or have none."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

TRAINER = "nnUNetTrainer_LevelSafe_budget1x2"
MIXED, PICTURES = "Dataset521_Mixed", "Dataset522_Pictures"
ORDERS = ("PIR", "PSR", "RAS", "LPS")
ON_CPU = ("-device", "cpu")


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def spread_labels(checkpoint: dict) -> None:
    """Other weights, as hardly trained ones give one label everywhere."""
    torch.manual_seed(0)
    for name, values in checkpoint["network_weights"].items():
        if values.ndim > 1:
            checkpoint["network_weights"][name] = torch.randn(values.shape) * (2 / values[0].numel()) ** 0.5


def change_checkpoint(fold: Path, change) -> None:
    file = fold / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    change(checkpoint)
    torch.save(checkpoint, file)


def write_mixed(raw: Path, source: Path) -> None:
    """The phantoms in three voxel orders, for a reader that takes them as they are."""
    for name in ("imagesTr", "labelsTr"):
        (raw / MIXED / name).mkdir(parents=True)
        for number, path in enumerate(sorted((source / name).glob("*.nii.gz"))):
            image = sitk.DICOMOrient(sitk.ReadImage(str(path)), ("PIR", "PSR", "LPS")[number % 3])
            sitk.WriteImage(image, str(raw / MIXED / name / path.name))
    content = json.loads((source / "dataset.json").read_text())
    (raw / MIXED / "dataset.json").write_text(json.dumps({**content, "overwrite_image_reader_writer": "SimpleITKIO"}))


def write_pictures(raw: Path, source: Path) -> None:
    """A slice of each phantom as PNG, which knows of no up and down."""
    for name in ("imagesTr", "labelsTr"):
        (raw / PICTURES / name).mkdir(parents=True)
        for path in sorted((source / name).glob("*.nii.gz")):
            values = read(path)[2].astype(float)
            values = values if name == "labelsTr" else 255 * values / values.max()
            target = raw / PICTURES / name / path.name.replace(".nii.gz", ".png")
            sitk.WriteImage(sitk.GetImageFromArray(values.astype(np.uint8)), str(target))
    content = json.loads((source / "dataset.json").read_text())
    del content["overwrite_image_reader_writer"]
    (raw / PICTURES / "dataset.json").write_text(json.dumps({**content, "file_ending": ".png"}))


@pytest.fixture(scope="module")
def folders(phantom_dataset, make_nnunet_folders):
    folders = make_nnunet_folders()
    source = phantom_dataset.raw / "Dataset511_SpineMRI"
    write_mixed(folders.raw, source)
    write_pictures(folders.raw, source)
    folders.call("nnUNetv2_plan_and_preprocess", "-d", 521, 522, "-c", "2d", "-np", 1, "-npfp", 1)
    return folders


def fold_folder(folders, dataset: str) -> Path:
    return folders.results / dataset / f"{TRAINER}__nnUNetPlans__2d" / "fold_0"


def predict(folders, dataset: str, images: Path, target: Path) -> list[Path]:
    which = ("-d", dataset, "-c", "2d", "-f", 0, "-tr", TRAINER, "-i", images, "-o", target)
    folders.call("nnUNetv2_predict", *which, *ON_CPU, "-npp", 0, "-nps", 0)
    return sorted(path for path in target.iterdir() if path.suffix != ".json")


@pytest.mark.parametrize(
    ("dataset", "said"),
    [(MIXED, "WARNING: the cases are stored in several voxel orders: PIR (2 cases), PSR (2 cases), LPS (2 cases)"),
     (PICTURES, "Voxel order: unknown, NaturalImage2DIO keeps no directions")],
)  # fmt: skip
def test_without_a_common_up_and_down(dataset, said, folders, tmp_path):
    """Trains, validates and predicts, without mirroring."""
    output = folders.call("nnUNetv2_train", dataset, "2d", 0, "-tr", TRAINER, *ON_CPU)
    assert said in output
    assert "no mirroring" in output
    fold = fold_folder(folders, dataset)
    assert len(json.loads((fold / "validation" / "summary.json").read_text())["metric_per_case"]) == 2
    assert torch.load(fold / "checkpoint_final.pth", weights_only=False)["inference_allowed_mirroring_axes"] is None

    images = folders.raw / dataset / "imagesTr"
    predicted = predict(folders, dataset, images, tmp_path / "out")
    assert [read(path).shape for path in predicted] == [read(path).shape for path in sorted(images.iterdir())]


def test_any_voxel_order_gives_the_same_labels(phantom_dataset, tmp_path):
    """A converted data set, by stock commands alone: trained, and predicted from files of every order."""
    output = phantom_dataset.call("nnUNetv2_train", 511, "2d", 0, "-tr", TRAINER, *ON_CPU)
    assert "Voxel order: PIR (6 cases), all turned to RAS by SimpleITKIOWithReorient" in output
    assert "up/down is patch axis 0, mirroring axes (1,)" in output
    dataset = "Dataset511_SpineMRI"
    change_checkpoint(fold_folder(phantom_dataset, dataset), spread_labels)

    (file,) = (phantom_dataset.raw / dataset / "imagesTs").iterdir()
    scan = sitk.ReadImage(str(file))
    images = {order: sitk.DICOMOrient(scan, order) for order in ORDERS}
    turn = np.reshape(sitk.Euler3DTransform((0, 0, 0), 0.25, -0.2, 0.15).GetMatrix(), (3, 3))
    images["oblique"] = sitk.Image(images["RAS"])
    images["oblique"].SetDirection((turn @ np.reshape(images["RAS"].GetDirection(), (3, 3))).ravel().tolist())
    (tmp_path / "scans").mkdir()
    for name, image in images.items():
        sitk.WriteImage(image, str(tmp_path / "scans" / f"{name}_0000.nii.gz"))
    found = {
        path.name.removesuffix(".nii.gz"): sitk.ReadImage(str(path))
        for path in predict(phantom_dataset, dataset, tmp_path / "scans", tmp_path / "out")
    }
    assert found.keys() == images.keys()
    arrays = {name: sitk.GetArrayFromImage(sitk.DICOMOrient(labels, "PIR")) for name, labels in found.items()}
    assert np.count_nonzero(np.bincount(arrays["PIR"].ravel()) > 50) > 2  # else there would be nothing to compare
    for name, labels in found.items():
        np.testing.assert_array_equal(arrays[name], arrays["PIR"], err_msg=name)
        assert labels.GetSize() == images[name].GetSize()
        for of_labels, of_image in (
            (labels.GetSpacing(), images[name].GetSpacing()),
            (labels.GetOrigin(), images[name].GetOrigin()),
            (labels.GetDirection(), images[name].GetDirection()),
        ):
            np.testing.assert_allclose(of_labels, of_image, atol=1e-4)
