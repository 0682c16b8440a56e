"""GET /openapi.json: the API as an OpenAPI 3.1 document, for programs that write clients, and for tests of this server.

It is made from the routes themselves, the schemas that read their requests, the words that begin their modules, and the
table of errors. What a good answer has stands in `answer_shapes.py`, what a field that takes anything may be, below.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Literal

from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edgekit.artifacts.version import __version__
from edgekit.serve.api.answer_shapes import SHAPES, Shape
from edgekit.serve.api.chat import ChatRequest
from edgekit.serve.api.classify import ClassifyRequest
from edgekit.serve.api.completions import CompletionRequest
from edgekit.serve.api.embeddings import EmbeddingRequest
from edgekit.serve.api.images import ImageRequest
from edgekit.serve.api.reading import UNSUPPORTED, Request
from edgekit.serve.api.responses import ResponsesRequest
from edgekit.serve.api.tokens import DetokenizeRequest, TokenizeRequest
from edgekit.serve.http import answers, errors

PATH = "/openapi.json"
REQUESTS: Mapping[str, type[Request]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/embeddings": EmbeddingRequest,
    "/v1/classify": ClassifyRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
    "/v1/images": ImageRequest,
}

_SCHEMAS = "#/components/schemas/"
_URL: Shape = {"type": "string", "pattern": "^([Dd][Aa][Tt][Aa]:|edgekit-image:)"}
_IMAGE: Shape = {
    "anyOf": [_URL, {"type": "object", "properties": {"url": _URL}, "required": ["url"]}],
    "description": "a data: URL in base64, or edgekit-image:ID of one that was handed over",
}
_CONTENT: Shape = {
    "anyOf": [
        {"type": ["string", "null"]},
        {
            "type": "array",
            "items": {
                "anyOf": [
                    {"type": "string"},
                    {
                        "type": "object",
                        "properties": {
                            "type": {"enum": ["text", "input_text", "output_text"]},
                            "text": {"type": "string"},
                        },
                        "required": ["type", "text"],
                    },
                    {
                        "type": "object",
                        "properties": {"type": {"enum": ["image_url", "input_image"]}, "image_url": _IMAGE},
                        "required": ["type", "image_url"],
                    },
                    {
                        "type": "object",
                        "properties": {"type": {"const": "refusal"}, "refusal": {"type": "string"}},
                        "required": ["type", "refusal"],
                    },
                ]
            },
        },
    ]
}
_INPUT: Shape = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        {"type": "object", "properties": {"image": _IMAGE}, "required": ["image"]},
        {"type": "object", "properties": {"content": _CONTENT}, "required": ["content"]},
    ]
}

# Field -> what it may be, where its schema takes anything and the route reads on.
READ_BY_HAND: Mapping[str, Shape] = {
    "content": _CONTENT,
    "image": {"anyOf": [_IMAGE, {"type": "null"}]},
    "images": {"anyOf": [_IMAGE, {"type": "array", "items": _IMAGE, "minItems": 1}, {"type": "null"}]},
    "input": {"anyOf": [_INPUT, {"type": "array", "items": _INPUT, "minItems": 1}]},
    "prompt": {
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 1},
        ]
    },
    "record": {
        "anyOf": [{"type": "string", "pattern": "^[Dd][Aa][Tt][Aa]:"}, {"type": "null"}],
        "description": "a bundle of FHIR R4 as a data: URL in base64",
    },
    "range": {
        "anyOf": [
            {"enum": ["auto", None]},
            {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
        ]
    },
    "response_format": {
        "type": ["object", "null"],
        "properties": {"type": {"enum": ["text", "json_object", "json_schema"]}},
        "required": ["type"],
    },
    "tool_choice": {
        "anyOf": [
            {"enum": ["none", "auto", "required", None]},
            {"type": "object", "properties": {"type": {"const": "function"}}, "required": ["type"]},
        ]
    },
}
_NEEDED = ("input", "prompt")  # of these, by their routes


class _Schemas(GenerateJsonSchema):
    """Without titles, which repeat the names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def route(others: Iterable[BaseRoute], *, needs_key: bool) -> Route:
    """The document as a route, about these and itself.

    Args:
        needs_key: whether all but /health need one.
    """

    async def answer(request: HttpRequest) -> Response:
        return Response(written, media_type="application/json")

    made = Route(PATH, answer, methods=["GET"])
    routes = [one for one in others if isinstance(one, Route)]
    written = answers.encoded(document([*routes, made], needs_key=needs_key))
    return made


