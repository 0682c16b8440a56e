"""Known mistakes of whoever builds a graph: a builder that makes one, for as long as it is patched.

They are made where the graph is built, so they are in a file of any level, and in the exact one, alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from edgekit.families.gemma3 import graph as gemma
from edgekit.families.siglip.graph import POOLED
from edgekit.formats.onnx.graph import Graph

Patch = Callable[[pytest.MonkeyPatch], None]
DECODER, TOWERS, VISION = ("decoder",), ("vision", "image_encoder", "text_encoder"), ("vision",)
ENCODERS = ("image_encoder", "text_encoder")
LAST = 6  # layer of the reference model's decoder


@dataclass(frozen=True)
class WrongBuilder:
    """One mistake.

    Attributes:
        roles: the parts that have it then.
        exact: whether exact weights show it; an epsilon is nothing beside large activations.
    """

    name: str
    roles: tuple[str, ...]
    patch: Patch
    exact: bool = True

    def __str__(self) -> str:
        return self.name


def _op(change: Callable[..., Any]) -> Patch:
    """Whatever operator is asked for, `change(right, graph, kind, inputs, attributes)` gives it."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        right = Graph.op
        monkeypatch.setattr(Graph, "op", lambda graph, kind, *inputs, **how: change(right, graph, kind, inputs, how))

    return patch


def _attribute(operator: str, name: str, value: Any) -> Patch:
    """An operator's attribute is another."""

    def change(right: Any, graph: Graph, kind: str, inputs: Any, how: Any) -> Any:
        return right(graph, kind, *inputs, **({**how, name: value} if kind == operator else how))

    return _op(change)


def _constant(right_value: float, wrong_value: float) -> Patch:
    """A number is another."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        right = Graph.constant

        def constant(graph: Graph, values: Any, dtype: Any = np.float32) -> str:
            same = np.ndim(values) == 0 and np.isclose(values, right_value, rtol=1e-9, atol=0)
            return right(graph, wrong_value if same else values, dtype)

        monkeypatch.setattr(Graph, "constant", constant)

    return patch


def _frequencies(change: Callable[[Any], dict[str, float]]) -> Patch:
    """The rotation is made for another configuration."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        right = gemma.frequencies
        monkeypatch.setattr(gemma, "frequencies", lambda text, kind: right(text.model_copy(update=change(text)), kind))

    return patch


def _window(by: int) -> Patch:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        right = gemma.window_of
        monkeypatch.setattr(gemma, "window_of", lambda text, kind: (seen := right(text, kind)) and seen + by)

    return patch


def _exchanged_norms(within: str) -> Patch:
    """In layers whose tensors' names hold this text."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        right, names = gemma.rms_norm, {"q_norm": "k_norm", "k_norm": "q_norm"}

        def rms_norm(graph: Graph, value: str, name: str, epsilon: float) -> str:
            path, _, last = name.removesuffix(".weight").rpartition(".")
            other = f"{path}.{names.get(last, last)}.weight"
            return right(graph, value, other if within in name else name, epsilon)

        monkeypatch.setattr(gemma, "rms_norm", rms_norm)

    return patch


def _without_biases(within: str) -> Patch:
    """Of matrices whose names hold this text."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        right = Graph.linear

        def linear(graph: Graph, value: str, name: str, bias: str | None = None) -> str:
            return right(graph, value, name, None if within in name else bias)

        monkeypatch.setattr(Graph, "linear", linear)

    return patch


def _last_layer_global(monkeypatch: pytest.MonkeyPatch) -> None:
    right = gemma.kind_of
    monkeypatch.setattr(gemma, "kind_of", lambda layer: gemma.GLOBAL if layer == LAST else right(layer))


