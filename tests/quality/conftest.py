"""A converted phantom data set, and copies of it to spoil."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion import spinemri
from nnunetv2_cafr import phantom
from nnunetv2_cafr.quality.checking import check_dataset
from nnunetv2_cafr.quality.findings import Finding

NAME = "Dataset511_SpineMRI"
VALUES = {structure.name: value for value, structure in spinemri.TABLE.items()}


@dataclass(frozen=True)
class Copy:
    """A copy of the phantom data set, and short ways to change it."""

    folder: Path

    def image(self, number: int) -> Path:
        return self.folder / "imagesTr" / f"SpineMRI_{number:03d}_0000.nii.gz"

    def mask(self, number: int) -> Path:
        return self.folder / "labelsTr" / f"SpineMRI_{number:03d}.nii.gz"

    def change(self, path: Path, function: Callable[[np.ndarray], np.ndarray], target: Path | None = None) -> None:
        """Replaces the voxels (z, y, x) of a file, or writes them under another name, keeping the header."""
        image = sitk.ReadImage(str(path))
        changed = sitk.GetImageFromArray(function(sitk.GetArrayFromImage(image)))
        changed.SetSpacing(image.GetSpacing())
        changed.SetOrigin(image.GetOrigin())
        changed.SetDirection(image.GetDirection())
        sitk.WriteImage(changed, str(target or path))

    def describe(self, **changes: object) -> None:
        path = self.folder / "dataset.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def findings(self, *notes: str) -> list[Finding]:
        """Errors and warnings; notes too, of the checks named in `notes`."""
        found = check_dataset(self.folder, 1)[2]
        return [f for f in found if f.severity.word != "note" or f.check in notes]


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training phantoms and one test phantom, small enough to be read in no time."""
    root = tmp_path_factory.mktemp("quality")
    source = phantom.write_dataset(root, num_train=4, num_test=1, size=(128, 80, 6), spacing=None, progress=False)
    assert spinemri.main(["-i", str(source), "-d", "511", "-o", str(root / "raw"), "-np", "1"]) == 0
    return root / "raw" / NAME


@pytest.fixture
def copy(converted: Path, tmp_path: Path) -> Copy:
    return Copy(Path(shutil.copytree(converted, tmp_path / "raw" / NAME)))
