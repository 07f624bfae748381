"""The page in a real browser and its pictures: doubtful studies first, names as text, one colour for each level."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from markupsafe import escape
from PIL import Image

from nnunetv2_cafr.files import sha256
from nnunetv2_cafr.levels.files import STATISTICS_FILE
from nnunetv2_cafr.measurements.study import (
    COBB,
    HEIGHTS,
    LORDOSIS,
    SLIP,
    WEDGE,
    WIDTH,
    Angle,
    Level,
    StudyMeasurements,
)
from nnunetv2_cafr.preview.page import part_of, parts_in, render
from nnunetv2_cafr.preview.png import LONGEST
from nnunetv2_cafr.preview.study import (
    CONTRADICTORY,
    SIGNAL_VOID,
    SPACING,
    UNLIKELY,
    Labels,
    StudyPreview,
    preview,
)
from nnunetv2_cafr.spine import colour_of

from ..levels.drawn import LABELS as DRAWN
from ..measurements.drawn import draw
from ..pages import on_a_phone, visible_rows
from ..verbs import run_verb

LABELS = {"background": 0, "S": 1, "L5": 2, "L4": 3, "L3": 4, "L4/L5": 5, "L3/L4": 6}
NASTY = "<img src=x onerror=alert(1)>--><!--end-->"


def spine(*missing: str) -> sitk.Image:
    """A column of boxes (z, y, x), 60 x 40 x 8 mm apart from those that are missing."""
    labels = np.zeros((60, 40, 8), np.uint8)
    for name, bottom in {"S": 2, "L5": 10, "L4/L5": 20, "L4": 24, "L3/L4": 34, "L3": 38}.items():
        if name not in missing:
            labels[bottom : bottom + (4 if "/" in name else 8), 8:30, 1:7] = LABELS[name]
    return sitk.GetImageFromArray(labels)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a study with a nasty name, one whose L4 is missing, and one whose levels are uncertain."""
    root = tmp_path_factory.mktemp("preview")
    for name in ("maps", "images"):
        (root / name).mkdir()
    (root / "maps" / "dataset.json").write_text(json.dumps({"labels": LABELS, "file_ending": ".mha"}))
    for case, mask in {NASTY: spine(), "gap": spine("L4"), "unsure": spine()}.items():
        sitk.WriteImage(mask, root / "maps" / f"{case}.mha")
        sitk.WriteImage(sitk.Cast(mask, sitk.sitkInt16) * 0 + 70, root / "images" / f"{case}_0000.mha")
    flags = {"uncertain": "confidence 0.02", "missed": "T12"}
    studies = {"unsure": {"flags": flags, "confidence": 0.02}, "gap": {"flags": {}, "confidence": 0.9}}
    for case, study in studies.items():
        study["sha256"] = sha256(root / "maps" / f"{case}.mha")
    (root / "maps" / STATISTICS_FILE).write_text(json.dumps({"studies": studies}))
    assert run_verb("measure", "-i", root / "maps", "--images", root / "images", "-o", root / "out", "--png") == 0
    return root / "out"


def test_opens_sorts_and_filters(measured, browse):
    page = measured / "preview.html"
    elements = browse(page)
    assert 'data-ready="yes"' in elements and "3 of 3 studies shown" in elements
    assert visible_rows(elements) == ["unsure", "gap", str(escape(NASTY))]  # two doubts, one, none
    assert visible_rows(browse(page, "?show=doubtful&sort=0")) == ["gap", "unsure"]


def test_fits_a_phone(measured, browse, tmp_path):
    assert 'data-excess="0"' in browse(on_a_phone(measured / "preview.html", tmp_path))


