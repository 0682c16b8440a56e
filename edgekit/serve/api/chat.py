"""POST /v1/chat/completions.

Greedy unless a temperature is given, as edgekit is everywhere: the same question has the same answer. An answer without
`max_tokens` may be as long as the context has room. `record`, a patient's bundle of FHIR R4 as a `data:` URL, has its
digest put before the last question; each choice then has a `record`, too: the answer's sentences, each held against the
lines that it cites, and the resources of those. `reasoning_effort` above `minimal` lets a model think that was
trained to, within a budget that grows with it, and its thoughts come as `reasoning_content`. Beside OpenAI's fields an
answer has `timings` and `warnings`, what the user must know.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from edgekit.serve.api import formats, report
from edgekit.serve.api.conversation import ChatMessage, of_messages
from edgekit.serve.api.parts import Collected
from edgekit.serve.api.reading import ParameterError, read
from edgekit.serve.api.sampling import Sampling, budget, one_of
from edgekit.serve.api.serving import Serving, fingerprint, told
from edgekit.serve.api.streaming import DONE, Frames, finished, frame, stream, unless_left
from edgekit.serve.api.tools import CallReader, ChatTool, Tools, chosen
from edgekit.serve.engines.served import Served
from edgekit.serve.http.json_body import read_json
from edgekit.serve.jobs import Event, Job

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
THOUGHT_TOKENS: Mapping[str, int] = {"low": 512, "medium": 1024, "high": 2048, "xhigh": 4096, "max": 4096}


class ChatRequest(Sampling):
    """What a client asks."""

    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {"echo": (False,), "input": (), "instructions": (), "prompt": (),
                                                          "text": ()}  # fmt: skip

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = None
    tools: list[ChatTool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    response_format: Any = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    reasoning_effort: Effort | None = None
    record: Any = None

    def tool_use(self) -> Tools | None:
        """What there is to call. Raises ParameterError."""
        functions = [tool.function for tool in self.tools or ()]
        return chosen(functions, self.tool_choice, parallel=self.parallel_tool_calls is not False)

    @property
    def names(self) -> Mapping[str, str]:
        """What errors of the engine call otherwise."""
        most = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        thinking = {"thinking": "reasoning_effort", "thinking_tokens": "reasoning_effort"}
        return {"prompt": "messages", "constraint": "response_format", "max_tokens": most, **thinking}

    def all_options(self, tools: Tools | None, context: int) -> dict[str, Any]:
        """How it is decoded, as a `Job` has it. Raises ParameterError."""
        most = one_of(self, "max_completion_tokens", "max_tokens")
        options = {**self.options(context, context), "max_tokens": budget(most, context, context)}
        if self.top_logprobs is not None and not self.logprobs:
            raise ParameterError("top_logprobs", "without logprobs", remedy="logprobs: true")
        if self.logprobs:
            options["top_logprobs"] = self.top_logprobs or 0
        constraint = held(tools, self.response_format, "response_format", self.stop)
        return {**options, **thinking(self.reasoning_effort), **constraint}


def thinking(effort: str | None) -> dict[str, Any]:
    """Whether a model thinks first, and how long."""
    budget = THOUGHT_TOKENS.get(effort or "none")
    return {"thinking": True, "thinking_tokens": budget} if budget else {}


def held(tools: Tools | None, format_: Any, where: str, stop: str | list[str] | None = None) -> dict[str, Any]:
    """The constraint of an answer. Raises ParameterError where two would hold it, or a stop could cut its JSON."""
    form = formats.constraint(format_, where)
    if tools and form:
        raise ParameterError(where, "beside functions that may be called", allowed="one of them, or tool_choice none")
    if form and stop:
        said = f"beside a {where} of JSON, which it could cut in the midst"
        raise ParameterError("stop", said, remedy="leave it out: JSON ends by itself")
    found = tools.constraint if tools else form
    return {"constraint": found} if found else {}


@dataclass
class _Choice:
    """One answer as it comes."""

    reader: CallReader | None
    content: list[str] = field(default_factory=list)
    tokens: list[Mapping[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    answer: Mapping[str, Any] | None = None

    def deltas(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What a piece adds to the message, as a stream says it."""
        if body["thinking"]:
            return [{"reasoning_content": body["text"]}]
        if self.reader is None:
            self.content.append(body["text"])
            return [{"content": body["text"]}]
        return [self._said(one) for one in self.reader.add(body["text"])]

    def _said(self, said: Any) -> dict[str, Any]:
        if said.call is None:
            self.content.append(said.text)
            return {"content": said.text}
        if said.name:
            self.calls.append({"id": said.id, "type": "function", "function": {"name": said.name, "arguments": ""}})
            return {"tool_calls": [{"index": said.call, **self.calls[-1]}]}
        self.calls[said.call]["function"]["arguments"] += said.arguments
        return {"tool_calls": [{"index": said.call, "function": {"arguments": said.arguments}}]}

    def message(self) -> dict[str, Any]:
        """All of it."""
        assert self.answer is not None, "asked when it is finished"
        text = "".join(self.content)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text if text or not self.calls else None,
            "refusal": None,
        }
        message |= {"tool_calls": self.calls} if self.calls else {}
        return {**message, "reasoning_content": self.answer["thoughts"]} if self.answer["thoughts"] else message


