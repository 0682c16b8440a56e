"""Random Gemma 3 checkpoints: how large the decoder's weights are, and the files beside them.

Plain random weights are a bad test of an export and of its proof. Attention is nearly uniform, so masks and positions
hardly matter, and with tied embeddings the logits repeat the input token, so nothing matters. Hence:

- *Sharp attention.* Attention logits have a standard deviation of one to two units (`_SHARPNESS`), more in global
  layers, where positions divided by 8 must show.
- *Logits from the context.* What attention and MLPs add to the residual is about as strong as the embedding
  (`_CONTEXT`), and the last norm has both signs, which removes the input token from its own prediction. More
  context would be more chaotic than a trained model: each sharp layer multiplies rounding errors, and a right export
  would drift from full precision, too.
- *Flat enough logits* (`_PEAK`). The best two tokens of random logits lie close together. An 8-bit matrix product
  alone moves a logit by 0.6 % of the logits' spread; the spread must keep that far below the margin at which a proof
  counts a changed top token. The price is an entropy above a trained model's.
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
    GeneratorFor,
    Scales,
    matrix,
    norm_gain,
    residual_profile,
    spikes,
    spread,
    unit,
)
from edgekit.families.gemma3.chat import chat_template
from edgekit.families.gemma3.config import GemmaTextConfig, MedGemmaConfig
from edgekit.families.gemma3.layers import is_global
from edgekit.families.hub_files import image_processor, write_json
from edgekit.families.siglip.synthesis import TowerScales
from edgekit.families.synthesis import Synthesis

_SHARPNESS = {"local": 1.4, "global": 2.0}
_CONTEXT = 0.6  # variance of all that layers add to the residual, in units of the embedding's
_SHARES = {"local": 1.0, "global": 2.0, "mlp": 0.35}
_PEAK = 0.35  # spread of the logits, in units of the spread at which one token takes all: sqrt(2 ln(vocabulary))
_LAYER = re.compile(r"layers\.(\d+)\.(.+)$")
_GENERATION = {
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "do_sample": True,
    "eos_token_id": [1, 106],
    "pad_token_id": 0,
    "top_k": 64,
    "top_p": 0.95,
    "transformers_version": "4.52.3",
}


class DecoderScales:
    """Gemma 3's language model and the projector in front of it."""

    def __init__(self, text: GemmaTextConfig, generator_for: GeneratorFor) -> None:
        self._text, self._generator_for = text, generator_for
        self._profile = residual_profile(generator_for("decoder residual"), text.hidden_size)
        layers = range(text.num_hidden_layers)
        shares = np.array([[_SHARES[self._kind(i)], _SHARES["mlp"]] for i in layers])
        shares *= np.linspace(0.7, 1.3, len(layers))[:, None]
        shares *= spread(generator_for("decoder layers"), shares.size, 0.2).reshape(shares.shape)
        self._added = np.sqrt(_CONTEXT * shares / shares.sum())  # standard deviation that each layer's halves add

    def fill(self, name: str, shape: tuple[int, ...]) -> Filling:
        """What fills one tensor of the decoder or the projector."""
        rng, text = self._generator_for(name), self._text
        if layer := _LAYER.search(name):
            return self._layer(int(layer[1]), layer[2].removesuffix(".weight"), shape, rng)
        if name.endswith("embed_tokens.weight"):
            # Embeddings are multiplied by sqrt(hidden_size): the residual begins with unit variance.
            return Scales(spread(rng, shape[0], 0.1) / math.sqrt(text.hidden_size), self._profile)
        if name.endswith("mm_input_projection_weight"):
            return Scales(spread(rng, shape[0], 0.25) / math.sqrt(shape[0]), self._profile)
        if name.endswith("mm_soft_emb_norm.weight"):
            return spread(rng, shape[0], 0.2) - 1
        peak = _PEAK * math.sqrt(2 * math.log(text.vocab_size))
        signs = rng.integers(0, 2, text.hidden_size) * 2 - 1
        return np.asarray(peak * signs * spread(rng, text.hidden_size, 0.2) / self._profile - 1, np.float32)

    def _kind(self, layer: int) -> str:
        return "global" if is_global(layer) else "local"

    def _layer(self, layer: int, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Filling:
        width = shape[-1]
        match name:
            case "input_layernorm" | "pre_feedforward_layernorm":
                return norm_gain(self._profile) * spread(rng, width, 0.2) - 1
            case "post_attention_layernorm":
                return float(self._added[layer, 0]) * self._profile * spread(rng, width, 0.2) - 1
            case "post_feedforward_layernorm":
                return float(self._added[layer, 1]) * self._profile * spread(rng, width, 0.2) - 1
            case "self_attn.q_norm" | "self_attn.k_norm":
                # Normalized queries and keys of unit variance give logits of deviation sqrt(head_dim / scalar).
                unscaled = math.sqrt(self._text.query_pre_attn_scalar / width)
                factors = unit(spread(rng, width, 0.15) * spikes(rng, width, 1.5, 2.5))
                return math.sqrt(_SHARPNESS[self._kind(layer)] * unscaled) * factors - 1
            case "mlp.gate_proj":
                return matrix(rng, shape, 1.5)
            case _:
                return matrix(rng, shape, 1)


def _fillings(config: MedGemmaConfig, generator_for: GeneratorFor) -> FillingOf:
    decoder = DecoderScales(config.text_config, generator_for)
    if config.vision_config is None:
        return decoder.fill
    tower = TowerScales(config.vision_config, generator_for, "vision")
    return lambda name, shape: (tower if name.startswith("vision_tower.") else decoder).fill(name, shape)


def _write_files(folder: Path, config: MedGemmaConfig, generation: Mapping[str, Any]) -> None:
    write_json(folder / "generation_config.json", {**_GENERATION, **generation})
    (folder / "chat_template.jinja").write_text(chat_template(), encoding="utf-8")
    if config.vision_config is None:
        return
    length = config.mm_tokens_per_image
    preprocessor = {
        **image_processor(config.vision_config.image_size, 2, "Gemma3ImageProcessor"),
        "do_convert_rgb": None,
        "do_pan_and_scan": None,
        "image_seq_length": length,
        "pan_and_scan_max_num_crops": None,
        "pan_and_scan_min_crop_size": None,
        "pan_and_scan_min_ratio_to_activate": None,
        "processor_class": "Gemma3Processor",
    }
    write_json(folder / "preprocessor_config.json", preprocessor)
    processor = {"image_seq_length": length, "processor_class": "Gemma3Processor"}
    write_json(folder / "processor_config.json", processor)


def _write_tokenizer(folder: Path, config: MedGemmaConfig) -> None:
    from edgekit.families.gemma3.generated_tokenizer import write  # needs sentencepiece

    write(folder, config)


SYNTHESIS = Synthesis(_fillings, _write_files, _write_tokenizer)
TEXT_ONLY_SYNTHESIS = Synthesis(
    _fillings,
    _write_files,
    _write_tokenizer,
    layers="num_hidden_layers",
    vision_layers=None,
    # The hub's files of a model of text alone have one prefix less.
    stored_name=lambda name: name.removeprefix("language_model."),
)
