"""Gemma 3 files of whoever made them: do a header's numbers agree with its tensors, and what does it say of the model?

llama.cpp believes a file in much and ends the process over the rest; so everything that it reads is compared with what
`gguf_schema` states, before it sees the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from edgekit.artifacts.manifest import Preprocessing
from edgekit.artifacts.validation import validated
from edgekit.errors import ArtifactError
from edgekit.families.gemma3 import gguf_schema as schema
from edgekit.families.gemma3.chat import MARKERS
from edgekit.families.gemma3.stops import named_stops
from edgekit.families.gemma3.template_chat import own_template, renders_gemmas_turns
from edgekit.formats.gguf.header import GgufHeader
from edgekit.formats.gguf.schema import check_fields, check_known, check_tensors
from edgekit.formats.gguf.vocabulary import check_vocabulary

_FLOATS = ("F32", "F16", "BF16")
_MAX_LAYERS = 512  # llama.cpp's own limit
_IMAGE_TOKENS = {"image": "<image_soft_token>", "boi": "<start_of_image>", "eoi": "<end_of_image>"}
_IMAGE_SETTINGS = frozenset(f"{name}_token_id" for name in _IMAGE_TOKENS)
_TEMPLATE = "tokenizer.chat_template"
_CONTROL = 3  # llama_token_type
_POOLING = 4  # llama.cpp's default for Gemma 3: patches a token, each way


def check_decoder(header: GgufHeader) -> None:
    """Check a language model.

    Raises:
        ArtifactError: a key or a tensor that llama.cpp reads is missing, unknown, or not what the header's numbers make
            of it; or the file holds the vision tower, too.
    """
    if any(name.startswith(("v.", "mm.")) for name in header.tensors):
        raise ArtifactError(
            f"{header.path}: holds the vision tower, too, as Ollama's own conversions do; llama.cpp cannot read it",
            allowed="a decoder and a projector in files of their own",
        )
    check_fields(header, schema.DECODER_FIELDS)
    check_known(header, "gemma3.", schema.DECODER_FIELDS, schema.DECODER_IGNORED)
    _check_layers(header, "gemma3.block_count", "blk")
    heads, width = header.integer("gemma3.attention.head_count"), schema.head_width(header)
    same = {
        "gemma3.attention.value_length": width,
        "gemma3.rope.dimension_count": width,
        "gemma3.vocab_size": (vocabulary := check_vocabulary(header)),
    }
    for key, expected in same.items():
        if (stated := header.integer(key, expected)) != expected:
            raise ArtifactError(f"{header.path}: {key} is {stated}", allowed=f"{expected}, by the rest of the header")
    shared = header.integer("gemma3.attention.head_count_kv", heads)
    if not width or width % 2 or heads % shared:
        raise ArtifactError(f"{header.path}: {heads} heads of {width} that share {shared} keys")
    check_tensors(header, schema.decoder_tensors(header, vocabulary))


def check_projector(header: GgufHeader) -> None:
    """Check a Gemma 3 projector file.

    Raises:
        ArtifactError: it is no projector, a key or a tensor that llama.cpp reads is missing, unknown, or not what the
            header's numbers make of it; or its projection is quantized, for which llama.cpp returns NaN in every
            embedding, or crashes.
    """
    kind = header.text("clip.projector_type", header.text("clip.vision.projector_type", "none"))
    if kind != "gemma3":
        raise ArtifactError(f"{header.path}: a projector of type {kind!r:.60}", allowed="gemma3")
    projection = header.tensors.get("mm.input_projection.weight")
    if projection and projection.type not in _FLOATS:
        raise ArtifactError(
            f"{header.path}: {projection.name} is quantized to {projection.type}, which llama.cpp computes wrongly",
            allowed=", ".join(_FLOATS),
            remedy="use a projector file with a float projection, an F16 file for example",
        )
    check_fields(header, schema.PROJECTOR_FIELDS)
    check_known(header, "clip.", schema.PROJECTOR_FIELDS)
    image_tokens(header)
    _check_layers(header, "clip.vision.block_count", "v.blk")
    width, heads = (header.integer(f"clip.vision.{key}") for key in ("embedding_length", "attention.head_count"))
    if not heads or width % heads:
        raise ArtifactError(f"{header.path}: {heads} attention heads in a width of {width}")
    check_tensors(header, schema.projector_tensors(header))


def image_tokens(header: GgufHeader) -> int:
    """How many tokens a projector makes of an image. Raises ArtifactError where patches cannot be pooled to them."""
    side, patch = (header.integer(f"clip.vision.{key}_size") for key in ("image", "patch"))
    pooling = header.integer("clip.vision.projector.scale_factor", _POOLING)
    if not side or not patch or not pooling or side % patch or side // patch % pooling:
        raise ArtifactError(f"{header.path}: {side} px cannot be cut into patches of {patch} px, pooled by {pooling}")
    return (side // patch // pooling) ** 2


def _check_layers(header: GgufHeader, key: str, prefix: str) -> None:
    stated = header.integer(key)
    layers = {match[1] for name in header.tensors if (match := re.match(rf"{re.escape(prefix)}\.(\d+)\.", name))}
    if not 0 < stated <= _MAX_LAYERS or layers != {str(layer) for layer in range(stated)}:
        raise ArtifactError(f"{header.path}: {key} is {stated}, and {len(layers)} layers are there")


def decoder_states(header: GgufHeader) -> dict[str, Any]:
    """What a decoder's header says, by the names of the manifest's settings, and its `numbers`."""
    tokens = header.texts("tokenizer.ggml.tokens")
    ids = {token: i for i, token in reversed(list(enumerate(tokens)))}
    special = {f"{name}_token_id": ids[token] for name, token in _IMAGE_TOKENS.items() if token in ids}
    stops = _stops(header, ids)
    return {
        "context": header.integer("gemma3.context_length"),
        "window": header.integer("gemma3.attention.sliding_window", 0),
        "hidden": header.integer("gemma3.embedding_length"),
        "vocabulary": len(tokens),
        "chat": _TEMPLATE in header.fields,
        "stop_token_ids": stops,
        "stop_tokens": [tokens[index] for index in stops],
        "template": _other_template(header),
        **special,
        "numbers": {
            **schema.rotation(header),
            "rms_norm_eps": float(header.fields["gemma3.attention.layer_norm_rms_epsilon"]),
        },
    }


def _stops(header: GgufHeader, ids: Mapping[str, int]) -> list[int]:
    """What llama.cpp ends an answer at: what three keys name, and tokens by their texts.

    Raises:
        ArtifactError: a key names a token that is text.
    """
    types = header.numbers("tokenizer.ggml.token_type", len(header.texts("tokenizer.ggml.tokens")))
    control = {token: i for token, i in ids.items() if types[i] == _CONTROL or token in MARKERS}
    keys = (f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
    stated = {key: header.integer(key) for key in keys if key in header.fields}
    for key, index in stated.items():
        if index not in control.values():
            raise ArtifactError(f"{header.path}: {key} is {index}, which is no control token: text would end answers")
    return sorted({*named_stops(control).values(), *stated.values()})


def markers_needed(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The markers that prompts of a model with these settings are written with."""
    turns = ("<start_of_turn>", "<end_of_turn>") if settings["chat"] and not settings.get("template") else ()
    images = tuple(_IMAGE_TOKENS.values()) if "image_token_id" in settings else ()
    return ("<bos>", "<eos>", *turns, *images)


