"""Tables: values against the scores that they came from, and what each format makes of them."""

import csv
import dataclasses
import io
import shutil
import subprocess

import numpy as np
import pytest

from nnunetv2_cafr.evaluation import means
from nnunetv2_cafr.evaluation.scores import Evaluation
from nnunetv2_cafr.report import figures, tables
from nnunetv2_cafr.report.analysis import analyse
from nnunetv2_cafr.report.page import render
from nnunetv2_cafr.report.patients import (
    ALL_LEVELS,
    DICE,
    DICE_DISCS,
    DICE_VERTEBRAE,
    HD95,
    LEVELS,
    check_same_cases,
    patient_values,
)
from nnunetv2_cafr.report.statistics import Estimate, holm, signed_rank_p
from nnunetv2_cafr.report.study import Cost, Curve, Lengths, Section, Study
from nnunetv2_cafr.report.table import P_VALUE, Column, Row, Table, p_text

from .synthetic_study import ARMS, DIAGONAL, NAMES, evaluation, section

NAMED = {one.name: one for one in ARMS}
CHOSEN = tuple(NAMED[name] for name in ("nnU-Net", "CAFR-stockDA", "LevelSafe", "UNet", "CAFR", "CAFR-noLAFR"))


@pytest.fixture(scope="module")
def study() -> Study:
    sections = [section("validation", 8, arms=CHOSEN, seeds=2, cases_each=2)]
    costs = {
        "LevelSafe": Cost(10, 20_000_000, 100, 10, 2000, 4000, 2**30),
        "CAFR": Cost(5, 10**7, 50, 5, 500, 1000, 2**29),
    }
    conditions = {"data set": "Dataset7_Tiny", "budget": "2 epochs"}
    return Study("Tiny", CHOSEN, sections, {}, conditions, {}, costs=costs)


@pytest.fixture(scope="module")
def families(study):
    return analyse(study.arms, study.sections[0])


def test_patients_are_means_over_cases_then_seeds(study):
    seeds = study.sections[0].scores["CAFR"]
    values = patient_values({"CAFR": seeds}, DICE.per_case)["CAFR"]
    by_hand = []
    for one in seeds.values():
        rows = one.classes.query("view == 'volume' and patient == 'patient 3' and reference_mm3 > 0")
        by_hand.append(np.mean([rows[rows["case"] == case]["dice"].mean() for case in rows["case"].unique()]))
    assert len(values) == 8
    assert values["patient 3"] == pytest.approx(100 * np.mean(by_hand))


def test_missed_classes_count_the_diagonal_and_levels_are_shares():
    one = evaluation(0.9, 1, 0)
    one.classes.loc[one.classes["name"] == "L3", ["prediction_mm3", "dice", "iou", "nsd"]] = 0
    one.classes.loc[one.classes["name"] == "L3", ["hd_mm", "hd95_mm", "assd_mm"]] = np.inf
    rows = one.classes.query("view == 'volume' and reference_mm3 > 0")
    expected = rows["hd95_mm"].replace(np.inf, DIAGONAL).mean()
    assert patient_values({"a": {0: one}}, HD95.per_case)["a"].item() == pytest.approx(expected)
    level = one.levels.iloc[0]
    assert (
        patient_values({"a": {0: one}}, LEVELS.per_case)["a"].item()
        == 100 * level["own_label_wins"] / level["structures"]
    )


def test_vertebrae_and_discs_apart_where_the_references_hold_both():
    one = evaluation(0.9, 2, 0)
    rows = one.classes.query("view == 'volume' and reference_mm3 > 0")
    is_disc = rows["name"].str.contains("/")
    for measure, kept in ((DICE_DISCS, is_disc), (DICE_VERTEBRAE, ~is_disc)):
        expected = 100 * rows[kept].groupby("patient")["dice"].mean()
        np.testing.assert_allclose(patient_values({"a": {0: one}}, measure.per_case)["a"], expected)
    one.classes.loc[one.classes["name"].str.contains("/"), "reference_mm3"] = 0
    assert patient_values({"a": {0: one}}, DICE_VERTEBRAE.per_case).empty, "it is the Dice of all"


