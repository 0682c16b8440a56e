"""Every quantization level that edgekit knows: one row each.

A level's name is unique across formats, so a name implies its format. A new level is one row here; the command line,
the recipes, the exporters and the benchmark derive their lists from `LEVELS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgekit.errors import UsageError

Format = Literal["gguf", "onnx"]


@dataclass(frozen=True)
class Place:
    """Where a matrix stands: layer `layer` of `layers`, `groups` query heads for each key/value head."""

    layer: int
    layers: int
    groups: int = 1


@dataclass(frozen=True)
class Level:
    """One quantization level of one part in one format.

    Attributes:
        name: the world's name for it (`Q4_0`, `int8`).
        format: the file format that can hold it.
        codec: how the large matrices are stored: a ggml type for GGUF, an ONNX element type for ONNX.
        mixture: tensor roles that are stored by another codec, as llama.cpp does it for this level.
        calibrated: whether activations are quantized with ranges measured on calibration data.
        file_type: GGUF's `general.file_type` (llama.cpp's `llama_ftype`), None for ONNX.
        suffix: what Transformers.js appends to an ONNX file's stem, None for GGUF.
    """

    name: str
    format: Format
    codec: str
    mixture: Mapping[str, str] = field(default_factory=dict)
    calibrated: bool = False
    file_type: int | None = None
    suffix: str | None = None

    def codec_of(self, role: str) -> str:
        """The codec for a tensor with this role."""
        return self.mixture.get(role, self.codec)


# llama.cpp keeps a tied embedding, which is also the output head, at 6 bits in its 4-bit files.
_TIED_HEAD_Q6 = {"token_embedding": "Q6_K"}

# A table is looked up, not multiplied; the pooling head is one small layer that every image passes through.
_FLOAT_TABLES = {"token_embedding": "float32", "pooling_matrix": "float32"}

_ROWS = (
    Level("BF16", "gguf", "BF16", file_type=32),
    Level("Q8_0", "gguf", "Q8_0", file_type=7),
    Level("Q4_0", "gguf", "Q4_0", _TIED_HEAD_Q6, file_type=2),
    Level("fp32", "onnx", "float32", suffix=""),
    Level("int8", "onnx", "int8", _FLOAT_TABLES, calibrated=True, suffix="_int8"),
)

LEVELS: Mapping[str, Level] = {row.name: row for row in _ROWS}


def level(name: str) -> Level:
    """The level of this name.

    Raises:
        UsageError: no level has this name; the message lists those that exist.
    """
    if name not in LEVELS:
        raise UsageError(f"unknown level {name!r}", allowed=", ".join(LEVELS), remedy="edgekit list levels")
    return LEVELS[name]
