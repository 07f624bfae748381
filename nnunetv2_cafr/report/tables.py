"""The tables of a study: which values stand in which."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from nnunetv2_cafr.evaluation import means
from nnunetv2_cafr.evaluation.level_shifts import CONSISTENT, EXTRA, HEADINGS, RIGHT, SHIFTS
from nnunetv2_cafr.evaluation.means import Policy
from nnunetv2_cafr.evaluation.scores import DISTANCES, Evaluation
from nnunetv2_cafr.report import paper_figures
from nnunetv2_cafr.report.analysis import FamilyResults, baseline
from nnunetv2_cafr.report.patients import DICE, TESTED, Measure, patient_values, pooled
from nnunetv2_cafr.report.statistics import CONFIDENCE, RANKING_DRAWS
from nnunetv2_cafr.report.study import Arm, Cost, Lengths, Section, Study
from nnunetv2_cafr.report.table import MISSING, P_VALUE, Column, Row, Table, Value
from nnunetv2_cafr.spine import is_spine_table, level_names, position


def _name(section: Section, study: Study, key: str) -> str:
    """The first section's tables have plain names."""
    return key if section is study.sections[0] else f"{section.key}_{key}"


def results(study: Study, section: Section, families: Sequence[FamilyResults]) -> Table:
    """The measures of every arm with their intervals; for the first section with differences, certainty and cost."""
    measures = [m for m in TESTED if any(m.key in family.measures for family in families)]
    has_costs = bool(study.costs) and section is study.sections[0]
    columns = [
        Column("Arm"),
        *(Column(measure.heading, 2, interval=True) for measure in measures),
        Column(f"{DICE.title} minus reference, points", 2, interval=True, signed=True),
        Column("p (Holm)", P_VALUE),
        Column("First in draws, %", 0),
    ]
    if has_costs:
        columns += [Column("GMACs", 1), Column("Parameters, M", 1), Column("Volume, s", 2)]
    rows = []
    for family in families:
        for arm in family.arms:
            values: list[Value] = [arm.name]
            values += [family.measures[m.key].means[arm.name] if m.key in family.measures else None for m in measures]
            first = family.measures.get(DICE.key)
            comparison, p = first.comparisons.get(arm.name, (None, None)) if first else (None, None)
            is_reference = arm is family.reference
            values += [comparison.difference if comparison else "reference" if is_reference else None, p]
            values.append(100 * first.ranking.shares.loc[arm.name, 1] if first and family.reference else None)
            if has_costs:
                cost = study.costs.get(arm.name)
                values += [cost.gmacs, cost.parameters / 1e6, cost.volume_ms / 1e3] if cost else [None] * 3
            rows.append(Row(values, family.name))
    meanings = "; ".join(f"{measure.title}: {measure.meaning}" for measure in measures)
    caption = (
        f"Mean over patients [{CONFIDENCE} % bootstrap interval]. {meanings}. First in draws: how often the arm has "
        f"the best mean {DICE.title} of its family when patients are drawn again. Arms are compared within a "
        "family only."
    )
    if has_costs:
        caption += " GMACs: one patch; volume: nnU-Net's sliding window over one case, not mirrored."
    return Table(_name(section, study, "results"), f"Results, {section.title}", caption, columns, rows, "family")


def statistics(study: Study, section: Section, families: Sequence[FamilyResults]) -> Table:
    """Every arm against the reference of its family, in every tested measure."""
    columns = [
        Column("Arm"),
        Column("Minus"),
        Column("Patients", 0),
        Column("Difference", 2, interval=True, signed=True),
        Column("p", P_VALUE),
        Column("p (Holm)", P_VALUE),
        Column("Rank-biserial", 2, signed=True),
        Column("Cohen's d", 2, signed=True),
        Column("Higher", 0),
        Column("Equal", 0),
        Column("Lower", 0),
    ]
    rows = []
    for family in families:
        for found in family.measures.values():
            group = f"{family.name}: {found.measure.heading}, {_better(found.measure)}"
            for arm in family.arms:
                if family.reference and arm.name in found.comparisons:
                    one, p = found.comparisons[arm.name]
                    sizes = (one.rank_biserial, one.cohens_d, one.higher, one.equal, one.lower)
                    values = (arm.name, family.reference.name, one.patients, one.difference, one.p, p, *sizes)
                    rows.append(Row(values, group))
    caption = (
        "Paired by patient: a patient's cases and seeds are averaged first. Difference of means "
        f"[{CONFIDENCE} % bootstrap interval]; p: exact two-sided Wilcoxon signed-rank test, zeros by Pratt; Holm over "
        "the rows of one group; effect sizes: matched-pairs rank-biserial correlation and Cohen's d of the paired "
        "differences; higher, equal, lower: patients. Intervals are not corrected for the number of comparisons. "
        "The test weighs ranks and the interval means, so where a few patients differ much the two may disagree."
    )
    key = _name(section, study, "statistics")
    return Table(key, f"Comparisons with the reference, {section.title}", caption, columns, rows, "comparison")


