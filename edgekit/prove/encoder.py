"""Prove an encoder: its pixels or ids, then its vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit import metrics
from edgekit.artifacts.gates import Gates
from edgekit.artifacts.manifest import Parity
from edgekit.errors import GateError
from edgekit.full_precision import processors as hf_inputs
from edgekit.inputs import image as images_
from edgekit.inputs.samples import IMAGES_IN_PROMPTS, Inputs
from edgekit.prove.full_precision_runs import FullPrecisionRuns, rounded
from edgekit.prove.written import WrittenPart
from edgekit.runtime.base import Float
from edgekit.runtime.opening import Opening

_TOGETHER = 4  # items that an encoder of small images or texts gets at a time
_PIXEL_TOLERANCE = 1e-3  # of the normalized range -1 .. 1; one grey level is 8e-3


@dataclass(frozen=True)
class EncoderProof:
    """One encoder, and what Hugging Face's processor makes of its inputs."""

    written: WrittenPart
    runs: FullPrecisionRuns
    inputs: Inputs
    gates: Gates
    expected_batch: NDArray[Any]

    def ask(self, opening: Opening) -> Float:
        """The artifact's output, after checking that its preprocessing is Hugging Face's."""
        batch = self._our_batch(opening)
        progress, outputs = self.runs.progress, []
        progress.start(f"{self.written.where}: artifact", len(batch))
        with opening.part(self.written.role) as encoder:
            step = 1 if encoder.spec.output == "image_tokens" else _TOGETHER
            for start in range(0, len(batch), step):
                outputs.append(encoder.encode(batch[start : start + step]))
                progress.advance(len(batch[start : start + step]))
        return np.concatenate(outputs)

    def judge(self, actual: Float) -> Parity:
        """Compare it with transformers."""
        role, level, gates = self.written.role, self.written.level, self.gates
        where = self.written.where
        expected = encoded(self.runs, role, self.written, self.expected_batch)
        if actual.shape != expected.shape:
            raise GateError(f"{where}: wiring: an output of shape {actual.shape}", allowed=f"{expected.shape}")
        wiring = _cosines(actual, expected)
        least = gates.encoder_cosine_at.get(level, gates.encoder_cosine)
        if not wiring["worst"] >= least:  # NaN must fail too
            raise GateError(
                f"{where}: wiring: cosine {wiring['worst']:.6f} to transformers with the same weights",
                allowed=f"at least {least}",
                remedy="the exported graph computes something else; nothing was published",
            )
        loss = _cosines(actual, encoded(self.runs, role, None, self.expected_batch))
        limit = gates.loss_cosine_at.get(level)
        if limit is not None and not loss["mean"] >= limit:
            raise GateError(
                f"{where}: loss: mean cosine {loss['mean']:.6f}", allowed=f"at least {limit}, by the recipe"
            )
        return Parity(metric="cosine", wiring=wiring, loss=loss, positions=len(actual), inputs=self.inputs.name)

    def _our_batch(self, opening: Opening) -> NDArray[Any]:
        """The artifact's own pixels or ids, after comparing them with Hugging Face's."""
        where, captions = f"{self.written.where}: preprocessing", self.inputs.captions
        batch = opening.items(self.written.role, self.inputs.images[: len(self.expected_batch)], captions)
        if opening.family.roles[self.written.role].input == "ids":
            wrong = np.flatnonzero((batch != self.expected_batch).any(axis=1))
            if len(wrong):
                raise GateError(f"{where}: ids of {captions[wrong[0]]!r} differ from Hugging Face's tokenizer")
            return batch
        difference = float(np.abs(images_.normalize(batch, opening.preprocessing()) - self.expected_batch).max())
        if not difference <= _PIXEL_TOLERANCE:
            raise GateError(
                f"{where}: pixels differ from Hugging Face's processor by up to {difference:.3f}",
                allowed=f"at most {_PIXEL_TOLERANCE}",
                remedy="size, resize filter or normalization is wrong; nothing was published",
            )
        return batch


def encoder_proof(written: WrittenPart, runs: FullPrecisionRuns, inputs: Inputs, gates: Gates) -> EncoderProof:
    """An encoder's proof, its inputs made ready by Hugging Face's processors."""
    return EncoderProof(written, runs, inputs, gates, expected_batch(runs, written.role, inputs))


def expected_batch(runs: FullPrecisionRuns, role: str, inputs: Inputs) -> NDArray[Any]:
    """What Hugging Face's processors make of the images or captions: pixels [n, 3, size, size] or ids [n, length]."""
    # An image of 896 pixels takes a minute on either side.
    count = IMAGES_IN_PROMPTS if runs.source.family.roles[role].output == "image_tokens" else len(inputs.images)
    return hf_inputs.encoder_inputs(runs.source, role, inputs.images[:count], inputs.captions)


def encoded(runs: FullPrecisionRuns, role: str, written: WrittenPart | None, batch: NDArray[Any]) -> Float:
    """transformers' output for a batch, with the weights of a part's files or, for None, the original ones."""
    return runs.run(role, written, lambda model: hf_inputs.encode(runs.source.family, model, role, batch))


def _cosines(actual: Float, expected: Float) -> dict[str, float]:
    width = expected.shape[-1]
    values = metrics.cosine(actual.reshape(-1, width), expected.reshape(-1, width))
    return {"mean": rounded(values.mean()), "worst": rounded(values.min())}
