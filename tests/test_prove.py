"""Known wrong exports must fail their wiring proof at every level and leave nothing behind; right ones must pass.

Each mistake is made where the format can express it: in tensors, in the header, in the runtime's segments, and else in
the reference, which comes to the same comparison. All of them have shipped in somebody's converter.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from material import anonymous_bytes, edit_json, hollow_checkpoint, in_a_new_process, photo
from PIL import Image

from edgekit import families
from edgekit.artifacts.manifest import Gates, Parity
from edgekit.checkpoints.checkpoint import open_checkpoint
from edgekit.cli import main
from edgekit.errors import GateError, InputError
from edgekit.export import job
from edgekit.families import family_of
from edgekit.families.gemma3 import chat as gemma_chat
from edgekit.families.gemma3 import family as medgemma
from edgekit.families.siglip import graph as siglip_graph
from edgekit.formats import codecs
from edgekit.formats.gguf import writer as gguf_export
from edgekit.formats.onnx.graph import Graph
from edgekit.full_precision import model as torch_reference
from edgekit.full_precision import processors as hf_inputs
from edgekit.full_precision import streamed
from edgekit.inputs import samples as proof_inputs
from edgekit.inputs.passage import passage
from edgekit.metrics import kl_divergence
from edgekit.prove import References
from edgekit.prove import publish as artifact
from edgekit.prove.decoder import decoder_proof
from edgekit.prove.encoder import encoded, expected_batch
from edgekit.runtime import compose
from edgekit.runtime.base import Embeddings, Tokens
from edgekit.runtime.llama import decoder as llamacpp

# One of each kind here: exact, 8 bits, 4 bits in small blocks, a mixture of K-quants. The rest takes minutes.
_QUICK = ("BF16", "Q8_0", "Q4_0", "Q2_K")
_SLOW = ("F16", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M")
GGUF_LEVELS = (*_QUICK, *(pytest.param(level, marks=pytest.mark.slow) for level in _SLOW))
VISION_LEVELS = ("BF16", "F16", "Q8_0", "Q5_0", "Q4_M", "Q4_0", "IQ4_NL")
ONNX_LEVELS = ("fp32", "fp16", "int8", "int8_dynamic", "q4", "q4_m", "q4_128")


def refused(source: Path, folder: Path, level: str, match: str) -> None:
    """Export, expect a refusal that says this, and find no trace of it."""
    with pytest.raises(GateError, match=match):
        artifact.export(source, folder / "artifact", levels=[level])
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def proven(medgemma_source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Parity]:
    """Parity of every part of the MedGemma-like model at every GGUF level; test_onnx_decoder.py has the others."""
    folder = tmp_path_factory.mktemp("proven") / "artifact"
    artifact.export(medgemma_source, folder, levels=[*_QUICK, *_SLOW])
    for level in VISION_LEVELS:
        done = artifact.export(medgemma_source, folder, levels=["Q8_0"], parts={"vision": level})
    return {(part.role, part.level): part.parity for part in done.manifest.parts if part.parity}


def test_right_exports_are_proven_at_every_level(proven: dict[tuple[str, str], Parity]) -> None:
    decoder = {*_QUICK, *_SLOW}
    assert set(proven) == {*(("decoder", level) for level in decoder), *(("vision", level) for level in VISION_LEVELS)}
    for (role, _), parity in proven.items():
        if role == "decoder":
            assert parity.positions >= 256
            assert 0 <= parity.wiring["mean"] < 2e-4
        else:
            assert parity.wiring["worst"] > 0.9999


def test_loss_grows_as_bits_shrink(proven: dict[tuple[str, str], Parity]) -> None:
    order = ("BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
    losses = [proven["decoder", level].loss["mean"] for level in order]
    assert losses == sorted(losses)
    cosines = [proven["vision", level].loss["mean"] for level in ("F16", "Q8_0", "Q5_0", "Q4_M", "Q4_0")]
    assert cosines == sorted(cosines, reverse=True)
    assert proven["vision", "Q4_M"].loss["mean"] > 0.995


def test_a_base_model_is_proven_on_plain_texts(medgemma_source: Path, copied: Any, tmp_path: Path) -> None:
    """Without a chat template: <bos>, images and one text."""
    source = copied(medgemma_source)
    (source / "chat_template.jinja").unlink()
    edit_json(source / "tokenizer_config.json", {"chat_template": ...})
    done = artifact.export(source, tmp_path / "artifact", levels=["Q8_0"])
    assert done.manifest.settings["chat"] is False
    assert all(part.parity is not None and part.parity.positions > 0 for part in done.added)


@pytest.mark.parametrize("level", GGUF_LEVELS)
def test_causal_image_mask_is_refused(
    medgemma_source: Path, tmp_path: Path, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "Embeddings", functools.partial(Embeddings, bidirectional=False))
    refused(medgemma_source, tmp_path, level, "decoder .* wiring: mean KL")


@pytest.mark.parametrize("level", GGUF_LEVELS)
def test_norms_without_their_one_are_refused(
    medgemma_source: Path, tmp_path: Path, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = medgemma._norm
    monkeypatch.setattr(
        medgemma, "_norm", lambda *args, **options: dataclasses.replace(right(*args, **options), add_one=False)
    )
    refused(medgemma_source, tmp_path, level, "decoder .* wiring: mean KL")


@pytest.mark.parametrize("level", GGUF_LEVELS)
def test_global_layers_without_their_scale_are_refused(
    medgemma_source: Path, tmp_path: Path, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = gguf_export._HEADERS["gemma3"]

    def wrong(writer: Any, plan: Any) -> None:
        text = plan.config.text_config.model_copy(update={"rope_factor": 1.0})
        right(writer, dataclasses.replace(plan, config=plan.config.model_copy(update={"text_config": text})))

    monkeypatch.setitem(gguf_export._HEADERS, "gemma3", wrong)
    refused(medgemma_source, tmp_path, level, "decoder .* wiring: mean KL")


@pytest.mark.parametrize("level", GGUF_LEVELS)
def test_local_layers_with_the_global_scale_are_refused(
    medgemma_source: Path, tmp_path: Path, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp hard-wires the local scale, so the two sides are exchanged: the reference scales its local layers."""

    def wrong(family: Any, config: Any) -> Any:
        model = torch_reference.build(family, config)
        rotary = model.model.language_model.rotary_emb
        rotary.sliding_attention_inv_freq /= 8
        return model

    monkeypatch.setattr(streamed, "build", wrong)
    refused(medgemma_source, tmp_path, level, "decoder .* wiring: mean KL")


