"""Read protobuf's wire format with bounds, without a library that believes what a file says.

A message is walked where it lies in a mapped file, one field at a time, so memory does not grow with the file. The
format is described in protobuf's `encoding` guide; groups, which nothing has used since 2008, are refused.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

import numpy as np

from edgekit.errors import ArtifactError

Span = tuple[int, int]  # first byte, and the one after the last

_VARINT_BYTES = 10  # 64 bits in groups of seven
_COUNTED_AT_ONCE = 1 << 20


class Wire(IntEnum):
    """How a field's value is written."""

    VARINT = 0
    I64 = 1
    LEN = 2
    I32 = 5


@dataclass(frozen=True)
class MessageShape:
    """The fields of a message that a reader looks at: number -> how the value is written.

    Attributes:
        once: fields that may stand once. Parsers differ in what they make of a second one.
        many: fields that may repeat; numbers among them also packed into one field.
    """

    name: str
    once: Mapping[int, Wire] = field(default_factory=dict)
    many: Mapping[int, Wire] = field(default_factory=dict)


class Wrong(Protocol):
    """Makes the error that names the file."""

    def __call__(self, what: str, allowed: str | None = None) -> ArtifactError: ...


class WireReader:
    """Messages in a mapped file.

    Args:
        max_fields: how many fields are read in all, which bounds the time.
    """

    def __init__(self, data: mmap.mmap, wrong: Wrong, max_fields: int) -> None:
        self._data, self._wrong = data, wrong
        self._left = self._max_fields = max_fields

    def fields(self, message: MessageShape, span: Span) -> Iterator[tuple[int, Any]]:
        """A message's known fields, in the file's order: number, and an int (VARINT) or a Span (everything else).

        Raises:
            ArtifactError: a field reaches beyond its message, is written otherwise than it must be, or stands twice.
        """
        at, end = span
        seen: set[int] = set()
        while at < end:
            began = at
            key, at = self._varint(at, end, message.name)
            number, wire = key >> 3, key & 7
            value, at = self._value(wire, number, at, end, message.name)
            expected = message.once.get(number, message.many.get(number))
            if expected is None:
                continue
            packed = wire == Wire.LEN and number in message.many
            if wire != expected and not packed:
                raise self._wrong(
                    f"field {number} of a {message.name} at byte {began} has wire type {wire}", f"{expected:d}"
                )
            if number in message.once:
                if number in seen:
                    raise self._wrong(f"field {number} of a {message.name} stands twice, again at byte {began}")
                seen.add(number)
            yield number, value

    def text(self, span: Span, what: str, limit: int) -> str:
        """A string. Raises ArtifactError where it is longer than `limit` bytes or not UTF-8."""
        begin, end = span
        if end - begin > limit:
            raise self._wrong(f"{what} has {end - begin} bytes", f"at most {limit}")
        try:
            return self._data[begin:end].decode()
        except UnicodeDecodeError as error:
            raise self._wrong(f"{what} is not UTF-8") from error

    def integers(self, span: Span, what: str) -> Iterator[int]:
        """Packed signed integers."""
        at, end = span
        while at < end:
            value, at = self._varint(at, end, what)
            yield signed(value)

    def float32(self, span: Span) -> float:
        """A number of 32 bits, which `fields` yields as where it lies."""
        return float(np.frombuffer(self._data[span[0] : span[1]], "<f4")[0])

    def count(self, wire: Wire, span: Span) -> int:
        """How many numbers are packed into a field."""
        begin, end = span
        if wire != Wire.VARINT:
            size = 8 if wire == Wire.I64 else 4
            if (end - begin) % size:
                raise self._wrong(f"{end - begin} bytes of packed numbers at byte {begin}", f"a multiple of {size}")
            return (end - begin) // size
        total = 0
        for at in range(begin, end, _COUNTED_AT_ONCE):
            block = np.frombuffer(self._data[at : min(end, at + _COUNTED_AT_ONCE)], np.uint8)
            total += int(np.count_nonzero(block < 0x80))  # the last byte of each number
        return total

    def _value(self, wire: int, number: int, at: int, end: int, what: str) -> tuple[Any, int]:
        if number == 0 or wire not in (Wire.VARINT, Wire.I64, Wire.LEN, Wire.I32):
            raise self._wrong(f"field {number} of wire type {wire} in a {what} before byte {at}: no protobuf message")
        self._left -= 1
        if self._left < 0:
            raise self._wrong(f"more than {self._max_fields} fields")
        if wire == Wire.VARINT:
            return self._varint(at, end, what)
        if wire == Wire.LEN:
            length, at = self._varint(at, end, what)
        else:
            length = 8 if wire == Wire.I64 else 4
        if length > end - at:
            raise self._wrong(
                f"field {number} of a {what} at byte {at} reaches beyond its end: {length} bytes, {end - at} are left"
            )
        return (at, at + length), at + length

    def _varint(self, at: int, end: int, what: str) -> tuple[int, int]:
        """An unsigned number of at most 64 bits, and where it ends."""
        value = shift = 0
        for position in range(at, min(end, at + _VARINT_BYTES)):
            byte = self._data[position]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    break
                return value, position + 1
            shift += 7
        else:
            if end - at < _VARINT_BYTES:
                raise self._wrong(f"a number in a {what} at byte {at} reaches beyond its end")
        raise self._wrong(f"a number in a {what} at byte {at} has more than 64 bits")


def signed(value: int) -> int:
    """A varint as the two's complement number of 64 bits that `int32`, `int64` and enumerations mean by it."""
    return value - (1 << 64) if value >> 63 else value