def test_holds_everything_and_escapes_names(measured):
    text = (measured / "preview.html").read_text(encoding="utf-8")
    assert NASTY not in text and str(escape(NASTY)) in text
    assert "http:" not in text and "https:" not in text
    links = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert len(links) > 6 and all(link.startswith(("#", "data:image/jpeg;base64,")) for link in links)
    assert re.search(r"missing levels</b>: L4 between levels that are there", text)
    assert "0.90" in text and "confidence 0.02" in text
    for name in ("L4", "L3/L4"):
        assert f'stroke="{"#{:02X}{:02X}{:02X}".format(*colour_of(name, 0))}"' in text


def test_a_later_page_keeps_the_parts(measured):
    parts = list(parts_in((measured / "preview.html").read_text(encoding="utf-8")))
    assert [part.row["name"] for part in parts] == ["unsure", "gap", NASTY]
    assert list(parts_in(render(reversed(parts), "again", {}))) == parts


def test_a_picture_of_each_study(measured):
    files = sorted((measured / "preview").iterdir())
    assert [file.stem for file in files] == [NASTY, "gap", "unsure"]
    with Image.open(files[0]) as picture:
        assert max(picture.size) == LONGEST and picture.size[1] * 40 == pytest.approx(picture.size[0] * 60, rel=0.01)
        assert picture.text["Title"] == NASTY
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for name in LABELS:
        if name != "background":
            assert (np.abs(pixels - np.array(colour_of(name, 0))).max(1) < 9).sum() > 200, name


def test_each_large_piece_of_a_structure_is_named_where_it_lies():
    """A person should look at a broken label: its name does not stand between the pieces, in another structure."""
    labels = sitk.GetArrayFromImage(spine())
    labels[labels == LABELS["L3"]] = LABELS["L4"]
    labels[0, 0, :] = LABELS["L4"]
    mask = sitk.GetImageFromArray(labels)
    picture = preview("a", mask, None, Labels.of({"labels": LABELS})).picture
    outline = next(one for one in picture.outlines if one.name == "L4")
    assert sorted(y for _, y, _ in picture.name_places(outline)) == pytest.approx([60 - 42, 60 - 28])


def test_a_picture_that_fails_leaves_the_measures(monkeypatch):
    monkeypatch.setattr("nnunetv2_cafr.preview.study.draw", lambda *_: 1 / 0)
    one = preview("a", spine(), None, Labels.of({"labels": LABELS}))
    assert one.measurements is not None
    assert "No picture: ZeroDivisionError" in part_of(one).card


def test_labels_that_are_no_levels():
    regions = {"background": 0, "all": [1, 2], "core": 2}
    labels = Labels.of({"labels": regions, "regions_class_order": [1, 2]})
    assert labels == Labels({1: "all", 2: "core"}, None)
    one = preview("a", spine() * 0, None, labels)
    assert list(one.doubts) == ["empty"] and one.picture is not None
    assert "stroke" in part_of(preview("a", spine(), None, Labels({1: "liver"}, None))).card


def test_levels_that_contradict_one_another():
    """Said where nobody had them decoded; of a decoded study, that has flags of its own."""
    labels = Labels.of({"labels": LABELS})
    mask = spine()
    values = sitk.GetArrayFromImage(mask)
    values[(values == LABELS["L4"])] = LABELS["L5"]
    wrong = sitk.GetImageFromArray(values)
    assert preview("a", mask, None, labels).doubts == {}
    assert "L5 should be L4" in preview("a", wrong, None, labels).doubts[CONTRADICTORY]
    assert CONTRADICTORY not in preview("a", wrong, None, labels, {"flags": {}, "confidence": 1.0}).doubts


@pytest.mark.parametrize(("degrees", "doubtful"), [(-16, True), (-14, False), (40, False), (None, False)])
def test_a_lumbar_spine_that_is_hollow_in_front_is_a_doubt(degrees, doubtful, monkeypatch):
    angles = Angle(LORDOSIS, "L1-S1", degrees), Angle(COBB, "", None)
    monkeypatch.setattr("nnunetv2_cafr.preview.study.measure", lambda *_: StudyMeasurements([], *angles))
    doubts = preview("a", spine(), None, Labels.of({"labels": LABELS})).doubts
    assert ("front and back" in doubts) == doubtful


