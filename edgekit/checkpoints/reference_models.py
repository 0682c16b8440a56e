"""The reference models by name: small stand-ins with the real architectures, trained by this project.

They are not MedGemma and not MedSigLIP and share no weights with them. Weights, card and training stand in
`edgekit/reference_models/`.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

NAMES: tuple[str, ...] = ("medgemma-reference", "medsiglip-reference")

_FOLDER = Path(__file__).resolve().parent.parent / "reference_models"


def path(name: str) -> Path | None:
    """The folder of a reference model, or None if `name` is none or its weights are not installed."""
    folder = _FOLDER / name
    return folder if name in NAMES and (folder / "config.json").is_file() else None


def named(source: str) -> str | None:
    """The reference model that is a recipe's source; None for a model of the hub."""
    name = PurePosixPath(source).name
    return name if name in NAMES else None
