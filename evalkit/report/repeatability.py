"""What a score moves by when the same samples are answered again, and whether a published one fits it.

Pure, and in fractions; the derivation is in docs/adr/0023. Both scores are of the same samples, so the
spread between samples is in both and cancels: what remains is the variance within samples.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from evalkit.report.aggregate import LEVEL
from evalkit.report.paired import POWER
from evalkit.report.statistics import Interval, sample_variance
from evalkit.report.student import t_quantile, t_tail


class Row(NamedTuple):
    """One sample's scores."""

    scores: Sequence[float]
    """By repeat; the same number for every sample."""
    weight: float = 1.0
    """What the sample may reach."""
    stratum: str = ""


class Within(NamedTuple):
    """The variance within samples."""

    variance: float
    """Of the headline made of one answer to each sample (S of the ADR)."""
    df: float
    """Degrees of freedom; infinite for a bound."""
    is_bound: bool
    """From one repeat: at least as large as the true one."""


@dataclass(frozen=True, slots=True)
class Published:
    """A score that was published."""

    value: float
    """Fraction."""
    repeats: int
    rounding: float = 0.0
    """Half a unit of its last digit, as a fraction."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Ours minus the published one, under the hypothesis that both are of one model."""

    difference: float
    standard_error: float
    """Of the difference, both scores' sampling errors in it."""
    df: float
    level: float
    interval: Interval
    """Of the difference at `level`, the rounding of the published one added at both ends."""
    p_value: float
    """Two-sided, of no difference beyond the rounding."""
    consistent: bool
    """0 lies in `interval`."""
    detectable: float
    """The true difference that so many repeats find with probability `POWER`."""


def within_variance(rows: Sequence[Row], strata: Mapping[str, float] | None = None) -> Within:
    """The variance within samples, from repeats; from one repeat each, a bound.

    `strata` maps each stratum to its share of the headline, as in `evalkit.report.paired`.
    """
    repeats = {len(row.scores) for row in rows}
    if len(repeats) != 1 or 0 in repeats:
        raise ValueError("every sample needs the same number of repeats, at least one")
    shares = {"": 1.0} if strata is None else strata
    k = repeats.pop()
    variance = squares = 0.0
    for name, share in shares.items():
        part = [row for row in rows if row.stratum == name]
        if not part:
            raise ValueError(f"no samples {name}".rstrip())
        scale = (share / math.fsum(row.weight for row in part)) ** 2
        if k == 1:
            variance += scale * _bound(part)
            continue
        each = [sample_variance(row.scores) for row in part]
        # a sample with one odd answer of k: that none was seen does not prove that there is none
        variance += scale * max(math.fsum(each), 1 / k)
        squares += scale**2 * max(math.fsum(v * v for v in each), 1 / k**2) / (k - 1)
    return Within(variance, math.inf if k == 1 else variance**2 / squares, k == 1)


def compare_published(
    ours: float, repeats: int, within: Within, published: Published, level: float = LEVEL
) -> Agreement:
    """Whether a score of `repeats` answers to each sample and a published one are of one model."""
    difference = ours - published.value
    error = math.sqrt(within.variance * (1 / repeats + 1 / published.repeats))
    half = t_quantile(0.5 + level / 2, within.df) * error + published.rounding
    beyond = max(0.0, abs(difference) - published.rounding)
    p_value = t_tail(beyond / error, within.df) if error > 0 else float(beyond == 0)
    return Agreement(
        difference=difference,
        standard_error=error,
        df=within.df,
        level=level,
        interval=Interval(difference - half, difference + half),
        p_value=p_value,
        consistent=abs(difference) <= half,
        detectable=half + t_quantile(POWER, within.df) * error,
    )


def repeats_needed(
    difference: float, within: Within, published: Published, level: float = LEVEL
) -> int | None:
    """How many repeats find a true difference from the published score with probability `POWER`.

    Null where the published score's own error and rounding hide it from any number of repeats.
    """
    usable = difference - published.rounding
    if usable <= 0:
        return None
    z = t_quantile(0.5 + level / 2, math.inf) + t_quantile(POWER, math.inf)
    if within.variance == 0:
        return 1
    room = (usable / z) ** 2 / within.variance - 1 / published.repeats
    return math.ceil(1 / room) if room > 0 else None


def _bound(rows: Sequence[Row]) -> float:
    """Most that the variances of single answers of these rates can sum up to.

    max sum mu_i (w_i - mu_i) with sum mu_i = p W is (sum w_i^2 - (1 - 2p)^2 W^2 / n) / 4, at equal
    w_i - 2 mu_i; for weights of 1 it is n p (1 - p). p is drawn one answer towards 1/2 at both ends, so
    that a stratum of right answers alone is not taken for one that cannot fail.
    """
    total = math.fsum(row.weight for row in rows)
    p = (math.fsum(row.scores[0] for row in rows) + 1) / (total + 2)
    squares = math.fsum(row.weight**2 for row in rows)
    return (squares - (1 - 2 * p) ** 2 * total**2 / len(rows)) / 4
