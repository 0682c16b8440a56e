"""What a plan says of sizes, against what an export writes; and of shapes, against what config.json says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.artifacts import manifest as manifests
from edgekit.commands.support.plans import plan_lines
from edgekit.errors import CheckpointError, EdgekitError, UsageError
from edgekit.export.synthesize import synthesize
from edgekit.machine.devices import device
from edgekit.planning import of_artifact, plan, planned_model
from edgekit.planning.parts import PlannedPart
from edgekit.prove import publish

# A model of another shape than any that is shipped: rows that divide into no block, layers that mixtures single out.
SMALL = """
extends = "medgemma-4b"
title = "A small one"
stem = "small"
source = "nobody/small"
on_request = []

[match]
"text_config.hidden_size" = 320

[config]
mm_tokens_per_image = 4
boi_token_index = 2040
eoi_token_index = 2041
image_token_index = 3000

[config.text_config]
hidden_size = 320
intermediate_size = 640
num_hidden_layers = 8
num_attention_heads = 4
num_key_value_heads = 1
head_dim = 64
vocab_size = 3072
sliding_window = 64

[config.vision_config]
hidden_size = 144
intermediate_size = 304
num_attention_heads = 4
num_hidden_layers = 3
image_size = 56
"""


def check_sizes(planned: str, folder: Path, recipe: str | None = None) -> None:
    """Each variant's files, and each part's memory, as the manifest of what was written has them."""
    manifest = manifests.read(folder)
    model = planned_model(planned, recipe)
    assert set(manifest.variants) <= set(model.variants)
    for name in manifest.variants:
        written = manifest.variant(name)[1]
        assert sum(part.bytes for part in model.variants[name]) == pytest.approx(manifest.bytes_of(name), rel=1e-3)
        for part in model.variants[name]:
            stated = written[part.role]
            assert part.types == stated.tensor_types
            assert part.opened_bytes == pytest.approx(stated.requires["memory_bytes"], rel=4e-3)


def test_the_reference_models_sizes_are_planned(medgemma_artifact: Path, medgemma_onnx: Path) -> None:
    check_sizes("medgemma-reference", medgemma_artifact)
    check_sizes("reference-medgemma", medgemma_artifact)
    check_sizes("reference-medgemma", medgemma_onnx)


def test_an_encoders_sizes_are_planned(medsiglip_artifact: Path) -> None:
    check_sizes("reference-medsiglip", medsiglip_artifact)


def test_a_recipe_alone_gives_the_sizes_of_what_is_synthesized_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "home"))
    (tmp_path / "home/exports").mkdir(parents=True)
    (tmp_path / "home/exports/small.toml").write_text(SMALL)
    synthesize("small", tmp_path / "checkpoint")
    levels = ["Q4_K_M", "Q2_K", "IQ4_XS", "q4_m", "fp16", "int8_dynamic"]
    publish.export(tmp_path / "checkpoint", tmp_path / "made", recipe_name="small", levels=levels, prove=False)
    check_sizes(str(tmp_path / "checkpoint"), tmp_path / "made", "small")
    check_sizes("small", tmp_path / "made")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["medgemma", "medsiglip"])
def test_every_level_of_a_reference_model_is_planned(name: str, tmp_path: Path) -> None:
    from edgekit.checkpoints import reference_models

    source = reference_models.path(f"{name}-reference")
    assert source
    publish.export(source, tmp_path / "made", prove=False)
    check_sizes(f"reference-{name}", tmp_path / "made")


def test_an_artifact_is_planned_by_its_manifest(medgemma_artifact: Path) -> None:
    manifest = manifests.read(medgemma_artifact)
    model = of_artifact(medgemma_artifact, manifest)
    config = json.loads((medgemma_artifact / "config.json").read_text())
    assert (model.title, model.default, tuple(model.variants)) == (
        manifest.title, manifest.default, tuple(manifest.variants),
    )  # fmt: skip
    decoder, vision = model.variants["Q8_0"]
    assert (decoder.kind, vision.kind) == ("decoder", "image")
    assert decoder.decoder
    assert vision.encoder
    text, tower = config["text_config"], config["vision_config"]
    assert decoder.decoder.layers == text["num_hidden_layers"]
    assert decoder.decoder.head == text["vocab_size"] * text["hidden_size"]
    assert vision.encoder.positions == (tower["image_size"] // tower["patch_size"]) ** 2
    # six of seven layers are local: every sixth sees everything
    assert decoder.decoder.global_layers == (False,) * 5 + (True, False)
    assert sum(decoder.layer_bytes) < decoder.bytes


def test_headers_say_the_shapes_where_no_config_does(medgemma_artifact: Path, copied: object) -> None:
    """The same shapes and layers as config.json gives, of files that others made, too."""
    folder = copied(medgemma_artifact)  # type: ignore[operator]
    manifest = manifests.read(folder)
    expected = of_artifact(folder, manifest).variants
    foreign = manifest.model_copy(update={"foreign": True})
    for found in (of_artifact(folder, foreign).variants, _without_config(folder)):
        for name, parts in expected.items():
            for ours, theirs in zip(parts, found[name], strict=True):
                assert ours.shape
                assert theirs.shape
                assert 0 <= theirs.shape.wide - ours.shape.wide < 32  # a tower's, in whole blocks
                assert replace(theirs.shape, wide=ours.shape.wide) == ours.shape
                assert theirs.layer_bytes == ours.layer_bytes


def _without_config(folder: Path) -> Mapping[str, tuple[PlannedPart, ...]]:
    (folder / "config.json").write_text("{}")
    return of_artifact(folder, manifests.read(folder)).variants


def test_what_no_file_gives_a_shape_never_fits(medgemma_onnx: Path, copied: object) -> None:
    folder = copied(medgemma_onnx)  # type: ignore[operator]
    (folder / "config.json").write_text("{}")
    made = plan(of_artifact(folder, manifests.read(folder)), device("laptop-16gb-cpu"))
    assert made.recommended is None
    assert {row.lacks for row in made.rows} == {"shape"}
    assert "no file here states" in made.missing
    rows = [line for line in plan_lines(made) if line.endswith("no, shape")]
    assert len(rows) == len(made.rows)
    assert all(line.split().count("?") >= 3 for line in rows)  # memory, keys and values, times


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("medgemma-5b", "unknown recipe"),
        ("bare", "has no .config. that fits its own .match."),
    ],
)
def test_what_cannot_be_planned_is_said(
    named: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    (tmp_path / "exports").mkdir()
    text = SMALL.split("[config]")[0].replace("= 320", "= 999")
    (tmp_path / "exports/bare.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        planned_model(named)


def test_a_folder_that_is_neither_artifact_nor_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        planned_model(str(tmp_path))
    (tmp_path / "edgekit.json").write_text("{}")
    with pytest.raises(EdgekitError, match=r"edgekit\.json"):
        planned_model(str(tmp_path))
