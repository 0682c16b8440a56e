"""What is compared: for each artifact the full-precision model, its variants, and a control that must do badly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.manifest import Manifest, Part
from edgekit.bench.cells import Control, ModelRef, identity
from edgekit.bench.controls import Rounding
from edgekit.checkpoints import reference_models
from edgekit.checkpoints.checkpoint import Checkpoint, open_checkpoint
from edgekit.errors import ArtifactError, UsageError
from edgekit.families import family_named
from edgekit.machine.cpu import cpu
from edgekit.runtime import tuning_results

_ABILITY = {"logits": "generate", "pooled": "embed_image"}


@dataclass(frozen=True)
class TableRow:
    """One line of the table.

    Attributes:
        kind: `reference` for the full-precision model, as records call it; `peer` for another program.
        key: identity of what the row computes.
        bytes: of the files that hold the weights.
        tensor_types: how many weights are stored as which type.
        tuned: role -> what `edgekit tune` chose here, which the row runs with; None for the proven defaults.
        device: the tag of the machines that it is measured on, None for any.
    """

    name: str
    kind: Literal["reference", "variant", "control", "peer"]
    model: ModelRef
    key: str
    level: str | None = None
    formats: tuple[str, ...] = ()
    part_ids: Mapping[str, str] | None = None
    bytes: int | None = None
    bits_per_weight: float | None = None
    tensor_types: Mapping[str, int] | None = None
    tuned: Mapping[str, str] | None = None
    device: str | None = None

    @property
    def id(self) -> str:
        """What tells it from the other rows of a run."""
        return self.key if self.device is None else f"{self.key}@{self.device}"


@dataclass(frozen=True)
class Subject:
    """One artifact with its rows, full precision first.

    Attributes:
        source: the checkpoint folder it was made from, None where nobody has it here.
        abilities: what its models can do, as tasks ask for it.
        weights: how many weights the largest row loads.
        timed: rows that are measured for their times alone (`edgekit.bench.peers.rows`).
    """

    folder: Path
    manifest: Manifest
    source: Path | None
    abilities: frozenset[str]
    rows: tuple[TableRow, ...]
    weights: int
    timed: tuple[TableRow, ...] = ()

    def control(self, rounding: Rounding) -> TableRow | None:
        """The full-precision model with its main part rounded; None where its checkpoint is not here."""
        if self.source is None:
            return None
        family = family_named(self.manifest.family, str(self.folder), ArtifactError)
        role = next(iter(family.roles))  # a family names its main part first
        folder = str(self.source.resolve())
        source = self.manifest.source.sha256
        model = ModelRef(folder, control=Control(role, rounding.bits, rounding.scale), content=source)
        key = identity("control", source, role, str(rounding))
        return TableRow(f"control: {role.replace('_', ' ')} at {rounding}", "control", model, key)


def content(folder: Path, level: str | None) -> str:
    """What a `ModelRef` of this folder has as its content: of a level the hash of its parts, else the checkpoint's.

    Raises:
        ArtifactError: it is no artifact, or lacks the level.
        CheckpointError: it is no checkpoint.
    """
    if level is None:
        return open_checkpoint(folder).sha256
    return _variant_key(manifests.read(folder).variant(level)[1])


def subjects(
    artifacts: Sequence[Path], levels: Sequence[str], checkpoints: Sequence[Path], tuned: bool = False
) -> list[Subject]:
    """Read every manifest, find every checkpoint by the hash of its files, and list the rows.

    Args:
        checkpoints: folders that artifacts were made from; the reference models are found without.
        tuned: each variant that was tuned here once more, as it was.

    Raises:
        ArtifactError: a folder is no artifact.
        CheckpointError: a folder is no checkpoint.
        UsageError: a level is in no artifact, or no artifact was made from a checkpoint.
    """
    if not artifacts:
        raise UsageError("no artifact to measure", remedy="edgekit bench DIR")
    read = {folder: manifests.read(folder) for folder in artifacts}
    known = {name for manifest in read.values() for name in manifest.variants}
    if unknown := [name for name in levels if name not in known]:
        raise UsageError(f"no artifact has the level {unknown[0]!r}", allowed=", ".join(sorted(known)))
    given = [open_checkpoint(path) for path in checkpoints]
    wanted = {manifest.source.sha256 for manifest in read.values()}
    for checkpoint in given:
        if checkpoint.sha256 not in wanted:
            raise UsageError(
                f"{checkpoint.root}: none of these artifacts was made from it",
                allowed=", ".join(f"{m.source.name} ({m.source.sha256[:12]})" for m in read.values()),
                remedy="give the folder that was exported, unchanged",
            )
    own = [open_checkpoint(path) for name in reference_models.NAMES if (path := reference_models.path(name))]
    sources = {checkpoint.sha256: checkpoint for checkpoint in (*own, *given)}
    every = [_subject(f, m, sources.get(m.source.sha256), levels, tuned) for f, m in read.items()]
    return [subject for subject in every if any(row.kind == "variant" for row in subject.rows)]


def on_devices(measured: Sequence[Subject], devices: Sequence[str]) -> list[Subject]:
    """Each level once for each of these tags, under a name that says so where there are several.

    Full precision stays where it fits: what a level lost is the same question on every device.
    """

    def placed(row: TableRow) -> Iterator[TableRow]:
        if row.kind != "variant" or not devices:
            yield row
            return
        for device in devices:
            yield replace(row, device=device, name=f"{row.name} on {device}" if len(devices) > 1 else row.name)

    return [replace(s, rows=tuple(one for row in s.rows for one in placed(row))) for s in measured]


def _subject(
    folder: Path, manifest: Manifest, checkpoint: Checkpoint | None, levels: Sequence[str], tuned: bool
) -> Subject:
    rows = [_full_precision(manifest, checkpoint)] if checkpoint else []
    names = [name for name in manifest.variants if not levels or name in levels]
    for name in names:
        rows.append(_variant(folder, manifest, name))
        rows += _tuned(rows[-1], manifest) if tuned else ()
    abilities = frozenset(_ABILITY[part.output] for part in manifest.parts if part.output in _ABILITY)
    weights = max(sum(part.weights for part in manifest.variant(name)[1].values()) for name in manifest.variants)
    return Subject(folder, manifest, checkpoint.root if checkpoint else None, abilities, tuple(rows), weights)


def _full_precision(manifest: Manifest, checkpoint: Checkpoint) -> TableRow:
    tensors = checkpoint.tensors.values()
    size, weights = sum(tensor.bytes for tensor in tensors), sum(tensor.size for tensor in tensors)
    types: Counter[str] = Counter()
    for tensor in tensors:
        types[tensor.dtype] += tensor.size
    return TableRow(
        name="reference (transformers, float32)",
        kind="reference",
        model=ModelRef(str(checkpoint.root.resolve()), content=manifest.source.sha256),
        key=identity("reference", manifest.source.sha256),
        formats=("safetensors",),
        bytes=size,
        bits_per_weight=8 * size / weights,
        tensor_types=dict(types),
    )


def _variant(folder: Path, manifest: Manifest, name: str) -> TableRow:
    _, parts = manifest.variant(name)
    weights = sum(part.weights for part in parts.values())
    types: Counter[str] = Counter()
    for part in parts.values():
        types.update(part.tensor_types)
    key = _variant_key(parts)
    return TableRow(
        name=name,
        kind="variant",
        model=ModelRef(str(folder.resolve()), name, content=key),
        key=key,
        level=name,
        formats=tuple(sorted({part.format for part in parts.values()})),
        part_ids={role: part.id for role, part in parts.items()},
        bytes=_file_bytes(parts),
        bits_per_weight=sum(part.bits_per_weight * part.weights for part in parts.values()) / weights,
        tensor_types=dict(types),
    )


def _variant_key(parts: Mapping[str, Part]) -> str:
    return identity("variant", sorted(part.id for part in parts.values()))


def _tuned(row: TableRow, manifest: Manifest) -> Iterator[TableRow]:
    """The same variant as `edgekit tune` chose on this machine, where it measured any of its parts."""
    assert row.level is not None, "only variants are tuned"
    parts = manifest.variant(row.level)[1].values()
    found = [result for part in parts if (result := tuning_results.load(part, cpu().usable_cores))]
    if found:
        model = replace(row.model, tuned=True)
        key = identity("tuned", row.key, sorted(str(result) for result in found))
        chosen = {result.role: str(result) for result in found}
        yield replace(row, name=f"{row.name}, tuned", model=model, key=key, tuned=chosen)


def _file_bytes(parts: Mapping[str, Part]) -> int:
    return sum({entry.path: entry.bytes for part in parts.values() for entry in part.files}.values())
