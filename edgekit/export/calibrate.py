"""Measure what enters every matrix whose activations a level quantizes, and smooth it.

It is measured on transformers' own model, whose modules hold weights only while they run, so memory holds one matrix
and the activations of a few items. A pass reads every weight once, which at most sizes is a small part of its time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import CheckpointError
from edgekit.export.material import Material, Pass, material_of
from edgekit.export.smooth import Channels, smoothing
from edgekit.families.source import Source
from edgekit.formats import calibration as calibrations
from edgekit.formats.calibration import Calibration
from edgekit.formats.plan import PartPlan
from edgekit.full_precision import streamed
from edgekit.inputs.samples import Inputs
from edgekit.progress import Progress


def calibrated(source: Source, plan: PartPlan, inputs: Inputs, path: Path, data: Path, progress: Progress) -> PartPlan:
    """A plan with what calibration found, from the file at `path` where an interrupted run left it, else measured.

    Args:
        data: the part's weights; what an interrupted run wrote of them after another calibration is removed.

    Raises:
        CheckpointError: an activation is NaN or infinite.
    """
    material = material_of(source, plan.role, inputs)
    if path.is_file():
        calibration = calibrations.read(path)
        if calibration.inputs == material.name:
            return plan.calibrated(calibration)
    progress.start(f"{plan.role} {plan.level.name}: calibration", len(material.passes))
    calibration = calibration_of(source, plan, material, progress.advance)
    data.unlink(missing_ok=True)
    calibration.write(path)
    return plan.calibrated(calibration)


def calibration_of(
    source: Source, plan: PartPlan, material: Material, step: Callable[[], None] = lambda: None
) -> Calibration:
    """Measure, smooth, and say what the ranges are then."""
    seen = measure(source, plan, material.passes, step)
    smoothed = smoothing(plan, seen)
    ranges = {}
    for planned in plan.tensors:
        name = planned.spec.name
        if name in seen:
            exponents = smoothed.get(planned.spec.follows[0]) if planned.spec.follows else None
            factors = calibrations.exponents_to_factors(exponents or [0])
            ranges[name] = seen[name].divided(factors).range
    return Calibration(inputs=material.name, ranges=ranges, smoothing=smoothed)


def measure(
    source: Source, plan: PartPlan, passes: Iterable[Pass], step: Callable[[], None] = lambda: None
) -> dict[str, Channels]:
    """What enters each matrix for which the plan needs a range, by the matrix's name.

    Args:
        step: called after each pass.

    Raises:
        CheckpointError: an activation is NaN or infinite; the message names the matrix that it enters.
    """
    model = streamed.model(streamed.Weights(source))
    watched = watch(source, model, plan.ranged)
    if missing := plan.ranged - set(watched):
        raise ValueError(f"no module multiplies by {sorted(missing)[0]} alone")
    for run in passes:
        run(model)
        step()
    return {name: watcher.channels() for name, watcher in watched.items()}


def watch(source: Source, model: Any, wanted: Collection[str]) -> dict[str, Watcher]:
    """Watch what enters the modules of transformers' model that own these matrices."""
    watched = {}
    for path, module in model.named_modules():
        name = source.family.canonical(f"{path}.weight")
        if name is not None and name in wanted:
            watched[name] = Watcher(f"{source.checkpoint.root}: {name}")
            module.register_forward_pre_hook(watched[name].see)
    return watched


class Watcher:
    """Sums up, channel by channel, all that enters a module."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._low, self._high = np.full(1, np.inf, np.float32), np.full(1, -np.inf, np.float32)

    def see(self, _: Any, arguments: tuple[Any, ...]) -> None:
        """A forward pre-hook."""
        values = arguments[0].detach().flatten(0, -2)
        low, high = values.amin(0).numpy(), values.amax(0).numpy()
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise CheckpointError(
                f"{self._where}: what enters this matrix is not finite",
                remedy="the checkpoint is damaged, or its numbers outgrow float32: download it again",
            )
        self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)

    def channels(self) -> Channels:
        """What was seen."""
        return Channels(self._low, self._high)
