"""What lies on a file system in memory, as Linux lists what is mounted."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs", "rootfs", "hugetlbfs")


def in_memory(device: int, root: Path = Path("/")) -> bool:
    """Whether a device is a file system that never writes anything back to a disk.

    Args:
        device: a file's `st_dev`.
        root: where /proc lies.

    Returns:
        True, too, where Linux does not say; False on other systems.
    """
    if sys.platform != "linux":
        return False
    try:
        text = (root / "proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    name = f"{os.major(device)}:{os.minor(device)}"
    for line in text.splitlines():  # "23 28 0:21 / /dev/shm rw,relatime shared:4 - tmpfs tmpfs rw"; see proc(5)
        mount, _, system = line.partition(" - ")
        if mount.split(" ")[2:3] == [name]:
            return system.split(" ")[0] in _IN_MEMORY
    return False  # btrfs gives its parts numbers of their own
