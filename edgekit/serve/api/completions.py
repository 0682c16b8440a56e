"""POST /v1/completions: a text is continued as it is, behind <bos>, without the form of a conversation.

As with OpenAI, an answer has at most 16 tokens unless `max_tokens` says otherwise: few texts end by themselves.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from edgekit.serve.api import report
from edgekit.serve.api.chat import held
from edgekit.serve.api.reading import ParameterError, read
from edgekit.serve.api.sampling import Sampling
from edgekit.serve.api.serving import Serving, fingerprint, told
from edgekit.serve.api.streaming import DONE, Frames, finished, frame, stream, unless_left
from edgekit.serve.engines.served import Served
from edgekit.serve.http.json_body import read_json
from edgekit.serve.jobs import Event, Job

_MOST = 16
_NAMES = {"constraint": "response_format", "top_logprobs": "logprobs"}  # what errors of the engine call otherwise


class CompletionRequest(Sampling):
    """What a client asks."""

    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "echo": (False,),
        "record": (),
        "input": (),
        "instructions": (),
        "max_completion_tokens": (),
        "messages": (),
        "reasoning_effort": ("none",),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "top_logprobs": (),
    }

    prompt: Any = None
    logprobs: int | None = None
    response_format: Any = None

    @property
    def text(self) -> str:
        """The one text. Raises ParameterError."""
        one = self.prompt[0] if isinstance(self.prompt, list) and len(self.prompt) == 1 else self.prompt
        if isinstance(one, str):
            return one
        remedy = "send the text itself: token ids are a model's own" if _tokens(one) else "one request for each text"
        raise ParameterError("prompt", "not one text", allowed="a text", remedy=remedy)

    def job(self, context: int) -> Job:
        """What the engine does. Raises ParameterError."""
        held_to = held(None, self.response_format, "response_format", self.stop)
        options = {**self.options(_MOST, context), **held_to}
        options |= {} if self.logprobs is None else {"top_logprobs": self.logprobs}
        return Job("complete", {"prompt": self.text, "options": options})


def _tokens(prompt: Any) -> bool:
    return isinstance(prompt, list) and all(isinstance(one, int | list) for one in prompt)


class _Completion:
    """One request under way."""

    def __init__(self, served: Served, request: CompletionRequest) -> None:
        self._request, self._served = request, served
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": served.id,
            "system_fingerprint": fingerprint(served),
        }
        self._answers: dict[int, Mapping[str, Any]] = {}
        self._offsets = [0] * (request.n or 1)

    def take(self, event: Event) -> dict[str, Any] | None:
        """The chunk of an event."""
        number, body = event.body.get("number", 0), event.body
        if event.kind == "piece":
            return self._said([self._choice(number, body["text"], body.get("tokens", []))])
        if event.kind != "answer":
            return None
        self._answers[number] = body
        last = self._choice(number, "", [], report.finish_reason(body))
        return self._said([last], timings=report.timings([body]), warnings=self._warnings([body]))

    def whole(self) -> dict[str, Any]:
        """The answer of a request that does not stream."""
        answers = [self._answers[number] for number in sorted(self._answers)]
        self._offsets = [0] * len(answers)
        choices = [
            self._choice(number, answer["text"], answer["tokens"], report.finish_reason(answer))
            for number, answer in enumerate(answers)
        ]
        more = {"usage": report.usage(answers), "timings": report.timings(answers)}
        return self._said(choices, **more, warnings=self._warnings(answers))

    async def frames(self, events: AsyncGenerator[Event, None]) -> Frames:
        """The answer as a stream."""
        async with aclosing(events):
            async for event in events:
                if chunk := self.take(event):
                    yield frame(chunk)
        if self._request.wants_usage:
            yield frame(self._said([], usage=report.usage(list(self._answers.values()))))
        yield DONE

    def _warnings(self, answers: Sequence[Mapping[str, Any]]) -> list[str]:
        return told(self._served, [*self._request.notes, *report.warnings(answers)])

    def _said(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {**self._head, "choices": choices, **more}

    def _choice(self, number: int, text: str, tokens: Any, reason: str | None = None) -> dict[str, Any]:
        logprobs = self._logprobs(number, tokens) if tokens and self._request.logprobs is not None else None
        return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, number: int, tokens: list[Mapping[str, Any]]) -> dict[str, Any]:
        """In the form of this route, which counts characters."""
        offsets = []
        for token in tokens:
            offsets.append(self._offsets[number])
            self._offsets[number] += len(token["text"])
        return {
            "tokens": [report.written(token) for token in tokens],
            "token_logprobs": [token["logprob"] for token in tokens],
            "top_logprobs": [{report.written(one): one["logprob"] for one in token["top"]} for token in tokens],
            "text_offset": offsets,
        }


async def respond(serving: Serving, http: HttpRequest) -> Response:
    """The answer to a request, streamed or whole."""
    request = read(CompletionRequest, await read_json(http))
    served = serving.model(request.model, "generate")
    completion = _Completion(served, request)
    events = serving.ask(http, served, request.job(served.context), _NAMES)
    if request.stream:
        return await stream(http, completion.frames(events))

    async def whole() -> Response:
        await finished(events, completion.take)
        return JSONResponse(completion.whole())

    return await unless_left(serving.given_up, http, whole)
