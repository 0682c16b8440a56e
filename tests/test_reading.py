"""edgekit reads a checkpoint as transformers does, or refuses it by name."""

from __future__ import annotations

import json
import re
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from material import Copy, contents, edit_json, hollow_checkpoint, in_a_new_process, read_json

from edgekit import metrics
from edgekit.checkpoints import weight_files
from edgekit.checkpoints.tensors import Tensor
from edgekit.errors import CheckpointError, GateError
from edgekit.families import family_of
from edgekit.families.full_precision import hub_config
from edgekit.families.source import Source, open_source
from edgekit.full_precision.model import build, skeleton
from edgekit.full_precision.original import Original, check_reading, read_original
from edgekit.inputs.message import Message
from edgekit.inputs.passage import passage
from edgekit.prove import publish
from edgekit.runtime.base import Tokens
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.opening import open_model

FULL, LOCAL = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}, {"rope_type": "default", "rope_theta": 1e4}
ROPE = {"text_config.rope_scaling": ..., "text_config.rope_theta": ..., "text_config.rope_local_base_freq": ...}
Edits = dict[str, Any]


def v5(full: Any = FULL, local: Any = LOCAL, **others: Any) -> Edits:
    """Rotary embeddings as transformers 5 writes them, in place of the hub's keys."""
    parameters = {"full_attention": full, "sliding_attention": local}
    return {**ROPE, "text_config.rope_parameters": parameters, **others}


def text(**fields: Any) -> Edits:
    return {f"text_config.{name}": value for name, value in fields.items()}


def vision(**fields: Any) -> Edits:
    return {f"vision_config.{name}": value for name, value in fields.items()}


