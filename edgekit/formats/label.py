"""What files say of themselves, for people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FileLabel:
    """The model's title, the first line of its licence, and the stem of its files' names."""

    title: str
    license: str
    stem: str
