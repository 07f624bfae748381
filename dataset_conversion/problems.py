"""What is wrong with a source: one finding each, and the report of all of them at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_cafr.errors import UserError, counted


@dataclass(frozen=True)
class Problem:
    """One finding about one file or folder."""

    path: Path
    found: str
    expected: str
    remedy: str

    @property
    def words(self) -> str:
        return f"found {self.found}, expected {self.expected}; {self.remedy}"


class ConversionError(UserError):
    """The source cannot be converted; carries all problems found, and its text is the report of them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: natural_order(str(problem.path)))
        lines = [f"{counted(len(self.problems), 'problem')} found; nothing was written."]
        for number, problem in enumerate(self.problems, 1):
            lines += [f"{number}. {_printable(str(problem.path))}", *lines_of(problem)]
        super().__init__("\n".join(lines))


def lines_of(problem: Problem) -> list[str]:
    """What was found, what was expected and what to do, a line each."""
    return [
        f"   found:    {_printable(problem.found)}",
        f"   expected: {_printable(problem.expected)}",
        f"   to do:    {_printable(problem.remedy)}",
    ]


def _printable(text: str) -> str:
    """Text in one line that every terminal can show: file names can hold line breaks and undecodable bytes."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def natural_order(text: str) -> list[tuple[int, str]]:
    """Sort key which puts Case9 before Case10."""
    return [(int(part), "") if re.fullmatch("[0-9]+", part) else (-1, part) for part in re.split("([0-9]+)", text)]