# What edgekit reads as transformers does.
READ: Mapping[str, Edits] = {
    "as it is": {},
    "no scaling": text(rope_scaling=...),
    "scaling is null": text(rope_scaling=None),
    "linear by a factor of 1": text(rope_scaling={"rope_type": "linear", "factor": 1.0}),
    "both names of a type": text(rope_scaling={"rope_type": "linear", "type": "linear", "factor": 8.0}),
    "no bases": text(rope_theta=..., rope_local_base_freq=...),
    "other bases": text(rope_theta=5e5, rope_local_base_freq=2e4),
    "a base inside the scaling": text(rope_theta=..., rope_scaling=FULL | {"rope_theta": 5e5}),
    "parameters": v5(),
    "parameters are null": text(rope_parameters=None),
    "parameters and scaling agree": v5() | text(rope_scaling={"rope_type": "linear", "factor": 8.0}),
    "parameters and bases agree": v5() | text(rope_theta=1e6, rope_local_base_freq=1e4),
    "parameters, the older name of a type": v5({"type": "linear", "factor": 8.0, "rope_theta": 1e6}),
    "parameters, global base outside": v5({"rope_type": "linear", "factor": 8.0}, **text(rope_theta=5e5)),
    "parameters, local base outside": v5(FULL, {"rope_type": "default"}, **text(rope_local_base_freq=2e4)),
    "parameters of global layers alone": v5(FULL, None, **text(rope_local_base_freq=2e4)),
    "parameters of local layers alone": v5(None, LOCAL),
    "layer types": text(layer_types=["sliding_attention"] * 5 + ["full_attention", "sliding_attention"]),
    "an older activation that agrees": text(hidden_act="gelu_pytorch_tanh"),
    "no scale": text(query_pre_attn_scalar=...),
    "no width of heads": text(head_dim=...),
    "no window": text(sliding_window=...),
    "no epsilon": text(rms_norm_eps=...),
    "another epsilon": text(rms_norm_eps=1e-5),
    "no length": text(max_position_embeddings=...),
    "no numbers of heads": text(num_attention_heads=..., num_key_value_heads=...),
    "another vision epsilon": vision(layer_norm_eps=1e-5),
    "vision defaults": vision(
        layer_norm_eps=..., hidden_act=..., vision_use_head=..., model_type=..., num_channels=...
    ),
    "no image tokens": {"mm_tokens_per_image": ...},
    "the newer name of an id": {"image_token_index": ..., "image_token_id": 2048},
    "both names of an id": {"image_token_id": 2048, "boi_token_id": 6},
    "another type of weights": {"dtype": "float32"},
    "flags that agree": text(tie_word_embeddings=True) | {"tie_word_embeddings": True},
}
# What it refuses, and what its message names.
REFUSED: Mapping[str, tuple[Edits, str]] = {
    "the older name of a type": (text(rope_scaling={"type": "linear", "factor": 8.0}), "rope_scaling.type"),
    "two names of a type": (text(rope_scaling={"rope_type": "default", "type": "linear"}), "two answers"),
    "no factor": (text(rope_scaling={"rope_type": "linear"}), "rope_factor"),
    "a factor in quotes": (text(rope_scaling={"rope_type": "linear", "factor": "8.0"}), "rope_factor"),
    "a factor without a type": (text(rope_scaling={"factor": 8.0}), "factor"),
    "a type of others": (text(rope_scaling={"rope_type": "yarn", "factor": 8.0}), "yarn"),
    "scaling beside parameters": (
        v5() | text(rope_scaling={"rope_type": "linear", "factor": 4.0}),
        "rope_scaling.factor",
    ),
    "scaling beside default parameters": (
        v5({"rope_type": "default"}) | text(rope_scaling={"rope_type": "linear", "factor": 8.0}),
        "rope_scaling.rope_type",
    ),
    "scaling beside empty parameters": (text(rope_parameters={}), "rope_scaling"),
    "a base beside parameters": (v5() | text(rope_theta=5e5), "rope_theta"),
    "a local base beside parameters": (v5() | text(rope_local_base_freq=2e4), "rope_local_base_freq"),
    "flat parameters": ({**ROPE, "text_config.rope_parameters": FULL}, "rope_parameters.factor"),
    "flat parameters and scaling": (text(rope_parameters=FULL), "rope_parameters.factor"),
    "scaled local layers": (v5(FULL, FULL), "sliding_attention"),
    "a factor of local layers": (v5(FULL, {**LOCAL, "factor": 2.0}), "sliding_attention.factor"),
    "half a head turns": (text(partial_rotary_factor=0.5), "partial_rotary_factor"),
    "half a head turns, inside": (v5({**FULL, "partial_rotary_factor": 0.5}), "partial_rotary_factor"),
    "an older activation": (text(hidden_act="gelu"), "hidden_act"),
    "no activation": (text(hidden_activation=None), "hidden_activation"),
    "exact GELU": (text(hidden_activation="gelu"), "hidden_activation"),
    "a scale in quotes": (text(query_pre_attn_scalar="64"), "query_pre_attn_scalar"),
    "a window of true": (text(sliding_window=True), "sliding_window"),
    "sees both ways": (text(use_bidirectional_attention=True), "use_bidirectional_attention"),
    "softcap": (text(final_logit_softcapping=30.0), "final_logit_softcapping"),
    "attention softcap": (text(attn_logit_softcapping=50.0), "attn_logit_softcapping"),
    "biases": (text(attention_bias=True), "attention_bias"),
    "all layers global": (text(layer_types=["full_attention"] * 7), "global"),
    "every fifth layer global": (text(sliding_window_pattern=5), "global"),
    "layers of their own": (text(per_layer_config={"0": {"sliding_window": 8}}), "per_layer_config"),
    "another tower": (vision(model_type="clip_vision_model"), "model_type"),
    "quick GELU": (vision(hidden_act="quick_gelu"), "hidden_act"),
    "two ids": ({"image_token_id": 2047}, "image_token_id"),
    "two ids, null": ({"image_token_id": None}, "image_token_id"),
    "two flags": (text(tie_word_embeddings=False), "tie_word_embeddings"),
    "another file": ({"transformers_weights": "other.safetensors"}, "transformers_weights"),
}


def edited(source: Path, copied: Copy, edits: Edits) -> Path:
    folder = copied(source)
    data = read_json(folder / "config.json")
    for dotted, value in edits.items():
        *parents, last = dotted.split(".")
        place = data
        for key in parents:
            place = place[key]
        if value is ...:
            place.pop(last, None)
        else:
            place[last] = value
    (folder / "config.json").write_text(json.dumps(data))
    return folder


