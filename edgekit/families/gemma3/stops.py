"""Which tokens end an answer. Every runtime gets the same: those that Gemma's tokenizer has for it, by their names,
together with those that the checkpoint's files state.

llama.cpp ends at tokens of these names whatever a file says, and transformers at those that generation_config.json
states, so neither alone is what a model ends with everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from tokenizers import Tokenizer

from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.errors import CheckpointError
from edgekit.families.base import Config, TokenId, validate
from edgekit.families.gemma3.chat import is_marker
from edgekit.inputs.text import control_tokens

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


def stop_tokens(checkpoint: Checkpoint, tokenizer: Tokenizer) -> list[int]:
    """The ids that end an answer, in ascending order.

    Raises:
        CheckpointError: a file states an id that is no control token of the tokenizer: text would end answers.
    """
    control = frozenset(control_tokens(tokenizer))
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    ids = named_stops({name: vocabulary[name] for name in NAMES if name in vocabulary}, control)
    for path, index in _stated(checkpoint):
        token = tokenizer.id_to_token(index)
        if token is None or (token not in control and not is_marker(token)):
            raise CheckpointError(
                f"{path}: eos_token_id {index} is {'no token' if token is None else f'{token!r:.60}, which is text'}",
                allowed=f"control tokens of the tokenizer, {EOS} or {END_OF_TURN} for example",
            )
        ids.add(index)
    return sorted(ids)


def named_stops(ids: Mapping[str, int], control: frozenset[str]) -> set[int]:
    """The ids of those tokens that end answers by their names: Gemma's always, others' where they are control tokens."""
    return {index for name, index in ids.items() if name in (EOS, END_OF_TURN) or (name in _OTHERS and name in control)}


def _stated(checkpoint: Checkpoint) -> Iterator[tuple[Path, int]]:
    files: dict[str, Mapping[str, Any]] = {
        "config.json": checkpoint.config,
        "generation_config.json": checkpoint.json("generation_config.json"),
    }
    for name, data in files.items():
        stated = validate(_Stated, {key: value for key, value in data.items() if value is not None}, name)
        for eos in (stated.eos_token_id, stated.text_config.eos_token_id):
            for index in [eos] if isinstance(eos, int) else eos or []:
                yield checkpoint.root / name, index
