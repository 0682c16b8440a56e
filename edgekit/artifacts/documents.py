"""JSON and TOML that others wrote: of bounded size and depth, with one meaning, and all of it numbers and text."""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from edgekit.errors import EdgekitError

T = TypeVar("T")

MOST_BYTES = 1 << 20
MOST_ENTRIES = 20_000  # an empty list takes twenty times the memory of its text
_MOST_DEPTH = 64
_MOST_DIGITS = 40  # tokenizers of the hub say 10**30 where they mean infinity
_BEYOND_USE = 10**_MOST_DIGITS
_SURROGATE = re.compile("[\ud800-\udfff]")
_STRUCTURE = (b",", b":", b"[", b"{")
_AT_LINE = re.compile(r"at line (\d{1,9})\b")  # as tomllib ends its messages
# tomllib takes minutes for a key of many thousand parts: its time grows with their square.
_LONG_KEY = re.compile(r"""(?<![^\s.="'])(?:(?:"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+'|[^\s.="']++)[ \t]*+\.[ \t]*+){64}""")


def read_json(
    path: Path, error: type[EdgekitError], *, most_bytes: int = MOST_BYTES, most_entries: int = MOST_ENTRIES
) -> Any:
    """What a JSON file holds.

    Args:
        error: what is raised.
        most_entries: of all its objects and lists together.

    Raises:
        error: it cannot be read, is too large, no JSON, or has two meanings.
    """
    return json_value(read_bounded(path, error, most_bytes), str(path), error, most_entries=most_entries)


def json_value(raw: bytes, where: str, error: type[EdgekitError], *, most_entries: int = MOST_ENTRIES) -> Any:
    """What JSON says: no name twice in one object, no NaN or infinity, no number or depth beyond all use, no half
    characters.

    Args:
        where: what the message begins with.

    Raises:
        error: it is no such JSON.
    """
    if sum(map(raw.count, _STRUCTURE)) > most_entries:
        raise error(f"{where}: not valid JSON: more than {most_entries} entries")
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=unique_names, parse_int=_integer)
    except (ValueError, RecursionError) as problem:
        raise error(f"{where}: not valid JSON: {problem}") from problem
    return _checked(value, where, error)


def read_toml(path: Path, error: type[EdgekitError]) -> dict[str, Any]:
    """What a TOML file holds, under the same conditions as `json_value`; no dates.

    Raises:
        error: it cannot be read, is too large, or no such TOML.
    """
    raw = read_bounded(path, error, MOST_BYTES)
    if sum(map(raw.count, (b",", b"=", b"[", b"{"))) > MOST_ENTRIES:
        raise error(f"{path}: not valid TOML: more than {MOST_ENTRIES} entries")
    try:
        text = raw.decode("utf-8")
        long_key = _LONG_KEY.search(text)
        value = {} if long_key else tomllib.loads(text)
    except (ValueError, RecursionError) as problem:
        raise error(f"{path}: not valid TOML: {problem}{_quoted_line(str(problem), raw)}") from problem
    if long_key:
        raise error(f"{path}: a key of more than 64 parts")
    return _checked(value, str(path), error)


def _quoted_line(problem: str, raw: bytes) -> str:
    """The line that a parser stumbled over, which says more than its number: a key that stands there twice."""
    place = _AT_LINE.search(problem)
    lines = raw.decode("utf-8", "replace").split("\n")
    return f": {lines[int(place[1]) - 1].strip()!r:.80}" if place and int(place[1]) <= len(lines) else ""


def _checked(value: T, where: str, error: type[EdgekitError]) -> T:
    try:
        check_values(value)
    except ValueError as problem:
        raise error(f"{where}: {problem}") from problem
    return value


def read_bounded(path: Path, error: type[EdgekitError], most_bytes: int) -> bytes:
    """The content of a file, and nothing of one that is larger.

    Raises:
        error: it is larger, no file, or cannot be read.
    """
    if not is_file(path):  # a pipe would be waited for
        raise error(f"{path}: no such file")
    try:
        with path.open("rb") as stream:
            raw = stream.read(min(os.fstat(stream.fileno()).st_size, most_bytes) + 1)
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem}") from problem
    if len(raw) > most_bytes:
        raise error(f"{path}: too large", allowed=f"at most {most_bytes} bytes")
    return raw


def is_file(path: Path) -> bool:
    """Whether there is a file of this name; there is none behind a loop of links, or of a name that none can have."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder of this name, in the same sense."""
    try:
        return path.is_dir()
    except OSError:
        return False


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, for `json.loads`. Of two entries with one name, two readers may take different ones.

    Raises:
        ValueError: a name stands in it twice.
    """
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("an object has two entries of one name")
    return entries


Place = tuple["Place", object] | None  # where a value stands: its container's place, and its name or number there


def check_values(value: Any, place: Place = None, depth: int = 0) -> None:
    """Raise ValueError where a parsed value holds what JSON cannot say, or is nested too deeply."""
    if depth > _MOST_DEPTH:
        raise ValueError(f"nested more than {_MOST_DEPTH} deep")
    if isinstance(value, dict):
        named: Iterable[tuple[Any, Any]] = value.items()
        for name in value:
            if not name.isascii():  # as in most texts, which this makes twice as fast
                _check_scalar(name, place)
    elif isinstance(value, list):
        named = enumerate(value)
    else:
        _check_scalar(value, place)
        return
    for name, entry in named:
        if isinstance(entry, dict | list):
            check_values(entry, (place, name), depth + 1)
        elif not (isinstance(entry, str) and entry.isascii()):
            _check_scalar(entry, (place, name))


def _check_scalar(value: Any, place: Place) -> None:
    problem = ""
    if isinstance(value, str):
        problem = f"half a character in {value!r:.80}" if _SURROGATE.search(value) else ""
    elif isinstance(value, float):
        problem = "" if math.isfinite(value) else f"{value} is no finite number"
    elif isinstance(value, int):
        problem = "" if abs(value) < _BEYOND_USE else "a number beyond all use"
    elif value is not None:
        problem = f"a {type(value).__name__}, which is no text or number"
    if problem:
        raise ValueError(f"{_dotted(place)}{problem}")


def _dotted(place: Place) -> str:
    names: list[str] = []
    while place:
        place, name = place
        names.insert(0, f"{name!s:.40}")
    return f"{'.'.join(names)}: " if names else ""


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
