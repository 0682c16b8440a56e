"""Which device profile is the nearest to this machine, and where they differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from edgekit.artifacts import find
from edgekit.errors import UsageError
from edgekit.machine import here
from edgekit.machine.cpu import cpu, levels, linux_name
from edgekit.machine.device import Device, architecture
from edgekit.machine.devices import device
from edgekit.machine.gpu import find_gpus
from edgekit.machine.memory import memory

_OTHER_PROCESSOR = 100.0  # in powers of two: whatever the figures say
_LACKING = 1.0  # the level of processor that its builds are for, or an instruction set
_SAID = 1.25  # times as much is worth saying


@dataclass(frozen=True)
class Nearest:
    """One profile.

    Attributes:
        distance: how far the figures are apart, in powers of two, all together.
        differences: figure -> what this machine has, and what the profile says, where they are not about the same.
    """

    name: str
    title: str
    distance: float
    differences: Mapping[str, tuple[float, float]]

    def __str__(self) -> str:
        said = ", ".join(f"{name} {ours:g} here, {theirs:g} there" for name, (ours, theirs) in self.differences.items())
        return f"{self.name} ({self.title})" + (f": {said}" if said else "")


def nearest(measured: Device | None = None) -> Nearest | None:
    """The profile nearest to this machine; None where none can be read.

    Args:
        measured: this machine's own; without it what was measured lately, else what the system says.
    """
    measured = measured or here.known()
    figures = of_device(measured) if measured else of_system()
    processor = architecture(measured.platform) if measured else linux_name(cpu().architecture)
    return choose(figures, processor, (*levels(), *cpu().features), _profiles())


def choose(
    figures: Mapping[str, float], processor: str, abilities: Iterable[str], profiles: Iterable[Device]
) -> Nearest | None:
    """The nearest of several profiles; of two that are equally near, the first.

    Args:
        figures: of the machine, as `of_device` names them; what it lacks is not compared.
        processor: its architecture.
        abilities: the levels of processors whose builds run on it, and its instruction sets.
    """
    has = set(abilities)
    compared = (_compared(figures, profile, processor, has) for profile in profiles)
    return min(compared, key=lambda one: one.distance, default=None)


def of_device(profile: Device) -> dict[str, float]:
    """The figures of a profile that can be compared, by the names of its keys."""
    figures = {
        "memory_gb": profile.memory_gb,
        "cores": float(profile.cores),
        "bandwidth_gb_s": profile.bandwidth_gb_s,
        "gpu_memory_gb": profile.gpu_memory_gb,
        **{f"gflops.{kind}": rate for kind, rate in profile.gflops.items()},
    }
    optional = {
        "disk_gb_s": profile.disk_gb_s,
        "gpu_bandwidth_gb_s": profile.gpu_bandwidth_gb_s,
        "gpu_gflops": profile.gpu_gflops,
    }
    return figures | {name: value for name, value in optional.items() if value is not None}


def of_system() -> dict[str, float]:
    """What is known of this machine without measuring it."""
    gpu_bytes = max((gpu.memory_mib << 20 for gpu in find_gpus()), default=0)
    known = {"memory_gb": memory().total_bytes / 1e9, "cores": cpu().physical_cores, "gpu_memory_gb": gpu_bytes / 1e9}
    return {name: float(f"{value:.3g}") for name, value in known.items()}


def _profiles() -> Iterator[Device]:
    for name in find.names("devices"):
        with suppress(UsageError):  # of a user's own, wrong; `edgekit list devices` says what is
            yield device(name)


def _compared(figures: Mapping[str, float], profile: Device, processor: str, abilities: set[str]) -> Nearest:
    theirs = of_device(profile)
    pairs = {name: (ours, theirs[name]) for name, ours in figures.items() if name in theirs}
    apart = {name: _powers(name, *pair) for name, pair in pairs.items()}
    lacking = {profile.cpu, *profile.instruction_sets} - abilities
    other = _OTHER_PROCESSOR if architecture(profile.platform) != processor else _LACKING * len(lacking)
    differing = {name: pairs[name] for name, powers in apart.items() if powers > math.log2(_SAID)}
    return Nearest(profile.name, profile.title, sum(apart.values()) + other, differing)


def _powers(name: str, ours: float, theirs: float) -> float:
    """How far two figures are apart, in powers of two; no GPU is as far from one of 1 GB as that is from one of 3."""
    least = 1.0 if name == "gpu_memory_gb" else 0.0
    return abs(math.log2((ours + least) / (theirs + least)))
