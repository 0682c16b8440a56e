"""Stand-ins: exact shapes, hub names, determinism, tokenizers that agree, and weights on which a proof is not empty."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors
import sentencepiece
import torch
import transformers
from material import contents, edit_json, read_json
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgekit import metrics
from edgekit.artifacts import find
from edgekit.artifacts.folders import claimed
from edgekit.artifacts.levels import LEVELS
from edgekit.artifacts.recipes import choose, recipe
from edgekit.checkpoints import random_weights, shards
from edgekit.checkpoints.checkpoint import open_checkpoint
from edgekit.cli import main
from edgekit.errors import EdgekitError, NoSpaceError, UsageError
from edgekit.export import copied_tokenizer, job
from edgekit.export.synthesize import configuration, synthesize
from edgekit.families import FAMILIES, family_of
from edgekit.families.gemma3 import generated_tokenizer as gemma_tokenizer
from edgekit.families.siglip import generated_tokenizer as siglip_tokenizer
from edgekit.families.siglip.text import encode_siglip, siglip_text
from edgekit.families.source import Source, open_source
from edgekit.full_precision import model as torch_reference
from edgekit.inputs import image as images
from edgekit.inputs import phantoms
from edgekit.inputs.passage import passage, sentences

# Widths that keep the real shapes' traits: query width unequal to the hidden size, 7 layers of which one is global.
NARROW = """
extends = "medgemma-4b"
title = "Narrow"
stem = "narrow"
source = "nobody/narrow"
[match]
"text_config.hidden_size" = 320
[config]
boi_token_index = 2040
eoi_token_index = 2041
image_token_index = 2048
mm_tokens_per_image = 64
[config.text_config]
hidden_size = 320
intermediate_size = 1024
num_hidden_layers = 7
num_attention_heads = 4
num_key_value_heads = 2
head_dim = 64
query_pre_attn_scalar = 64
vocab_size = 2112
max_position_embeddings = 8192
sliding_window = 64
[config.vision_config]
hidden_size = 160
intermediate_size = 336
num_hidden_layers = 2
num_attention_heads = 4
image_size = 224
"""
NARROW_TEXT = """
extends = "medgemma-27b-text"
title = "Narrow text"
stem = "narrow-text"
source = "nobody/narrow-text"
match = { hidden_size = 320 }
[config]
hidden_size = 320
intermediate_size = 1024
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
head_dim = 64
query_pre_attn_scalar = 80
vocab_size = 2112
max_position_embeddings = 8192
sliding_window = 64
"""
NARROW_SIGLIP = """
extends = "medsiglip"
title = "Narrow SigLIP"
stem = "narrow-siglip"
source = "nobody/narrow-siglip"
[match]
"vision_config.hidden_size" = 320
[config.text_config]
hidden_size = 320
intermediate_size = 688
num_attention_heads = 5
num_hidden_layers = 8
projection_size = 320
vocab_size = 1800
[config.vision_config]
hidden_size = 320
intermediate_size = 688
num_attention_heads = 5
num_hidden_layers = 8
image_size = 224
"""
OURS = {"narrow": NARROW, "narrow-text": NARROW_TEXT, "narrow-siglip": NARROW_SIGLIP}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One stand-in of each narrow recipe."""
    home = tmp_path_factory.mktemp("home")
    (home / "exports").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_HOME", str(home))
        for name, text in OURS.items():
            (home / "exports" / f"{name}.toml").write_text(text)
            synthesize(name, home / name)
    return {name: home / name for name in OURS} | {"home": home}


