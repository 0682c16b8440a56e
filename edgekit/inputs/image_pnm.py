"""Portable graymaps and pixmaps whose values are not bytes of 0 to 255.

Pillow reads each of their values in Python, a minute for a large picture, and keeps 8 bits of 16-bit colours.
"""

from __future__ import annotations

import re

import numpy as np

from edgekit.inputs.image_types import Values

_SPACE = rb"(?:\s|#[^\r\n]*[\r\n])+"
_HEADER = re.compile(rb"P([2356])" + _SPACE.join([b"", rb"(\d{1,10})", rb"(\d{1,10})", rb"(\d{1,5})"]) + rb"\s")
_BITS = re.compile(rb"P4" + _SPACE.join([b"", rb"(\d{1,10})", rb"(\d{1,10})"]) + rb"\s")
_ANY_SPACE = re.compile(rb"\s*")
_COMMENT = re.compile(rb"#[^\r\n]*")
_PLAIN, _COLOURED = (2, 3), (3, 6)


def pictures(data: bytes, most: int) -> int:
    """How many pictures a file of raw values holds, one behind the other; counted up to one above `most`."""
    at = count = 0
    while count <= most and (end := _end(data, at)) is not None:
        count += 1
        space = _ANY_SPACE.match(data, min(end, len(data)))  # what a later header says is unchecked
        at = space.end() if space else end
    return count


def _end(data: bytes, at: int) -> int | None:
    """Where the picture that begins there ends; None where none of raw values does."""
    if header := _BITS.match(data, at):
        width, height = map(int, header.groups())
        return header.end() + -(-width // 8) * height
    header = _HEADER.match(data, at)
    if header is None or int(header[1]) in _PLAIN:
        return None
    kind, width, height, greatest = map(int, header.groups())
    return header.end() + width * height * (3 if kind in _COLOURED else 1) * (2 if greatest > 255 else 1)


def values(data: bytes) -> Values | None:
    """A file's values; None where Pillow's raw decoder reads them, or it is of another kind.

    The size in the header was checked before.

    Raises:
        ValueError: there are fewer values than pixels, or one is larger than the header says.
    """
    header = _HEADER.match(data)
    if header is None:
        return None
    kind, width, height, most = map(int, header.groups())
    plain = kind in _PLAIN
    if not 0 < most < 65536 or (most == 255 and not plain):
        return None
    shape = (height, width, 3) if kind in _COLOURED else (height, width)
    count, stored = int(np.prod(shape, dtype=np.int64)), np.dtype(">u2" if most > 255 else np.uint8)
    if plain:
        found = np.fromstring(_COMMENT.sub(b" ", data[header.end() :]), np.int64, count, sep=" ")
        if len(found) != count or found.min() < 0:
            raise ValueError(f"{len(found)} values for {count}, or a negative one")
    else:
        found = np.frombuffer(data, stored, count, header.end())
    if found.max() > most:
        raise ValueError(f"a value of {found.max()}, above {most}")
    array = found.astype(stored.newbyteorder("=")).reshape(shape)
    return Values(array, (0, most), f"values up to {most}")
