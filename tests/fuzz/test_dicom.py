"""DICOM folders, held against pydicom's own rescaled pixels and the tags of each slice."""

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage

from dataset_conversion.reading import read_volume

from .harness import assert_named, fuzz, outcome_of

SHAPE = (5, 6)  # rows, columns
SPACING = (0.7, 0.9)  # between rows, between columns
STEP = 4.4
PLANES = {"sagittal": ((0, 1, 0), (0, 0, -1)), "axial": ((1, 0, 0), (0, 1, 0)), "tilted": ((0.8, 0.6, 0), (0, 0, -1))}


@dataclass(frozen=True)
class Series:
    """A sound series, then spoilt tag by tag.

    Attributes:
        scaling: RescaleSlope and RescaleIntercept of each slice in turn; None leaves both out.
        tags: per slice, what is written over its tags; None removes the tag.
        lengths: per slice, thousandths of the file after which it is cut off.
        again: slices that lie in the folder twice.
    """

    plane: str = "sagittal"
    slices: int = 4
    kind: str = "i2"
    photometric: str = "MONOCHROME2"
    implicit: bool = False
    preamble: bool = True
    scaling: tuple[tuple[str, str] | None, ...] = (None,)
    tags: Mapping[int, Mapping[str, bytes | None]] = field(default_factory=dict)
    lengths: Mapping[int, int] = field(default_factory=dict)
    again: frozenset[int] = frozenset()

    def write(self, folder: Path) -> None:
        for number in range(self.slices):
            content = self._slice(number)
            content = content[: len(content) * self.lengths.get(number, 1000) // 1000]
            (folder / f"IM{(3 * number) % 7}.dcm").write_bytes(content)
            if number in self.again:
                (folder / f"again{number}.dcm").write_bytes(content)

    def _slice(self, number: int) -> bytes:
        rows, columns = np.array(PLANES[self.plane], dtype=float)
        place = np.array([20.0, -30.0, 40.0]) + number * STEP * np.cross(rows, columns)
        uid = f"1.2.3.4.{number + 1}"
        syntax = ImplicitVRLittleEndian if self.implicit else ExplicitVRLittleEndian
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
            syntax,
            MRImageStorage,
            uid,
        )
        one = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128 if self.preamble else None)
        values = np.random.default_rng(number).integers(0, 4000, SHAPE).astype(self.kind)
        if values.dtype.kind == "i":
            values -= 1000
        for name, value in {
            "SOPClassUID": MRImageStorage, "SOPInstanceUID": uid, "Modality": "MR", "PatientID": "7",
            "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "InstanceNumber": number + 1,
            "ImagePositionPatient": [f"{v:.6f}" for v in place],
            "ImageOrientationPatient": [f"{v:.9f}" for v in (*rows, *columns)],
            "PixelSpacing": [str(v) for v in SPACING], "SliceThickness": str(STEP),
            "Rows": SHAPE[0], "Columns": SHAPE[1], "SamplesPerPixel": 1, "PhotometricInterpretation": self.photometric,
            "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": int(self.kind[0] == "i"),
        }.items():  # fmt: skip
            setattr(one, name, value)
        if scaling := self.scaling[number % len(self.scaling)]:
            one.RescaleSlope, one.RescaleIntercept = scaling
        one.add_new("PixelData", "OW", values.tobytes())
        for name, raw in self.tags.get(number, {}).items():
            tag = Tag(name)
            if raw is None:
                one.pop(tag, None)
            else:
                kind = "OW" if name == "PixelData" else dictionary_VR(tag)
                raw += b"\0" * (len(raw) % 2)
                one[tag] = RawDataElement(tag, kind, len(raw), raw, 0, self.implicit, True)
        file = BytesIO()
        if self.preamble:
            one.save_as(file, enforce_file_format=True)
        else:
            del one.file_meta
            one.save_as(file, implicit_vr=self.implicit, little_endian=True)
        return file.getvalue()


def _text(*values: object) -> bytes:
    return "\\".join(map(str, values)).encode()


def _short(value: int) -> bytes:
    return int(value).to_bytes(2, "little")


