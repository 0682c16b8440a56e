"""What each comparison of a proof says of a wrong export by itself, whatever another one says of it before."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

from proofs import Trial, Unproven

from edgekit.artifacts.gates import Gates, Limits
from edgekit.errors import ArtifactError, EdgekitError, GateError
from edgekit.families.source import Source
from edgekit.formats.stored import StoredTensor
from edgekit.prove import audit_parts, exactness, written_part
from edgekit.prove.beside import check_beside
from edgekit.prove.decoder import decoder_proof
from edgekit.prove.encoder import encoder_proof
from wrong_exports.entry import InapplicableError, WrongExport

_AUDIT = importlib.import_module("edgekit.prove.audit")  # the package has a function of that name
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
        most = dict.fromkeys(("wiring_kl", "wiring_error", "wiring_worst_error"), sys.float_info.max)
        return replace(super().limits(level, row), **most)


class Remembered:
    """What all wrong exports of a part share: its right tensors' figures, and the checkpoint's tokenizer.

    A graph may take one tensor for another; so where that is another, all are compared.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[Path, str], Any] = {}
        self._tokenizer = functools.cache(Source.tokenizer)

    @contextmanager
    def of(self, trial: Trial, right: Trial, wrong: WrongExport) -> Iterator[None]:
        """While a wrong part is audited."""
        compared = self._compared(trial, right, wrong)
        with (
            mock.patch.object(Source, "tokenizer", self._tokenizer),
            mock.patch.object(_AUDIT, "compared_tensor", compared),
        ):
            yield

    def _compared(self, trial: Trial, right: Trial, wrong: WrongExport) -> Callable[..., Any]:
        compare, changed = _AUDIT.compared_tensor, trial.changed
        if wrong.kind == "graph" or changed is None:
            return compare

        def compared(source: Source, tensor: StoredTensor, rows: Any) -> Any:
            if tensor.name in changed:
                return compare(source, tensor, rows)
            key = right.files[0], tensor.name
            if key not in self._found:
                self._found[key] = compare(source, tensor, rows)
            return self._found[key]

        return compared


def verdict(
    model: Unproven, role: str, level: str, wrong: WrongExport, *, whole: bool, remembered: Remembered
) -> Verdict:
    """Ask all comparisons of the files, or one after another until one refuses, at last exactness.

    Args:
        whole: whether all of the files are asked; then exactness, which is of no level, is not.

    Raises:
        InapplicableError: the model cannot have this mistake.
    """
    right = model.trial(role, level)
    if wrong.sees and model.runs.source.family.role_giving("image_tokens") is None:
        raise InapplicableError("the model sees no images")
    found = Verdict(role, level)
    with wrong.change(right) as trial:
        with remembered.of(trial, right, wrong):
            found.refused["audit"] = _message(lambda: _audit(trial))
        if whole or found.published:
            found.refused |= _computed(model, trial)
    if not whole and found.published and wrong.exporter:
        found.refused["exactness"] = exact(model, role, wrong)
    return found


def exact(model: Unproven, role: str, wrong: WrongExport) -> str | None:
    """What exactness says where the exporter that makes the mistake writes its files, too."""
    assert wrong.exporter is not None, "the mistake is one of an exporter"
    part = next(part for part in model.parts(role) if part.level in wrong.levels())
    with wrong.exporter.active(role):
        written = written_part(model.runs.source, model.folder, part)
        return _message(lambda: exactness.proven(written, replace(model.runs, exactness={}), model.inputs))


def _audit(trial: Trial) -> None:
    """Of the part, and of what the manifest says of the whole, by whatever recipe."""
    audit_parts([trial.part], trial.opening, trial.runs)
    check_beside(trial.opening.manifest, trial.runs.source, None, new=False)


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
