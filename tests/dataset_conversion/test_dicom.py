"""DICOM series: slice order, steps and orientation are read from every slice; what cannot be a volume is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.folder import main
from dataset_conversion.geometry import orient
from dataset_conversion.reading import read_volume

NORMAL, ROWS, COLUMNS = np.array([-1.0, 0, 0]), np.array([0.0, 1, 0]), np.array([0.0, 0, -1])
UP = np.array([0.0, 0, 1])
STEP = 4.4  # mm
VOXELS = np.random.default_rng(0).integers(0, 900, (5, 32, 24)).astype(np.int16)


def write_slice(
    path: Path,
    pixels: np.ndarray,
    position: np.ndarray,
    rows: np.ndarray = ROWS,
    columns: np.ndarray = COLUMNS,
    series: str = "1.2.3.4",
    spacing: tuple[float, float] = (0.7, 0.9),
    number: int = 1,
) -> None:
    """Write one slice with `spacing` between columns and between rows in mm."""
    image = sitk.GetImageFromArray(pixels)
    image.SetSpacing(spacing)
    tags = {
        "0008|0060": "MR",
        "0010|0010": "Somebody",
        "0020|000d": "1.2.3",
        "0020|000e": series,
        "0008|0018": f"{series}.{number}",
        "0020|0013": str(number),
        "0020|0032": "\\".join(f"{value:.6f}" for value in position),
        "0020|0037": "\\".join(f"{value:.9f}" for value in (*rows, *columns)),
    }
    for tag, value in tags.items():
        image.SetMetaData(tag, value)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    writer.SetImageIO("GDCMImageIO")
    writer.Execute(image)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sagittal series from left to right; file names and instance numbers have another order than the slices."""
    folder = tmp_path_factory.mktemp("pristine") / "series"
    folder.mkdir()
    for k in range(5):
        write_slice(folder / f"IM{(3 * k) % 5}.dcm", VOXELS[k], place(k), number=(2 * k) % 5)
    return folder


@pytest.fixture
def series(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "source" / "dicom" / "case"))


def place(k: float) -> np.ndarray:
    return np.array([20.0, -30, 40]) + k * STEP * NORMAL


def file_of(series: Path, k: int) -> Path:
    return series / f"IM{(3 * k) % 5}.dcm"


def test_series_is_a_volume(series: Path) -> None:
    (series / "notes.txt").write_text("not DICOM")
    volume, problems = read_volume(series)
    assert problems == []
    assert volume is not None
    np.testing.assert_array_equal(sitk.GetArrayFromImage(volume.image), VOXELS)
    assert volume.image.GetSpacing() == pytest.approx((0.7, 0.9, STEP))
    assert volume.image.GetOrigin() == pytest.approx(tuple(place(0)))
    assert volume.image.GetDirection() == pytest.approx((0, 0, -1, 1, 0, 0, 0, -1, 0))
    assert not volume.image.GetMetaDataKeys()  # patients' names would be among them


def test_conversion_with_a_mask(series: Path, tmp_path: Path, read: Callable[[Path], np.ndarray]) -> None:
    """A mask as tools write it: on the volume's grid, but in another voxel order."""
    volume, _ = read_volume(series)
    assert volume is not None
    labels = np.zeros(VOXELS.shape, np.uint8)
    labels[1:3, 5:9, 4:12] = 1
    mask = sitk.GetImageFromArray(labels)
    mask.CopyInformation(volume.image)
    (series.parents[1] / "masks").mkdir()
    sitk.WriteImage(sitk.DICOMOrient(mask, "RAI"), str(series.parents[1] / "masks" / "case.nrrd"))
    layout = tmp_path / "layout.yaml"
    layout.write_text(
        "{name: D, channel: T2, images: 'dicom/{id}', masks: 'masks/{id}.nrrd', labels: {vertebrae: {1: L5}}}"
    )
    output = tmp_path / "raw"
    assert main(["-i", str(series.parents[1]), "--layout", str(layout), "-d", "3", "-o", str(output), "-np", "1"]) == 0
    np.testing.assert_array_equal(read(output / "Dataset003_D/imagesTr/case_0000.nii.gz"), VOXELS)
    np.testing.assert_array_equal(read(output / "Dataset003_D/labelsTr/case.nii.gz"), labels)


def tilted(degrees: float) -> np.ndarray:
    return np.array([np.sin(np.radians(degrees)), 0, -np.cos(np.radians(degrees))])


def again(folder: Path, k: int, position: np.ndarray | None = None, **changes: Any) -> None:
    write_slice(file_of(folder, k), VOXELS[k], place(k) if position is None else position, **changes)


def multi_frame(series: Path) -> None:
    file_of(series, 1).unlink()
    sitk.WriteImage(sitk.Cast(sitk.GetImageFromArray(VOXELS), sitk.sitkUInt16), str(series / "multi.dcm"))


def colour(series: Path) -> None:
    rgb = sitk.GetImageFromArray(np.zeros((32, 24, 3), np.uint8), isVector=True)
    sitk.WriteImage(rgb, str(file_of(series, 1)))


def drop_position(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\x20\x00\x32\x00", b"\x20\x00\x33\x00"))


def cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


BAD = {
    "missing slice": (lambda s: file_of(s, 2).unlink(), "a step of 8.8 mm between IM3.dcm and IM4.dcm, where most are"),
    "varying step": (lambda s: again(s, 4, place(4.3)), "a step of 5.72 mm"),
    "two slices at one place": (lambda s: again(s, 3, place(2)), "1 slices at the same place as another one"),
    "two series": (lambda s: again(s, 4, series="1.2.9"), "2 series in one folder: 1.2.3.4, 1.2.9"),
    "localiser": (lambda s: again(s, 2, columns=tilted(20)), "several orientations"),
    "sheared stack": (lambda s: [again(s, k, place(k) + k * UP) for k in range(5)], "a sheared stack"),
    "other pixels": (lambda s: again(s, 1, spacing=(1.0, 1.0)), "pixels"),
    "one slice": (lambda s: [file_of(s, k).unlink() for k in range(1, 5)], "1 DICOM file"),
    "multi-frame": (multi_frame, "a multi-frame DICOM file (5 frames in one file)"),
    "colour": (colour, "3 values per pixel"),
    "no position": (lambda s: drop_position(file_of(s, 1)), "a slice without its place in the patient"),
    "not DICOM": (lambda s: file_of(s, 1).write_bytes(b"<html>404</html>"), "cannot be read as DICOM"),
    "empty file": (lambda s: file_of(s, 1).write_bytes(b""), "cannot be read as DICOM"),
    "truncated": (lambda s: cut(file_of(s, 1), 1200), "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_series(series: Path, kind: str) -> None:
    spoil, message = BAD[kind]
    spoil(series)
    volume, problems = read_volume(series)
    assert volume is None
    assert message in problems[0].found
    assert problems[0].expected
    assert problems[0].remedy


def test_slices_from_right_to_left_are_turned(tmp_path: Path) -> None:
    """A scanner that numbers the other way gives the same voxels after orientation."""
    for k in range(5):
        write_slice(tmp_path / f"{k}.dcm", VOXELS[k][:, ::-1], place(k) + 23 * 0.7 * ROWS, rows=-ROWS, number=k)
    volume, problems = read_volume(tmp_path)
    assert problems == []
    assert volume is not None
    turned = orient(volume.image)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(turned), VOXELS)
    assert turned.GetOrigin() == pytest.approx(tuple(place(0)), abs=1e-5)
