"""The report of a study: one HTML page that needs nothing else, and every table as CSV, LaTeX and Markdown beside it.

The page says first which network wins, by how much, how surely and at what cost, whichever network that is. What the
study lacks is named where it would stand. Words and layout are in templates/, the values here. Names are escaped, and a
content security policy forbids the page to load anything.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from jinja2 import Environment
from markupsafe import Markup

from nnunetv2_cafr.errors import counted, last_line
from nnunetv2_cafr.evaluation.means import per_case
from nnunetv2_cafr.files import begins_with, check_folder
from nnunetv2_cafr.pages import environment
from nnunetv2_cafr.report import figures, tables
from nnunetv2_cafr.report.analysis import SIGNIFICANCE, FamilyResults, analyse
from nnunetv2_cafr.report.figures import Figure
from nnunetv2_cafr.report.patients import DICE
from nnunetv2_cafr.report.pictures import LINES, OutlinedSlice, named_slices, outlined_slice
from nnunetv2_cafr.report.statistics import DRAWS, Estimate, detectable_difference, least_p
from nnunetv2_cafr.report.study import Arm, Cost, Section, Study
from nnunetv2_cafr.report.table import (
    MISSING,
    TEXT,
    Column,
    Row,
    Table,
    Value,
    interval_text,
    is_missing,
    number,
    p_text,
    text_of,
)
from nnunetv2_cafr.spine import is_spine_table

GENERATOR = "nnUNetv2_cafr report"  # by this mark a folder is known as one of ours
PAGE, TABLES = "report.html", "tables"
FRACTION = "fraction-"  # begins the key of a section whose arms were trained on that share of the patients
LONGEST_VALUE = 160  # characters of a setting that a table shows
# Of a training record: these differ between any two trainings, and name folders of the machine.
OF_THE_RUN = ("command", "settings.log_file", "settings.output_folder", "settings.output_folder_base")
POINTS = Column("", 2)
Drawn = TypeVar("Drawn")


def write_report(study: Study, folder: Path) -> Path:
    """Writes report.html and tables/ into `folder`, which is new, empty, or an earlier report's; returns the page.

    The folder changes in one step, when all is written.

    Raises:
        OSError: if the folder holds anything but a report; nothing is overwritten.
        ValueError: if an arm lacks cases that another one has, or the study has no scores.
    """
    check_report_folder(folder)
    page, written = render(study)
    partial, old = (folder.with_name(f".{folder.name}.{what}") for what in ("partial", "old"))
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        (partial / TABLES).mkdir(parents=True)
        (partial / PAGE).write_text(page, encoding="utf-8")
        for table in written:
            for ending, text in (("csv", table.csv()), ("tex", table.latex()), ("md", table.markdown())):
                (partial / TABLES / f"{table.key}.{ending}").write_text(text, encoding="utf-8")
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder / PAGE


def check_report_folder(folder: Path) -> None:
    """Raises OSError if `folder` is a file, holds anything but an earlier report, or cannot be written to."""
    whose = "an earlier report's"
    check_folder(folder, whose, {PAGE: begins_with(f'content="{GENERATOR}"'), TABLES: Path.is_dir})
    if (inner := folder / TABLES).is_dir():
        ours = {file.name: Path.is_file for file in inner.iterdir() if file.suffix in (".csv", ".tex", ".md")}
        check_folder(inner, whose, ours)


def render(study: Study) -> tuple[str, list[Table]]:
    """The page as text, and all tables.

    Raises:
        ValueError: as `write_report`.
    """
    page = _Page(study)
    return _templates().get_template("page.html").render(page.values()), page.tables


@cache
def _templates() -> Environment:
    templates = environment(__package__)
    templates.filters |= {
        "points": lambda value: number(value, POINTS),
        "interval": lambda estimate: "" if math.isnan(estimate.low) else interval_text(estimate, POINTS),
        "p_text": p_text,
        "p_equals": lambda p: text if (text := p_text(p)).startswith("<") else f"= {text}",
        "counted": counted,
        "groups": _groups,
        "cells": lambda row, columns: [_cell(*pair) for pair in zip(row.values[1:], columns[1:], strict=True)],
        # Matplotlib escapes the names in it.
        "inside_of_svg": lambda figure: Markup(figure.svg.removeprefix("<svg ")),
    }
    templates.tests["numeric"] = lambda column: column.digits != TEXT
    return templates


@dataclass(frozen=True)
class _Lead:
    """How far the first arm is above the second: the reference above the runner-up, or the leader above the reference.

    Args:
        gap: in points of Dice.
        p: after Holm.
        mean, rank: of the reference.
    """

    first: str
    second: str
    reference_leads: bool
    gap: Estimate
    p: float
    most_differ_against_the_mean: bool
    mean: float
    rank: int


@dataclass(frozen=True)
class _Verdict:
    """What is said of a family; no `leaders` where there is nothing to score, no `lead` where there is one arm.

    Args:
        dice: of the leaders.
        shares: how often each leader comes first when patients are drawn again, by name.
        groups: arms by what the test says of them against the reference.
        costs: of leaders and reference, as far as measured.
    """

    family: str
    arms: int
    patients: int
    reference_is_cafr: bool
    leaders: Sequence[str] = ()
    dice: Estimate | None = None
    reference: str = ""
    lead: _Lead | None = None
    shares: Sequence[tuple[str, float]] = ()
    groups: Mapping[str, Sequence[str]] | None = None
    costs: Sequence[tuple[str, Cost]] = ()


@dataclass(frozen=True)
class _Power:
    """What the tests of a family can find.

    The least p after Holm, and the difference in points of Dice found in four of five studies.
    """

    family: str
    reference: str
    patients: int
    comparisons: int
    least_p: float
    detectable: float


@dataclass(frozen=True)
class _ShownCase:
    """One case of an arm, or of all, in one picture or several; `lack` says why there is none."""

    words: Sequence[str]
    case: str
    percent: float
    lack: str
    picture: OutlinedSlice | None = None
    pictures: Sequence[tuple[str, str, OutlinedSlice]] = ()  # name, what is right, slice


class _Page:
    """The values of the page; collects the tables while they are made."""

    def __init__(self, study: Study) -> None:
        if not study.sections or not any(study.sections[0].scores.get(arm.name) for arm in study.arms):
            raise ValueError(f"{study.title}: the study has no scores in its first section, so there is no report")
        self.study = study
        self.tables: list[Table] = []
        self.families = {section.key: analyse(study.arms, section) for section in study.sections}
        self.first = study.sections[0]

    def values(self) -> dict[str, Any]:
        study = self.study
        sections = {f"section-{number_}": section for number_, section in enumerate(study.sections[1:], 1)}
        return {
            "generator": GENERATOR,
            "tables_folder": TABLES,
            "title": study.title,
            "origin": [study.provenance[name] for name in ("date", "command") if name in study.provenance],
            "headings": [
                ("verdict", "Result"),
                ("results", "All arms"),
                ("certainty", "How certain"),
                ("averaging", "Other ways to count"),
                ("classes", "Classes and levels"),
                ("cost", "Cost"),
                ("paper", "Beside the paper"),
                *((key, section.title) for key, section in sections.items()),
                ("training", "Training"),
                ("cases", "Cases"),
                ("settings", "Conditions and settings"),
            ],
            "notes": study.notes,
            "lengths": study.lengths,
            "conditions": study.conditions,
            "provenance": study.provenance,
            **self._verdict(),
            **self._results(),
            **self._costs(),
            "sections": {key: self._other_section(section, key) for key, section in sections.items()},
            **self._training(),
            **self._cases(),
            **self._settings(),
        }

    def _verdict(self) -> dict[str, Any]:
        families = self.families[self.first.key]
        second = self.families[self.study.lengths.section] if self.study.lengths else []
        seeds = {len(self.first.scores[arm.name]) for family in families for arm in family.arms}
        return {
            "significance": SIGNIFICANCE,
            "verdicts": list(map(self._verdict_of, families)),
            "verdicts_of_seconds": list(map(self._verdict_of, second)),
            "powers": [_power(family) for family in families if family.reference and DICE.key in family.measures],
            "seeds": sorted({min(seeds), max(seeds)}),
            "has_external": any(section.key.startswith("external") for section in self.study.sections),
            "overviews": [
                figures.overview(f"overview-{index}", family, self.study.costs)
                for index, family in enumerate(families)
                if family.reference
            ],
        }

    def _verdict_of(self, family: FamilyResults) -> _Verdict:
        nothing = _Verdict(family.name, len(family.arms), family.patients, family.reference_is_cafr)
        found = family.measures.get(DICE.key)
        if found is None:
            return nothing
        leaders = [arm for arm in family.arms if found.ranking.rank[arm.name] == 1]
        names = [arm.name for arm in leaders]
        dice = found.means[names[0]]
        if family.reference is None:
            return replace(nothing, leaders=names, dice=dice)
        groups: dict[str, list[str]] = {"Better": [], "Worse": [], "Not distinguishable": []}
        for arm in family.arms:
            if arm.name in found.comparisons:
                one, p = found.comparisons[arm.name]
                verdict = "Not distinguishable" if p >= SIGNIFICANCE else "Better" if one.rank_biserial > 0 else "Worse"
                groups[verdict].append(arm.name)
        return replace(
            nothing,
            leaders=names,
            dice=dice,
            reference=family.reference.name,
            lead=_lead(family, family.reference, leaders),
            shares=[(name, found.ranking.shares.loc[name, 1]) for name in names],
            groups=groups,
            costs=[
                (name, cost)
                for name in dict.fromkeys([*names, family.reference.name])
                if (cost := self.study.costs.get(name))
            ],
        )

    def _results(self) -> dict[str, Any]:
        families = self.families[self.first.key]
        compared = [family for family in families if family.reference]
        side_by_side = None
        if self.study.lengths:
            second = self.families[self.study.lengths.section]
            side_by_side = self._table(tables.side_by_side(self.study, families, second, self.study.lengths))
        first = self._of_section(self.first, "level-shifts")
        of_families = [tables.classes_of_family(self.study, self.first, family) for family in families]
        return {
            "equal_seconds": side_by_side,
            "first": first,
            "compared": compared,
            "differences": [
                figures.differences(f"differences-{self.first.key}-{index}", family)
                for index, family in enumerate(compared)
            ],
            "rank_shares": [
                figures.rank_shares(f"ranks-{self.first.key}-{index}", family) for index, family in enumerate(compared)
            ],
            "classes_of_families": [
                (figures.class_dice(f"classes-{index}", family, table), self._table(table))
                for index, (family, table) in enumerate(zip(families, of_families, strict=True))
            ],
            "level_errors": figures.level_errors("level-errors", first["levels"]) if first["levels"] else None,
            "paper_tables": [self._table(make(self.study)) for make in (tables.paper_table_3, tables.paper_table_4)],
        }

    def _of_section(self, section: Section, shifts_key: str) -> dict[str, Any]:
        """The tables that every section has, and the arms without scores."""
        study, families = self.study, self.families[section.key]
        shifts = tables.level_shifts(study, section, families)
        compared = any(family.reference for family in families)
        return {
            "missing": [arm.name for arm in study.arms if not section.scores.get(arm.name)],
            "results": self._table(tables.results(study, section, families)),
            "seeds": self._table(tables.seeds(study, section, families)),
            "statistics": self._table(tables.statistics(study, section, families) if compared else None),
            "rankings": self._table(tables.rankings(study, section, families) if compared else None),
            "averaging": self._table(tables.averaging(study, section, families)),
            "classes": self._table(tables.classes(study, section, families)),
            "levels": self._table(tables.levels(study, section, families)),
            "shift_figure": figures.level_shifts(shifts_key, shifts) if shifts else None,
            "shifts": self._table(shifts),
        }

    def _costs(self) -> dict[str, Any]:
        costs = self._table(tables.costs(self.study))
        return {
            "costs": costs,
            "not_measured": [arm.name for arm in self.study.arms if arm.name not in self.study.costs],
            "cost_multiples": self._table(tables.cost_multiples(self.study)) if costs else None,
        }

    def _other_section(self, section: Section, key: str) -> dict[str, Any]:
        families = self.families[section.key]
        if not families:
            return {"note": section.note, "results": None}
        drawn = list(self._data_efficiency()) if section is next(self._fractions(), None) else []
        drawn += [
            figures.overview(f"{key}-overview-{index}", family, {})
            for index, family in enumerate(families)
            if family.reference
        ]
        return {
            "note": section.note,
            "figures": drawn,
            "results": self._of_section(section, f"{key}-level-shifts"),
        }

    def _fractions(self) -> Iterator[Section]:
        return (section for section in self.study.sections[1:] if section.key.startswith(FRACTION))

    def _data_efficiency(self) -> Iterator[Figure | None]:
        by_share = {float(section.key.removeprefix(FRACTION)): section for section in self._fractions()}
        by_share[1.0] = self.first
        for index, family in enumerate(self.families[self.first.key]):
            found = {
                share: same
                for share, section in by_share.items()
                for same in self.families[section.key]
                if same.name == family.name
            }
            if len(found) > 1:
                yield figures.fractions(f"fractions-{index}", family, found)

    def _training(self) -> dict[str, Any]:
        names = [arm.name for arm in self.study.arms]
        return {
            "learning": figures.learning("learning", names, self.study.curves),
            "loss_terms": figures.loss_terms("loss-terms", names, self.study.curves),
            "course": self._table(tables.course(self.study)),
            "without_curves": [name for name in names if not self.study.curves.get(name)],
        }

    def _cases(self) -> dict[str, Any]:
        shown = {arm.name: list(self._cases_of(arm)) for arm in self.study.arms}
        return {
            "lines": LINES,
            "cases": [(name, cases) for name, cases in shown.items() if cases],
            "spines": list(self._spines()),
            "without_pictures": [name for name, cases in shown.items() if not cases],
        }

    def _cases_of(self, arm: Arm) -> Iterator[_ShownCase]:
        """An arm's best, median and worst case by its own Dice; none without scores or files."""
        seeds = self.first.scores.get(arm.name)
        available = self.study.files.get(arm.name, {})
        if not seeds or not available:
            return
        dice = per_case(next(iter(seeds.values())), "dice", "present").dropna()
        dice = dice[dice.index.isin(list(available))].sort_values(kind="stable")
        for words, place in _places(best=len(dice) - 1, median=len(dice) // 2, worst=0) if len(dice) else ():
            case = str(dice.index[place])
            one = available[case]
            files = (one.image, one.reference, one.prediction)
            picture, lack = _drawn(files, outlined_slice, *files, self.study.label_names)
            yield _ShownCase(words, case, 100 * float(dice.iloc[place]), lack, picture)

    def _spines(self) -> Iterator[_ShownCase]:
        """The reference and every arm side by side with the names of the levels; nothing where labels are no levels."""
        arms = [
            arm.name for arm in self.study.arms if self.first.scores.get(arm.name) and self.study.files.get(arm.name)
        ]
        if not arms or not is_spine_table(self.study.label_names.values()):
            return
        shares, counts = {}, {}
        for arm in arms:
            levels = next(iter(self.first.scores[arm].values())).levels.set_index("case")
            levels = levels[levels.index.isin(list(self.study.files[arm])) & (levels["vertebrae"] > 0)]
            shares[arm] = levels["right_level"] / levels["vertebrae"]
            counts[arm] = levels
        mean = pd.DataFrame(shares).dropna().mean(axis=1).sort_values(kind="stable")
        for words, place in _places(lowest=0, median=len(mean) // 2, highest=len(mean) - 1) if len(mean) else ():
            case = str(mean.index[place])
            percent = 100 * float(mean.iloc[place])
            files = [self.study.files[arm][case] for arm in arms]
            used = [files[0].image, files[0].reference, *(one.prediction for one in files)]
            right = [
                f"{counts[arm].loc[case, 'right_level']:.0f} of {counts[arm].loc[case, 'vertebrae']:.0f} right"
                for arm in arms
            ]
            pictures, lack = _drawn(used, named_slices, *used[:2], used[2:], self.study.label_names)
            named = list(zip(["reference", *arms], ["", *right], pictures, strict=True)) if pictures else []
            yield _ShownCase(words, case, percent, lack, pictures=named)

    def _settings(self) -> dict[str, Any]:
        rows = [
            Row([arm.name, arm.family, arm.trainer, arm.plans or MISSING, arm.description]) for arm in self.study.arms
        ]
        columns = [Column("Arm"), Column("Family"), Column("Trainer"), Column("Plans"), Column("Network and optimiser")]
        records = {arm.name: self.study.settings.get(arm.name) for arm in self.study.arms}
        return {
            "draws": DRAWS,
            "arms": self._table(Table("arms", "Arms", "As nnUNetv2_train knows them.", columns, rows)),
            "differing": self._table(_differing_settings(self.study)),
            "scoring": self._scoring(),
            "records": [
                (name, json.dumps(record, indent=2, default=str) if record else "no record")
                for name, record in records.items()
            ],
        }

    def _scoring(self) -> dict[str, str]:
        seeds = next(seeds for seeds in self.first.scores.values() if seeds)
        settings = next(iter(seeds.values())).settings
        facts = {"NSD tolerance": f"{settings['tolerance_mm']:g} mm"} if "tolerance_mm" in settings else {}
        return {**facts, **settings.get("versions", {}), **settings.get("definitions", {})}

    def _table(self, table: Table | None) -> Table | None:
        if table:
            self.tables.append(table)
        return table


def _lead(family: FamilyResults, reference: Arm, leaders: Sequence[Arm]) -> _Lead:
    found = family.measures[DICE.key]
    reference_leads = reference in leaders
    other = next(arm for arm in family.arms if arm is not reference) if reference_leads else leaders[0]
    one, p = found.comparisons[other.name]
    gap = one.difference
    return _Lead(
        first=reference.name if reference_leads else other.name,
        second=other.name if reference_leads else reference.name,
        reference_leads=reference_leads,
        gap=Estimate(-gap.mean, -gap.high, -gap.low) if reference_leads else gap,
        p=p,
        most_differ_against_the_mean=one.rank_biserial * gap.mean < 0,
        mean=found.means[reference.name].mean,
        rank=int(found.ranking.rank[reference.name]),
    )


def _power(family: FamilyResults) -> _Power:
    assert family.reference is not None
    found = family.measures[DICE.key]
    patients, comparisons = len(found.values), len(found.comparisons)
    least = min(1.0, comparisons * least_p(patients))
    deviations = found.values.sub(found.values[family.reference.name], axis=0).std()
    typical = float(deviations.drop(family.reference.name).median())
    # Where nothing can be significant, no difference can be detected.
    detectable = detectable_difference(typical, patients, comparisons) if least < SIGNIFICANCE else math.inf
    return _Power(family.name, family.reference.name, patients, comparisons, least, detectable)


def _drawn(files: Sequence[Path], draw: Callable[..., Drawn], *arguments: object) -> tuple[Drawn | None, str]:
    """What is drawn of these files; or None and why: SimpleITK does not read all that nnU-Net trains on."""
    if missing := [file for file in files if not file.is_file()]:
        return None, f"{', '.join(map(str, missing))} is missing"
    try:
        return draw(*arguments), ""
    except (RuntimeError, ValueError) as error:
        return None, last_line(error)


def _places(**places: int) -> Iterator[tuple[list[str], int]]:
    """Each place once, with the words for it."""
    words: dict[int, list[str]] = {}
    for word, place in places.items():
        words.setdefault(place, []).append(word)
    for place, said in words.items():
        yield said, place


def _groups(table: Table) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in table.rows:
        groups.setdefault(row.group, []).append(row)
    return groups


@dataclass(frozen=True)
class _Cell:
    """A cell as people read it; `key` is what it is sorted by, "" where that is missing, None for text."""

    text: str
    interval: str = ""
    key: str | None = None


def _cell(value: Value, column: Column) -> _Cell:
    text = text_of(value, column)
    if column.digits == TEXT:
        return _Cell(text)
    if isinstance(value, Estimate) and not math.isnan(value.mean):
        interval = "" if math.isnan(value.low) else interval_text(value, column)
        return _Cell(number(value.mean, column), interval, f"{value.mean:.9g}")
    if isinstance(value, int | float) and not is_missing(value):
        return _Cell(text, key=f"{value:.9g}")
    return _Cell(text, key="")


def _differing_settings(study: Study) -> Table | None:
    """Settings that the arms' records do not share; long ones stand in the records alone."""
    records = {arm.name: _flat(study.settings[arm.name]) for arm in study.arms if study.settings.get(arm.name)}
    if len(records) < 2:
        return None
    rows = []
    keys = dict.fromkeys(key for record in records.values() for key in record)
    for key in (key for key in keys if key not in OF_THE_RUN):
        texts = {name: record.get(key, MISSING) for name, record in records.items()}
        if len(set(texts.values())) > 1:
            short = [text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]} ..." for text in texts.values()]
            rows.append(Row([key, *short]))
    if not rows:
        return None
    columns = [Column("Setting"), *(Column(name) for name in records)]
    caption = "From the trainers' own records; what all arms share is left out here and stands in the full settings."
    return Table("settings", "Settings that differ", caption, columns, rows)


def _flat(value: object, key: str = "") -> dict[str, str]:
    """Nested mappings as one, with dots between the keys; values as JSON."""
    if isinstance(value, Mapping) and value:
        parts: dict[str, str] = {}
        for name, inner in value.items():
            parts |= _flat(inner, f"{key}.{name}" if key else str(name))
        return parts
    return {key: value if isinstance(value, str) else json.dumps(value, default=str)}
