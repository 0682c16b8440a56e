"""GGUF files whose parts contradict each other: damage that bytes changed at random would hardly ever find.

A file is taken apart into its fields and tensors, some of them are changed, and it is put together again, so that
lengths and offsets fit and a reader has to look at what is said, not only at how.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekit.formats.gguf.header import TYPES
from edgekit.runtime import trial
from edgekit.runtime.base import EncoderSpec
from edgekit.runtime.parts import DecoderFile, EncoderFile, RunOptions

_STRING, _ARRAY = 8, 9
_FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_WHOLE = (0, 1, -1, 2, 3, 7, 31, 33, 63, 64, 127, 255, 256, 1000, 2111, 2112, 4096, 65535, 1 << 20, (1 << 31) - 1)
_HUGE = (1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_REAL = (0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, 3e38, float("nan"), float("inf"), float("-inf"))
_TEXTS = (b"", b"\0", b"a", b"none", b"llama", b"gpt2", b"bert", b"t5", b"yarn", b"linear", b"x" * 70_000, b"<0x0A>")
# Keys that llama.cpp reads of some architecture or other, and that a file might say of this one.
_KEYS = (
    "expert_count", "expert_used_count", "rope.dimension_count", "rope.dimension_sections", "rope.scaling.type",
    "rope.scaling.factor", "rope.scaling.original_context_length", "attention.sliding_window_pattern", "vocab_size",
    "attention.causal", "attention.scale", "final_logit_softcapping", "attn_logit_softcapping", "pooling_type",
    "embedding_length_out", "leading_dense_block_count", "attention.key_length_swa", "rope.freq_base_swa",
    "attention.shared_kv_layers", "use_parallel_residual", "tensor_data_layout", "attention.layer_norm_epsilon",
    "nextn_predict_layers", "attention.max_alibi_bias", "classifier.output_labels", "attention.group_norm_groups",
)  # fmt: skip
_OTHER_KEYS = (
    "general.alignment", "general.type", "general.quantization_version", "general.file_type", "split.count",
    "split.no", "split.tensors.count", "tokenizer.ggml.merges", "tokenizer.ggml.precompiled_charsmap",
    "tokenizer.ggml.token_type_count", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.suffix_token_id",
    "tokenizer.ggml.add_space_prefix", "tokenizer.ggml.pre", "clip.use_silu", "clip.use_gelu", "clip.has_audio_encoder",
    "clip.has_llava_projector", "clip.vision.projector_type", "clip.audio.projector_type", "clip.vision.feature_layer",
    "clip.vision.image_grid_pinpoints", "clip.vision.spatial_merge_size", "clip.vision.projector.scale_factor",
    "clip.vision.window_size", "clip.vision.n_wa_pattern", "clip.vision.image_crop_resolution", "clip.minicpmv_version",
    "clip.vision.wa_layer_indexes", "clip.vision.is_deepstack_layers", "clip.vision.mm_patch_merge_type",
    "clip.vision.attention.head_count_kv", "clip.vision.image_min_pixels", "clip.vision.image_max_pixels",
)  # fmt: skip


@dataclass
class Field:
    """A key, the type of its value, the value's bytes, and of an array the elements' type."""

    key: bytes
    kind: int
    value: bytes | list[bytes]
    of: int = 0


@dataclass
class Tensor:
    """A tensor as the header describes it, sides as GGUF has them, and the bytes that lie there."""

    name: bytes
    shape: list[int]
    kind: int
    data: bytes
    shift: int = 0  # of its offset


@dataclass
class File:
    """A GGUF file in pieces."""

    version: int
    fields: list[Field] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)

    def join(self) -> bytes:
        """The whole file, offsets computed anew."""
        head = b"GGUF" + struct.pack("<IQQ", self.version, len(self.tensors), len(self.fields))
        head += b"".join(_text(one.key) + struct.pack("<I", one.kind) + _value(one) for one in self.fields)
        data = bytearray()
        for one in self.tensors:
            sides = struct.pack(f"<I{len(one.shape)}Q", len(one.shape), *one.shape)
            head += _text(one.name) + sides + struct.pack("<IQ", one.kind, max(len(data) + one.shift, 0))
            content = one.data[: _size(one)].ljust(min(_size(one), len(one.data) * 16), b"\1")
            data += content + bytes(-len(content) % 32)
        return head + bytes(-len(head) % 32) + bytes(data)


def split(data: bytes) -> File:
    """A right file in pieces."""
    at = 4

    def take(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(f"<{form}", data, at)
        at += struct.calcsize(f"<{form}")
        return int(value)

    def raw(count: int) -> bytes:
        nonlocal at
        at += count
        return data[at - count : at]

    file = File(take("I"))
    tensors, fields = take("Q"), take("Q")
    for _ in range(fields):
        key, kind = raw(take("Q")), take("I")
        if kind == _STRING:
            file.fields.append(Field(key, kind, raw(take("Q"))))
        elif kind == _ARRAY:
            of, count = take("I"), take("Q")
            one = [raw(take("Q") if of == _STRING else struct.calcsize(_FORMS[of])) for _ in range(count)]
            file.fields.append(Field(key, kind, one, of))
        else:
            file.fields.append(Field(key, kind, raw(struct.calcsize(_FORMS[kind]))))
    described = []
    for _ in range(tensors):
        name = raw(take("Q"))
        shape = [take("Q") for _ in range(take("I"))]
        described.append((Tensor(name, shape, take("I"), b""), take("Q")))
    start = at + -at % 32
    for tensor, offset in described:
        file.tensors.append(replace(tensor, data=data[start + offset : start + offset + _size(tensor)]))
    return file


def mutate(rng: random.Random, data: bytes) -> bytes:
    """A right GGUF file with one to three things wrong, or at least otherwise, in it."""
    file = split(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _CHANGES[rng.randrange(len(_CHANGES))](rng, file)
    return file.join()


def differential(path: Path, decoder: Path | None = None) -> str | None:
    """How llama.cpp died on a file, in a process of its own; None where it lived, whatever it answered.

    Args:
        path: a decoder, or a projector for 224 px and 16 tokens.
        decoder: that a projector is opened beside.
    """
    main = DecoderFile((decoder or path,), 256, 64, 16, path)
    pieces = [trial.Piece("decoder", "llama.cpp", "gguf", True, main.to_json(), RunOptions(2))]
    if decoder:
        file = EncoderFile(path, EncoderSpec("pixels", "image_tokens", (224, 224, 3)), "", None, None, 16)
        pieces.append(trial.Piece("vision", "llama.cpp", "gguf", False, file.to_json(), RunOptions(2)))
    return trial.died(pieces, limit_s=60)


# ---------------------------------------------------------------- what may be changed


def _number(rng: random.Random, kind: int) -> bytes:
    """An extreme value of a type."""
    if kind in (6, 12):
        value: float = rng.choice(_REAL)
        return struct.pack(f"<{_FORMS[kind]}", value)
    size = struct.calcsize(_FORMS[kind])
    return (rng.choice((*_WHOLE, *_HUGE)) & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def _field(rng: random.Random, file: File) -> Field:
    """One that a library reads, most of the time."""
    read = [one for one in file.fields if not one.key.startswith(b"general.")]
    return rng.choice(read if read and rng.random() < 0.8 else file.fields)


def _change_value(rng: random.Random, file: File) -> None:
    one = _field(rng, file)
    if isinstance(one.value, list):
        _change_array(rng, file, one)
    elif one.kind == _STRING:
        one.value = rng.choice((*_TEXTS, one.value[1:], one.value + b"\xc3\xa9", one.value * 2))
    else:
        one.value = _number(rng, one.kind)


def _change_kind(rng: random.Random, file: File) -> None:
    """A value of another type; a number keeps what it says where the other type can hold it."""
    one = _field(rng, file)
    old, kind = one.kind, rng.choice((*_FORMS, _STRING, _ARRAY))
    number = struct.unpack(f"<{_FORMS[old]}", one.value)[0] if old in _FORMS and isinstance(one.value, bytes) else 0
    one.kind = kind
    if kind == _STRING:
        one.value = str(number).encode()
    elif kind == _ARRAY:
        one.of = rng.choice((*_FORMS, _STRING))
        one.value = [_element(rng, one.of) for _ in range(rng.choice((0, 1, 3, 7, 2112)))]
    else:
        try:
            one.value = struct.pack(f"<{_FORMS[kind]}", number if kind in (6, 12) else int(number))
        except (struct.error, OverflowError, ValueError):
            one.value = _number(rng, kind)


def _element(rng: random.Random, kind: int) -> bytes:
    return rng.choice(_TEXTS) if kind == _STRING else _number(rng, kind)


def _change_array(rng: random.Random, file: File, one: Field | None = None) -> None:
    arrays = [each for each in file.fields if each.kind == _ARRAY]
    if not (one or arrays):
        return
    one = one or rng.choice(arrays)
    assert isinstance(one.value, list)
    how = rng.randrange(6)
    if how == 0:
        del one.value[rng.randrange(len(one.value) + 1) :]
    elif how == 1:
        one.value += [_element(rng, one.of) for _ in range(rng.choice((1, 2, 100, 5000)))]
    elif how == 2 and one.value:
        one.value[rng.randrange(len(one.value))] = _element(rng, one.of)
    elif how == 3 and one.value:
        one.value[rng.randrange(len(one.value))] = rng.choice(one.value)
    elif how == 4:
        one.of = rng.choice((*_FORMS, _STRING))
        one.value = [_element(rng, one.of) for _ in one.value]
    else:
        rng.shuffle(one.value)


def _remove_field(rng: random.Random, file: File) -> None:
    file.fields.remove(_field(rng, file))


def _double_field(rng: random.Random, file: File) -> None:
    file.fields.append(replace(_field(rng, file)))


def _rename_field(rng: random.Random, file: File) -> None:
    _field(rng, file).key = rng.choice(file.fields).key if rng.random() < 0.3 else rng.choice(_TEXTS)


def _add_field(rng: random.Random, file: File) -> None:
    architecture = next((one.value for one in file.fields if one.key == b"general.architecture"), b"")
    prefix = architecture.decode() if isinstance(architecture, bytes) else ""
    key = rng.choice((*(f"{prefix}.{name}" for name in _KEYS), *_OTHER_KEYS)).encode()
    if all(one.key != key for one in file.fields):
        kind = rng.choice((4, 4, 4, 6, 7, 5, 2, _STRING, _ARRAY))
        of = rng.choice((4, 5, 6, 7, 0, _STRING))
        elements = [_element(rng, of) for _ in range(rng.choice((0, 1, 3, 4, 7)))]
        file.fields.append(Field(key, kind, elements if kind == _ARRAY else _element(rng, kind), of))


def _reshape(rng: random.Random, file: File) -> None:
    one = rng.choice(file.tensors)
    how = rng.randrange(5)
    if how == 0:
        one.shape[rng.randrange(len(one.shape))] = rng.choice((*_WHOLE, *_HUGE)) & ((1 << 64) - 1)
    elif how == 1:
        one.shape.reverse()
    elif how == 2:
        one.shape = [*one.shape, rng.choice((1, 1, 2, 0))]
    elif how == 3 and len(one.shape) > 1:
        one.shape.pop()
    else:
        side = rng.randrange(len(one.shape))
        one.shape[side] = max(one.shape[side] * 2 if rng.random() < 0.5 else one.shape[side] // 2, 1)


def _retype(rng: random.Random, file: File) -> None:
    rng.choice(file.tensors).kind = rng.choice((*TYPES, *TYPES, 4, 41, 1 << 31))


def _retype_small(rng: random.Random, file: File) -> None:
    """A vector, a bias or a kernel, which libraries take for granted to be floats."""
    small = [one for one in file.tensors if len(one.shape) != 2] or file.tensors
    rng.choice(small).kind = rng.choice((0, 1, 2, 8, 24, 25, 26, 27, 28, 30))


def _rename(rng: random.Random, file: File) -> None:
    one, other = rng.choice(file.tensors), rng.choice(file.tensors)
    how = rng.randrange(3)
    if how == 0:
        one.name, other.name = other.name, one.name
    elif how == 1:
        one.name = other.name
    else:
        one.name = rng.choice((b"", b"rope_freqs.weight", b"output.weight", b"v.class_embd", b"x" * 63, b"a\0b"))


def _remove(rng: random.Random, file: File) -> None:
    file.tensors.remove(rng.choice(file.tensors))


def _add(rng: random.Random, file: File) -> None:
    one = rng.choice(file.tensors)
    extra = (b"output.weight", b"rope_freqs.weight", b"v.class_embd", b"v.pre_ln.weight", b"mm.0.weight", b"blk.7.x")
    swapped = one.name.replace(b".weight", b".bias") if rng.random() < 0.5 else rng.choice(extra)
    file.tensors.append(replace(one, name=swapped, shape=list(one.shape)))


def _move(rng: random.Random, file: File) -> None:
    rng.choice(file.tensors).shift = rng.choice((1, 32, -32, 4096, -4096, 1 << 40))


def _set_version(rng: random.Random, file: File) -> None:
    file.version = rng.choice((0, 1, 2, 4, 3 << 24))


_Change = Callable[[random.Random, File], None]
_CHANGES: tuple[_Change, ...] = (
    *(_change_value,) * 5, *(_change_kind,) * 4, *(_change_array,) * 3, *(_add_field,) * 4, *(_reshape,) * 3,
    *(_retype,) * 3, *(_retype_small,) * 3, *(_remove_field,) * 2, _double_field, _rename_field, *(_rename,) * 2,
    *(_remove,) * 2, *(_add,) * 2, _move, _set_version,
)  # fmt: skip


def _text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _value(one: Field) -> bytes:
    if isinstance(one.value, bytes):
        return _text(one.value) if one.kind == _STRING else one.value
    elements = b"".join(map(_text, one.value)) if one.of == _STRING else b"".join(one.value)
    return struct.pack("<IQ", one.of, len(one.value)) + elements


def _size(one: Tensor) -> int:
    count = 1
    for side in one.shape:
        count *= side
    _, block, size = TYPES.get(one.kind, ("", 1, 4))
    return count // block * size
