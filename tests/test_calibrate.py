"""What calibration measures, what smoothing changes and what it must not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from material import anonymous_bytes, hollow_checkpoint, in_a_new_process, photo
from PIL import Image

from edgekit.artifacts.levels import level
from edgekit.checkpoints.checkpoint import open_checkpoint
from edgekit.errors import ArtifactError, CheckpointError, GateError, UsageError
from edgekit.export import calibrate, material, smooth, stage
from edgekit.export.material import Material, material_of
from edgekit.families import family_of
from edgekit.families.source import Source, open_source
from edgekit.formats import calibration
from edgekit.formats.calibration import Calibration, Range
from edgekit.formats.plan import PartPlan, PlannedTensor
from edgekit.formats.rounding import EXACT
from edgekit.formats.stored import StoredTensor
from edgekit.full_precision import model as torch_reference
from edgekit.full_precision import processors as hf_inputs
from edgekit.full_precision import streamed
from edgekit.inputs import samples as proof_inputs
from edgekit.progress import Progress
from edgekit.prove import publish as artifact

OUTLIER = 64.0  # a power of two, so that the model stays the same to the last bit


def planned(folder: Path, role: str) -> tuple[Source, PartPlan]:
    source = open_source(folder)
    return source, source.plan(role, level("int8"))


@pytest.fixture(scope="module")
def inputs() -> proof_inputs.Inputs:
    return proof_inputs.shipped_inputs()


@pytest.fixture
def outliers(medsiglip_source: Path, tmp_path: Path) -> Path:
    """The reference model with two large channels behind every layer norm, and the columns that read them small."""
    folder = Path(shutil.copytree(medsiglip_source, tmp_path / "outliers"))
    checkpoint = open_checkpoint(folder)
    rng = np.random.default_rng(3)
    for name in [name for name in checkpoint.tensors if name.endswith(("norm1.weight", "norm2.weight"))]:
        layer, _, norm = name.removesuffix(".weight").rpartition(".")
        chosen = rng.choice(checkpoint.tensors[name].size, 2, replace=False)
        readers = [f"self_attn.{m}_proj" for m in "qkv"] if norm == "layer_norm1" else ["mlp.fc1"]
        for vector in (name, name.replace("weight", "bias")):
            change(folder, vector, lambda rows, at=chosen: multiplied(rows, at, OUTLIER))
        for matrix in readers:
            change(folder, f"{layer}.{matrix}.weight", lambda rows, at=chosen: multiplied(rows, at, 1 / OUTLIER))
    return folder


def multiplied(weights: Any, channels: Any, factor: float) -> Any:
    weights[..., channels] *= factor
    return weights


def change(folder: Path, name: str, edit: Callable[[Any], Any]) -> None:
    """Change a BF16 tensor of a checkpoint where it lies."""
    checkpoint = open_checkpoint(folder)
    tensor = checkpoint.tensors[name]
    assert tensor.dtype == "BF16"
    bits = np.asarray(edit(checkpoint.read(tensor)), np.float32).view(np.uint32) >> 16
    with tensor.path.open("r+b") as file:
        file.seek(tensor.offset)
        file.write(bits.astype("<u2").tobytes())


# ---------------------------------------------------------------- measuring


@pytest.mark.parametrize(
    ("model", "role"),
    [("medsiglip", "image_encoder"), ("medsiglip", "text_encoder"), ("medgemma", "vision"), ("medgemma", "decoder")],
)
def test_ranges_are_those_of_the_whole_model(
    request: pytest.FixtureRequest,
    inputs: proof_inputs.Inputs,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    role: str,
) -> None:
    """transformers' model with all its weights at once, and hooks of this test's own on it."""
    monkeypatch.setattr(material, "MOST_IMAGES", 8)
    source, part = planned(request.getfixturevalue(f"{model}_source"), role)
    passes = material_of(source, part.role, inputs).passes[:3]
    seen = calibrate.measure(source, part, passes)
    assert set(seen) == {p.name for p in part.tensors if p.codec.name == "int8"}
    whole = torch_reference.load(source)
    expected: dict[str, list[Any]] = {}
    for path, module in whole.named_modules():
        name = source.family.canonical(f"{path}.weight")
        if name in seen:
            module.register_forward_pre_hook(
                lambda _, arguments, name=name: expected.setdefault(name, []).append(
                    arguments[0].numpy().reshape(-1, arguments[0].shape[-1]).copy()
                )
            )
    for run in passes:
        run(whole)
    for name, channels in seen.items():
        values = np.concatenate(expected[name])
        assert np.allclose(channels.low, values.min(axis=0), atol=1e-4), name
        assert np.allclose(channels.high, values.max(axis=0), atol=1e-4), name
        assert channels.range.low == pytest.approx(values.min(), abs=1e-4)
        assert channels.range.high > channels.range.low


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_large_model_is_never_in_memory(tmp_path: Path) -> None:
    """1.2 GB of float32 in a file that is all hole."""
    tower = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 8}
    config = {
        "architectures": ["SiglipModel"],
        "vision_config": {**tower, "num_hidden_layers": 24, "image_size": 64, "patch_size": 16},
        "text_config": {**tower, "num_hidden_layers": 1, "vocab_size": 100},
    }
    family = family_of(config)
    specs = family.tensors(family.parse(config))
    assert 4 * hollow_checkpoint(tmp_path, config, {spec.name: spec.shape for spec in specs}) > 1_200_000_000
    assert 0 < in_a_new_process(memory_of_calibration, tmp_path) < 300_000_000


def memory_of_calibration(folder: Path) -> int:
    """What measuring two images takes at most."""
    source, part = planned(folder, "image_encoder")
    pixels = np.zeros((2, 3, 64, 64), np.float32)
    peak, before = 0, 0

    def run(model: Any) -> None:
        nonlocal before
        before = before or anonymous_bytes()
        model.vision_model.encoder.layers[-1].register_forward_hook(watch)
        model.vision_model.encoder.layers[-1].mlp.fc2.register_forward_pre_hook(watch)
        hf_inputs.encode(source.family, model, part.role, pixels)

    def watch(*_: Any) -> None:
        nonlocal peak
        peak = max(peak, anonymous_bytes())

    seen = calibrate.measure(source, part, [run])
    found = calibrate.calibration_of(source, part, Material("nothing", (run,)))
    watch()
    assert len(seen) == 24 * 6 - 3 + 2
    assert not found.smoothing  # all is zero
    return peak - before


def test_what_is_not_finite_is_named(medsiglip_source: Path, tmp_path: Path, inputs: proof_inputs.Inputs) -> None:
    folder = Path(shutil.copytree(medsiglip_source, tmp_path / "source"))
    name = "vision_model.encoder.layers.2.mlp.fc1.weight"
    change(folder, name, lambda rows: np.full_like(rows, 3e38))
    source, part = planned(folder, "image_encoder")
    with pytest.raises(CheckpointError, match=r"layers\.2\.mlp\.fc2\.weight: what enters this matrix is not finite"):
        calibrate.measure(source, part, material_of(source, part.role, inputs).passes)


# ---------------------------------------------------------------- smoothing


def test_a_large_channel_is_divided_and_the_others_are_not() -> None:
    inputs = np.array([1, 1, 64, 1, 0, 1, 1 / 16], np.float32)
    weights = np.array([1, 1, 1, 1 / 16, 1, 1, 1], np.float32)
    assert smooth.smoothing_exponents(inputs, weights).tolist() == [0, 0, 3, 2, 0, 0, -2]
    assert not smooth.smoothing_exponents(8 * inputs[:2], weights[:2]).any()
    assert not smooth.smoothing_exponents(np.zeros(2, np.float32), weights[:2]).any()


def any_smoothing(part: PartPlan) -> PartPlan:
    """The plan with some exponents for every activation that can be divided."""
    rng = np.random.default_rng(5)
    widths = {p.spec.follows[0]: p.spec.shape[-1] for p in part.tensors if p.spec.follows}
    exponents = {name: tuple(map(int, rng.integers(-5, 6, width))) for name, width in widths.items()}
    ranges = {p.name: Range(-1, 1) for p in part.tensors if p.codec.name == "int8"}
    return part.calibrated(Calibration(inputs="none", ranges=ranges, smoothing=exponents))


def smoothed(source: Source, part: PartPlan) -> dict[str, StoredTensor]:
    """The part's tensors as a file that rounds nothing would hold them."""

    def stored(planned: PlannedTensor) -> StoredTensor:
        whole = part.prepared(planned.name, source.checkpoint.read(planned.tensor))

        def read(first: int, last: int) -> Any:
            return whole[first:last]

        return StoredTensor(planned.name, planned.name, "float32", whole.shape, True, frozenset(), EXACT, read)

    return {planned.name: stored(planned) for planned in part.tensors if planned.name in part.factors}


