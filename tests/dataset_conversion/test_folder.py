"""Any folder by a layout file: formats, patterns, patients, identifiers, and layouts that say something wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import yaml

from dataset_conversion.folder import main
from nnunetv2_cafr.errors import UserError

Pair = Callable[..., tuple[sitk.Image, sitk.Image]]
LAYOUT = {
    "name": "Mine",
    "channel": "T2",
    "images": "{id}/image*",
    "masks": "{id}/labels*",
    "labels": {"vertebrae": {5: "L5", 40: "L4"}, "discs": {300: "L4/L5"}},
}
LABELS = (5, 40, 300)


def convert(root: Path, layout: object, output: Path, *options: str) -> int:
    path = output.parent / "layout.yaml"
    path.write_text(layout if isinstance(layout, str) else yaml.safe_dump(layout, sort_keys=False), encoding="utf-8")
    return main(["-i", str(root), "--layout", str(path), "-d", "513", "-o", str(output), "-np", "1", *options])


@pytest.fixture
def root(tmp_path: Path, make_pair: Pair) -> Path:
    """One case in each format, with blanks and other letters in their names."""
    for number, (identifier, ending) in enumerate(
        [("a 1", "nii.gz"), ("b_2", "nii"), ("Müller-3", "mha"), ("病例 4", "nrrd")]
    ):
        folder = tmp_path / "my data" / identifier
        folder.mkdir(parents=True)
        for volume, name in zip(make_pair(LABELS, seed=number), ("image", "labels"), strict=True):
            sitk.WriteImage(volume, str(folder / f"{name}.{ending}"), useCompression=True)
    return tmp_path / "my data"


@pytest.mark.parametrize("num_processes", ["1", "2"])
def test_formats_and_names(root: Path, tmp_path: Path, read: Callable[[Path], np.ndarray], num_processes: str) -> None:
    assert convert(root, LAYOUT, tmp_path / "raw", "-np", num_processes) == 0
    target = tmp_path / "raw" / "Dataset513_Mine"
    assert json.loads((target / "dataset.json").read_text())["labels"] == {
        "background": 0, "L5": 1, "L4": 2, "L4/L5": 3
    }  # fmt: skip
    cases = json.loads((target / "provenance.json").read_text())["cases"]
    assert {name: (case["patient"], case["image"], case["subset"]) for name, case in cases.items()} == {
        "a 1": ("a 1", "a 1/image.nii.gz", None),
        "b_2": ("b_2", "b_2/image.nii", None),
        "Müller-3": ("Müller-3", "Müller-3/image.mha", None),
        "病例 4": ("病例 4", "病例 4/image.nrrd", None),
    }
    for name, case in cases.items():
        np.testing.assert_array_equal(read(target / f"imagesTr/{name}_0000.nii.gz"), read(root / case["image"]))
        labels = read(root / case["mask"])
        expected = np.select([labels == value for value in LABELS], [1, 2, 3])
        np.testing.assert_array_equal(read(target / f"labelsTr/{name}.nii.gz"), expected)


def test_one_image_of_two_patients_is_named(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else the same voxels could train and validate; not where both are of one patient."""
    shutil.copytree(root / "a 1", root / "c 1")
    assert convert(root, LAYOUT, tmp_path / "raw") == 0
    same = "a 1 and c 1 are of several patients, and have the same image"
    assert same in capsys.readouterr().out
    assert convert(root, LAYOUT | {"patient": ".*(.)"}, tmp_path / "other") == 0
    assert same not in capsys.readouterr().out


def test_patients_tests_and_ignored_values(root: Path, tmp_path: Path, read: Callable[[Path], np.ndarray]) -> None:
    layout = LAYOUT | {
        "images": "{id}/image.n*",
        "masks": "{id}/labels.n*",
        "test_images": "M{id}-3/image.mha",
        "patient": ".*?([0-9]*)(?:üller)?",
        "labels": {"vertebrae": {5: "L5"}, "ignore": [40, 300]},
    }
    (root / "Müller-3").rename(root / "M7üller-3")
    assert convert(root, layout, tmp_path / "raw") == 0
    target = tmp_path / "raw" / "Dataset513_Mine"
    assert json.loads((target / "dataset.json").read_text())["labels"] == {"background": 0, "L5": 1, "ignore": 2}
    cases = json.loads((target / "provenance.json").read_text())["cases"]
    assert {name: (case["patient"], case["subset"]) for name, case in cases.items()} == {
        "a 1": ("1", None), "b_2": ("2", None), "病例 4": ("4", None), "7üller": ("7", "test")
    }  # fmt: skip
    assert np.unique(read(target / "labelsTr" / "a 1.nii.gz")).tolist() == [0, 1, 2]
    assert (target / "imagesTs" / "7üller_0000.nii.gz").is_file()