def test_all_levels_right_counts_cases():
    one = evaluation(0.9, 4, 0)
    one.levels["own_label_wins"] = [16, 15, 16, 0]
    assert patient_values({"a": {0: one}}, ALL_LEVELS.per_case)["a"].tolist() == [100, 0, 100, 0]
    one.levels.loc[0, ["structures", "own_label_wins"]] = 0
    assert patient_values({"a": {0: one}}, ALL_LEVELS.per_case)["a"].tolist() == [0, 100, 0], (
        "without structures no value"
    )


def test_seeds_are_shown_one_by_one(study, families):
    table = tables.seeds(study, study.sections[0], families)
    titles = [column.title for column in table.columns]
    assert titles[:4] == ["Arm", "Seed 0", "Seed 1", "Mean"]
    row = next(row for row in table.rows if row.values[0] == "CAFR" and row.group == "level-safe: Dice, %")
    scores = study.sections[0].scores["CAFR"]
    by_seed = [patient_values({"a": {seed: one}}, DICE.per_case)["a"].mean() for seed, one in scores.items()]
    assert row.values[1:4] == pytest.approx([*by_seed, np.mean(by_seed)])
    assert row.values[4] == pytest.approx(np.std(by_seed, ddof=1))
    single = section("validation", 3, arms=CHOSEN[:2])
    assert tables.seeds(study, single, analyse(CHOSEN[:2], single)) is None


def test_equal_iterations_beside_equal_seconds(study, families):
    steps = {"LevelSafe": 0.8, "UNet": 2.0, "CAFR": 0.3, "CAFR-noLAFR": 0.25}
    second = section("equal-seconds", 8, 0.05, arms=CHOSEN[2:], seeds=2, cases_each=2)
    iterations = {
        "validation": dict.fromkeys(steps, 500),
        "equal-seconds": {n: round(400 / s) for n, s in steps.items()},
    }
    lengths = Lengths("equal-seconds", 400, iterations, steps, "a quiet machine")
    level_safe = [family for family in families if family.name == "level-safe"]
    table = tables.side_by_side(study, level_safe, analyse(CHOSEN[2:], second), lengths)
    row = next(row for row in table.rows if row.values[0] == "LevelSafe" and "Dice, %" in row.group)
    cells = dict(zip([column.title for column in table.columns], row.values, strict=True))
    assert cells["Seconds a step"] == 0.8
    for words, one, number in (("equal iterations", study.sections[0], 500), ("400 s", second, 500)):
        values = patient_values(one.scores, DICE.per_case)
        assert cells[f"Iterations, {words}"] == number
        assert cells[f"Value, {words}"].mean == pytest.approx(values["LevelSafe"].mean())
        difference = (values["LevelSafe"] - values["CAFR"]).mean()
        assert cells[f"Minus reference, {words}"].mean == pytest.approx(difference)
    cafr = next(row for row in table.rows if row.values[0] == "CAFR" and "Dice, %" in row.group)
    assert cafr.values[1:3] == [0.3, 500] and cafr.values[6] == 1333 and cafr.values[4] == "reference"
    page, _ = render(dataclasses.replace(study, sections=[*study.sections, second], lengths=lengths))
    assert "At 400 s of stepping: level-safe" in page and 'id="table-equal_seconds"' in page


def test_what_still_gains_has_not_stopped_rising(study):
    curves = {"CAFR": [Curve("fold 0", seed, {"ema_fg_dice": [0.01 * n for n in range(1, 41)]}) for seed in (0, 1)]}
    curves["LevelSafe"] = [Curve("fold 0", 0, {"ema_fg_dice": [*[0.1] * 20, *[0.8] * 20]})]
    curves["UNet"] = [Curve("fold 0", 0, {"ema_fg_dice": [0.5, 0.6]})]  # too short to say
    rows = {row.values[0]: row.values[1:] for row in tables.course(dataclasses.replace(study, curves=curves)).rows}
    assert rows["CAFR"] == pytest.approx([2, 10, 20, 30, 36, 40, 10])
    assert rows["LevelSafe"] == pytest.approx([1, 10, 10, 80, 80, 80, 0])
    assert "UNet" not in rows and tables.course(study) is None


