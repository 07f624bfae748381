"""Scores as the terminal shows them: classes, means by every policy, levels."""

import math
from collections.abc import Iterator, Sequence

import pandas as pd

from nnunetv2_cafr.evaluation import means
from nnunetv2_cafr.evaluation.level_shifts import CONSISTENT, SHIFTS
from nnunetv2_cafr.evaluation.scores import DISTANCES, METRICS, Evaluation

HEADINGS = {"dice": "Dice", "iou": "IoU", "nsd": "NSD", "hd_mm": "HD", "hd95_mm": "HD95", "assd_mm": "ASSD"}


def summary(evaluation: Evaluation) -> str:
    """Plain text: classes, means by every policy, levels."""
    return "\n".join(
        [*_class_lines(evaluation), "", *_mean_lines(evaluation), *_level_lines(evaluation), *_shift_lines(evaluation)]
    )


def _class_lines(evaluation: Evaluation) -> Iterator[str]:
    table = means.class_table(evaluation)
    width = max(10, *(len(name) for name in table.index))
    settings = evaluation.settings
    yield (
        f"{settings['cases']} cases, each as a whole. Overlaps are means over the cases that hold the class, "
        f"a missed one counting 0; NSD at {settings['tolerance_mm']:g} mm."
    )
    yield "Distances in mm are means over those that are not missed. false: predicted, but not in the reference.\n"
    yield f"{'':<{width}}{'cases':>7}{'missed':>7}{'false':>7}" + _headings()
    somewhere = (table["cases"] > 0) | (table["false"] > 0)
    for name, row in table[somewhere].iterrows():
        counts = "".join(f"{row[column]:>7.0f}" for column in ("cases", "missed", "false"))
        yield f"{name:<{width}}{counts}" + _cells(row)
    if not somewhere.all():
        yield f"Nowhere, in neither folder: {', '.join(table.index[~somewhere])}."


def _mean_lines(evaluation: Evaluation) -> Iterator[str]:
    yield f"{'means over cases':<46}" + _headings()
    low_contrast = means.low_contrast_names(evaluation)
    rows: list[tuple[str, means.Policy, Sequence[str] | None, str]] = [
        ("classes present; missed = image diagonal", "present", None, "volume"),
        ("all classes; absent = perfect", "all", None, "volume"),
        ("classes that both hold", "found", None, "volume"),
        ("classes present, slice by slice", "present", None, "slices"),
        ("all structures as one", "present", None, "foreground"),
    ]
    if low_contrast:
        rows.append((f"low contrast, present ({' '.join(low_contrast)})", "present", low_contrast, "volume"))
    if (evaluation.classes["view"] == "junctions").any():
        rows.append(("junctions of vertebra and disc, present", "present", None, "junctions"))
    for title, policy, names, view in rows:
        values = {metric: means.per_case(evaluation, metric, policy, names, view).mean() for metric in METRICS}
        yield f"{title:<46}" + _cells(pd.Series(values))
    overlaps = {metric: means.nnunet_means(evaluation, metric)[1] for metric in ("dice", "iou")}
    title = "nnU-Net: per class, then over classes"
    if math.isnan(overlaps["dice"]):
        title = "nnU-Net: NaN, for a class that occurs nowhere"
    yield f"{title:<46}" + _cells(pd.Series(overlaps).reindex(METRICS))


def _level_lines(evaluation: Evaluation) -> Iterator[str]:
    levels = means.level_summary(evaluation)
    if levels:
        known = evaluation.levels["patient"].ne(evaluation.levels["case"]).any()  # by provenance.json
        yield (
            f"\n{levels['vertebrae']:.0f} vertebrae: {levels['found']:.1%} found whatever their label (instance Dice "
            f"{levels['instance_dice']:.3f}), {levels['right_level']:.1%} at the right level,"
        )
        yield (
            f"{levels['shifted_up']:.1%} one too high, {levels['shifted_down']:.1%} one too low; all right in "
            f"{levels['patients_all_right']:.1%} of {levels['patients']:.0f} {'patients' if known else 'cases'}"
        )


def _shift_lines(evaluation: Evaluation) -> Iterator[str]:
    table = means.shift_summary(evaluation)
    if table.empty:
        return
    yield f"\n{'vertebrae by level shift':<26}" + "".join(f"{shift:>8}" for shift in SHIFTS) + f"{'Dice':>8}"
    for name, row in table.iterrows():
        yield f"{name:<26}" + "".join(f"{row[shift]:>8.0f}" for shift in SHIFTS) + f"{row['dice']:>8.3f}"
    decoded = table.loc[CONSISTENT]
    yield (
        "Level-consistent is the same after nnUNetv2_cafr relabel, from the labels alone: "
        f"{decoded['better']:.0f} cases better, {decoded['worse']:.0f} worse, {decoded['flagged']:.0f} flagged."
    )


def _headings() -> str:
    return "".join(f"{title:>8}" for title in HEADINGS.values())


def _cells(values: pd.Series) -> str:
    cells = []
    for metric in HEADINGS:
        digits = 2 if metric in DISTANCES else 3
        cells.append(f"{'-':>8}" if pd.isna(values[metric]) else f"{values[metric]:>8.{digits}f}")
    return "".join(cells)
