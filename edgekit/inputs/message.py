"""A conversation's turns: who speaks, and text and images in the order in which they are said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.inputs.image import ImageLike

Speaker = Literal["system", "user", "assistant"]


@dataclass(frozen=True, eq=False)  # arrays have no single truth to compare by
class Image:
    """One image of a message.

    Attributes:
        source: a file's path, a Pillow image, or uint8 [height, width] or [height, width, 3].
    """

    source: ImageLike


@dataclass(frozen=True, init=False)
class Message:
    """One turn of a conversation.

    Attributes:
        parts: texts and images, in any order.
    """

    role: Speaker
    parts: tuple[str | Image, ...]

    def __init__(self, role: Speaker, *parts: str | Image) -> None:
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
