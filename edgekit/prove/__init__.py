"""Compare an artifact with its original before anybody uses it.

First the files themselves are compared with the checkpoint, before anything opens them (`edgekit.prove.audit`). Then
two comparisons, on prompts with and without images and longer than the attention window:

- *Wiring*: the artifact against float32 transformers that hold the files' own dequantized weights. It asks whether
  graph, mask, positions, scales, prompt and preprocessing are right; it is strict at every level and refuses.
- *Loss*: the artifact against the original weights. It asks what quantization cost; it is reported, and refuses only
  where a recipe names a limit.

Each part of the artifact is opened as for a user, asked, and closed; then the other side answers: Hugging Face's own
processors, masks and modules, from pixels and text on, with one matrix in memory at a time. Neither holds more than
a few logits: a row is 1 MB at Gemma's vocabulary, and all rows lie in temporary files.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from edgekit.artifacts.differences import collected
from edgekit.artifacts.gates import Gates
from edgekit.artifacts.manifest import Parity, Part
from edgekit.families.source import Source
from edgekit.inputs.samples import Inputs
from edgekit.inputs.text import load_tokenizer
from edgekit.prove.audit import audit
from edgekit.prove.decoder import BEYOND, CONTEXT, DecoderProof, beginning, decoder_proof
from edgekit.prove.encoder import EncoderProof, encoder_proof
from edgekit.prove.foreign import tell, weighed
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
            loss exceeds a limit of the recipe.
    """
    written = collected(partial(written_part, runs.source, opening.folder, part) for part in parts)
    figures = collected(partial(_audited, one, runs, foreign=opening.manifest.foreign) for one in written)
    sees = any(part.output == "image_tokens" for part in opening.parts.values())
    proofs = [
        decoder_proof(one, runs, inputs, gates, sees=sees)
        if runs.source.family.roles[one.role].output == "logits"
        else encoder_proof(one, runs, inputs, gates)
        for one in written
    ]
    parities = collected(partial(_judged, proof, opening) for proof in proofs)
    return [parity.model_copy(update={"audit": one}) for parity, one in zip(parities, figures, strict=True)]


def audit_parts(parts: Sequence[Part], folder: Path, runs: FullPrecisionRuns, *, foreign: bool) -> None:
    """Compare the files of parts with the original, and open none of them.

    Args:
        foreign: whether others made them.

    Raises:
        GateError: a file is not what was made from the checkpoint.
    """
    written = collected(partial(written_part, runs.source, folder, part) for part in parts)
    collected(partial(_audited, one, runs, foreign=foreign) for one in written)


def _judged(proof: DecoderProof | EncoderProof, opening: Opening) -> Parity:
    return proof.judge(proof.ask(opening))


def _audited(written: WrittenPart, runs: FullPrecisionRuns, *, foreign: bool) -> dict[str, float]:
    """The figures of a part's audit. Raises GateError where it finds a difference."""
    with refusing(f"{written.where}: audit"):
        found = audit(runs.source, written, runs.original, runs.progress)
    if foreign:
        found = weighed(found, runs)
        tell(found, written.where, runs.progress)
    found.check(written.where)
    return found.figures
