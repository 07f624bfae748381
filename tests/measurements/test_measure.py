"""The verb: tables of a folder of label maps, names and colours beside them, and what it refuses."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.measurements.tables import COLUMNS, JSON_FILE, TABLE_FILE
from nnunetv2_cafr.preview import PAGE_FILE
from nnunetv2_cafr.spine import colour_of
from nnunetv2_cafr.viewers import ITKSNAP_FILE, SLICER_FILE

from ..levels.drawn import LABELS
from ..verbs import run_verb
from .drawn import LUMBAR, draw

FILES = {TABLE_FILE, JSON_FILE, SLICER_FILE, ITKSNAP_FILE, PAGE_FILE}


def run(*arguments: object) -> int:
    return run_verb("measure", *arguments)


def describe(folder: Path, labels: dict[str, object] = LABELS, ending: str = ".nii.gz") -> Path:
    file = folder / "dataset.json"
    file.write_text(json.dumps({"labels": labels, "file_ending": ending}))
    return file


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """One whole study, and one whose lower end is cut."""
    folder = tmp_path / "maps"
    folder.mkdir()
    describe(folder)
    sitk.WriteImage(draw(order="PIR"), folder / "whole.nii.gz", True)
    image = draw()
    sitk.WriteImage(image[:, :, 14:], folder / "cut.nii.gz", True)
    return folder


def test_as_a_command(maps, tmp_path):
    program = Path(sys.executable).parent / "nnUNetv2_cafr"
    out = tmp_path / "out"
    result = subprocess.run(
        [program, "measure", "-i", maps, "--images", maps, "-o", out], check=True, capture_output=True, encoding="utf-8"
    )
    assert {path.name for path in out.iterdir()} == FILES
    assert "2 studies, 22 levels, of which 1 have an empty value with its reason" in result.stdout
    with (out / TABLE_FILE).open() as file:
        rows = {(row["study"], row["level"]): row for row in csv.DictReader(file)}
    assert len(rows) == 2 * (len(LUMBAR) + 2)
    assert tuple(next(iter(rows.values()))) == COLUMNS
    assert float(rows["whole", "L4"]["height_anterior_mm"]) == pytest.approx(27, abs=1)
    assert float(rows["whole", "L4"]["slip_mm"]) == pytest.approx(6, abs=1)
    assert float(rows["whole", "L1-S1"]["lumbar_lordosis_deg"]) == pytest.approx(20.2, abs=1)
    assert rows["cut", "S"]["volume_ml"] == ""
    assert rows["cut", "S"]["reasons"] == "volume_ml: cut by the image's lower edge"
    content = json.loads((out / JSON_FILE).read_text())
    level = next(one for one in content["studies"]["whole"]["levels"] if one["level"] == "L4")
    assert level["height_anterior_mm"] == float(rows["whole", "L4"]["height_anterior_mm"])
    assert content["studies"]["cut"]["angles"]["lumbar_lordosis_deg"]["between"] == "L1-S1"
    assert set(content["definitions"]) < set(COLUMNS)


def test_colours_for_viewers(maps):
    """Read back as the two formats are described; beside the maps, where nothing is in the way."""
    assert run("-i", maps, "-o", maps) == 0
    slicer, snap = {}, {}
    for line in (maps / SLICER_FILE).read_text().splitlines():
        if not line.startswith("#"):
            label, name, red, green, blue, opacity = line.split(" ")
            slicer[name] = (int(label), (int(red), int(green), int(blue)), int(opacity))
    for line in (maps / ITKSNAP_FILE).read_text().splitlines():
        if not line.startswith("#"):
            match = re.fullmatch(r'\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([01])\s+([01])\s+([01])\s+"(.+)"', line)
            label, red, green, blue, *shown = map(int, match.groups()[:7])
            snap[match[8]] = (label, (red, green, blue), shown)
    assert snap.pop("Clear Label") == (0, (0, 0, 0), [0, 0, 0])
    assert slicer.pop("background") == (0, (0, 0, 0), 0)
    names = set(LABELS) - {"background"}
    assert set(slicer) == set(snap) == names
    for name in names:
        assert slicer[name] == (LABELS[name], colour_of(name, LABELS[name]), 255)
        assert snap[name] == (LABELS[name], colour_of(name, LABELS[name]), [1, 1, 1])
    assert len({colour for _, colour, _ in slicer.values()}) == len(names)
    assert colour_of("vertebrae_L4", 30) == colour_of("L4", 3)


def test_what_was_said_of_levels_holds_for_that_map_only(maps, tmp_path):
    """relabel finds a swap; after it, or after a person, moved a label, its findings are of another map."""
    image = sitk.ReadImage(maps / "whole.nii.gz")
    swapped = sitk.ChangeLabel(image, {LABELS["L3"]: LABELS["L2"], LABELS["L2"]: LABELS["L3"]})
    sitk.WriteImage(swapped, maps / "whole.nii.gz", True)
    levels = tmp_path / "levels"
    assert run_verb("relabel", "-i", maps, "-o", levels) == 0
    assert run("-i", levels, "-o", tmp_path / "decoded") == 0
    assert "contradictory" not in (tmp_path / "decoded" / PAGE_FILE).read_text(encoding="utf-8")
    sitk.WriteImage(swapped, levels / "whole.nii.gz", True)
    assert run("-i", levels, "-o", tmp_path / "changed") == 0
    assert "contradictory" in (tmp_path / "changed" / PAGE_FILE).read_text(encoding="utf-8")
    statistics = levels / "level_decoding.json"
    statistics.write_text(statistics.read_text()[:-50])
    with pytest.raises(UserError, match=r"level_decoding\.json cannot be understood .*: restore it, or move it away"):
        run("-i", levels, "-o", tmp_path / "out")


def test_studies_that_fail_do_not_stop_the_others(maps, tmp_path, capsys):
    whole = sitk.ReadImage(maps / "whole.nii.gz")
    (maps / "broken.nii.gz").write_bytes((maps / "whole.nii.gz").read_bytes()[:-500])
    sitk.WriteImage(whole * 0 + 77, maps / "foreign.nii.gz")
    sitk.WriteImage(whole * 0, maps / "empty.nii.gz")
    sitk.WriteImage(whole[:, :, 5:6], maps / "slice.nii.gz")
    sitk.WriteImage(sitk.JoinSeries([whole, whole]), maps / "four.nii.gz")
    assert run("-i", maps, "-o", tmp_path / "out") == 1
    printed = capsys.readouterr().out
    assert "5 of 7 studies failed" in printed
    for case, words in {
        "broken": "truncated gzip file",
        "foreign": "holds 77",
        "empty": "found no vertebra and no disc",
        "slice": "found a single slice",
        "four": "found 4 dimensions",
    }.items():
        assert re.search(rf"  {case}: .*{case}\.nii\.gz.*{words}", printed), case
    content = json.loads((tmp_path / "out" / JSON_FILE).read_text())
    assert set(content["studies"]) == {"whole", "cut"}
    assert set(content["failed"]) == {"broken", "foreign", "empty", "slice", "four"}


def test_doubtful_levels_are_said(maps, tmp_path, capsys):
    """Numbers of L2 that are L3's would else stand in the table without a word."""
    image = sitk.ReadImage(maps / "whole.nii.gz")
    (maps / "whole.nii.gz").unlink()
    swapped = sitk.ChangeLabel(image, {LABELS["L2"]: LABELS["L3"], LABELS["L3"]: LABELS["L2"]})
    sitk.WriteImage(swapped, maps / "swapped.nii.gz")
    assert run("-i", maps, "-o", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert re.search(r"Levels or measures are doubtful in 1 of 2 studies .*:\n  swapped: ", printed)


def test_names_that_are_read_as_no_level_are_said(maps, tmp_path, capsys):
    describe(maps, {("D12" if name == "T12" else name): value for name, value in LABELS.items()})
    assert run("-i", maps, "-o", tmp_path / "out") == 0
    assert re.search(r"Left out, as names that are read as no level .*: D12\n", capsys.readouterr().out)


def test_nothing_is_left_where_all_fail(maps, tmp_path):
    for path in maps.glob("*.nii.gz"):
        path.write_bytes(path.read_bytes()[:200])
    assert run("-i", maps, "-o", tmp_path / "out") == 1
    assert not (tmp_path / "out").exists()


def test_no_picture_is_left_without_its_page(maps, tmp_path):
    """Of a map that is drawn, but not measured."""
    whole, other = sorted(maps.glob("*.nii.gz"))
    sitk.WriteImage(sitk.ReadImage(whole)[:, :, 3:4], whole)
    other.unlink()
    assert run("-i", maps, "-o", tmp_path / "out", "--png") == 1
    assert not (tmp_path / "out").exists()


def test_map_off_its_image(maps, tmp_path, capsys):
    """A map that lost its spacing would be measured in wrong mm."""
    images = tmp_path / "images"
    images.mkdir()
    for case in ("whole", "cut"):
        image = sitk.Cast(sitk.ReadImage(maps / f"{case}.nii.gz"), sitk.sitkInt16)
        image.SetSpacing(np.multiply(image.GetSpacing(), 1 if case == "cut" else 0.7).tolist())
        sitk.WriteImage(image, images / f"{case}_0000.nii.gz")
    assert run("-i", maps, "--images", images, "-o", tmp_path / "out") == 1
    printed = capsys.readouterr().out
    assert re.search(r"whole: .*whole\.nii\.gz cannot be measured: found spacing", printed)
    assert "1 studies" in printed
    (images / "cut_0000.nii.gz").unlink()
    with pytest.raises(SystemExit, match="lacks the images of 1 of 2 label maps: cut"):
        run("-i", maps, "--images", images, "-o", tmp_path / "other")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"background": 0, "Anterior": 1, "Posterior": 2}, "name 0 levels of a spine"),
        ({"background": 0, "vertebrae": [1, 2], "L5": 1, "L4": 2}, "regions"),
    ],
)
def test_labels_without_levels_are_refused(maps, tmp_path, labels, words):
    folder = tmp_path / "other"
    folder.mkdir()
    with pytest.raises(SystemExit, match=words):
        run("-i", maps, "-o", tmp_path / "out", "--labels", describe(folder, labels))
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(maps, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "labels.txt").write_text("mine")
    with pytest.raises(SystemExit, match=r"holds labels\.txt already; nothing is overwritten"):
        run("-i", maps, "-o", out)
    assert [path.name for path in out.iterdir()] == ["labels.txt"]
    assert (out / "labels.txt").read_text() == "mine"
    with pytest.raises(SystemExit, match=r"There is no .*nowhere"):
        run("-i", tmp_path / "nowhere", "-o", out)
    describe(maps, ending=".mha")
    with pytest.raises(SystemExit, match=r"holds no \*\.mha"):
        run("-i", maps, "-o", tmp_path / "new")


def test_no_map_is_left_out_in_silence(maps, tmp_path):
    (maps / "third.NII.GZ").touch()
    with pytest.raises(SystemExit, match=r"third.NII.GZ in .* would be left out"):
        run("-i", maps, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()
