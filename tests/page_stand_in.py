"""A small server that answers like edgekit's, for tests of the page."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from edgekit.serve.page.files import routes as page_routes

LICENCE = "edgekit reference model: not MedGemma, not MedSigLIP, not for any medical use\nTrained by edgekit."


def _model(name: str, title: str, level: str, capabilities: list[str], parity: Any, default: bool) -> dict[str, Any]:
    real = title.split(", ")[1].removesuffix("-like")
    return {
        "id": name, "object": "model", "created": 0, "owned_by": "edgekit", "aliases": [], "title": title, "level": level,
        "default": default, "max_model_len": 4096, "context_length": 4096,
        "architecture": {"input_modalities": ["text", "image"]},
        "capabilities": capabilities, "status": {"state": "ready"},
        "digest": "0" * 64, "parity": parity, "warnings": [],
        "stand_in": f"reference model: a small stand-in with {real}'s architecture, not {real}; not for any medical use",
        "license": LICENCE,
    }


GEMMA, SIGLIP = "edgekit reference model, MedGemma-like", "edgekit reference model, MedSigLIP-like"
KL = {"decoder": {"metric": "kl", "loss": {"mean": 0.0031, "worst": 0.1}}, "vision": None}
MODELS = [
    _model("medgemma:BF16", GEMMA, "BF16", ["classify", "generate"], {"decoder": None}, False),
    _model("medgemma:Q4_0", GEMMA, "Q4_0", ["classify", "generate"], KL, True),
    _model("medsiglip:fp32", SIGLIP, "fp32", ["classify", "embed_image"], {"image_encoder": None}, True),
]
WORDS = "There is a patchy opacity in the right lower lobe. The heart is of normal size, and both angles are free.".split(" ")


def app(key: str | None = None) -> Starlette:
    held: set[str] = set()

    def wrong(status: int, message: str, code: str = "x", **headers: str) -> Response:
        return JSONResponse({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}, status, headers)

    async def models(request: Request) -> Response:
        if key and request.headers.get("Authorization") != f"Bearer {key}":
            return wrong(401, "no API key\nallowed: Authorization: Bearer KEY, with a key of the server's key file")
        return JSONResponse({"object": "list", "data": MODELS}, headers={"Cache-Control": "no-store"})

    async def images(request: Request) -> Response:
        body = await request.json()
        if "iVBOR" not in body["image"] and "/9j/" not in body["image"]:
            return wrong(400, "the image is of no format that is read\nallowed: PNG, JPEG, WebP, TIFF, BMP")
        await asyncio.sleep(0.4)
        held.add(f"image-{len(held)}")
        id_ = f"image-{len(held) - 1}"
        return JSONResponse({"id": id_, "url": f"edgekit-image:{id_}", "object": "image", "warnings": []})

    async def remove(request: Request) -> Response:
        return JSONResponse({})

    async def chat(request: Request) -> Response:
        body = await request.json()
        asked = str(body["messages"][-1]["content"])

        async def stream() -> AsyncIterator[str]:
            def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
                return "data: " + json.dumps({"id": "x", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}) + "\n\n"

            yield ": ping\n\n"
            await asyncio.sleep(0.3)
            yield chunk({"role": "assistant", "content": ""})
            for word in WORDS * (20 if "Gaucher" in asked else 1):
                yield chunk({"content": word + " "})
                await asyncio.sleep(0.02)
            yield chunk({}, "stop", warnings=[MODELS[0]["stand_in"]], timings={"prompt_ms": 812.0, "predicted_per_second": 31.4})
            yield "data: [DONE]\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def classify(request: Request) -> Response:
        body = await request.json()
        scores = [0.0312, 0.234, 0.73, 0.0004, 0.001, 0.001]
        rows = [{"label": label, "score": score} for label, score in zip(body["labels"], scores)]
        return JSONResponse({"data": [{"index": 0, "scores": rows}], "scores": body["scores"], "warnings": []})

    async def terms(request: Request) -> Response:
        return JSONResponse({"models": [{"id": one["id"], "restrictions": "Bound by section 3.2."} for one in MODELS], "agreement": None, "clinical_use": "edgekit is not cleared for any clinical use; what a model says may be wrong"})

    return Starlette(routes=[
        *page_routes(), Route("/v1/models", models), Route("/v1/images", images, methods=["POST"]), Route("/v1/images/{id}", remove, methods=["DELETE"]),
        Route("/v1/chat/completions", chat, methods=["POST"]), Route("/v1/classify", classify, methods=["POST"]), Route("/terms", terms),
    ])


@contextmanager
def running(key: str | None = None) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app(key), port=0, host="127.0.0.1", log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = server.force_exit = True
    thread.join()
