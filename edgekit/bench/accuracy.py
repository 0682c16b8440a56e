"""Accuracy: what a model says about every item of a dataset. The worker's half; figures are made in `records`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.bench.datasets import Dataset
from edgekit.bench.tasks import PARSERS, AnswerTask, LabelsTask
from edgekit.inputs.labels import Label
from edgekit.inputs.message import Image, Message
from edgekit.runtime.base import Generation, Model

_BATCH = 16  # images classified at once, which bounds memory at full size


@dataclass(frozen=True)
class Predictions:
    """One prediction an item, in the dataset's order.

    Attributes:
        predicted: None where an answer could not be parsed, which counts as wrong.
        answers: the free answers as they came, empty for scores.
        truncated: answers that the output budget cut off.
    """

    truth: tuple[str, ...]
    predicted: tuple[str | None, ...]
    answers: tuple[str, ...] = ()
    truncated: int = 0


def classify(model: Model, task: LabelsTask, dataset: Dataset) -> Predictions:
    """The label with the highest score for each image."""
    prompts = [label_prompts(label, task.prompts) for label in dataset.labels]
    predicted: list[str | None] = []
    for start in range(0, len(dataset.images), _BATCH):
        scores = model.classify(dataset.images[start : start + _BATCH], prompts)
        predicted += [dataset.labels[int(best)].name for best in scores.argmax(axis=1)]
    return Predictions(dataset.truth, tuple(predicted))


def answer(model: Model, task: AnswerTask, dataset: Dataset) -> Predictions:
    """Greedy answers to one question about each image, parsed."""
    questions, truth = _questions(task, dataset)
    parser = PARSERS[task.parser][1]
    names = tuple(label.name for label in dataset.labels)
    answers, truncated = [], 0
    for image, question in zip(dataset.images, questions, strict=True):
        *_, generation = model.generate([Message("user", Image(image), question)], max_tokens=task.max_tokens)
        assert isinstance(generation, Generation), "the last item of a stream is the finished answer"
        answers.append(generation.text)
        truncated += generation.truncated
    return Predictions(truth, tuple(parser(text, names) for text in answers), tuple(answers), truncated)


def label_prompts(label: Label, templates: Sequence[str]) -> tuple[str, ...]:
    """The prompts that stand for one label."""
    return tuple(t.format(name=label.name, modality=label.modality, phrase=label.phrase) for t in templates)


def _questions(task: AnswerTask, dataset: Dataset) -> tuple[list[str], tuple[str, ...]]:
    """The question about each image and the right answer.

    Of the yes/no questions, half ask about the image's own label (yes) and half about another label of the same kind
    of image (no), so neither answer is the better guess.
    """
    if task.kind == "finding":
        return [task.prompt] * len(dataset.images), dataset.truth
    generator = np.random.default_rng([task.seed, 1])  # not the stream that chose or drew the images
    own = np.zeros(len(dataset.truth), bool)
    own[generator.permutation(len(own))[: len(own) // 2]] = True
    questions = []
    for name, is_own in zip(dataset.truth, own, strict=True):
        candidates = [label for label in dataset.labels if (label.name == name) == is_own]
        label = candidates[int(generator.integers(len(candidates)))]
        questions.append(task.prompt.format(question=label.question))
    return questions, tuple("yes" if is_own else "no" for is_own in own)