@pytest.fixture
def home(written: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the narrow recipes known."""
    monkeypatch.setenv("EDGEKIT_HOME", str(written["home"]))
    return written["home"]


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    ("name", "tensors", "weights"),
    [
        # As published (model cards, loaders) or summed from the published configurations, without this code.
        ("medgemma-4b", 883, 4_300_079_472),
        ("medgemma-1.5-4b", 883, 4_300_079_472),
        ("gemma-3-4b", 883, 4_300_079_472),
        ("gemma-3-12b", None, 12_187_325_040),
        ("medgemma-27b", None, 27_432_406_640),
        ("gemma-3-27b", None, 27_432_406_640),
        ("medgemma-27b-text", None, 27_009_346_304),
        ("gemma-3-1b", None, 999_885_952),
        ("gemma-3-270m", None, 268_098_176),
        ("medsiglip", 888, 878_300_338),
    ],
)
def test_shapes_are_the_published_ones(name: str, tensors: int | None, weights: int) -> None:
    model = recipe(name)
    family = FAMILIES[model.family]
    specs = family.tensors(family.parse(configuration(model)))
    assert sum(math.prod(slot.shape) for slot in specs) == weights
    assert tensors in (None, len(specs))
    assert choose(configuration(model), name).name == name


def test_every_recipe_of_a_real_model_can_be_synthesized() -> None:
    real = [model for model in map(recipe, find.names("exports")) if model.stand_in is None]
    assert len(real) >= 10
    assert all(model.config for model in real)


@pytest.mark.parametrize("name", OURS)
def test_a_stand_in_is_a_whole_checkpoint_of_its_family(written: dict[str, Path], name: str) -> None:
    source = open_source(written[name])
    source.check_tensors()
    checkpoint = source.checkpoint
    assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {"BF16"}
    assert "not a model" in checkpoint.config["edgekit_stand_in"]
    weights = torch_reference.load(source).state_dict()
    assert all(torch.isfinite(value).all() for value in weights.values())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("narrow", transformers.Gemma3ForConditionalGeneration),
        ("narrow-text", transformers.Gemma3ForCausalLM),
        ("narrow-siglip", transformers.SiglipModel),
    ],
)
def test_transformers_loads_it_without_a_missing_key(written: dict[str, Path], name: str, kind: Any) -> None:
    _, report = kind.from_pretrained(written[name], output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]


def test_hub_names(written: dict[str, Path]) -> None:
    with safetensors.safe_open(written["narrow"] / "model.safetensors", "np") as stored:
        names = set(stored.keys())
    assert "language_model.model.layers.6.self_attn.q_norm.weight" in names
    assert "vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias" in names
    assert "multi_modal_projector.mm_input_projection_weight" in names
    with safetensors.safe_open(written["narrow-text"] / "model.safetensors", "np") as stored:
        assert "model.embed_tokens.weight" in set(stored.keys())


# ---------------------------------------------------------------- files


def test_small_files_are_those_of_the_hub(written: dict[str, Path]) -> None:
    folder = written["narrow"]
    assert read_json(folder / "generation_config.json")["eos_token_id"] == [1, 106]
    assert read_json(folder / "processor_config.json")["image_seq_length"] == 64
    processor = read_json(folder / "preprocessor_config.json")
    assert (processor["resample"], processor["size"]) == (2, {"height": 224, "width": 224})
    assert read_json(written["narrow-siglip"] / "preprocessor_config.json")["resample"] == 3
    assert not (written["narrow-text"] / "preprocessor_config.json").exists()
    assert not (written["narrow-siglip"] / "generation_config.json").exists()


def test_shards_are_bounded_and_indexed(home: Path, tmp_path: Path) -> None:
    done = synthesize("narrow", tmp_path / "sharded", shard_bytes=3_000_000)
    files = sorted(done.folder.glob("*.safetensors"))
    assert len(files) > 2
    assert [path.name for path in files] == [
        f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)
    ]
    index = read_json(done.folder / "model.safetensors.index.json")
    assert index["metadata"]["total_size"] == done.bytes == 2 * done.weights
    single, sharded = open_checkpoint(home / "narrow"), open_checkpoint(done.folder)  # which checks index and shards
    assert single.tensors.keys() == sharded.tensors.keys() == index["weight_map"].keys()
    for name, tensor in single.tensors.items():  # shards change nothing
        assert np.array_equal(single.read(tensor), sharded.read(sharded.tensors[name]))
    largest = max(tensor.bytes for tensor in single.tensors.values())
    assert all(path.stat().st_size < max(3_000_000, largest) + 100_000 for path in files)


def test_the_same_seed_gives_the_same_bytes(home: Path, tmp_path: Path) -> None:
    synthesize("narrow", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(home / "narrow")
    synthesize("narrow", tmp_path / "other", seed=1)
    differing = {name for name, data in contents(tmp_path / "other").items() if data != contents(home / "narrow")[name]}
    assert differing == {"model.safetensors"}


def test_an_architecture_is_asked_for_what_it_states_never_by_name(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, "renamed", dataclasses.replace(FAMILIES["medsiglip"], name="renamed"))
    renamed = tmp_path / "renamed.toml"
    renamed.write_text('family = "renamed"\nextends = "narrow-siglip"\n')
    synthesize(str(renamed), tmp_path / "renamed")
    assert contents(tmp_path / "renamed") == contents(home / "narrow-siglip")


def test_proofs_on_random_weights_are_stricter(home: Path, medgemma_source: Path) -> None:
    made = job.resolve(home / "narrow", "narrow", [], {})
    for name in ("Q4_0", "q4_128"):
        row = LEVELS[name].limits
        assert made.gates.limits(name, row).wiring_kl < made.recipe.gates.limits(name, row).wiring_kl
    trained = job.resolve(medgemma_source, None, [], {})
    assert trained.gates == trained.recipe.gates


def test_layers_are_cut_and_nothing_else(home: Path, tmp_path: Path) -> None:
    done = synthesize("narrow", tmp_path / "cut", layers=3, vision_layers=1)
    config = read_json(done.folder / "config.json")
    assert config["text_config"]["num_hidden_layers"] == 3
    assert config["vision_config"]["num_hidden_layers"] == 1
    whole = read_json(home / "narrow" / "config.json")
    edit_json(done.folder / "config.json", {"text_config.num_hidden_layers": 7, "vision_config.num_hidden_layers": 2})
    assert read_json(done.folder / "config.json") == whole


def test_a_cut_stand_in_still_fits_its_recipe() -> None:
    cut = configuration(recipe("medgemma-4b"), 7)
    assert choose(cut, "medgemma-4b").name == "medgemma-4b"
    with pytest.raises(UsageError, match="num_hidden_layers = 7, not 34"):
        choose({key: value for key, value in cut.items() if key != "edgekit_stand_in"}, "medgemma-4b")


@pytest.mark.parametrize(
    ("name", "layers", "vision", "match"),
    [
        ("narrow", 0, None, "--layers 0"),
        ("narrow", 8, None, "--layers 8"),
        ("narrow", None, 3, "--vision-layers 3"),
        ("narrow-text", None, 1, "no vision tower"),
        (
            "reference-medgemma",
            None,
            None,
            r"no \[config\] of its model\nallowed: .*gemma-3-1b, (.*, )?narrow(?!.*reference)(.|\n)*"
            "try: edgekit export medgemma-reference --to DIR",
        ),
        ("nothing", None, None, "unknown recipe"),
    ],
)
def test_wrong_requests_leave_nothing(
    home: Path, tmp_path: Path, name: str, layers: int | None, vision: int | None, match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        synthesize(name, tmp_path / "a", layers=layers, vision_layers=vision)
    assert list(tmp_path.iterdir()) == []


def test_a_full_folder_is_not_touched(home: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        synthesize("narrow", tmp_path)
    assert contents(tmp_path) == {"mine.txt": b"mine"}


def test_an_empty_folder_is_used_and_an_interrupted_run_is_forgotten(home: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with claimed(tmp_path / ".a.partial"):
        (tmp_path / ".a.partial" / "model.safetensors").write_bytes(b"half")
    synthesize("narrow", tmp_path / "a", layers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failure_leaves_nothing(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "write_index", full)
    with pytest.raises(NoSpaceError, match="a: no space left on the disk"):
        synthesize("narrow", tmp_path / "a", layers=1)
    assert list(tmp_path.iterdir()) == []


def test_a_small_disk_is_foreseen(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10**12, used=10**12, free=10**9))
    with pytest.raises(EdgekitError, match=r"1\.0 GB are free, the stand-in needs 8\.7 GB"):
        synthesize("medgemma-4b", tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_it_wrote(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synthesize", "narrow", str(tmp_path / "a"), "--layers", "1", "--seed", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["seed"], told["recipe"], told["tokenizer"]) == (3, "narrow", None)
    assert main(["synthesize", "narrow", str(tmp_path / "a")]) == 2
    assert "not empty" in capsys.readouterr().err


# ---------------------------------------------------------------- tokenizers


TEXTS = (
    passage(),
    "user\n\n\nmodel \n  two  spaces, tabs\t\tand 12,345.67 %",
    "Lungenentzündung, 肺炎, пневмония, ذات الرئة, 🫁",
    "<start_of_turn>user\n<unused94>thought<unused95>\n\n\n\n<start_of_image><end_of_turn>",
    "aaaaaaa thethethe ininin ationation nodulenodule",
    "".join(map(chr, range(1, 400))),
)


def _generate(folder: Path, name: str) -> None:
    """Write the generated tokenizer of a recipe's model."""
    family = FAMILIES[recipe(name).family]
    family.synthesis.write_tokenizer(folder, family.parse(configuration(recipe(name))))


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated tokenizer of Gemma's size."""
    folder = tmp_path_factory.mktemp("big")
    _generate(folder, "medgemma-4b")
    return folder


@pytest.mark.parametrize("text", TEXTS)
def test_generated_gemma_tokenizers_agree(written: dict[str, Path], big: Path, text: str) -> None:
    for folder in (big, written["narrow"], written["narrow-text"]):
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
        if folder == written["narrow-text"] and "<start_of_image>" in text:
            assert "<start_of_image>" not in read_json(folder / "tokenizer.json")["model"]["vocab"]
        assert ids == pieces.encode(text)
        assert pieces.decode(ids) == text


def test_a_generated_tokenizer_has_gemmas_ids(big: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(big)
    known = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<start_of_turn>": 105, "<end_of_turn>": 106}
    known |= {"\n": 107, "\n\n": 108, "<start_of_image>": 255_999, "<end_of_image>": 256_000}
    known |= {"<image_soft_token>": 262_144, "<unused94>": 100, "<unused95>": 101}
    assert tokenizer.convert_tokens_to_ids(list(known)) == list(known.values())
    assert len(tokenizer) == 262_145
    assert tokenizer(passage(), add_special_tokens=False)["input_ids"] == sentencepiece.SentencePieceProcessor(
        model_file=str(big / "tokenizer.model")
    ).encode(passage())
    assert read_json(big / "tokenizer_config.json")["edgekit_generated"] is True


def test_a_generated_tokenizer_knows_words(big: Path) -> None:
    """A text must not fall apart into bytes and letters: prompts would be as long as no real prompt is."""
    ids = Tokenizer.from_file(str(big / "tokenizer.json")).encode(passage(), add_special_tokens=False).ids
    assert len(ids) < 1.2 * len(passage().split())
    assert len(ids) > 1024 + 256  # beyond MedGemma's window


def test_a_chat_is_rendered_as_gemma_renders_it(written: dict[str, Path]) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(written["narrow"])
    turns = [
        {"role": "system", "content": "You look."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " What is it? "}]},
        {"role": "assistant", "content": "A lung."},
        {"role": "user", "content": "Sure?"},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<bos><start_of_turn>user\nYou look.\n\n<start_of_image>What is it?<end_of_turn>\n<start_of_turn>model\n"
        "A lung.<end_of_turn>\n<start_of_turn>user\nSure?<end_of_turn>\n<start_of_turn>model\n"
    )


