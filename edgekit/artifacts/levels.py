"""Every quantization level that edgekit knows: one row each.

A level's name is unique across formats, so a name implies its format. A new level is one row here; the command line,
the recipes, the exporters and the benchmark derive their lists from `LEVELS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from edgekit.artifacts.gates import Limits
from edgekit.errors import unknown

Activations = Literal["float", "static", "dynamic", "blocks"]


@dataclass(frozen=True)
class LayerPosition:
    """Where a matrix stands: layer `layer` of `layers`, `groups` query heads for each key/value head."""

    layer: int
    layers: int
    groups: int = 1


@dataclass(frozen=True)
class ConditionalCodec:
    """One codec in the layers where a condition holds, another elsewhere (None: the level's own)."""

    condition: Callable[[LayerPosition], bool]
    codec: str
    otherwise: str | None = None

    def codec_at(self, position: LayerPosition) -> str | None:
        """The codec at a position, None for the level's own."""
        return self.codec if self.condition(position) else self.otherwise

    def __str__(self) -> str:
        where = (self.condition.__doc__ or "").partition(".")[0].lower()
        return f"{self.codec} {where}" + (f", else {self.otherwise}" if self.otherwise else "")


Mixture = Mapping[str, str | ConditionalCodec]  # tensor kind -> codec


@dataclass(frozen=True)
class Level:
    """One quantization level of one part in one format.

    Attributes:
        name: the world's name for it (`Q4_0`, `int8`).
        format: the folder of `edgekit.formats` that can hold it.
        codec: how the large matrices are stored: a codec of that format.
        mixture: tensor kinds that are stored by another codec, as llama.cpp does it for this level.
        activations: how what enters a matrix is rounded in ONNX: not at all (float); to 8 bits by ranges that
            calibration measured (static), or by each row's own (dynamic); or, where weights lie in blocks, to 8 bits
            by the range of each block (blocks). In GGUF that is llama.cpp's to choose.
        limits: what a proof accepts, unless a recipe says otherwise for its model.
    """

    name: str
    format: str
    codec: str
    mixture: Mixture = field(default_factory=dict)
    activations: Activations = "float"
    limits: Limits = field(default_factory=Limits)

    def codec_of(self, kind: str, position: LayerPosition | None = None) -> str:
        """The codec for a tensor of this kind at this position."""
        codec = self.mixture.get(kind)
        if isinstance(codec, ConditionalCodec):
            codec = codec.codec_at(position) if position else None
        return codec or self.codec

    @property
    def needs_calibration(self) -> bool:
        """Whether ranges of activations must be measured before it can be written."""
        return self.activations == "static"


# Which layers llama.cpp's mixtures single out (`llama_tensor_get_type_impl` in llama-quant.cpp, in whole layers).


def _first(position: LayerPosition) -> bool:
    """In the first layer."""
    return position.layer == 0


def _first_two(position: LayerPosition) -> bool:
    """In the first two layers."""
    return position.layer < 2


def _first_sixteenth(position: LayerPosition) -> bool:
    """In the first sixteenth of the layers."""
    return position.layer < position.layers // 16


def _first_eighth(position: LayerPosition) -> bool:
    """In the first eighth of the layers."""
    return position.layer < position.layers // 8


def _more_bits(position: LayerPosition) -> bool:
    """In the first and last eighth of the layers and every third between."""
    first = position.layers // 8
    return position.layer < first or position.layer >= 7 * position.layers // 8 or (position.layer - first) % 3 == 2


def _shared_widely(position: LayerPosition) -> bool:
    """Where four query heads or more share it. It is small then, and matters more."""
    return position.groups >= 4


# llama.cpp keeps a tied embedding, which is also the output head, at 6 bits in every file of fewer.
_TIED_HEAD_Q6: Mixture = {"token_embedding": "Q6_K"}

_Q2_K: Mixture = {"v_proj": ConditionalCodec(_shared_widely, "Q4_K", "Q3_K"), "o_proj": "Q3_K", "down_proj": "Q3_K"}
_Q3_K_M: Mixture = {
    "v_proj": ConditionalCodec(_first_two, "Q5_K", "Q4_K"),
    "o_proj": "Q4_K",
    "down_proj": ConditionalCodec(_first_sixteenth, "Q5_K", "Q4_K"),
}
_IQ4: Mixture = {
    "v_proj": ConditionalCodec(_shared_widely, "Q5_K"),
    "down_proj": ConditionalCodec(_first_eighth, "Q5_K"),
}
_MORE_BITS: Mixture = dict.fromkeys(("v_proj", "down_proj"), ConditionalCodec(_more_bits, "Q6_K"))

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
    **dict.fromkeys(("attn_q", "attn_k", "attn_v"), ConditionalCodec(_first, "float32")),
}
_ONNX_4: Mixture = {"pooling_matrix": "float32"}
# The head and what llama.cpp's mixtures keep at more bits.
_ONNX_4_M: Mixture = {
    "token_embedding": "int8_32",
    **dict.fromkeys(("v_proj", "down_proj", "attn_v", "ffn_down"), ConditionalCodec(_more_bits, "int8_32")),
    "pooling_matrix": "float32",
}

