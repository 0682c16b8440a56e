"""Known wrong exports, the one list of them. Most have shipped in somebody's converter.

Each is made where the format can express it, and for everyone who has such a file: its tensors, its header or its
graph are changed in place; what opens it hands it other segments, texts or pixels; or, where a runtime hard-wires the
right thing, the model at full precision is changed, which comes to the same comparison.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import gguf
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from proofs import Change, Instead, Trial, loaded_as

from edgekit.errors import ArtifactError, EdgekitError, GateError
from edgekit.families.siglip.graph import POOLED
from edgekit.formats.onnx import names
from edgekit.full_precision import streamed
from edgekit.prove import FullPrecisionRuns
from edgekit.runtime import manifest_checks
from edgekit.runtime.base import Embeddings, Tokens

WIRING, PROMPT, PIXELS, COSINE = "wiring: mean KL", "prompt differs", "pixels differ", "wiring: cosine"
_EMBEDDING = "language_model.model.embed_tokens.weight"
_MAX = 1 << 20  # more positions than any text here
# What a manifest says too, of what the list below changes in a header: key -> name in its settings.
_SETTINGS = {"gemma3.attention.sliding_window": "window"}


@dataclass(frozen=True)
class WrongExport:
    """One mistake in one part.

    Attributes:
        roles: the parts that can have it.
        format: of the files that it is made in.
        kind: what is wrong: the file's tensors, header or graph; the text or pixels, or the segments or answers of a
            decoder, which a runtime makes; or the other side of the comparison.
        refused: what the proof says, a pattern; or the runtime, where `error` is ArtifactError.
        at_full_width: whether it shows on random weights of MedGemma 4B's width, too.
        error: GateError from the proof, unless no runtime gives it anything to compare.
    """

    name: str
    roles: tuple[str, ...]
    format: Literal["gguf", "onnx"]
    kind: Literal["tensors", "header", "graph", "inputs", "runtime", "full precision"]
    change: Change
    refused: str = WIRING
    at_full_width: bool = True
    error: type[EdgekitError] = GateError

    def refusal(self, role: str, level: str) -> AbstractContextManager[pytest.ExceptionInfo[EdgekitError]]:
        """What a proof of a part that is so wrong must end in."""
        where = rf"^{role} {level}: " if self.error is GateError else rf"\.{self.format}: "
        return pytest.raises(self.error, match=rf"{where}(audit: |.*({self.refused}))")

    def __str__(self) -> str:
        return f"{self.format}, {self.kind}: {self.name}"


def of(*roles: str, file_format: str | None = None, full_width: bool = False) -> list[WrongExport]:
    """Those that a part of these roles can have, in this format, that show at full width."""
    return [
        wrong
        for wrong in WRONG_EXPORTS
        if set(roles) & set(wrong.roles) and file_format in (None, wrong.format) and full_width <= wrong.at_full_width
    ]


# ---------------------------------------------------------------- files


def _described_as(trial: Trial, settings: Mapping[str, Any]) -> Trial:
    """The part with a manifest as wrong as its file is: both are written from one reading of the checkpoint."""
    if trial.opening is None:
        return trial
    manifest = trial.opening.manifest
    opening = copy.copy(trial.opening)
    opening.manifest = manifest.model_copy(update={"settings": {**manifest.settings, **settings}})
    opening.settings = manifest_checks.settings_of(opening.manifest, opening.composition, trial.files[0])
    return replace(trial, opening=opening)


@contextmanager
def _in_gguf(
    trial: Trial, values: Mapping[str, Callable[[Any], Any]], tensors: str | None = None, by: float = 0
) -> Iterator[Trial]:
    """A GGUF file with other numbers for a while.

    Args:
        values: key of the header -> the new value, of the old ones by key.
        tensors: the end of the names of float32 tensors, all of which get `by` added.
    """
    reader = gguf.GGUFReader(trial.files[0], "r+")
    cells = {key: reader.fields[key].parts[reader.fields[key].data[0]] for key in values}
    known = {key: cell[0].item() for key, cell in cells.items()}
    for key, new in values.items():
        cells[key][0] = new(known)
    changed = [tensor.data for tensor in reader.tensors if tensors and tensor.name.endswith(tensors)]
    before = [data.copy() for data in changed]
    assert all(data.dtype == np.float32 for data in changed)
    assert values or changed
    for data in changed:
        data += np.float32(by)
    reader.data.flush()
    settings = {name: new(known) for key, new in values.items() if (name := _SETTINGS.get(key))}
    try:
        yield _described_as(trial, settings) if settings else trial
    finally:
        for key, value in known.items():
            cells[key][0] = value
        for data, old in zip(changed, before, strict=True):
            data[:] = old
        reader.data.flush()


@contextmanager
def _in_graph(trial: Trial, stem: str, edit: Callable[[Trial, onnx.GraphProto], None]) -> Iterator[Trial]:
    """An ONNX graph of the part edited for a while; its data file stays."""
    path = trial.graph(stem)
    before = path.read_bytes()
    model = onnx.load_from_string(before)
    edit(trial, model.graph)
    path.write_bytes(model.SerializeToString())
    try:
        yield trial
    finally:
        path.write_bytes(before)


@contextmanager
def _in_data(trial: Trial, stem: str, ending: str, by: float) -> Iterator[Trial]:
    """Float32 weights with this ending of their names, all of them, plus `by`, in the data file for a while."""
    path = trial.graph(stem)
    graph = onnx.load(path, load_external_data=False).graph
    places = [
        {entry.key: entry.value for entry in tensor.external_data}
        for tensor in graph.initializer
        if tensor.name.endswith(ending) and tensor.data_type == TensorProto.FLOAT
    ]
    assert places
    before = {}
    for place in places:
        file, start, length = path.with_name(place["location"]), int(place["offset"]), int(place["length"])
        weights = np.memmap(file, np.float32, "r+", start, (length // 4,))
        before[file, start] = weights.copy()
        weights += np.float32(by)
        weights.flush()
    try:
        yield trial
    finally:
        for (file, start), old in before.items():
            weights = np.memmap(file, np.float32, "r+", start, old.shape)
            weights[:] = old
            weights.flush()


def _constant(graph: onnx.GraphProto, name: str, values: Any, dtype: Any) -> str:
    graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
    return name


def _before_all(graph: onnx.GraphProto, name: str, *nodes: onnx.NodeProto) -> None:
    """Whoever reads an input reads what these nodes make of it."""
    for node in graph.node:
        for i, value in enumerate(node.input):
            node.input[i] = nodes[-1].output[0] if value == name else value
    for node in reversed(nodes):
        graph.node.insert(0, node)


def _images_causal(trial: Trial, graph: onnx.GraphProto) -> None:
    zero = _constant(graph, "wrong", 0, np.int64)
    _before_all(graph, names.IMAGES, helper.make_node("Mul", [names.IMAGES, zero], ["wrong_images"]))


def _images_joined(trial: Trial, graph: onnx.GraphProto) -> None:
    """Whatever belongs to an image belongs to the first."""
    zero = _constant(graph, "wrong", 0, np.int64)
    _before_all(
        graph,
        names.IMAGES,
        helper.make_node("Greater", [names.IMAGES, zero], ["wrong_seen"]),
        helper.make_node("Cast", ["wrong_seen"], ["wrong_images"], to=TensorProto.INT64),
    )


def _steps_start_over(trial: Trial, graph: onnx.GraphProto) -> None:
    """Whoever asks for one token gets it at position 0."""
    one = _constant(graph, "wrong", 1, np.int64)
    _before_all(
        graph,
        names.POSITIONS,
        helper.make_node("Shape", [names.POSITIONS], ["wrong_length"], start=1, end=2),
        helper.make_node("Greater", ["wrong_length", one], ["wrong_several"]),
        helper.make_node("Cast", ["wrong_several"], ["wrong_factor"], to=TensorProto.INT64),
        helper.make_node("Mul", [names.POSITIONS, "wrong_factor"], ["wrong_positions"]),
    )


def _unscaled(trial: Trial, graph: onnx.GraphProto) -> None:
    scale = math.sqrt(trial.text.hidden_size)
    scalars = [tensor for tensor in graph.initializer if not tensor.dims and not tensor.external_data]
    (found,) = (tensor for tensor in scalars if np.isclose(numpy_helper.to_array(tensor), scale, rtol=1e-6))
    found.CopyFrom(numpy_helper.from_array(np.float32(1), found.name))


def _window(change: Callable[[int], int]) -> Callable[[Trial, onnx.GraphProto], None]:
    def edit(trial: Trial, graph: onnx.GraphProto) -> None:
        nodes = [node for node in graph.node if node.op_type == "Less"]  # of the mask, and of nothing else
        assert nodes
        for node in nodes:
            node.input[1] = _constant(graph, "wrong", change(trial.text.sliding_window), np.int64)

    return edit


def _global_window(trial: Trial, graph: onnx.GraphProto) -> None:
    """The one mask without a window gets it."""
    maker = {name: node for node in graph.node for name in node.output}
    masks = [node for node in graph.node if node.op_type == "Where"]
    (mask,) = (node for node in masks if maker[maker[node.input[0]].input[1]].op_type != "Less")
    seen = maker[mask.input[0]]
    distance = maker[maker[seen.input[0]].input[0]].input[0]
    window = _constant(graph, "wrong", trial.text.sliding_window, np.int64)
    at = list(graph.node).index(mask)
    graph.node.insert(at, helper.make_node("And", [mask.input[0], "wrong_near"], ["wrong_seen"]))
    graph.node.insert(at, helper.make_node("Less", [distance, window], ["wrong_near"]))
    mask.input[0] = "wrong_seen"


def _rotations(
    wrong_local: Callable[[Any], tuple[float, float]], wrong_global: Callable[[Any], tuple[float, float]]
) -> Callable[[Trial, onnx.GraphProto], None]:
    """The text's configuration -> base and factor of local, and of global layers' rotary embedding."""

    def edit(trial: Trial, graph: onnx.GraphProto) -> None:
        text = trial.text
        exponents = np.arange(0, text.head_dim, 2) / text.head_dim

        def rates(base: float, factor: float) -> Any:
            return base**-exponents / factor

        vectors = [t for t in graph.initializer if list(t.dims) == [len(exponents)] and not t.external_data]
        for right, wrong in ((_local(text), wrong_local(text)), (_global(text), wrong_global(text))):
            (found,) = (t for t in vectors if np.allclose(numpy_helper.to_array(t), rates(*right), 1e-5, 0))
            vectors.remove(found)
            found.CopyFrom(numpy_helper.from_array(rates(*wrong).astype(np.float32), found.name))

    return edit


def _local(text: Any) -> tuple[float, float]:
    return text.rope_local_base_freq, 1.0


def _global(text: Any) -> tuple[float, float]:
    return text.rope_theta, text.rope_factor


def _pooled_from(*nodes: tuple[str, list[Any], dict[str, Any]]) -> Callable[[Trial, onnx.GraphProto], None]:
    """`pooler_output` becomes what these operators, each with its further inputs, make of the last hidden state."""

    def edit(trial: Trial, graph: onnx.GraphProto) -> None:
        (pooled,) = (node for node in graph.node if POOLED in node.output)
        pooled.output[0] = "right"
        value = "last_hidden_state"
        for number, (kind, inputs, attributes) in enumerate(nodes):
            given = [_constant(graph, f"wrong_{number}", values, np.int64) for values in inputs]
            value, before = f"wrong_{kind}", value
            graph.node.append(helper.make_node(kind, [before, *given], [value], **attributes))
        graph.node.append(helper.make_node("Identity", [value], [POOLED]))

    return edit


# ---------------------------------------------------------------- what a runtime hands over


@contextmanager
def _prefilled(trial: Trial, wrong: Callable[[Trial, Any], list[Any]]) -> Iterator[Trial]:
    """A decoder gets other segments than it should."""

    def change(decoder: Any) -> None:
        right = decoder.prefill

        def prefill(segments: Sequence[Any], want: Sequence[int] | None = None) -> Any:
            return right([other for segment in segments for other in wrong(trial, segment)], want)

        decoder.prefill = prefill

    with loaded_as(trial, change) as changed:
        yield changed


def seen_causally(segments: Sequence[Any]) -> list[Any]:
    """Segments whose images attend to what stands before, as text does."""
    return [replace(s, bidirectional=False) if isinstance(s, Embeddings) else s for s in segments]


def _one_way(trial: Trial, segment: Any) -> list[Any]:
    return seen_causally([segment])


def _unscaled_rows(trial: Trial, segment: Any) -> list[Any]:
    """llama.cpp scales token ids itself, but takes embeddings as they are."""
    if isinstance(segment, Embeddings) or not segment.ids:
        return [segment]
    ids, place = np.unique(segment.ids, return_inverse=True)
    weights = streamed.Weights(trial.runs.source)
    rows = weights.rows(_EMBEDDING, ids.astype(np.int64))[place]
    return [Embeddings(rows[i : i + 256], "tokens", bidirectional=False) for i in range(0, len(rows), 256)]


def _forget(decoder: Any) -> None:
    """Each step begins a text of its own."""
    decoder.step = lambda ids: next(iter(decoder.prefill([Tokens(tuple(ids))])))


def _break(decoder: Any) -> None:
    """Not a number in half of the logits."""
    right = decoder.prefill
    decoder.prefill = lambda *given: (np.where(row > 0, np.nan, 0).astype(np.float32) for row in right(*given))


@contextmanager
def _resized_otherwise(trial: Trial) -> Iterator[Trial]:
    right = trial.opening.manifest
    swapped = {"bilinear": "bicubic", "bicubic": "bilinear"}
    wrong = right.preprocessing.model_copy(update={"resample": swapped[right.preprocessing.resample]})
    opening = copy.copy(trial.opening)
    opening.manifest = right.model_copy(update={"preprocessing": wrong})
    yield replace(trial, opening=opening)


@contextmanager
def _without_line_breaks(trial: Trial) -> Iterator[Trial]:
    right = trial.opening.tokenizer

    def encode(text: str, **options: Any) -> Any:
        return right.encode(text.replace("\n\n<start_of_image>", "<start_of_image>"), **options)

    opening = copy.copy(trial.opening)
    opening.tokenizer = Instead(right, encode=encode)
    yield replace(trial, opening=opening)


# ---------------------------------------------------------------- the other side


class _Changed(FullPrecisionRuns):
    """Full precision with a changed decoder; what the right one knows of images is taken over."""

    def __init__(self, right: FullPrecisionRuns, change: Callable[[Any], None]) -> None:
        super().__init__(right.source, right.progress)
        self.right, self.change = right, change

    def run(self, role: str, plan: Any, compute: Callable[[Any], Any]) -> Any:
        if role != "decoder":
            return self.right.run(role, plan, compute)

        def wrong(model: Any) -> Any:
            self.change(model)
            return compute(model)

        return super().run(role, plan, wrong)


def _stretch_local(model: Any) -> None:
    """llama.cpp hard-wires the local scale, so the two sides are exchanged."""
    model.model.language_model.rotary_emb.sliding_attention_inv_freq /= 8


@contextmanager
def _in_full_precision(trial: Trial, change: Callable[[Any], None]) -> Iterator[Trial]:
    yield replace(trial, runs=_Changed(trial.runs, change))


# ---------------------------------------------------------------- the list


def _header(name: str, values: Mapping[str, Callable[[Any], Any]], **options: Any) -> WrongExport:
    change = functools.partial(_in_gguf, values={f"gemma3.{key}": new for key, new in values.items()})
    return WrongExport(name, ("decoder",), "gguf", "header", change, **options)


def _graph(name: str, edit: Callable[[Trial, onnx.GraphProto], None], **options: Any) -> WrongExport:
    change = functools.partial(_in_graph, stem=options.pop("stem", "decoder_model_merged"), edit=edit)
    return WrongExport(name, ("decoder",), "onnx", "graph", change, **options)


def _pooler(name: str, *nodes: tuple[str, list[Any], dict[str, Any]], **options: Any) -> list[WrongExport]:
    edit = _pooled_from(*nodes)
    return [
        WrongExport(name, (f"{kind}_encoder",), "onnx", "graph", change, **{"refused": COSINE, **options})
        for kind, stem in (("image", "vision_model"), ("text", "text_model"))
        for change in [functools.partial(_in_graph, stem=stem, edit=edit)]
    ]


_THETA, _LOCAL_THETA = "gemma3.rope.freq_base", "gemma3.rope.freq_base_swa"
_WINDOW = "gemma3.attention.sliding_window"
# A window of 1024 that is one off moved random weights' logits by 2e-4 nats, hardly more than activations of 8 bits do;
# the reference model's, of 64, shows it at every level.
_UNSEEN: dict[str, Any] = {"at_full_width": False}

WRONG_EXPORTS: tuple[WrongExport, ...] = (
    WrongExport(
        "norms lack their one", ("decoder",), "gguf", "tensors",
        functools.partial(_in_gguf, values={}, tensors="norm.weight", by=-1),
    ),
    _header("global layers are not stretched", {"rope.scaling.factor": lambda _: 1.0}),
    _header(
        "bases of rotation are exchanged",
        {"rope.freq_base": lambda known: known[_LOCAL_THETA], "rope.freq_base_swa": lambda known: known[_THETA]},
    ),
    _header("local layers see everything", {"attention.sliding_window": lambda _: _MAX}),
    _header("the window is one too long", {"attention.sliding_window": lambda known: known[_WINDOW] + 1}, **_UNSEEN),
    _header("the window is one too short", {"attention.sliding_window": lambda known: known[_WINDOW] - 1}, **_UNSEEN),
    WrongExport(
        "images are seen causally", ("decoder",), "gguf", "runtime", functools.partial(_prefilled, wrong=_one_way)
    ),
    WrongExport(
        "token embeddings are not scaled", ("decoder",), "gguf", "runtime",
        functools.partial(_prefilled, wrong=_unscaled_rows),
    ),
    WrongExport(
        "local layers are stretched", ("decoder",), "gguf", "full precision",
        functools.partial(_in_full_precision, change=_stretch_local),
    ),
    WrongExport(
        "norms lack their one", ("decoder",), "onnx", "tensors",
        functools.partial(_in_data, stem="decoder_model_merged", ending="norm.weight", by=-1),
    ),
    _graph("global layers are not stretched", _rotations(_local, lambda text: (text.rope_theta, 1.0))),
    _graph(
        "local layers are stretched",
        _rotations(lambda text: (text.rope_local_base_freq, text.rope_factor), _global),
    ),
    _graph(
        "bases of rotation are exchanged",
        _rotations(lambda text: (text.rope_theta, 1.0), lambda text: (text.rope_local_base_freq, text.rope_factor)),
    ),
    _graph("local layers see everything", _window(lambda _: _MAX)),
    _graph("global layers see a window", _global_window),
    _graph("the window is one too long", _window(lambda window: window + 1), **_UNSEEN),
    _graph("the window is one too short", _window(lambda window: window - 1), **_UNSEEN),
    _graph("images are seen causally", _images_causal),
    # Only where two images come in one call, and a call usually ends before: so the proof asks for a longer one.
    _graph("images see each other", _images_joined),
    _graph("steps start over", _steps_start_over),
    _graph("token embeddings are not scaled", _unscaled, stem="embed_tokens"),
    *(
        WrongExport(name, ("decoder",), file_format, kind, change, refused)
        for file_format in ("gguf", "onnx")
        for name, kind, change, refused in (
            ("steps forget the prompt", "runtime", functools.partial(loaded_as, change=_forget), WIRING),
            ("logits are not numbers", "runtime", functools.partial(loaded_as, change=_break), WIRING),
            ("images lack their line breaks", "inputs", _without_line_breaks, PROMPT),
        )
    ),
    *(
        WrongExport("images are resized otherwise", roles, file_format, "inputs", _resized_otherwise, PIXELS)
        for roles, file_format in ((("vision",), "gguf"), (("vision", "image_encoder"), "onnx"))
    ),
    # No vector for each item, so there is nothing that a proof could compare.
    *_pooler(
        "all positions for the pooled output",
        error=ArtifactError,
        refused=rf"{POOLED} is \[\d+, \d+, \d+\] for \d+ items",
    ),
    *_pooler("the last position for the pooled output", ("Gather", [-1], {"axis": 1})),
    *_pooler("the mean of all positions for the pooled output", ("ReduceMean", [[1]], {"keepdims": 0})),
)  # fmt: skip
