"""The keys and tensors of Gemma 3's two GGUF files, as llama.cpp reads them."""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.formats.gguf.header import GgufHeader
from edgekit.formats.gguf.schema import FLOATS, MATRICES, VECTOR, FieldRule, TensorRule, count

_MOST = (1 << 24) - 1  # positions
_WIDTH = 1 << 20
_BASE = 1e12
ROPE_BASE = 10000.0  # where a file states none
_EPSILON = FieldRule("float32", 0, 1, required=True)

DECODER_FIELDS: Mapping[str, FieldRule] = {
    "gemma3.block_count": FieldRule("uint32", required=True),
    "gemma3.context_length": count(_MOST, required=True),
    "gemma3.embedding_length": count(_WIDTH, required=True),
    "gemma3.feed_forward_length": count(_WIDTH, required=True),
    "gemma3.attention.head_count": count(_WIDTH, required=True),
    "gemma3.attention.head_count_kv": count(_WIDTH),
    "gemma3.attention.key_length": count(_WIDTH),
    "gemma3.attention.value_length": count(_WIDTH),
    "gemma3.attention.layer_norm_rms_epsilon": _EPSILON,
    "gemma3.attention.sliding_window": count(_MOST, least=0),
    "gemma3.attention.sliding_window_pattern": FieldRule("uint32", values=(6,)),  # llama.cpp's own, and the family's
    "gemma3.rope.freq_base": FieldRule("float32", 1, _BASE),
    "gemma3.rope.freq_base_swa": FieldRule("float32", 1, _BASE),
    "gemma3.rope.dimension_count": count(_WIDTH),
    "gemma3.rope.scaling.type": FieldRule("string", values=("none", "linear")),
    "gemma3.rope.scaling.factor": FieldRule("float32", 1e-3, 1e3),
    "gemma3.rope.scaling.original_context_length": count(_MOST),
    "gemma3.rope.scaling.finetuned": FieldRule("bool"),
    "gemma3.final_logit_softcapping": FieldRule("float32", 0, 1e6),
    "gemma3.vocab_size": count(_WIDTH),
}
# What Ollama's own conversions add; llama.cpp does not read it.
DECODER_IGNORED = ("gemma3.vision.", "gemma3.mm.", "gemma3.rope.global.", "gemma3.rope.local.")

PROJECTOR_FIELDS: Mapping[str, FieldRule] = {
    "clip.has_vision_encoder": FieldRule("bool", values=(True,), required=True),
    "clip.has_audio_encoder": FieldRule("bool", values=(False,)),
    "clip.has_text_encoder": FieldRule("bool"),
    "clip.has_llava_projector": FieldRule("bool"),
    "clip.projector_type": FieldRule("string"),
    "clip.vision.projector_type": FieldRule("string"),
    "clip.use_gelu": FieldRule("bool"),
    "clip.use_silu": FieldRule("bool", values=(False,)),
    "clip.vision.image_size": FieldRule("uint32", most=8192, required=True),
    "clip.vision.patch_size": FieldRule("uint32", most=8192, required=True),
    "clip.vision.embedding_length": count(_WIDTH, required=True),
    "clip.vision.feed_forward_length": count(_WIDTH, required=True),
    "clip.vision.projection_dim": count(_WIDTH, required=True),
    "clip.vision.block_count": FieldRule("uint32", required=True),
    "clip.vision.attention.head_count": FieldRule("uint32", required=True),
    "clip.vision.attention.layer_norm_epsilon": _EPSILON,
    "clip.vision.image_mean": FieldRule("array of float32", -1e3, 1e3, required=True, length=3),
    "clip.vision.image_std": FieldRule("array of float32", 1e-6, 1e3, required=True, length=3),
    "clip.vision.projector.scale_factor": count(1024),
}


def head_width(header: GgufHeader) -> int:
    """Of a key, a value and a query; what llama.cpp takes where a header does not say."""
    default = header.integer("gemma3.embedding_length") // header.integer("gemma3.attention.head_count")
    return header.integer("gemma3.attention.key_length", default)


