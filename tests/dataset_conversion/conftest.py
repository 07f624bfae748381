"""Small volumes of any geometry, to build sources from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import settings

# A failure repeats itself, a busy machine fails nothing, and nothing is left in the working folder.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("repeatable")

# As SpineMRI's files: i backwards, j downwards, k to the right.
SAGITTAL = (0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)


def _make(
    array: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 4.0), direction: tuple[float, ...] = SAGITTAL
) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    image.SetOrigin((5.0, -40.0, 30.0))
    return image


@pytest.fixture(scope="session")
def make_volume() -> Callable[..., sitk.Image]:
    """Makes an image of an array (z, y, x), with spacing and direction as `SetSpacing` and `SetDirection` take them."""
    return _make


@pytest.fixture(scope="session")
def make_pair() -> Callable[..., tuple[sitk.Image, sitk.Image]]:
    """Makes an image of noise and a mask in which each of `labels` fills one row of every slice but the last."""

    def make(
        labels: tuple[int, ...] = (1, 2), size: tuple[int, int, int] = (4, 32, 24), seed: int = 0, **geometry: Any
    ) -> tuple[sitk.Image, sitk.Image]:
        image = np.random.default_rng(seed).integers(1, 900, size).astype(np.int16)
        mask = np.zeros(size, np.uint8 if max(labels) < 256 else np.uint16)
        for row, label in enumerate(labels):
            mask[:-1, row + 3, 2 : 6 + row] = label
        return _make(image, **geometry), _make(mask, **geometry)

    return make


@pytest.fixture(scope="session")
def read() -> Callable[[Path], np.ndarray]:
    """Reads the voxels (z, y, x) of a file."""

    def read(path: Path) -> np.ndarray:
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))

    return read


@pytest.fixture
def problems_of(capsys: pytest.CaptureFixture[str]) -> Callable[[], dict[str, str]]:
    """Reads the report on stderr: what was found, by the name of the file; every finding has all its parts."""

    def read() -> dict[str, str]:
        lines = capsys.readouterr().err.splitlines()
        start = next((i for i, line in enumerate(lines) if "found; nothing was written." in line), len(lines))
        found = {}
        for path, what, expected, remedy in zip(*(lines[start + 1 + i :: 4] for i in range(4)), strict=True):
            assert what.startswith("   found:    ")
            assert expected.startswith("   expected: ")
            assert remedy.startswith("   to do:    ")
            found[Path(path.split(". ", 1)[1]).name] = what[13:]
        return found

    return read