@pytest.mark.parametrize(
    ("model", "role", "groups"),
    [("medsiglip", "image_encoder", 13), ("medsiglip", "text_encoder", 12), ("medgemma", "vision", 12)],
)
def test_smoothing_changes_no_output(
    request: pytest.FixtureRequest, inputs: proof_inputs.Inputs, model: str, role: str, groups: int
) -> None:
    """Every activation divided by anything between 1/32 and 32."""
    source, part = planned(request.getfixturevalue(f"{model}_source"), role)
    part = any_smoothing(part)
    assert part.calibration is not None
    assert len(part.calibration.smoothing) == groups
    batch = hf_inputs.encoder_inputs(source, role, inputs.images[:2], inputs.captions[:2])
    plain = streamed.model(streamed.Weights(source))
    changed = streamed.model(streamed.Weights(source, smoothed(source, part)))
    assert np.allclose(*(hf_inputs.encode(source.family, model, role, batch) for model in (changed, plain)), atol=1e-4)


def test_slices_are_prepared_like_the_whole(medsiglip_source: Path) -> None:
    _, part = planned(medsiglip_source, "image_encoder")
    part = any_smoothing(part)
    layer = "vision_model.encoder.layers.1."
    assert part.factors[f"{layer}self_attn.v_proj.weight"].rows is not None
    assert part.factors[f"{layer}self_attn.v_proj.weight"].columns is not None
    for name in ("layer_norm1.bias", "self_attn.v_proj.weight", "self_attn.v_proj.bias", "mlp.fc1.weight"):
        weights = part.checkpoint.read(part.checkpoint.tensors[layer + name])
        whole = part.prepared(layer + name, weights)
        slices = [part.prepared(layer + name, weights[i : i + 7], i) for i in range(0, len(weights), 7)]
        assert not np.array_equal(whole, weights)
        assert np.array_equal(np.concatenate(slices), whole)
    untouched = f"{layer}mlp.fc2.weight"
    weights = part.checkpoint.read(part.checkpoint.tensors[untouched])
    assert part.prepared(untouched, weights) is weights


