"""Opening artifacts: what opens, what it can do, and what is refused before a library loads it."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from material import edit_json, one_bit_changed, photo, read_json

from edgekit.artifacts import manifest as manifests
from edgekit.errors import ArtifactError, InputError, UsageError
from edgekit.inputs.message import Image, Message
from edgekit.machine.cpu import cpu
from edgekit.runtime import open_model
from edgekit.runtime.base import Generation, Model
from edgekit.runtime.onnx.session import OrtEncoder
from edgekit.runtime.opening import prepare

Copy = Callable[[Path], Path]
NAME = "edgekit.json"
DEVICE = """
title = "A small board"
memory_gb = 1
model_memory_gb = {memory}
cores = {cores}
bandwidth_gb_s = 4
context = {context}
"""


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A device of one's own with this much memory for a model (GB), this context and these cores."""
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "devices").mkdir(parents=True)

    def make(memory_gb: float, context: int = 4096, cores: int = 2) -> str:
        text = DEVICE.format(memory=memory_gb, context=context, cores=cores)
        (tmp_path / "home" / "devices" / "board.toml").write_text(text)
        return "board"

    return make


@pytest.fixture(scope="module")
def chat(medgemma_artifact: Path) -> Iterator[Model]:
    model = open_model(medgemma_artifact, "Q8_0", context=256)
    yield model
    model.close()


# ---------------------------------------------------------------- what opens


def test_every_level_opens_and_answers(medgemma_artifact: Path) -> None:
    found = manifests.read(medgemma_artifact)
    for level in (None, *found.variants):
        model = open_model(medgemma_artifact, level)
        try:
            assert model.abilities == {"generate", "score", "classify"}
            assert model.title == found.title
            *_, answer = model.generate([Message("user", Image(photo(80, 60)), "What is it?")], max_tokens=3)
        finally:
            model.close()
            model.close()  # twice does no harm
        assert isinstance(answer, Generation)
        assert answer.output_tokens <= 3


def test_two_encoders_open_as_one_model(medsiglip_artifact: Path) -> None:
    model = open_model(medsiglip_artifact)
    images, texts = model.embed_image([photo(80, 60), photo(50, 70, 1)]), model.embed_text(["a", "b", "c"])
    assert images.shape[0] == 2
    assert texts.shape == (3, images.shape[1])
    for rows in (images, texts):
        assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    # the sigmoid of exp(scale) * cosine + bias, with the figures of the manifest
    settings = read_json(medsiglip_artifact / NAME)["settings"]
    logits = np.exp(settings["logit_scale"]) * images @ texts.T + settings["logit_bias"]
    expected = 1 / (1 + np.exp(-logits))
    assert np.allclose(model.classify([photo(80, 60), photo(50, 70, 1)], ["a", "b", "c"]), expected, atol=1e-5)
    model.close()


def test_what_a_model_cannot_do_lists_what_it_can(medsiglip_artifact: Path, chat: Model) -> None:
    model = open_model(medsiglip_artifact)
    with pytest.raises(UsageError, match=r"cannot generate(.|\n)*classify, embed_image, embed_text"):
        list(model.generate([Message("user", "?")]))
    with pytest.raises(UsageError, match=r"cannot embed_text(.|\n)*classify, generate, score"):
        chat.embed_text(["a"])
    model.close()


def test_a_stand_in_and_a_missing_proof_are_said_at_every_open(medgemma_artifact: Path, chat: Model) -> None:
    assert any("not MedGemma" in warning for warning in chat.warnings)
    unproven = [warning for warning in chat.warnings if "parity: not measured" in warning]
    assert len(unproven) == 2
    assert all(f"edgekit prove {medgemma_artifact}" in warning for warning in unproven)


def test_the_package_offers_open(medgemma_artifact: Path) -> None:
    import edgekit

    edgekit.open(medgemma_artifact, level="Q4_0", device="laptop-8gb-cpu").close()


