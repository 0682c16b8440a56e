"""The reference models: small stand-ins with the real architectures and file layouts, trained by this project.

They are not MedGemma and not MedSigLIP and share no weights with them; see README.md in this folder.
"""

from __future__ import annotations

from pathlib import Path

NAMES: tuple[str, ...] = ("medgemma-reference", "medsiglip-reference")


def path(name: str) -> Path | None:
    """The folder of a reference model, or None if `name` is none or its weights are not installed."""
    folder = Path(__file__).parent / name
    return folder if name in NAMES and (folder / "config.json").is_file() else None
