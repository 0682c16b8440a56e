"""A chat model as transformers alone runs it: Hugging Face's processor, tokenizer and model, not edgekit's runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgekit.families.full_precision import hub_tokenizer
from edgekit.families.source import open_source
from edgekit.full_precision.model import load
from edgekit.full_precision.processors import processed
from edgekit.inputs.message import Message


class Peer:
    """The checkpoint in a folder, in float32."""

    def __init__(self, folder: Path) -> None:
        self.source = open_source(folder)
        self.model, self.tokenizer = load(self.source), hub_tokenizer(self.source.checkpoint)

    def inputs(self, messages: Sequence[Message], answer: Sequence[int] = ()) -> dict[str, Any]:
        """Of transformers' model: a conversation, and the first tokens of an answer."""
        made = processed(self.source, messages)
        inputs = {
            "input_ids": torch.tensor([[*made["input_ids"], *answer]]),
            "token_type_ids": torch.tensor([[*made["token_type_ids"], *(0 for _ in answer)]]),
        }
        if made["pixel_values"] is not None:
            inputs["pixel_values"] = torch.from_numpy(made["pixel_values"])
        return inputs

    def logits(self, messages: Sequence[Message], answer: Sequence[int] = ()) -> NDArray[np.float32]:
        """Of every position [positions, vocabulary]."""
        with torch.inference_mode():
            return np.asarray(self.model(**self.inputs(messages, answer)).logits[0].numpy())

    def score(self, messages: Sequence[Message], options: Sequence[str]) -> list[float]:
        """Log-probability of each option as the answer."""
        scores = []
        for option in options:
            ids = self.tokenizer(option, add_special_tokens=False)["input_ids"]
            logits = torch.from_numpy(self.logits(messages, ids))
            before = logits[-len(ids) - 1 : -1].log_softmax(-1)  # a row is of the token after it
            scores.append(float(before.gather(1, torch.tensor(ids)[:, None]).sum()))
        return scores

    def answer(self, messages: Sequence[Message], budget: int) -> tuple[str, int]:
        """Greedily decoded by its own loop, and how many tokens the prompt has."""
        inputs = self.inputs(messages)
        start = inputs["input_ids"].shape[1]
        stops = sorted(self.source.settings["stop_token_ids"])
        with torch.inference_mode():
            out = self.model.generate(**inputs, max_new_tokens=budget, do_sample=False, eos_token_id=stops)
        return self.tokenizer.decode(out[0, start:].tolist(), skip_special_tokens=True), start
