"""What llama.cpp takes for granted of a GGUF file is checked first: most of these files end the process."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz.mutators_gguf import Field, File, Tensor, differential, mutate, split

from edgekit.errors import ArtifactError
from edgekit.families.gemma3 import gguf_form
from edgekit.formats.gguf.form import GgufForm, read_checked
from edgekit.formats.gguf.header import TYPES, read_header

TYPE_IDS = {name: number for number, (name, _, _) in TYPES.items()}
U8, U16, U32, I32, F32, BOOL, STRING, ARRAY, U64, F64 = 0, 2, 4, 5, 6, 7, 8, 9, 10, 12


def setting(file: File, key: str) -> Field:
    return next(one for one in file.fields if one.key == key.encode())


def tensor(file: File, name: str) -> Tensor:
    return next(one for one in file.tensors if one.name == name.encode())


Change = Callable[[File], None]


def value(key: str, kind: int, form: str, number: float) -> Change:
    """Set a key that is there, or add it."""

    def change(file: File) -> None:
        file.fields[:] = [one for one in file.fields if one.key != key.encode()]
        file.fields.append(Field(key.encode(), kind, struct.pack(f"<{form}", number)))

    return change


def texts(key: str, at: int, text: bytes) -> Change:
    def change(file: File) -> None:
        found = setting(file, key).value
        assert isinstance(found, list)
        found[at] = text

    return change


def cut(key: str, by: int = 1) -> Change:
    def change(file: File) -> None:
        found = setting(file, key).value
        assert isinstance(found, list)
        del found[-by:]

    return change


def all_of(*changes: Change) -> Change:
    def change(file: File) -> None:
        for one in changes:
            one(file)

    return change


def elements(key: str, kind: int, form: str) -> Change:
    """An array's elements as another type."""

    def change(file: File) -> None:
        one = setting(file, key)
        one.of, one.value = kind, [struct.pack(f"<{form}", 1) for _ in one.value]

    return change


def stored(name: str, kind: str) -> Change:
    def change(file: File) -> None:
        tensor(file, name).kind = TYPE_IDS[kind]

    return change


def shaped(name: str, *shape: int) -> Change:
    def change(file: File) -> None:
        tensor(file, name).shape = list(shape)

    return change


def without(name: str) -> Change:
    def change(file: File) -> None:
        file.tensors.remove(tensor(file, name))

    return change


def added(name: str) -> Change:
    def change(file: File) -> None:
        file.tensors.append(Tensor(name.encode(), [256], 0, bytes(1024)))

    return change


