"""Keys that sign bundles: Ed25519 (RFC 8032), as files that OpenSSL reads and writes.

The private key is PEM (PKCS #8, encrypted where it has a password), and its owner alone may read it. Beside it lies
what recipients get: `NAME.pub`, the public key (PEM, SubjectPublicKeyInfo), which `edgekit verify` takes, and
`NAME.crt`, a certificate of the same key that signs itself, which verifiers of the OpenSSF's model signatures take as
their root of trust.

A key is known by its id, the SHA-256 of the public key's 32 bytes, which is short enough to be read out by telephone.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.artifacts.disk_errors import named
from edgekit.artifacts.documents import read_bounded
from edgekit.artifacts.files import make_folder, sync_folder
from edgekit.errors import UsageError
from edgekit.pack import certificates
from edgekit.pack.extras import needed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_MOST_BYTES = 1 << 16
_LONGEST_PASSWORD = 1000
_ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"  # RFC 7468, 11
_BODY = re.compile(_ENCRYPTED + rb"\s(.*?)-----END ", re.DOTALL)
_PBKDF2, _INTEGER = bytes.fromhex("06092a864886f70d01050c"), 0x02  # in DER
_MOST_ROUNDS = 10_000_000  # seconds
_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)


def public_path(key: Path) -> Path:
    """Where the public key of a private one is written."""
    return key.with_name(f"{key.name}.pub")


def certificate_path(key: Path) -> Path:
    """Where the certificate of a private key is written."""
    return key.with_name(f"{key.name}.crt")


def generate(path: Path, password: bytes | None = None) -> str:
    """Make a key: the private one at `path`, what recipients get at `public_path` and `certificate_path`.

    Args:
        password: what the private key is encrypted with: PBES2 (RFC 8018), as `cryptography` holds best; None: it is
            not.

    Returns:
        its id.

    Raises:
        UsageError: one of the three is there already, or the password is empty or too long.
        MissingDependencyError: cryptography is not installed.
    """
    with needed("install"):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import (
            BestAvailableEncryption,
            Encoding,
            NoEncryption,
            PrivateFormat,
            PublicFormat,
        )

    if password is not None:
        check_password(password)
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    key = Ed25519PrivateKey.generate()
    files = {
        path: key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption),
        public_path(path): key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        certificate_path(path): certificates.of_key(key).public_bytes(Encoding.PEM),
    }
    make_folder(path.parent)
    written: list[Path] = []
    try:
        for place, data in files.items():
            _write_new(place, data, 0o600 if place == path else 0o644)
            written.append(place)
    except BaseException:
        for place in written:
            place.unlink()
        raise
    return key_id(key.public_key())


def key_id(key: Ed25519PublicKey) -> str:
    """What a key is known by: the SHA-256 of its 32 bytes, in hexadecimal."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def check_password(password: bytes) -> None:
    """Raise UsageError for a password that is none, or longer than libraries take."""
    if not 0 < len(password) <= _LONGEST_PASSWORD:
        raise UsageError(f"a password of {len(password)} bytes", allowed=f"1 to {_LONGEST_PASSWORD} bytes")


def is_encrypted(path: Path) -> bool:
    """Whether a file says that it is a private key behind a password. Raises UsageError where it cannot be read."""
    return _ENCRYPTED in read_bounded(path, UsageError, _MOST_BYTES)


def private_key(path: Path, password: bytes | None = None) -> Ed25519PrivateKey:
    """The key that signs.

    Args:
        password: of a key that is encrypted; for another it is not asked.

    Raises:
        UsageError: the file is none, or its password is another.
        MissingDependencyError: cryptography is not installed.
    """
    with needed("install"):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

    encrypted = is_encrypted(path)
    if encrypted and password is None:
        raise UsageError(f"{path}: is protected by a password, and none was given", param="key")
    if encrypted:
        _check_derivation(path)
    key = _loaded(path, lambda pem: load_pem_private_key(pem, password if encrypted else None))
    if encrypted and key is None:
        raise UsageError(f"{path}: its password is another one, or the file is damaged", param="key")
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path, "private")
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """The key that a signature is checked with.

    Raises:
        UsageError: the file is none.
        MissingDependencyError: cryptography is not installed.
    """
    with needed("install"):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key = _loaded(path, load_pem_public_key)
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(path, "public")
    return key


def _loaded(path: Path, load: Callable[[bytes], object]) -> object:
    """What a PEM file holds, None where it is no such file."""
    from cryptography.exceptions import UnsupportedAlgorithm

    pem = read_bounded(path, UsageError, _MOST_BYTES)
    try:
        return load(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # no PEM, another password, an unknown algorithm
        return None


def _check_derivation(path: Path) -> None:
    """Refuse a file whose password would take minutes to try, before that begins (RFC 8018, A.2).

    Raises:
        UsageError: its key is derived otherwise than by PBKDF2, or in more rounds than anybody takes.
    """
    body = _BODY.search(read_bounded(path, UsageError, _MOST_BYTES))
    try:
        der = base64.b64decode(b"".join(body[1].split())) if body else b""
        rounds, whole = _rounds(der), _element(der, 0)[2] == len(der)
    except (ValueError, IndexError):
        return  # a damaged file, which nobody can load
    if not 0 < rounds <= _MOST_ROUNDS if rounds is not None else whole:
        raise UsageError(
            f"{path}: protected in another way than is read here{f', in {rounds} rounds' if rounds else ''}",
            allowed=f"PBES2 with PBKDF2, of at most {_MOST_ROUNDS} rounds, as edgekit keygen and openssl write it",
            param="key",
        )


def _rounds(der: bytes) -> int | None:
    """Of PBKDF2, which an encrypted key in DER names; None where it names none."""
    at = der.find(_PBKDF2)
    if at < 0:
        return None
    _, start, _ = _element(der, at + len(_PBKDF2))
    _, _, after_salt = _element(der, start)
    tag, start, end = _element(der, after_salt)
    return int.from_bytes(der[start:end], "big", signed=True) if tag == _INTEGER else None


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """The tag of an element of DER (X.690, 8.1), and where its content begins and ends."""
    tag, length, start = der[at], der[at + 1], at + 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[at + 2 : start], "big")
    return tag, start, start + length


def _no_key(path: Path, kind: str) -> UsageError:
    return UsageError(
        f"{path}: no {kind} key",
        allowed=f"a {kind} Ed25519 key as PEM",
        remedy=f"edgekit keygen --to FILE makes one: FILE signs, {public_path(Path('FILE'))} verifies",
        param="key",
    )


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that is not there yet, durably."""
    try:
        handle = os.open(path, _NEW, mode)
    except FileExistsError as error:
        raise UsageError(f"{path}: is there, and no key is ever overwritten", remedy="name another file") from error
    with named(path), os.fdopen(handle, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(handle)
    sync_folder(path.parent)
