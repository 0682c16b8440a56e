"""Tasks whose items are answered freely by greedy decoding, the answer parsed: what their kinds have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from edgekit.artifacts.validation import Text
from edgekit.bench import predictions
from edgekit.bench.datasets import Dataset
from edgekit.bench.items import Item, group_numbers
from edgekit.bench.kinds.base import Figures, RunContext, Task
from edgekit.bench.parsers import PARSERS
from edgekit.bench.predictions import Predictions
from edgekit.bench.records import Measurement
from edgekit.runtime.base import Generation, Model


def _known(parser: str) -> str:
    if parser not in PARSERS:
        allowed = " or ".join(repr(name) for name in PARSERS)
        raise PydanticCustomError("parser", "Input should be {allowed}", {"allowed": allowed})
    return parser


class AnswerTask(Task):
    """A question an item, answered within `max_tokens`."""

    prompt: Text
    parser: Annotated[str, AfterValidator(_known)]
    max_tokens: int = Field(gt=0, lt=1 << 24)

    ability = "generate"
    about_images = True
    headline = "accuracy"

    def run(self, model: Model, dataset: Dataset, context: RunContext) -> Any:
        """Greedy answers, parsed."""
        items = self.items(dataset)
        answers = [answer(model, item, self.max_tokens) for item in items]
        parse = PARSERS[self.parser].parse
        return asdict(
            Predictions(
                truth=tuple(str(item.truth) for item in items),
                predicted=tuple(parse(a.text, item.answers) for a, item in zip(answers, items, strict=True)),
                groups=tuple(group_numbers([item.group for item in items])),
                answers=tuple(a.text for a in answers),
                truncated=sum(a.truncated for a in answers),
                topics=tuple(item.topic for item in items),
            )
        )

    def summarize(self, results: Sequence[Any], full_precision: Any | None = None) -> Figures:
        """Accuracy, and the share of answers that the budget cut off."""
        given = Predictions(**results[0])
        asked = {"parser": str(PARSERS[self.parser]), "prompt": self.prompt}
        exact = Predictions(**full_precision) if full_precision else None
        base = predictions.figures(given, exact, asked, self.margin)
        budget = {"max_tokens": self.max_tokens, "truncated_share": given.truncated / len(given.truth)}
        return replace(base, details=base.details | budget)

    @classmethod
    def explain(cls, first: Measurement, rows: Sequence[Measurement]) -> str:
        """How it was asked, and what chance gives."""
        return predictions.explanation(first, rows)


def answer(model: Model, item: Item, max_tokens: int) -> Generation:
    """The finished answer to an item's messages."""
    *_, generation = model.generate(list(item.messages), max_tokens=max_tokens)
    assert isinstance(generation, Generation), "the last item of a stream is the finished answer"
    return generation
