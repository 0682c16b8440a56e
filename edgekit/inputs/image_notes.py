"""What to know of a picture before trusting an answer about it."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.inputs import image_pnm
from edgekit.inputs.image_types import ONE_SHADE, middle

FEW_PIXELS = 64  # a side: an encoder would see little but its own interpolation
EXTREME_ASPECT = 4
MANY_PAGES = 1000  # that are counted
LOST_ROWS = 0.1  # of a JPEG, from which on they are said
_BLOCK = 16  # pixels: a multiple of every period in which a JPEG decoder repeats what it has no data for
_COEFFICIENTS, _UNSENT = 64, 16
_SCAN, _END_OF_IMAGE = 0xDA, 0xD9  # a JPEG's markers
_MARKER = re.compile(rb"\xff[^\0\xd0-\xd7\xff]")  # but what belongs to a scan
_FRAMES = {
    "GIF": "frames",
    "PNG": "frames",
    "WEBP": "frames",
    "TIFF": "pages",
    "PPM": "pictures",
}  # a camera's MPO has a preview, no other


def frames(image: Image.Image, data: bytes) -> list[str]:
    """Whether a loaded file holds more pictures than the one that is used."""
    if image.format not in _FRAMES:
        return []
    if image.format == "TIFF":
        count = _pages(data)
    elif image.format == "PPM":
        count = image_pnm.pictures(data, MANY_PAGES)
    else:
        count = getattr(image, "n_frames", 1)
    number = f"more than {MANY_PAGES}" if image.format in ("TIFF", "PPM") and count > MANY_PAGES else count
    return [f"the first of its {number} {_FRAMES[image.format]} is used"] if count > 1 else []


def _pages(data: bytes) -> int:
    """How many directories a TIFF file chains; Pillow's count reads every one of them."""
    order = "<" if data.startswith(b"II") else ">"
    large = data[2:4] in (b"+\0", b"\0+")  # BigTIFF
    entries, offset, entry, first = (f"{order}Q", f"{order}Q", 20, 8) if large else (f"{order}H", f"{order}I", 12, 4)
    seen: set[int] = set()
    try:
        (at,) = struct.unpack_from(offset, data, first)
        while at and at not in seen and len(seen) <= MANY_PAGES:
            seen.add(at)
            (count,) = struct.unpack_from(entries, data, at)
            (at,) = struct.unpack_from(offset, data, at + struct.calcsize(entries) + entry * count)
    except struct.error:  # the chain leads out of the file
        pass
    return len(seen)


def damage(image: Image.Image, data: bytes) -> list[str]:
    """Whether a loaded JPEG's data ended early, which its decoder fills up unsaid."""
    return [*_lost_scans(image, data), *_lost_rows(image)]


def _lost_scans(image: Image.Image, data: bytes) -> list[str]:
    """Whether a progressive JPEG lacks scans, so that its decoder guessed at details."""
    if image.format != "JPEG" or not image.info.get("progressive"):
        return []
    sent = list(_scans(data))
    least = [_UNSENT] * _COEFFICIENTS  # how many bits of each of the first component's coefficients are missing
    for component, first, last, low in sent:
        if component == sent[0][0]:
            least[first : last + 1] = [low] * len(least[first : last + 1])
    return ["its finer details are missing: the file may be damaged, copy it again"] if any(least) else []


def _scans(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Of each of a JPEG's scans: a component, its first and last coefficient, and how many low bits it leaves out."""
    at = 2
    while len(data) > at + 3 and data[at] == 0xFF and data[at + 1] != _END_OF_IMAGE:
        if data[at + 1] == 0xFF:  # before a marker, any number of them
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == _SCAN and at + 10 <= end <= len(data):
            yield data[at + 5], data[end - 3], data[end - 2], data[end - 1] & 15
            marker = _MARKER.search(data, end)
            end = marker.start() if marker else len(data)
        at = end


def _lost_rows(image: Image.Image) -> list[str]:
    """Whether the last rows are one block repeated, as a decoder fills them, where real pictures have noise.

    Black and white margins are usual, and say nothing.
    """
    width, height = image.size
    if image.format not in ("JPEG", "MPO") or min(width, height) < FEW_PIXELS:
        return []
    array = np.asarray(image).reshape(height, width, -1)[:-_BLOCK]  # in the last ones, the filling itself may end

    def repeated(rows: NDArray[np.uint8]) -> NDArray[np.bool_]:
        return np.asarray((rows[:, _BLOCK:] == rows[:, :-_BLOCK]).all(axis=(1, 2)))

    if not repeated(array[-max(_BLOCK, round(LOST_ROWS * height) - _BLOCK) :]).all():
        return []
    lost = int(np.argmin(repeated(array)[::-1]))  # 0 where all of it is: `constancy` tells
    grey = array[-lost:]
    if not lost or grey.max() <= ONE_SHADE or grey.min() >= 255 - ONE_SHADE:
        return []
    one = "one colour" if (grey == grey[0, 0]).all() else "one block repeated"
    return [
        f"the last {100 * (lost + _BLOCK) / height:.0f} % of its rows are {one}: the file may be damaged, copy it again"
    ]


def profile(image: Image.Image) -> list[str]:
    """Whether a file's colours mean something else than sRGB, which nobody's processor looks at."""
    given = image.info.get("icc_profile")
    if not isinstance(given, bytes) or not given or image.mode == "LAB":
        return []
    known = b"sRGB" in given or "sRGB".encode("utf-16-be") in given
    return [] if known else ["its colour profile is not sRGB, and ignored as in Google's processors"]


def transparency(rgba: Image.Image) -> list[str]:
    """How much of a picture becomes white because it is transparent."""
    counts = rgba.getchannel("A").histogram()
    total = sum(counts)
    if counts[0] == total:
        return ["ALL of it is transparent: nothing but white is left"]
    share = 100 * (1 - counts[255] / total)
    return [f"{max(share, 0.1):.1f} % of it is transparent, and becomes white"] if share else []


def form(rgb: Image.Image) -> list[str]:
    """Whether the encoder's square does a picture's form much harm."""
    width, height = rgb.size
    notes = []
    if max(rgb.size) > EXTREME_ASPECT * min(rgb.size):
        notes.append(f"{width} x {height} pixels, squeezed into a square: cut out what matters")
    if min(rgb.size) < FEW_PIXELS:
        notes.append(f"{width} x {height} pixels are few: the model sees them enlarged")
    return notes


def constancy(rgb: Image.Image) -> list[str]:
    """Whether hardly anything is to be seen."""
    counts = rgb.histogram()
    middles = [middle(np.asarray(counts[first : first + 256])) for first in range(0, len(counts), 256)]
    if any(high - low > ONE_SHADE for low, high in middles):
        return []
    low, high = min(low for low, _ in middles), max(high for _, high in middles)
    values = f"are {low}" if low == high else f"lie within {low} to {high}"
    return [f"nearly constant: 98 % of its values {values}, of 0 to 255: there is hardly anything to see"]
