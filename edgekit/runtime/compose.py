"""Models from parts: any encoder and any decoder make one chat model, two encoders one embedding model."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgekit.artifacts.manifest import Preprocessing
from edgekit.errors import ArtifactError, EdgekitWarning, InputError, UsageError
from edgekit.families.composition import (
    Chat,
    ChatFormat,
    ChatSettings,
    Composition,
    ContrastiveSettings,
    Embedding,
    EmbeddingSettings,
    Ids,
    Settings,
)
from edgekit.inputs import image as images_
from edgekit.inputs.message import Image, Message, read_all, with_pictures
from edgekit.metrics import log_softmax
from edgekit.runtime.base import Decoder, Embeddings, Encoder, Float, Segment, Tokens
from edgekit.runtime.labels import check_labels
from edgekit.runtime.model import Generation, Model, Stop
from edgekit.runtime.owned_parts import join
from edgekit.runtime.remembered import Remembered
from edgekit.runtime.repetition import Repetition

_CACHED_IMAGES = 16
_CACHED_LABELS = 4096  # of 4.6 kB at MedSigLIP's width
_TOGETHER = 4


class Parts(Protocol):
    """Who loads the parts of a model."""

    def decoder(self, role: str) -> Decoder:
        """Load a decoder."""
        ...

    def encoder(self, role: str, beside: Decoder | None = None) -> Encoder:
        """Load an encoder, which may lean on the decoder that it stands beside."""
        ...


def compose(
    composition: Composition,
    settings: Settings,
    tokenizer: Tokenizer | None,
    preprocessing: Preprocessing | None,
    parts: Parts,
) -> Model:
    """Load the parts of a composition, all or none, and make the model of them.

    Args:
        settings: of the composition's own schema.
        tokenizer: None for a model that reads no text.
        preprocessing: how images become pixels; None for a model that sees none.
    """
    with ExitStack() as undo:
        if isinstance(composition, Chat):
            assert isinstance(settings, ChatSettings), "settings are of the composition's schema"
            assert tokenizer is not None, "a model that reads text has a tokenizer"
            decoder = parts.decoder(composition.decoder)
            undo.callback(decoder.close)
            vision = parts.encoder(composition.vision, decoder) if composition.vision else None
            undo.callback(vision.close if vision else lambda: None)
            model: Model = ChatModel(decoder, vision, composition.format(tokenizer, settings), preprocessing)
        elif isinstance(composition, Embedding):
            assert isinstance(settings, EmbeddingSettings), "settings are of the composition's schema"
            assert preprocessing is not None, "an encoder of images has a preprocessing"
            model = EmbeddingModel(parts.encoder(composition.image), preprocessing, settings.hidden)
        else:
            assert isinstance(settings, ContrastiveSettings), "settings are of the composition's schema"
            assert preprocessing is not None, "an encoder of images has a preprocessing"
            assert tokenizer is not None, "a model that reads text has a tokenizer"
            image = parts.encoder(composition.image)
            undo.callback(image.close)
            text = parts.encoder(composition.text)
            undo.callback(text.close)
            reader = TextReader(
                partial(composition.text_ids, tokenizer, settings), partial(composition.text_lengths, tokenizer)
            )
            model = ContrastiveModel(image, text, reader, preprocessing, settings)
        undo.pop_all()
    return model


class ChatModel(Model):
    """A decoder, with a vision encoder in front of it or without: images and text, or text alone, to text.

    Attributes:
        sees: whether it takes images.
        format: how conversations are written.
    """

    abilities = frozenset({"generate", "score", "classify"})
    sees = True

    def __init__(
        self, decoder: Decoder, vision: Encoder | None, chat_format: ChatFormat, preprocessing: Preprocessing | None
    ) -> None:
        self.decoder, self.vision, self.format, self.preprocessing = decoder, vision, chat_format, preprocessing
        self.tokenizer, self.settings = chat_format.tokenizer, chat_format.settings
        self.warnings = () if self.settings.chat else ("this model has no chat template: texts are continued",)
        self.sees = vision is not None
        self.abilities = ChatModel.abilities if self.sees else ChatModel.abilities - {"classify"}
        self.ownership = join(decoder, vision)
        self._embedded = Remembered(_CACHED_IMAGES)

    def tokenize(self, text: str) -> list[int]:
        """Ids of a plain text, without <bos>. An answer under way does not mind."""
        self.check_usable()
        return self.format.encode(text)

    def encode_images(self, images: Sequence[images_.ImageLike]) -> Float:
        """float32 [n, image tokens, hidden]; the same picture is encoded once as long as it is remembered."""
        with self._using("embeddings of images"):
            pictures, known = read_all(images)
            images_.say(known)
            return self._encode_pixels(self._pixels(pictures))

    def _pixels(self, images: Sequence[images_.ImageLike]) -> NDArray[np.uint8]:
        if self.preprocessing is None or self.vision is None:
            raise InputError(f"{self.title or 'this model'} cannot see images", allowed="text alone")
        return images_.to_pixels(images, self.preprocessing)

    def _encode_pixels(self, pixels: NDArray[np.uint8]) -> Float:
        assert self.vision is not None, "only a model with a vision encoder makes pixels"
        if not len(pixels):
            raise InputError("no images", allowed="one or more")
        return np.stack(
            [self._embedded.of(images_.content_hash(image), partial(self._encode_one, image)) for image in pixels]
        )

    def _encode_one(self, pixels: NDArray[np.uint8]) -> Float:
        assert self.vision is not None, "only a model with a vision encoder makes pixels"
        row: Float = self.vision.encode(pixels[None])[0]
        if len(row) != self.settings.image_tokens:
            raise ArtifactError(
                f"the vision part gives {len(row)} tokens an image",
                allowed=f"{self.settings.image_tokens}, by the manifest's settings",
            )
        return row

    def segments(self, messages: Sequence[Message], answer: str | None = None) -> list[Segment]:
        """The prompt as the decoder takes it, images encoded, followed by the model's answer where one is given."""
        with self._using("a prompt"):
            messages, known = with_pictures(messages)
            images_.say(known)
            return self._segments(messages, answer)

    def _segments(self, messages: Sequence[Message], answer: str | None = None) -> list[Segment]:
        images = [image for message in messages for image in message.images]
        pixels = self._pixels(images) if images else np.empty(0, np.uint8)
        runs = self.format.runs(messages, answer)
        self._check_length(sum(run if isinstance(run, int) else len(run) for run in runs))
        embedded = iter(self._encode_pixels(pixels)) if images else iter(())
        hashes = iter([images_.content_hash(image) for image in pixels])
        segments: list[Segment] = []
        for run in runs:
            if isinstance(run, tuple):
                segments.append(Tokens(run))
            else:
                segments.append(Embeddings(next(embedded), next(hashes)))
        return segments

    def _check_length(self, tokens: int) -> None:
        """Raise InputError where a prompt does not fit: before its images are encoded, which takes longest."""
        context, limit = self.decoder.context, self.settings.context
        if tokens > context:
            wider = f"--context {tokens} or more, in Python context=, and leave room for an answer"
            remedy = wider if context < tokens < limit else "a shorter prompt"
            allowed = f"1 to {context}, the context it was opened with; the model was made for {limit}"
            raise InputError(f"a prompt of {tokens} tokens", allowed=allowed, remedy=remedy)

    def _generate(self, messages: Sequence[Message], max_tokens: int) -> Iterator[str | Generation]:
        if messages and not messages[-1].images and not messages[-1].text.strip():
            raise InputError("an empty question", allowed="a text, an image, or both")
        if not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < 1:
            raise InputError(f"an output budget of {max_tokens!r:.40} tokens", allowed="1 or more")
        started = time.perf_counter()
        messages, known = with_pictures(messages)
        segments = self._segments(messages)
        used = sum(map(len, segments))
        (logits,) = self.decoder.prefill(segments)
        first = time.perf_counter()
        budget = min(max_tokens, self.decoder.context - used)
        stopped: Stop = "budget" if budget == max_tokens else "context"
        ids: list[int] = []
        sent, repetition = "", Repetition()
        while len(ids) < budget:
            token = int(logits.argmax())
            if token in self.settings.stop_token_ids:
                stopped = "end"
                break
            ids.append(token)
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
            if not text.endswith("\ufffd"):  # the bytes of one character may be spread over several tokens
                yield text[len(sent) :]
                sent = text
            if repetition.add(token):
                stopped = "loop"
                break
            if len(ids) < budget:
                logits = self.decoder.step([token])
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        if text != sent:
            yield text[len(sent) :]
        cut = () if stopped == "end" else (self._cut(stopped, len(ids)),)
        told = (*self.warnings, *known, *cut)
        finished = time.perf_counter()
        yield Generation(text, used, len(ids), stopped != "end", first - started, finished - first, told, stopped)

    def _cut(self, stopped: Stop, tokens: int) -> str:
        """What is said of an answer that the model did not end."""
        cut = f"the answer was cut off at {tokens} tokens"
        if stopped == "loop":
            return f"{cut}: it only repeated itself"
        context, limit = self.decoder.context, self.settings.context
        wider = f", of {limit} that the model was made for (--context)" if context < limit else ""
        return f"{cut}: the context of {context} is full{wider}" if stopped == "context" else cut

    def _score(self, messages: Sequence[Message], options: Sequence[str]) -> Float:
        """The sum over the option's tokens."""
        if not options or len(set(options)) < len(options):
            raise InputError(f"{len(options)} options, {len(set(options))} of them different", allowed="different ones")
        messages, known = with_pictures(messages)  # once, not for every option
        images_.say(known)
        scores = []
        for option in options:
            segments = self._segments(messages, answer=option)
            total = sum(map(len, segments))
            ids = self.format.encode(option)
            if not ids:
                raise InputError("an empty option cannot be scored")
            rows = self.decoder.prefill(segments, range(total - len(ids) - 1, total - 1))
            scores.append(sum(float(log_softmax(row)[token]) for row, token in zip(rows, ids, strict=True)))
        return np.asarray(scores, np.float32)

    def _classify(self, images: Sequence[Any], labels: Sequence[Sequence[str]]) -> Float:
        """Probability of each label as the answer to a question that lists them, normalized over the labels."""
        if self.vision is None:
            raise self._lacks("classify")
        names = [label[0] for label in labels if label]
        read = [[tuple(self.format.encode(text.strip())) for text in label[:1]] for label in labels]
        check_labels([label[:1] for label in labels], read, (), "the first text of each")
        question = f"Which of these does the image show: {', '.join(names)}?"
        shown = [image if isinstance(image, Image) else Image(image) for image in images]
        rows = [self._score([Message("user", image, question)], names) for image in shown]
        return np.reshape([np.exp(log_softmax(row)) for row in rows], (len(rows), len(names))).astype(np.float32)

    def _free(self) -> None:
        """The encoder first, it may lean on the decoder."""
        if self.vision:
            self.vision.close()
        self.decoder.close()


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
        # A few at a time: one layer's attention over one 448 px image takes 67 MB.
        groups = [images[i : i + _TOGETHER] for i in range(0, len(images), _TOGETHER)]
        rows = [self.image_encoder.encode(self._pixels(group)) for group in groups]
        return unit(np.concatenate(rows)) if rows else self._no_vectors

    def _pixels(self, images: Sequence[Any]) -> NDArray[np.uint8]:
        pictures, known = read_all(images)
        images_.say(known)
        return images_.to_pixels(pictures, self.preprocessing)

    @property
    def _no_vectors(self) -> Float:
        return np.zeros((0, self.width), np.float32)

    def _classify(self, images: Sequence[Any], labels: Sequence[Sequence[str]]) -> Float:
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
        self.label_vectors = Remembered(_CACHED_LABELS)

    def _embed_text(self, texts: Sequence[str]) -> Float:
        return unit(self.text_encoder.encode(self._ids(texts))) if texts else self._no_vectors

    def _ids(self, texts: Sequence[str]) -> Ids:
        for text, length in zip(texts, self.reader.lengths(texts), strict=True):
            if length > self.settings.text_length:
                told = f"a text of {length} tokens is cut to the {self.settings.text_length} that the model reads"
                warnings.warn(f"{told}: {text!r:.60}", EdgekitWarning, stacklevel=2)
        return self.reader.ids(texts)

    def _classify(self, images: Sequence[Any], labels: Sequence[Sequence[str]]) -> Float:
        """SigLIP's score of each label, a sigmoid: labels do not compete. Texts of one label are averaged."""
        ids, (nothing,) = [self._ids(label) for label in labels], self.reader.ids([""])
        read = [[row.tobytes() for row in rows] for rows in ids]
        reads = f"its first {self.settings.text_length} tokens, as the model's tokenizer has them"
        check_labels(labels, read, nothing.tobytes(), reads)
        texts = unit(np.stack([np.mean([self._label_vector(row) for row in rows], axis=0) for rows in ids]))
        logits = self._embed_image(images) @ texts.T * np.exp(self.settings.logit_scale) + self.settings.logit_bias
        return np.asarray(1 / (1 + np.exp(-logits)), np.float32)

    def _label_vector(self, ids: Ids) -> Float:
        """A text's vector, which does not depend on what else is asked: each is encoded by itself."""
        compute = lambda: unit(self.text_encoder.encode(ids[None]))[0]  # noqa: E731
        return self.label_vectors.of(images_.content_hash(ids), compute)

    def _free(self) -> None:
        self.image_encoder.close()
        self.text_encoder.close()


def unit(rows: NDArray[Any]) -> Float:
    """Rows scaled to length one."""
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)
