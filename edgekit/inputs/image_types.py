"""Pixel types: what the numbers of a picture mean, and how they become 8 bits a channel.

| type                            | without a range                                                    | with one  |
| ------------------------------- | ------------------------------------------------------------------ | --------- |
| unsigned, 8 bits and fewer      | as they are; said loudly where little of them is used              | stretched |
| unsigned, 9 to 16 bits          | the type's range becomes 0 to 255, round(x / 257) for 16 bits as   | stretched |
|                                 | in Google's serving code; said loudly where little of it is used   |           |
| signed, 32 bits, floating point | refused: nobody knows what is black                                | stretched |

A range names the value that becomes black and the one that becomes white; what lies outside becomes the nearer one. A
TIFF file whose white is zero is inverted afterwards, whatever its type.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.errors import InputError

Range = tuple[float, float] | Literal["auto"]

ALLOWED = "8 or unsigned 16 bits a pixel, or a range of the values to show"
NARROW = 0.25  # of a type's range: 12 bits in 16 use 0.06, 14 bits 0.25
HALF = 0.52  # 15 bits in 16 use 0.5
ONE_SHADE = 8  # grey levels, of which the noise of an empty picture takes some
_FEW = 0.01  # of the values may lie outside of a range unsaid, and do not count for how wide the used one is
_HARDLY_ANY = 0.001  # likewise of 8 bits, where dark pictures with a few bright spots are ordinary
_SPECKS = 0.0001  # likewise, where half of the type is used: ordinary bright spots are more
_ENOUGH = 1000  # values, to speak of a thousandth of them
_MARKS = 0.25  # of the values at most: text burnt in, or what fills the corners around a round field of view
_MARK_WIDTH, _GAP = 1 / 32, 1 / 8  # of a type's range: what marks take of it, and what lies empty beside them
_SMOOTH = 0.25  # of the marks may lie in that gap: letters with smooth edges
BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF's tags
_BLOCK = 1 << 20  # values that are converted at a time
_NO_TAGS: Mapping[int, Any] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Values:
    """A picture's numbers as its file holds them.

    Attributes:
        array: [height, width] or [height, width, 3].
        full: what the type says is black and white, None where it says nothing.
        kind: the type, for people.
        inverted: the least value is white.
        alpha: uint8 [height, width], None where nothing is transparent.
    """

    array: NDArray[Any]
    full: tuple[float, float] | None
    kind: str
    inverted: bool = False
    alpha: NDArray[np.uint8] | None = None


def checked_range(given: Any) -> Range | None:
    """A range that a user named.

    Raises:
        InputError: it is none.
    """
    if given is None:
        return None
    if isinstance(given, str) and given == "auto":
        return "auto"
    allowed = "two finite numbers, the lower one first, or auto"
    try:
        low, high = map(float, given)
    except (TypeError, ValueError) as error:
        raise InputError(f"a range of {given!r:.80}", allowed=allowed) from error
    if isinstance(given, str) or not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"a range of {given!r:.80}", allowed=allowed)
    return low, high


def of_array(array: NDArray[Any]) -> Values | None:
    """An array's values, None where its type or shape is no picture's."""
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if not shaped or array.dtype.kind not in "uif" or array.size == 0:
        return None
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        bits = 8 * array.dtype.itemsize
        return Values(array, (0, 2**bits - 1), f"{bits} bits a pixel")
    return Values(array, None, f"{array.dtype} values")


def of_image(image: Image.Image) -> Values | None:
    """A decoded picture's values where it has more than 8 bits a pixel, or signed ones, else None."""
    tags = getattr(image, "tag_v2", _NO_TAGS)
    inverted = tags.get(_PHOTOMETRIC) == 0
    if image.mode == "L" and tags.get(_SAMPLE_FORMAT, (1,))[0] == 2:
        return Values(np.asarray(image).view(np.int8), None, "signed 8 bits a pixel", inverted)
    if image.mode.startswith("I;16"):
        bits = min(tags.get(BITS_PER_SAMPLE, (16,))[0], 16)
        array = np.asarray(image).astype(np.uint16)
        return Values(array, (0, 2**bits - 1), f"{bits} bits a pixel", inverted, _transparent(image, array))
    if image.mode == "I":
        bits = tags.get(BITS_PER_SAMPLE, (32,))[0]
        if tags.get(_SAMPLE_FORMAT, (2,))[0] == 1:  # Pillow has no mode for it
            return Values(np.asarray(image).view(np.uint32), None, f"unsigned {bits} bits a pixel", inverted)
        return Values(np.asarray(image), None, f"signed {bits} bits a pixel", inverted)
    if image.mode == "F":
        return Values(np.asarray(image), None, "floating point", inverted)
    return None


