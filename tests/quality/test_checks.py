"""Every check finds what it is for, names the file and says what to do; sound data give nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnunetv2_cafr import spine as levels
from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.quality.checking import check_dataset
from nnunetv2_cafr.quality.checks import Source, check_discs, check_grey_values
from nnunetv2_cafr.quality.dataset import LabelTable, read_dataset
from nnunetv2_cafr.quality.description import check_description
from nnunetv2_cafr.quality.findings import Severity
from nnunetv2_cafr.quality.measures import fingerprint, intensities, structures

from .conftest import VALUES, Copy


@pytest.fixture
def number(copy: Copy) -> int:
    """A training case, by number."""
    return int(min(copy.folder.glob("labelsTr/*")).name.split(".")[0].split("_")[1])


def only(copy: Copy, check: str, *, file: str, severity: str, remedy: str, count: int = 1) -> list:
    """The findings beyond notes (but for those of `check`) are `count` of this check, in this file."""
    found = copy.findings(check)
    assert [f.check for f in found] == [check] * count, found
    assert any(f.file == file for f in found), found
    assert all(f.severity.word == severity and remedy in f.remedy and f.expected for f in found), found
    return found


def test_sound_data_give_nothing(copy):
    dataset, cases, findings = check_dataset(copy.folder, 1)
    assert [f for f in findings if f.severity > Severity.NOTE] == []
    assert len(cases) == 5 and sum(case.training for case in cases) == 4
    for case in cases:
        assert case.geometry.orientation == "PIR" and case.geometry.plane == "sagittal"
        assert case.geometry.size == (80, 128, 6)
        image = sitk.GetArrayFromImage(sitk.ReadImage(str(dataset.folder / case.image_files[0])))
        assert case.intensities[0].maximum == image.max()
        if case.mask_file:
            mask = sitk.ReadImage(str(dataset.folder / case.mask_file))
            labels = sitk.GetArrayFromImage(mask)
            for structure in case.structures:
                voxels = (labels == structure.label).sum()
                assert structure.voxels == voxels == sum(piece.voxels for piece in structure.pieces)
                assert structure.volume == pytest.approx(voxels * np.prod(mask.GetSpacing()) / 1000)
            assert {s.label for s in case.structures} == set(np.unique(labels)) - {0}


def swap(a: str, b: str):
    def function(labels: np.ndarray) -> np.ndarray:
        first, second = labels == VALUES[a], labels == VALUES[b]
        labels[first], labels[second] = VALUES[b], VALUES[a]
        return labels

    return function


def test_swapped_levels(copy, number):
    copy.change(copy.mask(number), swap("L4", "L2"))
    file = f"labelsTr/SpineMRI_{number:03d}.nii.gz"
    (found,) = only(copy, "order of levels", file=file, severity="error", remedy="correct the labels of L4, L2")
    assert found.structure == "L4, L2"


def spider_name(name: str) -> str:
    """Numbers count from L5 upwards, a disc has that of the vertebra above it, and S is none."""
    number = [one for one in levels.VERTEBRAE if one not in levels.OPTIONAL].index(name.split("/")[0])
    return f"{'disc' if '/' in name else 'vertebra'}_{number}" if number else "canal"


@pytest.mark.parametrize("rename", [spider_name, lambda name: f"disc_{name}" if "/" in name else f"vertebrae_{name}"])
def test_levels_by_other_names(copy, number, rename):
    """SPIDER's, as our converter writes them, and other tools'."""
    copy.describe(labels={"background": 0, **{rename(name): value for name, value in VALUES.items()}})
    assert copy.findings() == []
    copy.change(copy.mask(number), swap("L3", "L2"))
    (found,) = copy.findings()
    assert (found.check, found.structure) == ("order of levels", f"{rename('L3')}, {rename('L2')}")
    copy.change(copy.mask(number), swap("L3", "L2"))
    copy.change(copy.mask(number), lambda labels: labels * (labels != VALUES["L3"]))
    found = {(f.severity.word, f.check, f.structure) for f in copy.findings()}
    assert found == {("error", "missing level", rename("L3"))}


def turn(path: Path, order: str) -> None:
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), order), str(path))


def test_order_is_told_by_the_header_not_by_the_array(copy, number):
    """Any orientation of the same spine is in order, and so is that of its mask: nnU-Net's reader turns them."""
    turn(copy.image(number), "LAS")
    turn(copy.mask(number), "ASL")
    assert copy.findings("orientation", "spacing", "size") == []
    # A plain reader takes voxels as they are stored.
    copy.describe(overwrite_image_reader_writer="SimpleITKIO")
    turn(copy.mask(number), "LAS")
    file = f"imagesTr/SpineMRI_{number:03d}_0000.nii.gz"
    only(copy, "orientation", file=file, severity="warning", remedy="SimpleITKIOWithReorient")