@pytest.mark.parametrize("case", READ)
def test_config_is_read_as_transformers_reads_it(case: str, medgemma_source: Path, copied: Copy) -> None:
    from transformers import AutoConfig
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding

    folder = edited(medgemma_source, copied, READ[case])
    ours = open_source(folder).config
    theirs = AutoConfig.from_pretrained(folder, local_files_only=True)
    for name in (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "head_dim", "vocab_size", "max_position_embeddings", "rms_norm_eps", "query_pre_attn_scalar", "sliding_window",
        "hidden_activation", "attn_logit_softcapping", "final_logit_softcapping", "attention_bias",
    ):  # fmt: skip
        assert getattr(ours.text_config, name) == getattr(theirs.text_config, name), name
    for name in (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "layer_norm_eps", "hidden_act",
        "image_size", "patch_size", "num_channels",
    ):  # fmt: skip
        assert getattr(ours.vision_config, name) == getattr(theirs.vision_config, name), name
    assert ours.mm_tokens_per_image == theirs.mm_tokens_per_image
    assert ours.image_token_index == theirs.image_token_id
    assert (ours.boi_token_index, ours.eoi_token_index) == (theirs.boi_token_id, theirs.eoi_token_id)
    rotary, width = Gemma3RotaryEmbedding(theirs.text_config), ours.text_config.head_dim
    turns = np.arange(0, width, 2) / width
    expected = ours.text_config.rope_theta**-turns / ours.text_config.rope_factor
    assert np.allclose(rotary.full_attention_inv_freq.numpy(), expected, rtol=1e-5, atol=0)
    expected = ours.text_config.rope_local_base_freq**-turns
    assert np.allclose(rotary.sliding_attention_inv_freq.numpy(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_two_readings_or_none_is_refused_without_a_proof_too(
    case: str, medgemma_source: Path, copied: Copy, tmp_path: Path
) -> None:
    edits, named = REFUSED[case]
    with pytest.raises(CheckpointError, match=r"config\.json") as caught:
        publish.export(edited(medgemma_source, copied, edits), tmp_path / "artifact", levels=["BF16"], prove=False)
    assert named in str(caught.value)
    assert not (tmp_path / "artifact").exists()


@pytest.mark.parametrize(
    ("edits", "named"),
    [
        ({"text_config.hidden_act": "gelu"}, "hidden_act"),
        ({"vision_config.vision_use_head": False}, "vision_use_head"),
        ({"vision_config.layer_norm_eps": "1e-6"}, "layer_norm_eps"),
        ({"text_config.projection_size": "160"}, "projection_size"),
    ],
)
def test_siglip_is_as_strict(edits: Edits, named: str, medsiglip_source: Path, copied: Copy) -> None:
    with pytest.raises(CheckpointError, match=named):
        open_source(edited(medsiglip_source, copied, edits))


def test_what_a_text_config_says_of_padding_is_left_to_the_tokenizer(medsiglip_source: Path, copied: Copy) -> None:
    source = open_source(edited(medsiglip_source, copied, {"text_config.pad_id": 7, "text_config.pad_token_id": 0}))
    assert source.settings["pad_token_id"] == 1
    check_reading(source, read_original(source))


# ---------------------------------------------------------------- what is compared


@pytest.fixture(scope="module")
def read(medgemma_source: Path, medsiglip_source: Path) -> Mapping[str, tuple[Source, Original]]:
    """Both models, and transformers' own reading of them."""
    sources = [open_source(folder) for folder in (medgemma_source, medsiglip_source)]
    return {source.family.name: (source, read_original(source)) for source in sources}


MODELS = ("medgemma", "medsiglip")
# Fields of transformers' configurations that change nothing of what a model computes, and how one sees that.
NO_PART_OF_THE_MODEL = {
    "architectures", "transformers_version", "dtype", "torch_dtype", "_name_or_path", "name_or_path",
    "initializer_range", "initializer_factor", "attention_dropout", "use_cache",
    "return_dict", "output_hidden_states", "output_attentions", "chunk_size_feed_forward", "is_encoder_decoder",
    "id2label", "label2id", "problem_type", "bos_token_id", "eos_token_id", "pad_token_id",
    "cache_implementation", "_sliding_window_pattern", "sliding_window_pattern",
}  # fmt: skip
# Of the text alone: the whole model's flag counts; and a head whose output MedGemma never asks for.
NOWHERE_READ = {
    "medgemma": {"text_config.tie_word_embeddings", "vision_config.vision_use_head"},
    "medsiglip": set[str](),
}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, held in value.items():
            yield from leaves(held, f"{path}.{key}" if path else str(key))
    elif path.rpartition(".")[2] not in NO_PART_OF_THE_MODEL:
        yield path, value


def changed(value: Any) -> Any:
    """Another value of about the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}_"
    if isinstance(value, list):
        return value[::-1] if value != value[::-1] else [*value, *value]
    return 30.0 if value is None else value * 2


@pytest.mark.parametrize("model", MODELS)
def test_every_value_that_changes_the_model_is_compared(
    model: str, read: Mapping[str, tuple[Source, Original]]
) -> None:
    source, original = read[model]
    found = dict(leaves(original.config.to_dict()))
    found = {path: value for path, value in found.items() if "2label" not in path and "label2" not in path}
    assert len(found) > 20
    told = {path: said_of(source, original, path, value) for path, value in found.items()}
    wrong = [path for path, said in told.items() if f"reading: {path} is " not in said]
    assert set(wrong) == NOWHERE_READ[model]
    assert all(repr(changed(found[path]))[:40] in said for path, said in told.items() if path not in wrong)


def said_of(source: Source, original: Original, path: str, value: Any) -> str:
    """The refusal where transformers reads another value there, or nothing."""
    stated = deepcopy(original.config.to_dict())
    *parents, last = path.split(".")
    reduce(dict.__getitem__, parents, stated)[last] = changed(value)
    try:
        check_reading(source, replace(original, config=Said(stated)))
    except CheckpointError as error:
        return str(error)
    return ""


class Said:
    """A configuration that says this."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.to_dict: Callable[[], dict[str, Any]] = lambda: values


@pytest.mark.parametrize("model", MODELS)
def test_right_readings_agree(model: str, read: Mapping[str, tuple[Source, Original]]) -> None:
    check_reading(*read[model])


@pytest.mark.parametrize(
    ("field", "value", "key"),
    [
        ("rope_theta", 5e5, "rope_parameters.full_attention.rope_theta"),
        ("rope_local_base_freq", 1e6, "rope_parameters.sliding_attention.rope_theta"),
        ("rope_factor", 7.0, "rope_parameters.full_attention.factor"),
        ("rms_norm_eps", 1e-5, "rms_norm_eps"),
        ("query_pre_attn_scalar", 256, "query_pre_attn_scalar"),
        ("sliding_window", 65, "sliding_window"),
    ],
)
def test_a_wrong_parser_is_refused_and_never_its_own_witness(
    field: str, value: Any, key: str, read: Mapping[str, tuple[Source, Original]]
) -> None:
    """The model that exports are compared with does not follow it."""
    source, original = read["medgemma"]
    text_config = source.config.text_config.model_copy(update={field: value})
    wrong = replace(source, config=source.config.model_copy(update={"text_config": text_config}))
    with pytest.raises(CheckpointError, match=rf"config\.json: reading: text_config\.{key} is {value!r} to edgekit"):
        check_reading(wrong, original)
    right, built = build(source).model.language_model, build(wrong).model.language_model
    assert built.config.to_dict() == {
        **right.config.to_dict(),
        "_name_or_path": built.config.to_dict()["_name_or_path"],
    }
    assert (built.rotary_emb.full_attention_inv_freq == right.rotary_emb.full_attention_inv_freq).all()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("image_mean", (0.4, 0.5, 0.5)),
        ("image_std", (0.4, 0.5, 0.5)),
        ("resample", 1),
        ("rescale_factor", 1 / 127.5),
        ("do_resize", None),
        ("do_rescale", False),
        ("do_normalize", None),
        ("do_center_crop", True),
        ("do_pan_and_scan", True),
    ],
)
def test_what_happens_to_images_is_compared(
    model: str, attribute: str, value: Any, read: Mapping[str, tuple[Source, Original]]
) -> None:
    source, original = read[model]
    image_processor = deepcopy(original.image_processor)
    setattr(image_processor, attribute, value)
    with pytest.raises(CheckpointError, match=f"reading: {attribute}"):
        check_reading(source, replace(original, image_processor=image_processor))


