"""What a model card and a list of materials say of any packed model: its task, its use, its limits."""

from __future__ import annotations

from collections.abc import Iterable

from edgekit.artifacts.manifest import Manifest, Part

_USES = (
    "Research and development on radiology, pathology, dermatology and ophthalmology images and on medical text, where "
    "whoever uses it checks what it says.",
)
LIMITS = (
    "Not cleared for any clinical use by any authority. What it says may be wrong, and sounds the same when it is.",
    "Nothing here was measured on the patients, devices and questions that it will meet: measure it on your own "
    "(edgekit bench) before anybody relies on it.",
    "Quantization changes answers. The figures say by how much on average, not for one question.",
)
TRADEOFF = "Fewer bits a weight: a smaller file and faster answers, further from full precision."


def uses(manifest: Manifest) -> tuple[str, ...]:
    """What a packed model may be used for; a stand-in for what it says itself alone."""
    if manifest.stand_in:
        return ("To try programs and machines with: a stand-in, whose answers mean nothing.",)
    return _USES


def task_of(parts: Iterable[Part]) -> str:
    """What its parts do together, by the hub's names for tasks (`pipeline_tag`)."""
    outputs = [part.output for part in parts]
    if "logits" in outputs:
        return "image-text-to-text" if "image_tokens" in outputs else "text-generation"
    return "zero-shot-image-classification" if outputs.count("pooled") > 1 else "image-feature-extraction"
