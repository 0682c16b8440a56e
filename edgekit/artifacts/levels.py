"""Every quantization level that edgekit knows: one row each.

A level's name is unique across formats, so a name implies its format. A new level is one row here; the command line,
the recipes, the exporters and the benchmark derive their lists from `LEVELS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgekit.errors import UsageError

Format = Literal["gguf", "onnx"]
Activations = Literal["float", "static", "dynamic", "blocks"]


@dataclass(frozen=True)
class Place:
    """Where a matrix stands: layer `layer` of `layers`, `groups` query heads for each key/value head."""

    layer: int
    layers: int
    groups: int = 1


@dataclass(frozen=True)
class Where:
    """One codec at the places where a condition holds, another elsewhere (None: the level's own)."""

    condition: Callable[[Place], bool]
    codec: str
    otherwise: str | None = None

    def choose(self, place: Place) -> str | None:
        """The codec at a place, None for the level's own."""
        return self.codec if self.condition(place) else self.otherwise

    def __str__(self) -> str:
        where = (self.condition.__doc__ or "").partition(".")[0].lower()
        return f"{self.codec} {where}" + (f", else {self.otherwise}" if self.otherwise else "")


Mixture = Mapping[str, str | Where]  # tensor kind -> codec


@dataclass(frozen=True)
class Level:
    """One quantization level of one part in one format.

    Attributes:
        name: the world's name for it (`Q4_0`, `int8`).
        format: the file format that can hold it.
        codec: how the large matrices are stored (`edgekit.formats.codecs`): a ggml type for GGUF; float32, float16,
            int8, or int4 and int8 in blocks for ONNX.
        mixture: tensor kinds that are stored by another codec, as llama.cpp does it for this level.
        activations: how what enters a matrix is rounded in ONNX: not at all (float); to 8 bits by ranges that
            calibration measured (static), or by each row's own (dynamic); or, where weights lie in blocks, to 8 bits
            by the range of each block (blocks).
        file_type: GGUF's `general.file_type` (llama.cpp's `llama_ftype`), None for ONNX.
        suffix: what Transformers.js appends to an ONNX file's stem, None for GGUF.
    """

    name: str
    format: Format
    codec: str
    mixture: Mixture = field(default_factory=dict)
    activations: Activations = "float"
    file_type: int | None = None
    suffix: str | None = None

    def codec_of(self, kind: str, place: Place | None = None) -> str:
        """The codec for a tensor of this kind at this place."""
        choice = self.mixture.get(kind)
        if isinstance(choice, Where):
            choice = choice.choose(place) if place else None
        return choice or self.codec


# Which layers llama.cpp's mixtures single out (`llama_tensor_get_type_impl` in llama-quant.cpp, in whole layers).


def _first(place: Place) -> bool:
    """In the first layer."""
    return place.layer == 0


def _first_two(place: Place) -> bool:
    """In the first two layers."""
    return place.layer < 2


def _first_sixteenth(place: Place) -> bool:
    """In the first sixteenth of the layers."""
    return place.layer < place.layers // 16


def _first_eighth(place: Place) -> bool:
    """In the first eighth of the layers."""
    return place.layer < place.layers // 8


def _more_bits(place: Place) -> bool:
    """In the first and last eighth of the layers and every third between."""
    first = place.layers // 8
    return place.layer < first or place.layer >= 7 * place.layers // 8 or (place.layer - first) % 3 == 2


def _shared_widely(place: Place) -> bool:
    """Where four query heads or more share it. It is small then, and matters more."""
    return place.groups >= 4


# llama.cpp keeps a tied embedding, which is also the output head, at 6 bits in every file of fewer.
_TIED_HEAD_Q6: Mixture = {"token_embedding": "Q6_K"}

_Q2_K: Mixture = {"v_proj": Where(_shared_widely, "Q4_K", "Q3_K"), "o_proj": "Q3_K", "down_proj": "Q3_K"}
_Q3_K_M: Mixture = {
    "v_proj": Where(_first_two, "Q5_K", "Q4_K"),
    "o_proj": "Q4_K",
    "down_proj": Where(_first_sixteenth, "Q5_K", "Q4_K"),
}
_IQ4: Mixture = {"v_proj": Where(_shared_widely, "Q5_K"), "down_proj": Where(_first_eighth, "Q5_K")}
_MORE_BITS: Mixture = {"v_proj": Where(_more_bits, "Q6_K"), "down_proj": Where(_more_bits, "Q6_K")}

# A vision tower's attention loses most at 4 bits, and is a third of its weights; its width rules out K-quants.
_VISION_Q4_M: Mixture = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_out"), "Q5_0")

_ONNX_8: Mixture = {
    # Looked up, and multiplied only where it is Gemma's output head, too: by rows as they lie, as blocks are read.
    "token_embedding": "int8_32",
    # What a gated MLP's last matrix multiplies has outliers that would coarsen all else under one scale.
    "down_proj": "int8_32",
    # One small layer that every image passes through.
    "pooling_matrix": "float32",
    # What attention of an encoder's first layer reads decides what all others see: in the reference model's text tower
    # it alone made nine tenths of the worst caption's error (a cosine of 0.9937, with it in float 0.9995).
    **dict.fromkeys(("attn_q", "attn_k", "attn_v"), Where(_first, "float32")),
}
_ONNX_4: Mixture = {"pooling_matrix": "float32"}
# The head and what llama.cpp's mixtures keep at more bits.
_ONNX_4_M: Mixture = {
    "token_embedding": "int8_32",
    **dict.fromkeys(("v_proj", "down_proj", "attn_v", "ffn_down"), Where(_more_bits, "int8_32")),
    "pooling_matrix": "float32",
}

_ROWS = (
    Level("BF16", "gguf", "BF16", file_type=32),
    Level("F16", "gguf", "F16", file_type=1),
    Level("Q8_0", "gguf", "Q8_0", file_type=7),
    Level("Q6_K", "gguf", "Q6_K", file_type=18),
    Level("Q5_K_M", "gguf", "Q5_K", {**_MORE_BITS, **_TIED_HEAD_Q6}, file_type=17),
    Level("Q5_0", "gguf", "Q5_0", _TIED_HEAD_Q6, file_type=8),
    Level("Q4_K_M", "gguf", "Q4_K", {**_MORE_BITS, **_TIED_HEAD_Q6}, file_type=15),
    Level("Q4_0", "gguf", "Q4_0", _TIED_HEAD_Q6, file_type=2),
    Level("IQ4_NL", "gguf", "IQ4_NL", {**_IQ4, **_TIED_HEAD_Q6}, file_type=25),
    Level("Q4_M", "gguf", "IQ4_NL", _VISION_Q4_M, file_type=25),
    Level("IQ4_XS", "gguf", "IQ4_XS", {**_IQ4, **_TIED_HEAD_Q6}, file_type=30),
    Level("Q3_K_M", "gguf", "Q3_K", {**_Q3_K_M, **_TIED_HEAD_Q6}, file_type=12),
    Level("Q2_K", "gguf", "Q2_K", {**_Q2_K, **_TIED_HEAD_Q6}, file_type=10),
    Level("fp32", "onnx", "float32", suffix=""),
    Level("fp16", "onnx", "float16", suffix="_fp16"),
    Level("int8", "onnx", "int8", _ONNX_8, activations="static", suffix="_int8"),
    Level("int8_dynamic", "onnx", "int8", _ONNX_8, activations="dynamic", suffix="_int8_dynamic"),
    Level("q4", "onnx", "int4_32", _ONNX_4, activations="blocks", suffix="_q4"),
    Level("q4_m", "onnx", "int4_32", _ONNX_4_M, activations="blocks", suffix="_q4_m"),
    Level("q4_128", "onnx", "int4_128", _ONNX_4, activations="blocks", suffix="_q4_128"),
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
