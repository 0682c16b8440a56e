"""How large the weights of a stand-in are: chosen so that its export and its proof mean something.

Plain random weights are a bad test. Attention is nearly uniform, so masks and positions hardly matter; with tied
embeddings the logits repeat the input token, so nothing matters; and without outliers quantization is too easy. Hence:

- *Sharp attention.* Attention logits have a standard deviation of one to two units (`_SHARPNESS`), more in global
  layers, where positions divided by 8 must show.
- *Logits from the context.* What attention and MLPs add to the residual is about as strong as the embedding
  (`_CONTEXT`), and the last norm has both signs, which removes the input token from its own prediction. More
  context would be more chaotic than a trained model: each sharp layer multiplies rounding errors, and a right export
  would drift from its reference, too.
- *Flat enough logits* (`_PEAK`). The best two tokens of random logits lie close together. An 8-bit matrix product
  alone moves a logit by 0.6 % of the logits' spread; the spread must keep that far below the margin at which a proof
  counts a changed top token. The price is an entropy above a trained model's.
- *Outliers as in trained models.* A few residual channels are much weaker or stronger than the rest, and the norms
  before each layer make up for it with weights that are over 30 times as large; rows and columns differ in scale, and
  a few columns are 5 to 8 times as large, which costs their quantization blocks precision.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.families.base import Slot
from edgekit.families.gemma3.family import is_global

Float = NDArray[np.float32]
Draw = Callable[[str], np.random.Generator]  # a generator for a name

_SHARPNESS = {"local": 1.4, "global": 2.0, "tower": 1.8, "pooling": 4.0}
_CONTEXT = 0.6  # variance of all that layers add to the residual, in units of the embedding's
_SHARES = {"local": 1.0, "global": 2.0, "mlp": 0.35}
_PEAK = 0.35  # spread of the logits, in units of the spread at which one token takes all: sqrt(2 ln(vocabulary))
_WEAK, _STRONG = 0.06, 5.0  # residual channels that are outliers
_TOWER_CONTEXT = 1.0  # the same for a tower
_FLATNESS = 0.5  # how much of their mean patch filters lose: images must differ in more than their brightness
_CONTRAST, _POSITION = 4.0, 0.2  # strength of patch filters and of position embeddings
_LAYER = re.compile(r"layers\.(\d+)\.(.+)$")


@dataclass(frozen=True)
class Scales:
    """A matrix of normals, its rows and its columns scaled. Further axes count as columns."""

    rows: Float
    columns: Float


Filling = Scales | Float  # a vector, or a table small enough, is given as it is


def spread(rng: np.random.Generator, count: int, deviation: float) -> Float:
    """Log-normal factors of unit mean square."""
    return _unit(np.exp(deviation * rng.standard_normal(count)))


def spikes(rng: np.random.Generator, count: int, low: float, high: float) -> Float:
    """Ones, of which one in 640 (at least one) lies between `low` and `high`."""
    factors = np.ones(count, np.float32)
    chosen = rng.choice(count, max(1, count // 640), replace=False)
    factors[chosen] = rng.uniform(low, high, len(chosen))
    return factors


def residual_profile(rng: np.random.Generator, width: int) -> Float:
    """The strength of each residual channel: 1, but for a few weak and a few strong ones."""
    profile = np.ones(width, np.float32)
    few = max(1, width // 640)
    chosen = rng.choice(width, 2 * few, replace=False)
    profile[chosen[:few]], profile[chosen[few:]] = _WEAK, _STRONG
    return profile


def _gain(profile: Float) -> Float:
    """What a norm multiplies each channel with: the weak come out twice as strong as the rest, and so do the strong."""
    return np.where(profile == 1, 1, 2 / profile).astype(np.float32)


def _matrix(rng: np.random.Generator, shape: tuple[int, ...], gain: float) -> Scales:
    """Rows and columns of different scales, a few columns large; inputs of unit variance come out with `gain`."""
    height, width = shape
    columns = _unit(spread(rng, width, 0.15) * spikes(rng, width, 5, 8))
    return Scales(gain / math.sqrt(width) * spread(rng, height, 0.25), columns)


def _unit(factors: NDArray[Any]) -> Float:
    """The same factors with unit mean square."""
    return np.asarray(factors / np.sqrt(np.mean(factors**2)), np.float32)


class DecoderScales:
    """Gemma 3's language model and the projector in front of it."""

    def __init__(self, text: Any, draw: Draw) -> None:
        self._text, self._draw = text, draw
        self._profile = residual_profile(draw("decoder residual"), text.hidden_size)
        layers = range(text.num_hidden_layers)
        shares = np.array([[_SHARES[self._kind(i)], _SHARES["mlp"]] for i in layers])
        shares *= np.linspace(0.7, 1.3, len(layers))[:, None]
        shares *= spread(draw("decoder layers"), shares.size, 0.2).reshape(shares.shape)
        self._added = np.sqrt(_CONTEXT * shares / shares.sum())  # standard deviation that each layer's halves add

    def fill(self, slot: Slot) -> Filling:
        """The scales of one tensor of the decoder or the projector."""
        rng, text = self._draw(slot.name), self._text
        if found := _LAYER.search(slot.name):
            return self._layer(int(found[1]), found[2].removesuffix(".weight"), slot, rng)
        if slot.name.endswith("embed_tokens.weight"):
            # Embeddings are multiplied by sqrt(hidden_size): the residual begins with unit variance.
            return Scales(spread(rng, slot.shape[0], 0.1) / math.sqrt(text.hidden_size), self._profile)
        if slot.name.endswith("mm_input_projection_weight"):
            return Scales(spread(rng, slot.shape[0], 0.25) / math.sqrt(slot.shape[0]), self._profile)
        if slot.name.endswith("mm_soft_emb_norm.weight"):
            return spread(rng, slot.shape[0], 0.2) - 1
        peak = _PEAK * math.sqrt(2 * math.log(text.vocab_size))
        signs = rng.integers(0, 2, text.hidden_size) * 2 - 1
        return np.asarray(peak * signs * spread(rng, text.hidden_size, 0.2) / self._profile - 1, np.float32)

    def _kind(self, layer: int) -> str:
        return "global" if is_global(layer) else "local"

    def _layer(self, layer: int, name: str, slot: Slot, rng: np.random.Generator) -> Filling:
        width = slot.shape[-1]
        match name:
            case "input_layernorm" | "pre_feedforward_layernorm":
                return _gain(self._profile) * spread(rng, width, 0.2) - 1
            case "post_attention_layernorm":
                return float(self._added[layer, 0]) * self._profile * spread(rng, width, 0.2) - 1
            case "post_feedforward_layernorm":
                return float(self._added[layer, 1]) * self._profile * spread(rng, width, 0.2) - 1
            case "self_attn.q_norm" | "self_attn.k_norm":
                # Normalized queries and keys of unit variance give logits of deviation sqrt(head_dim / scalar).
                unit = math.sqrt(self._text.query_pre_attn_scalar / width)
                factors = _unit(spread(rng, width, 0.15) * spikes(rng, width, 1.5, 2.5))
                return math.sqrt(_SHARPNESS[self._kind(layer)] * unit) * factors - 1
            case "mlp.gate_proj":
                return _matrix(rng, slot.shape, 1.5)
            case _:
                return _matrix(rng, slot.shape, 1)


