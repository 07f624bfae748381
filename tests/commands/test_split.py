"""Splits by patient with every label in every part, written where nnU-Net picks them up, and over nothing."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.utilities.crossval_split import generate_crossval_split
from PIL import Image

from nnunetv2_cafr.raw_dataset import require_folders
from nnunetv2_cafr.splits.stratification import part_sizes, stratify

from ..verbs import run_verb

LABELS = {"background": 0, "S": 1, "L5": 2, "T9": 3, "any vertebra": [1, 2, 3], "ignore": 4}
NAME = "Dataset042_Tiny"
DATASET = "Dataset511_SpineMRI"  # the phantoms of conftest.py
PAPER = (70, 15, 15)

# Cases per class of SpineMRI: S, L5 ... T9, then the discs L5/S ... T9/T10.
SPINEMRI = [172] * 6 + [171, 162, 44, 8] + [172] * 5 + [172, 167, 64, 13]
T9 = 9


def spinemri(seed: int) -> np.ndarray:
    """Labels of 172 patients with SpineMRI's counts; who shows a level shows all that are seen more often."""
    seen = np.arange(172)[:, None] < np.array(SPINEMRI)
    return np.random.default_rng(seed).permutation(seen)


def counts(part_of: np.ndarray, holds: np.ndarray, parts: int) -> np.ndarray:
    return np.array([[holds[part_of == part, label].sum() for label in range(holds.shape[1])] for part in range(parts)])


def test_spinemri_is_spread_evenly_where_random_folds_lack_t9() -> None:
    random_without_t9 = 0
    for seed in range(30):
        holds = spinemri(seed)
        part_of = stratify(holds, np.ones(172, int), [1] * 5, seed)
        per_fold = counts(part_of, holds, 5)
        assert sorted(np.bincount(part_of)) == [34, 34, 34, 35, 35]
        assert set(per_fold[:, T9]) == {1, 2}
        np.testing.assert_allclose(per_fold, np.outer([0.2] * 5, SPINEMRI), atol=1)
        folds = generate_crossval_split([str(index) for index in range(172)], seed=seed)
        random_without_t9 += any(not holds[[int(index) for index in fold["val"]], T9].any() for fold in folds)
    assert random_without_t9 > 10, "or there is no need for all this"


def test_spinemri_in_the_papers_proportions() -> None:
    for seed in range(10):
        holds = spinemri(seed)
        part_of = stratify(holds, np.ones(172, int), PAPER, seed)
        per_part = counts(part_of, holds, 3)
        assert np.bincount(part_of).tolist() == [120, 26, 26]
        np.testing.assert_allclose(per_part, np.outer([0.7, 0.15, 0.15], SPINEMRI), atol=1)


@pytest.mark.parametrize("weights", [(1,) * 5, PAPER])
def test_every_label_with_enough_patients_is_in_every_part(weights: tuple[int, ...]) -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        holds = rng.random((rng.integers(30, 80), 10)) < rng.beta(0.6, 1.5, 10)
        part_of = stratify(holds, np.ones(len(holds), int), weights, seed)
        assert (np.bincount(part_of, minlength=len(weights)) == part_sizes(len(holds), weights)).all()
        per_part = counts(part_of, holds, len(weights))
        assert per_part[:, holds.sum(axis=0) >= len(weights)].all(), seed


def test_parts_of_patients_with_several_series_have_similar_numbers_of_cases() -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        cases = rng.choice([1, 2, 3], 218, p=[0.15, 0.65, 0.2])
        holds = np.arange(14) < rng.integers(5, 13, 218)[:, None]
        five = np.bincount(stratify(holds, cases, [1] * 5, seed), cases)
        assert np.ptp(five) <= 8
        paper = np.bincount(stratify(holds, cases, PAPER, seed), cases)
        np.testing.assert_allclose(paper / cases.sum(), [0.7, 0.15, 0.15], atol=0.015)


def test_seed_decides() -> None:
    holds, ones = spinemri(0), np.ones(172, int)
    first = stratify(holds, ones, [1] * 5, 1)
    np.testing.assert_array_equal(first, stratify(holds, ones, [1] * 5, 1))
    assert (first != stratify(holds, ones, [1] * 5, 2)).any()