def test_opening_needs_neither_torch_nor_transformers(medgemma_artifact: Path) -> None:
    code = "import sys; from pathlib import Path; from edgekit.runtime import open_model; open_model(Path(sys.argv[1]))"
    code += "; sys.exit(' '.join({'torch', 'transformers', 'onnx', 'gguf', 'safetensors'} & set(sys.modules)) or 0)"
    run = subprocess.run(
        [sys.executable, "-c", code, str(medgemma_artifact)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("kind", ["missing", "changed", "cut"])
@pytest.mark.parametrize("role", ["decoder", "vision", "tokenizer"])
def test_a_file_that_is_not_the_proven_one(medgemma_artifact: Path, copied: Copy, role: str, kind: str) -> None:
    folder = copied(medgemma_artifact)
    found = manifests.read(folder)
    entry = found.tokenizer if role == "tokenizer" else found.variant("Q4_0")[1][role].files[0]
    path = folder / entry.path
    original = path.read_bytes()
    path.unlink()
    if kind != "missing":
        path.write_bytes(original[:-1] + (bytes([original[-1] ^ 1]) if kind == "changed" else b""))
    with pytest.raises(ArtifactError, match=re.escape(str(path))) as caught:
        open_model(folder, "Q4_0")
    assert "export the artifact again" in (caught.value.remedy or "")


@pytest.mark.parametrize(("name", "level"), [("medgemma_onnx", "q4"), ("medsiglip_artifact", "fp32")])
def test_any_file_of_any_part_that_is_not_the_proven_one(
    request: pytest.FixtureRequest, copied: Copy, name: str, level: str
) -> None:
    """Graphs, their weights beside them, a decoder's embedding, what calibration found."""
    folder = copied(request.getfixturevalue(name))
    entries = [file for part in manifests.read(folder).variant(level)[1].values() for file in part.files]
    assert len(entries) == (6 if name == "medgemma_onnx" else 4)
    for entry in entries:
        with (
            one_bit_changed(folder / entry.path),
            pytest.raises(ArtifactError, match=re.escape(str(folder / entry.path)) + ": its SHA-256"),
        ):
            open_model(folder, level).close()
    open_model(folder, level).close()


def test_a_damaged_file_of_another_level_does_not_matter(medgemma_artifact: Path, copied: Copy) -> None:
    folder = copied(medgemma_artifact)
    (folder / manifests.read(folder).variant("BF16")[1]["decoder"].files[0].path).unlink()
    open_model(folder, "Q4_0").close()


@pytest.mark.parametrize("level", ["Q2_K", "q4_0", "int8", " "])
def test_an_unknown_level_lists_those_that_are_here(medgemma_artifact: Path, level: str) -> None:
    with pytest.raises(UsageError, match=re.escape(repr(level))) as caught:
        open_model(medgemma_artifact, level)
    assert caught.value.allowed == "BF16, Q8_0, Q4_0"


def test_an_unknown_device_lists_the_known(medgemma_artifact: Path) -> None:
    with pytest.raises(UsageError, match="unknown device 'toaster'") as caught:
        open_model(medgemma_artifact, device="toaster")
    assert "raspberry-pi-5" in (caught.value.allowed or "")


def test_a_device_too_small_names_the_levels_that_fit(medgemma_artifact: Path, device: Callable[..., str]) -> None:
    found = manifests.read(medgemma_artifact)
    sizes = {
        name: sum(file.bytes for part in found.variant(name)[1].values() for file in part.files) / 1e9
        for name in found.variants
    }
    assert sizes["Q4_0"] < sizes["Q8_0"] < sizes["BF16"]
    between = (sizes["Q4_0"] + sizes["Q8_0"]) / 2
    with pytest.raises(UsageError, match="A small board") as caught:
        open_model(medgemma_artifact, "BF16", device(between, 128))
    assert caught.value.allowed == "Q4_0"
    open_model(medgemma_artifact, "Q4_0", device(between, 128)).close()
    with pytest.raises(UsageError, match="A small board") as caught:
        open_model(medgemma_artifact, "Q4_0", device(1e-6, 128))
    assert caught.value.allowed == "none of this artifact's levels"


def test_a_device_that_gives_next_to_nothing_is_told_in_digits(
    medgemma_artifact: Path, device: Callable[..., str]
) -> None:
    parts = manifests.read(medgemma_artifact).variant("Q4_0")[1].values()
    needed = sum(part.requires["memory_bytes"] for part in parts) / 1e9
    assert needed < 0.05
    with pytest.raises(UsageError) as caught:
        open_model(medgemma_artifact, "Q4_0", device(1e-6))
    said = re.match(r"Q4_0 needs (\S+) GB, A small board gives a model 1e-06 GB$", caught.value.message)
    assert said
    assert float(said[1]) == pytest.approx(needed, rel=0.05)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (3, 3), (64, 4)])