def document(routes: Iterable[Route], *, needs_key: bool) -> dict[str, Any]:
    """All of it, see `route`."""
    paths: dict[str, dict[str, Any]] = {}
    for one in routes:
        for method in sorted((one.methods or set()) - {"HEAD"}):
            paths.setdefault(one.path_format, {})[method.lower()] = _operation(one, method, needs_key=needs_key)
    components: dict[str, Any] = {"schemas": _requests(), "responses": _refusals()}
    if needs_key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    info = {"title": "edgekit", "version": __version__, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": components}


def _operation(one: Route, method: str, *, needs_key: bool) -> dict[str, Any]:
    """What a route takes and gives."""
    endpoint = getattr(one.endpoint, "func", one.endpoint)
    is_open = one.path == "/health"
    statuses = _statuses(one, needs_key=needs_key and not is_open)
    responses = {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}
    said: dict[str, Any] = {
        "operationId": f"{method.lower()}{one.path_format}".translate(str.maketrans("/.", "__", "{}")),
        "description": sys.modules[endpoint.__module__].__doc__ or "",
        "responses": {"200": _good(one, method), **responses},
    }
    if is_open:
        states = {"type": "object", "properties": {"status": {"enum": ["loading", "draining", "failed"]}}}
        said["responses"]["503"] = _json("not ready, or with as many connections as it can hold", states)
    if one.param_convertors:
        said["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in one.param_convertors
        ]
    if schema := REQUESTS.get(one.path):
        content = {"application/json": {"schema": {"$ref": _SCHEMAS + schema.__name__}}}
        said["requestBody"] = {"required": True, "content": content}
    return {**said, "security": [{"key": []}]} if needs_key and not is_open else said


def _good(one: Route, method: str) -> dict[str, Any]:
    """The answer of a request that is served."""
    shape = SHAPES.get(f"{method} {one.path_format}", {})
    kind = "text/plain" if shape.get("type") == "string" else "application/json"
    content: dict[str, Any] = {kind: {"schema": shape}}
    schema = REQUESTS.get(one.path)
    if schema and "stream" in schema.model_fields:
        content["text/event-stream"] = {"schema": {"description": "events, each with a part of the answer as JSON"}}
    return {"description": "the answer", "content": content}


def _statuses(one: Route, *, needs_key: bool) -> list[int]:
    """Those of the front door, which every request passes, and of what models answer to who asks them."""
    asks, about_one = one.path in REQUESTS, bool(one.param_convertors)
    never: set[type[BaseException]] = {errors.WrongMethod, *([] if needs_key else [errors.NoKey])}
    never |= {errors.NoRoute} if not (asks or about_one) else set()
    never |= {errors.WrongType} if not asks else set()
    found = {
        row.status
        for kind, row in answers.ROWS.items()
        if kind not in never
        and (asks or kind.__module__ == errors.__name__ or row.status >= HTTPStatus.INTERNAL_SERVER_ERROR)
    }
    return sorted(found)


def _refusals() -> dict[str, Any]:
    """Status -> the answer that has it: an error of one of its kinds."""
    return {str(status): _refusal(status) for status in sorted({row.status for row in answers.ROWS.values()})}


def _refusal(status: int) -> dict[str, Any]:
    kinds = {kind: row for kind, row in answers.ROWS.items() if row.status == status}
    error = {
        "message": {"type": "string"},
        "type": {"enum": sorted({row.type for row in kinds.values()})},
        "param": {"type": ["string", "null"]},
        "code": {"enum": sorted({row.code for row in kinds.values()})},
    }
    inner = {"type": "object", "properties": error, "required": list(error), "additionalProperties": False}
    shape = {"type": "object", "properties": {"error": inner}, "required": ["error"], "additionalProperties": False}
    said = dict.fromkeys((kind.__doc__ or "").partition("\n")[0] for kind in kinds)
    return _json(" ".join(filter(None, said)) or HTTPStatus(status).phrase, shape)


def _json(description: str, shape: Shape) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": shape}}}


def _requests() -> dict[str, Shape]:
    """Name -> the schema of a request, or of what stands in one."""
    mode: Literal["validation"] = "validation"
    models = [(model, mode) for model in REQUESTS.values()]
    _, made = models_json_schema(models, ref_template=_SCHEMAS + "{model}", schema_generator=_Schemas)
    schemas: dict[str, Shape] = made["$defs"]
    for schema in schemas.values():
        for name, field in schema.get("properties", {}).items():
            if field.keys() - {"default"}:
                continue
            field.update(READ_BY_HAND.get(name, {}))  # it takes anything
            if name in _NEEDED:
                del field["default"]
                schema.setdefault("required", []).append(name)
    for model in REQUESTS.values():
        refused = sorted({*UNSUPPORTED, *model.refused} - model.model_fields.keys())
        said = f"Refused, unless with a value by which they change nothing: {', '.join(refused)}."
        schemas[model.__name__]["description"] = said
    return schemas