def test_sizes_of_parts() -> None:
    assert part_sizes(172, PAPER).tolist() == [120, 26, 26]
    assert part_sizes(100, PAPER).tolist() == [70, 15, 15]
    assert part_sizes(172, (1,) * 5).tolist() == [35, 35, 34, 34, 34]


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of 24 tiny cases of two channels, two a patient; patients 0 to 4 show T9 in their first or second."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    folder = tmp_path / "nnUNet_raw" / NAME
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True)
    (folder / "imagesTs" / "unlabelled_0000.mha").write_text("a test case of the source's own")
    for number in range(24):
        patient = number // 2
        mask = np.zeros((4, 4, 4), np.uint8)
        mask[0, 0] = [1, 2, 4, 3 if number % 2 == patient % 2 and patient < 5 else 0]
        sitk.WriteImage(sitk.GetImageFromArray(mask), folder / "labelsTr" / f"case_{number:02d}.mha")
        for channel in range(2):
            (folder / "imagesTr" / f"case_{number:02d}_{channel:04d}.mha").write_text(f"image {number} {channel}")
    description = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": LABELS,
        "regions_class_order": [1, 2, 3, 4],
        "numTraining": 24,
        "file_ending": ".mha",
        "licence": "kept",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    cases = {f"case_{number:02d}": {"patient": f"p{number // 2}", "subset": None} for number in range(24)}
    (folder / "provenance.json").write_text(json.dumps({"cases": cases}))
    return folder


def run(*options: str, dataset: str = "42") -> int:
    return run_verb("split", "-d", dataset, "-np", 1, *options)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps({**read(path), **entries}))


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too, with their content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def preprocessed_of(raw: Path) -> Path:
    folder = raw.parents[1] / "nnUNet_preprocessed" / raw.name
    folder.mkdir(exist_ok=True)
    return folder


