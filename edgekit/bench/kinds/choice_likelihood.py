"""Questions of which one of several options is right, answered by the option that the model finds likeliest.

Nothing is generated and nothing parsed, so models that were never taught to answer can be asked, too. A question is
decoded once for all of its options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit import metrics
from edgekit.artifacts.validation import Text
from edgekit.bench import predictions
from edgekit.bench.datasets import Dataset
from edgekit.bench.items import Item, group_numbers, question
from edgekit.bench.kinds.base import Figures, RunContext, Task
from edgekit.bench.predictions import Predictions
from edgekit.bench.prompts import LETTERS, ChoicePrompt, OptionPrompt, choice_prompt
from edgekit.bench.records import Measurement
from edgekit.runtime.base import Model


class ChoiceLikelihoodTask(Task):
    """`prompt` has {question} and, where the data set has them, {options} and {context}.

    Attributes:
        form: `chat` asks in the format of a conversation, `text` has the prompt continued as it is.
        scored: whether an option's letter is scored, or its text.
        before: what stands before each scored option: a blank, where a text goes on.
        option: how each option is listed in the prompt.
        between: what separates the options there.
    """

    kind: Literal["choice-likelihood"]
    prompt: ChoicePrompt
    form: Literal["chat", "text"] = "chat"
    scored: Literal["letters", "texts"] = "letters"
    before: Text = ""
    option: OptionPrompt = "({letter}) {text}"
    between: Text = " "

    ability = "generate"  # who gives logits can do both
    about_images = True
    headline = "accuracy"
    figures = ("balanced_accuracy", "log_likelihood", "right_share")

    def items(self, dataset: Dataset) -> tuple[Item, ...]:
        """One a sample; its letters or the options' texts are allowed."""
        items = []
        for sample in dataset.samples:
            asked = question(choice_prompt(sample, self.prompt, self.option, self.between), sample.image)
            names = tuple(LETTERS[: len(sample.options)]) if self.scored == "letters" else sample.options
            truth = names[sample.options.index(sample.truth)]
            items.append(Item(sample.group, asked, sample.image, names, truth, sample.id, sample.topic))
        return tuple(items)

    def run(self, model: Model, dataset: Dataset, context: RunContext) -> Any:
        """The log-likelihood of every option, in nats, and what follows from them."""
        items = self.items(dataset)
        scores = [self._scores(model, item) for item in items]
        lengths = [[len(f"{self.before}{name}".encode()) for name in item.answers] for item in items]
        predicted = [predictions.likeliest(item.answers, row) for item, row in zip(items, scores, strict=True)]
        by_byte = [
            predictions.likeliest(item.answers, np.divide(row, length))
            for item, row, length in zip(items, scores, lengths, strict=True)
        ]
        return {
            "predictions": asdict(
                Predictions(
                    truth=tuple(str(item.truth) for item in items),
                    predicted=tuple(predicted),
                    groups=tuple(group_numbers([item.group for item in items])),
                    topics=tuple(item.topic for item in items),
                )
            ),
            "by_byte": by_byte,
            "log_likelihoods": scores,
            "right": [item.answers.index(str(item.truth)) for item in items],
        }

    def summarize(self, results: Sequence[Any], full_precision: Any | None = None) -> Figures:
        """Accuracy, by texts also per byte; the right option's log-likelihood, and its share among the options."""
        given = results[0]
        paired = Predictions(**full_precision["predictions"]) if full_precision else None
        asked = {
            "prompt": self.prompt,
            "parser": f"highest-likelihood: the option of the highest log-likelihood, of {self.scored}, as {self.form}",
            "truncated_share": 0.0,
            "nonfinite": given["predictions"]["predicted"].count(None),
        }
        chosen = Predictions(**given["predictions"])
        base = predictions.figures(chosen, paired, asked, self.margin)
        groups = np.asarray(chosen.groups)
        rows = [np.asarray(row, np.float64) for row in given["log_likelihoods"]]
        right = [float(row[i]) for row, i in zip(rows, given["right"], strict=True)]
        shares = [_share(row, i) for row, i in zip(rows, given["right"], strict=True)]
        figures = {
            **base.metrics,
            "log_likelihood": metrics.mean_interval(right, groups, most=0),
            "right_share": metrics.share_interval(shares, groups),
        }
        if self.scored == "texts":
            hits = [truth == name for truth, name in zip(chosen.truth, given["by_byte"], strict=True)]
            figures["accuracy_by_byte"] = metrics.share_interval(hits, groups)
        return replace(base, metrics=figures)

    @classmethod
    def explain(cls, first: Measurement, rows: Sequence[Measurement]) -> str:
        """How it was asked, and what chance gives."""
        return predictions.explanation(first, rows)

    def _scores(self, model: Model, item: Item) -> list[float]:
        options = [f"{self.before}{name}" for name in item.answers]
        if self.form == "text":
            return [float(score) for score in model.score_text(item.messages[0].text, options)]
        return [float(score) for score in model.score(list(item.messages), options)]


def _share(scores: NDArray[np.float64], option: int) -> float:
    """An option's share of the likelihood of all; 0 where one of them is not finite."""
    return float(np.exp(metrics.log_softmax(scores)[option])) if np.isfinite(scores).all() else 0.0
