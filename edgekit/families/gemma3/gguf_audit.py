"""What Gemma 3's GGUF files must say, by transformers' configuration and processor, and llama.cpp's reading of them.

A key that is not there has the value that llama.cpp takes then (`load_hparams` in llama-model.cpp, and clip.cpp).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

from edgekit.families.gemma3 import gguf_schema
from edgekit.formats.audit import Compared
from edgekit.formats.gguf.header import GgufHeader

_PERIOD = 6  # of layers, the last of which is global: llama.cpp's own for Gemma 3, whatever a file says
_POOLING = 4  # patches a token, each way, where a projector file does not say
_ACTIVATION = "gelu_pytorch_tanh"  # the only one in llama.cpp's Gemma 3, and what ggml calls gelu


def decoder(header: GgufHeader, original: Any) -> Iterator[Compared]:
    """The language model's keys.

    Args:
        original: with transformers' `config` and `tokenizer`.
    """
    text = original.config.get_text_config()
    width = header.integer("gemma3.embedding_length") // header.integer("gemma3.attention.head_count")
    head = header.fields.get("gemma3.attention.key_length", width)
    rows = min(text.vocab_size, header.tensors["token_embd.weight"].shape[0])  # those of no token may be cut off
    stated = {
        "block_count": (None, text.num_hidden_layers),
        "context_length": (None, text.max_position_embeddings),
        "embedding_length": (None, text.hidden_size),
        "feed_forward_length": (None, text.intermediate_size),
        "attention.head_count": (None, text.num_attention_heads),
        "attention.head_count_kv": (header.fields.get("gemma3.attention.head_count"), text.num_key_value_heads),
        "attention.key_length": (width, text.head_dim),
        "attention.value_length": (width, text.head_dim),
        "rope.dimension_count": (head, text.head_dim),
        "attention.layer_norm_rms_epsilon": (None, float(text.rms_norm_eps)),
        "final_logit_softcapping": (0.0, float(text.final_logit_softcapping or 0)),
        "attn_logit_softcapping": (0.0, float(text.attn_logit_softcapping or 0)),
        "vocab_size": (rows, rows),
    }
    for key, (default, expected) in stated.items():
        yield _constant(header, f"gemma3.{key}", default, expected)
    yield from _rotation(header, text)
    yield from _layers(header, text)
    # Said by no key, and fixed in llama.cpp.
    yield Compared("constant", "hidden_activation", _ACTIVATION, text.hidden_activation)
    yield Compared("constant", "attention_bias", False, bool(text.attention_bias))
    yield Compared("constant", "use_bidirectional_attention", False, bool(text.use_bidirectional_attention))
    if "output.weight" in header.tensors:  # else than as a copy, who reads the tensors refuses it
        yield Compared("tensor", "output.weight", "a copy of token_embd.weight", None, is_note=True)
    yield Compared("constant", "tie_word_embeddings", True, bool(text.tie_word_embeddings))


def _rotation(header: GgufHeader, text: Any) -> Iterator[Compared]:
    """llama.cpp divides positions of global layers by the factor; the scaling is linear unless a file says none."""
    spread, near = text.rope_parameters["full_attention"], text.rope_parameters["sliding_attention"]
    kind = header.fields.get("gemma3.rope.scaling.type", "linear")
    factor = float(header.fields.get("gemma3.rope.scaling.factor", 0.0)) or 1.0
    expected = float(spread.get("factor") or 1.0)
    yield Compared("constant", "gemma3.rope.scaling.factor", factor, expected)
    yield Compared("constant", "gemma3.rope.scaling.type", kind, "linear" if expected != 1 else kind)
    yield Compared(
        "constant", "the scaling of global layers is linear", spread["rope_type"] in ("default", "linear"), True
    )
    yield Compared("constant", "the scaling of local layers", "default", near["rope_type"])
    yield _constant(header, "gemma3.rope.freq_base", gguf_schema.ROPE_BASE, float(spread["rope_theta"]))
    yield _constant(header, "gemma3.rope.freq_base_swa", gguf_schema.ROPE_BASE, float(near["rope_theta"]))


def _layers(header: GgufHeader, text: Any) -> Iterator[Compared]:
    """Which layers see a window, and how long that is: none do where a file states no window."""
    window = header.integer("gemma3.attention.sliding_window", 0)
    kinds = [bool(window) and bool((layer + 1) % _PERIOD) for layer in range(text.num_hidden_layers)]
    expected = [kind == "sliding_attention" for kind in text.layer_types]
    yield Compared("constant", "the layers that see a window", kinds, expected)
    if any(expected):
        yield Compared("constant", "gemma3.attention.sliding_window", window, text.sliding_window)


def projector(header: GgufHeader, original: Any) -> Iterator[Compared]:
    """The vision part's keys.

    Args:
        original: with transformers' `config` and `image_processor`.
    """
    config, images = original.config, original.image_processor
    vision, side = config.vision_config, config.vision_config.image_size // config.vision_config.patch_size
    stated = {
        "vision.image_size": (None, vision.image_size),
        "vision.patch_size": (None, vision.patch_size),
        "vision.embedding_length": (None, vision.hidden_size),
        "vision.projection_dim": (None, config.get_text_config().hidden_size),
        "vision.block_count": (None, vision.num_hidden_layers),
        "vision.attention.head_count": (None, vision.num_attention_heads),
        "vision.attention.layer_norm_epsilon": (None, float(vision.layer_norm_eps)),
        "vision.image_mean": (None, [float(value) for value in images.image_mean]),
        "vision.image_std": (None, [float(value) for value in images.image_std]),
        "vision.projector.scale_factor": (_POOLING, side // math.isqrt(config.mm_tokens_per_image)),
        "use_gelu": (False, vision.hidden_act == _ACTIVATION),
        "use_silu": (False, False),
        "has_vision_encoder": (None, True),
        "projector_type": ("gemma3", "gemma3"),
        "vision.projector_type": ("gemma3", "gemma3"),
    }
    for key, (default, expected) in stated.items():
        yield _constant(header, f"clip.{key}", default, expected)
    # Zeros may fill the MLP up to whole blocks; that they are zeros is seen where they are read.
    width = header.integer("clip.vision.feed_forward_length")
    filled = header.tensors["v.blk.0.ffn_up.bias"].shape[0]
    if gguf_schema.swapped(header):
        filled = header.tensors["v.blk.0.ffn_down.bias"].shape[0]
    expected = max(filled, vision.intermediate_size)
    yield Compared("constant", "clip.vision.feed_forward_length", width, expected)
    yield Compared("constant", "hidden_act", _ACTIVATION, vision.hidden_act)
    # llama.cpp resizes to the tower's square, without asking.
    size = images.size
    yield Compared("constant", "the size of images", [vision.image_size] * 2, [size["height"], size["width"]])


def _constant(header: GgufHeader, key: str, default: Any, expected: Any) -> Compared:
    """A key; one that llama.cpp demands has no default."""
    found = header.fields.get(key, default)
    return Compared("constant", key, found.tolist() if hasattr(found, "tolist") else found, expected)


def decoder_name(name: str, header: GgufHeader) -> str | None:
    """See `edgekit.formats.gguf.form.GgufForm.hub_name`; the table is the gguf package's."""
    found = _names(False).get_name(name.removeprefix("language_model."), try_suffixes=(".weight",))
    return str(found) if found else None


def projector_name(name: str, header: GgufHeader) -> str | None:
    """As `decoder_name`. The projection, a parameter of its own, gets a weight's name from llama.cpp's converter."""
    asked = name.replace("mm_input_projection_weight", "mm_input_projection.weight")
    found = _names(True).get_name(asked, try_suffixes=(".weight", ".bias"))
    if found and gguf_schema.swapped(header):
        up, down = ".ffn_up.", ".ffn_down."
        found = found.replace(up, down) if up in found else found.replace(down, up)
    return str(found) if found else None


@cache
def _names(projects: bool) -> Any:
    """llama.cpp's table of names, for as many layers as any model has."""
    import gguf

    return gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ if projects else gguf.MODEL_ARCH.GEMMA3, 512)
