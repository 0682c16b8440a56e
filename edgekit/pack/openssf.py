"""The OpenSSF's model signature, beside ours: for recipients who check models with the tools that they have.

    model_signing verify certificate BUNDLE/model --signature BUNDLE/papers/model.sig --certificate_chain NAME.crt

It says of every file below `model/` its SHA-256, in the form that this program of the OpenSSF reads: an in-toto
statement (predicate `https://model_signing/signature/v1.0`) in a DSSE envelope, in a Sigstore bundle, version
0.3. That format knows ECDSA alone, so what signs is a key on P-256, made for this one statement, whose certificate the
bundle's key signs: who trusts `NAME.crt` trusts the same key as who trusts `NAME.pub`.

Nothing of it is chance. The signer's key is derived (HKDF, RFC 5869) from the private key and the statement, and its
signature is deterministic (RFC 6979): two packs of the same files are the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from edgekit.pack import certificates
from edgekit.pack.bundle import MODEL, PAPERS, BundleFile
from edgekit.pack.document import canonical
from edgekit.pack.extras import needed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PATH = f"{PAPERS}/model.sig"

_PAYLOAD = "application/vnd.in-toto+json"
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_PURPOSE = b"edgekit model signing v1, P-256"


def sign(files: Iterable[BundleFile], key: Ed25519PrivateKey) -> bytes:
    """The model signature of a bundle, which belongs at `PATH`.

    Args:
        files: of the bundle, described; those below `model/` are signed.
        key: the private key of the bundle's own signature.

    Raises:
        MissingDependencyError: cryptography or rfc8785 is not installed.
    """
    with needed("install"):
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import Encoding

    payload = canonical(_statement(files))
    signer = _signer(key, payload)
    signature = signer.sign(_to_sign(payload), ECDSA(SHA256(), deterministic_signing=True))
    certificate = certificates.of_signer(signer.public_key(), key).public_bytes(Encoding.DER)
    return canonical(
        {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "x509CertificateChain": {"certificates": [{"rawBytes": _base64(certificate)}]},
                "tlogEntries": [],
            },
            "dsseEnvelope": {
                "payload": _base64(payload),
                "payloadType": _PAYLOAD,
                "signatures": [{"sig": _base64(signature), "keyid": ""}],
            },
        }
    )


def _statement(files: Iterable[BundleFile]) -> dict[str, Any]:
    """Each file of the model with its hash, and one hash over those, in the order of the paths' parts."""
    model = {PurePosixPath(file.path).relative_to(MODEL): file for file in files if file.path.startswith(f"{MODEL}/")}
    entries = [(str(path), model[path].sha256) for path in sorted(model)]
    whole = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in entries)).hexdigest()
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": MODEL, "digest": {"sha256": whole}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            "resources": [{"name": name, "algorithm": "sha256", "digest": digest} for name, digest in entries],
        },
    }


def _to_sign(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed says what type it is of."""
    return f"DSSEv1 {len(_PAYLOAD)} {_PAYLOAD} {len(payload)} ".encode() + payload


def _signer(key: Ed25519PrivateKey, payload: bytes) -> EllipticCurvePrivateKey:
    """A key for one statement: a scalar of 384 bits, so that none of the curve's is likelier than another."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    derived = HKDF(SHA256(), length=48, salt=hashlib.sha256(payload).digest(), info=_PURPOSE)
    scalar = int.from_bytes(derived.derive(key.private_bytes_raw()))
    return derive_private_key(scalar % (_P256_ORDER - 1) + 1, SECP256R1())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
