"""What stands beside an artifact's parts is refused where it is not the checkpoint's or the recipe's."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import rewrite
from material import Copy, edit_json, read_json
from proofs import Unproven
from tokenizers import Tokenizer

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.differences import DifferencesError
from edgekit.artifacts.manifest import Manifest
from edgekit.artifacts.recipes import STAND_IN_KEY, Recipe, recipe
from edgekit.errors import ArtifactError, EdgekitError, GateError
from edgekit.export import llama_programs
from edgekit.export.adopt import adopt
from edgekit.export.llama_programs import modelfile
from edgekit.families.source import Source, open_source
from edgekit.formats.gguf.codecs import CODECS
from edgekit.full_precision.original import read_original
from edgekit.progress import Progress
from edgekit.prove import written_part
from edgekit.prove.audit import audit, compared_tensor
from edgekit.prove.beside import check_beside, installed_recipe
from edgekit.prove.described import described
from edgekit.prove.publish import prove
from edgekit.prove.scores import check_scores
from edgekit.runtime import embedding_model, manifest_checks, open_model, opening
from edgekit.runtime.opening import Opening, prepare

Edit = Callable[[dict[str, Any]], object]


def checked(folder: Path, source: Source, edit: Edit | None = None, *, new: bool = True) -> None:
    """The folder's manifest, edited, against the checkpoint and its recipe."""
    manifest = manifests.read(folder)
    if edit:
        content = manifest.model_dump(mode="json")
        edit(content)
        manifest = Manifest.model_validate_json(json.dumps(content))
    check_beside(manifest, source, installed_recipe(manifest, source), new=new)


@pytest.mark.parametrize("new", [True, False])
def test_right_folders_are_not_refused(
    medgemma_artifact: Path, medgemma_source: Path, medsiglip_artifact: Path, medsiglip_source: Path, new: bool
) -> None:
    checked(medgemma_artifact, open_source(medgemma_source), new=new)
    checked(medsiglip_artifact, open_source(medsiglip_source), new=new)


def _as_the_smaller(manifest: dict[str, Any]) -> None:
    """The variant with the largest decoder has the smallest one's parts."""
    first, *_, last = manifest["variants"]
    manifest["variants"][first] = manifest["variants"][last]


def _without_a_variant(manifest: dict[str, Any]) -> None:
    name = next(name for name in manifest["variants"] if name != manifest["default"])
    del manifest["variants"][name]