# Limits of wiring, by how activations are rounded: float32 graphs differ by the order of sums alone, BF16 and F16
# matrices round activations alike, and llama.cpp and ONNX Runtime multiply quantized ones by 8 bits. What right files
# measured:
#
#                        a prompt's KL in nats              relative error of encoders
#                        reference     Gemma 3 270M         mean      worst (reference)
#   fp32, fp16           3e-13         2e-11                6e-7      2e-6
#   F16                  1e-7          2e-6..2e-5           3e-4      5e-4
#   BF16                 3e-6          6e-5..7e-5           1.5e-3    2.4e-3
#   quantized in GGUF    4e-5..1.3e-4  2e-3..7e-3           6e-3      1.3e-2
#   q4, q4_m             4e-5          4e-3                 1.3e-2    9e-2
#   int8*, q4_128        6e-5..1.2e-4  2e-2                 1.5e-2    6e-2
#
# At MedGemma 4B's width, on random weights, quantized files measured 1e-4 to 3e-4 nats. A small real model needs more,
# which its recipe says. The least room of a right reference file is 1.5 times (the worst vector at Q6_K and q4_m).
# Behind its own vision part a decoder's answer differed by 2e-5 nats more than alone.
_FLOAT = Limits(wiring_kl=1e-6, wiring_error=1e-4, wiring_worst_error=3e-4, image_kl=1e-6)
_F16 = Limits(wiring_kl=1e-4, wiring_error=2e-3, wiring_worst_error=5e-3, image_kl=1e-4)
_BF16 = Limits(wiring_kl=3e-4, wiring_error=6e-3, wiring_worst_error=0.0141, image_kl=3e-4)
_GGUF = Limits(wiring_kl=3e-3, wiring_error=0.01, wiring_worst_error=0.02, image_kl=1e-3)
_ONNX = Limits(wiring_kl=3e-3, wiring_error=0.03, wiring_worst_error=0.14, image_kl=3e-3)
_COARSE = replace(_ONNX, wiring_kl=8e-3)  # one range for a whole row, or for 128 weights


def _losing(limits: Limits, kl: float, top1: float, cosine: float, error: float) -> Limits:
    """With limits of loss: several times what right files lost, and far from what a wrong one loses.

    KL in nats and top-1 agreement of Gemma 3 270M; mean cosine and relative error of the reference models' worst:

                     KL      top-1   cosine   error
        BF16         1.2e-4  99.7 %  1.0      0.0015
        Q8_0         0.0033  98.3 %  0.99998  0.007
        Q6_K         0.0091  95.5 %  0.99996  0.008
        Q5_K_M       0.044   85.4 %  0.9995   0.032
        IQ4_XS       0.17    76.0 %  0.995    0.095
        Q4_0         0.43    65.3 %  0.9966   0.081
        Q3_K_M       0.22    72.9 %  0.996    0.091
        Q2_K         0.57    60.1 %  0.991    0.13
        int8_dynamic 0.021   94.1 %  0.9999   0.011
        int8         -       -       0.9997   0.019
        q4_m         0.34    71.2 %  0.952    0.14
        q4           0.53    64.6 %  0.927    0.22
        q4_128       1.2     42.0 %  0.963    0.18

    All tensors zero lose 8.8 nats, and have a relative error of 1.
    """
    return replace(limits, loss_kl=kl, loss_top1=top1, loss_cosine=cosine, loss_error=error)


