"""Which tokens end an answer. Every runtime gets the same: those that Gemma's tokenizer has for it, by their names,
together with those that the checkpoint's files state.

llama.cpp ends at tokens of these names whatever a file says, and transformers at those that generation_config.json
states, so neither alone is what a model ends with everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from tokenizers import Tokenizer

from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.errors import CheckpointError
from edgekit.families.base import Config, TokenId, validate
from edgekit.families.gemma3.chat import MARKERS, is_marker

_GENERATION = "generation_config.json"
EOS, END_OF_TURN = "<eos>", "<end_of_turn>"
# Of other chat formats, for which fine-tunes add a token: llama.cpp's list, as far as they are nobody's text.
_OTHERS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<EOT>",
)
NAMES = (EOS, END_OF_TURN, *_OTHERS)


class _TextConfig(Config):
    eos_token_id: TokenId | list[TokenId] | None = None


class _Stated(_TextConfig):
    """generation_config.json, or config.json."""

    text_config: _TextConfig = Field(default_factory=_TextConfig)


def stop_tokens(checkpoint: Checkpoint, control: Mapping[str, int]) -> dict[str, int]:
    """The tokens that end an answer, in ascending order of their ids.

    Args:
        control: the vocabulary's control tokens.

    Raises:
        CheckpointError: a file states an id that is no control token: text would end answers.
    """
    texts = {index: token for token, index in control.items()}
    stops = named_stops(control)
    for path, index in _stated(checkpoint):
        if index not in texts:
            raise CheckpointError(
                f"{path}: eos_token_id {index} is no control token of the tokenizer",
                allowed=", ".join(f"{index} {token}" for token, index in stops.items()) or "a control token",
            )
        stops[texts[index]] = index
    return dict(sorted(stops.items(), key=lambda stop: stop[1]))


def generation_config(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> dict[str, bytes]:
    """generation_config.json with all stop tokens, for programs that go by it; nothing where it states them already."""
    stated, stops = checkpoint.json(_GENERATION), settings["stop_token_ids"]
    eos = stated.get("eos_token_id")
    if sorted([eos] if isinstance(eos, int) else eos or []) == stops:
        return {}
    return {_GENERATION: f"{json.dumps({**stated, 'eos_token_id': stops}, indent=2)}\n".encode()}


def named_stops(control: Mapping[str, int]) -> dict[str, int]:
    """Those of a vocabulary's control tokens that end answers by their names alone."""
    return {name: control[name] for name in NAMES if name in control}


def control_of(tokenizer: Tokenizer) -> dict[str, int]:
    """A tokenizer's control tokens: those that its file calls special, and those that structure conversations."""
    added = tokenizer.get_added_tokens_decoder().items()
    named = ((name, tokenizer.token_to_id(name)) for name in MARKERS)
    return {
        **{token.content: index for index, token in added if token.special or is_marker(token.content)},
        **{name: index for name, index in named if index is not None},
    }


def _stated(checkpoint: Checkpoint) -> Iterator[tuple[Path, int]]:
    files: dict[str, Mapping[str, Any]] = {
        "config.json": checkpoint.config,
        _GENERATION: checkpoint.json(_GENERATION),
    }
    for name, data in files.items():
        stated = validate(_Stated, {key: value for key, value in data.items() if value is not None}, name)
        for eos in (stated.eos_token_id, stated.text_config.eos_token_id):
            for index in [eos] if isinstance(eos, int) else eos or []:
                yield checkpoint.root / name, index
