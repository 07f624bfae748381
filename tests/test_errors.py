"""How a command ends by an error of the user's, and by a bug."""

import subprocess
import sys

import pytest

from nnunetv2_cafr.cli import main
from nnunetv2_cafr.commands import report
from nnunetv2_cafr.errors import UserError


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")


def test_our_commands_end_by_the_sentence_and_status_2(tmp_path):
    ended = run(f"import sys; from nnunetv2_cafr.cli import main; sys.exit(main(['report', {str(tmp_path)!r}]))")
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"{tmp_path} holds no benchmark") and ended.stderr.count("\n") == 1


def test_other_programs_end_by_the_sentence_too():
    """nnU-Net's, which know nothing of it."""
    ended = run("from nnunetv2_cafr.errors import UserError; raise UserError('found, expected, to do')")
    assert (ended.returncode, ended.stderr) == (1, "found, expected, to do\n")


def test_a_full_disk_is_the_users_and_a_bug_is_not(monkeypatch, tmp_path, capsys):
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(report, "run", fail)
    error: Exception = OSError(28, "No space left on device")
    with pytest.raises(UserError, match="Make room") as ended:
        main(["report", str(tmp_path)])
    assert ended.value.code == 2 and "Make room" in capsys.readouterr().err
    error = OSError(5, "Input/output error")
    with pytest.raises(OSError, match="Input/output error"):
        main(["report", str(tmp_path)])


def test_ctrl_c_is_no_traceback(monkeypatch, tmp_path, capsys):
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "run", interrupt)
    assert main(["report", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "\nInterrupted.\n"
