"""Statistics of repeated scores: values in, values out.

Notation: ``scores[i][j]`` is the score of item i (of n) in repeat j (of k), every item with the same
k >= 1; ``weights[i]`` is what a score of item i may reach (1 unless a score counts parts of an item,
as solved steps of a problem). m_i is an item's mean over repeats, p = sum(m_i) / sum(weights).
All results are fractions, not percent. Where a number is undefined (no items, one repeat, one
cluster) these functions raise ValueError: nothing missing ever becomes 0.

Two different questions have two different standard errors, so both are here: how p would change with
other items of the same kind (`se_items_clustered`), and how it would change if the same items were
answered again (`se_sampling_fixed_items`). It compares no two models; that is `evalkit.report.compare`.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from statistics import NormalDist
from typing import NamedTuple

Scores = Sequence[Sequence[float]]


class Interval(NamedTuple):
    """A confidence interval of a fraction."""

    low: float
    high: float


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean of at least one value."""
    if not values:
        raise ValueError("the mean of no values is undefined")
    return math.fsum(values) / len(values)


def avg_of_k(scores: Scores, weights: Sequence[float] | None = None) -> float:
    """p: the mean over items and repeats, sum_i m_i / sum_i w_i (NeMo-Skills ``pass@1[avg-of-k]``)."""
    n_repeats(scores)
    return math.fsum(mean(row) for row in scores) / _total_weight(scores, weights)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that k of n answers hold a right one: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021)."""
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= correct <= n and 1 <= k <= n: {n=}, {correct=}, {k=}")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def item_pass_at_k(row: Sequence[float], k: int) -> float:
    """pass@k of one item: unbiased for 0/1 scores, else the best of the first k (NeMo-Skills)."""
    if not 1 <= k <= len(row):
        raise ValueError(f"pass@{k} of an item with {len(row)} repeats is undefined")
    right = row.count(1.0)
    if right + row.count(0.0) == len(row):
        return pass_at_k(len(row), right, k)
    return max(row[:k])


def majority_at_k(answers: Sequence[str | None], row: Sequence[float]) -> float:
    """Score of one item's most frequent (answer, score) pair; ties share, no answer at all is 0.

    Answers are compared as text: "12" and "12.0" are different votes. 0 here is the model's own
    failure to answer, not a missing unit (NeMo-Skills ``majority@k``).
    """
    if not answers:
        raise ValueError("the majority of no answers is undefined")
    pairs = zip(answers, row, strict=True)
    votes = Counter([pair for pair in pairs if pair[0] is not None])
    if not votes:
        return 0.0
    most = max(votes.values())
    return mean([score for (_, score), count in votes.items() if count == most])


def no_answer(answers: Sequence[Sequence[str | None]]) -> float:
    """Mean share of repeats without an extracted answer."""
    return mean([row.count(None) / len(row) for row in answers])


def no_answer_at_all(answers: Sequence[Sequence[str | None]]) -> float:
    """Share of items none of whose repeats has an answer."""
    return mean([float(row.count(None) == len(row)) for row in answers])


def run_means(scores: Scores, weights: Sequence[float] | None = None) -> list[float]:
    """r_j: the score of each repeat over all items."""
    total = _total_weight(scores, weights)
    return [math.fsum(row[j] for row in scores) / total for j in range(n_repeats(scores))]


def std_dev_across_runs(scores: Scores, weights: Sequence[float] | None = None) -> float:
    """Standard deviation of the k run means, k >= 2, divisor k - 1."""
    _need_repeats(scores)
    return math.sqrt(sample_variance(run_means(scores, weights)))


def std_err_across_runs(scores: Scores, weights: Sequence[float] | None = None) -> float:
    """`std_dev_across_runs` / sqrt(k): its uncertainty is large for small k."""
    return std_dev_across_runs(scores, weights) / math.sqrt(n_repeats(scores))


def avg_sample_std_dev(scores: Scores) -> float:
    """Mean over items of the standard deviation within an item, k >= 2, divisor k - 1."""
    _need_repeats(scores)
    return mean([math.sqrt(sample_variance(row)) for row in scores])


def se_items_clustered(
    scores: Scores,
    weights: Sequence[float] | None = None,
    clusters: Sequence[Hashable] | None = None,
) -> float:
    """Standard error of p for other items of the same kind (Miller 2024, arXiv 2411.00640).

    With e_i = m_i - w_i p and C clusters: sqrt(C / (C - 1) * sum_c (sum_{i in c} e_i)^2) / sum(w).
    ``clusters`` names each item's group of related items; by default every item is its own, and the
    formula is the usual sqrt(sum (m_i - p)^2 / (n - 1) / n). Needs two clusters.
    """
    p = avg_of_k(scores, weights)
    limits = _weights(scores, weights)
    residuals = [mean(row) - weight * p for row, weight in zip(scores, limits, strict=True)]
    if clusters is not None:
        residuals = _sums_by(clusters, residuals)
    count = len(residuals)
    if count < 2:
        raise ValueError("a standard error over items needs two independent items")
    squares = math.fsum(residual**2 for residual in residuals)
    return math.sqrt(count / (count - 1) * squares) / math.fsum(limits)


def se_sampling_fixed_items(scores: Scores, weights: Sequence[float] | None = None) -> float:
    """Standard error of p if the same items are answered again: sqrt(sum_i v_i / k) / sum(w).

    v_i is the variance within item i (divisor k - 1), so k >= 2; for k = 1 use `se_binomial_upper`.
    """
    k = _need_repeats(scores)
    variances = math.fsum(sample_variance(row) for row in scores)
    return math.sqrt(variances / k) / _total_weight(scores, weights)


def se_binomial_upper(p: float, n: float) -> float:
    """sqrt(p (1 - p) / n): bound on the sampling error of n scores between 0 and 1 with mean p."""
    if not 0.0 <= p <= 1.0 or n <= 0:
        raise ValueError(f"a binomial standard error needs 0 <= p <= 1 and n > 0: {p=}, {n=}")
    return math.sqrt(p * (1.0 - p) / n)


def effective_n(p: float, standard_error: float, n_items: int, n_scores: int) -> float:
    """How many independent 0/1 scores would have this error: p (1 - p) / SE^2, kept in bounds.

    At least n_items where the error is 0 by chance, at most n_scores; repeats of one item are not
    independent, and this says what they are worth (design effect, Kish 1965).
    """
    if standard_error == 0.0:
        return float(n_items)
    return min(p * (1.0 - p) / standard_error**2, float(n_scores))


def wilson_interval(p: float, n: float, level: float = 0.95) -> Interval:
    """Wilson's interval for p from ``n`` (effective) scores; sound for few items and p near 0 or 1.

    Preferred below 300 items, where normal intervals are too narrow (Bowyer et al. 2025, arXiv
    2503.01747).
    """
    if not 0.0 <= p <= 1.0 or n <= 0:
        raise ValueError(f"a Wilson interval needs 0 <= p <= 1 and n > 0: {p=}, {n=}")
    z = _quantile(level)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # rounding may put a bound on the wrong side of a score that is 0 or 1
    return Interval(min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))


def normal_interval(p: float, standard_error: float, level: float = 0.95) -> Interval:
    """p -+ z SE, not clipped: a bound outside [0, 1] shows that the approximation does not hold."""
    if standard_error < 0.0:
        raise ValueError(f"a standard error cannot be negative: {standard_error}")
    half = _quantile(level) * standard_error
    return Interval(p - half, p + half)


def n_repeats(scores: Scores) -> int:
    """k, checked to be the same for every item and at least 1."""
    if not scores:
        raise ValueError("statistics over no items are undefined")
    k = len(scores[0])
    if k == 0 or set(map(len, scores)) != {k}:
        raise ValueError("every item needs the same number of repeats, at least one")
    return k


def _sums_by(labels: Sequence[Hashable], values: Sequence[float]) -> list[float]:
    groups: dict[Hashable, list[float]] = defaultdict(list)
    for label, value in zip(labels, values, strict=True):
        groups[label].append(value)
    return [math.fsum(group) for group in groups.values()]


def sample_variance(values: Sequence[float]) -> float:
    """Sample variance, divisor n - 1. The library's is exact and thirty times slower."""
    centre = mean(values)
    return math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1)


