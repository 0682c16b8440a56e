"""What Hugging Face's own processors make of images and texts, and transformers of that: the proof's other side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.families import Family
from edgekit.families.source import Source
from edgekit.full_precision.model import torch
from edgekit.inputs.image import ImageLike
from edgekit.inputs.message import Message
from edgekit.runtime.base import Float


def processed(source: Source, messages: Sequence[Message]) -> dict[str, Any]:
    """A conversation as Hugging Face's processor makes it: see `edgekit.families.full_precision.FullPrecision`."""
    process = source.family.full_precision.processed
    assert process is not None, "only a family that chats is given messages"
    return process(source.checkpoint, source.config, messages)


def encoder_inputs(source: Source, role: str, images: Sequence[ImageLike], texts: Sequence[str]) -> NDArray[Any]:
    """Pixels float32 [n, 3, size, size] or ids int64 [n, length] as Hugging Face's processors make them."""
    encoder = source.family.full_precision.encoders[role]
    return encoder.inputs(source.checkpoint, source.config, images, texts)


def encode(family: Family, model: Any, role: str, batch: NDArray[Any]) -> Float:
    """transformers' output of one encoder for a batch from `encoder_inputs`, in one pass."""
    return outputs(family, model, role, batch)[family.full_precision.encoders[role].output]


def outputs(family: Family, model: Any, role: str, batch: NDArray[Any]) -> dict[str, Float]:
    """All outputs of one encoder, by transformers' names, as `encode`.

    Attention is torch's fused one: 4,096 patches of several images never make a square matrix.
    """
    th = torch()
    with th.inference_mode():
        given = family.full_precision.encoders[role].outputs(model, th.from_numpy(batch))
        return {name: np.asarray(tensor.numpy(), np.float32) for name, tensor in given.items()}


def hidden_states(
    model: Any, prompts: Sequence[Mapping[str, Any]], want: Sequence[Sequence[int]], embedded: Float | None
) -> Float:
    """transformers' final hidden states [sum of the wanted, hidden] of all prompts at these positions, in one pass.

    Prompts are filled up on the right: a causal mask hides what follows, and an image's tokens see only their own.

    Args:
        prompts: from `processed`.
        embedded: the prompts' images as token embeddings [n, tokens, hidden], in order; None where there are none.
    """
    th = torch()
    length = max(len(prompt["input_ids"]) for prompt in prompts)
    ids, kinds = th.zeros((len(prompts), length), dtype=th.long), th.zeros((len(prompts), length), dtype=th.long)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt["input_ids"])] = th.tensor(prompt["input_ids"])
        kinds[row, : len(prompt["input_ids"])] = th.tensor(prompt["token_type_ids"])
    with th.inference_mode():
        inputs = model.get_input_embeddings()(ids.where(kinds == 0, 0))  # an image's id may lie beyond the table
        if embedded is None:
            images = {}
        else:
            inputs[kinds == 1] = th.from_numpy(embedded).flatten(0, 1)
            images = {"token_type_ids": kinds}
        hidden = model.model(inputs_embeds=inputs, use_cache=False, **images).last_hidden_state
    return np.concatenate([hidden[row, list(positions)].numpy() for row, positions in enumerate(want)])
