"""Fidelity: how far a model's logits or embeddings are from the full-precision reference's on the same inputs.

Accuracy moves in steps of one answer; these figures see damage long before an answer changes. Both sides build prompt
and image embeddings themselves, so a level's vision loss counts as well. The reference row runs first: it answers the
questions and leaves its answers, logits and embeddings in the work folder under a hash of everything that they depend
on, and then is measured like any other row, which gives the noise floor. Logits are streamed row by row: at Gemma's
vocabulary a row is 1 MB, and two thousand of them are never held.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit import metrics
from edgekit.bench.accuracy import label_prompts
from edgekit.bench.datasets import Dataset
from edgekit.bench.tasks import DecoderFidelityTask, EncoderFidelityTask
from edgekit.errors import ArtifactError, UsageError
from edgekit.inputs.message import Image, Message
from edgekit.inputs.passage import passage
from edgekit.runtime.base import Embeddings, Generation, Model, Segment, Tokens
from edgekit.runtime.compose import ChatModel

_TEXT_CLUSTER = 64  # positions of running text that count as one cluster: neighbours are not independent
_BATCH = 8


@dataclass(frozen=True)
class Document:
    """One prompt with a forced answer, and the positions in it that are compared."""

    segments: list[Segment]
    want: range
    after_image: bool

    @property
    def sha256(self) -> str:
        """Identity of its token ids and positions; images count by their place, since each side encodes them itself."""
        ids = [list(s.ids) if isinstance(s, Tokens) else len(s) for s in self.segments]
        return hashlib.sha256(json.dumps([ids, list(self.want)]).encode()).hexdigest()


@dataclass(frozen=True)
class LogitDistance:
    """One entry a position, in the documents' order.

    Attributes:
        kl: KL(reference || candidate) in nats, inf where a logit is not finite.
        agrees: whether the top token is the same.
        after_image: whether the position stands after an image.
        cluster: positions with equal numbers belong together and are resampled together.
        clear_changes: positions whose top token changed though the reference's two best logits differ by the margin.
    """

    kl: tuple[float, ...]
    agrees: tuple[bool, ...]
    after_image: tuple[bool, ...]
    cluster: tuple[int, ...]
    clear_changes: int


def decoder(model: Model, task: DecoderFidelityTask, dataset: Dataset, work: Path, key: str) -> LogitDistance:
    """Compare logits with the reference's under `key`; the reference itself, running first, leaves them there."""
    if not isinstance(model, ChatModel):
        raise UsageError(f"{task.name}: {model.title or 'this model'} has no decoder")
    index, logits = work / f"{key}.json", work / f"{key}.f32"
    if not index.is_file():
        raise UsageError(f"{task.name}: the reference left no logits: see its row")
    stored = json.loads(index.read_text(encoding="utf-8"))
    reference: NDArray[np.float32] = np.memmap(logits, np.float32, "r", shape=tuple(stored["shape"]))
    kl: list[float] = []
    agrees: list[bool] = []
    after_image: list[bool] = []
    cluster: list[int] = []
    changes = 0
    for number, document in enumerate(_documents(model, task, dataset, stored["answers"])):
        if document.sha256 != stored["documents"][number]:
            raise ArtifactError(f"{task.name}: document {number}: the model builds another prompt than its reference")
        for i, row in enumerate(model.decoder.prefill(document.segments, document.want)):
            expected = reference[len(kl)]
            kl.append(float(metrics.kl_divergence(expected, row)[0]))
            agrees.append(bool(metrics.top1_agreement(expected, row)[0]))
            changes += metrics.clear_top1_changes(expected, row, task.clear_margin)
            after_image.append(document.after_image)
            cluster.append(number if document.after_image else number + i // _TEXT_CLUSTER)
    return LogitDistance(tuple(kl), tuple(agrees), tuple(after_image), tuple(cluster), changes)


def record_decoder(model: Model, task: DecoderFidelityTask, dataset: Dataset, work: Path, key: str) -> None:
    """The reference's half: answer the questions, force the answers, keep the logits. Nothing where they are kept."""
    if not isinstance(model, ChatModel):
        raise UsageError(f"{task.name}: {model.title or 'this model'} has no decoder")
    index, logits = work / f"{key}.json", work / f"{key}.f32"
    if index.is_file():
        return
    work.mkdir(parents=True, exist_ok=True)
    images = dataset.images if model.sees else []
    answers, hashes, positions = [_answer(model, task, image) for image in images], [], 0
    with logits.open("wb") as stream:
        for document in _documents(model, task, dataset, answers):
            hashes.append(document.sha256)
            for row in model.decoder.prefill(document.segments, document.want):
                stream.write(np.ascontiguousarray(row, np.float32).tobytes())
                positions += 1
    stored = {"answers": answers, "documents": hashes, "shape": [positions, model.decoder.vocabulary]}
    _write_last(index, json.dumps(stored))


def encoder(model: Model, task: EncoderFidelityTask, dataset: Dataset, work: Path, key: str) -> dict[str, Any]:
    """Cosine with the reference's embeddings under `key`: `image` [n] or [n, tokens], and `text` [n] where there is."""
    path = work / f"{key}.npz"
    if not path.is_file():
        raise UsageError(f"{task.name}: the reference left no embeddings: see its row")
    found = {}
    with np.load(path) as reference:
        for name, vectors in _embeddings(model, task, dataset):
            expected, width = reference[name], vectors.shape[-1]
            if vectors.shape != expected.shape:
                raise ArtifactError(f"{task.name}: {name} embeddings {vectors.shape}", allowed=str(expected.shape))
            cosines = metrics.cosine(expected.reshape(-1, width), vectors.reshape(-1, width))
            found[name] = cosines.reshape(expected.shape[:-1]).tolist()
    return found


def record_encoder(model: Model, task: EncoderFidelityTask, dataset: Dataset, work: Path, key: str) -> None:
    """The reference's half: keep its embeddings. Nothing where they are kept."""
    path = work / f"{key}.npz"
    if path.is_file():
        return
    work.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    arrays: dict[str, Any] = dict(_embeddings(model, task, dataset))
    np.savez(partial, **arrays)
    partial.replace(path)


def _documents(
    model: ChatModel, task: DecoderFidelityTask, dataset: Dataset, answers: Sequence[str]
) -> Iterator[Document]:
    """Every image with its forced answer, then the long text as an answer."""
    for image, text in zip(dataset.images if model.sees else [], answers, strict=True):
        segments = model.segments([Message("user", Image(image), task.prompt)], answer=text)
        ends = [i for i, segment in enumerate(segments) if isinstance(segment, Embeddings)]
        start = sum(len(segment) for segment in segments[: ends[-1] + 1])
        yield Document(segments, range(start, sum(map(len, segments))), after_image=True)
    text = passage()
    segments = model.segments([Message("user", task.text_prompt)], answer=text)
    total, length = sum(map(len, segments)), len(model.tokenize(text))
    count = min(task.text_positions, length)
    last = segments[-1]
    assert isinstance(last, Tokens), "a forced answer is text"
    end = total - length + count  # nothing after the last compared position is needed
    segments = [*segments[:-1], Tokens(last.ids[: len(last.ids) - (total - end)])]
    yield Document(segments, range(end - count, end), after_image=False)


def _answer(model: Model, task: DecoderFidelityTask, image: NDArray[np.uint8]) -> str:
    *_, generation = model.generate([Message("user", Image(image), task.prompt)], max_tokens=task.max_tokens)
    assert isinstance(generation, Generation), "the last item of a stream is the finished answer"
    return generation.text


def _embeddings(model: Model, task: EncoderFidelityTask, dataset: Dataset) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """What the model's encoders give: `image` [n, hidden] or [n, tokens, hidden], and `text` [n, hidden]."""
    embed: Any = model.encode_images if isinstance(model, ChatModel) else model.embed_image
    batches = [dataset.images[i : i + _BATCH] for i in range(0, len(dataset.images), _BATCH)]
    yield "image", np.concatenate([embed(batch) for batch in batches])
    if "embed_text" in model.abilities:
        texts = [prompt for label in dataset.labels for prompt in label_prompts(label, task.prompts)]
        yield "text", model.embed_text(texts)


def _write_last(path: Path, text: str) -> None:
    """The file whose presence says that the rest is complete."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
