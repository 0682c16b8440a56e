"""A client's messages as a `Job` has them: one system text, then turns of the user and the model that alternate.

Gemma knows no more. System and developer messages become one text, wherever they stand; messages of one speaker behind
one another become one turn, with an empty line between their texts; what a function gave is the user's turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from edgekit.inputs.text import MAX_TEXT
from edgekit.serve.api.parts import Collected, Part
from edgekit.serve.api.reading import ParameterError
from edgekit.serve.api.tools import written_call

_GAP = "\n\n"
# What other servers read in a message beside its content. An image that is not seen is answered about all the same.
_NOT_READ = ("attachments", "audio", "files", "function_call", "image", "image_url", "images", "partial", "parts",
             "prefix", "refusal")  # fmt: skip


class Called(BaseModel):
    """The function of a call, its arguments as JSON."""

    model_config = ConfigDict(strict=True, frozen=True)

    name: str
    arguments: str = "{}"


class ToolCall(BaseModel):
    """A call that the model made."""

    model_config = ConfigDict(strict=True, frozen=True)

    id: str
    type: Literal["function"] = "function"
    function: Called


class ChatMessage(BaseModel):
    """A message as OpenAI's chat has it."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Any = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class Conversation:
    """Turns as they are collected.

    Attributes:
        collected: the images among them.
    """

    def __init__(self, collected: Collected) -> None:
        self.collected = collected
        self._system: list[str] = []
        self._turns: list[tuple[str, list[list[Part]]]] = []  # with the messages of each
        self._called: dict[str, tuple[str, str]] = {}  # id of a call -> its function, and the whole call
        self._open: dict[str, str] = {}  # id of a call without a result -> where it stands

    def add(self, message: ChatMessage, where: str) -> None:
        """The next message.

        Raises:
            ParameterError: its content is none, it has what is not read, two open calls have one id, or it answers a
                call that nobody made.
        """
        _check(message, where)
        parts = self.collected.parts(message.content, f"{where}.content")
        if message.role in ("system", "developer"):
            self._add_system(parts, where)
        elif message.role == "tool":
            self._add_result(message.tool_call_id, parts, where)
        else:
            calls: list[list[Part]] = []
            for call in message.tool_calls or ():
                written = written_call(call.function.name, call.function.arguments, f"{where}.tool_calls")
                if call.id in self._open:
                    raise ParameterError(f"{where}.tool_calls", "two calls of one id", allowed="ids that differ")
                self._open[call.id] = f"{where}.tool_calls"
                self._called[call.id] = call.function.name, written
                calls.append([{"text": written}])
            self._add_turn(message.role, joined([parts, *calls], "\n"))

    def instruct(self, text: str) -> None:
        """One more system text."""
        self._system.append(text)

    def messages(self, where: str) -> list[dict[str, Any]]:
        """All of it.

        Raises:
            ParameterError: a call has no result, the user's turn is not the last, or it is longer than any context.
        """
        if self._open:
            place = next(iter(self._open.values()))
            raise ParameterError(place, "a call without a result", remedy="give the result of every call")
        if not self._turns or self._turns[-1][0] != "user":
            raise ParameterError(
                where, "the last message must be the user's, or a function's result", remedy="ask something"
            )
        turns = [(speaker, joined(messages, _GAP)) for speaker, messages in self._turns]
        system = _GAP.join(text for text in self._system if text.strip())
        length = len(system) + sum(len(part.get("text", "")) for _, parts in turns for part in parts)
        if length > MAX_TEXT:  # which takes long to read, to say only then that no context holds it
            raise ParameterError(where, f"{length} characters in all", allowed=f"at most {MAX_TEXT}")
        if system:
            turns.insert(0, ("system", [{"text": system}]))
        return [{"role": speaker, "parts": parts} for speaker, parts in turns]

    def _add_system(self, parts: Sequence[Part], where: str) -> None:
        if any("image" in part for part in parts):
            raise ParameterError(f"{where}.content", "an image in a system message", allowed="images in a user's")
        self._system.append("".join(part["text"] for part in parts))

    def _add_result(self, id_: str | None, parts: list[Part], where: str) -> None:
        if id_ not in self._open:
            said = "answers no call of this conversation, or one that has its result"
            raise ParameterError(f"{where}.tool_call_id", said, allowed="the id of a call without a result")
        del self._open[id_]
        name, written = self._called[id_]
        alike = [other for other, _ in self._called.values() if other == name]
        # Results may come in any order: of several calls of one function, its name does not tell whose this is.
        said = name if len(alike) == 1 else written
        self._add_turn("user", joined([[{"text": f"{said} returned:"}], parts], "\n"))

    def _add_turn(self, speaker: str, parts: list[Part]) -> None:
        if self._turns and self._turns[-1][0] == speaker:
            self._turns[-1][1].append(parts)
        else:
            self._turns.append((speaker, [parts]))


def _check(message: ChatMessage, where: str) -> None:
    """Raise ParameterError where a message holds what would change the answer and is not read."""
    for name in _NOT_READ:
        if (message.model_extra or {}).get(name):
            allowed = "texts and images as parts of content"
            raise ParameterError(f"{where}.{name}", "is not read here, and it would change the answer", allowed=allowed)
    if message.tool_calls and message.role != "assistant":
        raise ParameterError(f"{where}.tool_calls", f"calls by {message.role}", allowed="those of the assistant")


def joined(messages: Iterable[list[Part]], gap: str) -> list[Part]:
    """Parts behind one another. A gap between texts stands inside of one: the format drops it at a part's ends.

    In a time that grows with their length alone: a request may have many thousand messages, and all others wait.
    """
    runs: list[list[Part]] = []  # each becomes one part
    for first, *rest in filter(None, messages):
        if runs and "text" in runs[-1][-1] and "text" in first:
            runs[-1].append(first)
        else:
            runs.append([first])
        runs += ([part] for part in rest)
    return [run[0] if len(run) == 1 else {"text": gap.join(part["text"] for part in run)} for run in runs]


def of_messages(messages: Sequence[ChatMessage], collected: Collected) -> Conversation:
    """A conversation of messages."""
    conversation = Conversation(collected)
    for place, message in enumerate(messages):
        conversation.add(message, f"messages.{place}")
    return conversation
