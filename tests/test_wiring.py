"""What wiring must see beyond directions: lengths, colours, every documented output, and both parts together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from material import Copy, edit_json
from onnx import helper
from PIL import Image
from proofs import Instead, Trial, Unproven, loaded_as, unproven

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.gates import Gates
from edgekit.artifacts.levels import LEVELS
from edgekit.errors import GateError
from edgekit.families.source import open_source
from edgekit.inputs import pictures
from edgekit.inputs.samples import Inputs, given_inputs, shipped_inputs, shown
from edgekit.metrics import cosine
from edgekit.prove import CONTEXT, FullPrecisionRuns, prove_end_to_end
from edgekit.prove import publish as artifact
from edgekit.prove.encoder import EncoderProof, encoder_proof
from edgekit.runtime import open_model
from edgekit.runtime.base import Float
from edgekit.runtime.opening import prepare

Encode = Callable[[Any], Float]


@pytest.fixture(scope="module")
def medsiglip(medsiglip_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Unproven:
    """Of the MedSigLIP-like model, one level in floats and one that rounds activations."""
    return unproven(medsiglip_source, tmp_path_factory.mktemp("wiring") / "medsiglip", levels=["fp16", "q4"])


@pytest.fixture(scope="module")
def medgemma(medgemma_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Unproven:
    """Of the MedGemma-like model, a decoder behind an eye in its own format and behind one in another."""
    folder = tmp_path_factory.mktemp("wiring") / "medgemma"
    return unproven(medgemma_source, folder, levels=["Q4_0"], parts=({}, {"vision": "q4"}))


def proof_of(model: Unproven, role: str, level: str, inputs: Inputs | None = None) -> EncoderProof:
    return encoder_proof(model.written(role, level), model.runs, inputs or shipped_inputs(), model.manifest.gates)


def opening_of(model: Unproven, role: str, level: str) -> Any:
    return model.trial(role, level).opening


def behaving(model: Unproven, opening: Any, change: Callable[[Encode, Any], Float]) -> Any:
    """What opens encoders that encode otherwise."""

    def wrap(loaded: Any) -> None:
        right = loaded.encode
        loaded.encode = lambda batch: change(right, batch)

    part = model.manifest.parts[0]  # whichever: only what opens it is asked
    with loaded_as(Trial((), model.runs, opening, part, model.plan(part), ""), wrap) as trial:
        return trial.opening


ENCODERS = [
    ("medgemma", "vision", "Q8_0"),
    ("medsiglip", "image_encoder", "fp16"),
    ("medsiglip", "image_encoder", "q4"),
]


# ---------------------------------------------------------------- pictures


def test_pictures_show_what_grey_squares_cannot() -> None:
    first, second, third, *_ = pictures.pictures()
    assert [picture.ndim for picture in (first, second, third)] == [3, 2, 3]
    assert all(picture.shape[0] != picture.shape[1] for picture in pictures.pictures())
    for picture in (first, third):
        assert np.abs(picture[..., 0].astype(float) - picture[..., 2]).mean() > 20
    one, two, three = pictures.channel_test()
    assert np.array_equal(one, two[..., [1, 2, 0]])
    assert np.array_equal(one, three[..., [2, 0, 1]])
    assert len(shown(shipped_inputs())) == 8


@pytest.mark.parametrize(("model", "role", "level"), ENCODERS)
@pytest.mark.parametrize("order", [[2, 1, 0], [0, 0, 0]], ids=["BGR", "red-only"])
def test_pixels_of_other_colours_are_refused(
    request: pytest.FixtureRequest, tmp_path: Path, model: str, role: str, level: str, order: list[int]
) -> None:
    """Also where a user's own pictures are all grey."""
    made = request.getfixturevalue(model)
    for i in range(3):
        Image.fromarray(pictures.pictures()[1][i:]).save(tmp_path / f"{i}.png")
    opening = opening_of(made, role, level)
    wrong: Any = Instead(opening, items=lambda *given: opening.items(*given)[..., order])
    for inputs in (shipped_inputs(), given_inputs(tmp_path, None)):
        with pytest.raises(GateError, match=f"{role} {level}: preprocessing: pixels differ"):
            proof_of(made, role, level, inputs).ask(wrong)