def side_by_side(
    study: Study, first: Sequence[FamilyResults], second: Sequence[FamilyResults], lengths: Lengths
) -> Table:
    """Every measure at equal iterations (`first`) and at equal seconds (`second`), arm by arm."""
    columns = [Column("Arm"), Column("Seconds a step", 3)]
    for words in ("equal iterations", f"{lengths.seconds:,.0f} s"):
        columns += [
            Column(f"Iterations, {words}", 0),
            Column(f"Value, {words}", 2, interval=True),
            Column(f"Minus reference, {words}", 2, interval=True, signed=True),
            Column(f"p (Holm), {words}", P_VALUE),
        ]
    others = {family.name: family for family in second}
    rows = []
    for family in first:
        if family.name not in others:
            continue
        for key, found in family.measures.items():
            sides = [
                (found, lengths.iterations[study.sections[0].key]),
                (others[family.name].measures[key], lengths.iterations[lengths.section]),
            ]
            for arm in family.arms:
                values: list[Value] = [arm.name, lengths.step_seconds[arm.name]]
                for side, iterations in sides:
                    one, p = side.comparisons.get(arm.name, (None, None))
                    difference = one.difference if one else "reference" if arm is family.reference else None
                    values += [iterations[arm.name], side.means[arm.name], difference, p]
                rows.append(Row(values, f"{family.name}: {found.measure.heading}, {_better(found.measure)}"))
    caption = (
        f"The same arms trained for equal iterations, and for as many as take {lengths.seconds:,.0f} s of stepping. "
        f"Mean over patients [{CONFIDENCE} % bootstrap interval]; differences paired by patient, Holm over the arms of "
        f"one group and side. Seconds a step: {lengths.conditions}."
    )
    return Table("equal_seconds", "Equal iterations beside equal seconds", caption, columns, rows, "measure")


def seeds(study: Study, section: Section, families: Sequence[FamilyResults]) -> Table | None:
    """The mean over patients of every seed by itself; None where no arm has several."""
    numbers = sorted({seed for scores in section.scores.values() for seed in scores})
    if len(numbers) < 2:
        return None
    rows = []
    for family in families:
        for found in family.measures.values():
            for arm in family.arms:
                by_seed = {
                    seed: float(patient_values({arm.name: {seed: scores}}, found.measure.per_case)[arm.name].mean())
                    for seed, scores in section.scores[arm.name].items()
                }
                deviation = float(np.std(list(by_seed.values()), ddof=1)) if len(by_seed) > 1 else None
                values = (arm.name, *map(by_seed.get, numbers), found.means[arm.name].mean, deviation)
                rows.append(Row(values, f"{family.name}: {found.measure.heading}"))
    columns = [Column("Arm"), *(Column(f"Seed {seed}", 2) for seed in numbers), Column("Mean", 2)]
    columns.append(Column("Standard deviation of the seeds", 2))
    caption = "Mean over patients of each seed. All other tables take a patient's mean over the seeds first."
    return Table(_name(section, study, "seeds"), f"Seeds, {section.title}", caption, columns, rows, "measure")


COURSE = (25, 50, 75, 90, 100)  # percent of a training


def course(study: Study) -> Table | None:
    """Whether the arms have stopped rising; None where no arm has logged the online Dice."""
    rows = []
    for arm in study.arms:
        curves = [
            curve.values["ema_fg_dice"] for curve in study.curves.get(arm.name, ()) if "ema_fg_dice" in curve.values
        ]
        if curves := [values for values in curves if len(values) >= len(COURSE)]:
            reached = [[100 * values[round(len(values) * share / 100) - 1] for share in COURSE] for values in curves]
            means_ = np.mean(reached, axis=0)
            rows.append(Row([arm.name, len(curves), *map(float, means_), float(means_[-1] - means_[COURSE.index(75)])]))
    if not rows:
        return None
    columns = [Column("Arm"), Column("Trainings", 0), *(Column(f"After {share} %, %", 1) for share in COURSE)]
    columns.append(Column("Gain in the last quarter, points", 1, signed=True))
    caption = (
        "nnU-Net's online Dice, smoothed over epochs, after these shares of the training; mean over folds and seeds. "
        "It is an estimate from patches, not the result. What still gains in the last quarter had not stopped rising: "
        "longer trainings may rank otherwise."
    )
    return Table("course", "Has it stopped rising?", caption, columns, rows)


