"""Gemma 3 without a vision tower: exported, opened and asked, its logits against transformers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from material import edit_json, photo, read_json

from edgekit import cli
from edgekit.artifacts import manifest as manifests
from edgekit.checkpoints.checkpoint import open_checkpoint
from edgekit.commands.support import artifact_text
from edgekit.errors import CheckpointError, InputError, UsageError
from edgekit.families import family_of
from edgekit.families.gemma3 import gguf_form
from edgekit.families.gemma3.config import GemmaTextConfig, MedGemmaConfig
from edgekit.families.source import open_source
from edgekit.inputs.message import Image, Message
from edgekit.inputs.passage import passage
from edgekit.metrics import kl_divergence
from edgekit.prove import CONTEXT, FullPrecisionRuns, audit_parts
from edgekit.prove import publish as artifact
from edgekit.runtime import open_model
from edgekit.runtime.base import Generation, Model, Tokens
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.opening import prepare

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

Make = Callable[..., Path]
RECIPE = """
family = "medgemma-text"
title = "A narrow text model"
stem = "narrow"
source = "somebody/narrow"
license = "none"
default = "BF16"
match = { model_type = "gemma3_text" }

[variant.BF16]
decoder = "BF16"

[variant.fp32]
decoder = "fp32"
"""
TOKENIZER_FILES = ("added_tokens.json", "special_tokens_map.json", "tokenizer.json", "tokenizer.model")


@pytest.fixture(autouse=True)
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "exports").mkdir(parents=True)
    (tmp_path / "home" / "exports" / "narrow.toml").write_text(RECIPE)
    return "narrow"


@pytest.fixture
def make(medgemma_source: Path, tmp_path: Path) -> Make:
    """A narrow random Gemma3ForCausalLM with the reference model's tokenizer, as transformers saves it."""

    def save(layers: int = 7, scalar: int = 32, template: bool = True, **changes: Any) -> Path:
        fields = {
            "vocab_size": 2112,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "query_pre_attn_scalar": scalar,
            "sliding_window": 32,
            "max_position_embeddings": 512,
            "initializer_range": 0.2,
            "eos_token_id": 1,
            "bos_token_id": 2,
            **changes,
        }
        torch.manual_seed(layers)
        model = transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**fields)).to(torch.bfloat16)
        folder = tmp_path / f"narrow-{layers}-{scalar}"
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        for name in (*TOKENIZER_FILES, *(["chat_template.jinja"] if template else [])):
            shutil.copyfile(medgemma_source / name, folder / name)
        config = read_json(medgemma_source / "tokenizer_config.json")
        if not template:
            config.pop("chat_template", None)
        (folder / "tokenizer_config.json").write_text("{}")
        edit_json(folder / "tokenizer_config.json", config)
        return folder

    return save


def exported(source: Path, recipe: str) -> Path:
    return artifact.export(source, source.with_suffix(".artifact"), recipe_name=recipe, prove=False).folder


def reference_logits(source: Path, ids: list[int]) -> Any:
    """transformers' own model, read by transformers itself: float32 [positions, vocabulary]."""
    model = transformers.Gemma3ForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].numpy()


def mean_kl(folder: Path, source: Path, level: str = "BF16") -> float:
    """KL(transformers || the artifact) over 60 tokens, most of them beyond the window of 32."""
    model = open_model(folder, level)
    try:
        assert isinstance(model, ChatModel)
        ids = [2, *model.tokenize(passage())][:60]
        ours = np.stack(list(model.decoder.prefill([Tokens(tuple(ids))], range(len(ids)))))
    finally:
        model.close()
    return float(kl_divergence(reference_logits(source, ids), ours).mean())


def test_a_token_without_a_row_of_the_embedding_is_not_missed(make: Make, recipe: str) -> None:
    """Gemma 3's text models have the tokenizer of those that see, and no row for a picture's token."""
    source = make(vocab_size=2048)
    tokenizer = read_json(source / "tokenizer.json")
    assert [token["id"] for token in tokenizer["added_tokens"] if token["id"] >= 2048] == [2048]
    folder = exported(source, recipe)
    opening = prepare(folder, "BF16", context=CONTEXT, runtime="default")
    ((_, figures),) = audit_parts([*opening.parts.values()], opening, FullPrecisionRuns(open_source(source)))
    assert figures["texts"] > 0


# ---------------------------------------------------------------- logits


@pytest.mark.parametrize(
    ("layers", "scalar"),
    [
        (7, 32),  # the head's width, as llama.cpp takes it
        (7, 11),
        (7, 200),
        (62, 16),  # width over heads, as llama.cpp takes it for the 27B
        (62, 32),
        (62, 60),
    ],
)
def test_logits_agree_with_transformers_for_any_query_scale(make: Make, recipe: str, layers: int, scalar: int) -> None:
    source = make(layers, scalar)
    assert mean_kl(exported(source, recipe), source) < 2e-3


