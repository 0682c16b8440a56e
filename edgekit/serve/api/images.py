"""POST /v1/images: an image before the question about it; DELETE /v1/images/{id}.

    {"image": "data:image/png;base64,..." or base64 alone, "range": "auto", "model": "...", "system": "..."}

It is encoded and read at once, behind the system text with which it will be asked about, where there is one; a model
that does not chat looks only whether it can be read, and what is odd about it. The answer comes when that is done;
`edgekit-image:ID` stands for the image wherever a `data:` URL could, until it expires, in the range that was given here
or else there (see `edgekit.serve.api.parts`). It is held in memory alone.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from edgekit.serve.api.parts import HANDED_OVER, as_range, from_base64, from_url
from edgekit.serve.api.reading import Request, read
from edgekit.serve.api.serving import Serving, told
from edgekit.serve.api.streaming import result, unless_left
from edgekit.serve.http.json_body import read_json
from edgekit.serve.image_formats import check_format
from edgekit.serve.jobs import Job


class ImageRequest(Request):
    """An image, and who will be asked about it."""

    image: str
    range: Any = None
    system: str | None = None


async def hand_over(serving: Serving, http: HttpRequest) -> Response:
    """Hold an image, and have the model read it."""
    request = read(ImageRequest, await read_json(http))
    is_url = request.image[:5].lower() == "data:" or "://" in request.image[:40]
    data = from_url(request.image, "image") if is_url else from_base64(request.image, "image")
    check_format(data, 0)
    range_ = as_range(request.range, "range")
    served = serving.model(request.model)

    async def whole() -> Response:
        system = [{"role": "system", "parts": [{"text": request.system}]}] if request.system else []
        messages = [*system, {"role": "user", "parts": [{"image": 0, "range": range_}]}]
        event, warnings = await result(serving.ask(http, served, Job("prepare", {"messages": messages}, (data,))))
        tokens = event.body["tokens"]
        held = serving.images.put(data, range_)
        said = {"id": held.id, "url": f"{HANDED_OVER}{held.id}", "object": "image", "model": served.id}
        more = {
            "bytes": len(data),
            "tokens": tokens,
            "expires_at": int(held.expires_at),
            "warnings": told(served, [*request.notes, *warnings]),
        }
        return JSONResponse({**said, **more})

    return await unless_left(serving.given_up, http, whole)


async def remove(serving: Serving, http: HttpRequest) -> Response:
    """Hold an image no longer."""
    id_ = http.path_params["id"]
    serving.images.remove(id_)
    return JSONResponse({"id": id_, "object": "image", "deleted": True})
