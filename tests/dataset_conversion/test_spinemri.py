"""The converter on good and on each kind of bad input; the target is either complete or untouched."""

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.cases import Case
from dataset_conversion.spinemri import STRUCTURES, compare_with_published, main
from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.phantom import write_dataset

REPOSITORY = Path(__file__).parents[2]
LABELS = {"background": 0, **{structure.name: value for value, structure in enumerate(STRUCTURES, 1)}}
SAMPLE = REPOSITORY.parent / "shared" / "data" / "SpineMRI_sample"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(
        tmp_path_factory.mktemp("pristine"), num_train=3, num_test=1, seed=0, size=(48, 48, 6), progress=False
    )


@pytest.fixture
def source(pristine: Path, tmp_path: Path) -> Path:
    """A copy to spoil: training cases 1, 2, 4 and test case 3 (see `test_good_input`)."""
    return Path(shutil.copytree(pristine, tmp_path / "source" / pristine.name))


def convert(source: Path, output: Path, *options: str) -> int:
    return main(["-i", str(source), "-d", "511", "-o", str(output), "-np", "1", *options])


def image_of(source: Path, number: int) -> Path:
    return source / "train" / "MR" / f"Case{number}.nii.gz"


def mask_of(source: Path, number: int) -> Path:
    return source / "train" / "Mask" / f"mask_case{number}.nii.gz"


def change(path: Path, edit: Callable[[np.ndarray], np.ndarray | None], pixel_type: type | None = None) -> None:
    """Edit a file's voxels in place and keep its geometry where the size allows that."""
    before = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(before)
    if pixel_type is not None:
        array = array.astype(pixel_type)
    edited = edit(array)
    after = sitk.GetImageFromArray(array if edited is None else edited, isVector=False)
    if after.GetSize() == before.GetSize():
        after.CopyInformation(before)
    sitk.WriteImage(after, str(path))


def change_header(path: Path, edit: Callable[[sitk.Image], object]) -> None:
    image = sitk.ReadImage(str(path))
    edit(image)
    sitk.WriteImage(image, str(path))


@pytest.mark.parametrize("num_processes", ["1", "2"])
def test_good_input(source: Path, tmp_path: Path, num_processes: str, read: Callable[[Path], np.ndarray]) -> None:
    output = tmp_path / "raw"
    # What NIfTI's scaling factors leave of an integer: rounded, not refused.
    change(mask_of(source, 2), lambda mask: mask + np.float32(1e-5))
    assert main(["-i", str(source), "-d", "511", "-o", str(output), "-np", num_processes]) == 0
    target = output / "Dataset511_SpineMRI"
    assert [path.name for path in output.iterdir()] == ["Dataset511_SpineMRI"]
    assert sorted(path.relative_to(target).as_posix() for path in target.rglob("*.nii.gz")) == [
        *(f"imagesTr/SpineMRI_{number:03d}_0000.nii.gz" for number in (1, 2, 4)),
        "imagesTs/SpineMRI_test1_003_0000.nii.gz",
        *(f"labelsTr/SpineMRI_{number:03d}.nii.gz" for number in (1, 2, 4)),
    ]
    for number in (1, 2, 4):
        image, mask = (
            target / f"imagesTr/SpineMRI_{number:03d}_0000.nii.gz",
            target / f"labelsTr/SpineMRI_{number:03d}.nii.gz",
        )
        assert image.read_bytes() == image_of(source, number).read_bytes()
        labels = read(mask)
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, np.rint(read(mask_of(source, number))))
        written, original = sitk.ReadImage(str(mask)), sitk.ReadImage(str(image))
        for name in ("Size", "Spacing", "Origin", "Direction"):
            assert getattr(written, f"Get{name}")() == pytest.approx(getattr(original, f"Get{name}")(), abs=1e-6)
    description = json.loads((target / "dataset.json").read_text())
    assert description["labels"] == LABELS
    assert description["numTraining"] == 3
    assert description["channel_names"] == {"0": "T2"}


@pytest.mark.parametrize("scheme", ["kinds", "regions"])
def test_other_label_schemes(source: Path, tmp_path: Path, scheme: str, read: Callable[[Path], np.ndarray]) -> None:
    assert convert(source, tmp_path / "raw", "--labels", scheme) == 0
    target = tmp_path / "raw" / "Dataset511_SpineMRI"
    description = json.loads((target / "dataset.json").read_text())
    levels = read(mask_of(source, 1))
    written = read(target / "labelsTr" / "SpineMRI_001.nii.gz")
    if scheme == "kinds":
        assert description["labels"] == {"background": 0, "vertebrae": 1, "discs": 2}
        np.testing.assert_array_equal(written, np.select([levels > 10, levels > 0], [2, 1]))
    else:
        assert description["labels"]["discs"] == [*range(11, 20), 21]
        assert description["regions_class_order"] == [20, 21, *range(1, 20)]
        np.testing.assert_array_equal(written, levels)


