"""Where images lie: what pushing and pulling ask of a registry's repository and of a layout alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgekit.progress import Progress


@dataclass(frozen=True)
class Blob:
    """What an image stores of a file: its bytes, known by their hash.

    Attributes:
        sha256: in hexadecimal.
        bytes: how many there are.
    """

    sha256: str
    bytes: int


class Place(Protocol):
    """One image, there or to be put there, and the blobs beside it."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def manifest(self) -> bytes:
        """The image's manifest; nobody has looked into it yet.

        Raises:
            RegistryError: there is none, or it is not what its digest says.
        """
        ...

    def has(self, blob: Blob) -> bool:
        """Whether a blob is there."""
        ...

    def blocks(self, blob: Blob, begun: int) -> Iterator[bytes]:
        """A blob's bytes from one on; at most as many as it has, and nobody has hashed them yet.

        Raises:
            RegistryError: it is not there, has another size, or the connection failed too often.
        """
        ...

    def put(self, blob: Blob, path: Path, progress: Progress) -> None:
        """Store a file's content; `progress` is told of its bytes.

        Raises:
            RegistryError: it was not taken.
        """
        ...

    def publish(self, manifest: bytes) -> None:
        """Store the manifest, under the image's tag, of which all blobs are there.

        Raises:
            RegistryError: it was not taken.
        """
        ...
