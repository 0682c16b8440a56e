"""What a manifest must say for a variant to open, and whether the files that it describes say the same.

Runtimes obey the files, edgekit the manifest: where they differ, answers change without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.artifacts.manifest import Manifest, Part
from edgekit.errors import ArtifactError, UsageError
from edgekit.families import Family, family_named
from edgekit.families.composition import ChatSettings, Composition, Settings, checked_settings
from edgekit.inputs.text import LoadedTokenizer, check_rows, read_tokenizer
from edgekit.machine.devices import Device


def composition_of(manifest: Manifest, parts: Mapping[str, Part], path: Path) -> tuple[Family, Composition]:
    """The family, and what these parts make in it. Raises ArtifactError where they make nothing."""
    family = family_named(manifest.family, str(path), ArtifactError)
    for composition in family.compositions:
        if composition.roles == frozenset(parts):
            return family, composition
    allowed = " or ".join(" and ".join(sorted(composition.roles)) for composition in family.compositions)
    raise ArtifactError(f"{path}: {' and '.join(sorted(parts)) or 'nothing'} makes no model", allowed=allowed)


def settings_of(manifest: Manifest, composition: Composition, path: Path) -> Settings:
    """What a manifest must say for a composition. Raises ArtifactError where it does not."""
    return checked_settings(composition.settings, manifest.settings, str(path), ArtifactError)


def tokenizer_of(manifest: Manifest, folder: Path, family: Family) -> LoadedTokenizer:
    """The tokenizer of a model that reads text. Raises ArtifactError where there is none, or not for its embedding."""
    if manifest.tokenizer is None:
        raise ArtifactError(f"{folder}: tokenizer: none for a model that reads text")
    loaded = read_tokenizer(folder / manifest.tokenizer.path)
    if isinstance(rows := manifest.settings.get("vocabulary"), int):
        check_rows(loaded.tokenizer, rows, family.unused_tokens, manifest.tokenizer.path, ArtifactError)
    return loaded


def check_variants(manifest: Manifest, path: Path) -> None:
    """Raise ArtifactError where parts of a variant make no model, or settings that it must have are missing."""
    for name in manifest.variants:
        _, composition = composition_of(manifest, manifest.variant(name)[1], path)
        settings_of(manifest, composition, path)


def failed_proof(manifest: Manifest, part: Part) -> str | None:
    """What is to be said of a part whose recorded proof fails the gates beside it; None where it does not."""
    if part.parity is None:
        return None
    mean, gates = part.parity.wiring["mean"], manifest.gates
    if part.parity.metric == "kl":
        fails = mean > gates.decoder_kl
    else:
        fails = mean < gates.encoder_cosine_at.get(part.level, gates.encoder_cosine)
    return f"{part.role} {part.level}: its recorded proof fails its own gate: do not trust it" if fails else None


def check_memory(manifest: Manifest, name: str, parts: Mapping[str, Part], device: Device) -> None:
    """Raise UsageError for what cannot fit, with the variants that do."""

    def need(variant: Mapping[str, Part]) -> int:
        return sum(int(part.requires.get("memory_bytes", 0)) for part in variant.values())

    limit = device.model_memory_gb * 1e9
    if need(parts) > limit:
        fitting = [other for other in manifest.variants if need(manifest.variant(other)[1]) <= limit]
        needed = need(parts) / 1e9
        digits = f"{needed:.1f}" if needed >= 1 else f"{needed:.2g}"
        raise UsageError(
            f"{name} needs {digits} GB, {device.title} gives a model {device.model_memory_gb:g} GB",
            allowed=", ".join(fitting) or "none of this artifact's levels",
        )


def checked_context(context: int, settings: Settings, title: str) -> int:
    """The context that was asked for. Raises UsageError where the model was not made for it."""
    if not isinstance(settings, ChatSettings):
        raise UsageError(f"a context of {context!r:.40} tokens: {title} has none")
    if not isinstance(context, int) or isinstance(context, bool) or not 1 <= context <= settings.context:
        allowed = f"1 to {settings.context}, which this model was made for"
        raise UsageError(f"a context of {context!r:.40} tokens", allowed=allowed)
    return context


def _stops(stated: Any, file: Any) -> bool:
    """Which tokens end an answer is the checkpoint's to say, but one of those that the file names must."""
    return isinstance(stated, list) and not set(file).isdisjoint(stated)


def _is_close(stated: Any, file: Any) -> bool:
    """A header's numbers have 32 bits."""
    return bool(np.allclose(stated, file, rtol=1e-6, atol=0))


_SAME: Mapping[str, Callable[[Any, Any], bool]] = {"stop_token_ids": _stops, "mean": _is_close, "std": _is_close}


def check_agreement(manifest: Manifest, path: Path, file: Path, stated: Mapping[str, Any]) -> None:
    """Compare what a manifest says with what a part's file says; what only one of them says counts.

    Args:
        path: the manifest's.
        file: the part's.
        stated: as `edgekit.formats.base.Format.stated` gives it.

    Raises:
        ArtifactError: they differ; the message has both values.
    """
    settings = dict(stated)
    image = settings.pop("preprocessing", None)
    _compare("settings", manifest.settings, settings, path, file)
    if image and manifest.preprocessing:
        _compare("preprocessing", manifest.preprocessing.model_dump(), image, path, file)


def _compare(inside: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], path: Path, file: Path) -> None:
    for name, value in theirs.items():
        if ours.get(name) is None:
            continue
        if not _SAME.get(name, lambda one, other: bool(one == other))(ours[name], value):
            raise ArtifactError(
                f"{path}: {inside}.{name} is {ours[name]!r:.100}, {file.name} says {value!r:.100}",
                remedy="export or adopt the model again",
            )
