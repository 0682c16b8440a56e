"""What schemathesis is given beside the OpenAPI document: names and images that exist, and what every answer must be.

Texts that the document allows are exchanged for others that it allows, so that what was good stays good, and what was
wrong stays wrong. Every other good body is made one that fits: values in the ranges that only an engine knows, and
nothing that contradicts the rest of it. Each case is noted in the file that `EDGEKIT_CASES` names, a line each:
`METHOD path status`.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import schemathesis
from PIL import Image

from edgekit.serve.api import openapi

_written = io.BytesIO()
Image.linear_gradient("L").resize((64, 48)).save(_written, "PNG")
_PICTURE = f"data:image/png;base64,{base64.b64encode(_written.getvalue()).decode()}"
_PATIENT = b'{"resourceType": "Bundle", "entry": [{"resource": {"resourceType": "Patient", "id": "p"}}]}'
_RECORD = f"data:application/fhir+json;base64,{base64.b64encode(_PATIENT).decode()}"

# Path -> what a body that fits must have.
_NEEDED: Mapping[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "medgemma", "temperature": 0.7, "max_tokens": 3},
    "/v1/completions": {"model": "medgemma", "temperature": 0.7, "max_tokens": 3, "prompt": "a text", "logprobs": 1},
    "/v1/responses": {"model": "medgemma", "max_output_tokens": 3, "input": "What?"},
    "/v1/embeddings": {"model": "medsiglip", "input": ["a text", {"image": _PICTURE}, {"content": ["another"]}]},
    "/v1/classify": {"model": "medsiglip", "image": _PICTURE},
    "/v1/images": {"model": "medgemma", "image": _PICTURE},
    "/tokenize": {"model": "medgemma", "content": "a text"},
    "/detokenize": {"model": "medgemma"},
}
# Field -> its value there, where a body has it.
_FITTING: Mapping[str, Any] = {
    "dimensions": 160,
    "frequency_penalty": 0.5,
    "labels": {"bright": ["a bright image", "much light"], "dark": "a dark image"},
    "logit_bias": {"7": -1.0},
    "max_completion_tokens": 3,
    "min_p": 0.1,
    "n": 2,
    "presence_penalty": 0.5,
    "prompt": "a text",
    "record": _RECORD,
    "repeat_penalty": 1.1,
    "repetition_penalty": 1.1,
    "response_format": {"type": "json_object"},
    "seed": 7,
    "stop": ["."],
    "temperature": 0.7,
    "text": {"format": {"type": "json_object"}},
    "tokens": [7, 8],
    "top_k": 5,
    "top_p": 0.9,
}
_LEFT_OUT = ("images", "range", "reasoning", "reasoning_effort", "tools", "tool_choice", "top_logprobs")
_BUDGETS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_WORDS_OF_OURS = ("Traceback", 'File "', "pydantic", "Errno", "/tmp/")

_count = itertools.count()
_fit: set[str] = set()  # cases


def _with_pictures(value: Any) -> Any:
    """Each URL of an image becomes one that is an image's, wherever it stands."""
    if isinstance(value, dict):
        return {name: _with_pictures(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_with_pictures(one) for one in value]
    is_url = isinstance(value, str) and (value[:5].lower() == "data:" or value.startswith("edgekit-image:"))
    return _PICTURE if is_url else value


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Exchange what may be."""
    if not isinstance(case.body, dict) or case.operation.path not in _NEEDED:
        return
    needed, made = _NEEDED[case.operation.path], _with_pictures(case.body)
    made |= {name: needed[name] for name in ("model",) if isinstance(made.get(name), str)}
    if case.meta.generation.mode.is_positive:
        if all(made.get(name) is None for name in _BUDGETS):
            made |= {name: needed[name] for name in _BUDGETS if name in needed}
        if next(_count) % 2:
            known = openapi.REQUESTS[case.operation.path].model_fields.keys()  # any other may be one that is refused
            made = _fitted({name: made[name] for name in made.keys() & known}) | needed
            _fit.add(case.id)
    case.body = made


def _fitted(body: dict[str, Any]) -> dict[str, Any]:
    made = {
        name: _FITTING.get(name, value) for name, value in body.items() if value is not None and name not in _LEFT_OUT
    }
    if "record" in made:
        made.pop("response_format", None)  # answers about a record have their own form
    if "response_format" in made:
        made.pop("stop", None)  # which could cut JSON
    if "messages" in made:
        *earlier, last = made["messages"]
        roles = [one["role"] for one in earlier if one["role"] in ("system", "developer", "user")]
        parts = last.get("content") if isinstance(last.get("content"), list) else []
        made["messages"] = [
            *({"role": role, "content": "a text"} for role in roles),
            {"role": "user", "content": ["What?", *parts]},
        ]
    return made


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Note the case."""
    with Path(os.environ["EDGEKIT_CASES"]).open("a") as noted:
        noted.write(f"{case.method} {case.operation.path} {response.status_code}\n")


@schemathesis.check
def what_fits_is_answered(ctx: Any, response: Any, case: Any) -> None:
    """A stream where one was asked for, without an error in it."""
    if case.id not in _fit:
        return
    assert response.status_code == 200, response.content
    kind = "text/event-stream" if case.body.get("stream") else "application/json"
    assert response.headers["content-type"][0].startswith(kind)
    assert b'"error":{' not in response.content


@schemathesis.check
def every_error_is_said_in_one_way(ctx: Any, response: Any, case: Any) -> None:
    """Of any status from 400 on, whatever was asked: JSON of four fields; a short text that quotes no code of ours."""
    if response.status_code < 400 or case.operation.path == "/health":
        return
    error = json.loads(response.content)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert 0 < len(error["message"]) < 2000
    assert not [word for word in _WORDS_OF_OURS if word in error["message"]]
