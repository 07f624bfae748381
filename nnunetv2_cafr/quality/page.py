"""The page: one HTML file that needs nothing else, from the reports of the cases and the findings.

Words and layout are in templates/, the values here. Text stands beside every colour, names are escaped, and a content
security policy forbids the page to load anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunetv2_cafr.pages import environment
from nnunetv2_cafr.quality import checks, comparison
from nnunetv2_cafr.quality.dataset import RawDataset
from nnunetv2_cafr.quality.findings import Finding, Severity, count_severities
from nnunetv2_cafr.quality.inspection import CaseReport
from nnunetv2_cafr.quality.measures import SLICE_RATIO
from nnunetv2_cafr.spine import colour_of

GENERATOR = "nnUNetv2_cafr check"  # by this mark a folder is known as one of ours
MOST_BINS = 24
HISTOGRAM = (336, 44)  # pixels


def render(dataset: RawDataset, cases: Sequence[CaseReport], findings: Sequence[Finding], when: str) -> str:
    """The page as text. `findings` are all findings, sorted; `when` says when and by which version it was made."""
    by_case: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_case[finding.case].append(finding)
    listed = {case.identifier for case in cases}
    order = sorted(cases, key=lambda case: (*_gravity(by_case[case.identifier]), case.identifier))
    anchors = {case.identifier: f"case-{number}" for number, case in enumerate(order, 1)}
    return (
        environment(__package__)
        .get_template("page.html")
        .render(
            generator=GENERATOR,
            title=dataset.folder.name,
            folder=dataset.folder,
            when=when,
            training=sum(case.training for case in cases),
            counts=count_severities(findings),
            Severity=Severity,
            dataset_findings=[finding for finding in findings if finding.case not in listed],
            cases=[_Case(case, by_case[case.identifier], anchors[case.identifier]) for case in order],
            colour_of=colour_of,
            volumes=list(_volumes(cases, anchors)),
            histogram=HISTOGRAM,
            checks=checks,
            comparison=comparison,
            slice_ratio=SLICE_RATIO,
            is_spine=dataset.labels.is_spine,
            has_patients=bool(dataset.patients),
            ignore=dataset.labels.ignore,
        )
    )


def _gravity(findings: Iterable[Finding]) -> tuple[int, ...]:
    """Sort key: most errors first, then most warnings, then most notes."""
    return tuple(-count for count in count_severities(findings).values())


class _Case:
    """What the page shows of a case.

    Args:
        anchor: its card's name in links.
    """

    def __init__(self, report: CaseReport, findings: Sequence[Finding], anchor: str) -> None:
        self.name = report.identifier
        self.anchor = anchor
        self.set = "training" if report.training else "test"
        self.findings = findings
        self.counts = count_severities(findings)
        self.worst = int(max((finding.severity for finding in findings), default=-1))
        self.checks = list(
            dict.fromkeys(f"{finding.check}: {finding.structure}".removesuffix(": ") for finding in findings)
        )
        geometry = report.geometry
        self.size = " x ".join(map(str, geometry.size)) if geometry else ""
        self.spacing = comparison.spacing_in_words(geometry.spacing) if geometry else ""
        self.orientation = geometry.orientation if geometry else ""
        self.structures = report.structures
        self.has_mask = bool(report.mask_file)
        self.facts = list(_facts(report))
        concerned = {name for one in findings if one.severity > Severity.NOTE for name in one.structure.split(", ")}
        self.marked = concerned & set(report.names)
        self.picture = report.picture


def _facts(case: CaseReport) -> Iterator[tuple[str, str]]:
    if (geometry := case.geometry) is not None:
        plane = {"none": "voxels nearly cubic", "2-D": "two-dimensional"}.get(
            geometry.plane, f"{geometry.plane} slices"
        )
        yield "Size", " x ".join(map(str, geometry.size)) + " voxels (x, y, z)"
        yield "Spacing", f"{comparison.spacing_in_words(geometry.spacing)} mm"
        yield "Orientation", f"{geometry.orientation}, {plane}" if geometry.orientation != "2-D" else plane
    for number, grey in enumerate(case.intensities):
        yield (
            "Grey values" if len(case.intensities) == 1 else f"Channel {number}",
            f"{grey.minimum:.4g} to {grey.maximum:.4g}; 1 % {grey.percentile_1:.4g}, median {grey.median:.4g}, "
            f"99 % {grey.percentile_99:.4g} ({grey.data_type})",
        )
    if case.patient is not None:
        yield "Patient", case.patient
    yield "Files", ", ".join([*case.image_files, case.mask_file or "no mask"])


@dataclass(frozen=True)
class _Bar:
    """Cases with a volume from `low` to `high` ml; `odd` if one of them is unusual. Places in pixels."""

    x: float
    width: float
    height: float
    low: float
    high: float
    cases: int
    odd: bool


@dataclass(frozen=True)
class _Volumes:
    """A structure's volumes in ml.

    Args:
        cut: cases in which the border cuts it.
        bars: none where all volumes are equal.
        median_x: in pixels.
        odd: case, anchor and ml of unusual ones, the least first.
    """

    name: str
    cases: int
    cut: int
    least: float
    median: float
    most: float
    bars: Sequence[_Bar]
    median_x: float
    odd: Sequence[tuple[str, str, float]]


def _volumes(cases: Sequence[CaseReport], anchors: Mapping[str, str]) -> Iterator[_Volumes]:
    odd: dict[str, dict[str, float]] = defaultdict(dict)
    for finding, volume in comparison.unusual_volumes(cases):
        odd[finding.structure][finding.case] = volume
    for name, found in comparison.volumes(cases).items():
        ml = np.array([volume for _, volume, _ in found])
        low, median, high = float(ml.min()), float(np.median(ml)), float(ml.max())
        strange = sorted(odd[name].items(), key=lambda pair: pair[1])
        yield _Volumes(
            name=name,
            cases=len(ml),
            cut=sum(cut for _, _, cut in found),
            least=low,
            median=median,
            most=high,
            bars=list(_bars(ml, list(odd[name].values()))) if high > low else [],
            median_x=(median - low) / (high - low) * HISTOGRAM[0] if high > low else 0,
            odd=[(identifier, anchors[identifier], volume) for identifier, volume in strange],
        )


def _bars(ml: np.ndarray, odd: Sequence[float]) -> Iterator[_Bar]:
    """The histogram of volumes that are not all equal; empty bars are left out."""
    width, height = HISTOGRAM
    bins = int(np.clip(2 * len(ml) ** 0.5, 4, MOST_BINS))
    counts, edges = np.histogram(ml, bins, (ml.min(), ml.max()))
    unusual, _ = np.histogram(odd, bins, (ml.min(), ml.max()))
    step = width / bins
    for k in counts.nonzero()[0]:
        yield _Bar(
            x=k * step + 1,
            width=step - 2,
            height=0.9 * height * counts[k] / counts.max(),
            low=edges[k],
            high=edges[k + 1],
            cases=int(counts[k]),
            odd=bool(unusual[k]),
        )
