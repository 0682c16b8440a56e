"""What the server asks an engine, and what that answers: JSON documents, with bytes beside them.

They cross a pipe between two processes, so both are plain data. Errors cross it by their type's name, see `failure`
and `raised`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgekit import errors
from edgekit.errors import EdgekitError

# An image is {"image": 0, "range": [low, high], "auto" or null}, by its place among the job's; without a range too.
# chat        {"messages": [{"role": "user", "parts": [{"text": "..."} or an image]}], "options": {...}}: the fields
#             of GenerationOptions that are not its defaults, the constraint as {"json_schema": {...}}, {"lark": "..."},
#             {"choice": [...]}, {"regex": "..."} or {"calls": {"functions": [{"name": "...", "parameters": {...}}],
#             "required": false, "most": 1}}; and "record": 0, the place of a bundle of FHIR among the images, whose
#             digest goes before the last question. Events: `piece`s and, behind each answer's last, its `answer`.
# complete    {"prompt": "...", "options": {...}}: the text continued as it is, without a chat template. As chat.
# prepare     {"messages": [...]} whose last turn may still lack its question. `result` {"tokens": n}; 0 where the model
#             does not chat, and only looks at the images.
# score       {"messages": [...], "answers": ["...", ...]}. `result`, data float32 [answers].
# embed       {"inputs": [{"text": "..."} or an image, ...]}. `result` {"tokens": n}, data float32 [inputs, width].
# classify    {"labels": [["...", ...], ...], "scores": "sigmoid", "softmax" or null, "ranges": [a range or null of each
#             image]}, of all images; without ranges too.
#             `result`, data float32 [images, labels].
# tokenize    {"text": "..."}. `result` {"tokens": [id, ...], "pieces": ["...", ...]}.
# detokenize  {"tokens": [id, ...]}. `result` {"text": "..."}.
JobKind = Literal["chat", "complete", "prepare", "score", "embed", "classify", "tokenize", "detokenize"]

# piece       {"text": "...", "number": 0, "thinking": false, "tokens": [...]}: tokens where logprobs were asked for,
#             each {"token": id, "text": "...", "logprob": -0.1, "top": [{"token", "text", "logprob"}, ...]}, with
#             "bytes": [...] where it is a part of a character
# answer      the fields of a finished Generation; about a record, "record": what it was taken from
# result      the one answer of a job that does not stream; with data, "shape": [rows, ...]
# warning     {"text": "..."}: what the user must know, before the rest
EventKind = Literal["piece", "answer", "result", "warning"]


@dataclass(frozen=True)
class Job:
    """One thing to be done by an engine.

    Attributes:
        kind: what.
        body: what JSON can hold, as it stands above.
        images: files as they were sent, which `body` names by their place; the engine decodes them.
    """

    kind: JobKind
    body: Mapping[str, Any]
    images: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Event:
    """What an engine says while it does a job, or at its end.

    Attributes:
        kind: what it is.
        body: what JSON can hold, as it stands above.
        data: little-endian float32 numbers, row by row.
    """

    kind: EventKind
    body: Mapping[str, Any]
    data: bytes = field(default=b"", repr=False)


def failure(error: EdgekitError) -> dict[str, Any]:
    """An error as JSON, for `raised` at the pipe's other end."""
    return {
        "type": type(error).__name__,
        "message": error.message,
        "allowed": error.allowed,
        "remedy": error.remedy,
        "items": list(error.items),
        "param": error.param,
    }


def raised(document: Mapping[str, Any]) -> EdgekitError:
    """The error that `failure` wrote."""
    kind = getattr(errors, str(document["type"]), EdgekitError)
    made: EdgekitError = (kind if isinstance(kind, type) and issubclass(kind, EdgekitError) else EdgekitError)(
        document["message"], allowed=document["allowed"], remedy=document["remedy"], items=document["items"]
    )
    made.param = document["param"]
    return made
