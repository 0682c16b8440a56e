"""One position's distance from full precision, and those of all positions as columns that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.base import Float

_INFINITE = ("kl", "loss", "expected_loss")  # JSON has no infinity: null stands for it


@dataclass
class Distances:
    """One entry a position, in the documents' order.

    Attributes:
        kl: KL(full precision || candidate) in nats, inf where a logit is not finite.
        agrees: whether the top token is the same.
        confidence: full precision's probability of its top token.
        groups: positions with equal numbers belong together and are resampled together.
        loss, expected_loss: -log probability of the token that follows, the candidate's and full precision's; empty
            where the text is not given but the model's own.
        clear_changes: positions whose top token changed though full precision's two best differ by the margin.
        nonfinite: positions at which the candidate has a logit that is not finite.
    """

    kl: list[float] = field(default_factory=list)
    agrees: list[bool] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    expected_loss: list[float] = field(default_factory=list)
    clear_changes: int = 0
    nonfinite: int = 0

    def add(self, expected: Float, actual: Float, *, group: int, follows: int | None, margin: float) -> None:
        """Compare one position.

        Args:
            expected: full precision's logits [vocabulary].
            actual: the candidate's; where its file leaves out rows at the end that no token has, the first of them.
            follows: the token that follows in the text; None for a text of the model's own.
            margin: between full precision's two best logits, from which on a change of the top token is clear.
        """
        if len(actual) > len(expected):
            raise ValueError(f"{len(actual)} logits against full precision's {len(expected)}")
        expected = expected[: len(actual)]
        # A finite sum says that every logit is: those of float32 cannot overflow in float64.
        broken = not np.isfinite(actual.sum(dtype=np.float64))
        finite = not broken and bool(np.isfinite(expected.sum(dtype=np.float64)))
        top = int(expected.argmax())
        agrees = finite and top == int(actual.argmax())
        p, log_p = _probabilities(expected)
        _, log_q = (p, log_p) if actual is expected else _probabilities(actual)
        # Rounding can take the sum a little below zero, which no divergence is.
        self.kl.append(max(float(p @ (log_p - log_q)), 0.0) if finite else float("inf"))
        self.agrees.append(agrees)
        self.confidence.append(float(p[top]))
        self.groups.append(group)
        if follows is not None:
            self.loss.append(-float(log_q[follows]) if finite else float("inf"))
            self.expected_loss.append(-float(log_p[follows]))
        if not agrees:
            second = max(float(part.max()) for part in (expected[:top], expected[top + 1 :]) if len(part))
            self.clear_changes += float(expected[top]) - second > margin
        self.nonfinite += broken

    def column(self, name: str) -> NDArray[np.float64]:
        """One of the columns as numbers."""
        return np.asarray(getattr(self, name), np.float64)

    def plain(self) -> dict[str, Any]:
        """What JSON can hold."""
        columns = {name: [v if np.isfinite(v) else None for v in getattr(self, name)] for name in _INFINITE}
        return {**asdict(self), **columns}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Distances:
        """Those of `plain`."""
        known = {one.name: data[one.name] for one in fields(cls)}
        columns = {name: [float("inf") if v is None else v for v in known[name]] for name in _INFINITE}
        return cls(**{**known, **columns})


def _probabilities(logits: Float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities and their logarithms, each computed in one pass over a row that hardly fits a CPU's caches."""
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which callers report as what it is
        shifted = np.subtract(logits, logits.max(), dtype=np.float64)
        p = np.exp(shifted)
        total = p.sum()
        p /= total
        shifted -= np.log(total)
    return p, shifted