def test_what_a_processor_gives_is_compared(read: Mapping[str, tuple[Source, Original]]) -> None:
    source, original = read["medgemma"]
    processor = deepcopy(original.processor)
    processor.image_seq_length = 25
    with pytest.raises(CheckpointError, match="image_seq_length is 16 to edgekit, 25"):
        check_reading(source, replace(original, processor=processor))
    with pytest.raises(CheckpointError, match=r"eos_token_id .* \[9\]"):
        check_reading(source, replace(original, eos_token_ids=(1, 9)))
    tokenizer = deepcopy(original.tokenizer)
    tokenizer.image_token = "<unused0>"
    with pytest.raises(CheckpointError, match="image_token_id"):
        check_reading(source, replace(original, tokenizer=tokenizer))


@pytest.mark.parametrize("model", MODELS)
def test_vocabularies_are_compared(model: str, read: Mapping[str, tuple[Source, Original]], copied: Copy) -> None:
    """Two pieces exchanged, in the file that edgekit reads alone."""
    source, original = read[model]
    folder = copied(source.checkpoint.root)
    data = read_json(folder / "tokenizer.json")
    vocabulary = data["model"]["vocab"]
    if isinstance(vocabulary, dict):
        one, other = [token for token in vocabulary if vocabulary[token] in (300, 301)]
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    else:
        vocabulary[300], vocabulary[301] = vocabulary[301], vocabulary[300]
    (folder / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="the id of"):
        check_reading(open_source(folder), original)


