"""What a format compares of a finished file with the checkpoint, value by value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgekit.artifacts.levels import Level
from edgekit.formats.label import FileLabel
from edgekit.formats.plan import PartPlan
from edgekit.formats.stored import StoredTensor
from edgekit.progress import Progress

Kind = Literal["tensor", "constant", "template", "tokenizer"]


@dataclass(frozen=True)
class Compared:
    """One value of a file, and what it must be.

    Attributes:
        name: of a tensor, a key of the header, or a constant of a graph.
        found, expected: integers, floats, texts, lists of these, or None for nothing.
        allowed: what is allowed, for people, where `expected` does not say it.
        texts: how many texts stand behind it.
        meaning: what it does to answers that the two differ, where that is known.
        is_note: whether the model is the same all the same.
    """

    kind: Kind
    name: str
    found: Any
    expected: Any
    allowed: str = ""
    texts: int = 0
    meaning: str = ""
    is_note: bool = False

    @property
    def same(self) -> bool:
        """Whether the two are one value: floats as float32 has them, all else exactly."""
        return _same(self.found, self.expected)

    @property
    def wanted(self) -> str:
        """What is allowed, for people."""
        return self.allowed or f"{self.expected!r:.200}"

    def __str__(self) -> str:
        return f"{self.name} is {self.found!r:.200}"


def _same(found: Any, expected: Any) -> bool:
    if isinstance(found, list | tuple) and isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(_same, found, expected))
    if isinstance(found, float) or isinstance(expected, float):
        numbers = isinstance(found, float | int) and isinstance(expected, float | int)
        return numbers and bool(np.float32(found) == np.float32(expected))
    return type(found) is type(expected) and bool(found == expected)


@dataclass(frozen=True)
class AuditedPart:
    """A part whose file is audited.

    Attributes:
        form: what the family states of it for its format.
        requires: what the manifest says that it needs of a runtime.
        root: the checkpoint's folder.
        tensors: by canonical name.
        plan: what an export at another level would write.
        progress: for what takes longer than a value does.
        label: what the files must say of themselves; None for those that others made, who may say anything.
    """

    role: str
    level: str
    form: Any
    files: tuple[Path, ...]
    requires: Mapping[str, Any]
    root: Path
    tensors: Mapping[str, StoredTensor]
    plan: Callable[[Level], PartPlan]
    progress: Progress
    label: FileLabel | None = None