def test_ranges_follow_what_is_divided(outliers: Path, inputs: proof_inputs.Inputs) -> None:
    source, part = planned(outliers, "image_encoder")
    material = material_of(source, part.role, inputs)
    seen, found = calibrate.measure(source, part, material.passes), calibrate.calibration_of(source, part, material)
    assert found.inputs == "64 phantoms shipped with edgekit"
    norm = "vision_model.encoder.layers.1.layer_norm2.weight"
    reader = "vision_model.encoder.layers.1.mlp.fc1.weight"
    factors = np.exp2(found.smoothing[norm])
    assert found.ranges[reader].high == pytest.approx((seen[reader].high / factors).max())
    assert found.ranges[reader].low == pytest.approx((seen[reader].low / factors).min())
    assert found.ranges[reader].high < seen[reader].range.high / 8
    behind_gelu = reader.replace("fc1", "fc2")
    assert found.ranges[behind_gelu] == seen[behind_gelu].range


def test_outliers_pass_their_proof_only_when_smoothed(
    outliers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = artifact.export(outliers, tmp_path / "smoothed", levels=["int8"])
    found = {part.role: part for part in done.manifest.parts}
    assert found["image_encoder"].parity is not None
    assert found["image_encoder"].parity.loss["worst"] > 0.999
    assert found["image_encoder"].calibrated_on == "64 phantoms shipped with edgekit"
    assert found["text_encoder"].calibrated_on is not None
    assert "captions from the text shipped with edgekit" in found["text_encoder"].calibrated_on
    # A proof of later knows how the file was smoothed from what lies beside it.
    again = artifact.prove(tmp_path / "smoothed", outliers).manifest
    assert [part.parity for part in again.parts] == [part.parity for part in done.manifest.parts]
    monkeypatch.setattr(calibrate, "smoothing", lambda plan, seen: {})
    with pytest.raises(GateError, match="wiring"):
        artifact.export(outliers, tmp_path / "plain", levels=["int8"])


# ---------------------------------------------------------------- what it is measured on, and where that is kept


def test_a_users_images_are_used(medsiglip_source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    source, part = planned(medsiglip_source, "image_encoder")
    for i in range(13):
        Image.fromarray(photo(60 + i, 70, seed=i)).save(folder / f"{i:02}.png")
        if i == 3:
            few = proof_inputs.given_inputs(folder, None)
    assert material_of(source, part.role, few).name == proof_inputs.name_of(few.pictures)
    many = proof_inputs.given_inputs(folder, None)
    assert len(many.images) == 8
    assert material_of(source, part.role, many).name == proof_inputs.name_of(sorted(folder.iterdir())[8:])
    done = artifact.export(medsiglip_source, tmp_path / "artifact", levels=["int8"], inputs=many, prove=False)
    used = {part.role: part.calibrated_on for part in done.manifest.parts}
    assert used["image_encoder"] == proof_inputs.name_of(sorted(folder.iterdir())[8:])
    with pytest.raises(UsageError, match="nothing of these levels is measured"):
        artifact.export(medsiglip_source, tmp_path / "other", levels=["fp32"], inputs=many, prove=False)


def given(folder: Path, count: int, first_seed: int = 0) -> proof_inputs.Inputs:
    """A user's pictures."""
    folder.mkdir()
    for i in range(count):
        Image.fromarray(photo(60 + i, 70, seed=first_seed + i)).save(folder / f"{i:02}.png")
    return proof_inputs.given_inputs(folder, None)


def test_what_other_inputs_calibrated_is_not_taken_over(
    medsiglip_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither from an interrupted run, where it is made again, nor from an artifact, where that is refused."""
    yours, others = given(tmp_path / "yours", 4), given(tmp_path / "others", 4, first_seed=90)

    def export(inputs: proof_inputs.Inputs | None) -> dict[str, str | None]:
        done = artifact.export(medsiglip_source, tmp_path / "a", levels=["int8"], inputs=inputs, prove=False)
        return {part.role: part.calibrated_on for part in done.manifest.parts}

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, "copy_support", interrupt)
        with pytest.raises(KeyboardInterrupt):
            export(None)
    assert len(list((tmp_path / ".a.partial").glob(".*_encoder-int8.json"))) == 2  # records of finished parts
    used = export(yours)
    assert used["image_encoder"] == proof_inputs.name_of(yours.pictures)
    assert "the text shipped with edgekit" in (used["text_encoder"] or "")
    manifest = (tmp_path / "a" / "edgekit.json").read_bytes()
    with pytest.raises(UsageError, match="image_encoder int8 is here already, calibrated on 4 given images") as caught:
        export(others)
    assert "or leave --images and --text out" in str(caught.value)
    assert (tmp_path / "a" / "edgekit.json").read_bytes() == manifest
    assert export(yours) == export(None) == used
    # A text is nothing to an encoder of images.
    (tmp_path / "text.txt").write_text("One sentence of a user. And one more, as it must be.")
    text = proof_inputs.given_inputs(None, tmp_path / "text.txt")
    with pytest.raises(UsageError, match="text_encoder int8 is here already, calibrated on "):
        export(text)


def test_a_decoder_sees_each_prompt_alone_and_says_what_it_saw(
    medgemma_source: Path, tmp_path: Path, inputs: proof_inputs.Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, part = planned(medgemma_source, "decoder")
    material = material_of(source, part.role, inputs)
    assert len(inputs.text) > 8000
    shipped = "the first 8000 characters of the text shipped with edgekit"
    assert material.name == f"{shipped} and 4 phantoms shipped with edgekit"
    assert len(material.passes) == 5
    shapes: list[tuple[int, int]] = []
    hidden_states = hf_inputs.hidden_states

    def count(model: Any, prompts: Any, *rest: Any) -> Any:
        shapes.append((len(prompts), len({len(prompt["input_ids"]) for prompt in prompts})))
        return hidden_states(model, prompts, *rest)

    monkeypatch.setattr(hf_inputs, "hidden_states", count)
    model = streamed.model(streamed.Weights(source))
    for run in material.passes:
        run(model)
    assert shapes == [(1, 1)] * 5
    few, many = given(tmp_path / "few", 3), given(tmp_path / "many", 13)
    assert material_of(source, part.role, few).name == f"{shipped} and {proof_inputs.name_of(few.pictures)}"
    others = proof_inputs.name_of(many.pictures[8:12])
    assert material_of(source, part.role, many).name == f"{shipped} and {others}"


def test_large_images_are_fewer_and_go_one_by_one(medsiglip_source: Path, inputs: proof_inputs.Inputs) -> None:
    source, part = planned(medsiglip_source, "image_encoder")
    for size, images, passes in ((896, 4, 4), (448, 16, 4), (112, 64, 1)):
        vision = part.config.vision_config.model_copy(update={"image_size": size})
        sized = replace(source, config=part.config.model_copy(update={"vision_config": vision}))
        material = material_of(sized, part.role, inputs)
        assert material.name == f"{images} phantoms shipped with edgekit"
        assert len(material.passes) == passes


def test_an_interrupted_run_measures_once(
    medsiglip_source: Path, tmp_path: Path, inputs: proof_inputs.Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, part = planned(medsiglip_source, "image_encoder")
    path, data = tmp_path / "found.json", tmp_path / "data"
    first = calibrate.calibrated(source, part, inputs, path, data, Progress())
    data.write_bytes(b"weights that were smoothed by it")
    measure = calibrate.measure
    monkeypatch.setattr(calibrate, "measure", lambda *_: pytest.fail("measured again"))
    again = calibrate.calibrated(source, part, inputs, path, data, Progress())
    assert again.calibration == first.calibration
    assert data.exists()
    monkeypatch.setattr(calibrate, "measure", measure)
    monkeypatch.setattr(material, "MOST_IMAGES", 5)
    other = calibrate.calibrated(source, part, inputs, path, data, Progress())
    assert other.calibration is not None
    assert other.calibration.inputs == "5 phantoms shipped with edgekit"
    assert not data.exists()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "JSON"),
        ('{"inputs": "x", "ranges": {}, "smoothing": {}, "more": 1}', "more"),
        ('{"inputs": "x", "ranges": {"w": {"low": 1, "high": 0}}, "smoothing": {}}', "a range from 1.0 to 0.0"),
        ('{"inputs": "x", "ranges": {"w": {"low": 0, "high": 1e999}}, "smoothing": {}}', "finite"),
        ('{"inputs": "x", "ranges": {}, "smoothing": {"w": [25]}}', "less than or equal to 24"),
    ],
)
def test_a_damaged_calibration_is_refused(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "found.json"
    path.write_text(text)
    with pytest.raises(ArtifactError, match=match):
        calibration.read(path)
    with pytest.raises(ArtifactError, match="no calibration"):
        calibration.read(tmp_path / "missing.json")


def test_a_calibration_of_other_tensors_is_refused(medsiglip_source: Path) -> None:
    _source, part = planned(medsiglip_source, "image_encoder")
    part = any_smoothing(part)
    right = part.calibration
    assert right is not None
    name = "vision_model.encoder.layers.0.layer_norm2.weight"
    for smoothing, match in (({name: (1, 2)}, "2 channels behind"), ({"nobody": (1,)}, "1 channels behind nobody")):
        with pytest.raises(ArtifactError, match=match):
            part.calibrated(right.model_copy(update={"smoothing": smoothing}))
    with pytest.raises(ArtifactError, match="no range of what enters"):
        part.calibrated(right.model_copy(update={"ranges": {}}))
