"""What is served: levels of artifacts, and what their manifests say of them, before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.files import sha256_json
from edgekit.artifacts.manifest import Manifest, Part
from edgekit.errors import UsageError
from edgekit.families.composition import Chat, ChatSettings
from edgekit.machine.device import Device
from edgekit.machine.devices import device as load_device
from edgekit.planning import of_artifact, plan, row
from edgekit.runtime import manifest_checks
from edgekit.runtime.compose import abilities_of
from edgekit.runtime.opening import DEFAULT_CONTEXT

# A model's name stands in JSON, in addresses and in shells, before a colon.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Served:
    """One level of an artifact, by its manifest.

    Attributes:
        id: `NAME:LEVEL`, where NAME is the folder's.
        aliases: other names for it: NAME alone, of the level that the artifact opens with.
        level: a variant's name.
        abilities: as in `edgekit.runtime.model.Model.abilities`.
        sees: whether it takes images.
        context: tokens that a conversation may have here; 0 for a model that has none.
        context_limit: tokens that the model was made for; 0 likewise.
        digest: SHA-256 over all that its answers depend on, see `digest_of`.
        parity: role -> what a proof found, None for a part that nobody proved.
        warnings: what users must know: whose files they are, which proof fails its gates.
        stand_in: why this is not the real model; None where it is.
        license: the notice that goes with the model.
        created: seconds since 1970 at which the manifest was last written here.
        default: whether the artifact opens with this level.
        bytes: that its files take on the disk.
    """

    id: str
    aliases: tuple[str, ...]
    title: str
    folder: Path
    level: str
    abilities: frozenset[str]
    sees: bool
    context: int
    context_limit: int
    digest: str
    parity: Mapping[str, Mapping[str, Any] | None]
    warnings: tuple[str, ...]
    stand_in: str | None
    license: str
    created: int
    default: bool
    bytes: int

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it reads: `text`, `image`."""
        reads = "embed_text" in self.abilities or "generate" in self.abilities
        return (*(["text"] if reads else []), *(["image"] if self.sees else []))


def served(
    folders: Sequence[Path], levels: Collection[str] = (), *, context: int | None = None, device: str | None = None
) -> tuple[Served, ...]:
    """What artifact folders have to serve.

    Args:
        levels: that are served, of every artifact that has them; all for none.
        context, device: as in `edgekit.runtime.opening.open_model`.

    Raises:
        ArtifactError: a folder is no artifact, or its manifest or files are not what they must be; their content is
            looked at when they are loaded.
        UsageError: no folders, two of one name, a name that no client could say, a level that none of them has, or a
            context that no model here was made for.
    """
    if not folders:
        raise UsageError("no artifact to serve", allowed="one folder or more")
    named: dict[str, Path] = {}
    for folder in folders:
        name = _name(folder)
        if name in named:
            raise UsageError(f"{named[name]} and {folder} would both be served as {name}", remedy="rename one of them")
        named[name] = folder
    profile = load_device(device) if device else None
    manifests_ = {name: manifests.read(folder) for name, folder in named.items()}
    known = {level for manifest in manifests_.values() for level in manifest.variants}
    if missing := sorted(set(levels) - known):
        raise UsageError(f"no artifact here has the level {missing[0]!r:.80}", allowed=", ".join(sorted(known)))
    found = [
        _described(name, folder, manifest, level, place == 0, context or _planned(folder, manifest, level, profile))
        for (name, manifest), folder in zip(manifests_.items(), named.values(), strict=True)
        for place, level in enumerate(_levels(manifest, levels, _first(folder, manifest, profile)))
    ]
    longest = max(one.context_limit for one in found)
    if context is not None and not 1 <= context <= longest:
        allowed = f"1 to {longest}, which a model here was made for" if longest else "none: no model here has one"
        raise UsageError(f"a context of {context} tokens", allowed=allowed)
    return tuple(found)


def _planned(folder: Path, manifest: Manifest, level: str, device: Device | None) -> int | None:
    """The context that a plan for a device has; the device's own where the level does not fit, as loading it will say;
    None without a device."""
    if device is None:
        return None
    model = of_artifact(folder, manifest)
    found = row(level, model.variants[level], device)
    return found.settings.context if found.fits else device.context


def _first(folder: Path, manifest: Manifest, device: Device | None) -> str:
    """The level that is opened when none is named: as `edgekit.runtime.opening.open_model` has it."""
    best = plan(of_artifact(folder, manifest), device).recommended if device else None
    return best.variant if best else manifest.default


def _name(folder: Path) -> str:
    name = folder.resolve().name
    if not _NAME.fullmatch(name):
        allowed = "letters, digits, '.', '_' and '-', at most 100, the first a letter or a digit"
        raise UsageError(f"{folder}: its name would be the model's", allowed=allowed, remedy="rename the folder")
    return name


def _described(
    name: str, folder: Path, manifest: Manifest, level: str, default: bool, context: int | None
) -> Served:
    path = folder / manifests.FILE_NAME
    _, parts = manifest.variant(level)
    files = [file for part in parts.values() for file in part.files]
    manifests.verify(folder, tuple(files), hashed=files)  # that they are there, no more
    _, composition = manifest_checks.composition_of(manifest, parts, path)
    settings = manifest_checks.settings_of(manifest, composition, path)
    limit = settings.context if isinstance(settings, ChatSettings) else 0
    return Served(
        id=f"{name}:{level}",
        aliases=(name,) if default else (),
        title=manifest.title,
        folder=folder.resolve(),
        level=level,
        abilities=abilities_of(composition),
        sees=not isinstance(composition, Chat) or composition.vision is not None,
        context=min(context or DEFAULT_CONTEXT, limit),
        context_limit=limit,
        digest=digest_of(manifest, parts),
        parity={role: part.parity.model_dump(mode="json") if part.parity else None for role, part in parts.items()},
        warnings=tuple(_warnings(manifest, parts, folder)),
        stand_in=manifest.stand_in,
        license=manifest.license,
        created=int(path.stat().st_mtime),
        default=default,
        bytes=manifest.bytes_of(level),
    )


def _levels(manifest: Manifest, wanted: Collection[str], first: str) -> list[str]:
    """Those of an artifact that are served, first the one that its name stands for: many clients take the first."""
    found = [level for level in manifest.variants if not wanted or level in wanted]
    return sorted(found, key=lambda level: level != first)


def digest_of(manifest: Manifest, parts: Mapping[str, Part]) -> str:
    """SHA-256 over the ids of a level's parts, the tokenizer's file, and how prompts and pixels are made: the same
    where the same answers.
    """
    return sha256_json(
        {
            "parts": {role: part.id for role, part in parts.items()},
            "family": manifest.family,
            "tokenizer": manifest.tokenizer.sha256 if manifest.tokenizer else None,
            **manifest.model_dump(mode="json", include={"preprocessing", "settings"}),
        }
    )


def _warnings(manifest: Manifest, parts: Mapping[str, Part], folder: Path) -> list[str]:
    said = [manifest.provenance, *(manifest_checks.failed_proof(manifest, part) for part in parts.values())]
    said.append(manifest_checks.unproven_together(parts.values(), folder))
    return [one for one in said if one]
