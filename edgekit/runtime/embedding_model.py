"""A model of one space: images, or images and texts, to unit vectors, and how well they match."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.artifacts.manifest import Preprocessing
from edgekit.errors import EdgekitWarning, UsageError
from edgekit.families.composition import ContrastiveSettings, Ids
from edgekit.inputs import image as images_
from edgekit.inputs.message import read_all
from edgekit.metrics import log_softmax
from edgekit.runtime import wanted
from edgekit.runtime.base import Encoder, Float
from edgekit.runtime.labels import check_labels
from edgekit.runtime.model import Model, Scores
from edgekit.runtime.owned_parts import join
from edgekit.runtime.remembered import Remembered

_LABEL_BYTES = 16 << 20  # 3,640 labels of MedSigLIP's width
# At a time: one layer's attention over one 448 px image takes 67 MB, and what a runtime once took it keeps.
_IMAGES, _TEXTS = 4, 32


@dataclass(frozen=True)
class TextReader:
    """How texts become ids.

    Attributes:
        ids: texts -> [n, length], cut or filled up.
        lengths: texts -> how many tokens each has before it is cut.
    """

    ids: Callable[[Sequence[str]], Ids]
    lengths: Callable[[Sequence[str]], Sequence[int]]


class EmbeddingModel(Model):
    """An encoder of images into a space: images to unit vectors [n, width]."""

    abilities = frozenset({"embed_image"})

    def __init__(self, image_encoder: Encoder, preprocessing: Preprocessing, width: int) -> None:
        self.image_encoder, self.preprocessing, self.width = image_encoder, preprocessing, width
        self.ownership = join(image_encoder, None)

    def _embed_image(self, images: Sequence[Any]) -> Float:
        groups = _groups(range(len(images)), _IMAGES)
        rows = [self.image_encoder.encode(self._pixels([images[i] for i in at], at[0], len(images))) for at in groups]
        return unit(np.concatenate(rows)) if rows else self._no_vectors

    def _pixels(self, images: Sequence[Any], before: int, of: int) -> NDArray[np.uint8]:
        wanted.check()
        pictures, known = read_all(images, before, of)
        images_.say(known)
        return images_.to_pixels(pictures, self.preprocessing)

    @property
    def _no_vectors(self) -> Float:
        return np.zeros((0, self.width), np.float32)

    def _classify(self, images: Sequence[Any], labels: Sequence[Sequence[str]], scores: Scores | None) -> Float:
        raise UsageError(
            f"{self.title or 'this model'} cannot classify: it has no encoder of texts for the labels",
            allowed=", ".join(sorted(self.abilities)),
            remedy="export the whole model, both encoders",
        )

    def _free(self) -> None:
        self.image_encoder.close()


class ContrastiveModel(EmbeddingModel):
    """Two encoders into one space: images and texts to unit vectors, and their match.

    Attributes:
        label_vectors: unit vectors of the texts of labels that were asked before.
    """

    abilities = frozenset({"embed_image", "embed_text", "classify"})

    def __init__(
        self,
        image_encoder: Encoder,
        text_encoder: Encoder,
        reader: TextReader,
        preprocessing: Preprocessing,
        settings: ContrastiveSettings,
    ) -> None:
        super().__init__(image_encoder, preprocessing, settings.hidden)
        self.text_encoder, self.reader, self.settings = text_encoder, reader, settings
        self.ownership = join(image_encoder, text_encoder)
        self.label_vectors = Remembered(_LABEL_BYTES)

    def _embed_text(self, texts: Sequence[str]) -> Float:
        rows = [self.text_encoder.encode(self._ids(group)) for group in _groups(texts, _TEXTS)]
        return unit(np.concatenate(rows)) if rows else self._no_vectors

    def _ids(self, texts: Sequence[str]) -> Ids:
        wanted.check()
        for text, length in zip(texts, self.reader.lengths(texts), strict=True):
            if length > self.settings.text_length:
                told = f"a text of {length} tokens is cut to the {self.settings.text_length} that the model reads"
                warnings.warn(f"{told}: {text!r:.60}", EdgekitWarning, stacklevel=2)
        return self.reader.ids(texts)

    def _classify(self, images: Sequence[Any], labels: Sequence[Sequence[str]], scores: Scores | None) -> Float:
        """SigLIP's score of each label, a sigmoid: labels do not compete, unless they are asked to."""
        texts = self._embed_labels(labels)
        logits = self._embed_image(images) @ texts.T * np.exp(self.settings.logit_scale) + self.settings.logit_bias
        if scores == "softmax":
            return np.asarray(np.exp(log_softmax(logits)), np.float32)
        return np.asarray(1 / (1 + np.exp(-logits)), np.float32)

    def embed_labels(self, labels: Sequence[Sequence[str]]) -> Float:
        """Unit vectors [n, hidden] of labels, as `classify` has them: the texts of one are averaged.

        Raises:
            UsageError: as `classify`.
        """
        with self._using("vectors of labels"):
            return self._embed_labels(labels)

    def _embed_labels(self, labels: Sequence[Sequence[str]]) -> Float:
        ids, (nothing,) = [self._ids(label) for label in labels], self.reader.ids([""])
        read = [[row.tobytes() for row in rows] for rows in ids]
        reads = f"its first {self.settings.text_length} tokens, as the model's tokenizer has them"
        check_labels(labels, read, nothing.tobytes(), reads)
        return unit(np.stack([np.mean([self._label_vector(row) for row in rows], axis=0) for rows in ids]))

    def _label_vector(self, ids: Ids) -> Float:
        """A text's vector, which does not depend on what else is asked: each is encoded by itself."""
        wanted.check()
        compute = lambda: unit(self.text_encoder.encode(ids[None]))[0]  # noqa: E731
        return self.label_vectors.of(images_.content_hash(ids), compute)

    def _free(self) -> None:
        self.image_encoder.close()
        self.text_encoder.close()


def _groups(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def unit(rows: NDArray[Any]) -> Float:
    """Rows scaled to length one."""
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)