def test_as_many_orders_as_cases(copy):
    copy.describe(overwrite_image_reader_writer="SimpleITKIO")
    cases = sorted(path.name.removesuffix("_0000.nii.gz") for path in (copy.folder / "imagesTr").iterdir())
    for case, order in zip(cases, ("PSR", "RAS", "LPS", "PIL"), strict=True):
        turn(copy.folder / "imagesTr" / f"{case}_0000.nii.gz", order)
        turn(copy.folder / "labelsTr" / f"{case}.nii.gz", order)
    (found,) = only(copy, "orientation", file="dataset.json", severity="warning", remedy="SimpleITKIOWithReorient")
    assert found.found.startswith("5 voxel orders in 5 cases: ")  # the test case is PIR


def test_header_with_two_orientations(copy, number):
    image = nibabel.load(copy.image(number))
    image.set_qform(np.diag([-1, 1, 1, 1]) @ image.affine, code=1)  # mirrored left to right
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(image.dataobj), None, image.header), copy.image(number))
    file = f"imagesTr/SpineMRI_{number:03d}_0000.nii.gz"
    (found,) = only(copy, "unusable file", file=file, severity="error", remedy="which orientation is right")
    assert "PIL by the qform, PIR by the sform" in found.found


def test_mask_that_lost_its_front(copy, number):
    """Stored from back to front under the image's header: nothing else tells it."""
    file = f"labelsTr/SpineMRI_{number:03d}.nii.gz"
    copy.change(copy.mask(number), lambda labels: np.ascontiguousarray(labels[:, :, ::-1]))
    (found,) = copy.findings()
    assert (found.check, found.file, found.severity) == ("front and back", file, Severity.WARNING)


@pytest.mark.parametrize(("orientation", "way"), [("PSR", "downwards"), ("IPR", "front/back")])
def test_spine_turned_by_its_header(copy, number, orientation, way):
    direction = sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation(orientation)
    for path in (copy.image(number), copy.mask(number)):
        image = sitk.ReadImage(str(path))
        image.SetDirection(direction)
        sitk.WriteImage(image, str(path))
    found = [f for f in copy.findings() if f.check == "direction of the spine"]
    assert [f.file for f in found] == [f"labelsTr/SpineMRI_{number:03d}.nii.gz"]
    assert way in found[0].found and "headers" in found[0].remedy


@pytest.mark.parametrize(("name", "severity"), [("L3", "error"), ("L3/L4", "warning")])
def test_level_missing_between_two_others(copy, number, name, severity):
    copy.change(copy.mask(number), lambda labels: np.where(labels == VALUES[name], 0, labels).astype(np.uint8))
    file = f"labelsTr/SpineMRI_{number:03d}.nii.gz"
    (found,) = only(copy, "missing level", file=file, severity=severity, remedy="annotate the level")
    assert found.structure == name


def test_discs_absent_everywhere_are_not_missing(copy):
    for path in copy.folder.glob("labelsTr/*"):
        copy.change(path, lambda labels: np.where(labels > VALUES["T9"], 0, labels).astype(np.uint8))
    (found,) = copy.findings("missing level", "absent structure")
    assert (found.check, found.severity.word) == ("labels in no case", "warning")
    assert found.structure.startswith("L5/S, L4/L5, ") and "9 of 19 labels" in found.found


@pytest.mark.parametrize(("size", "check", "severity"), [(1, "tiny island", "note"), (4, "island", "warning")])
def test_island(copy, number, size, check, severity):
    def add(labels: np.ndarray) -> np.ndarray:
        labels[2:4, 2 : 2 + size, 3 : 3 + size] = VALUES["L3"]
        return labels

    copy.change(copy.mask(number), add)
    found = [f for f in copy.findings("tiny island") if f.structure == "L3"]
    assert [(f.check, f.severity.word, f.file) for f in found] == [
        (check, severity, f"labelsTr/SpineMRI_{number:03d}.nii.gz")
    ]
    assert f"{2 * size * size} voxels" in found[0].found and "erase" in found[0].remedy


