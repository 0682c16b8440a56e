"""Conversations to segments and texts to ids: Gemma 3's chat format and SigLIP's text format.

Hugging Face's processors are the reference; a proof compares the ids made here with theirs.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgekit.checkpoints.checkpoint import check_size
from edgekit.errors import CheckpointError, InputError
from edgekit.inputs.message import Image, Message

Ids = NDArray[np.int64]

# SigLIP's canonical form has no ASCII punctuation. What SentencePiece drops or takes for a space goes first, too: it
# then trims both ends of a text, which a tokenizer.json does not.
_DROPPED = (*string.punctuation, *map(chr, (*range(1, 9), *range(0x0E, 0x1C), 0x7F, 0x8F, 0x9F)))
_SPACES = "\u061c\u200b\u200c\u200e\u200f\u2581\ufeff\ufffd"
_CANONICAL = str.maketrans({**dict.fromkeys(_DROPPED), **dict.fromkeys(_SPACES, " ")})

_IMAGE = "<start_of_image>"

MAX_TEXT = 2_000_000  # characters; far beyond any context, well within memory


def load_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json.

    Raises:
        CheckpointError: the file is too large or holds no tokenizer.
    """
    check_size(path)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{path}: not a tokenizer: {error}", remedy="download it again") from error
    if not tokenizer.get_vocab_size():
        raise CheckpointError(f"{path}: a tokenizer without tokens")
    return tokenizer


def control_tokens(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The tokens that have a meaning beyond text: users must not be able to write them."""
    return tuple(token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special)


def chat_text(messages: Sequence[Message], control: Sequence[str] = ()) -> str:
    """The text of a conversation in Gemma 3's chat format, up to where the model answers.

    An image stands as `<start_of_image>` where it stands among its turn's texts, each of which loses the white space
    at its ends; nothing separates them, as Google's template has it.

    Args:
        control: tokens that no message may contain.

    Raises:
        InputError: roles do not alternate from user to assistant, or a text contains control tokens.
    """
    turns = list(messages)
    system = _system_text(turns.pop(0), control) + "\n\n" if turns and turns[0].role == "system" else ""
    if (
        not turns
        or any(turn.role != ("user", "assistant")[i % 2] for i, turn in enumerate(turns))
        or len(turns) % 2 == 0
    ):
        raise InputError(
            "a conversation must alternate user, assistant, ..., user", allowed="one system message may come first"
        )
    text = "<bos>"
    for i, turn in enumerate(turns):
        content = _written([part if isinstance(part, Image) else part.strip() for part in turn.parts], control)
        speaker = "model" if turn.role == "assistant" else "user"
        text += f"<start_of_turn>{speaker}\n{system if i == 0 else ''}{content}<end_of_turn>\n"
    return text + "<start_of_turn>model\n"


def _system_text(message: Message, control: Sequence[str]) -> str:
    if message.images:
        raise InputError("an image in a system message", allowed="images in a user's turn")
    if len(message.parts) != 1:  # the template reads the first and drops the others
        raise InputError(f"a system message of {len(message.parts)} texts", allowed="one text")
    check_turn(message.text, control)
    return message.text


def plain_text(messages: Sequence[Message], control: Sequence[str] = ()) -> str:
    """The text that a model without a chat format continues: <bos>, then images and text as they are.

    Raises:
        InputError: more than one user's message, or a text that contains control tokens.
    """
    if len(messages) != 1 or messages[0].role != "user":
        raise InputError("a conversation with a model that has no chat template", allowed="one text to be continued")
    return "<bos>" + _written(messages[0].parts, control)


def _written(parts: Sequence[str | Image], control: Sequence[str]) -> str:
    """Parts without separators: no two of them may make a control token together."""
    check_turn("".join("\n" if isinstance(part, Image) else part for part in parts), control)
    return "".join(_IMAGE if isinstance(part, Image) else part for part in parts)


def expand_images(text: str, image_tokens: int) -> str:
    """Replace every image by its tokens; the line breaks around it belong to the format the model was trained on."""
    run = "\n\n<start_of_image>" + "<image_soft_token>" * image_tokens + "<end_of_image>\n\n"
    return text.replace(_IMAGE, run)


def encode_chat(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a chat text, which already begins with <bos>."""
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def split_at_images(ids: Sequence[int], image_token_id: int | None) -> list[tuple[int, ...] | int]:
    """Runs of text ids, and the length of each run of image tokens between them."""
    runs: list[tuple[int, ...] | int] = []
    start = 0
    while start < len(ids):
        is_image = ids[start] == image_token_id
        end = start
        while end < len(ids) and (ids[end] == image_token_id) == is_image:
            end += 1
        runs.append(end - start if is_image else tuple(ids[start:end]))
        start = end
    return runs


def siglip_text(text: str) -> str:
    """SigLIP's canonical form: lower case, no ASCII punctuation, single spaces."""
    _check_text(text)
    return " ".join(text.lower().translate(_CANONICAL).split())


def encode_siglip(tokenizer: Tokenizer, texts: Sequence[str], length: int, pad_id: int) -> Ids:
    """Ids [n, length] int64, cut to `length` with </s> last, padded with `pad_id`; the tower pools the last."""
    rows = np.full((len(texts), length), pad_id, np.int64)
    for row, text in zip(rows, texts, strict=True):
        ids = tokenizer.encode(siglip_text(text), add_special_tokens=True).ids
        if len(ids) > length:
            ids = [*ids[: length - 1], ids[-1]]
        row[: len(ids)] = ids
    return rows


def _check_text(text: str) -> None:
    if len(text) > MAX_TEXT:
        raise InputError(f"a text of {len(text)} characters", allowed=f"at most {MAX_TEXT}")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # what a terminal passes on for bytes that are not UTF-8
        raise InputError(f"the text is not valid Unicode at character {error.start}", allowed="UTF-8") from error


def check_turn(text: str, control: Sequence[str]) -> None:
    """Users' text must not open turns, end them, or claim images. Raises InputError where it would."""
    _check_text(text)
    for token in control:
        if token in text:
            raise InputError(f"the text contains the control token {token}", remedy="remove it")
