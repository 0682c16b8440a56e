"""Writes tensors as safetensors shards of bounded size, one slice at a time."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHARD_BYTES = 5_000_000_000  # the hub's own limit
_ITEM_BYTES = 2  # of a bf16 weight

Bf16Bits = NDArray[np.uint16]


@dataclass(frozen=True)
class ShardTensor:
    """One tensor to write: its name in the checkpoint and its shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Bytes in bf16."""
        return math.prod(self.shape) * _ITEM_BYTES


@dataclass(frozen=True)
class Shard:
    """One file and what stands in it, in this order."""

    file: str
    tensors: tuple[ShardTensor, ...]


def plan(tensors: Iterable[ShardTensor], limit: int = SHARD_BYTES) -> list[Shard]:
    """Fill shards in order, each up to `limit` bytes; a single one is named as the hub names it."""
    groups: list[list[ShardTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if groups[-1] and size + tensor.bytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.bytes
    if len(groups) == 1:
        return [Shard("model.safetensors", tuple(groups[0]))]
    return [
        Shard(f"model-{number:05}-of-{len(groups):05}.safetensors", tuple(group))
        for number, group in enumerate(groups, 1)
    ]


def header(tensors: Sequence[ShardTensor]) -> bytes:
    """A safetensors header, its length first, padded so that data begins at a multiple of 8."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": "BF16",
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.bytes],
        }
        end += tensor.bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_index(folder: Path, shards: Sequence[Shard]) -> None:
    """model.safetensors.index.json, where there are several shards."""
    if len(shards) == 1:
        return
    weight_map = {tensor.name: shard.file for shard in shards for tensor in shard.tensors}
    total = sum(tensor.bytes for shard in shards for tensor in shard.tensors)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def as_bytes(bits: Bf16Bits) -> bytes:
    """Little-endian bytes of bf16 bit patterns."""
    return bits.astype("<u2", copy=False).tobytes()