DECODER = [
    {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]


@pytest.mark.parametrize(
    ("section", "value", "named"),
    [
        ("decoder", None, "the text of"),
        ("decoder.decoders", DECODER[::-1], "the text of"),
        ("decoder.decoders", DECODER[1:], "the text of"),
        ("model.byte_fallback", False, "of 5,000 texts give"),
        ("model.ignore_merges", True, "of 5,000 texts give"),
        ("normalizer", None, "of 5,000 texts give"),
    ],
)
def test_what_transformers_makes_of_texts_and_ids_is_compared(
    section: str, value: Any, named: str, read: Mapping[str, tuple[Source, Original]], copied: Copy
) -> None:
    """transformers' class has these parts of a tokenizer itself; edgekit has them from tokenizer.json."""
    folder = copied(read["medgemma"][0].checkpoint.root)
    edit_json(folder / "tokenizer.json", {section: value})
    source = open_source(folder)
    with pytest.raises(CheckpointError, match=rf"tokenizer\.json: reading: .*{named}"):
        check_reading(source, read_original(source))


@pytest.mark.parametrize("file", ["tokenizer.json", "spiece.model"])
def test_two_files_that_score_a_piece_are_two_answers(file: str, medsiglip_source: Path, copied: Copy) -> None:
    """A single rare piece: no text that is compared may hold it."""
    from sentencepiece import sentencepiece_model_pb2 as proto

    folder = copied(medsiglip_source)
    if file == "tokenizer.json":
        edit_json(folder / file, {"model.vocab.1500.1": -30.0})
    else:
        model = proto.ModelProto()
        model.ParseFromString((folder / file).read_bytes())
        model.pieces[1500].score -= 30
        (folder / file).write_bytes(model.SerializeToString())
    source = open_source(folder)
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.json: reading: the score of .* which spiece\.model states too"
    ):
        check_reading(source, read_original(source))


def test_texts_of_siglip_are_compared_beyond_their_scores(
    read: Mapping[str, tuple[Source, Original]], copied: Copy
) -> None:
    source, original = read["medsiglip"]
    folder = copied(source.checkpoint.root)
    edit_json(folder / "tokenizer.json", {"normalizer": None})
    with pytest.raises(CheckpointError, match="of 5,000 texts give"):
        check_reading(open_source(folder), original)
    edit_json(
        folder / "tokenizer.json", {"normalizer": read_json(source.checkpoint.root / "tokenizer.json")["normalizer"]}
    )
    check_reading(open_source(folder), original)
    edit_json(folder / "tokenizer.json", {"post_processor": None})
    with pytest.raises(CheckpointError, match="of 5,000 texts give"):
        check_reading(open_source(folder), original)


