"""The report: what it says against the scores, in a real browser, without a network, and of studies with gaps."""

import dataclasses
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from markupsafe import escape
from PIL import Image

from nnunetv2_cafr.report.page import GENERATOR, render, write_report
from nnunetv2_cafr.report.patients import DICE, patient_values
from nnunetv2_cafr.report.pictures import LINES, _mistaken, named_slices, outlined_slice
from nnunetv2_cafr.report.study import CaseFiles, Section, Study

from ..pages import Elements, on_a_phone
from .synthetic_study import ARMS, NAMES, arm, evaluation, full_study, write_files

NASTY = '<b onmouseover="alert(1)">U\'</b>'
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Three families, one arm with a nasty name, fractions, an external set, phantoms."""
    made = full_study(tmp_path_factory.mktemp("study"), patients=7, size=(64, 48, 3), cases=3)
    return dataclasses.replace(made, notes=[*made.notes, NASTY], title=f"Study {NASTY}")


@pytest.fixture(scope="module")
def page(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(study, tmp_path_factory.mktemp("out") / "report")


def first_column(elements: str, table: str) -> dict[str, list[str]]:
    """Names of the rows of a table by the group that they stand in, from above."""
    text = elements[elements.index(f'id="table-{table}"') :]
    text = text[: text.index("</table>")]
    groups = {}
    for body in re.findall(r"<tbody>(.*?)</tbody>", text, re.S):
        (group,) = re.findall(r'scope="rowgroup"[^>]*><span>([^<]*)', body) or [""]
        groups[group] = re.findall(r'<th scope="row">([^<]*)', body)
    return groups


def test_opens_and_sorts_within_families(page: Path, browse: Callable[..., str], study: Study, tmp_path: Path) -> None:
    before = first_column(browse(page), "results")
    clicks = """<script>
      const buttons = document.querySelectorAll("#table-results thead button");
      buttons[1].click(); buttons[1].click();
      document.getElementById("contours").click();
    </script></body>"""
    clicked = tmp_path / "clicked.html"
    clicked.write_text(page.read_text(encoding="utf-8").replace("</body>", clicks), encoding="utf-8")
    elements = browse(clicked)
    assert 'data-ready="yes"' in elements and 'class="plain"' in elements
    assert re.findall(r'<th [^>]*aria-sort="(\w+)"', elements) == ["ascending"]
    after = first_column(elements, "results")
    assert list(after) == list(before) == ["stock", "level-safe", "the paper's recipe"]
    means = patient_values(study.sections[0].scores, DICE.per_case).mean()
    for group, names in after.items():
        assert sorted(names) == sorted(before[group])
        assert names == sorted(names, key=lambda name: means[name])
        assert before[group] == names[::-1]


def test_what_is_missing_sorts_last(page: Path, browse: Callable[..., str], tmp_path: Path) -> None:
    """The last arm has no cost."""
    for clicks in (1, 2):
        script = 'document.querySelectorAll("#table-paper_table_3 thead button")[2].click();' * clicks
        clicked = tmp_path / f"{clicks}.html"
        text = page.read_text(encoding="utf-8").replace("</body>", f"<script>{script}</script></body>")
        clicked.write_text(text, encoding="utf-8")
        names = first_column(browse(clicked), "paper_table_3")[""]
        assert names[-2:] == ["Attention U-Net", "Attention U-Net"]
        assert (names[0] == "CAFR-Net") == (clicks == 1)


def test_fits_a_phone(page: Path, browse: Callable[..., str], tmp_path: Path) -> None:
    assert 'data-excess="0"' in browse(on_a_phone(page, tmp_path))


def words_of(text: str) -> str:
    """The text with one space for any white space, as a browser shows it."""
    return re.sub(r"\s+", " ", text)


def test_needs_nothing_else_and_escapes_names(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    elements = Elements(text).all
    assert not any("onmouseover" in attributes or (tag == "b" and attributes) for tag, attributes in elements)
    assert str(escape(NASTY)) in text
    assert "http:" not in text and "https:" not in text and "@import" not in text
    links = [attributes.get(key) or "" for _, attributes in elements for key in ("src", "href", "xlink:href")]
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in links if link)
    identifiers = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    wanted = {link[1:] for link in links if link.startswith("#")} | set(re.findall(r"url\(#([^)]+)\)", text))
    assert wanted <= set(identifiers)
    assert len(text) < 5e6


def test_hostile_names_are_shown_as_text(tmp_path: Path) -> None:
    """Of cases, arms and their family, sections and the study, in sentences, tables, figures, pictures and settings."""
    arms = tuple(arm(f"{name} {HOSTILE}", family=HOSTILE) for name in ("A", "B"))
    pictures = write_files(tmp_path / "files", [HOSTILE], (48, 40, 3))
    scores = {}
    for seed, one in enumerate(arms):
        made = evaluation(0.8, 3, seed)
        for table in (made.classes, made.levels):
            table["case"] = table["case"].replace("case_000_0", HOSTILE)
        scores[one.name] = {0: made}
    study = Study(
        HOSTILE,
        arms,
        [Section("validation", "CV", "", scores), Section("external-X", HOSTILE, HOSTILE, {})],
        dict(enumerate(NAMES, 1)),
        {"data set": HOSTILE},
        {"command": HOSTILE},
        settings={one.name: {HOSTILE: index} for index, one in enumerate(arms)},
        files={one.name: pictures for one in arms},
        notes=[HOSTILE],
    )
    page = Elements(render(study)[0])
    assert page.text.count(HOSTILE) > 20 and f"worst: {HOSTILE}, Dice" in words_of(page.text)
    assert not any(name.startswith("on") for _, attributes in page.all for name in attributes)
    pictures_shown = [attributes for tag, attributes in page.all if tag == "img"]
    assert pictures_shown and all(one["src"].startswith("data:image/jpeg") for one in pictures_shown)
    assert all(HOSTILE in one["alt"] for one in pictures_shown)


def test_is_for_everybody(page: Path) -> None:
    """Language, order of headings, captions, scopes, keyboard, words for pictures."""
    text = page.read_text(encoding="utf-8")
    elements = Elements(text).all
    assert dict(elements)["html"] == {"lang": "en"}
    levels = [int(tag[1]) for tag, _ in elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    assert text.count("<table") == text.count("<caption>") > 10
    assert all(attributes.get("scope") for tag, attributes in elements if tag == "th")
    assert text.count('<th scope="col"') == len(re.findall(r'<th scope="col"[^>]*><button type="button">', text))
    pictures = [attributes for tag, attributes in elements if tag == "img"]
    assert len(pictures) == 3 * len(ARMS) + 3 * (1 + len(ARMS)) and all(
        one["alt"] and one["loading"] == "lazy" for one in pictures
    )
    drawings = [attributes for tag, attributes in elements if tag == "svg" and attributes.get("aria-hidden") != "true"]
    assert len(drawings) > 8 and all(one["role"] == "img" and one["aria-label"] for one in drawings)


def test_says_what_the_scores_say(page: Path, study: Study) -> None:
    text = words_of(page.read_text(encoding="utf-8"))
    verdicts = re.findall(r'<article class="verdict">(.*?)</article>', text, re.S)
    values = patient_values(study.sections[0].scores, DICE.per_case)
    for verdict, family in zip(verdicts, ("stock", "level-safe", "the paper's recipe"), strict=True):
        names = [one.name for one in ARMS if one.family == family]
        best = values[names].mean().idxmax()
        assert f'<p class="winner">{best}' in verdict
        assert f"Dice {values[best].mean():.2f} %" in verdict
    assert best == "CAFR-paper" and "compared with nothing" in verdicts[2]
    assert f"{values['nnU-Net'].mean() - values['CAFR-stockDA'].mean():.2f} points" in verdicts[0]
    assert "above</b> CAFR-stockDA" in verdicts[0]
    for words in ("Before you read", "One seed per arm", "Dataset511_SpineMRI", "Not measured: CAFR-paper"):
        assert words in text


def test_says_so_when_cafr_leads_and_by_how_much() -> None:
    arms = (arm("UNet"), arm("CAFR", "nnUNetTrainer_CAFR"))
    scores = {"UNet": {0: evaluation(0.8, 12, 0)}, "CAFR": {0: evaluation(0.9, 12, 1)}}
    study = Study("Small", arms, [Section("validation", "CV", "", scores)], {}, {}, {})
    text = words_of(render(study)[0])
    values = patient_values(scores, DICE.per_case).mean()
    assert '<p class="winner">CAFR leads' in text
    gap = values["CAFR"] - values["UNet"]
    interval = re.search(rf"CAFR is <b>{gap:.2f} points \[([\d.]+), ([\d.]+)\] above</b> UNet, the next", text)
    assert interval and float(interval[1]) < gap < float(interval[2])
    assert "significant." in text and "<b>Worse:</b> UNet." in text


@pytest.mark.parametrize(("patients", "possible"), [(5, False), (6, True)])
def test_says_when_no_difference_can_be_significant(patients: int, possible: bool) -> None:
    """One comparison: the least p of 5 patients is 0.0625, of 6 it is 0.03125."""
    arms = (arm("UNet"), arm("CAFR", "nnUNetTrainer_CAFR"))
    text = words_of(render(Study("Small", arms, [section_of(arms, patients)], {}, {}, {}))[0])
    assert ("no difference, whatever its size, can be called significant" in text) != possible
    assert ("in four of five such studies" in text) == possible
    assert ("Holm's correction is 0.062" in text) != possible


def section_of(arms: tuple, patients: int, **options: object) -> Section:
    scores = {one.name: {0: evaluation(0.8, patients, seed, **options)} for seed, one in enumerate(arms)}
    return Section("validation", "Cross-validation", "", scores)


def test_studies_with_gaps(tmp_path: Path, browse: Callable[..., str]) -> None:
    """One arm, one patient, no spine, no costs, curves, settings nor pictures; an arm without scores; no file."""
    arms = (arm("UNet"), arm("CAFR", "nnUNetTrainer_CAFR"))
    scores = {"UNet": {0: evaluation(0.8, 1, 0, names=("liver", "tumour"))}}
    nowhere = {"UNet": {"case_000_0": CaseFiles(*[tmp_path / "gone.nii.gz"] * 3)}}
    only = Section("validation", "Cross-validation", "", scores)
    study = Study("Gaps", arms, [only], {}, {}, {}, files=nowhere)
    page = write_report(study, tmp_path / "report")
    text = words_of(browse(page))
    for words in (
        "Without scores here: CAFR",
        "A single arm: shown, and compared with nothing",
        "there is no difference to test",
        "no spine levels",
        "Cost was not measured",
        "No training curves: UNet, CAFR",
        "gone.nii.gz is missing",
        "1 patient",
    ):
        assert words in text, words
    assert not re.search(r"\bnan\b", text, re.I) and "Infinity" not in text and "None" not in text
    with pytest.raises(ValueError, match="no scores"):
        render(dataclasses.replace(study, sections=[Section("validation", "CV", "", {})]))
    render(Study("One patient", arms, [section_of(arms, 1)], {}, {}, {}))


def test_a_case_that_cannot_be_drawn_has_no_picture(tmp_path: Path) -> None:
    """SimpleITK refuses sheared volumes, say, which nnU-Net reads by nibabel."""
    arms = (arm("UNet"), arm("CAFR", "nnUNetTrainer_CAFR"))
    files = write_files(tmp_path / "files", ["case_000_0"], (48, 40, 3))
    files["case_000_0"].image.write_bytes(b"no image")
    of_arms = {one.name: files for one in arms}
    study = Study("Unreadable", arms, [section_of(arms, 1)], dict(enumerate(NAMES, 1)), {}, {}, files=of_arms)
    assert render(study)[0].count("No picture: ") == 3  # of both arms, and side by side


def test_writes_in_one_step_and_only_over_reports(tmp_path: Path) -> None:
    arms = (arm("UNet"), arm("CAFR", "nnUNetTrainer_CAFR"))
    study = Study("Old", arms, [section_of(arms, 3)], {}, {}, {})
    page = write_report(study, tmp_path / "report")
    assert page == tmp_path / "report" / "report.html" and f'content="{GENERATOR}"' in page.read_text(encoding="utf-8")
    stems = {file.stem for file in (page.parent / "tables").iterdir()}
    assert {"results", "classes", "levels", "statistics", "ranking", "paper_table_3", "paper_table_4"} <= stems
    assert all((page.parent / "tables" / f"{stem}.{kind}").is_file() for stem in stems for kind in ("csv", "tex", "md"))
    write_report(dataclasses.replace(study, title="New"), page.parent)
    assert "New" in page.read_text(encoding="utf-8")
    broken = dataclasses.replace(study, sections=[Section("validation", "CV", "", {})])
    with pytest.raises(ValueError, match="no scores"):
        write_report(broken, page.parent)
    assert "New" in page.read_text(encoding="utf-8") and "CAFR" in (page.parent / "tables" / "results.csv").read_text()

    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "report.html").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"report\.html, which is not an earlier report's"):
        write_report(study, foreign)
    (page.parent / "tables" / "mine.docx").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"mine\.docx"):
        write_report(study, page.parent)
    assert (foreign / "report.html").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_outlines_lie_around_their_structures(tmp_path: Path) -> None:
    """In the slice with the most wrong voxels; mistaken structures are named."""
    reference = np.zeros((4, 20, 30), np.uint8)
    reference[:, 5:9, 10:16] = 1
    reference[0, 12:18, 2:28] = 2
    prediction = reference.copy()
    prediction[2, 5:9, 10:16] = 2
    files = CaseFiles(*(tmp_path / f"{name}.nii.gz" for name in ("image", "reference", "prediction")))
    for file, array in zip(
        (files.image, files.reference, files.prediction),
        (np.random.default_rng(0).normal(size=reference.shape).astype(np.float32), reference, prediction),
        strict=True,
    ):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((0.5, 0.8, 4))
        image.SetDirection((0, 0, -1, 1, 0, 0, 0, -1, 0))  # sagittal slices: columns backwards, rows downwards
        sitk.WriteImage(image, file)
    shown = outlined_slice(files.image, files.reference, files.prediction, {1: "L5", 2: "L4"})
    assert re.match(r"sagittal slice [23] of 4: the most wrong voxels", shown.what)
    assert (shown.width, shown.height) == pytest.approx((15, 16))
    x, y = np.array([pair.split() for pair in re.findall(r"[\d.]+ [\d.]+", shown.reference)], float).T
    assert (x.min(), x.max(), y.min(), y.max()) == pytest.approx((5, 8, 4, 7.2), abs=0.5)
    ((text, x, y),) = shown.names
    assert text == "L5 \u2192 L4" and y == pytest.approx(5.6) and 8 < x < 15  # behind it, where there is more room
    for file in (files.image, files.reference, files.prediction):  # one slice, stored upside down
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(file))[:, :, 2:3], "ASL"), str(file))
    alone = outlined_slice(files.image, files.reference, files.prediction, {1: "L5", 2: "L4"})
    assert (alone.reference, alone.names) == (shown.reference, shown.names)
    small = tmp_path / "small.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(reference[:2]), small)
    with pytest.raises(ValueError, match="expected one grid"):
        outlined_slice(files.image, files.reference, small, {})


def test_pictures_leave_out_what_is_ignored_and_average_colours(tmp_path: Path) -> None:
    """A picture of 30 x 20 pixels in which one vertebra is right, and what lies above is not annotated."""
    reference = np.zeros((20, 30), np.uint8)
    reference[12:16, 10:16], reference[2:8, 10:16] = 1, 3
    prediction = np.where(reference == 3, 2, reference).astype(np.uint8)
    files = [tmp_path / f"{name}.png" for name in ("image", "reference", "prediction")]
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)).save(files[0])
    for file, array in zip(files[1:], (reference, prediction), strict=True):
        Image.fromarray(array).save(file)
    names = {1: "L5", 2: "L4", 3: "ignore"}
    shown = outlined_slice(*files, names)
    assert (shown.width, shown.height, shown.names) == (30, 20, [])
    assert shown.reference == shown.prediction != ""
    assert [one.width for one in named_slices(files[0], files[1], files[2:], names)] == [30, 30]


def test_names_stand_beside_the_vertebrae(tmp_path: Path) -> None:
    """Discs and crumbs have none; a wrong one has the reference's in brackets; on the side with more room."""
    reference = np.zeros((3, 30, 40), np.uint8)
    reference[:, 20:26, 24:34], reference[:, 17:19, 24:34], reference[:, 8:16, 24:34] = 1, 3, 2
    prediction = reference.copy()
    prediction[reference == 2] = 4
    prediction[:, 1:5, 24:34], prediction[:, 28, 1:3] = 2, 2
    files = [tmp_path / f"{name}.nii.gz" for name in ("image", "reference", "prediction")]
    for file, array in zip(files, (np.ones(reference.shape, np.float32), reference, prediction), strict=True):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((1, 2, 4))
        image.SetDirection((0, 0, -1, 1, 0, 0, 0, -1, 0))
        sitk.WriteImage(image, file)
    truth, guess = named_slices(files[0], files[1], files[2:], {1: "L5", 2: "L4", 3: "L4/L5", 4: "L3"})
    assert truth.reference and not truth.prediction and guess.prediction and not guess.reference
    places = {text: (x, y) for text, x, y in truth.names}
    assert places.keys() == {"L5", "L4"}
    assert places["L5"][1] == pytest.approx(2 * 23) and places["L4"][1] == pytest.approx(2 * 12)
    assert 10 < places["L5"][0] < 24  # in front of the body, which is at 24 to 34 mm
    assert sorted(text for text, _, _ in guess.names) == ["L3 (L4)", "L4 (nothing)", "L5"]


def test_names_of_mistakes_stand_beside_the_structures_and_not_over_one_another() -> None:
    """Of a row of five that is off by one, the vertebrae are named, and no disc between two of them."""
    names = dict(enumerate(("L5", "L4/L5", "L4", "L3/L4", "L3"), 1))
    truth = np.zeros((30, 40), np.uint8)
    for label in names:
        truth[3 * label : 3 * label + 3, 25:35] = label
    mistakes = _mistaken(truth, np.where(truth > 0, truth % 5 + 1, 0), names, 1, 1)
    assert [text.split()[0] for text, _, _ in mistakes] == ["L5", "L4", "L3"]
    rows = np.arange(30)[:, None] * (np.arange(40) > 20)
    thin = np.where(rows > 12, 0, rows)
    high = [y for _, _, y in _mistaken(thin, thin * 0, {one: f"T{one}" for one in range(1, 13)}, 1, 1)]
    assert len(high) == 12 and min(np.diff(high)) >= 30 / LINES - 1e-6