class TowerScales:
    """A SigLIP tower: image or text, with whatever head it has."""

    def __init__(self, config: Any, draw: Draw, name: str, pad_id: int | None = None) -> None:
        self._draw, self._pad_id = draw, pad_id
        self._profile = residual_profile(draw(f"{name} residual"), config.hidden_size)
        self._added = math.sqrt(_TOWER_CONTEXT / (2 * config.num_hidden_layers))

    def fill(self, slot: Slot) -> Filling:
        """The scales of one tensor of this tower."""
        rng = self._draw(slot.name)
        leaf = slot.name.removesuffix(".weight").rsplit(".", 1)[-1]
        if slot.name.endswith("bias"):
            return (0.05 * rng.standard_normal(slot.shape)).astype(np.float32)
        if found := _LAYER.search(slot.name):
            return self._layer(found[2].removesuffix(".weight"), slot, rng)
        return self._outside(leaf, slot, rng)

    def _layer(self, name: str, slot: Slot, rng: np.random.Generator) -> Filling:
        width = slot.shape[-1]
        match name:
            case "layer_norm1" | "layer_norm2":
                return _gain(self._profile) * spread(rng, width, 0.2)
            case "self_attn.q_proj" | "self_attn.k_proj":
                return _matrix(rng, slot.shape, math.sqrt(_SHARPNESS["tower"]))
            case "self_attn.out_proj" | "mlp.fc2":
                # Averages over many patches are small: attention's share needs larger weights than the MLP's.
                added = self._added * (1.5 if name == "self_attn.out_proj" else 1)
                scales = _matrix(rng, slot.shape, added)
                return Scales(scales.rows * self._profile, scales.columns)
            case "mlp.fc1":
                return _matrix(rng, slot.shape, 1.5)
            case _:
                return _matrix(rng, slot.shape, 1)

    def _outside(self, leaf: str, slot: Slot, rng: np.random.Generator) -> Filling:
        width = slot.shape[-1]
        match leaf:
            case "patch_embedding" | "position_embedding" | "token_embedding":
                return self._embedding(leaf, slot, rng)
            case "post_layernorm" | "final_layer_norm":
                return _gain(self._profile) * spread(rng, width, 0.2)
            case "layernorm":
                return spread(rng, width, 0.2)
            case "probe":
                return rng.standard_normal(slot.shape).astype(np.float32)
            case "in_proj_weight":  # queries, keys, values
                scales = _matrix(rng, slot.shape, 1)
                sharp = np.repeat([math.sqrt(_SHARPNESS["pooling"])] * 2 + [1], slot.shape[0] // 3)
                return Scales((scales.rows * sharp).astype(np.float32), scales.columns)
            case "logit_scale":
                return np.full(slot.shape, math.log(100), np.float32)
            case "logit_bias":
                return np.full(slot.shape, -15, np.float32)
            case _:
                return _matrix(rng, slot.shape, 1.5 if leaf == "fc1" else 1)

    def _embedding(self, leaf: str, slot: Slot, rng: np.random.Generator) -> Filling:
        rows = slot.shape[0]
        if leaf == "patch_embedding":
            # As trained filters do, these answer to edges more than to brightness, of which neighbours have the same.
            filters = rng.standard_normal(slot.shape)
            filters -= _FLATNESS * filters.mean(axis=(1, 2, 3), keepdims=True)
            gain = _CONTRAST / math.sqrt(math.prod(slot.shape[1:]))
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
