"""Compare an artifact with its original before anybody uses it.

Comparisons, cheap ones first:


- *Audit*: the files themselves, before anything opens them (`edgekit.prove.audit`): every tensor, and every constant of
  a header or a graph, against the checkpoint as transformers reads it.
- *Exactness*: the same writer and runtime with exact weights against transformers, so that no rounding hides a formula.
- *Wiring*: the artifact against float32 transformers that hold the files' own dequantized weights. It asks whether
  graph, mask, positions, scales, prompt and preprocessing are right; it is strict at every level and refuses.
- *Loss*: the artifact against the original weights. It asks what quantization cost, and refuses what lost more than
  the level's row, or the recipe, allows.

Wiring judges each part alone, and then a variant's parts together (`end_to_end`).

Each part of the artifact is opened as for a user, asked, and closed; then the other side answers: Hugging Face's own
processors, masks and modules, from pixels and text on, with one matrix in memory at a time. Neither holds more than
a few logits: a row is 1 MB at Gemma's vocabulary, and all rows lie in temporary files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.artifacts.gates import Gates
from edgekit.artifacts.manifest import Parity, Part
from edgekit.families.source import Source
from edgekit.inputs.samples import Inputs
from edgekit.inputs.text import load_tokenizer
from edgekit.prove import exactness
from edgekit.prove.audit import audit
from edgekit.prove.decoder import BEYOND, CONTEXT, beginning, decoder_proof
from edgekit.prove.described import check_described
from edgekit.prove.encoder import encoder_proof
from edgekit.prove.end_to_end import prove_end_to_end
from edgekit.prove.full_precision_runs import FullPrecisionRuns
from edgekit.prove.written import WrittenPart, refusing, written_part
from edgekit.runtime.opening import Opening

__all__ = [
    "BEYOND",
    "CONTEXT",
    "FullPrecisionRuns",
    "WrittenPart",
    "audited",
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
        beginning(inputs.text, window + BEYOND, load_tokenizer(source.checkpoint.root / "tokenizer.json"))


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
    written = [written_part(runs.source, opening.folder, part) for part in parts]
    figures = [audited(one, opening, runs) for one in written]
    # What others made was not written by the writer that exactness is about.
    exact = [None if opening.manifest.foreign else exactness.proven(one, runs, inputs) for one in written]
    proofs: list[Any] = [  # each judges what itself has asked
        (decoder_proof if runs.source.family.roles[one.role].output == "logits" else encoder_proof)(
            one, runs, inputs, gates
        )
        for one in written
    ]
    answers = [proof.ask(opening) for proof in proofs]
    parities = [proof.judge(answer) for proof, answer in zip(proofs, answers, strict=True)]
    return [
        parity.model_copy(update={"audit": found, "exactness": shown})
        for parity, found, shown in zip(parities, figures, exact, strict=True)
    ]


def audited(written: WrittenPart, opening: Opening, runs: FullPrecisionRuns) -> dict[str, float]:
    """The figures of a part's audit. Raises GateError where it finds a difference."""
    check_described(written, opening, runs.source)
    with refusing(f"{written.where}: audit"):
        found = audit(runs.source, written, runs.original, runs.progress)
    found.check(written.where)
    return found.figures
