"""Volume files as converters, `check` and `predict` read them, held against nibabel."""

import tempfile
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.reading import Volume, lacks_orientation, read_volume

from .files import Nifti, niftis, sound_niftis
from .harness import assert_named, fuzz, outcome_of
from .text_headers import GONE, TextFile, text_files

COSINE_TOLERANCE = 0.012  # qform and sform may differ by so much before a file is refused


def reference(path: Path) -> nibabel.Nifti1Image | None:
    """What nibabel reads, None where it refuses."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            image = nibabel.load(path)
            image.get_fdata()
            return image
    except Exception:
        return None


def affine_in_ras(image: sitk.Image) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1.0, -1, 1, 1]) @ affine


def assert_same(volume: Volume, expected: nibabel.Nifti1Image | None) -> None:
    """The same voxels in the same place."""
    assert expected is not None, "read, where nibabel refuses"
    values = expected.get_fdata()
    assert not any(length > 1 for length in values.shape[3:])
    values = values.reshape(values.shape[:3])
    found = sitk.GetArrayFromImage(volume.image).transpose()
    assert found.shape == values.shape
    np.testing.assert_allclose(found.astype(float), values, rtol=1e-5, atol=1e-5 * np.abs(values).max())
    factor = {1: 1000.0, 3: 0.001}.get(int(expected.header["xyzt_units"]) & 7, 1.0)
    affine = np.diag([factor] * 3 + [1]) @ expected.affine
    ours = affine_in_ras(volume.image)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(ours[:3, :3] / lengths, affine[:3, :3] / lengths, atol=COSINE_TOLERANCE)
    np.testing.assert_allclose(ours[:3, 3], affine[:3, 3], rtol=1e-5, atol=1e-3 * lengths.min())


def read(nifti: Nifti) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"scan{nifti.ending}"
        path.write_bytes(nifti.content())
        volume, problems = read_volume(path)
        if problems:
            assert_named(problems, path)
            return outcome_of(problems)
        assert volume is not None
        assert_same(volume, reference(path))
        return "read"


@fuzz(200, nifti=sound_niftis())
def test_sound_nifti(nifti: Nifti) -> str:
    """What scanners and converters write is read, not refused."""
    outcome = read(nifti)
    assert outcome == "read"
    return outcome


@fuzz(400, nifti=niftis())
def test_any_nifti(nifti: Nifti) -> str:
    """Wrong fields, bytes and ends: nibabel's voxels in nibabel's place, or a refusal."""
    return read(nifti)


def read_text(file: TextFile) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"scan{file.ending}"
        path.write_bytes(file.content())
        volume, problems = read_volume(path)
        if problems:
            assert_named(problems, path)
            assert file.fields or file.flips or file.length < 1000, f"a sound file is refused: {problems}"
            return outcome_of(problems)
        assert volume is not None and file.length == 1000
        if file.flips:  # of voxels that are not compressed, or of a number in the header
            return "read, with bytes changed"
        said = file.meaning()
        assert said is not None, "read, where the header means nothing"
        np.testing.assert_array_equal(sitk.GetArrayFromImage(volume.image).transpose(), said.voxels)
        np.testing.assert_allclose(volume.image.GetSpacing(), said.spacing, rtol=1e-6)
        np.testing.assert_allclose(volume.image.GetOrigin(), said.origin, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(np.reshape(volume.image.GetDirection(), (3, 3)), said.direction, atol=1e-6)
        return "read"


@fuzz(100, file=text_files(".mha"))
def test_any_metaimage(file: TextFile) -> str:
    return read_text(file)


@fuzz(100, file=text_files(".nrrd"))
def test_any_nrrd(file: TextFile) -> str:
    return read_text(file)


FOUND = {
    "unknown to SimpleITK": (Nifti(version=2), "NIfTI-2"),
    "intercept without slope": (Nifti(fields={"scl_slope": 0, "scl_inter": 7.5}), "scl_slope 0 with scl_inter 7.5"),
    "infinite intercept": (Nifti(fields={"scl_inter": -np.inf}), "scl_inter -inf"),
    "no such type": (Nifti(fields={"datatype": -1}), "the data type -1"),
    "fewer bits than the type has": (Nifti(kind="i4", fields={"bitpix": 8}), "bitpix 8"),  # the process ended
    "voxels in the header": (Nifti(fields={"vox_offset": 3e38}), "voxels that begin at byte 3e"),
    "voxels between two bytes": (Nifti(fields={"vox_offset": 352.5}), "byte 352.5"),
    "infinitely far": (Nifti(forms=(0, 1), fields={"srow_y": [0.75, 0, 0, -np.inf]}), "srow_y"),  # it never ended
    "no spacing": (Nifti(forms=(1, 0), fields={"pixdim": [1, 0.75, np.nan, 4, 1, 1, 1, 1]}), "pixdim"),
    "spacing below 0": (Nifti(forms=(1, 0), fields={"pixdim": [1, 0.75, -1.25, 4, 1, 1, 1, 1]}), "orientation is none"),
    "neither hand": (Nifti(forms=(1, 0), fields={"pixdim": [-3, 0.75, 1.25, 4, 1, 1, 1, 1]}), "orientation is none"),
    "no such code": (Nifti(forms=(0, 0), fields={"qform_code": 1000}), "qform_code 1000"),
    "less than no voxel": (Nifti(fields={"dim": [3, 5, -6, 4, 1, 1, 1, 1]}), "the dimensions"),
    "no voxel": (Nifti(fields={"dim": [3, 5, 6, 0, 1, 1, 1, 1]}), "the dimensions"),
    "voxels elsewhere": (Nifti(fields={"magic": b"ni1"}), "its mark is ni1"),
}


@pytest.mark.parametrize("kind", FOUND)
def test_found_in_nifti(kind: str, tmp_path: Path) -> None:
    """Headers that SimpleITK repaired, or read otherwise than nibabel, without a word, and those that it died of."""
    nifti, words = FOUND[kind]
    path = tmp_path / "scan.nii"
    path.write_bytes(nifti.content())
    volume, problems = read_volume(path)
    assert volume is None and words in problems[0].found


FOUND_IN_TEXT = {
    "the process ended": (TextFile(fields={"NDims": "99999"}), "NDims"),
    "zeros": (TextFile(compressed=True, fields={"CompressedDataSize": GONE}), "without CompressedDataSize"),
    "zeros, by another name": (TextFile(compressed=True, fields={"CompressedDataSize": "x"}), "CompressedDataSize"),
    "an offset that is none": (TextFile(fields={"HeaderSize": "6"}), "HeaderSize '6'"),
    "two places": (TextFile(fields={"Origin": "0 0 0"}), "Offset and Origin"),
    "a spacing below 0": (TextFile(fields={"ElementSpacing": "1 -1 1"}), "ElementSpacing '1 -1 1'"),
    "two spacings": (TextFile(fields={"TransformMatrix": "1 0 0 0 1 0 0 0 2"}), "not of unit length"),
    "no directions": (TextFile(fields={"TransformMatrix": GONE}), "without orientation (no TransformMatrix)"),
    "fewer voxels than there are": (TextFile(fields={"DimSize": "5 6 3"}), "more voxel data (240 bytes)"),
    "NRRD, fewer voxels": (TextFile(".nrrd", fields={"sizes": "5 6 3"}), "more voxel data (240 bytes)"),
    "NRRD, fewer compressed voxels": (TextFile(".nrrd", compressed=True, fields={"sizes": "5 6 3"}), "more voxel data"),
    "NRRD, more voxels": (TextFile(".nrrd", fields={"sizes": "5 6 9"}), "truncated voxel data (240 bytes)"),
    "NRRD, of a scanner": (TextFile(".nrrd", fields={"space": "scanner-xyz"}), "without orientation"),
    "NRRD, no directions": (TextFile(".nrrd", fields={"space directions": GONE}), "without orientation"),
    "NRRD, two directions": (
        TextFile(".nrrd", fields={"space directions": "(1,0,0) (0,1,0) none"}),
        "without orientation (no space directions of three axes)",
    ),
    "NRRD, another file": (TextFile(".nrrd", fields={"data file": "/etc/passwd"}), "voxels from another file"),
    "NRRD, text": (TextFile(".nrrd", fields={"encoding": "ascii"}), "NRRD encoding 'ascii'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOUND_IN_TEXT)
def test_found_in_text_headers(kind: str, tmp_path: Path) -> None:
    """MetaImage and NRRD of which SimpleITK made other voxels or places without a word, or died."""
    file, words = FOUND_IN_TEXT[kind]
    path = tmp_path / f"scan{file.ending}"
    path.write_bytes(file.content())
    volume, problems = read_volume(path)
    assert volume is None and words in problems[0].found


@pytest.mark.parametrize(
    ("file", "lacks"),
    [
        (Nifti(), False),
        (Nifti(compressed=True, forms=(0, 1)), False),
        (Nifti(compressed=True, forms=(0, 0)), True),
        (Nifti(version=2, forms=(0, 0)), True),
        (TextFile(), False),
        (TextFile(fields={"TransformMatrix": GONE}), True),
        (TextFile(".nrrd"), False),
        (TextFile(".nrrd", fields={"space": GONE}), True),
    ],
)
def test_lack_of_orientation_is_seen_in_the_header_alone(file: Nifti | TextFile, lacks: bool, tmp_path: Path) -> None:
    path = tmp_path / f"scan{file.ending}"
    path.write_bytes(file.content())
    assert lacks_orientation(path) is lacks
    assert not lacks_orientation(tmp_path / "gone.nii") and not lacks_orientation(tmp_path / "gone.png")
