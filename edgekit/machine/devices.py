"""Device profiles: what a machine has and may spend. Data in `devices/<name>.toml`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from edgekit.artifacts import find
from edgekit.artifacts.validation import Listed, Name, StrictModel, validated
from edgekit.errors import UsageError
from edgekit.machine.cpu import Cpu, cpu
from edgekit.machine.memory import memory

_Rate = Annotated[float, Field(gt=0, le=1e9)]
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
        platform: system and processor, as packages are made for: `linux-x86_64`, `linux-aarch64`, ...
        cpu: the processor's level that llama.cpp is built for: `x86-64-v2`, `x86-64-v3`, `x86-64-v4`,
            `armv8.2-a+dotprod+fp16`, ...
        gflops: rates of large matrix products by kind of number (`fp32`, `bf16`, `int8`), in 10**9 operations a second.
        disk_gb_s: how fast a file is read that is in no cache, in GB/s.
        sources: of each figure where it comes from: `measured`, with when and how, or an address.
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
    platform: Literal["linux-x86_64", "linux-aarch64", "macos-arm64", "windows-x86_64", "android-aarch64"] = (
        "linux-x86_64"
    )
    cpu: Name = "x86-64-v3"
    gflops: Annotated[Mapping[Literal["fp32", "bf16", "int8"], _Rate], Field(max_length=3)] = {}
    disk_gb_s: float | None = Field(default=None, gt=0, le=1e4)
    sources: Annotated[Mapping[Name, Name], Field(max_length=100)] = {}


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
