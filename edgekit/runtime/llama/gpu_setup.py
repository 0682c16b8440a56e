"""`edgekit setup --gpu`: build for a GPU, try it against the CPU, and have it count if it computes the same."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.machine.gpu import VARIABLE
from edgekit.runtime.llama import gpu_build, gpu_trial
from edgekit.runtime.llama.gpu_build import GpuBuild
from edgekit.runtime.llama.gpu_kinds import GpuKind
from edgekit.runtime.llama.video import VideoDevice


@dataclass(frozen=True)
class GpuSetup:
    """What was done for a GPU.

    Attributes:
        reused: whether nothing had to be compiled.
    """

    build: GpuBuild
    device: VideoDevice
    trial: gpu_trial.GpuTrial
    reused: bool
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "kind": self.build.kind.name,
            "key": self.build.key,
            "libraries": str(self.build.libraries),
            "device": self.device.description,
            "free_bytes": self.device.free_bytes,
            "trial": self.trial.detail,
            "reused": self.reused,
            "seconds": round(self.seconds, 1),
        }

    @property
    def lines(self) -> list[str]:
        """For people."""
        origin = "taken from the cache" if self.reused else "built"
        return [
            f"{self.build.kind.title} build {origin} and tried in {self.seconds:.0f} s: {self.trial.detail}",
            f"it runs on {self.device}",
            f"used with {VARIABLE}=auto (or so many GB), or a --device with gpu_memory_gb",
        ]


def setup(kind: GpuKind, *, force: bool = False, progress: bool = True, amx: bool = True) -> GpuSetup:
    """Build for a kind of GPU, try it and record that it counts.

    Raises:
        MissingDependencyError: what the build needs is not there.
        EdgekitError: it cannot be built, finds no GPU, or computes something else than the CPU; an older build that
            counts still does, unless it is this very one.
    """
    started = time.monotonic()
    build, reused = gpu_build.make(kind, force=force, progress=progress, amx=amx)
    device = gpu_trial.look(build)
    tried = gpu_trial.result(build, device, fresh=True)
    if not tried.passed:
        if gpu_build.counts(build):
            gpu_build.forget()
        raise EdgekitError(
            f"llama.cpp was built for {kind.title}, but does not compute on {device.description} what the CPU does: "
            f"{tried.detail}",
            remedy="update the GPU's driver and try again; without it, all runs on the CPU as before",
        )
    gpu_build.choose(build)
    return GpuSetup(build, device, tried, reused, time.monotonic() - started)
