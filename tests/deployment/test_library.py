"""Cards, and models that are handed over: packed, fetched from a server on this machine, installed, predicted with."""

import functools
import http.server
import json
import pickle
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnunetv2_cafr import load_model
from nnunetv2_cafr.deployment import export
from nnunetv2_cafr.deployment.card import FIELDS, describe_model, read_card
from nnunetv2_cafr.deployment.library import find_model, folder_of_models, installed_models
from nnunetv2_cafr.files import sha256

from ..verbs import run_verb
from .files import describe
from .untrained import Models

CARD = dict.fromkeys(FIELDS, "text") | {"name": "tiny", "version": "1.2", "metrics": {"Dice": 0.9}}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr("nnunetv2_cafr.deployment.library.user_data_path", lambda *_, **__: tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def archive(tmp_path: Path, capsys: pytest.CaptureFixture) -> Path:
    """A packed model; its network is none, which installing does not ask for."""
    model = describe(tmp_path / "model.onnx")
    content = json.loads(model.with_suffix(".json").read_text())
    model.with_suffix(".json").write_text(json.dumps({**content, "card": CARD}))
    assert run_verb("model", "pack", model, "-o", tmp_path / "served" / "tiny.zip") == 0
    assert f"SHA-256: {sha256(tmp_path / 'served' / 'tiny.zip')}" in capsys.readouterr().out
    return tmp_path / "served" / "tiny.zip"


@pytest.fixture
def server(archive: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(archive.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("fetched", [False, True])
def test_installed_by_name(archive, server, capsys, fetched):
    pytest.importorskip("pooch")
    source = [f"{server}/tiny.zip", "--sha256", sha256(archive)] if fetched else [archive]
    assert run_verb("model", "install", *source) == 0
    assert "predict -m tiny" in capsys.readouterr().out
    assert find_model("tiny").read_bytes() == b"model.onnx"
    assert [path.name for path in folder_of_models().iterdir()] == ["tiny"]
    assert run_verb("model", "show", "tiny") == 0
    shown = capsys.readouterr().out
    assert "tiny 1.2" in shown and "Not a medical device" in shown and "Dice: 0.9" in shown and "labels: a 1" in shown
    with pytest.raises(SystemExit, match="is this model already"):
        run_verb("model", "install", archive)


def test_what_is_refused_leaves_nothing(archive, server, tmp_path):
    pytest.importorskip("pooch")
    digest = sha256(archive)
    half = tmp_path / "half.zip"
    half.write_bytes(archive.read_bytes()[:-100])
    foreign = tmp_path / "foreign.zip"
    with zipfile.ZipFile(foreign, "w") as one:
        one.writestr("model.json", archive.read_bytes())
        one.writestr("checkpoint_final.pth", pickle.dumps(print))
    changed = tmp_path / "changed.zip"
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(changed, "w") as one:
        one.writestr("model.onnx", b"another network")
        one.writestr("model.json", whole.read("model.json"))
    for arguments, message in [
        ([f"{server}/tiny.zip"], "give its SHA-256"),
        ([f"{server}/tiny.zip", "--sha256", "0" * 64], "not the file that was expected"),
        ([f"{server}/nope.zip", "--sha256", digest], "could not be fetched"),
        ([archive, "--sha256", "0" * 64], f"its SHA-256 is {digest}"),
        ([half], "half of one"),
        ([foreign], "holds checkpoint_final.pth, model.json; expected are model.onnx and model.json alone"),
        ([changed], "SHA-256 differs"),
        ([tmp_path / "nope.zip"], "There is no"),
    ]:
        with pytest.raises(SystemExit, match=message):
            run_verb("model", "install", *arguments)
        assert not list(folder_of_models().iterdir()), arguments


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../../../elsewhere"}, "none for a folder"),
        ({"version": None}, "version of its card is None"),
        ({"metrics": [1, 2]}, "metrics of its card"),
    ],
)
def test_cards_of_others_that_are_refused(archive, tmp_path, change, message):
    """Of an archive that was not packed here: its card's name must not lead out of the models' folder."""
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(other, "w") as one:
        one.writestr("model.onnx", whole.read("model.onnx"))
        one.writestr("model.json", json.dumps({**json.loads(whole.read("model.json")), "card": {**CARD, **change}}))
    before = set(tmp_path.iterdir())
    with pytest.raises(SystemExit, match=message):
        run_verb("model", "install", other)
    assert not list(folder_of_models().iterdir())
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "data"}