def test_a_sacrum_is_several_bones(copy, number):
    """Pieces near the others are S2 to S5; a piece far away is an island."""

    def split(labels: np.ndarray) -> np.ndarray:
        rows = np.flatnonzero((labels == VALUES["S"]).any((0, 2)))
        middle = rows[len(rows) // 2]
        part = labels[:, middle : middle + 2]
        part[part == VALUES["S"]] = 0
        return labels

    copy.change(copy.mask(number), split)
    assert copy.findings("island") == []

    def far(labels: np.ndarray) -> np.ndarray:
        labels[1:5, 2:8, 2:8] = VALUES["S"]
        return labels

    copy.change(copy.mask(number), far)
    assert [(f.check, f.structure) for f in copy.findings()] == [("island", "S")]


def test_disc_without_neighbour(copy, number):
    def move(labels: np.ndarray) -> np.ndarray:
        disc = labels == VALUES["L3/L4"]
        labels[disc] = 0
        labels[np.roll(disc, 25, axis=2)] = VALUES["L3/L4"]
        return labels

    copy.change(copy.mask(number), move)
    file = f"labelsTr/SpineMRI_{number:03d}.nii.gz"
    (found,) = only(copy, "disc without neighbour", file=file, severity="warning", remedy="relabel or erase")
    assert found.structure == "L3/L4" and "neither L3 nor L4" in found.found


@pytest.mark.parametrize(("gap", "neighbour", "alone"), [(2, "L4", False), (3, "L4", True), (0, "T12", True)])
def test_disc_touches_within_three_millimetres_and_its_own_vertebrae(gap, neighbour, alone):
    labels = np.zeros((4, 40, 10), np.int32)
    labels[:, 20:25] = VALUES["L3/L4"]
    labels[:, 25 + gap : 35] = VALUES[neighbour]
    mask = sitk.GetImageFromArray(labels)  # 1 mm
    found = list(check_discs(structures(mask, labels, {v: k for k, v in VALUES.items()}), labels, mask, Source("", "")))
    assert bool(found) is alone


@pytest.mark.parametrize(("empty", "alone"), [(0, False), (1, True)])
def test_discs_on_coarse_pixels_touch_what_they_lie_beside(empty, alone):
    labels = np.zeros((3, 20, 6), np.int32)
    labels[:, 8:10] = VALUES["L3/L4"]
    labels[:, 10 + empty : 14] = VALUES["L4"]
    mask = sitk.GetImageFromArray(labels)
    mask.SetSpacing((3.5, 3.5, 9))
    found = list(check_discs(structures(mask, labels, {v: k for k, v in VALUES.items()}), labels, mask, Source("", "")))
    assert bool(found) is alone


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("index", "severity"), [(2, Severity.WARNING), (0, Severity.NOTE)])
def test_constant_slices_between_others_without_labels(index, severity, axis):
    values = np.random.default_rng(0).integers(0, 900, (5, 20, 20))
    values[index] = 0
    values = np.moveaxis(values, 0, axis)
    found = list(check_grey_values(values, intensities(values), None, Source("", ""), axis))
    assert [(f.check, f.severity) for f in found] == [("constant slices", severity)]
    assert severity is Severity.NOTE or found[0].found.startswith(f"{'zyx'[axis]} = 2 ")


DISGUISES = {
    "same voxels": lambda a: a.astype(np.float32),
    "rescaled": lambda a: (0.37 * a + 11).astype(np.float32),
    "mirrored": lambda a: np.ascontiguousarray(a[::-1, :, ::-1]),
}


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("into", ["imagesTr", "imagesTs"])
def test_duplicates_in_disguise(copy, number, disguise, into):
    """Another name, header and compression do not hide a copy; nor do other grey values, or mirroring."""
    target = copy.folder / into / "SpineMRI_900_0000.nii.gz"
    copy.change(copy.image(number), DISGUISES[disguise], target)
    image = sitk.ReadImage(str(target))
    image.SetOrigin((1, 2, 3))
    sitk.WriteImage(image, str(target), useCompression=True, compressionLevel=1)
    if into == "imagesTr":
        shutil.copy(copy.mask(number), copy.mask(900))
        copy.describe(numTraining=5)
    found = [f for f in copy.findings() if f.check != "image and mask"]  # the mask keeps the origin
    assert [f.check for f in found] == ["duplicate"] * 2
    assert {f.file for f in found} == {
        f"imagesTr/SpineMRI_{number:03d}_0000.nii.gz",
        f"{into}/SpineMRI_900_0000.nii.gz",
    }
    assert all(disguise in f.found and f.severity is Severity.ERROR and "keep one" in f.remedy for f in found)
    if into == "imagesTr":
        assert all("masks equal" in f.found for f in found)


@pytest.mark.parametrize("one_patient", [False, True])
def test_one_mask_of_two_images(copy, number, one_patient):
    """Another patient's, or another contrast of one patient whom a split would part."""
    copy.change(copy.image(number), lambda a: a**2 % 977, copy.image(900))
    shutil.copy(copy.mask(number), copy.mask(900))
    copy.describe(numTraining=5)
    file = copy.folder / "provenance.json"
    provenance = json.loads(file.read_text())
    provenance["cases"]["SpineMRI_900"] = {
        "patient": provenance["cases"][f"SpineMRI_{number:03d}"]["patient"] if one_patient else "another"
    }
    file.write_text(json.dumps(provenance))
    if one_patient:
        assert copy.findings() == []
        return
    found = only(copy, "duplicate mask", file="labelsTr/SpineMRI_900.nii.gz", severity="error", remedy="find", count=2)
    assert found[0].found.startswith("the same mask as labelsTr/SpineMRI_900.nii.gz, whose image is another")


