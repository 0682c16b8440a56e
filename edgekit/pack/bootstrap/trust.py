"""A bundle's document believed by its signature, and files by that document.

Python's standard library has no Ed25519, so its verification (RFC 8032, 5.1.7) stands here: some 30 ms, and little to
get wrong. Whoever has the library `cryptography` takes `edgekit.pack.signature`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from edgekit.pack.bootstrap.form import signed_in, wrong_in
from edgekit.pack.bootstrap.here import RefusedError

_DOMAIN = b"edgekit bundle v1\n"  # before the document, in what is signed
_MOST_BYTES = 8 << 20  # of the document
_MOST_KEY_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 20
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_PUBLIC_KEY = bytes.fromhex("302a300506032b6570032100")  # how a public key of Ed25519 begins in DER


def verified(bundle: Path, key: Path) -> dict[str, Any]:
    """What a bundle's document says, which the owner of a public key signed.

    Raises:
        RefusedError: another did, or something cannot be read.
    """
    document, signature = (read(bundle / name) for name in ("bundle.json", "bundle.sig.json"))
    public = _public_key(read(key.resolve()), key)  # the key may be a link: whoever installs names it
    signed = _said(signature)
    stated_by = signed_in(signed) if _canonical(signed) == signature else None
    if stated_by is None:
        raise RefusedError(f"{bundle / 'bundle.sig.json'}: is no signature of a bundle")
    mine = stated_by["key"] == hashlib.sha256(public).hexdigest()
    if not mine or not is_signed(_DOMAIN + document, bytes.fromhex(stated_by["signature"]), public):
        raise RefusedError(f"{bundle / 'bundle.json'}: was not signed by {key}, or was changed since")
    return stated(document, bundle / "bundle.json")


def stated(document: bytes, path: Path) -> dict[str, Any]:
    """What a document says, where it has the form in which edgekit signs: RFC 8785, of which it needs no fractions.

    Args:
        path: what errors call it.

    Raises:
        RefusedError: edgekit would refuse it.
    """
    said = _said(document)
    if _canonical(said) != document:
        raise RefusedError(f"{path}: is not the canonical form (RFC 8785) of what it says")
    if wrong := wrong_in(said):
        raise RefusedError(f"{path}: {wrong}")
    checked: dict[str, Any] = said
    return checked


def _said(raw: bytes) -> Any:
    """What JSON says that edgekit writes; None where it is no such JSON."""
    try:
        return json.loads(raw.decode("utf-8"), parse_float=_no_number, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None


def _no_number(text: str) -> None:
    raise ValueError(f"{text:.80}: is no integer")


def _canonical(said: object) -> bytes | None:
    # RFC 8785 sorts names by UTF-16, which is another order than Python's beyond ASCII alone: no field has such a name.
    try:
        return json.dumps(said, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8")
    except (UnicodeEncodeError, RecursionError):  # half a character
        return None


def take(bundle: Path, files: Iterable[Mapping[str, Any]], place: Path) -> list[Path]:
    """Copy files into a new folder, hashed as they are copied: whoever changes the bundle now changes nothing more.

    Raises:
        RefusedError: one is not the file that a document names.
    """
    place.mkdir()
    taken = []
    for file in files:
        path, target = bundle / file["path"], place / file["path"].rpartition("/")[2]
        digest, left = hashlib.sha256(), file["bytes"]
        with _plain_file(path) as stream, target.open("wb") as made:
            while left >= 0 and (block := stream.read(_BLOCK_BYTES)):
                left -= len(block)
                digest.update(block)
                made.write(block)
        if left or digest.hexdigest() != file["sha256"]:
            raise RefusedError(f"{path}: is not the file that was signed")
        taken.append(target)
    return taken


def read(path: Path) -> bytes:
    """A small file. Raises RefusedError where it cannot be read, is a link or no file, or is large."""
    with _plain_file(path) as stream:
        data = b""
        while len(data) <= _MOST_BYTES and (block := stream.read(_BLOCK_BYTES)):
            data += block
    if len(data) > _MOST_BYTES:
        raise RefusedError(f"{path}: is too large")
    return data


@contextmanager
def _plain_file(path: Path) -> Iterator[FileIO]:
    """A plain file: no link is followed, no pipe waited for."""
    try:
        handle = os.open(path, os.O_RDONLY | _SAFELY)
    except OSError as error:
        raise RefusedError(f"{path}: {'is a link' if path.is_symlink() else error.strerror}") from error
    with os.fdopen(handle, "rb", buffering=0) as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise RefusedError(f"{path}: is no file")
        yield stream


def _public_key(pem: bytes, path: Path) -> bytes:
    body = re.search(rb"-----BEGIN PUBLIC KEY-----\s(.*?)-----END PUBLIC KEY-----", pem, re.DOTALL)
    try:
        der = base64.b64decode(b"".join(body[1].split()), validate=True) if body else b""
    except ValueError:
        der = b""
    alone = len(pem) <= _MOST_KEY_BYTES and pem.count(b"-----BEGIN ") == 1  # as edgekit takes them
    if not alone or not der.startswith(_PUBLIC_KEY) or len(der) != len(_PUBLIC_KEY) + 32:
        raise RefusedError(f"{path}: is no public key of Ed25519 in PEM")
    return der[len(_PUBLIC_KEY) :]


# The curve -x^2 + y^2 = 1 + d x^2 y^2 modulo p, in plain coordinates.
_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_BASE = (4 * pow(5, -1, _P) % _P).to_bytes(32, "little")
_Point = tuple[int, int]


def is_signed(message: bytes, signature: bytes, public: bytes) -> bool:
    """Whether an Ed25519 signature of a message is by the owner of this key."""
    key, base = _point(public), _point(_BASE)
    scalar = int.from_bytes(signature[32:], "little")
    if key is None or base is None or len(signature) != 64 or scalar >= _ORDER:
        return False
    digest = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % _ORDER
    x, y = _sum(_times(scalar, base), _times(digest, (-key[0] % _P, key[1])))
    return (y | (x & 1) << 255).to_bytes(32, "little") == signature[:32]


def _point(data: bytes) -> _Point | None:
    """A point by its y and the last bit of its x; None where there is none."""
    number = int.from_bytes(data, "little")
    y, odd = number & (1 << 255) - 1, number >> 255
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    root = pow(square, (_P + 3) // 8, _P)
    if root * root % _P != square:
        root = root * pow(2, (_P - 1) // 4, _P) % _P
    if y >= _P or root * root % _P != square or (odd and not root):
        return None
    return (root if root & 1 == odd else _P - root), y


def _sum(one: _Point, other: _Point) -> _Point:
    (a, b), (c, d) = one, other
    product = _D * a * b * c * d
    x, y = (a * d + b * c) * pow(1 + product, -1, _P), (b * d + a * c) * pow(1 - product, -1, _P)
    return x % _P, y % _P


def _times(scalar: int, point: _Point) -> _Point:
    result = (0, 1)
    while scalar:
        if scalar & 1:
            result = _sum(result, point)
        point, scalar = _sum(point, point), scalar >> 1
    return result