def _better(measure: Measure) -> str:
    return "higher is better" if measure.higher_is_better else "lower is better"


def rankings(study: Study, section: Section, families: Sequence[FamilyResults]) -> Table:
    """How stable the order of the arms is."""
    columns = [
        Column("Arm"),
        Column("Rank", 0),
        Column("First in draws, %", 1),
        Column(f"Ranks in {CONFIDENCE} % of the draws"),
        Column("Kendall's tau", 2),
    ]
    rows = []
    for family in families:
        for found in family.measures.values():
            if family.reference is None:
                continue
            for name, rank in found.ranking.rank.sort_values(kind="stable").items():
                shares = found.ranking.shares.loc[name]
                reached = shares.cumsum()
                tail = (1 - CONFIDENCE / 100) / 2 + 1e-9
                low, high = reached[reached >= tail].index[0], reached[reached >= 1 - tail].index[0]
                span = f"{low} to {high}" if low < high else f"{low}"
                values = (name, int(rank), 100 * shares[1], span, found.ranking.kendall_tau)
                rows.append(Row(values, f"{family.name}: {found.measure.heading}"))
    caption = (
        f"Patients drawn with replacement {RANKING_DRAWS} times, arms ranked by their means each time; equal means "
        "share the better rank. Kendall's tau: agreement of a draw's ranking with that of all patients, mean over the "
        "draws, the same for a whole group; 1 is perfect."
    )
    return Table(_name(section, study, "ranking"), f"Ranking, {section.title}", caption, columns, rows, "ranking")


def averaging(study: Study, section: Section, families: Sequence[FamilyResults]) -> Table:
    """The same predictions by every way to count absent and missed classes."""
    low_contrast = _low_contrast(section)
    ways: list[tuple[str, str, Policy, Sequence[str] | None, str]] = [
        ("Dice present, %", "dice", "present", None, "volume"),
        ("Dice all, %", "dice", "all", None, "volume"),
        ("IoU present, %", "iou", "present", None, "volume"),
        ("IoU all, %", "iou", "all", None, "volume"),
        ("Dice per slice, %", "dice", "present", None, "slices"),
        ("Dice junctions, %", "dice", "present", None, "junctions"),
        ("Dice low contrast, %", "dice", "present", low_contrast, "volume"),
        ("HD found, mm", "hd_mm", "found", None, "volume"),
        ("HD95 found, mm", "hd95_mm", "found", None, "volume"),
        ("ASSD found, mm", "assd_mm", "found", None, "volume"),
    ]
    if not low_contrast:
        ways = [way for way in ways if "low contrast" not in way[0] and "junctions" not in way[0]]
    columns = [
        Column("Arm"),
        *(Column(title, 2) for title, *_ in ways),
        Column("Dice nnU-Net, %", 2),
        Column("IoU nnU-Net, %", 2),
        Column("Missed", _digits(section)),
        Column("False", _digits(section)),
    ]
    rows = []
    for family in families:
        for arm in family.arms:
            seeds = section.scores[arm.name]
            values: list[Value] = [arm.name, *(_mean(seeds, *way) for _, *way in ways)]  # type: ignore[arg-type]
            values += [_nnunet(seeds, "dice"), _nnunet(seeds, "iou"), _count(seeds, "missed"), _count(seeds, "false")]
            rows.append(Row(values, family.name))
    caption = (
        "Means over patients. Present: classes of the reference, missed ones 0. All: classes absent from both label "
        "maps count 1, falsely predicted ones 0. Found: distances where both label maps hold the class; read them with "
        "the number missed, of all classes and cases. nnU-Net: each class over its cases, then over classes."
    )
    if low_contrast:
        caption += f" Low contrast: {', '.join(low_contrast)}. Junctions: near where a vertebra meets a disc."
    return Table(
        _name(section, study, "averaging"), f"Ways to average, {section.title}", caption, columns, rows, "family"
    )


def _digits(section: Section) -> int:
    """Of counts, which are means over seeds."""
    return 0 if all(len(seeds) < 2 for seeds in section.scores.values()) else 1


