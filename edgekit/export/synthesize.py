"""Full-shape stand-ins: random-weight checkpoints with exactly a model's shape, files and spellings.

They exercise what real weights would at full size (conversion, memory, speed, wiring proofs), they know nothing, and
their config.json says so. What their weights and files are is stated by each architecture (`Family.synthesis`).
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgekit.artifacts import find
from edgekit.artifacts.disk_errors import file_errors
from edgekit.artifacts.folders import new_folder
from edgekit.artifacts.recipes import STAND_IN_KEY, Recipe, lookup, matches, recipe
from edgekit.checkpoints import reference_models, shards
from edgekit.checkpoints.random_weights import FillingOf, Normals, generator
from edgekit.checkpoints.shards import Shard, ShardTensor
from edgekit.checkpoints.tensor_spec import TensorSpec
from edgekit.errors import EdgekitError, UsageError
from edgekit.export import copied_tokenizer
from edgekit.families import Family, family_named
from edgekit.families.hub_files import write_json
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
    shard_bytes: int = shards.SHARD_BYTES,
) -> Synthesized:
    """Write a stand-in of a recipe's model: the same seed gives the same bytes.

    Args:
        folder: new or empty; it appears when everything is written.
        layers: of the decoder (of MedSigLIP's text tower); the model's own number without it.
        vision_layers: of the vision tower; the model's own number without it.
        tokenizer: a folder with the real tokenizer's files; a generated one is written without it.
        shard_bytes: how many bytes of tensors one file of weights may hold.

    Raises:
        UsageError: the recipe has no configuration, a number of layers is out of range, the folder is not empty, or
            the tokenizer does not fit.
        EdgekitError: the disk is too small.
    """
    model, progress = recipe(recipe_name), progress or Progress()
    raw = configuration(model, layers, vision_layers)
    family = family_named(model.family, f"recipe {model.name}", UsageError)
    config = family.parse(raw)
    specs = family.tensors(config)
    if tokenizer is not None:
        rows = next(spec.shape[0] for spec in specs if spec.kind == "token_embedding")
        copied_tokenizer.check(tokenizer, rows, family.unused_tokens)
    planned = shards.plan([ShardTensor(stored_name(family, spec), spec.shape) for spec in specs], shard_bytes)
    size = sum(tensor.bytes for shard in planned for tensor in shard.tensors)
    try:
        # What an interrupted run left is written again: that is as quick as checking it.
        with file_errors(folder), new_folder(folder) as staging:
            _check_disk(folder, size + _TOKENIZER_BYTES)
            write_json(staging / "config.json", raw)
            family.synthesis.write_files(staging, config, model.generation)
            if tokenizer is not None:
                copied_tokenizer.copy(tokenizer, staging)
            else:
                family.synthesis.write_tokenizer(staging, config)
            canonical = {stored_name(family, spec): spec.name for spec in specs}
            fill = family.synthesis.fillings(config, partial(generator, seed))
            _write_weights(staging, planned, canonical, fill, Normals(seed), progress)
    finally:
        progress.finish()
    return Synthesized(folder, model.name, raw[STAND_IN_KEY], len(specs), size // 2, size, seed, tokenizer)


def configuration(model: Recipe, layers: int | None = None, vision_layers: int | None = None) -> dict[str, Any]:
    """The labelled config.json of a recipe's stand-in, perhaps with fewer layers.

    Raises:
        UsageError: the recipe has no `[config]` that it matches itself, or no such part, or the part has fewer layers.
    """
    if not _has_shape(model):
        shipped = reference_models.named(model.source)
        remedy = f"edgekit export {shipped} --to DIR: a reference model needs no stand-in" if shipped else None
        raise UsageError(
            f"recipe {model.name} has no [config] of its model", allowed=", ".join(_with_shape()), remedy=remedy
        )
    raw = copy.deepcopy(dict(model.config))
    raw[STAND_IN_KEY] = f"random weights of {model.title}'s shape; not a model"
    synthesis = family_named(model.family, f"recipe {model.name}", UsageError).synthesis
    for key, option, count in (
        (synthesis.layers, "--layers", layers),
        (synthesis.vision_layers, "--vision-layers", vision_layers),
    ):
        if count is None:
            continue
        if key is None:
            raise UsageError(f"{option} {count}: {model.title} has no vision tower")
        whole = lookup(raw, key)
        if not 1 <= count <= whole:
            raise UsageError(f"{option} {count}", allowed=f"1 to {whole}, which {model.title} has")
        part, _, name = key.rpartition(".")
        (lookup(raw, part) if part else raw)[name] = count
    return raw


def _has_shape(model: Recipe) -> bool:
    """Whether a recipe says its model's shape: one may say nothing, or inherit the shape of another size."""
    return matches(model, model.config)


def _with_shape() -> Iterator[str]:
    """The recipes that can be synthesized; those with a mistake are left to whoever names them."""
    for name in find.names("exports"):
        with suppress(UsageError):
            if _has_shape(recipe(name)):
                yield name


def stored_name(family: Family, spec: TensorSpec) -> str:
    """The hub's name of a tensor, as its files have it."""
    name = family.synthesis.stored_name(spec.name)
    assert family.canonical(name) == spec.name, f"{name} would be read as another tensor"
    return name


def _check_disk(folder: Path, needed: int) -> None:
    parent = next(parent for parent in folder.absolute().parents if parent.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise EdgekitError(
            f"{parent}: {free / 1e9:.1f} GB are free, the stand-in needs {needed / 1e9:.1f} GB",
            remedy="another disk, or fewer layers with --layers N",
        )


def _write_weights(
    folder: Path,
    planned: Sequence[Shard],
    canonical: Mapping[str, str],
    fill: FillingOf,
    normals: Normals,
    progress: Progress,
) -> None:
    """Write the shards and their index; `canonical` has the hub's layout's name of each stored name."""
    progress.start("weights", sum(tensor.bytes // 2 for shard in planned for tensor in shard.tensors))
    for shard in planned:
        with (folder / shard.file).open("wb") as stream:
            stream.write(shards.header(shard.tensors))
            for tensor in shard.tensors:
                name = canonical[tensor.name]
                for bits in normals.fill(name, fill(name, tensor.shape)):
                    stream.write(shards.as_bytes(bits))
                    progress.advance(len(bits))
    shards.write_index(folder, planned)
