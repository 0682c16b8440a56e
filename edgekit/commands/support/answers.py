"""An answer as it comes, and conversations that go on: what `ask` and `chat` share."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edgekit.commands.support.printing import print_json, print_warnings
from edgekit.errors import EdgekitError, InputError, UsageError
from edgekit.terminal import say, show, stripped

if TYPE_CHECKING:
    from edgekit.inputs.message import Message
    from edgekit.runtime.conversation import Conversation
    from edgekit.runtime.generation.answer import Piece
    from edgekit.runtime.generation.options import GenerationOptions
    from edgekit.runtime.model import Generation, Model

    Items = Iterable[Piece | Generation]


def shown(
    items: Items,
    model: Model,
    images: int,
    *,
    as_json: bool,
    indent: int | None = 1,
    known: Collection[str] = (),
    more: Callable[[str], Mapping[str, Any]] | None = None,
) -> Generation:
    """Print an answer as it comes, and what to know about it, or all of it as JSON; the finished answer.

    Args:
        images: that are looked at before it begins.
        known: what was said before already.
        more: of the answer's text, what its JSON has beside it.
    """
    answer: Generation | None = None
    thinking = False
    for item in _telling(items, images) if images and not as_json else items:
        if not isinstance(item, str):
            answer = item
        elif item.thinking and not thinking and not as_json:
            thinking = True
            say("thinking ...")
        elif not item.thinking and not as_json:
            show(stripped(item), end="")
    assert answer is not None, "generate always ends with the finished answer"
    if as_json:
        beside = more(answer.text) if more else {}
        print_json({**asdict(answer), "runtimes": dict(model.runtimes), **beside}, indent=indent)
    else:
        show()
        if answer.seed is not None:
            say(f"drawn with --seed {answer.seed}")
        print_warnings(warning for warning in answer.warnings if warning not in known)
    return answer


def _telling(items: Items, images: int) -> Iterator[Piece | Generation]:
    """The pieces of an answer; before the first, which may take minutes, say for what, and then how long it took."""
    began = time.perf_counter()
    say(f"looking at {'the image' if images == 1 else f'{images} images'} ...")
    for number, item in enumerate(items):
        if not number:
            say(f"looked and read the question in {time.perf_counter() - began:.1f} s")
        yield item


def claiming(name: str | None) -> AbstractContextManager[None]:
    """Hold the conversation of a name, to the end, before a model is loaded for it; nothing for no name.

    Raises:
        InputError: it is no name.
        EdgekitError: another process has it open.
    """
    if name is None:
        return nullcontext()
    from edgekit.runtime.conversation import claimed

    return claimed(name)


def begun(name: str | None, model: Any) -> Conversation | None:
    """The conversation of a name, with what was computed of it handed to the model; None for no name.

    Raises:
        UsageError: the model holds no conversations.
        EdgekitError: the conversation is there, and is damaged or cannot be read.
    """
    if name is None:
        return None
    from edgekit.artifacts.files import sha256_json
    from edgekit.errors import SnapshotError
    from edgekit.runtime.chat_model import ChatModel
    from edgekit.runtime.conversation import Conversation

    if not isinstance(model, ChatModel) or not model.settings.chat:
        raise UsageError("a conversation with a model that has no chat template", allowed="one question at a time")
    conversation = Conversation(name, sha256_json(dict(model.parts)))
    turns = len(conversation.messages)
    say(f"conversation {name}: {f'goes on after {turns} turns' if turns else 'begins, with this level of the model'}")
    again = f"what was computed of conversation {name} is computed again"
    if conversation.computed:
        try:
            model.load(conversation.computed)
        except SnapshotError as error:  # opened otherwise than before: with another context, say
            say(f"{again}: {error.message}")
    elif turns:
        say(f"{again}: it is not there any more")
    return conversation


def check_form(answer: Generation, decoding: GenerationOptions) -> None:
    """Raise InputError where an answer that was to have a form ended before it had it: nobody should read a part."""
    if decoding.constraint and answer.stopped != "end":
        remedies = {"deadline": "a longer --deadline", "stop": "no --stop", "cancelled": "let it end"}
        remedy = remedies.get(answer.stopped, "a larger --max-tokens, or limits in the form")
        raise InputError("the answer ended before it had its form", remedy=remedy)


def answered(turns: Sequence[Message], answer: Generation, model: Any) -> list[Message] | None:
    """The turns with an answer behind them; None where no conversation goes on from it, and that is said."""
    from edgekit.inputs.message import Message

    why = ""
    if answer.text:
        gone_on = [*turns, Message("assistant", answer.text)]
        try:
            model.format.runs([*gone_on, Message("user", "a")])
        except InputError as error:  # as where it was to be one of some texts, and one is a control token's
            why = f" that a conversation goes on from: {error.message}"
        else:
            return gone_on
    say(f"no answer{why}: the question is no part of the conversation, and has to be asked again")
    return None


def check_system(system: str | None, turns: Sequence[Any]) -> None:
    """Raise UsageError where a system instruction comes too late: it belongs to a conversation's beginning."""
    if system and turns:
        raise UsageError("--system in a conversation that has begun", remedy="another name for another conversation")


def kept(conversation: Conversation, turns: Sequence[Message], model: Any) -> None:
    """Keep a conversation, or say why it could not be."""
    try:
        conversation.keep(turns, model)
    except EdgekitError as error:
        say(f"the conversation was not kept: {error}", lines=True)
