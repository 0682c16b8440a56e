"""What a family states of one part for ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgekit.formats.onnx.constants import Constant
from edgekit.formats.onnx.graph import Graph
from edgekit.formats.onnx.positional import Stated

Build = Callable[[Graph, Any], None]  # adds everything to a graph, by the validated configuration


Value = tuple[str, tuple[int | str, ...]]  # its ONNX type, and its sides: numbers, or names of those that vary


@dataclass(frozen=True)
class Interface:
    """What programs of others rely on: a graph's inputs and outputs, in order."""

    inputs: Mapping[str, Value]
    outputs: Mapping[str, Value]


@dataclass(frozen=True)
class OnnxForm:
    """One part.

    Attributes:
        graphs: stem of the file's name, as Transformers.js and optimum look for it, -> what it computes. The first is
            the one that a runtime opens; all share one data file.
        interfaces: transformers' configuration -> stem -> what goes in and comes out, as exports/README.md has it.
        constants: transformers' configuration -> where its values stand in the graphs: all that stand there.
        layers: transformers' configuration -> the kind of each layer of the first graph; all of one kind are alike.
        positional: a graph's stem -> what it makes of positions, ids and lengths: all of it; nothing where none is.
        output: of an encoder, the output that models are composed of; None for a decoder.
    """

    graphs: Mapping[str, Build]
    interfaces: Callable[[Any], Mapping[str, Interface]]
    constants: Callable[[Any], Sequence[Constant]]
    layers: Callable[[Any], Sequence[str]]
    positional: Mapping[str, Stated] = field(default_factory=dict)
    output: str | None = None
