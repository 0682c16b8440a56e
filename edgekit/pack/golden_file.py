"""What `golden.json` says: the questions of a self-test, and what the packed model answered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from edgekit.artifacts.documents import read_json
from edgekit.artifacts.validation import Count, Listed, Name, StrictModel, validated
from edgekit.errors import BundleError
from edgekit.metrics import relative_error
from edgekit.runtime.base import MOST_ROWS
from edgekit.runtime.generation.options import MOST_LOGPROBS

FILE_NAME = "golden.json"
SCHEMA = 1
MARGIN = 0.5  # nats
VISIBLE = 3  # how many times what may differ is what a test must see

_Number = Annotated[float, Field(ge=-1.001, le=1.001)]
_Logprob = Annotated[float, Field(ge=-1000, le=0)]
_File = Annotated[str, Field(max_length=100, pattern=r"^[a-z0-9-]+\.png$")]


class Place(StrictModel):
    """One token of an answer, and the likeliest in its place, given those before it.

    Attributes:
        likeliest: ids, the likeliest first.
        logprobs: of these, in nats.
    """

    token: Count
    likeliest: Listed[Count] = Field(min_length=1, max_length=MOST_LOGPROBS)
    logprobs: Listed[_Logprob] = Field(min_length=1, max_length=MOST_LOGPROBS)

    @model_validator(mode="after")
    def _is_paired(self) -> Self:
        if len(self.likeliest) != len(self.logprobs):
            raise ValueError(f"{len(self.logprobs)} log probabilities of {len(self.likeliest)} tokens")
        return self

    @property
    def acceptable(self) -> tuple[int, ...]:
        """The ids that may stand there, the one that did first: those about as likely. One alone is clear."""
        pairs = zip(self.likeliest, self.logprobs, strict=True)
        near = [token for token, logprob in pairs if logprob > self.logprobs[0] - MARGIN]
        return (self.token, *(token for token in near if token != self.token))

    @property
    def is_open(self) -> bool:
        """Whether more may stand there than are written down."""
        return len(self.acceptable) >= MOST_LOGPROBS


class Answer(StrictModel):
    """A question and what was answered.

    Attributes:
        image: the name of a file beside; None for a question without one.
    """

    prompt: Name
    image: _File | None = None
    places: Listed[Place] = Field(min_length=1, max_length=MOST_ROWS)

    @property
    def tokens(self) -> tuple[int, ...]:
        """The answer."""
        return tuple(place.token for place in self.places)

    @property
    def spread(self) -> float:
        """How far log probabilities lie apart at a place, in nats: their deviation, root mean square."""
        return float(np.sqrt(np.mean([np.var(place.logprobs) for place in self.places])))


class Vector(StrictModel):
    """The unit vector of an image, by its file's name, or of a text.

    Attributes:
        values: of a model that chats, a sample of what an image is embedded as.
    """

    image: _File | None = None
    text: Name | None = None
    values: Listed[_Number] = Field(min_length=1, max_length=4096)


class Golden(StrictModel):
    """What `golden.json` says.

    Attributes:
        most_error: the relative error (L2) that a vector may have.
        most_logprob_error: what the log probabilities of an answer may differ by, in nats, root mean square.
    """

    schema_version: int = Field(default=SCHEMA, ge=SCHEMA, le=SCHEMA)
    level: Name
    most_error: float = Field(gt=0, le=1)
    most_logprob_error: float = Field(gt=0, le=1)
    answers: Listed[Answer] = Field(default=(), max_length=100)
    vectors: Listed[Vector] = Field(default=(), max_length=100)

    @property
    def unseen(self) -> tuple[str, ...]:
        """What damage could hide in: answers and vectors that are about the same whatever the model does."""
        seen = {
            "answers about images": self._tells_tokens_apart([one for one in self.answers if one.image]),
            "answers": self._tells_tokens_apart([one for one in self.answers if not one.image]),
            "vectors of images": self._tells_inputs_apart([one for one in self.vectors if one.image]),
            "vectors of texts": self._tells_inputs_apart([one for one in self.vectors if one.text]),
        }
        return tuple(name for name, sees in seen.items() if not sees)

    def _tells_tokens_apart(self, answers: Sequence[Answer]) -> bool:
        return not answers or max(one.spread for one in answers) > VISIBLE * self.most_logprob_error

    def _tells_inputs_apart(self, vectors: Sequence[Vector]) -> bool:
        if len(vectors) < 2:
            return True
        first, *others = (np.asarray(one.values) for one in vectors)
        return max(float(relative_error(first, one)[0]) for one in others) > VISIBLE * self.most_error


def read(golden: Path) -> Golden:
    """What a self-test's folder says. Raises BundleError where it is none."""
    path = golden / FILE_NAME
    return validated(Golden, read_json(path, BundleError), str(path), BundleError, remedy="get the bundle anew")