def test_families_never_mix_and_holm_runs_over_the_comparisons_of_one(families):
    assert [(family.name, family.reference.name) for family in families] == [
        ("stock", "CAFR-stockDA"),
        ("level-safe", "CAFR"),
    ]
    found = families[1].measures["dice"]
    assert set(found.values) == {"LevelSafe", "UNet", "CAFR", "CAFR-noLAFR"}
    raw = [signed_rank_p(found.values[name] - found.values["CAFR"]) for name in found.comparisons]
    assert [p for _, p in found.comparisons.values()] == holm(raw) and len(raw) == 3
    order = [found.means[one.name].mean for one in families[1].arms]
    assert order == sorted(order, reverse=True)


def test_without_cafr_the_first_arm_is_the_reference_and_one_arm_has_none():
    arms = (NAMED["UNet"], NAMED["LevelSafe"])
    (family,) = analyse(arms, section("validation", 6, arms=arms))
    assert family.reference is arms[0] and not family.reference_is_cafr
    (single,) = analyse(arms[:1], section("validation", 6, arms=arms[:1]))
    assert single.reference is None and single.measures["dice"].comparisons == {}


def test_results(study, families):
    table = tables.results(study, study.sections[0], families)
    titles = [column.title for column in table.columns]
    row = next(row for row in table.rows if row.values[0] == "CAFR")
    cells = dict(zip(titles, row.values, strict=True))
    values = patient_values(study.sections[0].scores, DICE.per_case)["CAFR"]
    assert cells["Dice, %"].mean == pytest.approx(values.mean())
    assert cells["Dice minus reference, points"] == "reference"
    assert (cells["GMACs"], cells["Parameters, M"], cells["Volume, s"]) == (5, 10, 0.5)
    other = dict(zip(titles, next(row for row in table.rows if row.values[0] == "UNet").values, strict=True))
    unet = patient_values(study.sections[0].scores, DICE.per_case)["UNet"]
    assert other["Dice minus reference, points"].mean == pytest.approx((unet - values).mean())
    assert other["GMACs"] is None
    assert [row.group for row in table.rows] == ["stock"] * 2 + ["level-safe"] * 4


def test_ways_to_average_are_those_of_means(study, families):
    table = tables.averaging(study, study.sections[0], families)
    cells = dict(zip([column.title for column in table.columns], table.rows[-1].values, strict=True))
    seeds = study.sections[0].scores[table.rows[-1].values[0]].values()
    assert cells["Dice nnU-Net, %"] == pytest.approx(
        100 * np.mean([means.nnunet_means(one, "dice")[1] for one in seeds])
    )
    assert cells["Missed"] == np.mean([means.class_table(one)["missed"].sum() for one in seeds])
    # Two cases of every patient: the mean over patients is that over cases.
    expected = np.mean([means.per_case(one, "hd_mm", "found").mean() for one in seeds])
    assert cells["HD found, mm"] == pytest.approx(expected)
    assert cells["Dice all, %"] != cells["Dice present, %"]


def test_classes_go_up_the_spine(study, families):
    table = tables.classes_of_family(study, study.sections[0], families[1])
    assert [row.values[0] for row in table.rows][:5] == ["S", "L5/S", "L5", "L4/L5", "L4"]
    column = [column.title for column in table.columns].index("CAFR")
    rows = [one.classes.query("view == 'volume' and name == 'L5' and reference_mm3 > 0")["dice"].mean()
            for one in study.sections[0].scores["CAFR"].values()]  # fmt: skip
    assert table.rows[2].values[column] == pytest.approx(100 * np.mean(rows))


