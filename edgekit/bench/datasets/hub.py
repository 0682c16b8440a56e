"""Data sets of Hugging Face's hub, in its own cache, where every other tool finds them.

Nothing is downloaded unless the user asks for it, and then data alone: tables, images, and the card that says which
file is which split. What is a program (a loading script) is neither downloaded nor run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.bench.datasets.rows import Row, data_sets_library, numbered
from edgekit.bench.datasets.schema import HubSource
from edgekit.checkpoints.hub import explained, is_id, library
from edgekit.errors import HubError, InputError, MissingDependencyError, UsageError

_TABLES = ("*.parquet", "*.csv", "*.tsv", "*.json", "*.jsonl", "*.csv.gz", "*.json.gz", "*.jsonl.gz")
_IMAGES = ("*.jpg", "*.jpeg", "*.png", "*.webp", "*.bmp", "*.tif", "*.tiff", "*.zip")
_CARD = "README.md"


def cached(source: HubSource, cache: Path | None = None) -> Path | None:
    """A data set's folder in the local cache, None where it is not there; the network is not asked.

    Args:
        cache: the cache's folder; what huggingface_hub is set to for None.
    """
    _check(source)
    try:
        hub = library()
    except MissingDependencyError:
        return None
    try:
        snapshot = hub.snapshot_download(
            source.id, repo_type="dataset", revision=source.revision, cache_dir=cache, local_files_only=True
        )
    except hub.errors.LocalEntryNotFoundError:
        return None
    folder = Path(snapshot)
    return folder if any(path.name != _CARD for path in folder.rglob("*") if path.is_file()) else None


def fetch(source: HubSource, cache: Path | None = None) -> Path:
    """Download a data set, or what is missing of it, and return its folder in the cache.

    Raises:
        HubError: offline mode is on, the hub refuses or cannot be reached, or it holds no data.
    """
    _check(source)
    hub = library()
    if hub.is_offline_mode():
        raise HubError(f"{source.id}: HF_HUB_OFFLINE is set, so nothing is downloaded", remedy="unset HF_HUB_OFFLINE")
    wanted = source.files or (*_TABLES, *_IMAGES)
    with explained(source.id):
        hub.snapshot_download(
            source.id, repo_type="dataset", revision=source.revision, cache_dir=cache, allow_patterns=[_CARD, *wanted]
        )
    folder = cached(source, cache)
    if folder is None:
        raise HubError(f"{source.id}: holds no data", allowed=", ".join(wanted))
    return folder


def rows(source: HubSource, folder: Path) -> list[Row]:
    """The rows of its split.

    Args:
        folder: the data set's in the cache.

    Raises:
        MissingDependencyError: the library `datasets` is not installed.
        InputError: no such configuration or split, or its files are damaged.
    """
    there = data_sets_library("data sets of the hub")
    with _readable(there, source):
        return numbered(there.load_dataset(str(folder), source.config, split=source.split, streaming=True), source.id)


def splits(source: HubSource, folder: Path) -> list[str]:
    """The names of its splits; raises as `rows` does."""
    there = data_sets_library("data sets of the hub")
    with _readable(there, source):
        return list(there.get_dataset_split_names(str(folder), source.config))


@contextmanager
def _readable(there: Any, source: HubSource) -> Iterator[None]:
    try:
        yield
    except (there.exceptions.DatasetsError, ValueError, TypeError, OSError, KeyError) as error:
        what = " ".join(filter(None, (source.config, source.split)))
        raise InputError(f"{source.id}: {what}: cannot be read: {error}") from error


def _check(source: HubSource) -> None:
    if not is_id(source.id):
        raise UsageError(f"the hub's data set {source.id!r:.80}", allowed="owner/name")
