"""Memory: what a container may use, what a process took, and what returns to the system."""

from __future__ import annotations

import gc
import hashlib
import mmap
import platform
import re
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from material import anonymous_bytes, in_a_new_process

from edgekit.machine.memory import (
    Memory,
    limited,
    memory,
    peak_memory_bytes,
    release_mapped,
    trim_malloc,
    unmap_large_blocks,
)

WHOLE = Memory(1_000_000, 600_000)
V1, V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"  # where they are usually mounted
UNLIMITED_V1 = "9223372036854771712\n"


def group(folder: Path, version: int, limit: str | int, used: int, cached: int = 0) -> None:
    """A control group's folder as the kernel shows it."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    # Of version 1's own figures none counts: those with the groups inside do.
    half = f"inactive_file {cached // 2}\n{{0}}active_file {cached - cached // 2}\n"
    inside = half.format("") if version == 2 else "inactive_file 7\nactive_file 9\ntotal_" + half.format("total_")
    (folder / "memory.stat").write_text(f"anon 1\nshmem 3\n{inside}")


def within(root: Path, memberships: str, mountinfo: str = "") -> Memory:
    """What is left of WHOLE for a process in these groups; the kernel need not say where they are mounted."""
    (root / "proc" / "self").mkdir(parents=True, exist_ok=True)
    (root / "proc" / "self" / "cgroup").write_text(memberships)
    (root / "proc" / "self" / "mountinfo").write_text(mountinfo)
    return limited(WHOLE, root)


def test_no_groups(tmp_path: Path) -> None:
    assert within(tmp_path, "") == WHOLE
    assert within(tmp_path, "0::/a/b\n4:memory:/a\nnonsense\n") == WHOLE


def test_no_limit(tmp_path: Path) -> None:
    group(tmp_path / V2, 2, "max", 100_000)
    group(tmp_path / V1, 1, UNLIMITED_V1.strip(), 100_000)
    assert within(tmp_path, "0::/\n4:memory:/\n") == WHOLE
    group(tmp_path / V2, 2, 1_000_000, 990_000)  # the machine's own memory says more
    assert within(tmp_path, "0::/\n") == WHOLE


def test_version_2_in_a_container(tmp_path: Path) -> None:
    group(tmp_path / V2, 2, 400_000, 100_000)
    assert within(tmp_path, "0::/\n") == Memory(400_000, 300_000)


def test_version_1_in_a_container(tmp_path: Path) -> None:
    """Its own group is mounted as the root, and named as the host names it."""
    group(tmp_path / V1, 1, 400_000, 100_000)
    assert within(tmp_path, "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n") == Memory(400_000, 300_000)
    assert within(tmp_path, "4:hugetlb,memory:/docker/abc\n") == Memory(400_000, 300_000)
    assert within(tmp_path, "4:memory_of_old:/docker/abc\n") == WHOLE


@pytest.mark.parametrize("version", [1, 2])
def test_files_that_could_be_forgotten_are_not_used(tmp_path: Path, version: int) -> None:
    root = tmp_path / (V1 if version == 1 else V2)
    group(root, version, 400_000, 390_000, cached=290_000)
    assert within(tmp_path, "4:memory:/\n" if version == 1 else "0::/\n") == Memory(400_000, 300_000)
    group(root, version, 400_000, 10_000, cached=20_000)  # the two files are read one after the other
    assert within(tmp_path, "4:memory:/\n" if version == 1 else "0::/\n") == Memory(400_000, 400_000)
    (root / "memory.stat").unlink()
    assert within(tmp_path, "4:memory:/\n" if version == 1 else "0::/\n") == Memory(400_000, 390_000)


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_of_all_groups_around_counts(tmp_path: Path, version: int) -> None:
    root = tmp_path / (V1 if version == 1 else V2)
    member = "4:memory:/user.slice/mine/job\n" if version == 1 else "0::/user.slice/mine/job\n"
    group(root / "user.slice" / "mine" / "job", version, UNLIMITED_V1.strip() if version == 1 else "max", 50_000)
    group(root / "user.slice" / "mine", version, 500_000, 100_000)
    assert within(tmp_path, member) == Memory(500_000, 400_000)
    group(root / "user.slice", version, 700_000, 690_000)  # larger, and nearly full
    assert within(tmp_path, member) == Memory(500_000, 10_000)
    group(root / "user.slice" / "mine" / "job", version, 300_000, 50_000)
    assert within(tmp_path, member) == Memory(300_000, 10_000)
    group(root / "user.slice" / "other", version, 1_000, 1_000)
    assert within(tmp_path, member) == Memory(300_000, 10_000)


DOCKER_V1 = """\
1048 1029 0:120 / / rw,relatime master:300 - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/A,upperdir=/u
1052 1050 0:29 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,mode=755,inode64
1053 1052 0:30 /docker/4f2a /sys/fs/cgroup/systemd ro,nosuid master:11 - cgroup cgroup rw,xattr,name=systemd
1060 1052 0:38 /docker/4f2a /sys/fs/cgroup/cpu,cpuacct ro,nosuid master:19 - cgroup cgroup rw,cpu,cpuacct
1062 1052 0:40 /docker/4f2a /sys/fs/cgroup/memory ro,nosuid,nodev,noexec,relatime master:21 - cgroup cgroup rw,memory
"""
HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /mnt/cgroup/mem rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""


def test_version_1_as_docker_mounts_it(tmp_path: Path) -> None:
    """The container's group is mounted as the root; groups that were made inside lie below it."""
    group(tmp_path / V1, 1, 500_000, 100_000)
    group(tmp_path / V1 / "batch", 1, 300_000, 50_000)
    memberships = "11:cpu,cpuacct:/docker/4f2a/batch\n8:memory:/docker/4f2a/batch\n0::/\n"
    assert within(tmp_path, memberships, DOCKER_V1) == Memory(300_000, 250_000)
    assert within(tmp_path, memberships.replace("/batch", ""), DOCKER_V1) == Memory(500_000, 400_000)


