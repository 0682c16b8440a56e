"""An index in a Qdrant server, for many machines that write to it and search in it: asked and answering as `index`.

    pip install 'edgekit[qdrant]'
    edgekit index ./medsiglip /archive --to https://qdrant.clinic:6333/archive      # $QDRANT_API_KEY, if it needs one
    edgekit search ./medsiglip https://qdrant.clinic:6333/archive --text "a chest x-ray with pneumonia"

Each model has a collection of its own, `NAME-` and the beginning of the model's digest. A point is a picture: its
vector and, as payload, its name, file, hash and patient's hash. Pictures of a file that was not kept whole are kept
again. The server compares all vectors, not those alone that its graph leads to.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException

from edgekit.errors import ArtifactError, InputError, UsageError
from edgekit.retrieval.entries import Entry, Hit
from edgekit.retrieval.patients import patient_key

KEY = "QDRANT_API_KEY"
_AT_ONCE = 256  # pictures of one request
_TIMEOUT_S = 60
_DIGEST = 16  # characters of a model's digest in a collection's name
_SPACE = uuid.UUID("5f0c5c8e-6f0f-4a52-9d5e-0d6f6c6b6e10")  # of the points' numbers, which follow from names


@dataclass(frozen=True)
class Place:
    """A server and the name of what is in it."""

    server: str
    name: str

    @classmethod
    def of(cls, url: str) -> Self:
        """`http://HOST:PORT/NAME` of this machine, `https://HOST:PORT/NAME` of any. Raises UsageError for others."""
        parts = urlsplit(url)
        name = parts.path.strip("/")
        if parts.scheme not in ("http", "https") or not parts.hostname or not name or "/" in name or parts.query:
            raise UsageError(f"{url}: names no index", allowed="https://HOST:PORT/NAME")
        if parts.username or parts.password:
            raise UsageError("a password in an address ends in logs", remedy=f"give the key as ${KEY}")
        if parts.scheme == "http" and not _is_here(parts.hostname):
            raise UsageError(f"{url}: vectors and names would go unencrypted", allowed="https, or this machine")
        return cls(f"{parts.scheme}://{parts.netloc}", name)


class Qdrant:
    """An index in a server, as `Index` is one in a folder.

    Args:
        client: of the server; None for the one that `place` names.
        make: make the collection where it is not there.

    Raises:
        UsageError: there is none, or one of another model alone.
        ArtifactError: the server does not answer, or refuses.
    """

    def __init__(
        self, place: Place, model: str, width: int, *, make: bool = False, client: QdrantClient | None = None
    ) -> None:
        self.width, self.place = width, place
        self._name = f"{place.name}-{model[:_DIGEST]}"
        self.salt = hashlib.sha256(self._name.encode()).digest()
        key = os.environ.get(KEY)
        how = {"port": None, "timeout": _TIMEOUT_S, "check_compatibility": False}
        self._client = client or QdrantClient(url=place.server, api_key=key, **how)
        try:
            self._open(make=make)
        except BaseException:
            self._client.close()
            raise

    def _open(self, *, make: bool) -> None:
        place = self.place
        with self._said():
            names = {one.name for one in self._client.get_collections().collections}
            if self._name not in names and not make:
                others = [name for name in names if name.rpartition("-")[0] == place.name]
                raise UsageError(
                    f"{place.server}: {'an index of another model' if others else 'no index'}: {place.name}",
                    allowed="the model that it was made with" if others else None,
                    remedy=f"edgekit index MODEL IMAGES --to {place.server}/{place.name}",
                )
            if self._name not in names:
                self._make()
            size = self._client.get_collection(self._name).config.params.vectors.size
        if size != self.width:
            said = f"{self._name}: vectors of {size} numbers"
            raise ArtifactError(said, allowed=f"{self.width}", remedy="index anew")

    def _make(self) -> None:
        made = models.VectorParams(size=self.width, distance=models.Distance.COSINE, on_disk=True)
        self._client.create_collection(self._name, vectors_config=made)
        for field in ("file", "patient"):
            self._client.create_payload_index(self._name, field, models.PayloadSchemaType.KEYWORD)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def __len__(self) -> int:
        with self._said():
            return int(self._client.count(self._name, exact=True).count)

    def patient_key(self, patient: str) -> str:
        """See `Index.patient_key`."""
        return patient_key(self.salt, patient)

    def known(self, path: str) -> str | None:
        """See `Index.known`; None also where not all pictures of the file are there."""
        with self._said():
            there = self._client.count(self._name, _where("file", path), exact=True).count
            found, _ = self._client.scroll(self._name, _where("file", path), limit=1)
        payload = found[0].payload if found else None
        return str(payload["sha256"]) if payload and payload["of"] == there else None

    def add(self, entries: Sequence[Entry]) -> None:
        """See `Index.add`; what an error interrupts is not `known`, and is added again."""
        of = Counter(entry.file for entry in entries)
        points = [
            models.PointStruct(
                id=str(uuid.uuid5(_SPACE, entry.name)),
                vector=entry.vector.tolist(),
                payload={
                    "name": entry.name,
                    "file": entry.file,
                    "sha256": entry.sha256,
                    "patient": entry.patient,
                    "of": of[entry.file],
                },
            )
            for entry in entries
        ]
        with self._said():
            for file in of:
                self._client.delete(self._name, models.FilterSelector(filter=_where("file", file)), wait=True)
            for start in range(0, len(points), _AT_ONCE):
                self._client.upsert(self._name, points[start : start + _AT_ONCE], wait=True)

    def forget(self, *, patient: str | None = None, file: str | None = None) -> int:
        """See `Index.forget`."""
        if not (patient or "").strip() and not file:
            raise InputError("nobody to forget", allowed="a patient's ID, or a file")
        where = _where("patient", self.patient_key(patient)) if patient else _where("file", str(file))
        with self._said():
            gone = self._client.count(self._name, where, exact=True).count
            self._client.delete(self._name, models.FilterSelector(filter=where), wait=True)
        return int(gone)

    def search(self, query: NDArray[np.float32], most: int, cache: None = None) -> list[Hit]:
        """See `Index.search`; there is no cache."""
        if most < 1:
            raise InputError(f"{most} results", allowed="1 or more")
        exact = models.SearchParams(exact=True)
        with self._said():
            found = self._client.query_points(self._name, query.tolist(), limit=most, search_params=exact).points
        named = [(point.payload or {}, point.score) for point in found]
        return [Hit(payload["name"], payload["file"], score) for payload, score in named]

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except ApiException as error:
            why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ArtifactError(f"{self.place.server}: {why:.200}", remedy=f"see the server, and ${KEY}") from error


def _where(field: str, value: str) -> Any:
    return models.Filter(must=[models.FieldCondition(key=field, match=models.MatchValue(value=value))])


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
