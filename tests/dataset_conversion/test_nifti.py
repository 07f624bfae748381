"""Headers with two orientations: what a converter would have turned the patient by is named, and nothing else is."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.nifti import check_orientations
from dataset_conversion.reading import read_volume

PIR = np.array([[0, 0, 4.0, 5], [-1, 0, 0, 40], [0, -1, 0, 30], [0, 0, 0, 1]])  # in RAS
SHAPE = (6, 5, 3)


def turn(degrees: float) -> np.ndarray:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def write(
    path: Path, sform: np.ndarray | None, qform: np.ndarray | None = None, spacing=(1, 1, 4), kind=nibabel.Nifti1Image
) -> Path:
    """A file whose header holds exactly this; codes are 0 where there is no matrix."""
    header = kind(np.zeros(SHAPE, np.int16), None).header
    header.set_qform(np.eye(4) if qform is None else qform, code=0 if qform is None else 1)
    header["pixdim"][1:4] = spacing
    header["sform_code"] = 0 if sform is None else 1
    if sform is not None:
        header["srow_x"], header["srow_y"], header["srow_z"] = sform[:3]
    voxels = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE, order="F")
    content = kind(voxels, None, header).to_bytes()
    path.write_bytes(gzip.compress(content) if path.name.lower().endswith(".gz") else content)
    return path


def content_of(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.name.lower().endswith(".gz") else path.read_bytes()


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
@pytest.mark.parametrize(
    ("sform", "qform", "spacing", "found"),
    [
        (PIR, np.diag([-1, 1, 1, 1]) @ PIR, (1, 1, 4), "PIL by the qform, PIR by the sform"),
        (PIR, turn(5) @ PIR, (1, 1, 4), "PIR by the qform, PIR by the sform, 5 degrees apart"),
        (PIR, PIR, (1, 1, 2), r"1 x 1 x 2 mm by pixdim, 1 x 1 x 4 mm by the sform"),
        (PIR @ np.diag([0.5, 1, 1, 1]), None, (1, 1, 4), r"1 x 1 x 4 mm by pixdim, 0.5 x 1 x 4 mm by the sform"),
        (PIR @ np.diag([1, 1, 0, 1]), PIR, (1, 1, 4), "an sform that is no orientation"),
        (np.full((4, 4), np.nan), PIR, (1, 1, 4), "an sform that is no orientation"),
    ],
)  # fmt: skip
def test_two_orientations_are_named(tmp_path, kind, name, sform, qform, spacing, found):
    path = write(tmp_path / name, sform, qform, spacing, kind)
    problem = check_orientations(path, content_of(path))
    assert problem is not None and found in problem.found and problem.path == path and problem.remedy
    if kind is nibabel.Nifti1Image:  # SimpleITK reads no other
        volume, problems = read_volume(path)
        assert volume is None and problems == [problem]


@pytest.mark.parametrize(
    ("sform", "qform"),
    [(PIR, PIR), (None, PIR), (PIR, None), (turn(37) @ PIR, turn(37) @ PIR), (PIR @ np.diag([1, 1, 1.001, 1]), PIR)],
)
def test_one_orientation_is_in_order(tmp_path, sform, qform):
    path = write(tmp_path / "a.nii.gz", sform, qform)
    assert check_orientations(path, content_of(path)) is None
    volume, problems = read_volume(path)
    assert volume is not None and problems == []
    np.testing.assert_array_equal(sitk.GetArrayFromImage(volume.image).ravel(), np.arange(np.prod(SHAPE)))


@pytest.mark.parametrize(("shift", "said"), [(0.5, False), (30, True)])
def test_two_places_are_noted(tmp_path, shift, said):
    moved = PIR.copy()
    moved[:3, 3] += shift
    volume, problems = read_volume(write(tmp_path / "a.nii.gz", PIR, moved))
    assert volume is not None and problems == []
    assert volume.notes == (("its qform and its sform lie 52 mm apart: the sform was taken",) if said else ())


@pytest.mark.parametrize("content", [b"", b"junk", bytes(600)])
def test_what_is_no_nifti_is_left_to_its_reader(tmp_path, content):
    assert check_orientations(tmp_path / "a.nii", content) is None
