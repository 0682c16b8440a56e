"""The SigLIP so400m vision tower, which MedGemma and MedSigLIP share: its configuration and its tensors."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from edgekit.artifacts.levels import LayerPosition
from edgekit.checkpoints.tensor_spec import TensorSpec
from edgekit.families.base import Count, ModelConfig
from edgekit.families.shapes import EncoderShape


class EncoderConfig(ModelConfig):
    """What vision and text towers have in common."""

    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: int = Field(gt=0, le=1000)
    num_attention_heads: Count
    layer_norm_eps: float = Field(default=1e-6, gt=0)
    hidden_act: Literal["gelu_pytorch_tanh"] = "gelu_pytorch_tanh"

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} in {self.num_attention_heads} num_attention_heads")
        return self


class VisionConfig(EncoderConfig):
    """`vision_config` of either family; the defaults are those of transformers' SiglipVisionConfig."""

    image_size: Count
    patch_size: Count
    num_channels: Literal[3] = 3
    model_type: Literal["siglip_vision_model"] = "siglip_vision_model"

    @property
    def patches(self) -> int:
        """Patches of one image, the length of the position embedding."""
        return (self.image_size // self.patch_size) ** 2


def encoder_tensors(prefix: str, hidden: int, mlp: int, layers: int) -> list[TensorSpec]:
    """The transformer layers of one tower (vision and text are built alike).

    Args:
        prefix: of the names, up to `encoder.`.
    """
    shapes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (hidden, hidden),
        "self_attn.v_proj": (hidden, hidden),
        "self_attn.out_proj": (hidden, hidden),
        "mlp.fc1": (mlp, hidden),
        "mlp.fc2": (hidden, mlp),
    }
    # so400m's MLP width, 4304, is no multiple of a block; zeros beyond it change nothing, since gelu(0) = 0.
    padded = {"mlp.fc1": 0, "mlp.fc2": 1}
    # Attention mixes tokens, never channels, so the output's channels are the values'; gelu stands before fc2.
    follows = {
        **dict.fromkeys(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "layer_norm1"),
        "self_attn.out_proj": "self_attn.v_proj",
        "mlp.fc1": "layer_norm2",
    }
    specs = []
    for layer in range(layers):
        source, position = f"{prefix}encoder.layers.{layer}.", LayerPosition(layer, layers)
        for norm in ("layer_norm1", "layer_norm2"):
            specs.append(TensorSpec(f"{source}{norm}.weight", (hidden,), "norm", keep="F32"))
            specs.append(TensorSpec(f"{source}{norm}.bias", (hidden,), "bias", keep="F32"))
        for matrix, shape in shapes.items():
            axis, before = padded.get(matrix), follows.get(matrix)
            behind = (f"{source}{before}.weight", f"{source}{before}.bias") if before else ()
            specs.append(
                TensorSpec(
                    f"{source}{matrix}.weight", shape, KINDS[matrix], position=position, padded=axis, follows=behind
                )
            )
            specs.append(
                TensorSpec(f"{source}{matrix}.bias", shape[:1], "bias", keep="F32", padded=0 if axis == 0 else None)
            )
    return specs


# What mixtures call a layer's matrices.
KINDS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}


def vision_tensors(prefix: str, vision: VisionConfig) -> list[TensorSpec]:
    """The vision tower up to its last layer norm."""
    hidden, patch = vision.hidden_size, vision.patch_size
    embeddings = f"{prefix}embeddings."
    return [
        # llama.cpp convolves with F32 or F16 kernels only, and adds positions in F32.
        TensorSpec(f"{embeddings}patch_embedding.weight", (hidden, 3, patch, patch), "patch", keep="F32"),
        TensorSpec(f"{embeddings}patch_embedding.bias", (hidden,), "bias", keep="F32"),
        TensorSpec(f"{embeddings}position_embedding.weight", (vision.patches, hidden), "position", keep="F32"),
        *encoder_tensors(prefix, hidden, vision.intermediate_size, vision.num_hidden_layers),
        TensorSpec(f"{prefix}post_layernorm.weight", (hidden,), "norm", keep="F32"),
        TensorSpec(f"{prefix}post_layernorm.bias", (hidden,), "bias", keep="F32"),
    ]


def vision_shape(vision: VisionConfig, once: int) -> EncoderShape:
    """What encoding an image takes, with so many weights behind the tower that see few rows."""
    hidden, wide, patches = vision.hidden_size, vision.intermediate_size, vision.patches
    return EncoderShape(vision.num_hidden_layers, hidden, wide, patches, patches * hidden, once=once)
