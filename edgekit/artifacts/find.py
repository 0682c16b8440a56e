"""Where recipes, devices and tasks are found: data that users edit and extend, one TOML file each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from edgekit.artifacts.documents import is_file, read_toml
from edgekit.errors import UsageError, unknown

FileKind = Literal[
    "exports",
    "devices",
    "benchmarks",
    "benchmarks/datasets",
    "benchmarks/labels",
    "benchmarks/prompts",
    "benchmarks/published",
]

_NOUNS = {
    "exports": "recipe",
    "devices": "device",
    "benchmarks": "task",
    "benchmarks/datasets": "dataset",
    "benchmarks/labels": "label set",
    "benchmarks/published": "file of published scores",
    "benchmarks/prompts": "prompt table",
}
_PACKAGE = Path(__file__).resolve().parent.parent


def folders(kind: FileKind) -> list[Path]:
    """The folders searched for this kind, first match wins: $EDGEKIT_HOME, the checkout, the installed package.

    The current directory is never searched: what a command does must not depend on where it is typed.
    """
    candidates = [_PACKAGE.parent / kind, _PACKAGE / "data" / kind]
    if own := users_folder(kind):
        candidates.insert(0, own)
    # A folder beside an installed package could be anybody's; only a checkout has our pyproject.toml next to it.
    if not (_PACKAGE.parent / "pyproject.toml").is_file():
        candidates.remove(_PACKAGE.parent / kind)
    return [folder for folder in candidates if folder.is_dir()]


def users_folder(kind: FileKind) -> Path | None:
    """Where users put their own files of this kind, in $EDGEKIT_HOME; None where that is not set."""
    home = os.environ.get("EDGEKIT_HOME")
    return Path(home) / kind if home else None


def names(kind: FileKind) -> list[str]:
    """The names of all files of this kind, sorted."""
    return sorted({path.stem for folder in folders(kind) for path in folder.glob("*.toml") if path.is_file()})


def find(kind: FileKind, name: str) -> Path:
    """The TOML file of this kind and name, or `name` itself where it is the path of a TOML file.

    Raises:
        UsageError: there is none; the message lists the names that exist.
    """
    if name.endswith(".toml") and is_file(Path(name)):
        return Path(name)
    for folder in folders(kind):
        path = folder / f"{name}.toml"
        if path.parent == folder and is_file(path):
            return path
    noun, known = _NOUNS[kind], names(kind)
    listed = {"benchmarks/labels": "labels"}.get(kind, f"{noun}s" if "/" not in kind else None)
    remedy = f"edgekit list {listed}, or give the path of a .toml file" if listed else None
    raise unknown(noun, name, known, allowed=None if known else "none is installed", remedy=remedy)


def load(kind: FileKind, name: str) -> dict[str, Any]:
    """The parsed TOML of this kind and name.

    Raises:
        UsageError: no such file, or it is no valid TOML.
    """
    path = find(kind, name)
    return read_toml(path, UsageError)
