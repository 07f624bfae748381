"""Statistics against hand calculation, enumeration and scipy."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau, rankdata, wilcoxon

from nnunetv2_cafr.report.statistics import (
    compare,
    detectable_difference,
    holm,
    least_p,
    mean_interval,
    ranking,
    signed_rank_p,
)


def enumerated_p(differences: list[float]) -> float:
    """All signs of all differences that are not 0, with ranks by Pratt."""
    ranks = rankdata(np.abs(differences))
    free = [rank for rank, one in zip(ranks, differences, strict=True) if one != 0]
    observed = sum(rank for rank, one in zip(ranks, differences, strict=True) if one > 0)
    sums = [sum(itertools.compress(free, signs)) for signs in itertools.product((0, 1), repeat=len(free))]
    above, below = (
        np.mean([compared(one, observed) for one in sums]) for compared in (np.greater_equal, np.less_equal)
    )
    return min(1.0, 2 * min(above, below))


@pytest.mark.parametrize(
    "differences",
    [[1], [0, 0], [1, 2, 3, 4, 5], [1, 1, -1, 2], [0, 0.5, -2, 3, 3, -0.5, 0, 4], [-1, -2, 3, -3, 1, 7, 7]],
)
def test_p_is_that_of_all_signs(differences):
    assert signed_rank_p(differences) == pytest.approx(enumerated_p(differences), abs=1e-12)


@pytest.mark.parametrize("patients", [5, 24, 172])
def test_p_is_scipys_without_ties(patients):
    values = np.random.default_rng(patients).normal(0.15, 1, patients)
    expected = wilcoxon(values, method="exact").pvalue
    assert signed_rank_p(values) == pytest.approx(expected, rel=1e-9)
    assert signed_rank_p(-values) == pytest.approx(expected, rel=1e-9)


def test_rounding_decides_nothing():
    """A difference of 1e-16 is one of 0, and 0.3 - 0.1 ties with 0.2."""
    assert signed_rank_p([0.3 - 0.1, -0.2, 1e-16, 1]) == signed_rank_p([0.2, -0.2, 0, 1])


def test_least_p():
    assert [least_p(patients) for patients in (1, 5, 6)] == [1, 0.0625, 0.03125]
    assert signed_rank_p([1, 2, 3, 4, 5]) == least_p(5)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9, 0.5]) == pytest.approx([1, 1, 1])
    assert holm([0.02]) == [0.02] and holm([]) == []


def test_intervals_hold_the_mean_as_often_as_they_say():
    """Few patients are the case that plain percentiles fail (84 % for 5 patients, 90 % for 10)."""
    generator = np.random.default_rng(0)
    for patients, lowest in ((5, 0.87), (10, 0.92)):
        intervals = [mean_interval(values) for values in generator.normal(3, 2, (600, patients))]
        held = np.mean([one.low <= 3 <= one.high for one in intervals])
        assert lowest < held < 0.975


def test_intervals_of_no_spread_one_patient_and_none():
    flat = mean_interval([2.0, 2.0, 2.0])
    assert (flat.mean, flat.low, flat.high) == pytest.approx((2, 2, 2))
    single, empty = mean_interval([2.0]), mean_interval([])
    assert single.mean == 2 and np.isnan([single.low, single.high, empty.mean]).all()
    assert mean_interval([1.0, 5.0, 2.0]) == mean_interval([1.0, 5.0, 2.0])


def test_comparison_by_hand():
    """Differences 3, -1, 2, 0: ranks 4, 2, 3, 1, of which 7 are positive and 2 negative."""
    found = compare([4, 1, 5, 7], [1, 2, 3, 7])
    assert (found.patients, found.higher, found.lower, found.equal) == (4, 2, 1, 1)
    assert found.difference.mean == 1
    assert found.rank_biserial == pytest.approx((7 - 2) / (7 + 2))
    assert found.cohens_d == pytest.approx(1 / np.sqrt(10 / 3))
    assert found.p == pytest.approx(enumerated_p([3, -1, 2, 0]))


def test_comparison_of_equals_and_of_what_does_not_fit():
    same = compare([1, 2], [1, 2])
    assert same.p == 1 and np.isnan(same.rank_biserial) and np.isnan(same.cohens_d)
    with pytest.raises(ValueError, match="one per patient"):
        compare([1, 2], [1])


def test_detectable_difference_is_found_in_four_of_five_studies():
    generator, patients = np.random.default_rng(1), 40
    shift = detectable_difference(2, patients, 1)
    found = [signed_rank_p(generator.normal(shift, 2, patients)) < 0.05 for _ in range(300)]
    assert 0.72 < np.mean(found) < 0.86
    assert detectable_difference(2, patients, 10) > shift


def test_ranking_where_the_order_never_changes():
    generator = np.random.default_rng(0)
    best = generator.normal(90, 5, 12)
    found = ranking(pd.DataFrame({"bad": best - 2, "best": best, "worse": best - 1}), higher_is_better=True)
    assert found.rank.to_dict() == {"bad": 3, "best": 1, "worse": 2}
    assert found.shares.loc["bad"].tolist() == [0, 0, 1] and found.shares.loc["best", 1] == 1
    assert found.kendall_tau == 1
    assert ranking(pd.DataFrame({"a": best - 2, "b": best}), higher_is_better=False).rank.to_dict() == {"a": 1, "b": 2}


def test_ranking_with_two_arms_that_are_equal_in_every_draw():
    best = np.random.default_rng(0).normal(90, 5, 12)
    found = ranking(pd.DataFrame({"bad": best - 2, "best": best, "equal": best}), higher_is_better=True)
    assert found.rank.to_dict() == {"bad": 3, "best": 1, "equal": 1}
    assert found.kendall_tau == pytest.approx(1)


def test_ranking_of_equal_arms_and_of_a_coin():
    """Equal arms share rank 1; with one patient in favour of each of two arms, chance decides."""
    equal = ranking(pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, 2.0]}), True)
    assert equal.rank.tolist() == [1, 1] and equal.shares[1].tolist() == [1, 1] and np.isnan(equal.kendall_tau)
    # Of 2 patients drawn, both are the first with 1/4, both the second with 1/4, else the arms are equal.
    coin = ranking(pd.DataFrame({"a": [1.0, 0.0], "b": [0.0, 1.0]}), True)
    assert coin.shares.loc["a", 2] == pytest.approx(0.25, abs=0.05)
    assert coin.shares.loc["a", 1] == pytest.approx(0.75, abs=0.05)


def test_kendalls_tau_is_scipys():
    """Three arms over two patients have four draws: AA, AB, BA, BB."""
    values = pd.DataFrame({"a": [1.0, 4.0], "b": [2.0, 2.0], "c": [3.0, 1.5]})
    of = {counts: rankdata(-np.average(values, axis=0, weights=counts), "min") for counts in ((2, 0), (1, 1), (0, 2))}
    shares = {(2, 0): 0.25, (1, 1): 0.5, (0, 2): 0.25}
    expected = sum(share * kendalltau(of[1, 1], of[counts]).statistic for counts, share in shares.items())
    assert ranking(values, True).kendall_tau == pytest.approx(expected, abs=0.06)
