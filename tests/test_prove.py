"""Right exports are proven at every level, known wrong ones are refused at every level and leave nothing behind."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from material import anonymous_bytes, edit_json, hollow_checkpoint, in_a_new_process, photo, safetensors_bytes
from PIL import Image
from proofs import Unproven
from wrong_exports import seen_causally

from edgekit.artifacts.gates import Gates
from edgekit.artifacts.levels import LEVELS
from edgekit.checkpoints.checkpoint import open_checkpoint
from edgekit.cli import main
from edgekit.errors import CheckpointError, GateError, InputError
from edgekit.families import family_of
from edgekit.families.source import Source, open_source
from edgekit.formats import codec as codec_of
from edgekit.formats.rounding import EXACT
from edgekit.formats.stored import StoredTensor
from edgekit.full_precision import model as torch_reference
from edgekit.full_precision import processors as hf_inputs
from edgekit.full_precision import streamed
from edgekit.inputs import samples as proof_inputs
from edgekit.inputs.passage import passage
from edgekit.metrics import kl_divergence, relative_error
from edgekit.prove import FullPrecisionRuns, WrittenPart
from edgekit.prove import publish as artifact
from edgekit.prove.decoder import decoder_proof
from edgekit.prove.encoder import encoded, encoder_proof, expected_batch
from edgekit.runtime.base import Embeddings, Tokens
from edgekit.runtime.llama.decoder import LlamaDecoder
from edgekit.runtime.onnx.decoder import OrtDecoder
from edgekit.runtime.onnx.session import OrtEncoder

GGUF, ONNX = ([name for name, row in LEVELS.items() if row.format == file_format] for file_format in ("gguf", "onnx"))


QUICK = {*GGUF[::4], *ONNX[::3]}  # of all kinds; the others take minutes


def quantizes_activations(level: str) -> bool:
    """Whether a runtime multiplies by rounded activations, which no float32 reference follows."""
    return LEVELS[level].activations != "float"


# ---------------------------------------------------------------- right exports


@pytest.mark.parametrize("level", LEVELS)
def test_a_right_decoder_is_proven(medgemma_levels: Unproven, level: str) -> None:
    parity = medgemma_levels.proven("decoder", level)
    assert parity.positions >= 256
    assert 0 <= parity.wiring["mean"] < 2e-4


@pytest.mark.parametrize(
    ("family", "role", "level"),
    [
        *(("medgemma", "vision", level) for level in LEVELS),
        *(("medsiglip", role, level) for role in ("image_encoder", "text_encoder") for level in ONNX),
    ],
)
def test_a_right_encoder_is_proven(request: pytest.FixtureRequest, family: str, role: str, level: str) -> None:
    parity = request.getfixturevalue(f"{family}_levels").proven(role, level)
    assert parity.wiring["worst"] > (0.99 if quantizes_activations(level) else 0.9999)


def test_loss_grows_as_bits_shrink(medgemma_levels: Unproven) -> None:
    order = ("BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
    losses = [medgemma_levels.proven("decoder", level).loss["mean"] for level in order]
    assert losses == sorted(losses)
    order = ("F16", "Q8_0", "Q5_0", "Q4_M", "Q4_0")
    cosines = [medgemma_levels.proven("vision", level).loss["mean"] for level in order]
    assert cosines == sorted(cosines, reverse=True)
    assert medgemma_levels.proven("vision", "Q4_M").loss["mean"] > 0.995


@pytest.mark.parametrize("level", ["fp32", "int8"])
def test_an_export_proves_each_part_that_it_adds(medsiglip_source: Path, tmp_path: Path, level: str) -> None:
    done = artifact.export(medsiglip_source, tmp_path / "artifact", levels=[level])
    assert {part.role for part in done.added} == {"image_encoder", "text_encoder"}
    for part in done.added:
        assert part.parity is not None
        assert part.parity.wiring["worst"] > (0.99 if quantizes_activations(level) else 0.9999)


def test_a_base_model_is_proven_on_plain_texts(medgemma_source: Path, copied: Any, tmp_path: Path) -> None:
    """Without a chat template: <bos>, images and one text."""
    source = copied(medgemma_source)
    (source / "chat_template.jinja").unlink()
    edit_json(source / "tokenizer_config.json", {"chat_template": ...})
    done = artifact.export(source, tmp_path / "artifact", levels=["Q8_0"])
    assert done.manifest.settings["chat"] is False
    assert all(part.parity is not None and part.parity.positions > 0 for part in done.added)


# ---------------------------------------------------------------- wrong exports


def refused(source: Path, folder: Path, level: str, match: str, recipe: str | None = None) -> None:
    """Export, expect a refusal that says this, and find no trace of it."""
    with pytest.raises(GateError, match=match):
        artifact.export(source, folder / "artifact", recipe_name=recipe, levels=[level])
    assert not {path.name for path in folder.iterdir()} & {"artifact", ".artifact.partial"}


@pytest.mark.parametrize(("decoder", "level"), [(LlamaDecoder, "Q4_0"), (OrtDecoder, "q4")])
def test_a_refused_export_leaves_nothing(
    medgemma_source: Path, tmp_path: Path, decoder: Any, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = decoder.prefill
    monkeypatch.setattr(
        decoder, "prefill", lambda self, segments, want=None: right(self, seen_causally(segments), want)
    )
    refused(medgemma_source, tmp_path, level, f"decoder {level}: exactness: KL")


def test_a_refused_encoder_leaves_nothing(
    medsiglip_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = OrtEncoder.encode
    monkeypatch.setattr(OrtEncoder, "encode", lambda self, batch: right(self, batch)[::-1])
    refused(medsiglip_source, tmp_path, "fp32", "encoder fp32: wiring: cosine")


def test_two_chat_templates_are_refused(medgemma_source: Path, copied: Any, tmp_path: Path) -> None:
    source = copied(medgemma_source)
    template = source / "chat_template.jinja"
    template.write_text(template.read_text().replace("<start_of_turn>", "\n<start_of_turn>"))
    with pytest.raises(CheckpointError, match=r"two chat templates that differ: .*jinja and tokenizer_config\.json"):
        artifact.export(source, tmp_path / "artifact", levels=["Q8_0"])
    assert not {path.name for path in tmp_path.iterdir()} & {"artifact", ".artifact.partial"}


def test_a_recipes_loss_limit_refuses(medgemma_source: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "strict.toml"
    recipe.write_text('extends = "reference-medgemma"\n[gates.loss_kl]\nQ4_0 = 1e-9\n')
    refused(medgemma_source, tmp_path, "Q4_0", "loss: mean KL", str(recipe))


def test_tokens_and_embeddings_count_alike() -> None:
    assert len(Tokens((1, 2, 3))) == 3
    assert len(Embeddings(np.zeros((16, 4), np.float32), "x")) == 16


class Given:
    """Full precision that answers with given logits or vectors, whatever the model."""

    def __init__(self, right: FullPrecisionRuns, given: Any) -> None:
        self.right, self.given = right, given

    def run(self, role: str, plan: Any, compute: Any, asked: str = "") -> Any:
        return self.given

    @property
    def source(self) -> Source:
        return self.right.source

    def logits(self, role: str, plan: Any, hidden: Any) -> Any:
        return self.given


def test_one_prompts_mistake_does_not_vanish_among_the_others(medgemma_levels: Unproven) -> None:
    part, runs = medgemma_levels.written("decoder", "Q4_0"), medgemma_levels.runs
    proof = decoder_proof(part, runs, proof_inputs.shipped_inputs(), Gates(wiring_kl={"Q4_0": 0.01}))
    counts = [len(prompt.want) for prompt in proof.prompts]
    expected = np.zeros((sum(counts), 8), np.float32)
    proof = dataclasses.replace(proof, runs=Given(runs, expected))
    wrong = expected.copy()
    together = np.isin(proof.prompts[2].want, proof.prompts[2].undivided)  # two images in one call
    wrong[sum(counts[:2]) :][together] += np.linspace(0, 0.6, 8, dtype=np.float32)
    mean = kl_divergence(expected, wrong).mean()
    assert 0.001 < mean < 0.01
    with pytest.raises(GateError, match=r"wiring: mean KL 0\.0[12]"):
        proof.judge(wrong)


@pytest.mark.parametrize("level", ["BF16", "Q4_0"])
def test_clear_top_tokens_that_change_are_refused_however_small_the_divergence(
    medgemma_levels: Unproven, level: str
) -> None:
    """Where weights are exact, at the first; where they are quantized, beyond a hundredth of the positions."""
    part, runs = medgemma_levels.written("decoder", level), medgemma_levels.runs
    gates = Gates(wiring_kl={level: 0.1})
    proof = decoder_proof(part, runs, proof_inputs.shipped_inputs(), gates)
    margin = gates.clear_margin if level == "BF16" else gates.clear_margin_quantized
    expected = np.zeros((sum(len(prompt.want) for prompt in proof.prompts), 8), np.float32)
    expected[:, :2] = 9 + 1.1 * margin, 9
    proof = dataclasses.replace(proof, runs=Given(runs, expected))
    tolerated = 0 if level == "BF16" else len(expected) // 100
    changed = np.linspace(0, len(expected) - 1, tolerated + 1).astype(int)  # over all prompts
    wrong = expected.copy()
    wrong[changed] = wrong[changed][:, [1, 0, *range(2, 8)]]
    right_enough = wrong.copy()
    right_enough[changed[0]] = expected[changed[0]]
    proof.judge(right_enough)
    assert kl_divergence(expected, wrong).mean() < proof.limits.wiring_kl / 10
    with pytest.raises(GateError, match=rf"wiring: .* {tolerated + 1} of {len(expected)} clear top tokens changed"):
        proof.judge(wrong)


@pytest.mark.parametrize("role", ["image_encoder", "text_encoder"])
def test_one_items_mistake_does_not_vanish_among_the_others(medsiglip_levels: Unproven, role: str) -> None:
    part, runs = medsiglip_levels.written(role, "q4"), medsiglip_levels.runs
    proof = encoder_proof(part, runs, proof_inputs.shipped_inputs(), Gates())
    expected = np.tile(np.array([1, 0], np.float32), (len(proof.expected_batch), 1))
    proof = dataclasses.replace(proof, runs=Given(runs, {proof.output: expected}))
    right = proof.judge({proof.output: expected})
    assert right.wiring == {"mean": 1, "worst": 1, "error": 0, "worst_error": 0, "gain": 1}
    limits = LEVELS["q4"].limits
    for vector in ((0.98, 0.2), (1.2, 0)):  # another direction, another length
        wrong = expected.copy()
        wrong[-1] = vector
        assert limits.wiring_error > relative_error(expected, wrong).mean() > 0
        with pytest.raises(GateError, match=r"wiring: cosine .* relative error .* \(worst 0\.2"):
            proof.judge({proof.output: wrong})


# ---------------------------------------------------------------- the streamed reference


def whole_model(runs: FullPrecisionRuns, part: WrittenPart) -> Any:
    """transformers' model in memory, every tensor of the part as its file holds it."""

    def transform(name: str, weights: Any) -> Any:
        return part.tensors[name].read(0, len(weights)) if name in part.tensors else weights

    return torch_reference.load(runs.source, transform)


