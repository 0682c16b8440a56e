"""Files: hashed, given their names in one step, linked. A reader sees the old file or the whole new one.

What has its name stays after a power failure: the content reaches the disk before the name does (`sync`, then
`rename`). On macOS `fsync` hands it to the drive, which may keep it in a cache of its own for a moment; to empty that
too (F_FULLFSYNC) costs more than a file is worth that can be exported again and is hashed before it is used.

A link is never followed when something is written: new files are made exclusively, and what is replaced is the name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from edgekit.artifacts.disk_errors import named
from edgekit.errors import ArtifactError

_BLOCK_BYTES = 1 << 20
_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
# What file systems say that keep no folder's names by themselves: network and FUSE ones.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with named(path), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys: a key of all that a result depends on."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def stamp(path: Path) -> tuple[int, ...]:
    """What tells a file from another of its name, and from itself before it was written to, without reading it."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


@contextmanager
def unchanged(paths: Iterable[Path]) -> Iterator[None]:
    """What is found in files that are hashed first and read after, by name, holds for what was hashed.

    Raises:
        ArtifactError: at the end one of them is not the one that it was at the beginning.
    """
    before = {path: stamp(path) for path in paths if path.is_file()}
    yield
    for path, known in before.items():
        if not path.is_file() or stamp(path) != known:
            raise ArtifactError(
                f"{path}: was changed while it was compared",
                remedy="wait until nobody writes there, then run the same command again",
            )


# ---------------------------------------------------------------- durable


def sync(path: Path) -> None:
    """Wait until a file's content is on the disk. Raises OSError where the disk failed."""
    handle = os.open(path, (os.O_RDWR if os.name == "nt" else os.O_RDONLY) | _SAFELY)
    try:
        with named(path):
            os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where there is a way to say so."""
    if os.name == "nt":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # one that may be written and not read
        return
    try:
        with named(folder):
            os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)


def make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it that are missing, durably; return the ones that were made, deepest first."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        sync_folder(made.parent)
    return missing


def rename(source: Path, target: Path) -> None:
    """Give a finished file or folder its name, in place of what has it: the one step in which things appear.

    What it holds must be on the disk already (`sync`).
    """
    source.replace(target)
    sync_folder(target.parent)


# ---------------------------------------------------------------- written


@contextmanager
def create(path: Path) -> Iterator[BinaryIO]:
    """A new file to write; what had its name, a link too, is removed first."""
    try:
        handle = os.open(path, _NEW | _SAFELY, 0o666)
    except FileExistsError:
        path.unlink()
        handle = os.open(path, _NEW | _SAFELY, 0o666)
    with named(path), os.fdopen(handle, "wb") as stream:
        yield stream


def append(path: Path) -> Any:
    """A file, made where it is not there, to write behind its end without a buffer. Raises OSError for a link."""
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND | _SAFELY, 0o666)
    return os.fdopen(handle, "a+b", buffering=0)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, durably; one that an interruption cut off before is ended first."""
    with named(path), append(path) as stream:
        begun = stream.seek(0, os.SEEK_END) > 0
        if begun:
            stream.seek(-1, os.SEEK_END)
        data = (b"\n" if begun and stream.read(1) != b"\n" else b"") + line.encode() + b"\n"
        while data:  # a raw write may take less than it is given
            data = data[stream.write(data) :]
        os.fsync(stream.fileno())


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write a file, text as UTF-8, in one atomic and durable replacement.

    Raises:
        OSError: it cannot be written; what was there before is.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to that takes `path`'s place at the end; after an error nothing has changed.

    It is a new file `.NAME.RANDOM.partial`, since others may be writing the same file of a cache. What a killed process
    left of one is removed by the next that writes NAME.
    """
    _remove_left(path)
    temporary, handle = _temporary(path)
    try:
        with named(path):
            yield temporary
            os.fsync(handle)
        if os.name == "nt":  # where what is open cannot be renamed
            os.close(handle)
            handle = -1
        rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        if handle >= 0:
            os.close(handle)


def flock(handle: int, *, wait: bool, shared: bool = False) -> bool:
    """Lock a file or a folder for this process, until it is closed; False where another one has it.

    Args:
        shared: beside others that do so too, and not beside one that has it for itself.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows, where nobody exports
        return True
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _temporary(path: Path) -> tuple[Path, int]:
    """A new file beside another, and a handle whose lock says that somebody is writing it."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
        handle = os.open(temporary, _NEW | _SAFELY, 0o666)
        with suppress(OSError):
            flock(handle, wait=True)
        if os.fstat(handle).st_nlink:
            return temporary, handle
        os.close(handle)  # before it was locked, it was taken for a remainder


def _remove_left(path: Path) -> None:
    """Remove what killed processes left of this file: by its name, and as `remove_left`."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.partial")
    with suppress(PermissionError), os.scandir(path.parent) as entries:
        for left in [Path(entry.path) for entry in entries if name.fullmatch(entry.name)]:
            remove_left(left)


def remove_left(left: Path) -> bool:
    """Remove one file that a killed process left: this user's own, whose lock nobody holds; whether it is gone.

    Without locks nobody can tell it from a live process's, and it stays.
    """
    with suppress(OSError):
        if os.name == "nt":  # where what is open cannot be removed
            left.unlink()
            return True
        handle = os.open(left, os.O_RDONLY | os.O_NONBLOCK | _SAFELY)
        try:
            status = os.fstat(handle)
            if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and flock(handle, wait=False):
                left.unlink()
                return True
        finally:
            os.close(handle)
    return False


@contextmanager
def lock_file(path: Path) -> Iterator[bool]:
    """Hold a file of this name for this process, to the end, when it is removed; False where another one holds it.

    A killed process lets go of it. Where there are no locks, nobody else can be seen, and it is always free.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR | _SAFELY, 0o600)
        try:
            free = True
            with suppress(OSError):
                free = flock(handle, wait=False)
            if not free:
                yield False
                return
            if os.fstat(handle).st_nlink:  # else who held it removed it between the two calls
                try:
                    yield True
                finally:
                    with suppress(OSError):  # on Windows, where it is open; it holds nothing
                        path.unlink()
                return
        finally:
            os.close(handle)


# ---------------------------------------------------------------- linked


def put(source: Path, target: Path, *, link: bool) -> None:
    """Put a file of a folder that is edgekit's own at another place too, in one atomic and durable replacement.

    Args:
        link: whether it may be the same file under another name, where the file system has hard links, and not a copy.
    """
    make_folder(target.parent)
    if target.exists() and target.samefile(source) and not target.is_symlink():
        return  # a rename onto itself would leave the temporary name
    # Beside the source, where nothing is anybody else's: what a killed process left of a large copy is overwritten.
    outgoing = source.with_name(f".{source.name}.outgoing")
    outgoing.unlink(missing_ok=True)
    (link_or_copy if link else copy)(source, outgoing)
    sync(outgoing)
    rename(outgoing, target)


def link_or_copy(source: Path, target: Path) -> None:
    """A file under another name too, where the file system has hard links, else a copy of it."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        copy(source, target)


def copy(source: Path, target: Path) -> None:
    """A copy of a file's content, as a new file; errors name the one of the two that they are about."""
    with source.open("rb") as given, create(target) as made:
        while True:
            with named(source):
                block = given.read(_BLOCK_BYTES)
            if not block:
                return
            made.write(block)
