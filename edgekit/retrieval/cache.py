"""A faster way through an index of a million vectors: candidates by faiss, their scores exact.

    cache.faiss    the vectors once more, in cells and of 8 bits a number
    cache.json     of which files of vectors, how many cells are looked into, and the recall that this was found to give

It is made anew from the index at any time. What was added since is compared exactly, what was removed is passed over;
where a patient is forgotten it is removed, for their vectors are in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from edgekit.artifacts.disk_errors import file_errors
from edgekit.artifacts.files import replacing, write_atomically
from edgekit.errors import ArtifactError, EdgekitError
from edgekit.retrieval.index import CACHE, CACHE_NOTES, Index

Vectors = NDArray[np.float32]

RECALL = 0.99  # of the ten nearest, of every kind of question
_PER_CELL = 40  # vectors that a cell is learnt from
_ROUNDS = 10  # of k-means: more change the recall by less than another cell does
_CANDIDATES = 10  # for each that is wanted, at least for ten: 8 bits order neighbours otherwise than 32
_BLOCK = 50_000


@dataclass(frozen=True)
class About:
    """What a cache is.

    Attributes:
        shards: the files of vectors that it is of, each with its count, in the order of its numbers.
        probes: cells that are looked into.
        recall: of each kind of question, the share of the ten nearest that is found, at these probes.
    """

    shards: tuple[tuple[str, int], ...]
    probes: int
    recall: Mapping[str, float]


class Cache:
    """A cache of an index.

    Raises:
        ArtifactError: there is none, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        try:
            noted = json.loads((folder / CACHE_NOTES).read_text(encoding="utf-8"))
            self.about = About(tuple((str(n), int(c)) for n, c in noted["shards"]), noted["probes"], noted["recall"])
            cells: Any = faiss.read_index(str(folder / CACHE), faiss.IO_FLAG_MMAP)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise ArtifactError(
                f"{folder / CACHE}: missing or damaged", remedy="make it anew: edgekit index MODEL --to INDEX --cache"
            ) from error
        if cells.ntotal != sum(count for _, count in self.about.shards):
            raise ArtifactError(f"{folder / CACHE}: is of another index", remedy="remove it, or make it anew")
        cells.nprobe = self.about.probes
        self._cells = cells

    def candidates(self, query: Vectors, most: int) -> dict[str, NDArray[np.int64]]:
        """Places that may be the nearest, of each file of vectors that it is of.

        Args:
            query: a unit vector [width].
        """
        _, found = self._cells.search(query[None], _CANDIDATES * max(most, 10))
        numbers = np.sort(found[0][found[0] >= 0])
        ends = np.cumsum([count for _, count in self.about.shards])
        files = np.searchsorted(ends, numbers, side="right")
        begins = ends - [count for _, count in self.about.shards]
        return {name: numbers[files == at] - begins[at] for at, (name, _) in enumerate(self.about.shards)}


def build(index: Index, questions: Mapping[str, Vectors], advance: Callable[[str], None] = lambda _: None) -> About:
    """Make an index's cache, with as many probes as the recall needs that is promised.

    Vectors are put into the cells of k-means, as 8 bits a number (faiss: IVF, SQ8). Questions are then asked of it and
    of all vectors, with twice as many probes until every kind finds `RECALL` of its ten nearest.

    Args:
        questions: kind -> unit vectors [n, width], of what will be asked: images are not asked as texts are.
        advance: is told what is being done.

    Raises:
        EdgekitError: the index is empty.
        ArtifactError: its disk is full.
    """
    shards = index.shards()
    count = sum(shard.count for shard in shards)
    if not count:
        raise EdgekitError(f"{index.folder}: nothing to make a cache of", remedy="index pictures first")
    cells = max(1, min(round(4 * math.sqrt(count)), count // _PER_CELL))
    made: Any = faiss.index_factory(index.width, f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT)
    made.cp.niter = _ROUNDS
    advance(f"learning {cells} cells")
    made.train(np.stack(list(index.sample(cells * _PER_CELL))))
    for shard in shards:
        advance(f"adding {shard.file}")
        for start in range(0, shard.count, _BLOCK):
            made.add(np.asarray(index.vectors(shard)[start : start + _BLOCK], np.float32))
    advance("measuring its recall")
    exact = {kind: _names(index, rows) for kind, rows in questions.items()}
    with file_errors(index.folder), replacing(index.folder / CACHE) as temporary:
        try:
            faiss.write_index(made, str(temporary))
        except RuntimeError as error:  # what the library makes of a full disk
            raise ArtifactError(
                f"{index.folder / CACHE}: it cannot be written", remedy=f"see its disk: it takes {_bytes(index)} MB"
            ) from error
    probes, recall = 1, dict[str, float]()
    while not recall or (min(recall.values()) < RECALL and probes < cells):
        probes = min(cells, 2 * probes)
        about = About(tuple((shard.file, shard.count) for shard in shards), probes, recall)
        _note(index.folder, about)
        cache = Cache(index.folder)
        recall = {kind: _recall(index, cache, rows, exact[kind]) for kind, rows in questions.items()}
    about = About(about.shards, probes, recall)
    _note(index.folder, about)
    return about


def _bytes(index: Index) -> int:
    """About how large a cache is, in MB."""
    return 1 + len(index) * (index.width + 8) // 1_000_000


def _note(folder: Path, about: About) -> None:
    with file_errors(folder):
        write_atomically(folder / CACHE_NOTES, json.dumps(asdict(about)) + "\n")


def _names(index: Index, questions: Vectors, cache: Cache | None = None) -> list[set[str]]:
    return [{hit.name for hit in hits} for hits in index.search_all(questions, 10, cache)]


def _recall(index: Index, cache: Cache, questions: Vectors, exact: list[set[str]]) -> float:
    pairs = zip(_names(index, questions, cache), exact, strict=True)
    return float(np.mean([len(found & right) / len(right) for found, right in pairs]))
