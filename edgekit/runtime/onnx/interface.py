"""What edgekit asks of an ONNX graph, and whether the graph takes and gives that: compared once, when it is opened.

Runtimes notice a wrong shape at the first run only, and each says so in its own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgekit.artifacts.manifest import Preprocessing
from edgekit.errors import ArtifactError
from edgekit.formats.onnx import names
from edgekit.formats.onnx.header import OnnxHeader, OnnxValue
from edgekit.inputs.image import normalize
from edgekit.runtime.base import EncoderSpec

ANY = -1  # a side that the caller chooses: the graph must not fix it
SOME = 0  # a side that the graph fixes, at whatever it likes
_SPELLED = {ANY: "any", SOME: "a number"}

Sides = tuple[int, ...]


@dataclass(frozen=True)
class EncoderFile:
    """One ONNX encoder as every runtime needs it described.

    Attributes:
        spec: what it takes and gives.
        output: the graph output that is wanted.
        preprocessing: how pixels are normalized; None for an encoder of ids.
        listed: the files that a manifest vouches for; None without one. See `edgekit.formats.onnx.header.read`.
    """

    path: Path
    spec: EncoderSpec
    output: str
    preprocessing: Preprocessing | None
    listed: tuple[Path, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """For a process that measures it."""
        preprocessing = self.preprocessing and self.preprocessing.model_dump(mode="json")
        return {
            "path": str(self.path),
            "spec": asdict(self.spec),
            "output": self.output,
            "preprocessing": preprocessing,
            "listed": None if self.listed is None else [str(path) for path in self.listed],
        }

    def batch(self, items: NDArray[Any]) -> NDArray[Any]:
        """Items as the graph takes them: float32 [n, 3, height, width] of pixels, int64 [n, length] of ids."""
        return normalize(items, self.preprocessing) if self.preprocessing else np.asarray(items, np.int64)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EncoderFile:
        """What `to_json` gave."""
        spec = EncoderSpec(data["spec"]["input"], data["spec"]["output"], tuple(data["spec"]["shape"]))
        preprocessing = data["preprocessing"] and Preprocessing.model_validate(data["preprocessing"])
        listed = None if data["listed"] is None else tuple(Path(path) for path in data["listed"])
        return cls(Path(data["path"]), spec, data["output"], preprocessing or None, listed)


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
    sides, kind = ((ANY, 3, *height_width), "FLOAT") if spec.input == "pixels" else ((ANY, *spec.shape), "INT64")
    (name,) = inputs
    _check(header, "input", inputs, name, kind, sides)
    outputs = {value.name: value for value in header.outputs}
    # An image's tokens and its width are the graph's to say; who composes a model compares them with the decoder's.
    _check(header, "output", outputs, output, "FLOAT", (ANY, SOME) if spec.output == "pooled" else (ANY, SOME, SOME))
    return name


def decoder_shape(decoder: OnnxHeader, embedding: OnnxHeader) -> DecoderShape:
    """What a decoder's graph and that of its token embedding fix.

    Raises:
        ArtifactError: an input or output is missing, unknown, or not of the type and shape that edgekit's have.
    """
    inputs, outputs = _inputs(decoder), {value.name: value for value in decoder.outputs}
    hidden = _check(decoder, "input", inputs, names.EMBEDS, "FLOAT", (1, ANY, SOME))[2]
    _check(decoder, "input", inputs, names.IMAGES, "INT64", (1, ANY))
    _check(decoder, "input", inputs, names.POSITIONS, "INT64", (1, ANY))
    _check(decoder, "input", inputs, names.WANTED, "INT64", (ANY,))
    vocabulary = _check(decoder, "output", outputs, names.LOGITS, "FLOAT", (ANY, SOME))[1]
    caches: dict[str, tuple[int, int]] = {}
    growing = set()
    for name in inputs.keys() - {names.EMBEDS, names.IMAGES, names.POSITIONS, names.WANTED}:
        if not name.startswith(f"{names.PAST}."):
            raise ArtifactError(f"{decoder.path}: an unknown input {name!r:.100}", allowed=_DECODERS)
        _, heads, _, width = _check(decoder, "input", inputs, name, "FLOAT", (1, SOME, ANY, SOME))
        capacity = (inputs[name].shape or ())[2]
        if capacity not in (names.LOCAL_CAPACITY, names.GLOBAL_CAPACITY):
            raise ArtifactError(
                f"{decoder.path}: input {name}: a capacity named {capacity!r:.60}",
                allowed=f"{names.LOCAL_CAPACITY} or {names.GLOBAL_CAPACITY}",
            )
        present = name.replace(names.PAST, names.PRESENT, 1)
        _check(decoder, "output", outputs, present, "FLOAT", (1, heads, ANY, width))
        caches[name] = heads, width
        growing |= {name} if capacity == names.GLOBAL_CAPACITY else set()
    if not caches:
        raise ArtifactError(f"{decoder.path}: no key and value caches", allowed=_DECODERS)
    inputs, outputs = _inputs(embedding), {value.name: value for value in embedding.outputs}
    _check(embedding, "input", inputs, names.IDS, "INT64", (ANY, ANY))
    _check(embedding, "output", outputs, names.EMBEDS, "FLOAT", (ANY, ANY, hidden))
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
    found = value.shape
    fits = found is not None and len(found) == len(sides)
    if value.type != kind or not fits or not all(map(_fits, found or (), sides)):
        shape = "any shape" if found is None else f"[{', '.join('any' if s is None else str(s) for s in found)}]"
        raise ArtifactError(
            f"{header.path}: {what} {name:.100} is {value.type} {shape:.200}",
            allowed=f"{kind} [{', '.join(_SPELLED.get(side, str(side)) for side in sides)}]",
        )
    return tuple(side if isinstance(side, int) else 0 for side in cast("tuple[int | str | None, ...]", found))


def _fits(found: int | str | None, side: int) -> bool:
    if side == ANY:
        return not isinstance(found, int)
    return isinstance(found, int) and found > 0 if side == SOME else found == side


def _listed(values: Mapping[str, OnnxValue]) -> str:
    return f"{', '.join(values) or 'none'}"[:200]
