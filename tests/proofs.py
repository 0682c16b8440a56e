"""An artifact whose parts are proven one by one, right or wrong, against full precision, whose results are kept.

So a wrong export costs its own side of the comparison alone, at the reference models' size and at full width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit.artifacts.levels import LEVELS
from edgekit.artifacts.manifest import FileEntry, Manifest, Parity, Part, part_id
from edgekit.checkpoints import reference_models as reference
from edgekit.families.source import open_source
from edgekit.formats import calibration
from edgekit.formats.plan import PartPlan
from edgekit.inputs.samples import Inputs, shipped_inputs
from edgekit.progress import Progress
from edgekit.prove import CONTEXT, FullPrecisionRuns, WrittenPart, prove_parts, written_part
from edgekit.prove import publish as artifact
from edgekit.prove.beside import check_beside
from edgekit.runtime import manifest_checks
from edgekit.runtime.opening import prepare


@dataclass(frozen=True)
class Trial:
    """One part before its proof, all right; what makes a wrong export of it gives back another.

    Attributes:
        files: of the part, in the manifest's order.
        opening: what opens the part; already prepared, so nobody will look at the files' hashes again.
        part: as the manifest has it.
        plan: what was to be written, calibrated as it was.
        recipe: that it was exported by.
        changed: the tensors whose numbers in the files are others; None for all.
    """

    files: tuple[Path, ...]
    runs: FullPrecisionRuns
    opening: Any
    part: Part
    plan: PartPlan
    recipe: str
    changed: frozenset[str] | None = frozenset()

    @property
    def text(self) -> Any:
        """What config.json says of the language model."""
        return self.runs.source.config.text_config

    def graph(self, stem: str) -> Path:
        """The part's ONNX graph whose name begins so."""
        return next(path for path in self.files if path.name.startswith(stem) and path.suffix == ".onnx")


Change = Callable[[Trial], AbstractContextManager[Trial]]


class Instead:
    """Another value with some attributes of its own."""

    def __init__(self, right: Any, **attributes: Any) -> None:
        self.right = right
        self.__dict__.update(attributes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.right, name)


@dataclass(frozen=True)
class Unproven:
    """An artifact that is not proven yet."""

    folder: Path
    manifest: Manifest
    runs: FullPrecisionRuns
    recipe: str
    inputs: Inputs = field(default_factory=shipped_inputs)

    def parts(self, role: str) -> list[Part]:
        """All parts of a role, in the order of the levels."""
        order = list(LEVELS)
        return sorted((p for p in self.manifest.parts if p.role == role), key=lambda part: order.index(part.level))

    def proven(self, role: str, level: str) -> Parity:
        """The right part, proven once."""
        if (role, level) not in self._proven:
            self._proven[role, level] = self.prove(role, level)
        return self._proven[role, level]

    def prove(self, role: str, level: str, change: Change | None = None) -> Parity:
        """Prove one part, right or changed, opened as for a user, and what the manifest says by whatever recipe.

        Raises:
            GateError: it is refused.
        """
        right = self.trial(role, level)
        with change(right) if change else nullcontext(right) as trial:
            (parity,) = prove_parts([trial.part], trial.opening, trial.runs, self.inputs, self.manifest.gates)
            check_beside(trial.opening.manifest, trial.runs.source, None, new=False)
        return parity

    def trial(self, role: str, level: str) -> Trial:
        """One right part before its proof; its files are compared with the manifest once."""
        (part,) = (part for part in self.parts(role) if part.level == level)
        if part.id not in self._prepared:
            self._prepared[part.id] = prepared_for_proof(self.folder, self.manifest, part)
        files = tuple(self.folder / file.path for file in part.files)
        return Trial(files, self.runs, self._prepared[part.id], part, self.plan(part), self.recipe)

    def plan(self, part: Part) -> PartPlan:
        """What was to be written, with what calibration found for it."""
        planned = self.runs.source.plan(part.role, LEVELS[part.level])
        measured = [file.path for file in part.files if file.path.endswith(calibration.SUFFIX)]
        return planned.calibrated(calibration.read(self.folder / measured[0])) if measured else planned

    def written(self, role: str, level: str) -> WrittenPart:
        """A part and the tensors of its files."""
        (part,) = (part for part in self.parts(role) if part.level == level)
        return written_part(self.runs.source, self.folder, part)

    _prepared: dict[str, Any] = field(default_factory=dict)
    _proven: dict[tuple[str, str], Parity] = field(default_factory=dict)


