"""A conversation's turns: who speaks, and text and images in the order in which they are said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image as Pillow

from edgekit.errors import InputError
from edgekit.inputs.image import MAX_MEGAPIXELS, NAMELESS, ImageLike, Picture, Range, read

Speaker = Literal["system", "user", "assistant"]

_SOURCES = "a file's path or its bytes, a Pillow image, or an array"


@dataclass(frozen=True, eq=False)  # arrays have no single truth to compare by
class Image:
    """One image of a message.

    Attributes:
        source: a file's path or its bytes, a Pillow image, an array [height, width] or [height, width, 3], or a
            `Picture` that was read already.
        range: (low, high), the values that become black and white, or `auto`: see `edgekit.inputs.image.read`.
        max_megapixels: nothing larger is decoded.

    Raises:
        InputError: it is none of these. What a file holds shows when the message is used.

    Examples:
        >>> Image("chest.png").source
        'chest.png'
    """

    source: ImageLike
    range: Range | None = None
    max_megapixels: float = MAX_MEGAPIXELS

    def __post_init__(self) -> None:
        if not isinstance(self.source, str | Path | bytes | Pillow.Image | np.ndarray | Picture):
            raise InputError(f"an image of {type(self.source).__name__}", allowed=_SOURCES)

    def read(self) -> Picture:
        """The picture, and what to know about it; raises InputError as `edgekit.inputs.image.read`."""
        return read(self.source, range=self.range, max_megapixels=self.max_megapixels)


@dataclass(frozen=True, init=False)
class Message:
    """One turn of a conversation.

    Attributes:
        role: who speaks: `system`, `user` or `assistant`.
        parts: texts and images, in any order.

    Raises:
        InputError: there is no such role, or a part is neither text nor image.

    Examples:
        >>> turn = Message("user", "Before:", Image("old.png"), "after:", Image("new.png"), "What has changed?")
        >>> turn.text
        'Before:after:What has changed?'
        >>> turn.images
        ('old.png', 'new.png')
    """

    role: Speaker
    parts: tuple[str | Image, ...]

    def __init__(self, role: Speaker, *parts: str | Image) -> None:
        if role not in get_args(Speaker):
            raise InputError(f"a message of {role!r:.40}", allowed=", ".join(get_args(Speaker)))
        for part in parts:
            if not isinstance(part, str | Image):
                remedy = "Image(...) around it" if isinstance(part, Path | Pillow.Image | np.ndarray) else None
                raise InputError(f"a {type(part).__name__} in a message", allowed="text, or an Image", remedy=remedy)
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "parts", parts)

    @property
    def text(self) -> str:
        """All of its text, one part behind the other."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> tuple[ImageLike, ...]:
        """What its images are made of, in order."""
        return tuple(part.source for part in self.parts if isinstance(part, Image))


def read_all(
    images: Sequence[ImageLike | Image], before: int = 0, of: int | None = None
) -> tuple[list[Picture], tuple[str, ...]]:
    """Images on their own, read, and what to know about them.

    Args:
        before, of: where they are a few of many: how many went before, and how many there are.
    """
    read_ = [image.read() if isinstance(image, Image) else read(image) for image in images]
    return [Picture(one.image) for one in read_], _known(read_, before, of)


def with_pictures(messages: Sequence[Message]) -> tuple[list[Message], tuple[str, ...]]:
    """The messages with every image read, and what to know about the images, which is no part of them any more."""
    pictures: list[Picture] = []

    def part(given: str | Image) -> str | Image:
        if isinstance(given, str):
            return given
        pictures.append(given.read())
        return Image(Picture(pictures[-1].image))

    return [Message(message.role, *map(part, message.parts)) for message in messages], _known(pictures)


def _known(pictures: Sequence[Picture], before: int = 0, of: int | None = None) -> tuple[str, ...]:
    """What to know about pictures; of several, also of which, where it has no name of its own."""
    count = len(pictures) if of is None else of
    if count == 1:
        return pictures[0].warnings
    return tuple(
        f"image {number} of {count}{text.removeprefix(NAMELESS)}" if text.startswith(f"{NAMELESS}: ") else text
        for number, picture in enumerate(pictures, before + 1)
        for text in picture.warnings
    )
