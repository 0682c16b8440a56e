"""Runs the Gemma decoder on training sequences: masks for shared images, cached image embeddings, the loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as functional
from transformers import Gemma3ForConditionalGeneration

from edgekit.reference_models.training import architecture as arch
from edgekit.reference_models.training.conversations import Encoded

_WINDOW = arch.GEMMA_CONFIG["text_config"]["sliding_window"]


def _padded(rows: Sequence[np.ndarray], fill: int) -> torch.Tensor:
    length = max(len(row) for row in rows)
    return torch.from_numpy(np.stack([np.pad(row, (0, length - len(row)), constant_values=fill) for row in rows]))


def masks(ids: torch.Tensor, positions: torch.Tensor, branch: torch.Tensor) -> dict[str, torch.Tensor]:
    """Boolean attention masks (n, 1, length, length) of Gemma 3's two layer kinds.

    Text is causal, the tokens of an image see each other, and a question sees the prefix (branch 0) and itself.
    """
    order = torch.arange(ids.shape[1])
    causal = order[:, None] >= order[None, :]
    visible = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    image = ids == arch.IMAGE_TOKEN
    full = (causal & visible) | (image[:, None, :] & image[:, :, None])
    near = positions[:, :, None] - positions[:, None, :] < _WINDOW
    return {"full_attention": full[:, None], "sliding_attention": (full & near)[:, None]}


def project(model: Gemma3ForConditionalGeneration, pooled: torch.Tensor) -> torch.Tensor:
    """Gemma's projector behind its pooling: (n, 16, vision width) to (n, 16, hidden)."""
    projector = model.model.multi_modal_projector
    return projector.mm_soft_emb_norm(pooled) @ projector.mm_input_projection_weight


def loss(
    model: Gemma3ForConditionalGeneration, batch: Sequence[Encoded], pooled: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy over all targets, and which of them were predicted.

    Args:
        pooled: the pooled vision features (n, 16, vision width) of the sequences' images, or None for text alone.
    """
    ids, positions = _padded([row.ids for row in batch], arch.PAD), _padded([row.positions for row in batch], 0)
    branch, target = _padded([row.branch for row in batch], -1), _padded([row.target for row in batch], -1)
    text = model.model.language_model
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedded = text.embed_tokens(ids.where(ids < arch.IMAGE_TOKEN, arch.PAD))
        if pooled is not None:
            places = (ids == arch.IMAGE_TOKEN)[..., None].expand_as(embedded)
            embedded = embedded.masked_scatter(places, project(model, pooled).to(embedded.dtype))
        hidden = text(
            inputs_embeds=embedded, attention_mask=masks(ids, positions, branch), position_ids=positions
        ).last_hidden_state
        logits = model.lm_head(hidden[target >= 0])
    wanted = target[target >= 0]
    return functional.cross_entropy(logits.float(), wanted), logits.argmax(-1) == wanted
