"""`bundle.json` read and written, and the files that it names described and hashed.

A document has one form: the canonical JSON of RFC 8785 of all its fields. What is signed are these bytes, and a reader
refuses any others, so that no two readers find two meanings below one signature.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from edgekit.artifacts.disk_errors import named
from edgekit.artifacts.documents import is_folder, json_value
from edgekit.artifacts.files import write_atomically
from edgekit.artifacts.validation import validated
from edgekit.errors import BundleError, UsageError
from edgekit.machine.cpu import cpu
from edgekit.pack import bundle as bundles
from edgekit.pack.bundle import DOCUMENT, MOST_BYTES, SCHEMA, Bundle, BundleFile
from edgekit.pack.extras import needed
from edgekit.progress import Progress, amount

ANEW = "copy the bundle anew from whoever made it"

_MOST_ENTRIES = 1_000_000  # of a document, which its size bounds already
_BLOCK_BYTES = 1 << 18  # what a core reads and hashes before it leaves its cache
_DESCRIBED_BYTES = 1 << 22  # the same where two cores hash it, which wait for each other
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_SCRIPT = b"#!"


# ---------------------------------------------------------------- the document


def canonical(value: Any) -> bytes:
    """A JSON value in the one form that RFC 8785 gives it, as UTF-8.

    Raises:
        MissingDependencyError: rfc8785 is not installed.
    """
    with needed("install"):
        import rfc8785

    return rfc8785.dumps(value)


def raw(bundle: Path) -> bytes:
    """The bytes of a bundle's document, which nobody has checked yet.

    Raises:
        BundleError: there is none, or it is a link, no file, or too large.
    """
    return read_small(bundle / DOCUMENT, MOST_BYTES, "is no bundle, or its document is missing")


def read_small(path: Path, most_bytes: int, missing: str) -> bytes:
    """The content of a plain file of at most so many bytes.

    Args:
        missing: what it means that there is none.

    Raises:
        BundleError: it is larger, or as `opened`.
    """
    if not is_folder(path.parent):
        raise BundleError(f"{path.parent}: no such folder")
    with opened(path, missing) as stream:
        parts: list[bytes] = []
        while part := stream.read(most_bytes + 1 - sum(map(len, parts))):
            parts.append(part)
    if len(data := b"".join(parts)) > most_bytes:
        raise BundleError(f"{path}: too large", allowed=f"at most {most_bytes} bytes", remedy=ANEW)
    return data


def parsed(document: bytes, where: str) -> Bundle:
    """What a document says.

    Args:
        where: what errors begin with: the document's place.

    Raises:
        BundleError: it is of another schema, breaks its schema, or is not the canonical form of what it says.
    """
    data = json_value(document, where, BundleError, most_entries=_MOST_ENTRIES)
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA:
        raise BundleError(
            f"{where}: a bundle of schema_version {version!r:.80}",
            allowed=str(SCHEMA),
            remedy="install the version of edgekit that the bundle's maker has",
        )
    found = validated(Bundle, data, where, BundleError, remedy=ANEW)
    if canonical(found.model_dump(mode="json")) != document:
        raise BundleError(f"{where}: is not the canonical form (RFC 8785) of what it says", remedy=ANEW)
    return found


def read(bundle: Path) -> tuple[Bundle, bytes]:
    """A bundle's document, and the bytes that its signature is about; nobody has checked that signature yet.

    Raises:
        BundleError: as `raw` and `parsed`.
    """
    document = raw(bundle)
    return parsed(document, str(bundle / DOCUMENT)), document


def write(bundle: Path, document: Bundle) -> bytes:
    """Write a bundle's document in one atomic replacement; its bytes, which are to be signed.

    Raises:
        BundleError: it is larger than any reader takes.
    """
    data = canonical(document.model_dump(mode="json"))
    if len(data) > MOST_BYTES:
        raise BundleError(
            f"{bundle / DOCUMENT}: {len(document.files)} files take {len(data)} bytes to name",
            allowed=f"at most {MOST_BYTES}",
        )
    write_atomically(bundle / DOCUMENT, data)
    return data


# ---------------------------------------------------------------- files


@contextmanager
def opened(path: Path, missing: str = "is missing") -> Iterator[FileIO]:
    """A plain file to read, without a buffer: no link is followed, no pipe waited for.

    Args:
        missing: what it means that there is none.

    Raises:
        BundleError: there is none, or it is a link or no file.
    """
    try:
        handle = os.open(path, os.O_RDONLY | _SAFELY)
    except FileNotFoundError as error:
        raise BundleError(f"{path}: {missing}", remedy=ANEW) from error
    except OSError as error:
        if path.is_symlink():  # the system says that there are too many
            raise BundleError(f"{path}: is a link", remedy=ANEW) from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise BundleError(f"{path}: is no file", remedy=ANEW)
    with os.fdopen(handle, "rb", buffering=0) as stream, named(path):
        yield stream


def describe(bundle: Path, path: str) -> BundleFile:
    """A file as the document names it: the whole of it and all its chunks hashed in one reading, on two cores.

    What begins with `#!` is executable: the mode of a file would say so too, but not on every file system, and two
    packs of the same files must be the same.

    Args:
        path: relative to the bundle, with `/`.

    Raises:
        BundleError: as `opened`, or it was changed meanwhile.
        UsageError: it has a name that not every system takes.
    """
    buffer = memoryview(bytearray(_DESCRIBED_BYTES))
    whole, chunks = hashlib.sha256(), []
    with opened(bundle / path) as stream, ThreadPoolExecutor(1) as other:
        size = os.fstat(stream.fileno()).st_size
        first = b""
        for start in range(0, size, bundles.CHUNK_BYTES):
            chunk = hashlib.sha256()
            for block in _blocks(bundle / path, stream, min(bundles.CHUNK_BYTES, size - start), buffer):
                beside = other.submit(chunk.update, block)
                first = first or bytes(block[: len(_SCRIPT)])
                whole.update(block)
                beside.result()
            chunks.append(chunk.hexdigest())
        if stream.read(1):
            raise BundleError(f"{bundle / path}: was changed while it was read")
    entry = {"path": path, "bytes": size, "sha256": whole.hexdigest(), "chunks": chunks, "executable": first == _SCRIPT}
    return validated(BundleFile, entry, str(bundle / path), UsageError, remedy="give the file another name")


def hash_files(bundle: Path, files: Collection[BundleFile], progress: Progress) -> None:
    """Check that files are those which a document names, by their sizes and chunks, on all cores.

    What else is in the folder, and whether the folders on the way are links, is looked at by
    `edgekit.pack.verify.verify`.

    Raises:
        BundleError: one is missing, is a link or no file, or has another size or other bytes; the first in their order.
    """
    tasks = [(file, number) for file in files for number in range(max(1, len(file.chunks)))]
    total = sum(file.bytes for file in files)
    progress.start(f"verifying {amount(total)}", total)
    pool = ThreadPoolExecutor(cpu().usable_cores)
    try:
        for done in pool.map(lambda task: _check_chunk(bundle, *task), tasks):
            progress.advance(done)
    finally:
        pool.shutdown(cancel_futures=True)
        progress.finish()


def _check_chunk(bundle: Path, file: BundleFile, number: int) -> int:
    """Hash one chunk of a file; how many bytes it has."""
    path = bundle / file.path
    start = number * bundles.CHUNK_BYTES
    size = min(bundles.CHUNK_BYTES, file.bytes - start)
    digest = hashlib.sha256()
    with opened(path) as stream:
        if (found := os.fstat(stream.fileno()).st_size) != file.bytes:
            raise BundleError(f"{path}: {found} bytes", allowed=f"{file.bytes}, as was signed", remedy=ANEW)
        stream.seek(start)
        for block in _blocks(path, stream, size, memoryview(bytearray(min(size, _BLOCK_BYTES)))):
            digest.update(block)
    if file.chunks and digest.hexdigest() != file.chunks[number]:
        raise BundleError(
            f"{path}: not what was signed: the SHA-256 of bytes {start} to {start + size} is "
            f"{digest.hexdigest()[:16]}..., not {file.chunks[number][:16]}...",
            remedy=f"it was damaged or changed: {ANEW}",
        )
    return size


def _blocks(path: Path, stream: FileIO, size: int, buffer: memoryview) -> Iterator[memoryview]:
    """The next `size` bytes, as much of them at once as the buffer takes."""
    while size:
        got = stream.readinto(buffer[: min(size, len(buffer))])
        if not got:
            raise BundleError(f"{path}: ended while it was read", remedy=ANEW)
        yield buffer[:got]
        size -= got
