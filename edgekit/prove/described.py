"""The audit of a manifest: what runtimes obey beside a part's files is what the checkpoint says."""

from __future__ import annotations

import json
from typing import Any

from edgekit.artifacts.manifest import FILE_NAME, Manifest
from edgekit.errors import GateError
from edgekit.families.source import Source


def check_manifest(where: str, manifest: Manifest, source: Source) -> None:
    """Compare settings (stop tokens, lengths, a logit's scale) and preprocessing with the checkpoint's.

    No comparison of a part's outputs sees them. What others made may leave settings out, as their files do.

    Args:
        where: the part, as messages name it.

    Raises:
        GateError: a value differs, or is missing; the message names it and has both.
    """
    for name, expected in source.settings.items():
        if manifest.foreign and name not in manifest.settings:
            continue
        _compare(where, f"settings.{name}", manifest.settings.get(name), expected)
    if manifest.preprocessing and source.preprocessing:
        for name, expected in source.preprocessing.model_dump().items():
            _compare(where, f"preprocessing.{name}", getattr(manifest.preprocessing, name), expected)


def _compare(where: str, name: str, found: Any, expected: Any) -> None:
    if _spelled(found) != _spelled(expected):
        raise GateError(
            f"{where}: audit: {FILE_NAME}: {name} is {found!r:.100}",
            allowed=f"{expected!r:.100}, by the checkpoint",
            remedy="the manifest is not what was made from this checkpoint; nothing was published",
        )


def _spelled(value: Any) -> str:
    """As JSON has it; which of several tokens stands first means nothing."""
    numbers = isinstance(value, list | tuple) and all(isinstance(one, int) for one in value)
    return json.dumps(sorted(value) if numbers else value, sort_keys=True)
