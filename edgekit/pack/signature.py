"""Who made a bundle: an Ed25519 signature over the bytes of its document, beside it.

What is signed begins with a line that says what it is, so that no signature of the same key over anything else can be
taken for a bundle's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from edgekit.artifacts.documents import json_value
from edgekit.artifacts.files import write_atomically
from edgekit.artifacts.validation import StrictModel, validated
from edgekit.errors import BundleError
from edgekit.pack.bundle import DOCUMENT, SIGNATURE
from edgekit.pack.document import ANEW, canonical, read_small
from edgekit.pack.extras import needed
from edgekit.pack.keys import generate, key_id, public_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["DOMAIN", "check", "generate", "sign", "verify", "write"]

DOMAIN = b"edgekit bundle v1\n"  # stands before the document in what is signed

_MOST_BYTES = 1 << 16


class _Signature(StrictModel):
    """What `bundle.sig.json` says: by which key, and the signature, both in hexadecimal."""

    schema_version: Literal[1]
    algorithm: Literal["Ed25519"]
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


def sign(document: bytes, key: Ed25519PrivateKey) -> dict[str, Any]:
    """What is written beside a document: its signature, and by which key."""
    signed = _Signature(
        schema_version=1,
        algorithm="Ed25519",
        key=key_id(key.public_key()),
        signature=key.sign(DOMAIN + document).hex(),
    )
    return signed.model_dump(mode="json")


def write(bundle: Path, document: bytes, key: Ed25519PrivateKey) -> str:
    """Sign a document and write its signature into the bundle; the key's id."""
    signed = sign(document, key)
    write_atomically(bundle / SIGNATURE, canonical(signed))
    return str(signed["key"])


def verify(document: bytes, signature: Path, key: Path) -> str:
    """Check that a document was signed by a key; its id.

    Args:
        signature: `bundle.sig.json`.
        key: the public one, which the caller trusts.

    Raises:
        BundleError: there is no signature, it is by another key, or not of this document.
        UsageError: as `public_key`.
        MissingDependencyError: cryptography is not installed.
    """
    raw = read_small(signature, _MOST_BYTES, "is missing: nobody signed this bundle")
    return check(document, raw, str(signature), key)


def check(document: bytes, raw: bytes, signature: str, key: Path) -> str:
    """Check that a document was signed by a key, where no file has its signature yet; the key's id.

    Args:
        raw: the bytes of `bundle.sig.json`.
        signature: what errors call it.
        key: the public one, which the caller trusts.

    Raises:
        BundleError, UsageError, MissingDependencyError: as `verify`.
    """
    with needed("install"):
        from cryptography.exceptions import InvalidSignature

    public = public_key(key)
    found = validated(_Signature, json_value(raw, signature, BundleError), signature, BundleError, remedy=ANEW)
    if canonical(found.model_dump(mode="json")) != raw:
        raise BundleError(f"{signature}: is not the canonical form (RFC 8785) of what it says", remedy=ANEW)
    if found.key != key_id(public):
        raise BundleError(
            f"{signature}: signed by another key, {found.key[:16]}...",
            allowed=f"{key_id(public)[:16]}..., the key in {key}",
            remedy="ask the bundle's maker, not its bearer, for their key",
        )
    try:
        public.verify(bytes.fromhex(found.signature), DOMAIN + document)
    except InvalidSignature as error:
        raise BundleError(
            f"{signature}: is not the signature of this bundle: {DOCUMENT} or the signature was changed", remedy=ANEW
        ) from error
    return found.key
