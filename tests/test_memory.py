"""Memory: what a container may use, what a process took, and what returns to the system."""

from __future__ import annotations

import gc
import platform
from pathlib import Path

import numpy as np
import psutil
import pytest
from material import anonymous_bytes, in_a_new_process

from edgekit.machine.memory import Memory, limited, memory, peak_memory_bytes, trim_malloc, unmap_large_blocks

WHOLE = Memory(1_000_000, 600_000)
UNLIMITED_V1 = "9223372036854771712\n"


def group(folder: Path, version: int, limit: str | int, used: int, cached: int = 0) -> None:
    """A control group's folder as the kernel shows it."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    own = f"anon 1\ninactive_file {cached if version == 2 else 7}\nactive_file 5\n"
    (folder / "memory.stat").write_text(own + (f"total_inactive_file {cached}\n" if version == 1 else ""))


def test_no_groups(tmp_path: Path) -> None:
    assert limited(WHOLE, tmp_path, "") == WHOLE
    assert limited(WHOLE, tmp_path, "0::/a/b\n4:memory:/a\nnonsense\n") == WHOLE


def test_no_limit(tmp_path: Path) -> None:
    group(tmp_path, 2, "max", 100_000)
    group(tmp_path / "memory", 1, UNLIMITED_V1.strip(), 100_000)
    assert limited(WHOLE, tmp_path, "0::/\n4:memory:/\n") == WHOLE
    group(tmp_path, 2, 1_000_000, 990_000)  # the machine's own memory says more
    assert limited(WHOLE, tmp_path, "0::/\n") == WHOLE


def test_version_2_in_a_container(tmp_path: Path) -> None:
    group(tmp_path, 2, 400_000, 100_000)
    assert limited(WHOLE, tmp_path, "0::/\n") == Memory(400_000, 300_000)


def test_version_1_in_a_container(tmp_path: Path) -> None:
    """Its own group is mounted as the root, and named as the host names it."""
    group(tmp_path / "memory", 1, 400_000, 100_000)
    assert limited(WHOLE, tmp_path, "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n") == Memory(400_000, 300_000)
    assert limited(WHOLE, tmp_path, "4:hugetlb,memory:/docker/abc\n") == Memory(400_000, 300_000)
    assert limited(WHOLE, tmp_path, "4:memory_of_old:/docker/abc\n") == WHOLE


@pytest.mark.parametrize("version", [1, 2])
def test_files_that_could_be_forgotten_are_not_used(tmp_path: Path, version: int) -> None:
    root = tmp_path / "memory" if version == 1 else tmp_path
    group(root, version, 400_000, 390_000, cached=290_000)
    assert limited(WHOLE, tmp_path, "4:memory:/\n" if version == 1 else "0::/\n") == Memory(400_000, 300_000)
    group(root, version, 400_000, 10_000, cached=20_000)  # the two files are read one after the other
    assert limited(WHOLE, tmp_path, "4:memory:/\n" if version == 1 else "0::/\n") == Memory(400_000, 400_000)
    (root / "memory.stat").unlink()
    assert limited(WHOLE, tmp_path, "4:memory:/\n" if version == 1 else "0::/\n") == Memory(400_000, 390_000)


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_of_all_groups_around_counts(tmp_path: Path, version: int) -> None:
    root = tmp_path / "memory" if version == 1 else tmp_path
    member = "4:memory:/user.slice/mine/job\n" if version == 1 else "0::/user.slice/mine/job\n"
    group(root / "user.slice" / "mine" / "job", version, UNLIMITED_V1.strip() if version == 1 else "max", 50_000)
    group(root / "user.slice" / "mine", version, 500_000, 100_000)
    assert limited(WHOLE, tmp_path, member) == Memory(500_000, 400_000)
    group(root / "user.slice", version, 700_000, 690_000)  # larger, and nearly full
    assert limited(WHOLE, tmp_path, member) == Memory(500_000, 10_000)
    group(root / "user.slice" / "mine" / "job", version, 300_000, 50_000)
    assert limited(WHOLE, tmp_path, member) == Memory(300_000, 10_000)
    group(root / "user.slice" / "other", version, 1_000, 1_000)
    assert limited(WHOLE, tmp_path, member) == Memory(300_000, 10_000)


def test_over_its_limit(tmp_path: Path) -> None:
    group(tmp_path, 2, 100_000, 100_500)
    assert limited(WHOLE, tmp_path, "0::/\n") == Memory(100_000, 0)


def test_a_group_outside_what_is_mounted(tmp_path: Path) -> None:
    group(tmp_path / "here", 2, 400_000, 100_000)
    group(tmp_path / "elsewhere", 2, 1, 1)
    assert limited(WHOLE, tmp_path / "here", "0::/../elsewhere\n") == Memory(400_000, 300_000)


def test_this_machine() -> None:
    here = memory()
    assert psutil.virtual_memory().total >= here.total_bytes >= here.available_bytes > 0


def test_the_peak_stays_when_memory_is_freed() -> None:
    before = psutil.Process().memory_info().rss
    block = np.ones(100 << 20, np.uint8)
    size = block.nbytes
    del block
    assert peak_memory_bytes() >= before + size - (10 << 20)


def resident_after_small_blocks(trimmed: bool) -> int:
    before, blocks = anonymous_bytes(), [bytearray(1000) for _ in range(100_000)]
    last = bytearray(1000)  # keeps what lies below it
    blocks.clear()
    gc.collect()
    if trimmed:
        trim_malloc()
    kept = anonymous_bytes() - before
    assert last is not None
    return kept


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_small_blocks_return_to_the_system() -> None:
    trimmed, untrimmed = (in_a_new_process(resident_after_small_blocks, asked) for asked in (True, False))
    assert trimmed < 30e6
    assert untrimmed > 60e6, "glibc gives them back by itself now"


def kept_after_freeing(asked: bool) -> int:
    """Bytes that a process keeps of blocks that it freed, each with a small one above it that it still uses."""
    if asked:
        unmap_large_blocks()
    before, used = anonymous_bytes(), []
    for _ in range(2):  # glibc learns from the first round
        blocks = []
        for _ in range(50):
            blocks.append(np.ones(4 << 20, np.uint8))
            used.append(bytearray(100_000))
        del blocks
    return anonymous_bytes() - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_large_blocks_return_to_the_system() -> None:
    assert in_a_new_process(kept_after_freeing, True) < 20e6
    assert in_a_new_process(kept_after_freeing, False) > 100e6, "glibc gives them back by itself now"