def _other_template(header: GgufHeader) -> dict[str, Any] | None:
    """The file's chat template where it renders other turns than Gemma's, and what it may use."""
    if _TEMPLATE not in header.fields:
        return None
    text, variables = header.text(_TEMPLATE), _variables(header)
    where = f"{header.path}: its chat template"
    return None if renders_gemmas_turns(text, variables, _sees(header), where) else {"text": text}


def _variables(header: GgufHeader) -> dict[str, str]:
    tokens = header.texts("tokenizer.ggml.tokens")
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    found = {name: f"tokenizer.ggml.{key}_token_id" for name, key in names.items()}
    return {f"{name}_token": tokens[header.integer(key)] for name, key in found.items() if key in header.fields}


def _sees(header: GgufHeader) -> bool:
    return _IMAGE_TOKENS["image"] in header.texts("tokenizer.ggml.tokens")


def projector_states(header: GgufHeader) -> dict[str, Any]:
    """What a projector's header says, by the names of the manifest's settings, its `preprocessing` and `numbers`."""
    mean, std = (header.numbers(f"clip.vision.image_{name}", 3) for name in ("mean", "std"))
    return {
        "hidden": header.integer("clip.vision.projection_dim"),
        "image_tokens": image_tokens(header),
        "preprocessing": {"size": header.integer("clip.vision.image_size"), "mean": mean, "std": std},
        "numbers": {"layer_norm_eps": float(header.fields["clip.vision.attention.layer_norm_epsilon"])},
    }


def settings_of(decoder: GgufHeader, projector: GgufHeader | None) -> tuple[dict[str, Any], Preprocessing | None]:
    """What the family reads from a checkpoint, from the headers of its files.

    Raises:
        ArtifactError: a header lacks something, or the two do not fit each other.
    """
    settings = decoder_states(decoder)
    del settings["numbers"]  # which only a config.json could contradict
    if settings.pop("template"):
        text, variables = decoder.text(_TEMPLATE), _variables(decoder)
        own = own_template(text, variables, _sees(decoder), f"{decoder.path}: its chat template", ArtifactError)
        if own and projector and not own.parts:
            raise ArtifactError(
                f"{decoder.path}: its chat template takes no images", remedy="adopt it without --mmproj, for text alone"
            )
        settings |= {"template": own.model_dump()} if own else {}
    if projector is None:
        return {name: value for name, value in settings.items() if name not in _IMAGE_SETTINGS}, None
    seen = projector_states(projector)
    if seen["hidden"] != settings["hidden"]:
        raise ArtifactError(
            f"{projector.path}: projects to a width of {seen['hidden']}", allowed=f"{settings['hidden']}, the decoder's"
        )
    if missing := [_IMAGE_TOKENS[name] for name in _IMAGE_TOKENS if f"{name}_token_id" not in settings]:
        raise ArtifactError(f"{decoder.path}: its vocabulary has no {', '.join(missing)}")
    data = {**seen["preprocessing"], "resample": "bilinear"}  # as Gemma 3 resizes
    preprocessing = validated(Preprocessing, data, str(projector.path), ArtifactError, inside="clip.vision.image_")
    return {**settings, "image_tokens": seen["image_tokens"]}, preprocessing
