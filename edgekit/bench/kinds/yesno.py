"""Yes/no questions about images, as many whose answer is yes as no."""

from __future__ import annotations

from typing import Literal

import numpy as np

from edgekit.bench.answers import AnswerTask
from edgekit.bench.datasets import Dataset
from edgekit.bench.items import Item, question
from edgekit.bench.prompts import QuestionPrompt


class YesNoTask(AnswerTask):
    """`prompt` contains {question}: the yes/no question of a label, its own or another of the same kind of image."""

    kind: Literal["yesno"]
    prompt: QuestionPrompt

    def items(self, dataset: Dataset) -> tuple[Item, ...]:
        """One a sample.

        Half ask about the sample's own label (yes) and half about another label of the same kind of image (no), so
        neither answer is the better guess.
        """
        labels, samples = dataset.labels, dataset.samples
        generator = np.random.default_rng([self.seed, 1])  # not the stream that chose or drew the images
        own = np.zeros(len(samples), bool)
        own[generator.permutation(len(own))[: len(own) // 2]] = True
        items = []
        for sample, is_own in zip(samples, own, strict=True):
            candidates = [label for label in labels if (label.name == sample.truth) == is_own]
            label = candidates[int(generator.integers(len(candidates)))]
            messages = question(self.prompt.format(question=label.question), sample.image)
            truth = "yes" if is_own else "no"
            name = f"{sample.id}: {label.name}" if sample.id else ""
            allowed, asked = ("yes", "no"), label.question
            items.append(Item(sample.group, messages, sample.image, allowed, truth, name, sample.topic, asked))
        return tuple(items)