def test_generated_siglip_tokenizers_agree(tmp_path: Path) -> None:
    _generate(tmp_path, "medsiglip")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert len(pieces) == tokenizer.get_vocab_size() == 32_000
    for text in sentences():
        assert tokenizer.encode(text).ids == [*pieces.encode(siglip_text(text)), 1]


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(UsageError, match="a vocabulary of 300"):
        gemma_tokenizer.pieces(300, {0: "<pad>"})
    with pytest.raises(UsageError, match="a vocabulary of 500"):
        siglip_tokenizer.pieces(500)


def test_a_given_tokenizer_is_copied(home: Path, medgemma_source: Path, tmp_path: Path) -> None:
    done = synthesize("narrow", tmp_path / "a", layers=1, tokenizer=medgemma_source)
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        assert (done.folder / name).read_bytes() == (medgemma_source / name).read_bytes()


def test_a_tokenizer_beyond_the_embedding_is_refused(
    home: Path, big: Path, tmp_path: Path, copied: Callable[[Path], Path]
) -> None:
    with pytest.raises(UsageError, match=r"has id 262144, the embedding has 2112 rows"):
        synthesize("narrow", tmp_path / "a", tokenizer=big)
    with pytest.raises(UsageError, match=r"no tokenizer\.json"):
        synthesize("narrow", tmp_path / "a", tokenizer=tmp_path)
    odd = copied(home / "narrow")
    edit_json(odd / "tokenizer_config.json", {"added_tokens_decoder": {"2112": {"content": "<new>"}}})
    with pytest.raises(UsageError, match="'<new>' has id 2112"):
        synthesize("narrow", tmp_path / "a", tokenizer=odd)
    assert not (tmp_path / "a").exists()


