"""Keys and signatures: what OpenSSL and RFC 8032 say of them, and what is no signature."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from edgekit.errors import BundleError, UsageError
from edgekit.pack import document, keys, signature
from edgekit.pack.bootstrap import trust
from edgekit.pack.bootstrap.here import RefusedError

# RFC 8032, 7.1, TEST 1
SECRET = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
DOCUMENT = b'{"a":1}'

openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="needs OpenSSL's program")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "keys" / "clinic"
    keys.generate(path)
    return path


def signed(folder: Path, key: Path, data: bytes = DOCUMENT) -> Path:
    signature.write(folder, data, keys.private_key(key))
    return folder / "bundle.sig.json"


# ---------------------------------------------------------------- keys


def test_a_key_is_three_files_and_one_of_them_is_secret(key: Path) -> None:
    assert sorted(path.name for path in key.parent.iterdir()) == ["clinic", "clinic.crt", "clinic.pub"]
    assert b"PRIVATE" in key.read_bytes()
    assert b"PRIVATE" not in keys.public_path(key).read_bytes() + keys.certificate_path(key).read_bytes()
    if sys.platform != "win32":
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


@pytest.mark.parametrize("there", ["clinic", "clinic.pub", "clinic.crt"])
def test_no_key_is_overwritten(there: str, tmp_path: Path) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(UsageError, match="is there"):
        keys.generate(tmp_path / "clinic")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(there, "mine")]


def test_every_key_is_another(tmp_path: Path) -> None:
    made = {signature.generate(tmp_path / str(number)) for number in range(3)}
    assert len(made) == 3


def test_a_key_is_known_by_the_hash_of_its_32_bytes(tmp_path: Path) -> None:
    vector = ed25519.Ed25519PrivateKey.from_private_bytes(SECRET)
    path = tmp_path / "vector"
    path.write_bytes(vector.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert keys.key_id(keys.private_key(path).public_key()) == hashlib.sha256(PUBLIC).hexdigest()


@openssl
def test_openssl_reads_both_and_finds_the_same_id(key: Path) -> None:
    der = subprocess.run(
        ["openssl", "pkey", "-in", key, "-pubout", "-outform", "DER"], capture_output=True, check=True
    ).stdout
    other = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", keys.public_path(key), "-pubout", "-outform", "DER"],
        capture_output=True,
        check=True,
    ).stdout
    assert der == other
    assert keys.key_id(keys.public_key(keys.public_path(key))) == hashlib.sha256(der[-32:]).hexdigest()


@openssl
def test_openssl_verifies_a_signature(key: Path, tmp_path: Path) -> None:
    said = json.loads(signed(tmp_path, key).read_bytes())
    (tmp_path / "signature").write_bytes(bytes.fromhex(said["signature"]))
    verify = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", keys.public_path(key), "-rawin"]
    for data, right in ((b"edgekit bundle v1\n" + DOCUMENT, True), (DOCUMENT, False)):
        (tmp_path / "data").write_bytes(data)
        command = [*verify, "-in", tmp_path / "data", "-sigfile", tmp_path / "signature"]
        assert (subprocess.run(command, capture_output=True, check=False).returncode == 0) == right


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> tuple[bytes, bytes]:
    return (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )


@pytest.mark.parametrize("kind", ["swapped", "curve", "rsa", "password", "nothing", "binary", "large", "folder"])
def test_a_file_that_is_no_key(kind: str, tmp_path: Path) -> None:
    ours = ed25519.Ed25519PrivateKey.generate()
    locked = ours.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    private, public = {
        "swapped": pem(ours)[::-1],
        "curve": pem(ec.generate_private_key(ec.SECP256R1())),
        "rsa": pem(rsa.generate_private_key(65537, 2048)),
        "password": (locked, locked),
        "nothing": (b"", b""),
        "binary": (bytes(range(256)), bytes(range(256))),
        "large": (b"-" * 100_000, b"-" * 100_000),
        "folder": (b"", b""),
    }[kind]
    if kind == "folder":
        (tmp_path / "private").mkdir()
        (tmp_path / "public").mkdir()
    else:
        (tmp_path / "private").write_bytes(private)
        (tmp_path / "public").write_bytes(public)
    for load, path in ((keys.private_key, tmp_path / "private"), (keys.public_key, tmp_path / "public")):
        with pytest.raises(UsageError, match=path.name):
            load(path)


# ---------------------------------------------------------------- behind a password

PASSWORD = "Fr\u00fchst\u00fcck 7"


@pytest.fixture
def protected(tmp_path: Path) -> Path:
    path = tmp_path / "protected"
    keys.generate(path, PASSWORD.encode())
    return path


def test_a_key_behind_a_password(protected: Path, tmp_path: Path) -> None:
    assert protected.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert keys.is_encrypted(protected)
    if sys.platform != "win32":
        assert stat.S_IMODE(protected.stat().st_mode) == 0o600
    private = keys.private_key(protected, PASSWORD.encode())
    assert private.private_bytes_raw() not in protected.read_bytes()
    assert keys.key_id(private.public_key()) == keys.key_id(keys.public_key(keys.public_path(protected)))
    signature.write(tmp_path, DOCUMENT, private)
    signature.verify(DOCUMENT, tmp_path / "bundle.sig.json", keys.public_path(protected))


@openssl
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("-v2", "aes-256-cbc", "-iter", "20000000"), "in 20000000 rounds"),
        (("-scrypt",), "protected in another way"),
        (("-v1", "PBE-SHA1-3DES"), "protected in another way"),
        (("-v2", "aes-256-cbc", "-iter", "3000"), None),
    ],
)
def test_a_password_that_would_take_minutes_to_try_is_not_tried(
    more: tuple[str, ...], said: str | None, tmp_path: Path
) -> None:
    """As openssl writes them, but for one of so many rounds, which it would take minutes to make."""
    keys.generate(tmp_path / "plain")
    rounds = ["-iter", "2000"] if "20000000" in more else []
    words = ["openssl", "pkcs8", "-topk8", "-in", tmp_path / "plain", "-passout", "pass:word"]
    made = subprocess.run([*words, *(more[:2] if rounds else more), *rounds], capture_output=True, check=True).stdout
    if rounds:
        (begin, *body, end) = made.split(b"\n")[:-1]
        der = base64.b64decode(b"".join(body))
        longer = der.replace(b"\x02\x02\x07\xd0", b"\x02\x04\x01\x31\x2d\x00")
        assert longer != der
        made = b"\n".join([begin, base64.b64encode(longer), end, b""])
    (tmp_path / "key").write_bytes(made)
    if said is None:
        keys.private_key(tmp_path / "key", b"word")
        return
    with pytest.raises(UsageError, match=said) as caught:
        keys.private_key(tmp_path / "key", b"word")
    assert "PBKDF2" in str(caught.value.allowed)


@pytest.mark.parametrize("form", ["no end of line", "header", "Windows"])
def test_both_readers_of_public_keys_take_or_refuse_a_form(form: str, tmp_path: Path) -> None:
    """The one before edgekit runs takes nothing that edgekit refuses."""
    signature.generate(tmp_path / "key")
    raw = document.canonical(signature.sign(DOCUMENT, keys.private_key(tmp_path / "key")))
    pem = (tmp_path / "key.pub").read_bytes()
    forms = {
        "no end of line": pem.rstrip(b"\n"),
        "header": pem.replace(b"KEY-----\n", b"KEY-----\nComment: x\n\n", 1),
        "Windows": pem.replace(b"\n", b"\r\n"),
    }
    (tmp_path / "key.pub").write_bytes(forms[form])
    (tmp_path / "bundle.json").write_bytes(DOCUMENT)
    (tmp_path / "bundle.sig.json").write_bytes(raw)
    with pytest.raises(RefusedError) as caught:
        trust.verified(tmp_path, tmp_path / "key.pub")
    if "is no public key" not in str(caught.value):  # it went on to the document, which is none
        signature.check(DOCUMENT, raw, "here", tmp_path / "key.pub")



@openssl
def test_openssl_reads_it_with_its_password(protected: Path) -> None:
    read = ["openssl", "pkey", "-in", protected, "-pubout", "-passin", "env:WORD"]
    right = subprocess.run(read, capture_output=True, check=True, env={**os.environ, "WORD": PASSWORD})
    assert right.stdout == keys.public_path(protected).read_bytes()
    wrong = subprocess.run(read, capture_output=True, check=False, env={**os.environ, "WORD": "another"})
    assert wrong.returncode != 0


@pytest.mark.parametrize(
    ("password", "said"),
    [
        (None, "is protected by a password, and none was given"),
        (b"another", "its password is another one"),
        (b"", "its password is another one"),
    ],
)
def test_another_password_is_refused(password: bytes | None, said: str, protected: Path) -> None:
    with pytest.raises(UsageError, match=f"protected: {said}"):
        keys.private_key(protected, password)


def test_a_damaged_key_behind_a_password(protected: Path) -> None:
    lines = protected.read_text().splitlines()
    protected.write_text("\n".join([lines[0], "A" * len(lines[1]), *lines[2:]]))
    with pytest.raises(UsageError, match="its password is another one, or the file is damaged"):
        keys.private_key(protected, PASSWORD.encode())


@pytest.mark.parametrize("password", [b"", b"a" * 1001])
def test_what_is_no_password(password: bytes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"a password of {len(password)} bytes"):
        keys.generate(tmp_path / "key", password)
    assert list(tmp_path.iterdir()) == []


def test_a_key_without_a_password_needs_none(key: Path) -> None:
    assert keys.private_key(key, b"unused").private_bytes_raw() == keys.private_key(key).private_bytes_raw()


# ---------------------------------------------------------------- signatures


def test_a_signature_is_verified_by_its_key(key: Path, tmp_path: Path) -> None:
    public = keys.public_path(key)
    assert signature.verify(DOCUMENT, signed(tmp_path, key), public) == keys.key_id(keys.public_key(public))


def test_the_same_document_has_the_same_signature(key: Path, tmp_path: Path) -> None:
    assert signature.sign(DOCUMENT, keys.private_key(key)) == signature.sign(DOCUMENT, keys.private_key(key))
    assert document.canonical(signature.sign(DOCUMENT, keys.private_key(key))) == signed(tmp_path, key).read_bytes()


def test_another_key_is_named(key: Path, tmp_path: Path) -> None:
    other = keys.generate(tmp_path / "other")
    path = signed(tmp_path, tmp_path / "other")
    with pytest.raises(BundleError, match=f"signed by another key, {other[:16]}") as caught:
        signature.verify(DOCUMENT, path, keys.public_path(key))
    assert keys.key_id(keys.public_key(keys.public_path(key)))[:16] in str(caught.value)


def test_who_says_to_be_another_is_found_out(key: Path, tmp_path: Path) -> None:
    keys.generate(tmp_path / "other")
    ours, theirs = (signature.sign(DOCUMENT, keys.private_key(one)) for one in (key, tmp_path / "other"))
    said = theirs | {"key": ours["key"]}
    (tmp_path / "bundle.sig.json").write_bytes(document.canonical(said))
    with pytest.raises(BundleError, match="is not the signature of this bundle"):
        signature.verify(DOCUMENT, tmp_path / "bundle.sig.json", keys.public_path(key))


def test_a_signature_of_the_bare_document_is_none(key: Path, tmp_path: Path) -> None:
    said = signature.sign(DOCUMENT, keys.private_key(key)) | {"signature": keys.private_key(key).sign(DOCUMENT).hex()}
    (tmp_path / "bundle.sig.json").write_bytes(document.canonical(said))
    with pytest.raises(BundleError, match="is not the signature of this bundle"):
        signature.verify(DOCUMENT, tmp_path / "bundle.sig.json", keys.public_path(key))


def test_no_bit_of_a_signatures_file_is_free(key: Path, tmp_path: Path) -> None:
    path = signed(tmp_path, key)
    raw = path.read_bytes()
    for place in range(len(raw)):
        for bit in (1 << place % 8, 0x20):  # 0x20 changes the case of a letter
            path.write_bytes(raw[:place] + bytes([raw[place] ^ bit]) + raw[place + 1 :])
            with pytest.raises(BundleError):
                signature.verify(DOCUMENT, path, keys.public_path(key))


def test_a_signature_that_adds_the_groups_order_is_none(key: Path, tmp_path: Path) -> None:
    """RFC 8032, 5.1.7: S must be below the order, or anybody could make a second signature of the first."""
    said = signature.sign(DOCUMENT, keys.private_key(key))
    raw = bytes.fromhex(said["signature"])
    order = 2**252 + 27742317777372353535851937790883648493
    moved = raw[:32] + (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little")
    (tmp_path / "bundle.sig.json").write_bytes(document.canonical(said | {"signature": moved.hex()}))
    with pytest.raises(BundleError):
        signature.verify(DOCUMENT, tmp_path / "bundle.sig.json", keys.public_path(key))


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"null", b'"x"', b"x" * 70_000, b'{"schema_version":1}'])
def test_what_is_no_signature(raw: bytes, key: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle.sig.json").write_bytes(raw)
    with pytest.raises(BundleError, match=r"bundle\.sig\.json"):
        signature.verify(DOCUMENT, tmp_path / "bundle.sig.json", keys.public_path(key))
