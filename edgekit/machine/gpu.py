"""This machine's NVIDIA GPUs, as their driver's own tool describes them.

Whether a part runs on one is decided where it is opened: `edgekit.runtime.opening`.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

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
