"""A run's results as one JSON document, and back: what `edgekit report` merges and what RESULTS.md is made of.

The schema is that of the dataclasses. A figure that is no finite number is null in JSON and NaN again when it is read.
A hash of all that was measured tells a document that was cut or changed from one that is as it was written.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from edgekit.artifacts.documents import is_file, is_folder, read_json
from edgekit.artifacts.files import sha256_json
from edgekit.artifacts.validation import StrictModel, validated
from edgekit.bench.decision import Question, decide
from edgekit.bench.plausible import check
from edgekit.bench.records import plain
from edgekit.bench.results import Results, damage
from edgekit.bench.runs import Earlier, changes
from edgekit.errors import InputError
from edgekit.metrics import METRIC_VERSION, Estimate
from edgekit.terminal import json_text

# Raised whenever a document's fields change their meaning; what was written under another is refused.
VERSION = 1
MARK, HASH = "bench_version", "sha256"
FILE_NAME = "results.json"
_MOST_BYTES, _MOST_ENTRIES = 1 << 28, 1 << 23
_FOLLOWS = ("controls_show_damage", "controls", "decisions", "changes")  # from the rest; not read again
_ESTIMATE = {field.name for field in fields(Estimate)}
_AGAIN = "measure again with this edgekit, or read it with the one that wrote it"


def as_json(results: Results, question: Question | None = None, earlier: Earlier | None = None) -> str:
    """All records, phases, notes and decisions as one JSON document."""
    own = plain({field.name: getattr(results, field.name) for field in fields(results)})
    follows = (
        results.shows_damage,
        damage(results.records),
        [made.summary() for made in decide(results.records, question)],
        changes(earlier.results, results)[0] if earlier else [],
    )
    said = plain(dict(zip(_FOLLOWS, follows, strict=True)))
    return json_text({MARK: VERSION, HASH: sha256_json(own), **own, **said}, indent=1) + "\n"


def read(path: Path) -> Results:
    """The results in a file, or in the folder that `bench --to` wrote.

    Raises:
        InputError: it cannot be read, is none, is damaged, or was written or computed by another version.
    """
    if is_folder(path) and not is_file(path / FILE_NAME) and is_folder(path / "work"):
        raise InputError(f"{path}: a run that is not finished", remedy="repeat its edgekit bench command: it goes on")
    if path.suffix.lower() in (".html", ".md", ".csv", ".jsonl"):
        raise InputError(f"{path}: a report, and no results", remedy=f"name {FILE_NAME} beside it, or their folder")
    path = path / FILE_NAME if is_folder(path) else path
    data = read_json(path, InputError, most_bytes=_MOST_BYTES, most_entries=_MOST_ENTRIES)
    if not isinstance(data, dict) or "records" not in data:
        raise InputError(f"{path}: no results of a benchmark", allowed="what edgekit bench --to DIR writes")
    version = data.pop(MARK, None)
    if type(version) is not int or version != VERSION:  # JSON's true and 1.0 equal 1
        raise InputError(f"{path}: {MARK} {version!r:.40}", allowed=str(VERSION), remedy=_AGAIN)
    for name in _FOLLOWS:
        data.pop(name, None)
    if data.pop(HASH, None) != sha256_json(data):
        raise InputError(f"{path}: is not as it was written", remedy="copy it anew from where it was measured")
    raw = json.dumps({"results": _numbers(data)}).encode()
    results = validated(_Document, raw, str(path), InputError, remedy=_AGAIN).results
    for record in results.records:
        if (computed := record.environment.metric_version) != METRIC_VERSION:
            wrong = f"{path}: {record.model}, {record.row}: figures of metric version {computed}"
            raise InputError(wrong, allowed=str(METRIC_VERSION), remedy=_AGAIN)
    check(results, str(path))
    return results


class _Document(StrictModel, allow_inf_nan=True):
    results: Results


def _numbers(value: Any) -> Any:
    """JSON data with NaN for the null that stands in an estimate."""
    if isinstance(value, Mapping):
        holds = value.keys() >= {"value", "low", "high", "n"} and value.keys() <= {*_ESTIMATE, "difference"}
        gaps = ("value", "low", "high") if holds else ()
        nan = float("nan")
        return {key: nan if entry is None and key in gaps else _numbers(entry) for key, entry in value.items()}
    return [_numbers(entry) for entry in value] if isinstance(value, list) else value


def typed(results: Results, words: Sequence[str]) -> Results:
    """The same results with the command that measured them.

    Args:
        words: of the command line behind `edgekit`; of an absolute path the last name is kept, for the rest says where
            somebody keeps data.
    """
    return replace(results, command=shlex.join(["edgekit", *map(_without_folders, words)]))


def _without_folders(word: str) -> str:
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    return f"{option}{equals}{Path(value).name if Path(value).is_absolute() else value}"
