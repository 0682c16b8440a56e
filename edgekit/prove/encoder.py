"""Prove an encoder: its pixels or ids, then its vectors, and all that its file documents."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit import metrics
from edgekit.artifacts.differences import DifferencesError, refusal
from edgekit.artifacts.gates import Gates, Limits, beyond
from edgekit.artifacts.levels import limits_of
from edgekit.artifacts.manifest import Parity
from edgekit.full_precision import processors as hf_inputs
from edgekit.inputs import image as images_
from edgekit.inputs.samples import IMAGES_IN_PROMPTS, Inputs, read_images, read_texts, shown
from edgekit.prove.full_precision_runs import FullPrecisionRuns, rounded
from edgekit.prove.loss import check_loss
from edgekit.prove.written import WrittenPart
from edgekit.runtime.base import Encoder, Float, SupportsOutputs
from edgekit.runtime.opening import Opening

_TOGETHER = 5, 1, 2, 3  # items that an encoder of small images or texts gets at a time, in turn
# Of all vectors together beyond 1: in right files of every level, activations of 8 bits included, below 5e-4.
_GAIN = 5e-3
_PIXEL_TOLERANCE = 1e-3  # of the normalized range -1 .. 1; one grey level is 8e-3

Outputs = Mapping[str, Float]  # by transformers' names; the first axis is that of the items


@dataclass(frozen=True)
class EncoderProof:
    """One encoder, and what Hugging Face's processor makes of its inputs.

    Attributes:
        expected_batch: of what is encoded.
    """

    written: WrittenPart
    runs: FullPrecisionRuns
    inputs: Inputs
    gates: Gates
    expected_batch: NDArray[Any]

    @property
    def output(self) -> str:
        """The output that models are composed of, by transformers' name."""
        return self.runs.source.family.full_precision.encoders[self.written.role].output

    def ask(self, opening: Opening) -> Outputs:
        """The artifact's outputs, after checking that its preprocessing is Hugging Face's.

        Others than the one that models are composed of are those of the first items.
        """
        batch = self._our_batch(opening)
        progress, vectors = self.runs.progress, []
        progress.start(f"{self.written.where}: artifact", len(batch))
        with opening.part(self.written.role) as encoder:
            sizes = (1,) if encoder.spec.output == "image_tokens" else _TOGETHER
            others = self._documented(encoder, batch[: sizes[0]])
            for items in _divided(batch, sizes):
                vectors.append(encoder.encode(items))
                progress.advance(len(items))
        return {**others, self.output: np.concatenate(vectors)}

    def encoded(self, opening: Opening, count: int) -> Float:
        """The artifact's vectors of the first items."""
        batch = self._our_batch(opening)[:count]
        with opening.part(self.written.role) as encoder:
            vectors: Float = encoder.encode(batch)
        return vectors

    def _documented(self, encoder: Encoder, batch: NDArray[Any]) -> Outputs:
        """All outputs of a file that has several, which programs of others may ask for."""
        if not isinstance(encoder, SupportsOutputs) or len(encoder.output_names) < 2:
            return {}
        return encoder.outputs(batch)

    def judge(self, actual: Outputs) -> Parity:
        """Compare them with transformers."""
        role, level = self.written.role, self.written.level
        limits = self.gates.limits(level, limits_of(level))
        expected = encoded_outputs(self.runs, role, self.written, self.expected_batch)
        self._check_names(actual, expected)
        wiring = _figures(expected[self.output], actual[self.output])
        for _ in beyond("cosine", "wiring", wiring, limits):
            errors = f"relative error {wiring['error']:.3g} (worst {wiring['worst_error']:.3g})"
            raise self._wrong(f"cosine {wiring['worst']:.6f}, {errors}", limits)
        if not abs(wiring["gain"] - 1) <= _GAIN:
            raise self._wrong(f"vectors are longer by a factor of {wiring['gain']:.4f}", limits)
        for name in actual.keys() - {self.output}:
            error = _worst_item(expected[name], actual[name])
            if not error <= limits.wiring_worst_error:
                raise self._wrong(f"output {name}: relative error {error:.3g}", limits)
        loss = _figures(encoded(self.runs, role, None, self.expected_batch), actual[self.output])
        check_loss(role, level, "cosine", loss, self.gates)
        count = len(actual[self.output])
        return Parity(metric="cosine", wiring=wiring, loss=loss, positions=count, inputs=self.inputs.name)

    def _check_names(self, actual: Outputs, expected: Outputs) -> None:
        where = self.written.where
        if len(actual) > 1 and actual.keys() != expected.keys():
            raise refusal(
                "wiring", where, f"the outputs {', '.join(sorted(actual))}", allowed=", ".join(sorted(expected))
            )
        for name, values in actual.items():
            shape = (len(values), *expected[name].shape[1:])
            if values.shape != shape or (name == self.output and len(values) != len(expected[name])):
                raise refusal("wiring", where, f"{name} of shape {values.shape}", allowed=f"{expected[name].shape}")

    def _wrong(self, measured: str, limits: Limits) -> DifferencesError:
        return refusal(
            "wiring",
            self.written.where,
            f"{measured} to transformers with the same weights",
            allowed=f"a relative error of at most {limits.wiring_error:g} (worst {limits.wiring_worst_error:g})",
            remedy="the exported graph computes something else; nothing was published",
        )

    def _our_batch(self, opening: Opening) -> NDArray[Any]:
        """The artifact's own pixels or ids, after comparing them with Hugging Face's: of all pictures and texts, also
        those that are not encoded, which go out of memory before anything is opened.
        """
        expected = _preprocessed(self.runs, self.written.role, self.inputs)
        where, texts = self.written.where, read_texts(self.inputs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", images_.PictureWarning)  # some are extreme on purpose
            batch = opening.items(self.written.role, read_images(self.inputs), texts)
        if opening.family.roles[self.written.role].input == "ids":
            _check_shape(where, batch, expected)
            wrong = np.flatnonzero((batch != expected).any(axis=1))
            if len(wrong):
                raise refusal(
                    "preprocessing", where, f"ids of {texts[wrong[0]]!r} differ from Hugging Face's tokenizer"
                )
            return batch[: len(self.expected_batch)].copy()
        _check_shape(where, pixels := images_.normalize(batch, opening.preprocessing()), expected)
        difference = float(np.abs(pixels - expected).max())
        if not difference <= _PIXEL_TOLERANCE:
            raise refusal(
                "preprocessing",
                where,
                f"pixels differ from Hugging Face's processor by up to {difference:.3f}",
                allowed=f"at most {_PIXEL_TOLERANCE}",
                remedy="size, resize filter, normalization or the order of colours is wrong; nothing was published",
            )
        return batch[: len(self.expected_batch)].copy()


def encoder_proof(written: WrittenPart, runs: FullPrecisionRuns, inputs: Inputs, gates: Gates) -> EncoderProof:
    """An encoder's proof, its inputs made ready by Hugging Face's processors."""
    return EncoderProof(written, runs, inputs, gates, expected_batch(runs, written.role, inputs))


def expected_batch(runs: FullPrecisionRuns, role: str, inputs: Inputs) -> NDArray[Any]:
    """What Hugging Face's processors make of the images or captions that are encoded.

    Returns:
        Pixels [n, 3, size, size] or ids [n, length].
    """
    stated = runs.source.family.roles[role]
    count = len(shown(inputs)) if stated.input == "pixels" else len(inputs.captions)
    # An image of 896 pixels takes a minute on either side, so of those that become tokens a few must do.
    count = IMAGES_IN_PROMPTS if stated.output == "image_tokens" else count
    return _preprocessed(runs, role, inputs)[:count].copy()


def _preprocessed(runs: FullPrecisionRuns, role: str, inputs: Inputs) -> NDArray[Any]:
    return hf_inputs.encoder_inputs(runs.source, role, read_images(inputs), read_texts(inputs))


def encoded(runs: FullPrecisionRuns, role: str, written: WrittenPart | None, batch: NDArray[Any]) -> Float:
    """transformers' vectors for a batch, with the weights of a part's files or, for None, the original ones."""
    name = runs.source.family.full_precision.encoders[role].output
    return encoded_outputs(runs, role, written, batch)[name]


def encoded_outputs(runs: FullPrecisionRuns, role: str, written: WrittenPart | None, batch: NDArray[Any]) -> Outputs:
    """All that transformers gives for a batch, as `encoded`."""
    return runs.run(role, written, lambda model: hf_inputs.outputs(runs.source.family, model, role, batch))


def _divided(batch: NDArray[Any], sizes: Sequence[int]) -> Iterator[NDArray[Any]]:
    """A batch in ones of these sizes in turn: a graph may be wrong for one size alone."""
    start = 0
    for size in itertools.cycle(sizes):
        if start >= len(batch):
            return
        yield batch[start : start + size]
        start += size


def _check_shape(where: str, batch: NDArray[Any], expected: NDArray[Any]) -> None:
    if batch.shape != expected.shape:
        raise refusal("preprocessing", where, f"a batch of shape {batch.shape}", allowed=f"{expected.shape}")


def _figures(expected: Float, actual: Float) -> dict[str, float]:
    """Of vectors: cosine (`mean`, `worst`), relative error (`error`, `worst_error`); of all together, the `gain`."""
    width = expected.shape[-1]
    wanted, given = expected.reshape(-1, width), actual.reshape(-1, width)
    cosines, errors = metrics.cosine(given, wanted), metrics.relative_error(wanted, given)
    with np.errstate(invalid="ignore"):  # of weights that are all zero; no limit holds for what is no number
        gain = np.vdot(wanted, given) / np.vdot(wanted, wanted)
    return {
        "mean": rounded(cosines.mean()),
        "worst": rounded(cosines.min()),
        "error": rounded(errors.mean()),
        "worst_error": rounded(errors.max()),
        "gain": rounded(gain),
    }


def _worst_item(expected: Float, actual: Float) -> float:
    """The largest relative error of an item, all its vectors together."""
    count = len(actual)
    return float(metrics.relative_error(expected[:count].reshape(count, -1), actual.reshape(count, -1)).max())
