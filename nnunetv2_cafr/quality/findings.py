"""What quality control says: one finding is one thing to look at, with the file it is in and what to do about it."""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from enum import IntEnum
from pathlib import Path


class Severity(IntEnum):
    """error: training on it is wrong or fails. warning: look before you train. note: unusual, and often right."""

    NOTE = 0
    WARNING = 1
    ERROR = 2

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Finding:
    """One finding. The fields, in this order, are the columns of the table.

    Args:
        case: identifier, or "" for a finding about the data set as a whole.
        check: name of the check, such as "order of levels".
        structure: names of the structures concerned, or "".
        file: path below the data set's folder.
    """

    case: str
    severity: Severity
    check: str
    structure: str
    found: str
    expected: str
    remedy: str
    file: str


HEADING = ",".join(field.name for field in fields(Finding))  # of the table
EXIT_CLEAN, EXIT_ERRORS, EXIT_WARNINGS = 0, 1, 3


def count_severities(findings: Iterable[Finding]) -> dict[Severity, int]:
    """Number of findings of each severity, the gravest first; every severity is a key."""
    counts = Counter(finding.severity for finding in findings)
    return {severity: counts[severity] for severity in sorted(Severity, reverse=True)}


def exit_status(findings: Sequence[Finding]) -> int:
    """0: nothing but notes, 1: errors, 3: warnings and no errors; 2, of a UserError: it was not checked."""
    worst = max((finding.severity for finding in findings), default=Severity.NOTE)
    return {Severity.NOTE: EXIT_CLEAN, Severity.WARNING: EXIT_WARNINGS, Severity.ERROR: EXIT_ERRORS}[worst]


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """The gravest first, then by case, check and structure."""
    return sorted(findings, key=lambda finding: (-finding.severity, *astuple(finding)))


def write_table(findings: Sequence[Finding], target: Path) -> None:
    """Writes the findings as CSV (UTF-8, a heading line, one line per finding)."""
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        file.write(HEADING + "\r\n")
        for finding in findings:
            writer.writerow(
                value.word if isinstance(value, Severity) else value
                for value in (getattr(finding, field.name) for field in fields(Finding))
            )
