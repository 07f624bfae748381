"""What the scores of a section say, family by family: intervals, comparisons with the reference arm, rankings.

Arms are compared within one augmentation family only. The question is whether CAFR-Net is better than each other
network, so its arm is the reference of a family and Holm's correction runs over the comparisons with it, for each
measure by itself; a family without it takes its first arm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from nnunetv2_cafr.report.patients import TESTED, Measure, check_same_cases, patient_values
from nnunetv2_cafr.report.statistics import Comparison, Estimate, Ranking, compare, holm, mean_interval, ranking
from nnunetv2_cafr.report.study import Arm, Section

CAFR_TRAINERS = ("nnUNetTrainer_CAFR", "nnUNetTrainer_CAFR_nnUNetDA")
STOCK_TRAINERS = ("nnUNetTrainer", "nnUNetTrainer_LevelSafe")
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class MeasureResults:
    """One measure in one family.

    Args:
        values: patients by arms, in the study's order of arms.
        means: by arm name.
        comparisons: by arm name, with Holm's p; all but the reference.
        ranking: of the arms.
    """

    measure: Measure
    values: pd.DataFrame
    means: Mapping[str, Estimate]
    comparisons: Mapping[str, tuple[Comparison, float]]
    ranking: Ranking


@dataclass(frozen=True)
class FamilyResults:
    """The arms of one family that have scores, best first by the first measure.

    Args:
        reference: None where a single arm leaves nothing to compare.
        measures: by key, those that the data have.
    """

    name: str
    arms: Sequence[Arm]
    reference: Arm | None
    measures: Mapping[str, MeasureResults]

    @property
    def reference_is_cafr(self) -> bool:
        return self.reference is not None and self.reference.trainer in CAFR_TRAINERS

    @property
    def patients(self) -> int:
        return max((len(results.values) for results in self.measures.values()), default=0)


def analyse(arms: Sequence[Arm], section: Section) -> list[FamilyResults]:
    """Families in the order of their first arms; arms without scores in this section are left out.

    Raises:
        ValueError: if an arm lacks cases that another has.
    """
    check_same_cases(section)
    scored = [arm for arm in arms if section.scores.get(arm.name)]
    return [
        _analyse_family(name, [arm for arm in scored if arm.family == name], section)
        for name in dict.fromkeys(arm.family for arm in scored)
    ]


def _analyse_family(name: str, arms: Sequence[Arm], section: Section) -> FamilyResults:
    reference = next((arm for arm in arms if arm.trainer in CAFR_TRAINERS), arms[0]) if len(arms) > 1 else None
    scores = {arm.name: section.scores[arm.name] for arm in arms}
    measures = {}
    for measure in TESTED:
        values = patient_values(scores, measure.per_case)
        if len(values):
            measures[measure.key] = _analyse_measure(measure, values, reference)
    order = list(arms)
    if measures:
        first = next(iter(measures.values()))
        order.sort(key=lambda arm: first.ranking.rank[arm.name])
    return FamilyResults(name, order, reference, measures)


def _analyse_measure(measure: Measure, values: pd.DataFrame, reference: Arm | None) -> MeasureResults:
    comparisons = {}
    if reference is not None:
        found = {arm: compare(values[arm], values[reference.name]) for arm in values if arm != reference.name}
        corrected = holm([comparison.p for comparison in found.values()])
        comparisons = {arm: (found[arm], p) for arm, p in zip(found, corrected, strict=True)}
    return MeasureResults(
        measure=measure,
        values=values,
        means={arm: mean_interval(values[arm]) for arm in values},
        comparisons=comparisons,
        ranking=ranking(values, measure.higher_is_better),
    )


def baseline(arms: Sequence[Arm]) -> Arm | None:
    """The arm that costs are given in multiples of: nnU-Net's own network, if there is one."""
    return next((arm for arm in arms if arm.trainer in STOCK_TRAINERS), None)
