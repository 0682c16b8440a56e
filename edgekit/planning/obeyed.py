"""What opening a variant on a device obeys: the same plan that `edgekit plan` prints."""

from __future__ import annotations

from pathlib import Path

from edgekit.artifacts.manifest import Manifest
from edgekit.errors import UsageError
from edgekit.machine.device import Device
from edgekit.planning.choose import plan
from edgekit.planning.models import of_artifact
from edgekit.planning.rows import SHAPED, Row, row


def recommended(folder: Path, manifest: Manifest, device: Device) -> str:
    """The variant of an artifact that a plan recommends.

    Raises:
        UsageError: none fits; the message says what is missing.
    """
    return plan(of_artifact(folder, manifest), device).chosen().variant


def planned_row(folder: Path, manifest: Manifest, level: str, device: Device, context: int | None = None) -> Row:
    """A named variant on a device.

    Args:
        context: that was asked for; what the device has room for, up to its own, for None.

    Raises:
        UsageError: it does not fit.
    """
    model = of_artifact(folder, manifest)
    found = row(level, model.variants[level], device, context)
    if not found.fits:
        able = [name for name, parts in model.variants.items() if row(name, parts, device, context).fits]
        none = SHAPED if found.lacks == "shape" else "none of this artifact's levels"
        raise UsageError(
            f"{level} {found.against}",
            allowed=", ".join(able) or none,
            remedy=f"edgekit plan {folder} --device {device.name}",
        )
    return found
