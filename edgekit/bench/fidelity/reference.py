"""What full precision leaves for a task: its logits on the disk, and beside them all else that other rows need."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, Strict

from edgekit.artifacts.documents import is_file, read_json
from edgekit.artifacts.files import make_folder, replacing, write_atomically
from edgekit.artifacts.manifest import Manifest
from edgekit.artifacts.validation import Listed, Sha256, StrictModel, validated
from edgekit.bench.fidelity.distances import Distances
from edgekit.errors import ArtifactError, UsageError
from edgekit.runtime.base import Decoder, Float, Model, Segment, SupportsPasses, Tokens
from edgekit.runtime.chat_model import ChatModel

_INDEX_BYTES = 1 << 28
_TOGETHER = 1 << 13  # tokens of prompts that go through one pass, where weights are read anew for each
_Positive = Annotated[int, Field(gt=0, lt=1 << 40)]


@dataclass(frozen=True, eq=False)
class Document:
    """One prompt, and the positions in it that are compared.

    Attributes:
        want: ascending positions whose logits are compared.
        group: documents of equal numbers are not independent.
        follows: the tokens that follow these positions, of a given text; empty for one of the model's own.
    """

    segments: Sequence[Segment]
    want: Sequence[int]
    group: int
    follows: Sequence[int] = ()

    @property
    def sha256(self) -> str:
        """Identity of its token ids and positions; images count by their place, since each side encodes them itself."""
        ids = [list(s.ids) if isinstance(s, Tokens) else len(s) for s in self.segments]
        return hashlib.sha256(json.dumps([ids, list(self.want)]).encode()).hexdigest()


Documents = Callable[[ChatModel], Iterable[Document]]


class Left(StrictModel):
    """What stands beside the logits.

    Attributes:
        answers: full precision's own, where documents were made of them.
        documents: their hashes.
        shape: of the logits, positions and vocabulary.
        own: full precision's `Distances` from itself, which hold its losses and its confidence.
        floor: those of full precision in bfloat16; None where nobody could run it.
    """

    answers: Listed[str]
    documents: Listed[Sha256]
    shape: Annotated[tuple[_Positive, _Positive], Strict(False)]
    own: dict[str, Any]
    floor: dict[str, Any] | None

    @property
    def result(self) -> dict[str, Any]:
        """What the full-precision row's `run` returns."""
        return {"distances": self.own, "floor": self.floor, "answers": list(self.answers)}


@dataclass(frozen=True)
class Reference:
    """Full precision's logits of one task.

    Attributes:
        stored: their path without suffix.
        task: its name, for messages.
        margin: see `Distances.add`.
    """

    stored: Path
    task: str
    margin: float

    def left(self) -> Left | None:
        """What lies there; None where nothing was finished.

        Raises:
            ArtifactError: it is damaged.
        """
        if not (index := self._index).is_file():
            return None
        data = read_json(index, ArtifactError, most_bytes=_INDEX_BYTES, most_entries=_INDEX_BYTES)
        return validated(Left, data, str(index), ArtifactError)

    def leave(
        self,
        model: ChatModel,
        documents: Documents,
        answers: Sequence[str] = (),
        in_bfloat16: Callable[[], Model] | None = None,
    ) -> Left:
        """Write full precision's logits, and how far it is from itself in bfloat16."""
        make_folder(self.stored.parent)
        hashes, own, positions = [], Distances(), 0
        with replacing(self._logits) as temporary, temporary.open("wb") as stream:
            for document, rows in _decoded(model.decoder, documents(model)):
                hashes.append(document.sha256)
                for i, row in enumerate(rows):
                    row = np.ascontiguousarray(row, np.float32)
                    stream.write(row.data)
                    self._add(own, document, i, row, row)
                    positions += 1
        shape, floor = (positions, model.decoder.vocabulary), None
        if in_bfloat16:
            other = in_bfloat16()
            assert isinstance(other, ChatModel), "the same model in another type"
            try:
                floor = self._compared(other, documents, hashes, shape).plain()
            finally:
                other.close()
        left = Left(answers=tuple(answers), documents=tuple(hashes), shape=shape, own=own.plain(), floor=floor)
        write_atomically(self._index, left.model_dump_json())  # last: its presence says that the rest is complete
        return left

    def compare(self, model: ChatModel, documents: Documents) -> Distances:
        """How far a model is from full precision, at every position.

        Raises:
            UsageError: full precision left nothing.
            ArtifactError: what it left is damaged, or the model builds other prompts.
        """
        left = self.required()
        return self._compared(model, documents, left.documents, left.shape)

    def required(self) -> Left:
        """As `left`; raises UsageError where nothing lies there."""
        if (left := self.left()) is None:
            raise UsageError(f"{self.task}: the reference left no logits: see its row")
        return left

    def _compared(
        self, model: ChatModel, documents: Documents, hashes: Sequence[str], shape: tuple[int, int]
    ) -> Distances:
        if not is_file(self._logits) or self._logits.stat().st_size != 4 * shape[0] * shape[1]:
            said = f"{self._logits}: not the logits that {self._index.name} describes"
            raise ArtifactError(said, remedy="run the same command again, which leaves both anew")
        expected: NDArray[np.float32] = np.memmap(self._logits, np.float32, "r", shape=shape)
        if model.decoder.vocabulary > shape[1]:
            said = f"{self.task}: {model.decoder.vocabulary} logits a position"
            raise ArtifactError(said, allowed=f"at most full precision's {shape[1]}")
        distances = Distances()
        for number, (document, rows) in enumerate(_decoded(model.decoder, documents(model))):
            if number == len(hashes) or document.sha256 != hashes[number]:
                said = f"{self.task}: document {number}: the model builds another prompt than its reference"
                raise ArtifactError(said)
            for i, row in enumerate(rows):
                self._add(distances, document, i, expected[len(distances.kl)], row)
        return distances

    def _add(self, distances: Distances, document: Document, i: int, expected: Float, actual: Float) -> None:
        follows = document.follows[i] if document.follows else None
        distances.add(expected, actual, group=document.group, follows=follows, margin=self.margin)

    @property
    def _index(self) -> Path:
        return self.stored.with_suffix(".json")

    @property
    def _logits(self) -> Path:
        return self.stored.with_suffix(".f32")


def _decoded(decoder: Decoder, documents: Iterable[Document]) -> Iterator[tuple[Document, Iterator[Float]]]:
    """Each document with its logits, which must be taken before the next one is asked for."""
    if not isinstance(decoder, SupportsPasses):
        for document in documents:
            yield document, decoder.prefill(document.segments, document.want)
        return
    for batch in _batches(documents):
        # Closed behind its last row: the model is under way until then, and builds no further prompt.
        with closing(decoder.passes([(document.segments, document.want) for document in batch])) as rows:
            for document in batch:
                yield document, islice(rows, len(document.want))


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents that go through one pass: together as many tokens as there may be, all filled up to the longest."""
    batch: list[Document] = []
    longest = 0
    for document in documents:
        longest = max(longest, sum(map(len, document.segments)))
        if batch and longest * (len(batch) + 1) > _TOGETHER:
            yield batch
            batch, longest = [], sum(map(len, document.segments))
        batch.append(document)
    if batch:
        yield batch


def logits_bytes(manifest: Manifest, positions: int) -> int:
    """What the float32 logits of so many positions take on the disk."""
    rows = manifest.settings.get("vocabulary")
    # What is no number is refused where the level is opened, in one list with all else that is missing.
    return 4 * (rows if isinstance(rows, int) else 0) * positions
