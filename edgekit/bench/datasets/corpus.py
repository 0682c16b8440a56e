"""Running text: documents of a file, or the passage that comes with edgekit where a data set names no file.

file                  documents
.txt, .txt.gz         separated by an empty line: `Q:` and `A:` lines that follow each other are one
.jsonl, .jsonl.gz     one a line, an object
.json                 an object of objects, or a list of them

Of an object the document is its text under the keys `text`, `context(s)`, `question`, `answer` and `long_answer`, in
that order, in upper or lower case; a list of texts is joined.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.artifacts.documents import check_values
from edgekit.bench.datasets.base import DatasetSource, Reader, Sample
from edgekit.errors import InputError
from edgekit.inputs.passage import passage

_KEYS = ("text", "context", "contexts", "question", "answer", "long_answer")
_MOST_BYTES = 1 << 30  # unpacked
_SUFFIXES = (".txt", ".jsonl", ".json")


def read(source: DatasetSource, limit: int, seed: int, data: Path | None) -> tuple[Sample, ...]:
    """Up to `limit` documents, chosen by the seed: each is a question without an answer, and a group of its own.

    Raises:
        InputError: the file is missing or damaged, or a line of it is no document; the message names it.
    """
    if source.file is None or data is None:
        return (Sample("", "passage", question=passage(), id="passage"),)
    path = data / source.file
    if not path.is_file():
        raise InputError(f"{path} does not exist", remedy=f"give the folder that holds {source.file} as --data")
    documents = dict(_documents(path))
    chosen = np.random.default_rng(seed).permutation(len(documents))[:limit]
    names = list(documents)
    return tuple(Sample("", names[i], question=documents[names[i]], id=names[i]) for i in chosen)


def _documents(path: Path) -> Iterator[tuple[str, str]]:
    """The documents by what their file calls them: a record's key, or the number of their first line.

    Raises:
        InputError: see `read`.
    """
    packed = path.suffix == ".gz"
    kind = path.with_suffix("").suffix if packed else path.suffix
    if kind not in _SUFFIXES:
        said = f"{path}: no corpus is kept as {kind or 'a file without a suffix'}"
        raise InputError(said, allowed=", ".join(_SUFFIXES))
    text = _unpacked(path, packed)
    if kind == ".txt":
        yield from _paragraphs(text)
        return
    for where, record in _records(path, kind, text):
        if document := _text_of(record):
            yield where, document
        else:
            raise InputError(f"{path}: {where}: no text", allowed=f"an object with one of {', '.join(_KEYS)}")


def _unpacked(path: Path, packed: bool) -> str:
    """The whole text of a file.

    Raises:
        InputError: it is damaged, too large, or not UTF-8.
    """
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            raw = stream.read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged: {error}", remedy="copy the file again") from error
    if len(raw) > _MOST_BYTES:
        raise InputError(f"{path}: too large for a corpus", allowed=f"at most {_MOST_BYTES} bytes unpacked")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}", remedy="copy the file again") from error


def _paragraphs(text: str) -> Iterator[tuple[str, str]]:
    first, lines = 0, list[str]()
    for number, line in enumerate(io.StringIO(f"{text}\n\n"), 1):
        if line.strip():
            first = first if lines else number
            lines.append(line)
        elif lines:
            yield f"line {first}", "".join(lines).strip()
            lines = []


def _records(path: Path, kind: str, text: str) -> Iterator[tuple[str, Any]]:
    """Each record with its place.

    Raises:
        InputError: the file, or a line of it, is no JSON.
    """
    if kind == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"line {number}", _json(f"{path}: line {number}", line)
        return
    whole = _json(str(path), text)
    if isinstance(whole, dict):
        yield from ((str(key), value) for key, value in whole.items())
    elif isinstance(whole, list):
        yield from ((f"entry {number}", value) for number, value in enumerate(whole, 1))
    else:
        raise InputError(f"{path}: neither an object nor a list", allowed="records")


def _json(where: str, text: str) -> Any:
    try:
        value = json.loads(text)
        check_values(value)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: no JSON: {error}", remedy="copy the file again") from error
    return value


def _text_of(record: Any) -> str:
    """The document of a record; empty where it has none."""
    if not isinstance(record, dict):
        return ""
    by_key = {str(key).lower(): value for key, value in record.items()}
    found = [by_key[key] for key in _KEYS if key in by_key]
    parts = [part for value in found for part in (value if isinstance(value, list) else [value])]
    return "\n".join(part.strip() for part in parts if isinstance(part, str) and part.strip())


READER = Reader("corpus", read)