def test_a_model_of_text_alone_may_have_the_image_token_beyond_its_embedding(big: Path) -> None:
    unused = FAMILIES["medgemma-text"].unused_tokens
    copied_tokenizer.check(big, 262_144, unused)
    with pytest.raises(UsageError, match="image_soft_token"):
        copied_tokenizer.check(big, 262_144, frozenset())


# ---------------------------------------------------------------- weights


def test_weights_are_normal_and_rows_do_not_repeat() -> None:
    """With few normals for many weights, rows are read again; they must not be the same rows."""
    height, width = 2048, 256
    plain = random_weights.Scales(np.ones(height, np.float32), np.ones(width, np.float32))
    normals = random_weights.Normals(0, block=1 << 16, stretch=1 << 12)
    flat = np.concatenate(list(normals.fill("a", plain))).astype(np.uint32) << 16
    weights = flat.view(np.float32).reshape(height, width)
    assert abs(weights.std() - 1) < 0.02
    assert abs(weights.mean()) < 0.02
    assert np.abs((weights**4).mean() / 3 - 1) < 0.1
    unit = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    alike = np.abs(unit @ unit.T - np.eye(height, dtype=np.float32)).max()
    assert alike < 6.5 / math.sqrt(width)  # of 2 million independent pairs, the closest lie at about 5.3
    assert np.linalg.matrix_rank(weights) == width


