"""A classifier's file, opened: images to scores, by ONNX Runtime and the file alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgekit.classifier.card import IMAGE, LOGITS, SCORES, Card, Proof, card_of
from edgekit.classifier.files import DATA
from edgekit.classifier.graph import TABLE, preparing
from edgekit.errors import ArtifactError
from edgekit.formats.onnx.graph import onnx
from edgekit.formats.onnx.header import OnnxHeader
from edgekit.formats.onnx.operators import read_checked
from edgekit.inputs.image import ImageLike
from edgekit.inputs.image import read as read_image
from edgekit.machine.cpu import cpu
from edgekit.runtime.base import Float
from edgekit.runtime.onnx.session import CPU, running, session

Pixels = NDArray[np.uint8]


def read(path: Path) -> tuple[OnnxHeader, Card, Proof | None]:
    """A classifier's header, checked, and what it says of itself.

    Raises:
        ArtifactError: the file is broken, no classifier, or holds what no classifier of edgekit's does.
    """
    header = read_checked(path, files(path), TABLE)
    card, proof = card_of(header)
    found = [(value.name, value.type, value.shape) for value in (*header.inputs, *header.outputs)]
    scores = (1, len(card.labels.labels))
    stated = [(IMAGE, "UINT8", (1, "height", "width", 3)), (SCORES, "FLOAT", scores), (LOGITS, "FLOAT", scores)]
    if found != stated:
        raise ArtifactError(f"{path}: inputs and outputs {found!r:.200}", allowed=f"{stated!r:.200}")
    return header, card, proof


def files(path: Path) -> tuple[Path, ...]:
    """The files of a classifier: the model, and its weights where they lie beside it."""
    beside = path.with_name(path.name + DATA)
    return (path, beside) if beside.exists() else (path,)


def preparation(path: Path) -> Callable[[Pixels], Float]:
    """What a file that `read` checked makes of an image before its encoder: [h, w, 3] to float32 [1, 3, size, size]."""
    import onnxruntime

    model = preparing(onnx().load(path, load_external_data=False))
    with running(path):
        prepare = onnxruntime.InferenceSession(model.SerializeToString(), providers=[CPU])
    (name,) = (value.name for value in model.graph.output)

    def prepared(image: Pixels) -> Float:
        with running(path):
            (pixels,) = prepare.run([name], {IMAGE: image[None]})
        return np.asarray(pixels, np.float32)

    return prepared


class Classifier:
    """One file.

    Attributes:
        card, proof: what it says of itself.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Open it.

        Raises:
            ArtifactError: as `read`, or ONNX Runtime refuses it.
        """
        header, self.card, self.proof = read(path)
        self._path = path
        self._session: Any = session(header, threads=threads or cpu().usable_cores)

    def ask(self, images: Sequence[ImageLike]) -> tuple[Float, Float]:
        """Scores and logits of images, [n, labels] each. Raises InputError where one cannot be read."""
        rows = [self._run(np.asarray(read_image(image).image)) for image in images]
        scores, logits = zip(*rows, strict=True)
        return np.concatenate(scores), np.concatenate(logits)

    def _run(self, pixels: Pixels) -> tuple[Float, Float]:
        with running(self._path):
            scores, logits = self._session.run([SCORES, LOGITS], {IMAGE: pixels[None]})
        return scores, logits

    def close(self) -> None:
        """Let go of what ONNX Runtime holds."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()
