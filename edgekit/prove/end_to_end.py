"""A question about an image, end to end: the artifact's own vision part before its own decoder.

Each part alone is compared behind full precision's answers of the other. That cannot see what is wrong between them:
features on another scale than the decoder was made for, or in another order. So every pair of a variant answers one
question together, each part opened as users open the variant, and transformers answers it with the weights of the same
two files, from the same pixels.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace

import numpy as np

from edgekit.artifacts.differences import refusal
from edgekit.artifacts.gates import Gates
from edgekit.artifacts.levels import limits_of
from edgekit.inputs.samples import Inputs
from edgekit.prove.decoder import DecoderProof, divergence, prompts
from edgekit.prove.encoder import encoded, encoder_proof
from edgekit.prove.full_precision_runs import FullPrecisionRuns, rounded
from edgekit.prove.written import written_part
from edgekit.runtime.base import Float
from edgekit.runtime.opening import Opening


def prove_end_to_end(
    opening: Opening, runs: FullPrecisionRuns, inputs: Inputs, gates: Gates, seen: MutableMapping[str, Float]
) -> dict[str, float]:
    """Compare one answer of a variant's two parts with transformers': `mean` and `worst` divergence in nats.

    Args:
        opening: a variant that sees images and decodes; each part is opened alone, and closed before the next.
        seen: what vision parts made of the image, by their ids, and filled: variants share them.

    Raises:
        GateError: they differ by more than the decoder's wiring and the vision part's rounding explain.
    """
    sees, decodes = (runs.source.family.role_giving(output) for output in ("image_tokens", "logits"))
    assert sees is not None, "only a variant with both is asked"
    assert decodes is not None, "only a variant with both is asked"
    eye, mind = (written_part(runs.source, opening.folder, opening.parts[role]) for role in (sees, decodes))
    look = encoder_proof(eye, runs, inputs, gates)
    if eye.part.id not in seen:
        seen[eye.part.id] = look.encoded(opening, 1)
    expected = encoded(runs, sees, eye, look.expected_batch)
    (question,) = [prompt for prompt in prompts(runs.source, inputs, sees=True) if prompt.images == 1]
    ours = DecoderProof(mind, runs, inputs, gates, (question,), seen[eye.part.id], asked=f"behind {eye.part.id}")
    theirs = replace(ours, embedded=expected[:1])
    kl = divergence(theirs.expected(mind), ours.ask(opening))
    limit = ours.limits.wiring_kl + gates.limits(eye.level, limits_of(eye.level)).image_kl
    if not kl.mean() <= limit:  # NaN must fail too
        raise refusal(
            "wiring",
            ours.where,
            f"mean KL {kl.mean():.2g} nats of a question about an image behind {eye.where}, to "
            "transformers with the same weights",
            allowed=f"at most {limit:g} nats",
            remedy="each part alone is right, and they do not fit together; nothing was published",
        )
    return {"mean": rounded(kl.mean()), "worst": rounded(np.max(kl))}
