"""A real tokenizer for a checkpoint of random weights, copied from a folder."""

from __future__ import annotations

from pathlib import Path

from sentencepiece import SentencePieceProcessor

from edgekit.artifacts import files
from edgekit.errors import CheckpointError, UsageError
from edgekit.families.tokenizer_config import stated_tokens
from edgekit.inputs.text import load_tokenizer

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "special_tokens_map.json",
    "added_tokens.json",
)


def check(source: Path, rows: int, unused: frozenset[str]) -> None:
    """Whether a folder holds a tokenizer whose ids all have a row in the embedding.

    Args:
        unused: tokens that may lie beyond it, since no input holds them.

    Raises:
        UsageError: no tokenizer.json, or an id beyond the embedding.
        CheckpointError: a file is damaged.
    """
    if not (source / "tokenizer.json").is_file():
        raise UsageError(f"{source}: no tokenizer.json", allowed="a folder with a model's tokenizer files")
    ids = dict(load_tokenizer(source / "tokenizer.json").get_vocab(with_added_tokens=True))
    if (source / "tokenizer_config.json").is_file():
        ids |= {token.content: index for index, token in stated_tokens(source / "tokenizer_config.json").items()}
    for name in ("tokenizer.model", "spiece.model"):
        if (source / name).is_file():
            pieces = SentencePieceProcessor()
            try:
                pieces.LoadFromFile(str(source / name))
            except (RuntimeError, OSError) as error:
                raise CheckpointError(f"{source / name}: not a SentencePiece model: {error}") from error
            ids[f"the last piece of {name}"] = len(pieces) - 1
    beyond = {token: index for token, index in ids.items() if index >= rows and token not in unused}
    if beyond:
        token, index = max(beyond.items(), key=lambda item: item[1])
        raise UsageError(
            f"{source}: token {token!r} has id {index}, the embedding has {rows} rows",
            allowed=f"ids up to {rows - 1}",
            remedy="take the tokenizer of the same model",
        )


def copy(source: Path, folder: Path) -> None:
    """Copy the tokenizer files that `source` has."""
    for name in FILES:
        if (source / name).is_file():
            files.copy(source / name, folder / name)
