"""Every arm that is not CAFR-Net: trained, predicted, exported, and predicted again where it is installed."""

import shutil

import numpy as np
import pytest
import SimpleITK as sitk

DATASET = "Dataset511_SpineMRI"


def predict(folders, trainer: str, target) -> dict[str, np.ndarray]:
    images = folders.raw / DATASET / "imagesTs"
    model = ["-d", 511, "-c", "2d", "-f", 0, "-tr", trainer, "-device", "cpu", "-npp", 1, "-nps", 1]
    folders.run("nnUNetv2_predict", *model, "-i", images, "-o", target)
    return {path.name: sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in target.glob("*.nii.gz")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "arm",
    [
        "nnUNetTrainer_UNet",
        "nnUNetTrainer_AttentionUNet",
        "nnUNetTrainer_SwinUNet",
        "nnUNetTrainer_TransUNet",
        "nnUNetTrainer_LevelSafe_CLR",
    ],
)
def test_trained_exported_and_installed_elsewhere_predicts_the_same(
    arm, phantom_dataset, make_nnunet_folders, tmp_path
):
    trainer = f"{arm}_budget1x2"
    phantom_dataset.run("nnUNetv2_train", 511, "2d", 0, "-tr", trainer, "-device", "cpu")
    model = phantom_dataset.results / DATASET / f"{trainer}__nnUNetPlans__2d"
    assert (model / "fold_0" / "validation" / "summary.json").is_file()
    here = predict(phantom_dataset, trainer, tmp_path / "here")
    (name,) = here
    image = phantom_dataset.raw / DATASET / "imagesTs" / name.replace(".nii.gz", "_0000.nii.gz")
    assert here[name].shape == sitk.ReadImage(str(image)).GetSize()[::-1]

    archive = tmp_path / "arm.zip"
    phantom_dataset.run("nnUNetv2_export_model_to_zip", "-d", 511, "-o", archive, "-c", "2d", "-tr", trainer, "-f", 0)
    elsewhere = make_nnunet_folders()
    elsewhere.run("nnUNetv2_install_pretrained_model_from_zip", archive)
    (elsewhere.raw / DATASET).symlink_to(phantom_dataset.raw / DATASET)
    there = predict(elsewhere, trainer, tmp_path / "there")
    assert there.keys() == here.keys()
    np.testing.assert_array_equal(there[name], here[name])

    # up to a gigabyte of weights for each of the three
    shutil.rmtree(model)
    shutil.rmtree(elsewhere.results)
    archive.unlink()