@pytest.mark.parametrize("marker", ["<end_of_turn>", "<start_of_image>", "<image_soft_token>"])
def test_markers_that_are_not_called_special_are_read_alike(marker: str, medgemma_source: Path, copied: Copy) -> None:
    """As fine-tuning scripts leave them."""
    folder = copied(medgemma_source)
    tokens = read_json(folder / "tokenizer.json")["added_tokens"]
    ((place, index),) = [(i, token["id"]) for i, token in enumerate(tokens) if token["content"] == marker]
    edit_json(folder / "tokenizer.json", {f"added_tokens.{place}.special": False})
    edit_json(folder / "tokenizer_config.json", {f"added_tokens_decoder.{index}.special": False})
    source = open_source(folder)
    check_reading(source, read_original(source))


# ---------------------------------------------------------------- tensors


def real(folder: Path) -> Any:
    """The model as users load it."""
    import torch
    import transformers

    named = getattr(transformers, read_json(folder / "config.json")["architectures"][0])
    return named.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


@pytest.mark.parametrize("model", MODELS)
def test_transformers_fills_each_parameter_from_the_tensor_that_it_says(
    model: str, read: Mapping[str, tuple[Source, Original]]
) -> None:
    """What stand-ins show is what happens to weights."""
    source, original = read[model]
    parameters = dict(real(source.checkpoint.root).named_parameters(remove_duplicate=False))
    assert set(original.tensors) == set(parameters)
    for name, tensor in original.tensors.items():
        stored = source.checkpoint.tensors[tensor.stored]
        assert tensor.shape == tuple(parameters[name].shape)
        assert tensor.dtype == stored.dtype
        assert np.array_equal(source.checkpoint.read(stored), parameters[name].detach().numpy())


def test_names_that_mean_another_tensor_are_refused(read: Mapping[str, tuple[Source, Original]]) -> None:
    source, original = read["medgemma"]
    right = source.family.canonical

    def exchanged(name: str) -> str | None:
        found = right(name)
        return found and found.replace("q_norm", "k__").replace("k_norm", "q_norm").replace("k__", "k_norm")

    # transformers' own names are read right, so those of the file alone are exchanged.
    canonical = lambda name: exchanged(name) if name.startswith("language_model.") else right(name)  # noqa: E731
    wrong = replace(source, family=replace(source.family, canonical=canonical))
    with pytest.raises(CheckpointError, match=r"[qk]_norm"):
        check_reading(wrong, original)


def test_tensors_that_transformers_leaves_unread_are_refused(medgemma_source: Path, copied: Copy) -> None:
    """A layer more than config.json says."""
    folder = edited(medgemma_source, copied, text(num_hidden_layers=6))
    source = open_source(folder)
    assert any("layers.6" in name for name in skeleton(source).faults["unexpected"])
    with pytest.raises(CheckpointError, match=r"layers\.6"):
        check_reading(source, read_original(source))