def _low_contrast(section: Section) -> tuple[str, ...]:
    evaluation = next(evaluation for seeds in section.scores.values() for evaluation in seeds.values())
    return means.low_contrast_names(evaluation)


def _mean(
    seeds: Mapping[int, Evaluation], metric: str, policy: Policy, names: Sequence[str] | None, view: str
) -> float:
    """Mean over patients; overlaps in percent."""
    factor = 1 if metric in DISTANCES else 100
    values = patient_values({"arm": seeds}, lambda one: means.per_case(one, metric, policy, names, view))
    return factor * float(values["arm"].mean())


def _nnunet(seeds: Mapping[int, Evaluation], metric: str) -> float:
    """nnU-Net's foreground mean in percent, mean over seeds."""
    return 100 * float(np.mean([means.nnunet_means(evaluation, metric)[1] for evaluation in seeds.values()]))


def _count(seeds: Mapping[int, Evaluation], column: str) -> float:
    """Of all classes in all cases, mean over seeds."""
    return float(np.mean([means.class_table(evaluation)[column].sum() for evaluation in seeds.values()]))


def class_values(section: Section, arm: str) -> pd.DataFrame:
    """`means.class_table`, mean over seeds, overlaps in percent."""
    table = pooled(section.scores[arm], means.class_table)
    return table.assign(**{metric: 100 * table[metric] for metric in ("dice", "iou", "nsd")})


def classes_of_family(study: Study, section: Section, family: FamilyResults) -> Table:
    """Dice of every class (rows) and arm (columns) of a family."""
    tables = {arm.name: class_values(section, arm.name) for arm in family.arms}
    first = next(iter(tables.values()))
    names = list(first.index)
    if is_spine_table(names):
        level_of = level_names(dict(enumerate(names)))
        places = {name: position(level_of[number]) for number, name in enumerate(names)}
        names.sort(key=lambda name: (places[name] is None, places[name]))
    columns = [Column("Class"), Column("Cases", 0), *(Column(name, 1) for name in tables)]
    rows = [
        Row([name, first.loc[name, "cases"], *(table.loc[name, "dice"] for table in tables.values())]) for name in names
    ]
    key = _name(section, study, f"class_dice_{re.sub(r'[^a-z0-9]+', '-', family.name.lower())}")
    caption = "Percent, mean over the cases whose reference holds the class; a missed one counts 0. Best arm first."
    return Table(key, f"Dice by class, {family.name}", caption, columns, rows)


def classes(study: Study, section: Section, families: Sequence[FamilyResults]) -> Table:
    """Every metric of every class and arm."""
    headings = {
        "dice": Column("Dice, %", 2),
        "iou": Column("IoU, %", 2),
        "nsd": Column("NSD, %", 2),
        "hd_mm": Column("HD, mm", 2),
        "hd95_mm": Column("HD95, mm", 2),
        "assd_mm": Column("ASSD, mm", 2),
    }
    columns = [Column("Arm"), Column("Class"), Column("Cases", 0)]
    columns += [Column("Missed", _digits(section)), Column("False", _digits(section))]
    rows = []
    for family in families:
        for arm in family.arms:
            table = class_values(section, arm.name)
            for name, one in table.iterrows():
                metrics = [float(one[metric]) for metric in headings]
                rows.append(Row([arm.name, name, one["cases"], one["missed"], one["false"], *metrics], family.name))
    caption = (
        "Cases: whose reference holds the class; missed: of these; false: predicted, but not in the reference. "
        "Overlaps are means over the cases, missed ones 0; distances over those that are not missed."
    )
    title = f"Classes, {section.title}"
    return Table(_name(section, study, "classes"), title, caption, [*columns, *headings.values()], rows, "family")


def level_values(section: Section, arm: str) -> dict[str, float]:
    """`means.level_summary`, mean over seeds; empty where the labels are no spine levels."""
    summaries = [means.level_summary(evaluation) for evaluation in section.scores[arm].values()]
    return pd.DataFrame(summaries).mean().to_dict() if all(summaries) else {}


