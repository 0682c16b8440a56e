"""Models from parts: any encoder and any decoder make one chat model, two encoders one embedding model."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Protocol

from tokenizers import Tokenizer

from edgekit.artifacts.manifest import Preprocessing
from edgekit.families.composition import (
    Chat,
    ChatSettings,
    Composition,
    Contrastive,
    ContrastiveSettings,
    Embedding,
    EmbeddingSettings,
    Settings,
)
from edgekit.runtime.base import Decoder, Encoder, Model
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.embedding_model import ContrastiveModel, EmbeddingModel, TextReader


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


def abilities_of(composition: Composition) -> frozenset[str]:
    """What the model that a composition makes can do, before it is made."""
    if isinstance(composition, Chat):
        return ChatModel.abilities_of(sees=composition.vision is not None)
    return (ContrastiveModel if isinstance(composition, Contrastive) else EmbeddingModel).abilities