SHORTS = st.sampled_from([0, 1, 3, 5, 6, 7, 8, 12, 15, 16, 32, 64, 65535]).map(_short)
NUMBERS = st.sampled_from(
    ["", "0", "1", "-1", "2.5", "1e-9", "1e300", "nan", "inf", "a", "1,5", "0.9000001", " 3 ", "1\\2"]
)
ROWS, COLUMNS = PLANES["sagittal"]
PLACES = [(20, -30, 40), (20, -30, 40.05), (15.6, -30, 40), (15.62, -30.05, 40), (1e5, -30, 40), (12, -20, 40)]
DIRECTIONS = [
    (*COLUMNS, *ROWS), (0, -1, 0, 0, 0, -1), (0, 1, 0, 0, 0.1, -1), (0, 2, 0, 0, 0, -1), (1, 0, 0, 0, 1, 0), (0,) * 6
]  # fmt: skip
TAGS: dict[str, st.SearchStrategy[bytes | None]] = {
    "ImagePositionPatient": st.lists(NUMBERS, min_size=0, max_size=4).map(lambda v: _text(*v))
    | st.sampled_from(PLACES).map(lambda v: _text(*v)),
    "ImageOrientationPatient": st.lists(NUMBERS, min_size=0, max_size=7).map(lambda v: _text(*v))
    | st.sampled_from(DIRECTIONS).map(lambda v: _text(*v)),
    "PixelSpacing": st.lists(NUMBERS, min_size=0, max_size=3).map(lambda v: _text(*v)),
    "RescaleSlope": NUMBERS.map(_text),
    "RescaleIntercept": NUMBERS.map(_text),
    "SeriesInstanceUID": st.sampled_from([b"", b"1.2.3.9", b"not a uid"]),
    "SOPClassUID": st.sampled_from(
        [b"", b"1.2", b"1.2.840.10008.5.1.4.1.1.88.22", b"1.2.840.10008.5.1.4.1.1.7", b"1.2.840.10008.5.1.4.1.1.66.4"]
    ),
    "PhotometricInterpretation": st.sampled_from([b"", b"MONOCHROME1", b"RGB", b"PALETTE COLOR", b"YBR_FULL", b"junk"]),
    "NumberOfFrames": st.sampled_from([b"", b"0", b"1", b"2", b"-1", b"x", b"99999999"]),
    **dict.fromkeys(("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit"), SHORTS),
    "PixelRepresentation": SHORTS,
    "PixelData": st.integers(0, 70).map(bytes),
    "PatientID": st.just(b"8"),
    "StudyInstanceUID": st.just(b"1.9"),
    "InstanceNumber": st.sampled_from(["", "0", "-1", "7", "99999999999"]).map(_text),
    "SliceThickness": NUMBERS.map(_text),
}  # fmt: skip
SOUND = {
    "plane": st.sampled_from(list(PLANES)),
    "slices": st.integers(2, 5),
    "kind": st.sampled_from(["i2", "u2"]),
    "photometric": st.sampled_from(["MONOCHROME2", "MONOCHROME1"]),
    "implicit": st.booleans(),
    "preamble": st.booleans(),
    "scaling": st.sampled_from(
        [(None,), (("1", "0"),), (("0.5", "-1024"),), (("1", "0"), ("1", "-5"), ("2", "7")), (("100", "-32768"), None)]
    ),
}


def spoilt_series() -> st.SearchStrategy[Series]:
    names = st.lists(st.sampled_from(sorted(TAGS)), min_size=1, max_size=2, unique=True)
    tags = names.flatmap(lambda chosen: st.fixed_dictionaries({name: st.none() | TAGS[name] for name in chosen}))
    some = st.dictionaries(st.integers(0, 3), tags, min_size=1, max_size=2)
    everywhere = tags.map(lambda changed: dict.fromkeys(range(5), changed))
    return st.builds(
        Series,
        **SOUND,
        tags=some | everywhere,
        lengths=st.just({}) | st.dictionaries(st.integers(0, 3), st.integers(0, 999), max_size=1),
        again=st.just(frozenset()) | st.frozensets(st.integers(0, 3), max_size=2),
    )


def _reference(path: Path) -> tuple[np.ndarray, Dataset] | None:
    """Rescaled pixels of a slice, and its tags, as pydicom has them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one = pydicom.dcmread(path, force=True)
            if "TransferSyntaxUID" not in one.file_meta:
                implicit = one.original_encoding[0]
                one.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
            for name in ("RescaleSlope", "RescaleIntercept"):
                if name in one and one[name].is_empty:
                    del one[name]
            return np.asarray(apply_modality_lut(one.pixel_array, one), dtype=float), one
    except Exception:
        return None


def _assert_same(image: sitk.Image, folder: Path) -> int:
    """Each slice is a file's pixels in that file's place; returns how many files were used."""
    files = [found for path in sorted(folder.iterdir()) if (found := _reference(path))]
    voxels = sitk.GetArrayFromImage(image).astype(float)
    for k, values in enumerate(voxels):
        place = np.array(image.TransformIndexToPhysicalPoint((0, 0, k)))
        here = [
            (pixels, tags)
            for pixels, tags in files
            if np.abs(np.array(tags.ImagePositionPatient, dtype=float) - place).max() < 0.12
        ]
        same = [
            tags for pixels, tags in here if pixels.shape == values.shape and np.allclose(pixels, values, rtol=1e-6)
        ]
        assert same, f"slice {k} is no file's"
        orientation = np.array(same[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
        direction = np.reshape(image.GetDirection(), (3, 3))
        np.testing.assert_allclose(direction[:, :2].T, orientation, atol=2e-3)
        np.testing.assert_allclose(image.GetSpacing()[:2][::-1], np.array(same[0].PixelSpacing, dtype=float), rtol=1e-3)
    return len(voxels)


def _read(series: Series) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "case"
        folder.mkdir()
        series.write(folder)
        volume, problems = read_volume(folder)
        if problems:
            assert_named(problems, folder)
            return outcome_of(problems)
        assert volume is not None
        used = _assert_same(volume.image, folder)
        left_out = series.slices - used
        assert left_out == 0 or any("left out" in note or "again" in note for note in volume.notes), (
            "left out in silence"
        )
        return "read" if not left_out else "read, and said what was left out"


@fuzz(25, series=st.builds(Series, **SOUND, again=st.frozensets(st.integers(0, 1), max_size=1)))
def test_sound_series(series: Series) -> str:
    """Any plane, type, rescaling and encoding, with a slice twice, is read."""
    outcome = _read(series)
    assert outcome == "read", outcome
    return outcome


@fuzz(60, series=spoilt_series())
def test_any_series(series: Series) -> str:
    """Wrong, missing and foreign tags, slices cut off: pydicom's pixels in their tags' place, or a refusal."""
    return _read(series)