def levels(study: Study, section: Section, families: Sequence[FamilyResults]) -> Table | None:
    """Level errors; None where the labels are no spine levels."""
    rows = []
    for family in families:
        for arm in family.arms:
            if one := level_values(section, arm.name):
                shares = [one[name] for name in ("right_level", "shifted_up", "shifted_down")]
                percent = [100 * share for share in (*shares, one["found"] - sum(shares), 1 - one["found"])]
                last = (100 * one["instance_dice"], 100 * one["patients_all_right"])
                rows.append(Row([arm.name, int(one["vertebrae"]), *percent, *last], family.name))
    if not rows:
        return None
    columns = [
        Column("Arm"),
        Column("Vertebrae", 0),
        Column("Right level, %", 1),
        Column("One too high, %", 1),
        Column("One too low, %", 1),
        Column("Other level, %", 1),
        Column("Not found, %", 1),
        Column("Instance Dice, %", 1),
        Column("Patients all right, %", 1),
    ]
    caption = (
        "Shares of the reference's vertebrae, sacrum included, in all cases together: shapes are matched whatever "
        "their label, found means a Dice of at least 0.5, and then the level is right or not. Patients all right: "
        "every vertebra of every case found at its level."
    )
    return Table(_name(section, study, "levels"), f"Level errors, {section.title}", caption, columns, rows, "family")


def level_shifts(study: Study, section: Section, families: Sequence[FamilyResults]) -> Table | None:
    """Vertebrae by level shift, each arm as predicted and after level decoding; None where no labels have an order."""
    rows = []
    for family in families:
        for arm in family.arms:
            seeds = section.scores[arm.name]
            if any(evaluation.shifts.empty for evaluation in seeds.values()):
                continue
            for name, one in pooled(seeds, means.shift_summary).iterrows():
                counts = [float(one[shift]) for shift in SHIFTS]
                vertebrae = sum(counts) - float(one[EXTRA])
                values: list[Value] = [arm.name, str(name), vertebrae, *counts]
                values.append(100 * one[RIGHT] / vertebrae if vertebrae else None)
                values += [100 * float(one["patients_all_right"]), 100 * float(one["dice"])]
                decoding = [float(one[column]) for column in ("better", "worse", "flagged")]
                rows.append(Row([*values, *(decoding if name == CONSISTENT else [None] * 3)], family.name))
    if not rows:
        return None
    digits = _digits(section)
    columns = [
        Column("Arm"),
        Column("Label maps"),
        Column("Vertebrae", 0),
        *(Column(HEADINGS.get(shift, shift).capitalize(), digits) for shift in SHIFTS),
        Column("Right level, %", 1),
        Column("Patients all right, %", 1),
        Column("Dice, %", 2),
        *(Column(f"Cases {what}", digits) for what in ("better", "worse", "flagged")),
    ]
    caption = (
        "Vertebrae of the reference, in all cases together, by how many levels too low (\u2212) or too high (+) they "
        "are called; found as in the table of level errors. Extra: predicted where the reference has none. As "
        "predicted: what all other tables are of. Level-consistent: the same label maps after nnUNetv2_cafr relabel, "
        "from the labels alone, so equally for every arm. Dice: mean over cases and classes of the reference. Better, "
        "worse: cases with more, with fewer right vertebrae than as predicted. Flagged: cases of which the decoding "
        "says that something is doubtful; where that is the numbering itself, it leaves them as they are."
    )
    key, title = _name(section, study, "level_shifts"), f"Level shifts before and after level decoding, {section.title}"
    return Table(key, title, caption, columns, rows, "family")


QUANTITIES: Sequence[tuple[str, int, str, Callable[[Cost], float]]] = (
    ("GMACs", 1, "", lambda cost: cost.gmacs),
    ("Parameters, M", 1, "", lambda cost: cost.parameters / 1e6),
    ("Training step, ms", 0, "training_step_ms", lambda cost: cost.training_step_ms),
    ("Slice, ms", 1, "slice_ms", lambda cost: cost.slice_ms),
    ("Volume, s", 2, "volume_ms", lambda cost: cost.volume_ms / 1e3),
    ("Volume mirrored, s", 2, "volume_mirrored_ms", lambda cost: cost.volume_mirrored_ms / 1e3),
    ("Training memory, GiB", 2, "", lambda cost: cost.training_peak_bytes / 2**30),
)


def costs(study: Study) -> Table | None:
    """What every arm costs; None where nothing was measured."""
    if not study.costs:
        return None
    columns = [Column("Arm"), *(Column(title, digits) for title, digits, _, _ in QUANTITIES)]
    rows = []
    for arm in _with_costs(study):
        cost = study.costs[arm.name]
        spreads = [
            f"{title.split(',')[0].lower()} {_rounded(cost.spread[key][0])} to {_rounded(cost.spread[key][1])} ms"
            for title, _, key, _ in QUANTITIES
            if key in cost.spread
        ]
        rows.append(Row([arm.name, *(quantity(cost) for *_, quantity in QUANTITIES), "; ".join(spreads) or None]))
    columns.append(Column("10th to 90th percentile"))
    caption = (
        "Medians, all arms measured in turns. GMACs: multiply-accumulates of one patch; slice: one forward pass of one "
        f"patch; volume: nnU-Net's sliding window over one case. {study.cost_conditions}"
    )
    return Table("cost", "Cost", caption.strip(), columns, rows)