@pytest.mark.parametrize(("layers", "scalar"), [(7, 11), (62, 60), (3, 32)])
def test_onnx_logits_agree_for_any_query_scale(make: Make, recipe: str, layers: int, scalar: int) -> None:
    """Three layers are all local, and no layer's cache is as long as the text."""
    source = make(layers, scalar)
    assert mean_kl(exported(source, recipe), source, "fp32") < 1e-8


@pytest.mark.parametrize(("layers", "scalar"), [(7, 11), (62, 32)])
def test_without_the_scale_the_same_comparison_fails(
    make: Make, recipe: str, layers: int, scalar: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(layers, scalar)
    monkeypatch.setattr(gguf_form, "query_scale", lambda text: 1.0)
    assert mean_kl(exported(source, recipe), source) > 0.02


def test_the_published_sizes_need_no_scale() -> None:
    for layers, hidden, heads, scalar in (
        (26, 1152, 4, 256),
        (34, 2560, 8, 256),
        (48, 3840, 16, 256),
        (62, 5376, 32, 168),
    ):
        text = GemmaTextConfig(
            hidden_size=hidden,
            intermediate_size=4 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            head_dim=128 if layers == 62 else 256,
            query_pre_attn_scalar=scalar,
        )
        config = MedGemmaConfig(text_config=text)
        assert {form.scale for form in gguf_form.decoder_forms(config).values()} == {1.0}


def test_linear_scaling_of_global_layers(make: Make, recipe: str) -> None:
    """The 27B's rotary embeddings in a flat config.json."""
    rope = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    source = make(12, 32, rope_parameters=rope)
    assert family_of(c := open_checkpoint(source).config).parse(c).text_config.rope_factor == 8.0
    folder = exported(source, recipe)
    assert mean_kl(folder, source) < 2e-3
    assert mean_kl(folder, source, "fp32") < 1e-8


# ---------------------------------------------------------------- what such an artifact is


@pytest.fixture
def opened(make: Make, recipe: str) -> Iterator[Model]:
    model = open_model(exported(make(), recipe))
    yield model
    model.close()


def test_it_answers_text_and_refuses_images(opened: Model) -> None:
    *_, answer = opened.generate([Message("user", "What is a cough?")], max_tokens=3)
    assert isinstance(answer, Generation)
    assert opened.abilities == {"generate", "score"}
    assert opened.score([Message("user", "A cough?")], ["yes", "no"]).shape == (2,)
    with pytest.raises(InputError, match=r"A narrow text model cannot see images(.|\n)*text alone"):
        list(opened.generate([Message("user", Image(photo(30, 30)), "What is this?")]))
    with pytest.raises(UsageError, match="cannot classify"):
        opened.classify([photo(30, 30)], ["a", "b"])


def test_the_manifest_has_no_preprocessing_and_the_usage_line_no_projector(make: Make, recipe: str) -> None:
    folder = exported(make(), recipe)
    found = manifests.read(folder)
    assert found.preprocessing is None
    assert not [key for key in found.settings if key.startswith(("image", "boi", "eoi"))]
    level, served, *_ = artifact_text.usage_lines(folder, found)
    assert level == f"run       {found.default} (default)"
    assert served.startswith(f"with      llama-server -m {folder / 'narrow-BF16.gguf'} ")
    assert "--mmproj" not in served


def test_the_command_line_refuses_an_image(
    make: Make, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before it looks for one."""
    folder, missing = str(exported(make(), recipe)), str(tmp_path / "missing.png")
    assert cli.main(["ask", folder, "What is this?", "--image", missing]) == 1
    assert "cannot see images" in capsys.readouterr().err
    assert cli.main(["classify", folder, missing, "--label", "a"]) == 2
    assert f"cannot classify\nallowed: generate, score\ntry: edgekit ask {folder} QUESTION\n" in capsys.readouterr().err
    assert cli.main(["ask", folder, "What is a cough?", "--max-tokens", "2"]) == 0


def test_a_vision_model_without_its_manifests_preprocessing_is_refused(medgemma_artifact: Path, copied: Any) -> None:
    from edgekit.errors import ArtifactError

    folder = copied(medgemma_artifact)
    edit_json(folder / "edgekit.json", {"preprocessing": None})
    with pytest.raises(ArtifactError, match="preprocessing"):
        open_model(folder)


# ---------------------------------------------------------------- models without a chat template


def test_a_base_model_continues_the_text(make: Make, recipe: str) -> None:
    folder = exported(make(template=False), recipe)
    assert manifests.read(folder).settings["stop_tokens"] == ["<eos>", "<end_of_turn>"]
    model = open_model(folder)
    try:
        assert isinstance(model, ChatModel)
        (segment,) = model.segments([Message("user", " The lungs are")])
        assert isinstance(segment, Tokens)
        assert list(segment.ids) == [2, *model.tokenize(" The lungs are")]
        *_, answer = model.generate([Message("user", "The lungs are")], max_tokens=2)
        assert isinstance(answer, Generation)
        assert any("no chat template" in warning for warning in answer.warnings)
        turns = [Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
        for conversation in (turns, [Message("system", "a"), Message("user", "b")], []):
            with pytest.raises(InputError, match="no chat template"):
                model.segments(conversation)
        with pytest.raises(InputError, match="control token"):
            model.segments([Message("user", "a<bos>")])
    finally:
        model.close()


def test_a_chat_model_says_nothing_about_templates(opened: Model) -> None:
    assert not any("template" in warning for warning in opened.warnings)


# ---------------------------------------------------------------- tokenizers with the image token


def test_only_the_image_token_may_lie_beyond_the_embedding(make: Make, recipe: str) -> None:
    """All Gemma 3 models share a tokenizer; the text models' embedding ends before its <image_soft_token>."""
    source = make(vocab_size=2048)  # where the reference's tokenizer has it
    tokenizer = read_json(source / "tokenizer.json")
    assert {"<image_soft_token>": 2048}.items() <= {t["content"]: t["id"] for t in tokenizer["added_tokens"]}.items()
    folder = exported(source, recipe)
    model = open_model(folder)
    *_, answer = model.generate([Message("user", "What is a cough?")], max_tokens=2)
    model.close()
    assert isinstance(answer, Generation)
    shutil.rmtree(folder)
    edit_json(source / "tokenizer_config.json", {"added_tokens_decoder.2048.content": "<other>"})
    with pytest.raises(CheckpointError, match="'<other>' has id 2048, the embedding has 2048 rows"):
        exported(source, recipe)


# ---------------------------------------------------------------- config.json and key layouts


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"_sliding_window_pattern": 4}, "5 local : 1 global"),
        ({"layer_types": ["full_attention"] * 7}, "5 local : 1 global"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"eos_token_id": "x"}, "eos_token_id"),
    ],
)
def test_a_config_of_another_model(make: Make, recipe: str, changes: dict[str, Any], match: str) -> None:
    source = make()
    edit_json(source / "config.json", changes)
    with pytest.raises(CheckpointError, match=match):
        exported(source, recipe)


