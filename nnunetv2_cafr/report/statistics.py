"""How certain a comparison of networks is: paired by patient, who is the unit of every test and interval.

  interval     expanded percentile bootstrap of the mean (Hesterberg, The American Statistician 69, 371, 2015): patients
               are drawn with replacement, and the percentiles widened as Student's t is for few of them
  p            Wilcoxon's signed-rank test, two-sided and exact: every sign of every difference is equally likely under
               the null hypothesis, ties share their mean rank, and differences of 0 are ranked but carry no sign (Pratt
               1959), so the distribution is that of the data at hand and no normal approximation is needed
  Holm         step-down correction over the comparisons of one family and one measure (Holm 1979)
  effect size  matched-pairs rank-biserial correlation (Kerby 2014) and Cohen's d of paired differences
  ranking      patients are drawn with replacement and the arms ranked by their means each time (as challengeR does:
               Wiesenfarth et al., Scientific Reports 11, 2369, 2021)

In 10 000 simulated samples of 5, 10, 20 and 40 patients, the 95 % intervals held the true mean in 92, 95, 95 and 95 %
of them for normal values, and in 87, 91, 92 and 94 % for strongly skewed (exponential) ones. Plain percentiles: 84, 90,
93 and 94 % for normal ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.stats import norm, rankdata, t

DRAWS, RANKING_DRAWS, SEED = 100_000, 1_000, 12345  # of seven patients, 0.4 % of them lie beyond each limit
CONFIDENCE = 95  # percent
ROUNDING = 1e-9  # differences below this come from the order of additions


@dataclass(frozen=True)
class Estimate:
    """A mean over patients and its bootstrap interval; NaN limits where one patient allows none."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One arm minus the reference, over patients.

    Args:
        patients: with a value of both.
        difference: mean of the paired differences, in the measure's unit.
        p: of the signed-rank test, uncorrected.
        rank_biserial: -1 ... 1, how far the ranks of the differences lie on one side; NaN if all differences are 0.
        cohens_d: mean over standard deviation of the differences; NaN where that is 0.
        higher, lower, equal: numbers of patients.
    """

    patients: int
    difference: Estimate
    p: float
    rank_biserial: float
    cohens_d: float
    higher: int
    lower: int
    equal: int


@lru_cache(maxsize=4)
def _draws(patients: int, draws: int) -> np.ndarray:
    """How often each patient is drawn: (draws, patients)."""
    generator = np.random.default_rng(SEED)
    return generator.multinomial(patients, np.full(patients, 1 / patients), draws).astype(np.float64)


def mean_interval(values: Sequence[float] | np.ndarray) -> Estimate:
    """Mean and bootstrap interval of one finite value per patient; NaN without any."""
    data = np.asarray(values, dtype=np.float64)
    if not len(data):
        return Estimate(np.nan, np.nan, np.nan)
    patients = len(data)
    if patients == 1:
        return Estimate(float(data[0]), np.nan, np.nan)
    means = _draws(patients, DRAWS) @ data / patients
    quantile = t.ppf((1 - CONFIDENCE / 100) / 2, patients - 1)
    tail = 100 * norm.cdf(quantile * np.sqrt(patients / (patients - 1)))
    low, high = np.percentile(means, [tail, 100 - tail])
    return Estimate(float(data.mean()), float(low), float(high))


def _signed_ranks(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of the differences by size, doubled so that mean ranks of ties are whole; and the signs, -1, 0 or 1."""
    rounded = np.round(differences / ROUNDING) * ROUNDING
    ranks = np.rint(2 * rankdata(np.abs(rounded))).astype(np.int64)
    return ranks, np.sign(rounded).astype(np.int64)


def signed_rank_p(differences: Sequence[float] | np.ndarray) -> float:
    """Two-sided exact p of Wilcoxon's signed-rank test; 1 where all differences are 0, or there is none."""
    ranks, signs = _signed_ranks(np.asarray(differences, dtype=np.float64))
    ranks, positive = ranks[signs != 0], int(ranks[signs > 0].sum())
    # Distribution of the sum of the positive ranks: each rank is in it or not, with probability 1/2 each.
    chances = np.ones(1)
    for rank in ranks:
        without = np.concatenate([chances, np.zeros(rank)])
        without[rank:] += chances
        chances = without / 2
    tail = min(chances[: positive + 1].sum(), chances[positive:].sum())
    return float(min(1.0, 2 * tail))


