"""Two runs on the same samples: the difference, how sure it is, and what could have been seen.

Pure, and in fractions. The quantities are those of docs/adr/0023: a headline is sum_s g_s (sum_i m_i) / W_s
over strata s, m_i a sample's mean over repeats, W_s the sum of what its samples may reach. As in
`evalkit.report.statistics`, what is undefined raises ValueError and never becomes 0.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from evalkit.report.aggregate import LEVEL, SMALL_SAMPLE
from evalkit.report.statistics import Interval
from evalkit.report.student import t_quantile, t_tail

POWER = 0.8
FINEST = 20_000
"""Most steps that the sum of all differences is divided into for the sign-flip test."""

FEW_OPEN = 20.0
"""Below it, and below half of all samples, the open ones (`_Stratum.open`) are too few for Student's t: the
rule of thumb n p (1 - p) >= 5, of samples whose chances differ."""
DF_OF_OPEN = 3.0
"""Degrees of freedom that an open sample gives to the variance; found by simulation, as docs/adr/0023 says."""


class Pair(NamedTuple):
    """One sample in two runs."""

    first: float
    """Mean over the first run's repeats."""
    second: float
    weight: float = 1.0
    """What the sample may reach."""
    cluster: Hashable = None
    """Samples of one cluster are not independent; none: its own."""
    stratum: str = ""

    @property
    def change(self) -> float:
        """Second minus first."""
        return self.second - self.first


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Second run minus first run."""

    value: float
    standard_error: float
    df: float
    """Degrees of freedom of the standard error."""
    level: float
    interval: Interval
    """At `level`, by Student's t; wider where few samples are neither always right nor always wrong."""
    p_value: float
    """Two-sided, of no difference (of `null`)."""
    test: str
    """`sign-flip` (exact) or `paired t`."""
    detectable: float
    """Minimal detectable effect: the true difference that a test at 1 - `level` finds with
    probability `POWER`."""
    null: float = 0.0
    """The difference that is tested."""


def paired_difference(
    pairs: Sequence[Pair],
    *,
    step: float,
    strata: Mapping[str, float] | None = None,
    level: float = LEVEL,
    null: float = 0.0,
) -> PairedDifference:
    """The difference of two headlines over the samples both have.

    `step` is what one answer moves a sample's mean by (1/k); `strata` maps each stratum to its share of
    the headline (one stratum, "", of share 1 by default). Raises ValueError where a stratum has fewer
    than two independent samples.
    """
    shares = {"": 1.0} if strata is None else strata
    parts = [_Stratum.of(shares[name], part, step) for name, part in _by_stratum(pairs, shares)]
    value = math.fsum(part.value for part in parts)
    variance = math.fsum(part.variance for part in parts)
    df: float = parts[0].count - 1
    if len(parts) > 1:  # Satterthwaite's
        df = variance**2 / math.fsum(part.variance**2 / (part.count - 1) for part in parts)
    variance, df = _where_few_are_open(parts, variance, df, step)
    error = math.sqrt(variance)
    half = t_quantile(0.5 + level / 2, df) * error
    exact = null == 0.0 and sum(part.count for part in parts) < SMALL_SAMPLE
    if exact:
        p_value = sign_flip_p([total for part in parts for total in part.totals])
    else:
        p_value = t_tail((value - null) / error, df)
    return PairedDifference(
        value=value,
        standard_error=error,
        df=df,
        level=level,
        interval=Interval(value - half, value + half),
        p_value=p_value,
        test="sign-flip" if exact else "paired t",
        detectable=half + t_quantile(POWER, df) * error,
        null=null,
    )


def _where_few_are_open(
    parts: Sequence["_Stratum"], variance: float, df: float, step: float
) -> tuple[float, float]:
    """Variance and degrees of freedom where nearly all samples are always right, or always wrong.

    Then a few samples make the difference, and a draw may have missed some: one more open sample like
    those that were seen is added, and the degrees of freedom are those of the open ones. A single answer
    (`step` of 1) has that much in its own error already, so this fades in with the repeats.
    """
    seen, count = math.fsum(part.open for part in parts), sum(part.count for part in parts)
    if not seen < min(FEW_OPEN, count / 2):
        return variance, df
    share = (1 - step) / max(seen, step)
    return variance * (1 + share), max(1.0, 1 / (1 / df + share / DF_OF_OPEN))


