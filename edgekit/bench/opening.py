"""The model of a table's row, opened where the row is measured."""

from __future__ import annotations

from pathlib import Path

from edgekit.bench.cells import ModelRef
from edgekit.bench.controls import Rounding, open_control
from edgekit.runtime.base import Model


def open_row(ref: ModelRef) -> Model:
    """The model of a row."""
    # Imported here: opening an artifact must not pay for torch, in time or in memory.
    if ref.level is not None:
        from edgekit.runtime import open_model
        from edgekit.runtime.tuning_results import DEFAULT

        # What `edgekit tune` found on this machine must not decide what a record of this level says, unless asked for.
        runtime = None if ref.tuned else DEFAULT
        return open_model(Path(ref.folder), ref.level, ref.device, runtime=runtime, threads=ref.threads)
    if control := ref.control:
        return open_control(Path(ref.folder), control.role, Rounding(control.bits, control.scale))
    from edgekit.full_precision.bounded import open_full_precision

    return open_full_precision(Path(ref.folder), bfloat16=ref.bfloat16)