def test_bf16_is_the_nearest() -> None:
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    assert np.array_equal(random_weights.to_bf16(values.copy()), expected)


def test_outliers_stand_out(written: dict[str, Path]) -> None:
    checkpoint = open_checkpoint(written["narrow"])
    read = functools.cache(lambda name: checkpoint.read(checkpoint.tensors[f"language_model.model.{name}.weight"]))
    gains = 1 + read("layers.3.input_layernorm")
    assert 10 < gains.max() / np.median(gains) < 50
    columns = np.sqrt((read("layers.3.mlp.gate_proj") ** 2).mean(0))
    assert 4 < columns.max() / np.median(columns) < 12


Logits = NDArray[np.float32]
GATE = 0.01  # the mean KL at which a wiring proof refuses


@pytest.fixture(scope="module")
def decoder(written: dict[str, Path]) -> tuple[Any, Any, list[int]]:
    """The narrow decoder in float32 transformers, an image's tokens, and the passage's ids."""
    checkpoint = open_checkpoint(written["narrow"])
    family = family_of(checkpoint.config)
    config = family.parse(checkpoint.config)
    model = torch_reference.load(Source(checkpoint, family, config))
    preprocessing = family.preprocessing(checkpoint, config)
    assert preprocessing is not None
    pixels = images.to_pixels([p.image for p in phantoms.generate(20_260, 2)], preprocessing)
    with torch.inference_mode():
        tokens = model.model.get_image_features(torch.from_numpy(images.normalize(pixels, preprocessing))).pooler_output
    ids = Tokenizer.from_file(str(checkpoint.root / "tokenizer.json")).encode(passage()).ids
    return model, tokens, ids


def logits(model: Any, tokens: Any, ids: list[int], *, image_sees_itself: bool = True) -> Logits:
    """Logits beyond the window of a text, and from an image on."""
    embed, window, rows = model.get_input_embeddings(), 64, []
    with torch.inference_mode():
        text = embed(torch.tensor(ids[:256]))
        mixed = torch.cat([text[:16], tokens[0], text[16:48]])
        kinds = [0] * 16 + [int(image_sees_itself)] * 64 + [0] * 32
        for embedded, kind, start in ((text, [0] * 256, window), (mixed, kinds, 16)):
            hidden = model.model(inputs_embeds=embedded[None], token_type_ids=torch.tensor([kind])).last_hidden_state[0]
            rows.append(model.lm_head(hidden[start:]).numpy())
    return np.concatenate(rows)


def norms_without_one(model: Any) -> Any:
    for module in model.model.language_model.modules():
        if type(module).__name__ == "Gemma3RMSNorm":
            module.weight.data -= 1
    return model


def global_layers_unscaled(model: Any) -> Any:
    model.model.language_model.rotary_emb.full_attention_inv_freq *= 8
    return model


def local_layers_scaled(model: Any) -> Any:
    model.model.language_model.rotary_emb.sliding_attention_inv_freq /= 8
    return model


