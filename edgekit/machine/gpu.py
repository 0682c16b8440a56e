"""This machine's NVIDIA GPUs, as their driver's own tool describes them, and how much of any GPU may be used.

Whether a part runs on one is decided where it is opened: `edgekit.runtime.opening`.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import dataclass

from edgekit.errors import UsageError

VARIABLE = "EDGEKIT_GPU_MEMORY"
AUTO = "auto"
_MOST_GB = 1e6
_FIELDS = ("name", "memory.total", "memory.free", "driver_version", "compute_cap")
_LIMIT_S = 20


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU; memory is 0 where it is the machine's own (Jetson)."""

    name: str
    memory_mib: int
    free_mib: int
    driver: str
    compute_capability: str


def find_gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs; none where there is no driver, or it does not answer."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_gpus(output)


def parse_gpus(output: str) -> tuple[Gpu, ...]:
    """nvidia-smi's rows. A device may say [N/A] for its memory where that is the machine's own: then 0."""
    rows = [[cell.strip() for cell in line.split(",")] for line in output.splitlines()]
    return tuple(
        Gpu(name, int(total) if total.isdigit() else 0, int(free) if free.isdigit() else 0, driver, capability)
        for name, total, free, driver, capability in (row for row in rows if len(row) == len(_FIELDS))
    )


def video_memory(profile_gb: float | None, *, ignored: bool = False) -> int:
    """Bytes of video memory that a model may take; 0 for the CPU alone, which is the default.

    Args:
        profile_gb: what a device profile grants, None without one. It is the most there is: on a device without a GPU,
            none is used.
        ignored: whether the user's environment does not count.

    Raises:
        UsageError: the environment variable holds neither a number of GB nor `auto`, which is all that is free.
    """
    named = "" if ignored else os.environ.get(VARIABLE, "")
    limits = [] if profile_gb is None else [profile_gb]
    if named == AUTO:
        limits = limits or [_MOST_GB]
    elif named:
        limits.append(_gigabytes(named))
    return min(int(min(limits, default=0) * 1e9), sys.maxsize)


def _gigabytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= _MOST_GB:
        raise UsageError(f"{VARIABLE}={text:.40}", allowed=f"GB of video memory, 0 to {_MOST_GB:g}, or {AUTO}")
    return value
