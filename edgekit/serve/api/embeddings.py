"""POST /v1/embeddings: texts and images to unit vectors of one space.

An input is a text, `{"text": "..."}`, `{"image": "data:...", "range": ...}`, a part as chat has it, or
`{"content": [part]}`.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from edgekit.serve.api.parts import Collected, Part
from edgekit.serve.api.reading import ParameterError, Request, read
from edgekit.serve.api.serving import Serving, told
from edgekit.serve.api.streaming import result, unless_left
from edgekit.serve.http.json_body import read_json
from edgekit.serve.jobs import Event, Job

MOST_INPUTS = 2048
_ALLOWED = 'texts, {"text": ...}, {"image": ...} or {"content": [one part]}'


class EmbeddingRequest(Request):
    """What a client asks."""

    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "embd_normalize": (2,),
        "messages": ([],),
        "normalize": (True,),
        "pooling": (),
    }

    instead: ClassVar[Mapping[str, str]] = dict.fromkeys(("image", "images"), 'input: [{"image": "data:..."}, ...]')

    input: Any = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None

    def inputs(self, collected: Collected) -> list[Part]:
        """What is embedded, in its order. Raises ParameterError."""
        given = self.input if isinstance(self.input, list) else [self.input]
        if given and all(isinstance(one, int) or _ids(one) for one in given):
            remedy = "send the texts themselves; in LangChain: check_embedding_ctx_length=False"
            raise ParameterError("input", "token ids, which are another model's", allowed=_ALLOWED, remedy=remedy)
        if not 0 < len(given) <= MOST_INPUTS:
            raise ParameterError("input", f"{len(given)} inputs", allowed=f"1 to {MOST_INPUTS}")
        return [_input(one, collected, f"input.{place}") for place, one in enumerate(given)]


def _ids(given: Any) -> bool:
    return isinstance(given, list) and all(isinstance(one, int) for one in given)


def _input(given: Any, collected: Collected, where: str) -> Part:
    content = given
    if isinstance(given, Mapping):
        if len(said := [name for name in ("text", "image", "content") if given.get(name) is not None]) > 1:
            raise ParameterError(where, " and ".join(said), allowed="one of them", remedy="an input for each")
        if isinstance(given.get("text"), str) and "type" not in given:
            return {"text": given["text"]}
        if "image" in given:
            return collected.image(given["image"], where, given.get("range"))
        content = given.get("content", [given])
    if content is None:
        raise ParameterError(where, "nothing", allowed=_ALLOWED)
    parts = collected.parts(content, where)
    if len(parts) != 1:
        remedy = "an input for each: the model has a vector of a text, and one of an image, and none of both"
        raise ParameterError(where, f"{len(parts)} parts", allowed="one part", remedy=remedy)
    return parts[0]


async def respond(serving: Serving, http: HttpRequest) -> Response:
    """The vectors of a request's inputs."""
    request = read(EmbeddingRequest, await read_json(http))
    collected = Collected(serving.images)
    inputs = request.inputs(collected)
    served = serving.model(request.model, "embed_text" if any("text" in one for one in inputs) else "embed_image")
    job = Job("embed", {"inputs": inputs}, tuple(collected.images))

    async def whole() -> Response:
        event, warnings = await result(serving.ask(http, served, job))
        width = event.body["shape"][1]
        if request.dimensions not in (None, width):
            raise ParameterError("dimensions", f"{request.dimensions}", allowed=f"{width}, the model's own")
        rows = _rows(event, width, in_base64=request.encoding_format == "base64")
        data = [{"object": "embedding", "index": place, "embedding": row} for place, row in enumerate(rows)]
        tokens = event.body["tokens"]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        said = {"object": "list", "data": data, "model": served.id, "usage": usage}
        noted = [*request.notes, *collected.warnings, *warnings]
        return JSONResponse({**said, "warnings": told(served, noted)})

    return await unless_left(serving.given_up, http, whole)


def _rows(event: Event, width: int, *, in_base64: bool) -> Iterator[str | list[float]]:
    """Each vector as numbers, or as its little-endian float32 in base64."""
    for start in range(0, len(event.data), 4 * width):
        row = event.data[start : start + 4 * width]
        yield base64.b64encode(row).decode() if in_base64 else list(struct.unpack(f"<{width}f", row))
