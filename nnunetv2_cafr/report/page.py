"""The report of a study: one HTML page that needs nothing else, and every table as CSV, LaTeX and Markdown beside it.

The page says first which network wins, by how much, how surely and at what cost, whichever network that is. What the
study lacks is named where it would stand. Names are escaped, and a content security policy forbids the page to load
anything.
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import pandas as pd

from nnunetv2_cafr import files as ownership
from nnunetv2_cafr.evaluation.means import per_case
from nnunetv2_cafr.files import begins_with
from nnunetv2_cafr.report import figures, tables
from nnunetv2_cafr.report.analysis import SIGNIFICANCE, FamilyResults, analyse
from nnunetv2_cafr.report.figures import Figure
from nnunetv2_cafr.report.patients import DICE
from nnunetv2_cafr.report.pictures import LINES, OutlinedSlice, named_slices, outlined_slice
from nnunetv2_cafr.report.statistics import DRAWS, Estimate, detectable_difference, least_p
from nnunetv2_cafr.report.study import Arm, CaseFiles, Section, Study
from nnunetv2_cafr.report.tables import MISSING, TEXT, Column, Row, Table, Value, interval_text, number, p_text
from nnunetv2_cafr.spine import is_spine_table

GENERATOR = "nnUNetv2_cafr report"  # by this mark a folder is known as one of ours
PAGE, TABLES = "report.html", "tables"
FRACTION = "fraction-"  # begins the key of a section whose arms were trained on that share of the patients
LONGEST_VALUE = 160  # characters of a setting that a table shows
# Of a training record: these differ between any two trainings, and name folders of the machine.
OF_THE_RUN = ("command", "settings.log_file", "settings.output_folder", "settings.output_folder_base")
POINTS = Column("", 2)


def write_report(study: Study, folder: Path) -> Path:
    """Writes report.html and tables/ into `folder`, which is new, empty, or an earlier report's; returns the page.

    The folder changes in one step, when all is written.

    Raises:
        OSError: if the folder holds anything but a report; nothing is overwritten.
        ValueError: if an arm lacks cases that another one has, or the study has no scores.
    """
    check_folder(folder)
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


def check_folder(folder: Path) -> None:
    """Raises OSError if `folder` is a file, holds anything but an earlier report, or cannot be written to."""
    whose = "an earlier report's"
    ownership.check_folder(folder, whose, {PAGE: begins_with(f'content="{GENERATOR}"'), TABLES: Path.is_dir})
    if (inner := folder / TABLES).is_dir():
        ours = {file.name: Path.is_file for file in inner.iterdir() if file.suffix in (".csv", ".tex", ".md")}
        ownership.check_folder(inner, whose, ours)


def render(study: Study) -> tuple[str, list[Table]]:
    """The page as text, and all tables.

    Raises:
        ValueError: as `write_report`.
    """
    page = _Page(study)
    own = {name: files(__package__).joinpath(f"report.{name}").read_text("utf-8") for name in ("html", "css", "js")}
    shared = files("nnunetv2_cafr.quality").joinpath("page.css").read_text("utf-8")
    main = "\n".join(page.parts())
    contents = "".join(f'<li><a href="#{key}">{escape(title)}</a></li>' for key, title in page.headings)
    origin = [study.provenance[name] for name in ("date", "command") if name in study.provenance]
    text = Template(own["html"]).substitute(
        generator=GENERATOR,
        title=escape(study.title),
        css=shared + own["css"],
        script=own["js"],
        origin=escape(". ".join(origin)),
        contents=contents,
        main=main,
        footer=f"Made by {GENERATOR}. Every table is in the folder {TABLES} as CSV, LaTeX and Markdown.",
    )
    return text, page.tables


class _Page:
    """Collects headings and tables while its parts are made."""

    def __init__(self, study: Study) -> None:
        if not study.sections or not any(study.sections[0].scores.get(arm.name) for arm in study.arms):
            raise ValueError(f"{study.title}: the study has no scores in its first section, so there is no report")
        self.study = study
        self.headings: list[tuple[str, str]] = []
        self.tables: list[Table] = []
        self.families = {section.key: analyse(study.arms, section) for section in study.sections}
        self.first = study.sections[0]

    def parts(self) -> Iterator[str]:
        families = self.families[self.first.key]
        yield self._notes()
        yield self._heading("verdict", "Result")
        yield from self._verdict(families)
        yield self._heading("results", "All arms")
        yield self._missing_arms(self.first)
        if self.study.lengths:
            second = self.families[self.study.lengths.section]
            yield self._table(tables.side_by_side(self.study, families, second, self.study.lengths), tall=True)
        yield self._table(tables.results(self.study, self.first, families))
        yield from self._seeds(self.first, families)
        yield self._heading("certainty", "How certain")
        yield from self._certainty(self.first, families)
        yield self._heading("averaging", "Other ways to count")
        yield (
            "<p>A class that a case does not hold can move a mean by more than ten points. The same predictions, "
            "averaged in every usual way:</p>"
        )
        yield self._table(tables.averaging(self.study, self.first, families))
        yield self._heading("classes", "Classes and levels")
        yield from self._classes(families)
        yield self._heading("cost", "Cost")
        yield from self._cost()
        yield self._heading("paper", "Beside the paper")
        yield self._table(tables.paper_table_3(self.study))
        yield self._table(tables.paper_table_4(self.study))
        for number_, section in enumerate(self.study.sections[1:], 1):
            yield from self._other_section(section, f"section-{number_}")
        yield self._heading("training", "Training")
        yield from self._training()
        yield self._heading("cases", "Cases")
        yield from self._cases()
        yield self._heading("settings", "Conditions and settings")
        yield from self._settings()

    # -- parts ---------------------------------------------------------------------------------------------------

    def _notes(self) -> str:
        if not self.study.notes:
            return ""
        lines = "".join(f"<li>{escape(note)}</li>" for note in self.study.notes)
        return f'<aside class="notes" aria-label="Before you read"><b>Before you read</b><ul>{lines}</ul></aside>'

    def _verdict(self, families: Sequence[FamilyResults]) -> Iterator[str]:
        yield '<div class="verdicts">' + "".join(map(self._verdict_of, families)) + "</div>"
        if self.study.lengths:
            when = f"At {self.study.lengths.seconds:,.0f} s of stepping: "
            second = self.families[self.study.lengths.section]
            yield '<div class="verdicts">' + "".join(self._verdict_of(family, when) for family in second) + "</div>"
        yield '<div class="sentence">' + "".join(f"<p>{line}</p>" for line in self._conclusions(families)) + "</div>"
        for index, family in enumerate(families):
            if family.reference:
                yield _figure(figures.overview(f"overview-{index}", family, self.study.costs))

    def _verdict_of(self, family: FamilyResults, when: str = "") -> str:
        title = f"{when}{escape(family.name)} augmentation family, {_count(len(family.arms), 'arm')}, "
        title = f"<h3>{title}{_count(family.patients, 'patient')}</h3>"
        found = family.measures.get(DICE.key)
        if found is None:
            return f'<article class="verdict">{title}<p>No class is in any reference: nothing to score.</p></article>'
        leaders = [arm for arm in family.arms if found.ranking.rank[arm.name] == 1]
        names = " and ".join(escape(arm.name) for arm in leaders)
        value = _estimate(found.means[leaders[0].name], "Dice")
        if family.reference is None:
            said = "A single arm: shown, and compared with nothing."
            return f'<article class="verdict">{title}<p class="winner">{names}{value}</p><p>{said}</p></article>'
        winner = f'<p class="winner">{names} {"lead" if len(leaders) > 1 else "leads"}{value}</p>'
        lines = [self._lead(family, leaders), self._stability(family, leaders), *self._groups(family)]
        lines.append(self._costs_of(family, leaders))
        text = "".join(f"<p>{line}</p>" for line in lines if line)
        return f'<article class="verdict">{title}{winner}{text}</article>'

    def _lead(self, family: FamilyResults, leaders: Sequence[Arm]) -> str:
        """The leader and the reference, or the reference and the runner-up."""
        assert family.reference is not None
        found = family.measures[DICE.key]
        reference = family.reference
        role = "" if family.reference_is_cafr else ", the reference for lack of a CAFR-Net arm,"
        if reference in leaders:
            others = [arm for arm in family.arms if arm is not reference]
            one, p = found.comparisons[others[0].name]
            gap = Estimate(-one.difference.mean, -one.difference.high, -one.difference.low)
            said = f"{escape(reference.name)}{role} is {_gap(gap)} {escape(others[0].name)}, the next"
        else:
            one, p = found.comparisons[leaders[0].name]
            place = f"rank {found.ranking.rank[reference.name]} of {len(family.arms)}"
            mean = number(found.means[reference.name].mean, POINTS)
            said = (
                f"{escape(leaders[0].name)} is {_gap(one.difference)} {escape(reference.name)}{role} "
                f"({mean} %, {place})"
            )
        significant = "significant" if p < SIGNIFICANCE else "not significant"
        if p < SIGNIFICANCE and one.rank_biserial * one.difference.mean < 0:
            significant = "significant the other way round, because most patients differ against the mean"
        return f"{said}; {_p(p)}, {significant}."

    def _stability(self, family: FamilyResults, leaders: Sequence[Arm]) -> str:
        shares = family.measures[DICE.key].ranking.shares
        said = " and ".join(f"{escape(arm.name)} in {100 * shares.loc[arm.name, 1]:.0f} %" for arm in leaders)
        return f"First when patients are drawn again: {said} of the draws."

    def _groups(self, family: FamilyResults) -> Iterator[str]:
        assert family.reference is not None
        found = family.measures[DICE.key]
        groups: dict[str, list[str]] = {"Better": [], "Worse": [], "Not distinguishable": []}
        for arm in family.arms:
            if arm.name in found.comparisons:
                one, p = found.comparisons[arm.name]
                verdict = "Not distinguishable" if p >= SIGNIFICANCE else "Better" if one.rank_biserial > 0 else "Worse"
                groups[verdict].append(escape(arm.name))
        parts = [f"<b>{verdict}:</b> {', '.join(names) or 'none'}." for verdict, names in groups.items()]
        yield f"Against {escape(family.reference.name)} (p < {SIGNIFICANCE} after Holm): {' '.join(parts)}"

    def _costs_of(self, family: FamilyResults, leaders: Sequence[Arm]) -> str:
        arms = dict.fromkeys(arm.name for arm in (*leaders, family.reference) if arm is not None)
        said = [
            f"{escape(name)} {cost.gmacs:.3g} GMACs, {cost.parameters / 1e6:.3g} M parameters, "
            f"{cost.volume_ms / 1e3:.3g} s a volume"
            for name in arms
            if (cost := self.study.costs.get(name))
        ]
        return f"Cost: {'; '.join(said)}." if said else "Cost was not measured."

    def _conclusions(self, families: Sequence[FamilyResults]) -> Iterator[str]:
        """What may and may not be concluded."""
        compared = [family for family in families if family.reference and DICE.key in family.measures]
        for family in compared:
            assert family.reference is not None
            found = family.measures[DICE.key]
            patients, comparisons = len(found.values), len(found.comparisons)
            least = min(1.0, comparisons * least_p(patients))
            who = f"<b>{escape(family.name)}:</b> " if len(compared) > 1 else ""
            together = f"{_count(patients, 'patient')} and {_count(comparisons, 'comparison')}"
            if least >= SIGNIFICANCE:
                yield (
                    f"{who}With {together} the smallest p that this test can reach after Holm's correction is "
                    f"{p_text(least)}: <b>no difference, whatever its size, can be called significant here.</b> The "
                    "page shows directions, not proof."
                )
            else:
                deviations = found.values.sub(found.values[family.reference.name], axis=0).std()
                typical = float(deviations.drop(family.reference.name).median())
                yield (
                    f"{who}With {together}, a true difference to {escape(family.reference.name)} of about "
                    f"{detectable_difference(typical, patients, comparisons):.2g} points of Dice would be found in "
                    "four of five such studies; smaller ones are likely to be missed."
                )
        if compared:
            yield (
                "What is not significant is not shown to be equal: the interval of a difference says what remains "
                "possible."
            )
        else:
            yield "No family has two arms, so nothing is compared."
        seeds = {len(self.first.scores[arm.name]) for family in families for arm in family.arms}
        if seeds == {1}:
            yield (
                "One seed per arm: the chance of initialisation and sampling is in none of these intervals, and "
                "training again could turn the order of close arms."
            )
        else:
            yield (
                f"{' to '.join(map(str, sorted({min(seeds), max(seeds)})))} seeds per arm, averaged before anything is "
                "tested: intervals describe other patients, not other trainings."
            )
        said = f"The patients are those of {escape(self.study.conditions.get('data set', 'one data set'))}"
        external = any(section.key.startswith("external") for section in self.study.sections)
        said += "; for others see the external sections below." if external else ": nothing here shows how others fare."
        if len(families) > 1:
            said += " Arms of different families differ in augmentation too, and are not compared."
        yield said

    def _certainty(self, section: Section, families: Sequence[FamilyResults]) -> Iterator[str]:
        compared = [family for family in families if family.reference]
        if not compared:
            yield "<p>No family has two arms: there is no difference to test and no ranking.</p>"
            return
        for family in compared:
            if not family.reference_is_cafr:
                yield (
                    f"<p>{escape(family.name)} has no CAFR-Net arm; its reference is the first one, "
                    f"{escape(family.reference.name if family.reference else '')}.</p>"
                )
        for index, family in enumerate(compared):
            yield _figure(figures.differences(f"differences-{section.key}-{index}", family))
        yield self._table(tables.statistics(self.study, section, families))
        for index, family in enumerate(compared):
            yield _figure(figures.rank_shares(f"ranks-{section.key}-{index}", family))
        yield self._table(tables.rankings(self.study, section, families), tall=True)

    def _classes(self, families: Sequence[FamilyResults]) -> Iterator[str]:
        for index, family in enumerate(families):
            table = tables.classes_of_family(self.study, self.first, family)
            yield _figure(figures.class_dice(f"classes-{index}", family, table))
            yield self._table(table)
        table = tables.classes(self.study, self.first, families)
        yield f"<details><summary>Every metric of every class</summary>{self._table(table, tall=True)}</details>"
        level_table = tables.levels(self.study, self.first, families)
        if level_table is None:
            yield "<p>The labels are no spine levels, so there are no level errors.</p>"
        else:
            yield _figure(figures.level_errors("level-errors", level_table))
            yield self._table(level_table)
        yield from self._shifts(self.first, families, "level-shifts")

    def _shifts(self, section: Section, families: Sequence[FamilyResults], key: str) -> Iterator[str]:
        if table := tables.level_shifts(self.study, section, families):
            yield _figure(figures.level_shifts(key, table))
            yield self._table(table)

    def _cost(self) -> Iterator[str]:
        table = tables.costs(self.study)
        if table is None:
            yield "<p>Cost was not measured in this study.</p>"
            return
        if lacking := [arm.name for arm in self.study.arms if arm.name not in self.study.costs]:
            yield f"<p>Not measured: {escape(', '.join(lacking))}.</p>"
        yield self._table(table)
        if multiples := tables.cost_multiples(self.study):
            yield self._table(multiples)

    def _other_section(self, section: Section, key: str) -> Iterator[str]:
        families = self.families[section.key]
        yield self._heading(key, section.title)
        yield f"<p>{escape(section.note)}</p>"
        if not families:
            yield "<p>No arm has scores here.</p>"
            return
        yield self._missing_arms(section)
        if section.key.startswith(FRACTION) and section is self._fractions()[0]:
            yield from self._data_efficiency()
        for index, family in enumerate(families):
            if family.reference:
                yield _figure(figures.overview(f"{key}-overview-{index}", family, {}))
        yield self._table(tables.results(self.study, section, families))
        yield from self._seeds(section, families)
        if any(family.reference for family in families):
            yield self._table(tables.statistics(self.study, section, families))
            ranking = self._table(tables.rankings(self.study, section, families), tall=True)
            yield f"<details><summary>Ranking when patients are drawn again</summary>{ranking}</details>"
        more = [tables.averaging(self.study, section, families), tables.classes(self.study, section, families)]
        level_table = tables.levels(self.study, section, families)
        text = "".join(self._table(table, tall=True) for table in (*more, *([level_table] if level_table else [])))
        text += "".join(self._shifts(section, families, f"{key}-level-shifts"))
        yield f"<details><summary>Other ways to count, classes, levels</summary>{text}</details>"

    def _fractions(self) -> list[Section]:
        return [section for section in self.study.sections[1:] if section.key.startswith(FRACTION)]

    def _data_efficiency(self) -> Iterator[str]:
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
                yield _figure(figures.fractions(f"fractions-{index}", family, found))

    def _training(self) -> Iterator[str]:
        names = [arm.name for arm in self.study.arms]
        shown = [figures.learning("learning", names, self.study.curves)]
        shown.append(figures.loss_terms("loss-terms", names, self.study.curves))
        yield from map(_figure, shown)
        if table := tables.course(self.study):
            yield self._table(table)
        lacking = [name for name in names if not self.study.curves.get(name)]
        if lacking:
            yield f"<p>No training curves: {escape(', '.join(lacking))}.</p>"
        if shown[1] is None:
            yield "<p>No arm has logged the three loss terms.</p>"

    def _cases(self) -> Iterator[str]:
        lacking = []
        yield (
            '<p class="key"><span><svg width="34" height="12" aria-hidden="true"><path class="truth" d="M2 6H32"/>'
            '</svg>reference, solid</span> <span><svg width="34" height="12" aria-hidden="true"><path class="guess" '
            'd="M2 6H32"/></svg>prediction, dashed</span> <label><input type="checkbox" id="contours" checked> contours'
            "</label></p><p>The best, median and worst case of every arm by its own Dice (mean over the classes of the "
            "reference), in the slice with the most wrong voxels. Words mark structures whose place mostly carries "
            "another label: what it is, and what was predicted.</p>"
        )
        for arm in self.study.arms:
            seeds = self.first.scores.get(arm.name)
            available = self.study.files.get(arm.name, {})
            if not seeds or not available:
                lacking.append(arm.name)
                continue
            dice = per_case(next(iter(seeds.values())), "dice", "present").dropna()
            dice = dice[dice.index.isin(list(available))].sort_values(kind="stable")
            if dice.empty:
                lacking.append(arm.name)
                continue
            places = {"best": len(dice) - 1, "median": len(dice) // 2, "worst": 0}
            words: dict[int, list[str]] = {}
            for word, place in places.items():
                words.setdefault(place, []).append(word)
            pictures = "".join(
                self._picture(" and ".join(said), str(dice.index[place]), 100 * float(dice.iloc[place]), available)
                for place, said in words.items()
            )
            yield f'<section class="card"><h3>{escape(arm.name)}</h3><div class="cases">{pictures}</div></section>'
        yield from self._spines()
        if lacking:
            yield f"<p>No pictures, for lack of scores or files: {escape(', '.join(lacking))}.</p>"

    def _spines(self) -> Iterator[str]:
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
        if mean.empty:
            return
        yield (
            "<h3>Levels, side by side</h3><p>The names that each arm gives to the vertebrae, in the slice with the "
            "most of the reference; in brackets what the reference has there, where that is another or nothing. The "
            "cases with the lowest, the median and the highest share of vertebrae at the right level, mean over the "
            "arms.</p>"
        )
        places: dict[int, list[str]] = {}
        for word, place in (("lowest", 0), ("median", len(mean) // 2), ("highest", len(mean) - 1)):
            places.setdefault(place, []).append(word)
        for place, words in places.items():
            case = str(mean.index[place])
            files = [self.study.files[arm][case] for arm in arms]
            used = [files[0].image, files[0].reference, *(one.prediction for one in files)]
            title = f"<h4>{' and '.join(words)}: {escape(case)}, {100 * mean.iloc[place]:.1f} % at the right level</h4>"
            if missing := [file for file in used if not file.is_file()]:
                where = escape(", ".join(map(str, missing)))
                yield f'<section class="card">{title}<p>No picture: {where} is missing.</p></section>'
                continue
            pictures = named_slices(used[0], used[1], used[2:], self.study.label_names)
            right = [
                f"{counts[arm].loc[case, 'right_level']:.0f} of {counts[arm].loc[case, 'vertebrae']:.0f} right"
                for arm in arms
            ]
            captions = [
                "<b>reference</b>",
                *(f"<b>{escape(arm)}</b>, {one}" for arm, one in zip(arms, right, strict=True)),
            ]
            shown = "".join(
                f"<figure>{_outlined(picture, case)}<figcaption>{caption}</figcaption></figure>"
                for picture, caption in zip(pictures, captions, strict=True)
            )
            yield f'<section class="card">{title}<div class="spines">{shown}</div></section>'

    def _picture(self, what: str, case: str, dice: float, available: Mapping[str, CaseFiles]) -> str:
        one = available[case]
        missing = [file for file in (one.image, one.reference, one.prediction) if not file.is_file()]
        title = f"<b>{what}:</b> {escape(case)}, Dice {dice:.1f} %"
        if missing:
            where = escape(", ".join(map(str, missing)))
            return f"<figure><figcaption>{title}. No picture: {where} is missing.</figcaption></figure>"
        picture = outlined_slice(one.image, one.reference, one.prediction, self.study.label_names)
        return f"<figure>{_outlined(picture, case)}<figcaption>{title}, {escape(picture.what)}</figcaption></figure>"

    def _settings(self) -> Iterator[str]:
        yield "<h3>Equal for all arms</h3>" + _facts(self.study.conditions)
        rows = [
            Row([arm.name, arm.family, arm.trainer, arm.plans or MISSING, arm.description]) for arm in self.study.arms
        ]
        columns = [Column("Arm"), Column("Family"), Column("Trainer"), Column("Plans"), Column("Network and optimiser")]
        yield self._table(Table("arms", "Arms", "As nnUNetv2_train knows them.", columns, rows))
        if differing := _differing_settings(self.study):
            yield self._table(differing, tall=True)
        yield "<h3>How it was scored</h3>" + self._scoring()
        yield "<h3>How it was tested</h3>"
        yield (
            "<p>The unit is the patient: cases and seeds of a patient are averaged first. Intervals: expanded "
            f"percentile bootstrap over patients, {DRAWS:,} draws with a fixed seed. Tests: exact two-sided Wilcoxon "
            "signed-rank test of the paired differences, zeros ranked without a sign (Pratt), corrected by Holm within "
            "a family and measure. Only comparisons with the reference are tested. It is the family's CAFR-Net arm, "
            "or else its first one, whatever the scores: the question is whether CAFR-Net is better than each other "
            "network.</p>"
        )
        yield "<h3>Origin</h3>" + _facts(self.study.provenance)
        for arm in self.study.arms:
            settings = self.study.settings.get(arm.name)
            text = escape(json.dumps(settings, indent=2, default=str)) if settings else "no record"
            yield f"<details><summary>Full settings of {escape(arm.name)}</summary><pre>{text}</pre></details>"

    def _scoring(self) -> str:
        seeds = next(seeds for seeds in self.first.scores.values() if seeds)
        settings = next(iter(seeds.values())).settings
        facts = {"NSD tolerance": f"{settings['tolerance_mm']:g} mm"} if "tolerance_mm" in settings else {}
        facts |= {name: str(version) for name, version in settings.get("versions", {}).items()}
        facts |= {name: str(text) for name, text in settings.get("definitions", {}).items()}
        return _facts(facts)

    # -- pieces --------------------------------------------------------------------------------------------------

    def _heading(self, key: str, title: str) -> str:
        self.headings.append((key, title))
        return f'<h2 id="{key}">{escape(title)}</h2>'

    def _seeds(self, section: Section, families: Sequence[FamilyResults]) -> Iterator[str]:
        if table := tables.seeds(self.study, section, families):
            yield self._table(table, tall=True)

    def _missing_arms(self, section: Section) -> str:
        lacking = [arm.name for arm in self.study.arms if not section.scores.get(arm.name)]
        return f"<p>Without scores here: {escape(', '.join(lacking))}.</p>" if lacking else ""

    def _table(self, table: Table, tall: bool = False) -> str:
        self.tables.append(table)
        return _html(table, tall)


def _html(table: Table, tall: bool) -> str:
    headings = "".join(
        f'<th scope="col"{_class(column)}><button type="button">{escape(column.title)}</button></th>'
        for column in table.columns
    )
    groups: dict[str, list[str]] = {}
    for row in table.rows:
        groups.setdefault(row.group, []).append(_row(row, table.columns))
    span = f'<tr class="group"><th scope="rowgroup" colspan="{len(table.columns)}"><span>'
    bodies = "".join(
        f"<tbody>{f'{span}{escape(group)}</span></th></tr>' if group else ''}{''.join(rows)}</tbody>"
        for group, rows in groups.items()
    )
    title = escape(table.title)
    return (
        f'<div class="scroll{" tall" if tall else ""}" tabindex="0" role="region" aria-label="{title}">'
        f'<table class="sortable" id="table-{escape(table.key)}"><caption><b>{title}</b> <span>{escape(table.caption)}'
        f"</span></caption><thead><tr>{headings}</tr></thead>{bodies}</table></div>"
    )


def _class(column: Column) -> str:
    return "" if column.digits == TEXT else ' class="number"'


def _row(row: Row, columns: Sequence[Column]) -> str:
    cells = [_cell(value, column) for value, column in zip(row.values, columns, strict=True)]
    first = f'<th scope="row">{escape(str(row.values[0]))}</th>'
    kind = ' class="printed"' if row.printed else ""
    return f"<tr{kind}>{first}{''.join(cells[1:])}</tr>"


def _cell(value: Value, column: Column) -> str:
    text = escape(tables.text_of(value, column))
    if column.digits == TEXT:
        wide = ' class="wide"' if len(text) > 40 else ""
        return f"<td{wide}>{text}</td>"
    if isinstance(value, Estimate) and not math.isnan(value.mean):
        interval = "" if math.isnan(value.low) else f"<small>{interval_text(value, column)}</small>"
        return f'<td class="number" data-key="{value.mean:.9g}">{number(value.mean, column)}{interval}</td>'
    if isinstance(value, int | float) and not tables.is_missing(value):
        return f'<td class="number" data-key="{value:.9g}">{text}</td>'
    return f'<td class="number" data-key="">{text}</td>'


def _figure(figure: Figure | None) -> str:
    if figure is None:
        return ""
    svg = figure.svg.replace("<svg ", f'<svg role="img" aria-label="{escape(figure.description)}" ', 1)
    return (
        f'<figure class="plot"><div tabindex="0" role="region" aria-label="{escape(figure.caption[:60])}">{svg}</div>'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def _outlined(picture: OutlinedSlice, case: str) -> str:
    size = picture.height / LINES
    names = "".join(
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:.1f}" stroke-width="{size / 5:.1f}" text-anchor="middle">'
        f"{escape(text)}</text>"
        for text, x, y in picture.names
    )
    paths = "".join(
        f'<path class="{kind}" d="{path}"/>'
        for kind, path in (
            ("halo", picture.reference),
            ("truth", picture.reference),
            ("guess", picture.prediction),
        )
        if path
    )
    return (
        f'<div class="picture" style="aspect-ratio:{picture.width:.1f}/{picture.height:.1f}"><img loading="lazy" '
        f'alt="{escape(case)}, {escape(picture.what)}" src="data:image/jpeg;base64,{picture.jpeg}"><svg '
        f'viewBox="0 0 {picture.width:.1f} {picture.height:.1f}" aria-hidden="true">{paths}{names}</svg></div>'
    )


def _facts(facts: Mapping[str, str]) -> str:
    if not facts:
        return "<p>Not given.</p>"
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(text))}</dd>" for name, text in facts.items())
    return f'<dl class="facts">{rows}</dl>'


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


def _estimate(estimate: Estimate, title: str) -> str:
    interval = "" if math.isnan(estimate.low) else f", 95 % interval {interval_text(estimate, POINTS)}"
    return f"<small>{title} {number(estimate.mean, POINTS)} %{interval}</small>"


def _gap(difference: Estimate) -> str:
    """ "1.20 points [0.40, 2.00] above"."""
    interval = "" if math.isnan(difference.low) else f" {interval_text(difference, POINTS)}"
    return f"<b>{number(difference.mean, POINTS)} points{interval} above</b>"


def _p(p: float) -> str:
    text = p_text(p)
    return escape(f"Holm's p {text if text.startswith('<') else f'= {text}'}")


def _count(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
