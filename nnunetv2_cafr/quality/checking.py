"""Everything that a raw data set is checked for: its description, every case, and the cases among one another."""

from functools import partial
from pathlib import Path

from nnunetv2_cafr.processes import in_processes
from nnunetv2_cafr.quality.comparison import compare
from nnunetv2_cafr.quality.dataset import RawDataset, read_dataset
from nnunetv2_cafr.quality.findings import Finding, sort_findings
from nnunetv2_cafr.quality.inspection import CaseReport, inspect_case

PICTURE_SIZE = 480  # pixels of the longer side ...
CASES_AT_FULL_SIZE = 200  # ... up to so many cases; smaller beyond, so that browsers open the page easily


def inspect(dataset: RawDataset, num_processes: int) -> list[CaseReport]:
    """Reports of all cases in the data set's order; every process holds one case at a time."""
    size = int(PICTURE_SIZE * min(1.0, (CASES_AT_FULL_SIZE / len(dataset.cases)) ** 0.5))
    work = partial(inspect_case, dataset=dataset, picture_size=size)
    reports = dict(in_processes(work, dataset.cases, num_processes, "checking"))
    return [reports[case] for case in dataset.cases]


def check_dataset(folder: Path, num_processes: int) -> tuple[RawDataset, list[CaseReport], list[Finding]]:
    """Reads and checks a raw data set.

    Raises:
        UserError: if there is no data set that can be understood.
    """
    dataset = read_dataset(folder)
    cases = inspect(dataset, num_processes)
    across = compare(cases, dataset.labels.is_spine, dataset.reorients, dataset.description["labels"])
    findings = [*dataset.findings, *(finding for case in cases for finding in case.findings), *across]
    return dataset, cases, sort_findings(findings)
