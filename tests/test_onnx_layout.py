"""Names and places of ONNX files: what Transformers.js, optimum and plain ONNX Runtime look for."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import onnx
import onnxruntime
import pytest
from material import read_json
from proofs import Unproven

from edgekit.artifacts import manifest
from edgekit.artifacts.levels import LEVELS
from edgekit.formats.onnx.writer import suffix

# What Transformers.js appends to a file's stem for each of its `dtype`s that a level of ours is named after.
TRANSFORMERS_JS = {"fp32": "", "fp16": "_fp16", "int8": "_int8", "q4": "_q4"}
STEMS = {"image_encoder": "vision_model", "text_encoder": "text_model"}
INPUTS = {"image_encoder": ["pixel_values"], "text_encoder": ["input_ids"]}
OUTPUTS = {
    "image_encoder": ["last_hidden_state", "pooler_output", "image_embeds"],
    "text_encoder": ["last_hidden_state", "pooler_output", "text_embeds"],
}


@pytest.fixture(scope="module")
def exported(medsiglip_levels: Unproven) -> Path:
    return medsiglip_levels.folder


@pytest.fixture(scope="module")
def parts(exported: Path) -> tuple[manifest.Part, ...]:
    return manifest.read(exported).parts


def test_every_onnx_level_is_exported(parts: tuple[manifest.Part, ...]) -> None:
    wanted = {(role, level.name) for role in STEMS for level in LEVELS.values() if level.format == "onnx"}
    assert {(part.role, part.level) for part in parts} == wanted


def test_a_level_adds_its_own_suffix_to_the_stem(parts: tuple[manifest.Part, ...]) -> None:
    for part in parts:
        graph = f"onnx/{STEMS[part.role]}{suffix(LEVELS[part.level])}.onnx"
        assert [file.path for file in part.files[:2]] == [graph, f"{graph}_data"]


def test_transformers_js_suffixes() -> None:
    assert {name: suffix(LEVELS[name]) for name in TRANSFORMERS_JS} == TRANSFORMERS_JS


def test_configuration_and_processors_lie_beside(exported: Path) -> None:
    assert read_json(exported / "config.json")["model_type"] == "siglip"
    assert read_json(exported / "preprocessor_config.json")["image_processor_type"] == "SiglipImageProcessor"
    assert read_json(exported / "tokenizer_config.json")["tokenizer_class"].startswith("SiglipTokenizer")
    assert (exported / "tokenizer.json").is_file()


def test_graphs_name_their_own_data_file_and_stay_inside_it(exported: Path, parts: tuple[manifest.Part, ...]) -> None:
    for part in parts:
        path = exported / part.files[0].path
        graph = onnx.load(path, load_external_data=False).graph
        places = [{e.key: e.value for e in t.external_data} for t in graph.initializer if t.external_data]
        assert {place["location"] for place in places} == {f"{path.name}_data"}
        taken = sorted((int(place["offset"]), int(place["length"])) for place in places)
        assert all(start + length <= following for (start, length), (following, _) in pairwise(taken))
        assert taken[-1][0] + taken[-1][1] <= part.files[1].bytes


def test_plain_onnx_runtime_finds_the_usual_names(exported: Path, parts: tuple[manifest.Part, ...]) -> None:
    for part in parts:
        session = onnxruntime.InferenceSession(exported / part.files[0].path, providers=["CPUExecutionProvider"])
        assert [value.name for value in session.get_inputs()] == INPUTS[part.role]
        assert [value.name for value in session.get_outputs()] == OUTPUTS[part.role]
        assert not isinstance(session.get_inputs()[0].shape[0], int), "any number of items"