def test_levels_are_known_by_other_tools_names(study):
    one = evaluation(0.9, 2, 0)
    others = {name: f"disc_{name}" if "/" in name else f"vertebrae_{name}" for name in NAMES}
    renamed = dataclasses.replace(one, classes=one.classes.replace({"name": others}))
    for measure in (DICE_VERTEBRAE, DICE_DISCS):
        assert patient_values({"a": {0: renamed}}, measure.per_case).equals(
            patient_values({"a": {0: one}}, measure.per_case)
        )
    assert means.low_contrast_names(renamed) == tuple(others[name] for name in means.LOW_CONTRAST)
    alone = Section("validation", "", "", {"CAFR": {0: renamed}})
    table = tables.classes_of_family(study, alone, *analyse([NAMED["CAFR"]], alone))
    assert [row.values[0] for row in table.rows][:3] == ["vertebrae_S", "disc_L5/S", "vertebrae_L5"]


def test_level_errors_add_up(study, families):
    table = tables.levels(study, study.sections[0], families)
    for row in table.rows:
        assert sum(row.values[2:7]) == pytest.approx(100)
    other = section("validation", 3, arms=CHOSEN[:2], names=("liver", "tumour"))
    plain = Study("Tiny", CHOSEN[:2], [other], {}, {}, {})
    assert tables.levels(plain, other, analyse(plain.arms, other)) is None


def test_level_shifts_before_and_after(study, families):
    table = tables.level_shifts(study, study.sections[0], families)
    rows = {(row.values[0], row.values[1]): dict(zip((c.title for c in table.columns), row.values, strict=True))
            for row in table.rows}  # fmt: skip
    assert len(rows) == 2 * len(CHOSEN)
    seeds = study.sections[0].scores["UNet"].values()
    before, after = rows["UNet", "as predicted"], rows["UNet", "level-consistent"]
    assert before["Vertebrae"] == after["Vertebrae"] == 8 * 16
    assert before["+1"] == np.mean([one.levels["shifted_up"].sum() for one in seeds])
    levels = {row.values[0]: row.values[2] for row in tables.levels(study, study.sections[0], families).rows}
    assert before["Right level, %"] == pytest.approx(levels["UNet"])
    assert after["Right"] > before["Right"] and after["Cases better"] > 0 == after["Cases worse"]
    assert before["Cases better"] is None
    figure = figures.level_shifts("shifts", table)
    assert figure is not None and figure.svg.count("level-consistent") == len(CHOSEN)
    assert "<image" not in figure.svg  # the page shows no PNG


@pytest.mark.parametrize("name", ["costs $5 and $6", r"a $\frac$ b"])
def test_names_that_look_like_formulas_are_drawn_as_they_are(name):
    columns = [Column(title) for title in ("Arm", "Vertebrae", "Right", "Down", "Up", "Other", "Missed")]
    figure = figures.level_errors(
        "errors", Table("errors", "Errors", "", columns, [Row([name, 9, 50, 10, 10, 10, 20])])
    )
    assert figure is not None and name in figure.svg


def test_cost_in_multiples_of_nnunet(study):
    assert [row.values[0] for row in tables.costs(study).rows] == ["LevelSafe", "CAFR"]
    table = tables.cost_multiples(study)
    titles = [column.title for column in table.columns]
    assert [row.values[0] for row in table.rows] == ["LevelSafe", "CAFR"]
    assert set(table.rows[0].values[1:]) == {1}
    assert table.rows[1].values[titles.index("GMACs")] == 0.5
    assert table.rows[1].values[titles.index("Volume")] == 0.25


def test_paper_tables_mark_what_is_printed(study):
    rows = tables.paper_table_3(study).rows
    assert [row.printed for row in rows[:2]] == [True, False]
    assert rows[0].values[:6] == ["CAFR-Net", "printed", 92.04, 3.52, 89.31, 5.12]
    assert rows[1].values[1] == "measured, CAFR" and rows[1].values[5] == 5
    values = patient_values(study.sections[0].scores, DICE.per_case)["CAFR"]
    assert rows[1].values[2] == pytest.approx(values.mean())
    swin = [row for row in rows if row.values[0] == "Swin-Unet"]
    assert "derived" in swin[0].values[1] and swin[1].values[1] == "not measured in this study"
    ablation = {row.values[0]: row for row in tables.paper_table_4(study).rows if row.printed}
    assert [row.values[2] for row in ablation.values()] == [88.92, 90.43, 91.12, 92.04]