def test_provenance(source: Path, tmp_path: Path) -> None:
    assert convert(source, tmp_path / "raw") == 0
    provenance = json.loads((tmp_path / "raw" / "Dataset511_SpineMRI" / "provenance.json").read_text())
    assert provenance["converter"] == "nnUNetv2_convert_SpineMRI"
    assert provenance["version"] == version("nnunetv2-cafr")
    assert datetime.fromisoformat(provenance["created"]).tzinfo is not None
    assert provenance["source"] == str(source.resolve())
    assert provenance["options"] == {"labels": "levels"}
    assert list(provenance["cases"]) == [*(f"SpineMRI_{n:03d}" for n in (1, 2, 4)), "SpineMRI_test1_003"]
    assert provenance["cases"]["SpineMRI_002"] == {
        "patient": "2",
        "image": "train/MR/Case2.nii.gz",
        "mask": "train/Mask/mask_case2.nii.gz",
        "sha256": {
            "image": hashlib.sha256(image_of(source, 2).read_bytes()).hexdigest(),
            "mask": hashlib.sha256(mask_of(source, 2).read_bytes()).hexdigest(),
        },
        "original_orientation": "PIR",
        "subset": "train",
    }
    test = provenance["cases"]["SpineMRI_test1_003"]
    assert (test["patient"], test["mask"], test["sha256"]["mask"], test["subset"]) == ("3", None, None, "test1")


def test_other_voxel_order_is_turned(source: Path, tmp_path: Path, read: Callable[[Path], np.ndarray]) -> None:
    """A copy that somebody reoriented gives the same voxels in the same places."""
    expected = {path.name: sitk.ReadImage(str(path)) for path in (image_of(source, 1), mask_of(source, 1))}
    for path in (image_of(source, 1), mask_of(source, 1)):
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "RAS"), str(path))
    assert convert(source, tmp_path / "raw") == 0
    target = tmp_path / "raw" / "Dataset511_SpineMRI"
    for name, written in (
        ("Case1.nii.gz", target / "imagesTr" / "SpineMRI_001_0000.nii.gz"),
        ("mask_case1.nii.gz", target / "labelsTr" / "SpineMRI_001.nii.gz"),
    ):
        np.testing.assert_array_equal(read(written), sitk.GetArrayFromImage(expected[name]))
        assert sitk.ReadImage(str(written)).GetOrigin() == pytest.approx(expected[name].GetOrigin(), abs=1e-3)
    cases = json.loads((target / "provenance.json").read_text())["cases"]
    assert cases["SpineMRI_001"]["original_orientation"] == "RAS"


def test_comparison_with_the_published_set(capsys: pytest.CaptureFixture[str], source: Path, tmp_path: Path) -> None:
    training = sorted(set(range(1, 216)) - set(range(1, 216, 5)))
    cases = [Case(str(n), Path(), Path(), patient=str(n), subset="train") for n in training]
    for number, n in enumerate(range(1, 216, 5)):
        cases.append(Case(str(n), Path(), None, patient=str(n), subset="test1" if number < 20 else "test2"))
    assert compare_with_published(cases) == (
        "compared with the published set, here are 172 of 172 train cases, 20 of 20 test1 cases, 23 of 23 test2 cases; "
        "all numbers are accounted for"
    )
    assert compare_with_published(cases[:-1]).endswith("22 of 23 test2 cases")
    assert convert(source, tmp_path / "raw") == 0
    assert (
        "0 of 23 test2 cases; 212 of the numbers 1 to 215 are no training case (published: 43)"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("train/MR", "train/Mask"),
        ("original_mr", "mask"),
        ("source", "label"),
        ("image", "groundtruth"),
        ("Train/mr", "TRAIN/mask"),
    ],
)
@pytest.mark.parametrize("from_parent", [False, True])
@pytest.mark.parametrize("mask_name", ["mask_case{}.nii.gz", "Case{}.nii.gz", "MASK_Case00{}.nii"])
def test_naming_variants(
    pristine: Path,
    tmp_path: Path,
    images: str,
    masks: str,
    from_parent: bool,
    mask_name: str,
    read: Callable[[Path], np.ndarray],
) -> None:
    root = tmp_path / "parent" / "collection"
    for folder in (images, masks):
        (root / folder).mkdir(parents=True)
    (root / images / ".DS_Store").touch()
    for number in (1, 2):
        shutil.copy(image_of(pristine, number), root / images / f"case{number}.nii.gz")
        content = mask_of(pristine, number).read_bytes()
        name = mask_name.format(number)
        (root / masks / name).write_bytes(content if name.endswith(".gz") else gzip.decompress(content))
    assert convert(root.parent if from_parent else root, tmp_path / "raw") == 0
    for number in (1, 2):
        written = read(tmp_path / f"raw/Dataset511_SpineMRI/labelsTr/SpineMRI_{number:03d}.nii.gz")
        np.testing.assert_array_equal(written, read(mask_of(pristine, number)))


