"""Scores of labels: what stands between the vectors of two encoders and what people read.

Each encoder is compared by itself. Here both give transformers' own vectors, so that scores differ by nothing but how
they are made: the logit's scale and bias, the length of vectors, which text is which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.artifacts.differences import refusal
from edgekit.families.composition import Contrastive, ContrastiveSettings
from edgekit.inputs.image import ImageLike
from edgekit.inputs.samples import Inputs, shown
from edgekit.prove.encoder import encoded, expected_batch
from edgekit.prove.full_precision_runs import FullPrecisionRuns
from edgekit.prove.known import KnownEncoder
from edgekit.runtime.base import Decoder, Encoder, EncoderSpec, Float
from edgekit.runtime.compose import compose
from edgekit.runtime.opening import Opening

_IMAGES, _CAPTIONS = 3, 4
_MOST = 1e-3  # relative, of a score: sums of float32


def check_scores(opening: Opening, runs: FullPrecisionRuns, inputs: Inputs) -> None:
    """Compare scores with transformers', of a variant that matches images and texts; others have none.

    Raises:
        DifferencesError: they differ.
    """
    composition, settings, score = opening.composition, opening.settings, runs.source.family.full_precision.scores
    if not isinstance(composition, Contrastive) or score is None:
        return
    assert isinstance(settings, ContrastiveSettings), "settings are of the composition's schema"
    assert opening.tokenizer is not None, "what reads labels has a tokenizer"
    lengths = composition.text_lengths(opening.tokenizer, inputs.captions)
    whole = [i for i, length in enumerate(lengths) if 1 < length <= settings.text_length]
    rows = opening.items(composition.text, (), inputs.captions)
    picked = sorted({rows[i].tobytes(): i for i in whole}.values())[:_CAPTIONS]
    if not picked:  # a user's text may have long sentences alone
        return
    answers = {
        role: encoded(runs, role, None, expected_batch(runs, role, inputs))
        for role in (composition.image, composition.text)
    }
    images = shown(inputs)[: len(answers[composition.image])]
    known = _Known(opening, answers, images, inputs)
    model = compose(composition, settings, opening.tokenizer, opening.preprocessing(), known)
    with model:
        found = model.classify(images[:_IMAGES], [inputs.captions[i] for i in picked])
    expected = score(
        {name: float(runs.original.rows(name, 0, 1).ravel()[0]) for name in runs.source.family.full_precision.scalars},
        answers[composition.image][:_IMAGES],
        answers[composition.text][picked],
    )
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=_MOST, atol=0):
        raise refusal(
            "wiring",
            opening.level,
            f"scores of labels are {np.round(found, 6).tolist()} of transformers' own vectors",
            allowed=f"{np.round(expected, 6).tolist()}, as transformers makes them",
            remedy="the logit's scale or bias, or how scores are made of vectors, is wrong; nothing was published",
        )


@dataclass(frozen=True)
class _Known:
    """Encoders that give transformers' vectors: `edgekit.runtime.compose.Parts`."""

    opening: Opening
    answers: dict[str, Float]
    images: Sequence[ImageLike]
    inputs: Inputs

    def decoder(self, role: str) -> Decoder:
        """See `edgekit.runtime.compose.Parts.decoder`."""
        raise AssertionError("what matches images and texts has no decoder")

    def encoder(self, role: str, beside: Decoder | None = None) -> Encoder:
        """See `edgekit.runtime.compose.Parts.encoder`."""
        given = self.opening.family.roles[role].input
        assert given is not None, "encoders encode something"
        items = self.opening.items(role, self.images, self.inputs.captions)
        return KnownEncoder(EncoderSpec(given, "pooled", items.shape[1:]), items, self.answers[role])