def test_groups_that_are_mounted_elsewhere(tmp_path: Path) -> None:
    group(tmp_path / "mnt/cgroup/mem/jobs", 1, 400_000, 100_000)
    group(tmp_path / V1 / "jobs", 1, 1, 1)  # mounted by nobody
    assert within(tmp_path, "4:memory:/jobs\n0::/\n", HYBRID) == Memory(400_000, 300_000)
    group(tmp_path / "sys/fs/cgroup/unified/jobs", 2, 200_000, 100_000)
    assert within(tmp_path, "4:memory:/jobs\n0::/jobs\n", HYBRID) == Memory(200_000, 100_000)


def test_a_group_that_is_slowed_down_at_less_than_its_limit(tmp_path: Path) -> None:
    group(tmp_path / V2, 2, 400_000, 100_000)
    (tmp_path / V2 / "memory.high").write_text("300000\n")
    assert within(tmp_path, "0::/\n") == Memory(300_000, 200_000)


def test_a_model_that_was_read_twice_is_no_used_memory(tmp_path: Path) -> None:
    """As the kernel writes it: pages of a file that were used again are active, and given up as well."""
    group(tmp_path / V2, 2, 900_000, 800_000)
    stat = "anon 40000\nfile 700000\nkernel 60000\nshmem 20000\nfile_mapped 600000\ninactive_anon 30000\n"
    stat += "active_anon 10000\ninactive_file 80000\nactive_file 600000\nslab_reclaimable 30000\nslab 35000\n"
    (tmp_path / V2 / "memory.stat").write_text(stat)
    assert within(tmp_path, "0::/\n") == Memory(900_000, 600_000)  # the machine itself has no more; else 810,000
    group(tmp_path / V2, 2, 500_000, 490_000)
    (tmp_path / V2 / "memory.stat").write_text(stat.replace("active_file 600000", "active_file 300000"))
    assert within(tmp_path, "0::/\n") == Memory(500_000, 420_000)


def test_over_its_limit(tmp_path: Path) -> None:
    group(tmp_path / V2, 2, 100_000, 100_500)
    assert within(tmp_path, "0::/\n") == Memory(100_000, 0)


def test_a_group_outside_what_is_mounted(tmp_path: Path) -> None:
    group(tmp_path / V2, 2, 400_000, 100_000)
    group(tmp_path / V2 / ".." / "elsewhere", 2, 1, 1)
    assert within(tmp_path, "0::/../elsewhere\n") == Memory(400_000, 300_000)


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


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone")
def test_a_mapped_file_is_released_and_comes_back(tmp_path: Path) -> None:
    """But not what somebody wrote to a copy of it, which is nowhere else."""
    path, link = tmp_path / "weights", tmp_path / "link"
    path.write_bytes(bytes(range(256)) * (1 << 17))  # 32 MB
    link.symlink_to(path)

    def held() -> int:
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"RssFile:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        before = hashlib.sha256(mapped).hexdigest()
        with mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as copy:
            copy[:4] = b"mine"
            full = held()
            release_mapped(link)
            assert held() < full - (24 << 20)
            assert copy[:4] == b"mine"
        assert hashlib.sha256(mapped).hexdigest() == before
    release_mapped(tmp_path / "nothing")
