"""DICOM series: slice order, steps and orientation are read from every slice; what cannot be a volume is refused."""

import gzip
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import apply_rescale
from pydicom.uid import (
    ComprehensiveSRStorage,
    EnhancedMRImageStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    JPEGLosslessSV1,
    MRImageStorage,
    RLELossless,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from dataset_conversion.dicom import find_torn
from dataset_conversion.folder import main
from dataset_conversion.geometry import check_same_grid, orient
from dataset_conversion.reading import read_volume
from nnunetv2_cafr.errors import UserError

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
        "0008|0016": str(MRImageStorage),
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


def test_the_step_is_the_mean_of_steps_that_differ_a_little(series: Path) -> None:
    again(series, 2, place(2) + 0.05 * NORMAL)
    volume, problems = read_volume(series)
    assert problems == []
    assert volume is not None
    assert volume.image.GetSpacing() == pytest.approx((0.7, 0.9, STEP))


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


def test_a_series_in_two_folders_is_no_case_twice(series: Path, tmp_path: Path) -> None:
    other = series.with_name("other")
    other.mkdir()
    for k in (3, 4):
        file_of(series, k).rename(other / file_of(series, k).name)
    for name in ("image", "mask"):
        sitk.WriteImage(sitk.Image(9, 9, 9, sitk.sitkUInt8) + 1, str(series.parents[1] / f"{name}_a.nrrd"))
    layout = tmp_path / "layout.yaml"
    layout.write_text(
        "{name: D, channel: T2, images: 'image_{id}.nrrd', masks: 'mask_{id}.nrrd', test_images: 'dicom/{id}', "
        "labels: {vertebrae: {1: L5}}}"
    )
    with pytest.raises(UserError, match=r"slices of the DICOM series that is in .*case too"):
        main(
            ["-i", str(series.parents[1]), "--layout", str(layout), "-d", "3", "-o", str(tmp_path / "raw"), "-np", "1"]
        )
    assert not (tmp_path / "raw" / "Dataset003_D").exists()


def tilted(degrees: float) -> np.ndarray:
    return np.array([np.sin(np.radians(degrees)), 0, -np.cos(np.radians(degrees))])


def again(folder: Path, k: int, position: np.ndarray | None = None, **changes: Any) -> None:
    write_slice(file_of(folder, k), VOXELS[k], place(k) if position is None else position, **changes)


def edit(path: Path, **values: Any) -> pydicom.Dataset:
    """Sets elements of a file; None removes one."""
    dataset = pydicom.dcmread(path)
    for key, value in values.items():
        if value is None:
            delattr(dataset, key)
        else:
            setattr(dataset, key, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.save_as(path)
    return dataset


def enhanced(series: Path) -> None:
    """The series as one Enhanced MR file."""
    for path in sorted(series.iterdir())[1:]:
        path.unlink()
    frames = {"NumberOfFrames": 5, "PixelData": VOXELS.tobytes(), "SOPClassUID": EnhancedMRImageStorage}
    edit(next(series.iterdir()), ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None, **frames)


def enhanced_by_highdicom(series: Path, order: Sequence[int] = range(5)) -> Path:
    """The series as one Legacy Converted Enhanced MR file, frames in this order, each with its own rescaling."""
    needed = {
        "PatientID": "1", "PatientBirthDate": "", "PatientSex": "", "StudyID": "", "StudyDate": "20200101",
        "StudyTime": "000000", "AccessionNumber": "", "ReferringPhysicianName": "", "SeriesNumber": 1,
        "Manufacturer": "x", "BodyPartExamined": "SPINE", "FrameOfReferenceUID": "1.2.3.9", "PatientPosition": "HFS",
        "ImageType": ["ORIGINAL", "PRIMARY", "M"], "RescaleIntercept": "-10",
    }  # fmt: skip
    slices = [edit(file_of(series, k), **needed, RescaleSlope=str(k + 1)) for k in order]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = highdicom.legacy.LegacyConvertedEnhancedMRImage(slices, highdicom.UID(), 2, highdicom.UID(), 1)
    shutil.rmtree(series)
    series.mkdir()
    one.save_as(series / "enhanced.dcm")
    return series / "enhanced.dcm"


def enhanced_slices(series: Path) -> None:
    """The series as one Enhanced MR file of a single frame for each slice."""
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        groups = pydicom.Dataset()
        for name, keys in {
            "PlanePositionSequence": ["ImagePositionPatient"],
            "PlaneOrientationSequence": ["ImageOrientationPatient"],
            "PixelMeasuresSequence": ["PixelSpacing"],
        }.items():
            group = pydicom.Dataset()
            for key in keys:
                setattr(group, key, getattr(dataset, key))
                delattr(dataset, key)
            setattr(groups, name, [group])
        dataset.PerFrameFunctionalGroupsSequence, dataset.NumberOfFrames = [groups], 1
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
        dataset.save_as(path)


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_an_enhanced_file_is_a_volume(series: Path, interpretation: str) -> None:
    """In any order of its frames, each rescaled by its own slope; on the grid of the series that it was made of."""
    expected, _ = read_volume(series)
    edit(enhanced_by_highdicom(series, (3, 0, 4, 1, 2)), PhotometricInterpretation=interpretation)
    volume, problems = read_volume(series)
    assert problems == []
    slopes = np.arange(1, 6)[:, None, None]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(volume.image), VOXELS * slopes - 10)
    assert check_same_grid(series, volume.image, series, expected.image) == []
    assert volume.image.GetDirection() == pytest.approx(expected.image.GetDirection())
    assert volume.image.GetOrigin() == pytest.approx(expected.image.GetOrigin())
    assert [note[:11] for note in volume.notes] == (["MONOCHROME1"] if interpretation == "MONOCHROME1" else [])


def test_an_enhanced_file_with_a_gap_is_refused(series: Path) -> None:
    enhanced_by_highdicom(series, (0, 1, 3, 4))
    volume, (problem,) = read_volume(series)
    assert volume is None
    assert "a step of 8.8 mm between frame 3 of enhanced.dcm and frame 2 of enhanced.dcm" in problem.found


def test_an_enhanced_file_in_colour_is_refused(series: Path) -> None:
    file = enhanced_by_highdicom(series)
    colour = np.repeat((pydicom.dcmread(file).pixel_array[..., None] // 4).astype(np.uint8), 3, -1)
    depth = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    edit(file, PhotometricInterpretation="RGB", PixelData=colour.tobytes(), **depth)
    volume, (problem,) = read_volume(series)
    assert volume is None and problem.found == "3 values per pixel"


def twelve_bits(file: Path) -> None:
    """Negative values of which the four bits above the twelve are not those of the sign."""
    values = (-pydicom.dcmread(file).pixel_array).astype(np.int16).view(np.uint16) & 0xFFF
    edit(file, PixelData=values.tobytes(), BitsStored=12, HighBit=11, PixelRepresentation=1)


def lossless_jpeg(file: Path) -> None:
    """What most archives send; pydicom alone cannot read it."""
    dataset = pydicom.dcmread(file)
    frames = []
    for frame in -dataset.pixel_array:
        writer = sitk.ImageFileWriter()
        writer.SetFileName(str(file.with_name("frame.dcm")))
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG")
        writer.Execute(sitk.GetImageFromArray(frame[None].astype(np.int16)))
        one = pydicom.dcmread(file.with_name("frame.dcm"))
        frames.append(next(generate_frames(one.PixelData, number_of_frames=1)))
    file.with_name("frame.dcm").unlink()
    assert one.file_meta.TransferSyntaxUID == JPEGLosslessSV1
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    dataset.PixelData = encapsulate(frames)
    dataset.save_as(file)


@pytest.mark.parametrize("store", [twelve_bits, lossless_jpeg])
def test_frames_are_decoded_as_slices_are(series: Path, store: Callable[[Path], None]) -> None:
    store(enhanced_by_highdicom(series))
    volume, problems = read_volume(series)
    assert problems == []
    slopes = np.arange(1, 6)[:, None, None]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(volume.image), -VOXELS * slopes - 10)


def test_frames_are_rescaled_where_the_first_says_nothing(series: Path) -> None:
    file = enhanced_by_highdicom(series)
    dataset = pydicom.dcmread(file)
    del dataset.PerFrameFunctionalGroupsSequence[0].PixelValueTransformationSequence
    dataset.save_as(file)
    volume, _ = read_volume(series)
    as_stored = (sitk.GetArrayFromImage(volume.image) == VOXELS).all(axis=(1, 2))
    assert np.count_nonzero(as_stored) == 1


def test_an_enhanced_file_says_its_contrast_in_its_groups(series: Path) -> None:
    file = enhanced_by_highdicom(series)
    dataset = pydicom.dcmread(file)
    kind, echo = pydicom.Dataset(), pydicom.Dataset()
    kind.FrameType, kind.AcquisitionContrast = ["ORIGINAL", "PRIMARY", "FAT", "NONE"], "T1"
    echo.EffectiveEchoTime = 9.0
    dataset.SharedFunctionalGroupsSequence[0].MRImageFrameTypeSequence = [kind]
    dataset.SharedFunctionalGroupsSequence[0].MREchoSequence = [echo]
    dataset.save_as(file)
    volume, problems = read_volume(series)
    assert problems == []
    assert (volume.acquisition.weighting, volume.acquisition.derived) == ("T1", "fat")


def drop_position(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\x20\x00\x32\x00", b"\x20\x00\x33\x00"))


def pack(path: Path) -> None:
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


BAD = {
    "missing slice": (lambda s: file_of(s, 2).unlink(), "a step of 8.8 mm between IM3.dcm and IM4.dcm, where most are"),
    "varying step": (lambda s: again(s, 4, place(4.3)), "a step of 5.72 mm"),
    "two slices at one place": (lambda s: again(s, 3, place(2)), "1 slice at the same place as another one"),
    "two stations": (lambda s: [again(s, k, place(k - 3) + 200 * UP) for k in (3, 4)], "up to 200 mm apart, such as"),
    "two echoes": (lambda s: [edit(file_of(s, k), EchoTime=10 + 80 * (k % 2)) for k in range(5)], "EchoTime"),
    "two series of one name": (lambda s: [edit(file_of(s, k), SeriesNumber=k % 2) for k in range(5)], "SeriesNumber"),
    "two series": (lambda s: [again(s, k, series="1.2.9") for k in (3, 4)], "2 series in one folder: 1.2.3.4 (3 slices)"
    ),
    "localiser": (lambda s: again(s, 2, columns=tilted(20)), "several orientations"),
    "sheared stack": (lambda s: [again(s, k, place(k) + k * UP) for k in range(5)], "a sheared stack"),
    "other pixels": (lambda s: again(s, 1, spacing=(1.0, 1.0)), "pixels"),
    "two patients": (lambda s: edit(file_of(s, 1), PatientID="other"), "a slice of the patient 'other' among those of"),
    "two examinations": (lambda s: edit(file_of(s, 1), StudyInstanceUID="1.9"), "a slice of another examination than"),
    "one slice": (lambda s: [file_of(s, k).unlink() for k in range(1, 5)], "1 DICOM image"),
    "multi-frame": (enhanced, "a multi-frame DICOM file (5 frames, of which 0 are described)"),
    "colour": (lambda s: edit(file_of(s, 1), SamplesPerPixel=3), "3 values per pixel"),
    "palette": (lambda s: edit(file_of(s, 1), PhotometricInterpretation="PALETTE COLOR"), "colours by a palette"),
    "slope 0": (lambda s: edit(file_of(s, 1), RescaleSlope=0, RescaleIntercept=5), "RescaleSlope 0"),
    "axes that are none": (lambda s: edit(file_of(s, 1), ImageOrientationPatient=[0] * 6), "ImageOrientationPatient"),
    "reports only": (lambda s: [report(path) for path in s.iterdir()], "(Comprehensive SR Storage)"),
    "no position": (lambda s: drop_position(file_of(s, 1)), "a slice without its place in the patient"),
    "not DICOM": (lambda s: file_of(s, 1).write_bytes(b"<html>404</html>"), "cannot be read as DICOM"),
    "empty file": (lambda s: file_of(s, 1).write_bytes(b""), "cannot be read as DICOM"),
    "truncated": (lambda s: cut(file_of(s, 1), 1200), "cannot be read"),
    "packed slice": (lambda s: pack(file_of(s, 4)), "a packed file, named as the slices beside it"),
    "half of it with inversion": (
        lambda s: [edit(file_of(s, k), ScanningSequence="SE" if k % 2 else ["SE", "IR"]) for k in range(5)],
        "ScanningSequence",
    ),
    "slice that lost its beginning": (
        lambda s: [path.rename(s / f"scan{k}") for k, path in enumerate(sorted(s.iterdir()))]
        and (s / "scan4").write_bytes(b""),
        "a file without DICOM's beginning, named as the slices beside it",
    ),
    "two frames of reference": (
        lambda s: [edit(file_of(s, k), FrameOfReferenceUID=f"1.{k // 3}") for k in range(5)], "FrameOfReferenceUID"),
    "two inversions": (lambda s: [edit(file_of(s, k), InversionTime=150 + k % 2 * 9) for k in range(5)], "Inversion"),
    "two greys": (
        lambda s: edit(file_of(s, 1), PhotometricInterpretation="MONOCHROME1"), "slices of MONOCHROME2 and of"),
    "bits in another place": (lambda s: edit(file_of(s, 1), BitsStored=12, HighBit=15), "HighBit 15 of 12 bits"),
    "a gradient echo beside T2": (
        lambda s: [edit(file_of(s, k), ScanningSequence="GR") for k in range(5)]
        and [beside(s, f"t2/{k}.dcm", ImagePositionPatient=list(place(k)), SeriesDescription="T2") for k in (0, 1)],
        "2 series in one folder"),
    "no pixels": (lambda s: edit(file_of(s, 1), PixelData=None, Rows=None), "ends before its image (MR Image Storage)"),
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


@pytest.mark.parametrize(
    ("aside", "turned", "torn"), [(0, 0, True), (200, 0, False), (0, 40, False)], ids=["next", "station", "localiser"]
)
def test_a_slice_in_another_folder_goes_on_with_a_series(series: Path, aside: float, turned: float, torn: bool) -> None:
    """Where it is parallel to it and in line with it."""
    other = series.with_name("other")
    other.mkdir()
    write_slice(other / "next.dcm", VOXELS[0], place(5) + aside * UP, columns=tilted(turned), number=9)
    assert find_torn([series, other]) == ((series, other) if torn else None)


def test_a_series_without_a_name_goes_on_in_another_folder(series: Path) -> None:
    """As anonymisation leaves it; not where the slices are of another patient."""
    other = series.with_name("other")
    other.mkdir()
    write_slice(other / "next.dcm", VOXELS[0], place(5), number=9)
    for path in (*series.iterdir(), *other.iterdir()):
        edit(path, SeriesInstanceUID=None)
    assert find_torn([series, other]) == (series, other)
    for change in ({"PatientID": "another"}, {"PatientID": "Somebody", "SeriesDescription": "T1"}):
        edit(other / "next.dcm", **change)
        for path in series.iterdir():
            edit(path, PatientID="Somebody", SeriesDescription="T2")
        assert find_torn([series, other]) is None


def test_nothing_is_torn_where_nothing_says_whose_it_is(series: Path) -> None:
    other = series.with_name("other")
    other.mkdir()
    write_slice(other / "next.dcm", VOXELS[0], place(5), number=9)
    for path in (*series.iterdir(), *other.iterdir()):
        edit(path, SeriesInstanceUID=None, StudyInstanceUID=None)
        dataset = pydicom.dcmread(path)
        dataset.PatientID = ""
        dataset.save_as(path)
    assert find_torn([series, other]) is None


def test_enhanced_files_of_a_slice_go_on_in_another_folder(series: Path) -> None:
    other = series.with_name("other")
    shutil.copytree(series, other)
    for k in range(5):
        file_of(series if k > 2 else other, k).unlink()
    enhanced_slices(series)
    enhanced_slices(other)
    assert find_torn([series, other]) == (series, other)


def test_an_enhanced_file_goes_on_in_another_folder(series: Path) -> None:
    other = series.with_name("other")
    shutil.copytree(series, other)
    for file in (enhanced_by_highdicom(series, range(3)), enhanced_by_highdicom(other, (3, 4))):
        edit(file, SeriesInstanceUID="1.2.3.4")
    assert find_torn([series, other]) == (series, other)


@pytest.mark.parametrize(
    ("padding", "limit", "representation"), [(63536, None, 1), (-2000, None, 1), (-2000, -1500, 1), (40000, 41000, 0)]
)
def test_padding_is_no_signal(series: Path, padding: int, limit: int | None, representation: int) -> None:
    """Two columns of it, in whatever type the header gives it."""
    kind = np.int16 if representation else np.uint16
    for k in range(5):
        pixels = VOXELS[k].astype(kind)
        pixels[:, :2] = np.array([padding]).astype(kind)
        edit(file_of(series, k), PixelData=pixels.tobytes(), PixelRepresentation=representation)
        dataset = pydicom.dcmread(file_of(series, k))
        for keyword, value in (("PixelPaddingValue", padding), ("PixelPaddingRangeLimit", limit)):
            if value is not None:
                dataset.add_new(keyword, "US" if value > 0 else "SS", value)
        dataset.save_as(file_of(series, k))
    volume, problems = read_volume(series)
    assert problems == []
    values = sitk.GetArrayFromImage(volume.image)
    np.testing.assert_array_equal(values[:, :, 2:], VOXELS[:, :, 2:])
    assert (values[:, :, :2] == VOXELS[:, :, 2:].min()).all()
    assert volume.notes == ("8.3% of its voxels are padding (PixelPaddingValue), taken for its darkest value",)


@pytest.mark.parametrize(("darkest", "limit", "padded"), [(-300, None, 2), (-50, None, 0), (-400, -300, 3)])
def test_padding_is_all_of_its_range_that_lies_below_the_image(
    series: Path, darkest: int, limit: int | None, padded: int
) -> None:
    """Far below it: by a tenth of the range of 0 to 1000. The first column is the darkest, the third 100 brighter."""
    pixels = np.full((32, 24), 1000, np.int16)
    pixels[:, 2:] = 0
    pixels[:, 3] = 1000
    pixels[:, :2] = darkest
    pixels[:, 2] = darkest + 100 if limit is not None else 0
    for k in range(5):
        edit(file_of(series, k), PixelData=pixels.tobytes())
        dataset = pydicom.dcmread(file_of(series, k))
        for keyword, value in (("PixelPaddingValue", darkest), ("PixelPaddingRangeLimit", limit)):
            if value is not None:
                dataset.add_new(keyword, "SS", value)
        dataset.save_as(file_of(series, k))
    volume, _ = read_volume(series)
    values = sitk.GetArrayFromImage(volume.image)
    np.testing.assert_array_equal(values[0], np.where(np.arange(24) < padded, 0, pixels))


def test_a_slice_of_padding_alone_is_as_dark_as_the_others(series: Path) -> None:
    edit(file_of(series, 4), PixelData=np.full((32, 24), -2000, np.int16).tobytes())
    for k in range(5):
        dataset = pydicom.dcmread(file_of(series, k))
        dataset.add_new("PixelPaddingValue", "SS", -2000)
        dataset.save_as(file_of(series, k))
    volume, problems = read_volume(series)
    assert problems == []
    assert (sitk.GetArrayFromImage(volume.image)[4] == VOXELS[:4].min()).all()
    assert volume.notes[0].startswith("20.0% of its voxels are padding")


def test_a_dark_background_stays_as_it_is(series: Path) -> None:
    for k in range(5):
        dataset = pydicom.dcmread(file_of(series, k))
        dataset.add_new("PixelPaddingValue", "SS", int(VOXELS[k].min()))
        dataset.save_as(file_of(series, k))
    volume, _ = read_volume(series)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(volume.image), VOXELS)
    assert volume.notes == ()


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


def report(path: Path) -> None:
    """Makes a structured report of an image."""
    edit(path, SOPClassUID=ComprehensiveSRStorage, Modality="SR", PixelData=None, Rows=None, Columns=None)


def beside(series: Path, name: str, **values: Any) -> Path:
    """A further file, made of the first slice."""
    path = series / name
    path.parent.mkdir(exist_ok=True, parents=True)
    shutil.copy(file_of(series, 0), path)
    edit(path, SeriesInstanceUID="1.2.77", SOPInstanceUID=f"1.2.77.{len(name)}", **values)
    return path


def without_preamble(series: Path) -> None:
    for number, path in enumerate(sorted(series.iterdir())):
        dataset = pydicom.dcmread(path)
        path.unlink()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        pydicom.dcmwrite(series / f"scan{number}", dataset, implicit_vr=number % 2 == 0, little_endian=True)


def move_into_folders(series: Path) -> None:
    for number, path in enumerate(sorted(series.iterdir())):
        folder = series / "DICOM" / f"part{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)


def compress(series: Path) -> None:
    """RLE, and JPEG-LS or the like would be read the same way: by GDCM."""
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless)
        dataset.save_as(path)


def no_image_planes(series: Path) -> None:
    report(beside(series, "report.dcm"))
    beside(series, "screen.dcm", SOPClassUID=SecondaryCaptureImageStorage, ImagePositionPatient=None)
    beside(series, "labels.dcm", SOPClassUID=SegmentationStorage)
    contours = beside(series, "contours", SOPClassUID=RTStructureSetStorage, PixelData=None, Rows=None, Columns=None)
    shutil.copy(contours, series / "DICOMDIR")
    state = {"SOPClassUID": GrayscaleSoftcopyPresentationStateStorage, "PixelData": None, "Rows": None, "Columns": None}
    beside(series, "PR/state.dcm", **state)
    (series / "._IM1.dcm").write_bytes(b"of another operating system")


GOOD = {
    "objects without image planes": (
        no_image_planes,
        ["report.dcm (Comprehensive SR Storage)", "screen.dcm (Secondary Capture)", "labels.dcm (Segmentation Storage)",
         "contours (RT Structure Set Storage)", "DICOMDIR (DICOMDIR)", "PR/state.dcm (Grayscale Softcopy Presentation"],
    ),
    "nested folders": (move_into_folders, []),
    "no preamble": (without_preamble, []),
    "compressed": (compress, []),
    "the same file twice": (lambda s: shutil.copy(file_of(s, 2), s / "copy.dcm"), ["the same slice again, taken once"]),
    "a second export of all": (lambda s: shutil.copytree(s, s / "again"), ["taken once: again/IM0.dcm, again/IM3.dcm"]),
    "a localiser": (
        lambda s: [write_slice(s / f"loc{k}.dcm", VOXELS[k], place(k), columns=tilted(40 * k), series="1.2.9", number=k)
                   for k in range(4)],
        ["series 1.2.3.4 (5 slices) is taken, left out: 1.2.9 (4 slices)"],
    ),
    "a smaller series": (
        lambda s: [beside(s, f"other/{k}.dcm", ImagePositionPatient=list(place(k)), SeriesDescription="T1")
                   for k in (0, 1)],
        ["is taken, left out: 1.2.77 (T1, in other, 2 slices)"],
    ),
    "screen shots with places": (
        lambda s: [beside(s, f"shot{k}.dcm", ImagePositionPatient=list(place(k)), SamplesPerPixel=3) for k in range(4)],
        ["series 1.2.3.4 (5 slices) is taken, left out: 1.2.77 (4 slices)"],
    ),
    "what is not DICOM": (
        lambda s: [(s / name).write_bytes(b"?") for name in ("rest.zip", "scan.nii.gz")],
        ["no DICOM file, left out: rest.zip, scan.nii.gz"],
    ),
    "packed copies": (
        lambda s: (s / "IM1.dcm.gz").write_bytes(gzip.compress((s / "IM1.dcm").read_bytes())),
        ["no DICOM file, left out: IM1.dcm.gz"],
    ),
    "every second slice, by the numbers": (
        lambda s: [edit(file_of(s, k), InstanceNumber=2 * k + 1) for k in range(5)],
        ["the numbers of its slices go up by 2: slices between them may be missing"],
    ),
    "every second slice, by the thickness": (
        lambda s: [edit(file_of(s, k), SliceThickness=2) for k in range(5)],
        ["its slices lie 4.4 mm apart and are 2 mm thick: slices between them may be missing"],
    ),
    "slices that were not sent": (
        lambda s: [edit(file_of(s, k), ImagesInAcquisition=7) for k in range(5)], ["7 images were acquired"]),
    "all slices that were acquired": (
        lambda s: [edit(file_of(s, k), ImagesInAcquisition=5) for k in range(5)], []),
    "inversions that were rounded": (
        lambda s: [edit(file_of(s, k), InversionTime=150 + k % 2) for k in range(5)], []),
    "what is named as slices in another folder": (
        lambda s: [(s / "notes").mkdir(), (s / "notes" / "IM9.dcm.gz").write_bytes(b"?")],
        ["no DICOM file, left out: notes/IM9.dcm.gz"],
    ),
    "several acquisitions": (
        lambda s: [edit(file_of(s, k), AcquisitionNumber=k % 2 + 1) for k in range(5)], ["(AcquisitionNumber 1, 2)"]),
    "MONOCHROME1": (
        lambda s: [edit(path, PhotometricInterpretation="MONOCHROME1") for path in s.iterdir()],
        ["MONOCHROME1"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", GOOD)
def test_series_as_hospitals_send_it(series: Path, kind: str) -> None:
    spoil, notes = GOOD[kind]
    spoil(series)
    volume, problems = read_volume(series)
    assert problems == []
    assert volume is not None
    np.testing.assert_array_equal(sitk.GetArrayFromImage(volume.image), VOXELS)
    assert volume.image.GetOrigin() == pytest.approx(tuple(place(0)))
    assert volume.image.GetSpacing() == pytest.approx((0.7, 0.9, STEP))
    said = "; ".join(volume.notes)
    assert all(note in said for note in notes), said
    assert bool(notes) == bool(said)


def test_a_larger_series_of_another_examination_is_no_choice(series: Path) -> None:
    for k in (0, 1):
        beside(series, f"{k}.dcm", ImagePositionPatient=list(place(k)), StudyInstanceUID="1.2.8")
    _, problems = read_volume(series)
    assert "2 series in one folder" in problems[0].found


@pytest.mark.parametrize("store", [lambda series: None, enhanced_by_highdicom, enhanced_slices])
def test_an_axial_series_is_no_choice_beside_a_sagittal_one(series: Path, store: Callable[[Path], object]) -> None:
    """In the examinations of a hospital the axial series have the most slices."""
    store(series)
    patient = pydicom.dcmread(next(series.iterdir())).PatientID
    for k in range(12):
        path = series / f"axial{k}.dcm"
        write_slice(path, VOXELS[0], k * STEP * UP, columns=-NORMAL, series="1.2.9", number=k)
        edit(path, PatientID=patient)
    _, problems = read_volume(series)
    assert "1.2.9 (12 slices)" in problems[0].found
    assert "sagittal if any is" in problems[0].expected


def test_of_two_weightings_none_is_chosen_by_the_number_of_its_slices(series: Path) -> None:
    for path in series.iterdir():
        edit(path, SeriesDescription="T2 tse sag")
    for k in (0, 1):
        beside(series, f"{k}.dcm", ImagePositionPatient=list(place(k)), SeriesDescription="T1 tse sag")
    _, problems = read_volume(series)
    assert "2 series in one folder" in problems[0].found and "T1 tse sag" in problems[0].found
    assert "the only weighting" in problems[0].expected


def test_an_echo_planar_or_gradient_echo_that_says_its_weighting_is_chosen(series: Path) -> None:
    """Of another one that has the same, it has more slices."""
    for k in range(5):
        edit(file_of(series, k), ScanningSequence="GR", SeriesDescription="T2")
    for k in (0, 1):
        beside(series, f"t2/{k}.dcm", ImagePositionPatient=list(place(k)), SeriesDescription="T2 again")
    volume, problems = read_volume(series)
    assert problems == [] and volume.image.GetSize()[2] == 5


def test_a_screen_captured_with_places_is_no_choice_beside_slices(series: Path) -> None:
    for k in range(5):
        beside(series, f"{k}.dcm", ImagePositionPatient=list(place(k)), SOPClassUID=SecondaryCaptureImageStorage)
    for k in (2, 3, 4):
        file_of(series, k).unlink()
    _, problems = read_volume(series)
    assert "2 series in one folder" in problems[0].found


@pytest.mark.parametrize(("own", "thickness", "noted"), [(STEP / 2, 2, True), (STEP, 4, False), (STEP / 11, 4, False)])
def test_every_second_slice_alone_is_noted(series: Path, own: float, thickness: float, noted: bool) -> None:
    """The gap between slices, which some scanners write in place of their distance, is no reason."""
    for path in series.iterdir():
        edit(path, SpacingBetweenSlices=own, SliceThickness=thickness)
    volume, _ = read_volume(series)
    assert volume is not None
    assert any("slices between them may be missing" in note for note in volume.notes) == noted


@pytest.mark.parametrize(("own", "noted"), [(2 * STEP, True), (STEP, False)])
def test_slices_of_two_runs_between_one_another_are_noted(series: Path, own: float, noted: bool) -> None:
    for path in series.iterdir():
        edit(path, SpacingBetweenSlices=own, SliceThickness=4)
    volume, _ = read_volume(series)
    assert any("two acquisitions" in note for note in volume.notes) == noted


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("compressed", [False, True])
def test_values_are_rescaled_slice_by_slice(series: Path, interpretation: str, compressed: bool) -> None:
    """As by pydicom; GDCM alone casts to the type of the first slice, in which others wrap round."""
    rescaling = [(1, 0), (1, -1024), (2.5, 7), (1, 60000), (0.001, 0)]
    expected = {}
    for k, (slope, intercept) in enumerate(rescaling):
        path = file_of(series, k)
        values = {"PhotometricInterpretation": interpretation, "RescaleSlope": slope, "RescaleIntercept": intercept}
        dataset = edit(path, **values)
        expected[k] = apply_rescale(dataset.pixel_array, dataset)
    if compressed:
        compress(series)
    volume, problems = read_volume(series)
    assert problems == []
    assert volume is not None
    found = sitk.GetArrayFromImage(volume.image)
    np.testing.assert_allclose(found, [expected[k] for k in range(5)], rtol=1e-6)


@pytest.mark.parametrize(("slope", "intercept", "expected"), [(2, None, 2 * VOXELS), (None, -10, VOXELS - 10)])
def test_a_slope_without_an_intercept_counts(series: Path, slope: float, intercept: float, expected: Any) -> None:
    """As anonymisation may leave them; pydicom applies neither then."""
    for path in series.iterdir():
        edit(path, **{k: v for k, v in {"RescaleSlope": slope, "RescaleIntercept": intercept}.items() if v is not None})
    volume, problems = read_volume(series)
    assert problems == []
    np.testing.assert_array_equal(sitk.GetArrayFromImage(volume.image), expected)


def test_an_odd_echo_time_of_one_slice_is_named(series: Path) -> None:
    for path in series.iterdir():
        edit(path, EchoTime=90)
    edit(file_of(series, 2), EchoTime=[90, 100])
    _, problems = read_volume(series)
    assert "EchoTime" in problems[0].found


def test_a_folder_that_cannot_be_listed_is_named(series: Path, unlistable: Callable[[Path], None]) -> None:
    """Else the slices in it would be missing without a word."""
    (series / "more").mkdir()
    shutil.move(file_of(series, 0), series / "more")
    unlistable(series / "more")
    _, problems = read_volume(series)
    assert problems[0].path == series / "more" and "Permission denied" in problems[0].found


def test_conversion_tells_of_what_was_left_out(
    series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = series.parents[1] / "masks" / "case"
    shutil.copytree(series, mask)
    labels = np.zeros(VOXELS.shape, np.int16)
    labels[1:3, 5:9, 4:12] = 1
    for k in range(5):
        edit(file_of(mask, k), PixelData=labels[k].tobytes())
    report(beside(series, "report.dcm"))
    report(beside(mask, "contours.dcm"))
    layout = tmp_path / "layout.yaml"
    layout.write_text("{name: D, channel: T2, images: 'dicom/{id}', masks: 'masks/{id}', labels: {vertebrae: {1: L5}}}")
    options = ["-i", str(series.parents[1]), "--layout", str(layout), "-d", "3", "-np", "1", "-o"]
    before = sorted(series.rglob("*"))
    with pytest.raises(UserError):
        main([*options, str(series)])
    assert "which is read" in capsys.readouterr().err
    with pytest.raises(UserError):
        main([*options, str(layout)])
    assert "is no folder" in capsys.readouterr().err
    assert sorted(series.rglob("*")) == before
    assert main([*options, str(tmp_path / "raw")]) == 0
    output = capsys.readouterr().out
    assert "case: no image, left out: report.dcm (Comprehensive SR Storage)" in output
    assert "case: mask: no image, left out: contours.dcm (Comprehensive SR Storage)" in output
