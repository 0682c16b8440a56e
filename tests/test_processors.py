"""How images become pixels and texts ids: as AutoProcessor reads it, from whichever files transformers saved it in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from material import Copy, contents, edit_json, photo, read_json

from edgekit.artifacts import manifest as manifests
from edgekit.errors import ArtifactError, CheckpointError
from edgekit.families.siglip.text import siglip_text
from edgekit.families.source import open_source
from edgekit.inputs.image import normalize, to_pixels
from edgekit.inputs.text import load_tokenizer
from edgekit.inputs.tokenizer_texts import texts
from edgekit.prove import publish as artifact
from edgekit.runtime import open_model

transformers = pytest.importorskip("transformers")

OLD, NEW = "preprocessor_config.json", "processor_config.json"
HONOURED: dict[str, dict[str, Any]] = {
    "as published": {},
    "no size": {"size": ...},
    "a number for a size": {"size": 224},
    "no resample": {"resample": ...},
    "bicubic": {"resample": 3},
    "lanczos": {"resample": 1},
    "nearest": {"resample": 0},
    "another mean": {"image_mean": [0.4, 0.45, 0.5], "image_std": [0.2, 0.3, 0.4]},
    "no mean": {"image_mean": ..., "image_std": ...},
    "fast": {"image_processor_type": "Gemma3ImageProcessorFast"},
    "no type": {"image_processor_type": ...},
    "no factor": {"rescale_factor": ...},
    "no steps": {"do_resize": ..., "do_rescale": ..., "do_normalize": ...},
}
REFUSED: dict[str, dict[str, Any]] = {
    "not normalized": {"do_normalize": None},
    "not resized": {"do_resize": None},
    "not rescaled": {"do_rescale": None},
    "no factor": {"rescale_factor": None},
    "resample null": {"resample": None},
    "mean null": {"image_mean": None},
    "resample true": {"resample": True},
    "the shorter side": {"size": {"shortest_edge": 224}},
    "another processor": {"image_processor_type": "SiglipImageProcessor"},
    "cropped": {"do_center_crop": True, "crop_size": {"height": 100, "width": 100}},
    "padded": {"do_pad": True},
}


def nested(folder: Path) -> None:
    """The image processor's settings where transformers 5 saves them, and nowhere else."""
    edit_json(folder / NEW, {"image_processor": read_json(folder / OLD)})
    (folder / OLD).unlink()


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("case", HONOURED)
def test_pixels_are_those_of_autoprocessor(medgemma_source: Path, copied: Copy, case: str, inside: bool) -> None:
    folder = copied(medgemma_source)
    edit_json(folder / OLD, HONOURED[case])
    if inside:
        nested(folder)
    picture = photo(260, 300)
    theirs = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True, backend="pil").image_processor
    expected = theirs(images=[[PIL.Image.fromarray(picture)]], return_tensors="np")["pixel_values"][0]
    found = open_source(folder).preprocessing
    assert found is not None
    np.testing.assert_allclose(normalize(to_pixels([picture], found), found)[0], expected, atol=1e-5)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_done_is_refused(medgemma_source: Path, copied: Copy, case: str, inside: bool) -> None:
    folder = copied(medgemma_source)
    edit_json(folder / OLD, REFUSED[case])
    if inside:
        nested(folder)
    with pytest.raises(CheckpointError, match=NEW if inside else OLD):
        _ = open_source(folder).preprocessing


@pytest.mark.parametrize(
    ("changes", "differing"),
    [
        ({"resample": 3}, "resample is bicubic in the one, bilinear in the other"),
        ({"image_mean": [0.4] * 3}, "mean is"),
        ({"image_std": [0.4] * 3}, "std is"),
    ],
)
def test_two_files_that_differ_are_refused(
    medgemma_source: Path, copied: Copy, tmp_path: Path, changes: dict[str, Any], differing: str
) -> None:
    folder = copied(medgemma_source)
    same = read_json(folder / OLD)
    edit_json(folder / NEW, {"image_processor": {**same, "do_convert_rgb": None}})
    assert open_source(folder).preprocessing == open_source(medgemma_source).preprocessing
    edit_json(folder / NEW, {"image_processor": {**same, **changes}})
    with pytest.raises(CheckpointError, match=f"{NEW} and {OLD} differ: {differing}"):
        artifact.export(folder, tmp_path / "a", levels=["Q4_0"], prove=False)


@pytest.mark.parametrize(("fixture", "level"), [("medgemma_source", "Q4_0"), ("medsiglip_source", "fp32")])
def test_nothing_is_assumed_where_no_file_says_it(
    fixture: str, level: str, request: pytest.FixtureRequest, copied: Copy, tmp_path: Path
) -> None:
    folder = copied(request.getfixturevalue(fixture))
    (folder / OLD).unlink()
    with pytest.raises(CheckpointError, match="no file says how images become pixels"):
        artifact.export(folder, tmp_path / "a", levels=[level], prove=False)
    assert not list(tmp_path.glob("*.partial*"))
    assert not (tmp_path / "a").exists()


def test_an_image_that_takes_other_tokens_is_refused(medgemma_source: Path, copied: Copy) -> None:
    folder = copied(medgemma_source)
    edit_json(folder / NEW, {"image_seq_length": 256})
    with pytest.raises(CheckpointError, match="image_seq_length 256"):
        _ = open_source(folder).preprocessing


# ---------------------------------------------------------------- SigLIP as transformers 5 saves it


