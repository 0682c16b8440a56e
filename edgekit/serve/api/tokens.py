"""POST /tokenize and /detokenize: what a model that chats reads of a text, without <bos>.

The text is `content`, as llama.cpp's server calls it, or `prompt`, as vLLM does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from edgekit.serve.api.reading import ParameterError, Request, read
from edgekit.serve.api.sampling import one_of
from edgekit.serve.api.serving import Serving
from edgekit.serve.api.streaming import result, unless_left
from edgekit.serve.http.json_body import read_json
from edgekit.serve.jobs import Job

MOST_TOKENS = 1 << 20


class TokenizeRequest(Request):
    """A text."""

    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "messages": (),
        "add_special": (False,),
        "add_special_tokens": (False,),
    }

    content: str | None = None
    prompt: str | None = None


class DetokenizeRequest(Request):
    """Token ids."""

    tokens: list[int] = Field(max_length=MOST_TOKENS)


async def tokenize(serving: Serving, http: HttpRequest) -> Response:
    """The tokens of a text: ids, and what each says."""
    request = read(TokenizeRequest, await read_json(http))
    text = one_of(request, "content", "prompt")
    if text is None:
        raise ParameterError("content", "no text", allowed="a text as content or prompt")
    served = serving.model(request.model, "generate")

    async def whole() -> Response:
        event, _ = await result(serving.ask(http, served, Job("tokenize", {"text": text}), {}))
        tokens = event.body["tokens"]
        more = {"count": len(tokens), "max_model_len": served.context, "model": served.id}
        return JSONResponse({"tokens": tokens, "pieces": event.body["pieces"], **more})

    return await unless_left(serving.given_up, http, whole)


async def detokenize(serving: Serving, http: HttpRequest) -> Response:
    """The text of tokens, under both names."""
    request = read(DetokenizeRequest, await read_json(http))
    served = serving.model(request.model, "generate")

    async def whole() -> Response:
        event, _ = await result(serving.ask(http, served, Job("detokenize", {"tokens": request.tokens}), {}))
        return JSONResponse({"content": event.body["text"], "prompt": event.body["text"], "model": served.id})

    return await unless_left(serving.given_up, http, whole)
