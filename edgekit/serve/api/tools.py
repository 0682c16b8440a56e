"""Functions that a model may call, which Gemma 3 has no format of its own for.

The functions stand in the system text as JSON, and a call is a line of JSON, `{"name": "NAME", "parameters": {...}}`,
as Google describes it for Gemma. A grammar holds the answer to that (`edgekit.runtime.grammar.constraints.Calls`), so
that arguments always satisfy their schema, and what begins as a call is one.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from edgekit.artifacts.documents import json_value
from edgekit.errors import InputError
from edgekit.serve.api.reading import ParameterError

MOST_AT_ONCE = 8
_NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
_COMBINING = frozenset({"additionalProperties", "unevaluatedProperties", "anyOf", "allOf", "oneOf", "$ref"})
_HEAD = re.compile(r'\s*\{"name": "([A-Za-z0-9_-]+)", "parameters": ')
_INTRODUCTION = (
    "You have these functions, each with the JSON schema of its parameters:\n{functions}\n"
    'To call one, answer with a line of JSON and nothing else: {{"name": "NAME", "parameters": {{...}}}}. {more}'
    "The next message gives what it returned."
)


class FunctionTool(BaseModel):
    """A function as clients describe it."""

    model_config = ConfigDict(strict=True, frozen=True)

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None

    @property
    def schema_of_parameters(self) -> dict[str, Any]:
        """An object that has the named properties and no other, unless the schema speaks of others."""
        schema = self.parameters or _NOTHING
        if schema.keys() & _COMBINING or schema.get("type") != "object":
            return schema
        return {"properties": {}, **schema, "additionalProperties": False}


class ChatTool(BaseModel):
    """As chat has it, one level deeper."""

    model_config = ConfigDict(strict=True, frozen=True)

    type: Literal["function"]
    function: FunctionTool


@dataclass(frozen=True)
class Tools:
    """What a request says of functions.

    Attributes:
        functions: that may be called; of a named one only that.
        required: whether one must be.
        most: so many calls in one answer.
    """

    functions: tuple[FunctionTool, ...]
    required: bool
    most: int

    @property
    def instruction(self) -> str:
        """The system text about them."""
        written = "\n".join(
            json.dumps(function.model_dump(exclude_none=True), ensure_ascii=False) for function in self.functions
        )
        several = "Several calls are several lines. " if self.most > 1 else ""
        how = "Call one now. " if self.required else "Where none is needed, answer in plain text. "
        return _INTRODUCTION.format(functions=written, more=several + how)

    @property
    def constraint(self) -> dict[str, Any]:
        """As a `Job` has it."""
        functions = [{"name": one.name, "parameters": one.schema_of_parameters} for one in self.functions]
        return {"calls": {"functions": functions, "required": self.required, "most": self.most}}


def chosen(functions: Sequence[FunctionTool], choice: Any, *, parallel: bool) -> Tools | None:
    """What there is to call, None for nothing.

    Args:
        choice: `none`, `auto`, `required`, or the one that must be called, as chat or responses names it.
        parallel: whether an answer may have several calls.

    Raises:
        ParameterError: two functions have one name, or the choice is none of these, or names no function.
    """
    names = [function.name for function in functions]
    if len(set(names)) < len(names):
        raise ParameterError("tools", "two functions of one name", allowed="names that differ")
    if choice == "none" or (not functions and choice in (None, "auto")):
        return None
    if choice in (None, "auto", "required"):
        if not functions:
            raise ParameterError("tool_choice", "a call is required, and no function is there", allowed="tools")
        return Tools(tuple(functions), choice == "required", MOST_AT_ONCE if parallel else 1)
    name = _named(choice)
    found = [function for function in functions if function.name == name]
    if not found:
        allowed = "none, auto, required, or a function among the tools"
        raise ParameterError("tool_choice", "no function of that name" if name else "no choice", allowed=allowed)
    return Tools((found[0],), True, 1)


def _named(choice: Any) -> str | None:
    if not isinstance(choice, Mapping) or choice.get("type") != "function":
        return None
    inner = choice.get("function", choice)
    return inner.get("name") if isinstance(inner, Mapping) and isinstance(inner.get("name"), str) else None


def written_call(name: str, arguments: str, where: str) -> str:
    """A call as the model would have written it.

    Raises:
        ParameterError: its arguments are no JSON object with one meaning.
    """
    try:
        given = json_value((arguments or "{}").encode("utf-8", "surrogatepass"), "arguments", InputError)
    except InputError as error:
        raise ParameterError(where, error.message, allowed="a JSON object as text") from error
    if not isinstance(given, dict):
        raise ParameterError(where, "arguments that are no object", allowed="a JSON object as text")
    return f'{{"name": {json.dumps(name)}, "parameters": {json.dumps(given, ensure_ascii=False)}}}'


@dataclass(frozen=True)
class Said:
    """A part of an answer, read for calls.

    Attributes:
        text: that is no call; empty where it belongs to one.
        call: the number of the call, None for none.
        id, name: of a call that begins here, else empty.
        arguments: more of a call's arguments.
    """

    text: str = ""
    call: int | None = None
    id: str = ""
    name: str = ""
    arguments: str = ""


class CallReader:
    """Finds calls in an answer as it comes."""

    def __init__(self) -> None:
        self._plain: bool | None = None
        self._held = ""
        self._call = -1
        self._depth = 0
        self._quoted = self._escaped = self._inside = False

    @property
    def calls(self) -> int:
        """How many have begun."""
        return self._call + 1

    @property
    def is_plain(self) -> bool:
        """Whether the answer is a text, or nothing yet."""
        return self._plain is not False

    @property
    def is_whole(self) -> bool:
        """Whether there are calls, and what is there of the last is all of it."""
        return self._call >= 0 and not self._inside and self._held.strip() == "}"

    def add(self, text: str) -> Iterator[Said]:
        """What a piece of the answer says."""
        if self._plain is None and text:
            self._plain = not text.startswith("{")
        if self._plain:
            yield Said(text)
            return
        self._held += text
        while self._held:
            if self._inside:
                yield self._arguments()
            elif (head := _HEAD.search(self._held)) is not None:
                self._held = self._held[head.end() :]
                self._call, self._inside, self._depth = self._call + 1, True, 0
                yield Said(call=self._call, id=f"call_{secrets.token_hex(12)}", name=head[1])
            else:
                return

    def _arguments(self) -> Said:
        """All that is there of them: up to where their object is closed."""
        for place, character in enumerate(self._held):
            self._step(character)
            if not self._depth and character == "}" and not self._quoted:
                said, self._held, self._inside = self._held[: place + 1], self._held[place + 1 :], False
                return Said(call=self._call, arguments=said)
        said, self._held = self._held, ""
        return Said(call=self._call, arguments=said)

    def _step(self, character: str) -> None:
        if self._quoted:
            self._quoted = self._escaped or character != '"'
            self._escaped = not self._escaped and character == "\\"
        elif character == '"':
            self._quoted = True
        else:
            self._depth += {"{": 1, "}": -1}.get(character, 0)
