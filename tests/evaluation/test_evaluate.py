"""The command `nnUNetv2_cafr evaluate`: where it finds labels and patients, what it prints, writes and refuses."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nnunetv2_cafr import cli
from nnunetv2_cafr.evaluation.reading import CasePair
from nnunetv2_cafr.evaluation.scores import Evaluation

LABELS = {"background": 0, "S": 1, "L5": 2, "L4": 3, "L5/S": 4, "L4/L5": 5}
DATASET = {"labels": LABELS, "file_ending": ".nii.gz"}
FILES = ["classes.csv", "evaluation.json", "level_shifts.csv", "level_shifts.png", "levels.csv"]


@pytest.fixture
def folders(make_pairs: Callable[..., list[CasePair]], tmp_path: Path) -> tuple[str, str]:
    """A perfect case and one whose prediction is a level too high."""
    rows = np.repeat([0, 3, 5, 2, 4, 1, 0], (4, 12, 6, 12, 6, 12, 4))
    reference = np.broadcast_to(rows[None, :, None], (3, len(rows), 8)) * (np.arange(8) > 2)
    raised = np.select([reference == 1, reference == 2, reference == 4], [2, 3, 5], 0)
    make_pairs({"a": (reference, reference), "b": (reference, raised)})
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET))
    return str(tmp_path / "references"), str(tmp_path / "predictions")


def evaluate(*arguments: object) -> int:
    return cli.main(["evaluate", *map(str, arguments), "-np", "1"])


def refusal(*arguments: object) -> str:
    with pytest.raises(SystemExit) as error:
        evaluate(*arguments)
    return str(error.value)


def test_tables_and_summary(folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "provenance.json").write_text(json.dumps({"cases": {"a": {"patient": "7"}, "b": {"patient": "07"}}}))
    assert evaluate(*folders, "--tolerance", 2) == 0
    assert evaluate(*folders, "--tolerance", 2) == 0, "an earlier evaluation is replaced"
    out = capsys.readouterr().out
    target = tmp_path / "predictions" / "evaluation"
    assert sorted(path.name for path in target.iterdir()) == FILES
    evaluation = Evaluation.read(target)
    assert evaluation.levels["patient"].tolist() == ["7", "07"]
    assert evaluation.levels["shifted_up"].tolist() == [0, 2]
    assert evaluation.settings["tolerance_mm"] == 2

    table = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith(tuple(LABELS))}
    assert table["S"] == ["2", "1", "0", "0.500", "0.500", "0.500", "0.00", "0.00", "0.00"]
    assert table["L4"][:4] == ["2", "0", "0", "0.500"]
    assert "\nall structures as one " in out
    low = next(line for line in out.splitlines() if line.startswith("low contrast"))
    assert "S L5 L4 L5/S L4/L5" in low
    assert "6 vertebrae: 83.3% found" in out and "50.0% at the right level" in out
    assert "33.3% one too high, 0.0% one too low; all right in 50.0% of 2 patients" in out
    assert re.search(r"\nas predicted +0 +0 +3 +2 +0 +0 +1 +0 +0\.500\nlevel-consistent ", out)


def test_levels_by_the_names_of_other_tools(
    folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of other names gives the same levels, and keeps its names in the tables."""
    assert evaluate(*folders, "-o", tmp_path / "ours") == 0
    assert "of 2 cases\n" in capsys.readouterr().out, "nothing says whose they are"
    others = {"sacrum": 1, "vertebrae_L5": 2, "vertebrae_L4": 3, "disc_L5_S": 4, "disc_L4_L5": 5}
    (tmp_path / "dataset.json").write_text(json.dumps({**DATASET, "labels": {"background": 0, **others}}))
    assert evaluate(*folders, "-o", tmp_path / "theirs") == 0
    ours, theirs = (Evaluation.read(tmp_path / name) for name in ("ours", "theirs"))
    assert theirs.levels.equals(ours.levels)
    assert theirs.shifts.equals(ours.shifts)
    assert set(theirs.classes["name"]) == {*others, "foreground"}
    assert theirs.classes.drop(columns="name").equals(ours.classes.drop(columns="name"))


