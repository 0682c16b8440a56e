"""A decoder's sequence as bytes, in a frame that is checked before a library sees what is in it.

The frame: magic, version, SHA-256 of all that follows; positions, length of the identity; the identity, a line of text
that names the decoder's shape and files; what the backend saved. Numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from pathlib import Path

from edgekit.artifacts.disk_errors import named
from edgekit.errors import SnapshotError

VERSION = 1

_MAGIC = b"EDGEKVS\0"
_START = struct.Struct("<8sI32s")
_REST = struct.Struct("<QI")
_AGAIN = "prefill again"
_SAMPLES, _SAMPLE_BYTES = 64, 16_384


def pack(identity: str, length: int, state: bytes) -> bytes:
    """A snapshot of a sequence of so many positions."""
    text = identity.encode()
    rest = _REST.pack(length, len(text)) + text
    digest = hashlib.sha256(rest)
    digest.update(state)
    return b"".join((_START.pack(_MAGIC, VERSION, digest.digest()), rest, state))


def unpack(data: bytes, identity: str, context: int) -> tuple[int, memoryview]:
    """The positions of a snapshot and what the backend saved, unchanged since.

    Raises:
        SnapshotError: it is none, of another version, damaged, of another decoder, or longer than `context`.
    """
    if not isinstance(data, bytes | bytearray):
        raise SnapshotError(f"a snapshot of type {type(data).__name__}", allowed="bytes")
    view = memoryview(data)
    if len(view) < _START.size + _REST.size or view[: len(_MAGIC)] != _MAGIC:
        raise SnapshotError(f"{len(view)} bytes that are no snapshot of edgekit's", remedy=_AGAIN)
    _, version, digest = _START.unpack_from(view)
    if version != VERSION:
        raise SnapshotError(f"a snapshot of version {version}", allowed=str(VERSION), remedy=_AGAIN)
    rest = view[_START.size :]
    if hashlib.sha256(rest).digest() != digest:
        raise SnapshotError("a snapshot that was cut or changed: its checksum is another", remedy=_AGAIN)
    length, size = _REST.unpack_from(rest)
    theirs, state = bytes(rest[_REST.size : _REST.size + size]), rest[_REST.size + size :]
    if theirs != identity.encode():
        raise SnapshotError(_differing(theirs.decode("utf-8", "replace"), identity), remedy=_AGAIN)
    if length > context:
        raise SnapshotError(f"a snapshot of {length} tokens", allowed=f"at most {context}, this decoder's context")
    if bool(length) != bool(state):
        raise SnapshotError(f"a snapshot of {length} tokens in {len(state)} bytes", remedy=_AGAIN)
    return length, state


def _differing(theirs: str, ours: str) -> str:
    """What two decoders' identities differ in, in a line."""
    one, other = (dict.fromkeys(text.split(", ")) for text in (theirs, ours))
    there, here = (", ".join(each for each in mine if each not in more) for mine, more in ((one, other), (other, one)))
    return f"a snapshot of another decoder: {there:.240}; here {here or 'nothing of this'}"


def fingerprint(paths: Iterable[Path]) -> str:
    """Tells a model's files from another's of the same shape, by their sizes and 1 MB of each, all over it.

    A quick look, for a snapshot must not cost what reading all weights does: files that differ nowhere there are not
    told apart.
    """
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda one: one.name):
        with named(path), path.open("rb") as stream:
            size = path.stat().st_size
            digest.update(struct.pack("<Q", size))
            for sample in range(_SAMPLES):
                stream.seek(max(0, size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32]
