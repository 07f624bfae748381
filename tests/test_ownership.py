"""May a verb write here? Decided before anything is computed, and nothing of the user's is touched."""

import os
from pathlib import Path

import pytest

from nnunetv2_cafr import cli
from nnunetv2_cafr.files import begins_with, check_folder, check_place, refuse_inputs

OURS = {"report.html": begins_with("ours"), "tables": Path.is_dir}


def fill(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def test_new_empty_and_own_folders(tmp_path: Path) -> None:
    own = fill(tmp_path / "own", report_html="<ours>")
    (own / "tables").mkdir()
    (own / ".report.html.partial").touch()  # left by a run that was killed
    for name in (".DS_Store", ".~lock.results.csv#"):  # by whoever looked into it
        (own / name).touch()
    for folder in (tmp_path / "new" / "below", fill(tmp_path / "empty"), own):
        check_folder(folder, "ours", OURS)


@pytest.mark.parametrize(
    "kind", ["other file", "our name", "no folder", "link", "file", "below a file", "dangling link"]
)
def test_folders_of_others(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "other file":
        fill(target, report_html="<ours>", thesis_tex="")
    elif kind == "our name":
        fill(target, report_html="years of work")
    elif kind == "no folder":
        fill(target, tables="years of work")
    elif kind == "link":
        fill(target)
        (target / "report.html").symlink_to(fill(tmp_path / "far", report_html="<ours>") / "report.html")
    elif kind == "file":
        target.write_text("years of work")
    elif kind == "below a file":
        target.write_text("years of work")
        target /= "below"
    else:
        target.symlink_to("not mounted")
    with pytest.raises(FileExistsError, match=r"is not ours|is a file|is no folder"):
        check_folder(target, "ours", OURS)


def test_outputs_that_are_inputs(tmp_path: Path) -> None:
    scans = fill(tmp_path / "scans", a_nii="")
    (tmp_path / "link").symlink_to(scans)
    (tmp_path / "hard").hardlink_to(scans / "a.nii")
    refuse_inputs([tmp_path / "out" / "a.nii", scans / "new.nii"], [scans / "a.nii"])
    for output in (scans / "a.nii", tmp_path / "link" / "a.nii", tmp_path / "hard", scans / ".." / "scans" / "a.nii"):
        with pytest.raises(FileExistsError, match="which is read"):
            refuse_inputs([tmp_path / "out", output], [scans / "a.nii"])
    with pytest.raises(FileExistsError, match="would lie in"):
        refuse_inputs([tmp_path / "link" / "below" / "new.nii"], [scans])


def test_letters_that_a_file_system_does_not_tell_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS and Windows: the path of other letters means the same file."""
    (tmp_path / "scan.nii").touch()
    stat, exists = Path.stat, Path.exists
    monkeypatch.setattr(Path, "stat", lambda path, **options: stat(Path(str(path).lower()), **options))
    monkeypatch.setattr(Path, "exists", lambda path: exists(Path(str(path).lower())))
    with pytest.raises(FileExistsError, match="which is read"):
        refuse_inputs([tmp_path / "SCAN.nii"], [tmp_path / "scan.nii"])


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_no_permission(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match="no permission"):
        check_place(tmp_path / "locked" / "new")


def test_demo_refuses_folders_of_others(tmp_path: Path) -> None:
    thesis = fill(tmp_path / "thesis", speed_json="years of work", demo_txt="")
    for target in (thesis, thesis / "speed.json", thesis / "speed.json" / "below"):
        with pytest.raises(SystemExit, match=r"which is not|is a file|is no folder"):
            cli.main(["demo", "--out", str(target)])
    assert (thesis / "speed.json").read_text() == "years of work"
