"""The limits by which a proof refuses: those of the level's row, unless a recipe says otherwise for its model.

Wiring compares the artifact with float32 transformers that hold the file's own dequantized weights, loss with the
original ones. Divergences are means over a prompt's positions (wiring) or over all of them (loss), in nats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated

from pydantic import Field

from edgekit.artifacts.validation import Name, StrictModel

_Most = Annotated[float, Field(ge=0, le=1e6)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Cosine = Annotated[float, Field(ge=-1, le=1)]

# How many times a level's own limit a recipe may allow, counted from a perfect score. A manifest that allows more is
# not believed: who made a wrong file writes its gates, too.
STRETCH = 8


@dataclass(frozen=True)
class Limits:
    """What a proof of one part at one level accepts. The defaults are for a level that nobody has measured.

    Attributes:
        wiring_kl: of a decoder: most, of each prompt.
        wiring_error, wiring_worst_error: of an encoder: most relative error (L2), on average and of any vector.
        image_kl: of an encoder: what a question about an image may differ by beyond its decoder's `wiring_kl`.
        loss_kl, loss_top1: of a decoder: most, and the least share of positions with the same top token.
        loss_cosine, loss_error: of an encoder: least mean cosine, most mean relative error.
    """

    wiring_kl: float = 0.003
    wiring_error: float = 0.03
    wiring_worst_error: float = 0.14
    image_kl: float = 0.01
    loss_kl: float = 3.0
    loss_top1: float = 0.2
    loss_cosine: float = 0.9
    loss_error: float = 0.5

    @property
    def ceiling(self) -> Limits:
        """The loosest that a recipe may put in their place."""
        stretched = {name: _perfect(name) + STRETCH * (getattr(self, name) - _perfect(name)) for name in LIMITS}
        return Limits(**stretched)


LIMITS = tuple(field.name for field in fields(Limits))
_LEAST = frozenset({"loss_top1", "loss_cosine"})  # limits from below, of shares; the others are from above

# What a parity of each metric records, and the limit that judges it: limit -> stage and figure.
_JUDGED: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "kl": {"wiring_kl": ("wiring", "prompt"), "loss_kl": ("loss", "mean"), "loss_top1": ("loss", "top1")},
    "cosine": {
        "wiring_error": ("wiring", "error"),
        "wiring_worst_error": ("wiring", "worst_error"),
        "loss_cosine": ("loss", "mean"),
        "loss_error": ("loss", "error"),
    },
}


def _perfect(name: str) -> float:
    return 1.0 if name in _LEAST else 0.0


def spelled(name: str, limit: float) -> str:
    """A limit for people."""
    return f"at {'least' if name in _LEAST else 'most'} {limit:g}"


def fails(name: str, measured: float, limit: float) -> bool:
    """Whether a figure is beyond its limit; NaN is beyond every one."""
    return not (measured >= limit if name in _LEAST else measured <= limit)


def judged(metric: str, stage: str, figures: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """The limits that judge a proof's figures of one stage, and what was measured; NaN where nothing was."""
    for name, (of, figure) in _JUDGED[metric].items():
        if of == stage:
            yield name, figures.get(figure, math.nan)


def beyond(metric: str, stage: str, figures: Mapping[str, float], limits: Limits) -> Iterator[tuple[str, float]]:
    """Those limits that are not kept."""
    for name, measured in judged(metric, stage, figures):
        if fails(name, measured, getattr(limits, name)):
            yield name, measured


class Gates(StrictModel):
    """What a recipe demands of its model. Each mapping: level -> a limit in place of that of the level's row."""

    # The top token may change only where full precision's two best logits are nearly tied.
    clear_margin: Annotated[float, Field(ge=0, le=1)] = 0.1
    # Runtimes multiply quantized matrices by activations of 8 bits, which no float32 model follows: in right files
    # of the real Gemma 3 270M this moves logits by 0.08 (root mean square) and changed one top token in 288 beyond 0.5.
    # The known wrong exports change a tenth and more.
    clear_margin_quantized: Annotated[float, Field(ge=0, le=2)] = 0.5
    changed_share_quantized: Annotated[float, Field(ge=0, le=0.05)] = 0.01
    wiring_kl: Mapping[Name, _Most] = Field(default_factory=dict)
    wiring_error: Mapping[Name, _Most] = Field(default_factory=dict)
    wiring_worst_error: Mapping[Name, _Most] = Field(default_factory=dict)
    image_kl: Mapping[Name, _Most] = Field(default_factory=dict)
    loss_kl: Mapping[Name, _Most] = Field(default_factory=dict)
    loss_top1: Mapping[Name, _Share] = Field(default_factory=dict)
    loss_cosine: Mapping[Name, _Cosine] = Field(default_factory=dict)
    loss_error: Mapping[Name, _Most] = Field(default_factory=dict)

    def limits(self, level: str, row: Limits) -> Limits:
        """What holds for a level: the limits of its row, or the recipe's own up to the row's ceiling."""
        ceiling, chosen = row.ceiling, {}
        for name in LIMITS:
            limit, most = getattr(self, name).get(level, getattr(row, name)), getattr(ceiling, name)
            chosen[name] = most if fails(name, limit, most) else limit
        return Limits(**chosen)
