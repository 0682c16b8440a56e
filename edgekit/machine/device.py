"""A device: what a machine has and may spend, and what another machine lacks of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from edgekit.artifacts.validation import Listed, Name, StrictModel
from edgekit.machine.cpu import LEVELS, Cpu, cpu, linux_name
from edgekit.machine.memory import memory

HERE = "here"  # in a device's place: the machine at hand, as `edgekit.machine.here` knows it
CHOICES = ("model_memory_gb", "context")  # what nobody can measure or look up: how much of a machine a model may take
_Rate = Annotated[float, Field(gt=0, le=1e9)]
_Gigabytes = Annotated[float, Field(gt=0, le=1e6)]
_Threads = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,4}$")]
_Source = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$")]
_Platform = Literal[
    "linux-x86_64", "linux-aarch64", "macos-arm64", "macos-x86_64", "windows-x86_64", "windows-arm64", "android-aarch64"
]


def _usual_platform(data: dict[str, Any]) -> _Platform:
    """Where a profile does not say: whatever has ARM's vector extension is Linux on ARM."""
    return "linux-aarch64" if "neon" in data.get("instruction_sets", ()) else "linux-x86_64"


def _usual_level(data: dict[str, Any]) -> str:
    """Where a profile does not say: what its instruction sets allow; x86-64 has AVX2 where it names none."""
    named = set(data.get("instruction_sets", ()))
    if architecture(data.get("platform", "linux-x86_64")) == "aarch64":
        return "armv8.2-a+dotprod+fp16" if {"dotprod", "fp16"} <= named else "armv8-a"
    return "x86-64-v3" if "avx2" in named or not named else "x86-64-v2"


class Device(StrictModel):
    """One machine that a model is packaged for.

    Attributes:
        memory_gb: main memory in GB (10**9 bytes), or unified memory.
        model_memory_gb: what the weights of a loaded model may take; its context comes on top.
        cores: physical cores that a model may use.
        bandwidth_gb_s: memory read bandwidth, which bounds decoding: every token reads all weights once.
        bandwidth_by_threads: number of threads -> what so many read together; empty where nobody measured it.
        gpu_memory_gb: memory of a GPU that llama.cpp can offload to, 0 without one.
        gpu_bandwidth_gb_s: what the GPU reads of its memory.
        gpu_gflops: its rate of large matrix products of half-precision numbers, in 10**9 operations a second.
        unified_memory: whether the GPU's memory is a part of main memory, so that a model has it but once.
        context: tokens of context to reserve by default.
        platform: system and processor, as packages are made for: `linux-x86_64`, `linux-aarch64`, ...
        cpu: the processor's level that llama.cpp is built for (`edgekit.machine.cpu.LEVELS`): `x86-64-v3`, ...
        gflops: rates of large matrix products by kind of number (`fp32`, `bf16`, `int8`), in 10**9 operations a second.
        disk_gb_s: how fast a file is read that is in no cache, in GB/s.
        power: what it ran on when it was measured; a battery slows many machines down.
        sources: key -> where its figure comes from: `measured`, with when and how; a document; or an estimate, and why.
    """

    name: Name
    title: Name
    memory_gb: _Gigabytes
    model_memory_gb: _Gigabytes
    cores: int = Field(gt=0, le=100_000)
    instruction_sets: Listed[Name] = ()
    bandwidth_gb_s: float = Field(gt=0, le=1e6)
    bandwidth_by_threads: Annotated[Mapping[_Threads, _Rate], Field(max_length=100)] = {}
    gpu_memory_gb: float = Field(default=0, ge=0, le=1e6)
    gpu_bandwidth_gb_s: float | None = Field(default=None, gt=0, le=1e6)
    gpu_gflops: _Rate | None = None
    unified_memory: bool = False
    context: int = Field(default=4096, gt=0, lt=1 << 24)
    platform: _Platform = Field(default_factory=_usual_platform)
    cpu: Name = Field(default_factory=_usual_level)
    gflops: Annotated[Mapping[Literal["fp32", "bf16", "int8"], _Rate], Field(max_length=3)] = {}
    disk_gb_s: float | None = Field(default=None, gt=0, le=1e4)
    power: Literal["mains", "battery"] | None = None
    sources: Annotated[Mapping[Name, _Source], Field(max_length=100)] = {}

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        level = LEVELS.get(self.cpu)
        if level is None or level.architecture != architecture(self.platform):
            known = ", ".join(name for name, one in LEVELS.items() if one.architecture == architecture(self.platform))
            raise ValueError(f"cpu: {self.cpu!r:.80} is no level of {self.platform}, which are {known}")
        if not self.gpu_memory_gb and (self.gpu_bandwidth_gb_s or self.gpu_gflops or self.unified_memory):
            raise ValueError("gpu_memory_gb: is 0, and other keys speak of a GPU")
        if self.unified_memory and self.gpu_memory_gb > self.memory_gb:
            raise ValueError("gpu_memory_gb: more than all of unified memory")
        if self.model_memory_gb > self.memory_gb + self.gpu_memory_gb:
            raise ValueError("model_memory_gb: more than there is")
        if unknown := next((key for key in self.sources if key not in type(self).model_fields), None):
            raise ValueError(f"sources: {unknown!r:.80} is no key of a device")
        return self

    def bandwidth(self, threads: int) -> float:
        """GB/s that so many threads read together: as measured with the most of no more, else `bandwidth_gb_s`."""
        known = {int(count): rate for count, rate in self.bandwidth_by_threads.items() if int(count) <= threads}
        return known[max(known)] if known else self.bandwidth_gb_s


def architecture(platform: str) -> str:
    """The processor of a platform, as Linux calls it."""
    return linux_name(platform.partition("-")[2])


def text(profile: Device) -> str:
    """The file of a device, as `device` reads it: TOML, its tables last, its name outside."""
    stated = profile.model_dump(exclude={"name"}, exclude_defaults=True)
    plain = {key: value for key, value in stated.items() if not isinstance(value, Mapping)}
    lines = [f"{key} = {_toml(value)}" for key, value in plain.items()]
    for key, table in stated.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{key}]", *(f"{name} = {_toml(value)}" for name, value in table.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    # What a profile may hold is written alike in JSON, but for characters beyond 16 bits, which TOML has as they are.
    return json.dumps(value, ensure_ascii=False)


SOLD_AS = 0.85  # of the memory that a machine is sold with, some is kept from the system


def missing_here(profile: Device) -> str | None:
    """What this machine lacks of a profile's facts, as a warning; None where it has all of them."""
    return missing(profile, cpu(), memory().total_bytes)


def missing(profile: Device, processor: Cpu, memory_bytes: int) -> str | None:
    """What a machine lacks of a profile's facts; times and memory that are measured on it are not that device's."""
    lacking = [name for name in profile.instruction_sets if name not in processor.features]
    if (wanted := architecture(profile.platform)) != linux_name(processor.architecture):
        lacking.append(f"a processor of {wanted} (it has {processor.architecture})")
    if profile.cores > processor.usable_cores:
        lacking.append(f"{profile.cores} cores (it has {processor.usable_cores})")
    if memory_bytes < profile.memory_gb * 1e9 * SOLD_AS:
        lacking.append(f"{profile.memory_gb:g} GB of memory (it has {memory_bytes / 1e9:.1f})")
    if not lacking:
        return None
    return f"this machine is no {profile.name}: it lacks {', '.join(lacking)}; nothing measured here holds there"