def cost_multiples(study: Study) -> Table | None:
    """The same in multiples of nnU-Net's own network; None where that was not measured."""
    arms = _with_costs(study)
    unit = baseline(arms)
    if unit is None:
        return None
    reference = study.costs[unit.name]
    columns = [Column("Arm"), *(Column(title.split(",")[0], 2) for title, *_ in QUANTITIES)]
    rows = []
    for arm in arms:
        ratios = [
            quantity(study.costs[arm.name]) / quantity(reference) if quantity(reference) else None
            for *_, quantity in QUANTITIES
        ]
        rows.append(Row([arm.name, *ratios]))
    return Table("cost_multiples", f"Cost in multiples of {unit.name}", "The same figures.", columns, rows)


def _rounded(value: float) -> str:
    """Three digits, never an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _with_costs(study: Study) -> list[Arm]:
    return [arm for arm in study.arms if arm.name in study.costs]


def paper_table_3(study: Study) -> Table:
    """CAFR-Net and other networks, printed and measured."""
    title = "The paper's Table 3, printed and measured"
    return _paper_table(study, "paper_table_3", title, paper_figures.NETWORKS)


def paper_table_4(study: Study) -> Table:
    """CAFR-Net without its parts, printed and measured."""
    title = "The paper's Table 4 (ablation), printed and measured"
    return _paper_table(study, "paper_table_4", title, paper_figures.ABLATION)


def _paper_table(study: Study, key: str, title: str, rows_printed: Iterable[paper_figures.Printed]) -> Table:
    section = study.sections[0]
    columns = [
        Column("Network"),
        Column("Source"),
        Column("DSC, %", 2),
        Column("HD, mm", 2),
        Column("mIoU, %", 2),
        Column("GMACs", 2),
        Column("DSC per slice, %", 2),
        Column("HD per slice, mm", 2),
        Column("DSC nnU-Net, %", 2),
        Column("Missed", _digits(section)),
    ]
    rows = []
    for line in rows_printed:
        source = "printed" if line.dice is not None else "printed, figures not recovered"
        source += f"; {line.remark}" if line.remark else ""
        figures: list[Value] = [line.dice, line.hd_mm, line.iou, line.gflops]
        rows.append(Row([line.row, source, *figures, *[None] * 4], printed=True))
        arms = [arm for arm in study.arms if arm.printed_as == line.row and section.scores.get(arm.name)]
        rows += [Row(_measured(study, section, arm, line.row)) for arm in arms]
        if not arms:
            rows.append(Row([line.row, "not measured in this study", *[None] * 8]))
    caption = (
        f"Printed: the paper's own figures, of its own split of SpineMRI. Measured: this study, "
        f"{section.title.lower()}, {study.conditions.get('data set', 'its own data')}, "
        f"{study.conditions.get('budget', 'its own budget')}. Data, split, "
        "length and metrics differ, so a printed and a measured row are no comparison; measured rows are "
        "comparable with each other. The paper says neither how it counts absent classes nor whether it scores slices "
        "or volumes: measured DSC and mIoU are means over present classes in 3-D, HD over those found, and the columns "
        "behind GMACs show other readings. The paper calls its operations GFLOPs; we read them as "
        f"multiply-accumulates. {MISSING}: not printed, not recovered, or not measured."
    )
    return Table(key, title, caption, columns, rows)


def _measured(study: Study, section: Section, arm: Arm, row: str) -> list[Value]:
    seeds = section.scores[arm.name]
    cost = study.costs.get(arm.name)
    return [
        row,
        f"measured, {arm.name}",
        _mean(seeds, "dice", "present", None, "volume"),
        _mean(seeds, "hd_mm", "found", None, "volume"),
        _mean(seeds, "iou", "present", None, "volume"),
        cost.gmacs if cost else None,
        _mean(seeds, "dice", "present", None, "slices"),
        _mean(seeds, "hd_mm", "found", None, "slices"),
        _nnunet(seeds, "dice"),
        _count(seeds, "missed"),
    ]