def test_streamed_prompts_together_equal_the_whole_model_one_by_one(medgemma_levels: Unproven) -> None:
    """From pixels on, through transformers' own merging of images and its own head; the head in uneven blocks."""
    import torch

    part, runs = medgemma_levels.written("decoder", "Q4_0"), medgemma_levels.runs
    model = whole_model(runs, part)
    proof = decoder_proof(part, runs, proof_inputs.shipped_inputs(), Gates())
    assert len({len(prompt.processed["input_ids"]) for prompt in proof.prompts}) > 1
    expected = []
    for prompt in proof.prompts:
        pixels = prompt.processed["pixel_values"]
        with torch.inference_mode():
            out = model(
                input_ids=torch.tensor([prompt.processed["input_ids"]]),
                token_type_ids=torch.tensor([prompt.processed["token_type_ids"]]),
                pixel_values=None if pixels is None else torch.from_numpy(pixels),
            )
        expected.append(out.logits[0, list(prompt.want)].numpy())
    proof.judge(np.concatenate(expected))  # the whole model's own logits pass
    prompts, want = [prompt.processed for prompt in proof.prompts], [prompt.want for prompt in proof.prompts]
    hidden = runs.run("decoder", part, lambda model: hf_inputs.hidden_states(model, prompts, want, proof.embedded))
    assert np.abs(runs.logits("decoder", part, hidden) - np.concatenate(expected)).max() < 1e-4