def test_fingerprints_tell_images_apart():
    rng = np.random.default_rng(0)
    values = rng.integers(-5, 900, (4, 6, 5)).astype(np.int16)
    changed = values.copy()
    changed[1, 2, 3] = changed[0, 0, 0]
    other, turned = fingerprint(changed), fingerprint(np.ascontiguousarray(values.transpose(2, 0, 1)[:, ::-1]))
    same = fingerprint(values)
    assert same.arrangement == turned.arrangement and same.ranks != turned.ranks
    assert same.values != other.values and same.arrangement != other.arrangement
    shuffled = fingerprint(rng.permutation(values.ravel()).reshape(values.shape))
    assert same.arrangement != shuffled.arrangement
    # Both ways to rank agree: by counting (integers) and by sorting.
    assert same == fingerprint(values.astype(np.float64))


SPOILED_IMAGES = {
    "constant image": ("error", "leave the case out", lambda a: np.full_like(a, 7)),
    "clipped image": ("warning", "full range", lambda a: np.minimum(a, np.percentile(a, 98)).astype(a.dtype)),
    "few grey values": ("warning", "mask", lambda a: (a > np.median(a)).astype(a.dtype)),
    "constant slices": ("warning", "a slice was lost", lambda a: np.where(np.arange(6)[:, None, None] == 3, 0, a)),
}


@pytest.mark.parametrize("check", SPOILED_IMAGES)
def test_spoiled_images(copy, number, check):
    severity, remedy, spoil = SPOILED_IMAGES[check]
    copy.change(copy.image(number), spoil)
    only(copy, check, file=f"imagesTr/SpineMRI_{number:03d}_0000.nii.gz", severity=severity, remedy=remedy)


def test_not_sagittal(copy, number):
    """Thick slices across the spine: the header's spacing says so."""
    for path in (copy.image(number), copy.mask(number)):
        image = sitk.ReadImage(str(path))
        image.SetSpacing((2.3, 8.0, 2.3))
        sitk.WriteImage(image, str(path))
    found = copy.findings()
    assert {f.check for f in found} == {"not sagittal", "spacing"}
    assert {f.file for f in found} == {f"imagesTr/SpineMRI_{number:03d}_0000.nii.gz"}
    assert all("axial" in f.found and "header" in f.remedy for f in found if f.check == "not sagittal")


@pytest.mark.parametrize("degrees", [15, 25])
def test_tilted(copy, number, degrees):
    turn = sitk.Euler3DTransform((0, 0, 0), np.deg2rad(degrees), 0, 0)
    for path in (copy.image(number), copy.mask(number)):
        image = sitk.ReadImage(str(path))
        rotation = np.reshape(turn.GetMatrix(), (3, 3)) @ np.reshape(image.GetDirection(), (3, 3))
        image.SetDirection(rotation.ravel())
        sitk.WriteImage(image, str(path))
    found = [f.found for f in copy.findings() if f.check == "tilted"]
    assert found == ([] if degrees == 15 else ["a voxel axis is 25 degrees off the patient's axes"])


def test_labels_outside_the_table(copy, number):
    def add(labels: np.ndarray) -> np.ndarray:
        labels[0, :3, :3] = 42
        return labels

    copy.change(copy.mask(number), add)
    file = f"labelsTr/SpineMRI_{number:03d}.nii.gz"
    (found,) = only(copy, "unknown label", file=file, severity="error", remedy="add the label to dataset.json")
    assert found.found == "42 (9 voxels)" and found.expected.endswith("0 to 19")


def test_fractions_and_empty_masks(copy, number):
    file = f"labelsTr/SpineMRI_{number:03d}.nii.gz"
    copy.change(copy.mask(number), lambda labels: np.zeros_like(labels))
    only(copy, "empty mask", file=file, severity="error", remedy="annotate")
    copy.change(copy.mask(number), lambda labels: labels + np.float32(0.3))
    assert "fractional labels" in {f.check for f in copy.findings()}


def test_what_nnunet_reads_of_a_float_mask(copy, number):
    """A hair below an integer is trained as the level before; nnU-Net's own preprocessing says what it makes of it."""
    copy.change(copy.mask(number), lambda labels: np.where(labels == 3, np.nextafter(*np.float32([3, 0])), labels))
    file = f"labelsTr/SpineMRI_{number:03d}.nii.gz"
    (found,) = only(copy, "labels beside whole numbers", file=file, severity="error", remedy="round the mask")
    read, _ = SimpleITKIO().read_seg(str(copy.mask(number)))
    assert 3 not in read.astype(np.int8)
    assert found.found.startswith("2.9999998 (") and "which nnU-Net reads as 2" in found.found
    copy.change(copy.mask(number), lambda labels: np.rint(labels).astype(np.float64) * (1 + 1e-12))  # gone in float32
    assert copy.findings() == []


def test_mask_on_another_grid(copy, number):
    file = f"labelsTr/SpineMRI_{number:03d}.nii.gz"
    mask = sitk.ReadImage(str(copy.mask(number)))
    sitk.WriteImage(mask[:, :-1, :], str(copy.mask(number)))
    only(copy, "image and mask", file=file, severity="error", remedy="resample")
    mask.SetSpacing([1.1 * step for step in mask.GetSpacing()])
    sitk.WriteImage(mask, str(copy.mask(number)))
    only(copy, "image and mask", file=file, severity="error", remedy="resample")


