"""Read a GGUF file's header with bounds, so that no other reader meets a file that lies about itself.

Everything a header states is checked against limits or the file's size before memory is taken for it: counts, string
and array lengths, shapes, types, and where each tensor's data lies. The format is described in ggml's `docs/gguf.md`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edgekit.errors import ArtifactError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)  # 3 only added big-endian files
_BLOCK_BYTES = 16 << 20  # of strings, read at once
_MAX_HEADER_BYTES = 256 * 1024 * 1024  # Gemma 3's, with its vocabulary, has 6 million
_MAX_FIELDS = 4096
_MAX_TENSORS = 16_384  # llama.cpp's 512 layers have half as many
_MAX_KEY_BYTES = 65_535
_MAX_STRINGS = 2_000_000  # in all arrays together; the largest vocabularies have 262,144
_MAX_NAME_BYTES = 63  # GGML_MAX_NAME - 1
_MAX_DIMENSIONS = 4
_MAX_ALIGNMENT = 1 << 20

_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS: Mapping[int, str] = {
    0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "u1", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip

# gguf_type -> its name.
_KINDS: Mapping[int, str] = {
    0: "uint8", 1: "int8", 2: "uint16", 3: "int16", 4: "uint32", 5: "int32", 6: "float32", _BOOL: "bool",
    _STRING: "string", _ARRAY: "array", 10: "uint64", 11: "int64", 12: "float64",
}  # fmt: skip

# ggml_type -> its name, the weights of one block and the block's bytes.
TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
}  # fmt: skip

# Types that ggml had once; files of them must be made again.
_REMOVED: Mapping[int, str] = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}  # fmt: skip

# llama_ftype, which `general.file_type` holds -> the level's name.
FILE_TYPES: Mapping[int, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4", 39: "NVFP4",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor.

    Attributes:
        shape: as numpy has it, rows first; GGUF stores it the other way round.
        type: ggml's name of the type.
        offset: of its data, in bytes from the beginning of the file.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    bytes: int

    @property
    def weights(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says about itself, checked.

    Attributes:
        fields: key -> a number, bool or str, a list of str, or a numpy array.
        kinds: key -> the type that its value is stored as: `uint32`, `string`, `array of float32`. llama.cpp ends the
            process over some that are stored as another than it expects.
    """

    path: Path
    fields: Mapping[str, Any]
    kinds: Mapping[str, str]
    tensors: Mapping[str, GgufTensor]

    def text(self, key: str, default: str | None = None) -> str:
        """A string. Raises ArtifactError where it is missing and has no default, or is none."""
        return str(self._typed(key, str, "a string", default))

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 0. Raises ArtifactError as `text` does."""
        number = self._typed(key, int, "a whole number", default)
        if isinstance(number, bool) or number < 0:
            raise ArtifactError(f"{self.path}: {key} is {number}", allowed="a whole number, 0 or more")
        return int(number)

    def number(self, key: str) -> float:
        """A finite number of at least 0. Raises ArtifactError as `text` does."""
        number = self._typed(key, float, "a number", None)
        if not 0 <= number < math.inf:
            raise ArtifactError(f"{self.path}: {key} is {number}", allowed="a finite number, 0 or more")
        return float(number)

    def numbers(self, key: str, count: int) -> list[Any]:
        """An array of this many numbers, finite ones. Raises ArtifactError as `text` does."""
        found = self._typed(key, np.ndarray, "an array of numbers", None)
        if len(found) != count or not np.isfinite(found).all():
            raise ArtifactError(f"{self.path}: {key} is no array of {count} finite numbers")
        return list(found.tolist())

    def texts(self, key: str) -> list[str]:
        """An array of strings. Raises ArtifactError as `text` does."""
        return list(self._typed(key, list, "an array of strings", None))

    def _typed(self, key: str, kind: type, described: str, default: Any) -> Any:
        value = self.fields.get(key, default)
        if value is None:
            raise ArtifactError(f"{self.path}: the header has no {key}")
        if not isinstance(value, kind):
            raise ArtifactError(f"{self.path}: {key} is {value!r:.60}", allowed=described)
        return value


def read_header(path: Path) -> GgufHeader:
    """Read and check a header; the tensors' data is not touched.

    Raises:
        ArtifactError: the file is no GGUF file, is cut off, or contradicts itself.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise ArtifactError(f"{path}: is no regular file", allowed="a .gguf file")
        with path.open("rb") as stream:
            return _Reader(path, stream).header()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from error


