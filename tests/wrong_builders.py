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
from edgekit.formats.onnx import names
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


# ---------------------------------------------------------------- right at first


def _bent(graph: Graph, positions: str, unit: str) -> str:
    """Positions that are right below two units, and others from there on."""
    turn = graph.op("Div", positions, unit)
    return str(graph.op("Sub", graph.op("Add", positions, graph.op("Mul", turn, turn)), turn))


def _slots_of_the_second_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where keys are written, not where they are looked for."""
    right, differences = Graph.op, set[str]()

    def op(graph: Graph, kind: str, *inputs: Any, **how: Any) -> Any:
        if kind == "Mod" and inputs[0] not in differences:
            inputs = _bent(graph, inputs[0], inputs[1]), inputs[1]
        made = right(graph, kind, *inputs, **how)
        if kind == "Sub":
            differences.add(made)
        return made

    monkeypatch.setattr(Graph, "op", op)


def _kinds_asked(monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    """The kinds of layers of which a function of the builder was asked, the one being built last."""
    right, kinds = getattr(gemma, name), list[str]()

    def asked(text: Any, kind: str) -> Any:
        kinds.append(kind)
        return right(text, kind)

    monkeypatch.setattr(gemma, name, asked)
    return kinds


def _rotation_far_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of global layers, from position 512 on."""
    right, counted, kinds = Graph.op, dict[str, str](), _kinds_asked(monkeypatch, "frequencies")

    def op(graph: Graph, kind: str, *inputs: Any, **how: Any) -> Any:
        if kind == "Mul" and inputs[0] in counted and kinds[-1] == gemma.GLOBAL:
            far = _bent(graph, counted[inputs[0]], graph.constant([256], np.int64))
            return right(graph, "Mul", right(graph, "Cast", far, to=1), *inputs[1:])
        made = right(graph, kind, *inputs, **how)
        if kind == "Cast":
            counted[made] = inputs[0]
        return made

    monkeypatch.setattr(Graph, "op", op)


def _causal_images_behind_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    right, kinds = gemma.same_image, _kinds_asked(monkeypatch, "window_of")

    def same_image(graph: Graph, images: str, offsets: str) -> str:
        seen = right(graph, images, offsets)
        if kinds[-1] == gemma.GLOBAL:
            return seen
        last = graph.op("Gather", graph.reshape(names.POSITIONS, [-1]), graph.constant(-1, np.int64))
        return str(graph.op("And", seen, graph.op("Less", last, graph.op("Shape", offsets))))

    monkeypatch.setattr(gemma, "same_image", same_image)


def _third_image_seen_by_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of a call have the numbers 2, 4 and 6, texts between them: only 6 is more than their distance's square."""

    def same_image(graph: Graph, images: str, offsets: str) -> str:
        zero = graph.constant(0, np.int64)
        of_key = graph.op("Gather", images, graph.op("Max", offsets, graph.constant([0], np.int64)), axis=0)
        of_query = graph.op("Unsqueeze", images, graph.constant([1], np.int64))
        apart = graph.op("Sub", of_query, of_key)
        near = graph.op("Less", graph.op("Mul", apart, apart), of_key)
        return str(graph.op("And", near, graph.op("Greater", of_query, zero)))

    monkeypatch.setattr(gemma, "same_image", same_image)


def _negated_alone(*outputs: str) -> Patch:
    """Where a batch has one item."""

    def change(graph: Graph, value: str, name: str) -> tuple[str, str]:
        if name not in outputs:
            return value, name
        one = graph.op("Equal", graph.op("Shape", value, start=0, end=1), graph.constant([1], np.int64))
        return graph.op("Where", one, graph.op("Mul", value, graph.constant(-1)), value), name

    return _output(change)


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
    WrongBuilder("slots wrong from the second turn on", DECODER, _slots_of_the_second_turn),
    WrongBuilder("images seen causally behind the turn", DECODER, _causal_images_behind_the_turn),
    WrongBuilder("the third image seen by the second", DECODER, _third_image_seen_by_the_second),
    WrongBuilder("positions far away rotated otherwise", DECODER, _rotation_far_away),
    WrongBuilder("features of one item alone negated", VISION, _negated_alone("image_features")),
    WrongBuilder("pooled output of one item alone negated", ENCODERS, _negated_alone(POOLED)),
)

# ---------------------------------------------------------------- right as far as a proof goes


def _far(graph: Graph, value: str, unit: str) -> str:
    """Whole numbers that are right below the unit's square, and others from there on."""
    return str(graph.op("Sub", value, graph.op("Div", graph.op("Div", value, unit), unit)))


