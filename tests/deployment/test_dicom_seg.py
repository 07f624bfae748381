"""DICOM segmentations, read back by highdicom and by pydicom: the label map voxel for voxel, and its levels' codes."""

import io
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import MRImageStorage

from dataset_conversion.dicom import read_series
from nnunetv2_cafr.deployment import beside

from .files import describe, write

highdicom = pytest.importorskip("highdicom", reason="highdicom is missing: pip install 'nnunetv2-cafr[dicom]'")

from nnunetv2_cafr.deployment.dicom_seg import code_of, refers_to, segmentation  # noqa: E402

VOXELS = np.random.default_rng(0).integers(0, 900, (5, 32, 24)).astype(np.int16)
NAMES = {1: "L5", 2: "L4/L5", 3: "L4", 4: "S"}


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """A sagittal series from left to right, oblique by 10 degrees; files have another order than the slices."""
    folder = tmp_path / "scans" / "patient"
    folder.mkdir(parents=True)
    turn = np.radians(10)
    rows, columns = np.array([np.sin(turn), np.cos(turn), 0]), np.array([0.0, 0, -1])
    normal = np.cross(rows, columns)
    for k, pixels in enumerate(VOXELS):
        image = sitk.GetImageFromArray(pixels)
        image.SetSpacing((0.7, 0.9))
        tags = {
            "0008|0016": str(MRImageStorage),
            "0008|0018": f"1.2.3.4.{k + 1}",
            "0008|0060": "MR",
            "0010|0010": "Somebody",
            "0010|0020": "17",
            "0020|000d": "1.2.3",
            "0020|000e": "1.2.3.4",
            "0020|0013": str(k + 1),
            "0020|0032": "\\".join(f"{value:.6f}" for value in 4.4 * k * normal + (3, -20, 50)),
            "0020|0037": "\\".join(f"{value:.9f}" for value in (*rows, *columns)),
            "0020|0052": "1.2.3.9",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"IM{(3 * k) % 5}.dcm"))
        writer.SetImageIO("GDCMImageIO")
        writer.Execute(image)
    return folder


def mask_of(series: Path) -> sitk.Image:
    """Labels 0 to 3 on the grid of the series; nothing has the label 4."""
    image = read_series(series)[0].image
    mask = sitk.GetImageFromArray(np.random.default_rng(1).integers(0, 4, VOXELS.shape).astype(np.uint8))
    mask.CopyInformation(image)
    return mask


@pytest.mark.parametrize("order", [None, "LPS"])
def test_read_back_voxel_for_voxel(series, tmp_path, order) -> None:
    mask = mask_of(series)
    truth = sitk.GetArrayFromImage(mask)
    file = tmp_path / "a.dcm"
    file.write_bytes(segmentation(sitk.DICOMOrient(mask, order) if order else mask, series, NAMES, "model.onnx"))
    found = highdicom.seg.segread(file)
    uids = {k: f"1.2.3.4.{k + 1}" for k in range(len(VOXELS))}
    values = found.get_pixels_by_source_instance(list(uids.values()), combine_segments=True)
    np.testing.assert_array_equal(values, truth)

    plain = pydicom.dcmread(file)
    assert plain.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3.4"
    assert plain.FrameOfReferenceUID == "1.2.3.9" and plain.PatientID == "17" and plain.StudyInstanceUID == "1.2.3"
    volume = np.zeros_like(truth)
    for pixels, frame in zip(plain.pixel_array, plain.PerFrameFunctionalGroupsSequence, strict=True):
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        k = mask.TransformPhysicalPointToIndex([float(value) for value in position])[2]
        volume[k][pixels > 0] = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    np.testing.assert_array_equal(volume, truth)
    segments = {one.SegmentNumber: one for one in plain.SegmentSequence}
    assert {number: one.SegmentLabel for number, one in segments.items()} == NAMES
    kinds = {number: one.SegmentedPropertyTypeCodeSequence[0] for number, one in segments.items()}
    assert {(kind.CodingSchemeDesignator, kind.CodeValue) for kind in kinds.values()} == {
        ("SCT", "49668003"), ("SCT", "84020006"), ("SCT", "11994002"), ("SCT", "54735007")
    }  # fmt: skip