def _transparent(image: Image.Image, array: NDArray[Any]) -> NDArray[np.uint8] | None:
    """The alpha of a picture one of whose values means nothing."""
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return None
    return np.where(array == key, 0, 255).astype(np.uint8)


def to_8_bits(values: Values, shown: Range | None) -> tuple[NDArray[np.uint8], list[str]]:
    """uint8 of the values' shape, and what to know about it.

    Args:
        shown: the range that becomes 0 to 255, `auto` for the picture's own; None for the type's.

    Raises:
        InputError: there is no range to use, or nothing in it to see.
    """
    if values.full is None or shown is not None:
        least, greatest, missing = _extremes(values)
        if shown is None:
            low_text, high_text = _number(least), _number(greatest)
            own = f"--range={low_text}:{high_text}, its own, or what is black and white in it"
            remedy = f"{own} ({_elsewhere(low_text, high_text)})"
            raise InputError(f"{values.kind}, from {low_text} to {high_text}", allowed=ALLOWED, remedy=remedy)
        low, high = (least, greatest) if shown == "auto" else shown
        if not low < high:
            raise InputError(f"every value is {_number(least)}: there is nothing to stretch", allowed="any two values")
        notes = [f"{missing} values are no numbers: shown black"] if missing else []
        notes += [_stretched(values, low, high)] if shown == "auto" else _outside(values, low, high)
    else:
        (low, high), notes = values.full, _narrow(values)
    scaled = _scaled(values.array, low, high)
    return (255 - scaled if values.inverted else scaled), notes


def _extremes(values: Values) -> tuple[float, float, int]:
    """The least and the greatest number, and how many values are none."""
    visible = None if values.alpha is None else values.alpha > 0
    array, missing = values.array if visible is None or not visible.any() else values.array[visible], 0
    if array.dtype.kind == "f":
        finite = np.isfinite(array)
        missing = int(array.size - np.count_nonzero(finite))
        array = array[finite] if missing else array
        if not array.size:
            raise InputError(f"{values.kind}, and no number among them", allowed=ALLOWED)
    return float(array.min()), float(array.max()), missing


def _elsewhere(low: float | str, high: float | str) -> str:
    """How a range is given where it is no command's option: to a server, beside the image."""
    return f'in Python: range=, over HTTP: "range": [{low}, {high}]'


def _number(value: float) -> str:
    return f"{value:.10g}"


def _stretched(values: Values, low: float, high: float) -> str:
    of_type = f", of 0 to {values.full[1]:g}" if values.full else ""
    return f"its values {_number(low)} to {_number(high)} (its least and greatest{of_type}) were stretched to 0 to 255"


def _outside(values: Values, low: float, high: float) -> list[str]:
    dark, bright = ("white", "black") if values.inverted else ("black", "white")
    found = (
        (values.array < low, f"below {_number(low)}, shown {dark}"),
        (values.array > high, f"above {_number(high)}, shown {bright}"),
    )
    shares = [(np.count_nonzero(outside) / values.array.size, where) for outside, where in found]
    return [f"{share:.0%} of its values are {where}" for share, where in shares if share > _FEW]


def _narrow(values: Values) -> list[str]:
    """`narrow`, of values whose type says a range."""
    assert values.full is not None, "asked only where the type says a range"
    counts = np.zeros(1 << 16, np.int64)
    for rows in _blocks(values.array):  # numpy counts with 8 bytes a value
        counts += np.bincount(values.array[rows].ravel(), minlength=len(counts))
    return narrow(counts, int(values.full[1]), values.kind)


