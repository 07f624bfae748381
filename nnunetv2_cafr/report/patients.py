"""One value per patient and arm, from the scores of its cases and seeds: what every interval and test is made of.

A patient's cases are averaged first, then its seeds; so a patient with many series counts as much as one with a single
one, and a second seed makes a value more certain without counting as another patient.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nnunetv2_cafr.errors import shorten
from nnunetv2_cafr.evaluation.means import per_case
from nnunetv2_cafr.evaluation.scores import Evaluation
from nnunetv2_cafr.report.study import Section
from nnunetv2_cafr.spine import disc_of, vertebra_of


@dataclass(frozen=True)
class Measure:
    """A number per case, as it is shown and compared.

    Args:
        per_case: values indexed by case, NaN where a case has none.
    """

    key: str
    title: str
    unit: str
    higher_is_better: bool
    meaning: str
    per_case: Callable[[Evaluation], pd.Series]

    @property
    def heading(self) -> str:
        return f"{self.title}, {self.unit}"


def _dice_of(kind: Callable[[str], object]) -> Callable[[Evaluation], pd.Series]:
    """Dice over vertebrae or over discs; NaN everywhere where the references hold only one of the two."""

    def per_case_of_kind(evaluation: Evaluation) -> pd.Series:
        names = set(evaluation.classes.loc[evaluation.classes["reference_mm3"] > 0, "name"])
        both = any(map(vertebra_of, names)) and any(map(disc_of, names))
        return 100 * per_case(evaluation, "dice", "present", [name for name in names if both and kind(name)])

    return per_case_of_kind


def _own_label_wins(evaluation: Evaluation) -> pd.Series:
    """Share of each case's structures."""
    levels = evaluation.levels.set_index("case")
    return levels["own_label_wins"] / levels["structures"].where(levels["structures"] > 0)


def _all_levels_right(evaluation: Evaluation) -> pd.Series:
    share = _own_label_wins(evaluation)
    return share.eq(1).where(share.notna())


DICE = Measure(
    "dice",
    "Dice",
    "%",
    True,
    "mean over the classes of the reference; a missed one counts 0",
    lambda evaluation: 100 * per_case(evaluation, "dice", "present"),
)
NSD = Measure(
    "nsd",
    "NSD",
    "%",
    True,
    "normalised surface Dice: share of both surfaces within the tolerance of each other; classes as for Dice",
    lambda evaluation: 100 * per_case(evaluation, "nsd", "present"),
)
HD95 = Measure(
    "hd95",
    "HD95",
    "mm",
    False,
    "95th percentile of the surface distance, mean over the classes of the reference; a missed one counts as the "
    "diagonal of the image",
    lambda evaluation: per_case(evaluation, "hd95_mm", "present"),
)
DICE_VERTEBRAE = Measure(
    "dice-vertebrae", "Dice of vertebrae", "%", True, "as Dice, sacrum included", _dice_of(vertebra_of)
)
DICE_DISCS = Measure("dice-discs", "Dice of discs", "%", True, "as Dice", _dice_of(disc_of))
LEVELS = Measure(
    "levels",
    "Level accuracy",
    "%",
    True,
    "share of a case's structures whose own label wins: no other has as many of their voxels, background aside",
    lambda evaluation: 100 * _own_label_wins(evaluation),
)
ALL_LEVELS = Measure(
    "all-levels",
    "All levels right",
    "%",
    True,
    "share of cases in which that holds for every structure",
    lambda evaluation: 100 * _all_levels_right(evaluation).astype(float),
)
# The measures that are tested; the first one decides the order of tables.
TESTED = (DICE, DICE_VERTEBRAE, DICE_DISCS, NSD, HD95, LEVELS, ALL_LEVELS)


def check_same_cases(section: Section) -> None:
    """Whether values can be paired.

    Raises:
        ValueError: naming the cases, if an arm or a seed lacks one that another has, or was scored against another
            reference: one that was corrected between the two, say.
    """
    scores = {
        f"{arm}, seed {seed}": evaluation for arm, seeds in section.scores.items() for seed, evaluation in seeds.items()
    }
    found = {
        who: dict(zip(evaluation.levels["case"], evaluation.levels["patient"], strict=True))
        for who, evaluation in scores.items()
    }
    expected = {case: patient for cases in found.values() for case, patient in cases.items()}
    problems = []
    for who, cases in found.items():
        if lacking := sorted(set(expected) - set(cases)):
            problems.append(f"{who} lacks {len(lacking)} of {len(expected)} cases: {shorten(lacking)}")
        if moved := sorted(case for case, patient in cases.items() if patient != expected[case]):
            problems.append(f"{who} gives other patients to {shorten(moved)} than another arm")
    first = next(iter(scores), "")
    for who, evaluation in scores.items():
        if other := _cases_of_other_references(scores[first], evaluation):
            problems.append(
                f"{who} was scored against another reference of {shorten(other)} than {first}: remove the scores of "
                "both, and give the benchmark's line again"
            )
    if problems:
        raise ValueError(
            f"{section.title}: arms can only be compared on the same cases. Predict and score what is missing, or "
            "leave the arm out:\n- " + "\n- ".join(problems)
        )


def _cases_of_other_references(one: Evaluation, other: Evaluation) -> list[str]:
    """Of the cases that both have, those of which a class has another volume in the reference."""
    volumes = [
        scores.classes[scores.classes["view"] == "volume"].set_index(["case", "name"])["reference_mm3"]
        for scores in (one, other)
    ]
    both = pd.concat(volumes, axis=1, join="inner")
    differs = ~np.isclose(both.iloc[:, 0], both.iloc[:, 1])
    return sorted(set(both.index[differs].get_level_values("case")))


def patient_values(
    scores: Mapping[str, Mapping[int, Evaluation]], per_case: Callable[[Evaluation], pd.Series]
) -> pd.DataFrame:
    """Patients by arms, mean over a patient's cases and then over seeds.

    Patients without a value in any arm's evaluation are left out; the reference decides that, equally for all arms.
    """
    columns = {}
    for arm, seeds in scores.items():
        if seeds:
            by_seed = [_by_patient(evaluation, per_case) for evaluation in seeds.values()]
            columns[arm] = pd.concat(by_seed, axis=1).mean(axis=1)
    return pd.DataFrame(columns).dropna().sort_index()


def _by_patient(evaluation: Evaluation, per_case: Callable[[Evaluation], pd.Series]) -> pd.Series:
    patients = evaluation.levels.set_index("case")["patient"]
    return per_case(evaluation).groupby(patients).mean()


def pooled(seeds: Mapping[int, Evaluation], values: Callable[[Evaluation], pd.DataFrame]) -> pd.DataFrame:
    """Mean over seeds of a table that each evaluation gives, with the rows and columns of the first."""
    tables = [values(evaluation) for evaluation in seeds.values()]
    together = pd.concat(tables).groupby(level=0, sort=False).mean()
    return together.loc[tables[0].index]
