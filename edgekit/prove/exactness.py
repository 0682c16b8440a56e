"""Exactness: what a format's writer and runtime make of exact weights is what transformers computes of them.

A level's rounding hides small mistakes, such as another GELU or another base of rotation. So the same writer writes
the model once with exact weights, or a piece of it that has layers of every kind, the same runtime opens it, and
transformers in single precision, holding the same weights, is compared with a bound that nothing but the order of
summation explains. It serves all levels of a format: the audit shows that they compute the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import metrics
from edgekit.artifacts.differences import refusal
from edgekit.checkpoints.sliced import write_slice
from edgekit.checkpoints.tensors import ITEM_BYTES
from edgekit.errors import ArtifactError
from edgekit.families.full_precision import hub_config
from edgekit.families.source import Source, open_source
from edgekit.formats import FORMATS
from edgekit.full_precision import processors as hf_inputs
from edgekit.full_precision import streamed
from edgekit.inputs import image as images_
from edgekit.inputs.samples import Inputs
from edgekit.machine.temporary import temporary_folder
from edgekit.progress import Progress
from edgekit.prove import exact_files
from edgekit.prove.exact_files import ExactPart
from edgekit.prove.full_precision_runs import FullPrecisionRuns
from edgekit.prove.written import WrittenPart
from edgekit.runtime.base import (
    Decoder,
    Embeddings,
    Encoder,
    Float,
    Segment,
    SupportsChunkSize,
    SupportsOutputs,
    Tokens,
)

_BEYOND = 160  # tokens that a text in one call goes beyond the window
_CHUNK = 64  # positions of a call where a prompt comes in many; an image of more takes a call of its own
_TURNS = 5  # as often the ring of a local layer comes round then
_IMAGES = 3  # of a prompt: a mistake may be of neither the first nor the last
_POSITIONS = 24  # compared of each prompt, beside its steps; more than MOST_ROWS would divide a call
_STEPS = 1, 1, 2, 3  # of a prompt's last tokens, decoded so many at a time
_BATCHES = 1, 2, 3, 4, 5, 7  # items that an encoder is given together
_BATCHES_OF_TOKENS = 1, 2, 3  # likewise where an image of 896 pixels may be one

Figures = Mapping[str, float]


def proven(written: WrittenPart, runs: FullPrecisionRuns, inputs: Inputs) -> Figures:
    """What `measured` gives for a part, once for all its levels in one format.

    Raises:
        GateError: it lies beyond the format's bounds.
    """
    key = role, file_format = written.role, written.part.format
    if key not in runs.exactness:
        try:
            runs.exactness[key] = measured(runs.source, role, file_format, inputs, runs.scratch, runs.progress)
        except ArtifactError as error:  # of files that the writer just made
            raise refusal(
                "exactness", written.where, error.message, allowed=error.allowed, remedy=error.remedy
            ) from error
    figures, bounds = runs.exactness[key], FORMATS[file_format].exactness
    for name, what, most in (("kl", "KL {:.2g} nats", bounds.kl), ("error", "relative error {:.2g}", bounds.error)):
        if name in figures and not figures[name] <= most:  # NaN must fail too
            raise refusal(
                "exactness",
                written.where,
                f"{what.format(figures[name])} to transformers, both with exact weights",
                allowed=f"at most {most:g}",
                remedy="the exported graph computes something else; nothing was published",
            )
    return figures


def disk_bytes(source: Source, role: str, file_format: str) -> int:
    """What the piece and its files take on the disk, while `measured` runs."""
    family, config = source.family, source.family.full_precision.sliced(source.checkpoint.config)
    parsed = family.parse(config)
    piece = sum(math.prod(spec.shape) * ITEM_BYTES[source.stored[spec.name].dtype] for spec in family.tensors(parsed))
    names = exact_files.roles_of(source, role, file_format)
    exact = sum(4 * math.prod(spec.shape) for name in names for spec in family.roles[name].tensors(parsed))
    return exact + (piece if config != source.checkpoint.config else 0)


def measured(
    source: Source, role: str, file_format: str, inputs: Inputs, scratch: Path | None, progress: Progress
) -> Figures:
    """How far a part in this format, with exact weights, is from transformers.

    Args:
        scratch: the folder on whose disk the piece and its files lie while they are compared.

    Returns:
        `error`, the largest relative L2 error of a position's logits or of an item's output; of a decoder also `kl`,
        the largest mean of a prompt's positions, nats.

    Raises:
        ArtifactError: the runtime refuses what the writer made, or it gives something else than transformers.
    """
    with temporary_folder("exactness", scratch) as folder:
        progress.start(f"{role}: {file_format} with exact weights", 1)
        piece, form = _piece(source, folder), FORMATS[file_format]
        if piece is not source:
            plans = (
                (one.plan(role, form.exactness.level), hub_config(one.checkpoint, one.family.full_precision))
                for one in (source, piece)
            )
            form.check_piece(*plans)
        exact = exact_files.write(piece, role, file_format, folder / "files")
        compare = _decoder if source.family.roles[role].output == "logits" else _encoder
        figures = compare(exact, inputs)
        progress.advance()
    return {name: float(f"{value:.3g}") for name, value in figures.items()}


def _piece(source: Source, folder: Path) -> Source:
    """The model, or a piece of it that has layers of every kind."""
    checkpoint = source.checkpoint
    config = source.family.full_precision.sliced(checkpoint.config)
    if config == checkpoint.config:
        return source
    shapes = {source.stored[spec.name].name: spec.shape for spec in source.family.tensors(source.family.parse(config))}
    (folder / "checkpoint").mkdir()
    write_slice(checkpoint, config, shapes, folder / "checkpoint")
    return open_source(folder / "checkpoint")


# ---------------------------------------------------------------- decoders


@dataclass(frozen=True)
class _Prompt:
    """Segments, and the positions that are compared; the last ones are decoded step by step.

    Attributes:
        chunk: positions of a call, where the decoder can divide a prompt so.
    """

    segments: tuple[Segment, ...]
    want: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]
    chunk: int

    @property
    def length(self) -> int:
        """Tokens, images and steps included."""
        return sum(map(len, self.segments)) + sum(map(len, self.steps))

    @property
    def processed(self) -> dict[str, list[int]]:
        """As Hugging Face's processor would say it; an image's ids stand for nothing."""
        ids: list[int] = []
        kinds: list[int] = []
        for segment in self.segments:
            ids += segment.ids if isinstance(segment, Tokens) else [0] * len(segment)
            kinds += [int(isinstance(segment, Embeddings))] * len(segment)
        steps = [token for step in self.steps for token in step]
        return {"input_ids": [*ids, *steps], "token_type_ids": kinds + [0] * len(steps)}


def _decoder(exact: ExactPart, inputs: Inputs) -> Figures:
    weights = exact.weights
    table = next(spec for spec in exact.source.family.tensors(exact.source.config) if spec.kind == "token_embedding")
    prompts = _prompts(exact.source, weights, table.name, inputs.text)
    with exact.decoder(max(prompt.length for prompt in prompts)) as decoder:
        actual = [np.stack(list(_logits(decoder, prompt))) for prompt in prompts]
    images = [s.array for prompt in prompts for s in prompt.segments if isinstance(s, Embeddings)]
    hidden = hf_inputs.hidden_states(
        streamed.model(weights),
        [prompt.processed for prompt in prompts],
        [prompt.want for prompt in prompts],
        np.stack(images) if images else None,
    )
    logits = np.concatenate([block for _, block in streamed.logits(weights, table.name, hidden)], axis=1)
    expected = np.split(logits, np.cumsum([len(rows) for rows in actual])[:-1])
    pairs = list(zip(expected, actual, strict=True))
    return {
        "kl": max(float(metrics.kl_divergence(right, rows).mean()) for right, rows in pairs),
        "error": max(float(metrics.relative_error(right, rows).max()) for right, rows in pairs),
    }


def _prompts(source: Source, weights: streamed.Weights, table: str, text: str) -> Sequence[_Prompt]:
    """One in one call, for only there could images see each other; and one in many, until what local layers keep of it
    has come round several times. Where the model sees, images stand in both, in the second also behind that, with a
    text between them that no library takes in one call.
    """
    window, tokens = source.settings["window"], source.settings.get("image_tokens", 0)
    turn = window - 1 + max(_CHUNK, tokens)
    ids = source.tokenizer().tokenizer.encode(text, add_special_tokens=False).ids
    ids = np.resize(ids, _TURNS * turn).tolist()  # a user's text may be short
    images = _images(source, weights, table) if source.family.role_giving("image_tokens") else []
    together = _prompt(ids[: window + _BEYOND], dict(zip((12, 24, 36), images, strict=False)), None)
    behind = dict(zip((turn // 4, 4 * turn + turn // 2, 4 * turn + 3 * turn // 4), images, strict=False))
    return [together, _prompt(ids, behind, _CHUNK)]


def _prompt(ids: Sequence[int], images: Mapping[int, Embeddings], chunk: int | None) -> _Prompt:
    """A text with images before these of its tokens, in calls of `chunk` positions, or one call for None."""
    text, last = ids[: -sum(_STEPS)], ids[-sum(_STEPS) :]
    segments: list[Segment] = []
    for start, end in pairwise((0, *images, len(text))):
        segments += [images[start]] if start in images else []
        segments.append(Tokens(tuple(text[start:end])))
    before = sum(map(len, segments))
    spread = np.unique(np.linspace(min(images, default=0), before - 1, _POSITIONS).astype(int))
    ends = list(accumulate(_STEPS))
    steps = tuple(tuple(last[end - size : end]) for size, end in zip(_STEPS, ends, strict=True))
    want = (*map(int, spread), *(before + end - 1 for end in ends))
    return _Prompt(tuple(segments), want, steps, chunk or before)


def _images(source: Source, weights: streamed.Weights, table: str) -> list[Embeddings]:
    """Normal vectors as large as scaled token embeddings: no decoder asks whose they are."""
    rng = np.random.default_rng(0)
    size, width = source.settings["image_tokens"], source.settings["hidden"]
    rows = weights.rows(table, np.arange(256))
    scale = float(np.sqrt(np.mean(rows**2))) * width**0.5
    arrays = (scale * rng.standard_normal((_IMAGES, size, width))).astype(np.float32)
    return [Embeddings(array, f"exactness {number}", bidirectional=True) for number, array in enumerate(arrays)]


def _logits(decoder: Decoder, prompt: _Prompt) -> Iterator[Float]:
    before = sum(map(len, prompt.segments))
    if isinstance(decoder, SupportsChunkSize):
        decoder.set_chunk_size(prompt.chunk)
    yield from decoder.prefill(prompt.segments, [position for position in prompt.want if position < before])
    for tokens in prompt.steps:
        yield decoder.step(tokens)


# ---------------------------------------------------------------- encoders


def _encoder(exact: ExactPart, inputs: Inputs) -> Figures:
    """The same first items in batches of several sizes: a graph may be wrong for one of them alone."""
    source, role = exact.source, exact.role
    stated = source.family.roles[role]
    sizes = _BATCHES_OF_TOKENS if stated.output == "image_tokens" else _BATCHES
    if stated.input == "pixels":
        assert source.preprocessing is not None, "an encoder of images has a preprocessing"
        batch: Any = images_.to_pixels(inputs.images[: max(sizes)], source.preprocessing)
        given = images_.normalize(batch, source.preprocessing)
    else:
        batch = given = hf_inputs.encoder_inputs(source, role, (), inputs.captions[: max(sizes)])
    name = source.family.full_precision.encoders[role].output
    with exact.encoder(batch.shape[1:]) as encoder:
        answers = [_outputs(encoder, name, batch[:size]) for size in sizes]
    expected = hf_inputs.outputs(source.family, streamed.model(exact.weights), role, given)
    return {"error": max(_worst(exact, expected, actual) for actual in answers)}


def _outputs(encoder: Encoder, name: str, batch: Any) -> Mapping[str, Float]:
    return encoder.outputs(batch) if isinstance(encoder, SupportsOutputs) else {name: encoder.encode(batch)}


def _worst(exact: ExactPart, expected: Mapping[str, Float], actual: Mapping[str, Float]) -> float:
    """The largest error of an item of the first ones."""
    count = min(map(len, actual.values()))
    wanted = {name: expected[name][:count] for name in expected if name in actual}
    shapes, found = ({name: values.shape for name, values in side.items()} for side in (wanted, actual))
    if shapes != found:
        raise ArtifactError(f"{exact.files[exact.role][0].name}: outputs {found}", allowed=f"{shapes}")
    errors = [
        metrics.relative_error(wanted[name].reshape(count, -1), values.reshape(count, -1)).max()
        for name, values in actual.items()
    ]
    return float(max(errors))
