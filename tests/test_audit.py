"""A file is compared with its checkpoint before anything opens it: right ones pass, and each mistake is named."""

from __future__ import annotations

import copy
import ctypes
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace as Named
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_files import rewrite
from proofs import Unproven
from tokenizers import normalizers

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.levels import LEVELS
from edgekit.errors import GateError
from edgekit.families.source import Source, open_source
from edgekit.formats.gguf.codecs import CODECS as GGUF_CODECS
from edgekit.formats.gguf.codecs import dequantize
from edgekit.formats.gguf.header import TYPES
from edgekit.formats.gguf.roundings import ROUNDINGS
from edgekit.formats.onnx.codecs import CODECS as ONNX_CODECS
from edgekit.formats.stored import StoredTensor
from edgekit.full_precision.original import Original, read_original
from edgekit.progress import Progress
from edgekit.prove.audit import Audit, audit, compared_tensor
from edgekit.prove.written import refusing, written_part

GGUF = [name for name, row in LEVELS.items() if row.format == "gguf"]


@dataclass(frozen=True)
class Workbench:
    """An artifact whose files are changed one at a time, and the checkpoint that it was made from."""

    source: Source
    original: Original
    folder: Path

    def audit(self, role: str, level: str, progress: Progress | None = None) -> Audit:
        part = next(p for p in manifests.read(self.folder).parts if (p.role, p.level) == (role, level))
        written = written_part(self.source, self.folder, part)
        return audit(self.source, written, self.original, progress or Progress())

    def path(self, role: str, level: str) -> Path:
        part = next(p for p in manifests.read(self.folder).parts if (p.role, p.level) == (role, level))
        return self.folder / part.files[0].path

    def refusal(self, role: str, level: str) -> str:
        """What the proof says of a file."""
        where = f"{role} {level}"
        with pytest.raises(GateError) as refused, refusing(where):
            self.audit(role, level).check(where)
        assert refused.value.message.startswith(f"{where}: audit: ")
        return str(refused.value)


