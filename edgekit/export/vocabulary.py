"""The vocabulary of a GGUF file: token, score and type for every row of the embedding."""

from __future__ import annotations

from pydantic import Field

from edgekit.checkpoint import Checkpoint
from edgekit.errors import CheckpointError
from edgekit.export.plan import PartPlan
from edgekit.families.base import Config, TokenId, validate


class _AddedToken(Config):
    content: str
    special: bool = False


class _TokenizerConfig(Config):
    added_tokens_decoder: dict[TokenId, _AddedToken] = Field(default_factory=dict)


def _tokenizer_config(checkpoint: Checkpoint) -> _TokenizerConfig:
    return validate(_TokenizerConfig, checkpoint.json("tokenizer_config.json"), "tokenizer_config.json")


def vocabulary(plan: PartPlan) -> tuple[list[bytes], list[float], list[int]]:
    """Tokens, scores and types for every row of the embedding.

    Rows beyond the tokenizer's are padding. Tokens that tokenizer_config.json adds are control tokens if special, else
    user-defined: llama.cpp must never split them, and must not read control tokens from a user's text.

    Raises:
        CheckpointError: no tokenizer.model, or a token beyond the embedding.
    """
    import gguf
    from sentencepiece import SentencePieceProcessor

    checkpoint, rows = plan.checkpoint, plan.config.text_config.vocab_size
    path = checkpoint.path("tokenizer.model")
    if path is None:
        raise CheckpointError(f"{checkpoint.root}: no tokenizer.model", allowed="Gemma's SentencePiece file")
    kinds = gguf.TokenType
    pieces = SentencePieceProcessor()
    try:
        pieces.LoadFromFile(str(path))
    except (RuntimeError, OSError) as error:
        raise CheckpointError(f"{path}: not a SentencePiece model: {error}") from error
    if len(pieces) > rows:
        raise CheckpointError(f"{path}: {len(pieces)} tokens, the embedding has {rows} rows")
    tokens = [f"[PAD{i}]".encode() for i in range(rows)]
    scores, types = [-10000.0] * rows, [int(kinds.UNUSED)] * rows
    for i in range(len(pieces)):
        tokens[i], scores[i], types[i] = pieces.IdToPiece(i).encode(), pieces.GetScore(i), int(kinds.NORMAL)
        for test, kind in (
            (pieces.IsUnknown, kinds.UNKNOWN),
            (pieces.IsControl, kinds.CONTROL),
            (pieces.IsUnused, kinds.UNUSED),
            (pieces.IsByte, kinds.BYTE),
        ):
            if test(i):
                types[i] = int(kind)
    for index, token in _tokenizer_config(checkpoint).added_tokens_decoder.items():
        if index >= rows:
            raise CheckpointError(
                f"{checkpoint.root}: token {token.content!r} has id {index}, the embedding has {rows} rows"
            )
        text = token.content if token.special else token.content.replace("\u2581", " ")
        tokens[index], scores[index] = text.encode(), -1000.0
        types[index] = int(kinds.CONTROL if token.special else kinds.USER_DEFINED)
    return tokens, scores, types