class _Chat:
    """One request under way."""

    def __init__(self, served: Served, tools: Tools | None, request: ChatRequest, said: Sequence[str]) -> None:
        self._request, self._served, self._said = request, served, said
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": served.id,
            "system_fingerprint": fingerprint(served),
        }
        self._choices = [_Choice(CallReader() if tools else None) for _ in range(max(request.n or 1, 1))]

    def take(self, event: Event) -> list[dict[str, Any]]:
        """The deltas of an event."""
        number = event.body.get("number", 0)
        choice = self._choices[number]
        if event.kind == "piece":
            tokens = [] if choice.calls else event.body.get("tokens", [])
            choice.tokens += tokens
            deltas = [delta for delta in choice.deltas(event.body) if delta.get("content", True) or tokens]
            chunks = [self._choice_chunk(number, delta) for delta in deltas]
            if tokens and chunks:
                chunks[-1]["choices"][0]["logprobs"] = {"content": report.logprobs(tokens), "refusal": None}
            return chunks
        if event.kind != "answer":
            return []
        choice.answer = event.body
        return [self._last_chunk(number, event.body)]

    def whole(self) -> dict[str, Any]:
        """The answer of a request that does not stream."""
        choices = [
            {
                "index": number,
                "message": choice.message(),
                "logprobs": self._all_logprobs(choice),
                "finish_reason": report.finish_reason(choice.answer or {}, choice.reader),
                **_about(choice.answer or {}),
            }
            for number, choice in enumerate(self._choices)
        ]
        more: dict[str, Any] = {"usage": report.usage(self._answers), "timings": report.timings(self._answers)}
        more["warnings"] = self._warnings(self._answers)
        return {**self._head, "object": "chat.completion", "choices": choices, **more}

    async def frames(self, events: AsyncGenerator[Event, None]) -> Frames:
        """The answer as a stream."""
        async with aclosing(events):
            first = True
            async for event in events:
                if first:
                    for number in range(len(self._choices)):
                        yield frame(self._choice_chunk(number, {"role": "assistant", "content": ""}))
                    first = False
                for chunk in self.take(event):
                    yield frame(chunk)
        if self._request.wants_usage:
            yield frame(self._chunk([], usage=report.usage(self._answers)))
        yield DONE

    @property
    def _answers(self) -> list[Mapping[str, Any]]:
        return [choice.answer for choice in self._choices if choice.answer is not None]

    def _all_logprobs(self, choice: _Choice) -> dict[str, Any] | None:
        if not self._request.logprobs or choice.calls:
            return None
        return {"content": report.logprobs(choice.tokens), "refusal": None}

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", "choices": choices, **more}

    def _choice_chunk(self, number: int, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return self._chunk([{"index": number, "delta": delta, "logprobs": None, "finish_reason": reason}])

    def _last_chunk(self, number: int, answer: Mapping[str, Any]) -> dict[str, Any]:
        reason = report.finish_reason(answer, self._choices[number].reader)
        said = {"timings": report.timings([answer]), "warnings": self._warnings([answer])}
        chunk = {**self._choice_chunk(number, {}, reason), **said}
        chunk["choices"][0] |= _about(answer)
        return chunk

    def _warnings(self, answers: Sequence[Mapping[str, Any]]) -> list[str]:
        return told(self._served, [*self._request.notes, *self._said, *report.warnings(answers)])


def _about(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What an answer says by a record, where it was asked about one."""
    return {"record": answer["record"]} if "record" in answer else {}


def job(request: ChatRequest, collected: Collected, context: int, tools: Tools | None) -> Job:
    """What the engine does for a request. Raises ParameterError."""
    conversation = of_messages(request.messages, collected)
    if tools:
        conversation.instruct(tools.instruction)
    options = request.all_options(tools, context)
    body: dict[str, Any] = {"messages": conversation.messages("messages"), "options": options}
    if request.record is not None:
        if "constraint" in options:
            held_by = "tools" if tools else "response_format"
            raise ParameterError("record", f"beside {held_by}", allowed="one of them: answers about a record cite")
        body["record"] = collected.record(request.record, "record")
    return Job("chat", body, tuple(collected.images))


async def respond(serving: Serving, http: HttpRequest) -> Response:
    """The answer to a request, streamed or whole."""
    request = read(ChatRequest, await read_json(http))
    served = serving.model(request.model, "generate")
    tools = request.tool_use()
    collected = Collected(serving.images)
    asked = job(request, collected, served.context, tools)
    chat = _Chat(served, tools, request, collected.warnings)
    events = serving.ask(http, served, asked, request.names)
    if request.stream:
        return await stream(http, chat.frames(events))

    async def whole() -> Response:
        await finished(events, chat.take)
        return JSONResponse(chat.whole())

    return await unless_left(serving.given_up, http, whole)
