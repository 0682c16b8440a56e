"""What the tasks of models that embed have in common: vectors of images and texts, and what is true of the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from edgekit.bench.datasets import Dataset
from edgekit.errors import UsageError
from edgekit.inputs.image import content_hash
from edgekit.runtime.base import Float, Model
from edgekit.runtime.embedding_model import ContrastiveModel, unit

_BATCH = 16  # images embedded at once, which bounds memory at full size
_EMBEDDED: WeakKeyDictionary[Model, dict[str, Float]] = WeakKeyDictionary()  # by the content of images


@dataclass(frozen=True)
class Finding:
    """Something that may be true of an image.

    Attributes:
        truth: whether it is, of each sample; None where nobody knows.
    """

    name: str
    truth: tuple[bool | None, ...]


def findings(dataset: Dataset) -> tuple[Finding, ...]:
    """What the samples say may be seen at the same time; of a data set with one label a sample, each label.

    Raises:
        UsageError: the data set has neither.
    """
    samples = dataset.samples
    if not has_findings(dataset):
        return tuple(Finding(label.name, tuple(s.truth == label.name for s in samples)) for label in dataset.labels)
    names = dict.fromkeys(name for sample in samples for name in sample.findings)
    return tuple(Finding(name, tuple(sample.findings.get(name) for sample in samples)) for name in names)


def has_findings(dataset: Dataset) -> bool:
    """Whether several things may be true of one image."""
    return any(sample.findings for sample in dataset.samples)


def image_vectors(model: Model, images: Sequence[NDArray[np.uint8]]) -> Float:
    """Unit vectors [n, width]. An open model embeds an image once, however many tasks are about it."""
    known = _EMBEDDED.setdefault(model, {})
    hashes = [f"{image.shape} {content_hash(image)}" for image in images]
    new = list({h: image for h, image in zip(hashes, images, strict=True) if h not in known}.items())
    for start in range(0, len(new), _BATCH):
        batch = new[start : start + _BATCH]
        rows = model.embed_image([image for _, image in batch])
        known |= {name: row for (name, _), row in zip(batch, rows, strict=True)}
    return np.stack([known[name] for name in hashes])


def averaged_vectors(model: Model, sets: Sequence[Sequence[str]]) -> Float:
    """One unit vector a set of texts, [sets, width]: the direction of the mean of their unit vectors."""
    rows = model.embed_text([text for texts in sets for text in texts])
    starts = np.cumsum([0, *map(len, sets)])
    return unit(np.stack([rows[a:b].mean(axis=0) for a, b in pairwise(starts)]))


def contrastive(model: Model, task: str) -> ContrastiveModel:
    """A model that embeds images and texts into one space.

    Raises:
        UsageError: this one does not.
    """
    if not isinstance(model, ContrastiveModel):
        raise UsageError(
            f"{task}: {model.title or 'this model'} embeds no texts",
            remedy="export the whole model, both encoders, or leave this task out",
        )
    return model


def logits(model: ContrastiveModel, images: Float, texts: Float) -> NDArray[np.float64]:
    """The model's logit of each image and text, [images, texts], of their unit vectors."""
    scale = np.exp(np.float64(model.settings.logit_scale))
    return np.asarray(scale * (images.astype(np.float64) @ texts.T) + model.settings.logit_bias)


def log_odds(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much more probable each class is than all others together, after a softmax over the row, [n, classes].

    The probability itself would be rounded to 1 where a model is sure, and equal probabilities cannot be ordered.
    """
    odds = np.empty_like(rows)
    for column in range(rows.shape[1]):
        others = np.delete(rows, column, axis=1)
        odds[:, column] = rows[:, column] - np.logaddexp.reduce(others, axis=1)
    return odds