@pytest.mark.parametrize(("model", "role", "level"), ENCODERS)
@pytest.mark.parametrize(
    "change",
    [
        lambda encode, batch: encode(batch[..., ::-1].copy()),
        lambda encode, batch: encode(batch[..., [0, 0, 0]].copy()),
        lambda encode, batch: encode(batch.swapaxes(1, 2).copy()),
        lambda encode, batch: 16 * encode(batch),
        lambda encode, batch: 1.1 * encode(batch),
        lambda encode, batch: -encode(batch),
        lambda encode, batch: encode(batch) + 0.2 * np.abs(encode(batch)).mean(),
    ],
    ids=["BGR", "red-only", "transposed", "times 16", "times 1.1", "negated", "shifted"],
)
def test_vectors_that_a_cosine_or_a_grey_picture_lets_through_are_refused(
    request: pytest.FixtureRequest, model: str, role: str, level: str, change: Any
) -> None:
    made = request.getfixturevalue(model)
    proof, opening = proof_of(made, role, level), opening_of(made, role, level)
    with pytest.raises(GateError, match=f"{role} {level}: wiring: cosine .* relative error"):
        proof.judge(proof.ask(behaving(made, opening, change)))


def test_what_is_right_passes_with_room(medgemma: Unproven, medsiglip: Unproven) -> None:
    for model, role, level in [(medgemma, "vision", "Q8_0"), (medgemma, "vision", "q4")] + [
        (medsiglip, role, level) for role in ("image_encoder", "text_encoder") for level in ("fp16", "q4")
    ]:
        proof = proof_of(model, role, level)
        found = proof.judge(proof.ask(opening_of(model, role, level))).wiring
        limits = model.manifest.gates.limits(level, LEVELS[level].limits)
        assert 1.2 * found["error"] < limits.wiring_error
        assert 1.2 * found["worst_error"] < limits.wiring_worst_error


# ---------------------------------------------------------------- every documented output


def negated(graph: onnx.GraphProto, name: str) -> None:
    graph.initializer.append(onnx.numpy_helper.from_array(np.float32(-1), "minus_one"))
    _behind(graph, name, lambda inner: helper.make_node("Mul", [inner, "minus_one"], [name]))


def not_normalized(graph: onnx.GraphProto, name: str) -> None:
    _behind(graph, name, lambda inner: helper.make_node("Identity", ["pooler_output"], [name]))


def exchanged(graph: onnx.GraphProto, name: str) -> None:
    """The order of its vectors' elements."""
    width = next(value for value in graph.output if value.name == name).type.tensor_type.shape.dim[-1].dim_value
    graph.initializer.append(onnx.numpy_helper.from_array(np.arange(width)[::-1].copy(), "order"))
    _behind(graph, name, lambda inner: helper.make_node("Gather", [inner, "order"], [name], axis=-1))


def missing(graph: onnx.GraphProto, name: str) -> None:
    kept = [value for value in graph.output if value.name != name]
    del graph.output[:]
    graph.output.extend(kept)


def _behind(graph: onnx.GraphProto, name: str, node: Callable[[str], onnx.NodeProto]) -> None:
    """One more node between what computes an output and the output."""
    for known in graph.node:
        known.output[:] = [f"{name}_inner" if output == name else output for output in known.output]
        known.input[:] = [f"{name}_inner" if given == name else given for given in known.input]
    graph.node.append(node(f"{name}_inner"))


@pytest.fixture
def edited(medsiglip: Unproven) -> Iterator[Callable[[str, str, Callable[[onnx.GraphProto], None]], Any]]:
    """A graph of the model edited until the end, after its hash was compared."""
    before: dict[Path, bytes] = {}

    def edit(role: str, level: str, change: Callable[[onnx.GraphProto], None]) -> Any:
        opening = opening_of(medsiglip, role, level)
        path = medsiglip.written(role, level).files[0]
        before[path] = path.read_bytes()
        model = onnx.load_from_string(before[path])
        change(model.graph)
        path.write_bytes(model.SerializeToString())
        return opening

    yield edit
    for path, content in before.items():
        path.write_bytes(content)


@pytest.mark.parametrize("level", ["fp16", "q4"])
@pytest.mark.parametrize(
    ("role", "name", "change"),
    [
        ("image_encoder", "image_embeds", negated),
        ("image_encoder", "image_embeds", not_normalized),
        ("image_encoder", "image_embeds", missing),
        ("image_encoder", "last_hidden_state", negated),
        ("text_encoder", "text_embeds", exchanged),
        ("text_encoder", "last_hidden_state", exchanged),
    ],
)
def test_a_wrong_documented_output_is_refused(
    medsiglip: Unproven, edited: Any, level: str, role: str, name: str, change: Callable[[onnx.GraphProto, str], None]
) -> None:
    """edgekit itself never asks for these; programs of others do."""
    proof = proof_of(medsiglip, role, level)
    opening = edited(role, level, lambda graph: change(graph, name))
    said = "the outputs" if change is missing else f"output {name}: relative error"
    with pytest.raises(GateError, match=f"{role} {level}: wiring: {said}"):
        proof.judge(proof.ask(opening))


