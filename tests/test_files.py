"""Files that are there completely or not at all, also where a folder knows no fsync."""

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nnunetv2_cafr.files import json_or_none, lock, read_json, try_lock, write_atomically, write_json


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.ENOTSUP])
def test_where_fsync_is_refused_the_file_is_written_all_the_same(number, tmp_path, monkeypatch):
    def refuse(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    assert write_atomically(tmp_path / "file", lambda part: part.write_text("whole"))
    monkeypatch.setattr(os, "fsync", refuse)
    assert not write_atomically(tmp_path / "file", lambda part: part.write_text("anew"))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "anew"}


def test_a_disk_that_fails_while_it_is_flushed_is_an_error(tmp_path: Path, monkeypatch):
    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    (tmp_path / "file").write_text("before")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        write_atomically(tmp_path / "file", lambda part: part.write_text("after"))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "before"}


def test_a_lock_is_held_once_and_given_back(tmp_path):
    held = try_lock(tmp_path / ".lock")
    assert held is not None and try_lock(tmp_path / ".lock") is None
    held.release()
    again = try_lock(tmp_path / ".lock")
    assert again is not None
    again.release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_folder_that_knows_no_locks_keeps_nobody_out(number, tmp_path, monkeypatch):
    def refuse(*_arguments) -> None:
        raise OSError(number, os.strerror(number))

    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", refuse)
    locks = [try_lock(tmp_path / ".lock") for _ in range(2)]
    assert None not in locks
    for held in locks:
        held.release()
    number = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        try_lock(tmp_path / ".lock")


def test_who_waits_for_a_lock_gets_it_when_it_is_given_back(tmp_path):
    held = lock(tmp_path / ".lock")
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(lambda: lock(tmp_path / ".lock").release())
        time.sleep(0.3)
        assert not waiting.done()
        held.release()
        waiting.result(30)


def test_json_is_ascii_whatever_it_holds(tmp_path):
    """nnU-Net reads it in the encoding of any locale."""
    write_json(tmp_path / "file", {"Wirbels\u00e4ule": Path("L5")}, str)
    assert (tmp_path / "file").read_bytes().isascii()
    assert read_json(tmp_path / "file") == {"Wirbels\u00e4ule": "L5"}


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 200_000, b"\xff"], ids=["empty", "torn", "deep", "no text"])
def test_json_that_cannot_be_read_is_none(content, tmp_path):
    path = tmp_path / "a.json"
    assert json_or_none(path) is None
    path.write_bytes(content)
    assert json_or_none(path) is None