@dataclass(frozen=True, slots=True)
class _Stratum:
    """The contribution of one stratum to the difference of two headlines."""

    value: float
    variance: float
    totals: list[float]
    """By cluster, what it contributes to `value`."""
    open: float
    """Number of clusters that may be answered either way: each counts 4 p (1 - p), p its mean over both
    runs. Infinite where scores are no shares of what a sample may reach."""

    @property
    def count(self) -> int:
        return len(self.totals)

    @classmethod
    def of(cls, share: float, pairs: Sequence[Pair], step: float) -> "_Stratum":
        scale = share / math.fsum(pair.weight for pair in pairs)
        groups: dict[Hashable, list[Pair]] = defaultdict(list)
        for number, pair in enumerate(pairs):
            groups[(number,) if pair.cluster is None else pair.cluster].append(pair)
        count = len(groups)
        if count < 2:
            raise ValueError("the error of a difference needs two independent samples")
        totals = [scale * math.fsum(p.change for p in group) for group in groups.values()]
        sizes = [scale * math.fsum(p.weight for p in group) for group in groups.values()]
        value = math.fsum(totals)
        squares = math.fsum(
            (total - size * value / share) ** 2 for total, size in zip(totals, sizes, strict=True)
        )
        # one answer of one sample: samples that all agree do not prove that all others would
        variance = count / (count - 1) * (squares + (scale * step) ** 2)
        return cls(value, variance, totals, math.fsum(map(_openness, groups.values())))


def _openness(group: Sequence[Pair]) -> float:
    p = math.fsum(q.first + q.second for q in group) / (2 * math.fsum(q.weight for q in group))
    is_share = all(0 <= score <= q.weight for q in group for score in (q.first, q.second))
    return 4 * p * (1 - p) if is_share else math.inf


def _by_stratum(pairs: Sequence[Pair], shares: Mapping[str, float]) -> list[tuple[str, list[Pair]]]:
    """The samples of each stratum that counts. Raises ValueError for one without any."""
    parts: dict[str, list[Pair]] = {name: [] for name in shares}
    for pair in pairs:
        if pair.stratum in parts:
            parts[pair.stratum].append(pair)
    if empty := [name for name, part in parts.items() if not part]:
        raise ValueError(f"no samples {' and '.join(empty)}".rstrip())
    return list(parts.items())


def sign_flip_p(changes: Sequence[float]) -> float:
    """Two-sided p-value that changes are as likely the other way round, exact.

    The share of the 2^n choices of signs whose sum is at least as far from 0 as the one that was seen
    (Fisher 1935); for changes of -1, 0 and 1 that is McNemar's exact test. Changes that have no common
    measure are rounded to 1 / `FINEST` of their sum, which keeps the test's size.
    """
    steps = _whole_steps([change for change in changes if change != 0.0])
    seen = abs(sum(steps))
    sizes = [abs(step) for step in steps if step]
    total = sum(sizes)
    # chance of each sum of the sizes that get a plus sign; the signed sum is 2 * that - total
    chances = [1.0]
    for size in sizes:
        shifted = [0.0] * size
        chances = [
            (low + high) / 2 for low, high in zip(chances + shifted, shifted + chances, strict=True)
        ]
    tail = math.fsum(chance for plus, chance in enumerate(chances) if abs(2 * plus - total) >= seen)
    return min(1.0, tail)


def _whole_steps(changes: Sequence[float]) -> list[int]:
    """The changes as whole numbers of their common measure, or of the finest one that is used."""
    if not changes:
        return []
    total, least = math.fsum(map(abs, changes)), min(map(abs, changes))
    for parts in range(1, 65):
        measure = least / parts
        if total > FINEST * measure:
            break
        steps = [change / measure for change in changes]
        if all(abs(step - round(step)) < 1e-6 for step in steps):
            return [round(step) for step in steps]
    return [round(change * FINEST / total) for change in changes]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: none below alpha is a false alarm in 1 - alpha of all
    families of tests, whatever depends on what (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
