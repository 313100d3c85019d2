"""Student's t: distribution function and quantiles, in the standard library's floats.

Two functions of scipy without scipy, which evalkit does not need otherwise; a test holds them against
it. Infinite degrees of freedom are the normal distribution.
"""

import math
from functools import lru_cache
from statistics import NormalDist

TINY = 1e-300
PRECISION = 1e-15
MOST_TERMS = 10_000


def t_tail(t: float, df: float) -> float:
    """P(|T| >= |t|): the two-sided p-value. `df` > 0, not necessarily whole, may be infinite."""
    if df <= 0:
        raise ValueError(f"degrees of freedom must be positive: {df}")
    if math.isinf(df):
        return math.erfc(abs(t) / math.sqrt(2.0))
    if math.isinf(t):
        return 0.0
    return incomplete_beta(df / 2, 0.5, df / (df + t * t), t * t / (df + t * t))


@lru_cache(maxsize=64)
def t_quantile(probability: float, df: float) -> float:
    """The t with P(T <= t) = `probability`, by bisection of `t_tail`."""
    if not 0.0 < probability < 1.0:
        raise ValueError(f"a probability lies between 0 and 1, not {probability}")
    if math.isinf(df):
        return NormalDist().inv_cdf(probability)
    tail = 2 * min(probability, 1 - probability)
    low, high = 0.0, 1.0
    while t_tail(high, df) > tail:
        low, high = high, 2 * high
    while (middle := (low + high) / 2) not in (low, high):
        if t_tail(middle, df) > tail:
            low = middle
        else:
            high = middle
    return math.copysign(high, probability - 0.5)


def incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """The regularised incomplete beta function I_x(a, b) for a, b > 0 and 0 <= x <= 1.

    `rest` is 1 - x, which the caller knows better than a subtraction near 1. By the continued fraction
    (DLMF 8.17.22), on the side where that converges fast.
    """
    if x == 0.0 or rest == 0.0:
        return float(rest == 0.0)
    if x > (a + 1) / (a + b + 2):
        return 1.0 - incomplete_beta(b, a, rest, x)
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    )
    return math.exp(log_front) / (a * _fraction(a, b, x))


def _fraction(a: float, b: float, x: float) -> float:
    """1 + d1/(1 + d2/(1 + ...)) by Lentz's method (Thompson and Barnett 1986)."""
    value, c, d = 1.0, 1.0, 0.0
    for n in range(1, MOST_TERMS):
        m = n // 2
        if n % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1.0 / (1.0 + term * d or TINY)
        c = 1.0 + term / c or TINY
        value *= c * d
        if abs(c * d - 1.0) < PRECISION:
            return value
    raise ValueError(f"the incomplete beta function did not converge: {a=}, {b=}, {x=}")
