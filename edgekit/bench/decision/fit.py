"""Whether a level fits a device: what opening it takes against what the device gives a model."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.bench.decision.readings import first
from edgekit.bench.records import Record
from edgekit.machine.device import SOLD_AS, Device


@dataclass(frozen=True)
class Fit:
    """Whether it fits; None where nothing says what it takes."""

    fits: bool | None
    why: str


def fit(record: Record, device: Device) -> Fit:
    """Compare the memory that the manifest names, or else the files' size, with the device's for a model.

    Where a peak was measured on this or another machine, it must be below the memory that a device of this size leaves
    to programs.
    """
    needed = record.memory_bytes or record.bytes
    if needed is None:
        return Fit(None, "what it takes is not known")
    limit, peak = 1e9 * device.model_memory_gb, first(record, "peak_memory_bytes")
    if needed > limit:
        return Fit(False, f"takes {_gb(needed)} GB, and {device.name} gives a model {device.model_memory_gb:g} GB")
    if peak and peak.high > 1e9 * SOLD_AS * device.memory_gb:
        return Fit(False, f"took {_gb(peak.high)} GB at its peak, and {device.name} has {device.memory_gb:g} GB")
    return Fit(True, f"takes {_gb(needed)} of {device.model_memory_gb:g} GB")


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f}" if count >= 1e9 else f"{count / 1e9:.2g}"
