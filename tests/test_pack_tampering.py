"""A bundle is the one that was signed, or it is refused: fourteen ways to change one, each at many random places."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from bundles import make, sign_folder

from edgekit.cli import main
from edgekit.errors import BundleError
from edgekit.pack import bundle as bundles
from edgekit.pack import document, keys, signature
from edgekit.pack.verify import verify
from edgekit.progress import Progress

FEW, MANY = 5, 100  # places for each way
CHUNK = 1000  # of these small files, so that they have several
FILES = {
    "README.md": b"# A model\n",
    "golden/golden.json": b'{"prompts": []}',
    "golden/images/chest.png": bytes(range(256)),
    "install.sh": b"#!/bin/sh\nexit 0\n",
    "model/decoder-Q4_K_M.gguf": random.Random(1).randbytes(5500),
    "model/edgekit.json": b"{}",
    "model/tokenizer/tokenizer.json": random.Random(2).randbytes(2000),
    "papers/NOTICE": b"",
    "papers/terms.txt": b"Terms\n" * 200,
    "wheels/edgekit-0.1.0-py3-none-any.whl": random.Random(3).randbytes(999),
}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links as POSIX has them")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "clinic"
    keys.generate(path)
    return path


@pytest.fixture
def original(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bundles, "CHUNK_BYTES", CHUNK)
    make(tmp_path / "original", FILES, key)
    return tmp_path / "original"


def check(bundle: Path, key: Path, **more: Any) -> None:
    verify(bundle, keys.public_path(key), progress=Progress(), **more)


def every_file(bundle: Path) -> list[Path]:
    return sorted(path for path in bundle.rglob("*") if path.is_file())


def every_folder(bundle: Path) -> list[Path]:
    return [bundle, *sorted(path for path in bundle.rglob("*") if path.is_dir())]


def a_name(dice: random.Random) -> str:
    return "".join(dice.choices("abcdefghijklmnopqrstuvwxyz0123456789_-", k=dice.randint(1, 20)))


# ---------------------------------------------------------------- the ways; each changes the bundle somewhere


def flip(bundle: Path, dice: random.Random) -> None:
    path = dice.choice([path for path in every_file(bundle) if path.stat().st_size])
    data = bytearray(path.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


def truncate(bundle: Path, dice: random.Random) -> None:
    path = dice.choice([path for path in every_file(bundle) if path.stat().st_size])
    os.truncate(path, dice.randrange(path.stat().st_size))


def append(bundle: Path, dice: random.Random) -> None:
    with dice.choice(every_file(bundle)).open("ab") as stream:
        stream.write(dice.randbytes(dice.randint(1, 3000)))


def extra(bundle: Path, dice: random.Random) -> None:
    path = dice.choice(every_folder(bundle)) / f"{a_name(dice)}.{dice.choice(('py', 'so', 'json', 'pth'))}"
    path.write_bytes(dice.randbytes(dice.randint(0, 50)))


def missing(bundle: Path, dice: random.Random) -> None:
    if dice.random() < 0.2:
        shutil.rmtree(dice.choice(every_folder(bundle)[1:]))
    else:
        dice.choice(every_file(bundle)).unlink()


def rename(bundle: Path, dice: random.Random) -> None:
    """To a new name, or two files change places."""
    one, other = dice.sample(every_file(bundle), 2)
    if dice.random() < 0.5:
        one.rename(dice.choice(every_folder(bundle)) / a_name(dice))
    else:
        one.rename(bundle / "between")
        other.rename(one)
        (bundle / "between").rename(other)


def case(bundle: Path, dice: random.Random) -> None:
    """One letter of a file's or a folder's name."""
    path = dice.choice([*every_file(bundle), *every_folder(bundle)[1:]])
    place = dice.choice([number for number, letter in enumerate(path.name) if letter.isalpha()])
    path.rename(path.with_name(path.name[:place] + path.name[place].swapcase() + path.name[place + 1 :]))


def symlink(bundle: Path, dice: random.Random) -> None:
    """To the same content elsewhere: a file, a folder, or one name more."""
    elsewhere = bundle.with_name(f"{bundle.name}-elsewhere")
    elsewhere.mkdir()
    path = dice.choice([*every_file(bundle), *every_folder(bundle)[1:]])
    if dice.random() < 0.3:
        name = dice.choice(every_folder(bundle)) / a_name(dice)
        name.symlink_to(dice.choice((path, "nowhere", "/etc/passwd", ".")))
    else:
        path.symlink_to(path.rename(elsewhere / path.name))


def hard_link(bundle: Path, dice: random.Random) -> None:
    """One file with a second name, outside the bundle or in it."""
    path = dice.choice(every_file(bundle))
    other = bundle.with_name(f"{bundle.name}-{a_name(dice)}")
    os.link(path, dice.choice((other, dice.choice(every_folder(bundle)) / a_name(dice))))


def dot_file(bundle: Path, dice: random.Random) -> None:
    name = dice.choice((".DS_Store", "._README.md", f".{a_name(dice)}", ".git/config", "..."))
    path = dice.choice(every_folder(bundle)) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(dice.randbytes(dice.randint(0, 9)))


def empty_folder(bundle: Path, dice: random.Random) -> None:
    path = dice.choice(every_folder(bundle)) / dice.choice((a_name(dice), f".{a_name(dice)}", f"{a_name(dice)}/x"))
    path.mkdir(parents=True)


def manifest_edit(bundle: Path, dice: random.Random) -> None:
    """A document that is as it must be, and says something else: of a field, or of a file that was changed with it."""
    path = bundle / "bundle.json"
    said = json.loads(path.read_bytes())
    if dice.random() < 0.5:
        changed = dice.choice([file for file in every_file(bundle) if not file.name.startswith("bundle.")])
        changed.write_bytes(dice.randbytes(dice.randint(1, 3000)))
        name = changed.relative_to(bundle).as_posix()
        entry = next(entry for entry in said["files"] if entry["path"] == name)
        entry.update(document.describe(bundle, name).model_dump(mode="json"))
    else:
        said |= dice.choice(
            (
                {"version": said["version"] + dice.randint(1, 1000)},
                {"minimum_version": 1},
                {"name": a_name(dice).strip("_-") or "x"},
                {"title": a_name(dice)},
                {"stand_in": a_name(dice)},
                {"platform": "windows-x86_64"},
                {"source_sha256": dice.randbytes(32).hex()},
                {"files": said["files"][: dice.randint(1, len(said["files"]) - 1)]},
            )
        )
    raw = document.canonical(said)
    document.parsed(raw, "nothing but its signature is wrong")
    path.write_bytes(raw)


def stripped_signature(bundle: Path, dice: random.Random) -> None:
    """None, or one that says nothing, is another's, or of another document."""
    path = bundle / "bundle.sig.json"
    raw = (bundle / "bundle.json").read_bytes()
    other = bundle.with_name(f"{bundle.name}-key")
    keys.generate(other)
    if dice.random() < 0.3:
        path.unlink()
        return
    said = json.loads(path.read_bytes())
    theirs = signature.sign(raw, keys.private_key(other))
    path.write_bytes(
        dice.choice(
            (
                b"",
                b"{}",
                document.canonical(theirs),
                document.canonical(theirs | {"key": said["key"]}),
                document.canonical(said | {"key": theirs["key"]}),
                document.canonical(said | {"signature": "00" * 64}),
                document.canonical(said | {"algorithm": "none"}),
                document.canonical({**said, "signature": ""}),
                dice.randbytes(dice.randint(1, 300)),
            )
        )
    )


