"""What a family's parts make together: a model that chats, or one that maps images and texts to one space.

A family lists its compositions; the one whose roles a variant has is what an artifact opens as. Who builds the model
(`edgekit.runtime.compose`) asks for nothing but what stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer

from edgekit.artifacts.validation import validated
from edgekit.errors import EdgekitError
from edgekit.inputs.message import Message

Ids = NDArray[np.int64]
Run = tuple[int, ...] | int  # token ids of a text, or how many tokens stand for one image

_Count = Annotated[int, Field(gt=0, lt=1 << 24)]
_TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]


class Settings(BaseModel):
    """What a manifest's settings must say for a composition; what else they say is another's."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class OwnTemplate(Settings):
    """A chat template that renders other turns than the family's.

    Attributes:
        text: of the template, a program that only a sandbox runs.
        variables: what it may use beside the messages: `bos_token` and the like.
        parts: whether it takes messages as lists of texts and images; without images, as one text each, otherwise.
        system: whether it takes a system message.
    """

    text: str = Field(max_length=1 << 17)
    variables: dict[str, Annotated[str, Field(max_length=256)]] = Field(max_length=64)
    parts: bool
    system: bool


class ChatSettings(Settings):
    """What a manifest's settings say of a model that chats.

    Attributes:
        context: positions that the model was made for.
        window: positions that a layer with sliding attention sees; 0 where nothing says.
        chat: whether it was trained on conversations; what other models get is continued as it is.
        template: what conversations are rendered with; None for the family's own format.
        stop_tokens: the texts of `stop_token_ids`, for programs that look for texts.
        image_tokens, image_token_id: how many stand for one image, and which; None for a model that sees no images.
    """

    context: _Count
    window: Annotated[int, Field(ge=0, lt=1 << 24)] = 0
    stop_token_ids: list[_TokenId] = Field(max_length=1000)
    stop_tokens: list[Annotated[str, Field(max_length=1000)]] = Field(default_factory=list, max_length=1000)
    chat: bool = True
    template: OwnTemplate | None = None
    image_tokens: _Count | None = None
    image_token_id: _TokenId | None = None


class ImageChatSettings(ChatSettings):
    """Of a model that sees images, too."""

    image_tokens: _Count
    image_token_id: _TokenId


class EmbeddingSettings(Settings):
    """What a manifest's settings say of an encoder of images into a space.

    Attributes:
        hidden: width of the space.
    """

    hidden: _Count


class ContrastiveSettings(EmbeddingSettings):
    """Of two encoders into one space.

    Attributes:
        text_length: ids that the text encoder takes, filled up with `pad_token_id`.
        logit_scale, logit_bias: a pair's logit is exp(scale) * cosine + bias.
    """

    text_length: Annotated[int, Field(gt=0, le=8192)]
    pad_token_id: _TokenId
    logit_scale: Annotated[float, Field(ge=-100, le=100)]  # beyond, every score is 0 or 1
    logit_bias: Annotated[float, Field(ge=-1e4, le=1e4)]


SettingsT = TypeVar("SettingsT", bound=Settings)


def checked_settings(
    schema: type[SettingsT], stated: Mapping[str, Any], where: str, error: type[EdgekitError]
) -> SettingsT:
    """What a manifest, or a checkpoint, states for a composition, checked.

    Args:
        where: what the message begins with.

    Raises:
        error: something is missing or wrong; the message names it.
    """
    return validated(schema, dict(stated), where, error, inside="settings.", whole="settings")


@dataclass(frozen=True)
class Thoughts:
    """How a model's thoughts stand in what it says, before its answer.

    Attributes:
        begin, end: the tokens around them.
        heading: the text that they begin with, which is none of them.
        instruction: the system text that asks for them.
    """

    begin: int
    end: int
    heading: str
    instruction: str


class ChatFormat(Protocol):
    """How a family writes conversations for its decoder.

    Attributes:
        thoughts: how it thinks; None for a vocabulary that has no tokens for it.
    """

    tokenizer: Tokenizer
    settings: ChatSettings

    @property
    def thoughts(self) -> Thoughts | None:
        """See above."""
        ...

    def runs(self, messages: Sequence[Message], answer: str | None = None) -> list[Run]:
        """A prompt in runs of text and images, up to where the model answers, or behind its answer where one is given.

        Raises:
            InputError: no conversation that this model can continue, or a text that claims to be more than text.
        """
        ...

    def continued(self, text: str) -> tuple[int, ...]:
        """Ids of a text that is no conversation, for the model to go on with.

        Raises:
            InputError: it claims to be more than text.
        """
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text as it stands within an answer."""
        ...


@dataclass(frozen=True)
class Chat:
    """A decoder, and an encoder of images in front of it or none.

    Attributes:
        decoder, vision: roles.
        settings: what the manifest must say.
        format: how conversations are written, from a tokenizer and the settings.
    """

    decoder: str
    vision: str | None
    settings: type[ChatSettings]
    format: Callable[[Tokenizer, ChatSettings], ChatFormat]

    @property
    def roles(self) -> frozenset[str]:
        """Of the parts that it takes."""
        return frozenset(filter(None, (self.decoder, self.vision)))


@dataclass(frozen=True)
class Contrastive:
    """An encoder of images and one of texts.

    Attributes:
        image, text: roles.
        settings: what the manifest must say.
        text_ids: texts to ids [n, text_length].
        text_lengths: texts to how many ids each has before it is cut.
        captions: texts on which the encoder of texts is calibrated beside a user's, or the shipped one's, sentences.
    """

    image: str
    text: str
    settings: type[ContrastiveSettings]
    text_ids: Callable[[Tokenizer, ContrastiveSettings, Sequence[str]], Ids]
    text_lengths: Callable[[Tokenizer, Sequence[str]], Sequence[int]]
    captions: Callable[[], Sequence[str]]

    @property
    def roles(self) -> frozenset[str]:
        """Of the parts that it takes."""
        return frozenset((self.image, self.text))


@dataclass(frozen=True)
class Embedding:
    """An encoder of images alone.

    Attributes:
        image: role.
        settings: what the manifest must say.
    """

    image: str
    settings: type[EmbeddingSettings]

    @property
    def roles(self) -> frozenset[str]:
        """Of the part that it takes."""
        return frozenset((self.image,))


Composition = Chat | Contrastive | Embedding


def reads_text(composition: Composition) -> bool:
    """Whether such a model takes texts, so that it has a tokenizer."""
    return not isinstance(composition, Embedding)
