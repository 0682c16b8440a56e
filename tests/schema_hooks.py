"""What schemathesis is given beside the OpenAPI document: names and images that exist, and what every error must be.

Texts that the document allows are exchanged for others that it allows, so that what was good stays good, and what was
wrong stays wrong. Each case is noted in the file that `EDGEKIT_CASES` names: `METHOD path status`, a line each.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
from pathlib import Path
from typing import Any

import schemathesis
from PIL import Image

_written = io.BytesIO()
Image.linear_gradient("L").resize((64, 48)).save(_written, "PNG")
_PICTURE = f"data:image/png;base64,{base64.b64encode(_written.getvalue()).decode()}"
_MODELS = {"/v1/classify": "medsiglip", "/v1/embeddings": "medsiglip"}  # path -> who answers there, else:
_CHATS = "medgemma"
_BUDGETS = {"/v1/chat/completions": "max_tokens", "/v1/completions": "max_tokens", "/v1/responses": "max_output_tokens"}
_count = itertools.count()
_SIZED: dict[str, Any] = {
    "content": "a text",
    "dimensions": 160,
    "frequency_penalty": 0.5,
    "image": _PICTURE,
    "labels": {"bright": ["a bright image", "much light"], "dark": "a dark image"},
    "logit_bias": {"7": -1.0},
    "logprobs": 1,
    "max_completion_tokens": 3,
    "max_output_tokens": 3,
    "max_tokens": 3,
    "min_p": 0.1,
    "n": 2,
    "presence_penalty": 0.5,
    "prompt": "a text",
    "repeat_penalty": 1.1,
    "repetition_penalty": 1.1,
    "response_format": {"type": "json_object"},
    "seed": 7,
    "stop": ["."],
    "temperature": 0.7,
    "tokens": [7, 8],
    "top_k": 5,
    "top_logprobs": 2,
    "top_p": 0.9,
}
_LEFT_OUT = ("images", "reasoning", "reasoning_effort", "tools", "tool_choice")


def _with_pictures(value: Any) -> Any:
    """Each URL of an image becomes one that is an image's, wherever it stands."""
    if isinstance(value, dict):
        return {name: _with_pictures(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_with_pictures(one) for one in value]
    is_url = isinstance(value, str) and value[:5].lower() == "data:"
    return _PICTURE if is_url else value


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """A model that is served, images that can be read, short answers; every other good body is also one that fits."""
    if not isinstance(case.body, dict):
        return
    path, made = case.operation.path, _with_pictures(case.body)
    if isinstance(made.get("model"), str):
        made["model"] = _MODELS.get(path, _CHATS)
    if path == "/v1/images" and isinstance(made.get("image"), str):
        made["image"] = _PICTURE
    if case.meta.generation.mode.is_positive:
        budget = _BUDGETS.get(path)
        if budget and all(made.get(name) is None for name in (budget, "max_completion_tokens")):
            made[budget] = _SIZED[budget]
        if next(_count) % 2:
            made = {"model": _MODELS.get(path, _CHATS), **_sized(path, made)}
    case.body = made


def _sized(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A good body with values in the ranges that only an engine knows, and without what contradicts the rest of it."""
    made = {
        name: _SIZED.get(name, value) for name, value in body.items() if value is not None and name not in _LEFT_OUT
    }
    if "messages" in made:
        kept = [one for one in made["messages"] if one["role"] in ("system", "developer", "user")]
        texts = [{"role": one["role"], "content": "a text"} for one in kept]
        made["messages"] = [*texts, {"role": "user", "content": ["What?", *_parts(made["messages"][-1])]}]
    if isinstance(made.get("input"), list) and path == "/v1/responses":
        made["input"] = "What?"
    return made


def _parts(message: dict[str, Any]) -> list[Any]:
    content = message.get("content")
    return content if isinstance(content, list) else []


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Note the case."""
    with Path(os.environ["EDGEKIT_CASES"]).open("a") as noted:
        noted.write(f"{case.method} {case.operation.path} {response.status_code}\n")


@schemathesis.check
def every_error_is_said_in_one_way(ctx: Any, response: Any, case: Any) -> None:
    """Of any status from 400 on, whatever was asked: JSON of four fields; a short text that quotes no code of ours."""
    if response.status_code < 400 or case.operation.path == "/health":
        return
    error = json.loads(response.content)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert 0 < len(error["message"]) < 2000
    assert not [word for word in ("Traceback", 'File "', "pydantic", "Errno", "/tmp/") if word in error["message"]]