WRONG: dict[str, tuple[Edit, str]] = {
    "a variant of other parts": (_as_the_smaller, "variant "),
    "a part of no variant": (_without_a_variant, "the parts of no variant"),
    "another title": (lambda m: m.update(title="MedGemma 27B"), "title"),
    "another license": (lambda m: m.update(license="MIT"), "license|NOTICE"),
    "no stand-in": (lambda m: m.update(stand_in=None), "stand_in|Modelfile"),
    "another origin": (lambda m: m["source"].update(name="google/medgemma-27b-it"), "source.name"),
    "a revision": (lambda m: m["source"].update(revision=f"google/medgemma-4b-it@{'a' * 40}"), "source.revision"),
    "no modification": (lambda m: m.update(modified="The original weights."), "modified|NOTICE|Modelfile"),
    "gates that accept more": (lambda m: m["gates"].update(loss_kl={"Q4_0": 9.0}), r"gates\.loss_kl"),
    "a wider margin": (lambda m: m["gates"].update(clear_margin_quantized=2.0), r"gates\.clear_margin_quantized"),
    "a looser wiring": (lambda m: m["gates"].update(wiring_kl={"Q4_0": 0.01}), r"gates\.wiring_kl of Q4_0"),
    "another checkpoint's files": (lambda m: m["source"]["files"].update({"config.json": "0" * 64}), "source.files"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_manifest_that_says_otherwise_is_refused(name: str, medgemma_artifact: Path, medgemma_source: Path) -> None:
    edit, match = WRONG[name]
    with pytest.raises(GateError, match=match):
        checked(medgemma_artifact, open_source(medgemma_source), edit)


def test_a_variant_is_called_by_its_own_levels_whatever_a_recipe_says(
    medgemma_artifact: Path, medgemma_source: Path
) -> None:
    """A user's recipe may give any parts the name of a better level; nor is it always there."""
    source, manifest = open_source(medgemma_source), manifests.read(medgemma_artifact)
    parts = {name: manifest.variants[name] for name in ("BF16", "Q4_0")}
    for name in ("BF16", "Q8_0+vision-BF16", "Q4_0+vision-Q8_0"):
        wrong = manifest.model_copy(update={"variants": {**manifest.variants, name: parts["Q4_0"]}})
        known = recipe("reference-medgemma")
        lying = known.model_copy(update={"variant": {**known.variant, name: {"decoder": "Q4_0", "vision": "Q8_0"}}})
        for one in (lying, None):
            if name == "Q4_0+vision-Q8_0":
                assert "called by" not in _wrong_levels(wrong, source, one)
            else:
                assert f"levels that variant {name} is called by" in _wrong_levels(wrong, source, one)


def _wrong_levels(manifest: Manifest, source: Source, known: Recipe | None) -> str:
    try:
        check_beside(manifest, source, known, new=False)
    except DifferencesError as error:
        return " ".join(one.name for one in error.differences)
    return ""


LABELS = {  # what config.json says, whether its numbers are the reference model's, and which labels are refused
    "a reference model": (None, True, (None, "random weights")),
    "random weights": ("random weights", False, (None, "a reference model")),
    "a model": (None, False, ("random weights",)),
}


@pytest.mark.parametrize("kind", LABELS)
def test_a_stand_in_is_labelled_and_a_model_is_not_whatever_the_exporter_says(
    medsiglip_artifact: Path, medsiglip_source: Path, kind: str
) -> None:
    """Also where the exporter was given a recipe that does not know it."""
    said, alike, wrong = LABELS[kind]
    manifest, source = manifests.read(medsiglip_artifact), open_source(medsiglip_source)
    shipped = recipe("reference-medsiglip")
    config = {**source.checkpoint.config, **({STAND_IN_KEY: said} if said else {})}
    if not alike:
        config["vision_config"] = {**config["vision_config"], "hidden_size": 1}
    source = replace(source, checkpoint=replace(source.checkpoint, config=config))
    silent = shipped.model_copy(update={"stand_in": None})
    assert "stand_in" not in _wrong_beside(manifest, source, silent, said or (shipped.stand_in if alike else None))
    for label in wrong:
        assert "stand_in" in _wrong_beside(manifest, source, silent, label)


def _wrong_beside(manifest: Manifest, source: Source, known: Recipe, label: str | None) -> str:
    try:
        check_beside(manifest.model_copy(update={"stand_in": label}), source, known, new=True)
    except DifferencesError as error:
        return " ".join(one.name for one in error.differences)
    return ""


def test_who_has_an_artifact_chooses_its_default(medgemma_artifact: Path, medgemma_source: Path) -> None:
    source, manifest = open_source(medgemma_source), manifests.read(medgemma_artifact)
    other = next(name for name in manifest.variants if name != manifest.default)
    of_another = recipe("reference-medgemma").model_copy(update={"default": other})
    with pytest.raises(GateError, match="default"):
        check_beside(manifest, source, of_another, new=True)
    check_beside(manifest, source, of_another, new=False)


def test_a_proof_of_a_published_folder_looks_beside_its_parts(
    medgemma_artifact: Path, medgemma_source: Path, copied: Copy
) -> None:
    folder = copied(medgemma_artifact)
    manifest, before = manifests.read(folder), (folder / manifests.FILE_NAME).read_bytes()
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"sliding_window"', '"window"'))
    with pytest.raises(EdgekitError, match=r"config\.json"):
        prove(folder, medgemma_source)
    assert (folder / manifests.FILE_NAME).read_bytes() == before
    content = manifest.model_dump(mode="json")
    for entry in content["support_files"]:
        if entry["path"] == path.name:
            entry.update(manifests.file_entry(folder, path).model_dump(mode="json"))
    manifests.write(folder, Manifest.model_validate_json(json.dumps(content)))
    with pytest.raises(GateError, match=r"config\.json: SHA-256"):
        prove(folder, medgemma_source)


def _files(source: Path) -> list[str]:
    return sorted(name for name in open_source(source).checkpoint.files if not name.endswith(".safetensors"))


@pytest.mark.parametrize("role", ["medgemma", "medsiglip"])
def test_every_changed_support_file_is_refused(role: str, request: pytest.FixtureRequest, copied: Copy) -> None:
    """Changed files whose hashes the manifest states rightly, as a wrong exporter writes them."""
    folder = copied(request.getfixturevalue(f"{role}_artifact"))
    checkpoint = request.getfixturevalue(f"{role}_source")
    source, manifest = open_source(checkpoint), manifests.read(folder)
    names = {entry.path for entry in manifest.support_files}
    assert set(_files(checkpoint)) <= names
    for name in names:
        path, right = folder / name, (folder / name).read_bytes()
        path.write_bytes(right + b" ")
        wrong = manifests.file_entry(folder, path)
        path.write_bytes(right)

        def put(content: dict[str, Any], wrong: manifests.FileEntry = wrong) -> None:
            listed = [content["tokenizer"], *content["support_files"]]
            for entry in filter(None, listed):
                if entry["path"] == wrong.path:
                    entry.update(wrong.model_dump(mode="json"))

        with pytest.raises(GateError, match=f"{name}: SHA-256"):
            checked(folder, source, put)


def test_files_of_no_checkpoint_and_missing_ones_are_refused(medgemma_artifact: Path, medgemma_source: Path) -> None:
    source = open_source(medgemma_source)
    extra = {"path": "chat_template.json", "sha256": "0" * 64, "bytes": 2}
    with pytest.raises(GateError, match=r"chat_template\.json: SHA-256"):
        checked(medgemma_artifact, source, lambda m: m["support_files"].append(extra))
    with pytest.raises(GateError, match="SHA-256"):
        checked(medgemma_artifact, source, lambda m: m["support_files"].pop(0))


def test_a_modelfile_says_what_the_checkpoint_says(medgemma_artifact: Path, medgemma_source: Path) -> None:
    """Greedy decoding, as the model was measured; it stops where the checkpoint does, within the model's context."""
    manifest = manifests.read(medgemma_artifact)
    context = json.loads((medgemma_source / "config.json").read_text())["text_config"]["max_position_embeddings"]
    text = modelfile(manifest)
    assert text
    stated = [line.split(None, 2)[1:] for line in text.splitlines() if line.startswith("PARAMETER ")]
    stops = sorted(value.strip('"') for name, value in stated if name == "stop")
    others = {name: float(value) for name, value in stated if name != "stop"}
    assert others == {"temperature": 0, "num_ctx": min(8192, context)}
    assert stops == ["<end_of_turn>", "<eos>"]


FIGURES: dict[str, dict[str, Any]] = {
    "weights": {"weights": 4_300_000_000},
    "bits_per_weight": {"bits_per_weight": 1.5},
    "tensor_types": {"tensor_types": {"Q8_0": 3}},
    "output": {"output": "pooled"},
    "memory_bytes": {"requires": {"gguf_version": 3, "architecture": "gemma3", "memory_bytes": 5}},
    "calibrated_on": {"calibrated_on": "10,000 chest x-rays"},
}


def test_what_is_said_of_a_parts_size_and_types_follows_from_its_files(
    medgemma_levels: Unproven, medsiglip_levels: Unproven
) -> None:
    for artifact, levels in ((medgemma_levels, ("Q4_K_M", "int8", "q4_m")), (medsiglip_levels, ("int8", "q4"))):
        for part in artifact.manifest.parts:
            if part.level in levels:
                trial, written = artifact.trial(part.role, part.level), artifact.written(part.role, part.level)
                assert list(described(written, trial.opening, artifact.runs.source)) == []
    trial, written = medgemma_levels.trial("decoder", "Q8_0"), medgemma_levels.written("decoder", "Q8_0")
    for name, claim in FIGURES.items():
        claimed = replace(written, part=written.part.model_copy(update=claim))
        (found,) = described(claimed, trial.opening, medgemma_levels.runs.source)
        assert name in found.name


def test_a_second_template_in_a_model_file_is_refused(
    medgemma_artifact: Path, medgemma_source: Path, copied: Copy
) -> None:
    """llama.cpp's programs take it where a question comes with tools."""
    folder, source = copied(medgemma_artifact), open_source(medgemma_source)
    part = next(part for part in manifests.read(folder).parts if (part.role, part.format) == ("decoder", "gguf"))
    path, key = folder / part.files[0].path, "tokenizer.chat_template.tool_use"
    rewrite(path, path.with_suffix(".new"), fields={key: "IGNORE ALL"}).replace(path)
    found = audit(source, written_part(source, folder, part), read_original(source), Progress())
    assert key in [one.name for one in found.differences if not one.is_note]


def test_who_makes_files_anew_is_not_their_only_witness(
    medgemma_artifact: Path, medgemma_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exporter with a mistake makes the same wrong file twice."""
    source, manifest, right = open_source(medgemma_source), manifests.read(medgemma_artifact), llama_programs.modelfile
    name = llama_programs.file_name(manifest.default)

    def hashed(path: str, data: bytes) -> Edit:
        def edit(content: dict[str, Any]) -> None:
            listed = [entry for entry in content["support_files"] if entry["path"] != path]
            entry = {"path": path, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            content["support_files"] = [*listed, entry]

        return edit

    for old, new in (("FROM ./mm", "FROM ./no-mm"), ("temperature 0", "temperature 1"), ("TEMPLATE", "SYSTEM")):

        def wrong(described: Manifest, variant: str | None = None, old: str = old, new: str = new) -> str | None:
            text = right(described, variant)
            return text and (text.replace(old, new) if variant == manifest.default else text)

        monkeypatch.setattr(llama_programs, "modelfile", wrong)
        made = wrong(manifest, manifest.default)
        assert made
        with pytest.raises(GateError, match=rf"{name}: a line is .*{new.split()[0]}"):
            checked(medgemma_artifact, source, hashed(name, made.encode()))
    monkeypatch.undo()
    early = json.dumps({"eos_token_id": [1]}).encode()
    family = replace(source.family, made_files=lambda checkpoint, settings: {"generation_config.json": early})
    with pytest.raises(GateError, match=r"generation_config\.json is"):
        checked(medgemma_artifact, replace(source, family=family), hashed("generation_config.json", early))


def test_scores_are_transformers_of_the_same_vectors(
    medsiglip_levels: Unproven, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, runs = medsiglip_levels.trial("text_encoder", "q4").opening, medsiglip_levels.runs
    check_scores(opening, runs, medsiglip_levels.inputs)
    wrong = copy.copy(opening)
    wrong.settings = opening.settings.model_copy(update={"logit_scale": opening.settings.logit_scale + 0.01})
    with pytest.raises(GateError, match="wiring: scores of labels"):
        check_scores(wrong, runs, medsiglip_levels.inputs)
    unit = embedding_model.unit
    monkeypatch.setattr(embedding_model, "unit", lambda rows: 2 * unit(rows))
    with pytest.raises(GateError, match="wiring: scores of labels"):
        check_scores(opening, runs, medsiglip_levels.inputs)


def test_other_weights_within_a_types_bound_lose_more_than_rounding_does(
    medgemma_artifact: Path, medgemma_source: Path
) -> None:
    """A fine-tune that moved a matrix by a hundredth, as rounding may do for numbers with heavier tails."""
    source, original = open_source(medgemma_source), read_original(open_source(medgemma_source))
    opening = prepare(medgemma_artifact, "Q8_0", runtime="default")
    written = written_part(source, medgemma_artifact, opening.parts["decoder"])
    name = "language_model.model.layers.1.mlp.up_proj.weight"
    moved = 0.01 * np.random.default_rng(0).normal(size=written.tensors[name].shape)

    def read(first: int, last: int) -> Any:
        return CODECS["Q8_0"].roundtrip((source.rows(name, first, last) * (1 + moved[first:last])).astype(np.float32))

    other = replace(written.tensors[name], read=read)
    assert compared_tensor(source, other, partial(original.rows, source.stored[name].name))[1] is None
    for tensor, differing in ((written.tensors[name], []), (other, ["what rounding lost of it"])):
        here = replace(written, tensors={**written.tensors, name: tensor})
        assert [one.name.partition(": ")[2] for one in described(here, opening, source)] == differing


@pytest.fixture(scope="module")
def adopted(medgemma_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Opening:
    parts = {part.role: part for part in manifests.read(medgemma_artifact).variant("Q8_0")[1].values()}
    decoder, vision = (medgemma_artifact / parts[role].files[0].path for role in ("decoder", "vision"))
    folder = adopt(decoder, tmp_path_factory.mktemp("adopted") / "a", vision=vision).folder
    return prepare(folder, runtime="default")


def of_others(opening: Opening, source: Source) -> list[str]:
    """What differs of a decoder that others made."""
    written = written_part(source, opening.folder, opening.parts["decoder"])
    return [one.name for one in described(written, opening, source)]


def test_a_header_that_leaves_out_where_answers_end_is_named(
    adopted: Opening, medgemma_source: Path, copied: Copy
) -> None:
    assert of_others(adopted, open_source(medgemma_source)) == []
    source = copied(medgemma_source)
    edit_json(source / "generation_config.json", {"eos_token_id": [1, 5, 2048]})
    assert of_others(adopted, open_source(source)) == ["edgekit.json: settings.stop_token_ids"]


def test_an_id_that_stands_for_another_rare_token_is_named(adopted: Opening, medgemma_source: Path) -> None:
    """Bytes that are in no text: no ids of texts differ."""
    content, changed = json.loads(adopted.tokenizer.to_str()), copy.copy(adopted)
    vocabulary = content["model"]["vocab"]
    one, other = "<0xFE>", "<0xFF>"
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    changed.tokenizer = Tokenizer.from_str(json.dumps(content))
    first = min(vocabulary[one], vocabulary[other])
    assert of_others(changed, open_source(medgemma_source)) == [f"token {first} of the tokenizer beside the parts"]


NUMBERS = {
    "gemma3.rope.freq_base": ("decoder", "rope_theta"),
    "gemma3.rope.freq_base_swa": ("decoder", "rope_local_base_freq"),
    "gemma3.rope.scaling.factor": ("decoder", "rope_factor"),
    "gemma3.rope.scaling.type": ("decoder", "rope_factor"),
    "gemma3.attention.layer_norm_rms_epsilon": ("decoder", "rms_norm_eps"),
    "clip.vision.attention.layer_norm_epsilon": ("vision", "layer_norm_eps"),
}


@pytest.mark.parametrize("spelling", ["as the hub", "as transformers 5"])
@pytest.mark.parametrize("key", NUMBERS)
def test_a_file_that_computes_otherwise_than_its_config_says_is_not_opened(
    key: str, spelling: str, medgemma_artifact: Path, copied: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where its hash would be believed: llama.cpp obeys the header, and short answers stay fluent."""
    monkeypatch.setattr(opening, "verify_once", lambda *_: None)
    monkeypatch.setattr(manifest_checks, "verify", lambda *_: None)
    folder, (role, name) = copied(medgemma_artifact), NUMBERS[key]
    config = read_json(folder / "config.json")
    text = config["text_config"]
    local, spread = text.pop("rope_local_base_freq", 1e4), text.pop("rope_theta", 1e6)
    scaled = {"rope_type": "linear", "factor": 8.0}
    text.pop("rope_scaling", None)
    text.pop("rope_parameters", None)
    if spelling == "as the hub":
        text |= {"rope_theta": spread, "rope_local_base_freq": local, "rope_scaling": scaled}
    else:
        full = {**scaled, "rope_theta": spread}
        near = {"rope_type": "default", "rope_theta": local}
        text["rope_parameters"] = {"full_attention": full, "sliding_attention": near}
    (folder / "config.json").write_text(json.dumps(config))
    _, parts = manifests.read(folder).variant("Q8_0")
    files = {made: folder / part.files[0].path for made, part in parts.items()}
    right = {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0}
    whole = rewrite(files["decoder"], tmp := files["decoder"].with_suffix(".new"), fields=right)
    whole.replace(files["decoder"])
    open_model(folder, "Q8_0").close()
    wrong: Any = "none" if key.endswith("type") else lambda value: value * 1.5
    rewrite(files[role], tmp, fields={key: wrong}).replace(files[role])
    with pytest.raises(ArtifactError, match=rf"config\.json: {name} is .*{files[role].name} says"):
        open_model(folder, "Q8_0").close()