def test_any_value_in_any_field_is_accepted_or_refused_by_name(make: Make) -> None:
    config = read_json(make() / "config.json")
    refusals = 0
    for key in (*config, "rope_scaling", "sliding_window_pattern", "_sliding_window_pattern"):
        for value in ("x", [], {}, [{}], -1, 0, 2**31, 10**400, 1.5, True, float("nan"), float("inf"), None):
            damaged = {**config, key: value}
            try:
                parsed = family_of(damaged).parse(damaged)
                family_of(damaged).roles["decoder"].tensors(parsed)
            except CheckpointError:
                refusals += 1
    assert refusals > len(config)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_every_key_layout_exports_to_the_same_bytes(make: Make, recipe: str, prefix: str) -> None:
    source = make()
    before = (exported(source, recipe) / "narrow-BF16.gguf").read_bytes()
    tensors = safetensors_torch.load_file(source / "model.safetensors")
    assert "model.layers.0.self_attn.q_norm.weight" in tensors
    # written in another order, too: the file's order may differ, its tensors may not
    renamed = {
        name.replace("model.", prefix, 1): tensor for name, tensor in tensors.items() if name != "lm_head.weight"
    }
    safetensors_torch.save_file(renamed, source / "model.safetensors")
    shutil.rmtree(source.with_suffix(".artifact"))
    assert (exported(source, recipe) / "narrow-BF16.gguf").read_bytes() == before


# ---------------------------------------------------------------- proven and measured


def test_it_is_proven_like_any_other(make: Make, recipe: str) -> None:
    source = make(max_position_embeddings=4096)
    parts = artifact.export(source, source.with_suffix(".artifact"), recipe_name=recipe).manifest.parts
    assert {part.level for part in parts} == {"BF16", "fp32"}
    for part in parts:
        assert part.parity is not None
        assert part.parity.wiring["mean"] < (0.01 if part.format == "gguf" else 1e-8)


def test_tasks_about_images_are_refused_by_name(make: Make, recipe: str) -> None:
    from edgekit import bench

    folder = exported(make(), recipe)
    with pytest.raises(UsageError, match="task finding-phantom: none of these models answers questions about images"):
        bench.bench(bench.Sweep([folder], tasks=["finding-phantom"], rounds=1))


@pytest.mark.slow
def test_a_benchmark_measures_what_needs_no_image(make: Make, recipe: str) -> None:
    from edgekit import bench

    source = make(max_position_embeddings=4096)
    results = bench.bench(bench.Sweep([exported(source, recipe)], checkpoints=[source], rounds=1))
    assert not results.errors
    (row,) = (record for record in results.records if record.row == "BF16")
    assert row.metric("kl") is not None
    assert row.metric("decode_tokens_per_s") is not None
    assert row.metric("image_encode_ms") is None
