"""Rows of long work as they come, so that a run that was stopped goes on: lines of JSON beside what they become."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edgekit.artifacts.disk_errors import file_errors
from edgekit.artifacts.documents import is_file
from edgekit.artifacts.files import sha256_json, write_atomically
from edgekit.errors import UsageError


class Journal:
    """The rows of one target, `.NAME.partial` beside it until all of them are there.

    Args:
        target: the file that is to be made.
        work: what the rows depend on; rows of other work are refused.

    Raises:
        UsageError: the target is there, or rows of other work.
    """

    def __init__(self, target: Path, work: Mapping[str, Any]) -> None:
        self.target, self._path = target, target.with_name(f".{target.name}.partial")
        self.rows: dict[str, dict[str, Any]] = {}
        head = {"work": sha256_json(work)}
        if is_file(target):
            raise UsageError(f"{target}: is there already", remedy="remove it, or name another file")
        with file_errors(target):
            whole = self._read(head) if is_file(self._path) else 0
            self._file = self._path.open("r+b" if whole else "wb")
            self._file.seek(whole)
            self._file.truncate()
            if not whole:
                self._write(head)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def add(self, name: str, row: Mapping[str, Any]) -> None:
        """Keep a row."""
        with file_errors(self.target):
            self._write({"name": name, **row})
        self.rows[name] = dict(row)

    def finish(self, data: str | bytes) -> None:
        """Write the target, whole, and remove the rows."""
        with file_errors(self.target):
            os.fsync(self._file.fileno())
            write_atomically(self.target, data)
            self._file.close()
            self._path.unlink()

    def _write(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()

    def _read(self, head: Mapping[str, Any]) -> int:
        """The rows that a stopped run left; where the last whole one ends."""
        end = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file):
                try:
                    row = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    row = None
                if not isinstance(row, dict):
                    break  # where it was stopped
                if not number and row != head:
                    raise UsageError(
                        f"{self._path}: rows of another model, other labels or another way of reading images",
                        remedy="remove it to begin anew, or give the options that it was begun with",
                    )
                if number:
                    self.rows[str(row.pop("name"))] = row
                end += len(line)
        return end