def test_uncompressed_image_is_compressed(source: Path, tmp_path: Path, read: Callable[[Path], np.ndarray]) -> None:
    expected = read(image_of(source, 1))
    content = gzip.decompress(image_of(source, 1).read_bytes())
    image_of(source, 1).unlink()
    (source / "train/MR/Case1.nii").write_bytes(content)
    assert convert(source, tmp_path / "raw") == 0
    written = tmp_path / "raw/Dataset511_SpineMRI/imagesTr/SpineMRI_001_0000.nii.gz"
    gzip.decompress(written.read_bytes())
    np.testing.assert_array_equal(read(written), expected)


def set_first(value: float) -> Callable[[np.ndarray], None]:
    def edit(array: np.ndarray) -> None:
        array[0, 0, 0] = value

    return edit


def truncate(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def recompress(path: Path, edit: Callable[[bytes], bytes]) -> None:
    path.write_bytes(gzip.compress(edit(gzip.decompress(path.read_bytes()))))


def shift(image: sitk.Image, millimetres: float) -> None:
    image.SetOrigin([image.GetOrigin()[0] + millimetres, *image.GetOrigin()[1:]])


def swap(first: Path, second: Path) -> None:
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def shear(path: Path) -> None:
    image = nibabel.load(path)
    affine = image.affine.copy()
    affine[0, 0] += 0.3 * affine[1, 0]
    sheared = nibabel.Nifti1Image(np.asanyarray(image.dataobj), affine)
    sheared.set_qform(None, 0)
    nibabel.save(sheared, path)


def drop_orientation(path: Path) -> None:
    image = nibabel.Nifti1Image(np.asanyarray(nibabel.load(path).dataobj), None)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nibabel.save(image, path)


def lie_down(path: Path) -> None:
    image = sitk.ReadImage(str(path))
    image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, 1))
    image.SetSpacing((0.5, 0.5, 8))
    sitk.WriteImage(image, str(path))


def as_complex(path: Path) -> None:
    image = sitk.ReadImage(str(path), sitk.sitkFloat32)
    sitk.WriteImage(sitk.RealAndImaginaryToComplex(image, image), str(path))


