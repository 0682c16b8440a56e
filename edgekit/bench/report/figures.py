"""How figures are written: shares in percent with their interval, divergences, cosines, medians."""

from __future__ import annotations

import math

from edgekit.metrics import Estimate

NONE, NOT_FINITE = "-", "not finite"


def percent(figure: Estimate | None, digits: int = 1) -> str:
    """A share with its interval, in percent."""
    return NONE if figure is None else between(figure, f".{digits}f", 100)


def points(difference: Estimate | None) -> str:
    """A difference of shares in percentage points with its interval."""
    return NONE if difference is None else between(difference, "+.1f", 100)


def between(figure: Estimate, form: str, factor: float = 1) -> str:
    """A figure times a factor, and its interval where both ends of it are known.

    Args:
        form: how each number is written; a zero never with a minus.
    """
    value, low, high = (
        f"{factor * end:{form.replace('.', 'z.')}}" if math.isfinite(end) else ""
        for end in (figure.value, figure.low, figure.high)
    )
    return f"{value or NOT_FINITE} [{low}, {high}]" if low and high else value or NOT_FINITE


def small(figure: Estimate | None) -> str:
    """A divergence to two significant digits; where a logit was not finite it says so."""
    if figure is None:
        return NONE
    return f"{figure.value:.2g}" if math.isfinite(figure.value) else NOT_FINITE


def cosine(figure: Estimate | None) -> str:
    """A cosine, which is told from 1 by its fifth digit."""
    return number(None if figure is None else figure.value, 1, 5)


def centre(figure: Estimate | None, unit: float = 1, digits: int = 0) -> str:
    """A figure without its interval, in units of `unit`: a median over rounds."""
    return number(None if figure is None else figure.value, unit, digits)


def number(value: float | None, unit: float, digits: int) -> str:
    """A value in units of `unit`."""
    if value is None:
        return NONE
    return f"{value / unit:z.{digits}f}" if math.isfinite(value) else NOT_FINITE


def bare(value: object) -> str:
    """A number by itself: three digits, and more where those would make a whole number of what is none."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return NONE
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return NOT_FINITE
    if 1000 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    written = (f"{value:z.{digits}g}" for digits in range(3, 9))
    return next((text for text in written if value == round(value) or float(text) != round(value)), f"{value:.8g}")
