"""What a sequence holds, as bytes: the decoder's own snapshot, and which tokens and images it is of."""

from __future__ import annotations

import hashlib
import json
import struct

from edgekit.errors import SnapshotError
from edgekit.runtime.base import SupportsSnapshot
from edgekit.runtime.generation.held import HeldSequence, Key

_LENGTH = struct.Struct("<Q")
_DIGEST = hashlib.sha256().digest_size
_MOST = 1 << 26  # bytes of keys; a context of 131,072 images' places has less


def saved(sequence: HeldSequence, made_by: str) -> bytes:
    """A sequence, to be restored where the same model is open.

    Args:
        made_by: names what encoded its images, beside the decoder, which its own snapshot names.
    """
    decoder = sequence.decoder
    assert isinstance(decoder, SupportsSnapshot), "whoever saves has asked for the ability"
    keys = json.dumps(sequence.keys, separators=(",", ":")).encode()
    data = _LENGTH.pack(len(keys)) + keys + decoder.snapshot(sequence=sequence.number)
    return _digest(made_by, data) + data


def restore(sequence: HeldSequence, data: bytes, made_by: str) -> None:
    """Have a sequence hold what `saved` gave.

    Raises:
        SnapshotError: the bytes are damaged, or another decoder's; the sequence is empty.
    """
    decoder = sequence.decoder
    assert isinstance(decoder, SupportsSnapshot), "whoever restores has asked for the ability"
    if data[:_DIGEST] != _digest(made_by, data[_DIGEST:]):
        raise SnapshotError("another model or device encoded its images, or it was changed", remedy="ask again")
    keys, rest = _read(data[_DIGEST:])
    decoder.restore(rest, sequence=sequence.number)
    sequence.is_restored(keys)


def _digest(made_by: str, data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(made_by.encode()).digest() + data).digest()


def _read(data: bytes) -> tuple[list[Key], bytes]:
    if len(data) < _LENGTH.size or (size := _LENGTH.unpack_from(data)[0]) > min(_MOST, len(data) - _LENGTH.size):
        raise SnapshotError(f"{len(data)} bytes that are no conversation of edgekit's", remedy="ask again")
    end = _LENGTH.size + size
    try:
        stated = json.loads(data[_LENGTH.size : end])
        keys = [tuple(key) if isinstance(key, list) else key for key in stated]
    except (ValueError, TypeError, RecursionError) as error:
        raise SnapshotError("a conversation whose tokens cannot be read", remedy="ask again") from error
    if not all(isinstance(key, int) or (isinstance(key, tuple) and [*map(type, key)] == [str, int]) for key in keys):
        raise SnapshotError("a conversation whose tokens are none", remedy="ask again")
    return keys, data[end:]