def _capacities(monkeypatch: pytest.MonkeyPatch) -> dict[Graph, str]:
    """How many positions a local layer's cache has, once a graph asks for it: some hundreds or more."""
    right, asked = Graph.op, dict[Graph, str]()

    def op(graph: Graph, kind: str, *inputs: Any, **how: Any) -> Any:
        made = right(graph, kind, *inputs, **how)
        if kind == "Shape" and inputs[0].startswith(names.PAST):
            asked.setdefault(graph, made)
        return made

    monkeypatch.setattr(Graph, "op", op)
    return asked


def _beyond(operator: str, at: int, within: str = "") -> Patch:
    """What enters such an operator is another from the square of a cache's length on; a value's name tells which."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        capacities, right = _capacities(monkeypatch), Graph.op

        def op(graph: Graph, kind: str, *inputs: Any, **how: Any) -> Any:
            if kind == operator and graph in capacities and inputs[at].startswith(within):
                inputs = *inputs[:at], _far(graph, inputs[at], capacities[graph]), *inputs[at + 1 :]
            return right(graph, kind, *inputs, **how)

        monkeypatch.setattr(Graph, "op", op)

    return patch


def _images_far_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the one on whose number's square is the length of a cache."""
    capacities, right = _capacities(monkeypatch), gemma.same_image

    def same_image(graph: Graph, images: str, offsets: str) -> str:
        many = graph.op("Div", graph.op("Mul", images, images), capacities[graph])
        return right(graph, graph.op("Sub", images, many), offsets)

    monkeypatch.setattr(gemma, "same_image", same_image)


def _large_batches(graph: Graph, value: str, name: str) -> tuple[str, str]:
    """Of more images than one has patches."""
    if name != POOLED:
        return value, name
    patches = graph.parameter("vision_model.embeddings.position_embedding.weight")
    counts = [graph.op("Shape", one, start=0, end=1) for one in (value, patches)]
    return graph.op("Where", graph.op("Greater", *counts), graph.op("Mul", value, value), value), name


def _decided_by_numbers(graph: Graph, value: str, name: str) -> tuple[str, str]:
    """Where a number is larger than its square's square: never where it is above one."""
    if name not in ("logits", "image_features", POOLED):
        return value, name
    square = graph.op("Mul", value, value)
    fourth = graph.op("Mul", square, square)
    return graph.op("Where", graph.op("Greater", value, fourth), value, value), name


# These have no constant of their own, and are right at all positions and batches that a proof runs.
FAR_BUILDERS: tuple[WrongBuilder, ...] = (
    WrongBuilder("rotation far on", DECODER, _beyond("Cast", 0, "reshape")),
    WrongBuilder("places in the cache far on", DECODER, _beyond("Mod", 0, "reshape")),
    WrongBuilder("distances far on", DECODER, _beyond("Less", 0)),
    WrongBuilder("what is later far on", DECODER, _beyond("GreaterOrEqual", 0)),
    WrongBuilder("the wanted positions far on", DECODER, _beyond("Gather", 1, names.WANTED)),
    WrongBuilder("images far on", DECODER, _images_far_on),
    WrongBuilder("large batches", ("image_encoder",), _output(_large_batches)),
    WrongBuilder("what numbers decide", (*DECODER, *TOWERS), _output(_decided_by_numbers)),
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


def _declared(change: Callable[[Any], Any]) -> Patch:
    """The shapes of inputs and outputs are said to be others."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        given, made = Graph.input, Graph.output
        monkeypatch.setattr(
            Graph, "input", lambda graph, name, shape, *kind: given(graph, name, [change(s) for s in shape], *kind)
        )
        monkeypatch.setattr(
            Graph, "output", lambda graph, value, name, shape: made(graph, value, name, [change(s) for s in shape])
        )

    return patch


# What programs of others rely on, and no comparison of numbers sees.
WRONG_INTERFACES: tuple[WrongBuilder, ...] = (
    UNSEEN_BUILDERS[1],
    WrongBuilder(
        "sides that vary have other names",
        (*DECODER, *TOWERS),
        _declared(lambda s: f"{s}_" if isinstance(s, str) else s),
    ),
    WrongBuilder("sides that vary are fixed", (*DECODER, *TOWERS), _declared(lambda s: 1 if isinstance(s, str) else s)),
)

# Mistakes of one layer alone.
WRONG_LAYERS: tuple[WrongBuilder, ...] = (
    WrongBuilder("the last layer sees everything", DECODER, _last_layer_global),
    WrongBuilder("q and k norms of the last layer exchanged", DECODER, _exchanged_norms(f"layers.{LAST}.")),
    WrongBuilder("biases of one layer dropped", TOWERS, _without_biases("layers.2.mlp")),
    WrongBuilder("biases of the last layer dropped", TOWERS, _without_biases("layers.3.mlp")),
)
