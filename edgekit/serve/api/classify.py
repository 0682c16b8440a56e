"""POST /v1/classify: how well labels that nobody trained for fit images.

    {"model": "...", "images": ["data:image/png;base64,..."],
     "labels": {"pneumothorax": ["a pneumothorax", "collapsed lung"], "no finding": "a healthy chest"},
     "scores": "sigmoid"}

`images` is one or several, as chat names them, each of which may be an object with a `range`; `image` is the same, and
`range` beside it is of all that have none of their own. `labels` is a list of texts, or a name each with a
text or several, whose meaning is averaged. `scores` is `sigmoid`, each label by itself, or `softmax`, which add up to
one; where none is asked for, what the model was trained on. The answer has, of each image, the scores in the order of
the labels.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from edgekit.serve.api.parts import Collected
from edgekit.serve.api.reading import ParameterError, Request, read
from edgekit.serve.api.serving import Serving, told
from edgekit.serve.api.streaming import result, unless_left
from edgekit.serve.http.json_body import read_json
from edgekit.serve.jobs import Job

MOST_LABELS, MOST_TEXTS = 1000, 100


class ClassifyRequest(Request):
    """What a client asks."""

    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "activation": (),
        "candidate_labels": ([],),
        "hypothesis_template": (),
        "input": (),
        "multi_label": (),
        "score": (),
        "softmax": (),
        "text": (),
        "top_k": (),
        "use_activation": (),
    }

    image: Any = None
    images: Any = None
    range: Any = None
    labels: list[str] | dict[str, str | list[str]]
    scores: Literal["sigmoid", "softmax"] | None = None

    def prompts(self) -> dict[str, list[str]]:
        """Label -> its texts. Raises ParameterError."""
        labels: Mapping[str, str | list[str]]
        labels = {text: text for text in self.labels} if isinstance(self.labels, list) else self.labels
        if len(labels) < len(self.labels):
            raise ParameterError("labels", "one is there twice", allowed="labels that differ")
        if not 0 < len(labels) <= MOST_LABELS:
            raise ParameterError("labels", f"{len(labels)} labels", allowed=f"1 to {MOST_LABELS}")
        prompts = {label: [texts] if isinstance(texts, str) else texts for label, texts in labels.items()}
        if wrong := [len(texts) for texts in prompts.values() if not 0 < len(texts) <= MOST_TEXTS]:
            raise ParameterError("labels", f"a label of {wrong[0]} texts", allowed=f"1 to {MOST_TEXTS}")
        return prompts

    def job(self, collected: Collected) -> Job:
        """What the engine does. Raises ParameterError."""
        if self.image is not None and self.images is not None:
            raise ParameterError("image", "beside images", allowed="one of them")
        name = "image" if self.images is None else "images"
        given = self.image if self.images is None else self.images
        ranges = []
        for place, image in enumerate(given if isinstance(given, list) else [given]):
            has_own = isinstance(image, Mapping) and image.get("range") is not None
            part = collected.image(image, f"{name}.{place}", None if has_own else self.range)
            if part["image"] != place:
                raise ParameterError(f"{name}.{place}", "an image that is there twice", allowed="images that differ")
            ranges.append(part.get("range"))
        if not collected.images:
            raise ParameterError("images", "no image", allowed="one or more")
        body = {"labels": list(self.prompts().values()), "scores": self.scores, "ranges": ranges}
        return Job("classify", body, tuple(collected.images))


async def respond(serving: Serving, http: HttpRequest) -> Response:
    """The scores of a request's labels."""
    request = read(ClassifyRequest, await read_json(http))
    served = serving.model(request.model, "classify")
    collected = Collected(serving.images)
    job = request.job(collected)
    prompts = request.prompts()
    labels = list(prompts)
    if "generate" in served.abilities and any(len(texts) > 1 for texts in prompts.values()):
        said = f"several texts of a label, of which {served.id} would read the first alone"
        raise ParameterError("labels", said, allowed="one text each, or a model that embeds")

    async def whole() -> Response:
        event, warnings = await result(serving.ask(http, served, job, {}))
        numbers = struct.unpack(f"<{len(event.data) // 4}f", event.data)
        rows = [numbers[start : start + len(labels)] for start in range(0, len(numbers), len(labels))]
        data = [
            {
                "object": "classification",
                "index": place,
                "scores": [{"label": label, "score": score} for label, score in zip(labels, row, strict=True)],
            }
            for place, row in enumerate(rows)
        ]
        kind = request.scores or ("softmax" if "generate" in served.abilities else "sigmoid")
        said = told(served, [*request.notes, *collected.warnings, *warnings])
        return JSONResponse({"object": "list", "data": data, "model": served.id, "scores": kind, "warnings": said})

    return await unless_left(serving.given_up, http, whole)
