"""The routes that models are asked by, as OpenAI's clients and those of vLLM and llama.cpp know them.

reading.py       requests as strict schemas; what would change the answer and is not supported is refused
sampling.py, conversation.py, parts.py, tools.py, formats.py
                 what several routes have in common: how it is decoded, turns, images, functions, forms of answers
chat.py, completions.py, responses.py, embeddings.py, classify.py, tokens.py, images.py, models.py
                 a group of routes each
streaming.py     answers as they come, and clients that leave
report.py        why an answer ended, what it took, how likely it was
handed_over.py   images that are held until they are asked about
given_up.py      requests that clients repeat after their own time-out
serving.py       what every route has at hand
openapi.py       all of it as a document, with the answers of answer_shapes.py
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgekit.serve.api import chat, classify, completions, embeddings, images, models, responses, tokens
from edgekit.serve.api.serving import Serving

Respond = Callable[[Serving, Request], Awaitable[Response]]

_ROUTES: tuple[tuple[str, str, Respond], ...] = (
    ("POST", "/v1/chat/completions", chat.respond),
    ("POST", "/v1/completions", completions.respond),
    ("POST", "/v1/responses", responses.respond),
    ("POST", "/v1/embeddings", embeddings.respond),
    ("POST", "/v1/classify", classify.respond),
    ("GET", "/v1/models", models.respond_all),
    ("GET", "/v1/models/{model:path}", models.respond_one),
    ("POST", "/tokenize", tokens.tokenize),
    ("POST", "/detokenize", tokens.detokenize),
    ("POST", "/v1/images", images.hand_over),
    ("DELETE", "/v1/images/{id}", images.remove),
)


def routes(serving: Serving) -> list[Route]:
    """All of them, over what is served."""
    return [Route(path, partial(respond, serving), methods=[method]) for method, path, respond in _ROUTES]
