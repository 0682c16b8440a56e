"""Conditions of an image, several of which may be there: a yes/no question about each; F1 of each, and their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgekit import metrics
from edgekit.artifacts.validation import Listed, Name, StrictModel, Text
from edgekit.bench.answers import AskTask
from edgekit.bench.datasets import Dataset
from edgekit.bench.items import Item, group_numbers, question
from edgekit.bench.kinds.base import Figures, RunContext
from edgekit.bench.parsers import PARSERS, ParserName
from edgekit.bench.prompts import QuestionPrompt
from edgekit.bench.records import Measurement
from edgekit.errors import UsageError
from edgekit.metrics import Comparison
from edgekit.metrics.answers import Detections, macro_f1_difference
from edgekit.runtime.base import Model


class Condition(StrictModel):
    """What is looked for: its name among the data set's findings, and the question about it."""

    finding: Name
    question: Text


class ConditionsTask(AskTask):
    """`prompt` has {question}, that of each condition.

    Attributes:
        conditions: what each image is asked about.
        uncertain: what becomes of a condition that the data set does not state, or not with certainty.
    """

    kind: Literal["conditions"]
    prompt: QuestionPrompt
    conditions: Listed[Condition] = Field(min_length=1, max_length=1000)
    uncertain: Literal["exclude", "negative"] = "exclude"
    parser: ParserName = "first-yes-or-no"

    headline = "macro_f1"
    figures = ("accuracy",)

    def items(self, dataset: Dataset) -> tuple[Item, ...]:
        """One a sample and condition."""
        known = {finding for sample in dataset.samples for finding in sample.findings}
        if unknown := [one.finding for one in self.conditions if one.finding not in known]:
            where = f"task {self.name}: conditions: {unknown[0]!r} is no finding of the dataset {dataset.source.name}"
            raise UsageError(where, allowed=", ".join(sorted(known)) or "a data set with findings")
        items = []
        for sample in dataset.samples:
            for condition in self.conditions:
                is_there = sample.findings.get(condition.finding)
                if is_there is None and self.uncertain == "exclude":
                    continue
                asked = question(self.prompt.format(question=condition.question), sample.image)
                name, truth = f"{sample.id}: {condition.finding}", "yes" if is_there else "no"
                about = (condition.finding, condition.question)
                items.append(Item(sample.group, asked, sample.image, ("yes", "no"), truth, name, *about))
        return tuple(items)

    def run(self, model: Model, dataset: Dataset, context: RunContext) -> Any:
        """Greedy answers, parsed."""
        items = self.items(dataset)
        answers = self.ask(model, items)
        parse = PARSERS[self.parser].parse
        return {
            "answers": [answer.text for answer in answers],
            "truth": [item.truth for item in items],
            "predicted": [parse(a.text, item.answers, item.asked) for a, item in zip(answers, items, strict=True)],
            "conditions": [item.topic for item in items],
            "groups": group_numbers([item.group for item in items]),
            "truncated": [answer.truncated for answer in answers],
        }

    def summarize(self, results: Sequence[Any], full_precision: Any | None = None) -> Figures:
        """F1, the mean over conditions; accuracy; each condition's F1, sensitivity and specificity."""
        given = results[0]
        found, groups, n = self._detections(given), np.asarray(given["groups"]), len(given["truth"])
        right = [truth == said for truth, said in zip(given["truth"], given["predicted"], strict=True)]
        figures = {
            "macro_f1": metrics.bootstrap_interval(found.macro_f1, n, groups),
            "accuracy": metrics.share_interval(right, groups),
        }
        details = {
            "parser": str(PARSERS[self.parser]),
            **self.asked(given["truncated"], n, sum(said is None for said in given["predicted"])),
            "uncertain": self.uncertain,
            # Who always says that it is there reaches more than who never does, of whom no F1 is above 0.
            "chance": replace(found, predicted=np.ones_like(found.truth)).macro_f1(),
            **self._by_condition(found, groups),
        }
        paired = None
        if full_precision:
            difference = macro_f1_difference(found, self._detections(full_precision))
            paired = Comparison(metrics.bootstrap_interval(difference, n, groups), margin=self.margin)
        return Figures(figures, details, paired)

    @classmethod
    def explain(cls, first: Measurement, rows: Sequence[Measurement]) -> str:
        """How it was asked, and how often each condition is there."""
        counts = [f"{name} {there} of {n}" for name, (there, n) in first.details["present"].items()]
        return cls.said(first, rows, f"mean F1 over {len(counts)} conditions ({', '.join(counts)})")

    def _detections(self, given: Any) -> Detections:
        numbers = {condition.finding: i for i, condition in enumerate(self.conditions)}
        kinds = np.asarray([numbers[name] for name in given["conditions"]], np.intp)
        truth = np.asarray(given["truth"], object) == "yes"
        return Detections(kinds, truth, np.asarray(given["predicted"], object) == "yes")

    def _by_condition(self, found: Detections, groups: NDArray[np.intp]) -> dict[str, Any]:
        """How many of how many are there, F1, and the shares of those that are there and are not that were told so."""
        f1 = found.f1()
        names = ("present", *(f"{figure}_by_condition" for figure in ("f1", "sensitivity", "specificity")))
        details: dict[str, dict[str, Any]] = {name: {} for name in names}
        for number in range(len(f1)):
            name, own = self.conditions[number].finding, found.kinds == number
            there = own & found.truth
            details["present"][name] = [int(there.sum()), int(own.sum())]
            details["f1_by_condition"][name] = float(f1[number])
            for figure, asked, right in (
                ("sensitivity", there, found.predicted),
                ("specificity", own & ~found.truth, ~found.predicted),
            ):
                told = asdict(metrics.share_interval(right[asked], groups[asked])) if asked.any() else None
                details[f"{figure}_by_condition"][name] = told
        return details
