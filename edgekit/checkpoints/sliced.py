"""Write a piece of a checkpoint: fewer layers, narrower matrices, the weights themselves as they are."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.artifacts.files import copy, create
from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.checkpoints.tensors import ITEM_BYTES, Tensor
from edgekit.checkpoints.weight_files import SINGLE

_BLOCK = 1 << 24  # bytes that are copied at a time


def write_slice(
    checkpoint: Checkpoint, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], folder: Path
) -> None:
    """Write a checkpoint folder with another configuration, whose tensors are the beginnings of this one's.

    Args:
        config: of the piece; the other small files are the checkpoint's own.
        shapes: stored name -> how much of each axis is kept, of the tensors that the piece has.

    Raises:
        OSError: the folder cannot be written to, or is full.
    """
    for name in checkpoint.files:
        if not name.endswith(".safetensors"):
            copy(checkpoint.root / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = [checkpoint.tensors[name] for name in shapes]
    header: dict[str, Any] = {}
    end = 0
    for tensor in tensors:
        start, end = end, end + math.prod(shapes[tensor.name]) * ITEM_BYTES[tensor.dtype]
        shape = list(shapes[tensor.name])
        header[tensor.name] = {"dtype": tensor.dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with create(folder / SINGLE) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            _copy(tensor, shapes[tensor.name], file)


def _copy(tensor: Tensor, shape: tuple[int, ...], file: Any) -> None:
    item = ITEM_BYTES[tensor.dtype]
    row, columns = tensor.bytes // max(tensor.shape[0], 1) if tensor.shape else tensor.bytes, tensor.shape[1:]
    rows = shape[0] if shape else 1
    step = max(1, _BLOCK // row)
    with tensor.path.open("rb") as source:
        source.seek(tensor.offset)
        for start in range(0, rows, step):
            count = min(step, rows - start)
            data = np.frombuffer(source.read(count * row), f"V{item}").reshape(count, *columns)
            kept = data[tuple(slice(size) for size in (count, *shape[1:]))]
            file.write(np.ascontiguousarray(kept).tobytes())