def test_a_single_file_counts_before_an_index(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    """A fine-tune saved over a sharded original: transformers loads the first, and no export has the second."""
    from safetensors.numpy import save_file

    folder = copied(medgemma_source)
    source = open_source(medgemma_source)
    weights = {name: source.checkpoint.read(tensor) for name, tensor in source.checkpoint.tensors.items()}
    save_file(weights, folder / "model-00001-of-00001.safetensors", {"format": "pt"})
    norm = "language_model.model.norm.weight"
    save_file({**weights, norm: weights[norm] + 1}, folder / "model.safetensors", {"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    loaded = real(folder).model.language_model.norm.weight.detach().numpy()
    assert np.array_equal(loaded, weights[norm] + 1)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        publish.export(folder, tmp_path / "artifact", levels=["BF16"])
    assert not (tmp_path / "artifact").exists()


def test_a_model_without_weights_takes_no_memory_and_cannot_be_used(medgemma_source: Path) -> None:
    model = build(open_source(medgemma_source))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert {buffer.device.type for buffer in model.buffers()} == {"cpu"}
    assert model.lm_head.weight is model.get_input_embeddings().weight


# ---------------------------------------------------------------- what transformers gets to see


def test_what_could_name_code_does_not_reach_transformers(medgemma_source: Path, copied: Copy) -> None:
    named = {
        "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"},
        "_attn_implementation": "someone/kernel",
        "attn_implementation": "someone/kernel",
        "_experts_implementation": "someone/kernel",
    }
    edits = {**named, **text(**named), **vision(**named)}
    source = open_source(edited(medgemma_source, copied, edits))
    model = build(source)
    said = json.dumps(model.config.to_dict(), default=str)
    assert "someone" not in said
    assert "code." not in said


@pytest.mark.parametrize(
    "edits",
    [{"dtype": "nothing"}, text(dtype="nothing"), text(to_dict=1), text(pad_token_id=5000), text(bos_token_id="two")],
    ids=str,
)
def test_what_transformers_refuses_is_one_error(edits: Edits, medgemma_source: Path, copied: Copy) -> None:
    source = open_source(edited(medgemma_source, copied, edits))
    with pytest.raises(CheckpointError, match="transformers refuses"):
        read_original(source)


def test_nothing_is_written_before_the_readings_agree(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(medgemma_source)
    edit_json(folder / "processor_config.json", {"image_seq_length": 25})
    with pytest.raises(CheckpointError, match="image_seq_length"):
        publish.export(folder, tmp_path / "artifacts" / "medgemma", levels=["BF16"])
    assert contents(tmp_path / "artifacts") == {}


@pytest.mark.slow
def test_reading_a_full_size_checkpoint_is_cheap(medgemma_source: Path, tmp_path: Path) -> None:
    """Four thousand million weights, none of which is read."""
    config = read_json(medgemma_source / "config.json")
    config["text_config"] |= {
        "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "head_dim": 256,
        "vocab_size": 262_208, "query_pre_attn_scalar": 256, "sliding_window": 1024, "max_position_embeddings": 131_072,
    }  # fmt: skip
    config["vision_config"] |= {
        "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
        "image_size": 224,
    }  # fmt: skip
    for path in medgemma_source.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, tmp_path)
    family = family_of(config)
    shapes = {spec.name: spec.shape for spec in family.tensors(family.parse(config))}
    assert hollow_checkpoint(tmp_path, config, shapes) > 4_000_000_000
    taken, grown = in_a_new_process(cost_of_reading, tmp_path, medgemma_source)
    assert taken < 10  # seconds of work: hashing the weights alone would take longer
    assert grown < 500_000_000


def cost_of_reading(folder: Path, warm: Path) -> tuple[float, int]:
    """Seconds of work, and bytes of memory at most, beyond what the libraries take."""
    read_original(open_source(warm))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    source = open_source(folder)
    check_reading(source, read_original(source))
    return time.process_time() - start, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


# ---------------------------------------------------------------- what is exported


def divergence(folder: Path, artifact: Path) -> float:
    """Mean KL of the exported decoder to transformers' model of the same folder, after a text beyond the window."""
    import torch

    with open_model(artifact) as model:
        assert isinstance(model, ChatModel)
        segments = model.segments([Message("user", passage()[:1500])])
        ids = [token for segment in segments if isinstance(segment, Tokens) for token in segment.ids]
        wanted = list(range(len(ids) - 40, len(ids)))
        actual = np.stack(list(model.decoder.prefill(segments, wanted)))
    with torch.inference_mode():
        expected = real(folder)(input_ids=torch.tensor([ids])).logits[0, wanted].numpy()
    return float(np.mean(metrics.kl_divergence(expected, actual)))


OF_OTHER_SHAPES = ("no width of heads", "no image tokens")  # than the reference model's weights and patches
EXPORTED = ("parameters, global base outside", "parameters of global layers alone")


@pytest.mark.parametrize(
    "case",
    [
        *EXPORTED,
        *(pytest.param(case, marks=pytest.mark.slow) for case in READ if case not in (*EXPORTED, *OF_OTHER_SHAPES)),
    ],
)
def test_what_is_exported_is_what_transformers_loads(
    case: str, medgemma_source: Path, copied: Copy, tmp_path: Path
) -> None:
    folder = edited(medgemma_source, copied, READ[case])
    publish.export(folder, tmp_path / "artifact", levels=["BF16"], prove=False)
    assert divergence(folder, tmp_path / "artifact") < 5e-4


def test_transformers_configuration_is_its_own(medgemma_source: Path) -> None:
    from transformers import AutoConfig

    source = open_source(medgemma_source)
    theirs = AutoConfig.from_pretrained(medgemma_source, local_files_only=True).to_dict()
    ours = hub_config(source.checkpoint, source.family.full_precision).to_dict()
    for said in (theirs, ours):
        del said["_name_or_path"], said["vision_config"]["vision_use_head"]
    assert ours == theirs


@pytest.mark.parametrize("model", MODELS)
def test_every_setting_is_compared(model: str, read: Mapping[str, tuple[Source, Original]]) -> None:
    """What a manifest says follows from edgekit's own reading, of which the manifest is no witness."""
    source, original = read[model]
    assert len(source.settings) >= 6
    for name, value in source.settings.items():
        other = [*value[:-1], "x" if name == "stop_tokens" else 8] if isinstance(value, list) else changed(value)
        wrong = replace(source)
        wrong.__dict__["settings"] = {**source.settings, name: other}
        with pytest.raises(CheckpointError, match=f"reading: .*({name}|edgekit stops|edgekit does|texts of tokens)"):
            check_reading(wrong, original)
    one_less = {"stop_token_ids": source.settings.get("stop_token_ids", [])[:1], "stop_tokens": ["<eos>"]}
    if model == "medgemma":
        wrong = replace(source)
        wrong.__dict__["settings"] = {**source.settings, **one_less}
        with pytest.raises(CheckpointError, match="tokens that end answers"):
            check_reading(wrong, replace(original, eos_token_ids=(1,)))


def test_transformers_reads_the_file_and_not_what_edgekit_made_of_it(medgemma_source: Path) -> None:
    source = open_source(medgemma_source)
    text_config = {**source.checkpoint.config["text_config"], "rms_norm_eps": 1e-3}
    misread = replace(source.checkpoint, config={**source.checkpoint.config, "text_config": text_config})
    with pytest.raises(CheckpointError, match=r"config\.json: reading: it says something else"):
        hub_config(misread, source.family.full_precision)


def test_a_tokenizer_that_cuts_texts_sooner_is_refused(
    read: Mapping[str, tuple[Source, Original]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers' processor then fills up to that length, and another position is pooled."""
    source, original = read["medsiglip"]
    monkeypatch.setattr(original.tokenizer, "model_max_length", 16)
    with pytest.raises(CheckpointError, match="model_max_length is 64 to edgekit, 16 to transformers"):
        check_reading(source, original)


def test_what_edgekit_drops_of_texts_is_seen(read: Mapping[str, tuple[Source, Original]]) -> None:
    source, original = read["medsiglip"]
    right = source.family.full_precision
    without_figures = replace(right, canonical=lambda text: re.sub(r"\d", "", right.canonical(text)))
    family = replace(source.family, full_precision=without_figures)
    with pytest.raises(CheckpointError, match=r"what \d+ of 5,000 texts give"):
        check_reading(replace(source, family=family), original)


def test_weights_read_from_the_wrong_place_are_not_their_own_witness(
    medsiglip_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever writes and whoever compares read the checkpoint by the same code, which exchanges two layers here."""
    right = weight_files.read_header

    def exchanged(path: Path) -> list[Tensor]:
        tensors = {tensor.name: tensor for tensor in right(path)}
        turned = {"layers.0.": "layers.1.", "layers.1.": "layers.0."}
        names = {name: re.sub(r"layers\.[01]\.", lambda found: turned[found[0]], name) for name in tensors}
        return [replace(tensor, offset=tensors[names[name]].offset) for name, tensor in tensors.items()]

    monkeypatch.setattr(weight_files, "read_header", exchanged)
    with pytest.raises(GateError, match=r"audit: vision_model\.encoder\.layers\.0"):
        publish.export(medsiglip_source, tmp_path / "artifact", levels=["fp32"])
    assert list(tmp_path.iterdir()) == []
