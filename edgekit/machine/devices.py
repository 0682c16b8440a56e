"""Device profiles: what a machine has and may spend. Data in `devices/<name>.toml`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from edgekit.artifacts import find
from edgekit.artifacts.validation import validated
from edgekit.errors import UsageError


class Device(BaseModel):
    """One machine that a model is packaged for.

    Attributes:
        memory_gb: main memory in GB (10**9 bytes), or unified memory.
        model_memory_gb: what the weights of a loaded model may take; its context comes on top.
        cores: physical cores that a model may use.
        bandwidth_gb_s: memory read bandwidth, which bounds decoding: every token reads all weights once.
        gpu_memory_gb: memory of a GPU that llama.cpp can offload to, 0 without one.
        context: tokens of context to reserve by default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    memory_gb: float = Field(gt=0)
    model_memory_gb: float = Field(gt=0)
    cores: int = Field(gt=0)
    instruction_sets: tuple[str, ...] = ()
    bandwidth_gb_s: float = Field(gt=0)
    gpu_memory_gb: float = Field(default=0, ge=0)
    context: int = Field(default=4096, gt=0)


def device(name: str) -> Device:
    """The device of this name, checked.

    Raises:
        UsageError: there is no such device, or its file is wrong; the message names the key.
    """
    data = find.load("devices", name)
    return validated(Device, {"name": find.find("devices", name).stem, **data}, f"device {name}", UsageError)