def test_channel_in_another_voxel_order(copy, number):
    """nnU-Net's own check has no more than a word on the terminal for it."""
    for path in copy.folder.glob("images*/*.nii.gz"):
        second = Path(str(path).replace("_0000", "_0001"))
        copy.change(path, lambda values: np.sqrt(values).astype(np.float32) + values % 7, second)
    copy.describe(channel_names={"0": "T2", "1": "T1"}, overwrite_image_reader_writer="SimpleITKIO")
    second = copy.image(number).with_name(f"SpineMRI_{number:03d}_0001.nii.gz")
    turn(second, "PSR")
    found = copy.findings()
    assert {f.check for f in found} == {"image and channel"} and {f.file for f in found} == {f"imagesTr/{second.name}"}
    assert any(f.severity.word == "error" and f.found.startswith("direction") for f in found), found
    copy.describe(overwrite_image_reader_writer="SimpleITKIOWithReorient")
    assert copy.findings() == []


def test_mask_in_another_voxel_order_than_its_image(copy, number):
    """A reader that turns nothing pairs their voxels by index: upside down here, in a grid of the same size."""
    mask = sitk.ReadImage(str(copy.mask(number)))
    sitk.WriteImage(sitk.DICOMOrient(mask, "PSR"), str(copy.mask(number)))
    assert copy.findings() == []
    copy.describe(overwrite_image_reader_writer="SimpleITKIO")
    errors = [f for f in copy.findings() if f.severity.word == "error"]
    assert any(f.check == "image and mask" and f.found.startswith("direction") for f in errors), errors


def test_files_of_two_and_four_dimensions(copy, number):
    """nnU-Net reads pictures in .nii.gz too. A volume with a fourth axis may lack directions as any other."""
    slices = Copy(Path(shutil.copytree(copy.folder, copy.folder.with_name("Dataset512_Slices"))))
    for path in slices.folder.glob("*T*/*.nii.gz"):
        sitk.WriteImage(sitk.ReadImage(str(path))[:, :, 3], str(path))
    slices.describe(overwrite_image_reader_writer="SimpleITKIO")
    assert slices.findings() == []
    for path in (copy.image(number), copy.mask(number)):
        image = nibabel.Nifti1Image(nibabel.load(path).get_fdata().astype(np.uint16)[..., None], None)
        image.header["qform_code"] = image.header["sform_code"] = 0
        nibabel.save(image, path)
    assert {f.check for f in copy.findings()} >= {"no orientation"}


