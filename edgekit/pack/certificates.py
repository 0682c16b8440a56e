"""Certificates (X.509) of the keys that sign: what verifiers of others trust, in place of a key.

Each is the same bytes whenever it is made, and does not expire, as keys do not.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.x509 import Certificate

_BEGINS = datetime(2020, 1, 1, tzinfo=UTC)
_ENDS = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280, 4.1.2.5: no date is well-defined
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def of_key(key: Ed25519PrivateKey) -> Certificate:
    """A key's certificate, signed by itself: a root of trust."""
    return _certificate(_name(key.public_key()), key.public_key(), key, "key_cert_sign")


def of_signer(signer: EllipticCurvePublicKey, key: Ed25519PrivateKey) -> Certificate:
    """The certificate of a key that signs models, by the key whose certificate is the root."""
    return _certificate("edgekit model signer", signer, key, "digital_signature")


def _name(key: Ed25519PublicKey) -> str:
    return f"edgekit key {hashlib.sha256(key.public_bytes_raw()).hexdigest()[:32]}"


def _certificate(
    name: str,
    public: Ed25519PublicKey | EllipticCurvePublicKey,
    issuer: Ed25519PrivateKey,
    usage: Literal["key_cert_sign", "digital_signature"],
) -> Certificate:
    from cryptography import x509

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    is_root = usage == "key_cert_sign"
    subject = x509.SubjectKeyIdentifier.from_public_key(public)
    return (
        x509.CertificateBuilder(named(_name(issuer.public_key())), named(name), public)
        .serial_number(int.from_bytes(hashlib.sha256(subject.digest).digest()[:16]) | 1)
        .not_valid_before(_BEGINS)
        .not_valid_after(_ENDS)
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=0 if is_root else None), critical=True)
        .add_extension(x509.KeyUsage(**dict.fromkeys(_USAGES, False) | {usage: True}), critical=True)
        .add_extension(subject, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)
        .sign(issuer, None)
    )
