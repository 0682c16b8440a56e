"""Models from parts: any encoder and any decoder make one chat model, two encoders one embedding model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgekit.artifacts.manifest import Preprocessing
from edgekit.errors import ArtifactError, InputError
from edgekit.families.composition import Chat, ChatFormat, ChatSettings, Composition, ContrastiveSettings, Ids, Settings
from edgekit.inputs import image as images_
from edgekit.inputs.message import Image, Message, with_pictures
from edgekit.metrics import log_softmax
from edgekit.runtime.base import Decoder, Embeddings, Encoder, Float, Generation, Model, Segment, Tokens

_CACHED_IMAGES = 16
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
    tokenizer: Tokenizer,
    preprocessing: Preprocessing | None,
    parts: Parts,
) -> Model:
    """Load the parts of a composition, all or none, and make the model of them.

    Args:
        settings: of the composition's own schema.
        preprocessing: how images become pixels; None for a model that sees none.
    """
    with ExitStack() as undo:
        if isinstance(composition, Chat):
            assert isinstance(settings, ChatSettings), "settings are of the composition's schema"
            decoder = parts.decoder(composition.decoder)
            undo.callback(decoder.close)
            vision = parts.encoder(composition.vision, decoder) if composition.vision else None
            model: Model = ChatModel(decoder, vision, composition.format(tokenizer, settings), preprocessing)
        else:
            assert isinstance(settings, ContrastiveSettings), "settings are of the composition's schema"
            assert preprocessing is not None, "an encoder of images has a preprocessing"
            image = parts.encoder(composition.image)
            undo.callback(image.close)
            text = parts.encoder(composition.text)
            text_ids = partial(composition.text_ids, tokenizer, settings)
            model = ContrastiveModel(image, text, text_ids, preprocessing, settings)
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
        self._embedded: dict[str, Float] = {}

    def tokenize(self, text: str) -> list[int]:
        """Ids of a plain text, without <bos>."""
        return self.format.encode(text)

    def encode_images(self, images: Sequence[images_.ImageLike]) -> Float:
        """float32 [n, image tokens, hidden]; the same picture is encoded once as long as it is remembered."""
        return self._encode_pixels(self._pixels(images))

    def _pixels(self, images: Sequence[images_.ImageLike]) -> NDArray[np.uint8]:
        if self.preprocessing is None or self.vision is None:
            raise InputError(f"{self.title or 'this model'} cannot see images", allowed="text alone")
        return images_.to_pixels(images, self.preprocessing)

    def _encode_pixels(self, pixels: NDArray[np.uint8]) -> Float:
        assert self.vision is not None, "only a model with a vision encoder makes pixels"
        rows = []
        for image in pixels:
            key = images_.content_hash(image)
            if key not in self._embedded:
                if len(self._embedded) >= _CACHED_IMAGES:
                    self._embedded.pop(next(iter(self._embedded)))
                row = self.vision.encode(image[None])[0]
                if len(row) != self.settings.image_tokens:
                    raise ArtifactError(
                        f"the vision part gives {len(row)} tokens an image",
                        allowed=f"{self.settings.image_tokens}, by the manifest's settings",
                    )
                self._embedded[key] = row
            rows.append(self._embedded[key])
        return np.stack(rows)

    def segments(self, messages: Sequence[Message], answer: str | None = None) -> list[Segment]:
        """The prompt as the decoder takes it, images encoded, followed by the model's answer where one is given."""
        messages, known = with_pictures(messages)
        images_.say(known)
        images = [image for message in messages for image in message.images]
        pixels = self._pixels(images) if images else np.empty(0, np.uint8)
        runs = self.format.runs(messages, answer)
        embedded = iter(self._encode_pixels(pixels)) if images else iter(())
        hashes = iter([images_.content_hash(image) for image in pixels])
        segments: list[Segment] = []
        for run in runs:
            if isinstance(run, tuple):
                segments.append(Tokens(run))
            else:
                segments.append(Embeddings(next(embedded), next(hashes)))
        return segments

    def generate(self, messages: Sequence[Message], *, max_tokens: int = 256) -> Iterator[str | Generation]:
        """See `edgekit.runtime.base.Model.generate`."""
        if max_tokens < 1:
            raise InputError(f"an output budget of {max_tokens} tokens", allowed="1 or more")
        started = time.perf_counter()
        messages, known = with_pictures(messages)
        segments = self.segments(messages)
        used = sum(map(len, segments))
        (logits,) = self.decoder.prefill(segments)
        first = time.perf_counter()
        budget = min(max_tokens, self.decoder.context - used)
        ids: list[int] = []
        sent = ""
        stopped = False
        while len(ids) < budget:
            token = int(logits.argmax())
            if stopped := token in self.settings.stop_token_ids:
                break
            ids.append(token)
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
            if not text.endswith("\ufffd"):  # the bytes of one character may be spread over several tokens
                yield text[len(sent) :]
                sent = text
            if len(ids) < budget:
                logits = self.decoder.step([token])
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        if text != sent:
            yield text[len(sent) :]
        cut = () if stopped else (f"the answer was cut off at {len(ids)} tokens",)
        warnings = (*self.warnings, *known, *cut)
        finished = time.perf_counter()
        yield Generation(text, used, len(ids), not stopped, first - started, finished - first, warnings)

    def score(self, messages: Sequence[Message], options: Sequence[str]) -> Float:
        """See `edgekit.runtime.base.Model.score`; the sum over the option's tokens."""
        messages, known = with_pictures(messages)  # once, not for every option
        images_.say(known)
        scores = []
        for option in options:
            segments = self.segments(messages, answer=option)
            total = sum(map(len, segments))
            ids = self.tokenize(option)
            if not ids:
                raise InputError("an empty option cannot be scored")
            rows = self.decoder.prefill(segments, range(total - len(ids) - 1, total - 1))
            scores.append(sum(float(log_softmax(row)[token]) for row, token in zip(rows, ids, strict=True)))
        return np.asarray(scores, np.float32)

    def classify(self, images: Sequence[Any], labels: Sequence[str | Sequence[str]]) -> Float:
        """Probability of each label as the answer to a question that lists them, normalized over the labels."""
        if self.vision is None:
            raise self._lacks("classify")
        names = [label if isinstance(label, str) else label[0] for label in labels]
        question = f"Which of these does the image show: {', '.join(names)}?"
        rows = [self.score([Message("user", Image(image), question)], names) for image in images]
        return np.stack([np.exp(log_softmax(row)) for row in rows]).astype(np.float32)

    def close(self) -> None:
        """Free what the libraries hold: the encoder first, it may lean on the decoder."""
        if self.vision:
            self.vision.close()
        self.decoder.close()


