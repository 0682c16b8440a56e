"""Models of the real kinds over parts in numpy: they open at once, and answer as exactly as asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from edgekit.artifacts.manifest import Preprocessing
from edgekit.families.composition import ImageChatSettings
from edgekit.families.gemma3.chat import GemmaChat
from edgekit.inputs.text import load_tokenizer
from edgekit.runtime.base import Decoder, Encoder, EncoderSpec, Float, Segment
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.owned_parts import OwnedDecoder
from edgekit.runtime.stub import StubDecoder, StubEncoder

SIZE, IMAGE_TOKENS, HIDDEN = 16, 4, 32
VOCABULARY, END, IMAGE_TOKEN = 2112, 1, 2048  # the reference model's


class ScriptedDecoder(OwnedDecoder):
    """Says these tokens, whatever it is asked, and then that it is done."""

    hidden, vocabulary = HIDDEN, VOCABULARY

    def __init__(self, script: Sequence[int], context: int = 8192) -> None:
        self.script, self.context = script, context

    def _clear(self, sequence: int) -> None:
        self._said = 0

    def _rows(self, segments: Sequence[Segment], wanted: Sequence[int], sequence: int) -> Iterator[Float]:
        self._lengths[sequence] = sum(map(len, segments))
        yield self._next()

    def _step(self, ids: Sequence[int], sequence: int) -> Float:
        self._lengths[sequence] = self.length(sequence) + len(ids)
        return self._next()

    def _next(self) -> Float:
        row = np.zeros(VOCABULARY, np.float32)
        row[self.script[self._said] if self._said < len(self.script) else END] = 1
        self._said += 1
        return row


SPEC = EncoderSpec("pixels", "image_tokens", (SIZE, SIZE, 3))


def chat_model(
    source: Path, decoder: Decoder | None = None, vision: Encoder | None = None, limit: int = 8192
) -> ChatModel:
    """A chat model over a checkpoint's tokenizer, whose answers depend on all of the prompt."""
    settings = ImageChatSettings(
        context=limit, stop_token_ids=[END], image_tokens=IMAGE_TOKENS, image_token_id=IMAGE_TOKEN
    )
    decoder = decoder or StubDecoder(hidden=HIDDEN, vocabulary=VOCABULARY, context=512)
    vision = vision or StubEncoder(SPEC, hidden=HIDDEN, tokens=IMAGE_TOKENS)
    preprocessing = Preprocessing(size=SIZE, resample="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return ChatModel(decoder, vision, GemmaChat(tokenizer(source), settings), preprocessing)


@cache
def tokenizer(source: Path) -> Tokenizer:
    """A checkpoint's."""
    return load_tokenizer(source / "tokenizer.json")
