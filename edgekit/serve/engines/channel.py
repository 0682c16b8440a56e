"""Frames on a pipe: two lengths, a JSON object, and bytes.

Nothing in a frame is ever run, and no frame is larger than its limit, so that a process that a crash has left writing
rubbish costs its reader one error and no memory.

To the process, first how to open a model and, once it said what that takes, with how many slots:

    {"folder", "level", "digest", "context", "device", "runtime", "cache_type", "keep", "most_slots"}
    {"slots": n}
    {"job": number, "kind": "chat", "body": {...}, "images": [length, ...]} and the images' bytes, one behind the other
    {"job": number, "took": n}       events that were taken, so that as many more may come
    {"job": number, "cancel": true}
    {"ping": true}                   at any time

From it:

    {"weights": bytes, "contexts": [bytes of 1 slot, of 2, ...]}
    {"ready": {"hints": ["...", ...]}} or {"failed": {...}}
    {"job": number, "event": "piece", "body": {...}} and the event's data
    {"pong": true}                   at once, whatever it is at
    {"job": number, "end": true} or {"job": number, "error": {...}}: its slot is free
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from typing import IO, Any

Frame = tuple[dict[str, Any], bytes]

MOST_DOCUMENT = 64 << 20
MOST_DATA = 512 << 20
# Events of one job that may be on their way: who reads slowly makes its engine wait, and nothing grows meanwhile.
WINDOW = 256

_LENGTHS = struct.Struct(">II")  # of the document, of the bytes


class Rubbish(ValueError):  # noqa: N818 - named for what came
    """What came is no frame."""


def head(document: dict[str, Any], data_length: int = 0) -> bytes:
    """A frame up to its data. Raises ValueError where it would be too large."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    _check(len(text), data_length)
    return _LENGTHS.pack(len(text), data_length) + text


def read(pipe: IO[bytes]) -> Frame | None:
    """The next frame; None at the pipe's end, in the midst of a frame, too. Raises Rubbish where there is none."""
    lengths = pipe.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    document, data = _LENGTHS.unpack(lengths)
    _check(document, data)
    text, bytes_ = pipe.read(document), pipe.read(data)
    return (_object(text), bytes_) if len(text) == document and len(bytes_) == data else None


class Frames:
    """Frames from what arrives piece by piece."""

    def __init__(self) -> None:
        self._held = bytearray()

    def fed(self, arrived: bytes) -> list[Frame]:
        """All frames that are whole now. Raises Rubbish."""
        self._held += arrived
        frames, at = [], 0
        while len(self._held) >= at + _LENGTHS.size:
            document, data = _LENGTHS.unpack_from(self._held, at)
            _check(document, data)
            begin = at + _LENGTHS.size
            end = begin + document + data
            if len(self._held) < end:
                break
            with memoryview(self._held) as held:
                text, bytes_ = bytes(held[begin : begin + document]), bytes(held[begin + document : end])
            at = end
            frames.append((_object(text), bytes_))
        del self._held[:at]
        return frames


def split(data: bytes, lengths: Iterable[int]) -> tuple[bytes, ...]:
    """Bytes that stand one behind the other. Raises Rubbish where the lengths are not theirs."""
    parts, at = [], 0
    for length in lengths:
        parts.append(data[at : at + length])
        at += length
    if at != len(data):
        raise Rubbish("lengths that are not those of the data")
    return tuple(parts)


def _check(document: int, data: int) -> None:
    if document > MOST_DOCUMENT or data > MOST_DATA:
        raise Rubbish(f"a frame of {document} and {data} bytes")


def _object(text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise Rubbish(f"no JSON: {type(error).__name__}") from error
    if not isinstance(document, dict):
        raise Rubbish("no JSON object")
    return document