def test_a_sacrum_of_two_labels_is_one_level(make_pairs: Callable[..., list[CasePair]], tmp_path: Path) -> None:
    """TotalSegmentator's S1 and sacrum."""
    rows = np.repeat([0, 3, 2, 1, 9, 0], (4, 12, 12, 6, 6, 4))
    reference = np.broadcast_to(rows[None, :, None], (3, len(rows), 8)) * (np.arange(8) > 2)
    make_pairs({"a": (reference, reference), "b": (reference, np.where(reference == 9, 1, reference))})
    labels = {"background": 0, "vertebrae_S1": 1, "vertebrae_L5": 2, "vertebrae_L4": 3, "sacrum": 9}
    (tmp_path / "dataset.json").write_text(json.dumps({**DATASET, "labels": labels}))
    assert evaluate(tmp_path / "references", tmp_path / "predictions", "-o", tmp_path / "scores") == 0
    scores = Evaluation.read(tmp_path / "scores")
    assert (scores.levels[["vertebrae", "found", "right_level", "structures", "own_label_wins"]] == 3).all(None)
    assert (scores.shifts["0"] == 3).all()
    volumes = scores.classes[(scores.classes["view"] == "volume") & (scores.classes["name"] == "sacrum")]
    assert volumes["dice"].tolist() == [1, 0], "classes stay the labels that they are"


def test_junctions_of_a_sacrum_of_two_labels(make_pairs: Callable[..., list[CasePair]], tmp_path: Path) -> None:
    """The disc lies on S1, and the label that stands for both is the sacrum's."""
    rows = np.repeat([0, 3, 2, 4, 1, 9, 0], (4, 12, 12, 4, 6, 6, 4))
    reference = np.broadcast_to(rows[None, :, None], (3, len(rows), 8)) * (np.arange(8) > 2)
    make_pairs({"a": (reference, reference)})
    labels = {"sacrum": 9, "vertebrae_S1": 1, "vertebrae_L5": 2, "vertebrae_L4": 3, "disc_L5_S1": 4}
    (tmp_path / "dataset.json").write_text(json.dumps({**DATASET, "labels": {"background": 0, **labels}}))
    assert evaluate(tmp_path / "references", tmp_path / "predictions", "-o", tmp_path / "scores") == 0
    classes = Evaluation.read(tmp_path / "scores").classes
    junction = classes[(classes["view"] == "junctions") & (classes["name"] == "sacrum")]
    assert (junction["reference_mm3"] > 0).all() and (junction["dice"] == 1).all()


def test_means_that_are_printed(folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    references, predictions = folders
    Path(predictions, "b.nii.gz").unlink()
    assert evaluate(references, predictions, "--chill", "-o", tmp_path / "scores") == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if "present" in line or "nnU-Net:" in line or "absent" in line]
    assert len(lines) == 6
    assert all("1.000   1.000" in line for line in lines)
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == FILES


