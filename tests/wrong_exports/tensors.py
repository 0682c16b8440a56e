"""Mistakes in the weights: each changes some tensors of a right file where they lie."""

from __future__ import annotations

import functools
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from proofs import Trial, with_files

from wrong_exports.entry import FORMATS, WrongExport, replaced
from wrong_exports.stored import SCALES, Stored, Values, stored

DECODER, VISION, IMAGE, TEXT = "decoder", "vision", "image_encoder", "text_encoder"
ALL, TOWERS = (DECODER, VISION, IMAGE, TEXT), (VISION, IMAGE, TEXT)
_PATCH, _POSITION = "embeddings.patch_embedding.weight", "embeddings.position_embedding.weight"
_PROJECTOR = "multi_modal_projector.mm_input_projection_weight"
_BLOCKS = ("Q8_0", "Q5_0", "Q4_0", "IQ4_NL", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q3_K", "Q2_K")
_HALVES = ("Q4_0", "IQ4_NL", "int4_32", "int4_128")  # two weights in a byte

Edit = Callable[[Stored, "Place"], object]


@dataclass(frozen=True)
class Place:
    """Where a part has what mistakes are made in: names by the hub's layout.

    Attributes:
        layers: what stands before the number of a layer.
        norm, matrix: within a layer; the matrix's layer is the second.
        out: the last norm.
        table: the embedding of tokens, where there is one.
    """

    layers: str
    attention: str
    norm: str
    matrix: str
    out: str
    table: str = ""

    def at(self, name: str, layer: int = 1) -> str:
        """A tensor of a layer."""
        return f"{self.layers}{layer}.{name}.weight"

    def projection(self, letter: str, layer: int = 1) -> str:
        """The matrix of queries, keys or values."""
        return self.at(f"{self.attention}.{letter}_proj", layer)

    @property
    def prefix(self) -> str:
        """Of a tower's other tensors."""
        return self.layers.removesuffix("encoder.layers.")


def _tower(prefix: str, out: str, table: str = "") -> Place:
    return Place(f"{prefix}encoder.layers.", "self_attn", "layer_norm1", "mlp.fc1", prefix + out, table)


PLACES = {
    DECODER: Place(
        "language_model.model.layers.", "self_attn", "input_layernorm", "mlp.up_proj",
        "language_model.model.norm.weight", "language_model.model.embed_tokens.weight",
    ),
    VISION: _tower("vision_tower.vision_model.", "post_layernorm.weight"),
    IMAGE: _tower("vision_model.", "post_layernorm.weight"),
    TEXT: _tower("text_model.", "final_layer_norm.weight", "text_model.embeddings.token_embedding.weight"),
}  # fmt: skip


@contextmanager
def _changed(trial: Trial, edit: Edit) -> Iterator[Trial]:
    with stored(trial) as tensors:
        edit(tensors, PLACES[trial.plan.role])
        tensors.flush()
        first, *others = trial.part.files
        changed = hashlib.sha256(f"{first.sha256} {edit!r}".encode()).hexdigest()
        part = with_files(trial.part, (first.model_copy(update={"sha256": changed}), *others))
        yield replace(trial, part=part, changed=frozenset(tensors.changed))


# ---------------------------------------------------------------- which tensors


def matrix(change: Callable[[Values], Values]) -> Edit:
    """One matrix becomes another."""
    return lambda t, p: t.store(p.at(p.matrix), change(t.values(p.at(p.matrix))))


def table(change: Callable[[Values], Values]) -> Edit:
    """The embedding of tokens becomes another."""
    return lambda t, p: t.store(p.table, change(t.values(p.table)))


def named(ending: str, change: Callable[[Values], Values], layer: int | None = None) -> Edit:
    """All tensors whose names end so, of all layers or of one."""

    def edit(t: Stored, p: Place) -> None:
        prefix = "" if layer is None else f"{p.layers}{layer}."
        names = [name for name in t.names if name.endswith(ending) and name.startswith(prefix)]
        assert names
        for name in names:
            t.store(name, change(t.values(name)))

    return edit


def norm(change: Callable[[Values], Values]) -> Edit:
    """One norm of one layer."""
    return lambda t, p: t.store(p.at(p.norm), change(t.values(p.at(p.norm))))


def exchanged(one: Callable[[Place], str], other: Callable[[Place], str]) -> Edit:
    """Two tensors of one shape, each by the other's codec where those differ."""

    def edit(t: Stored, p: Place) -> None:
        first, second = t.values(one(p)), t.values(other(p))
        assert first.shape == second.shape
        t.store(one(p), second)
        t.store(other(p), first)

    return edit


def _q_and_k_norms(t: Stored, p: Place) -> None:
    for layer in range(7):
        exchanged(lambda p: p.at("self_attn.q_norm", layer), lambda p: p.at("self_attn.k_norm", layer))(t, p)  # noqa: B023


# ---------------------------------------------------------------- what becomes of them


def zero(values: Values) -> Values:
    """Nothing."""
    return np.zeros_like(values)


def times(factor: float) -> Callable[[Values], Values]:
    """Scaled."""
    return lambda values: values * np.float32(factor)


def plus(summand: float) -> Callable[[Values], Values]:
    """Shifted."""
    return lambda values: values + np.float32(summand)


def rows(*order: int) -> Callable[[Values], Values]:
    """The first rows in another order; -1 for zeros."""

    def change(values: Values) -> Values:
        wrong = values.copy()
        for place, row in enumerate(order):
            wrong[place] = 0 if row < 0 else values[row]
        return wrong

    return change


def _offset(values: Values) -> Values:
    """A constant of a tenth of the weights' spread on all of them."""
    return np.asarray(values + 0.1 * values.std(), np.float32)


def _last_block_lost(values: Values) -> Values:
    wrong = values.copy()
    wrong[:, -32:] = 0
    return wrong


def _coarser(values: Values) -> Values:
    """Rounded to three values a block of 16 before: what is quantized twice."""
    blocks = values.reshape(-1, 16)
    scale = np.abs(blocks).max(axis=1, keepdims=True) + np.float32(1e-30)
    return np.asarray((np.rint(blocks / scale) * scale).reshape(values.shape), np.float32)


def _not_a_number(values: Values) -> Values:
    wrong = values.copy()
    wrong.reshape(-1)[0] = np.nan
    return wrong


def _adapter(values: Values) -> Values:
    """The weights and a matrix of rank four beside them, as large as half of them: another fine-tune's."""
    random = np.random.default_rng(5)
    delta = random.normal(size=(len(values), 4)) @ random.normal(size=(4, values.shape[1]))
    return np.asarray(values + 0.5 * delta * np.linalg.norm(values) / np.linalg.norm(delta), np.float32)


def _noise(share: float) -> Callable[[Values], Values]:
    """Another fine-tune's, a little: no more of each row than this share of its size."""

    def change(values: Values) -> Values:
        noise = np.random.default_rng(5).standard_normal(values.shape, np.float32)
        return np.asarray(values + share * np.sqrt(np.square(values).mean(-1, keepdims=True)) * noise, np.float32)

    return change


def _by_heads(heads: int, order: Callable[[int], Any]) -> Callable[[Values], Values]:
    """Rows within each head in another order."""

    def change(values: Values) -> Values:
        apart = values.reshape(heads, -1, values.shape[-1])
        return np.ascontiguousarray(apart[:, order(apart.shape[1])].reshape(values.shape))

    return change


def _interleaved(width: int) -> Any:
    """llama.cpp's other rotary layout: pairs beside each other in place of halves."""
    return np.arange(width).reshape(2, -1).T.ravel()


def _rotary(t: Stored, p: Place) -> None:
    text = t.plan.config.text_config
    for letter, heads in (("q", text.num_attention_heads), ("k", text.num_key_value_heads)):
        for layer in range(text.num_hidden_layers):
            name = p.projection(letter, layer)
            t.store(name, _by_heads(heads, _interleaved)(t.values(name)))


def _heads_permuted(t: Stored, p: Place) -> None:
    config = t.plan.config
    tower = {DECODER: "text_config", TEXT: "text_config"}.get(t.plan.role, "vision_config")
    heads = getattr(config, tower).num_attention_heads
    name = p.projection("q")
    values = t.values(name)
    t.store(name, np.ascontiguousarray(values.reshape(heads, -1, values.shape[-1])[::-1].reshape(values.shape)))


def _padding_filled(t: Stored, p: Place) -> None:
    """What llama.cpp's blocks are filled up with in fc1 and fc2 is not zero."""
    wide, bias, narrow = p.at("mlp.fc1"), f"{p.layers}1.mlp.fc1.bias", p.at("mlp.fc2")
    width = t.plan.config.vision_config.intermediate_size
    for name, cut in ((wide, np.s_[width:]), (bias, np.s_[width:]), (narrow, np.s_[:, width:])):
        values = t.values(name)
        values[cut] = np.float32(0.5)
        t.store(name, values)


def _layer_copied(t: Stored, p: Place) -> None:
    """A layer stands in another's place, norms and all."""
    over = 2 if any(name.startswith(f"{p.layers}2.") for name in t.names) else 0
    for name in [name for name in t.names if name.startswith(f"{p.layers}1.")]:
        t.store(name.replace(f"{p.layers}1.", f"{p.layers}{over}."), t.values(name))


def _everything_zero(t: Stored, p: Place) -> None:
    for name in t.names:
        t.store(name, zero(t.values(name)))


def _quantized_zero(t: Stored, p: Place) -> None:
    for name in t.names:
        if len(t.values(name).shape) == 2:
            t.store(name, zero(t.values(name)))


def _values_and_keys(t: Stored, p: Place) -> None:
    exchanged(lambda p: p.projection("k"), lambda p: p.projection("v"))(t, p)


def _channels(*order: int) -> Callable[[Values], Values]:
    """A kernel [width, 3, height, width] that takes these channels for red, green and blue."""
    return lambda values: np.ascontiguousarray(values[:, list(order)])


def _red_alone(values: Values) -> Values:
    wrong = zero(values)
    wrong[:, 0] = values.sum(axis=1)
    return wrong


def _grid(change: Callable[[Any], Any]) -> Callable[[Values], Values]:
    """Positions of patches, on their grid [side, side, width], otherwise."""

    def edit(values: Values) -> Values:
        side = round(len(values) ** 0.5)
        return np.ascontiguousarray(change(values.reshape(side, side, -1)).reshape(values.shape))

    return edit


# ---------------------------------------------------------------- as they are stored


def _first_quantized(t: Stored, p: Place) -> dict[str, Any]:
    return t.raw(p.at(p.matrix))


def _nibbles(t: Stored, p: Place) -> None:
    """High and low half of a byte exchanged, scales left."""
    values = _first_quantized(t, p)["values"]
    start = 2 if t.plan.level.format == "gguf" else 0
    values[..., start:] = values[..., start:] << 4 | values[..., start:] >> 4


def _scales_shifted(t: Stored, p: Place) -> None:
    """Each block has the scale of the one before."""
    arrays = _first_quantized(t, p)
    if "scales" in arrays:
        arrays["scales"][...] = np.roll(arrays["scales"].ravel(), 1).reshape(arrays["scales"].shape)
        return
    halves = arrays["values"].view(np.uint16)
    for at in SCALES[t.codec(p.at(p.matrix))]:
        halves[:, at] = np.roll(halves[:, at].copy(), 1)


def _zero_point(t: Stored, p: Place) -> None:
    """All quantized values one too large, as a zero point of 7 in place of 8 makes them."""
    values, codec = _first_quantized(t, p)["values"], t.codec(p.at(p.matrix))
    if codec in ("int8", "int8_32"):
        most = 127 if codec == "int8" else 255
        values[...] = np.minimum(values.astype(np.int16) + 1, most).astype(values.dtype)
    elif codec == "Q8_0":
        whole = values[:, 2:].view(np.int8)
        whole[...] = np.minimum(whole.astype(np.int16) + 1, 127).astype(np.int8)
    else:
        packed = values[:, 2:] if codec == "Q4_0" else values
        low, high = (np.minimum(half + 1, 15) for half in (packed & 15, packed >> 4))
        packed[...] = low | high << 4


# ---------------------------------------------------------------- too many, too few


@contextmanager
def _of_others(trial: Trial, change: Callable[[dict[str, Any]], object]) -> Iterator[Trial]:
    """A GGUF file written anew with other tensors: name -> its data and ggml's type."""
    (path,) = trial.files
    before, reader = path.read_bytes(), gguf.GGUFReader(path)
    tensors = {tensor.name: (tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    change(tensors)
    with tempfile.TemporaryDirectory(prefix="wrong-export-") as scratch:
        made = Path(scratch) / "made.gguf"
        writer = gguf.GGUFWriter(made, reader.fields["general.architecture"].contents())
        for key, field in reader.fields.items():
            if not key.startswith("GGUF.") and key != "general.architecture":
                kind, *inner = field.types
                writer.add_key_value(key, field.contents(), kind, inner[-1] if inner else None)
        for name, (data, kind) in tensors.items():
            writer.add_tensor_info(name, data.shape, data.dtype, data.nbytes, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for data, _ in tensors.values():
            writer.write_tensor_data(data)
        writer.close()
        after = made.read_bytes()
    with replaced({path: (before, after)}):
        yield replace(trial, changed=None)


def _head_added(tensors: dict[str, Any]) -> None:
    """Gemma 3's head is its embedding; llama.cpp takes one that a file has."""
    data, kind = tensors["token_embd.weight"]
    tensors["output.weight"] = np.ascontiguousarray(data[::-1]), kind


# ---------------------------------------------------------------- the list


def _each(name: str, roles: tuple[str, ...], edit: Edit, formats: tuple[str, ...] = FORMATS, **options: Any) -> Any:
    change = functools.partial(_changed, edit=edit)
    for file_format in formats:
        here = roles if file_format == "onnx" else tuple(role for role in roles if role in (DECODER, VISION))
        if here:
            yield WrongExport(name, here, file_format, "tensors", change, **options)


_LIST: tuple[tuple[Any, ...], ...] = (
    ("every tensor is zero", ALL, _everything_zero),
    ("every matrix is zero", ALL, _quantized_zero),
    ("a matrix is zero", ALL, matrix(zero)),
    ("a row of a matrix is zero", ALL, matrix(rows(-1))),
    ("two rows of a matrix are exchanged", ALL, matrix(rows(1, 0))),
    ("a row of the embedding is zero", (DECODER, TEXT), table(rows(0, 1, 2, 3, 4, 5, 6, 7, 8, -1))),
    ("two rows of the embedding are exchanged", (DECODER, TEXT), table(rows(0, 2, 1))),
    ("the embedding's rows are one off", (DECODER, TEXT), table(lambda v: np.roll(v, 1, axis=0))),
    ("the embedding is times 1.01", (DECODER, TEXT), table(times(1.01))),
    ("the embedding is times 0.99", (DECODER, TEXT), table(times(0.99))),
    ("a matrix is times 1.01", ALL, matrix(times(1.01))),
    ("a matrix is times 0.99", ALL, matrix(times(0.99))),
    ("a matrix is doubled", ALL, matrix(times(2))),
    ("a matrix is negated", ALL, matrix(times(-1))),
    ("a matrix has an offset", ALL, matrix(_offset)),
    ("a matrix lacks its last block", ALL, matrix(_last_block_lost)),
    ("a matrix was quantized twice", ALL, matrix(_coarser)),
    ("a matrix holds what is no number", ALL, norm(_not_a_number)),
    ("a matrix is another fine-tune's", ALL, matrix(_adapter)),
    ("a matrix lies transposed", (DECODER, *TOWERS), lambda t, p: t.store(
        p.projection("k"), np.ascontiguousarray(t.values(p.projection("k")).T))),
    ("layers are exchanged", ALL, exchanged(lambda p: p.at(p.matrix, 1), lambda p: p.at(p.matrix, 2))),
    ("a layer stands twice", ALL, _layer_copied),
    ("keys and values are exchanged", ALL, _values_and_keys),
    ("gate and up are exchanged", (DECODER,), exchanged(
        lambda p: p.at("mlp.gate_proj"), lambda p: p.at("mlp.up_proj"))),
    ("norms of queries and keys are exchanged", (DECODER,), _q_and_k_norms),
    ("norms before attention and MLP are exchanged", (DECODER,), exchanged(
        lambda p: p.at("input_layernorm"), lambda p: p.at("pre_feedforward_layernorm"))),
    ("norms before attention and MLP are exchanged", TOWERS, exchanged(
        lambda p: p.at("layer_norm1"), lambda p: p.at("layer_norm2"))),
    ("heads are in reverse order", ALL, _heads_permuted),
    ("rotary pairs lie beside each other", (DECODER,), _rotary),
    ("norms lack their one", (DECODER,), named("norm.weight", plus(-1))),
    ("norms have their one twice", (DECODER,), named("norm.weight", plus(1))),
    ("the norms of one layer lack their one", (DECODER,), named("norm.weight", plus(-1), 1)),
    ("a norm has one too much", ALL, norm(plus(1))),
    ("a norm is times 1.01", ALL, norm(times(1.01))),
    ("a norm is left out", ALL, norm(lambda values: np.ones_like(values))),
    ("the last norm is left out", ALL, lambda t, p: t.store(p.out, np.ones_like(t.values(p.out)))),
    ("biases are dropped", TOWERS, named(".bias", zero)),
    ("the biases of one layer are dropped", TOWERS, named(".bias", zero, 1)),
    ("the bias of queries is dropped", TOWERS, named("q_proj.bias", zero)),
    ("positions are one off", TOWERS, named(_POSITION, lambda v: np.roll(v, 1, axis=0))),
    ("positions are in reverse order", TOWERS, named(_POSITION, lambda v: v[::-1].copy())),
    ("positions lie transposed", (VISION, IMAGE), named(_POSITION, _grid(lambda g: g.transpose(1, 0, 2)))),
    ("positions are scaled", TOWERS, named(_POSITION, times(1.02))),
    ("patches take blue for red", (VISION, IMAGE), named(_PATCH, _channels(2, 1, 0))),
    ("patches take red for all", (VISION, IMAGE), named(_PATCH, _red_alone)),
    ("patches are upside down", (VISION, IMAGE), named(_PATCH, lambda v: v[:, :, ::-1].copy())),
    ("patches lie transposed", (VISION, IMAGE), named(_PATCH, lambda v: v.transpose(0, 1, 3, 2).copy())),
    ("features are times 16", (VISION,), named(_PROJECTOR, times(16))),
    ("features are a sixteenth", (VISION,), named(_PROJECTOR, times(1 / 16))),
    ("features are times 1.01", (VISION,), named(_PROJECTOR, times(1.01))),
    ("the projector's norm is left out", (VISION,), named("soft_emb_norm.weight", lambda v: np.ones_like(v))),
    ("the projector's norm lacks its one", (VISION,), named("soft_emb_norm.weight", plus(-1))),
    ("the probe is zero", (IMAGE,), named("head.probe", zero)),
    ("the pooling head's queries are its values", (IMAGE,), named(
        "head.attention.in_proj_weight", lambda v: np.concatenate(np.split(v, 3)[::-1]))),
    ("the head is negated", (TEXT,), named("head.weight", times(-1))),
)  # fmt: skip

_NUMBER: tuple[tuple[str, Callable[[dict[str, Any]], object]], ...] = (
    ("the head is one of its own", _head_added),
    ("a tensor is one too many", lambda t: t.update({"blk.1.attn_q.bias": t["output_norm.weight"]})),
    ("a norm is missing", lambda t: t.pop("blk.1.attn_q_norm.weight")),
    ("a layer is missing", lambda t: [t.pop(name) for name in [*t] if name.startswith("blk.6.")]),
)

TENSORS: tuple[WrongExport, ...] = (
    *(
        WrongExport(name, (DECODER,), "gguf", "tensors", functools.partial(_of_others, change=change))
        for name, change in _NUMBER
    ),
    *(wrong for name, roles, edit in _LIST for wrong in _each(name, roles, edit)),
    *_each(
        "blocks are filled with other than zeros",
        (VISION,),
        _padding_filled,
        ("gguf",),
        codecs=("Q8_0", "Q5_0", "Q4_0", "IQ4_NL"),
    ),
    *_each("halves of bytes are exchanged", ALL, _nibbles, codecs=_HALVES),
    *_each("scales of blocks are one off", ALL, _scales_shifted, codecs=(*_BLOCKS, "int8", "int4_32", "int4_128")),
    *_each("a matrix has noise of a hundredth", ALL, matrix(_noise(0.01)), ("gguf",), codecs=("Q8_0",)),
    *_each("a matrix has noise of three hundredths", ALL, matrix(_noise(0.03)), codecs=("Q8_0", "int8")),
    *_each("a zero point is one off", ALL, _zero_point, codecs=("Q8_0", "Q4_0", "int8", "int4_32", "int4_128")),
)
