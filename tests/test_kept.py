"""What stays on disk of images: only where the user said so, for this user alone, bounded, and never trusted."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from material import largest_file, photo
from PIL import Image as Pillow

from edgekit.artifacts.files import replacing
from edgekit.cli import main
from edgekit.errors import EdgekitWarning
from edgekit.machine.kept import IMAGES, Kept
from edgekit.runtime.embedded import EmbeddedImages
from edgekit.runtime.llama.decoder import LlamaVision


def key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kept:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return Kept(IMAGES, most_bytes=1000)


def test_what_was_kept_is_given_back(kept: Kept) -> None:
    assert kept.get(key("a")) is None
    assert kept.put(key("a"), b"embeddings")
    assert kept.get(key("a")) == b"embeddings"
    assert [entry.bytes for entry in kept.entries()] == [42]
    assert kept.clear() == 1
    assert kept.get(key("a")) is None


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_nobody_else_can_enter(kept: Kept) -> None:
    kept.put(key("a"), b"x")
    for folder in (kept.folder, kept.folder.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_it_holds_no_more_than_it_may_and_forgets_what_was_used_longest_ago(kept: Kept) -> None:
    for number, name in enumerate("abc"):
        kept.put(key(name), b"x" * 200)
        os.utime(kept.folder / key(name), (number, number))
    assert kept.get(key("a"))  # used just now
    kept.put(key("d"), b"x" * 400)
    assert [kept.get(key(name)) is not None for name in "abcd"] == [True, False, True, True]
    assert sum(entry.bytes for entry in kept.entries()) <= 1000
    assert not kept.put(key("e"), b"x" * 2000)


def test_what_an_entry_replaces_needs_no_room(kept: Kept) -> None:
    kept.put(key("a"), b"x" * 400)
    kept.put(key("b"), b"x" * 200)
    assert kept.put(key("a"), b"y" * 700)
    assert (kept.get(key("a")), kept.get(key("b"))) == (b"y" * 700, b"x" * 200)


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_nothing_is_dropped_for_what_cannot_be_written(kept: Kept) -> None:
    for name in "ab":
        kept.put(key(name), b"x" * 400)
    with largest_file(500), pytest.warns(EdgekitWarning, match="no space left"):
        assert not kept.put(key("a"), b"y" * 700)
    assert [kept.get(key(name)) for name in "ab"] == [b"x" * 400] * 2
    assert len(kept.entries()) == 2


KILLED = """
import os, sys
from pathlib import Path
from edgekit.artifacts.files import replacing
with replacing(Path(sys.argv[1])) as path:
    path.write_bytes(b"p" * 600)
    os._exit(9)
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX locks")
def test_what_a_killed_process_was_writing_is_seen_and_removed(kept: Kept) -> None:
    def killed() -> None:
        done = subprocess.run([sys.executable, "-c", KILLED, str(kept.folder / key("k"))], check=False, timeout=60)
        assert done.returncode == 9

    kept.put(key("a"), b"x" * 100)
    killed()
    assert [entry.bytes for entry in kept.entries()] == [132, 600]
    kept.put(key("b"), b"x" * 300)  # it goes first, although it is younger than the other
    assert sorted(entry.bytes for entry in kept.entries()) == [132, 332]
    killed()
    with replacing(kept.folder / key("c")) as path:
        path.write_bytes(b"alive")
        assert kept.clear() == 3
        assert [entry.path for entry in kept.entries()] == [path]
    assert kept.clear() == 1
    assert not list(kept.folder.iterdir())


def test_a_damaged_entry_is_dropped(kept: Kept) -> None:
    path = kept.folder / key("a")
    kept.put(key("a"), b"embeddings")
    right = path.read_bytes()
    for wrong in (right[:-1], b"", right[:40] + b"?" + right[41:], right + b"?"):
        path.write_bytes(wrong)
        assert kept.get(key("a")) is None
        assert not path.exists()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX permissions")
def test_what_others_can_write_to_is_not_used(kept: Kept) -> None:
    kept.put(key("a"), b"x")
    kept.folder.chmod(0o777)
    assert kept.get(key("a")) is None
    with pytest.warns(EdgekitWarning, match="nothing can be kept"):
        assert not kept.put(key("b"), b"x")


def test_a_folder_that_cannot_be_made_is_said(kept: Kept) -> None:
    kept.folder.parent.parent.mkdir()
    kept.folder.parent.write_text("no folder")
    with pytest.warns(EdgekitWarning, match="nothing can be kept"):
        assert not kept.put(key("a"), b"x")
    assert kept.get(key("a")) is None
    assert kept.entries() == []


def test_embeddings_are_known_by_image_and_by_what_made_them(kept: Kept) -> None:
    computed = []

    def compute() -> Any:
        computed.append(1)
        return np.arange(12, dtype=np.float32).reshape(4, 3)

    for made_by, content in (("a", "x"), ("a", "x"), ("b", "x"), ("a", "y")):
        found = EmbeddedImages(4, made_by, Kept(IMAGES)).of(content, compute)
        assert np.array_equal(found, np.arange(12).reshape(4, 3))
    assert len(computed) == 3
    EmbeddedImages(4).of("x", compute)
    assert len(computed) == 4


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "chest.png"
    Pillow.fromarray(photo(90, 70)).save(path)
    return path


def test_a_second_question_about_a_kept_image_neither_encodes_nor_loads_an_encoder(
    kept: Kept,
    medgemma_artifact: Path,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loaded = []
    right = LlamaVision.__init__

    def counted(*given: Any, **named: Any) -> None:
        loaded.append(1)
        right(*given, **named)

    monkeypatch.setattr(LlamaVision, "__init__", counted)
    ask = ["ask", str(medgemma_artifact), "What is it?", "--image", str(picture), "--max-tokens", "6", "--json"]
    texts = []
    for options, count in (([], 1), ([], 2), (["--keep"], 3), (["--keep"], 3), ([], 4)):
        assert main([*ask, *options]) == 0
        texts.append(json.loads(capsys.readouterr().out)["text"])
        assert len(loaded) == count
    assert len(set(texts)) == 1
    assert main(["cache", "--json"]) == 0
    assert [row["entries"] for row in json.loads(capsys.readouterr().out)] == [1, 0, 0]
    assert main(["cache", "--clear"]) == 0
    assert "1 entries" in capsys.readouterr().out
    assert Kept(IMAGES).entries() == []


def test_a_question_of_text_alone_loads_no_encoder(
    medgemma_artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*given: Any, **named: Any) -> None:
        raise AssertionError("an encoder is loaded")

    monkeypatch.setattr(LlamaVision, "__init__", never)
    assert main(["ask", str(medgemma_artifact), "What is a cough?", "--max-tokens", "4"]) == 0
    assert capsys.readouterr().out.strip()