def downgrade(bundle: Path, dice: random.Random) -> None:
    """A version that the same key did sign, once: whole, its document alone, or its number alone. See `MINIMUM`."""
    old = bundle.with_name(f"{bundle.name}-old")
    make(old, FILES, bundle.parent / "key", version=dice.randint(1, MINIMUM - 1), minimum_version=1)
    how = dice.randrange(3)
    if how == 0:
        shutil.rmtree(bundle)
        old.rename(bundle)
    elif how == 1:
        shutil.copy(old / "bundle.json", bundle)
    else:
        shutil.copy(old / "bundle.sig.json", bundle)


MINIMUM = 3  # the version that the original has
WAYS: Mapping[str, Callable[[Path, random.Random], None]] = {
    way.__name__: way
    for way in (
        *(flip, truncate, append, extra, missing, rename, case, symlink, hard_link, dot_file, empty_folder),
        *(manifest_edit, stripped_signature, downgrade),
    )
}


@pytest.mark.parametrize("places", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", WAYS)
def test_what_was_changed_is_refused(way: str, places: int, original: Path, key: Path, tmp_path: Path) -> None:
    assert len(WAYS) == 14
    shutil.copy(key, tmp_path / "key")
    for place in range(places):
        bundle = tmp_path / f"{way}-{place}"
        shutil.copytree(original, bundle)
        check(bundle, key, minimum=MINIMUM)
        WAYS[way](bundle, random.Random(f"{way} {place}"))
        with pytest.raises(BundleError):
            check(bundle, key, minimum=MINIMUM)


# ---------------------------------------------------------------- what is said, and what is none of the fourteen


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("flip", "not what was signed|is not the signature|not valid JSON|canonical"),
        ("extra", "nobody signed it"),
        ("symlink", "is a link|is missing"),
        ("hard_link", "is a hard link"),
        ("empty_folder", "folder"),
        ("downgrade", "was withdrawn|is not the signature"),
    ],
)
def test_the_message_says_what_is_wrong_and_what_to_do(
    way: str, said: str, original: Path, key: Path, tmp_path: Path
) -> None:
    shutil.copy(key, tmp_path / "key")
    WAYS[way](original, random.Random(7))
    with pytest.raises(BundleError, match=said) as caught:
        check(original, key, minimum=MINIMUM)
    assert caught.value.remedy


