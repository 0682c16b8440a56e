"""Files: hashed, given their names in one step, linked. A reader sees the old file or the whole new one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys: a key of all that a result depends on."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write a file, text as UTF-8, in one atomic replacement.

    Raises:
        OSError: it cannot be written; what was there before is.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to that takes `path`'s place at the end; after an error nothing has changed.

    Its name is this process's own, since others may be writing the same file of a cache.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def put(source: Path, target: Path, *, link: bool) -> None:
    """Put a file at another place too, in one atomic replacement.

    Args:
        link: whether it may be the same file under another name, where the file system has hard links, and not a copy.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.samefile(source):  # a rename onto itself would leave the temporary name
        return
    # One name for all processes: what a killed one left of a large copy is found and overwritten.
    temporary = target.with_name(f".{target.name}.partial")
    temporary.unlink(missing_ok=True)
    (link_or_copy if link else shutil.copyfile)(source, temporary)
    rename(temporary, target)


def link_or_copy(source: Path, target: Path) -> None:
    """A file under another name too, where the file system has hard links, else a copy of it."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def rename(source: Path, target: Path) -> None:
    """Give a finished file or folder its name, in place of what has it: the one step in which things appear."""
    source.replace(target)
