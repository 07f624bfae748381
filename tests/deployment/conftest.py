"""Models that were never trained, in nnU-Net's folders, and their exports."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunetv2_cafr.deployment import model as deployed

from ..verbs import run_verb
from .files import VOXELS, describe, write
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


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A description without a network, which is not asked for."""
    return describe(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder of two images."""
    folder = tmp_path / "scans"
    folder.mkdir()
    write(folder / "a.nii.gz")
    write(folder / "b.nii.gz", VOXELS + 1)
    return folder


@pytest.fixture
def predict(model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the verb with a network that sees label 1 everywhere, after nnU-Net's reading and preprocessing."""

    def predict_labels(model: deployed.Model, study: Any, *_: object) -> tuple[np.ndarray, dict]:
        image, properties = deployed.preprocess(study, model.description)
        assert np.isfinite(image).all()
        return np.ones(properties["shape_before_cropping"], np.uint8), properties

    monkeypatch.setattr(deployed, "load_network", lambda *_: None)
    monkeypatch.setattr(deployed, "predict_labels", predict_labels)

    def run(images: Path | list[Path], out: Path, *more: object, model: Path = model) -> int:
        paths = images if isinstance(images, list) else [images]
        return run_verb("predict", "-m", model, "-i", *paths, "-o", out, "--threads", 1, *more)

    return run
