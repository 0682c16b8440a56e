"""Images that clients handed over before they ask about them: in memory alone, few, and not for long."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from edgekit.errors import InputError
from edgekit.serve.http.errors import NoRoute

MOST_IMAGES, MOST_BYTES, SECONDS = 64, 256 << 20, 3600.0


class UnknownImage(NoRoute):
    """No image of this id is held: it never was, was removed, is too old, or had to make room."""


@dataclass(frozen=True)
class Held:
    """An image that is held.

    Attributes:
        id: as hard to guess as a key of 128 bits.
        data: the file.
        range: the values that become black and white, as a `Job` has them.
        expires_at: by the system's clock, in seconds since 1970.
    """

    id: str
    data: bytes = field(repr=False)
    expires_at: float
    range: list[float] | str | None = None


class HandedOver:
    """What is held, the oldest first: it makes room for a new one.

    Args:
        most_images, most_bytes: that are held at once.
        seconds: that each is held for.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        most_images: int = MOST_IMAGES,
        most_bytes: int = MOST_BYTES,
        seconds: float = SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._most_images, self._most_bytes, self._seconds, self._clock = most_images, most_bytes, seconds, clock
        self._held: OrderedDict[str, Held] = OrderedDict()

    def put(self, data: bytes, range_: list[float] | str | None = None) -> Held:
        """Hold an image.

        Raises:
            InputError: it is larger than all that may be held.
        """
        if len(data) > self._most_bytes:
            raise InputError(f"an image of {len(data)} bytes", allowed=f"up to {self._most_bytes}")
        held = Held(secrets.token_urlsafe(16), data, self._clock() + self._seconds, range_)
        self._held[held.id] = held
        self._drop()
        return held

    def get(self, id_: str) -> Held:
        """An image. Raises UnknownImage."""
        self._drop()
        if id_ not in self._held:
            raise _unknown()
        return self._held[id_]

    def remove(self, id_: str) -> None:
        """Hold an image no longer. Raises UnknownImage."""
        self._drop()
        if self._held.pop(id_, None) is None:
            raise _unknown()

    def _drop(self) -> None:
        """What is too old, or too much."""
        now, size = self._clock(), sum(len(held.data) for held in self._held.values())
        while self._held:
            oldest = next(iter(self._held.values()))
            if oldest.expires_at > now and len(self._held) <= self._most_images and size <= self._most_bytes:
                return
            size -= len(oldest.data)
            del self._held[oldest.id]


def _unknown() -> UnknownImage:
    return UnknownImage("no image of this id is held", remedy="hand it over again: POST /v1/images")
