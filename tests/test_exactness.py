"""Exactness: each format's writer and runtime, with exact weights, compute what transformers computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from material import hollow_checkpoint
from wrong_builders import WRONG_BUILDERS, WrongBuilder

from edgekit.artifacts.manifest import FileEntry, Part
from edgekit.checkpoints.sliced import write_slice
from edgekit.errors import ArtifactError, GateError
from edgekit.families.full_precision import at_most, hub_config
from edgekit.families.source import Source, open_source
from edgekit.formats import FORMATS
from edgekit.formats.onnx.graph import Graph
from edgekit.inputs.samples import shipped_inputs
from edgekit.progress import Progress
from edgekit.prove import FullPrecisionRuns, WrittenPart, exactness
from edgekit.runtime.base import Tokens
from edgekit.runtime.onnx.session import OrtEncoder
from edgekit.runtime.owned_parts import OwnedDecoder

MEDGEMMA, MEDSIGLIP = ("decoder", "vision"), ("image_encoder", "text_encoder")
PARTS = [("gguf", "decoder"), ("gguf", "vision"), *(("onnx", role) for role in (*MEDGEMMA, *MEDSIGLIP))]
INPUTS = shipped_inputs()


@pytest.fixture
def source(request: pytest.FixtureRequest, role: str) -> Source:
    """The checkpoint that has the part."""
    name = "medgemma_source" if role in MEDGEMMA else "medsiglip_source"
    return open_source(request.getfixturevalue(name))


def measured(source: Source, role: str, file_format: str, folder: Path) -> Mapping[str, float]:
    return exactness.measured(source, role, file_format, INPUTS, folder, Progress())


def is_refused(source: Source, role: str, file_format: str, folder: Path) -> bool:
    """Whether it lies beyond the bounds, or the runtime gives nothing that could be compared."""
    bounds = FORMATS[file_format].exactness
    try:
        figures = measured(source, role, file_format, folder)
    except ArtifactError:
        return True
    return figures["error"] > bounds.error or figures.get("kl", 0.0) > bounds.kl


@pytest.mark.parametrize(("file_format", "role"), PARTS)
def test_right_parts_are_exact(source: Source, role: str, file_format: str, tmp_path: Path) -> None:
    """With room to spare. ONNX Runtime: KL 1e-12, error 7e-7; llama.cpp, whose GELU is a table in half precision: KL
    4e-8, error 3e-4."""
    figures, bounds = measured(source, role, file_format, tmp_path), FORMATS[file_format].exactness
    assert figures["error"] <= bounds.error / 3
    assert figures.get("kl", 0.0) <= bounds.kl / 10
    assert ("kl" in figures) == (role == "decoder")
    assert not list(tmp_path.iterdir())


def test_the_room_that_it_takes_is_known_before(medgemma_source: Path, tmp_path: Path) -> None:
    source, taken = open_source(medgemma_source), []

    class Weighed(Progress):
        def advance(self, units: int = 1) -> None:
            taken.append(sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()))

    exactness.measured(source, "vision", "gguf", INPUTS, tmp_path, Weighed())
    known = exactness.disk_bytes(source, "vision", "gguf")
    assert 0.95 * known < taken[0] < 1.2 * known  # headers and a vocabulary stand beside the weights


@pytest.mark.parametrize(
    "role",
    ["image_encoder", *(pytest.param(role, marks=pytest.mark.slow) for role in ("decoder", "vision", "text_encoder"))],
)
def test_wrong_builders_are_not_exact(source: Source, role: str, tmp_path: Path) -> None:
    mistakes = [wrong for wrong in WRONG_BUILDERS if role in wrong.roles and wrong.exact]
    published = [wrong.name for wrong in mistakes if not _is_refused_with(wrong, source, role, tmp_path)]
    assert not published


def _is_refused_with(wrong: WrongBuilder, source: Source, role: str, folder: Path) -> bool:
    with pytest.MonkeyPatch.context() as monkeypatch:
        wrong.patch(monkeypatch)
        return is_refused(source, role, "onnx", folder)


HEADERS: dict[str, Callable[[float], float]] = {
    "gemma3.rope.freq_base": lambda right: right / 2,
    "gemma3.rope.freq_base_swa": lambda right: right * 2,
    "gemma3.rope.scaling.factor": lambda right: right - 1,
    "gemma3.attention.sliding_window": lambda right: right + 1,
}


@pytest.mark.parametrize("role", ["decoder"])
@pytest.mark.parametrize("key", HEADERS)
def test_a_wrong_header_is_not_exact(
    source: Source, role: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = gguf.GGUFWriter.add_key_value

    def add_key_value(self: Any, name: str, value: Any, *rest: Any, **more: Any) -> None:
        right(self, name, HEADERS[key](value) if name == key else value, *rest, **more)

    monkeypatch.setattr(gguf.GGUFWriter, "add_key_value", add_key_value)
    assert is_refused(source, role, "gguf", tmp_path)


def _long_text(segments: Sequence[Any]) -> list[Any]:
    """What a text has beyond a library's longest call comes in reverse."""
    most = 512
    return [Tokens((*s.ids[:most], *s.ids[most:][::-1])) if isinstance(s, Tokens) else s for s in segments]


