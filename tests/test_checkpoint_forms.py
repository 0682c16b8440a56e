"""Checkpoints as people save them: exported as transformers loads them, or refused by name.

What a file holds is compared with transformers' own state, tensor by tensor, under the names that the gguf package
gives them; forms that transformers cannot load, for a trainer's prefix, with the same weights under their right names.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import quants
from material import Copy, contents, edit_json, photo, read_json

import edgekit
from edgekit.artifacts import manifest as manifests
from edgekit.errors import CheckpointError, UsageError
from edgekit.families.source import Source, open_source
from edgekit.full_precision.bounded import open_full_precision
from edgekit.inputs.image import normalize, to_pixels
from edgekit.inputs.passage import passage
from edgekit.inputs.text import load_tokenizer
from edgekit.metrics import kl_divergence
from edgekit.progress import Progress
from edgekit.prove import publish as artifact
from edgekit.runtime.base import Tokens
from edgekit.runtime.chat_model import ChatModel

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

State = dict[str, Any]  # a checkpoint's tensors by name
Config = dict[str, Any]
Change = Callable[[State], State]
EMBEDDING, HEAD = "language_model.model.embed_tokens.weight", "lm_head.weight"
POSITIONS = "vision_tower.vision_model.embeddings.position_ids"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class Notes(Progress):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def save(folder: Path, state: Mapping[str, Any], name: str = SINGLE) -> None:
    tensors = {key: tensor.clone().contiguous() for key, tensor in state.items()}
    safetensors_torch.save_file(tensors, folder / name, {"format": "pt"})


def load(folder: Path) -> State:
    return dict(safetensors_torch.load_file(folder / SINGLE))


def reshape(folder: Path, weights: Change = dict, config: Callable[[Config], Config] = dict) -> Path:
    """Change a checkpoint's tensors and its configuration."""
    save(folder, weights(load(folder)))
    path = folder / "config.json"
    path.write_text(json.dumps(config(read_json(path))), encoding="utf-8")
    return folder


def shard(folder: Path, state: State, count: int = 2) -> dict[str, str]:
    """Write shards and their index; where each tensor lies."""
    weight_map: dict[str, str] = {}
    for number in range(count):
        name = f"model-{number + 1:05}-of-{count:05}.safetensors"
        part = {key: tensor for place, (key, tensor) in enumerate(sorted(state.items())) if place % count == number}
        save(folder, part, name)
        weight_map |= dict.fromkeys(part, name)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return weight_map


def tuned(state: State) -> State:
    """Clearly other weights."""
    return {**state, EMBEDDING: state[EMBEDDING].roll(37, 0)}


def exported(folder: Path, at: Path, level: str = "BF16", recipe: str = "reference-medgemma") -> list[str]:
    """Export without a proof; what was said."""
    notes = Notes()
    artifact.export(folder, at, recipe_name=recipe, levels=[level], prove=False, progress=notes)
    return notes.said


def refused(folder: Path, match: str, at: Path, recipe: str = "reference-medgemma") -> CheckpointError:
    """Export what must be refused, leaving nothing behind."""
    before = sorted(at.parent.iterdir())
    with pytest.raises(CheckpointError, match=match) as caught:
        artifact.export(folder, at, recipe_name=recipe, prove=False)
    assert sorted(at.parent.iterdir()) == before
    return caught.value


def loaded(folder: Path, kind: str = "AutoModelForImageTextToText") -> Any:
    """What transformers makes of a folder, in float32; nothing may be missing."""
    model, told = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not told["missing_keys"]
    return model.eval()


def checked(folder: Path) -> Source:
    """What an export would read."""
    source = open_source(folder)
    source.check_tensors()
    return source


HUB = {
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.": "language_model.model.",
}


