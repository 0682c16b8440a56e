"""Read safetensors files without trusting them and without holding them in memory.

Headers are parsed here, with bounds, and data is read in slices, so that no page of a file stays mapped and peak
memory is a few slices of one tensor. Format: https://huggingface.co/docs/safetensors (8-byte little-endian header
length, JSON header, data).
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgekit.artifacts.disk_errors import named
from edgekit.artifacts.documents import MOST_ENTRIES, json_value
from edgekit.errors import CheckpointError

Float = NDArray[np.float32]

MAX_HEADER_BYTES = 100_000_000  # the safetensors specification's own limit
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}  # of the types that are read; F64 is rounded to float32
_INTEGER_BYTES = {"I64": 8, "I32": 4}  # of positions, which are counted anew
UNQUANTIZED = "export from the bf16, fp16 or fp32 checkpoint that it was made from"
_NUMPY = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}
_MAX_NUMBER = 1 << 48  # of a shape or an offset
_MAX_DIMENSIONS = 8
_COMPARED = 1 << 24  # bytes of two tensors at a time
# What transformers computes from the configuration and older versions of it saved all the same.
_BUFFER = re.compile(r"(^|\.)(position_ids|([a-z_]+_)?inv_freq)$")


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies: its file, type, shape and byte range."""

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Slice:
    """Some rows of a tensor as they lie in their file; with no tensor, what a file holds before its first.

    Attributes:
        data: little-endian numbers of the tensor's type.
        last: whether the tensor ends with it.
        start: the row of the tensor with which it begins.
    """

    tensor: Tensor | None
    data: bytes
    last: bool
    start: int = 0

    @property
    def name(self) -> str:
        """The tensor's stored name."""
        return self.tensor.name if self.tensor else ""

    @property
    def weights(self) -> int:
        """Numbers in it."""
        return len(self.data) * self.tensor.size // max(self.tensor.bytes, 1) if self.tensor else 0

    def float32(self) -> Float:
        """Its rows, [rows, ...] float32."""
        assert self.tensor is not None
        return to_float32(self.data, self.tensor.dtype).reshape(-1, *self.tensor.shape[1:])

    def check(self) -> None:
        """Raise CheckpointError where a weight is NaN or infinite."""
        if self.tensor and not _all_finite(self.data, self.tensor.dtype):
            raise CheckpointError(f"{self.tensor.path}: {self.name} holds NaN or infinite weights")


def is_buffer(name: str) -> bool:
    """Whether a tensor of this name is no weight: transformers computes it, and leaves a stored one unread."""
    return _BUFFER.search(name) is not None


