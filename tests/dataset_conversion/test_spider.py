"""SPIDER's quirks, each in small .mha series: axis orders, partly visible vertebrae, counting from the bottom."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.labels import IGNORE
from dataset_conversion.spider import main, make_named_table
from dataset_conversion.spinemri import STRUCTURES
from nnunetv2_cafr.errors import UserError

SPINEMRI = {structure.name: value for value, structure in enumerate(STRUCTURES, 1)}
TARGET = "Dataset512_SPIDER"
# Vertebrae 1 to 3, the third partly visible as 104 above them, their discs, and the canal.
LABELS = (1, 2, 3, 104, 201, 202, 203, 100)


@pytest.fixture
def source(tmp_path: Path, make_pair: Callable[..., tuple[sitk.Image, sitk.Image]]) -> Path:
    """Four series, each in another voxel order; patient 12's mask is in another order than its image."""
    root = tmp_path / "SPIDER"
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number, (name, order, mask_order) in enumerate(
        [("1_t1", "PIR", "PIR"), ("1_t2", "LPS", "LPS"), ("12_t2_SPACE", "RIA", "SAL"), ("257_t2", "ASL", "ASL")]
    ):
        image, mask = make_pair(LABELS, seed=number)
        for volume, folder, code in ((image, "images", order), (mask, "masks", mask_order)):
            sitk.WriteImage(sitk.DICOMOrient(volume, code), str(root / folder / f"{name}.mha"), useCompression=True)
    (root / "overview.csv").write_text(
        "num_vertebrae,new_file_name , subset\n7,1_t1,training \n7,1_t2,training\n7,257_t2, validation\n"
    )
    return root


def convert(source: Path, *options: str) -> int:
    return main(["-i", str(source), "-d", "512", "-o", str(source.parent / "raw"), "-np", "1", *options])


def load(source: Path, name: str) -> dict:
    return json.loads((source.parent / "raw" / TARGET / name).read_text())


def written_values(source: Path, case: str, original: int, read: Callable[[Path], np.ndarray]) -> list[int]:
    """What became of the voxels with one value."""
    mask = sitk.DICOMOrient(sitk.ReadImage(str(source / "masks" / f"{case}.mha")), "PIR")
    patient, sequence = case.split("_", 1)
    written = read(source.parent / f"raw/{TARGET}/labelsTr/SPIDER_{int(patient):03d}_{sequence}.nii.gz")
    return np.unique(written[sitk.GetArrayFromImage(mask) == original]).tolist()


def test_labels_keep_their_numbers(source: Path, read: Callable[[Path], np.ndarray]) -> None:
    assert convert(source) == 0
    # In an order that does not change when a higher vertebra comes up elsewhere.
    assert load(source, "dataset.json")["labels"] == {
        "background": 0, "canal": 1, "vertebra_1": 2, "disc_1": 3, "vertebra_2": 4, "disc_2": 5, "vertebra_3": 6,
        "disc_3": 7, "ignore": 8,
    }  # fmt: skip
    for original, value in ((100, 1), (1, 2), (201, 3), (203, 7), (104, 8)):
        assert written_values(source, "12_t2_SPACE", original, read) == [value]


def test_every_voxel_order_gives_sagittal_slices(source: Path, read: Callable[[Path], np.ndarray]) -> None:
    assert convert(source) == 0
    folder = source.parent / "raw" / TARGET
    for path in sorted((folder / "imagesTr").iterdir()):
        image, mask = (
            sitk.ReadImage(str(path)),
            sitk.ReadImage(str(folder / "labelsTr" / path.name.replace("_0000", ""))),
        )
        assert sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection()) == "PIR"
        assert image.GetSize() == mask.GetSize() == (24, 32, 4)
        assert image.GetSpacing() == pytest.approx((1, 1, 4))
        assert mask.GetOrigin() == pytest.approx(image.GetOrigin(), abs=1e-5)
    # The array is that of the series before its axes were permuted.
    original = np.random.default_rng(3).integers(1, 900, (4, 32, 24))
    np.testing.assert_array_equal(read(folder / "imagesTr/SPIDER_257_t2_0000.nii.gz"), original)


def test_provenance_keeps_patients_and_subsets(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(source) == 0
    cases = load(source, "provenance.json")["cases"]
    assert {name: (case["patient"], case["subset"], case["original_orientation"]) for name, case in cases.items()} == {
        "SPIDER_001_t1": ("1", "training", "PIR"),
        "SPIDER_001_t2": ("1", "training", "LPS"),
        "SPIDER_012_t2_SPACE": ("12", None, "RIA"),
        "SPIDER_257_t2": ("257", "validation", "ASL"),
    }
    assert "1 series have no subset in overview.csv: 12_t2_SPACE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sequences", "names", "channel"),
    [
        (["t1"], ["SPIDER_001_t1"], "T1"),
        (["t2", "t2_SPACE"], ["SPIDER_001_t2", "SPIDER_012_t2_SPACE", "SPIDER_257_t2"], "T2"),
        (["t1", "t2_SPACE"], ["SPIDER_001_t1", "SPIDER_012_t2_SPACE"], "MR"),
    ],
)
def test_sequences(source: Path, sequences: list[str], names: list[str], channel: str) -> None:
    assert convert(source, "--sequences", *sequences) == 0
    assert sorted(load(source, "provenance.json")["cases"]) == names
    assert load(source, "dataset.json")["channel_names"] == {"0": channel}


