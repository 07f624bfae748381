"""nnU-Net's folders, which environment variables name, and paths as shells hand them on."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path


def spell_strange_letters() -> None:
    """Lets the names of files be printed whose letters the terminal lacks, or that are in another encoding."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_text(name: str) -> bool:
    """Whether a file's name is UTF-8; SimpleITK ends the whole process over one that is not."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def fault_of_arguments(argv: Sequence[str]) -> str | None:
    """What a shell did not do with a command line's arguments: they would be taken for places in the working folder.

    Or a name in another encoding than the system's.
    """
    for text in argv:
        if text == "--":  # what follows is another program's
            return None
        if not is_text(text):
            return f"{text!r} is in another encoding than UTF-8, in which names are read: rename that file or folder"
        value = text.partition("=")[2] if text.startswith("--") else text
        if not text or (text.endswith("=") and text.startswith("--")):
            return f"an argument is empty ({text!r}): is a variable of the shell not set?"
        if value.startswith("~") and not os.path.lexists(value):
            return f"{text}: ~ stands for a home folder in a shell only, and there without quotes. Give the full path"
    return None


def folder_of(variable: str) -> Path:
    """The folder that `variable` (nnUNet_raw, nnUNet_preprocessed, nnUNet_results) names; it need not exist yet.

    Raises:
        ValueError: if the variable is not set, or holds what a shell would have expanded: a folder of that very name
            would be made in the working directory, and the data would be lost in it.
    """
    value = os.environ.get(variable, "")
    if not value.strip():
        raise ValueError(f"{variable} is not set: export {variable}=/path/to/folder")
    path = Path(value)
    wrong = [
        reason
        for reason, applies in (
            ("quotes are part of the value", value[0] in "'\"" or value[-1] in "'\""),
            ("~ stands for a home folder in a shell only, and there without quotes", value.startswith("~")),
            ("blanks are part of the value", value != value.strip()),
            ("a variable in it was not expanded", "$" in value and not path.is_dir()),
        )
        if applies
    ]
    if wrong:
        raise ValueError(
            f"{variable} is {value!r}: {'; '.join(wrong)}. Give the full path: export {variable}=/path/to/folder"
        )
    return path
