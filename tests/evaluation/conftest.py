"""Small label maps on disk."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_cafr.evaluation.reading import CasePair

SPACING = (4.5, 0.5, 0.75)  # (z, y, x); binary fractions, which NIfTI's float32 keeps


def write_labels(path: Path, labels: np.ndarray, spacing: Sequence[float] = SPACING) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing([float(step) for step in spacing[::-1]])
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def make_pairs(tmp_path: Path) -> Callable[..., list[CasePair]]:
    """Writes {case: (reference, prediction)} to tmp_path/references and tmp_path/predictions."""

    def make(
        cases: Mapping[str, tuple[np.ndarray, np.ndarray]], spacing: Sequence[float] = SPACING, ending: str = ".nii.gz"
    ) -> list[CasePair]:
        return [
            CasePair(
                case,
                f"patient of {case}",
                write_labels(tmp_path / "references" / f"{case}{ending}", maps[0].astype(np.uint8), spacing),
                write_labels(tmp_path / "predictions" / f"{case}{ending}", maps[1].astype(np.uint8), spacing),
            )
            for case, maps in cases.items()
        ]

    return make
