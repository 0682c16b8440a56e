"""What was computed of patients' images and conversations, on disk because the user said so, for this user alone.

Entries are files named by what they were computed from, in a folder that only this user can enter. Each begins with the
hash of the rest: what a crash, a full disk or anybody else left otherwise is never trusted. What can be computed again
is dropped then (`get`, `put`); what cannot is refused, and stays for its user to see (`read`, `write`). Where a folder
holds more than it may, what was used longest ago goes first.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgekit.artifacts.disk_errors import file_errors
from edgekit.artifacts.files import remove_left, write_atomically
from edgekit.errors import EdgekitError, EdgekitWarning, NoSpaceError
from edgekit.machine.cache import cache_folder, private_folder

MOST_BYTES = 4 << 30
IMAGES, CONVERSATIONS, COMPUTED = "images", "conversations", "computed"
_NAME = re.compile(r"[0-9a-f]{64}")
_UNFINISHED = re.compile(r"\.[0-9a-f]{64}\.[0-9a-f]{16}\.partial")  # as `write_atomically` names it
_LOCK = re.compile(r"\.[0-9a-f]{64}\.lock")
_HASH_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Entry:
    """One file of the folder.

    Attributes:
        used: when it was written or read last, in seconds since 1970.
        finished: whether it has its name; else a process is writing it, or was killed while it did.
    """

    path: Path
    bytes: int
    used: float
    finished: bool = True

    def remove(self) -> bool:
        """Remove it; whether it is gone. What a live process is writing stays. Raises OSError where it cannot be."""
        if not self.finished:
            return remove_left(self.path)
        self.path.unlink(missing_ok=True)
        return True


class Kept:
    """A folder of such entries.

    Attributes:
        folder: where it is; made when something is kept.
        most_bytes: that it may hold.
    """

    def __init__(self, kind: str, most_bytes: int = MOST_BYTES) -> None:
        """Args: kind: `IMAGES`, `CONVERSATIONS` or `COMPUTED`; each has a folder and a bound of its own.

        Raises:
            UsageError: there is no cache folder.
        """
        self.folder, self.most_bytes = cache_folder() / "kept" / kind, most_bytes

    def get(self, key: str) -> bytes | None:
        """What was kept under a key, a SHA-256 in hexadecimal; None where nothing is, or it is damaged or closed."""
        try:
            data = self._data(key)
        except EdgekitError:
            return None
        if data is None:
            return None
        payload = _checked(data)
        if payload is None:
            self.drop(key)
        return payload

    def read(self, key: str) -> bytes | None:
        """As `get`, of what cannot be computed again: None only where nothing was kept.

        Raises:
            EdgekitError: it is there, or may be, and is damaged or cannot be read.
        """
        data = self._data(key)
        if data is None:
            return None
        payload = _checked(data)
        if payload is None:
            path = self._path(key)
            raise EdgekitError(f"{path}: is damaged: its hash is another", remedy=f"edgekit cache --forget {path.name}")
        return payload

    def put(self, key: str, payload: bytes) -> bool:
        """Keep bytes under a key, and drop what has no room any more; whether it is there now.

        What cannot be written is said as a warning: it can be computed again.
        """
        if _HASH_BYTES + len(payload) > self.most_bytes:
            return False
        try:
            self.write(key, payload)
        except EdgekitError as error:
            warnings.warn(f"{self.folder}: nothing can be kept there: {error}", EdgekitWarning, stacklevel=2)
            return False
        self.trim(key)
        return True

    def write(self, key: str, payload: bytes) -> None:
        """Keep bytes under a key, in place of what was there; to `trim` is left to the caller.

        Raises:
            EdgekitError: nothing has changed, and why.
        """
        size = _HASH_BYTES + len(payload)
        if size > self.most_bytes:
            most = f"{self.most_bytes / 1e6:.0f} MB, all that {self.folder} may hold"
            raise NoSpaceError(f"{size / 1e6:.1f} MB to be kept", allowed=most)
        with file_errors(self.folder):
            private_folder(self.folder)
            write_atomically(self._path(key), hashlib.sha256(payload).digest() + payload)

    def drop(self, key: str) -> None:
        """Remove what can be computed again, where that is possible."""
        with suppress(OSError):
            self._path(key).unlink(missing_ok=True)

    def trim(self, key: str, remove: Callable[[Entry], bool] = Entry.remove) -> None:
        """Remove what the folder holds too much, as far as that is possible; what was just kept under a key stays.

        Args:
            remove: does it; whether it is gone. What it raises means that it is not.
        """
        with suppress(OSError):
            entries = self.entries()
            held = sum(entry.bytes for entry in entries)
            # What is unfinished goes first: it is of use to nobody, if nobody is writing it.
            for entry in sorted(entries, key=lambda entry: entry.finished):
                if held > self.most_bytes and entry.path != self._path(key):
                    with suppress(OSError, EdgekitError):
                        held -= entry.bytes if remove(entry) else 0

    def entries(self) -> list[Entry]:
        """All that is there, what was used longest ago first; nothing where there is no such folder.

        Raises:
            OSError: it cannot be looked into.
        """
        found = []
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.folder) as scanned:
            for one in scanned:
                finished = _NAME.fullmatch(one.name) is not None
                if (finished or _UNFINISHED.fullmatch(one.name)) and one.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):  # removed meanwhile
                        status = one.stat(follow_symlinks=False)
                        found.append(Entry(Path(one.path), status.st_size, status.st_mtime, finished))
        return sorted(found, key=lambda entry: (entry.used, entry.path.name))

    def is_whole(self, entry: Entry) -> bool:
        """Whether an entry is what was written; its use is not noted."""
        try:
            return _checked(entry.path.read_bytes()) is not None
        except OSError:
            return False

    def beginning(self, entry: Entry, most: int) -> bytes:
        """The first bytes of what an entry keeps, unchecked; none where it is gone."""
        try:
            with entry.path.open("rb") as stream:
                stream.seek(_HASH_BYTES)
                return stream.read(most)
        except OSError:
            return b""

    def clear(self, besides: Collection[str] = ()) -> int:
        """Remove everything but what lies under these keys, or a live process is writing; how many entries that were.

        Raises:
            OSError: one cannot be removed.
        """
        removed = sum([entry.remove() for entry in self.entries() if entry.path.name not in besides])
        with suppress(FileNotFoundError, NotADirectoryError):
            for path in self.folder.iterdir():
                if _LOCK.fullmatch(path.name):
                    remove_left(path)
        return removed

    def lock(self, key: str) -> Path:
        """The name of a file in the folder to be locked; `clear` removes what a killed process left of one."""
        return self.folder / f".{self._path(key).name}.lock"

    def _data(self, key: str) -> bytes | None:
        """All of a file; None where there is none. Raises EdgekitError where it cannot be read."""
        path = self._path(key)
        with file_errors(path):
            private_folder(self.folder)
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                return None
        with suppress(OSError):
            os.utime(path)
        return data

    def _path(self, key: str) -> Path:
        assert _NAME.fullmatch(key), "keys are hashes"
        return self.folder / key


def _checked(data: bytes) -> bytes | None:
    payload = data[_HASH_BYTES:]
    return payload if hashlib.sha256(payload).digest() == data[:_HASH_BYTES] else None