def _output(change: Callable[[Graph, str, str], tuple[str, str]]) -> Patch:
    """An output is another value, or has another name."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        right = Graph.output

        def output(graph: Graph, value: str, name: str, *rest: Any) -> None:
            right(graph, *change(graph, value, name), *rest)

        monkeypatch.setattr(Graph, "output", output)

    return patch


def _negated(*names: str) -> Patch:
    def change(graph: Graph, value: str, name: str) -> tuple[str, str]:
        return (graph.op("Mul", value, graph.constant(-1)) if name in names else value), name

    return _output(change)


def _scaled_queries(right: Any, graph: Graph, kind: str, inputs: Any, how: Any) -> Any:
    """Scores are divided by the square root of half the width."""
    if kind == "MultiHeadAttention":
        query, *others = inputs
        inputs = right(graph, "Mul", query, graph.constant(2**0.5)), *others
    return right(graph, kind, *inputs, **how)


def _quick_gelu(right: Any, graph: Graph, kind: str, inputs: Any, how: Any) -> Any:
    """x * sigmoid(1.702 x), its sigmoid a softmax over x and 0: of operators that a graph may have."""
    if kind != "Gelu":
        return right(graph, kind, *inputs, **how)
    last = graph.constant([-1], np.int64)
    wide = right(graph, "Unsqueeze", right(graph, "Mul", *inputs, graph.constant(1.702)), last)
    pair = right(graph, "Concat", wide, right(graph, "Mul", wide, graph.constant(0)), axis=-1)
    share = right(graph, "Squeeze", graph.slice(right(graph, "Softmax", pair, axis=-1), 0, 1), last)
    return right(graph, "Mul", *inputs, share)


def _softcapped(graph: Graph, value: str, name: str) -> tuple[str, str]:
    """50 tanh(x / 50), its tanh 2 sigmoid(2x) - 1."""
    if name != "logits":
        return value, name
    last = graph.constant([-1], np.int64)
    wide = graph.op("Unsqueeze", graph.op("Mul", value, graph.constant(2 / 50)), last)
    pair = graph.op("Concat", wide, graph.op("Mul", wide, graph.constant(0)), axis=-1)
    share = graph.op("Squeeze", graph.slice(graph.op("Softmax", pair, axis=-1), 0, 1), last)
    doubled = graph.op("Sub", graph.op("Mul", share, graph.constant(2)), graph.constant(1))
    return graph.op("Mul", doubled, graph.constant(50)), name


def _causal_images(monkeypatch: pytest.MonkeyPatch) -> None:
    right = gemma.same_image
    monkeypatch.setattr(
        gemma, "same_image", lambda graph, images, offsets: _never(graph, right(graph, images, offsets))
    )


def _never(graph: Graph, seen: str) -> str:
    return str(graph.op("And", seen, graph.op("Greater", graph.constant([0], np.int64), graph.constant(0, np.int64))))


def _embedding_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    right = gemma.embedding_scale
    monkeypatch.setattr(gemma, "embedding_scale", lambda text: 1.01 * right(text))


def _unused(graph: Graph, value: str, name: str) -> tuple[str, str]:
    graph.op("Identity", value)
    return value, name


WRONG_BUILDERS: tuple[WrongBuilder, ...] = (
    WrongBuilder("exact GELU", (*DECODER, *TOWERS), _attribute("Gelu", "approximate", "none")),
    WrongBuilder("quick GELU", (*DECODER, *TOWERS), _op(_quick_gelu)),
    WrongBuilder("softcap 50", DECODER, _output(_softcapped)),
    WrongBuilder("RMS epsilon 1e-5", (*DECODER, *VISION), _constant(1e-6, 1e-5), exact=False),
    WrongBuilder("RMS epsilon 1e-3", (*DECODER, *VISION), _constant(1e-6, 1e-3), exact=False),
    WrongBuilder("layer norm epsilon 1e-5", TOWERS, _attribute("LayerNormalization", "epsilon", 1e-5), exact=False),
    WrongBuilder("global base 5e5", DECODER, _frequencies(lambda text: {"rope_theta": 5e5})),
    WrongBuilder("rope factor 7", DECODER, _frequencies(lambda text: {"rope_factor": 7.0})),
    WrongBuilder(
        "bases of rotation exchanged",
        DECODER,
        _frequencies(lambda text: {"rope_theta": text.rope_local_base_freq, "rope_local_base_freq": text.rope_theta}),
    ),
    WrongBuilder("q and k norms exchanged", DECODER, _exchanged_norms("")),
    WrongBuilder("biases dropped", TOWERS, _without_biases("")),
    WrongBuilder("another attention scale", DECODER, _constant(64**-0.5, 128**-0.5)),
    WrongBuilder("another attention scale in towers", TOWERS, _op(_scaled_queries)),
    WrongBuilder("the window one too long", DECODER, _window(1)),
    WrongBuilder("the window one too short", DECODER, _window(-1)),
    WrongBuilder("images seen causally", DECODER, _causal_images),
    WrongBuilder("embeddings times 1.01", DECODER, _embedding_scale),
    WrongBuilder("logits negated", DECODER, _negated("logits")),
    WrongBuilder("features negated", VISION, _negated("image_features")),
    WrongBuilder("hidden states negated", ENCODERS, _negated("last_hidden_state")),
    WrongBuilder("pooled output negated", ENCODERS, _negated(POOLED)),
    WrongBuilder("embeddings negated", ENCODERS, _negated("image_embeds", "text_embeds")),
)

# These change no output's value, so only the graph itself shows them.
UNSEEN_BUILDERS: tuple[WrongBuilder, ...] = (
    WrongBuilder("a node that nothing needs", (*DECODER, *TOWERS), _output(_unused)),
    WrongBuilder(
        "an output renamed",
        (*DECODER, *TOWERS),
        _output(lambda graph, value, name: (value, {"logits": "scores"}.get(name, name.replace("_", "-")))),
    ),
)

# Mistakes of one layer alone.
WRONG_LAYERS: tuple[WrongBuilder, ...] = (
    WrongBuilder("the last layer sees everything", DECODER, _last_layer_global),
    WrongBuilder("q and k norms of the last layer exchanged", DECODER, _exchanged_norms(f"layers.{LAST}.")),
    WrongBuilder("biases of one layer dropped", TOWERS, _without_biases("layers.2.mlp")),
    WrongBuilder("biases of the last layer dropped", TOWERS, _without_biases("layers.3.mlp")),
)
