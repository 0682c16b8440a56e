"""The text that comes with edgekit: calibration, proof and fidelity read it where a user names none."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def passage() -> str:
    """Some 1,600 words about reading radiographs, longer than MedGemma's window of 1,024 tokens."""
    return files("edgekit.inputs").joinpath("passage.txt").read_text(encoding="utf-8").strip()


def sentences(text: str | None = None) -> tuple[str, ...]:
    """A text, or the passage, in sentences."""
    return tuple(f"{s.strip()}." for s in (text or passage()).replace("\n", " ").split(". ") if s.strip(" ."))
