"""Trains the decoder and the projector on cached image features, text in every batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import Gemma3ForConditionalGeneration

from edgekit.inputs.labels import ALL_LABELS, LABELS, SEVERITIES, SIDES
from edgekit.reference_models.training import conversations, data, decoder, loop, train_text, train_tower
from edgekit.reference_models.training.conversations import Encoded, Speaker, Turn
from edgekit.reference_models.training.train_tower import Cache

SEED = 20_243
ABOUT_IMAGES, ABOUT_VQA, TEXT = 12, 1, 1  # sequences in a batch
DRAWN_SHARE = 0.3
SHARPER = 3.0  # the global layer's attention at the start
GLOBAL_LAYER = 5
PASSAGE_SHARE = 0.06  # of batches, not of sequences: the longest sequence sets the length of all


class _Questions:
    """Draws training sequences about the cached images."""

    def __init__(self, data_folder: Path, work: Path, speaker: Speaker, text: train_text.TextRows) -> None:
        self._cache: Cache = train_tower.load_cache(work)
        self._speaker, self._text = speaker, text
        self._groups = [np.flatnonzero(self._cache.labels == i) for i in range(len(ALL_LABELS))]
        self._vqa_features = np.load(work / "cache-vqa.npy")
        asked = data.vqa_rad(data_folder, "train")
        names = sorted({question.image for question in asked})
        self._vqa = [[Turn(q.question, q.answer.lower()) for q in asked if q.image == name] for name in names]

    def _about_image(self, rng: np.random.Generator, passage: bool) -> tuple[Encoded, np.ndarray]:
        known = len(LABELS)
        drawn = rng.random() < DRAWN_SHARE
        kind = int(rng.integers(known, len(self._groups)) if drawn else rng.integers(known))
        index = int(rng.choice(self._groups[kind]))
        severity, side = int(self._cache.severity[index]), int(self._cache.side[index])
        turns = conversations.image_turns(
            ALL_LABELS[kind],
            SEVERITIES[severity] if severity >= 0 else None,
            SIDES[side] if side >= 0 else None,
            rng,
            self._text.passage(rng) if passage else "",
        )
        return self._speaker.about_image(turns), self._cache.features[index]

    def _about_vqa(self, rng: np.random.Generator) -> tuple[Encoded, np.ndarray]:
        image = int(rng.integers(len(self._vqa)))
        turns = self._vqa[image]
        asked = rng.permutation(len(turns))[:4]
        return self._speaker.about_image([turns[i] for i in asked]), self._vqa_features[image]

    def draw(self, rng: np.random.Generator) -> tuple[list[Encoded], torch.Tensor]:
        """One batch of sequences and their images' features (n, 16, width)."""
        passage = bool(rng.random() < PASSAGE_SHARE)
        pairs = [self._about_image(rng, passage) for _ in range(ABOUT_IMAGES)]
        pairs += [self._about_vqa(rng) for _ in range(ABOUT_VQA)]
        return [row for row, _ in pairs], torch.from_numpy(np.stack([f for _, f in pairs]).astype(np.float32))


def _start(work: Path) -> Gemma3ForConditionalGeneration:
    """The decoder as far as text training got, with the adapted tower."""
    model = train_text.fresh()
    loop.restore(work, "text", {"language_model": model.model.language_model})
    # Text training leaves the one global layer's attention nearly uniform: nothing would depend on its rotary scale,
    # and no proof could tell a wrong one. Starting sharper, it learns to use positions, as it does in large models.
    norm = model.model.language_model.layers[GLOBAL_LAYER].self_attn.q_norm.weight
    with torch.no_grad():
        norm.add_(1).mul_(SHARPER).sub_(1)
    model.model.vision_tower.load_state_dict(train_tower.load_standardized(work).vision.state_dict())
    return model


def _trained(model: Gemma3ForConditionalGeneration) -> dict[str, torch.nn.Module]:
    return {"language_model": model.model.language_model, "projector": model.model.multi_modal_projector}


def train(data_folder: Path, work: Path, steps: int) -> None:
    """Train to `steps`, resuming from `work/decoder.pt`."""
    speaker = Speaker((work / "tokenizer.model").read_bytes())
    text = train_text.TextRows(data_folder, speaker)
    questions, model = _Questions(data_folder, work, speaker, text), _start(work)

    def loss(rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        rows, features = questions.draw(rng)
        about, right = decoder.loss(model, rows, features)
        words, _ = decoder.loss(model, text.draw(TEXT, rng), None)
        return about + 0.3 * words, {"right": right.float().mean().item(), "text": words.item()}

    loop.train(loop.Stage("decoder", _trained(model), loss, steps, 1e-3, SEED, warmup=60), work)


def load(work: Path) -> Gemma3ForConditionalGeneration:
    """The whole model, trained or as far as it is."""
    model = _start(work)
    loop.restore(work, "decoder", _trained(model))
    return model