def test_a_card_says_nothing_to_the_terminal(archive):
    with zipfile.ZipFile(archive) as whole:
        content = json.loads(whole.read("model.json"))
    content["card"] = {**CARD, "data": "all\x1b[2J\rhidden"}
    assert "data: all?[2J?hidden" in describe_model(content)


def test_archives_that_cannot_be_unpacked(archive, tmp_path, monkeypatch):
    whole, other = archive.read_bytes(), tmp_path / "other.zip"
    local, central = whole.index(b"PK\3\4"), whole.index(b"PK\1\2")
    for name, changed, message in [
        ("deflated", {whole.index(b"model.onnx") + 10: 0xFF}, "half of one"),
        ("locked", {local + 6: 1, central + 8: 1}, "cannot be unpacked"),
        ("method", {local + 8: 99, central + 10: 99}, "cannot be unpacked"),
    ]:
        content = bytearray(whole)
        for place, value in changed.items():
            content[place] = value
        other.write_bytes(content)
        with pytest.raises(SystemExit, match=message):
            run_verb("model", "install", other)
        assert not list(folder_of_models().iterdir()), name
    monkeypatch.setattr("nnunetv2_cafr.deployment.library.LARGEST", 9)
    with pytest.raises(SystemExit, match=r"holds model\.onnx of more than 2 GB"):
        run_verb("model", "install", archive)


def test_names_that_mean_nothing(tmp_path):
    assert installed_models() == {}
    with pytest.raises(SystemExit, match="no installed model of that name"):
        run_verb("predict", "-m", "nope", "-i", tmp_path, "-o", tmp_path / "out")
    with pytest.raises(ValueError, match="no installed model of that name"):
        load_model("nope")
    for name, remedy in (("spine.zip", "model install"), ("checkpoint_final.pth", "nnUNetv2_cafr export")):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=remedy):
            load_model(tmp_path / name)
    with pytest.raises(ValueError, match="nnUNetv2_cafr export"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: tiny\nversion: 1", "lacks data, data_licence, citation, intended_use, metrics"),
        (json.dumps({**CARD, "licence": "MIT"}), "unknown licence"),
        (json.dumps({**CARD, "name": "../up"}), "is none for a folder"),
        (json.dumps({**CARD, "metrics": "nope.csv"}), r"nope\.csv cannot be read"),
        ("- a list", "holds no fields"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_cards_that_are_refused(tmp_path, text, message):
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_card(tmp_path / "card.yaml")


def test_export_fills_the_card(cafr, models: Models, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "to_onnx", lambda *_: cafr[1].read_bytes())  # the same network, exported before
    (tmp_path / "table.csv").write_text("arm,Dice\nCAFR,0.81\n")
    (tmp_path / "card.yaml").write_text(json.dumps({**CARD, "metrics": "table.csv"}))
    folder = cafr[0]
    trainer, plans, name = folder.name.split("__")
    which = ["-d", folder.parent.name, "-c", name, "-tr", trainer, "-p", plans, "-f", 0]
    assert run_verb("export", *which, "-o", tmp_path / "m.onnx", "--card", tmp_path / "card.yaml") == 0
    assert json.loads((tmp_path / "m.json").read_text())["card"]["metrics"] == [{"arm": "CAFR", "Dice": "0.81"}]
    assert run_verb("model", "pack", tmp_path / "m.onnx", "-o", tmp_path / "m.zip") == 0
    assert run_verb("model", "install", tmp_path / "m.zip") == 0
    image = models.images / "case0_0000.nii.gz"
    assert run_verb("predict", "-m", "tiny", "-i", image, "-o", tmp_path / "a.nii.gz", "--threads", 1) == 0
    assert run_verb("predict", "-m", cafr[1], "-i", image, "-o", tmp_path / "b.nii.gz", "--threads", 1) == 0
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    capsys.readouterr()
    with pytest.raises(SystemExit, match="has no card"):
        run_verb("model", "pack", cafr[1], "-o", tmp_path / "none.zip")
    assert run_verb("model", "show", "tiny") == 0
    assert "arm   Dice\n  CAFR  0.81" in capsys.readouterr().out
