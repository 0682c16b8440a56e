"""What edgekit asks of an ONNX graph, and whether the graph takes and gives that: compared once, when it is opened.

Runtimes notice a wrong shape at the first run only, and each says so in its own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from edgekit.errors import ArtifactError
from edgekit.formats.onnx import names
from edgekit.formats.onnx.header import OnnxHeader, OnnxValue
from edgekit.runtime.base import EncoderSpec, Float
from edgekit.runtime.parts import EncoderFile

FREE = -1  # a side that the caller chooses: the graph must not fix it
FIXED = 0  # a side that the graph fixes, at whatever it likes
_SPELLED = {FREE: "any", FIXED: "a number"}

Sides = tuple[int, ...]


@dataclass(frozen=True)
class DecoderShape:
    """What a decoder's graphs fix.

    Attributes:
        caches: input -> heads and width of a head, of every key and value.
        growing: the caches of global layers, which hold the whole text.
    """

    hidden: int
    vocabulary: int
    caches: Mapping[str, tuple[int, int]]
    growing: frozenset[str]


def encoder_input(header: OnnxHeader, spec: EncoderSpec, output: str) -> str:
    """The name of an encoder's one input.

    Raises:
        ArtifactError: the graph's inputs are not one of what `spec` says, or it does not give `output` of its kind.
    """
    inputs = _inputs(header)
    if len(inputs) != 1:
        raise ArtifactError(f"{header.path}: inputs {_listed(inputs)}", allowed="one")
    height_width = spec.shape[:2]
    sides, kind = ((FREE, 3, *height_width), "FLOAT") if spec.input == "pixels" else ((FREE, *spec.shape), "INT64")
    (name,) = inputs
    _check(header, "input", inputs, name, kind, sides)
    outputs = {value.name: value for value in header.outputs}
    # An image's tokens and its width are the graph's to say; who composes a model compares them with the decoder's.
    _check(
        header, "output", outputs, output, "FLOAT", (FREE, FIXED) if spec.output == "pooled" else (FREE, FIXED, FIXED)
    )
    return name


def check_vectors(file: EncoderFile, vectors: Float, items: int) -> Float:
    """What an encoder gave for its items. Raises ArtifactError where it is not one vector, or list of them, each."""
    sides = 2 if file.spec.output == "pooled" else 3
    if vectors.ndim != sides or len(vectors) != items:
        raise ArtifactError(
            f"{file.path}: {file.output} is {list(vectors.shape)} for {items} items", allowed=f"{sides} sides"
        )
    return vectors


def decoder_shape(decoder: OnnxHeader, embedding: OnnxHeader) -> DecoderShape:
    """What a decoder's graph and that of its token embedding fix.

    Raises:
        ArtifactError: an input or output is missing, unknown, or not of the type and shape that edgekit's have.
    """
    inputs, outputs = _inputs(decoder), {value.name: value for value in decoder.outputs}
    hidden = _check(decoder, "input", inputs, names.EMBEDS, "FLOAT", (1, FREE, FIXED))[2]
    _check(decoder, "input", inputs, names.IMAGES, "INT64", (1, FREE))
    _check(decoder, "input", inputs, names.POSITIONS, "INT64", (1, FREE))
    _check(decoder, "input", inputs, names.WANTED, "INT64", (FREE,))
    vocabulary = _check(decoder, "output", outputs, names.LOGITS, "FLOAT", (FREE, FIXED))[1]
    caches: dict[str, tuple[int, int]] = {}
    growing = set()
    for name in inputs.keys() - {names.EMBEDS, names.IMAGES, names.POSITIONS, names.WANTED}:
        if not name.startswith(f"{names.PAST}."):
            raise ArtifactError(f"{decoder.path}: an unknown input {name!r:.100}", allowed=_DECODERS)
        _, heads, _, width = _check(decoder, "input", inputs, name, "FLOAT", (1, FIXED, FREE, FIXED))
        capacity = (inputs[name].shape or ())[2]
        if capacity not in (names.LOCAL_CAPACITY, names.GLOBAL_CAPACITY):
            raise ArtifactError(
                f"{decoder.path}: input {name}: a capacity named {capacity!r:.60}",
                allowed=f"{names.LOCAL_CAPACITY} or {names.GLOBAL_CAPACITY}",
            )
        present = name.replace(names.PAST, names.PRESENT, 1)
        _check(decoder, "output", outputs, present, "FLOAT", (1, heads, FREE, width))
        caches[name] = heads, width
        growing |= {name} if capacity == names.GLOBAL_CAPACITY else set()
    if not caches:
        raise ArtifactError(f"{decoder.path}: no key and value caches", allowed=_DECODERS)
    inputs, outputs = _inputs(embedding), {value.name: value for value in embedding.outputs}
    _check(embedding, "input", inputs, names.IDS, "INT64", (FREE, FREE))
    _check(embedding, "output", outputs, names.EMBEDS, "FLOAT", (FREE, FREE, hidden))
    return DecoderShape(hidden, vocabulary, caches, frozenset(growing))


_DECODERS = "a decoder that edgekit exported"


def _inputs(header: OnnxHeader) -> dict[str, OnnxValue]:
    """Those that a caller must give: old files list weights among them."""
    weights = {tensor.name for tensor in header.tensors}
    return {value.name: value for value in header.inputs if value.name not in weights}


def _check(
    header: OnnxHeader, what: str, values: Mapping[str, OnnxValue], name: str, kind: str, sides: Sides
) -> tuple[int, ...]:
    """The sides of a value, which must be of this type and shape; 0 for those that the caller chooses."""
    if name not in values:
        raise ArtifactError(f"{header.path}: no {what} {name!r:.100}: {what}s {_listed(values)}", allowed=name)
    value = values[name]
    shape = value.shape
    fits = shape is not None and len(shape) == len(sides)
    if value.type != kind or not fits or not all(map(_fits, shape or (), sides)):
        stated = "any shape" if shape is None else f"[{', '.join('any' if s is None else str(s) for s in shape)}]"
        raise ArtifactError(
            f"{header.path}: {what} {name:.100} is {value.type} {stated:.200}",
            allowed=f"{kind} [{', '.join(_SPELLED.get(side, str(side)) for side in sides)}]",
        )
    return tuple(side if isinstance(side, int) else 0 for side in cast("tuple[int | str | None, ...]", shape))


def _fits(size: int | str | None, side: int) -> bool:
    if side == FREE:
        return not isinstance(size, int)
    return isinstance(size, int) and size > 0 if side == FIXED else size == side


def _listed(values: Mapping[str, OnnxValue]) -> str:
    return f"{', '.join(values) or 'none'}"[:200]
