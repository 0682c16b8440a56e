"""Gemma 3's chat format: conversations to token ids, with a run of image tokens for each image.

Hugging Face's template and processor are what it must equal; a proof compares the ids made here with theirs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from itertools import zip_longest

from tokenizers import Tokenizer

from edgekit.errors import InputError
from edgekit.families.composition import ChatSettings, Run, Thoughts
from edgekit.inputs.message import Image, Message
from edgekit.inputs.text import check_text, control_tokens

IMAGE = "<start_of_image>"
_NAMED = "pad|eos|bos|unk|mask|start_of_turn|end_of_turn|start_of_image|end_of_image|image_soft_token"
NAMED_TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
# Without these no conversation is one: they are control tokens whatever a file says of them.
MARKERS = (
    "<pad>",
    "<eos>",
    "<bos>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<end_of_image>",
    "<image_soft_token>",
)
# MedGemma 1.5 frames its thoughts so, and thinks where its system text begins so.
_AROUND_THOUGHTS = ("<unused94>", "<unused95>")
_THINK = "SYSTEM INSTRUCTION: think silently if needed."
# What structures a conversation, whatever a tokenizer's file says of it. Unused tokens are no text, and where a model
# gives one a meaning, as MedGemma 1.5 does to frame its thoughts, a user must not claim it.
_MARKER = re.compile(rf"<(?:{_NAMED}|unused\d+)>|\[multimodal\]")


def is_marker(token: str) -> bool:
    """Whether a token structures conversations by its name alone."""
    return _MARKER.fullmatch(token) is not None


class GemmaChat:
    """How conversations become ids for one model: `edgekit.families.composition.ChatFormat`."""

    def __init__(self, tokenizer: Tokenizer, settings: ChatSettings) -> None:
        self.tokenizer, self.settings = tokenizer, settings

    @cached_property
    def thoughts(self) -> Thoughts | None:
        """See `edgekit.families.composition.ChatFormat.thoughts`."""
        begin, end = map(self.tokenizer.token_to_id, _AROUND_THOUGHTS)
        return None if begin is None or end is None else Thoughts(begin, end, "thought\n", _THINK)

    @cached_property
    def named(self) -> tuple[str, ...]:
        """Control tokens that are looked for in texts before anything is made of them."""
        markers = (f"<{name}>" for name in _NAMED.split("|"))
        return tuple(dict.fromkeys((*control_tokens(self.tokenizer), *markers)))

    @cached_property
    def _control(self) -> dict[int, str]:
        """Ids that no text may give, and their tokens. What is unknown may stand anywhere."""
        vocabulary = self.tokenizer.get_vocab(with_added_tokens=True).items()
        named = set(self.named)
        ids = {index for token, index in vocabulary if token in named or is_marker(token)}
        ids |= {*self.settings.stop_token_ids, *filter(None, [self.settings.image_token_id])}
        unknown = self.tokenizer.token_to_id(getattr(self.tokenizer.model, "unk_token", None) or "")
        return {index: self.tokenizer.id_to_token(index) or str(index) for index in ids if index != unknown}

    def runs(self, messages: Sequence[Message], answer: str | None = None) -> list[Run]:
        """See `edgekit.families.composition.ChatFormat.runs`."""
        ids, around = map(self._ids, self._written(messages))
        self._check_control(ids, around)
        if answer is not None:
            ids = [*ids, *self.encode(answer)]
        return split_at_images(ids, self.settings.image_token_id)

    def continued(self, text: str) -> tuple[int, ...]:
        """See `edgekit.families.composition.ChatFormat.continued`."""
        ids, around = (self._ids(plain_text([Message("user", one)], self.named)) for one in (text, ""))
        self._check_control(ids, around)
        return tuple(ids)

    def encode(self, text: str) -> list[int]:
        """See `edgekit.families.composition.ChatFormat.encode`."""
        check_turn(text, self.named)
        ids = encode_chat(self.tokenizer, text)
        self._check_control(ids, ())
        return ids

    def _written(self, messages: Sequence[Message]) -> tuple[str, str]:
        """The prompt, and that of the same conversation without its texts, which has the same control tokens."""
        write = chat_text if self.settings.chat else plain_text
        without_texts = [
            Message(turn.role, *(part if isinstance(part, Image) else "" for part in turn.parts)) for turn in messages
        ]
        return write(messages, self.named), write(without_texts, self.named)

    def _ids(self, text: str) -> list[int]:
        return encode_chat(self.tokenizer, expand_images(text, self.settings.image_tokens or 0))

    def _check_control(self, ids: Sequence[int], expected: Sequence[int]) -> None:
        """Texts add no control token and take none away, whatever a tokenizer makes of them.

        Raises:
            InputError: they do.
        """
        found, allowed = ([index for index in row if index in self._control] for row in (ids, expected))
        for is_there, must_be in zip_longest(found, allowed):
            if is_there != must_be:
                token = self._control[must_be if is_there is None else is_there]
                raise InputError(f"the text contains the control token {token}, or hides one", remedy="remove it")


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
    check_roles(turns)
    text = "<bos>"
    for i, turn in enumerate(turns):
        content = _written([part if isinstance(part, Image) else part.strip() for part in turn.parts], control)
        speaker = "model" if turn.role == "assistant" else "user"
        text += f"<start_of_turn>{speaker}\n{system if i == 0 else ''}{content}<end_of_turn>\n"
    return text + "<start_of_turn>model\n"


def check_roles(turns: Sequence[Message]) -> None:
    """Raise InputError where turns, the system's left out, do not alternate from a user's to a user's."""
    if len(turns) % 2 == 0 or any(turn.role != ("user", "assistant")[i % 2] for i, turn in enumerate(turns)):
        raise InputError(
            "a conversation must alternate user, assistant, ..., user", allowed="one system message may come first"
        )


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
    return "".join(IMAGE if isinstance(part, Image) else part for part in parts)


def expand_images(text: str, image_tokens: int) -> str:
    """Replace every image by its tokens; the line breaks around it belong to the format the model was trained on."""
    run = "\n\n<start_of_image>" + "<image_soft_token>" * image_tokens + "<end_of_image>\n\n"
    return text.replace(IMAGE, run)


def encode_chat(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a chat text, which already begins with <bos>."""
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def split_at_images(ids: Sequence[int], image_token_id: int | None) -> list[Run]:
    """Runs of text ids, and the length of each run of image tokens between them."""
    runs: list[Run] = []
    start = 0
    while start < len(ids):
        is_image = ids[start] == image_token_id
        end = start
        while end < len(ids) and (ids[end] == image_token_id) == is_image:
            end += 1
        runs.append(end - start if is_image else tuple(ids[start:end]))
        start = end
    return runs


def check_turn(text: str, control: Sequence[str]) -> None:
    """Users' text must not open turns, end them, or claim images. Raises InputError where it would."""
    check_text(text)
    for token in control:
        if token in text:
            raise InputError(f"the text contains the control token {token}", remedy="remove it")


def chat_template() -> str:
    """The same as a jinja template, which edgekit writes beside the checkpoints that it makes."""
    return files("edgekit.families.gemma3").joinpath("chat_template.jinja").read_text(encoding="utf-8").rstrip("\n")