def test_a_devices_cores_are_obeyed_as_far_as_they_are_here(
    medgemma_artifact: Path, device: Callable[..., str], monkeypatch: pytest.MonkeyPatch, cores: int, threads: int
) -> None:
    here = dataclasses.replace(cpu(), usable_cores=4)
    monkeypatch.setattr("edgekit.runtime.opening.cpu", lambda: here)
    prepared = prepare(medgemma_artifact, "Q4_0", device(1, 128, cores))
    assert (prepared.threads, prepared.context) == (threads, 128)
    assert prepare(medgemma_artifact, "Q4_0", "board", context=64).context == 64
    usual = prepare(medgemma_artifact, "Q4_0")
    assert (usual.threads, usual.context) == (4, 4096)


def test_a_devices_context_is_obeyed(medgemma_artifact: Path, device: Callable[..., str]) -> None:
    model = open_model(medgemma_artifact, "Q4_0", device(1, 128))
    with pytest.raises(InputError, match=r"a prompt of \d+ tokens(.|\n)*allowed: 1 to 128"):
        list(model.generate([Message("user", "word " * 200)]))
    model.close()


def test_a_prompt_beyond_the_context_is_refused_and_the_model_goes_on(chat: Model) -> None:
    with pytest.raises(InputError, match=r"a prompt of \d+ tokens(.|\n)*allowed: 1 to 256"):
        list(chat.generate([Message("user", "word " * 400)]))
    *_, answer = chat.generate([Message("user", "word")], max_tokens=2)
    assert isinstance(answer, Generation)


def test_an_answer_never_leaves_the_context(chat: Model) -> None:
    """The prompt leaves a few tokens; the budget asks for more."""
    *_, probe = chat.generate([Message("user", "word ")], max_tokens=1)
    assert isinstance(probe, Generation)
    for words in (100, 150, 200, 220, 230):
        try:
            *_, answer = chat.generate([Message("user", "word " * words)], max_tokens=10_000)
        except InputError:
            continue
        assert isinstance(answer, Generation)
        assert answer.prompt_tokens + answer.output_tokens <= 256


@pytest.mark.parametrize("budget", [0, -1])
def test_an_output_budget_of_nothing(chat: Model, budget: int) -> None:
    with pytest.raises(InputError, match=f"output budget of {budget} tokens(.|\n)*allowed: 1 or more"):
        list(chat.generate([Message("user", "?")], max_tokens=budget))


def test_an_option_without_a_token_cannot_be_scored(chat: Model) -> None:
    with pytest.raises(InputError, match="empty option"):
        chat.score([Message("user", "?")], ["yes", ""])


@pytest.mark.parametrize("name", ["missing.png", "https://example.com/a.png"])
def test_a_wrong_image_is_named(chat: Model, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=re.escape(name)):
        list(chat.generate([Message("user", Image(name), "?")]))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"settings.image_tokens": "many"}, "settings.image_tokens"),
        ({"settings.image_tokens": ...}, "settings.image_tokens"),
        *(({"settings.context": value}, "settings.context") for value in (0, {}, "x", None, [1])),
        ({"settings.stop_token_ids": [[1]]}, "settings.stop_token_ids"),
        ({"variants.Q4_0.decoder": ...}, "vision makes no model"),
        ({"settings.image_tokens": 17}, "17"),
    ],
)
def test_a_manifest_that_does_not_say_what_a_model_needs(
    medgemma_artifact: Path, copied: Copy, changes: dict[str, object], match: str
) -> None:
    folder = copied(medgemma_artifact)
    edit_json(folder / NAME, changes)
    with pytest.raises(ArtifactError, match=match):
        answer(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1"])
@pytest.mark.parametrize("key", ["logit_scale", "logit_bias"])
def test_a_scale_that_is_no_number_is_refused(medsiglip_artifact: Path, copied: Copy, key: str, value: object) -> None:
    folder = copied(medsiglip_artifact)
    edit_json(folder / NAME, {f"settings.{key}": value})
    with pytest.raises(ArtifactError, match=rf"edgekit\.json: settings\.{key}: "):
        open_model(folder, "fp32")


def answer(folder: Path) -> None:
    model = open_model(folder, "Q4_0")
    try:
        list(model.generate([Message("user", Image(photo(40, 40)), "?")], max_tokens=1))
    finally:
        model.close()


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"not a model", b"GGUF\x03\0\0\0" + b"\xff" * 41, b"GGUF\x03\0\0\0" + bytes(16)]
)
@pytest.mark.parametrize("role", ["decoder", "vision"])
def test_a_file_that_is_no_gguf_model(medgemma_artifact: Path, copied: Copy, role: str, content: bytes) -> None:
    """With the right hash, so that only its content can tell; the last is a header without any entry."""
    folder = copied(medgemma_artifact)
    replace(folder, "Q4_0", role, content)
    with pytest.raises(ArtifactError, match=r"\.gguf: "):
        open_model(folder, "Q4_0")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a"])