def test_another_case_of_a_name_is_called_so(original: Path, key: Path) -> None:
    (original / "model" / "edgekit.json").rename(original / "model" / "Edgekit.json")
    with pytest.raises(BundleError, match=r"model/edgekit\.json was signed, in other letters"):
        check(original, key)


def test_a_pipe_in_place_of_a_file_is_not_waited_for(original: Path, key: Path) -> None:
    (original / "README.md").unlink()
    os.mkfifo(original / "README.md")
    with pytest.raises(BundleError, match=r"README\.md: is no file"):
        check(original, key)


def test_a_link_to_a_bundle_is_a_way_to_it(original: Path, key: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(original)
    check(tmp_path / "current", key)


def test_names_are_looked_at_before_a_byte_is_read(original: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (original / "extra").write_bytes(b"")
    monkeypatch.setattr(document, "hash_files", lambda *_: pytest.fail("was hashed"))
    with pytest.raises(BundleError, match="extra"):
        check(original, key)


def test_nothing_is_read_out_of_a_document_that_is_not_signed(
    original: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (original / "bundle.json").write_bytes(b"[" * 1000)
    monkeypatch.setattr(document, "parsed", lambda *_: pytest.fail("was parsed"))
    with pytest.raises(BundleError, match="is not the signature of this bundle"):
        check(original, key)


@pytest.mark.parametrize("minimum", [1, 2, 3])
def test_a_version_from_the_minimum_on(minimum: int, original: Path, key: Path) -> None:
    check(original, key, minimum=minimum)


@pytest.fixture
def difference(original: Path) -> tuple[Path, frozenset[str]]:
    """What an update brings: the documents, and some of the files."""
    present = frozenset({"README.md", "model/edgekit.json"})
    for name in set(FILES) - present:
        (original / name).unlink()
    for folder in reversed(every_folder(original)):
        if not any(folder.iterdir()):
            folder.rmdir()
    return original, present


def test_a_difference_holds_exactly_what_it_brings(difference: tuple[Path, frozenset[str]], key: Path) -> None:
    bundle, present = difference
    check(bundle, key, present=present)
    with pytest.raises(BundleError, match="is missing"):
        check(bundle, key)
    with pytest.raises(BundleError, match=r"README\.md: does not belong"):
        check(bundle, key, present=present - {"README.md"})
    (bundle / "model" / "edgekit.json").write_bytes(b"[]")
    with pytest.raises(BundleError, match="not what was signed"):
        check(bundle, key, present=present)


def test_a_signed_folder_grows_only_by_being_signed_again(original: Path, key: Path) -> None:
    (original / "papers" / "more").write_bytes(b"more")
    with pytest.raises(BundleError):
        check(original, key)
    sign_folder(original, key)
    check(original, key)


# ---------------------------------------------------------------- the commands


def test_a_key_is_made_and_a_bundle_verified(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keygen", "--to", str(tmp_path / "own"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert Path(made["public"]).is_file()
    assert Path(made["certificate"]).is_file()
    sign_folder(original, Path(made["private"]))
    command = ["verify", str(original), "--key", made["public"]]
    assert main([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["key"], said["version"], said["files"]) == (made["key"], 3, len(FILES))
    assert main(command) == 0
    assert made["key"] in capsys.readouterr().out
    assert main([*command, "--minimum-version", "4"]) == 1
    assert "version 3 was withdrawn" in capsys.readouterr().err
    (original / "README.md").write_bytes(b"other")
    assert main(command) == 1
    assert "README.md" in capsys.readouterr().err


def test_the_command_verifies_a_difference_by_the_bundle_that_it_was_made_from(
    original: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    update = tmp_path / "update"
    make(update, {**FILES, "README.md": b"# Another"}, key, version=4)
    for path in every_file(update):
        if path.name not in ("README.md", "bundle.json", "bundle.sig.json"):
            path.unlink()
    for folder in reversed(every_folder(update)[1:]):
        folder.rmdir()
    command = ["verify", str(update), "--key", str(keys.public_path(key))]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert f"is missing, as are {len(FILES) - 2} others of {len(FILES) + 2} files" in said
    assert "a difference, as `edgekit pack --since`" in said
    assert "is verified with --since the bundle that it was made from" in said
    assert main([*command, "--since", str(original)]) == 0
    assert f"1 of {len(FILES)} files" in capsys.readouterr().out
    (update / "README.md").write_bytes(b"# Anothex")
    assert main([*command, "--since", str(original)]) == 1


def test_a_private_key_verifies_nothing(original: Path, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(original), "--key", str(key)]) == 2
    assert "no public key" in capsys.readouterr().err