@pytest.mark.parametrize("frame_by_frame", [False, True])
def test_of_a_multi_frame_file(series, tmp_path, frame_by_frame) -> None:
    """Which says its spacing and orientation once, or in each frame."""
    mask = mask_of(series)
    headers = [pydicom.dcmread(path) for path in sorted(series.iterdir())]
    for header in headers:
        for keyword in ("PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber", "ReferringPhysicianName"):
            setattr(header, keyword, "")
        header.StudyDate, header.StudyTime, header.SeriesNumber = "20200101", "000000", 1
        header.Manufacturer, header.BodyPartExamined, header.PatientPosition = "x", "SPINE", "HFS"
        header.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = highdicom.legacy.LegacyConvertedEnhancedMRImage(headers, highdicom.UID(), 2, highdicom.UID(), 1)
    if frame_by_frame:
        shared = whole.SharedFunctionalGroupsSequence[0]
        for frame in whole.PerFrameFunctionalGroupsSequence:
            for keyword in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
                setattr(frame, keyword, shared[keyword].value)
        del shared.PixelMeasuresSequence, shared.PlaneOrientationSequence
    shutil.rmtree(series)
    series.mkdir()
    whole.save_as(series / "whole.dcm")

    file = tmp_path / "a.dcm"
    file.write_bytes(segmentation(mask, series, NAMES, "model.onnx"))
    numbers = range(1, len(headers) + 1)
    values = highdicom.seg.segread(file).get_pixels_by_source_frame(
        whole.SOPInstanceUID, numbers, combine_segments=True
    )
    truth = sitk.GetArrayFromImage(mask)
    for frame, pixels in zip(whole.PerFrameFunctionalGroupsSequence, values, strict=True):
        position = [float(value) for value in frame.PlanePositionSequence[0].ImagePositionPatient]
        np.testing.assert_array_equal(pixels, truth[mask.TransformPhysicalPointToIndex(position)[2]])
    assert refers_to(file, series)


def test_codes() -> None:
    """Of DICOM PS3.16, CID 7603 and 7604."""
    codes = {
        "vertebrae_T12": "23215003",
        "L5/S": "715056000",
        "T12/L1": "76206002",
        "L6": "51282000",
        "disc_2": "360499006",
    }
    assert {name: code_of(name).value for name in codes} == codes
    assert code_of("liver").meaning == "Anatomical Structure"


def test_nothing_found(series, tmp_path) -> None:
    file = tmp_path / "a.dcm"
    file.write_bytes(segmentation(mask_of(series) * 0, series, NAMES, "model.onnx"))
    uids = [f"1.2.3.4.{k + 1}" for k in range(len(VOXELS))]
    assert not highdicom.seg.segread(file).get_pixels_by_source_instance(uids, combine_segments=True).any()


def test_of_another_grid(series) -> None:
    mask = mask_of(series)
    mask.SetSpacing((1, 1, 1))
    with pytest.raises(ValueError, match="found spacing"):
        segmentation(mask, series, NAMES, "model.onnx")


def test_names_in_any_letters(series) -> None:
    """Of a Japanese hospital, and labels that the series' own set of characters lacks; told by the bytes."""
    mask = mask_of(series)
    for charset, name, label in [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "L5"),
        ("ISO_IR 144", "Иванов", "Wirbelkörper"),
    ]:
        for slice_ in series.iterdir():
            dataset = pydicom.dcmread(slice_)
            dataset.SpecificCharacterSet, dataset.PatientName = charset, name
            dataset.save_as(slice_)
        content = segmentation(mask, series, {**NAMES, 1: label}, "model.onnx")
        found = pydicom.dcmread(io.BytesIO(content))
        assert str(found.PatientName) == name and found.SegmentSequence[0].SegmentLabel == label
        assert name.encode() in content and label.encode() in content and b"ISO_IR 192" in content


def test_a_backslash_in_a_name_parts_no_values(series) -> None:
    content = segmentation(mask_of(series), series, {**NAMES, 1: "L5\\S1"}, "model.onnx")
    assert pydicom.dcmread(io.BytesIO(content)).SegmentSequence[0].SegmentLabel == "L5/S1"


def test_anonymised(series) -> None:
    """What an anonymisation took away and may be empty is empty."""
    mask = mask_of(series)
    for slice_ in series.iterdir():
        dataset = pydicom.dcmread(slice_)
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "AccessionNumber"):
            if keyword in dataset:
                delattr(dataset, keyword)
        dataset.save_as(slice_)
    found = pydicom.dcmread(io.BytesIO(segmentation(mask, series, NAMES, "model.onnx")))
    assert found.PatientID == found.PatientBirthDate == "" and found.FrameOfReferenceUID == "1.2.3.9"


def test_of_the_patient_as_the_series_is_now(predict, series, tmp_path) -> None:
    """The same voxels are sent again, with the right patient: the label map is the same, the segmentation is not."""
    for options in ((), ("--continue_prediction",)):
        assert predict(series, tmp_path / "out", "--dicom-seg", *options) == 0
        for slice_ in series.iterdir():
            dataset = pydicom.dcmread(slice_)
            dataset.PatientID += "9"
            dataset.SeriesInstanceUID += ".9"
            dataset.SOPInstanceUID += ".9"
            dataset.save_as(slice_)
        assert predict(series, tmp_path / "out", "--dicom-seg", *options) == 0
        found = pydicom.dcmread(tmp_path / "out" / "patient.seg.dcm")
        assert (found.PatientID, found.ReferencedSeriesSequence[0].SeriesInstanceUID) == (
            dataset.PatientID,
            dataset.SeriesInstanceUID,
        )