def least_p(patients: int) -> float:
    """The smallest p that the signed-rank test can give: all differences on one side."""
    return min(1.0, 2.0 ** (1 - patients))


def detectable_difference(deviation: float, patients: int, comparisons: int, power: float = 0.8) -> float:
    """The true mean difference that would be found significant in a share `power` of such studies.

    By the normal approximation, at 5 % shared among the comparisons (Bonferroni, Holm's first step).

    Args:
        deviation: standard deviation of the paired differences.
    """
    quantiles = norm.ppf(1 - (1 - CONFIDENCE / 100) / 2 / comparisons) + norm.ppf(power)
    return float(quantiles * deviation / np.sqrt(patients))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p-values, in the order given."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in corrected]


def compare(values: Sequence[float] | np.ndarray, reference: Sequence[float] | np.ndarray) -> Comparison:
    """Compares an arm with the reference, one finite value per patient of each, in the same order.

    Raises:
        ValueError: if the numbers of patients differ, or there is none.
    """
    first, second = np.asarray(values, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"paired values of shapes {first.shape} and {second.shape}: expected one per patient of each")
    differences = first - second
    ranks, signs = _signed_ranks(differences)
    total = ranks[signs != 0].sum()
    deviation = differences.std(ddof=1) if len(differences) > 1 else 0.0
    return Comparison(
        patients=len(differences),
        difference=mean_interval(differences),
        p=signed_rank_p(differences),
        rank_biserial=float((ranks * signs).sum() / total) if total else np.nan,
        cohens_d=float(differences.mean() / deviation) if deviation > ROUNDING else np.nan,
        higher=int((signs > 0).sum()),
        lower=int((signs < 0).sum()),
        equal=int((signs == 0).sum()),
    )


@dataclass(frozen=True)
class Ranking:
    """Ranks of arms when patients are drawn again.

    Args:
        rank: of each arm by its mean over all patients, 1 is best, equal means share the better rank.
        shares: (arm, rank), share of the draws in which the arm has the rank.
        kendall_tau: between the ranking of all patients and that of a draw, mean over the draws; NaN for a single arm
            or where all means are equal.
    """

    rank: pd.Series
    shares: pd.DataFrame
    kendall_tau: float


def ranking(values: pd.DataFrame, higher_is_better: bool) -> Ranking:
    """Ranks the columns (arms) of finite values per patient (rows)."""
    sign = -1 if higher_is_better else 1
    patients, arms = values.shape
    means = sign * _draws(patients, RANKING_DRAWS) @ values.to_numpy(np.float64) / patients
    full = sign * values.mean().to_numpy()
    ranks = rankdata(np.round(means / ROUNDING), method="min", axis=1).astype(int)
    rank = rankdata(np.round(full / ROUNDING), method="min").astype(int)
    shares = [(ranks == place).mean(0) for place in range(1, arms + 1)]
    taus = _kendall_tau(rank, ranks)
    defined = taus[np.isfinite(taus)]
    return Ranking(
        rank=pd.Series(rank, index=values.columns),
        shares=pd.DataFrame(np.transpose(shares), index=values.columns, columns=range(1, arms + 1)),
        kendall_tau=float(defined.mean()) if len(defined) else np.nan,
    )


def _kendall_tau(ranks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of `ranks` (arms,) with each row of `others` (draws, arms); NaN where all ranks are equal."""
    first, second = np.triu_indices(len(ranks), 1)
    order, orders = np.sign(ranks[first] - ranks[second]), np.sign(others[:, first] - others[:, second])
    untied = np.sqrt((order**2).sum() * (orders**2).sum(1))
    return np.divide(orders @ order, untied, out=np.full(len(others), np.nan), where=untied > 0)
