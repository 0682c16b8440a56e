"""From a recipe, a checkpoint or an artifact to what a plan knows of it. No weights are read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from edgekit.artifacts import find
from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.documents import is_file, is_folder
from edgekit.artifacts.levels import LEVELS
from edgekit.artifacts.levels import level as level_of
from edgekit.artifacts.manifest import Manifest, Part
from edgekit.artifacts.recipes import STAND_IN_KEY, Recipe, choose, matches, recipe
from edgekit.checkpoints import reference_models
from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.checkpoints.json_files import read_json
from edgekit.checkpoints.tensors import Tensor
from edgekit.errors import ArtifactError, CheckpointError, UsageError
from edgekit.families import Role, family_named
from edgekit.families.shapes import Shape
from edgekit.families.source import Source, open_source
from edgekit.formats import FORMATS
from edgekit.formats.gguf.form import GgufForm, read_checked
from edgekit.formats.plan import PartPlan
from edgekit.planning.parts import PlannedModel, PlannedPart, kind_of, layer_bytes

_CONFIG, _NOWHERE = "config.json", Path("/nonexistent/edgekit")
_LAYER = re.compile(r"(?:v\.)?blk\.(\d+)\.")  # llama.cpp's names


def planned_model(name: str, recipe_name: str | None = None) -> PlannedModel:
    """What a plan knows of an artifact's folder, a checkpoint's folder, a reference model, or a recipe.

    Args:
        recipe_name: of a checkpoint that several recipes fit.

    Raises:
        UsageError: it is none of them, or the recipe says no shape.
        ArtifactError, CheckpointError: the folder is not what it must be.
    """
    folder, shipped = Path(name), reference_models.path(name)
    named = name in find.names("exports")
    if is_folder(folder):
        if (named or shipped) and folder.name == name:  # no path: a folder of that name may lie here by chance
            raise UsageError(
                f"{name}: is a {'recipe' if named else 'reference model'}, and a folder here",
                allowed=f"./{name} for the folder, {find.find('exports', name) if named else shipped} for the other",
            )
        if is_file(folder / manifests.FILE_NAME):
            return of_artifact(folder, manifests.read(folder))
        return of_checkpoint(folder, recipe_name)
    if shipped:
        return of_checkpoint(shipped, recipe_name)
    if "/" in name and (fitting := [one for one in find.names("exports") if recipe(one).source == name]):
        raise UsageError(
            f"{name}: is a model of the hub, and none is fetched for a plan",
            allowed=f"its recipe: {', '.join(fitting)}",
            remedy=f"edgekit plan {fitting[0]} --device NAME",
        )
    return of_recipe(recipe(name))


def of_recipe(model: Recipe) -> PlannedModel:
    """A recipe's model, by the shape that the recipe states; a reference model by its own files.

    Raises:
        UsageError: the recipe states no shape of its own, and its model is not here.
        CheckpointError: the shape is none that the family allows.
    """
    shipped = reference_models.named(model.source)
    if shipped and (folder := reference_models.path(shipped)):
        source = open_source(folder)
        return _planned(source, model, f"recipe {model.name}", sha256=lambda: source.checkpoint.sha256)
    if not matches(model, model.config):
        raise UsageError(
            f"recipe {model.name}: has no [config] that fits its own [match], so nothing says its model's shape",
            remedy="name the checkpoint's folder in its place",
        )
    return _planned(unwritten(model), model, f"recipe {model.name}")


def of_checkpoint(folder: Path, recipe_name: str | None = None) -> PlannedModel:
    """What exports of a checkpoint would be. Raises CheckpointError, and UsageError where no one recipe fits."""
    source = open_source(folder)
    model = choose(source.checkpoint.config, recipe_name, source.family.name, source.family.part_of)
    return _planned(source, model, str(folder), sha256=lambda: source.checkpoint.sha256)


def unwritten(model: Recipe) -> Source:
    """A recipe's model as if its checkpoint were here, without a byte of it."""
    family = family_named(model.family, f"recipe {model.name}", UsageError)
    config, offset = family.parse(model.config), 0
    tensors: dict[str, Tensor] = {}
    for spec in family.tensors(config):
        name = family.synthesis.stored_name(spec.name)
        tensors[name] = tensor = Tensor(name, _NOWHERE, "BF16", spec.shape, offset, 0)
        offset += 2 * tensor.size
    return Source(Checkpoint(_NOWHERE, model.config, tensors, (_NOWHERE,)), family, config)


