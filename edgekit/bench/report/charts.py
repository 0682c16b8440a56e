"""Three small charts as inline SVG. Colours come from the page's CSS variables, so they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from edgekit.terminal import printable

_SMALLEST = 1e-12  # width of an axis
_WIDTH, _LABEL, _RIGHT, _LINE = 820, 320, 90, 26


@dataclass(frozen=True)
class Mark:
    """One labelled value with an interval; `kind` (reference, variant, control) chooses its colour."""

    label: str
    kind: str
    value: float
    low: float
    high: float


def intervals(marks: Sequence[Mark], *, title: str, unit: str, baseline: float | None = None, digits: int = 1) -> str:
    """Points with their intervals, one a line; a dashed line at `baseline` where one is given."""
    ends = [x for mark in marks for x in (mark.low, mark.high)] + ([baseline] if baseline is not None else [])
    low, high = min(ends), max(ends)
    margin = 0.05 * (high - low)
    margin = margin if margin > _SMALLEST else 1.0
    scale = _scale(low - margin, high + margin)
    body = [_axis(low - margin, high + margin, len(marks), unit)]
    if baseline is not None:
        x = scale(baseline)
        body.append(f'<line class="dashed" x1="{x:.1f}" y1="8" x2="{x:.1f}" y2="{8 + _LINE * len(marks)}"/>')
    for i, mark in enumerate(marks):
        y = 8 + _LINE * (i + 0.5)
        body.append(_label(mark, y, f"{mark.value:.{digits}f}"))
        body.append(_bar(scale(mark.low), scale(mark.high), y, mark.kind))
        body.append(f'<circle class="{mark.kind}" cx="{scale(mark.value):.1f}" cy="{y:.1f}" r="5"/>')
    return _svg("".join(body), 8 + _LINE * len(marks) + 30, title)


def bars(marks: Sequence[Mark], *, title: str, unit: str, digits: int = 1) -> str:
    """Bars from zero with the range over rounds, one a line."""
    high = 1.05 * max(mark.high for mark in marks)
    high = high if high > _SMALLEST else 1.0
    scale = _scale(0, high)
    body = [_axis(0, high, len(marks), unit)]
    for i, mark in enumerate(marks):
        y = 8 + _LINE * (i + 0.5)
        width = scale(mark.value) - scale(0)
        body.append(_label(mark, y, f"{mark.value:.{digits}f}"))
        body.append(f'<rect class="{mark.kind}" x="{_LABEL}" y="{y - 7:.1f}" width="{width:.1f}" height="14" rx="2"/>')
        body.append(_bar(scale(mark.low), scale(mark.high), y, "range"))
    return _svg("".join(body), 8 + _LINE * len(marks) + 30, title)


def scatter(points: Sequence[tuple[str, str, float, float]], *, title: str, x_unit: str, y_unit: str) -> str:
    """Points (label, kind, x, y) with y on a logarithmic axis; a y of zero is drawn on the lowest line."""
    height, left, bottom = 300, 90, 250
    positive = [y for *_, y in points if y > 0] or [1.0]
    first, last = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    last = max(last, first + 1)
    right = 1.1 * max(x for *_, x, _ in points)

    def across(x: float) -> float:
        return left + (_WIDTH - left - _RIGHT) * x / right

    def up(y: float) -> float:
        exponent = math.log10(y) if y > 0 else first
        return bottom - (bottom - 20) * (exponent - first) / (last - first)

    body = []
    for exponent in range(first, last + 1):
        y = up(10.0**exponent)
        body.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>')
        body.append(f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">1e{exponent}</text>')
    for tick in _ticks(0, right):
        body.append(f'<text class="tick" x="{across(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>')
    middle = (left + _WIDTH - _RIGHT) / 2
    body.append(f'<text class="tick" x="{middle:.0f}" y="{bottom + 36}" text-anchor="middle">{_text(x_unit)}</text>')
    body.append(f'<text class="tick" x="8" y="12">{_text(y_unit)}</text>')
    for label, kind, x, y in points:
        body.append(f'<circle class="{kind}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="5"/>')
        body.append(f'<text x="{across(x) + 9:.1f}" y="{up(y) - 6:.1f}">{_text(label)}</text>')
    return _svg("".join(body), height, title)


def _scale(low: float, high: float) -> Callable[[float], float]:
    return lambda value: _LABEL + (_WIDTH - _LABEL - _RIGHT) * (value - low) / (high - low)


def _ticks(low: float, high: float) -> list[float]:
    """Some five round values between the ends."""
    raw = (high - low) / 5
    step = 10.0 ** math.floor(math.log10(raw))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= raw)
    first = math.ceil(low / step)
    return [round(step * i, 10) for i in range(first, math.floor(high / step) + 1)]


def _axis(low: float, high: float, lines: int, unit: str) -> str:
    scale, bottom = _scale(low, high), 8 + _LINE * lines
    parts = []
    for tick in _ticks(low, high):
        x = scale(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="8" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    return (
        "".join(parts)
        + f'<text class="tick" x="{_WIDTH - 4}" y="{bottom + 16}" text-anchor="end">{_text(unit)}</text>'
    )


def _label(mark: Mark, y: float, value: str) -> str:
    name = f'<text x="{_LABEL - 10}" y="{y + 4:.1f}" text-anchor="end">{_text(mark.label)}</text>'
    return name + f'<text class="tick" x="{_WIDTH - 4}" y="{y + 4:.1f}" text-anchor="end">{value}</text>'


def _bar(start: float, end: float, y: float, kind: str) -> str:
    return f'<line class="{kind} interval" x1="{start:.1f}" y1="{y:.1f}" x2="{end:.1f}" y2="{y:.1f}"/>'


def _svg(body: str, height: int, title: str) -> str:
    name = _text(title)
    return (
        f'<figure><figcaption>{name}</figcaption><div class="frame" tabindex="0" role="region" aria-label="{name}">'
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{name}">{body}</svg></div></figure>'
    )


def _text(text: str) -> str:
    return escape(printable(text))