def unproven(
    source: Path,
    folder: Path,
    *,
    recipe_name: str | None = None,
    levels: Sequence[str] = (),
    parts: Sequence[Mapping[str, str]] = ({},),
    progress: Progress | None = None,
) -> Unproven:
    """Export without a proof, once for each choice of parts, into one folder."""
    runs = FullPrecisionRuns(open_source(source), progress or Progress())
    for choice in parts:
        done = artifact.export(
            source, folder, recipe_name=recipe_name, levels=levels, parts=choice, prove=False, progress=progress
        )
    return Unproven(done.folder, done.manifest, runs, recipe_name or done.manifest.recipe)


def at_every_level(name: str, folder: Path, levels: Sequence[str] = tuple(LEVELS)) -> Unproven | None:
    """All parts of a reference model at every level that it can have; None where it can have none of these."""
    source = reference.path(f"{name}-reference")
    assert source is not None, f"{name}-reference belongs to the repository"
    return at_levels(source, f"reference-{name}", folder, levels)


def at_levels(source: Path, recipe_name: str, folder: Path, levels: Sequence[str]) -> Unproven | None:
    """All parts of a checkpoint at these levels, by a recipe of which the limits are taken; None where it has none."""
    roles = open_source(source).family.roles
    able = [level for level in levels if all(LEVELS[level].format in role.formats for role in roles.values())]
    if not able:
        return None
    variants = (f"[variant.{level}]\n" + "\n".join(f'{role} = "{level}"' for role in roles) for level in able)
    recipe = folder / f"{recipe_name}.toml"
    recipe.write_text("\n".join([f'extends = "{recipe_name}"', f'default = "{able[0]}"', *variants]))
    return unproven(source, folder / recipe_name, recipe_name=str(recipe), levels=able)


def prepared_for_proof(folder: Path, manifest: Manifest, part: Part) -> Any:
    """A variant that has a part, before its parts are loaded."""
    variant = next(name for name, parts in manifest.variants.items() if parts.get(part.role) == part.id)
    return prepare(folder, variant, context=CONTEXT, runtime="default")


def with_files(part: Part, files: tuple[FileEntry, ...]) -> Part:
    """A part that has these, and the id that follows: full precision remembers by it what it computed."""
    return part.model_copy(update={"files": files, "id": part_id(part.role, part.format, part.level, files)})


def described(trial: Trial, settings: Mapping[str, Any], preprocessing: Mapping[str, Any] | None = None) -> Trial:
    """The part with a manifest that says otherwise; what it says of preprocessing is left out where none changes."""
    right = trial.opening.manifest
    changed: dict[str, Any] = {"settings": {**right.settings, **settings}}
    if preprocessing:
        changed["preprocessing"] = right.preprocessing.model_copy(update=dict(preprocessing))
    opening = copy.copy(trial.opening)
    opening.manifest = right.model_copy(update=changed)
    opening.settings = manifest_checks.settings_of(opening.manifest, opening.composition, trial.files[0])
    return replace(trial, opening=opening)


@contextmanager
def loaded_as(trial: Trial, change: Callable[[Any], None]) -> Iterator[Trial]:
    """The part behaves otherwise once it is loaded."""

    @contextmanager
    def part(role: str) -> Iterator[Any]:
        with trial.opening.part(role) as loaded:
            change(loaded)
            yield loaded

    yield replace(trial, opening=Instead(trial.opening, part=part))