def _planned(source: Source, model: Recipe, said: str, sha256: Callable[[], str] | None = None) -> PlannedModel:
    made: dict[tuple[str, str], PlannedPart] = {}
    for parts in model.variant.values():
        for role, level in parts.items():
            if (role, level) not in made:
                made[role, level] = _unwritten_part(source, source.plan(role, level_of(level)), model.stem)
    order = list(source.family.roles)  # the main part first
    variants = {
        name: tuple(made[role, parts[role]] for role in order if role in parts) for name, parts in model.variant.items()
    }
    stand_in = model.stand_in or source.checkpoint.config.get(STAND_IN_KEY)
    return PlannedModel(
        model.name,
        model.title,
        stand_in,
        variants,
        model.default,
        said,
        left_out=tuple(model.on_request),
        sha256=sha256,
    )


def _unwritten_part(source: Source, plan: PartPlan, stem: str) -> PlannedPart:
    role = source.family.roles[plan.role]
    size = sum(planned.bytes for planned in plan.tensors) + FORMATS[plan.level.format].beside(plan, stem)
    return PlannedPart(
        plan.role,
        plan.level.name,
        plan.level.format,
        kind_of(role),
        size,
        max(size, plan.resident_bytes),
        plan.histogram(),
        role.shape(source.config) if role.shape else None,
        layer_bytes(role, source.config, plan.level),
    )


def of_artifact(folder: Path, manifest: Manifest) -> PlannedModel:
    """An artifact's variants, whose sizes stand in its manifest.

    Raises:
        ArtifactError: it is of no known family.
    """
    parts = {part.id: _written_part(folder, manifest, part) for part in manifest.parts}
    order = list(family_named(manifest.family, str(folder), ArtifactError).roles)  # the main part first
    variants = {
        name: tuple(parts[roles[role]] for role in order if role in roles) for name, roles in manifest.variants.items()
    }
    return PlannedModel(
        manifest.recipe,
        manifest.title,
        manifest.stand_in,
        variants,
        manifest.default,
        str(folder),
        sha256=lambda: manifest.source.sha256,
    )


def _written_part(folder: Path, manifest: Manifest, part: Part) -> PlannedPart:
    family = family_named(manifest.family, str(folder), ArtifactError)
    if part.role not in family.roles:
        raise ArtifactError(f"{folder}: the part {part.role!r:.80}", allowed=", ".join(family.roles))
    role = family.roles[part.role]
    shape, layers = _described(folder, manifest, role, part)
    size = sum(file.bytes for file in part.files)
    return PlannedPart(
        part.role,
        part.level,
        part.format,
        kind_of(role),
        size,
        max(size, int(part.requires.get("memory_bytes", 0))),
        part.tensor_types,
        shape,
        layers,
        part.parity.loss if part.parity else None,
        part.id,
    )


def _described(folder: Path, manifest: Manifest, role: Role, part: Part) -> tuple[Shape | None, tuple[int, ...]]:
    """A part's shape and its layers' sizes by the config.json beside it, else by the header of its GGUF file; neither
    where these are not as the family has them: opening the artifact says so."""
    path = folder / _CONFIG
    if manifest.foreign or role.shape is None or not is_file(path):
        return _stated(folder, manifest, role, part)
    try:
        config = family_named(manifest.family, str(folder), ArtifactError).parse(read_json(path))
    except CheckpointError:
        return _stated(folder, manifest, role, part)
    return role.shape(config), layer_bytes(role, config, LEVELS[part.level]) if part.level in LEVELS else ()


def _stated(folder: Path, manifest: Manifest, role: Role, part: Part) -> tuple[Shape | None, tuple[int, ...]]:
    form = role.forms.get(part.format)
    if not isinstance(form, GgufForm):
        return None, ()
    try:
        header = read_checked(form, folder / part.files[0].path)
    except ArtifactError:
        return None, ()
    sizes = Counter[int]()
    for tensor in header.tensors.values():
        if (layer := _LAYER.match(tensor.name)) and len(tensor.shape) > 1:
            sizes[int(layer[1])] += tensor.bytes
    return form.shape(header, manifest.settings), tuple(sizes[layer] for layer in sorted(sizes))
