"""From rows per case and class to one value: the ways to count classes that are absent or missed, each with its name.

A class that a case does not hold moves a mean by more than ten points, and papers rarely say how they count it. The
policies, for one case:
  present   mean over the classes of its reference. A missed one has Dice, IoU and NSD 0, and as distance the diagonal
            of the image. What is predicted but absent from the reference does not show
  all       mean over all classes of the label table. Absent from both label maps counts as perfect (Dice 1, 0 mm),
            predicted though absent as missed
  found     mean over the classes that both label maps hold. Flatters whoever misses the hard ones: give the counts of
            `class_table` beside it
nnU-Net's own foreground mean is none of these: it averages each class over its cases first (`nnunet_means`).
"""

from collections.abc import Collection
from typing import Literal, get_args

import numpy as np
import pandas as pd

from nnunetv2_cafr.evaluation.level_shifts import CONSISTENT, EXTRA, PREDICTED, RIGHT, SHIFTS
from nnunetv2_cafr.evaluation.scores import DISTANCES, METRICS, OVERLAPS, Evaluation
from nnunetv2_cafr.spine import SACRUM, is_spine_table, level_names, vertebra_of

Policy = Literal["present", "all", "found"]

# The paper reports regions of low contrast, "sacrum and lower lumbar"; which levels these are is our reading.
LOW_CONTRAST = ("S", "L5", "L4", "L5/S", "L4/L5")


def values_by_policy(
    evaluation: Evaluation, metric: str, policy: Policy, names: Collection[str] | None = None, view: str = "volume"
) -> pd.DataFrame:
    """The rows that a policy counts, with columns case, patient, name and value; no value is NaN or infinite.

    Args:
        metric: one of METRICS.
        names: of classes; all without it.
        view: of the classes, see scores.py.
    """
    if metric not in METRICS or policy not in get_args(Policy):
        raise ValueError(f"metric {metric!r}, policy {policy!r}: expected one of {METRICS} and of {get_args(Policy)}")
    rows = evaluation.classes[evaluation.classes["view"] == view]
    if names is not None:
        rows = rows[rows["name"].isin(names)]
    in_reference, in_prediction = rows["reference_mm3"] > 0, rows["prediction_mm3"] > 0
    if metric in DISTANCES:
        perfect, worst = 0.0, rows["case"].map(evaluation.levels.set_index("case")["diagonal_mm"])
        values = rows[metric].where(np.isfinite(rows[metric]) | rows[metric].isna(), worst)
    else:
        perfect, values = 1.0, rows[metric]
    values = values.where(in_reference | in_prediction, perfect)
    counted = {"present": in_reference, "all": np.ones(len(rows), bool), "found": in_reference & in_prediction}[policy]
    return rows.assign(value=values).loc[counted, ["case", "patient", "name", "value"]]


def per_case(
    evaluation: Evaluation, metric: str, policy: Policy, names: Collection[str] | None = None, view: str = "volume"
) -> pd.Series:
    """One value per case, indexed by case in the evaluation's order; NaN where the policy counts no class.

    Arguments as for `values_by_policy`.
    """
    means = values_by_policy(evaluation, metric, policy, names, view).groupby("case")["value"].mean()
    return means.reindex(evaluation.levels["case"]).rename(metric)


def nnunet_means(evaluation: Evaluation, metric: str) -> tuple[pd.Series, float]:
    """What nnU-Net's summary.json calls mean and foreground_mean, for Dice and IoU.

    Returns:
        Mean per class, indexed by name, over the cases in which either label map holds it; and the mean of these, which
        is NaN, as nnU-Net's, if no case holds some class.
    """
    if metric not in OVERLAPS:
        raise ValueError(f"metric {metric!r}: nnU-Net averages overlaps, {OVERLAPS}")
    rows = evaluation.classes[evaluation.classes["view"] == "volume"]
    means = rows.groupby("name", sort=False)[metric].mean()
    return means, float(means.mean(skipna=False))