@pytest.fixture(scope="module")
def bench(medgemma_source: Path, medgemma_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    folder = tmp_path_factory.mktemp("audited") / "artifact"
    shutil.copytree(medgemma_artifact, folder)
    source = open_source(medgemma_source)
    return Workbench(source, read_original(source), folder)


@pytest.fixture
def changed(bench: Workbench) -> Any:
    """Changes a file of the bench for one test."""
    kept: list[tuple[Path, Path]] = []

    def change(role: str, level: str, edit: Callable[[Path], None]) -> None:
        path = bench.path(role, level)
        kept.append((path, Path(shutil.copy(path, path.with_suffix(".kept")))))
        edit(path)

    yield change
    for path, before in kept:
        before.replace(path)


def fields(values: dict[str, Any]) -> Callable[[Path], None]:
    """Other values of keys."""

    def edit(path: Path) -> None:
        rewrite(path, path.with_suffix(".new"), fields=values).replace(path)

    return edit


def tensors(edits: dict[str, Callable[[Any], Any]]) -> Callable[[Path], None]:
    """Tensors that are others, stored as the type that they have: float32 rows -> float32 rows."""

    def edit(path: Path) -> None:
        reader = gguf.GGUFReader(path, "r+")
        held = {tensor.name.removesuffix(".weight"): tensor for tensor in reader.tensors}
        rows = {name: gguf.dequantize(held[name].data, held[name].tensor_type).copy() for name in held}
        for name, change in edits.items():
            data = held[name].data
            made = GGUF_CODECS[held[name].tensor_type.name].encode(np.asarray(change(rows[name]), np.float32))
            data[:] = made.view(data.dtype).reshape(data.shape)
        reader.data.flush()

    return edit


# ---------------------------------------------------------------- right files


@pytest.mark.parametrize("role", ["decoder", "vision"])
@pytest.mark.parametrize("level", LEVELS)
def test_a_right_file_of_every_level_passes(medgemma_levels: Unproven, role: str, level: str) -> None:
    runs = medgemma_levels.runs
    found = audit(runs.source, medgemma_levels.written(role, level), runs.original, Progress())
    assert [str(one) for one in found.differences] == []
    assert found.tensors == len(runs.source.family.roles[role].tensors(runs.source.config))
    if level in GGUF:
        assert found.constants > 80
        assert found.texts == (5000 if role == "decoder" else 0)


@pytest.mark.parametrize("role", ["image_encoder", "text_encoder"])
@pytest.mark.parametrize("level", ["int8", "q4"])
def test_a_right_encoder_passes_smoothed_or_not(medsiglip_levels: Unproven, role: str, level: str) -> None:
    runs = medsiglip_levels.runs
    found = audit(runs.source, medsiglip_levels.written(role, level), runs.original, Progress())
    assert [str(one) for one in found.differences] == []


def test_a_proof_says_what_was_compared(medgemma_levels: Unproven) -> None:
    found = medgemma_levels.proven("decoder", "Q4_0").audit
    assert found is not None
    assert found["tensors"] == 93
    assert found["texts"] == 5000
    assert 0.05 < found["worst"] < 0.15


def numbers() -> dict[str, Any]:
    """Matrices of the kinds that models have: normal, heavy tails, columns of all sizes, outliers, with a mean."""
    rng = np.random.default_rng(11)
    normal, columns = rng.normal(0, 0.02, (96, 512)), np.ones(512)
    columns[::97] = 40
    kinds = {
        "normal": normal,
        "laplace": rng.laplace(0, 0.02, (96, 512)),
        "student": rng.standard_t(3, (96, 512)) * 0.02,
        "columns": normal * np.exp(rng.normal(0, 1, 512)),
        "outliers": normal * columns,
        "shifted": normal + 0.01,
        "zero rows": np.where(np.arange(96)[:, None] % 7 == 0, 0, normal),
    }
    return {name: np.ascontiguousarray(array, np.float32) for name, array in kinds.items()}


class Plain:
    """A source of one tensor."""

    def __init__(self, array: Any) -> None:
        self.array, self.stored = array, {"w": Named(dtype="F32")}

    def rows(self, name: str, first: int, last: int) -> Any:
        return self.array[first:last]


def fault(array: Any, held: Any, kind: str) -> str:
    """What the audit says of a tensor that a file holds in place of another."""
    rounding = ROUNDINGS[kind] if kind in ROUNDINGS else ONNX_CODECS[kind].rounding
    stored = StoredTensor("w", "w", kind, array.shape, True, frozenset(), rounding, lambda a, b: held[a:b])
    source: Any = Plain(array)
    _, difference = compared_tensor(source, stored, partial(source.rows, "w"))
    return f"{difference}, allowed {difference.allowed}" if difference else ""


NUMBERS = {name: number for number, (name, _, _) in TYPES.items()}
KINDS = [kind for kind in ROUNDINGS if kind not in ("F32", "NVFP4")]
NEED_IMPORTANCE = {"IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M"}


def quantized(array: Any, kind: str, importance: Any = None) -> Any:
    """By llama.cpp's library, read by the gguf package."""
    ggml = ctypes.CDLL(str(Path(find_spec("llama_cpp").origin).parent / "lib" / "libggml-base.so"))  # type: ignore
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    out = np.empty((len(array), array.shape[1] // block * size), np.uint8)
    columns = None if importance is None else importance.ctypes.data
    ggml.ggml_quantize_chunk(NUMBERS[kind], array.ctypes.data, out.ctypes.data, 0, *array.shape, columns)
    held = dequantize(out.tobytes(), kind, array.size).reshape(array.shape)
    with suppress(NotImplementedError):  # the package cannot read all of them
        assert np.array_equal(held, gguf.dequantize(out, gguf.GGMLQuantizationType[kind]))
    return held


def mistakes(held: Any, fine: bool) -> dict[str, Any]:
    """A tensor as wrong files hold it; where a type rounds finely, mistakes are smaller."""
    row, exchanged_rows, columns = held.copy(), held.copy(), held.copy()
    row[5] = 0
    exchanged_rows[[5, 6]] = held[[6, 5]]
    columns[:, [3, 200]] = held[:, [200, 3]]
    found = {"zeros": 0 * held, "reversed": held[::-1], "negated": -held, "row 5 of zeros": row, "rows": exchanged_rows}
    if fine:
        found |= {"larger": 1.05 * held, "smaller": 0.95 * held, "shifted": held + 0.1 * held.std(), "columns": columns}
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="the library has another name elsewhere")
@pytest.mark.parametrize("kind", KINDS)
def test_what_every_type_rounds_passes_and_other_tensors_do_not(kind: str) -> None:
    rng = np.random.default_rng(2)
    for name, array in numbers().items():
        weights = np.float32(np.exp(rng.normal(0, 1, array.shape[1])))
        for importance in (weights,) if kind in NEED_IMPORTANCE else (None, weights):
            held = quantized(array, kind, importance)
            assert fault(array, held, kind) == "", name
            fine = ROUNDINGS[kind].error < 0.16 and name not in ("columns", "outliers")
            for mistake, wrong in mistakes(held, fine).items():
                assert fault(array, wrong, kind), (name, mistake)


@pytest.mark.skipif(sys.platform != "linux", reason="the library has another name elsewhere")
@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q4_K", "Q4_0", "IQ4_NL"])
def test_weights_times_1_01_are_seen(kind: str) -> None:
    """Though rounding moves each of them further, at 4 bits by eight times as much."""
    array = numbers()["normal"]
    held = quantized(array, kind)
    assert "scale" in fault(array, 1.01 * held, kind) or kind in ("F16", "BF16")
    assert fault(array, 1.01 * held, kind)


@pytest.mark.skipif(sys.platform != "linux", reason="the library has another name elsewhere")
@pytest.mark.parametrize("factor", [1.01, 0.99])
@pytest.mark.parametrize("kind", ["Q4_K", "IQ4_XS", "Q3_K", "Q2_K"])
def test_a_scale_of_1_percent_is_seen_at_few_bits_whatever_their_tails_and_importance(kind: str, factor: float) -> None:
    """Also where a converter scaled the weights before they were rounded; 16 bits in between are no mistake."""
    rng = np.random.default_rng(7)
    for name in ("student", "columns"):
        array = numbers()[name]
        for importance in (None, np.float32(np.exp(rng.normal(0, 1, array.shape[1])))):
            halves = np.float32(np.float16(array))
            assert fault(array, quantized(halves, kind, importance), kind) == "", name
            assert fault(array, quantized(np.float32(factor) * array, kind, importance), kind), name
            assert fault(array, np.float32(factor) * quantized(array, kind, importance), kind), name


@pytest.mark.skipif(sys.platform != "linux", reason="the library has another name elsewhere")
@pytest.mark.parametrize(("before", "kind"), [("Q5_0", "Q8_0"), ("Q5_0", "Q5_1"), ("Q4_0", "IQ4_NL"), ("Q8_0", "Q5_0")])
@pytest.mark.parametrize("name", ["normal", "laplace"])
def test_a_checkpoint_that_was_quantized_before_is_rounded_right(before: str, kind: str, name: str) -> None:
    """As those that were trained for a type are: what lies on one grid goes to another in a direction."""
    array = np.ascontiguousarray(quantized(numbers()[name], before), np.float32)
    held = quantized(array, kind)
    assert fault(array, held, kind) == ""
    for wrong in mistakes(held, fine=ROUNDINGS[kind].error < 0.1).values():
        assert fault(array, wrong, kind)
    assert kind != "Q8_0" or fault(array, 1.01 * held, kind)


@pytest.mark.parametrize("kind", ["int8", "int8_32", "int4_32", "int4_128", "float16"])
def test_what_types_of_onnx_round_passes_and_other_tensors_do_not(kind: str) -> None:
    for name, array in numbers().items():
        held = ONNX_CODECS[kind].roundtrip(array)
        assert fault(array, held, kind) == "", name
        for mistake, wrong in mistakes(held, name not in ("columns", "outliers")).items():
            assert fault(array, wrong, kind), (name, mistake)
    assert fault(numbers()["normal"], 1.01 * ONNX_CODECS[kind].roundtrip(numbers()["normal"]), kind)


# ---------------------------------------------------------------- wrong tensors


def exchanged(first: int, second: int, axis: int = 0) -> Callable[[Any], Any]:
    def change(rows: Any) -> Any:
        order = np.arange(rows.shape[axis])
        order[[first, second]] = second, first
        return np.take(rows, order, axis)

    return change


def with_row(row: int, value: float) -> Callable[[Any], Any]:
    def change(rows: Any) -> Any:
        rows[row] = value
        return rows

    return change


WRONG_TENSORS: dict[str, tuple[str, str, dict[str, Callable[[Any], Any]], str]] = {
    "a matrix of zeros": ("decoder", "Q4_0", {"blk.3.attn_q": lambda w: 0 * w}, r"layers\.3\.self_attn\.q_proj.*error"),
    "embeddings times 1.01": ("decoder", "Q4_0", {"token_embd": lambda w: 1.01 * w}, r"embed_tokens.*its scale"),
    "a matrix times 1.01": ("decoder", "Q4_0", {"blk.2.ffn_down": lambda w: 1.01 * w}, r"down_proj.*its scale"),
    "a shifted matrix": ("decoder", "Q8_0", {"blk.4.ffn_up": lambda w: w + 0.02 * w.std()}, r"up_proj.*(shift|error)"),
    "rows exchanged": ("decoder", "Q4_0", {"token_embd": exchanged(500, 600)}, r"embed_tokens.*row (500|600)"),
    "columns exchanged": ("decoder", "Q4_0", {"blk.1.attn_q": exchanged(3, 200, 1)}, r"q_proj.*(column|row|error)"),
    "a row of zeros": ("decoder", "Q4_0", {"token_embd": with_row(77, 0)}, r"embed_tokens.*row 77"),
    "a row that is larger": (
        "decoder",
        "Q4_0",
        {"blk.0.ffn_up": lambda w: w * _row(9, 1.2, w)},
        r"up_proj.*scale of row 9",
    ),
    "norms without their one": ("decoder", "BF16", {"output_norm": lambda w: w - 1}, r"model\.norm.*error"),
    "a number that is none": ("decoder", "Q8_0", {"blk.0.attn_norm": with_row(3, np.nan)}, r"input_layernorm.*nan"),
    "a transposed matrix": (
        "vision",
        "Q8_0",
        {"v.blk.1.attn_q": lambda w: w.T},
        r"layers\.1\.self_attn\.q_proj.*error",
    ),
    "a bias that is gone": ("vision", "Q8_0", {"v.blk.1.attn_q.bias": lambda b: 0 * b}, r"q_proj\.bias.*error"),
    "what fills up": ("vision", "Q8_0", {"v.blk.0.ffn_up": with_row(340, 0.5)}, r"ffn_up.*not zero"),
}


def _row(row: int, by: float, like: Any) -> Any:
    factors = np.ones((len(like), 1))
    factors[row] = by
    return factors


@pytest.mark.parametrize("mistake", WRONG_TENSORS)
def test_a_wrong_tensor_is_named(bench: Workbench, changed: Any, mistake: str) -> None:
    role, level, edits, said = WRONG_TENSORS[mistake]
    changed(role, level, tensors(edits))
    assert re.search(said, bench.refusal(role, level))


def test_exchanged_norms_are_named(bench: Workbench, changed: Any) -> None:
    """Whoever exchanges their names both when writing and when reading is told by llama.cpp's own table of names."""
    reader = gguf.GGUFReader(bench.path("decoder", "BF16"))
    held = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    one, other = "blk.2.attn_q_norm", "blk.2.attn_k_norm"
    changed(
        "decoder",
        "BF16",
        tensors({one: lambda w: held[f"{other}.weight"], other: lambda w: held[f"{one}.weight"]}),
    )
    said = bench.refusal("decoder", "BF16")
    assert "q_norm" in said
    assert "k_norm" in said


def test_names_that_are_exchanged_on_both_sides_are_named(bench: Workbench) -> None:
    """A family whose table of names is wrong wrote such files, and reads them so."""
    family = bench.source.family
    role = family.roles["decoder"]
    form = role.forms["gguf"]

    def wrong(config: Any) -> Any:
        def other(name: str) -> str:
            pair = ("q_norm", "k_norm") if "q_norm" in name else ("k_norm", "q_norm")
            return name.replace(*pair)

        forms = form.tensors(config)
        return {name: replace(one, name=forms[other(name)].name) for name, one in forms.items()}

    roles = {**family.roles, "decoder": replace(role, forms={**role.forms, "gguf": replace(form, tensors=wrong)})}
    mistaken = replace(bench, source=replace(bench.source, family=replace(family, roles=roles)))
    assert re.search(r"the name of \S+_norm\.weight is blk", mistaken.refusal("decoder", "BF16"))


def test_tensors_too_many_are_refused(bench: Workbench, changed: Any) -> None:
    def edit(path: Path) -> None:
        head = {"output.weight": np.zeros((2112, 256), np.float32)}
        rewrite(path, path.with_suffix(".new"), added=head).replace(path)

    changed("decoder", "Q8_0", edit)
    assert "too many: output.weight" in bench.refusal("decoder", "Q8_0")


@pytest.mark.parametrize("changed_by", [0, 1e-3])
def test_a_head_that_repeats_the_embedding_is_a_note(bench: Workbench, changed: Any, changed_by: float) -> None:
    """As converters write an untied model whose two tables are one; a head of its own is refused."""

    def edit(path: Path) -> None:
        table = next(one for one in gguf.GGUFReader(path).tensors if one.name == "token_embd.weight")
        head = gguf.dequantize(table.data, table.tensor_type).astype(np.float32)
        head[-1, -1] += changed_by
        plain = {table.name: gguf.GGMLQuantizationType.F32}
        rewrite(path, path.with_suffix(".new"), types=plain, added={"output.weight": head}).replace(path)

    changed("decoder", "BF16", edit)
    if changed_by:
        assert "too many: output.weight" in bench.refusal("decoder", "BF16")
    else:
        found = bench.audit("decoder", "BF16")
        assert not found.differences
        assert "output.weight" in [note.name for note in found.notes]


# ---------------------------------------------------------------- wrong constants

_SWAP = {"a": 1000, "b": 1001}


def _exchange(values: list[Any]) -> list[Any]:
    first, second = _SWAP.values()
    values[first], values[second] = values[second], values[first]
    return values


def _turn_is_text(types: list[int]) -> list[int]:
    return [1 if i == 4 else kind for i, kind in enumerate(types)]


def _word_is_unused(types: list[int]) -> list[int]:
    """llama.cpp shows nothing where the model answers with it."""
    return [5 if i == 500 else kind for i, kind in enumerate(types)]


DECODER_KEYS: list[tuple[str, Any]] = [
    ("gemma3.attention.layer_norm_rms_epsilon", 1e-5),
    ("gemma3.attention.layer_norm_rms_epsilon", 1e-3),
    ("gemma3.rope.freq_base", 5e5),
    ("gemma3.rope.freq_base", ...),
    ("gemma3.rope.freq_base_swa", 1e6),
    ("gemma3.rope.scaling.factor", 7.0),
    ("gemma3.rope.scaling.factor", ...),
    ("gemma3.rope.scaling.type", "none"),
    ("gemma3.attention.sliding_window", 65),
    ("gemma3.attention.sliding_window", ...),
    ("gemma3.context_length", 4096),
    ("gemma3.final_logit_softcapping", 50.0),
    ("tokenizer.ggml.eos_token_id", 7),
    ("tokenizer.ggml.eot_token_id", 7),
    ("tokenizer.ggml.bos_token_id", 1),
    ("tokenizer.ggml.unknown_token_id", 0),
    ("tokenizer.ggml.padding_token_id", 3),
    ("tokenizer.ggml.fim_pre_token_id", 9),
    ("tokenizer.ggml.add_bos_token", False),
    ("tokenizer.ggml.add_bos_token", ...),
    ("tokenizer.ggml.add_eos_token", True),
    ("tokenizer.ggml.add_space_prefix", True),
    ("tokenizer.ggml.add_space_prefix", ...),
    ("tokenizer.ggml.remove_extra_whitespaces", True),
    ("tokenizer.ggml.scores", _exchange),
    ("tokenizer.ggml.tokens", _exchange),
    ("tokenizer.ggml.token_type", _turn_is_text),
    ("tokenizer.ggml.token_type", _word_is_unused),
    ("tokenizer.chat_template", "{{ messages[0].content }}"),
    ("tokenizer.chat_template", ...),
]
VISION_KEYS: list[tuple[str, Any]] = [
    ("clip.use_gelu", False),
    ("clip.use_gelu", ...),
    ("clip.vision.attention.layer_norm_epsilon", 1e-5),
    ("clip.vision.image_mean", [0.48, 0.46, 0.41]),
    ("clip.vision.image_std", [0.25, 0.25, 0.25]),
    ("clip.vision.projector.scale_factor", 8),
]


@pytest.mark.parametrize(
    ("role", "key", "value"),
    [
        *(pytest.param("decoder", *pair, id=f"{pair[0]}-{i}") for i, pair in enumerate(DECODER_KEYS)),
        *(pytest.param("vision", *pair, id=f"{pair[0]}-{i}") for i, pair in enumerate(VISION_KEYS)),
    ],
)
def test_a_wrong_constant_is_named(bench: Workbench, changed: Any, role: str, key: str, value: Any) -> None:
    changed(role, "Q8_0", fields({key: value}))
    said = bench.refusal(role, "Q8_0")
    assert key in said
    assert "allowed: " in said


def test_what_no_text_is_cut_into_is_a_note_in_files_of_others(bench: Workbench, changed: Any) -> None:
    """Scores of rows of no token; and keys by which programs draw answers."""

    def others(scores: list[float]) -> list[float]:
        return [-1.0 if score == -10000.0 else score for score in scores]

    changed("decoder", "Q8_0", fields({"tokenizer.ggml.scores": others, "general.sampling.temp": 2.0}))
    found = bench.audit("decoder", "Q8_0")
    assert found.differences == ()
    assert any(one.name.startswith("tokenizer.ggml.scores: of token") for one in found.notes)
    assert ("general.sampling.temp", "programs sample so") in [(one.name, one.allowed) for one in found.notes]


def test_all_differences_are_said(bench: Workbench, changed: Any) -> None:
    changed("decoder", "Q8_0", fields({"gemma3.rope.freq_base": 5e5, "tokenizer.ggml.add_bos_token": False}))
    said = bench.refusal("decoder", "Q8_0")
    assert "gemma3.rope.freq_base is 500000.0" in said
    assert "tokenizer.ggml.add_bos_token is False; allowed: True" in said


def test_texts_are_steps_of_their_own(bench: Workbench, changed: Any) -> None:
    """They take longest: a bar of tensors that stands at its end says nothing."""
    phases: list[list[int]] = []

    class Counted(Progress):
        def start(self, label: str, total: int) -> None:
            phases.append([total, 0])

        def advance(self, units: int = 1) -> None:
            phases[-1][1] += units

    changed("decoder", "Q8_0", fields({"tokenizer.ggml.pre": "gemma"}))  # a vocabulary that nobody has compared yet
    found = bench.audit("decoder", "Q8_0", Counted())
    assert phases == [[found.tensors] * 2, [5000, 5000]]


def test_a_tokenizer_that_cuts_texts_otherwise_is_seen_by_its_ids(bench: Workbench) -> None:
    """Nothing in the header says that the checkpoint's tokenizer lowers letters."""
    tokenizer = copy.deepcopy(bench.original.tokenizer)
    inside = tokenizer.backend_tokenizer
    inside.normalizer = normalizers.Sequence([normalizers.Lowercase(), inside.normalizer])
    other = replace(bench, original=replace(bench.original, tokenizer=tokenizer))
    assert "texts with other ids" in other.refusal("decoder", "Q8_0")


def test_another_template_is_no_reason_to_compare_no_texts(bench: Workbench, changed: Any) -> None:
    assert bench.audit("decoder", "Q8_0").texts == 5000
    changed("decoder", "Q8_0", fields({"tokenizer.chat_template": "{{ messages[0].content }}"}))
    assert bench.audit("decoder", "Q8_0").texts == 5000


def test_a_template_that_only_the_processor_has_is_the_models(bench: Workbench) -> None:
    tokenizer, right = copy.deepcopy(bench.original.tokenizer), bench.original
    processor = Named(chat_template=tokenizer.chat_template, image_processor=right.image_processor)
    tokenizer.chat_template = None
    same: Any = replace(right, tokenizer=tokenizer, processor=processor)
    assert replace(bench, original=same).audit("decoder", "Q8_0").differences == ()
    processor.chat_template = None
    assert "tokenizer.chat_template" in replace(bench, original=same).refusal("decoder", "Q8_0")


def test_an_original_of_another_configuration_is_seen(bench: Workbench) -> None:
    """What no key says, and llama.cpp takes for granted."""
    for key, value in (
        ("hidden_activation", "gelu"),
        ("layer_types", ["full_attention"] * 7),
        ("attention_bias", True),
    ):
        config = copy.deepcopy(bench.original.config)
        setattr(config.get_text_config(), key, value)
        other = replace(bench, original=replace(bench.original, config=config))
        assert ("layers that see" if key == "layer_types" else key) in other.refusal("decoder", "Q8_0")
