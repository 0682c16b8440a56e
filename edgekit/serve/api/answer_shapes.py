"""What a good answer of each route looks like, as JSON schemas: what clients may count on, not all that is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Shape = dict[str, Any]


def _one(type_: str | list[str], **more: Any) -> Shape:
    return {"type": type_, **more}


def _object(**properties: Shape) -> Shape:
    """An object that has all of these; there may be more."""
    return _one("object", properties=properties, required=list(properties))


def _list(items: Shape) -> Shape:
    return _one("array", items=items)


def _said(value: Any) -> Shape:
    return {"const": value}


_TEXT, _COUNT, _NUMBER, _ANY = _one("string"), _one("integer", minimum=0), _one("number"), _one("object")
_TRUTH, _TEXTS = _one("boolean"), _list(_TEXT)
_MAYBE_TEXT = _one(["string", "null"])

_USAGE = _object(prompt_tokens=_COUNT, completion_tokens=_COUNT, total_tokens=_COUNT)
_ANSWERED = {"model": _TEXT, "usage": _USAGE, "timings": _ANY, "warnings": _TEXTS}
_MESSAGE = _object(role=_said("assistant"), content=_MAYBE_TEXT)
_MODEL = _object(
    id=_TEXT,
    object=_said("model"),
    created=_COUNT,
    owned_by=_TEXT,
    aliases=_TEXTS,
    title=_TEXT,
    level=_TEXT,
    default=_TRUTH,
    max_model_len=_COUNT,
    context_length=_COUNT,
    architecture=_object(input_modalities=_TEXTS, output_modalities=_TEXTS),
    capabilities=_TEXTS,
    status=_object(state=_TEXT, slots=_COUNT, queued=_COUNT, running=_COUNT, problem=_MAYBE_TEXT),
    digest=_TEXT,
    parity=_ANY,
    stand_in=_MAYBE_TEXT,
    warnings=_TEXTS,
    license=_TEXT,
)


def _choices(reasons: tuple[str, ...], **more: Shape) -> Shape:
    choice = _object(index=_COUNT, finish_reason={"enum": list(reasons)}, logprobs=_one(["object", "null"]), **more)
    return {**_list(choice), "minItems": 1}


def _of(kind: str, rows: Shape, **more: Shape) -> Shape:
    """A list of rows."""
    return _object(object=_said("list"), data=_list(_object(object=_said(kind), index=_COUNT, **rows)), **more)


# Method and path, as routes have them -> the answer.
SHAPES: Mapping[str, Shape] = {
    "POST /v1/chat/completions": _object(
        id=_TEXT,
        object=_said("chat.completion"),
        created=_COUNT,
        choices=_choices(("stop", "length", "tool_calls"), message=_MESSAGE),
        **_ANSWERED,
    ),
    "POST /v1/completions": _object(
        id=_TEXT,
        object=_said("text_completion"),
        created=_COUNT,
        choices=_choices(("stop", "length"), text=_TEXT),
        **_ANSWERED,
    ),
    "POST /v1/responses": _object(
        id=_TEXT,
        object=_said("response"),
        created_at=_COUNT,
        model=_TEXT,
        status={"enum": ["completed", "incomplete"]},
        output=_list(_object(type={"enum": ["message", "reasoning", "function_call"]}, id=_TEXT, status=_TEXT)),
        usage=_object(input_tokens=_COUNT, output_tokens=_COUNT, total_tokens=_COUNT),
        warnings=_TEXTS,
    ),
    "POST /v1/embeddings": _of(
        "embedding",
        {"embedding": {"anyOf": [_list(_NUMBER), _one("string", contentEncoding="base64")]}},
        model=_TEXT,
        usage=_object(prompt_tokens=_COUNT, total_tokens=_COUNT),
        warnings=_TEXTS,
    ),
    "POST /v1/classify": _of(
        "classification",
        {"scores": _list(_object(label=_TEXT, score=_NUMBER))},
        model=_TEXT,
        scores={"enum": ["sigmoid", "softmax"]},
        warnings=_TEXTS,
    ),
    "GET /v1/models": _object(object=_said("list"), data=_list(_MODEL)),
    "GET /v1/models/{model}": _MODEL,
    "POST /tokenize": _object(tokens=_list(_COUNT), pieces=_TEXTS, count=_COUNT, max_model_len=_COUNT, model=_TEXT),
    "POST /detokenize": _object(content=_TEXT, prompt=_TEXT, model=_TEXT),
    "POST /v1/images": _object(
        id=_TEXT,
        url=_TEXT,
        object=_said("image"),
        model=_TEXT,
        bytes=_COUNT,
        tokens=_COUNT,
        expires_at=_COUNT,
        warnings=_TEXTS,
    ),
    "DELETE /v1/images/{id}": _object(id=_TEXT, object=_said("image"), deleted=_said(True)),
    "GET /health": _object(status=_said("ok")),
    "GET /metrics": _TEXT,
    "GET /props": _object(version=_TEXT, state=_TEXT, needs_key=_TRUTH, limits=_ANY, models=_list(_object(id=_TEXT))),
    "GET /terms": _object(models=_list(_object(id=_TEXT, license=_TEXT)), agreement=_MAYBE_TEXT, clinical_use=_TEXT),
    "GET /openapi.json": _object(openapi=_TEXT, info=_ANY, paths=_ANY),
}
