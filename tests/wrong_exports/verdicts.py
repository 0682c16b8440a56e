"""What each comparison of a proof says of a wrong export by itself, whatever another one says of it before."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from proofs import Trial, Unproven

from edgekit.artifacts.gates import Gates, Limits
from edgekit.errors import ArtifactError, EdgekitError, GateError
from edgekit.prove import audit_parts, exactness, written_part
from edgekit.prove.decoder import decoder_proof
from edgekit.prove.encoder import encoder_proof
from wrong_exports.entry import WrongExport

COMPARISONS = ("audit", "exactness", "wiring", "loss")
OPENING = "opening"  # who opens the part refuses it before any comparison of what it computes


@dataclass
class Verdict:
    """Of one wrong export of a part at one level.

    Attributes:
        refused: comparison -> its message; None where it lets the mistake pass.
    """

    role: str
    level: str
    refused: dict[str, str | None] = field(default_factory=dict)

    @property
    def published(self) -> bool:
        """Whether nobody refuses it."""
        return not any(self.refused.values())


class _LossAlone(Gates):
    """Gates by which wiring, however wrong, says nothing but of what is no number."""

    clear_margin: float = 1e9
    clear_margin_quantized: float = 1e9

    def limits(self, level: str, row: Limits) -> Limits:
        most = dict.fromkeys(("wiring_kl", "wiring_error", "wiring_worst_error"), math.inf)
        return replace(super().limits(level, row), **most)


def verdict(model: Unproven, role: str, level: str, wrong: WrongExport, whole: bool) -> Verdict:
    """Ask all comparisons of the files, or only until one refuses.

    Args:
        whole: whether all are asked.
    """
    found = Verdict(role, level)
    with wrong.change(model.trial(role, level)) as trial:
        found.refused["audit"] = _message(lambda: _audit(trial))
        if whole or found.published:
            found.refused |= _computed(model, trial)
    return found


def exact(model: Unproven, role: str, wrong: WrongExport) -> str | None:
    """What exactness says where the exporter that makes the mistake writes its files, too."""
    assert wrong.exporter is not None, "the mistake is one of an exporter"
    part = next(part for part in model.parts(role) if part.level in wrong.levels())
    with wrong.exporter.active():
        written = written_part(model.runs.source, model.folder, part)
        return _message(lambda: exactness.proven(written, replace(model.runs, exactness={}), model.inputs))


def _audit(trial: Trial) -> None:
    audit_parts([trial.part], trial.opening, trial.runs)


def _computed(model: Unproven, trial: Trial) -> Mapping[str, str | None]:
    """Of what the part computes: opening, wiring, and loss."""
    decodes = model.runs.source.family.roles[trial.part.role].output == "logits"
    try:
        written = written_part(trial.runs.source, trial.opening.folder, trial.part)
        make: Callable[..., Any] = decoder_proof if decodes else encoder_proof
        proof = make(written, trial.runs, model.inputs, model.manifest.gates)
        answer = proof.ask(trial.opening)
    except ArtifactError as error:
        return {OPENING: error.message}
    except GateError as error:  # the prompt, or the pixels, are others already
        return {"wiring": error.message}
    alone = _LossAlone(**{**model.manifest.gates.model_dump(), "clear_margin": 1e9, "clear_margin_quantized": 1e9})
    lost = _message(lambda: replace(proof, gates=alone).judge(answer))
    found = {"wiring": _message(lambda: proof.wiring(answer) if decodes else proof.judge(answer))}
    if lost is None or ": loss: " in lost:  # else wiring, which stands before it, cannot be passed over
        found["loss"] = lost
    return found


def _message(comparison: Callable[[], object]) -> str | None:
    try:
        comparison()
    except EdgekitError as error:
        return error.message
    return None