@pytest.fixture
def saved_anew(medsiglip_source: Path, copied: Copy) -> Path:
    """The reference model with the processor that transformers 5 saves: spiece.model, and no tokenizer.json."""
    folder = copied(medsiglip_source)
    for path in folder.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    transformers.AutoProcessor.from_pretrained(medsiglip_source, local_files_only=True).save_pretrained(folder)
    assert not (folder / "tokenizer.json").exists()
    assert not (folder / OLD).exists()
    return folder


def test_a_tokenizer_is_made_of_its_pieces(saved_anew: Path, medsiglip_source: Path, tmp_path: Path) -> None:
    """Ids against transformers' own tokenizer, which is SentencePiece itself."""
    done = artifact.export(saved_anew, tmp_path / "a", levels=["fp32"], prove=False)
    assert done.manifest.preprocessing == open_source(medsiglip_source).preprocessing
    assert done.manifest.settings == open_source(medsiglip_source).settings
    theirs = transformers.AutoTokenizer.from_pretrained(saved_anew, local_files_only=True)
    ours = load_tokenizer(tmp_path / "a" / "tokenizer.json")
    pieces = [token.replace("\u2581", " ") for token in ours.get_vocab()]
    compared = [text for text in map(siglip_text, texts(pieces, ("-",), 3000)) if "</s>" not in text]
    found = [one.ids for one in ours.encode_batch(compared)]
    published = load_tokenizer(medsiglip_source / "tokenizer.json").encode_batch(compared)
    assert found == [one.ids for one in published]
    differing = [text for text, a, b in zip(compared, found, theirs(compared)["input_ids"], strict=True) if a != b]
    # The tokenizers package composes some rare characters otherwise than SentencePiece.
    assert len(differing) < 0.002 * len(compared)
    assert not any(text.isascii() for text in differing)
    open_model(tmp_path / "a").close()


def test_pieces_that_are_no_siglips_are_refused(saved_anew: Path, medgemma_source: Path) -> None:
    (saved_anew / "spiece.model").write_bytes(b"\x0a\x03no")
    with pytest.raises(CheckpointError, match=r"spiece\.model: not a SentencePiece model"):
        open_source(saved_anew).tokenizer()
    (saved_anew / "spiece.model").write_bytes((medgemma_source / "tokenizer.model").read_bytes())
    with pytest.raises(CheckpointError, match=r"spiece\.model: not SigLIP's tokenizer"):
        open_source(saved_anew).tokenizer()
    (saved_anew / "spiece.model").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        open_source(saved_anew).tokenizer()


def test_tokens_beside_its_pieces_are_refused(saved_anew: Path) -> None:
    edit_json(saved_anew / "tokenizer_config.json", {"added_tokens_decoder.1600": {"content": "<x>", "special": True}})
    with pytest.raises(CheckpointError, match="adds token '<x>' with id 1600"):
        open_source(saved_anew).tokenizer()


# ---------------------------------------------------------------- in an artifact

CHAT_EDITS: dict[str, Any] = {
    "settings.image_token_id": 9,
    "settings.stop_token_ids": [1],
    "settings.chat": False,
    "settings.context": 4096,
    "settings.window": 32,
    "settings.boi_token_id": 7,
    "preprocessing.mean": [0.4, 0.5, 0.5],
    "preprocessing.std": [0.5, 0.5, 0.4],
    "preprocessing.resample": "bicubic",
}
PAIR_EDITS: dict[str, Any] = {
    "settings.logit_scale": 1.0,
    "settings.logit_bias": 0.0,
    "settings.pad_token_id": 0,
    "preprocessing.mean": [0.4, 0.5, 0.5],
    "preprocessing.resample": "bilinear",
}


def refuses(folder: Path, edits: dict[str, Any]) -> None:
    original = (folder / manifests.FILE_NAME).read_bytes()
    for key, value in edits.items():
        edit_json(folder / manifests.FILE_NAME, {key: value})
        with pytest.raises(ArtifactError, match=f"{key} is "):
            open_model(folder)
        (folder / manifests.FILE_NAME).write_bytes(original)
    open_model(folder).close()


def test_a_chat_models_manifest_says_what_lies_beside_it(medgemma_onnx: Path, copied: Copy) -> None:
    refuses(copied(medgemma_onnx), CHAT_EDITS)


def test_a_pairs_manifest_says_what_lies_beside_it(medsiglip_artifact: Path, copied: Copy) -> None:
    refuses(copied(medsiglip_artifact), PAIR_EDITS)


def test_a_stand_in_stays_one(medsiglip_artifact: Path, copied: Copy) -> None:
    folder = copied(medsiglip_artifact)
    edit_json(folder / manifests.FILE_NAME, {"stand_in": None, "title": "MedSigLIP"})
    with pytest.raises(ArtifactError, match="is that of a stand-in"):
        open_model(folder)


def test_the_configuration_beside_it_is_the_one_that_was_exported(medsiglip_artifact: Path, copied: Copy) -> None:
    folder = copied(medsiglip_artifact)
    before = contents(folder)
    edit_json(folder / OLD, {"resample": 2})
    edit_json(folder / manifests.FILE_NAME, {"preprocessing.resample": "bilinear"})
    with pytest.raises(ArtifactError, match=OLD):
        open_model(folder)
    (folder / OLD).unlink()
    with pytest.raises(ArtifactError, match=f"{OLD}: missing"):
        open_model(folder)
    (folder / OLD).write_bytes(before[OLD])
    data = json.loads(before[manifests.FILE_NAME])
    data["support_files"] = [entry for entry in data["support_files"] if entry["path"] != "config.json"]
    (folder / manifests.FILE_NAME).write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match=r"support_files: no config\.json"):
        open_model(folder)
