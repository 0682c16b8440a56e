"""Questions of which one of several lettered options is right, answered freely; its letter is parsed."""

from __future__ import annotations

from typing import Literal

from edgekit.artifacts.validation import Text
from edgekit.bench.answers import AnswerTask
from edgekit.bench.datasets import Dataset
from edgekit.bench.items import Item, question
from edgekit.bench.prompts import LETTERS, ChoicePrompt, OptionPrompt, choice_prompt


class ChoiceTask(AnswerTask):
    """`prompt` has {question}, {options} and, where the data set brings a text, {context}.

    Attributes:
        option: how each option is listed.
        between: what separates the options.
    """

    kind: Literal["choice"]
    prompt: ChoicePrompt
    option: OptionPrompt = "({letter}) {text}"
    between: Text = " "

    def items(self, dataset: Dataset) -> tuple[Item, ...]:
        """One a sample; the letters of its options are allowed."""
        return tuple(
            Item(
                group=sample.group,
                messages=question(choice_prompt(sample, self.prompt, self.option, self.between), sample.image),
                image=sample.image,
                answers=tuple(LETTERS[: len(sample.options)]),
                truth=LETTERS[sample.options.index(sample.truth)],
                id=sample.id,
                topic=sample.topic,
            )
            for sample in dataset.samples
        )
