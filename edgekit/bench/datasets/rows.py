"""Rows of a table: CSV, TSV, JSON lines, JSON or parquet, each but the last also packed by gzip.

What spreadsheets write is read as it is: a byte order mark, semicolons or tabs between the columns, a first line
`sep=;`, line breaks inside a cell.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.artifacts.documents import check_values, unique_names
from edgekit.checkpoints.hub import go_offline
from edgekit.errors import InputError, MissingDependencyError

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet")
_MOST_BYTES = 1 << 30  # unpacked
_MOST_CELL = 4_000_000  # characters; a passage may be long
_MOST_COLUMNS = 10_000
MOST_ROWS = 1_000_000  # one takes a kilobyte of memory and more
MOST_CELLS = 20_000_000  # of all rows: an empty one takes a hundred times the memory of its text
_DELIMITERS = ",;\t|"
_CONSTANTS = {"NaN": None, "Infinity": math.inf, "-Infinity": -math.inf}
_DAMAGED = (OSError, EOFError, zlib.error)


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        place: where it stands, as people find it: `line 7`.
        values: by the columns' names.
        problem: why it is none, else None.
    """

    place: str
    values: Mapping[str, Any]
    problem: str | None = None

    def get(self, column: str | None) -> Any:
        """What stands in a column; one of nested values by its dotted name, an empty cell and no column as None."""
        if column is None:
            return None
        value: Any = self.values.get(column)
        if column not in self.values and "." in column:
            value = self.values
            for part in column.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, str):
            value = value.strip()
        return None if value == "" else value

    def text(self, column: str | None) -> str:
        """The same as a text, "" for nothing."""
        return as_text(self.get(column))


def as_text(value: Any) -> str:
    """A cell's value as people write it: 3 for 3.0, nothing for None."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()


def is_table(path: Path) -> bool:
    """Whether a file's name says that it is a table."""
    return _kind(path) in SUFFIXES


def read(path: Path, header: Sequence[str] = ()) -> list[Row]:
    """All rows of a table.

    Args:
        header: the columns' names, where the file has no line with them.

    Raises:
        InputError: it is missing, damaged, too large, in another encoding than UTF-8 or UTF-16, or no table.
        MissingDependencyError: it is parquet, and the library that reads it is not installed.
    """
    kind = _kind(path)
    if kind not in SUFFIXES:
        allowed = f"a file that ends in {', '.join(SUFFIXES)}, each but the last also with .gz"
        raise InputError(f"{path}: no table that is known", allowed=allowed)
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    if kind == ".parquet":
        return _parquet(path)
    readers: dict[str, Callable[[str, Path], Iterator[Row]]] = {
        ".json": _json, ".jsonl": _json_lines, ".ndjson": _json_lines,
    }  # fmt: skip
    text = _text(path)
    if kind in readers and sum(map(text.count, ",:[{")) > 2 * MOST_CELLS:  # before all of it is taken apart
        raise InputError(f"{path}: too many values", allowed=f"at most {MOST_CELLS}")
    rows = _bounded(readers[kind](text, path) if kind in readers else _cells(text, path, header), str(path))
    if not rows:
        raise InputError(f"{path}: no row in it")
    return rows


def _bounded(rows: Iterator[Row], where: str) -> list[Row]:
    """All rows, or an error as soon as there are more than any memory should hold."""
    kept, cells = list[Row](), 0
    for row in rows:
        kept.append(row)
        cells += len(row.values)
        if len(kept) > MOST_ROWS or cells > MOST_CELLS:
            raise InputError(
                f"{where}: too many rows",
                allowed=f"at most {MOST_ROWS} rows and {MOST_CELLS} cells",
                remedy="keep the rows that are measured",
            )
    return kept


def _kind(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def _text(path: Path) -> str:
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    except _DAMAGED as error:
        raise InputError(f"{path}: cannot be read: {error}", remedy="copy the file again") from error
    if len(data) > _MOST_BYTES:
        raise InputError(f"{path}: too large", allowed=f"at most {_MOST_BYTES} bytes, unpacked")
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}: line {line}: not UTF-8: the byte 0x{data[error.start]:02x}",
            remedy="save it as UTF-8; in a spreadsheet: Save as, CSV UTF-8",
        ) from error