def test_a_file_that_onnx_runtime_cannot_load(medsiglip_artifact: Path, copied: Copy, content: bytes) -> None:
    folder = copied(medsiglip_artifact)
    replace(folder, "fp32", "image_encoder", content)
    with pytest.raises(ArtifactError, match=r"vision_model\.onnx"):
        open_model(folder, "fp32")


def test_a_size_that_the_encoder_does_not_take(medsiglip_artifact: Path, copied: Copy) -> None:
    """Said when it is opened, not by a library at the first image."""
    folder = copied(medsiglip_artifact)
    edit_json(folder / NAME, {"preprocessing.size": 96, "foreign": True})
    with pytest.raises(ArtifactError, match=r"vision_model\.onnx: input pixel_values is FLOAT \[batch, 3, ") as caught:
        open_model(folder, "fp32")
    assert caught.value.allowed == "FLOAT [any, 3, 96, 96]"


def test_what_was_opened_is_closed_where_the_rest_fails(
    medsiglip_artifact: Path, copied: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, closed = copied(medsiglip_artifact), []
    edit_json(folder / NAME, {"settings.text_length": 7, "foreign": True})
    monkeypatch.setattr(OrtEncoder, "close", lambda encoder: closed.append(encoder.spec.input))
    with pytest.raises(ArtifactError, match=r"text_model\.onnx: input input_ids is INT64"):
        open_model(folder, "fp32", runtime="onnxruntime")  # whatever was measured here
    assert closed == ["pixels"]


def test_the_token_embedding_is_found_by_its_name(medgemma_onnx: Path, copied: Copy) -> None:
    """Not by its place among a part's files."""
    folder = copied(medgemma_onnx)
    data = read_json(folder / NAME)
    (index,) = (i for i, part in enumerate(data["parts"]) if part["role"] == "decoder")
    decoder, weights, embedding = data["parts"][index]["files"]
    edit_json(folder / NAME, {f"parts.{index}.files": [decoder, embedding, weights]})
    open_model(folder, "q4").close()
    edit_json(folder / NAME, {f"parts.{index}.files": [decoder, weights]})
    with pytest.raises(ArtifactError, match=r"decoder_model_merged_q4\.onnx: no embed_tokens\*\.onnx beside it"):
        open_model(folder, "q4")


def replace(folder: Path, level: str, role: str, content: bytes) -> None:
    """Put other bytes in place of a part's first file, and describe them truthfully."""
    data = read_json(folder / NAME)
    part_id = data["variants"][level][role]
    index = next(i for i, part in enumerate(data["parts"]) if part["id"] == part_id)
    path = folder / data["parts"][index]["files"][0]["path"]
    path.write_bytes(content)
    entry = manifests.file_entry(folder, path)
    edit_json(folder / NAME, {f"parts.{index}.files.0": entry.model_dump()})


def test_what_an_image_is_worth_is_what_the_file_gives(medgemma_artifact: Path, chat: Model) -> None:
    tokens = read_json(medgemma_artifact / NAME)["settings"]["image_tokens"]
    *_, without = chat.generate([Message("user", "?")], max_tokens=1)
    *_, one = chat.generate([Message("user", Image(photo(40, 40)), "?")], max_tokens=1)
    *_, two = chat.generate([Message("user", Image(photo(40, 40)), Image(photo(30, 50)), "?")], max_tokens=1)
    counts = [answer.prompt_tokens for answer in (without, one, two) if isinstance(answer, Generation)]
    # each image brings its tokens, its begin and end, and the line breaks around it
    assert counts[1] - counts[0] >= tokens + 2
    assert counts[2] - counts[1] >= tokens + 2