@pytest.mark.parametrize("role", ["decoder"])
@pytest.mark.parametrize("file_format", ["onnx", pytest.param("gguf", marks=pytest.mark.slow)])
def test_calls_of_another_length_are_not_left_out(
    source: Source, role: str, file_format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several tokens behind a prompt, and a text that takes several calls."""
    step, prefill = OwnedDecoder.step, OwnedDecoder.prefill
    with monkeypatch.context() as wrong:
        wrong.setattr(OwnedDecoder, "step", lambda decoder, ids: step(decoder, ids[::-1]))
        assert is_refused(source, role, file_format, tmp_path)
    monkeypatch.setattr(OwnedDecoder, "prefill", lambda decoder, given, want: prefill(decoder, _long_text(given), want))
    assert is_refused(source, role, file_format, tmp_path)


@pytest.mark.parametrize("role", ["text_encoder"])
@pytest.mark.parametrize("size", [4, 7])
def test_batches_of_another_size_are_not_left_out(
    source: Source, role: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = OrtEncoder.outputs

    def outputs(encoder: OrtEncoder, batch: Any) -> dict[str, Any]:
        return {name: values[::-1] if len(batch) == size else values for name, values in right(encoder, batch).items()}

    monkeypatch.setattr(OrtEncoder, "outputs", outputs)
    assert is_refused(source, role, "onnx", tmp_path)


@pytest.mark.parametrize("role", ["image_encoder"])
def test_a_refusal_names_the_part_and_is_found_once(source: Source, role: str, tmp_path: Path) -> None:
    """What was measured serves every level."""
    runs = FullPrecisionRuns(source, scratch=tmp_path)
    part = Part(
        id="0" * 64,
        role=role,
        format="onnx",
        level="int8",
        files=(FileEntry(path="onnx/vision_model_int8.onnx", sha256="0" * 64, bytes=1),),
        weights=1,
        bits_per_weight=8,
        tensor_types={},
        output="pooled",
        requires={},
        calibrated_on=None,
        tools={},
    )
    runs.exactness[role, "onnx"] = {"error": float("nan")}
    with pytest.raises(GateError, match=r"^image_encoder int8: exactness: relative error nan"):
        exactness.proven(WrittenPart(part, (), {}), runs, INPUTS)


# ---------------------------------------------------------------- a piece of a model


MOST = {"text_config.num_hidden_layers": 6, "text_config.intermediate_size": 96, "vision_config.num_hidden_layers": 2}


@pytest.mark.parametrize("role", ["decoder"])
def test_a_piece_holds_the_beginnings_of_the_models_tensors(source: Source, role: str, tmp_path: Path) -> None:
    config = at_most(source.checkpoint.config, MOST)
    parsed = source.family.parse(config)
    shapes = {source.stored[spec.name].name: spec.shape for spec in source.family.tensors(parsed)}
    write_slice(source.checkpoint, config, shapes, tmp_path)
    piece = open_source(tmp_path)
    piece.check_tensors()
    assert piece.config == parsed
    for name, tensor in piece.stored.items():
        whole = source.checkpoint.read(source.stored[name])
        kept = piece.checkpoint.read(tensor)
        assert kept.shape != whole.shape or not {"gate_proj", "down_proj"} & set(name.split("."))
        np.testing.assert_array_equal(kept, whole[tuple(map(slice, kept.shape))])


@pytest.mark.parametrize(("tokens", "window"), [(256, 256), (16, 64)])
@pytest.mark.parametrize("role", ["decoder"])
def test_a_piece_sees_no_farther_than_it_must(source: Source, role: str, tokens: int, window: int) -> None:
    """At a window of 1024, five turns of the ring would be some 6,000 tokens; no image may be longer than it."""
    stated: dict[str, Any] = {**source.checkpoint.config, "mm_tokens_per_image": tokens}
    sliced = source.family.full_precision.sliced
    for whole in ({"sliding_window": 1024}, {}):  # what is not stated is transformers' own
        text = {key: value for key, value in stated["text_config"].items() if key != "sliding_window"}
        assert sliced({**stated, "text_config": {**text, **whole}})["text_config"]["sliding_window"] == window
    assert sliced(stated) == stated


@pytest.mark.parametrize("role", ["decoder"])
@pytest.mark.parametrize("layers", [48, 62])
def test_a_model_of_any_depth_is_its_piece(source: Source, role: str, layers: int, tmp_path: Path) -> None:
    """Whichever kind its last layer is of, and however far it sees."""
    text = {**source.checkpoint.config["text_config"], "num_hidden_layers": layers, "sliding_window": 1024}
    text["layer_types"] = [f"{'full' if layer % 6 == 5 else 'sliding'}_attention" for layer in range(layers)]
    config = {**source.checkpoint.config, "text_config": text}
    sides = []
    for name, stated in (("whole", config), ("piece", source.family.full_precision.sliced(config))):
        (tmp_path / name).mkdir()
        specs = source.family.tensors(source.family.parse(stated))
        hollow_checkpoint(tmp_path / name, stated, {spec.name: spec.shape for spec in specs})
        one = open_source(tmp_path / name)
        plan = one.plan(role, FORMATS["onnx"].exactness.level)
        sides.append((plan, hub_config(one.checkpoint, one.family.full_precision)))
    whole, piece = sides
    assert len(whole[0].tensors) > len(piece[0].tensors)
    FORMATS["onnx"].check_piece(whole, piece)


@pytest.mark.parametrize(("role", "operator"), [("decoder", "Sqrt"), ("image_encoder", "Gelu")])
def test_a_builder_that_is_wrong_for_a_deeper_model_alone_is_refused(
    source: Source, role: str, operator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The piece is exact then."""
    most = {**MOST, "vision_config.num_hidden_layers": 3}
    smaller = replace(source.family.full_precision, sliced=lambda config: at_most(config, most))
    piece = replace(source, family=replace(source.family, full_precision=smaller))
    count, begin, op = len(source.family.roles[role].tensors(source.config)), Graph.__init__, Graph.op
    deep = set[Graph]()

    def started(graph: Graph, name: str, layout: Any, *rest: Any) -> None:
        begin(graph, name, layout, *rest)
        deep.update([graph] if len(layout.tensors) == count else [])

    def wrong(graph: Graph, kind: str, *inputs: str, **how: Any) -> Any:
        return inputs[0] if kind == operator and graph in deep else op(graph, kind, *inputs, **how)

    assert not is_refused(piece, role, "onnx", tmp_path)
    monkeypatch.setattr(Graph, "__init__", started)
    monkeypatch.setattr(Graph, "op", wrong)
    with pytest.raises(ArtifactError, match="another than in the piece"):
        measured(piece, role, "onnx", tmp_path)


@pytest.mark.parametrize(("file_format", "role"), [("onnx", "decoder"), ("gguf", "decoder"), ("onnx", "text_encoder")])
def test_a_piece_is_exact(source: Source, role: str, file_format: str, tmp_path: Path) -> None:
    smaller = replace(source.family.full_precision, sliced=lambda config: at_most(config, MOST))
    piece = replace(source, family=replace(source.family, full_precision=smaller))
    assert not is_refused(piece, role, file_format, tmp_path)
    assert not list(tmp_path.iterdir())
