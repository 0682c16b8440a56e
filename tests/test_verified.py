"""A file is hashed once, and again after whatever could have changed it."""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.artifacts import files, manifest
from edgekit.artifacts.manifest import FileEntry
from edgekit.errors import ArtifactError
from edgekit.machine.mounts import in_memory
from edgekit.runtime import verified
from edgekit.runtime.verified import verify_once

OLD = time.time_ns() - 10**12


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The files that were hashed, in a cache of their own, on a disk even where temporary files lie in memory."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(verified, "in_memory", lambda device: False)
    seen: list[Path] = []

    def counted(path: Path) -> str:
        seen.append(path)
        return files.sha256_file(path)

    monkeypatch.setattr(manifest, "sha256_file", counted)
    return seen


@pytest.fixture
def part(tmp_path: Path) -> Path:
    path = tmp_path / "artifact" / "part.gguf"
    path.parent.mkdir()
    path.write_bytes(b"weights" * 100)
    return path


def described(part: Path) -> FileEntry:
    return FileEntry(path=part.name, sha256=files.sha256_file(part), bytes=part.stat().st_size)


def later(monkeypatch: pytest.MonkeyPatch, seconds: float = 3600) -> None:
    """So much later, when no time of change is a moment ago."""
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + int(seconds * 1e9))


def test_a_file_is_hashed_once(hashed: list[Path], part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = described(part)
    later(monkeypatch)
    for _ in range(3):
        verify_once(part.parent, [entry])
    assert hashed == [part]


def test_what_changed_a_moment_ago_is_hashed_again(hashed: list[Path], part: Path) -> None:
    """A second change within a clock's tick would leave no trace."""
    entry = described(part)
    for _ in range(2):
        verify_once(part.parent, [entry])
    assert hashed == [part] * 2


def test_a_change_is_found_whatever_time_it_claims(
    hashed: list[Path], part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(part, ns=(OLD, OLD))
    entry = described(part)
    later(monkeypatch)
    verify_once(part.parent, [entry])
    time.sleep(0.02)  # a clock's tick
    part.write_bytes(b"w3ights" * 100)  # as long as before
    os.utime(part, ns=(OLD, OLD))
    with pytest.raises(ArtifactError, match="SHA-256"):
        verify_once(part.parent, [entry])
    with pytest.raises(ArtifactError, match="SHA-256"):
        verify_once(part.parent, [entry])
    assert len(hashed) == 3


def test_another_file_of_the_name_is_hashed(hashed: list[Path], part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = described(part)
    later(monkeypatch)
    verify_once(part.parent, [entry])
    other = part.with_name("other")
    other.write_bytes(part.read_bytes())
    other.replace(part)
    verify_once(part.parent, [entry])
    assert len(hashed) == 2


def test_another_manifest_is_not_believed(hashed: list[Path], part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = described(part)
    later(monkeypatch)
    verify_once(part.parent, [entry])
    wrong = FileEntry(path=entry.path, bytes=entry.bytes, sha256="0" * 64)
    with pytest.raises(ArtifactError, match="SHA-256"):
        verify_once(part.parent, [wrong])


def test_a_file_that_is_gone_is_said(hashed: list[Path], part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = described(part)
    later(monkeypatch)
    verify_once(part.parent, [entry])
    part.unlink()
    with pytest.raises(ArtifactError, match="missing"):
        verify_once(part.parent, [entry])


def test_without_a_cache_everything_is_hashed_every_time(
    hashed: list[Path], part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (part.parent.parent / "cache").write_text("no folder")
    entry = described(part)
    later(monkeypatch)
    for _ in range(2):
        verify_once(part.parent, [entry])
    assert len(hashed) == 2


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX permissions")
def test_a_cache_that_others_can_write_to_is_not_believed(
    hashed: list[Path], part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = described(part)
    later(monkeypatch)
    verify_once(part.parent, [entry])
    (part.parent.parent / "cache" / "tried").chmod(0o777)
    verify_once(part.parent, [entry])
    assert len(hashed) == 2


# ---------------------------------------------------------------- file systems in memory


@pytest.fixture
def part_in_memory() -> Iterator[Path]:
    shared = Path("/dev/shm")
    if sys.platform != "linux" or not os.access(shared, os.W_OK):
        pytest.skip("no /dev/shm")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        path = Path(folder) / "part.gguf"
        path.write_bytes(b"weights" * 1000)
        yield path


def test_a_change_through_a_mapping_is_found_in_memory(
    hashed: list[Path], part_in_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified, "in_memory", in_memory)
    entry = described(part_in_memory)
    later(monkeypatch)
    with part_in_memory.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as mapping:
        mapping[0:1] = b"w"  # the first write to a page may set times, by the kernel's version
        before = part_in_memory.stat()
        for _ in range(2):
            verify_once(part_in_memory.parent, [entry])
        mapping[0:1] = b"W"
        assert part_in_memory.stat().st_ctime_ns == before.st_ctime_ns, "nothing else shows the change"
        with pytest.raises(ArtifactError, match="SHA-256"):
            verify_once(part_in_memory.parent, [entry])


MOUNTS = """\
21 28 0:19 / /proc rw,relatime - proc proc rw
28 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 28 0:26 / /run/a\\040-\\040tmpfs rw,nosuid shared:5 master:1 - tmpfs tmpfs rw,size=1k
31 28 0:27 / /mnt/ramfs rw - ramfs none rw
32 28 0:28 / /mnt/tmpfs rw - fuse.tmpfs tmpfs rw

cut off
33 28
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mountinfo is Linux's")
@pytest.mark.parametrize(
    ("device", "expected"),
    [((254, 0), False), ((0, 26), True), ((0, 27), True), ((0, 28), False), ((0, 2), False), ((254, 26), False)],
)
def test_which_file_systems_lie_in_memory(tmp_path: Path, device: tuple[int, int], expected: bool) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "mountinfo").write_text(MOUNTS)
    assert in_memory(os.makedev(*device), tmp_path) is expected


@pytest.mark.skipif(sys.platform != "linux", reason="mountinfo is Linux's")
def test_where_linux_does_not_say_nothing_is_believed(tmp_path: Path) -> None:
    assert in_memory(tmp_path.stat().st_dev, tmp_path)