class _Reader:
    """A position in a file, and what is left of it."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path, self._stream = path, stream
        self._size = stream.seek(0, 2)
        stream.seek(0)
        self._at = 0
        self._strings = 0

    def header(self) -> GgufHeader:
        if self._take(4, "magic") != _MAGIC:
            raise self._wrong("begins with other bytes than a GGUF file", "GGUF")
        version = self._unpack("<I", "version")
        if version not in _VERSIONS:
            big = " (a big-endian file)" if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS else ""
            raise self._wrong(f"GGUF version {version}{big}", "version 2 or 3, little-endian")
        tensors = self._count("tensors", _MAX_TENSORS)
        fields: dict[str, Any] = {}
        kinds: dict[str, str] = {}
        for _ in range(self._count("fields", _MAX_FIELDS)):
            key = self._string("a key", _MAX_KEY_BYTES)
            if not key or key in fields:
                raise self._wrong(f"the key {key!r:.80} is empty or stands twice")
            kinds[key], fields[key] = self._value(self._unpack("<I", key), key)
        described: dict[str, GgufTensor] = {}
        for _ in range(tensors):
            tensor = self._tensor()
            if tensor.name in described:
                raise self._wrong(f"tensor {tensor.name!r} stands twice")
            described[tensor.name] = tensor
        alignment = fields.get("general.alignment", 32)
        if kinds.get("general.alignment", "uint32") != "uint32":
            raise self._wrong(f"general.alignment is {alignment!r:.60}, a {kinds['general.alignment']}", "a uint32")
        self._place(described, alignment)
        return GgufHeader(self._path, fields, kinds, described)

    def _wrong(self, what: str, allowed: str | None = None) -> ArtifactError:
        return ArtifactError(f"{self._path}: {what}", allowed=allowed, remedy="download or export the file again")

    def _take(self, count: int, what: str) -> bytes:
        if count > self._size - self._at:
            raise self._wrong(f"{what} at byte {self._at} reaches beyond the end of the file ({self._size} bytes)")
        self._at += count
        if self._at > _MAX_HEADER_BYTES:
            raise self._wrong(f"{what} makes the header longer than a header can be", f"{_MAX_HEADER_BYTES} bytes")
        data = self._stream.read(count)
        if len(data) != count:
            raise self._wrong("the file shrank while it was read")
        return data

    def _unpack(self, form: str, what: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form), what))[0]

    def _count(self, what: str, limit: int) -> int:
        count = int(self._unpack("<Q", f"the number of {what}"))
        if count > limit:
            raise self._wrong(f"{count} {what}", f"at most {limit}")
        return count

    def _string(self, what: str, limit: int = _MAX_HEADER_BYTES) -> str:
        length = int(self._unpack("<Q", what))
        if length > limit:
            raise self._wrong(f"{what} has {length} bytes", f"at most {limit}")
        try:
            return self._take(length, what).decode()
        except UnicodeDecodeError as error:
            raise self._wrong(f"{what} is not UTF-8") from error

    def _value(self, kind: int, key: str) -> tuple[str, Any]:
        """The name of a value's type, and the value."""
        if kind == _STRING:
            return _KINDS[kind], self._string(key)
        if kind == _ARRAY:
            return self._array(key)
        value = self._numbers(kind, 1, key)[0].item()
        return _KINDS[kind], bool(value) if kind == _BOOL else value

    def _array(self, key: str) -> tuple[str, Any]:
        kind, count = self._unpack("<I", key), self._unpack("<Q", key)
        if kind != _STRING:
            numbers = self._numbers(kind, count, key)
            return f"array of {_KINDS[kind]}", numbers
        self._strings += count
        if self._strings > _MAX_STRINGS:
            raise self._wrong(f"{key} has {count} strings", f"at most {_MAX_STRINGS} in all")
        return "array of string", self._strings_of(count, key)

    def _strings_of(self, count: int, key: str) -> list[str]:
        """So many strings; as `_string` reads them, but a vocabulary in a tenth of a second."""
        begin, found = self._at, []
        block = self._stream.read(min(_BLOCK_BYTES, self._size - begin))
        at, size, length_of = 0, len(block), struct.Struct("<Q").unpack_from
        try:
            for _ in range(count):
                (length,) = length_of(block, at)
                at += 8 + length
                if at > size:
                    break
                found.append(block[at - length : at].decode())
        except (struct.error, UnicodeDecodeError):
            pass
        if len(found) < count:  # the next one reaches beyond the block, or is wrong, which the slow way says
            at = sum(8 + len(text.encode()) for text in found)
        self._at = begin + at
        self._stream.seek(self._at)
        return [*found, *(self._string(key) for _ in range(count - len(found)))]

    def _numbers(self, kind: int, count: int, key: str) -> Any:
        if kind not in _NUMBERS:
            raise self._wrong(f"{key} has the unknown value type {kind}")
        return np.frombuffer(self._take(count * np.dtype(_NUMBERS[kind]).itemsize, key), _NUMBERS[kind])

    def _tensor(self) -> GgufTensor:
        """A tensor, its offset still counted from where the data begins."""
        name = self._string("a tensor's name", _MAX_NAME_BYTES)
        dimensions = self._unpack("<I", name)
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise self._wrong(f"tensor {name!r} has {dimensions} dimensions", f"1 to {_MAX_DIMENSIONS}")
        shape = tuple(int(self._unpack("<Q", name)) for _ in range(dimensions))
        kind, offset = self._unpack("<I", name), int(self._unpack("<Q", name))
        if kind not in TYPES:
            removed = f", {_REMOVED[kind]}, which llama.cpp has removed" if kind in _REMOVED else ""
            known = ", ".join(known for known, _, _ in TYPES.values())
            raise self._wrong(f"tensor {name!r} has the unknown type {kind}{removed}", known)
        type_name, block, block_bytes = TYPES[kind]
        if 0 in shape or shape[0] % block:
            raise self._wrong(f"tensor {name!r} has the shape {list(shape)}", f"rows of whole blocks of {block}")
        return GgufTensor(name, shape[::-1], type_name, offset, math.prod(shape) // block * block_bytes)

    def _place(self, described: dict[str, GgufTensor], alignment: int) -> None:
        """Give tensors offsets in the file: aligned, inside it, apart from each other."""
        if not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
            raise self._wrong(f"general.alignment is {alignment}", f"a power of two, at most {_MAX_ALIGNMENT}")
        start = -(-self._at // alignment) * alignment
        end, before = start, ""
        for tensor in sorted(described.values(), key=lambda tensor: tensor.offset):
            offset = start + tensor.offset
            if tensor.offset % alignment:
                raise self._wrong(f"tensor {tensor.name!r} begins at {tensor.offset}", f"multiples of {alignment}")
            if offset < end:
                raise self._wrong(f"tensors {before!r} and {tensor.name!r} overlap")
            end, before = offset + tensor.bytes, tensor.name
            if end > self._size:
                raise self._wrong(f"tensor {tensor.name!r} ends at byte {end}, the file at {self._size}")
        for name, tensor in described.items():
            described[name] = replace(tensor, offset=start + tensor.offset)
