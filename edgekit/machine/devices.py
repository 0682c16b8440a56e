"""Device profiles: what a machine has and may spend. Data in `devices/<name>.toml`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edgekit.artifacts import find
from edgekit.artifacts.validation import Listed, Name, StrictModel, validated
from edgekit.errors import UsageError
from edgekit.machine.cpu import Cpu, cpu
from edgekit.machine.memory import memory

_Gigabytes = Annotated[float, Field(gt=0, le=1e6)]


class Device(StrictModel):
    """One machine that a model is packaged for.

    Attributes:
        memory_gb: main memory in GB (10**9 bytes), or unified memory.
        model_memory_gb: what the weights of a loaded model may take; its context comes on top.
        cores: physical cores that a model may use.
        bandwidth_gb_s: memory read bandwidth, which bounds decoding: every token reads all weights once.
        gpu_memory_gb: memory of a GPU that llama.cpp can offload to, 0 without one.
        context: tokens of context to reserve by default.
    """

    name: Name
    title: Name
    memory_gb: _Gigabytes
    model_memory_gb: _Gigabytes
    cores: int = Field(gt=0, le=100_000)
    instruction_sets: Listed[Name] = ()
    bandwidth_gb_s: float = Field(gt=0, le=1e6)
    gpu_memory_gb: float = Field(default=0, ge=0, le=1e6)
    context: int = Field(default=4096, gt=0, lt=1 << 24)


def device(name: str) -> Device:
    """The device of this name, checked.

    Raises:
        UsageError: there is no such device, or its file is wrong; the message names the key.
    """
    data = find.load("devices", name)
    path = find.find("devices", name)
    remedy = f"correct {path}; devices/README.md says what each key means"
    return validated(Device, {"name": path.stem, **data}, f"device {name}", UsageError, remedy=remedy)


SOLD_AS = 0.85  # of the memory that a machine is sold with, some is kept from the system


def missing_here(profile: Device) -> str | None:
    """What this machine lacks of a profile's facts, as a warning; None where it has all of them."""
    return missing(profile, cpu(), memory().total_bytes)


def missing(profile: Device, processor: Cpu, memory_bytes: int) -> str | None:
    """What a machine lacks of a profile's facts; times and memory that are measured on it are not that device's."""
    lacking = [name for name in profile.instruction_sets if name not in processor.features]
    if profile.cores > processor.usable_cores:
        lacking.append(f"{profile.cores} cores (it has {processor.usable_cores})")
    if memory_bytes < profile.memory_gb * 1e9 * SOLD_AS:
        lacking.append(f"{profile.memory_gb:g} GB of memory (it has {memory_bytes / 1e9:.1f})")
    if not lacking:
        return None
    return f"this machine is no {profile.name}: it lacks {', '.join(lacking)}; nothing measured here holds there"
