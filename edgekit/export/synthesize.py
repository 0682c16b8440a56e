"""Full-shape stand-ins: random-weight checkpoints with exactly a model's shape, files and spellings.

They exercise what real weights would at full size (conversion, memory, speed, wiring proofs), they know nothing, and
their config.json says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.artifacts.folders import new_folder
from edgekit.artifacts.recipes import STAND_IN_KEY, Recipe, matches, recipe
from edgekit.checkpoints import shards
from edgekit.checkpoints.normals import Normals, Stored, generator, to_bf16
from edgekit.checkpoints.shards import Planned, Shard
from edgekit.errors import EdgekitError, UsageError
from edgekit.families import FAMILIES, Family, Slot
from edgekit.families import synthetic_files as files
from edgekit.families import synthetic_tokenizers as vocabulary
from edgekit.families.scales import DecoderScales, Filling, Scales, TowerScales
from edgekit.progress import Progress

_TOKENIZER_BYTES = 64_000_000  # tokenizer.json and its companions at Gemma's size


@dataclass(frozen=True)
class Synthesized:
    """What was written: where, under which label, how much. `tokenizer` is None for a generated one."""

    folder: Path
    recipe: str
    label: str
    tensors: int
    weights: int
    bytes: int
    seed: int
    tokenizer: Path | None


def synthesize(
    recipe_name: str,
    folder: Path,
    *,
    layers: int | None = None,
    vision_layers: int | None = None,
    tokenizer: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Synthesized:
    """Write a stand-in of a recipe's model: the same seed gives the same bytes.

    Args:
        folder: new or empty; it appears when everything is written.
        layers: of the decoder (of MedSigLIP's text tower); the model's own number without it.
        vision_layers: of the vision tower; the model's own number without it.
        tokenizer: a folder with the real tokenizer's files; a generated one is written without it.

    Raises:
        UsageError: the recipe has no configuration, a number of layers is out of range, the folder is not empty, or
            the tokenizer does not fit.
        EdgekitError: the disk is too small.
    """
    chosen, progress = recipe(recipe_name), progress or Progress()
    raw = configuration(chosen, layers, vision_layers)
    family = FAMILIES[chosen.family]
    slots = all_slots(family, family.parse(raw))
    if tokenizer is not None:
        vocabulary.check(tokenizer, files.embedding_rows(raw), family.unused_tokens)
    planned = shards.plan(Planned(stored_name(family, slot), slot.shape) for slot in slots)
    size = sum(tensor.bytes for shard in planned for tensor in shard.tensors)
    try:
        # What an interrupted run left is written again: that is as quick as checking it.
        with new_folder(folder) as staging:
            _check_disk(folder, size + _TOKENIZER_BYTES)
            files.write(staging, chosen, raw)
            if tokenizer is not None:
                vocabulary.copy(tokenizer, staging)
            else:
                vocabulary.generate(staging, raw)
            _write_weights(staging, planned, family, slots, raw, seed, progress)
    finally:
        progress.finish()
    return Synthesized(folder, chosen.name, raw[STAND_IN_KEY], len(slots), size // 2, size, seed, tokenizer)


def configuration(chosen: Recipe, layers: int | None = None, vision_layers: int | None = None) -> dict[str, Any]:
    """The labelled config.json of a recipe's stand-in, perhaps with fewer layers.

    Raises:
        UsageError: the recipe has no `[config]` that it matches itself, or no such part, or the part has fewer layers.
    """
    if not matches(chosen, chosen.config):  # none, or one that was inherited from another size
        raise UsageError(f"recipe {chosen.name} has no [config] of its model", remedy="edgekit list recipes")
    raw = {**chosen.config, STAND_IN_KEY: f"random weights of {chosen.title}'s shape; not a model"}
    nested = "text_config" in raw
    for part, option, count in (
        ("text_config" if nested else None, "--layers", layers),
        ("vision_config", "--vision-layers", vision_layers),
    ):
        if count is None:
            continue
        if part is not None and part not in raw:
            raise UsageError(f"{option} {count}: {chosen.title} has no vision tower")
        owner = raw if part is None else dict(raw[part])
        if not 1 <= count <= owner["num_hidden_layers"]:
            raise UsageError(
                f"{option} {count}", allowed=f"1 to {owner['num_hidden_layers']}, which {chosen.title} has"
            )
        owner["num_hidden_layers"] = count
        if part is not None:
            raw[part] = owner
    return raw


def all_slots(family: Family, config: Any) -> list[Slot]:
    """Every tensor of a family's parts."""
    return [slot for role in family.roles.values() for slot in role.slots(config)]


def stored_name(family: Family, slot: Slot) -> str:
    """The hub's name of a tensor: a model of text alone has no `language_model.` in front."""
    name = slot.name.removeprefix("language_model.") if len(family.roles) == 1 else slot.name
    assert family.canonical(name) == slot.name, f"{name} would be read as another tensor"
    return name


def _check_disk(folder: Path, needed: int) -> None:
    place = next(parent for parent in folder.absolute().parents if parent.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise EdgekitError(
            f"{place}: {free / 1e9:.1f} GB are free, the stand-in needs {needed / 1e9:.1f} GB",
            remedy="another disk, or fewer layers with --layers N",
        )


def _write_weights(
    folder: Path,
    planned: list[Shard],
    family: Family,
    slots: list[Slot],
    raw: Mapping[str, Any],
    seed: int,
    progress: Progress,
) -> None:
    normals, filling = Normals(seed), _filling(family, raw, seed)
    by_name = {stored_name(family, slot): slot for slot in slots}
    progress.start("weights", sum(tensor.bytes // 2 for shard in planned for tensor in shard.tensors))
    for shard in planned:
        with (folder / shard.file).open("wb") as stream:
            stream.write(shards.header(shard.tensors))
            for tensor in shard.tensors:
                slot = by_name[tensor.name]
                for stored in _stored(slot, filling(slot), normals):
                    stream.write(shards.as_bytes(stored))
                    progress.advance(len(stored))
    shards.write_index(folder, planned)


def _stored(slot: Slot, filling: Filling, normals: Normals) -> Iterator[Stored]:
    if isinstance(filling, Scales):
        yield from normals.stretches(slot.name, filling)
    else:
        yield to_bf16(np.array(filling, np.float32))


def _filling(family: Family, raw: Mapping[str, Any], seed: int) -> Any:
    """The function from a slot to its scales."""
    config = family.parse(raw)

    def draw(name: str) -> np.random.Generator:
        return generator(seed, name)

    if family.name == "medsiglip":
        image = TowerScales(config.vision_config, draw, "image")
        text = TowerScales(config.text_config, draw, "text", config.text_config.pad_id)
        return lambda slot: (image if slot.name.startswith("vision_model.") else text).fill(slot)
    decoder = DecoderScales(config.text_config, draw)
    tower = TowerScales(config.vision_config, draw, "vision") if config.vision_config else None
    return lambda slot: (tower if tower and slot.name.startswith("vision_tower.") else decoder).fill(slot)