def test_documented_outputs_are_transformers_own(medsiglip: Unproven) -> None:
    proof = proof_of(medsiglip, "image_encoder", "fp16")
    given = proof.ask(opening_of(medsiglip, "image_encoder", "fp16"))
    assert given.keys() == {"last_hidden_state", "pooler_output", "image_embeds"}
    lengths = np.linalg.norm(given["image_embeds"], axis=-1)
    assert np.allclose(lengths, 1, atol=1e-5)
    assert cosine(given["image_embeds"], given["pooler_output"][: len(lengths)]).min() > 0.99999


# ---------------------------------------------------------------- end to end


@pytest.mark.parametrize("variant", ["Q4_0", "Q4_0+vision-q4"])
def test_a_question_about_an_image_is_proven_end_to_end(medgemma: Unproven, variant: str) -> None:
    opening = prepare(medgemma.folder, variant, context=CONTEXT, runtime="default")
    gates = medgemma.manifest.gates
    seen: dict[str, Float] = {}
    found = prove_end_to_end(opening, medgemma.runs, medgemma.inputs, gates, seen)
    eye = opening.parts["vision"]
    limits = [gates.limits(level, LEVELS[level].limits) for level in ("Q4_0", eye.level)]
    assert 0 < 2 * found["mean"] < limits[0].wiring_kl + limits[1].image_kl
    assert list(seen) == [eye.id]
    assert seen[eye.id].shape[0] == 1
    for wrong in (4 * seen[eye.id], seen[eye.id][:, ::-1].copy(), seen[eye.id][..., ::-1].copy()):
        with pytest.raises(GateError, match=rf"decoder Q4_0: wiring: mean KL .* behind vision {eye.level}"):
            prove_end_to_end(opening, medgemma.runs, medgemma.inputs, gates, {eye.id: wrong})


def test_a_pair_is_proven_recorded_and_missed(medgemma: Unproven, medgemma_source: Path, copied: Copy) -> None:
    folder = copied(medgemma.folder)
    proven = artifact.prove(folder, medgemma_source).manifest
    eyes = {part.id: part.level for part in proven.parts if part.role == "vision"}
    (decoder,) = (part for part in proven.parts if part.role == "decoder")
    assert decoder.parity is not None
    assert decoder.parity.end_to_end.keys() == eyes.keys()
    index = proven.parts.index(decoder)
    with open_model(folder, "Q4_0") as model:
        assert not any("end to end" in warning for warning in model.warnings)
    kept = {eye: figures for eye, figures in decoder.parity.end_to_end.items() if eyes[eye] == "q4"}
    edit_json(folder / manifests.FILE_NAME, {f"parts.{index}.parity.end_to_end": {k: dict(v) for k, v in kept.items()}})
    with open_model(folder, "Q4_0") as model:
        assert any(
            f"decoder Q4_0 behind vision Q8_0: not proven end to end (edgekit prove {folder})" == warning
            for warning in model.warnings
        )
    (eye,) = kept
    edit_json(folder / manifests.FILE_NAME, {f"parts.{index}.parity.end_to_end": {eye: {"mean": 2.0, "worst": 3.0}}})
    with open_model(folder, "Q4_0+vision-q4") as model:
        assert any("its recorded proof fails its own gate image_kl with 2: " in warning for warning in model.warnings)


def test_gates_and_runs_of_the_module_are_the_models_own(medgemma: Unproven, medgemma_source: Path) -> None:
    assert isinstance(medgemma.runs, FullPrecisionRuns)
    assert medgemma.runs.source.checkpoint.sha256 == open_source(medgemma_source).checkpoint.sha256
    assert medgemma.manifest.gates != Gates()


@pytest.mark.parametrize("size", [1, 2, 5])  # of 8 pictures
@pytest.mark.parametrize("level", ["fp16", "q4"])
def test_an_encoder_wrong_for_one_size_of_batches_is_refused(medsiglip: Unproven, level: str, size: int) -> None:
    def wrap(loaded: Any) -> None:
        right = loaded.encode
        loaded.encode = lambda batch: right(batch) * (-1 if len(batch) == size else 1)

    proof = proof_of(medsiglip, "image_encoder", level)
    with loaded_as(medsiglip.trial("image_encoder", level), wrap) as trial, pytest.raises(GateError, match="wiring"):
        proof.judge(proof.ask(trial.opening))