def _need_repeats(scores: Scores) -> int:
    k = n_repeats(scores)
    if k < 2:
        raise ValueError("a spread over repeats needs at least two repeats")
    return k


def _weights(scores: Scores, weights: Sequence[float] | None) -> Sequence[float]:
    if weights is None:
        return [1.0] * len(scores)
    if len(weights) != len(scores):
        raise ValueError(f"{len(weights)} weights for {len(scores)} items")
    return weights


def _total_weight(scores: Scores, weights: Sequence[float] | None) -> float:
    total = math.fsum(_weights(scores, weights))
    if total <= 0:
        raise ValueError("the weights of all items are zero: nothing could be scored")
    return total


def _quantile(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise ValueError(f"a confidence level lies between 0 and 1, not {level}")
    return NormalDist().inv_cdf(0.5 + level / 2)


def calibration_error(
    confidences: Sequence[float],
    correct: Sequence[float],
    *,
    bin_size: int,
    without_last: bool = False,
) -> float:
    """Root mean square difference of stated confidence and accuracy over bins of equal size.

    Both are fractions, one pair for each answer. Answers are sorted by confidence, equal ones in the
    order given; the last bin takes the rest. Defined so for Humanity's Last Exam (Phan et al. 2025), with
    bins of 100. Its authors' program (`calib_err`, after Hendrycks et al. 2019) leaves the last bin, which
    has the most confident answers, out of the sum and in the number of answers: `without_last`.
    """
    pairs = sorted(zip(confidences, correct, strict=True), key=lambda pair: pair[0])
    if not pairs:
        raise ValueError("no answers, so no calibration")
    n_bins = max(1, len(pairs) // bin_size)
    if without_last and n_bins == 1:
        raise ValueError(f"{len(pairs)} answers are one bin: nothing is left without the last")
    ends = [*range(bin_size, n_bins * bin_size, bin_size), len(pairs)]
    total, start = 0.0, 0
    for end in ends[:-1] if without_last else ends:
        part = pairs[start:end]
        gap = mean([stated for stated, _ in part]) - mean([right for _, right in part])
        total += len(part) / len(pairs) * gap**2
        start = end
    return math.sqrt(total)