def narrow(counts: NDArray[Any], whole: int, kind: str) -> list[str]:
    """Whether a type is used for little of its range: the rest of the contrast is lost then.

    Args:
        counts: how often each value from 0 on occurs.
        whole: the type's greatest value.
        kind: the type, for people.
    """
    picture = _without_marks(counts, whole)
    least, greatest = _ends(picture)
    deep = whole > 255  # of fewer bits, dark pictures with a few bright spots are ordinary
    few = _FEW if deep else _HARDLY_ANY
    low, high = middle(picture, few)
    if least == greatest or not (deep or (high - low > ONE_SHADE and counts.sum() >= _ENOUGH)):
        return []  # `image_notes` says that there is little to see
    marks = 1 - picture.sum() / counts.sum()
    where = f"{least} to {greatest}" + (f" but for marks ({100 * marks:.2g} % of them)" if marks else "")
    # The least and the greatest value of all would be the marks'.
    auto, auto_there = ("", "") if marks else (" or --range=auto", ' or "auto"')
    remedy = f"stretch it with --range={least}:{greatest}{auto} ({_elsewhere(least, greatest)}{auto_there})"
    if high - low < NARROW * whole:
        shades = max(round((high - low) * 255 / whole), 1)
        return [
            f"WRONG CONTRAST: its values are {where} ({100 - 200 * few:.3g} % of them {low} to {high}), but {kind} "
            f"reach to {whole:g}, so that it is shown in {shades} of 256 shades: {remedy}"
        ]
    low, high = middle(picture, _SPECKS)
    if deep and high - low <= HALF * whole:
        return [f"its values are {where}, about half of what {kind} reach to ({whole:g}): if it looks flat, {remedy}"]
    return []


def _without_marks(counts: NDArray[Any], whole: int) -> NDArray[Any]:
    """How often each value occurs in the picture itself: without text burnt in and fillings, far from all else."""
    rest, total = counts.copy(), counts.sum()
    width, gap = max(1, round(_MARK_WIDTH * whole)), round(_GAP * whole)
    for flipped in (rest[whole::-1], rest[: whole + 1]):  # from the bright and from the dark end
        while True:
            first = int(np.argmax(flipped > 0))
            mark, beside = flipped[first : first + width], flipped[first + width : first + width + gap]
            share = (total - rest.sum() + mark.sum()) / total
            if share > _MARKS or beside.sum() > _SMOOTH * mark.sum():
                break
            mark[:] = 0
    least, greatest = _ends(rest)
    return counts if least == greatest else rest  # lines on a ground are no marks


def _ends(counts: NDArray[Any]) -> tuple[int, int]:
    used = np.flatnonzero(counts)
    return int(used[0]), int(used[-1])


def middle(counts: NDArray[Any], few: float = _FEW) -> tuple[int, int]:
    """Between which values all but a few at each end lie, 98 %, from how often each occurs."""
    summed = np.cumsum(counts)
    low, high = np.searchsorted(summed, (few * summed[-1], (1 - few) * summed[-1]))
    return int(low), int(high)


def _scaled(array: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """round((x - low) / (high - low) * 255), cut to 0 to 255; what is no number becomes 0."""
    table = None
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        table = _scaled_block(np.arange(2 ** (8 * array.dtype.itemsize)), low, high)
    scaled = np.empty(array.shape, np.uint8)
    for rows in _blocks(array):
        scaled[rows] = _scaled_block(array[rows], low, high) if table is None else table[array[rows]]
    return scaled


def _blocks(array: NDArray[Any]) -> Iterator[slice]:
    """Rows that are converted at a time, so that wider numbers of all of them are never held."""
    rows = max(1, _BLOCK // array[0].size)
    return (slice(first, first + rows) for first in range(0, len(array), rows))


def _scaled_block(block: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    with np.errstate(over="ignore", invalid="ignore"):
        wide = np.nan_to_num((block.astype(np.float64) - low) / (high - low), nan=0.0) * 255
    return np.asarray(np.rint(wide.clip(0, 255)), np.uint8)