def test_labels_that_neither_folder_holds(
    folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names them, instead of a row of dashes each."""
    labels = {**LABELS, "L3": 6, "L2": 7}
    (tmp_path / "dataset.json").write_text(json.dumps({**DATASET, "labels": labels}))
    assert evaluate(*folders) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Nowhere, in neither folder: L3, L2." in lines
    assert not any(line.startswith(("L3", "L2")) for line in lines)
    assert any(line.startswith("L4 ") for line in lines)


def test_the_labels_are_found_or_asked_for(folders: tuple[str, str], tmp_path: Path) -> None:
    references, predictions = folders
    source = tmp_path / "dataset.json"
    message = ""
    for place in (tmp_path / "predictions", tmp_path / "elsewhere"):
        place.mkdir(exist_ok=True)
        source = source.rename(place / "dataset.json")
        if place.name == "predictions":
            assert evaluate(references, predictions, "-o", tmp_path / "one") == 0
        else:
            message = refusal(references, predictions)
    assert "Give it by -djfile" in message and str(tmp_path / "predictions" / "dataset.json") in message
    assert evaluate(references, predictions, "-djfile", source, "-o", tmp_path / "two") == 0
    assert (tmp_path / "one" / "classes.csv").read_text() == (tmp_path / "two" / "classes.csv").read_text()

    source.write_text(json.dumps({"labels": {"S": "one"}, "file_ending": ".nii.gz"}))
    assert "has no labels" in refusal(references, predictions, "-djfile", source)
    source.write_text(json.dumps({"labels": {"S": 1, "L5": 1, "L4": 3}, "file_ending": ".nii.gz"}))
    assert "S and L5 are both 1" in refusal(references, predictions, "-djfile", source)
    for value in (2.5, float("inf"), None, {}, [1, "x"]):
        source.write_text(json.dumps({"labels": {"S": value}, "file_ending": ".nii.gz"}))
        assert "has no labels" in refusal(references, predictions, "-djfile", source)
    source.write_text(json.dumps({"labels": {"background": 0, "ignore": 1}, "file_ending": ".nii.gz"}))
    assert "no label but the background" in refusal(references, predictions, "-djfile", source)
    source.write_text("{")
    assert "cannot be read" in refusal(references, predictions, "-djfile", source)
    source.write_text(json.dumps({**DATASET, "file_ending": ".mha"}))
    assert "No *.mha" in refusal(references, predictions, "-djfile", source)


def test_predictions_with_other_labels_are_refused(folders: tuple[str, str], tmp_path: Path) -> None:
    references, predictions = folders
    labels = DATASET["labels"]
    name = next(name for name, value in labels.items() if value == 1)
    for folder, value in ((Path(references).parent, 1), (Path(predictions), 99)):
        description = {**DATASET, "labels": {**labels, name: value}}
        (folder / "dataset.json").write_text(json.dumps(description))
    assert f"number the labels differently: {name} (1 and 99)" in refusal(references, predictions)
    assert evaluate(references, predictions, "-djfile", Path(references).parent / "dataset.json") == 0
    # That inside a folder, where predict and relabel leave it, goes before that beside it.
    (Path(predictions) / "dataset.json").rename(Path(references) / "dataset.json")
    (Path(predictions) / "dataset.json").write_text(json.dumps(DATASET))
    assert f"number the labels differently: {name} (99 and 1)" in refusal(references, predictions)


def test_what_lacks_a_partner_is_listed(folders: tuple[str, str]) -> None:
    references, predictions = folders
    for case in "ab":
        Path(predictions, f"{case}.nii.gz").rename(Path(predictions, f"{case}2.nii.gz"))
    assert "have no reference in" in refusal(references, predictions)
    assert "a2.nii.gz, b2.nii.gz" in refusal(references, predictions, "--chill")
    Path(predictions, "a2.nii.gz").rename(Path(predictions, "a.nii.gz"))
    Path(predictions, "b2.nii.gz").unlink()
    Path(references, "c.nii.gz").write_bytes(Path(references, "b.nii.gz").read_bytes())
    assert "lacks 2 of 3 predictions: b.nii.gz, c.nii.gz" in refusal(references, predictions)
    assert not Path(predictions, "evaluation").exists()
    assert "no folder" in refusal(references, predictions + "s")


def test_files_that_a_system_hides_are_no_label_maps(folders: tuple[str, str], tmp_path: Path) -> None:
    for folder in folders:
        Path(folder, "._b.nii.gz").write_bytes(b"Mac OS X")
    assert evaluate(*folders, "-o", str(tmp_path / "out")) == 0


def test_files_of_other_letters_are_not_left_out(folders: tuple[str, str]) -> None:
    references, predictions = folders
    for folder in folders:
        Path(folder, "b.nii.gz").rename(Path(folder, "b.NII.GZ"))
    assert "b.NII.GZ" in refusal(references, predictions) and "would be left out" in refusal(references, predictions)


def test_every_case_needs_its_patient(folders: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text(json.dumps({"cases": {"a": {"patient": "7"}, "b": {}}}))
    assert "no patient for 1 of the 2 cases: b." in refusal(*folders)


def test_nothing_foreign_is_overwritten(folders: tuple[str, str], tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "thesis.tex").touch()
    assert "thesis.tex" in refusal(*folders, "-o", target)
    (target / "thesis.tex").rename(target / "classes.csv")
    assert "classes.csv" in refusal(*folders, "-o", target)
    (target / "classes.csv").rename(target / "levels.csv")
    assert "levels.csv" in refusal(*folders, "-o", target)
    assert "is a file" in refusal(*folders, "-o", target / "levels.csv")
    assert [path.name for path in target.iterdir()] == ["levels.csv"]
    assert (target / "levels.csv").read_bytes() == b""


def test_a_case_that_does_not_fit_leaves_nothing_behind(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    references, predictions = folders
    Path(predictions, "b.nii.gz").write_bytes(b"not an image")
    assert "Nothing was written. b: " in refusal(references, predictions)
    assert not Path(predictions, "evaluation").exists()
    assert refusal(references, predictions, "--tolerance", -1) == "2"
    assert "--tolerance" in capsys.readouterr().err