def same_bytes(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of two files have one type, one shape and the same bytes.

    Raises:
        CheckpointError: a file ends early.
    """
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with named(one.path), one.path.open("rb") as first, named(other.path), other.path.open("rb") as second:
        first.seek(one.offset)
        second.seek(other.offset)
        for start in range(0, one.bytes, _COMPARED):
            count = min(_COMPARED, one.bytes - start)
            if _exactly(first, count, one.path) != _exactly(second, count, other.path):
                return False
    return True


def read_header(path: Path) -> list[Tensor]:
    """The tensors that a safetensors file holds.

    Raises:
        CheckpointError: the header is truncated, oversized, no JSON, or describes data that the file does not have.
    """
    size = path.stat().st_size
    with named(path), path.open("rb") as stream:
        prefix = stream.read(8)
        if len(prefix) < 8:
            raise CheckpointError(f"{path}: {size} bytes are no safetensors file", remedy="download it again")
        (length,) = struct.unpack("<Q", prefix)
        if length > MAX_HEADER_BYTES:
            raise CheckpointError(f"{path}: a header of {length} bytes", allowed=f"at most {MAX_HEADER_BYTES} bytes")
        if 8 + length > size:
            raise CheckpointError(
                f"{path}: truncated: a header of {length} bytes in a file of {size}", remedy="download it again"
            )
        raw = stream.read(length)
    # A tensor takes a dozen entries and at least sixty bytes.
    header = json_value(raw, f"{path}: its header", CheckpointError, most_entries=MOST_ENTRIES + len(raw) // 4)
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its header holds a {type(header).__name__}", allowed="a JSON object")
    header.pop("__metadata__", None)
    tensors = [_tensor(path, name, entry, 8 + length, size) for name, entry in header.items()]
    end = 8 + length
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.bytes)):
        if tensor.offset != end:
            raise CheckpointError(
                f"{path}: {tensor.name} begins at byte {tensor.offset}, the tensor before it ends at {end}",
                allowed="tensors that follow each other, without overlaps and holes",
            )
        end += tensor.bytes
    if end != size:
        raise CheckpointError(f"{path}: {size} bytes, the last tensor ends at {end}", remedy="download it again")
    return tensors


def read_rows(tensor: Tensor, rows: int, begin: int = 0) -> Iterator[Float]:
    """A tensor in blocks of `rows` rows along its first axis, each [rows, ...] float32, from row `begin` on.

    Raises:
        CheckpointError: the file ended early, or a weight is not finite.
    """
    height = tensor.shape[0] if tensor.shape else 1
    row_bytes = tensor.bytes // max(height, 1)
    with named(tensor.path), tensor.path.open("rb") as stream:
        for start in range(begin, height, rows):
            count = min(rows, height - start)
            stream.seek(tensor.offset + start * row_bytes)
            data = stream.read(count * row_bytes)
            if len(data) != count * row_bytes:
                raise CheckpointError(f"{tensor.path}: the file ends inside {tensor.name}", remedy="download it again")
            values = to_float32(data, tensor.dtype)
            if not np.isfinite(values).all():
                raise CheckpointError(f"{tensor.path}: {tensor.name} holds NaN or infinite weights")
            yield values.reshape((count, *tensor.shape[1:]) if tensor.shape else ())


def read_through(path: Path, tensors: Sequence[Tensor], weights: int) -> Iterator[Slice]:
    """A whole file from its first byte to its last: its header, then its tensors in slices of whole rows.

    Args:
        tensors: all of the file's, in order.
        weights: of a slice, about.

    Raises:
        CheckpointError: the file ends early.
    """
    with named(path), path.open("rb") as stream:
        yield Slice(None, _exactly(stream, tensors[0].offset if tensors else path.stat().st_size, path), False)
        for tensor in tensors:
            rows = tensor.shape[0] if tensor.shape else 1
            row_bytes = tensor.bytes // max(rows, 1)
            step = max(1, weights * rows // max(tensor.size, 1))
            for start in range(0, rows, step):
                count = min(step, rows - start)
                yield Slice(tensor, _exactly(stream, count * row_bytes, path), start + count == rows, start)


def to_float32(data: bytes, dtype: str) -> Float:
    """Little-endian bytes of a safetensors dtype as a flat float32 array; F64 is rounded, as torch does it."""
    if dtype == "BF16":  # the upper half of a float32
        wide = np.empty((len(data) // 2, 2), "<u2")
        wide[:, 0], wide[:, 1] = 0, np.frombuffer(data, "<u2")
        return wide.view("<f4").reshape(-1)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        return np.frombuffer(data, _NUMPY[dtype]).astype(np.float32)


def _all_finite(data: bytes, dtype: str) -> bool:
    """Whether no number is NaN or infinite: those have all bits of their exponent set."""
    if dtype in ("F32", "F64"):
        return bool(np.isfinite(to_float32(data, dtype)).all())
    exponent = 0x7F80 if dtype == "BF16" else 0x7C00
    return not ((np.frombuffer(data, "<u2") & exponent) == exponent).any()


def _exactly(stream: BinaryIO, count: int, path: Path) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise CheckpointError(f"{path}: ends early", remedy="download it again")
    return data


def _tensor(path: Path, name: str, entry: Any, base: int, size: int) -> Tensor:
    """One header entry, every field checked: this is the first thing that a hostile file gets to say."""
    try:
        dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        numbers = (*shape, start, end)
        well_formed = isinstance(dtype, str) and all(type(n) is int and 0 <= n < _MAX_NUMBER for n in numbers)
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: {name}: malformed header entry") from error
    if not well_formed or len(shape) > _MAX_DIMENSIONS:
        raise CheckpointError(f"{path}: {name}: malformed header entry")
    item_bytes = {**ITEM_BYTES, **_INTEGER_BYTES} if is_buffer(name) else ITEM_BYTES
    if dtype not in item_bytes:
        raise CheckpointError(
            f"{path}: {name} has type {dtype}",
            allowed=", ".join(ITEM_BYTES),
            remedy=UNQUANTIZED,
        )
    if end - start != math.prod(shape) * item_bytes[dtype]:
        raise CheckpointError(f"{path}: {name}: {end - start} bytes for shape {list(shape)} of {dtype}")
    if base + end > size:
        raise CheckpointError(
            f"{path}: truncated: {name} ends at byte {base + end} of {size}", remedy="download it again"
        )
    return Tensor(name, path, dtype, shape, base + start, end - start)