@pytest.mark.parametrize("role", ["image_encoder", "text_encoder"])
def test_streamed_encoders_equal_the_whole_model_item_by_item(medsiglip_levels: Unproven, role: str) -> None:
    part, runs = medsiglip_levels.written(role, "int8"), medsiglip_levels.runs
    model = whole_model(runs, part)
    batch = expected_batch(runs, role, proof_inputs.shipped_inputs())
    family = runs.source.family
    expected = np.concatenate([hf_inputs.encode(family, model, role, batch[i : i + 1]) for i in range(len(batch))])
    assert np.abs(encoded(runs, role, part, batch) - expected).max() < 1e-4


@pytest.mark.parametrize("name_of_codec", ["F32", "int8", "Q8_0", "Q4_K", "BF16"])
def test_rows_blocks_and_the_whole_table_agree(tmp_path: Path, name_of_codec: str) -> None:
    """20,000 rows, 5 million weights: more than is read, or given, at a time."""
    config = {"architectures": ["Gemma3ForCausalLM"]}
    name = "model.embed_tokens.weight"
    table = np.random.default_rng(3).normal(0, 1, (20_000, 256)).astype(np.float32)
    header = {name: {"dtype": "F32", "shape": list(table.shape), "data_offsets": [0, table.nbytes]}}
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(header, table.tobytes()))
    (tmp_path / "config.json").write_text(json.dumps(config))
    canonical = f"language_model.{name}"
    codec = codec_of(name_of_codec)
    expected = codec.roundtrip(table)

    def read(first: int, last: int) -> Any:
        return codec.roundtrip(table[first:last])

    stored = StoredTensor(canonical, name, name_of_codec, table.shape, codec.exact, codec.preserves, EXACT, read)
    weights = streamed.Weights(Source(open_checkpoint(tmp_path), family_of(config), None), {canonical: stored})
    assert np.array_equal(weights.read(canonical), expected)
    blocks = list(weights.blocks(canonical))
    assert len(blocks) > 2
    assert np.array_equal(np.concatenate(blocks), expected)
    ids = np.array([0, 1, 2, 77, 8191, 8192, 19_999])
    assert np.array_equal(weights.rows(canonical, ids), expected[ids])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_large_model_is_never_in_memory(tmp_path: Path) -> None:
    """1.5 GB of float32 in a file that is all hole; also the way of a model of text alone."""
    layers, hidden, mlp = 24, 1024, 4096
    config = {
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text",
        "hidden_size": hidden, "intermediate_size": mlp, "vocab_size": 1000,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 256,
        "sliding_window": 16,
    }  # fmt: skip
    specs = family_of(config).tensors(family_of(config).parse(config))
    shapes = {spec.name.removeprefix("language_model."): spec.shape for spec in specs}
    assert 4 * hollow_checkpoint(tmp_path, config, shapes) > 1_500_000_000
    assert 0 < in_a_new_process(memory_of_a_pass, tmp_path) < 300_000_000


