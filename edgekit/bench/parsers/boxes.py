"""Boxes that an answer draws, as MedGemma 1.5 was trained to write them."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from edgekit.bench.parsers.statements import final

_FENCED = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class LabelledBox:
    """A box: (top, left, bottom, right) in thousandths of the image."""

    label: str
    box: tuple[float, float, float, float]


def labelled_boxes(answer: str) -> tuple[LabelledBox, ...] | None:
    """The boxes of the last JSON list in an answer, fenced or bare; None where there is no list of boxes alone."""
    fenced = _FENCED.findall(answer)
    text = fenced[-1] if fenced else final(answer)
    start = min((at for at in (text.find("["), text.find("{")) if at >= 0), default=None)
    if start is None:
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    boxes = [_box(entry) for entry in (found if isinstance(found, list) else [found])]
    return tuple(box for box in boxes if box) if boxes and all(boxes) else None


def _box(entry: Any) -> LabelledBox | None:
    if not isinstance(entry, dict):
        return None
    corners, label = entry.get("box_2d"), entry.get("label", "")
    if not isinstance(corners, list) or len(corners) != 4 or not isinstance(label, str):
        return None
    if not all(type(corner) in (int, float) for corner in corners):
        return None
    try:
        top, left, bottom, right = map(float, corners)
    except OverflowError:
        return None
    if not all(map(math.isfinite, (top, left, bottom, right))) or top >= bottom or left >= right:
        return None
    return LabelledBox(label, (top, left, bottom, right))
