"""This machine as a device profile: what it has, and what it reached when it was measured; well under a minute.

Each limit is measured in a process of its own (`edgekit.machine.worker`), so that a library or a driver that dies costs
its own figure alone. `sources` says of every figure when and how it was measured, and what disturbed it.
"""

from __future__ import annotations

import importlib.metadata
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgekit.errors import WorkerError
from edgekit.machine import cuda, roofline, worker
from edgekit.machine.cpu import cpu, level, platform_name
from edgekit.machine.device import HERE, Device
from edgekit.machine.disk import read_speed
from edgekit.machine.disturbance import on_battery, watched
from edgekit.machine.gpu import find_gpus
from edgekit.machine.memory import memory
from edgekit.machine.vulkan import vulkan_devices
from edgekit.progress import Progress
from edgekit.terminal import stripped_line

MEASURED = "measured "  # how a source begins that says when, on what, and behind a colon how
_NOT_MEASURED = ("not measured", "estimate: ")
LIBRARIES = ("numpy", "onnxruntime", "openvino")  # what the limits of the CPU are measured with
MODEL_SHARE = 2 / 3  # of main memory, for a model's weights: a choice; the rest is the system's and other programs'
_LARGE_GB = 14.0  # from here on a device reserves a longer context
_METAL_SHARE = 2 / 3  # of unified memory, what Metal recommends at most (recommendedMaxWorkingSetSize) up to 36 GB
_LIMIT_S = 120.0


@dataclass
class _Found:
    """Keys of a `Device` that were measured, and how."""

    keys: dict[str, Any] = field(default_factory=dict)
    how: dict[str, str] = field(default_factory=dict)

    def add(self, how: str, **keys: Any) -> None:
        """Keys, all from one source."""
        self.keys |= keys
        self.how |= dict.fromkeys(keys, how)


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        doubt: why its figures are doubtful, so that they should be measured again; None where nothing disturbed them.
    """

    device: Device
    doubt: str | None


def measure(folder: Path, progress: Progress | None = None) -> Measured:
    """Measure this machine.

    Args:
        folder: on the disk that is measured.
        progress: told the steps.

    Raises:
        WorkerError: not even its memory can be measured.
        OSError: the folder cannot be written to.
    """
    progress, found = progress or Progress(), _Found()
    steps: tuple[Callable[[_Found], None], ...] = (_machine, _bandwidth, _rates, _gpu, lambda into: _disk(into, folder))
    progress.start("measuring this machine", len(steps))
    with watched() as conditions:
        for step in steps:
            step(found)
            progress.advance()
    progress.finish()
    power: Literal["mains", "battery"] = "battery" if conditions.on_battery else "mains"
    conditions.on_battery = False  # said as the power, and no doubt
    doubt = conditions.disturbed
    when = f"{MEASURED}{time.strftime('%Y-%m-%d', time.gmtime())} on {power}{f'; {doubt}' if doubt else ''}: "
    sources = {key: how if how.startswith(_NOT_MEASURED) else f"{when}{how}" for key, how in found.how.items()}
    return Measured(Device(name=HERE, **found.keys, power=power, sources=sources), doubt)


def fingerprint() -> dict[str, Any]:
    """What the figures depend on: on another machine, with other libraries or on battery they are others."""
    here = cpu()
    return {
        "cpu": [here.name, *here.flags, here.usable_cores],
        "memory": memory().total_bytes // 10**8,
        "libraries": {name: _version(name) for name in LIBRARIES},
        "gpus": [gpu.name for gpu in find_gpus()],
        "battery": on_battery(),
    }


def _machine(found: _Found) -> None:
    here, memory_gb = cpu(), round(memory().total_bytes / 1e9, 1)
    found.keys |= {
        "title": stripped_line(f"{here.name}, {here.physical_cores} cores, {memory_gb:g} GB", 150),
        "model_memory_gb": max(round(memory_gb * MODEL_SHARE, 1), 0.1),
        "context": 8192 if memory_gb >= _LARGE_GB else 4096,
        "platform": platform_name(),
        "cpu": level(),
        "instruction_sets": here.features,
    }
    found.add("as the system says", memory_gb=memory_gb, cores=here.physical_cores)


def _bandwidth(found: _Found) -> None:
    results, end = worker.run(roofline.measure_bandwidth, limit_s=_LIMIT_S)
    if not results:
        raise WorkerError(
            f"memory's bandwidth cannot be measured: {end.problem or 'no answer'}", remedy="edgekit doctor"
        )
    by_threads = {threads: _rounded(rate / 1e9) for threads, rate in results[-1].items()}
    how = "0.5 GB read by NumPy, the best of several readings"
    found.add(f"{how} and numbers of threads", bandwidth_gb_s=max(by_threads.values()))
    found.add(how, bandwidth_by_threads=by_threads)


def _rates(found: _Found) -> None:
    results, _ = worker.run(roofline.measure_rates, limit_s=_LIMIT_S)
    if results:
        rates = {kind: roofline.Rate(**rate) for kind, rate in results[-1].items()}
        by = ", ".join(f"{kind} by {rate.library} {_version(rate.library)}" for kind, rate in rates.items())
        how = f"a product of 1024 x 2048 and 2048 x 2048 on {cpu().usable_cores} threads, the best of several; {by}"
        found.add(how, gflops={kind: _rounded(rate.per_s / 1e9) for kind, rate in rates.items()})


def _gpu(found: _Found) -> None:
    """The GPU that llama.cpp would use; what shares the machine's memory counts where its libraries are worth it."""
    memory_gb: float = found.keys["memory_gb"]
    if sys.platform == "darwin" and platform_name() == "macos-arm64":
        how = "estimate: two thirds of memory, what Metal recommends to machines of up to 36 GB"
        found.add(how, gpu_memory_gb=round(memory_gb * _METAL_SHARE, 1))
        found.keys["unified_memory"] = True
    elif find_gpus() and (gpu := cuda.reached()):
        found.keys["title"] = stripped_line(f"{found.keys['title']}, {gpu.name}")
        shown = found.keys["model_memory_gb"] if gpu.unified else round(gpu.memory_bytes / 1e9, 1)
        found.add(f"{gpu.name}, as its driver says", gpu_memory_gb=shown)
        found.keys["unified_memory"] = gpu.unified
        if gpu.bytes_per_s:
            how = "a copy within its memory, read and written, the best of several"
            found.add(how, gpu_bandwidth_gb_s=_rounded(gpu.bytes_per_s / 1e9))
        if gpu.flops:
            how = "matrix products of fp16 in registers with sums in fp32 (mma.sync), the best of several"
            found.add(how, gpu_gflops=_rounded(gpu.flops / 1e9))
    elif card := max(vulkan_devices(), key=lambda device: device.memory_bytes, default=None):
        if card.memory_bytes:
            found.keys["title"] = stripped_line(f"{found.keys['title']}, {card.name}")
            found.add(f"{card.name}, as Vulkan says", gpu_memory_gb=round(card.memory_bytes / 1e9, 1))


def _disk(found: _Found, folder: Path) -> None:
    bytes_per_s, how = read_speed(folder)
    found.add(how, disk_gb_s=None if bytes_per_s is None else _rounded(bytes_per_s / 1e9))


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _rounded(value: float) -> float:
    """Three digits: no measurement here has more."""
    return float(f"{value:.3g}")
