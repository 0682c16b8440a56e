"""GET /v1/models and /v1/models/{id}: what is served, and what is known of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from edgekit.serve.api.serving import Serving, told
from edgekit.serve.engines.served import Served


async def respond_all(serving: Serving, http: HttpRequest) -> Response:
    """Every model."""
    return JSONResponse({"object": "list", "data": [described(serving, one) for one in serving.engines.served]})


async def respond_one(serving: Serving, http: HttpRequest) -> Response:
    """The model of an id or an alias."""
    return JSONResponse(described(serving, serving.engines.find(http.path_params["model"])))


def described(serving: Serving, served: Served) -> dict[str, Any]:
    """A model as clients know one, and what this server's page shows."""
    status = asdict(serving.engines.status(served))
    status.pop("pid")
    return {
        "id": served.id,
        "object": "model",
        "created": served.created,
        "owned_by": "edgekit",
        "aliases": list(served.aliases),
        "title": served.title,
        "level": served.level,
        "default": served.default,
        "max_model_len": served.context,
        "context_length": served.context,
        "architecture": {
            "input_modalities": list(served.modalities),
            "output_modalities": [_output(served)],
        },
        "capabilities": sorted(served.abilities),
        "status": status,
        "digest": served.digest,
        "parity": dict(served.parity),
        "stand_in": served.stand_in,
        "warnings": told(served, served.warnings),
        "license": served.license,
    }


def _output(served: Served) -> str:
    return "text" if "generate" in served.abilities else "embedding"
