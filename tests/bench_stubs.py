"""Small models that stand behind the seams in the benchmark's tests: numpy only, exact, as damaged as asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from edgekit.bench import worker
from edgekit.bench.cells import Cell, Outcome, complete
from edgekit.bench.datasets import Dataset, Sample, source
from edgekit.bench.environment import Environment, environment
from edgekit.bench.execute import Receiver
from edgekit.errors import EdgekitError
from edgekit.inputs.labels import PHANTOM, in_modality
from edgekit.inputs.message import Message
from edgekit.runtime.base import Embeddings, Float, Generation, Model, Segment, Tokens
from edgekit.runtime.chat_model import ChatModel

VOCABULARY = 40


def dataset(n: int, size: int = 8) -> Dataset:
    """Phantoms' labels on images that carry their label in the first pixel and their number in the second."""
    labels = in_modality(PHANTOM)
    samples = []
    for i in range(n):
        image = np.zeros((size, size), np.uint8)
        image[0, :2] = i % len(labels), i
        samples.append(Sample(labels[i % len(labels)].name, str(i), image))
    return Dataset(source("phantoms"), tuple(samples))


class StubDecoder:
    """Logits that depend on everything before the position, plus noise of a given size."""

    context, vocabulary = 100_000, VOCABULARY

    def __init__(self, noise: float = 0.0, broken: bool = False) -> None:
        self.noise, self.broken, self._seen = noise, broken, b""

    def prefill(self, segments: Sequence[Segment], want: Sequence[int] | None = None) -> Iterator[Float]:
        total = sum(map(len, segments))
        wanted, position, seen = [total - 1] if want is None else list(want), 0, b""
        for segment in segments:
            for i in range(len(segment)):
                item = str(segment.ids[i]) if isinstance(segment, Tokens) else segment.content_hash
                seen = hashlib.sha256(seen + item.encode()).digest()
                if position in wanted:
                    yield self._logits(seen)
                position += 1
        self._seen = seen

    def step(self, ids: Sequence[int]) -> Float:
        self._seen = hashlib.sha256(self._seen + str(list(ids)).encode()).digest()
        return self._logits(self._seen)

    def _logits(self, seen: bytes) -> Float:
        generator = np.random.default_rng(list(seen))
        logits = generator.normal(0, 3, VOCABULARY) + self.noise * generator.normal(0, 1, VOCABULARY)
        if self.broken:
            logits[3] = np.nan
        return logits.astype(np.float32)

    def close(self) -> None:
        """Nothing to free."""


class StubFormat:
    """Texts as they stand, behind a <bos>."""

    def continued(self, text: str) -> tuple[int, ...]:
        return (2, *[ord(c) % VOCABULARY for c in text])


class StubChat(ChatModel):
    """A chat model that answers with the label in the image, or wrongly in every `wrong_every`-th image."""

    def __init__(
        self, *, noise: float = 0.0, wrong_every: int = 0, prefix: str = "The finding: ", broken: bool = False
    ) -> None:
        self.decoder, self.format, self.title = StubDecoder(noise, broken), StubFormat(), "stub"
        self.noise, self.wrong_every, self.prefix, self.closed = noise, wrong_every, prefix, False

    def tokenize(self, text: str) -> list[int]:
        return [ord(c) % 97 for c in text]

    def encode_images(self, images: Sequence[Any]) -> Float:
        generator = np.random.default_rng(0)
        clean = np.stack([np.outer(np.arange(1, 5), [*np.resize(image, 5), 1]) for image in images]).astype(np.float32)
        return clean + np.float32(self.noise) * generator.normal(0, 1, clean.shape).astype(np.float32)

    def segments(self, messages: Sequence[Message], answer: str | None = None) -> list[Segment]:
        segments: list[Segment] = [Tokens((2, 5))]
        for message in messages:
            for image in message.images:
                content = hashlib.sha256(image.tobytes()).hexdigest()
                segments.append(Embeddings(np.ones((4, 6), np.float32), content))
            segments.append(Tokens(tuple(self.tokenize(message.text))))
        last = segments.pop()
        assert isinstance(last, Tokens)
        return [*segments, Tokens((*last.ids, *self.tokenize(answer or "")))]

    def generate(self, messages: Sequence[Message], *, max_tokens: int = 256) -> Iterator[str | Generation]:
        (image,) = messages[-1].images
        labels = in_modality(PHANTOM)
        wrong = self.wrong_every and int(image[0, 1]) % self.wrong_every == 0
        label = labels[(int(image[0, 0]) + bool(wrong)) % len(labels)]
        question = messages[-1].text
        asked = next((label for label in labels if label.question == question), None)
        text = label.name if asked is None else ("yes" if label == asked else "no")
        answer = f"{self.prefix}{text}."
        yield answer
        yield Generation(answer, 10, 5, max_tokens < 5, 0.25, 0.5)

    def close(self) -> None:
        self.closed = True


class StubEmbedder(Model):
    """Label prompts and images that share their label's direction; every `wrong_every`-th image has the next one's."""

    abilities = frozenset({"embed_image", "embed_text", "classify"})

    def __init__(self, *, wrong_every: int = 0, noise: float = 0.0) -> None:
        self.wrong_every, self.noise, self.batches = wrong_every, noise, []  # type: ignore[var-annotated]

    def embed_image(self, images: Sequence[Any]) -> Float:
        rows = np.eye(8, dtype=np.float32)[[self._label(image) for image in images]]
        return rows + np.float32(self.noise)

    def embed_text(self, texts: Sequence[str]) -> Float:
        return np.stack([np.full(8, len(text), np.float32) for text in texts])

    def classify(self, images: Sequence[Any], labels: Sequence[str | Sequence[str]]) -> Float:
        self.batches.append((len(images), labels))
        return self.embed_image(images)

    def _label(self, image: Any) -> int:
        wrong = self.wrong_every and int(image[0, 1]) % self.wrong_every == 0
        return (int(image[0, 0]) + bool(wrong)) % 8


class InProcess:
    """Runs cells here and remembers them."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self.alone: list[bool] = []
        self.stopped = False

    def environment(self, device: str | None) -> Environment:
        return environment()

    def run(self, cells: Sequence[Cell], report: Receiver, *, alone: bool = False) -> None:
        for cell in cells:
            self.cells.append(cell)
            self.alone.append(alone)
            for outcome in complete(cell, self.outcomes):
                report(cell, outcome)

    def outcomes(self, cell: Cell) -> Iterator[Outcome]:
        """Those of one cell; dies where a process would."""
        if cell.model.level == "crash":
            raise EdgekitError("the worker process ended with SIGSEGV: boom")
        for result in worker.work(json.loads(json.dumps(cell.job()))):
            yield Outcome(**json.loads(json.dumps(result)))

    def stop(self) -> None:
        self.stopped = True
