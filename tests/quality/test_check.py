"""The command: what it writes, where it refuses to, and how it ends."""

import csv
import shutil

import pytest

from nnunetv2_cafr import cli
from nnunetv2_cafr.commands import check
from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.quality.findings import EXIT_CLEAN, EXIT_ERRORS, EXIT_WARNINGS

from .conftest import Copy

NOT_CHECKED = 2


@pytest.fixture
def command(copy: Copy, tmp_path, monkeypatch):
    """Runs the verb on the copy as the command line would; returns the exit status."""
    monkeypatch.setenv("nnUNet_raw", str(copy.folder.parent))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        try:
            return cli.main(["check", *arguments])
        except UserError as error:
            return error.code

    return run


def files_of(copy: Copy) -> dict:
    return {path: path.stat().st_mtime_ns for path in sorted(copy.folder.rglob("*"))}


def test_writes_page_and_table_and_leaves_the_data_alone(copy, command, tmp_path, capsys):
    before = files_of(copy)
    assert command("-d", "511", "-np", "1") == EXIT_CLEAN
    folder = tmp_path / f"check_{copy.folder.name}"
    assert sorted(path.name for path in folder.iterdir()) == ["findings.csv", "report.html"]
    assert files_of(copy) == before
    assert "5 cases: 0 errors, 0 warnings" in capsys.readouterr().out


def test_exit_status_table_and_processes(copy, command, tmp_path, capsys):
    masks = sorted(copy.folder.glob("labelsTr/*"))
    image = sorted(copy.folder.glob("imagesTr/*"))[0]
    copy.change(image, lambda values: values.clip(0, int(values.max()) // 4))
    assert command("-d", copy.folder.name, "-o", "out", "-np", "2") == EXIT_WARNINGS
    masks[1].unlink()
    assert command("-d", "511", "-o", "out", "-np", "1") == EXIT_ERRORS  # renews its own folder
    with (tmp_path / "out" / "findings.csv").open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["severity"] != "note"]
    columns = ["case", "severity", "check", "structure", "found", "expected", "remedy", "file"]
    assert list(lines[0]) == columns
    assert [(line["severity"], line["check"]) for line in lines] == [
        ("error", "missing file"),
        ("warning", "clipped image"),
    ]
    assert lines[1]["file"] == f"imagesTr/{image.name}"
    said = capsys.readouterr().out
    assert "missing file" in said
    assert "1 error, 1 warning, " in said


def test_writes_over_nothing_of_others(copy, command, tmp_path, capsys):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    before = files_of(copy)
    for target, word in ((foreign, "thesis.txt"), (copy.folder / "qc", "never written to")):
        assert command("-d", "511", "-o", str(target)) == NOT_CHECKED
        assert word in capsys.readouterr().err
    (foreign / "thesis.txt").rename(foreign / "report.html")  # our name, and not our page
    assert command("-d", "511", "-o", str(foreign)) == NOT_CHECKED
    assert (foreign / "report.html").read_text() == "years of work"
    assert files_of(copy) == before


def test_a_full_disk_or_a_kill_stops_no_later_check(copy, command, tmp_path, capsys, monkeypatch):
    """Linux's device that is always full, where page or table are written; and what a kill leaves of both."""
    target = tmp_path / "new" / "folder"
    target.mkdir(parents=True)
    with monkeypatch.context() as linked:
        linked.setattr(check, "check_target", lambda *_: None)  # which takes no link for ours
        for name in ("report.html", "findings.csv"):
            (target / f".{name}.partial").symlink_to("/dev/full")
            assert command("-d", "511", "-o", str(target), "-np", "1") == NOT_CHECKED
            message = capsys.readouterr().err
            assert str(target) in message and "No space left" in message and "Make room" in message
            assert list(target.iterdir()) == []
    for name in ("report.html", "findings.csv"):
        (target / f".{name}.partial").write_text("half a")
    (target / "findings.csv").write_text("case,severity,check,structure,found,expected,remedy,file\r\n")
    assert command("-d", "511", "-o", str(target), "-np", "1") == EXIT_CLEAN
    assert sorted(path.name for path in target.iterdir()) == ["findings.csv", "report.html"]


def test_notes_on_the_whole_data_set_are_shown(command, capsys):
    command("-d", "511", "-np", "1")
    assert "2d 0 will end with an error" in capsys.readouterr().out


def test_data_sets_that_are_not_there(copy, command, capsys, monkeypatch):
    assert command("-d", "512") == NOT_CHECKED
    assert "the ID 512" in capsys.readouterr().err
    shutil.copytree(copy.folder, copy.folder.with_name("Dataset511_Other"))
    assert command("-d", "511") == NOT_CHECKED
    assert "More than one dataset name" in capsys.readouterr().err
    monkeypatch.setenv("nnUNet_raw", "~/raw")
    assert command("-d", "511") == NOT_CHECKED
    assert "~ stands for a home folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command("-d", "")
    monkeypatch.delenv("nnUNet_raw")
    assert command("-d", "511") == NOT_CHECKED
    assert "nnUNet_raw is not set" in capsys.readouterr().err
