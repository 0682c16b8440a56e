"""What quantization cost, against the limits of a level: a right file that lost too much is refused, too."""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.artifacts.differences import refusal
from edgekit.artifacts.gates import Gates, beyond, spelled
from edgekit.artifacts.levels import limits_of

_SAID = {
    "loss_kl": "mean KL {:.3g} nats",
    "loss_top1": "the same top token at a share of {:.3f}",
    "loss_cosine": "mean cosine {:.6f}",
    "loss_error": "mean relative error {:.3g}",
}


def check_loss(role: str, level: str, metric: str, loss: Mapping[str, float], gates: Gates) -> None:
    """Raise GateError where a part differs from the original by more than its level, or the recipe, allows."""
    row = limits_of(level)
    limits = gates.limits(level, row)
    for name, measured in beyond(metric, "loss", loss, limits):
        farthest = spelled(name, getattr(row.ceiling, name)).removeprefix("at ")
        raise refusal(
            "loss",
            f"{role} {level}",
            f"{_SAID[name].format(measured)} to the original",
            allowed=spelled(name, getattr(limits, name)),
            remedy=f"another level; or a recipe that sets its own limit: [gates.{name}] {level} = ({farthest})",
        )
