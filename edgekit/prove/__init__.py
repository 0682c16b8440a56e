"""Compare an artifact with its original before anybody uses it.

Comparisons, cheap ones first, after that of the checkpoint's reading (`edgekit.full_precision.original`):

- *Audit*: the files themselves, before anything opens them (`edgekit.prove.audit`): every tensor, and every constant of
  a header or a graph, against the checkpoint as transformers reads it.
- *Exactness*: the same writer and runtime with exact weights against transformers, so that no rounding hides a formula.
- *Wiring*: the artifact against float32 transformers that hold the files' own dequantized weights. It asks whether
  graph, mask, positions, scales, prompt and preprocessing are right; it is strict at every level and refuses.
- *Loss*: the artifact against the original weights. It asks what quantization cost, and refuses what lost more than
  the level's row, or the recipe, allows.

Wiring judges each part alone, then a variant's parts together (`end_to_end`), and how labels are scored (`scores`).

Each part of the artifact is opened as for a user, asked, and closed; then the other side answers: Hugging Face's own
processors, masks and modules, from pixels and text on, with one matrix in memory at a time. Neither holds more than
a few logits: a row is 1 MB at Gemma's vocabulary, and all rows lie in temporary files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from edgekit.artifacts.differences import collected
from edgekit.artifacts.gates import Gates
from edgekit.artifacts.manifest import Manifest, Parity, Part
from edgekit.families.source import Source
from edgekit.formats import FileLabel
from edgekit.inputs.samples import Inputs
from edgekit.prove import exactness
from edgekit.prove.audit import audit
from edgekit.prove.decoder import BEYOND, CONTEXT, beginning, decoder_proof
from edgekit.prove.described import described
from edgekit.prove.encoder import encoder_proof
from edgekit.prove.end_to_end import prove_end_to_end
from edgekit.prove.foreign import tell
from edgekit.prove.full_precision_runs import FullPrecisionRuns
from edgekit.prove.written import WrittenPart, refusing, written_part
from edgekit.runtime.opening import Opening

__all__ = [
    "BEYOND",
    "CONTEXT",
    "FullPrecisionRuns",
    "WrittenPart",
    "audit_parts",
    "check_inputs",
    "prove_end_to_end",
    "prove_parts",
    "written_part",
]


def check_inputs(source: Source, inputs: Inputs) -> None:
    """Check what can be checked before anything is written.

    Raises:
        InputError: the text is too short for this model's attention window.
    """
    if window := source.settings.get("window"):
        beginning(inputs.text, window + BEYOND, source.tokenizer().tokenizer)


def prove_parts(
    parts: Sequence[Part], opening: Opening, runs: FullPrecisionRuns, inputs: Inputs, gates: Gates
) -> list[Parity]:
    """Compare parts of one variant of an artifact with the original.

    Args:
        opening: the variant; each part is opened alone, and closed before a model of the same size runs.

    Raises:
        GateError: a file is not what was made from the checkpoint; preprocessing, prompt or wiring is wrong; or the
            loss exceeds the level's limit.
    """
    audits = audit_parts(parts, opening, runs)
    # What others made was not written by the writer that exactness is about.
    exact = [None if opening.manifest.foreign else exactness.proven(one, runs, inputs) for one, _ in audits]
    sees = any(part.output == "image_tokens" for part in opening.parts.values())
    proofs = [
        decoder_proof(one, runs, inputs, gates, sees=sees)
        if runs.source.family.roles[one.role].output == "logits"
        else encoder_proof(one, runs, inputs, gates)
        for one, _ in audits
    ]
    parities = collected(partial(_judged, proof, opening) for proof in proofs)
    return [
        parity.model_copy(update={"audit": figures, "exactness": shown})
        for parity, (_, figures), shown in zip(parities, audits, exact, strict=True)
    ]


def audit_parts(
    parts: Sequence[Part], opening: Opening, runs: FullPrecisionRuns
) -> list[tuple[WrittenPart, dict[str, float]]]:
    """Compare the files of parts with the original, and load none of them; each with the figures of its audit.

    Raises:
        GateError: a file, or what the manifest says of it, is not what was made from the checkpoint.
    """
    written = collected(partial(written_part, runs.source, opening.folder, part) for part in parts)
    figures = collected(partial(_audited, one, opening, runs) for one in written)
    return list(zip(written, figures, strict=True))


def _judged(proof: Any, opening: Opening) -> Parity:
    parity: Parity = proof.judge(proof.ask(opening))  # each kind judges what it has asked itself
    return parity


def _label(manifest: Manifest) -> FileLabel | None:
    """What its files say of themselves; others say of theirs what they like."""
    if manifest.foreign:
        return None
    return FileLabel(manifest.title, manifest.license.partition("\n")[0], "")


def _audited(written: WrittenPart, opening: Opening, runs: FullPrecisionRuns) -> dict[str, float]:
    with refusing(written.where):
        found = audit(runs.source, written, runs.original, runs.progress, _label(opening.manifest))
        beside = tuple(described(written, opening, runs.source))
    found = replace(found, differences=(*beside, *found.differences))
    if opening.manifest.foreign:
        tell(found, written.where, runs.progress)
    found.check(written.where)
    return found.figures