G = "gemma3."
DECODERS: dict[str, tuple[Change, str]] = {
    "base 0": (value(f"{G}rope.freq_base", F32, "f", 0.0), r"rope.freq_base is 0.0"),
    "base negative": (value(f"{G}rope.freq_base", F32, "f", -1.0), r"rope.freq_base is -1.0"),
    "base NaN": (value(f"{G}rope.freq_base", F32, "f", float("nan")), r"rope.freq_base is nan"),
    "local base infinite": (value(f"{G}rope.freq_base_swa", F32, "f", float("inf")), r"freq_base_swa is inf"),
    "base double": (value(f"{G}rope.freq_base", F64, "d", 1e6), r"stored as float64"),
    "stretch 0": (value(f"{G}rope.scaling.factor", F32, "f", 0.0), r"scaling.factor is 0.0"),
    "window": (value(f"{G}attention.sliding_window", U32, "I", (1 << 32) - 1), r"sliding_window is 4294967295"),
    "window's type": (value(f"{G}attention.sliding_window", F32, "f", 64), r"stored as float32"),
    "pattern": (value(f"{G}attention.sliding_window_pattern", U32, "I", 2), r"sliding_window_pattern is 2"),
    "heads 0": (value(f"{G}attention.head_count", U32, "I", 0), r"head_count is 0"),
    "shared heads 0": (value(f"{G}attention.head_count_kv", U32, "I", 0), r"head_count_kv is 0"),
    "shared heads": (value(f"{G}attention.head_count_kv", U32, "I", 3), r"8 heads of 64 that share 3 keys"),
    "odd width": (value(f"{G}attention.key_length", U32, "I", 63), r"value_length is 64"),
    "rotated": (value(f"{G}rope.dimension_count", U32, "I", 128), r"rope.dimension_count is 128"),
    "experts": (value(f"{G}expert_count", U32, "I", 256), r"unknown key gemma3.expert_count"),
    "pooling": (value(f"{G}pooling_type", U32, "I", 1), r"unknown key gemma3.pooling_type"),
    "context 0": (value(f"{G}context_length", U32, "I", 0), r"context_length is 0"),
    "hidden": (value(f"{G}embedding_length", U32, "I", 512), r"has the shape"),
    "MLP": (value(f"{G}feed_forward_length", U32, "I", 1024), r"ffn_\w+.weight has the shape"),
    "vocabulary": (value(f"{G}vocab_size", U32, "I", 7), r"vocab_size is 7"),
    "file type's type": (value("general.file_type", U8, "B", 2), r"general.file_type is 2, stored as uint8"),
    "alignment's type": (value("general.alignment", U64, "Q", 32), r"general.alignment is 32, a uint64"),
    "split's type": (value("split.count", U32, "I", 1), r"split.count is 1, stored as uint32"),
    "scores' number": (cut("tokenizer.ggml.scores"), r"scores is no array of 2112 finite numbers"),
    "scores' type": (elements("tokenizer.ggml.scores", U16, "H"), r"stored as array of uint16"),
    "types' number": (cut("tokenizer.ggml.token_type"), r"token_type is no array of 2112"),
    "types' type": (elements("tokenizer.ggml.token_type", U8, "B"), r"stored as array of uint8"),
    "tokens' number": (all_of(*(cut(f"tokenizer.ggml.{name}") for name in ("tokens", "scores", "token_type"))),
                       r"token_embd.weight has the shape \[2112, 256\]\nallowed: \[2111, 256\]"),
    "tokens' type": (elements("tokenizer.ggml.tokens", I32, "i"), r"tokens is .*, stored as array of int32"),
    "one token twice": (texts("tokenizer.ggml.tokens", 2000, b"<eos>"), r"the tokens 1 and 2000 are both '<eos>'"),
    "twice up to a NUL": (texts("tokenizer.ggml.tokens", 2000, b"<eos>\0x"), r"the tokens 1 and 2000 are both"),
    "twice as it is named": (all_of(texts("tokenizer.ggml.tokens", 2000, b""),
                                    texts("tokenizer.ggml.tokens", 2001, b"[EMPTY_2000]")),
                             r"both '\[EMPTY_2000\]'"),
    "long token": (texts("tokenizer.ggml.tokens", 2000, b"x" * 5000), r"token 2000 is too long"),
    "no end": (value("tokenizer.ggml.eos_token_id", U32, "I", 2112), r"the eos token is 2112"),
    "end's type": (value("tokenizer.ggml.eos_token_id", I32, "i", -1), r"stored as int32"),
    "flag's type": (value("tokenizer.ggml.add_bos_token", U8, "B", 1), r"stored as uint8"),
    "norm in 16 bits": (stored("blk.3.ffn_norm.weight", "F16"), r"ffn_norm.weight is stored as F16"),
    "norm in blocks": (stored("output_norm.weight", "Q8_0"), r"output_norm.weight is stored as Q8_0"),
    "matrix of integers": (stored("blk.1.ffn_up.weight", "I8"), r"ffn_up.weight is stored as I8"),
    "matrix of doubles": (stored("blk.1.attn_q.weight", "F64"), r"attn_q.weight is stored as F64"),
    "rank": (shaped("output_norm.weight", 256, 1), r"output_norm.weight has the shape \[1, 256\]"),
    "lying": (shaped("blk.0.ffn_down.weight", 256, 512), r"ffn_down.weight has the shape \[512, 256\]"),
    "missing": (without("blk.2.attn_k_norm.weight"), r"has no tensor 'blk.2.attn_k_norm.weight'"),
    "too much": (added("rope_freqs.weight"), r"unknown tensor 'rope_freqs.weight'"),
}  # fmt: skip


def no_byte(file: File) -> None:
    found = setting(file, "tokenizer.ggml.tokens").value
    assert isinstance(found, list)
    found[found.index(b"<0x41>")] = b"something"


DECODERS["no byte token"] = (no_byte, r"the vocabulary has no token <0x41>")

V = "clip.vision."
PROJECTORS: dict[str, tuple[Change, str]] = {
    "heads' type": (value(f"{V}attention.head_count", U8, "B", 4), r"head_count is 4, stored as uint8"),
    "layers' type": (value(f"{V}block_count", I32, "i", 4), r"block_count is 4, stored as int32"),
    "MLP's type": (value(f"{V}feed_forward_length", U64, "Q", 352), r"stored as uint64"),
    "MLP": (value(f"{V}feed_forward_length", U32, "I", 351), r"ffn_(up|down)"),
    "epsilon's type": (value(f"{V}attention.layer_norm_epsilon", F64, "d", 1e-6), r"stored as float64"),
    "encoder's flag": (value("clip.has_vision_encoder", U16, "H", 1), r"has_vision_encoder is 1, stored as uint16"),
    "no encoder": (value("clip.has_vision_encoder", BOOL, "?", False), r"has_vision_encoder is False"),
    "hears": (value("clip.has_audio_encoder", BOOL, "?", True), r"has_audio_encoder is True"),
    "flag": (value("clip.use_silu", U32, "I", 0), r"use_silu is 0, stored as uint32"),
    "other key": (value(f"{V}attention.head_count_kv", U32, "I", 4), r"unknown key clip.vision.attention.hea"),
    "mean": (cut(f"{V}image_mean", 2), r"image_mean is no array of 3 finite numbers"),
    "mean's type": (elements(f"{V}image_mean", U8, "B"), r"stored as array of uint8"),
    "deviation 0": (lambda file: setattr(setting(file, f"{V}image_std"), "value", [bytes(4)] * 3), r"image_std is \["),
    "name's type": (value("general.name", U32, "I", 1), r"general.name is 1, stored as uint32"),
    "bias in 16 bits": (stored("v.blk.1.ffn_up.bias", "F16"), r"ffn_up.bias is stored as F16"),
    "norm of integers": (stored("v.blk.0.ln1.weight", "I64"), r"ln1.weight is stored as I64"),
    "positions": (stored("v.position_embd.weight", "F16"), r"position_embd.weight is stored as F16"),
    "kernel": (stored("v.patch_embd.weight", "BF16"), r"patch_embd.weight is stored as BF16"),
    "rows": (shaped("v.blk.3.ffn_down.weight", 352, 320), r"ffn_down.weight has the shape \[320, 352\]"),
    "missing": (without("v.blk.1.attn_v.weight"), r"has no tensor 'v.blk.1.attn_v.weight'"),
    "too much": (added("v.class_embd"), r"unknown tensor 'v.class_embd'"),
}  # fmt: skip


