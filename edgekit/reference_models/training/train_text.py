"""Trains the decoder on medical text before it sees images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import Gemma3ForConditionalGeneration

from edgekit.reference_models.training import architecture, conversations, data, decoder, folder, loop

SEED = 20_241
LENGTH = 256
ROWS = 12


def fresh() -> Gemma3ForConditionalGeneration:
    """The whole model with fresh weights; transformers starts the projector at zero, which could not be trained."""
    torch.manual_seed(SEED)
    model = folder.build(architecture.GEMMA_CONFIG)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.03)
    return model


class TextRows:
    """Draws MedQuAD training pairs as token sequences."""

    def __init__(self, data_folder: Path, speaker: conversations.Speaker) -> None:
        self._pairs = data.medquad(data_folder, "train")
        self._speaker = speaker

    def draw(self, n: int, rng: np.random.Generator, length: int = LENGTH) -> list[conversations.Encoded]:
        """`n` sequences of at most `length` tokens, most starting with the question, some within the answer."""
        rows = []
        for index in rng.integers(len(self._pairs), size=n):
            question, answer = self._pairs[index]
            if rng.random() < 0.4:
                answer = answer[int(rng.integers(max(1, len(answer) - 400))) :]
            rows.append(self._speaker.text_only(question, answer[:2000], length))
        return rows

    def passage(self, rng: np.random.Generator) -> str:
        """Some 250 characters of an answer."""
        answer = self._pairs[rng.integers(len(self._pairs))][1]
        return answer[: int(rng.integers(80, 320))].strip()


def train(data_folder: Path, work: Path, steps: int) -> None:
    """Train to `steps`, resuming from `work/text.pt`."""
    model = fresh()
    rows = TextRows(data_folder, conversations.Speaker((work / "tokenizer.model").read_bytes()))

    def loss(rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        value, right = decoder.loss(model, rows.draw(ROWS, rng), None)
        return value, {"right": right.float().mean().item()}

    language = {"language_model": model.model.language_model}
    loop.train(loop.Stage("text", language, loss, steps, 1.5e-3, SEED, warmup=40), work)
