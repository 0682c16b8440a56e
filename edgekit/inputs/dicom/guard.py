"""What a DICOM file says of its size, held against what lies in it, before any decoder believes one of them.

A JPEG 2000 of 589 bytes made a decoder claim 705 MB, and a JPEG-LS of 144 megapixels came back as an array of 16 by 16:
decoders obey the codestream, callers the dataset. Both must say the same.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from edgekit.errors import InputError

PREAMBLE, MAGIC = 128, b"DICM\2\0"
MOST_FRAMES = 10_000
MOST_FILE_BYTES = 2 << 30
_INFLATED_PER_BYTE, _INFLATED_SPARE = 20, 64 << 20  # of a deflated dataset: images shrink to a half, text to a tenth
_MOST_TILES = 16_384  # of a JPEG 2000
_MOST_SEGMENTS = 15  # of a run-length encoded frame (PS3.5, G.5)
_SIZES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}  # markers of frames: SOFn, and SOF55 of JPEG-LS

DEFLATED = "1.2.840.10008.1.2.1.99"
UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", DEFLATED)
# Transfer syntax -> how its codestream is looked into. What is not here is decoded by nothing that edgekit brings.
_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_JPEG_BITS = 8
_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
_JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203))
RLE = "1.2.840.10008.1.2.5"
_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_VIDEO = tuple(f"1.2.840.10008.1.2.4.{number}" for number in range(100, 109))


@dataclass(frozen=True)
class Pixels:
    """What a dataset says of each of its frames.

    Attributes:
        samples: 1 for grey or a palette, 3 for colours.
        allocated, stored: bits.
    """

    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    frames: int

    @property
    def frame_bytes(self) -> int:
        """What one frame takes uncompressed."""
        return self.rows * self.columns * self.samples * max(8, self.allocated) // 8


@dataclass(frozen=True)
class _Coded:
    """What a codestream says of itself."""

    rows: int
    columns: int
    samples: int
    bits: int


def is_dicom(data: bytes) -> bool:
    """Whether a file is one of part 10 of the standard: a preamble, its four letters, and an element of group 2."""
    return data[PREAMBLE : PREAMBLE + len(MAGIC)] == MAGIC


def check_syntax(syntax: str) -> None:
    """Raise InputError for a transfer syntax that nothing here decodes, with what to do."""
    if syntax in UNCOMPRESSED or syntax in _LOOKS:
        return
    if syntax in _VIDEO:
        raise InputError("a video", allowed="images", remedy="save the frames that matter as images")
    name = "JPEG lossless" if syntax in _LOSSLESS else f"transfer syntax {syntax:.64}"
    raise InputError(
        f"{name}: no decoder under a permissive licence reads it",
        allowed="uncompressed, deflated, RLE, JPEG, JPEG-LS, JPEG 2000, HTJ2K",
        remedy="gdcmconv --raw or dcmdjpeg writes it uncompressed",
    )


def check_inflated(data: bytes, most: int | None = None) -> None:
    """Raise InputError where what is deflated holds more than its size allows.

    Args:
        data: the deflated dataset (RFC 1951).
        most: bytes; in proportion to the data for None.
    """
    most = most if most is not None else _INFLATED_SPARE + _INFLATED_PER_BYTE * len(data)
    inflater, found = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while data and not inflater.eof:
        found += len(inflater.decompress(data, 1 << 20))
        if found > most:
            raise InputError("it inflates to more than any image of its size does", remedy="write it uncompressed")
        data = inflater.unconsumed_tail


def check_codestream(syntax: str, data: bytes, said: Pixels) -> None:
    """Raise InputError where a compressed frame says another size than the dataset, or none."""
    try:
        found = _LOOKS[syntax](data, said)
    except (struct.error, IndexError, ValueError) as error:
        raise InputError("a compressed frame without a whole header of its own", remedy="get the file anew") from error
    if found is None:
        return
    theirs = (found.columns, found.rows, found.samples)
    ours = (said.columns, said.rows, said.samples)
    if theirs != ours:
        raise InputError(
            f"a compressed frame of {theirs[0]} x {theirs[1]} pixels of {theirs[2]} samples",
            allowed=f"{ours[0]} x {ours[1]} of {ours[2]}, as the dataset says",
            remedy="get the file anew: one of the two is wrong",
        )
    if syntax in _JPEG and found.bits != _JPEG_BITS:
        raise InputError(
            f"a JPEG of {found.bits} bits: no decoder under a permissive licence reads it",
            allowed="JPEG of 8 bits",
            remedy="gdcmconv --raw or dcmdjpeg writes it uncompressed",
        )
    if not 0 < found.bits <= said.allocated:
        raise InputError(f"a compressed frame of {found.bits} bits", allowed=f"at most {said.allocated}, as allocated")


def _jpeg(data: bytes, said: Pixels) -> _Coded:
    """By the first frame header (ITU-T T.81, B.2.2; of JPEG-LS T.87, C.2.2)."""
    if data[:2] != b"\xff\xd8":
        raise ValueError("no start of image")
    place = 2
    while True:
        while data[place] == 0xFF and data[place + 1] == 0xFF:  # fill
            place += 1
        marker, length = data[place : place + 2], struct.unpack_from(">H", data, place + 2)[0]
        if marker[0] != 0xFF or length < 2:
            raise ValueError("no marker")
        if marker[1] in _SIZES:
            bits, rows, columns, samples = struct.unpack_from(">BHHB", data, place + 4)
            return _Coded(rows, columns, samples, bits)
        if marker[1] == 0xDA:
            raise ValueError("a scan before its size")
        place += 2 + length


def _jpeg_2000(data: bytes, said: Pixels) -> _Coded:
    """By its SIZ marker (ITU-T T.800, A.5.1), which is the first; some writers put a JP2 file around it."""
    start = 0 if data[:4] == b"\xff\x4f\xff\x51" else data.index(b"jp2c\xff\x4f\xff\x51") + 4
    sizes = struct.unpack_from(">8IH", data, start + 8)
    x, y, x0, y0, tile_x, tile_y, tile_x0, tile_y0, samples = sizes
    if not (x0 < x and y0 < y and tile_x and tile_y and tile_x0 <= x0 and tile_y0 <= y0):
        raise ValueError("no size")
    tiles = -(-(x - tile_x0) // tile_x) * -(-(y - tile_y0) // tile_y)
    if tiles > _MOST_TILES:
        raise ValueError("too many tiles")
    bits, steps = 0, set[tuple[int, int]]()
    for number in range(min(samples, 4)):
        depth, step_x, step_y = struct.unpack_from(">3B", data, start + 42 + 3 * number)
        bits, steps = max(bits, (depth & 0x7F) + 1), steps | {(step_x, step_y)}
    if steps != {(1, 1)}:
        raise ValueError("samples of several sizes")
    return _Coded(y - y0, x - x0, samples, bits)


def _rle(data: bytes, said: Pixels) -> None:
    """Its segments are one for each byte of a pixel, one behind the other (PS3.5, G.4 and G.5)."""
    count, *offsets = struct.unpack_from("<16I", data)
    wanted = said.samples * said.allocated // 8
    if not 0 < count <= _MOST_SEGMENTS or count != wanted:
        raise ValueError("other segments")
    used = [*offsets[:count], len(data)]
    if used[0] != 64 or any(here >= after for here, after in pairwise(used)):
        raise ValueError("segments that lie elsewhere")


_Look = Callable[[bytes, Pixels], _Coded | None]
_LOOKS: Mapping[str, _Look] = {
    **dict.fromkeys((*_JPEG, *_JPEG_LS), _jpeg),
    **dict.fromkeys(_JPEG_2000, _jpeg_2000),
    RLE: _rle,
}
