"""Questions about images, answered in words: the words that an answer has in common with the right one.

Open and closed questions are one task, as published scores are: the mean F1 of words is over all of them. Those that
are answered by yes or no have an accuracy beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from edgekit import metrics
from edgekit.bench.answers import AskTask
from edgekit.bench.datasets import Dataset
from edgekit.bench.items import Item, group_numbers, question
from edgekit.bench.kinds.base import Figures, RunContext
from edgekit.bench.parsers import PARSERS, ParserName, final_text
from edgekit.bench.predictions import Scores, score_figures
from edgekit.bench.prompts import QuestionPrompt
from edgekit.bench.records import Measurement
from edgekit.metrics.answers import word_overlap
from edgekit.runtime.base import Model

_CLOSED = {"yes", "no"}


class VqaTask(AskTask):
    """`prompt` has {question}, the sample's own; `parser` reads the answers to those that allow yes and no alone."""

    kind: Literal["vqa"]
    prompt: QuestionPrompt
    parser: ParserName = "first-yes-or-no"

    headline = "tokenized_f1"
    figures = ("closed_accuracy", "open_f1", "open_recall")

    def items(self, dataset: Dataset) -> tuple[Item, ...]:
        """One a sample."""
        return tuple(
            Item(
                group=sample.group,
                messages=question(self.prompt.format(question=sample.question), sample.image),
                image=sample.image,
                answers=("yes", "no") if {option.lower() for option in sample.options} == _CLOSED else (),
                truth=sample.truth,
                id=sample.id,
                topic=sample.topic,
                asked=sample.question,
            )
            for sample in dataset.samples
        )

    def run(self, model: Model, dataset: Dataset, context: RunContext) -> Any:
        """Greedy answers, and those to closed questions parsed."""
        items = self.items(dataset)
        answers = self.ask(model, items)
        parse = PARSERS[self.parser].parse
        pairs = list(zip(answers, items, strict=True))
        return {
            "answers": [answer.text for answer in answers],
            "truth": [str(item.truth) for item in items],
            "closed": [bool(item.answers) for item in items],
            "predicted": [parse(a.text, item.answers, item.asked) if item.answers else None for a, item in pairs],
            "groups": group_numbers([item.group for item in items]),
            "topics": [item.topic for item in items],
            "truncated": [answer.truncated for answer in answers],
        }

    def summarize(self, results: Sequence[Any], full_precision: Any | None = None) -> Figures:
        """F1 of words over all questions; accuracy of the closed ones; F1 and recall of the open ones."""
        given = results[0]
        f1, recall = _scores(given)
        groups, closed = np.asarray(given["groups"]), np.asarray(given["closed"], bool)
        exact = _scores(full_precision)[0] if full_precision else None
        scored = score_figures("tokenized_f1", Scores(f1, given["groups"], given["topics"]), exact, self.margin)
        figures = dict(scored.metrics)
        if closed.any():
            figures["closed_accuracy"] = metrics.share_interval(_right(given)[closed], groups[closed])
        if not closed.all():
            figures["open_f1"] = metrics.share_interval(f1[~closed], groups[~closed])
            figures["open_recall"] = metrics.share_interval(recall[~closed], groups[~closed])
        unparsed = sum(
            predicted is None if is_closed else not final_text(said)
            for said, predicted, is_closed in zip(given["answers"], given["predicted"], given["closed"], strict=True)
        )
        words = "words lower-cased, without punctuation and articles"
        details = {
            "parser": f"{words}; of closed questions {PARSERS[self.parser]}",
            **self.asked(given["truncated"], len(f1), unparsed),
            "closed": int(closed.sum()),
            **scored.details,
        }
        return Figures(figures, details, scored.paired)

    @classmethod
    def explain(cls, first: Measurement, rows: Sequence[Measurement]) -> str:
        """How it was asked, and how many questions are closed."""
        closed = f"{first.details['closed']} answered by yes or no"
        return cls.said(first, rows, f"mean F1 of words over all questions; {closed}")


def _scores(given: Any) -> tuple[Any, Any]:
    """F1 and recall of each answer's words, [n]."""
    pairs = zip(given["answers"], given["truth"], strict=True)
    overlaps = [word_overlap(final_text(answer), truth) for answer, truth in pairs]
    return np.asarray([one.f1 for one in overlaps]), np.asarray([one.recall for one in overlaps])


def _right(given: Any) -> Any:
    """Whether the parsed answer is the right one, 0 or 1, [n]."""
    pairs = zip(given["predicted"], given["truth"], strict=True)
    return np.asarray([predicted == truth.strip().lower() for predicted, truth in pairs], np.float64)
