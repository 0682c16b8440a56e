"""What tokenizer_config.json says of tokens: it may add some that tokenizer.json does not have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.checkpoints.json_files import read_json
from edgekit.families.base import Config, TokenId, validate

_VARIABLES = tuple(f"{name}_token" for name in ("bos", "eos", "pad", "unk", "boi", "eoi", "image"))
_MAX_TOKEN = 256  # characters


class StatedToken(Config):
    """An added token; special ones are no text."""

    content: str
    special: bool = False


class _TokenizerConfig(Config):
    added_tokens_decoder: dict[TokenId, StatedToken] | None = Field(default_factory=dict)


def template_variables(checkpoint: Checkpoint, defaults: Mapping[str, str]) -> dict[str, str]:
    """What transformers lets chat templates use of a tokenizer: `bos_token` and the like, by name.

    Args:
        defaults: of the tokenizer's class, where no file says otherwise.
    """
    found = dict(defaults)
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        data = checkpoint.json(file)
        found |= {name: text for name in _VARIABLES if (text := _content(data.get(name))) is not None}
    return found


def _content(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) and len(text) <= _MAX_TOKEN else None


def stated_tokens(path: Path) -> dict[int, StatedToken]:
    """The tokens that a tokenizer_config.json adds, by id.

    Raises:
        CheckpointError: it says something else where they must stand.
    """
    return validate(_TokenizerConfig, read_json(path), path.name).added_tokens_decoder or {}