def refused(form: GgufForm, source: Path, target: Path, change: Change, said: str) -> None:
    file = split(source.read_bytes())
    change(file)
    target.write_bytes(file.join())
    with pytest.raises(ArtifactError, match=said) as caught:
        read_checked(form, target)
    assert str(target) in caught.value.message


@pytest.mark.parametrize("case", DECODERS)
def test_decoders_that_llama_cpp_would_believe(decoder: Path, tmp_path: Path, case: str) -> None:
    refused(gguf_form.DECODER, decoder, tmp_path / "decoder.gguf", *DECODERS[case])


@pytest.mark.parametrize("case", PROJECTORS)
def test_projectors_that_llama_cpp_would_believe(projector: Path, tmp_path: Path, case: str) -> None:
    refused(gguf_form.VISION, projector, tmp_path / "projector.gguf", *PROJECTORS[case])


def test_pieces_put_together_again_are_the_file(decoder: Path, projector: Path) -> None:
    """Or the cases above would be refused for something else."""
    for path in (decoder, projector):
        assert split(path.read_bytes()).join() == path.read_bytes()


def test_every_exported_file_is_right(medgemma_artifact: Path) -> None:
    for path in medgemma_artifact.glob("*.gguf"):
        read_checked(gguf_form.VISION if path.name.startswith("mmproj") else gguf_form.DECODER, path)


def test_matrices_under_each_others_names_are_right(projector: Path, tmp_path: Path) -> None:
    """As llama.cpp's converter wrote Gemma 3's projectors at first, and as its reader still takes them."""
    file, path = split(projector.read_bytes()), tmp_path / "swapped.gguf"
    for one in file.tensors:
        if b".ffn_up." in one.name:
            one.name = one.name.replace(b".ffn_up.", b".ffn_down.")
        elif b".ffn_down." in one.name:
            one.name = one.name.replace(b".ffn_down.", b".ffn_up.")
    path.write_bytes(file.join())
    read_checked(gguf_form.VISION, path)


def accepted(form: GgufForm, source: Path, target: Path, seeds: range, most: int) -> int:
    """Put damaged files before llama.cpp, as long as they are accepted; how many those were. None may kill it."""
    data, found = source.read_bytes(), 0
    beside = source.parent / "medgemma-reference-Q4_0.gguf" if form is gguf_form.VISION else None
    for seed in seeds:
        changed = mutate(random.Random(seed), data)
        target.write_bytes(changed)
        try:
            read_checked(form, target)
        except ArtifactError:
            continue
        if changed != data:
            assert differential(target, beside) is None, f"seed {seed}"
            found += 1
            if found == most:
                break
    return found


def test_what_is_accepted_does_not_kill_the_library(decoder: Path, projector: Path, tmp_path: Path) -> None:
    for form, source in ((gguf_form.DECODER, decoder), (gguf_form.VISION, projector)):
        assert accepted(form, source, tmp_path / "damaged.gguf", range(200), 2) == 2


@pytest.mark.slow
def test_nothing_that_is_accepted_kills_the_library(decoder: Path, projector: Path, tmp_path: Path) -> None:
    for form, source in ((gguf_form.DECODER, decoder), (gguf_form.VISION, projector)):
        assert accepted(form, source, tmp_path / "damaged.gguf", range(5000), 200) > 100


def test_memory_is_a_few_times_the_header(tmp_path: Path) -> None:
    """However small the pieces are that it is made of."""
    texts = Field(b"a", ARRAY, [b"x"] * 50_000, STRING)
    many = [Field(str(i).encode(), U8, b"\1") for i in range(4000)]
    small = [Tensor(f"{i:x}".encode(), [1], 24, b"\1") for i in range(8000)]
    for file in (File(3, [texts]), File(3, many), File(3, [], small)):
        path = tmp_path / "many.gguf"
        path.write_bytes(file.join())
        size = sum(len(one.data) + 31 for one in file.tensors)
        header = path.stat().st_size - size
        tracemalloc.start()
        try:
            read_header(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 10 * max(header, 100_000), (peak, header)
