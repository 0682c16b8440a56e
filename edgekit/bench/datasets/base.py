"""What a data set is: where it comes from, and the samples that tasks make their items of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.bench.datasets.schema import DatasetSource
from edgekit.errors import UsageError
from edgekit.inputs.labels import MODALITIES, Label, in_modality, label_of

__all__ = ["Dataset", "DatasetSource", "Reader", "Sample"]

_COLOUR = 3  # axes of one picture in colour


@dataclass(frozen=True, eq=False)  # arrays have no single truth to compare by
class Sample:
    """One case of a data set: an image, a text, or both, and what is true of it.

    Attributes:
        truth: a label's name, one of `options`, or the answer as its source words it; empty where `findings` or
            `boxes` say what is true.
        group: samples of the same group (a patient, an image, a passage) are not independent.
        image: uint8 [height, width] or [height, width, 3]; of a series [slices, height, width, 3].
        question: its own text, where it has one.
        options: the answers that its question allows, where they are not the data set's labels.
        problem: why it cannot be read; None where it can.
        id: what its source calls it; no other sample of the data set has it.
        topic: the subject, category or kind of question that figures are also given by; empty where there is none.
        context: what its question is about: an abstract, a record.
        findings: what may be seen at the same time -> whether it is; None where its source is not certain.
        boxes: structure -> (top, left, bottom, right) in pixels of the image as its source has it.
        file: a record that its question is about; the content's hash is in `id`.
        evidence: parts of that record which the answer is taken from.
    """

    truth: str
    group: str
    image: NDArray[np.uint8] | None = None
    question: str = ""
    options: tuple[str, ...] = ()
    problem: str | None = None
    id: str = ""
    topic: str = ""
    context: str = ""
    findings: Mapping[str, bool | None] = field(default_factory=dict)
    boxes: Mapping[str, tuple[float, float, float, float]] = field(default_factory=dict)
    file: Path | None = None
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reader:
    """One way in which data sets are stored.

    Attributes:
        name: what a data set's file calls it.
        read: (source, at most so many samples, seed, data folder) -> the same samples for the same arguments. There is
            a data folder where the source names a file.
    """

    name: str
    read: Callable[[DatasetSource, int, int, Path | None], tuple[Sample, ...]]


@dataclass(frozen=True, eq=False)
class Dataset:
    """The samples of one task, in a fixed order.

    Attributes:
        unread: those that were chosen, too, and cannot be read: counted as failed, in no figure.
    """

    source: DatasetSource
    samples: tuple[Sample, ...]
    unread: tuple[Sample, ...] = ()

    @property
    def labels(self) -> tuple[Label, ...]:
        """What may be true of a sample: what its file lists, what its kind of image has, or what every sample allows.

        Raises:
            UsageError: the data set has no labels.
        """
        if self.source.labels:
            return self.source.own_labels
        if self.source.findings or self.source.boxes:  # several at once
            raise UsageError(f"the dataset {self.source.name} has no labels, of which one is true")
        if self.source.modality in MODALITIES:
            return in_modality(self.source.modality)
        options = {sample.options for sample in self.samples}
        if len(options) != 1 or not all(options) or any(sample.question for sample in self.samples):
            raise UsageError(f"the dataset {self.source.name} has no labels")
        return tuple(label_of(name, self.source.modality or "image") for name in options.pop())

    @property
    def images(self) -> tuple[NDArray[np.uint8], ...]:
        """Every sample's image.

        Raises:
            UsageError: a sample has none, or several.
        """
        images = tuple(sample.image for sample in self.samples if sample.image is not None)
        if len(images) != len(self.samples):
            raise UsageError(f"the dataset {self.source.name} has no images")
        if any(image.ndim > _COLOUR for image in images):
            raise UsageError(
                f"the dataset {self.source.name} has series of several pictures",
                allowed="them for tasks that ask a model in words, single pictures for others",
            )
        return images

    @property
    def sha256(self) -> str:
        """Identity of everything that its samples hold."""
        digest = hashlib.sha256()
        numbers: dict[str, int] = {}  # which samples belong together, whatever their groups are called
        for sample in self.samples:
            if sample.image is not None:
                digest.update(f"{sample.image.shape}\n".encode() + sample.image.tobytes())
            group = numbers.setdefault(sample.group, len(numbers))
            texts = (sample.id, sample.truth, sample.question, sample.options, sample.topic, sample.context)
            findings, boxes = sorted(sample.findings.items()), sorted(sample.boxes.items())
            more = (sample.evidence,) if sample.evidence else ()
            digest.update(repr((*texts, group, findings, boxes, *more)).encode())
        for sample in self.unread:
            digest.update(repr((sample.group, sample.truth, sample.problem)).encode())
        return digest.hexdigest()
