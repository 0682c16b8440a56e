"""Tails and quantiles of the normal, Student's t, binomial and beta distributions, which numpy does not have."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from statistics import NormalDist

_TINY = 1e-300
_STEPS = 20_000  # of the continued fraction, which takes about the root of the larger parameter


def normal_quantile(share: float) -> float:
    """The value below which this share of the standard normal distribution lies; -inf at 0, inf at 1."""
    if share <= 0 or share >= 1:
        return math.copysign(math.inf, share - 0.5)
    return NormalDist().inv_cdf(share)


def normal_share(value: float) -> float:
    """The share of the standard normal distribution below a value."""
    return 0.5 * math.erfc(-value / math.sqrt(2))


def beta_share(x: float, a: float, b: float) -> float:
    """The share of the beta distribution with parameters a, b > 0 below x: the regularized incomplete beta function.

    By its continued fraction (Abramowitz and Stegun 26.5.8), evaluated as Lentz does (Appl. Opt. 15 (1976) 668).
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    # Where the fraction of the mirrored distribution converges faster; rounding may put both on that side.
    if x > (a + 1) / (a + b + 2) and 1 - x <= (b + 1) / (a + b + 2):
        return 1 - beta_share(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    fraction, numerator, denominator = 1.0, 1.0, 0.0
    for step in range(_STEPS):
        half = step // 2
        if step == 0:
            term = 1.0
        elif step % 2:
            term = -(a + half) * (a + b + half) * x / ((a + (step - 1)) * (a + step))
        else:
            term = half * (b - half) * x / ((a + (step - 1)) * (a + step))
        denominator = 1 / _off_zero(1 + term * denominator)
        numerator = _off_zero(1 + term / numerator)
        fraction *= numerator * denominator
        if step and abs(numerator * denominator - 1) < 1e-14:
            break
    return min(1.0, max(0.0, math.exp(log_front) * (fraction - 1) / a))


@cache
def beta_quantile(share: float, a: float, b: float) -> float:
    """The value below which this share of the beta distribution lies."""
    return _solve(lambda x: beta_share(x, a, b), share, 0.0, 1.0)


@cache
def student_quantile(share: float, freedom: float) -> float:
    """The value below which this share of Student's t distribution with `freedom` > 0 degrees of freedom lies."""
    if share < 0.5:
        return -student_quantile(1 - share, freedom)
    # t*t / (t*t + freedom) follows a beta distribution; its mirror keeps the digits of a far tail.
    inside = beta_quantile(2 * (1 - share), freedom / 2, 0.5)
    return math.sqrt(freedom * (1 - inside) / inside) if inside else math.inf


def binomial_share(successes: int, n: int) -> float:
    """How likely n fair coins show at most this many heads."""
    if successes < 0 or successes >= n:
        return float(successes >= 0)
    return beta_share(0.5, n - successes, successes + 1)


def _off_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def _solve(rising: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Where a rising function has the value that is wanted, by bisection."""
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if rising(middle) < wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2
