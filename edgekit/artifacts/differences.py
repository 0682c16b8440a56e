"""What differs between a file and the checkpoint that it is said to come from: each difference with its kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from edgekit.errors import MOST_ITEMS, GateError

Kind = Literal["tensor", "constant", "template", "tokenizer", "preprocessing", "prompt", "exactness", "wiring", "loss"]


@dataclass(frozen=True)
class Difference:
    """One difference.

    Attributes:
        part: role and level.
        name: of the tensor, or the key.
        found: what the file has.
        expected: what the checkpoint has, or the limit.
        meaning: what it does to answers, where that is known.
        is_note: whether the model stays the same.
    """

    kind: Kind
    part: str
    name: str
    found: str
    expected: str = ""
    meaning: str = ""
    is_note: bool = False

    def __str__(self) -> str:
        name = f" {self.name}" if self.name else ""
        expected = f"; the checkpoint: {self.expected}" if self.expected else ""
        meaning = f" ({self.meaning})" if self.meaning else ""
        return f"{self.part}: {self.kind}{name}: {self.found}{expected}{meaning}"


class DifferencesError(GateError):
    """Files of others differ from the checkpoint.

    Attributes:
        differences: all of them, notes too; the message lists the first of those that change the model.
    """

    def __init__(self, message: str, differences: Sequence[Difference], *, remedy: str | None = None) -> None:
        self.differences = tuple(differences)
        wrong = [str(one) for one in differences if not one.is_note]
        items = wrong if len(wrong) <= MOST_ITEMS else [*wrong[: MOST_ITEMS - 1], f"{len(wrong) - MOST_ITEMS + 1} more"]
        super().__init__(message, items=items, remedy=remedy)


def differences_of(error: GateError) -> tuple[Difference, ...]:
    """What a refusal says of differences, whose message begins `ROLE LEVEL: KIND: `."""
    if isinstance(error, DifferencesError):
        return error.differences
    part, _, rest = error.message.partition(": ")
    stated, _, said = rest.partition(": ")
    kind = next((kind for kind in get_args(Kind) if kind in stated), None)
    return (Difference(kind or "prompt", part, "", said if stated == kind else rest, error.allowed or ""),)


def together(errors: Sequence[GateError]) -> GateError:
    """Several refusals as one: the first in its message, the others below it."""
    first, *others = errors
    return DifferencesError(
        first.message, [one for error in errors for one in differences_of(error)], allowed=first.allowed, remedy=first.remedy
    ) if others else first


def counted(differences: Sequence[Difference]) -> str:
    """How many of each kind change the model, for people: `3 tensors, 1 constant`."""
    counts: dict[str, int] = {}
    for one in differences:
        if not one.is_note:
            counts[one.kind] = counts.get(one.kind, 0) + 1
    return ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in counts.items())


def as_data(differences: Sequence[Difference]) -> list[Mapping[str, object]]:
    """For JSON."""
    return [asdict(one) for one in differences]