def patients_of(cases: list[str]) -> set[int]:
    return {int(case[-2:]) // 2 for case in cases}


def test_folds_keep_patients_together(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    splits = read(raw / "splits_final.json")
    everything = {f"case_{number:02d}" for number in range(24)}
    assert len(splits) == 5
    assert sorted(case for fold in splits for case in fold["val"]) == sorted(everything)
    for fold in splits:
        assert set(fold["train"]) == everything - set(fold["val"])
        assert not patients_of(fold["train"]) & patients_of(fold["val"])
        assert len(patients_of(fold["val"]) & set(range(5))) == 1, "one patient with T9 each"
    rows = {line[:14].strip(): line[14:].split() for line in capsys.readouterr().out.splitlines()}
    assert sorted(rows["patients"]) == ["12", "2", "2", "2", "3", "3"]
    assert sorted(rows["cases"]) == ["24", "4", "4", "4", "6", "6"]
    assert rows["T9"] == ["1"] * 5 + ["5"]
    assert rows["any vertebra"] == rows["cases"], "a region counts where any of its labels is"
    assert not {"ignore", "background", "Warning"} & rows.keys()


def test_holdout_is_one_fold_that_validates_on_a_quarter_of_the_patients(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--scheme", "holdout") == 0
    (fold,) = read(raw / "splits_final.json")
    held_out = patients_of(fold["val"])
    assert len(held_out) == 3 and len(fold["val"]) == 6, "a quarter of 12 patients, with both of their cases"
    assert not patients_of(fold["train"]) & held_out
    assert sorted([*fold["train"], *fold["val"]]) == [f"case_{number:02d}" for number in range(24)]
    assert held_out & set(range(5)) and patients_of(fold["train"]) & set(range(5)), "T9 is in both parts"
    assert f"Held out (6): {', '.join(fold['val'])}" in capsys.readouterr().out


def test_without_provenance_each_case_is_a_patient(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (raw / "provenance.json").unlink()
    assert run() == 0
    assert "24 cases of 24 patients\nIt has no provenance.json" in capsys.readouterr().out
    sizes = [len(fold["val"]) for fold in read(raw / "splits_final.json")]
    assert sorted(sizes) == [4, 5, 5, 5, 5]


def test_warns_of_labels_that_cannot_be_everywhere(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = np.zeros((4, 4, 4), np.uint8)
    only[0, 0, 0] = 1
    for number in (3, 4, 7, 8):  # T9 remains in case 0
        sitk.WriteImage(sitk.GetImageFromArray(only), raw / "labelsTr" / f"case_{number:02d}.mha")
    change(raw / "dataset.json", labels={**LABELS, "T8": 5})
    run()
    (fold,) = (number for number, fold in enumerate(read(raw / "splits_final.json")) if "case_00" in fold["val"])
    others = ", ".join(f"fold {number}" for number in range(5) if number != fold)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Warning")]
    assert lines == [
        f"Warning: T9 (cases 1, patients 1): too few for 5 parts; none in {others}; fold {fold} trains without it",
        "Warning: in no case at all: T8",
    ]


def test_the_sources_own_subsets_are_mentioned(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = read(raw / "provenance.json")["cases"]
    for number, entry in enumerate(cases.values()):
        entry["subset"] = "validation" if number < 6 else "training"
    change(raw / "provenance.json", cases=cases)
    run()
    assert "own subsets (training 18, validation 6 cases) are not followed" in capsys.readouterr().out


def test_seed_of_the_command(raw: Path) -> None:
    run()
    default = (raw / "splits_final.json").read_bytes()
    (raw / "splits_final.json").unlink()
    run("--seed", "12345")
    assert (raw / "splits_final.json").read_bytes() == default
    (raw / "splits_final.json").unlink()
    run("--seed", "7")
    assert (raw / "splits_final.json").read_bytes() != default


def test_files_that_dataset_json_names(raw: Path) -> None:
    """nnU-Net also takes data sets whose dataset.json lists the files, wherever they lie."""
    listed = {
        f"case_{number:02d}": {
            "images": [f"elsewhere/case_{number:02d}_{channel:04d}.mha" for channel in range(2)],
            "label": f"labelsTr/case_{number:02d}.mha",
        }
        for number in range(24)
    }
    (raw / "imagesTr").rename(raw / "elsewhere")
    change(raw / "dataset.json", dataset=listed)
    run()
    assert len(read(raw / "splits_final.json")[0]["train"]) in (18, 20)
    run("--scheme", "paper", "-t", "43")
    target = raw.parent / "Dataset043_Tiny_paper"
    assert "dataset" not in read(target / "dataset.json")
    assert len(list((target / "imagesTr").iterdir())) == 2 * read(target / "dataset.json")["numTraining"]


def test_masks_read_in_processes(raw: Path) -> None:
    run()
    serial = read(raw / "splits_final.json")
    (raw / "splits_final.json").unlink()
    run("-np", "2")
    assert read(raw / "splits_final.json") == serial


# Where it is written, and over nothing


def test_written_to_both_folders(raw: Path) -> None:
    preprocessed = preprocessed_of(raw)
    run()
    assert (preprocessed / "splits_final.json").read_bytes() == (raw / "splits_final.json").read_bytes()


def test_the_same_splits_again_complete_what_is_missing(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    before = (raw / "splits_final.json").stat()
    preprocessed = preprocessed_of(raw)
    capsys.readouterr()
    run()
    out = capsys.readouterr().out
    assert f"The same splits are already in {raw}" in out
    assert f"Wrote {preprocessed}" in out
    assert (raw / "splits_final.json").stat().st_mtime_ns == before.st_mtime_ns
    assert read(preprocessed / "splits_final.json") == read(raw / "splits_final.json")


@pytest.mark.parametrize("where", ["raw", "preprocessed"])
@pytest.mark.parametrize("content", ['[{"train": [], "val": []}]', "no JSON"])
def test_never_over_an_existing_file(raw: Path, where: str, content: str) -> None:
    existing = {"raw": raw, "preprocessed": preprocessed_of(raw)}[where] / "splits_final.json"
    existing.write_text(content)
    before = tree(raw.parents[1])
    with pytest.raises(SystemExit, match="Nothing was written") as refused:
        run()
    assert str(existing) in str(refused.value)
    assert "move it away" in str(refused.value)
    assert tree(raw.parents[1]) == before


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_both_files_or_none(raw: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    preprocessed_of(raw)
    before = tree(raw.parents[1])
    replace = Path.replace

    def fail_in_preprocessed(self: Path, target: Path) -> Path:
        if "nnUNet_preprocessed" in str(target):
            raise error
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_in_preprocessed)
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        run()
    assert tree(raw.parents[1]) == before


# --scheme paper


def test_paper_makes_a_new_data_set(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(raw)
    assert run("--scheme", "paper", "-t", "43") == 0
    assert tree(raw) == before
    target = raw.parent / "Dataset043_Tiny_paper"
    (fold,) = read(target / "splits_final.json")
    test = sorted(path.stem for path in (target / "labelsTs").iterdir())
    parts = {"training": fold["train"], "validation": fold["val"], "test": test}
    patients = [patients_of(part) for part in parts.values()]
    assert [len(part) for part in patients] == [8, 2, 2]
    assert set.union(*patients) == set(range(12))
    for part, belonging in zip(parts.values(), patients, strict=True):
        assert len(part) == 2 * len(belonging)
        assert belonging & set(range(5)), "T9 is in each part"

    for part, cases in parts.items():
        suffix = "Ts" if part == "test" else "Tr"
        for case in cases:
            for channel in range(2):
                image = f"{case}_{channel:04d}.mha"
                assert (target / f"images{suffix}" / image).samefile(raw / "imagesTr" / image)
            assert (target / f"labels{suffix}" / f"{case}.mha").samefile(raw / "labelsTr" / f"{case}.mha")
    assert len(tree(target)) == 24 * 3 + 3, "each file once"
    description = read(target / "dataset.json")
    assert description.pop("split") == {"of": NAME, "scheme": "paper", "seed": 12345}
    assert description == {**read(raw / "dataset.json"), "numTraining": 20}
    entries = read(target / "provenance.json")["cases"]
    assert {case: entry["subset"] for case, entry in entries.items()} == {
        case: part for part, cases in parts.items() for case in cases
    }
    assert entries["case_23"]["patient"] == "p11"
    assert f"Test cases (4): {', '.join(test)}" in capsys.readouterr().out


def test_paper_copies_where_files_cannot_be_linked(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    run("--scheme", "paper", "-t", "43")
    target = raw.parent / "Dataset043_Tiny_paper"
    copied = next((target / "labelsTs").iterdir())
    original = raw / "labelsTr" / copied.name
    assert not copied.samefile(original)
    assert copied.read_bytes() == original.read_bytes()


def test_paper_follows_symbolic_links(raw: Path) -> None:
    (raw / "imagesTr").rename(raw.parents[1] / "store")
    (raw / "imagesTr").mkdir()
    for path in (raw.parents[1] / "store").iterdir():
        (raw / "imagesTr" / path.name).symlink_to(os.path.relpath(path, raw / "imagesTr"))
    run("--scheme", "paper", "-t", "43")
    linked = raw.parent / "Dataset043_Tiny_paper" / "imagesTr"
    assert not any(path.is_symlink() for path in linked.iterdir())


def test_paper_takes_the_spacing_of_tiff_volumes_along(raw: Path) -> None:
    for path in raw.glob("imagesTr/*.mha"):
        path.with_name(f"{path.stem.removesuffix('_0000')}.json").write_text('{"spacing": [4, 2, 1]}')
        path.rename(path.with_suffix(".tif"))
    for path in raw.glob("labelsTr/*.mha"):
        tifffile.imwrite(path.with_suffix(".tif"), sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
        path.with_suffix(".json").write_text('{"spacing": [4, 2, 1]}')
        path.unlink()
    change(raw / "dataset.json", file_ending=".tif", overwrite_image_reader_writer="Tiff3DIO")
    assert run("--scheme", "paper", "-t", "43") == 0
    for suffix in ("Tr", "Ts"):
        images, masks = (raw.parent / "Dataset043_Tiny_paper" / f"{part}{suffix}" for part in ("images", "labels"))
        cases = {path.stem for path in masks.glob("*.tif")}
        assert {path.stem for path in masks.glob("*.json")} == {path.stem for path in images.glob("*.json")} == cases


def test_a_colour_picture_holds_all_its_channels(raw: Path) -> None:
    for path in [*raw.glob("imagesTr/*.mha"), *raw.glob("labelsTr/*.mha")]:
        shape = (8, 8, 3) if path.parent.name == "imagesTr" else (8, 8)
        if not path.stem.endswith("_0001"):
            Image.fromarray(np.full(shape, 1, np.uint8)).save(path.with_suffix(".png"))
        path.unlink()
    change(raw / "dataset.json", file_ending=".png", channel_names={"0": "R", "1": "G", "2": "B"})
    assert run("--scheme", "paper", "-t", "43") == 0
    made = raw.parent / "Dataset043_Tiny_paper"
    for suffix in ("Tr", "Ts"):
        cases = sorted(path.stem for path in (made / f"labels{suffix}").iterdir())
        assert cases and [f"{case}_0000" for case in cases] == sorted(
            path.stem for path in (made / f"images{suffix}").iterdir()
        )


def test_a_picture_whose_name_is_not_utf8_is_refused(raw: Path) -> None:
    for number in range(24):
        for part, name in (("imagesTr", f"M\udcfc{number}_0000.png"), ("labelsTr", f"M\udcfc{number}.png")):
            Image.fromarray(np.full((8, 8), number % 3, np.uint8)).save(raw / part / "new.png")
            (raw / part / "new.png").rename(raw / part / name)
    (raw / "provenance.json").unlink()
    change(raw / "dataset.json", file_ending=".png", channel_names={"0": "photograph"})
    with pytest.raises(SystemExit, match="another encoding"):
        run("--scheme", "paper", "-t", "43")


def test_paper_leaves_nothing_behind_when_it_fails(raw: Path) -> None:
    (raw / "imagesTr" / "case_05_0001.mha").unlink()
    before = tree(raw.parent)
    with pytest.raises(SystemExit, match=r"nothing was left behind.*case_05_0001"):
        run("--scheme", "paper", "-t", "43")
    assert tree(raw.parent) == before
    assert [path.name for path in raw.parent.iterdir()] == [NAME]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scheme", "paper"), "give it a free id by -t"),
        (("--scheme", "paper", "-t", "42"), f"taken by {NAME}"),
        (("--scheme", "paper", "-t", "44"), "taken by Dataset044_Trained"),
        (("-t", "43"), "belongs to --scheme paper"),
    ],
)
def test_bad_options(raw: Path, options: tuple[str, ...], message: str) -> None:
    (raw.parents[1] / "nnUNet_results" / "Dataset044_Trained").mkdir()
    before = tree(raw.parents[1])
    with pytest.raises(SystemExit, match=message):
        run(*options)
    assert tree(raw.parents[1]) == before


def test_next_names_our_trainer(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    assert "nnUNetv2_train 42 2d 0 -tr nnUNetTrainer_CAFR" in capsys.readouterr().out


def test_too_few_patients_are_told_what_nnunet_will_do(raw: Path) -> None:
    change(raw / "provenance.json", cases={f"case_{number:02d}": {"patient": f"p{number % 3}"} for number in range(24)})
    with pytest.raises(SystemExit, match=r"3 patients, .* train and validate on the same patients.* 2d all -tr"):
        run()


def test_values_beside_whole_numbers_are_shown_as_they_are(raw: Path) -> None:
    mask = np.full((4, 4, 4), np.nextafter(*np.float32([3, 0])))
    sitk.WriteImage(sitk.GetImageFromArray(mask), raw / "labelsTr" / "case_03.mha")
    with pytest.raises(SystemExit, match=r"case_03.mha holds 1 values .* casts down: 2.9999998 as 2\. Round the mask"):
        run()


# Bad input


def spoil_mask(raw: Path) -> None:
    (raw / "labelsTr" / "case_03.mha").write_text("no image")


def spoil_label(raw: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.full((4, 4, 4), 9, np.uint8)), raw / "labelsTr" / "case_03.mha")


def keep_eight(raw: Path) -> None:
    for path in (*raw.glob("imagesTr/*"), *raw.glob("labelsTr/*")):
        if int(path.name[5:7]) >= 8:
            path.unlink()


def drop_patient(raw: Path) -> None:
    cases = read(raw / "provenance.json")["cases"]
    cases["case_03"] = {"patient": None}
    change(raw / "provenance.json", cases=cases)


def rename_case(raw: Path) -> None:
    cases = read(raw / "provenance.json")["cases"]
    cases["case_3"] = cases.pop("case_03")
    change(raw / "provenance.json", cases=cases)


BAD_INPUT = {
    "no data set": (shutil.rmtree, "(?s)Could not find a dataset with the ID 42"),
    "no dataset.json": (lambda raw: (raw / "dataset.json").unlink(), "dataset.json is missing; convert"),
    "damaged dataset.json": (lambda raw: (raw / "dataset.json").write_text("{"), "dataset.json cannot be read"),
    "list as dataset.json": (lambda raw: (raw / "dataset.json").write_text("[]"), "holds a list, expected an object"),
    "no labels": (lambda raw: (raw / "dataset.json").write_text("{}"), "KeyError.*Expected are dataset.json with"),
    "deep dataset.json": (lambda raw: (raw / "dataset.json").write_text("[" * 99999), "dataset.json cannot be read"),
    "label without end": (
        lambda raw: change(raw / "dataset.json", labels={"background": 0, "S": float("inf")}),
        "OverflowError.*Expected are dataset.json with",
    ),
    "no structure": (
        lambda raw: change(raw / "dataset.json", labels={}, channel_names={}),
        "labels has no structure.*Expected are dataset.json with",
    ),
    "label that is no number": (
        lambda raw: change(raw / "dataset.json", labels={"background": 0, "S": None}),
        "TypeError.*Expected are dataset.json with",
    ),
    "channels as a number": (lambda raw: change(raw / "dataset.json", channel_names=1), "TypeError.*Expected are"),
    "ending as a number": (lambda raw: change(raw / "dataset.json", file_ending=7), "Expected are dataset.json with"),
    "dataset as a list": (lambda raw: change(raw / "dataset.json", dataset=[1]), "Expected are dataset.json with"),
    "no imagesTr": (
        lambda raw: shutil.rmtree(raw / "imagesTr"),
        "FileNotFoundError: .*Expected are.*imagesTr and labelsTr",
    ),
    "no cases": (lambda raw: change(raw / "dataset.json", file_ending=".nrrd"), "no case.*CASE_0000.nrrd"),
    "no mask": (lambda raw: (raw / "labelsTr" / "case_03.mha").unlink(), "(?s)written:.*case_03.mha is missing: add"),
    "no image file": (spoil_mask, "case_03.mha cannot be read: found a header with NDims None"),
    "unknown label": (spoil_label, "case_03.mha holds 9, but dataset.json has the labels 0 to 4 only"),
    "too few patients": (keep_eight, "4 patients, --scheme folds needs at least 5"),
    "damaged provenance": (lambda raw: (raw / "provenance.json").write_text("{"), "provenance.json cannot be read"),
    "list as provenance": (lambda raw: (raw / "provenance.json").write_text("[]"), "provenance.json holds a list"),
    "patient as a number": (
        lambda raw: change(raw / "provenance.json", cases={f"case_{n:02d}": {"patient": 7} for n in range(24)}),
        "no patient for 24 of the 24 cases",
    ),
    "case without an entry": (
        lambda raw: change(raw / "provenance.json", cases={f"case_{n:02d}": [] for n in range(24)}),
        "no patient for 24 of the 24 cases",
    ),
    "no cases in provenance": (lambda raw: change(raw / "provenance.json", cases=[]), "has no 'cases'"),
    "other identifiers": (rename_case, "lacks 1 of the 24 cases: case_03. It has 1 that are .*: case_3. Give"),
    "case without patient": (drop_patient, "no patient for 1 of the 24 cases: case_03"),
}


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_bad_input(raw: Path, kind: str) -> None:
    spoil, message = BAD_INPUT[kind]
    spoil(raw)
    before = tree(raw.parents[1])
    with pytest.raises(SystemExit, match=message):
        run()
    assert tree(raw.parents[1]) == before


def test_a_truncated_mask_is_not_read_as_background(raw: Path) -> None:
    """SimpleITK alone returns zeros for what is missing."""
    for path in (*raw.glob("imagesTr/*"), *raw.glob("labelsTr/*")):
        target = path.with_name(path.name.replace(".mha", ".nii.gz"))
        if path.parent.name == "labelsTr":
            sitk.WriteImage(sitk.ReadImage(path), target)
            path.unlink()
        else:
            path.rename(target)
    change(raw / "dataset.json", file_ending=".nii.gz")
    mask = raw / "labelsTr" / "case_03.nii.gz"
    mask.write_bytes(mask.read_bytes()[:-12])
    with pytest.raises(SystemExit, match=r"case_03.nii.gz cannot be read"):
        run()


def test_many_problems_are_counted(raw: Path) -> None:
    shutil.rmtree(raw / "labelsTr")
    with pytest.raises(SystemExit, match=r"case_09.mha is missing.*\n\.\.\. and 14 more$"):
        run()


def test_nnunet_raw_is_not_set(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(SystemExit, match="export nnUNet_raw="):
        run()


# nnU-Net reads it


@pytest.fixture
def phantom(phantom_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Raw and preprocessed folder of a copy of the phantom, and nnU-Net's variables set to it."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    raw, preprocessed = tmp_path / "nnUNet_raw" / DATASET, tmp_path / "nnUNet_preprocessed" / DATASET
    shutil.copytree(phantom_dataset.raw / DATASET, raw)
    shutil.copytree(phantom_dataset.preprocessed / DATASET, preprocessed)
    (preprocessed / "splits_final.json").unlink(missing_ok=True)
    return raw, preprocessed


def test_raw_data_that_cannot_be_written_to(phantom: tuple[Path, Path], monkeypatch, capsys) -> None:
    """Shared data: nnU-Net's trainings read the preprocessed folder alone."""
    raw, preprocessed = phantom
    can = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != raw and can(path, mode))
    run(dataset="511")
    assert len(read(preprocessed / "splits_final.json")) == 5
    assert not (raw / "splits_final.json").exists()
    assert f"{raw} can't be written to" in capsys.readouterr().out


def test_relative_folders_are_those_of_this_process(phantom: tuple[Path, Path], tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("nnUNet_raw", "nnUNet_raw")
    require_folders("nnUNet_raw")
    assert os.environ["nnUNet_raw"] == str(tmp_path / "nnUNet_raw")


def test_trainers_take_the_folds(phantom: tuple[Path, Path]) -> None:
    raw, _ = phantom
    run(dataset="511")
    splits = read(raw / "splits_final.json")
    for fold in (0, 4):
        trainer = get_trainer_from_args("511", "2d", fold, "nnUNetTrainer", device=torch.device("cpu"))
        train, val = trainer.get_tr_and_val_datasets()
        assert list(train.identifiers) == splits[fold]["train"]
        assert list(val.identifiers) == splits[fold]["val"]
        assert len({*train.identifiers, *val.identifiers}) == 6


@pytest.mark.parametrize("options", [(), ("--scheme", "paper", "-t", "512")])
def test_planning_takes_the_splits_over(phantom: tuple[Path, Path], options: tuple[str, ...]) -> None:
    raw, preprocessed = phantom
    new = raw.parent / "Dataset512_SpineMRI_paper" if options else raw
    planned = preprocessed.parent / new.name
    fingerprint = (preprocessed / "dataset_fingerprint.json").read_text()
    shutil.rmtree(preprocessed)
    run(*options, dataset="511")
    planned.mkdir()
    (planned / "dataset_fingerprint.json").write_text(fingerprint)
    planner = ExperimentPlanner(new.name)
    splits = read(planned / "splits_final.json")
    assert splits == read(new / "splits_final.json")
    assert len(splits) == (1 if options else 5)
    assert set(planner.dataset) == {*splits[0]["train"], *splits[0]["val"]}, "no test case"
    assert len(planner.dataset) == planner.dataset_json["numTraining"] == (5 if options else 6)
