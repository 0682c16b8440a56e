"""Whether a classifier's file scores as the artifact's parts do, whose images Pillow prepares and numpy scores.

Nothing of the file's own graph but the encoder's proven nodes is on the other side. Three comparisons: what the file
makes of images of all sizes, pixel by pixel with Pillow; its scores of images that need no resize, where the encoder
gets the very same pixels; and its scores of images as they are, where a few of the pixels are another by 1 of 255.
Scores near 0 or 1 hide much, so logits are compared, too, in units of the cosine that they are made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.artifacts.differences import refusal
from edgekit.artifacts.manifest import Preprocessing
from edgekit.classifier.card import Proof
from edgekit.classifier.graph import Head
from edgekit.classifier.labels import Labels
from edgekit.classifier.opened import Classifier, preparation
from edgekit.inputs.image import Picture, normalize, read, to_pixels
from edgekit.inputs.samples import Inputs, read_images, shown
from edgekit.metrics import log_softmax
from edgekit.progress import Progress
from edgekit.runtime.base import Float
from edgekit.runtime.embedding_model import ContrastiveModel

# What a score and a cosine may differ by, and a score where the image is resized: in floating point, and where weights
# or activations are rounded to 8 bits or fewer, since a sum in another order, or a pixel that is another by 1 of 255,
# moves their rounding. Measured at int8, in ONNX Runtime on the same pixels, by what it fuses alone: 0.005 and 0.002.
LIMITS = {False: (1e-3, 1e-4, 2e-3), True: (0.02, 0.01, 0.02)}
PIXELS = 0.005  # share of values that may be another by 1 of 255; below 0.002 on all that was tried
_VISIBLE = 10  # how many times what it may differ by a cosine must vary over the images
_STEP = 1 / 255


@dataclass(frozen=True)
class Faithful:
    """What the most faithful level of an artifact makes of labels and of a proof's images.

    Attributes:
        level: its name.
        vectors: of the labels.
        scores: of the images, [n, labels]; None where nothing is proven.
    """

    level: str
    vectors: Float
    scores: Float | None


def faithful(model: ContrastiveModel, level: str, labels: Labels, inputs: Inputs | None) -> Faithful:
    """Ask it; without inputs for the labels alone. Raises UsageError for labels that it cannot tell apart."""
    vectors = model.embed_labels(labels.prompts)
    scores = model.classify(_quiet(shown(inputs)), labels.prompts, labels.scores) if inputs else None
    return Faithful(level, vectors, scores)


def prove(
    path: Path, model: ContrastiveModel, head: Head, other: Faithful, inputs: Inputs, progress: Progress
) -> Proof:
    """Compare a file with the parts that it was compiled from.

    Args:
        model: the artifact at the file's level.
        head: what scores an image's vector.

    Raises:
        DifferencesError: pixels or scores differ, or the images could not show it.
        ArtifactError: the file is broken.
    """
    images, where = shown(inputs), path.name
    pixels = _check_pixels(path, read_images(inputs), model.preprocessing)
    prepared = list(to_pixels(_quiet(images), model.preprocessing))
    progress.start("classifier: proof", 2 * len(images))
    with Classifier(path) as classifier:
        same, logits = _asked(classifier, prepared, progress)
        scores, _ = _asked(classifier, images, progress)
    expected = _logits(model.embed_image(_quiet(prepared)), head)
    worst = float(np.abs(same - _scores(expected, head)).max())
    cosine = float(np.abs(logits - expected).max() / head.scale)
    most, most_cosine, most_resized = LIMITS[classifier.card.rounded]
    if not (worst <= most and cosine <= most_cosine):
        found = f"scores differ by up to {worst:.3g}, cosines by {cosine:.3g}, from those of its parts"
        raise refusal("wiring", where, found, allowed=f"{most:g} and {most_cosine:g}")
    spread = float(np.ptp(expected, axis=0).max() / head.scale)
    if not spread > _VISIBLE * most_cosine:
        found = f"cosines vary by {spread:.3g} over the images: the comparison shows nothing"
        raise refusal("wiring", where, found, allowed=f"more than {_VISIBLE * most_cosine:g}", remedy="other --images")
    resized = float(np.abs(scores - _scores(expected, head)).max())
    if not resized <= most_resized:
        found = f"scores of resized images differ by up to {resized:.3g}"
        raise refusal("wiring", where, found, allowed=f"{most_resized:g}")
    loss = np.abs(scores - (_scores(expected, head) if other.scores is None else other.scores))
    return Proof(
        images=len(images),
        pixels=pixels,
        worst=worst,
        worst_cosine=cosine,
        spread=spread,
        worst_resized=resized,
        against=other.level,
        loss_worst=float(loss.max()),
        loss_mean=float(loss.mean()),
        inputs=inputs.name,
    )


def _check_pixels(path: Path, images: Sequence[Any], preprocessing: Preprocessing) -> float:
    """The share of values that the file prepares otherwise."""
    prepare, differing = preparation(path), []
    steps = np.asarray(preprocessing.std, np.float32).reshape(3, 1, 1) / _STEP
    for image in _quiet(images):
        expected = normalize(to_pixels([image], preprocessing), preprocessing)
        apart = np.abs(prepare(np.asarray(image.image)) - expected) * steps
        worst, share = float(apart.max()), float((apart > 0.5).mean())
        if not (worst < 1.5 and share <= PIXELS):
            what = f"a picture of {image.image.width} x {image.image.height}: {share:.3g} of its values differ"
            found = f"{what}, by up to {worst:.3g} of 255"
            raise refusal("preprocessing", path.name, found, allowed=f"{PIXELS:g} of them, by 1")
        differing.append(share)
    return float(np.mean(differing))


def _asked(classifier: Classifier, images: Sequence[Any], progress: Progress) -> tuple[Float, Float]:
    """The file's answers, one image at a time."""
    rows = []
    for image in images:
        rows.append(classifier.ask([image]))
        progress.advance(1)
    scores, logits = zip(*rows, strict=True)
    return np.concatenate(scores), np.concatenate(logits)


def _quiet(images: Sequence[Any]) -> list[Picture]:
    """Without what there is to know of them: a proof's pictures are odd on purpose."""
    return [Picture(read(image).image) for image in images]


def _logits(vectors: Float, head: Head) -> Float:
    return np.asarray(vectors @ head.vectors.T * head.scale + head.bias, np.float32)


def _scores(logits: Float, head: Head) -> Float:
    if head.scores == "softmax":
        return np.asarray(np.exp(log_softmax(logits)), np.float32)
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)
