"""How figures are written: shares in percent with their interval, divergences, cosines, medians."""

from __future__ import annotations

import math

from edgekit.metrics import Estimate

NONE = "-"


def percent(figure: Estimate | None, digits: int = 1) -> str:
    """A share with its interval, in percent."""
    if figure is None:
        return NONE
    return f"{100 * figure.value:.{digits}f} [{100 * figure.low:.{digits}f}, {100 * figure.high:.{digits}f}]"


def points(difference: Estimate | None) -> str:
    """A difference of shares in percentage points with its interval."""
    if difference is None:
        return NONE
    return f"{100 * difference.value:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def small(figure: Estimate | None) -> str:
    """A divergence to two significant digits; where a logit was not finite it says so."""
    if figure is None:
        return NONE
    return f"{figure.value:.2g}" if math.isfinite(figure.value) else "not finite"


def cosine(figure: Estimate | None) -> str:
    """A cosine, which is told from 1 by its fifth digit."""
    return NONE if figure is None else f"{figure.value:.5f}"


def centre(figure: Estimate | None, unit: float = 1, digits: int = 0) -> str:
    """A figure without its interval, in units of `unit`: a median over rounds."""
    return number(None if figure is None else figure.value, unit, digits)


def number(value: float | None, unit: float, digits: int) -> str:
    """A value in units of `unit`."""
    return NONE if value is None else f"{value / unit:.{digits}f}"
