"""What a model's arithmetic costs at least, from the shape that its artifact states; and so its share of a limit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.documents import is_file, read_json
from edgekit.artifacts.manifest import Manifest, Part
from edgekit.errors import ArtifactError
from edgekit.families import family_named
from edgekit.machine.roofline import Roofline


@dataclass(frozen=True)
class Operations:
    """A variant's costs; None where it has no such part, or its shape is not known.

    Attributes:
        step_bytes: weights that a decoder's step reads: its files, but for a table of embeddings that lies apart.
        token: operations for each token of a prompt, two for each weight that it is multiplied with. Attention to
            other tokens is left out, which is little for prompts far below the model's width.
        image: operations for each image: all weights for each of its patches, and attention of all to all.
        file_bytes: all files of the variant.
    """

    step_bytes: int | None
    token: float | None
    image: float | None
    file_bytes: int


def operations(folder: Path, level: str) -> Operations:
    """The costs of a variant.

    Raises:
        ArtifactError: the folder is no artifact.
        UsageError: it has no such level.
    """
    manifest = manifests.read(folder)
    _, parts = manifest.variant(level)
    decoder = next((part for part in parts.values() if part.output == "logits"), None)
    return Operations(
        step_bytes=None if decoder is None else _step_bytes(decoder),
        token=None if decoder is None else _per_token(decoder, manifest.settings),
        image=_per_image(manifest, parts, folder),
        file_bytes=manifest.bytes_of(level),
    )


def shares(costs: Operations, figures: Mapping[str, float], limits: Roofline) -> Iterator[tuple[str, float]]:
    """Each figure's share of what the machine allows: reading of its bandwidth, products of the fastest kind's rate."""
    rate = limits.rates[limits.fastest].per_s
    if costs.step_bytes and "decode_tokens_per_s" in figures:
        yield "decode_share", costs.step_bytes * figures["decode_tokens_per_s"] / limits.bytes_per_s
    if costs.token and "prefill_tokens_per_s" in figures:
        yield "prefill_share", costs.token * figures["prefill_tokens_per_s"] / rate
    if costs.image and "image_encode_ms" in figures:
        yield "image_share", costs.image / (figures["image_encode_ms"] / 1000) / rate


def _step_bytes(decoder: Part) -> int:
    """A table of embeddings in a graph of its own gives a step one row."""
    return sum(file.bytes for file in decoder.files if not Path(file.path).name.startswith("embed_tokens"))


def _per_token(decoder: Part, settings: Mapping[str, Any]) -> float | None:
    """The head is computed for the last token only, so its weights are left out."""
    vocabulary, hidden = settings.get("vocabulary"), settings.get("hidden")
    if not isinstance(vocabulary, int) or not isinstance(hidden, int):
        return None
    return 2.0 * max(0, decoder.weights - vocabulary * hidden)


def _per_image(manifest: Manifest, parts: Mapping[str, Part], folder: Path) -> float | None:
    roles = family_named(manifest.family, str(folder), ArtifactError).roles
    encoder = next((part for role, part in parts.items() if roles[role].input == "pixels"), None)
    shape = _vision_shape(folder)
    if encoder is None or manifest.preprocessing is None or shape is None:
        return None
    patches = (manifest.preprocessing.size // shape["patch_size"]) ** 2
    attention = 4.0 * patches**2 * shape["hidden_size"] * shape["num_hidden_layers"]
    return 2.0 * encoder.weights * patches + attention


def _vision_shape(folder: Path) -> dict[str, int] | None:
    """What config.json says of the vision tower, None where it does not say all."""
    path = folder / "config.json"
    config = read_json(path, ArtifactError) if is_file(path) else None
    vision = config.get("vision_config") if isinstance(config, dict) else None
    if not isinstance(vision, dict):
        return None
    found = {name: vision.get(name) for name in ("patch_size", "hidden_size", "num_hidden_layers")}
    sizes = {name: size for name, size in found.items() if isinstance(size, int) and size > 0}
    return sizes if len(sizes) == len(found) else None