def decoder_tensors(header: GgufHeader, vocabulary: int) -> dict[str, TensorRule]:
    """What a decoder with these numbers consists of."""
    hidden, mlp = header.integer("gemma3.embedding_length"), header.integer("gemma3.feed_forward_length")
    heads, width = header.integer("gemma3.attention.head_count"), head_width(header)
    shared = header.integer("gemma3.attention.head_count_kv", heads)
    rules = {
        "token_embd.weight": TensorRule((vocabulary, hidden), MATRICES),
        "output.weight": TensorRule((vocabulary, hidden), MATRICES, required=False),
        "output_norm.weight": TensorRule((hidden,), VECTOR),
    }
    matrices = {
        "attn_q": (heads * width, hidden), "attn_k": (shared * width, hidden), "attn_v": (shared * width, hidden),
        "attn_output": (hidden, heads * width), "ffn_gate": (mlp, hidden), "ffn_up": (mlp, hidden),
        "ffn_down": (hidden, mlp),
    }  # fmt: skip
    norms = {
        **dict.fromkeys(("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"), hidden),
        **dict.fromkeys(("attn_q_norm", "attn_k_norm"), width),
    }
    for layer in range(header.integer("gemma3.block_count")):
        for name, shape in matrices.items():
            rules[f"blk.{layer}.{name}.weight"] = TensorRule(shape, MATRICES)
        for name, size in norms.items():
            rules[f"blk.{layer}.{name}.weight"] = TensorRule((size,), VECTOR)
    return rules


def projector_tensors(header: GgufHeader) -> dict[str, TensorRule]:
    """What a projector with these numbers consists of."""
    width, mlp = (header.integer(f"clip.vision.{key}_length") for key in ("embedding", "feed_forward"))
    side, patch = (header.integer(f"clip.vision.{key}_size") for key in ("image", "patch"))
    rules = {
        "v.patch_embd.weight": TensorRule((width, 3, patch, patch), {"F32", "F16"}),
        "v.patch_embd.bias": TensorRule((width,), VECTOR),
        "v.position_embd.weight": TensorRule(((side // patch) ** 2, width), VECTOR),
        "v.post_ln.weight": TensorRule((width,), VECTOR),
        "v.post_ln.bias": TensorRule((width,), VECTOR),
        "mm.soft_emb_norm.weight": TensorRule((width,), VECTOR),
        "mm.input_projection.weight": TensorRule((width, header.integer("clip.vision.projection_dim")), FLOATS),
    }
    up, down = ("ffn_down", "ffn_up") if swapped(header) else ("ffn_up", "ffn_down")
    matrices = {**dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_out"), (width, width)), up: (mlp, width)}
    for layer in range(header.integer("clip.vision.block_count")):
        for name, shape in {**matrices, down: (width, mlp)}.items():
            rules[f"v.blk.{layer}.{name}.weight"] = TensorRule(shape, MATRICES)
            rules[f"v.blk.{layer}.{name}.bias"] = TensorRule(shape[:1], VECTOR)
        for name in ("ln1", "ln2"):
            rules |= {f"v.blk.{layer}.{name}.{leaf}": TensorRule((width,), VECTOR) for leaf in ("weight", "bias")}
    return rules


def swapped(header: GgufHeader) -> bool:
    """Whether the MLP's two matrices have each other's names, as llama.cpp's converter wrote them at first."""
    width, mlp = (header.integer(f"clip.vision.{key}_length") for key in ("embedding", "feed_forward"))
    down = header.tensors.get("v.blk.0.ffn_down.weight")
    return width != mlp and down is not None and down.shape == (mlp, width)


def rotation(header: GgufHeader) -> dict[str, float]:
    """How llama.cpp turns positions by a decoder's header, by config.json's names.

    A base that is not stated is 10,000; positions of global layers are divided by the factor, which is 1 where none is
    stated or the scaling is of no kind (`load_hparams` in llama-model.cpp).
    """
    scaled = header.fields.get("gemma3.rope.scaling.type", "linear") == "linear"
    factor = float(header.fields.get("gemma3.rope.scaling.factor", 0.0)) or 1.0
    return {
        "rope_theta": float(header.fields.get("gemma3.rope.freq_base", ROPE_BASE)),
        "rope_local_base_freq": float(header.fields.get("gemma3.rope.freq_base_swa", ROPE_BASE)),
        "rope_factor": factor if scaled else 1.0,
    }