def test_partly_visible_vertebrae_as_vertebrae(source: Path, read: Callable[[Path], np.ndarray]) -> None:
    assert convert(source, "--partial", "vertebra") == 0
    labels = load(source, "dataset.json")["labels"]
    assert "ignore" not in labels
    assert written_values(source, "1_t1", 104, read) == [labels["vertebra_4"]]


def test_names_of_spinemri_where_the_user_says_so(
    source: Path, read: Callable[[Path], np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    table = source / "lowest.csv"
    table.write_text("patient,lowest\n001,L5\n257,L6\n")
    assert convert(source, "--lowest-vertebra", str(table)) == 0
    assert "1 patients without a lowest vertebra are left out: 12" in capsys.readouterr().out
    labels = load(source, "dataset.json")["labels"]
    assert {name: labels[name] for name in SPINEMRI} == SPINEMRI
    assert (labels["canal"], labels["ignore"]) == (20, 21)
    assert written_values(source, "1_t2", 1, read) == [SPINEMRI["L5"]]
    assert written_values(source, "1_t2", 201, read) == [SPINEMRI["L5/S"]]
    assert written_values(source, "257_t2", 1, read) == [labels["ignore"]]
    assert written_values(source, "257_t2", 2, read) == [SPINEMRI["L5"]]


@pytest.mark.parametrize(
    ("lowest", "expected"),
    [
        ("L5", {1: "L5", 2: "L4", 9: "T9", 10: None, 201: "L5/S", 202: "L4/L5", 209: "T9/T10", 210: None, 102: "L4"}),
        ("L4", {1: "L4", 8: "T9", 9: None, 201: "L4/L5", 208: "T9/T10", 209: None}),
        ("L6", {1: None, 2: "L5", 10: "T9", 201: None, 202: None, 203: "L4/L5", 210: "T9/T10"}),
    ],
)
def test_transitional_vertebrae(lowest: str, expected: dict[int, str | None]) -> None:
    table = make_named_table("vertebra", lowest)
    assert {value: None if table[value] == IGNORE else table[value].name for value in expected} == expected


def rewrite(path: Path, old: str, new: str) -> None:
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))


def add_to(path: Path, number: int) -> None:
    sitk.WriteImage(sitk.ReadImage(str(path)) + number, str(path))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


IMAGE, MASK = "images/1_t1.mha", "masks/1_t1.mha"
BAD = {
    "truncated": (lambda s: truncate(s / IMAGE), "1_t1.mha", "voxel data that are cut off"),
    "damaged": (lambda s: rewrite(s / MASK, "LOCAL\nx", "LOCAL\ny"), "1_t1.mha", "damaged compressed"),
    "detached": (lambda s: rewrite(s / IMAGE, "= LOCAL", "= ../../x.raw"), "1_t1.mha", "another file, ../.."),
    "sheared": (lambda s: rewrite(s / IMAGE, "Matrix = 0 1 0", "Matrix = 0 1 0.3"), "1_t1.mha", "sheared"),
    "unknown label": (lambda s: add_to(s / MASK, 25), "1_t1.mha", "not in the label table: 26 "),
    "unknown name": (lambda s: (s / IMAGE).rename(s / "images/1_t1_copy.mha"), "1_t1_copy.mha", "no case number"),
    "no mask": (lambda s: (s / MASK).unlink(), "1_t1.mha", "an image without a mask"),
    "twice": (lambda s: (s / "images/01_T1.mha").write_bytes(b""), "1_t1.mha", "case 1_t1 is taken by 01_T1"),
    "no folders": (lambda s: (s / "images").rename(s / "image"), "SPIDER", "no folders images and masks"),
    "patient in both subsets": (
        lambda s: rewrite(s / "overview.csv", "1_t2,training", "1_t2,validation"),
        "overview.csv",
        "patient 1 in the subsets training and validation",
    ),
    "a table that is not in UTF-8": (
        lambda s: (s / "overview.csv").write_bytes("new_file_name,subset\n1_t1,Übung\n".encode("latin-1")),
        "overview.csv",
        "no table ('utf-8' codec can't decode",
    ),
    "a series in both subsets": (
        lambda s: rewrite(s / "overview.csv", "1_t2,training", "1_T1.mha,validation"),
        "overview.csv",
        "'training' and 'validation' for 1_t1",
    ),
    "other table": (lambda s: (s / "overview.csv").write_text("a;b\n"), "overview.csv", "no column new_file_name"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input(source: Path, problems_of: Callable[[], dict[str, str]], kind: str) -> None:
    spoil, file, message = BAD[kind]
    spoil(source)
    with pytest.raises(UserError):
        convert(source)
    assert message in problems_of()[file]
    assert not (source.parent / "raw" / TARGET).exists()


def test_bad_lowest_vertebra(source: Path, problems_of: Callable[[], dict[str, str]]) -> None:
    for rows, problem in (("1,T9", "'T9' for patient 1"), ("01,L6\n1,L5", "'L6' and 'L5' for 1")):
        (source / "lowest.csv").write_text(f"patient,lowest\n{rows}\n")
        with pytest.raises(UserError):
            convert(source, "--lowest-vertebra", str(source / "lowest.csv"))
        assert problems_of() == {"lowest.csv": problem}
    with pytest.raises(SystemExit, match="2"):
        convert(source, "--lowest-vertebra", "nowhere.csv")
