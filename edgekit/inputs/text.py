"""Texts and tokenizers of any model: what is read from a file, and what no tokenizer should get."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from edgekit.checkpoints.json_files import read_raw
from edgekit.errors import EdgekitError, InputError
from edgekit.inputs.tokenizer_trial import ensure_tried

MAX_TEXT = 2_000_000  # characters; far beyond any context, well within memory


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer that neither cuts nor pads.

    Attributes:
        notes: what its file says and nobody does.
    """

    tokenizer: Tokenizer
    notes: tuple[str, ...]


def read_tokenizer(path: Path) -> LoadedTokenizer:
    """A tokenizer.json, tried in a process of its own before this one loads it for the first time.

    Some training scripts leave the sections `truncation` and `padding` in it, which would silently cut every prompt.
    They are ignored, as transformers ignores them, and said.

    Raises:
        CheckpointError: the file is too large, cannot be read, or is no tokenizer of these families.
    """
    data = read_raw(path)
    ensure_tried(path, data)
    tokenizer = Tokenizer.from_buffer(data)
    sections = {"truncation": tokenizer.truncation, "padding": tokenizer.padding}
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ignored = [name for name, section in sections.items() if section is not None]
    return LoadedTokenizer(tokenizer, tuple(f"{path.name}: its section {name!r} is ignored" for name in ignored))


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of `read_tokenizer`, where a note would be one too many.

    Raises:
        CheckpointError: see `read_tokenizer`.
    """
    return read_tokenizer(path).tokenizer


def check_rows(tokenizer: Tokenizer, rows: int, unused: Collection[str], where: str, error: type[EdgekitError]) -> None:
    """Raise `error` where a token has no row in an embedding of so many; fewer tokens than rows are normal.

    Args:
        unused: tokens that no input holds.
        where: what the message begins with.
    """
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    if max(vocabulary.values(), default=-1) < rows:
        return
    used = ((token, index) for token, index in vocabulary.items() if token not in unused)
    token, highest = max(used, key=lambda item: item[1], default=("", -1))
    if highest >= rows:
        raise error(f"{where}: token {token!r:.60} has id {highest}, the embedding has {rows} rows")


def check_text(text: str) -> None:
    """Raise InputError where a text is too long, or no Unicode."""
    if len(text) > MAX_TEXT:
        raise InputError(f"a text of {len(text)} characters", allowed=f"at most {MAX_TEXT}")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # what a terminal passes on for bytes that are not UTF-8
        raise InputError(f"the text is not valid Unicode at character {error.start}", allowed="UTF-8") from error


def control_tokens(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The tokens that have a meaning beyond text: users must not be able to write them."""
    return tuple(token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special)
