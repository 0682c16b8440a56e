"""What differs between a file and the checkpoint that it is said to come from: each difference with its kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeVar

from edgekit.errors import MOST_ITEMS, GateError

T = TypeVar("T")
Kind = Literal["tensor", "constant", "template", "tokenizer", "preprocessing", "prompt", "exactness", "wiring", "loss"]

_PLACES: Mapping[str, str] = {
    "tensor": "tensors",
    "constant": "constants",
    "template": "the chat template",
    "tokenizer": "the tokenizer",
    "prompt": "prompts",
}
_COMPARISONS: Mapping[str, str] = {"tensor": "audit"}  # that refuse differences of a kind; others are called alike
# What it does to answers, where nothing more is known than which comparison refuses.
_MEANINGS: Mapping[str, str] = {
    "prompt": "the model is asked something else than was written",
    "preprocessing": "the model sees something else than was shown",
    "wiring": "the file computes something else than the model with the same weights",
    "loss": "its weights lost more than those of its level may",
}


@dataclass(frozen=True)
class Difference:
    """One difference.

    Attributes:
        part: role and level.
        name: of the tensor, or the key.
        found: what the file has.
        expected: what the checkpoint has, or what is allowed.
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
        name = f" {self.name} is" if self.name else ":"
        expected = f"; allowed: {self.expected}" if self.expected else ""
        meaning = f" ({self.meaning})" if self.meaning else ""
        return f"{self.part}: {self.kind}{name} {self.found}{expected}{meaning}"


class DifferencesError(GateError):
    """Files differ from the checkpoint.

    Attributes:
        differences: all of them, notes too; below the message stand the first of those that change the model.
    """

    def __init__(
        self,
        message: str,
        differences: Sequence[Difference],
        *,
        said: int = 0,
        allowed: str | None = None,
        remedy: str | None = None,
    ) -> None:
        """As `GateError`.

        Args:
            said: how many of the differences the message itself tells.
        """
        self.differences = tuple(differences)
        wrong = [str(one) for one in differences if not one.is_note][said:]
        items = wrong if len(wrong) <= MOST_ITEMS else [*wrong[: MOST_ITEMS - 1], f"{len(wrong) - MOST_ITEMS + 1} more"]
        super().__init__(message, allowed=allowed, remedy=remedy, items=items)


def refusal(
    kind: Kind, part: str, found: str, *, allowed: str | None = None, remedy: str | None = None
) -> DifferencesError:
    """What to raise where a comparison refuses a part for one difference alone; `found` says it whole."""
    one = Difference(kind, part, "", found, allowed or "", _MEANINGS.get(kind, ""))
    said = _COMPARISONS.get(kind, kind)
    return DifferencesError(f"{part}: {said}: {found}", [one], said=1, allowed=allowed, remedy=remedy)


def collected(steps: Iterable[Callable[[], T]]) -> list[T]:
    """What all of these give.

    Raises:
        DifferencesError: some refuse: the first in its message, and where there are others, all that differs below it.
    """
    done, refused = [], []
    for step in steps:
        try:
            done.append(step())
        except DifferencesError as error:
            refused.append(error)
    if len(refused) > 1:
        first, found = refused[0], [one for error in refused for one in error.differences]
        raise DifferencesError(first.message, found, said=1, allowed=first.allowed, remedy=first.remedy) from first
    if refused:
        raise refused[0]
    return done


def shown(value: object) -> str:
    """A value of a file or a checkpoint, for people."""
    return "none" if value is None else f"{value:.7g}" if isinstance(value, float) else f"{value!s:.200}"


def counted(differences: Sequence[Difference]) -> str:
    """How many of each kind change the model, for people: `3 in tensors, 1 in the tokenizer`."""
    counts = Counter(one.kind for one in differences if not one.is_note)
    return ", ".join(f"{count} in {_PLACES.get(kind, kind)}" for kind, count in counts.items())


def as_data(differences: Sequence[Difference]) -> list[Mapping[str, object]]:
    """For JSON."""
    return [asdict(one) for one in differences]
