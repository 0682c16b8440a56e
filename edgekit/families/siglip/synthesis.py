"""Random SigLIP checkpoints: how large a tower's weights are, and the files beside them.

A tower of plain random weights gives every image nearly the same embedding: attention is uniform and averages the
patches away. Hence attention logits have a standard deviation of nearly two units (`_SHARPNESS`), attention and MLPs
add about as much to the residual as the embedding began with (`_CONTEXT`), and patch filters answer to edges more than
to brightness, of which neighbouring patches have the same (`_FLATNESS`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.checkpoints.random_weights import (
    Filling,
    FillingOf,
    Float,
    GeneratorFor,
    Scales,
    matrix,
    norm_gain,
    residual_profile,
    spread,
)
from edgekit.families.hub_files import image_processor, write_json
from edgekit.families.siglip.config import ImageEncoderConfig, MedSiglipConfig
from edgekit.families.siglip.tower import EncoderConfig
from edgekit.families.synthesis import Synthesis

_SHARPNESS, _POOLING_SHARPNESS = 1.8, 4.0
_CONTEXT = 1.0  # variance of all that layers add to the residual, in units of the embedding's
_FLATNESS = 0.5  # how much of their mean patch filters lose
_CONTRAST, _POSITION = 4.0, 0.2  # strength of patch filters and of position embeddings
_LAYER = re.compile(r"layers\.\d+\.(.+)$")


class TowerScales:
    """A SigLIP tower: image or text, with whatever head it has."""

    def __init__(
        self, config: EncoderConfig, generator_for: GeneratorFor, name: str, pad_id: int | None = None
    ) -> None:
        """`pad_id` is a text tower's padding token, None for images."""
        self._generator_for, self._pad_id = generator_for, pad_id
        self._profile = residual_profile(generator_for(f"{name} residual"), config.hidden_size)
        self._added = math.sqrt(_CONTEXT / (2 * config.num_hidden_layers))

    def fill(self, name: str, shape: tuple[int, ...]) -> Filling:
        """What fills one tensor of this tower."""
        rng = self._generator_for(name)
        if name.endswith("bias"):
            return (0.05 * rng.standard_normal(shape)).astype(np.float32)
        if layer := _LAYER.search(name):
            return self._layer(layer[1].removesuffix(".weight"), shape, rng)
        return self._outside(name.removesuffix(".weight").rsplit(".", 1)[-1], shape, rng)

    def _layer(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Filling:
        match name:
            case "layer_norm1" | "layer_norm2":
                return norm_gain(self._profile) * spread(rng, shape[-1], 0.2)
            case "self_attn.q_proj" | "self_attn.k_proj":
                return matrix(rng, shape, math.sqrt(_SHARPNESS))
            case "self_attn.out_proj" | "mlp.fc2":
                # Averages over many patches are small: attention's share needs larger weights than the MLP's.
                added = self._added * (1.5 if name == "self_attn.out_proj" else 1)
                scales = matrix(rng, shape, added)
                return Scales(scales.rows * self._profile, scales.columns)
            case "mlp.fc1":
                return matrix(rng, shape, 1.5)
            case _:
                return matrix(rng, shape, 1)

    def _outside(self, leaf: str, shape: tuple[int, ...], rng: np.random.Generator) -> Filling:
        width = shape[-1]
        match leaf:
            case "patch_embedding" | "position_embedding" | "token_embedding":
                return self._embedding(leaf, shape, rng)
            case "post_layernorm" | "final_layer_norm":
                return norm_gain(self._profile) * spread(rng, width, 0.2)
            case "layernorm":
                return spread(rng, width, 0.2)
            case "probe":
                return rng.standard_normal(shape).astype(np.float32)
            case "in_proj_weight":  # queries, keys, values
                scales = matrix(rng, shape, 1)
                sharp = np.repeat([math.sqrt(_POOLING_SHARPNESS)] * 2 + [1], shape[0] // 3)
                return Scales((scales.rows * sharp).astype(np.float32), scales.columns)
            case "logit_scale":
                return np.full(shape, math.log(100), np.float32)
            case _:
                return matrix(rng, shape, 1.5 if leaf == "fc1" else 1)

    def _embedding(self, leaf: str, shape: tuple[int, ...], rng: np.random.Generator) -> Filling:
        rows = shape[0]
        if leaf == "patch_embedding":
            filters = rng.standard_normal(shape)
            filters -= _FLATNESS * filters.mean(axis=(1, 2, 3), keepdims=True)
            gain = _CONTRAST / math.sqrt(math.prod(shape[1:]))
            return np.asarray(gain * self._profile[:, None, None, None] * filters, np.float32)
        if leaf == "position_embedding":
            return Scales(self._positions(rows), self._profile)
        tokens = spread(rng, rows, 0.1)
        if self._pad_id is not None:
            tokens[self._pad_id] *= 0.1
        return Scales(tokens, self._profile)

    def _positions(self, rows: int) -> Float:
        """A text is read at its last place, mostly padding after padding: all alike, or it drowns the few words."""
        decay = np.ones(rows) if self._pad_id is None else np.exp(-np.arange(rows) / 8)
        return np.asarray(_POSITION * decay + 0.02, np.float32)


def _fillings(config: MedSiglipConfig, generator_for: GeneratorFor) -> FillingOf:
    image = TowerScales(config.vision_config, generator_for, "image")
    text = TowerScales(config.text_config, generator_for, "text", config.text_config.pad_id)
    return lambda name, shape: (image if name.startswith("vision_model.") else text).fill(name, shape)


def _vision_fillings(config: ImageEncoderConfig, generator_for: GeneratorFor) -> FillingOf:
    return TowerScales(config.vision_config, generator_for, "image").fill


def _write_files(folder: Path, config: ImageEncoderConfig, generation: Mapping[str, Any]) -> None:
    processor = image_processor(config.vision_config.image_size, 3, "SiglipImageProcessor")
    write_json(folder / "preprocessor_config.json", {**processor, "processor_class": "SiglipProcessor"})


def _write_tokenizer(folder: Path, config: MedSiglipConfig) -> None:
    from edgekit.families.siglip.generated_tokenizer import write  # needs sentencepiece

    write(folder, config.text_config.vocab_size)


SYNTHESIS = Synthesis(_fillings, _write_files, _write_tokenizer)
VISION_SYNTHESIS = Synthesis(
    _vision_fillings, _write_files, lambda folder, config: None, layers="num_hidden_layers", vision_layers=None
)
