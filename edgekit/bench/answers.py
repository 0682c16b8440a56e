"""Tasks whose items are answered freely by greedy decoding: what their kinds have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pydantic import Field

from edgekit.artifacts.validation import Text
from edgekit.bench import predictions
from edgekit.bench.datasets import Dataset
from edgekit.bench.items import Item, group_numbers
from edgekit.bench.kinds.base import Figures, RunContext, Task
from edgekit.bench.parsers import PARSERS, ParserName
from edgekit.bench.predictions import Predictions
from edgekit.bench.records import Measurement
from edgekit.runtime.base import Generation, Model
from edgekit.runtime.generation.options import GenerationOptions


class AskTask(Task):
    """A question an item, answered within `max_tokens`, thoughts included.

    Attributes:
        thinking: whether the model is told that it may think first.
    """

    prompt: Text
    max_tokens: int = Field(gt=0, lt=1 << 24)
    thinking: bool = False

    ability = "generate"
    about_images = True

    def ask(self, model: Model, items: Sequence[Item]) -> list[Generation]:
        """The finished answer to each item's messages, in their order."""
        return [answer(model, item, self.max_tokens, thinking=self.thinking) for item in items]

    def asked(self, truncated: Sequence[bool] | int, n: int, unparsed: int) -> dict[str, Any]:
        """What every row's details say: how it was asked, and the shares of answers cut off and not understood.

        Args:
            truncated: answers that the budget cut off, each or their number.
            unparsed: of n answers, how many say nothing that the parser knows.
        """
        cut = truncated if isinstance(truncated, int) else sum(truncated)
        thinking = {"thinking": True} if self.thinking else {}
        shares = {"truncated_share": cut / n, "unparsed_share": unparsed / n}
        return {"prompt": self.prompt, "max_tokens": self.max_tokens, **thinking, **shares}

    @staticmethod
    def said(first: Measurement, rows: Sequence[Measurement], what: str) -> str:
        """The report's line: the task, how it was asked, how much came back, and what its figures are means of."""
        details = first.details
        shares = ("truncated_share", "unparsed_share")
        cut, unread = (100 * max(row.details.get(share, 0) for row in rows) for share in shares)
        asked = f"prompt {details['prompt']!r}; parser {details['parser']}; at most {details['max_tokens']} tokens"
        lost = f"at most {cut:.1f} % of a row's answers cut off and {unread:.1f} % not understood"
        return f"{first.task}: {first.title}; n = {first.counted}; {asked}, {lost}; {what}."


class AnswerTask(AskTask):
    """Answers of which one of several is right: each is parsed."""

    parser: ParserName

    headline = "accuracy"
    figures = ("balanced_accuracy",)

    def run(self, model: Model, dataset: Dataset, context: RunContext) -> Any:
        """Greedy answers, parsed."""
        items = self.items(dataset)
        answers = self.ask(model, items)
        parse = PARSERS[self.parser].parse
        return asdict(
            Predictions(
                truth=tuple(str(item.truth) for item in items),
                predicted=tuple(parse(a.text, i.answers, i.asked) for a, i in zip(answers, items, strict=True)),
                groups=tuple(group_numbers([item.group for item in items])),
                answers=tuple(a.text for a in answers),
                truncated=sum(a.truncated for a in answers),
                topics=tuple(item.topic for item in items),
            )
        )

    def summarize(self, results: Sequence[Any], full_precision: Any | None = None) -> Figures:
        """Accuracy, and the share of answers that the budget cut off."""
        given = Predictions(**results[0])
        unparsed = sum(predicted is None for predicted in given.predicted)
        asked = self.asked(given.truncated, len(given.truth), unparsed)
        parser = {"parser": str(PARSERS[self.parser])}
        exact = Predictions(**full_precision) if full_precision else None
        return predictions.figures(given, exact, parser | asked, self.margin)

    @classmethod
    def explain(cls, first: Measurement, rows: Sequence[Measurement]) -> str:
        """How it was asked, and what chance gives."""
        base = first.details["majority_baseline"]
        always = f"always {base['label']!r} gives {100 * base['accuracy']:.1f} %"
        return cls.said(first, rows, f"{always}, balanced {100 * base['balanced']:.1f} %")


def answer(model: Model, item: Item, max_tokens: int, *, thinking: bool = False) -> Generation:
    """The finished answer to an item's messages."""
    if thinking:
        *_, generation = model.generate(list(item.messages), GenerationOptions(max_tokens=max_tokens, thinking=True))
    else:
        *_, generation = model.generate(list(item.messages), max_tokens=max_tokens)
    assert isinstance(generation, Generation), "the last item of a stream is the finished answer"
    return generation