def class_table(evaluation: Evaluation) -> pd.DataFrame:
    """One row per class, indexed by name.

    Returns:
        cases: whose reference holds the class; missed: those of them whose prediction does not; false: cases whose
        prediction holds it, but whose reference does not; means of overlaps over `cases` (missed ones are 0), and of
        distances over those that are not missed.
    """
    rows = evaluation.classes[evaluation.classes["view"] == "volume"]
    in_reference, in_prediction = rows["reference_mm3"] > 0, rows["prediction_mm3"] > 0
    flags = pd.DataFrame(
        {"cases": in_reference, "missed": in_reference & ~in_prediction, "false": in_prediction & ~in_reference}
    )
    table = flags.groupby(rows["name"], sort=False).sum()
    for metric in METRICS:
        policy: Policy = "found" if metric in DISTANCES else "present"
        table[metric] = values_by_policy(evaluation, metric, policy).groupby("name")["value"].mean()
    return table


def low_contrast_names(evaluation: Evaluation) -> tuple[str, ...]:
    """LOW_CONTRAST's classes as far as the label table has them; none where the labels are no spine levels."""
    names = dict(enumerate(evaluation.classes["name"].unique()))
    if not is_spine_table(names.values()):
        return ()
    levels = level_names(names)
    levels |= {number: SACRUM for number, name in names.items() if vertebra_of(name) == SACRUM}  # S1 and sacrum
    return tuple(names[number] for level in LOW_CONTRAST for number in names if levels[number] == level)


def level_summary(evaluation: Evaluation) -> dict[str, float]:
    """Level errors of all cases; empty where the labels are no spine levels.

    Returns:
        vertebrae: their number in the references; found, right_level, shifted_up, shifted_down: shares of them;
        instance_dice: mean over cases; patients: number of those with a vertebra; patients_all_right: share of them
        whose every case has all levels right.
    """
    levels = evaluation.levels[evaluation.levels["vertebrae"] > 0]
    if levels.empty:
        return {}
    vertebrae = float(levels["vertebrae"].sum())
    shares = ("found", "right_level", "shifted_up", "shifted_down")
    by_patient = levels.groupby("patient")["all_right"].min()
    return {
        "vertebrae": vertebrae,
        **{column: float(levels[column].sum() / vertebrae) for column in shares},
        "instance_dice": float(levels["instance_dice"].mean()),
        "patients": float(len(by_patient)),
        "patients_all_right": float(by_patient.mean()),
    }


def shift_summary(evaluation: Evaluation) -> pd.DataFrame:
    """Vertebrae by level shift before and after level decoding; empty where the labels have no order.

    Returns:
        Rows PREDICTED and CONSISTENT; columns SHIFTS: numbers of vertebrae; dice: mean over cases; patients_all_right:
        share of those with a vertebra whose every vertebra in every case is right; better, worse: cases with more, with
        fewer right vertebrae than as predicted; flagged: cases with any flag of the decoding.
    """
    rows = {}
    before = evaluation.shifts[evaluation.shifts["label_maps"] == PREDICTED].set_index("case")
    for name in (PREDICTED, CONSISTENT):
        shifts = evaluation.shifts[evaluation.shifts["label_maps"] == name].set_index("case")
        if shifts.empty:
            return pd.DataFrame()
        vertebrae = shifts[list(SHIFTS)].drop(columns=EXTRA).sum(axis=1)
        judged = vertebrae > 0
        right = (shifts[RIGHT] == vertebrae)[judged].groupby(shifts.loc[judged, "patient"]).min()
        gained = shifts[RIGHT] - before[RIGHT]
        rows[name] = {
            **shifts[list(SHIFTS)].sum(),
            "dice": shifts["dice"].mean(),
            "patients_all_right": right.mean(),
            "better": (gained > 0).sum(),
            "worse": (gained < 0).sum(),
            "flagged": shifts["flags"].fillna("").ne("").sum(),
        }
    return pd.DataFrame(rows).T.astype(float)
