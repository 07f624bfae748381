"""Checks before writing, writing completely or not at all, and reading an object from a JSON file.

Every verb checks before it computes anything: nothing of the user's is overwritten, no input, under whatever path, link
or spelling, and no file or folder that we did not write.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from nnunetv2_cafr.errors import UserError, shorten

# What network and FUSE folders, and Windows for a folder, answer to fsync: they have no such thing. A full or broken
# disk answers otherwise.
_NO_FSYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EPERM)
FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK)

# What systems and office programs leave in a folder that somebody looks into.
OF_SYSTEMS = (".DS_Store", "._", "Thumbs.db", "desktop.ini", ".~lock.", ".nfs")


def partial_of(target: Path) -> Path:
    """The name under which `write_atomically` writes; a kill leaves such a file, and the next writing takes it up."""
    return target.with_name(f".{target.name}.partial")


def write_atomically(target: Path, write: Callable[[Path], object]) -> bool:
    """Lets `write` fill a file beside `target`, brings it to the disk, and gives it the name in one step.

    Returns:
        Whether it was brought to the disk. Where the folder knows no fsync, the file is there all the same, but a power
        failure could still take it.

    Raises:
        OSError, RuntimeError: as `write` does (torch.save has both for a full disk); `target` is then what it was.
    """
    partial = partial_of(target)
    try:
        write(partial)
        flushed = flush(partial)
        partial.replace(target)
        return flush(target.parent) and flushed
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(target: Path, text: str) -> None:
    """Writes text in UTF-8, whole or not at all; letters that it has none for, as of damaged file names, are spelt."""
    write_atomically(target, lambda partial: partial.write_text(text, encoding="utf-8", errors="backslashreplace"))


def write_json(target: Path, content: object, default: Callable[[Any], object] | None = None) -> None:
    """Writes JSON, whole or not at all; in ASCII, for nnU-Net reads it in any locale's encoding.

    Args:
        default: makes what JSON has no form for into what it has.
    """
    write_text(target, json.dumps(content, indent=4, default=default) + "\n")


def write_bytes(target: Path, content: bytes) -> None:
    """Writes bytes, whole or not at all."""
    write_atomically(target, lambda partial: partial.write_bytes(content))


def flush(path: Path) -> bool:
    """Waits until `path` is on the disk; False where there is no way to ask for that."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno in _NO_FSYNC:
            return False
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in _NO_FSYNC:
            return False
        raise
    finally:
        os.close(descriptor)
    return True


class Lock(Protocol):
    """What `lock` and `try_lock` give."""

    def release(self) -> object: ...


class _NoLock:
    """The lock of a folder that knows none: it keeps nobody out."""

    def release(self) -> None:
        pass


def lock(file: Path, timeout: float = -1) -> Lock:
    """Locks `file`, which is made where it is missing, until `release` or the end of this process, whatever ends it.

    Args:
        timeout: seconds to wait for another process that holds it; as long as it takes where negative.

    Returns:
        The lock, also where the folder knows no locks, as some network folders.

    Raises:
        filelock.Timeout: where another process holds it for longer.
        OSError: where the folder cannot be written to.
    """
    from filelock import FileLock

    # A marker file instead of a lock would stay behind a killed process and keep everybody out.
    found = FileLock(file, fallback_to_soft=False)
    try:
        found.acquire(timeout=timeout)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return _NoLock()
        raise
    return found


def try_lock(file: Path) -> Lock | None:
    """As `lock`; None where another process holds it."""
    from filelock import Timeout

    try:
        return lock(file, timeout=0)
    except Timeout:
        return None


def describe_failure(target: Path, error: OSError) -> str:
    """Why `target` could not be written, and what to do."""
    remedy = "Make room on that disk" if error.errno in FULL else "Give another place, or the right to write there"
    return f"{target} could not be written ({error.strerror or error}). {remedy}, then give the same line again"


def check_place(target: Path) -> None:
    """Makes sure that something can be written at `target`: its nearest folder that is there can be written to.

    Raises:
        FileExistsError: if a file is where a folder would have to be.
        PermissionError: if the folder cannot be written to.
    """
    folder = target.absolute()
    while not os.path.lexists(folder):
        folder = folder.parent
    if folder == target.absolute():
        folder = folder if folder.is_dir() else folder.parent
    if not folder.is_dir():
        raise FileExistsError(f"{target} cannot be written: {folder} is no folder. Choose another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{target} cannot be written: no permission to write in {folder}. Choose another place")


def check_folder(target: Path, whose: str, ours: Mapping[str, Callable[[Path], bool]]) -> None:
    """Makes sure that `target` is a new folder, an empty one, or holds only what an earlier run left.

    Args:
        whose: what an earlier run was, for the message: "an earlier check's".
        ours: by name in that folder, whether this path is such a file or folder. A link is never ours; a file
            `.NAME.partial` is what a run that was killed left of NAME. Files of OF_SYSTEMS are nobody's.

    Raises:
        FileExistsError: if anything else is there.
        PermissionError: if the folder cannot be written to.
    """
    if os.path.lexists(target) and not target.is_dir():
        raise FileExistsError(f"{target} is a file; give a folder")
    check_place(target)
    known = {**{partial_of(target / name).name: Path.is_file for name in ours}, **ours}
    foreign = [
        path.name
        for path in (sorted(target.iterdir()) if target.is_dir() else ())
        if not path.name.startswith(OF_SYSTEMS)
        and not (path.name in known and not path.is_symlink() and known[path.name](path))
    ]
    if foreign:
        raise FileExistsError(
            f"{target} holds {shorten(foreign, 3)}, which is not {whose}; nothing is overwritten. "
            "Give a new folder, or move it away"
        )


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Makes sure that no output is an input, or lies in a folder that is one.

    Links and letters in upper and lower case are left to the file system: it says which file a path means.

    Raises:
        FileExistsError: names both.
    """
    read = {_identity(path): path for path in inputs if path.exists()}
    for output in outputs:
        for path in (output, *output.absolute().parents):
            if path.exists() and (same := read.get(_identity(path))) is not None:
                where = "is" if path == output else "would lie in"
                raise FileExistsError(
                    f"{output} {where} {same}, which is read; nothing is written over an input. Give another place"
                )


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def begins_with(text: str) -> Callable[[Path], bool]:
    """A test for `check_folder`: whether a file's first 2000 characters hold this mark."""

    def holds(path: Path) -> bool:
        if not path.is_file():
            return False
        with path.open(encoding="utf-8", errors="replace") as file:
            return text in file.read(2000)

    return holds


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        UserError: if it holds none, or cannot be read; names the file.
    """
    content = _read_json(path)
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(f"{path} holds a {kind}, expected an object in braces: correct it, or restore it")
    return content


def read_json_list(path: Path) -> list[Any]:
    """The list that a JSON file holds; raises as `read_json`."""
    content = _read_json(path)
    if not isinstance(content, list):
        kind = type(content).__name__
        raise UserError(f"{path} holds a {kind}, expected a list in brackets: correct it, or restore it")
    return content


def json_or_none(path: Path) -> Any:
    """What a JSON file holds; None where it is not there, or cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}): correct it, or restore it from where it was made") from error


def sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