class ContrastiveModel(Model):
    """Two encoders into one space: images and texts to unit vectors, and their match."""

    abilities = frozenset({"embed_image", "embed_text", "classify"})

    def __init__(
        self,
        image_encoder: Encoder,
        text_encoder: Encoder,
        text_ids: Callable[[Sequence[str]], Ids],
        preprocessing: Preprocessing,
        settings: ContrastiveSettings,
    ) -> None:
        self.image_encoder, self.text_encoder, self.text_ids = image_encoder, text_encoder, text_ids
        self.preprocessing, self.settings = preprocessing, settings

    def embed_image(self, images: Sequence[Any]) -> Float:
        """See `edgekit.runtime.base.Model.embed_image`."""
        # A few at a time: one layer's attention over one 448 px image takes 67 MB.
        groups = [images[i : i + _TOGETHER] for i in range(0, len(images), _TOGETHER)]
        rows = [self.image_encoder.encode(images_.to_pixels(group, self.preprocessing)) for group in groups]
        return unit(np.concatenate(rows)) if rows else np.zeros((0, self.settings.hidden), np.float32)

    def embed_text(self, texts: Sequence[str]) -> Float:
        """See `edgekit.runtime.base.Model.embed_text`."""
        return unit(self.text_encoder.encode(self.text_ids(texts)))

    def classify(self, images: Sequence[Any], labels: Sequence[str | Sequence[str]]) -> Float:
        """SigLIP's score of each label, a sigmoid: labels do not compete. Prompts of one label are averaged."""
        prompts = [[label] if isinstance(label, str) else list(label) for label in labels]
        if not all(prompts):
            raise InputError("a label without a prompt")
        texts = unit(np.stack([self.embed_text(group).mean(axis=0) for group in prompts]))
        logits = self.embed_image(images) @ texts.T * np.exp(self.settings.logit_scale) + self.settings.logit_bias
        return np.asarray(1 / (1 + np.exp(-logits)), np.float32)

    def close(self) -> None:
        """Free what the libraries hold."""
        self.image_encoder.close()
        self.text_encoder.close()


def unit(rows: NDArray[Any]) -> Float:
    """Rows scaled to length one."""
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)
