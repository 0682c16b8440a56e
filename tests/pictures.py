"""Image files written by hand, in the layouts that Pillow does not write."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(array: NDArray[Any], extra: bytes = b"", interlaced: bool = False) -> bytes:
    """[h, w] or [h, w, 2 to 4] of 8 or 16 bits; every other line is stored as differences to the one on its left."""
    height, width = array.shape[:2]
    bands = 1 if array.ndim == 2 else array.shape[2]
    whole = array.astype(array.dtype.newbyteorder(">")).reshape(height, width, bands)
    passes = [whole[y::dy, x::dx] for y, x, dy, dx in (ADAM7 if interlaced else ((0, 0, 1, 1),))]
    body = b"".join(
        _line(line.tobytes(), i % 2, line[0].nbytes) for part in passes if part.size for i, line in enumerate(part)
    )
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    header = struct.pack(">IIBBBBB", width, height, 8 * array.dtype.itemsize, kind, 0, 0, int(interlaced))
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _line(line: bytes, kind: int, pixel: int) -> bytes:
    if not kind:
        return b"\0" + line
    values = np.frombuffer(line, np.uint8)
    left = np.concatenate([np.zeros(pixel, np.uint8), values[:-pixel]])
    return b"\1" + bytes(values - left)


def tiff(
    array: NDArray[Any],
    photometric: int = 1,
    *,
    order: Literal["<", ">"] = "<",
    deflated: bool = False,
    planes: bool = False,
    bits: int | None = None,
    next_page: int = 0,
) -> bytes:
    """[h, w] or [h, w, bands] of any number type; bands after the third are opacity; one strip a plane."""
    height, width = array.shape[:2]
    bands = 1 if array.ndim == 2 else array.shape[2]
    raw = array.astype(array.dtype.newbyteorder(order))
    strips = [np.ascontiguousarray(raw[..., i]).tobytes() for i in range(bands)] if planes else [raw.tobytes()]
    strips = [zlib.compress(strip) for strip in strips] if deflated else strips
    sample = {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    fields = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [bits or 8 * array.dtype.itemsize] * bands),
        (259, 3, [8 if deflated else 1]),
        (262, 3, [photometric]),
        (273, 4, [0] * len(strips)),
        (277, 3, [bands]),
        (278, 4, [height]),
        (279, 4, [len(strip) for strip in strips]),
        (284, 3, [2 if planes else 1]),
        *([(338, 3, [2])] if bands == 4 else []),
        (339, 3, [sample] * bands),
    ]
    end = 8 + 2 + 12 * len(fields) + 4
    beyond = b"".join(_field(kind, values, order) for _, kind, values in fields if len(_field(kind, values, order)) > 4)
    starts = [end + len(beyond) + sum(map(len, strips[:i])) for i in range(len(strips))]
    head, extra = struct.pack(f"{order}H", len(fields)), b""
    for tag, kind, values in fields:
        packed = _field(kind, starts if tag == 273 else values, order)
        if len(packed) > 4:
            packed, extra = struct.pack(f"{order}I", end + len(extra)), extra + packed
        head += struct.pack(f"{order}HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}I", 8) + head + struct.pack(f"{order}I", next_page) + extra + b"".join(strips)


def _field(kind: int, values: list[int], order: str) -> bytes:
    return struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
