"""Runs the reference models as a user would, in float32 through transformers with its own processors (PIL backend)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from PIL import Image
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

from edgekit.inputs import labels as vocabulary
from edgekit.inputs.labels import Label

_BATCH = 32
_ANSWER_TOKENS = 12


def _pictures(pixels: Sequence[np.ndarray]) -> list[Image.Image]:
    return [Image.fromarray(one).convert("RGB") for one in pixels]


def round_to_nearest(model: torch.nn.Module, bits: int) -> None:
    """Round every linear weight inside `model` to `bits` bits, one scale per output row: the damage control."""
    top = 2 ** (bits - 1) - 1
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            scale = module.weight.data.abs().amax(1, keepdim=True).clamp_min(1e-12) / top
            module.weight.data = (module.weight.data / scale).round().clamp(-top, top) * scale


class Classifier:
    """The MedSigLIP-like model with averaged class prompts."""

    def __init__(self, folder: Path, bits: int | None = None) -> None:
        self._model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        self._processor = AutoProcessor.from_pretrained(folder, backend="pil")
        if bits:
            round_to_nearest(self._model.vision_model, bits)

    @torch.no_grad()
    def _classes(self, labels: Sequence[Label]) -> torch.Tensor:
        rows = []
        for label in labels:
            prompts = list(vocabulary.class_prompts(label))
            inputs = self._processor(text=prompts, padding="max_length", max_length=64, return_tensors="pt")
            each = functional.normalize(self._model.text_model(input_ids=inputs["input_ids"]).pooler_output, dim=-1)
            rows.append(functional.normalize(each.mean(0), dim=-1))
        return torch.stack(rows)

    @torch.no_grad()
    def classify(self, pixels: Sequence[np.ndarray], labels: Sequence[Label]) -> list[str]:
        """The name of the label whose averaged prompt embedding is nearest, for each image (uint8, 2-D or RGB)."""
        classes, names = self._classes(labels), []
        for start in range(0, len(pixels), _BATCH):
            inputs = self._processor(images=_pictures(pixels[start : start + _BATCH]), return_tensors="pt")
            embedded = self._model.vision_model(pixel_values=inputs["pixel_values"]).pooler_output
            names += [labels[i].name for i in (embedded @ classes.T).argmax(1).tolist()]
        return names


class Answerer:
    """The MedGemma-like model: one image and one question in, a freely generated answer out."""

    def __init__(self, folder: Path, bits: int | None = None) -> None:
        self._model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self._processor = AutoProcessor.from_pretrained(folder, backend="pil")
        if bits:
            round_to_nearest(self._model.model.language_model, bits)

    @torch.no_grad()
    def answer(self, pixels: Sequence[np.ndarray], questions: Sequence[str]) -> list[str]:
        """Greedy answers of at most 12 tokens, without a system prompt, image first."""
        answers = []
        for start in range(0, len(pixels), _BATCH):
            chunk = slice(start, start + _BATCH)
            inputs = self._inputs(_pictures(pixels[chunk]), questions[chunk])
            made = self._model.generate(**inputs, max_new_tokens=_ANSWER_TOKENS, do_sample=False)
            new = made[:, inputs["input_ids"].shape[1] :]
            answers += [text.strip() for text in self._processor.batch_decode(new, skip_special_tokens=True)]
        return answers

    def _inputs(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> dict[str, torch.Tensor]:
        chats = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": q}]}] for q in questions]
        texts = self._processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
        images = [[picture] for picture in pictures]
        # The template has written <bos> already.
        options = {"padding": True, "add_special_tokens": False, "return_tensors": "pt"}
        return dict(self._processor(text=texts, images=images, **options))
