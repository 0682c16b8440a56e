"""What tokenizer_config.json says of tokens: it may add some that tokenizer.json does not have."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from edgekit.checkpoints.json_files import read_json
from edgekit.families.base import Config, TokenId, validate


class StatedToken(Config):
    """An added token; special ones are no text."""

    content: str
    special: bool = False


class _TokenizerConfig(Config):
    added_tokens_decoder: dict[TokenId, StatedToken] | None = Field(default_factory=dict)


def stated_tokens(path: Path) -> dict[int, StatedToken]:
    """The tokens that a tokenizer_config.json adds, by id.

    Raises:
        CheckpointError: it says something else where they must stand.
    """
    return validate(_TokenizerConfig, read_json(path), path.name).added_tokens_decoder or {}