# What is done to the source, the file that the report must name, and what it must say of it.
BAD_INPUT: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "missing mask": (lambda s: mask_of(s, 2).unlink(), "MR/Case2.nii.gz", "an image without a mask"),
    "missing image": (lambda s: image_of(s, 2).unlink(), "Mask/mask_case2.nii.gz", "a mask without an image"),
    "test image of zero bytes": (
        lambda s: truncate(s / "test1/MR/Case3.nii.gz", 0),
        "test1/MR/Case3.nii.gz",
        "an empty file (0 bytes)",
    ),
    "other shape": (lambda s: change(mask_of(s, 2), lambda m: m[1:]), "mask_case2.nii.gz", "size (48, 48, 5)"),
    "other spacing": (
        lambda s: change_header(mask_of(s, 2), lambda m: m.SetSpacing((6.25, 6.25, 4.5))),
        "mask_case2.nii.gz",
        "spacing (6.25, 6.25, 4.5)",
    ),
    "other origin": (lambda s: change_header(mask_of(s, 2), lambda m: shift(m, 0.2)), "mask_case2.nii.gz", "origin ("),
    "other direction": (
        lambda s: change_header(mask_of(s, 2), lambda m: m.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, 1))),
        "mask_case2.nii.gz",
        "direction (",
    ),
    "label 20": (lambda s: change(mask_of(s, 2), set_first(20)), "mask_case2.nii.gz", "label table: 20 (1 voxels)"),
    "negative label": (lambda s: change(mask_of(s, 2), set_first(-1)), "mask_case2.nii.gz", "label table: -1 (1 vox"),
    "label 300": (lambda s: change(mask_of(s, 2), set_first(300), np.int16), "mask_case2.nii.gz", "300 (1 voxels)"),
    "fractional label": (lambda s: change(mask_of(s, 2), set_first(2.3)), "mask_case2.nii.gz", "no integers: 2.3 (1 v"),
    "NaN in mask": (lambda s: change(mask_of(s, 2), set_first(np.nan)), "mask_case2.nii.gz", "NaN or infinity in 1 of"),
    "NaN in image": (
        lambda s: change(image_of(s, 2), set_first(np.nan), np.float32),
        "MR/Case2.nii.gz",
        "NaN or infinity in 1 of",
    ),
    "infinity in mask": (
        lambda s: change(mask_of(s, 2), set_first(np.inf)),
        "mask_case2.nii.gz",
        "NaN or infinity in 1",
    ),
    "only foreground": (
        lambda s: change(mask_of(s, 2), np.ones_like),
        "mask_case2.nii.gz",
        "a mask without background",
    ),
    "swapped pair": (lambda s: swap(image_of(s, 2), mask_of(s, 2)), "mask_case2.nii.gz", "not in the label table: 20"),
    "constant image": (lambda s: change(image_of(s, 2), np.ones_like), "MR/Case2.nii.gz", "the value 1 in every voxel"),
    "sheared image": (lambda s: shear(image_of(s, 2)), "MR/Case2.nii.gz", "not perpendicular to each other (sheared)"),
    "no orientation": (lambda s: drop_orientation(image_of(s, 2)), "MR/Case2.nii.gz", "a header without orientation"),
    "axial slices": (lambda s: lie_down(image_of(s, 2)), "MR/Case2.nii.gz", "axial slices: 6 steps of 8 mm from head"),
    "oblique beyond knowing": (
        lambda s: change_header(image_of(s, 2), lambda i: i.SetDirection((0.7, 0, -0.714, 0.714, 0, 0.7, 0, -1, 0))),
        "MR/Case2.nii.gz",
        "a voxel axis 4",
    ),
    "no magic: Analyze, not NIfTI": (
        lambda s: recompress(image_of(s, 2), lambda content: content[:344] + b"xxxx" + content[348:]),
        "MR/Case2.nii.gz",
        "no NIfTI header",
    ),
    "complex": (lambda s: as_complex(image_of(s, 2)), "MR/Case2.nii.gz", "values per voxel"),
    "loop of links": (
        lambda s: (image_of(s, 2).unlink(), image_of(s, 2).symlink_to(image_of(s, 2).name)),
        "MR/Case2.nii.gz",
        "cannot be read",
    ),
    "padded and unpadded": (
        lambda s: shutil.copy(mask_of(s, 2), s / "train/Mask/Case0002.nii"),
        "mask_case2.nii.gz",
        "case 2 is taken by Case0002.nii",
    ),
    "digits of another script": (
        lambda s: image_of(s, 2).rename(s / "train/MR/Case\u0662.nii.gz"),
        "MR/Case\u0662.nii.gz",
        "no case number",
    ),
    "blanks in a name": (
        lambda s: image_of(s, 2).rename(s / "train/MR/Case 2.nii.gz"),
        "MR/Case 2.nii.gz",
        "no case n",
    ),
    "empty mask": (lambda s: change(mask_of(s, 2), np.zeros_like), "mask_case2.nii.gz", "an empty mask"),
    "zero bytes": (lambda s: truncate(image_of(s, 2), 0), "MR/Case2.nii.gz", "an empty file (0 bytes)"),
    # SimpleITK reads the next three without an error: the missing part is zeros or noise.
    "truncated image": (lambda s: truncate(image_of(s, 2), 0.5), "MR/Case2.nii.gz", "a truncated gzip file"),
    "truncated mask": (lambda s: truncate(mask_of(s, 2), 0.99), "mask_case2.nii.gz", "a truncated gzip file"),
    "short voxel data": (
        lambda s: recompress(image_of(s, 2), lambda content: content[:-100]),
        "MR/Case2.nii.gz",
        "truncated voxel data",
    ),
    "flipped byte": (lambda s: flip_byte(image_of(s, 2)), "MR/Case2.nii.gz", "gzip file"),
    "not gzip": (
        lambda s: image_of(s, 2).write_bytes(b"<html>404</html>" * 99),
        "MR/Case2.nii.gz",
        "no intact gzip file",
    ),
    "not NIfTI": (
        lambda s: image_of(s, 2).write_bytes(gzip.compress(b"<html>404</html>" * 99)),
        "MR/Case2.nii.gz",
        "no NIfTI header",
    ),
    "dangling link": (
        lambda s: (image_of(s, 2).unlink(), image_of(s, 2).symlink_to("nowhere")),
        "MR/Case2.nii.gz",
        "cannot be read",
    ),
    "folder in place of a file": (
        lambda s: (image_of(s, 2).unlink(), image_of(s, 2).mkdir()),
        "MR/Case2.nii.gz",
        "cannot be read",
    ),
    "device": (
        lambda s: (image_of(s, 2).unlink(), image_of(s, 2).symlink_to("/dev/zero")),
        "MR/Case2.nii.gz",
        "cannot be read (a folder, pipe or device",
    ),
    "4-D": (lambda s: change(image_of(s, 2), lambda i: np.stack([i, i])), "MR/Case2.nii.gz", "4 dimensions"),
    "2-D": (lambda s: change(image_of(s, 2), lambda i: i[0]), "MR/Case2.nii.gz", "2 dimensions"),
    "RGB": (
        lambda s: sitk.WriteImage(
            sitk.GetImageFromArray(np.zeros((6, 48, 48, 3), np.uint8), isVector=True), str(image_of(s, 2))
        ),
        "MR/Case2.nii.gz",
        "3 values per voxel",
    ),
    "duplicate number": (
        lambda s: shutil.copy(image_of(s, 2), s / "train/MR/Case002.nii.gz"),
        "MR/Case2.nii.gz",
        "case 2 is taken by Case002.nii.gz",
    ),
    "no number": (
        lambda s: shutil.copy(image_of(s, 2), s / "train/MR/Case2 (1).nii.gz"),
        "MR/Case2 (1).nii.gz",
        "no case number",
    ),
    "two training sets": (
        lambda s: [shutil.copytree(s / "train" / a, s / b) for a, b in (("MR", "source"), ("Mask", "label"))],
        "MRSpineSeg_Challenge_SMU",
        "several training sets: train/MR, source",
    ),
    "no images": (
        lambda s: [path.unlink() for path in (s / "train").rglob("*.nii.gz")],
        "train/MR",
        "no images",
    ),
    "wrong folder": (lambda s: shutil.rmtree(s / "train"), "MRSpineSeg_Challenge_SMU", "no training images with masks"),
    "two test folders": (
        lambda s: shutil.copytree(s / "test1", s / "TEST1"),
        "MR/Case3.nii.gz",
        "a second case named SpineMRI_test1_003",
    ),
}


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_bad_input(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    spoil, file, message = BAD_INPUT[kind]
    spoil(source)
    output = tmp_path / "raw"
    output.mkdir()
    with pytest.raises(UserError):
        convert(source, output)
    report = capsys.readouterr().err
    start = next(number for number, line in enumerate(report.splitlines()) if line.endswith(file))
    _, found, expected, remedy = report.splitlines()[start : start + 4]
    assert message in found
    assert expected.startswith("   expected: ")
    assert remedy.startswith("   to do:    ")
    assert list(output.iterdir()) == []


def test_all_problems_are_in_one_report(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask_of(source, 4).unlink()
    truncate(image_of(source, 1), 0.5)
    change(mask_of(source, 1), set_first(20))
    change(mask_of(source, 2), set_first(2.5))
    target = tmp_path / "raw" / "Dataset511_SpineMRI"
    target.mkdir(parents=True)
    (target / "mine").write_text("mine")
    (tmp_path / "raw" / "Dataset511_Other").mkdir()
    with pytest.raises(UserError):
        convert(source, tmp_path / "raw", "-np", "2")
    report = capsys.readouterr().err
    assert "6 problems found; nothing was written." in report
    for name in ("Case4.nii.gz", "Case1.nii.gz", "mask_case1.nii.gz", "mask_case2.nii.gz", "Dataset511_Other"):
        assert f"{name}\n" in report
    assert "an existing data set" in report
    assert sorted(path.name for path in target.parent.rglob("*")) == ["Dataset511_Other", "Dataset511_SpineMRI", "mine"]


@pytest.mark.parametrize(
    "arguments",
    [[], ["-i", "nowhere", "-d", "511"], ["-i", ".", "-d", "0"], ["-i", ".", "-d", "1000"], ["-i", ".", "-d", "x"],
     ["-i", ".", "-d", "511", "-np", "0"], ["-i", ".", "-d", "511"]],
)  # fmt: skip
def test_bad_usage(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("nnUNet_raw", raising=False)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert list(tmp_path.iterdir()) == []


def test_default_output_is_nnunet_raw(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    assert main(["-i", str(source), "-d", "7", "-np", "1"]) == 0
    assert (tmp_path / "raw" / "Dataset007_SpineMRI" / "dataset.json").is_file()


def test_failure_while_writing_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", no_space)
    with pytest.raises(UserError):
        convert(source, tmp_path / "raw")
    assert "No space left on device" in capsys.readouterr().err
    assert list((tmp_path / "raw").iterdir()) == []


@pytest.mark.parametrize("order", ["PIR", "RAS"])  # files are copied, or written by ITK
@pytest.mark.parametrize("num_processes", ["1", "2"])
def test_no_space_left(source: Path, tmp_path: Path, order: str, num_processes: str) -> None:
    """A limit on file size ends writing in the middle, as a full disk does; ITK says nothing about it."""
    for path in source.rglob("*.nii.gz"):
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), order), str(path))
    output = tmp_path / "raw"
    output.mkdir()
    limit = image_of(source, 1).stat().st_size // 2
    command = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "from dataset_conversion.spinemri import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["-i", str(source), "-d", "511", "-o", str(output), "-np", num_processes]
    result = subprocess.run(
        [sys.executable, "-c", command, *arguments], cwd=REPOSITORY, encoding="utf-8", capture_output=True, timeout=60
    )
    assert result.returncode == 2
    assert "The conversion failed, and nothing was written" in result.stderr
    assert list(output.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads what nobody may read")
def test_unreadable_file(source: Path, tmp_path: Path, problems_of: Callable[[], dict[str, str]]) -> None:
    image_of(source, 2).chmod(0)
    with pytest.raises(UserError):
        convert(source, tmp_path / "raw")
    assert problems_of() == {"Case2.nii.gz": "a file that cannot be read (Permission denied)"}


@pytest.mark.parametrize(
    ("number", "status", "num_processes"),
    [(signal.SIGTERM, 143, "1"), (signal.SIGTERM, 143, "2"), (signal.SIGINT, 130, "2")],
)
def test_interrupted_conversion_leaves_nothing(
    pristine: Path, tmp_path: Path, number: signal.Signals, status: int, num_processes: str
) -> None:
    images, masks = tmp_path / "source/train/MR", tmp_path / "source/train/Mask"
    for folder in (images, masks):
        folder.mkdir(parents=True)
    for case in range(1, 201):  # so many that writing takes a second or more
        (images / f"Case{case}.nii.gz").symlink_to(image_of(pristine, 1))
        (masks / f"mask_case{case}.nii.gz").symlink_to(mask_of(pristine, 1))
    output = tmp_path / "raw"
    command = "import sys; from dataset_conversion.spinemri import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["-i", str(tmp_path / "source"), "-d", "511", "-o", str(output), "-np", num_processes]
    process = subprocess.Popen(
        [sys.executable, "-c", command, *arguments],
        cwd=REPOSITORY,
        stderr=subprocess.DEVNULL,
        # A shell's background jobs ignore SIGINT, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    end = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < end and not list(output.glob(".*/labelsTr/*_005.nii.gz")):
        time.sleep(0.002)
    process.send_signal(number)
    assert process.wait(timeout=30) == status
    assert list(output.iterdir()) == []


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"no real sample at {SAMPLE}")
def test_real_sample(tmp_path: Path, read: Callable[[Path], np.ndarray]) -> None:
    for part in ("train/MR", "train/Mask"):
        folder = tmp_path / "source" / part
        folder.mkdir(parents=True)
        for path in sorted((SAMPLE / part).iterdir())[:2]:
            (folder / path.name).symlink_to(path)
    assert convert(tmp_path / "source", tmp_path / "raw") == 0
    target = tmp_path / "raw" / "Dataset511_SpineMRI"
    written = sorted((target / "labelsTr").iterdir())
    assert len(written) == 2
    for path in written:
        number = int(path.name[len("SpineMRI_") : -len(".nii.gz")])
        np.testing.assert_array_equal(read(path), read(mask_of(SAMPLE, number)))
    assert not any(path.is_symlink() for path in target.rglob("*"))
