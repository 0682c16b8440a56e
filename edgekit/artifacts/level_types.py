"""What a level's name promises: the types that its matrices are stored as, how many of a kind as which, and how what
enters them is rounded.

A second statement beside the rows of `edgekit.artifacts.levels`, by which exporters choose: who gets one of the two
wrong writes files that a proof refuses by the other. A level of which nothing stands here is compared with its row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

Shares = Mapping[str, tuple[float, float]]  # type -> the least and the largest share of a kind's matrices

_LAYERS = 2  # that a share may be off by: mixtures single out whole layers
_ALL, _HALF, _ANY = (1.0, 1.0), (0.4, 0.6), (0.0, 1.0)
# What llama.cpp stores a row as that does not divide into blocks of 256; into 32, none but 16 bits.
_STAND_INS = {"Q6_K": "Q8_0", "Q5_K": "Q5_1", "Q4_K": "Q5_0", "IQ4_XS": "IQ4_NL", "Q3_K": "Q4_0", "Q2_K": "Q4_0"}
_SMALL_BLOCKS = frozenset({"Q8_0", "Q5_0", "Q4_0", "IQ4_NL", *_STAND_INS})


def _few(share: float, these: str, others: str) -> Shares:
    return {these: (0.0, share), others: (1 - share, 1.0)}


def _stated(rest: str, *kinds: tuple[str, str | Shares]) -> Mapping[str, Shares]:
    """Kinds, some to a text, and their types; what all others are comes first."""
    said = {"": rest, **{kind: types for names, types in kinds for kind in names.split()}}
    return {kind: {types: _ALL} if isinstance(types, str) else types for kind, types in said.items()}


_HEAD = ("token_embedding", "Q6_K")
_Q6, _INT8 = "v_proj down_proj", "v_proj down_proj attn_v ffn_down"


def _iq4(own: str) -> Mapping[str, Shares]:
    return _stated(own, _HEAD, ("v_proj", {"Q5_K": _ANY, own: _ANY}), ("down_proj", _few(1 / 8, "Q5_K", own)))


_8_BITS = _stated(
    "int8",
    ("token_embedding down_proj", "int8_32"),
    ("pooling_matrix", "float32"),
    ("attn_q attn_k attn_v", _few(0, "float32", "int8")),
)

# Level -> kind of matrix (empty for all others) -> its types.
PROMISED: Mapping[str, Mapping[str, Shares]] = {
    **{name: _stated(name) for name in ("BF16", "F16", "Q8_0", "Q6_K")},
    "Q5_K_M": _stated("Q5_K", _HEAD, (_Q6, {"Q6_K": _HALF, "Q5_K": _HALF})),
    "Q5_0": _stated("Q5_0", _HEAD),
    "Q4_K_M": _stated("Q4_K", _HEAD, (_Q6, {"Q6_K": _HALF, "Q4_K": _HALF})),
    "Q4_0": _stated("Q4_0", _HEAD),
    "IQ4_NL": _iq4("IQ4_NL"),
    "Q4_M": _stated("IQ4_NL", ("attn_q attn_k attn_v attn_out", "Q5_0")),
    "IQ4_XS": _iq4("IQ4_XS"),
    "Q3_K_M": _stated(
        "Q3_K",
        _HEAD,
        ("v_proj", _few(0, "Q5_K", "Q4_K")),
        ("o_proj", "Q4_K"),
        ("down_proj", _few(1 / 16, "Q5_K", "Q4_K")),
    ),
    "Q2_K": _stated("Q2_K", _HEAD, ("v_proj", {"Q4_K": _ANY, "Q3_K": _ANY}), ("o_proj down_proj", "Q3_K")),
    "fp32": _stated("float32"),
    "fp16": _stated("float16"),
    "int8": _8_BITS,
    "int8_dynamic": _8_BITS,
    "q4": _stated("int4_32", ("pooling_matrix", "float32")),
    "q4_m": _stated(
        "int4_32",
        ("token_embedding", "int8_32"),
        (_INT8, {"int8_32": _HALF, "int4_32": _HALF}),
        ("pooling_matrix", "float32"),
    ),
    "q4_128": _stated("int4_128", ("pooling_matrix", "float32")),
}

# Level -> how it rounds what enters a matrix, where that is at all; int8 files differ in nothing else.
_ACTIVATIONS = {"int8": "static", "int8_dynamic": "dynamic", "q4": "blocks", "q4_m": "blocks", "q4_128": "blocks"}


def promised_activations(level: str) -> str | None:
    """How a level's name says that what enters a matrix is rounded; None for a level of which nothing stands here."""
    return _ACTIVATIONS.get(level, "float") if level in PROMISED else None


def unpromised(level: str, kind: str, stored: Iterable[tuple[str, int]]) -> Iterator[tuple[str, str]]:
    """What a level's name does not promise of the matrices of one kind: what is found, and what is allowed.

    Args:
        stored: type and columns of each.
    """
    said = PROMISED.get(level)
    if said is None:
        return
    shares = said.get(kind, said[""])
    found: Counter[str] = Counter()
    for name, columns in stored:
        promised = next((one for one in shares if name in _names(one, columns)), None)
        if promised is None:
            yield name, " or ".join(shares)
            return
        found[promised] += 1
    for name, (least, most) in shares.items():
        if not least * found.total() - _LAYERS <= found[name] <= most * found.total() + _LAYERS:
            yield f"{name} in {found[name]} of {found.total()}", f"in {least:.0%} to {most:.0%}, give or take two"


def _names(promised: str, columns: int) -> set[str]:
    """What a promised type may be where rows do not divide into its blocks; zeros may fill them up, too."""
    names = {promised}
    if columns % 256 and promised in _STAND_INS:
        names.add(_STAND_INS[promised])
    if columns % 32 and promised in _SMALL_BLOCKS:
        names.add("F16")
    return names