@pytest.mark.parametrize("level", GGUF_LEVELS)
def test_unscaled_embeddings_are_refused(
    medgemma_source: Path, tmp_path: Path, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp scales token ids itself, but takes embeddings as they are."""
    checkpoint = open_checkpoint(medgemma_source)
    table = checkpoint.read(checkpoint.tensors["language_model.model.embed_tokens.weight"])
    right = llamacpp.LlamaDecoder._decode

    def wrong(self: Any, items: Any, wanted: Any, *, causal: bool) -> Any:
        return right(self, table[items] if items.ndim == 1 else items, wanted, causal=causal)

    monkeypatch.setattr(llamacpp.LlamaDecoder, "_decode", wrong)
    refused(medgemma_source, tmp_path, level, "decoder .* wiring: mean KL")


@pytest.mark.parametrize("level", GGUF_LEVELS)
def test_images_without_their_line_breaks_are_refused(
    medgemma_source: Path, tmp_path: Path, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = gemma_chat.expand_images
    monkeypatch.setattr(
        gemma_chat, "expand_images", lambda text, n: right(text, n).replace("\n\n<start_of_image>", "<start_of_image>")
    )
    refused(medgemma_source, tmp_path, level, "prompt differs")


@pytest.mark.parametrize(
    ("family", "level"),
    [("medgemma", level) for level in _QUICK] + [("medsiglip", level) for level in ONNX_LEVELS],
)
def test_a_wrong_resize_is_refused(
    medgemma_source: Path,
    medsiglip_source: Path,
    tmp_path: Path,
    family: str,
    level: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = families.FAMILIES[family]
    swapped = {"bilinear": "bicubic", "bicubic": "bilinear"}

    def wrong(checkpoint: Any, config: Any) -> Any:
        found = right.preprocessing(checkpoint, config)
        return found.model_copy(update={"resample": swapped[found.resample]})

    monkeypatch.setitem(families.FAMILIES, family, dataclasses.replace(right, preprocessing=wrong))  # type: ignore[arg-type]
    refused(medgemma_source if family == "medgemma" else medsiglip_source, tmp_path, level, "pixels differ")


@pytest.mark.parametrize("level", ONNX_LEVELS)
def test_right_onnx_export_is_proven(medsiglip_source: Path, tmp_path: Path, level: str) -> None:
    done = artifact.export(medsiglip_source, tmp_path / "artifact", levels=[level])
    assert {part.role for part in done.added} == {"image_encoder", "text_encoder"}
    for part in done.added:
        assert part.parity is not None
        assert part.parity.wiring["worst"] > (0.9999 if level in ("fp32", "fp16") else 0.99)


@pytest.mark.parametrize(
    ("mistake", "level"),
    [("all positions", "fp32"), *((m, level) for m in ("one position", "their mean") for level in ONNX_LEVELS)],
)
def test_last_hidden_state_for_pooler_output_is_refused(
    medsiglip_source: Path, tmp_path: Path, level: str, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = siglip_graph._pooled_outputs

    def reduce(graph: Graph, hidden: str) -> str:
        if mistake == "all positions":
            return hidden
        if mistake == "one position":
            return str(graph.op("Gather", hidden, graph.constant(-1, np.int64), axis=1))
        return str(graph.op("ReduceMean", hidden, graph.constant([1], np.int64), keepdims=0))

    def wrong(graph: Graph, pooled: str, name: str, width: int) -> None:
        hidden = next(node.input[0] for node in graph._nodes if node.output[0] == "last_hidden_state")
        right(graph, reduce(graph, hidden), name, width)

    monkeypatch.setattr(siglip_graph, "_pooled_outputs", wrong)
    refused(medsiglip_source, tmp_path, level, "wiring|pooler_output")


def test_nan_logits_are_refused(medgemma_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = llamacpp.LlamaDecoder._logits

    def wrong(self: Any, index: int) -> Any:
        return np.where(right(self, index) > 0, np.nan, 0)

    monkeypatch.setattr(llamacpp.LlamaDecoder, "_logits", wrong)
    refused(medgemma_source, tmp_path, "BF16", "wiring")


def test_a_recipes_loss_limit_refuses(medgemma_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = job.choose

    def strict(*args: Any) -> Any:
        chosen = right(*args)
        return chosen.model_copy(update={"gates": chosen.gates.model_copy(update={"loss_kl_at": {"Q4_0": 1e-9}})})

    monkeypatch.setattr(job, "choose", strict)
    refused(medgemma_source, tmp_path, "Q4_0", "loss: mean KL")


def test_tokens_and_embeddings_count_alike() -> None:
    assert len(Tokens((1, 2, 3))) == 3
    assert len(Embeddings(np.zeros((16, 4), np.float32), "x")) == 16


def test_one_prompts_mistake_does_not_vanish_among_the_others(
    medgemma_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, references = planned(medgemma_source, "Q4_0", "decoder")
    proof = decoder_proof(part, references, proof_inputs.shipped_inputs(), Gates(decoder_kl=0.01))
    counts = [len(one.want) for one in proof.prompts]
    expected = np.zeros((sum(counts), 8), np.float32)
    monkeypatch.setattr(type(proof), "_reference", lambda *_: expected)
    wrong = expected.copy()
    together = np.isin(proof.prompts[2].want, proof.prompts[2].undivided)  # two images in one call
    wrong[sum(counts[:2]) :][together] += np.linspace(0, 0.6, 8, dtype=np.float32)
    mean = kl_divergence(expected, wrong).mean()
    assert 0.001 < mean < 0.01
    with pytest.raises(GateError, match=r"wiring: mean KL 0\.0[12]"):
        proof.judge(wrong)


# ---------------------------------------------------------------- the streamed reference


def planned(source: Path, level: str, role: str) -> tuple[Any, References]:
    job_ = job.resolve(source, None, [level], {})
    part = next(part for part in job_.plans() if part.role == role)
    return part, References(job_.checkpoint, job_.family, job_.config)


def whole_model(references: References, part: Any) -> Any:
    """transformers' model in memory, every tensor as the part's codecs preserve it."""
    codec_by_name = part.codec_by_name

    def transform(name: str, weights: Any) -> Any:
        return codecs.roundtrip(weights, codec_by_name.get(name, "F32"))

    return torch_reference.load(references.checkpoint, references.family, references.config, transform)


def test_streamed_prompts_together_equal_the_whole_model_one_by_one(medgemma_source: Path) -> None:
    """From pixels on, through transformers' own merging of images and its own head; the head in uneven blocks."""
    import torch

    part, references = planned(medgemma_source, "Q4_0", "decoder")
    model = whole_model(references, part)
    proof = decoder_proof(part, references, proof_inputs.shipped_inputs(), Gates())
    assert len({len(one.processed["input_ids"]) for one in proof.prompts}) > 1
    expected = []
    for one in proof.prompts:
        pixels = one.processed["pixel_values"]
        with torch.inference_mode():
            out = model(
                input_ids=torch.tensor([one.processed["input_ids"]]),
                token_type_ids=torch.tensor([one.processed["token_type_ids"]]),
                pixel_values=None if pixels is None else torch.from_numpy(pixels),
            )
        expected.append(out.logits[0, list(one.want)].numpy())
    assert np.abs(proof._reference(part) - np.concatenate(expected)).max() < 1e-4


@pytest.mark.parametrize("role", ["image_encoder", "text_encoder"])
def test_streamed_encoders_equal_the_whole_model_item_by_item(medsiglip_source: Path, role: str) -> None:
    part, references = planned(medsiglip_source, "int8", role)
    model = whole_model(references, part)
    batch = expected_batch(references, role, proof_inputs.shipped_inputs())
    expected = np.concatenate(
        [hf_inputs.encode(references.family, model, role, batch[i : i + 1]) for i in range(len(batch))]
    )
    assert np.abs(encoded(references, role, part, batch) - expected).max() < 1e-4


@pytest.mark.parametrize("codec", ["F32", "int8", "Q8_0", "Q4_K", "BF16"])
def test_rows_blocks_and_the_whole_table_agree(
    medgemma_source: Path, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(medgemma_source)
    name = "language_model.model.embed_tokens.weight"
    weights = streamed.Weights(checkpoint, family_of(checkpoint.config), {name: codec})
    expected = codecs.roundtrip(checkpoint.read(checkpoint.tensors[name]), codec)
    monkeypatch.setattr(streamed, "_SLICE", 1000)
    monkeypatch.setattr(streamed, "_BLOCK", 700)
    assert np.array_equal(weights.read(name), expected)
    assert np.array_equal(np.concatenate(list(weights.blocks(name))), expected)
    ids = np.array([0, 1, 2, 77, 2110, 2111])
    assert np.array_equal(weights.rows(name, ids), expected[ids])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_large_model_is_never_in_memory(tmp_path: Path) -> None:
    """1.5 GB of float32 in a file that is all hole; also the way of a model of text alone."""
    layers, hidden, mlp = 24, 1024, 4096
    config = {
        "architectures": ["Gemma3ForCausalLM"], "hidden_size": hidden, "intermediate_size": mlp, "vocab_size": 1000,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 256,
        "sliding_window": 16,
    }  # fmt: skip
    slots = family_of(config).roles["decoder"].slots(family_of(config).parse(config))
    shapes = {slot.name.removeprefix("language_model."): slot.shape for slot in slots}
    assert 4 * hollow_checkpoint(tmp_path, config, shapes) > 1_500_000_000
    assert 0 < in_a_new_process(memory_of_a_pass, tmp_path) < 300_000_000


def memory_of_a_pass(source: Path) -> int:
    """What two prompts at once, in one pass, take at most."""
    peak = 0

    def watch() -> None:
        nonlocal peak
        peak = max(peak, anonymous_bytes())

    checkpoint = open_checkpoint(source)
    family = family_of(checkpoint.config)
    parsed = family.parse(checkpoint.config)
    model = streamed.model(parsed, streamed.Weights(checkpoint, family), watch)
    before = anonymous_bytes()
    prompts = [{"input_ids": [2, 5, 9, 7] * 6, "token_type_ids": [0] * 24}, {"input_ids": [2], "token_type_ids": [0]}]
    assert hf_inputs.hidden_states(model, prompts, [[0, 23], [0]], None).shape == (3, parsed.text_config.hidden_size)
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
    assert {one["inputs"] for one in parity} == {used.name}
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
