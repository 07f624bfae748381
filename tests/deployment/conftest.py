"""Models that were never trained, in nnU-Net's folders, and their exports."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .untrained import Models, write_image


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    root = tmp_path_factory.mktemp("deployment")
    (root / "images").mkdir()
    for seed in range(2):
        write_image(root / "images" / f"case{seed}_0000.nii.gz", seed)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("raw", "preprocessed", "results"):
            (root / name).mkdir()
            patch.setenv(f"nnUNet_{name}", str(root / name))
        yield Models(root)


@pytest.fixture(scope="session")
def cafr(models: Models) -> tuple[Path, Path]:
    """Folder and export of CAFR-Net. Its patches are no multiple of its tokens."""
    folder = models.make("Dataset901_Tiny", "nnUNetTrainer_CAFR", "2d")
    raw = models.root / "raw" / "Dataset901_Tiny" / "imagesTr"
    raw.parent.mkdir()
    raw.symlink_to(models.images)
    return folder, models.export(folder, models.root / "cafr.onnx")


@pytest.fixture(scope="session")
def regions(models: Models) -> tuple[Path, Path]:
    """Folder and export of two folds of nnU-Net's own network, for regions and two channels."""
    folder = models.make("Dataset902_Regions", "nnUNetTrainer", "2d", folds=2, regions=True, channels=2)
    return folder, models.export(folder, models.root / "regions.onnx", folds=2)