_ROWS = (
    Level("BF16", "gguf", "BF16", limits=_losing(_BF16, 0.002, 0.95, 0.9999, 0.0141)),
    Level("F16", "gguf", "F16", limits=_losing(_F16, 2e-4, 0.97, 0.9999, 0.01)),
    Level("Q8_0", "gguf", "Q8_0", limits=_losing(_GGUF, 0.03, 0.85, 0.999, 0.04)),
    Level("Q6_K", "gguf", "Q6_K", limits=_losing(_GGUF, 0.08, 0.8, 0.999, 0.05)),
    Level("Q5_K_M", "gguf", "Q5_K", {**_MORE_BITS, **_TIED_HEAD_Q6}, limits=_losing(_GGUF, 0.3, 0.6, 0.997, 0.1)),
    Level("Q5_0", "gguf", "Q5_0", _TIED_HEAD_Q6, limits=_losing(_GGUF, 0.3, 0.6, 0.997, 0.1)),
    Level("Q4_K_M", "gguf", "Q4_K", {**_MORE_BITS, **_TIED_HEAD_Q6}, limits=_losing(_GGUF, 1.0, 0.4, 0.98, 0.2)),
    Level("Q4_0", "gguf", "Q4_0", _TIED_HEAD_Q6, limits=_losing(_GGUF, 1.5, 0.35, 0.97, 0.25)),
    Level("IQ4_NL", "gguf", "IQ4_NL", {**_IQ4, **_TIED_HEAD_Q6}, limits=_losing(_GGUF, 1.0, 0.4, 0.97, 0.25)),
    Level("Q4_M", "gguf", "IQ4_NL", _VISION_Q4_M, limits=_losing(_GGUF, 1.5, 0.35, 0.98, 0.2)),
    Level("IQ4_XS", "gguf", "IQ4_XS", {**_IQ4, **_TIED_HEAD_Q6}, limits=_losing(_GGUF, 1.0, 0.4, 0.97, 0.25)),
    Level("Q3_K_M", "gguf", "Q3_K", {**_Q3_K_M, **_TIED_HEAD_Q6}, limits=_losing(_GGUF, 1.5, 0.35, 0.96, 0.3)),
    Level("Q2_K", "gguf", "Q2_K", {**_Q2_K, **_TIED_HEAD_Q6}, limits=_losing(_GGUF, 2.5, 0.25, 0.93, 0.4)),
    Level("fp32", "onnx", "float32", limits=_losing(_FLOAT, 1e-6, 0.99, 0.99999, 3e-4)),
    Level("fp16", "onnx", "float16", limits=_losing(_FLOAT, 2e-4, 0.97, 0.9999, 0.01)),
    Level("int8", "onnx", "int8", _ONNX_8, "static", _losing(_COARSE, 0.2, 0.75, 0.995, 0.1)),
    Level("int8_dynamic", "onnx", "int8", _ONNX_8, "dynamic", _losing(_COARSE, 0.2, 0.75, 0.995, 0.1)),
    Level("q4", "onnx", "int4_32", _ONNX_4, "blocks", _losing(_ONNX, 2.0, 0.3, 0.85, 0.4)),
    Level("q4_m", "onnx", "int4_32", _ONNX_4_M, "blocks", _losing(_ONNX, 1.5, 0.35, 0.88, 0.35)),
    Level("q4_128", "onnx", "int4_128", _ONNX_4, "blocks", _losing(_COARSE, 4.0, 0.2, 0.85, 0.45)),
)

LEVELS: Mapping[str, Level] = {row.name: row for row in _ROWS}


def level(name: str) -> Level:
    """The level of this name.

    Raises:
        UsageError: no level has this name; the message lists those that exist.
    """
    if name not in LEVELS:
        raise unknown("level", name, LEVELS, remedy="edgekit list levels")
    return LEVELS[name]


def limits_of(name: str) -> Limits:
    """What a proof accepts of a level; of one that others named, what it accepts of any that nobody has measured."""
    return LEVELS[name].limits if name in LEVELS else Limits()
