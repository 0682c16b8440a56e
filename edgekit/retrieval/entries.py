"""What an index keeps of pictures, and what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Entry:
    """A picture to be kept.

    Attributes:
        name: unique in the index.
        file, sha256: of the file that it is of.
        patient: as `Index.patient_key` makes it; "" where nobody knows.
    """

    name: str
    file: str
    sha256: str
    patient: str
    vector: NDArray[np.float32]


@dataclass(frozen=True)
class Hit:
    """What is like what was asked.

    Attributes:
        score: the cosine.
    """

    name: str
    file: str
    score: float


@dataclass(frozen=True)
class Shard:
    """A file of vectors: `count` of them, of which some may not be in use any more."""

    number: int
    file: str
    count: int


class Candidates(Protocol):
    """Knows which vectors may be the nearest."""

    def candidates(self, query: NDArray[np.float32], most: int) -> Mapping[str, NDArray[np.int64]]:
        """Places in each of the files that it knows, in ascending order."""
        ...
