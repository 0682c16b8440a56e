"""Levels as a device's plan has them run: its threads, its context, its keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from edgekit.bench.cells import identity
from edgekit.bench.subjects import Subject, TableRow
from edgekit.errors import UsageError
from edgekit.machine.cpu import cpu
from edgekit.machine.devices import device as load_device
from edgekit.planning import Row, of_artifact, plan


def obeying(measured: Sequence[Subject], device: str) -> tuple[list[Subject], tuple[str, ...]]:
    """The same subjects, without levels that do not fit a device, the others run as a plan for it says.

    Returns:
        the subjects, and what was left out.

    Raises:
        UsageError: there is no such device, or of no model a level fits.
    """
    profile, found, notes = load_device(device), [], []
    named = str(Path(device).absolute()) if device.endswith(".toml") else device  # cells have folders of their own
    for subject in measured:
        made = plan(of_artifact(subject.folder, subject.manifest), profile)
        rows = {row.variant: row for row in made.rows}
        kept = tuple(_obeying(row, rows, named) for row in subject.rows if row.level is None or rows[row.level].fits)
        left = sorted({row.level for row in subject.rows if row.level and not rows[row.level].fits})
        notes += [f"{subject.manifest.title}: left out, for {name} {rows[name].against}" for name in left]
        if any(row.kind == "variant" for row in kept):
            found.append(replace(subject, rows=kept))
    if not found:
        raise UsageError(f"no level fits {device}", allowed="; ".join(notes), remedy="another --device")
    return found, tuple(notes)


def _obeying(row: TableRow, planned: dict[str, Row], device: str) -> TableRow:
    """A row with what is planned for its level, which its figures depend on; full precision stays as it is."""
    if row.level is None:
        return row
    settings = planned[row.level].settings
    model = replace(row.model, device=device, threads=min(settings.threads, cpu().usable_cores))
    return replace(row, model=model, key=identity("device", row.key, asdict(settings)))