def test_scores_against_another_reference_are_refused():
    """A mask of the held-out cases was corrected after the first arm had been scored."""
    first, later = evaluation(0.9, 4, 0), evaluation(0.9, 4, 1)
    check_same_cases(Section("validation", "CV", "", {"CAFR": {0: first}, "UNet": {0: later}}))
    is_corrected = (later.classes["case"] == "case_002_0") & (later.classes["name"] == "L3")
    later.classes.loc[is_corrected, "reference_mm3"] *= 1.02
    with pytest.raises(ValueError, match=r"UNet, seed 0 was scored against another reference of case_002_0 than CAFR"):
        check_same_cases(Section("validation", "CV", "", {"CAFR": {0: first}, "UNet": {0: later}}))


def test_an_arm_that_lacks_cases_is_refused():
    one, other = evaluation(0.9, 4, 0), evaluation(0.8, 4, 1)
    keep = other.levels["case"] != "case_002_0"
    fewer = Evaluation(other.classes[other.classes["case"] != "case_002_0"], other.levels[keep], {})
    with pytest.raises(ValueError, match=r"UNet, seed 1 lacks 1 of 4 cases: case_002_0"):
        check_same_cases(Section("validation", "CV", "", {"CAFR": {0: one}, "UNet": {0: one, 1: fewer}}))
    moved = Evaluation(other.classes, other.levels.replace("patient 2", "patient 3"), {})
    with pytest.raises(ValueError, match="other patients to case_002_0"):
        check_same_cases(Section("validation", "CV", "", {"CAFR": {0: moved}, "UNet": {0: one}}))


TABLE = Table(
    "tiny",
    "Title 50 %",
    "Caption.",
    [Column("Arm_1"), Column("Dice, %", 1, interval=True), Column("p", P_VALUE), Column("Difference", 2, signed=True)],
    [
        Row(["a|b & c", Estimate(90.123456, 88, 92.05), 0.0499, -1.5], "one"),
        Row(["d", None, 0.0004, 0.001], "two"),
        Row(["e", Estimate(1234.5, np.nan, np.nan), None, 2], "two"),
    ],
    "family",
)


def test_formats():
    rows = list(csv.reader(io.StringIO(TABLE.csv())))
    assert rows[0] == ["family", "Arm_1", "Dice, %", "Dice, %, 95 % low", "Dice, %, 95 % high", "p", "Difference"]
    assert rows[1] == ["one", "a|b & c", "90.123456", "88", "92.05", "0.0499", "-1.5"]
    assert rows[2] == ["two", "d", "", "", "", "0.0004", "0.001"]
    markdown = TABLE.markdown().splitlines()
    assert markdown[2] == "| family | Arm_1 | Dice, % | p | Difference |"
    assert markdown[4] == "| one | a\\|b & c | 90.1 [88.0, 92.0] | 0.0499 | \u22121.50 |"
    assert markdown[5] == "| two | d | \u2013 | < 0.001 | 0.00 |"
    assert markdown[6] == "| two | e | 1,234.5 | \u2013 | +2.00 |"
    latex = TABLE.latex()
    assert "a|b \\& c & 90.1 [88.0, 92.0] & 0.0499 & $-$1.50 \\\\" in latex
    assert "\\multicolumn{4}{l}{\\textit{two}} \\\\" in latex and "Title 50 \\%" in latex and "Arm\\_1" in latex
    assert latex.count("\\midrule") == 2


def test_rounding_does_not_reach_the_limit_of_significance():
    texts = ("0.050", "0.050", "0.0499", "0.049", "0.001", "< 0.001", "1.000")
    assert tuple(p_text(p) for p in (0.0501, 0.05, 0.04999, 0.0494, 0.001, 0.00099, 1)) == texts


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on the PATH")
def test_latex_compiles(study, families, tmp_path):
    body = tables.results(study, study.sections[0], families).latex() + tables.paper_table_3(study).latex()
    document = "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs}\\begin{document}"
    (tmp_path / "a.tex").write_text(f"{document}{body}{TABLE.latex()}\\end{{document}}", encoding="utf-8")
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"], cwd=tmp_path, check=True)
