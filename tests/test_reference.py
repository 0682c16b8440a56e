"""The reference models: hub layout, equal tokenizers, and training sequences that equal the processor's prompts."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgekit
from edgekit.bench.parsers import first_named
from edgekit.checkpoints import reference_models
from edgekit.inputs import labels, phantoms
from edgekit.inputs.phantoms import Phantom

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
sentencepiece = pytest.importorskip("sentencepiece")
tokenizers = pytest.importorskip("tokenizers")

from edgekit.reference_models.training import (  # noqa: E402
    architecture,
    conversations,
    decoder,
    folder,
    images,
    loop,
    train_tower,
)


def _shipped(name: str) -> Path:
    path = reference_models.path(name)
    if path is None:
        pytest.skip(f"the weights of {name} are not in this checkout")
    return path


@pytest.fixture(scope="module")
def gemma() -> Path:
    return _shipped("medgemma-reference")


@pytest.fixture(scope="module")
def siglip() -> Path:
    return _shipped("medsiglip-reference")


def _texts(n: int) -> list[str]:
    """Deterministic texts: label phrases, odd spacing, runs of newlines, other scripts, digits, emoji."""
    rng = random.Random(20_260)
    words = [word for label in labels.ALL_LABELS for word in (*label.question.split(), label.name)]
    words += [
        "Größe",
        "naïve",
        "肺炎",
        "пневмония",
        "🫁",
        "12,345.6 mg/dL",
        "<b>",
        "a\tb",
        "e\u0301",
        "ⅷ",
        "T2-weighted",
    ]
    ranges = [(33, 126), (0xA1, 0x24F), (0x370, 0x52F), (0x4E00, 0x9FFF), (0x1F300, 0x1F64F)]
    texts = []
    for index in range(n):
        parts = [rng.choice(words) for _ in range(rng.randint(1, 30))]
        if index % 3 == 1:
            parts += ["".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 12)))]
            rng.shuffle(parts)
        gaps = [" "] if index % 2 else [" ", "  ", "\n", "\n\n", "\n\n\n", "\n" * 9, "\t"]
        texts.append("".join(part + rng.choice(gaps) for part in parts))
    return texts


def _header(path: Path) -> dict[str, object]:
    with path.open("rb") as handle:
        (length,) = struct.unpack("<Q", handle.read(8))
        return json.loads(handle.read(length))


def test_names_are_known_without_torch():
    asked = "from edgekit.checkpoints import reference_models as models; models.path(models.NAMES[0])"
    code = f"import sys; {asked}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert reference_models.path("no such model") is None


def test_yes_no_questions_are_balanced_for_every_label():
    rng = np.random.default_rng(1)
    members = labels.in_modality(labels.BRAIN)
    turns = [conversations.yes_no(members[i % len(members)], rng) for i in range(8000)]
    for label in members:
        answers = [turn.answer for turn in turns if turn.question == label.question]
        assert 0.45 < answers.count("yes") / len(answers) < 0.55


def test_keys_and_config_are_spelled_as_on_the_hub(gemma: Path, siglip: Path):
    keys = set(_header(gemma / "model.safetensors")) - {"__metadata__"}
    assert {key.split(".")[0] for key in keys} == {"language_model", "vision_tower", "multi_modal_projector"}
    assert all(k.startswith(("language_model.model.", "vision_tower.vision_model.", "multi_modal_")) for k in keys)
    text = json.loads((gemma / "config.json").read_text())["text_config"]
    assert (text["rope_theta"], text["rope_scaling"]["factor"], text["rope_local_base_freq"]) == (1e6, 8.0, 1e4)
    assert "rope_parameters" not in text
    keys = set(_header(siglip / "model.safetensors")) - {"__metadata__"}
    assert {key.split(".")[0] for key in keys} == {"text_model", "vision_model", "logit_scale", "logit_bias"}


def test_both_models_together_stay_under_20_mb(gemma: Path, siglip: Path):
    assert sum((path / "model.safetensors").stat().st_size for path in (gemma, siglip)) < 20e6


@pytest.mark.parametrize("name", reference_models.NAMES)
def test_transformers_loads_every_key_and_no_other(name: str):
    config = json.loads((_shipped(name) / "config.json").read_text())
    kind = getattr(transformers, config["architectures"][0])
    _, info = kind.from_pretrained(_shipped(name), output_loading_info=True)
    assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_gemmas_two_tokenizers_give_equal_ids_on_5000_texts(gemma: Path):
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(gemma / "tokenizer.model"))
    fast = tokenizers.Tokenizer.from_file(str(gemma / "tokenizer.json"))
    texts = _texts(5000)
    encoded = fast.encode_batch(texts, add_special_tokens=False)
    assert [t for t, e in zip(texts, encoded, strict=True) if e.ids != pieces.encode(t)] == []
    assert fast.decode(encoded[0].ids) == texts[0]


def test_two_newlines_are_one_token_and_the_image_token_follows_the_pieces(gemma: Path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(gemma)
    assert tokenizer("\n\n", add_special_tokens=False)["input_ids"] == [conversations.TWO_NEWLINES]
    assert tokenizer.image_token_id == architecture.IMAGE_TOKEN == architecture.SENTENCEPIECE_SIZE
    assert len(tokenizer) < architecture.TEXT_ROWS


def test_siglips_two_tokenizers_give_equal_ids(siglip: Path):
    slow = transformers.AutoTokenizer.from_pretrained(siglip)
    fast = tokenizers.Tokenizer.from_file(str(siglip / "tokenizer.json"))
    # As with SigLIP's own files, tokenizer.json keeps "/", "<" and ">", which the Python tokenizer removes.
    texts = [prompt for label in labels.ALL_LABELS for prompt in labels.class_prompts(label)]
    texts += ["Diabetic  retinopathy, severity: none.", "T2-weighted MRI (axial)!", "a"]
    assert [slow(text)["input_ids"] for text in texts] == [fast.encode(text).ids for text in texts]
    assert slow(texts[0], padding="max_length", max_length=64)["input_ids"][-1] == 1


def _answers(folder: Path, pictures: list[np.ndarray], question: str) -> list[str]:
    processor = transformers.AutoProcessor.from_pretrained(folder, backend="pil")
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    user = [{"type": "image"}, {"type": "text", "text": question}]
    prompt = processor.apply_chat_template([{"role": "user", "content": user}], add_generation_prompt=True)
    shown = [[Image.fromarray(picture).convert("RGB")] for picture in pictures]
    inputs = processor(text=[prompt] * len(shown), images=shown, return_tensors="pt")
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    return processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def _right(drawn: list[Phantom], named: list[str | None]) -> float:
    return float(np.mean([phantom.finding == name for phantom, name in zip(drawn, named, strict=True)]))


def test_the_medgemma_like_model_answers_far_above_chance_and_from_the_image(gemma: Path):
    drawn = list(phantoms.generate(images.TEST_SEED, 64))
    answers = _answers(gemma, [phantom.image for phantom in drawn], labels.FINDING_QUESTIONS[0])
    named = [first_named(answer, phantoms.FINDINGS) for answer in answers]
    assert _right(drawn, named) > 0.5  # one in eight by chance
    assert _right([*drawn[1:], drawn[0]], named) < 0.125  # the next phantom has another finding


def test_the_medsiglip_like_model_classifies_far_above_chance(siglip: Path):
    drawn = list(phantoms.generate(images.TEST_SEED, 64))
    processor = transformers.AutoProcessor.from_pretrained(siglip, backend="pil")
    model = transformers.AutoModel.from_pretrained(siglip, dtype=torch.float32).eval()
    prompts = [prompt for label in labels.PHANTOM_LABELS for prompt in labels.class_prompts(label)]
    pictures = [Image.fromarray(phantom.image).convert("RGB") for phantom in drawn]
    ids = processor(text=prompts, padding="max_length", max_length=64, return_tensors="pt")["input_ids"]
    pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        text = torch.nn.functional.normalize(model.text_model(input_ids=ids).pooler_output, dim=-1)
        image = model.vision_model(pixel_values=pixels).pooler_output
    classes = text.unflatten(0, (len(labels.PHANTOM_LABELS), -1)).mean(1)
    best = (image @ torch.nn.functional.normalize(classes, dim=-1).T).argmax(1)
    assert _right(drawn, [phantoms.FINDINGS[i] for i in best]) > 0.4


def test_training_sequences_equal_the_processors_prompts_and_masks(gemma: Path):
    processor = transformers.AutoProcessor.from_pretrained(gemma, backend="pil")
    model = transformers.AutoModelForImageTextToText.from_pretrained(gemma, dtype=torch.float32).eval()
    pixels = np.random.default_rng(0).integers(0, 255, (200, 90, 3), dtype=np.uint8)
    passage = "Pneumonia is an infection of the lungs. " * 8  # longer than the window
    turns = [conversations.Turn("What is the diagnosis?", "glioma"), conversations.Turn("Is it?", "yes", passage)]
    speaker = conversations.Speaker((gemma / "tokenizer.model").read_bytes())
    row = speaker.about_image(turns)
    tower = train_tower.Tower().eval()
    tower.vision.load_state_dict(model.model.vision_tower.state_dict())
    for number, turn in enumerate(turns, 1):
        question = f"{turn.passage}\n\n{turn.question}" if turn.passage else turn.question
        user = [{"type": "image", "image": Image.fromarray(pixels)}, {"type": "text", "text": question}]
        chat = [{"role": "user", "content": user}, {"role": "assistant", "content": turn.answer}]
        inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
        mine = [i for i, branch in enumerate(row.branch) if branch in (0, number)]
        assert inputs["input_ids"][0, : len(mine)].tolist() == row.ids[mine].tolist()
        with torch.no_grad():
            wanted = model(**inputs).logits[0, : len(mine)]
            ours = _logits(model, row, tower.pooled(inputs["pixel_values"]))[mine]
        assert torch.allclose(wanted, ours, atol=1e-3)


def _logits(model, row: conversations.Encoded, pooled):
    ids, positions, branch = (torch.from_numpy(value)[None] for value in (row.ids, row.positions, row.branch))
    text = model.model.language_model
    places = ids == architecture.IMAGE_TOKEN
    embedded = text.embed_tokens(ids.where(~places, 0))
    embedded = embedded.masked_scatter(places[..., None].expand_as(embedded), decoder.project(model, pooled))
    masks = decoder.masks(ids, positions, branch)
    return model.lm_head(text(inputs_embeds=embedded, attention_mask=masks, position_ids=positions).last_hidden_state)[
        0
    ]


def test_the_tied_head_is_not_stored():
    assert folder.hub_key("lm_head.weight") is None
    assert folder.hub_key("model.vision_tower.post_layernorm.bias") == "vision_tower.vision_model.post_layernorm.bias"


def test_training_goes_on_where_it_stopped(tmp_path: Path):
    def run(work: Path, *ends: int) -> torch.Tensor:
        work.mkdir()
        for end in ends:
            torch.manual_seed(0)
            module = torch.nn.Linear(3, 1)

            def loss(
                rng: np.random.Generator, module: torch.nn.Module = module
            ) -> tuple[torch.Tensor, dict[str, float]]:
                return module(torch.from_numpy(rng.random((4, 3), np.float32))).square().mean(), {}

            stage = loop.Stage("tiny", {"module": module}, loss, 6, 0.1, seed=1, warmup=2)
            loop.train(stage, work, until=end)
        return module.weight.detach()

    assert torch.equal(run(tmp_path / "whole", 6), run(tmp_path / "parts", 2, 6))


def test_nothing_imports_how_the_models_were_trained():
    package = Path(edgekit.__file__).parent
    training = package / "reference_models" / "training"
    product = [path for path in package.rglob("*.py") if training not in path.parents]
    assert len(product) > 50
    assert [path for path in product if "reference_models.training" in path.read_text(encoding="utf-8")] == []


def test_a_wheel_has_the_models_and_not_their_training(tmp_path: Path):
    pytest.importorskip("hatchling", reason="the wheel's build backend is not installed")
    root = Path(edgekit.__file__).parent.parent
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(root)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    models = "edgekit/reference_models"
    assert {f"{models}/__init__.py", f"{models}/README.md"} <= names
    for name in reference_models.NAMES:
        files = {path.name for path in _shipped(name).iterdir()}
        assert "model.safetensors" in files
        assert {f"{models}/{name}/{file}" for file in files} <= names
    assert not [name for name in names if "training" in name]
