"""Texts and tokenizers of any model: what is read from a file, and what no tokenizer should get."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from edgekit.checkpoints.json_files import check_size
from edgekit.errors import CheckpointError, InputError

MAX_TEXT = 2_000_000  # characters; far beyond any context, well within memory


def load_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json.

    Raises:
        CheckpointError: the file is too large or holds no tokenizer.
    """
    check_size(path)
    try:
        tokenizer = Tokenizer.from_buffer(path.read_bytes())  # by its name only where that is UTF-8
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{path}: not a tokenizer: {error}", remedy="download it again") from error
    if not tokenizer.get_vocab_size():
        raise CheckpointError(f"{path}: a tokenizer without tokens")
    return tokenizer


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