def unscaled_embeddings(model: Any) -> Any:
    model.get_input_embeddings().embed_scale.fill_(1)
    return model


def no_window(model: Any) -> Any:
    model.config.text_config.sliding_window = 100_000
    return model


def half_the_window(model: Any) -> Any:
    model.config.text_config.sliding_window = 32
    return model


MISTAKES = (
    norms_without_one,
    global_layers_unscaled,
    local_layers_scaled,
    unscaled_embeddings,
    no_window,
    half_the_window,
)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_show_on_a_stand_in(decoder: tuple[Any, Any, list[int]], mistake: Callable[[Any], Any]) -> None:
    import copy

    model, tokens, ids = decoder
    with torch.no_grad():
        wrong = logits(mistake(copy.deepcopy(model)), tokens, ids)
    assert metrics.kl_divergence(logits(model, tokens, ids), wrong).mean() > 3 * GATE


def test_a_causal_image_mask_shows_on_a_stand_in(decoder: tuple[Any, Any, list[int]]) -> None:
    model, tokens, ids = decoder
    right, wrong = logits(model, tokens, ids), logits(model, tokens, ids, image_sees_itself=False)
    image = slice(256 - 64, None)  # this prompt's rows
    assert metrics.kl_divergence(right[image], wrong[image]).mean() > 2 * GATE


def test_int8_activations_do_not_look_like_a_mistake(decoder: tuple[Any, Any, list[int]]) -> None:
    """What a right export does: it multiplies activations that are rounded to 8 bits in blocks of 32."""

    def rounded(module: Any, inputs: Any) -> Any:
        blocks = inputs[0].unflatten(-1, (-1, 32))
        scale = blocks.abs().amax(-1, keepdim=True) / 127 + 1e-12
        return ((blocks / scale).round() * scale).flatten(-2)

    model, tokens, ids = decoder
    linear = [m for m in (*model.model.language_model.modules(), model.lm_head) if isinstance(m, torch.nn.Linear)]
    hooks = [module.register_forward_pre_hook(rounded) for module in linear]
    try:
        right = logits(model, tokens, ids)
    finally:
        for hook in hooks:
            hook.remove()
    assert metrics.kl_divergence(logits(model, tokens, ids), right).mean() < GATE / 5


def test_logits_are_neither_certain_nor_uniform(decoder: tuple[Any, Any, list[int]]) -> None:
    model, tokens, ids = decoder
    rows = torch.from_numpy(logits(model, tokens, ids)).double()
    p = torch.softmax(rows, -1)
    entropy = -(p * torch.log(p.clamp_min(1e-30))).sum(-1)
    assert 3 < entropy.mean() < math.log(2112) - 0.7
    assert p.max(-1).values.mean() < 0.5
    own = rows[: 256 - 64].argmax(-1).numpy() == np.array(ids[64:256])
    assert own.mean() < 0.05  # a tied embedding must not repeat the input


def test_different_images_have_different_embeddings(
    written: dict[str, Path], decoder: tuple[Any, Any, list[int]]
) -> None:
    flat = decoder[1].flatten(1)
    assert torch.nn.functional.cosine_similarity(flat[:1], flat[1:]).max() < 0.95
    checkpoint = open_checkpoint(written["narrow-siglip"])
    family = family_of(checkpoint.config)
    config = family.parse(checkpoint.config)
    model, preprocessing = (
        torch_reference.load(Source(checkpoint, family, config)),
        family.preprocessing(checkpoint, config),
    )
    assert preprocessing is not None
    pixels = images.to_pixels([p.image for p in phantoms.generate(20_260, 3)], preprocessing)
    tokenizer = Tokenizer.from_file(str(checkpoint.root / "tokenizer.json"))
    ids = encode_siglip(tokenizer, sentences()[:3], 64, 1)
    with torch.inference_mode():
        pooled = (
            model.vision_model(pixel_values=torch.from_numpy(images.normalize(pixels, preprocessing))).pooler_output,
            model.text_model(input_ids=torch.from_numpy(ids)).pooler_output,
        )
    for embeddings in pooled:
        cosines = torch.nn.functional.cosine_similarity(embeddings[:, None], embeddings[None], dim=-1)
        assert cosines[~torch.eye(3, dtype=torch.bool)].max() < 0.97
        assert torch.isfinite(embeddings).all()
