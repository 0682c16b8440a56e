"""Token ids of captions as SigLIP's processor makes them, padded to exactly 64."""

from __future__ import annotations

from collections.abc import Sequence

import sentencepiece
import torch

from edgekit.reference_models.training.tokenizers import without_punctuation

LENGTH = 64
END = 1  # </s>, which is also the padding


def token_ids(texts: Sequence[str], spiece: bytes) -> torch.Tensor:
    """Ids of `texts`: int64 (n, 64)."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=spiece)
    rows = [pieces.encode(without_punctuation(text))[: LENGTH - 1] for text in texts]
    return torch.tensor([row + [END] * (LENGTH - len(row)) for row in rows])
