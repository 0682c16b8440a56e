"""Gemma 3 files of whoever made them: do a header's numbers agree with its tensors, and what does it say of the model?

Checked is where llama.cpp believes a file and ends the process; what it refuses with an error is left to it.
"""

from __future__ import annotations

import re
from typing import Any

from edgekit.artifacts.manifest import Preprocessing
from edgekit.artifacts.validation import validated
from edgekit.errors import ArtifactError
from edgekit.formats.gguf.header import GgufHeader

_FLOATS = ("F32", "F16", "BF16")
_MAX_LAYERS = 512  # llama.cpp's own limit
_POOLING = 4  # llama.cpp's default for Gemma 3: patches a token, each way


def check_decoder(header: GgufHeader) -> None:
    """Check a language model.

    Raises:
        ArtifactError: it names another number of layers than it has, or no epsilon, or holds the vision tower, too.
    """
    if any(name.startswith(("v.", "mm.")) for name in header.tensors):
        raise ArtifactError(
            f"{header.path}: holds the vision tower, too, as Ollama's own conversions do; llama.cpp cannot read it",
            allowed="a decoder and a projector in files of their own",
        )
    architecture = header.text("general.architecture")
    header.number(f"{architecture}.attention.layer_norm_rms_epsilon")
    _check_layers(header, f"{architecture}.block_count", "blk")


def check_projector(header: GgufHeader) -> None:
    """Check a Gemma 3 projector file.

    Raises:
        ArtifactError: it is no projector, its shapes contradict its numbers, or its projection is quantized, for which
            llama.cpp returns NaN in every embedding, or crashes.
    """
    kind = header.text("clip.projector_type", header.text("clip.vision.projector_type", "none"))
    if kind != "gemma3":
        raise ArtifactError(f"{header.path}: a projector of type {kind!r}", allowed="gemma3")
    projection = header.tensors.get("mm.input_projection.weight")
    if projection and projection.type not in _FLOATS:
        raise ArtifactError(
            f"{header.path}: {projection.name} is quantized to {projection.type}, which llama.cpp computes wrongly",
            allowed=", ".join(_FLOATS),
            remedy="use a projector file with a float projection, an F16 file for example",
        )
    image_tokens(header)
    header.number("clip.vision.attention.layer_norm_epsilon")
    _check_layers(header, "clip.vision.block_count", "v.blk")
    width, heads = (header.integer(f"clip.vision.{key}") for key in ("embedding_length", "attention.head_count"))
    if not heads or width % heads:
        raise ArtifactError(f"{header.path}: {heads} attention heads in a width of {width}")
    side, patch = (header.integer(f"clip.vision.{key}_size") for key in ("image", "patch"))
    text = header.integer("clip.vision.projection_dim")
    shapes = {
        r"v\.patch_embd\.weight": (width, 3, patch, patch),
        r"v\.position_embd\.weight": ((side // patch) ** 2, width),
        r"v\.blk\.\d+\.attn_(q|k|v|out)\.weight": (width, width),
        r"v\.(blk\.\d+\.(attn_(q|k|v|out)|ln[12])\.(weight|bias)|post_ln\.(weight|bias)|patch_embd\.bias)": (width,),
        r"mm\.soft_emb_norm\.weight": (width,),
        r"mm\.input_projection\.weight": (width, text),
    }
    for name, tensor in header.tensors.items():
        expected = next((shape for pattern, shape in shapes.items() if re.fullmatch(pattern, name)), tensor.shape)
        if tensor.shape != expected:
            raise ArtifactError(
                f"{header.path}: {name} has the shape {list(tensor.shape)}", allowed=f"{list(expected)}, by its header"
            )


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


def settings_of(decoder: GgufHeader, projector: GgufHeader | None) -> tuple[dict[str, Any], Preprocessing | None]:
    """What the family reads from a checkpoint, from the headers of its files.

    Raises:
        ArtifactError: a header lacks something, or the two do not fit each other.
    """
    if projector is None:
        return _text_settings(decoder), None
    return _text_settings(decoder) | _image_settings(decoder, projector), _preprocessing(projector)


def _text_settings(header: GgufHeader) -> dict[str, Any]:
    tokens = header.texts("tokenizer.ggml.tokens")
    ids = {token: i for i, token in enumerate(tokens)}
    named = {ids[name] for name in ("<eos>", "<end_of_turn>") if name in ids}
    return {
        "context": header.integer("gemma3.context_length"),
        "window": header.integer("gemma3.attention.sliding_window", 0),
        "hidden": header.integer("gemma3.embedding_length"),
        "vocabulary": len(tokens),
        "chat": "tokenizer.chat_template" in header.fields,
        "stop_token_ids": sorted({header.integer("tokenizer.ggml.eos_token_id"), *named}),
    }


def _image_settings(decoder: GgufHeader, vision: GgufHeader) -> dict[str, Any]:
    """Image tokens by the projector's pooling, their ids by the decoder's vocabulary."""
    hidden, width = decoder.integer("gemma3.embedding_length"), vision.integer("clip.vision.projection_dim")
    if hidden != width:
        raise ArtifactError(f"{vision.path}: projects to a width of {width}", allowed=f"{hidden}, the decoder's")
    tokens = decoder.texts("tokenizer.ggml.tokens")
    named = {"image": "<image_soft_token>", "boi": "<start_of_image>", "eoi": "<end_of_image>"}
    if missing := [name for name in named.values() if name not in tokens]:
        raise ArtifactError(f"{decoder.path}: its vocabulary has no {', '.join(missing)}")
    return {
        "image_tokens": image_tokens(vision),
        **{f"{name}_token_id": tokens.index(token) for name, token in named.items()},
    }


def _preprocessing(header: GgufHeader) -> Preprocessing:
    """As the projector says; Gemma 3 resizes bilinearly."""
    mean, std = (header.numbers(f"clip.vision.image_{name}", 3) for name in ("mean", "std"))
    data = {"size": header.integer("clip.vision.image_size"), "resample": "bilinear", "mean": mean, "std": std}
    return validated(Preprocessing, data, str(header.path), ArtifactError, inside="clip.vision.image_")