def test_of_no_patient_whose_files_lay_there_for_a_while(predict, series, tmp_path, monkeypatch) -> None:
    """Files that were exchanged before the segmentation was written, and are those of the label map again."""
    before, original = {path: path.read_bytes() for path in series.iterdir()}, beside._segmentation

    def meanwhile(*arguments: object) -> bytes:
        for slice_ in series.iterdir():
            dataset = pydicom.dcmread(slice_)
            dataset.PatientID = "other"
            dataset.save_as(slice_)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(beside, "_segmentation", meanwhile)
        assert predict(series, tmp_path / "out", "--dicom-seg") == 0
    for path, content in before.items():
        path.write_bytes(content)
    assert predict(series, tmp_path / "out", "--dicom-seg", "--continue_prediction") == 0
    assert pydicom.dcmread(tmp_path / "out" / "patient.seg.dcm").PatientID == "17"


def test_the_folder_above(predict, series, tmp_path, monkeypatch) -> None:
    """`-i ..` is called by its name, not by two dots, which would hide the label map."""
    (series / "reports").mkdir()
    monkeypatch.chdir(series / "reports")
    assert predict(Path(".."), tmp_path / "out") == 0
    assert (tmp_path / "out" / "patient.nii.gz").is_file()


def test_predicted(predict, series, tmp_path, capsys) -> None:
    """Beside the label map; a file among the scans has none, and a series that lacks its frame."""
    model = describe(tmp_path / "model.onnx")
    content = json.loads(model.with_suffix(".json").read_text())
    content["dataset_json"]["labels"] = {"background": 0, "L5": 1, "L4": 2, "L3": 3}
    model.with_suffix(".json").write_text(json.dumps(content))
    out = tmp_path / "out"
    assert predict(series.parent, out, "--dicom-seg", model=model) == 0
    file = out / "patient.seg.dcm"
    values = highdicom.seg.segread(file).get_pixels_by_source_instance(["1.2.3.4.1"], combine_segments=True)
    assert (values == 1).all()
    before = file.read_bytes()
    assert predict(series.parent, out, "--dicom-seg", "--continue_prediction", model=model) == 0
    assert file.read_bytes() == before

    write(series.parent / "b.nii.gz")
    for slice_ in series.iterdir():
        dataset = pydicom.dcmread(slice_)
        del dataset.FrameOfReferenceUID
        dataset.save_as(slice_)
    capsys.readouterr()
    assert predict(series.parent, tmp_path / "new", "--dicom-seg", model=model) == 1
    said = capsys.readouterr().out
    assert "2 label maps written" in said and "No DICOM SEG of b: " in said
    assert "No DICOM SEG of patient: its series lacks what a segmentation refers to" in said
    assert not list((tmp_path / "new").glob("*.dcm"))
    with pytest.raises(SystemExit, match="and none is: give folders with one"):
        predict(series.parent / "b.nii.gz", tmp_path / "third", "--dicom-seg", model=model)


def test_a_series_of_another_contrast_is_a_doubt(series: Path, predict, tmp_path: Path, capsys) -> None:
    for path in series.iterdir():
        header = pydicom.dcmread(path)
        header.SeriesDescription = "t1_tse_sag"
        header.save_as(path)
    doubt = "a T1-weighted series (it is called 't1_tse_sag'), and the network was trained on T2"
    for channel, doubtful in (("T2", True), ("T1", False)):
        model = describe(tmp_path / f"{channel}.onnx", channels=(channel,))
        assert predict(series.parent, tmp_path / channel, model=model) == 0
        assert (f"Note on patient: {doubt}" in capsys.readouterr().out) == doubtful
        assert ("another contrast</b>" in (tmp_path / channel / "preview.html").read_text(encoding="utf-8")) == doubtful


def test_a_series_in_parts_is_no_two_studies(series: Path, predict, tmp_path: Path) -> None:
    """A copy in another folder is a study, and so is one that lies elsewhere, as of another station of the table."""
    files = sorted(series.iterdir())
    other = series.with_name("other")
    shutil.copytree(series, other)
    assert predict(series.parent, tmp_path / "out") == 0
    for path in other.iterdir():
        header = pydicom.dcmread(path)
        header.ImagePositionPatient[2] += 200
        header.save_as(path)
    assert predict(series.parent, tmp_path / "out") == 0
    shutil.rmtree(other)
    other.mkdir()
    for path in files[:2]:
        path.rename(other / path.name)
    with pytest.raises(SystemExit, match="hold slices of one DICOM series, expected are all slices of a series in one"):
        predict(series.parent, tmp_path / "out")