def _cells(text: str, path: Path, header: Sequence[str]) -> Iterator[Row]:
    """Rows of a file of separated values; one with too many or too few cells says so."""
    skipped, delimiter = 0, None
    first, _, rest = text.partition("\n")
    if first.lower().startswith("sep=") and len(first.rstrip("\r")) == 5:
        skipped, delimiter, text = 1, first[4], rest
        first = text.partition("\n")[0]
    delimiter = delimiter or _delimiter(first, path)
    before = csv.field_size_limit(_MOST_CELL)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        names = [name.strip() for name in (header or next(reader, ()))]
        _check_header(names, path)
        begin = reader.line_num
        for cells in reader:
            place, begin = f"line {begin + 1 + skipped}", reader.line_num
            if any(cell.strip() for cell in cells):
                whole = len(cells) == len(names) or not any(cells[len(names) :])
                problem = None if whole and len(cells) >= len(names) else f"{len(cells)} cells, {len(names)} columns"
                yield Row(place, dict(zip(names, cells, strict=False)), problem)
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num + skipped}: {error}", remedy="correct the file") from error
    finally:
        csv.field_size_limit(before)


def _delimiter(line: str, path: Path) -> str:
    """What stands between the columns' names, outside of quotes."""
    if _kind(path) == ".tsv":
        return "\t"
    bare = "".join(line.split('"')[::2])
    return max(_DELIMITERS, key=bare.count)


def _check_header(names: Sequence[str], path: Path) -> None:
    if len(names) > _MOST_COLUMNS:
        raise InputError(f"{path}: {len(names)} columns", allowed=f"at most {_MOST_COLUMNS}")
    twice = sorted(name for name, count in Counter(names).items() if name and count > 1)
    if twice:
        raise InputError(f"{path}: the column {twice[0]!r:.80} stands in it twice", remedy="rename one of them")
    if not any(names):
        raise InputError(f"{path}: its first line names no columns")


def _json_lines(text: str, path: Path) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _object(line, f"line {number}")


def _object(line: str, place: str) -> Row:
    try:
        value = _decoded(line)
    except (ValueError, RecursionError) as error:
        return Row(place, {}, f"not valid JSON: {error}")
    return _entry(value, place)


def _entry(value: Any, place: str) -> Row:
    """A row of an object, if it is one and all of it can be written down again: no half characters, no infinity."""
    if not isinstance(value, dict):
        return Row(place, {}, "no JSON object")
    try:
        check_values(value)
    except ValueError as problem:
        return Row(place, {}, str(problem))
    return Row(place, value)


def _decoded(text: str) -> Any:
    """What JSON says; NaN, which pandas writes for an empty cell, as nothing."""
    return json.loads(text, object_pairs_hook=unique_names, parse_constant=_CONSTANTS.__getitem__)


def _json(text: str, path: Path) -> Iterator[Row]:
    """A list of objects, or an object of objects, whose names are then in the column `key`; or JSON lines after all."""
    try:
        value = _decoded(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            yield from _json_lines(text, path)
            return
        raise InputError(f"{path}: not valid JSON: {error}") from error
    if isinstance(value, dict) and all(isinstance(entry, dict) for entry in value.values()):
        yield from (_entry({"key": key, **entry}, f"entry {key}") for key, entry in value.items())
    elif isinstance(value, list):
        yield from (_entry(entry, f"entry {number}") for number, entry in enumerate(value, 1))
    else:
        raise InputError(f"{path}: no table", allowed="a list of objects, or an object of objects")


def _parquet(path: Path) -> list[Row]:
    library = data_sets_library("parquet files")
    try:
        table = library.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
        return numbered(table, str(path))
    except (library.exceptions.DatasetsError, *_DAMAGED, ValueError, TypeError) as error:
        raise InputError(f"{path}: no parquet file that can be read: {error}") from error


def numbered(table: Any, where: str) -> list[Row]:
    """The rows of a table of the library `datasets`, images as the bytes that are stored.

    Raises:
        InputError: there are more than any memory should hold.
    """
    stored = table.decode(False) if table.features else table  # what says no types has no images
    return _bounded((Row(f"row {number}", row) for number, row in enumerate(stored, 1)), where)


def data_sets_library(wanted: str) -> Any:
    """Hugging Face's library `datasets`, which reads data alone: it runs no code of a data set's.

    Raises:
        MissingDependencyError: it is not installed.
    """
    go_offline()  # it would count its uses, and ask for what the cache has
    try:
        import datasets
    except ImportError as error:
        remedy = "pip install 'edgekit[data]'"
        raise MissingDependencyError(f"{wanted} need the library datasets", remedy=remedy) from error
    return datasets