def test_missing_and_unreadable_files(copy, number):
    image, mask = (f"{part}/SpineMRI_{number:03d}" for part in ("imagesTr", "labelsTr"))
    content = copy.mask(number).read_bytes()
    copy.mask(number).unlink()
    only(copy, "missing file", file=f"{image}_0000.nii.gz", severity="error", remedy="add the mask")
    copy.mask(number).write_bytes(content[: len(content) // 2])
    only(copy, "unusable file", file=f"{mask}.nii.gz", severity="error", remedy="copy the file again")
    copy.mask(number).write_bytes(content)
    copy.image(number).rename(copy.image(number).with_name(f"SpineMRI_{number:03d}_0001.nii.gz"))
    only(copy, "missing file", file=f"{image}_0001.nii.gz", severity="error", remedy="channel")
    (copy.folder / f"{image}_0001.nii.gz").unlink()
    assert {f.check for f in copy.findings()} == {"missing file", "number of cases"}


def test_patients(copy):
    names = [case.identifier for case in read_dataset(copy.folder).cases]
    patients = dict(zip(names, ["a", "a", "b", "c", "a"], strict=True))
    entries = {name: {"patient": patient} for name, patient in patients.items()}
    (copy.folder / "provenance.json").write_text(json.dumps({"cases": entries}))
    found = copy.findings("several cases of a patient")
    assert [f.check for f in found] == ["patient in training and test", "several cases of a patient"]
    assert all(name in found[0].found for name in names if patients[name] == "a")


@pytest.mark.parametrize(("share", "severity"), [(0.5, Severity.NOTE), (0.02, Severity.WARNING)])
def test_unusual_volumes(share, severity, copy, number):
    """Eight cases alike and one of half the volume, or of a crumb of it."""
    for extra in range(901, 910):
        factor = 1 + extra / 1e5
        copy.change(copy.image(number), lambda a, k=factor: np.rint(a * k + k).astype(np.int16), copy.image(extra))
        shutil.copy(copy.mask(number), copy.mask(extra))

    def lose(labels: np.ndarray) -> np.ndarray:
        where = np.flatnonzero(labels == VALUES["L3"])
        labels.flat[where[int(share * len(where)) :]] = 0
        return labels

    copy.change(copy.mask(909), lose)
    found = [f for f in check_dataset(copy.folder, 1)[2] if f.check == "unusual volume" and f.structure == "L3"]
    assert {f.severity for f in found if f.file == "labelsTr/SpineMRI_909.nii.gz"} == {severity}
    assert not {f.file for f in found} & {f"labelsTr/SpineMRI_{extra}.nii.gz" for extra in range(901, 909)}


def test_data_that_are_no_spine(copy, number):
    """Regions, an ignore label and other names: no level is checked, and nothing crashes."""
    labels = {"background": 0, "bone": list(range(1, 11)), "disc": list(range(10, 20)), "ignore": 20}
    copy.describe(labels=labels, regions_class_order=[1, 11])
    copy.change(copy.mask(number), swap("L4", "L2"))
    assert copy.findings() == []
    empty = LabelTable.from_json({"background": 0, "a": 1, "ignore": []})  # of which check_description tells
    assert (empty.names, empty.ignore) == ({1: "a"}, None)
    table = LabelTable.from_json({"background": 0, "whole": [1, 2], "core": [2], "ignore": 3})
    assert dict(table.names) == {1: "label 1 of whole", 2: "core"} and table.ignore == 3


def write_pictures(folder, channel_names: dict[str, str]) -> None:
    """Five colour pictures with masks, as nnU-Net takes them."""
    rng = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    for case in "abcde":
        colours = sitk.GetImageFromArray(rng.integers(0, 255, (20, 30, 3), np.uint8), isVector=True)
        sitk.WriteImage(colours, str(folder / "imagesTr" / f"{case}_0000.png"))
        labels = np.zeros((20, 30), np.uint8)
        labels[4:9, 5:12] = 1
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(folder / "labelsTr" / f"{case}.png"))
    description = {"labels": {"background": 0, "cell": 1}, "file_ending": ".png", "numTraining": 5}
    (folder / "dataset.json").write_text(json.dumps({**description, "channel_names": channel_names}))


def test_colour_pictures_hold_three_channels_each(tmp_path):
    write_pictures(tmp_path, {"0": "R", "1": "G", "2": "B"})
    _, cases, findings = check_dataset(tmp_path, 1)
    assert findings == []
    assert {case.geometry.orientation for case in cases} == {"2-D"}
    assert [outline.name for outline in cases[0].picture.outlines] == ["cell"]


def test_tiff_is_read_as_nnunet_does(tmp_path):
    """Four pages, which SimpleITK takes for the colours of one; the spacing is in a file beside."""
    rng = np.random.default_rng(0)
    for name, numbered in (("imagesTr", "_0000"), ("labelsTr", "")):
        (tmp_path / name).mkdir()
        for case in "abcde":
            voxels = (rng.normal(100, 20, (4, 20, 30)) if numbered else rng.random((4, 20, 30)) > 0.5).astype(np.uint8)
            tifffile.imwrite(tmp_path / name / f"{case}{numbered}.tiff", voxels)
            (tmp_path / name / f"{case}.json").write_text('{"spacing": [9, 2, 3]}')
    description = {"labels": {"background": 0, "cell": 1}, "file_ending": ".tiff", "numTraining": 5}
    (tmp_path / "dataset.json").write_text(json.dumps({**description, "channel_names": {"0": "MR"}}))
    _, cases, findings = check_dataset(tmp_path, 1)
    assert {finding.check for finding in findings} <= {"islands"}
    assert {(case.geometry.size, case.geometry.spacing) for case in cases} == {((30, 20, 4), (3, 2, 9))}
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name / "c.json").unlink()
    found = [f for f in check_dataset(tmp_path, 1)[2] if f.severity.word != "note" and "1 mm cubes" in f.expected]
    assert [(f.check, f.file) for f in found] == [("spacing", "imagesTr/c_0000.tiff")]
    with (tmp_path / "imagesTr" / "a_0000.tiff").open("r+b") as file:
        file.truncate(1000)
    tifffile.imwrite(tmp_path / "imagesTr" / "b_0000.tiff", np.where(voxels, np.nan, 1).astype(np.float32))
    found = {f.file for f in check_dataset(tmp_path, 1)[2] if f.check == "unusable file"}
    assert found == {f"imagesTr/{case}_0000.tiff" for case in "ab"}


def test_slices_in_a_tif_that_nnunet_takes_for_channels_are_named(tmp_path):
    """nnU-Net has two readers for .tif, and left to itself takes the one of 2-D pictures."""
    for name, numbered in (("imagesTr", "_0000"), ("labelsTr", "")):
        (tmp_path / name).mkdir()
        for case in "abcde":
            voxels = np.arange(4 * 20 * 30, dtype=np.uint8).reshape(4, 20, 30) % (90 if numbered else 2)
            tifffile.imwrite(tmp_path / name / f"{case}{numbered}.tif", voxels)
    description = {"labels": {"background": 0, "cell": 1}, "file_ending": ".tif", "numTraining": 5}
    description["channel_names"] = {"0": "MR"}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    (finding,) = [f for f in check_dataset(tmp_path, 1)[2] if f.check == "reader"]
    assert (finding.severity.word, finding.found[:7]) == ("error", "4 pages")
    assert "Tiff3DIO" in finding.remedy
    (tmp_path / "dataset.json").write_text(json.dumps({**description, "overwrite_image_reader_writer": "Tiff3DIO"}))
    assert "reader" not in {f.check for f in check_dataset(tmp_path, 1)[2]}


