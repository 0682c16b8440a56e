"""Vectors on disk, and what is said of each: exact search, at any moment whole.

    index.sqlite     what is indexed: which model, each picture's name, file, hash and place
    vectors-N.npy    unit vectors [n, width], float32, or float16 in files that are added beyond `WIDE`; memory-mapped

A shard is written whole before a transaction names it, and removed after one has forgotten it: a process that is killed
leaves a file that nobody names, which the next one removes.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgekit.artifacts.disk_errors import file_errors
from edgekit.artifacts.documents import is_file
from edgekit.artifacts.files import create
from edgekit.artifacts.folders import locked
from edgekit.errors import ArtifactError, InputError, UsageError
from edgekit.retrieval.entries import Candidates, Entry, Hit, Shard
from edgekit.retrieval.patients import patient_key

DATABASE, SCHEMA = "index.sqlite", 1
CACHE, CACHE_NOTES = "cache.faiss", "cache.json"  # see `cache`
WIDE = 200_000  # vectors that are kept in float32
SHARD = 50_000  # vectors of a file at most
_BLOCK = 16_384  # vectors that are compared at once
_NONE = np.zeros(0, np.int64)
_CREATE = """
create table about (name text primary key, value text not null) strict;
create table shards (id integer primary key, file text not null unique, count integer not null) strict;
create table pictures (
    id integer primary key, name text not null unique, file text not null, sha256 text not null,
    patient text not null, shard integer not null references shards (id), place integer not null
) strict;
create index by_patient on pictures (patient);
create index by_file on pictures (file);
create index by_place on pictures (shard, place);
"""


class Index:
    """An index that is open.

    Args:
        folder: where it is.
        model: names the model whose vectors it has; None to read whatever is there.
        width: of a vector.
        make: make it where it is not there.

    Raises:
        UsageError: there is none, or it is of another model.
        ArtifactError: it is damaged, or another process is writing to it.
    """

    def __init__(self, folder: Path, model: str, width: int, *, make: bool = False) -> None:
        self.folder, self.width = folder, width
        if not is_file(folder / DATABASE):
            if not make:
                raise UsageError(f"{folder}: is no index", remedy=f"edgekit index MODEL IMAGES --to {folder}")
            _make(folder, model, width)
        self._database = sqlite3.connect(folder / DATABASE, isolation_level=None)
        try:
            about = dict(self._database.execute("select name, value from about").fetchall())
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise ArtifactError(f"{folder / DATABASE}: damaged: {error}", remedy="index the pictures anew") from error
        self.salt = bytes.fromhex(about.get("salt", ""))
        if about.get("schema") != str(SCHEMA) or about.get("model") != model or about.get("width") != str(width):
            self._database.close()
            raise UsageError(
                f"{folder}: an index of another model, {about.get('model', '?'):.16}",
                allowed=f"the model that it was made with; this one is {model:.16}",
                remedy="name that model, or another folder",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._database.close()

    def __len__(self) -> int:
        return int(self._database.execute("select count(*) from pictures").fetchone()[0])

    def patient_key(self, patient: str) -> str:
        """What a patient is known by in here, as `sources.patient_of` makes it: no number of theirs is kept."""
        return patient_key(self.salt, patient)

    def known(self, path: str) -> str | None:
        """The hash of a file as it was indexed; None where it was not."""
        found = self._database.execute("select sha256 from pictures where file = ? limit 1", (path,)).fetchone()
        return str(found[0]) if found else None

    def add(self, entries: Sequence[Entry]) -> None:
        """Keep pictures, in place of those of the same files: all of them, or after an error none."""
        if not entries:
            return
        wide = len(self) + len(entries) <= WIDE
        vectors = np.stack([entry.vector for entry in entries]).astype(np.float32 if wide else np.float16)
        name = f"vectors-{secrets.token_hex(8)}.npy"
        with create(self.folder / name) as file:
            np.save(file, vectors)
        with self._transaction() as database:
            for path in dict.fromkeys(entry.file for entry in entries):
                database.execute("delete from pictures where file = ?", (path,))
            shard = database.execute("insert into shards (file, count) values (?, ?)", (name, len(entries))).lastrowid
            database.executemany(
                "insert into pictures (name, file, sha256, patient, shard, place) values (?, ?, ?, ?, ?, ?)",
                [(one.name, one.file, one.sha256, one.patient, shard, place) for place, one in enumerate(entries)],
            )
        self.tidy()

    def forget(self, *, patient: str | None = None, file: str | None = None) -> int:
        """Remove all pictures of a patient, or of a file, their vectors with them; how many.

        Args:
            patient: the number in the files, which is nowhere kept.

        Raises:
            InputError: neither is named.
        """
        if not (patient or "").strip() and not file:
            raise InputError("nobody to forget", allowed="a patient's ID, or a file")
        column, value = ("patient", self.patient_key(patient)) if patient else ("file", file)
        with self._transaction() as database:
            gone = database.execute(f"delete from pictures where {column} = ?", (value,)).rowcount  # noqa: S608
        self.tidy(whole=True)
        for name in (CACHE_NOTES, CACHE):
            (self.folder / name).unlink(missing_ok=True)
        return int(gone)

    def search(self, query: NDArray[np.float32], most: int, cache: Candidates | None = None) -> list[Hit]:
        """The pictures whose vectors are the nearest, by cosine, all of them compared.

        Args:
            query: a unit vector [width].
            cache: of the files that it knows, only its candidates are compared.

        Raises:
            InputError: `most` is less than 1.
            ArtifactError: a file of vectors is missing or damaged.
        """
        return self.search_all(query[None], most, cache)[0]

    def search_all(
        self, queries: NDArray[np.float32], most: int, cache: Candidates | None = None
    ) -> list[list[Hit]]:
        """What `search` finds for each of several unit vectors [n, width]: vectors are read once for all of them."""
        if most < 1:
            raise InputError(f"{most} results", allowed="1 or more")
        if cache:
            return [self._search(query[None], most, cache.candidates(query, most))[0] for query in queries]
        return self._search(queries, most, {})

    def _search(
        self, queries: NDArray[np.float32], most: int, known: Mapping[str, NDArray[np.int64]]
    ) -> list[list[Hit]]:
        """Of files that are known, those places alone are compared."""
        best: list[list[tuple[float, int, int]]] = [[] for _ in queries]
        unused = self._unused()
        for shard in self.shards():
            vectors, gone = self.vectors(shard), unused.get(shard.number, _NONE)
            for places in (known[shard.file],) if shard.file in known else _blocks(shard.count):
                block = np.asarray(vectors[places], np.float32) @ queries.T
                numbers = np.arange(shard.count)[places]
                block[np.isin(numbers, gone)] = -np.inf
                for of, scores in zip(best, block.T, strict=True):
                    top = np.argpartition(-scores, most - 1)[:most] if most < len(scores) else range(len(scores))
                    of += [(float(scores[i]), shard.number, int(numbers[i])) for i in top if scores[i] > -np.inf]
            best = [sorted(of, key=lambda one: -one[0])[:most] for of in best]
        return [[self._hit(*one) for one in of] for of in best]

    def sample(self, most: int) -> Iterator[NDArray[np.float32]]:
        """So many unit vectors, evenly out of all files."""
        step = max(1, sum(shard.count for shard in self.shards()) // most)
        for shard in self.shards():
            yield from np.asarray(self.vectors(shard)[::step], np.float32)

    def shards(self) -> list[Shard]:
        """The files of vectors."""
        return [Shard(*row) for row in self._database.execute("select id, file, count from shards order by id")]

    def tidy(self, *, whole: bool = False) -> None:
        """Remove files of vectors that nobody names, and write those anew of which half is not used any more.

        Args:
            whole: also those of which a single one is not: of a patient nothing may stay.
        """
        used = {shard: int(count) for shard, count in self._database.execute(
            "select shard, count(*) from pictures group by shard").fetchall()}
        for shard in self.shards():
            left = used.get(shard.number, 0)
            if left == 0:
                with self._transaction() as database:
                    database.execute("delete from shards where id = ?", (shard.number,))
            elif left < (shard.count if whole else shard.count / 2):
                self._compact(shard)
        named = {shard.file for shard in self.shards()}
        for path in self.folder.glob("vectors-*.npy"):
            if path.name not in named:
                path.unlink()

    def _compact(self, shard: Shard) -> None:
        vectors = self.vectors(shard)
        found = self._database.execute("select id, place from pictures where shard = ? order by place", (shard.number,))
        rows = found.fetchall()
        made = f"vectors-{secrets.token_hex(8)}.npy"
        with create(self.folder / made) as file:
            np.save(file, np.ascontiguousarray(vectors[[place for _, place in rows]]))
        with self._transaction() as database:
            database.execute("update shards set file = ?, count = ? where id = ?", (made, len(rows), shard.number))
            moved = [(place, number) for place, (number, _) in enumerate(rows)]
            database.executemany("update pictures set place = ? where id = ?", moved)

    def _unused(self) -> Mapping[int, NDArray[np.int64]]:
        """Of each shard of which not all is in use, the places that are not."""
        found = self._database.execute(
            "select shards.id, shards.count, count(pictures.id) from shards left join pictures "
            "on pictures.shard = shards.id group by shards.id"
        ).fetchall()
        unused = {}
        for shard, count, used in found:
            if used < count:
                rows = self._database.execute("select place from pictures where shard = ?", (shard,)).fetchall()
                unused[int(shard)] = np.setdiff1d(np.arange(count), np.asarray([place for (place,) in rows], np.int64))
        return unused

    def vectors(self, shard: Shard) -> NDArray[Any]:
        """Of a file, memory-mapped: [count, width], float32 or float16. Raises ArtifactError."""
        path = self.folder / shard.file
        try:
            vectors: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path}: missing or damaged", remedy="index the pictures anew") from error
        if vectors.shape != (shard.count, self.width) or vectors.dtype not in (np.float32, np.float16):
            allowed = f"[{shard.count}, {self.width}]"
            raise ArtifactError(f"{path}: {list(vectors.shape)} {vectors.dtype}", allowed=allowed)
        return vectors

    def _hit(self, score: float, shard: int, place: int) -> Hit:
        row = self._database.execute("select name, file from pictures where shard = ? and place = ?", (shard, place))
        name, file = row.fetchone()
        return Hit(name, file, score)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with file_errors(self.folder):
            try:
                self._database.execute("begin immediate")
                yield self._database
                self._database.execute("commit")
            except sqlite3.Error as error:
                self._undo()
                raise ArtifactError(f"{self.folder / DATABASE}: {error}", remedy="see its disk, then again") from error
            except BaseException:
                self._undo()
                raise

    def _undo(self) -> None:
        if self._database.in_transaction:
            self._database.execute("rollback")


def _blocks(count: int) -> Iterator[slice]:
    """So many places, as many at once as are compared at once."""
    yield from (slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK))


@contextmanager
def writing(folder: Path, model: str, width: int) -> Iterator[Index]:
    """An index that nobody else writes to meanwhile, made where it is not there. Raises as `Index`."""
    with file_errors(folder), locked(folder), Index(folder, model, width, make=True) as index:
        index.tidy()
        yield index


def _make(folder: Path, model: str, width: int) -> None:
    """An empty index, all of it or nothing."""
    if any(path.name != DATABASE for path in folder.iterdir()):
        raise UsageError(f"{folder}: holds other files", allowed="a new or an empty folder, or an index")
    temporary = folder / f"{DATABASE}.new"
    about = {"schema": str(SCHEMA), "model": model, "width": str(width), "salt": secrets.token_hex(16)}
    with closing(sqlite3.connect(temporary, isolation_level=None)) as database:
        database.executescript(_CREATE)
        database.executemany("insert into about values (?, ?)", list(about.items()))
    temporary.replace(folder / DATABASE)