BAD_LAYOUTS = {
    "not YAML": ("images: [", "cannot be read as YAML"),
    "object in YAML": ("!!python/object/apply:os.system ['true']", "cannot be read as YAML"),
    "key twice": ("name: a\nname: b", "the key 'name' occurs twice"),
    "label twice": ("labels: {vertebrae: {1: L5, 1: L4}}", "the key 1 occurs twice"),
    "no keys": ("- name", "no keys"),
    "missing key": ({k: v for k, v in LAYOUT.items() if k != "masks"}, "no key 'masks'"),
    "unknown key": (LAYOUT | {"mask": "x"}, "the unknown key 'mask'"),
    "number for text": (LAYOUT | {"channel": 2}, "2 for channel"),
    "name with separator": (LAYOUT | {"name": "../x"}, "the name '../x'"),
    "pattern upwards": (LAYOUT | {"images": "../{id}/image.nii"}, "images: '../{id}"),
    "absolute pattern": (LAYOUT | {"masks": "/data/{id}.nii"}, "masks: '/data/{id}"),
    "no identifier": (LAYOUT | {"images": "images/*.nii"}, "images: 'images/*.nii'"),
    "anything beside the identifier": (LAYOUT | {"masks": "m/*{id}.nii"}, "masks: 'm/*{id}.nii'"),
    "patient without group": (LAYOUT | {"patient": ".*"}, "patient: 0 groups"),
    "bad expression": (LAYOUT | {"patient": "("}, "patient: '('"),
    "no labels": (LAYOUT | {"labels": {}}, "labels: {}"),
    "label 0": (LAYOUT | {"labels": {"vertebrae": {0: "x"}}}, "the value 0 of 'x'"),
    "label in words": (LAYOUT | {"labels": {"vertebrae": {"L5": 1}}}, "the value 'L5' of 1"),
    "disc among vertebrae": (LAYOUT | {"labels": {"vertebrae": {1: "L5", 2: "L4-L5"}}}, "'L4-L5' under vertebrae"),
    "vertebra among discs": (LAYOUT | {"labels": {"discs": {1: "L4/L5", 2: "L4"}}}, "'L4' under discs"),
    "value in two kinds": (LAYOUT | {"labels": {"a": {1: "x"}, "b": {1: "y"}}}, "1 means 'x' and 'y'"),
}


@pytest.mark.parametrize("kind", BAD_LAYOUTS)
def test_bad_layout(root: Path, tmp_path: Path, problems_of: Callable[[], dict[str, str]], kind: str) -> None:
    layout, message = BAD_LAYOUTS[kind]
    with pytest.raises(UserError):
        convert(root, layout, tmp_path / "raw")
    assert message in problems_of()["layout.yaml"]
    assert not (tmp_path / "raw").exists()


def add_case(root: Path, name: str, like: str = "b_2") -> None:
    for kind in ("image", "labels"):
        (root / name).mkdir(exist_ok=True)
        (root / name / f"{kind}.nii").write_bytes((root / like / f"{kind}.nii").read_bytes())


BAD_FOLDERS = {
    "colon": (lambda r: add_case(r, "x:y"), "image.nii", "the identifier 'x:y'"),
    "newline": (lambda r: add_case(r, "x\ny"), "image.nii", r"the identifier 'x\ny'"),
    "too long": (lambda r: add_case(r, "x" * 201), "image.nii", "the identifier 'xxx"),
    "leading minus": (lambda r: add_case(r, "-rf"), "image.nii", "the identifier '-rf'"),
    "same but for case": (lambda r: add_case(r, "B_2"), "image.nii", "a second case named"),
    "same but for the accent's encoding": (lambda r: add_case(r, "Mu\u0308ller-3"), "image.mha", "a second case named"),
    "loop of links": (lambda r: (r / "b_2" / "image2.nii").symlink_to("image2.nii"), "image2.nii", "case b_2 is taken"),
    "nothing there": (lambda r: [shutil.rmtree(path) for path in r.iterdir()], "my data", "no images"),
    "other format": (lambda r: (r / "b_2" / "image.png").write_bytes(b"x"), "image.png", "a file of the format '.png'"),
    "empty folder": (lambda r: [(r / "e" / n).mkdir(parents=True) for n in ("image", "labels")], "image", "0 DICOM"),
    "wrong magic": (lambda r: (r / "Müller-3/image.mha").write_bytes(b"NRRD0004\n\n"), "image.mha", "NDims None"),
    "detached NRRD": (lambda r: (r / "病例 4/image.nrrd").write_bytes((r / "病例 4/image.nrrd").read_bytes().replace(
        b"encoding: gzip", b"encoding: gzip\ndata file: /etc/passwd")), "image.nrrd", "another file, /etc/passwd"),
    "truncated NRRD": (lambda r: (r / "病例 4/image.nrrd").write_bytes((r / "病例 4/image.nrrd").read_bytes()[:-99]),
                       "image.nrrd", "a truncated gzip file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_FOLDERS)
def test_bad_folder(root: Path, tmp_path: Path, problems_of: Callable[[], dict[str, str]], kind: str) -> None:
    spoil, file, message = BAD_FOLDERS[kind]
    spoil(root)
    with pytest.raises(UserError):
        convert(root, LAYOUT, tmp_path / "raw")
    assert message in problems_of()[file]
    assert list(tmp_path.glob("raw/*")) == []


def test_test_images_that_the_layout_promises(
    root: Path, tmp_path: Path, problems_of: Callable[[], dict[str, str]]
) -> None:
    with pytest.raises(UserError):
        convert(root, LAYOUT | {"test_images": "tets/{id}"}, tmp_path / "raw")
    assert "no test images" in problems_of()[root.name]
    assert list(tmp_path.glob("raw/*")) == []


def test_loop_of_folders_ends(root: Path, tmp_path: Path) -> None:
    (root / "a 1" / "loop").symlink_to(root)
    assert convert(root, LAYOUT, tmp_path / "raw") == 0


def test_regions_need_a_kind_of_several(root: Path, tmp_path: Path) -> None:
    layout = LAYOUT | {"labels": {"a": {5: "x"}, "b": {40: "y"}, "c": {300: "z"}}}
    with pytest.raises(UserError, match=r"--labels regions: .* a kind of at least two structures"):
        convert(root, layout, tmp_path / "raw", "--labels", "regions")
