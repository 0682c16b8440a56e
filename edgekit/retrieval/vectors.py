"""Files to unit vectors, one file after the other: the same whoever does it (here, or `cluster`'s machines)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL.Image import fromarray

from edgekit.errors import InputError
from edgekit.inputs.dicom.study import Reading
from edgekit.inputs.image import Picture
from edgekit.retrieval import sources
from edgekit.runtime.embedding_model import EmbeddingModel, unit

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class How:
    """How files become vectors.

    Attributes:
        as_series: a path is a series, whose vector is the mean of its slices'.
        salt: with which a patient's number is hashed; None where nobody asks whose a picture is.
    """

    reading: Reading
    pad: bool = False
    as_series: bool = False
    salt: bytes | None = None


@dataclass(frozen=True, eq=False)
class FileVectors:
    """What one path gave.

    Attributes:
        rows: each picture's name, and its unit vector or why there is none.
        sha256: of the file; "" of a series, and where it cannot be read.
        patient: as `sources.patient_of` says; "" where nobody asked.
    """

    path: Path
    rows: tuple[tuple[str, Vector | InputError], ...]
    sha256: str = ""
    patient: str = ""


class Embedder(Protocol):
    """Makes vectors somewhere."""

    def __call__(self, paths: Iterable[Path]) -> Iterator[FileVectors]:
        """What each path gives, all of one at once, in any order.

        Raises:
            EdgekitError: the model, or all machines, failed.
        """
        ...


@dataclass(frozen=True)
class Here:
    """Makes vectors by a model that is open."""

    model: EmbeddingModel
    how: How

    def __call__(self, paths: Iterable[Path]) -> Iterator[FileVectors]:
        """See `Embedder`; in the order of the paths."""
        for path in paths:
            yield of_file(self.model, path, self.how)


def of_file(model: EmbeddingModel, path: Path, how: How) -> FileVectors:
    """The vectors of one path; what cannot be read is a row with its error."""
    try:
        if how.as_series:
            pictures, _ = sources.series(path, how.reading, pad=how.pad)
            mean = model.embed_image(pictures).mean(axis=0, keepdims=True)
            return FileVectors(path, ((str(path), unit(mean)[0]),))
        digest = sources.digest_of(path)
        patient = "" if how.salt is None else sources.patient_of(path, how.salt)
    except InputError as error:
        return FileVectors(path, ((str(path), error),))
    rows = []
    for row in sources.rows(path, how.reading, pad=how.pad):
        found = row.picture
        if isinstance(found, Picture):
            (vector,) = model.embed_image([Picture(found.image)])
            rows.append((row.name, vector))
        else:
            rows.append((row.name, found))
    return FileVectors(path, tuple(rows), digest, patient)


def probe(model: EmbeddingModel) -> Vector:
    """The vector of a picture that is the same everywhere: machines are compared by it before they share work."""
    across, down = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    (vector,) = model.embed_image([fromarray(np.stack([across, down, across ^ down], axis=-1))])
    return np.asarray(vector, np.float32)