@pytest.mark.parametrize(("wedge", "slip", "doubtful"), [(-30, 0, True), (0, 12, True), (20, -8, False)])
def test_measures_that_no_patient_is_likely_to_have_are_a_doubt(wedge, slip, doubtful, monkeypatch):
    level = Level("L4", "vertebra", {WEDGE: wedge, SLIP: slip})
    study = StudyMeasurements([level], Angle(LORDOSIS, "", None), Angle(COBB, "", None))
    monkeypatch.setattr("nnunetv2_cafr.preview.study.measure", lambda *_: study)
    doubts = preview("a", spine(), None, Labels.of({"labels": LABELS})).doubts
    assert (UNLIKELY in doubts) == doubtful


@pytest.mark.parametrize(
    ("part", "becomes", "kind", "words"),
    [
        ("upper", "background", UNLIKELY, r"L3 1\d\S* mm high beside 2\d"),
        ("right", "background", UNLIKELY, r"L3 2\d\S* mm wide beside 4\d"),
        ("upper", "L2", CONTRADICTORY, r"\d+ voxels have another level"),
        ("none of it", "background", "", ""),
    ],
)
def test_a_label_that_covers_a_part_of_a_vertebra_is_a_doubt(part, becomes, kind, words):
    mask = draw()
    values = sitk.GetArrayFromImage(mask)  # (s, p, l)
    body = values == DRAWN["L3"]
    z, _, x = np.nonzero(body)
    where = np.zeros_like(body)
    if part == "upper":
        where[int(np.quantile(z, 0.65)) :] = True
    elif part == "right":
        where[:, :, : int(x.mean())] = True
    values[body & where] = DRAWN[becomes]
    edited = sitk.GetImageFromArray(values)
    edited.CopyInformation(mask)
    doubts = preview("a", edited, None, Labels.of({"labels": DRAWN})).doubts
    assert re.search(words, doubts[kind]) if kind else not doubts


@pytest.mark.parametrize(
    ("height", "width", "doubtful"), [(26, 42, False), (52, 84, True), (26, 110, True), (26, 11, True)]
)
def test_a_spacing_that_makes_no_vertebra_is_a_doubt(height, width, doubtful, monkeypatch):
    levels = [Level(name, "vertebra", {HEIGHTS[1]: height, WIDTH: width}) for name in ("L5", "L4", "L3")]
    study = StudyMeasurements(levels, Angle(LORDOSIS, "", None), Angle(COBB, "", None))
    monkeypatch.setattr("nnunetv2_cafr.preview.study.measure", lambda *_: study)
    doubts = preview("a", spine(), None, Labels.of({"labels": LABELS})).doubts
    assert (SPACING in doubts) == doubtful


def test_a_vertebra_where_nothing_is_to_be_seen_is_a_doubt():
    mask = spine()
    values = sitk.GetArrayFromImage(mask)
    grey = np.where(values > 0, 300.0, 100.0)
    grey[:2] = 0
    assert SIGNAL_VOID not in preview("a", mask, sitk.GetImageFromArray(grey), Labels.of({"labels": LABELS})).doubts
    grey[values == LABELS["L4"]] = 10
    doubts = preview("a", mask, sitk.GetImageFromArray(grey), Labels.of({"labels": LABELS})).doubts
    assert doubts[SIGNAL_VOID].startswith("L4 as dark as")


def test_doubts_come_first():
    studies = [
        StudyPreview("b"),
        StudyPreview("a"),
        StudyPreview("c", confidence=0.1),
        StudyPreview("d", doubts={"x": ""}),
    ]
    page = render([part_of(one) for one in studies], "title", {})
    assert [part.row["name"] for part in parts_in(page)] == ["d", "c", "a", "b"]
