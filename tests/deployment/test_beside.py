"""What lies beside predict's label maps: it grows with them, is never somebody else's, and takes none of them along."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from nnunetv2_cafr.deployment import beside
from nnunetv2_cafr.deployment import model as deployed
from nnunetv2_cafr.deployment.description import Description
from nnunetv2_cafr.deployment.record import writing_beside
from nnunetv2_cafr.levels.decoding import Decoding
from nnunetv2_cafr.levels.files import Record, read_decodings
from nnunetv2_cafr.preview.page import parts_in

from .files import VOXELS, describe, image_of, write


def shown(out: Path) -> dict[str, str]:
    """Cards of the page, by study."""
    return {part.row["name"]: part.card for part in parts_in((out / "preview.html").read_text(encoding="utf-8"))}


def spine(folder: Path, **more: object) -> Path:
    """A network for levels of a spine; `more` stands in its description."""
    model = describe(folder / "spine.onnx")
    content = json.loads(model.with_suffix(".json").read_text())
    content["dataset_json"]["labels"] = {"background": 0, "L5": 1, "L4": 2, "L3": 3}
    model.with_suffix(".json").write_text(json.dumps({**content, **more}))
    return model


class Decoder:
    """Finds the levels uncertain, and changes nothing."""

    def __init__(self, description: Description) -> None: ...

    def decode(self, labels: np.ndarray, geometry: dict) -> Decoding:
        return Decoding(labels, 0.02, {"uncertain": "confidence 0.02"}, [], [], 0)


def test_the_page_grows_with_the_folder(predict, scans, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"
    assert predict(scans / "a.nii.gz", out) == 0
    before = shown(out)
    assert "data:image/jpeg" in before["a"] and 'alt="a, sagittal slice' in before["a"]
    drawn, original = [], beside.preview
    monkeypatch.setattr(beside, "preview", lambda name, *rest: drawn.append(name) or original(name, *rest))
    assert predict(scans / "b.nii.gz", out) == 0
    assert drawn == ["b"] and shown(out)["a"] == before["a"]
    (out / "preview.html").unlink()
    assert predict(scans, out, "--continue_prediction") == 0
    assert drawn == ["b", "a", "b"] and set(shown(out)) == {"a", "b"}
    write(scans / "a.nii.gz", VOXELS[::-1])  # another scan with the same label map
    assert predict(scans, out, "--continue_prediction") == 0
    assert drawn[3:] == ["a"] and shown(out)["a"] != before["a"] and len(shown(out)) == 2


def test_an_image_that_could_not_be_shown_is_tried_again(predict, scans, tmp_path, monkeypatch) -> None:
    """The disk of the scans was gone for a while, say, after the label map was written."""
    out = tmp_path / "out"

    def gone(*_: object) -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(beside, "_read", gone)
        assert predict(scans / "a.nii.gz", out) == 0
    assert "image not shown</b>: the disk is gone" in shown(out)["a"]
    assert predict(scans / "a.nii.gz", out, "--continue_prediction") == 0
    assert "not shown" not in shown(out)["a"] and "sagittal slice" in shown(out)["a"]


def test_two_calls_beside_one_another(predict, scans, tmp_path, monkeypatch) -> None:
    """While a is looked at, another call ends with b."""
    model, out, original = spine(tmp_path), tmp_path / "out", beside.preview

    def meanwhile(name: str, *rest: object) -> object:
        if name == "a":
            assert predict(scans / "b.nii.gz", out, model=model) == 0
        return original(name, *rest)

    monkeypatch.setattr(beside, "preview", meanwhile)
    assert predict(scans / "a.nii.gz", out, model=model) == 0
    assert set(shown(out)) == {"a", "b"}
    assert set(json.loads((out / "measurements.json").read_text())["studies"]) == {"a", "b"}


def test_a_spine_is_measured(predict, scans, tmp_path) -> None:
    model, out = spine(tmp_path), tmp_path / "out"
    assert predict(scans / "b.nii.gz", out, model=model) == 0
    assert predict(scans / "a.nii.gz", out, model=model) == 0
    rows = (out / "measurements.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows if ",vertebra," in row] == [["a", "L5"], ["b", "L5"]]
    assert set(json.loads((out / "measurements.json").read_text())["studies"]) == {"a", "b"}


def test_what_is_gone_is_in_no_table(predict, scans, tmp_path) -> None:
    model, out = spine(tmp_path), tmp_path / "out"
    assert predict(scans, out, model=model) == 0
    (out / "a.nii.gz").unlink()
    assert predict(scans / "b.nii.gz", out, "--continue_prediction", model=model) == 0
    assert set(shown(out)) == set(json.loads((out / "measurements.json").read_text())["studies"]) == {"b"}


@pytest.mark.parametrize("name", ["preview.html", "labels.txt", "preview/a.png"])
def test_nothing_of_somebody_else_is_overwritten(predict, scans, tmp_path, name) -> None:
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    with pytest.raises(SystemExit, match=f"holds {name}, which this network did not write"):
        predict(scans, out, "--png")
    (out / name).unlink()
    assert predict(scans, out, "--png") == predict(scans, out, "--png") == 0
    (out / name).write_text("corrected")
    with pytest.raises(SystemExit, match=f"holds {name}, .* or which was changed since"):
        predict(scans, out, "--png", "--continue_prediction")
    assert (out / name).read_text() == "corrected"


def test_what_fails_takes_no_label_map_along(predict, scans, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(beside, "render", lambda *_: 1 / 0)
    assert predict(scans, tmp_path / "out") == 1
    said = capsys.readouterr().out
    assert "2 label maps written" in said
    assert "The label maps are whole, but what lies beside them was not written (ZeroDivisionError" in said
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {"a.nii.gz", "b.nii.gz"}


def test_a_study_without_a_label_map_comes_first(predict, scans, tmp_path) -> None:
    (scans / "c.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes()[:200])
    assert predict(scans, tmp_path / "out") == 1
    cards = shown(tmp_path / "out")
    assert list(cards) == ["c", "a", "b"]
    assert re.search("not predicted</b>: .*truncated", cards["c"], re.DOTALL)
    (scans / "b.nii.gz").write_bytes((scans / "c.nii.gz").read_bytes())  # whose old label map is still there
    assert predict(scans, tmp_path / "out") == 1
    cards = shown(tmp_path / "out")
    assert list(cards) == ["b", "c", "a"] and "not predicted" in cards["b"] and "sagittal slice" not in cards["c"]
    write(scans / "b.nii.gz", VOXELS + 1)  # and is predicted again
    assert predict(scans / "b.nii.gz", tmp_path / "out") == 0
    assert "not predicted" not in shown(tmp_path / "out")["b"]


def test_flags_of_levels(predict, scans, tmp_path, monkeypatch, capsys) -> None:
    """Shown where the levels were decoded, also where that changed no voxel; else it is told that they are doubtful."""
    model = spine(tmp_path)
    out = tmp_path / "out"
    assert predict(scans, out, model=model) == 0
    assert re.search(
        r"Levels are doubtful in 2 of 2 studies.*\n  a: levels uncertain \(fewer than", capsys.readouterr().out
    )
    assert "confidence" not in shown(out)["a"]
    monkeypatch.setattr("nnunetv2_cafr.deployment.model.LevelDecoder", Decoder)
    assert predict(scans, out, "--levels", model=model) == 0
    assert "uncertain</b>: confidence 0.02" in shown(out)["a"]
    statistics = out / "level_decoding.json"
    statistics.write_text(statistics.read_text()[:-50])
    with pytest.raises(SystemExit, match=r"holds level_decoding\.json, which this network did not write, or which was"):
        predict(scans, out, "--levels", model=model)


def test_a_table_of_levels_that_somebody_annotated_is_kept(predict, scans, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("nnunetv2_cafr.deployment.model.LevelDecoder", Decoder)
    model, out = spine(tmp_path), tmp_path / "out"
    assert predict(scans, out, "--levels", model=model) == 0
    table = out / "level_decoding.csv"
    annotated = table.read_text().replace("\n", ",seen\n")
    table.write_text(annotated)
    with pytest.raises(SystemExit, match=r"holds level_decoding\.csv, which this network did not write, or which was"):
        predict(scans, out, "--levels", model=model)
    assert predict(scans, out, model=model) == 0
    assert table.read_text() == annotated


def test_two_calls_at_once_write_one_table_of_levels(predict, scans, tmp_path, monkeypatch) -> None:
    """As when a long list of scans is shared between two machines."""
    monkeypatch.setattr("nnunetv2_cafr.deployment.model.LevelDecoder", Decoder)
    model, out = spine(tmp_path), tmp_path / "out"
    assert predict(scans / "a.nii.gz", out, "--levels", model=model) == 0
    other = Record(out, {}, writing_beside)
    assert predict(scans / "b.nii.gz", out, "--levels", model=model) == 0
    other.add("c", Decoding(VOXELS, 0.5, {}, [], [], 0), out / "a.nii.gz")
    assert sorted(read_decodings(out)) == ["a", "b", "c"]


def test_the_table_of_levels_is_of_the_label_maps_that_are_there(predict, scans, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("nnunetv2_cafr.deployment.model.LevelDecoder", Decoder)
    model, out = spine(tmp_path), tmp_path / "out"

    def rows() -> list[str]:
        return [row.split(",")[0] for row in (out / "level_decoding.csv").read_text().splitlines()[1:]]

    assert predict(scans, out, "--levels", model=model) == 0
    assert predict(scans / "a.nii.gz", out, model=model) == 0
    assert rows() == ["b"]
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("nnunetv2_cafr.levels.files.Record.add", killed)
        with pytest.raises(KeyboardInterrupt):
            predict(scans, out, "--levels", model=model)
    capsys.readouterr()
    assert predict(scans, out, "--levels", "--continue_prediction", model=model) == 0
    assert rows() == ["a", "b"] and "1 label map written" in capsys.readouterr().out

    (tmp_path / "one").mkdir()
    assert predict(scans / "a.nii.gz", tmp_path / "one" / "labels.nii.gz", "--levels", model=model) == 0
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["labels.nii.gz"]


def test_a_scan_that_shows_less_than_those_of_the_training(predict, scans, tmp_path, capsys) -> None:
    """b, of 24 mm."""
    model = spine(tmp_path, training_heights=[30, 40])
    write(scans / "a.nii.gz", VOXELS, spacing=(0.7, 1.0, 4.4))
    assert predict(scans, tmp_path / "out", model=model) == 0
    doubt = "24 mm from bottom to top, and the network was trained on 30 to 40 mm"
    output = capsys.readouterr().out
    assert f"Note on b: {doubt}" in output and f"field of view ({doubt}" in output and "Note on a" not in output
    cards = shown(tmp_path / "out")
    assert list(cards) == ["b", "a"] and "field of view" in cards["b"] and "field of view" not in cards["a"]


def test_a_scan_of_which_a_part_is_empty(predict, tmp_path, monkeypatch, capsys) -> None:
    """As high as those of the training, but 40 % of it shows next to nothing: padding, or a coil that failed."""
    monkeypatch.setattr(deployed, "LevelDecoder", Decoder)
    model = spine(tmp_path, training_heights=[24, 24])
    (tmp_path / "scans").mkdir()
    dark = np.array(VOXELS, dtype=float)
    dark[:, :12] = dark.min() + 0.02 * (dark[:, :12] - dark.min())  # rows run down
    write(tmp_path / "scans" / "x.nii.gz", dark)
    write(tmp_path / "scans" / "y.nii.gz", VOXELS)
    assert predict(tmp_path / "scans", tmp_path / "out", "--levels", model=model) == 0
    doubt = "only 14 mm from bottom to top show anything, and the network was trained on 24 mm"
    output = capsys.readouterr().out
    assert f"Note on x: {doubt}" in output and "Note on y" not in output
    flags = (tmp_path / "out" / "level_decoding.csv").read_text().splitlines()
    assert f"field of view: {doubt}" in flags[1] and "field of view" not in flags[2]


@pytest.mark.parametrize("value", [-32768, 1e9])
def test_values_far_from_all_others_are_told(value, predict, tmp_path, capsys) -> None:
    (tmp_path / "scans").mkdir()
    odd = np.array(VOXELS, dtype=float)
    odd[:, :, :2] = value
    write(tmp_path / "scans" / "x.nii.gz", odd)
    write(tmp_path / "scans" / "y.nii.gz", VOXELS)
    assert predict(tmp_path / "scans", tmp_path / "out") == 0
    output = capsys.readouterr().out
    assert f" of the voxels of T1 are {value:g}, and all others" in output and "Note on y" not in output
    assert "values far off" in shown(tmp_path / "out")["x"]


@pytest.mark.parametrize(("degrees", "tilted"), [(19, False), (21, True), (41, None)])
def test_a_tilted_scan_is_a_doubt_and_one_that_could_be_either_way_up_is_refused(
    degrees, tilted, predict, tmp_path, capsys
) -> None:
    turn = np.deg2rad(degrees)
    direction = (0, 0, -1, np.cos(turn), -np.sin(turn), 0, -np.sin(turn), -np.cos(turn), 0)
    (tmp_path / "scans").mkdir()
    image = image_of(VOXELS)
    image.SetDirection(direction)
    sitk.WriteImage(image, tmp_path / "scans" / "x.nii.gz")
    status = predict(tmp_path / "scans", tmp_path / "out", model=spine(tmp_path))
    output = capsys.readouterr().out
    if tilted is None:
        assert status == 1 and "a voxel axis 41 degrees off" in output and not (tmp_path / "out" / "x.nii.gz").exists()
    else:
        assert status == 0 and (f"it is turned by {degrees} degrees" in output) == tilted


def test_where_nothing_was_found(predict, scans, tmp_path, monkeypatch, capsys) -> None:
    original = deployed.predict_labels

    def nothing(*arguments):
        labels, geometry = original(*arguments)
        return 0 * labels, geometry

    monkeypatch.setattr(deployed, "predict_labels", nothing)
    assert predict(scans / "a.nii.gz", tmp_path / "out") == 0
    assert "Note on a: nothing was found" in capsys.readouterr().out


def test_a_series_of_another_plane_is_a_doubt(predict, tmp_path) -> None:
    (tmp_path / "scans").mkdir()
    write(tmp_path / "scans" / "x.nii.gz", np.resize(VOXELS, (30, 9, 24)), spacing=(0.7, 4.4, 0.8))
    assert predict(tmp_path / "scans", tmp_path / "out") == 0
    assert "another plane</b>: its slices lie in another plane" in shown(tmp_path / "out")["x"]
    assert predict(tmp_path / "scans", tmp_path / "out", "--continue_prediction", "--png") == 0  # is not read again
    assert "another plane</b>: its slices lie in another plane" in shown(tmp_path / "out")["x"]


def test_pictures(predict, scans, tmp_path) -> None:
    assert predict(scans, tmp_path / "out", "--png") == 0
    assert sorted(path.name for path in (tmp_path / "out" / "preview").iterdir()) == ["a.png", "b.png"]
    write(scans / "a.nii.gz", VOXELS[:, :-1])
    assert predict(scans, tmp_path / "out") == 0
    assert [path.name for path in (tmp_path / "out" / "preview").iterdir()] == ["b.png"]  # a's map is another one
    with pytest.raises(SystemExit, match="--png writes more: give a folder"):
        predict(scans / "a.nii.gz", tmp_path / "labels.nii.gz", "--png")


def test_photographs(predict, tmp_path) -> None:
    """Of a network for PNG files, whose label maps are such, too."""
    model = describe(tmp_path / "model.onnx", ending=".png", image_reader_writer="NaturalImage2DIO")
    values = np.random.default_rng(0).integers(0, 255, (30, 24)).astype(np.uint8)
    (tmp_path / "scans").mkdir()
    Image.fromarray(values).save(tmp_path / "scans" / "cells_0000.png")
    assert predict(tmp_path / "scans", tmp_path / "out", "--png", model=model) == 0
    assert "not shown" not in shown(tmp_path / "out")["cells"]
    assert "the image, 24 x 30 mm" in shown(tmp_path / "out")["cells"]
    assert (tmp_path / "out" / "preview" / "cells.png").is_file()