def test_nnunets_own_check_has_the_last_word(tmp_path):
    """Three channels in the files, one in dataset.json: nothing that our own checks look for."""
    write_pictures(tmp_path, {"0": "RGB"})
    findings = check_dataset(tmp_path, 1)[2]
    assert {(f.check, f.severity.word) for f in findings} == {("nnU-Net's own check", "error")}
    assert "Expected: 1. Got: 3" in findings[0].found


def test_files_that_dataset_json_names(copy):
    """Images elsewhere, by the entry `dataset`."""
    entries = {
        path.name.removesuffix(".nii.gz"): {
            "images": [f"../images/{path.name.replace('.nii.gz', '_0000.nii.gz')}"],
            "label": str(path),
        }
        for path in copy.folder.glob("labelsTr/*")
    }
    (copy.folder / "imagesTr").rename(copy.folder.parent / "images")
    copy.describe(dataset=entries)
    assert copy.findings() == []
    (copy.folder.parent / "images" / f"{min(entries)}_0000.nii.gz").unlink()
    assert [f.check for f in copy.findings()] == ["missing file"]


SOUND = {"labels": {"background": 0, "a": 1, "b": 2}, "channel_names": {"0": "MR"}, "file_ending": ".nii.gz"}
REGIONS = {"background": 0, "all": [1, 2], "core": 2}
REFUSED = {
    "consecutive": ({"labels": {"background": 0, "a": 1, "b": 3}}, "2 is missing"),
    "no background": ({"labels": {"a": 1, "b": 2}}, "no label is called background"),
    "background not 0": ({"labels": {"background": 1, "a": 2}}, "background is 1"),
    "background alone": ({"labels": {"background": 0}}, "no label but the background"),
    "ignore not the highest": ({"labels": {"background": 0, "ignore": 1, "a": 2}}, "ignore is 1"),
    "ignore above a gap": ({"labels": {"background": 0, "a": 1, "ignore": 3}}, "ignore is 3, the highest label 1"),
    "ignore a list": ({"labels": {"background": 0, "a": 1, "ignore": [2, 3]}}, "ignore is the list"),
    "regions without order": ({"labels": REGIONS}, "there is no regions_class_order"),
    "order too short": ({"labels": REGIONS, "regions_class_order": [1]}, "regions_class_order is [1]"),
    "channels as a list": ({"channel_names": ["MR"]}, "channel_names is a list"),
    "no such format": ({"file_ending": "nii.gz"}, "no reader of nnU-Net takes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_nnunet_refuses_in_dataset_json(case, tmp_path):
    """Each is an error of ours, and nnU-Net's own classes refuse it."""
    changes, words = REFUSED[case]
    description = {**SOUND, "numTraining": 0, **changes}
    (found,) = [f for f in check_description(description) if words in f.found]
    assert found.severity is Severity.ERROR and found.expected and found.remedy
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name).mkdir()
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5), np.uint8))
    ending = description["file_ending"]
    for file in (f"imagesTr/x_0000{ending}", f"labelsTr/x{ending}"):
        sitk.WriteImage(image, str(tmp_path / "image.nii.gz"))
        shutil.move(tmp_path / "image.nii.gz", tmp_path / file)
    (tmp_path / "dataset.json").write_text(json.dumps({**description, "numTraining": 1}))
    if case != "background alone":  # which dies in training
        with pytest.raises((AssertionError, RuntimeError, AttributeError)):
            verify_dataset_integrity(str(tmp_path), 1)


def test_all_that_is_wrong_with_dataset_json_is_said_at_once():
    assert check_description(SOUND) == []
    assert check_description({**SOUND, "labels": REGIONS, "regions_class_order": [1, 2]}) == []
    wrong = {**SOUND, "labels": {"a": 1, "b": 4, "ignore": 9}, "channel_names": ["MR"], "file_ending": ".jpg"}
    assert [f.check for f in check_description(wrong)] == ["channels", "labels", "labels", "labels", "reader"]


@pytest.mark.parametrize(
    ("names", "unread"),
    [
        (("lumbar5", "L4", "L3", "L2"), ["lumbar5"]),
        (("L5", "lumbar4", "L3", "L2", "vertebra arch"), ["lumbar4", "vertebra arch"]),
        (("L5", "L4", "L2", "L4/L5", "canal", "rib_left_1"), []),
        (("lesion1", "lesion2", "lesion3"), []),
    ],
)
def test_names_that_are_read_as_no_level(names, unread):
    labels = {name: value for value, name in enumerate(("background", *names))}
    found = [f for f in check_description({**SOUND, "labels": labels}) if f.check == "level names"]
    assert [(f.severity, f.structure) for f in found] == [(Severity.WARNING, name) for name in unread]


