"""The OpenSSF's model signature: that library's own verifier takes it, and refuses what was changed."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import described

from edgekit.pack import keys, openssf

verifying: Any = pytest.importorskip("model_signing.verifying")

FILES = {
    "model/edgekit.json": b"{}",
    "model/a/decoder.gguf": bytes(range(256)) * 40,
    "model/a-b/decoder.gguf": b"after a/ in the order of parts, before it in that of letters",
    "model/a.txt": b"",
    "README.md": b"not of the model",
}


@pytest.fixture
def key(tmp_path: Path) -> Path:
    keys.generate(tmp_path / "keys" / "clinic")
    return tmp_path / "keys" / "clinic"


@pytest.fixture
def bundle(tmp_path: Path, key: Path) -> Path:
    folder = tmp_path / "bundle"
    for path, data in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    signature = openssf.sign(described(folder), keys.private_key(key))
    (folder / openssf.PATH).parent.mkdir()
    (folder / openssf.PATH).write_bytes(signature)
    return folder


def accept(bundle: Path, key: Path) -> None:
    """As a recipient does who has no edgekit."""
    verifier = verifying.Config().use_certificate_verifier(certificate_chain=[keys.certificate_path(key)])
    verifier.verify(bundle / "model", bundle / openssf.PATH)


def test_their_verifier_takes_it(bundle: Path, key: Path) -> None:
    accept(bundle, key)
    (bundle / "README.md").write_bytes(b"no part of the model")
    accept(bundle, key)


def flipped(bundle: Path) -> None:
    path = bundle / "model" / "a" / "decoder.gguf"
    path.write_bytes(b"\x01" + path.read_bytes()[1:])


CHANGES: dict[str, Callable[[Path], object]] = {
    "flip": flipped,
    "append": lambda bundle: (bundle / "model" / "a.txt").write_bytes(b"x"),
    "extra": lambda bundle: (bundle / "model" / "more").write_bytes(b""),
    "missing": lambda bundle: (bundle / "model" / "a.txt").unlink(),
    "rename": lambda bundle: (bundle / "model" / "a.txt").rename(bundle / "model" / "b.txt"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_their_verifier_refuses_what_was_changed(change: str, bundle: Path, key: Path) -> None:
    CHANGES[change](bundle)
    with pytest.raises(ValueError, match="Signature mismatch"):
        accept(bundle, key)


def test_their_verifier_refuses_another_key(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    keys.generate(other)
    with pytest.raises(Exception, match=r"unable to get local issuer"):
        accept(bundle, other)


def test_their_verifier_refuses_another_statement(bundle: Path, key: Path) -> None:
    """A file and its hash in the statement, changed together: what the signature is for."""
    flipped(bundle)
    path = bundle / openssf.PATH
    said = json.loads(path.read_bytes())
    other = bundle.parent / "other"
    keys.generate(other)
    theirs = json.loads(openssf.sign(described(bundle), keys.private_key(other)))
    said["dsseEnvelope"]["payload"] = theirs["dsseEnvelope"]["payload"]
    path.write_text(json.dumps(said))
    with pytest.raises(Exception) as caught:  # noqa: PT011  of cryptography, without a message
        accept(bundle, key)
    assert type(caught.value).__name__ == "InvalidSignature"


def test_twice_the_same_bytes_and_another_signer_for_another_model(bundle: Path, key: Path) -> None:
    files, private = described(bundle), keys.private_key(key)
    first = openssf.sign(files, private)
    assert openssf.sign(files, private) == first
    flipped(bundle)
    other = openssf.sign(described(bundle), private)

    def certificate(raw: bytes) -> str:
        chain = json.loads(raw)["verificationMaterial"]["x509CertificateChain"]["certificates"]
        return str(chain[0]["rawBytes"])

    assert certificate(other) != certificate(first)


def test_no_part_of_the_private_key_is_in_it(bundle: Path, key: Path) -> None:
    seed = keys.private_key(key).private_bytes_raw()
    said = json.loads((bundle / openssf.PATH).read_bytes())
    held = base64.b64decode(said["dsseEnvelope"]["payload"])
    held += base64.b64decode(said["dsseEnvelope"]["signatures"][0]["sig"])
    held += base64.b64decode(said["verificationMaterial"]["x509CertificateChain"]["certificates"][0]["rawBytes"])
    assert seed not in held


def test_it_needs_no_library_of_theirs(bundle: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("model_signing", "OpenSSL", "sigstore", "sigstore_models", "in_toto_attestation"):
        monkeypatch.setitem(sys.modules, name, None)
    assert openssf.sign(described(bundle), keys.private_key(key)) == (bundle / openssf.PATH).read_bytes()
    assert (bundle / openssf.PATH).stat().st_size < 10_000
