"""May I write here? What every verb asks before it computes anything.

Nothing of the user's is overwritten: no input, by whatever path, link or letters it is named, and no file or folder
that we did not write.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path


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
            `.NAME.partial` is what a run that was killed left of NAME.

    Raises:
        FileExistsError: if anything else is there.
        PermissionError: if the folder cannot be written to.
    """
    if os.path.lexists(target) and not target.is_dir():
        raise FileExistsError(f"{target} is a file; give a folder")
    check_place(target)
    known = {**{f".{name}.partial": Path.is_file for name in ours}, **ours}
    foreign = [
        path.name
        for path in (sorted(target.iterdir()) if target.is_dir() else ())
        if not (path.name in known and not path.is_symlink() and known[path.name](path))
    ]
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise FileExistsError(
            f"{target} holds {', '.join(foreign[:3])}{more}, which is not {whose}; nothing is overwritten. "
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


def sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
