"""Files and folders appear whole or not at all, and hashes are the standard library's."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit.artifacts.files import link_or_copy, put, replacing, sha256_file, sha256_json, write_atomically
from edgekit.artifacts.folders import MARKER, claimed, locked, new_folder, staging_of
from edgekit.errors import ArtifactError, UsageError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def no_links(*_: Any) -> None:
    raise OSError


@pytest.mark.parametrize("size", [0, 1, 3 << 20])
def test_hash_of_a_file(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "a").write_bytes(data)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_a_key_does_not_depend_on_the_order_of_names() -> None:
    assert sha256_json({"a": 1, "b": [2, "ü"]}) == sha256_json({"b": [2, "ü"], "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": "1"})
    assert sha256_json((1, 2)) == sha256_json([1, 2])


@pytest.mark.parametrize(("data", "there"), [("ü\n", b"\xc3\xbc\n"), (b"\x00\r\n", b"\x00\r\n")])
def test_written_in_one_step(tmp_path: Path, data: str | bytes, there: bytes) -> None:
    path = tmp_path / "a.json"
    for _ in range(2):
        write_atomically(path, data)
        assert (path.read_bytes(), names(tmp_path)) == (there, ["a.json"])


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (path.read_text(), names(tmp_path)) == ("old", ["a"])


def test_a_reader_sees_the_old_file_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "a", "text")


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool, wanted: bool) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    source, target = tmp_path / "source", tmp_path / "below" / "target"
    source.write_text("new")
    target.parent.mkdir()
    (tmp_path / ".source.outgoing").write_text("what a killed process left, and longer")
    (target.parent / ".target.partial").write_text("somebody's")
    target.write_text("old")
    for _ in range(2):
        put(source, target, link=wanted)
        assert target.read_text() == "new"
        assert target.samefile(source) is (links and wanted)
        assert names(tmp_path) == ["below", "source"]
        assert names(target.parent) == [".target.partial", "target"]
        assert (target.parent / ".target.partial").read_text() == "somebody's"


def test_a_link_is_to_the_file_itself(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    (tmp_path / "link").symlink_to("file")
    link_or_copy(tmp_path / "link", tmp_path / "other")
    assert not (tmp_path / "other").is_symlink()
    assert (tmp_path / "other").samefile(tmp_path / "file")


# ---------------------------------------------------------------- folders


def test_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with (
        locked(folder),
        pytest.raises(ArtifactError, match=r"a: another command is writing here: process \d+ .*\ntry: wait for it"),
        locked(folder),
    ):
        pass
    with locked(folder):  # it let go
        assert folder.is_dir()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    holds = "import sys, time; from pathlib import Path; from edgekit.artifacts.folders import locked\n"
    holds += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holds, tmp_path / "a"], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ArtifactError), locked(tmp_path / "a"):
            pass
        other.kill()
    with locked(tmp_path / "a"):
        pass


def test_a_locked_folder_may_be_renamed(tmp_path: Path) -> None:
    with locked(tmp_path / "a"):
        (tmp_path / "a").rename(tmp_path / "b")
        with locked(tmp_path / "a"):
            assert names(tmp_path) == ["a", "b"]


def test_a_new_folder_appears_whole(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with new_folder(folder) as staging:
        assert staging == staging_of(folder)
        (staging / "file").write_text("content")
        assert not folder.exists()
    assert names(tmp_path) == ["a"]
    assert names(folder) == ["file"]


def test_after_an_error_nothing_is_left(tmp_path: Path) -> None:
    def fails() -> None:
        with new_folder(tmp_path / "a") as staging:
            (staging / "file").write_text("half")
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        fails()
    assert names(tmp_path) == []


def test_nothing_of_the_users_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with new_folder(tmp_path / "a"):  # an empty one is as good as none
        pass
    (tmp_path / "a" / "mine").write_text("kept")
    with pytest.raises(UsageError, match="a: is not empty"), new_folder(tmp_path / "a"):
        pass
    assert names(tmp_path / "a") == ["mine"]


def test_an_interrupted_export_is_kept(tmp_path: Path) -> None:
    with claimed(tmp_path / ".a.partial"):
        (tmp_path / ".a.partial" / ".stamp").write_text("{}")
    with pytest.raises(ArtifactError, match="an interrupted export can be gone on with"), new_folder(tmp_path / "a"):
        pass
    assert names(tmp_path / ".a.partial") == [MARKER, ".stamp"]


def test_a_link_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    """Else what somebody else chose would be emptied and filled."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "precious").touch()
    staging_of(tmp_path / "made").symlink_to(tmp_path / "theirs")
    with pytest.raises(ArtifactError, match=r"\.made\.partial: is a link"), locked(staging_of(tmp_path / "made")):
        pass
    assert (tmp_path / "theirs" / "precious").exists()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="needs to be root to make files of others")
def test_a_folder_that_another_user_marked_is_not_gone_on_with(tmp_path: Path) -> None:
    """Whoever may write beside it could else choose what is emptied."""
    staging = tmp_path / ".a.partial"
    staging.mkdir()
    (staging / MARKER).touch()
    (staging / "theirs").touch()
    os.chown(staging, 65534, 65534)
    with pytest.raises(ArtifactError, match="is of another user, 65534"), claimed(staging):
        pass
    assert (staging / "theirs").exists()
    os.chown(tmp_path, 65534, 65534)  # in a folder of theirs, as on a stick of theirs, it is for them to say
    with claimed(staging):
        pass
