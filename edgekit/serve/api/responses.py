"""POST /v1/responses, without a state: nothing is stored, each request brings its whole conversation.

Decoding is as in chat. A `reasoning` item in the input is passed over: a model does not see earlier thoughts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from edgekit.serve.api.chat import Effort, held, thinking
from edgekit.serve.api.conversation import Called, ChatMessage, Conversation, ToolCall
from edgekit.serve.api.parts import Collected
from edgekit.serve.api.reading import ParameterError, Request, read
from edgekit.serve.api.responded import Responded
from edgekit.serve.api.sampling import SAMPLED, budget
from edgekit.serve.api.serving import Serving
from edgekit.serve.api.streaming import Frames, finished, frame, stream, unless_left
from edgekit.serve.api.tools import FunctionTool, Tools, chosen
from edgekit.serve.http.json_body import read_json
from edgekit.serve.jobs import Event, Job

_LOGPROBS = "message.output_text.logprobs"
_NAMES = {  # what errors of the engine call otherwise
    "constraint": "text.format",
    "max_tokens": "max_output_tokens",
    "prompt": "input",
    "thinking": "reasoning.effort",
    "thinking_tokens": "reasoning.effort",
}
_FORM = 'text: {"format": {"type": "json_schema", "name": ..., "schema": {...}}}'
_PASSED_OVER = ("reasoning",)


class FlatTool(FunctionTool):
    """A function as this route has it."""

    type: Literal["function"]


class Reasoning(BaseModel):
    """How much it is to think."""

    model_config = ConfigDict(strict=True, frozen=True)

    effort: Effort | None = None


class ResponsesRequest(Request):
    """What a client asks."""

    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **SAMPLED,
        "background": (False,),
        "record": (),
        "conversation": (),
        "logprobs": (False,),
        "max_completion_tokens": (),
        "max_tool_calls": (),
        "messages": (),
        "previous_response_id": (),
        "prompt": (),
        "reasoning_effort": ("none",),
        "response_format": ({"type": "text"},),
        "truncation": ("disabled",),
    }

    instead: ClassVar[Mapping[str, str]] = {
        "max_completion_tokens": "max_output_tokens",
        "max_tokens": "max_output_tokens",
        "messages": "input",
        "reasoning_effort": 'reasoning: {"effort": ...}',
        "response_format": _FORM,
        "choice": f'{_FORM} and the schema {{"enum": [...]}}',
        "json_schema": _FORM,
    }

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
    stream: bool | None = None
    tools: list[FlatTool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    reasoning: Reasoning | None = None
    metadata: dict[str, Any] | None = None

    def tool_use(self) -> Tools | None:
        """What there is to call. Raises ParameterError."""
        return chosen(self.tools or [], self.tool_choice, parallel=self.parallel_tool_calls is not False)

    def options(self, tools: Tools | None, context: int) -> dict[str, Any]:
        """How it is decoded, as a `Job` has it. Raises ParameterError."""
        options: dict[str, Any] = {"max_tokens": budget(self.max_output_tokens, context, context)}
        for name in ("temperature", "top_p"):
            options |= {} if getattr(self, name) is None else {name: getattr(self, name)}
        if _LOGPROBS in (self.include or ()):
            options["top_logprobs"] = self.top_logprobs or 0
        elif self.top_logprobs:
            raise ParameterError("top_logprobs", "without their being asked for", remedy=f'include: ["{_LOGPROBS}"]')
        effort = self.reasoning.effort if self.reasoning else None
        return {**options, **thinking(effort), **held(tools, (self.text or {}).get("format"), "text.format")}

    def conversation(self, collected: Collected) -> Conversation:
        """What was said. Raises ParameterError."""
        conversation = Conversation(collected)
        if self.instructions:
            conversation.instruct(self.instructions)
        items = [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input
        for place, item in enumerate(items):
            if item.get("type") not in _PASSED_OVER:
                conversation.add(_message(item, f"input.{place}"), f"input.{place}")
        return conversation

    def echoed(self) -> dict[str, Any]:
        """What an answer repeats of its request."""
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "temperature": self.temperature or 0.0,
            "text": self.text or {"format": {"type": "text"}},
            "tool_choice": self.tool_choice or "auto",
            "tools": [tool.model_dump() for tool in self.tools or ()],
            "top_p": 1.0 if self.top_p is None else self.top_p,
        }


def _message(item: Mapping[str, Any], where: str) -> ChatMessage:
    """An item as a message of a chat. Raises ParameterError."""
    kind = item.get("type", "message")
    if kind == "message":
        return read(ChatMessage, {"role": item.get("role"), "content": item.get("content")})
    if kind == "function_call":
        function = Called(name=_text(item, "name", where), arguments=_text(item, "arguments", where))
        call = ToolCall(id=_text(item, "call_id", where), function=function)
        return ChatMessage(role="assistant", tool_calls=[call])
    if kind == "function_call_output":
        return ChatMessage(role="tool", tool_call_id=_text(item, "call_id", where), content=item.get("output"))
    raise ParameterError(f"{where}.type", f"an item of type {kind!r:.40}",
                         allowed="message, function_call, function_call_output, reasoning")  # fmt: skip


def _text(item: Mapping[str, Any], name: str, where: str) -> str:
    if not isinstance(item.get(name), str):
        raise ParameterError(f"{where}.{name}", "no text", allowed="a text")
    return str(item[name])


async def _frames(responded: Responded, events: AsyncGenerator[Event, None]) -> Frames:
    async with aclosing(events):
        for document in responded.begin():
            yield frame(document, document["type"])
        async for event in events:
            for document in responded.take(event):
                yield frame(document, document["type"])
    for document in responded.end():
        yield frame(document, document["type"])


async def respond(serving: Serving, http: HttpRequest) -> Response:
    """The answer to a request, streamed or whole."""
    request = read(ResponsesRequest, await read_json(http))
    served = serving.model(request.model, "generate")
    tools = request.tool_use()
    conversation = request.conversation(Collected(serving.images))
    if tools:
        conversation.instruct(tools.instruction)
    body = {"messages": conversation.messages("input"), "options": request.options(tools, served.context)}
    events = serving.ask(http, served, Job("chat", body, tuple(conversation.collected.images)), _NAMES)
    notes = [*request.notes, *conversation.collected.warnings]
    responded = Responded(served, request.echoed(), notes, calls=tools is not None)
    if request.stream:
        return await stream(http, _frames(responded, events), responded.failed)

    async def whole() -> Response:
        await finished(events, responded.take)
        responded.end()
        return JSONResponse(responded.document())

    return await unless_left(serving.given_up, http, whole)