def test_few_cases_say_what_nnunet_will_do(copy, monkeypatch):
    (found,) = [f for f in copy.findings("few cases") if f.check == "few cases"]
    assert "4 training cases of 4 patients" in found.found
    assert "2d 0 will end with an error" in found.remedy and "2d all -tr nnUNetTrainer_CAFR" in found.remedy
    with pytest.raises(ValueError, match="n_splits=5"):
        generate_crossval_split(list("abcd"), n_splits=5)
    (copy.folder / "splits_final.json").write_text('[{"train": [], "val": []}]')
    assert copy.findings("few cases") == []


def test_not_a_dataset(tmp_path):
    with pytest.raises(UserError, match=r"dataset\.json cannot be read"):
        read_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text('{"labels": {}}')
    with pytest.raises(UserError, match="channel_names"):
        read_dataset(tmp_path)


def test_values_of_dataset_json_that_nothing_can_be_made_of(copy):
    for changes in ({"labels": {"background": 0, "S": float("inf")}}, {"labels": {"background": 0, "S": None}}):
        copy.describe(**changes)
        with pytest.raises(UserError, match=r"dataset\.json.*expected labels"):
            read_dataset(copy.folder)
    (copy.folder / "dataset.json").write_text("[" * 99999)
    with pytest.raises(UserError, match="cannot be read"):
        read_dataset(copy.folder)


def test_images_that_nnunet_does_not_see_are_named(copy, number):
    for path in (copy.image(number), copy.mask(number)):
        path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.GZ")))
    copy.describe(numTraining=3)
    for folder in ("imagesTr", "labelsTr"):
        only(copy, "file name", file=folder, severity="warning", remedy="rename or convert them to .nii.gz", count=2)


def test_names_that_are_not_looked_at(copy, number):
    """macOS leaves ._NAME beside files on foreign disks, which nnU-Net takes for cases; SimpleITK dies of latin-1."""
    copy.image(number).with_name("._SpineMRI_900_0000.nii.gz").write_bytes(b"\0\5\26\7")
    found = only(copy, "file name", file="imagesTr", severity="error", remedy="remove them")
    assert "._SpineMRI_900_0000.nii.gz" in found[0].found
    copy.image(number).with_name("._SpineMRI_900_0000.nii.gz").unlink()
    for path in (copy.image(number), copy.mask(number)):
        path.rename(path.with_name(path.name.replace("SpineMRI", "M\udcfcller")))
    copy.describe(numTraining=3)
    found = only(copy, "file name", file="imagesTr", severity="error", remedy="rename them", count=2)
    assert all("M\\udcfcller" in one.found for one in found)


def as_mha(copy: Copy, change: dict[Path, Callable[[sitk.Image], sitk.Image]]) -> None:
    """All training cases as .mha, these files changed."""
    for path in copy.folder.glob("*Tr/*.nii.gz"):
        image = change.get(path, lambda image: image)(sitk.ReadImage(str(path)))
        sitk.WriteImage(image, str(path).replace(".nii.gz", ".mha"))
        path.unlink()
    shutil.rmtree(copy.folder / "imagesTs")
    copy.describe(file_ending=".mha")


def test_a_single_slice_lies_as_the_volumes_do_in_any_format(copy, number):
    as_mha(copy, {path: lambda image: image[:, :, 3:4] for path in (copy.image(number), copy.mask(number))})
    assert copy.findings("orientation", "spacing") == []


def test_values_that_are_no_numbers(copy, number):
    """ITK reads 0 for them from NIfTI alone."""

    def with_nan(image: sitk.Image) -> sitk.Image:
        image = sitk.Cast(image, sitk.sitkFloat32)
        image[5, 5, 2] = float("nan")
        return image

    as_mha(copy, {copy.image(number): with_nan})
    file = f"imagesTr/SpineMRI_{number:03d}_0000.mha"
    (found,) = only(copy, "unusable file", file=file, severity="error", remedy="replace them")
    assert found.found.startswith("NaN or infinity in 1 of")


def test_levels():
    assert levels.disc_of("T12/L1") == ("L1", "T12")
    assert levels.disc_of("either/or") is None
    assert levels.missing_levels({"S", "L4", "L3", "L3/L4"}, {"S", "L5", "L4", "L3", "L3/L4", "L4/L5"}) == ["L5"]
    assert levels.missing_levels({"L5", "L4"}, {"S", "L5", "L4", "L3", "L4/L5"}) == ["L4/L5"]
    assert levels.missing_levels({"S", "L5"}, {"S", "L6", "L5"}) == []  # a sixth lumbar vertebra is rare
    assert not levels.is_spine_table(["vertebra", "disc", "S"])