def check_source(source: Source, model: Any) -> None:
    """Compare what is read with a model's state, to the last bit."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items() if name != HEAD}
    expected = in_layout(HUB)(state)
    assert source.stored.keys() == expected.keys()
    for name, tensor in source.stored.items():
        assert np.array_equal(source.checkpoint.read(tensor), expected[name]), name


def check_same(source: Source, folder: Path) -> None:
    """Compare what is read with the tensors of a folder in the hub's layout."""
    expected = load(folder)
    assert source.stored.keys() == expected.keys()
    for name, tensor in source.stored.items():
        assert np.array_equal(source.checkpoint.read(tensor), expected[name].float().numpy()), name


def file_tensors(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of all GGUF files of an artifact, dequantized."""
    tensors = [tensor for path in folder.glob("*.gguf") for tensor in gguf.GGUFReader(path).tensors]
    return {tensor.name: quants.dequantize(tensor.data, tensor.tensor_type) for tensor in tensors}


@cache
def names_of(kind: gguf.MODEL_ARCH) -> gguf.TensorNameMap:
    return gguf.get_tensor_name_map(kind, 8)


def file_name(name: str) -> str:
    """llama.cpp's name of a tensor of transformers', as the gguf package has it."""
    spelled = name.removeprefix("model.").replace("projection_weight", "projection.weight")
    if spelled.startswith("vision_tower."):
        spelled = spelled.replace("vision_tower.", "vision_tower.vision_model.", 1)
    elif not spelled.startswith("multi_modal_projector."):
        text = f"model.{spelled.removeprefix('language_model.')}"
        return str(names_of(gguf.MODEL_ARCH.GEMMA3).get_name(text, (".weight",)))
    return str(names_of(gguf.MODEL_ARCH.MMPROJ).get_name(spelled, (".weight", ".bias")))


def check_file(folder: Path, model: Any) -> None:
    """Compare an artifact's files with a model's state, to the last bit."""
    ours = file_tensors(folder)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items() if name != HEAD}
    assert {file_name(name) for name in state} == set(ours)
    for name, weights in state.items():
        decoder = not name.startswith("model.vision_tower.")
        expected = weights + np.float32(1) if decoder and "norm" in name else weights
        found = ours[file_name(name)]
        if "mm_input_projection" in name:  # llama.cpp wants it in F16
            expected = expected.astype(np.float16)
        assert np.array_equal(found.reshape(expected.shape), expected), name


# ---------------------------------------------------------------- two answers


def stale_index(folder: Path) -> None:
    shard(folder, load(folder))
    save(folder, tuned(load(folder)))


def other_names(folder: Path) -> None:
    state = load(folder)
    shard(folder, {name: tensor for name, tensor in state.items() if "layers.6." not in name})
    save(folder, {name: tensor for name, tensor in state.items() if "layers.0." not in name})


def two_generations(folder: Path) -> None:
    state = load(folder)
    shard(folder, tuned(state), 3)
    shard(folder, state, 2)
    (folder / SINGLE).unlink()


def consolidated(folder: Path) -> None:
    save(folder, {f"old.{name}": tensor for name, tensor in load(folder).items()}, "consolidated.safetensors")


def a_variant(folder: Path) -> None:
    save(folder, tuned(load(folder)), "model.fp16.safetensors")


def two_indices(folder: Path) -> None:
    shard(folder, load(folder))
    (folder / SINGLE).unlink()
    shutil.copy(folder / INDEX, folder / "model.fp32.safetensors.index.json")


def an_index_that_leaves_one_out(folder: Path) -> None:
    weight_map = shard(folder, load(folder))
    (folder / SINGLE).unlink()
    left = {name: file for name, file in weight_map.items() if name != EMBEDDING}
    (folder / INDEX).write_text(json.dumps({"weight_map": left}))


def an_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    save(folder, {"base_model.model.x.lora_A.weight": torch.ones(8, 256)}, "adapter_model.safetensors")


def an_adapter_without_its_weights(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def an_adapter_without_its_configuration(folder: Path) -> None:
    save(folder, {"base_model.model.x.lora_A.weight": torch.ones(8, 256)}, "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (stale_index, [SINGLE, "model-00001-of-00002.safetensors"]),
        (other_names, [SINGLE, "model-0000\\d-of-00002.safetensors"]),
        (two_generations, ["model-0000\\d-of-00002.safetensors", "model-0000\\d-of-00003.safetensors"]),
        (consolidated, [SINGLE, "consolidated.safetensors"]),
        (a_variant, [SINGLE, "model.fp16.safetensors"]),
        (two_indices, ["model.fp32.safetensors.index.json", INDEX]),
        (an_index_that_leaves_one_out, ["model-0000\\d-of-00002.safetensors", INDEX]),
        (an_adapter, [SINGLE, "adapter_config.json"]),
        (an_adapter_without_its_weights, [SINGLE, "adapter_config.json"]),
        (an_adapter_without_its_configuration, [SINGLE, "adapter_model.safetensors"]),
    ],
)
def test_a_folder_with_two_answers_is_refused_naming_both(
    medgemma_source: Path, copied: Copy, tmp_path: Path, make: Callable[[Path], None], named: list[str]
) -> None:
    folder = copied(medgemma_source)
    make(folder)
    error = refused(folder, "two answers", tmp_path / "a")
    for name in named:
        assert re.search(name, error.message), error.message
    assert error.remedy


def test_shards_without_their_index_are_named(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(medgemma_source)
    shard(folder, load(folder))
    for name in (SINGLE, INDEX):
        (folder / name).unlink()
    refused(folder, f"model-00001-of-00002.safetensors, .* without {INDEX}", tmp_path / "a")


def test_files_that_repeat_each_other_are_one_answer(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(medgemma_source)
    shard(folder, load(folder), 3)
    exported(folder, tmp_path / "a")
    exported(medgemma_source, tmp_path / "b")
    ours, expected = (
        {name: data for name, data in contents(tmp_path / at).items() if name.endswith(".gguf")} for at in "ab"
    )
    assert ours == expected


def test_many_shards_are_one_model(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(medgemma_source)
    shard(folder, load(folder), 12)
    (folder / SINGLE).unlink()
    check_source(checked(folder), loaded(folder))


def test_pickles_beside_safetensors_are_left_out_as_transformers_does(
    medgemma_source: Path, copied: Copy, tmp_path: Path
) -> None:
    folder = copied(medgemma_source)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (folder / ".hidden.safetensors").write_bytes(b"")
    assert any("pytorch_model.bin is not read" in note for note in exported(folder, tmp_path / "a"))


# ---------------------------------------------------------------- what transformers loads


def head_in_its_place(state: State, name: str = HEAD) -> State:
    return {**{key: tensor for key, tensor in state.items() if key != EMBEDDING}, name: state[EMBEDDING]}


def untied(config: Config) -> Config:
    return {
        **config,
        "tie_word_embeddings": False,
        "text_config": {**config["text_config"], "tie_word_embeddings": False},
    }


def in_float64(state: State) -> State:
    return {name: tensor.double() if "norm" in name else tensor for name, tensor in state.items()}


def mixed(state: State) -> State:
    """Three types in one file; float16 only where it holds the same numbers."""
    kinds = {}
    for place, (name, tensor) in enumerate(sorted(state.items())):
        half = tensor.half()
        exact = torch.equal(half.float(), tensor.float())
        kinds[name] = (tensor, tensor.float(), half if exact else tensor.float(), tensor.double())[place % 4]
    return kinds


def with_buffers(state: State) -> State:
    count = torch.arange(256)
    names = (POSITIONS, "language_model.model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq")
    return {**state, **dict.fromkeys(names, count[None].float()), POSITIONS: count[None]}


def padded(state: State) -> State:
    return {**state, EMBEDDING: torch.cat([state[EMBEDDING], state[EMBEDDING][:64]])}


def rows(count: int) -> Callable[[Config], Config]:
    return lambda config: {**config, "text_config": {**config["text_config"], "vocab_size": count}}


def quantized(section: str) -> Callable[[Config], Config]:
    leftover = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}

    def add(config: Config) -> Config:
        target = config[section] if section else config
        target["quantization_config"] = leftover
        return config

    return add


def without(*keys: str) -> Callable[[Config], Config]:
    return lambda config: {key: value for key, value in config.items() if key not in keys}


def in_layout(replacements: Mapping[str, str]) -> Change:
    def rename(state: State) -> State:
        renamed = {}
        for name, tensor in state.items():
            for old, new in replacements.items():
                if name.startswith(old):
                    name = new + name.removeprefix(old)
                    break
            renamed[name] = tensor
        return renamed

    return rename


V4 = {"language_model.model.": "model.language_model.", "": "model."}
V5 = {**V4, "vision_tower.vision_model.": "model.vision_tower."}
BASE = {"language_model.model.": "language_model.", "vision_tower.vision_model.": "vision_tower."}
ROUNDED = "dtype bfloat16, to which transformers rounds weights"
LAYOUTS = {"hub": in_layout({}), "v4": in_layout(V4), "v5": in_layout(V5), "base": in_layout(BASE)}

FORMS: dict[str, tuple[Change, Callable[[Config], Config], str]] = {
    # weights, configuration, what is said of it
    "head": (lambda state: {**state, HEAD: state[EMBEDDING]}, dict, ""),
    "head in place of the embedding": (head_in_its_place, dict, "lm_head.weight stands for"),
    "head of the hub in place": (
        lambda state: head_in_its_place(state, "language_model.lm_head.weight"),
        dict,
        "language_model.lm_head.weight stands for",
    ),
    "untied, the same weights": (lambda state: {**state, HEAD: state[EMBEDDING]}, untied, ""),
    "untied, the same weights in float32": (lambda state: {**state, HEAD: state[EMBEDDING].float()}, untied, ""),
    "float64 norms": (in_float64, dict, ROUNDED),
    "four types": (mixed, dict, ROUNDED),
    "buffers": (with_buffers, dict, ""),
    "padded": (padded, rows(2176), ""),
    "cut": (lambda state: {**state, EMBEDDING: state[EMBEDDING][:2049]}, rows(2049), ""),
    "quantization_config": (dict, quantized(""), "quantization_config .'bitsandbytes'. is left out"),
    "quantization_config of text": (dict, quantized("text_config"), "text_config.quantization_config"),
    "no architectures": (dict, without("architectures"), ""),
    "architectures null": (dict, lambda config: {**config, "architectures": None}, ""),
    "Gemma3Model": (LAYOUTS["base"], lambda config: {**config, "architectures": ["Gemma3Model"]}, ""),
    "transformers 4": (LAYOUTS["v4"], dict, ""),
    "transformers 5": (LAYOUTS["v5"], dict, ""),
    "model. before the hub's": (lambda state: {f"model.{name}": tensor for name, tensor in state.items()}, dict, ""),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_people_save_is_read_as_transformers_loads_it(medgemma_source: Path, copied: Copy, form: str) -> None:
    weights, config, said = FORMS[form]
    folder = reshape(copied(medgemma_source), weights, config)
    source = checked(folder)
    assert [bool(re.search(said, note)) for note in source.notes] == [True] * bool(said)
    if "quantization" in form:  # transformers would quantize what it loads
        shutil.copy(medgemma_source / "config.json", folder / "config.json")
    check_source(source, loaded(folder))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_another_type_than_is_stated_is_said_where_transformers_rounds_to_that(
    medsiglip_source: Path, copied: Copy, dtype: str
) -> None:
    folder = reshape(
        copied(medsiglip_source), lambda state: {name: tensor.float() * 1.001 for name, tensor in state.items()}
    )
    edit_json(folder / "config.json", {"torch_dtype": ..., "dtype": dtype})
    theirs = transformers.SiglipModel.from_pretrained(folder).logit_scale.detach().float()
    rounds = not torch.equal(theirs, load(folder)["logit_scale"])
    assert rounds == (dtype == "bfloat16")
    assert any("rounds weights" in note for note in open_source(folder).notes) == rounds


@pytest.mark.parametrize("form", ["head in place of the embedding", "four types", "buffers"])
def test_files_of_such_forms_hold_what_transformers_loads(
    medgemma_source: Path, copied: Copy, tmp_path: Path, form: str
) -> None:
    weights, config, said = FORMS[form]
    folder = reshape(copied(medgemma_source), weights, config)
    notes = exported(folder, tmp_path / "a")
    assert not said or any(re.search(said, note) for note in notes)
    check_file(tmp_path / "a", loaded(folder))


PREFIXES = (
    "_orig_mod.",
    "module.",
    "base_model.model.",
    "model.model.",
    "module._orig_mod.",
    "base_model.model.model.",
    "_forward_module.module.model.",
)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("layout", ["hub", "v4", "v5"])
def test_what_a_trainer_put_before_every_name_is_taken_off(
    medgemma_source: Path, copied: Copy, prefix: str, layout: str
) -> None:
    folder = reshape(
        copied(medgemma_source),
        lambda state: {prefix + name: tensor for name, tensor in LAYOUTS[layout](state).items()},
    )
    source = checked(folder)
    check_same(source, medgemma_source)
    assert any(f"taken off: {prefix}" in note for note in source.notes)


def test_a_file_of_tensors_with_a_prefix(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = reshape(copied(medgemma_source), lambda state: {f"module.{name}": t for name, t in state.items()})
    assert any("taken off: module." in note for note in exported(folder, tmp_path / "a"))
    check_file(tmp_path / "a", loaded(medgemma_source))


def test_wrapped_modules_inside_a_model(medgemma_source: Path, copied: Copy) -> None:
    """A decoder that was compiled, and layers whose activations were not kept."""

    def wrap(state: State) -> State:
        renamed = {name.replace("language_model.", "language_model._orig_mod.", 1): t for name, t in state.items()}
        return {re.sub(r"(layers\.\d+\.)", r"\1_checkpoint_wrapped_module.", name): t for name, t in renamed.items()}

    check_same(checked(reshape(copied(medgemma_source), wrap)), medgemma_source)


def test_a_prefix_of_some_tensors_is_none(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    """The error shows a name as it is stored."""

    def wrap(state: State) -> State:
        return {f"module.{name}" if "vision" in name else name: tensor for name, tensor in state.items()}

    folder = reshape(copied(medgemma_source), wrap)
    refused(folder, r"is missing; \d+ are no tensors of Gemma3For\w+: module\.vision_tower", tmp_path / "a")


def test_one_tensor_with_and_without_a_wrapper_is_refused(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    twice = lambda state: {**state, f"_orig_mod.{EMBEDDING}": state[EMBEDDING] * 2}  # noqa: E731
    refused(reshape(copied(medgemma_source), twice), "are the same tensor", tmp_path / "a")


# ---------------------------------------------------------------- the decoder alone


def flat(config: Config) -> Config:
    """config.json as transformers writes that of the decoder alone."""
    return {**config["text_config"], "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}


def text_alone(state: State) -> State:
    own = {name: tensor for name, tensor in state.items() if name.startswith("language_model.")}
    return in_layout({"language_model.model.": "model."})(own)


TEXT_FORMS: dict[str, tuple[Change, Callable[[Config], Config], str]] = {
    "Gemma3ForCausalLM": (text_alone, flat, ""),
    "Gemma3TextModel": (
        lambda state: {name.removeprefix("model."): tensor for name, tensor in text_alone(state).items()},
        lambda config: {**flat(config), "architectures": ["Gemma3TextModel"]},
        "",
    ),
    "no architectures": (text_alone, lambda config: without("architectures")(flat(config)), ""),
    "its head in place": (lambda state: text_alone_with_head(state), flat, "lm_head.weight stands for"),
    "untied, the same weights": (
        lambda state: {**text_alone(state), HEAD: state[EMBEDDING]},
        lambda config: {**flat(config), "tie_word_embeddings": False},
        "",
    ),
    "the vision tower left beside it": (
        lambda state: {**{n: t for n, t in state.items() if not n.startswith("language_model.")}, **text_alone(state)},
        flat,
        "71 tensors are left out",
    ),
}


def text_alone_with_head(state: State) -> State:
    own = text_alone(state)
    return {**{name: t for name, t in own.items() if "embed_tokens" not in name}, HEAD: state[EMBEDDING]}


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_the_decoder_alone_is_read_as_transformers_loads_it(medgemma_source: Path, copied: Copy, form: str) -> None:
    weights, config, said = TEXT_FORMS[form]
    folder = reshape(copied(medgemma_source), weights, config)
    source = checked(folder)
    assert [bool(re.search(said, note)) for note in source.notes] == [True] * bool(said)
    check_source(source, loaded(folder, "AutoModelForCausalLM"))


def test_the_decoder_alone_by_the_whole_models_recipe(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = reshape(copied(medgemma_source), text_alone, flat)
    (folder / "preprocessor_config.json").unlink()
    exported(folder, tmp_path / "a")
    check_file(tmp_path / "a", loaded(folder, "AutoModelForCausalLM"))
    manifest = manifests.read(tmp_path / "a")
    assert (manifest.family, [part.role for part in manifest.parts]) == ("medgemma-text", ["decoder"])
    assert "text part alone" in manifest.title


def test_the_recipe_is_found_for_the_decoder_alone(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = reshape(copied(medgemma_source), text_alone, flat)
    made = artifact.export(folder, tmp_path / "a", levels=["Q8_0"], prove=False)
    assert made.manifest.recipe == "reference-medgemma"
    with pytest.raises(UsageError, match=r"unknown level 'Q4_0\+vision-int8'"):
        artifact.export(folder, tmp_path / "b", levels=["Q4_0+vision-int8"], prove=False)
    with pytest.raises(UsageError, match="hidden_size = 256, not 2560"):
        artifact.export(folder, tmp_path / "b", recipe_name="medgemma-4b", levels=["Q8_0"], prove=False)


def test_the_decoder_by_the_whole_models_names(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    """transformers loads none of them where config.json describes the decoder alone, so `language_model.` is a prefix
    of all names, which is said, or there are others, and the tensors are refused."""
    right = checked(reshape(copied(medgemma_source), text_alone, flat))
    prefixed = lambda state: {f"language_model.{name}": tensor for name, tensor in text_alone(state).items()}  # noqa: E731
    source = checked(reshape(copied(medgemma_source), prefixed, flat))
    assert any("taken off: language_model.model." in note for note in source.notes)
    assert source.stored.keys() == right.stored.keys()
    for name, tensor in source.stored.items():
        assert np.array_equal(source.checkpoint.read(tensor), right.checkpoint.read(right.stored[name])), name
    whole = reshape(copied(medgemma_source), config=flat)
    error = refused(whole, r"is missing; 93 are no tensors of Gemma3ForCausalLM: language_model\.", tmp_path / "b")
    assert "the whole model's" in str(error.remedy)


# ---------------------------------------------------------------- what is refused


def other_head(state: State, name: str = HEAD) -> State:
    head = state[EMBEDDING].clone()
    head[1003, 7] += 1  # one number of half a million
    return {**state, name: head}


def fp8(state: State) -> State:
    return {
        n: t.to(torch.float8_e4m3fn) if n.endswith("q_proj.weight") and "layers" in n else t for n, t in state.items()
    }


def packed(state: State) -> State:
    """As bitsandbytes stores 4 bits."""
    return {
        n: torch.zeros(t.numel() // 2, 1, dtype=torch.uint8) if n.endswith("up_proj.weight") else t
        for n, t in state.items()
    }


def eight_bits(state: State) -> State:
    return {n: t.to(torch.int8) if n.endswith("up_proj.weight") else t for n, t in state.items()}


def gptq(state: State) -> State:
    return {
        n.replace("up_proj.weight", "up_proj.qweight"): torch.zeros(32, 512, dtype=torch.int32) if "up_proj" in n else t
        for n, t in state.items()
    }


def not_finite(state: State) -> State:
    name = "language_model.model.layers.3.self_attn.q_norm.weight"
    wide = state[name].double()
    wide[3] = 1e300  # infinite in float32
    return {**state, name: wide}


@pytest.mark.parametrize(
    ("weights", "config", "match"),
    [
        (other_head, dict, "lm_head.weight differs from language_model.model.embed_tokens.weight.*not tied"),
        (other_head, untied, "lm_head.weight differs from language_model.model.embed_tokens.weight.*not tied"),
        (dict, untied, "tie_word_embeddings is false and tensor lm_head.weight is missing"),
        (
            head_in_its_place,
            untied,
            "tie_word_embeddings is false and tensor language_model.model.embed_tokens.*missing",
        ),
        (lambda state: {**state, EMBEDDING: state[EMBEDDING][:2049]}, dict, r"has shape \[2049, 256\]"),
        (fp8, dict, "q_proj.weight has type F8_E4M3"),
        (fp8, quantized(""), "q_proj.weight has type F8_E4M3"),
        (packed, quantized(""), "up_proj.weight has type U8"),
        (eight_bits, quantized("text_config"), "up_proj.weight has type I8"),
        (gptq, quantized(""), "up_proj.qweight has type I32"),
        (not_finite, dict, "q_norm.weight holds NaN or infinite weights"),
        (
            dict,
            lambda c: {**c, "architectures": ["Gemma3ForSequenceClassification"]},
            "Gemma3ForSequenceClassification",
        ),
        (dict, lambda c: {**c, "architectures": ["Gemma3ForCausalLM"]}, "model_type 'gemma3'"),
        (dict, lambda c: without("architectures", "model_type")(c), "model_type None is unknown"),
    ],
)
def test_what_is_refused_by_name(
    medgemma_source: Path,
    copied: Copy,
    tmp_path: Path,
    weights: Change,
    config: Callable[[Config], Config],
    match: str,
) -> None:
    refused(reshape(copied(medgemma_source), weights, config), match, tmp_path / "a")


# ---------------------------------------------------------------- MedSigLIP


def vision_alone(folder: Path) -> Path:
    """As SiglipVisionModel is saved: no tokenizer beside it."""
    for path in folder.iterdir():
        if path.name not in (SINGLE, "config.json", "preprocessor_config.json"):
            path.unlink()
    return reshape(
        folder,
        lambda state: {name: tensor for name, tensor in state.items() if name.startswith("vision_model.")},
        lambda config: {**config["vision_config"], "architectures": ["SiglipVisionModel"]},
    )


def bare(state: State) -> State:
    return {name.removeprefix("vision_model."): tensor for name, tensor in state.items()}


SIGLIP_FORMS: dict[str, tuple[Change, str]] = {
    "buffers": (
        lambda state: {**state, **dict.fromkeys(("text_model.embeddings.position_ids",), torch.arange(64)[None])},
        "",
    ),
    "float64": (lambda state: {name: tensor.double() for name, tensor in state.items()}, ROUNDED),
    "compiled": (lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()}, "taken off"),
    "parallel": (lambda state: {f"module.{name}": tensor for name, tensor in state.items()}, "taken off"),
    "peft": (lambda state: {f"base_model.model.{name}": tensor for name, tensor in state.items()}, "taken off"),
    "held": (lambda state: {f"model.{name}": tensor for name, tensor in state.items()}, "taken off"),
}


@pytest.mark.parametrize("form", SIGLIP_FORMS)
def test_forms_of_medsiglip_are_the_same_tensors(medsiglip_source: Path, copied: Copy, form: str) -> None:
    weights, said = SIGLIP_FORMS[form]
    source = checked(reshape(copied(medsiglip_source), weights))
    assert [said in note for note in source.notes] == [True] * bool(said)
    assert source.settings == open_source(medsiglip_source).settings
    check_same(source, medsiglip_source)


def test_the_encoder_of_images_alone(medsiglip_source: Path, copied: Copy, tmp_path: Path) -> None:
    """Exported with its proof by the whole model's recipe: it embeds images as transformers does, and says of labels
    that it cannot read them."""
    folder = vision_alone(copied(medsiglip_source))
    artifact.export(folder, tmp_path / "a", recipe_name="reference-medsiglip", levels=["fp32"])
    reference, image = loaded(folder, "SiglipVisionModel"), photo(160, 120)
    preprocessing = open_source(folder).preprocessing
    assert preprocessing is not None
    pixels = normalize(to_pixels([image], preprocessing), preprocessing)
    with torch.inference_mode():
        expected = reference(pixel_values=torch.from_numpy(pixels)).pooler_output.numpy()
    with edgekit.open(tmp_path / "a") as model:
        assert model.abilities == {"embed_image"}
        (ours,) = model.embed_image([image])
        with pytest.raises(UsageError, match="cannot classify: it has no encoder of texts"):
            model.classify([image], ["normal"])
    assert np.abs(ours - expected[0] / np.linalg.norm(expected[0])).max() < 1e-5
    with open_full_precision(folder) as whole:
        assert np.abs(whole.embed_image([image])[0] - ours).max() < 1e-5


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (bare, ""),
        (lambda state: {**state, "text_model.head.bias": torch.zeros(160), "logit_scale": torch.zeros(1)}, "2 tensors"),
    ],
)
def test_names_of_the_encoder_of_images_alone(medsiglip_source: Path, copied: Copy, weights: Change, said: str) -> None:
    folder = vision_alone(copied(medsiglip_source))
    expected = {name: checked(folder).checkpoint.read(tensor) for name, tensor in checked(folder).stored.items()}
    source = checked(reshape(folder, weights))
    loaded(folder, "SiglipVisionModel")
    assert [said in note for note in source.notes] == [True] * bool(said)
    assert source.stored.keys() == expected.keys()
    assert all(np.array_equal(source.checkpoint.read(t), expected[name]) for name, t in source.stored.items())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"architectures": ["SiglipForImageClassification"], "model_type": "siglip"}, "SiglipForImageClassification"),
        ({"architectures": ["SiglipTextModel"], "model_type": "siglip_text_model"}, "it reads texts alone"),
        ({"vision_use_head": False}, "vision_use_head"),
        ({"model_type": "siglip"}, "model_type 'siglip'"),
    ],
)
def test_what_is_refused_of_an_encoder_of_images(
    medsiglip_source: Path, copied: Copy, tmp_path: Path, changes: Config, match: str
) -> None:
    folder = reshape(vision_alone(copied(medsiglip_source)), config=lambda config: {**config, **changes})
    refused(folder, match, tmp_path / "a", "reference-medsiglip")


# ---------------------------------------------------------------- end to end


@pytest.mark.slow
@pytest.mark.parametrize("form", ["head in place of the embedding", "untied, the same weights", "four types", "padded"])
def test_logits_are_transformers_own(medgemma_source: Path, copied: Copy, tmp_path: Path, form: str) -> None:
    """At BF16, from token ids on: what transformers makes of the very folder."""
    weights, config, _ = FORMS[form]
    folder = reshape(copied(medgemma_source), weights, config)
    exported(folder, tmp_path / "a")
    ids = load_tokenizer(folder / "tokenizer.json").encode(passage()[:600]).ids[:96]
    reference = loaded(folder)
    with torch.inference_mode():
        expected = reference(input_ids=torch.tensor([ids])).logits[0].numpy()
    with edgekit.open(tmp_path / "a", "BF16") as model:
        assert isinstance(model, ChatModel)
        ours = np.stack(list(model.decoder.prefill([Tokens(tuple(ids))], range(len(ids)))))
    assert kl_divergence(expected, ours[:, : expected.shape[1]]).mean() < 5e-4