def memory_of_a_pass(source: Path) -> int:
    """What two prompts at once, in one pass, take at most."""
    peak = 0

    def watch() -> None:
        nonlocal peak
        peak = max(peak, anonymous_bytes())

    opened = open_source(source)
    model = streamed.model(streamed.Weights(opened), watch)
    before = anonymous_bytes()
    prompts = [{"input_ids": [2, 5, 9, 7] * 6, "token_type_ids": [0] * 24}, {"input_ids": [2], "token_type_ids": [0]}]
    hidden = hf_inputs.hidden_states(model, prompts, [[0, 23], [0]], None)
    assert hidden.shape == (3, opened.config.text_config.hidden_size)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    return peak - before


# ---------------------------------------------------------------- a user's own inputs


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(photo(90 + 20 * i, 140, seed=i)).save(folder / f"{i}.png")
    (folder / "notes.md").write_text("no picture")
    return folder


def test_given_inputs_are_used_and_named(
    medgemma_artifact: Path, copied: Any, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(medgemma_artifact)
    text = tmp_path / "text.txt"
    text.write_text(passage()[1000:])
    options = ["--level", "Q8_0", "--images", str(pictures), "--text", str(text), "--json"]
    assert main(["prove", str(folder), *options]) == 0
    parity = [part["parity"] for part in json.loads(capsys.readouterr().out)["parts"] if part["parity"]]
    used = proof_inputs.given_inputs(pictures, text)
    assert {figures["inputs"] for figures in parity} == {used.name}
    length = len(passage()[1000:])
    pattern = (
        rf"3 given images \(sha256 [0-9a-f]{{12}}\) and a given text of {length} characters \(sha256 [0-9a-f]{{12}}\)"
    )
    assert re.fullmatch(pattern, used.name)
    assert used.images[0].shape == (140, 90, 3)


def test_names_follow_contents_not_places(pictures: Path, tmp_path: Path) -> None:
    name = proof_inputs.given_inputs(pictures, None).name
    assert name.endswith("and text shipped with edgekit")
    moved = pictures.rename(tmp_path / "elsewhere")
    assert proof_inputs.given_inputs(moved, None).name == name
    Image.fromarray(photo(90, 140, seed=9)).save(moved / "0.png")
    assert proof_inputs.given_inputs(moved, None).name != name


def test_wrong_inputs_are_refused(
    medgemma_source: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "2.png").unlink()
    with pytest.raises(InputError, match="2 images"):
        proof_inputs.given_inputs(pictures, None)
    (pictures / "3.png").write_bytes((pictures / "1.png").read_bytes()[:300])
    with pytest.raises(InputError, match="damaged or truncated"):
        proof_inputs.given_inputs(pictures, None)
    with pytest.raises(InputError, match="no such folder"):
        proof_inputs.given_inputs(tmp_path / "none", None)
    with pytest.raises(InputError, match="no such text"):
        proof_inputs.given_inputs(None, tmp_path)
    text = tmp_path / "text.txt"
    for data, match in ((b"\xff\xfe", "not UTF-8"), (b" \n", "empty")):
        text.write_bytes(data)
        with pytest.raises(InputError, match=match):
            proof_inputs.given_inputs(None, text)
    text.write_text("Too short for any window.")
    target = tmp_path / "artifact"
    assert main(["export", str(medgemma_source), "--to", str(target), "--text", str(text)]) == 1
    assert "a proof text of" in capsys.readouterr().err
    assert not target.exists()
