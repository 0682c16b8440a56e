"""The device that a bundle is for: what is installed obeys the plan for it, wherever nothing else is asked for."""

from __future__ import annotations

from edgekit.artifacts import manifest as manifests
from edgekit.machine import device
from edgekit.pack.bundle import DEVICE
from edgekit.pack.contents.base import Content, Gathering
from edgekit.planning import obeyed
from edgekit.planning.models import of_artifact
from edgekit.planning.rows import row

CPU_ALONE = (
    "its GPU is not used: llama.cpp comes for the CPU alone, and `ROOT/run edgekit setup --gpu auto` compiles, on the "
    "device, one that uses it"
)
_NO_GPU = {"gpu_memory_gb": 0.0, "gpu_bandwidth_gb_s": None, "gpu_gflops": None, "unified_memory": False}


def write(gathering: Gathering) -> None:
    """Write its profile, whose plan the launcher has edgekit obey. Raises UsageError where the level does not fit.

    A model whose shape nobody knows cannot be planned: it is opened as without a device.
    """
    target, level, note = gathering.target, gathering.level, gathering.progress.note
    assert target is not None, "a repository of the hub is for no device"
    manifest = manifests.read(gathering.artifact)
    parts = of_artifact(gathering.artifact, manifest).variants[level]
    found = row(level, parts, target.device)
    if found.lacks == "shape":
        note(f"no plan for {target.device.name} comes with it: {level} {found.against}")
        return
    settings = obeyed.planned_row(gathering.artifact, manifest, level, target.device).settings
    if settings.gpu_layers or settings.gpu_vision:
        alone = row(level, parts, target.device.model_copy(update=_NO_GPU))
        note(f"{target.device.name}: {CPU_ALONE}{'' if alone.fits else f'; until then {level} {alone.against}'}")
    gathering.write(f"{DEVICE}/{target.name}.toml", device.text(target.device))


CONTENT = Content("planning", 1, write, installs=True)  # before anything is copied
