"""`nnUNetv2_cafr check`: quality control of a raw data set, as one HTML page and a table of findings.

Reads every voxel of imagesTr, labelsTr, imagesTs and labelsTs once and changes nothing. The page needs no network: open
report.html in any browser.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_cafr import options
from nnunetv2_cafr.errors import UserError, counted
from nnunetv2_cafr.files import begins_with, check_folder, describe_failure, write_atomically
from nnunetv2_cafr.quality.findings import HEADING, Finding, count_severities, exit_status, write_table

if TYPE_CHECKING:
    from nnunetv2_cafr.quality.inspection import CaseReport

EXAMPLES = """examples:
  nnUNetv2_cafr check -d 511                  writes check_Dataset511_SpineMRI/report.html and findings.csv
  nnUNetv2_cafr check -d 511 -o quality -np 4

exit status:
  0  nothing, or notes only
  1  errors
  3  warnings, and no errors
  2  the data set was not checked: wrong arguments, or no data set to be found or understood
"""

PAGE, TABLE = "report.html", "findings.csv"


def check_target(target: Path, dataset: Path) -> None:
    """Refuses a target that is neither new, nor empty, nor an earlier check's, or that lies in the raw data set.

    Raises:
        OSError: with what is there and what to do.
    """
    from nnunetv2_cafr.quality.page import GENERATOR

    if target.resolve().is_relative_to(dataset.resolve()):
        raise FileExistsError(
            f"{target} lies in the raw data set, which is never written to; give another folder by -o"
        )
    ours = {PAGE: begins_with(f'content="{GENERATOR}"'), TABLE: begins_with(HEADING)}
    check_folder(target, "an earlier check's", ours)


def write_report(target: Path, page: str, findings: Sequence[Finding]) -> None:
    """Writes page and table, over an earlier check's and what a killed one has left.

    Raises:
        OSError: with the file that could not be written. No half of one is left, and no new folder.
    """

    def write_both(part: Path) -> None:
        part.write_text(page, encoding="utf-8")
        write_atomically(target / TABLE, lambda part: write_table(findings, part))

    made = [folder for folder in (target, *target.parents) if not folder.exists()]
    try:
        target.mkdir(parents=True, exist_ok=True)
        write_atomically(target / PAGE, write_both)
    except OSError as error:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise OSError(f"No report: {describe_failure(target, error)}") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-d",
        type=options.dataset,
        required=True,
        metavar="DATASET",
        help="number or name of the data set in nnUNet_raw",
    )
    parser.add_argument(
        "-o",
        type=Path,
        metavar="FOLDER",
        help="where to write; default ./check_<data set>. New, empty, or an earlier check's, which is renewed",
    )
    options.add_processes(parser, "processes; each holds one case in memory")


def run(arguments: argparse.Namespace) -> int:
    from nnunetv2_cafr.quality.checking import check_dataset
    from nnunetv2_cafr.quality.page import render
    from nnunetv2_cafr.raw_dataset import find_dataset

    folder = find_dataset(arguments.d)
    try:
        target = arguments.o or Path(f"check_{folder.name}")
        check_target(target, folder)
        dataset, cases, findings = check_dataset(folder, arguments.np)
        when = f"{time.strftime('%Y-%m-%d %H:%M')}, nnunetv2-cafr {version('nnunetv2-cafr')}"
        page = render(dataset, cases, findings, when)
        write_report(target, page, findings)
    except (OSError, MemoryError) as error:
        raise UserError(str(error)) from error
    print(summary(cases, findings))
    print(f"{target / PAGE} ({len(page.encode()) / 1e6:.1f} MB) and {target / TABLE}")
    return exit_status(findings)


def summary(cases: list[CaseReport], findings: list[Finding]) -> str:
    """What a terminal needs: counts, and the errors, warnings and notes on the whole data set up to a screenful."""
    counts = ", ".join(counted(count, severity.word) for severity, count in count_severities(findings).items())
    lines = [f"{counted(len(cases), 'case')}: {counts}"]
    # What concerns the data set as a whole is shown even where it is a note: it decides how to go on.
    grave = [finding for finding in findings if finding.severity.word != "note" or not finding.case]
    for finding in grave[:20]:
        named = "" if finding.structure in finding.found else finding.structure
        what = f"{finding.check} {named}".strip()
        lines.append(f"  {finding.severity.word:<8}{finding.file}: {what}: {finding.found}")
        if not finding.case:
            lines.append(f"          To do: {finding.remedy}")
    if len(grave) > 20:
        lines.append(f"  and {len(grave) - 20} more on the page")
    return "\n".join(lines)
