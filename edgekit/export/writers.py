"""Write parts into a staging folder: each format in one pass over the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.manifest import FileEntry
from edgekit.artifacts.recipes import Recipe
from edgekit.export import calibrate, stream
from edgekit.families.source import Source
from edgekit.formats import FORMATS, FileLabel, Format
from edgekit.formats.plan import PartPlan
from edgekit.inputs.samples import Inputs, shipped_inputs
from edgekit.progress import Progress

Written = tuple[PartPlan, tuple[FileEntry, ...]]


def label_of(recipe: Recipe) -> FileLabel:
    """What files say of themselves."""
    return FileLabel(recipe.title, recipe.license.splitlines()[0], recipe.stem)


def write(
    source: Source, plans: Sequence[PartPlan], label: FileLabel, inputs: Inputs | None, folder: Path, progress: Progress
) -> Iterator[Written]:
    """Write parts, each yielded when its files are complete. What an interrupted call left is continued.

    Args:
        inputs: what is calibrated on, None for what comes with edgekit. Plans come back with what that found.

    Raises:
        CheckpointError: the tokenizer or a tensor is not what it must be, or a weight cannot be stored at a level.
    """
    for form in FORMATS.values():
        mine = [plan for plan in plans if plan.level.format == form.name]
        if mine:
            for note in form.notes(mine):
                progress.note(note)
            mine = [_calibrated(source, plan, form, label, inputs, folder, progress) for plan in mine]
            yield from _in_one_pass(source, mine, form, label, folder, progress)


def _in_one_pass(
    source: Source, plans: Sequence[PartPlan], form: Format, label: FileLabel, folder: Path, progress: Progress
) -> Iterator[Written]:
    with ExitStack() as stack:
        outputs = [stack.enter_context(stream.OutputFile(form.content(plan, folder, label))) for plan in plans]
        stream.write(source.checkpoint, outputs, progress)
    for plan in plans:
        form.finish(plan, folder, label)
    for plan, output in zip(plans, outputs, strict=True):
        digest, length = output.finish()
        hashed = output.path.relative_to(folder).as_posix()  # while it was written
        yield (
            plan,
            tuple(
                FileEntry(path=name, sha256=digest, bytes=length)
                if name == hashed
                else manifests.file_entry(folder, folder / name)
                for name in form.file_names(plan, label.stem)
            ),
        )


def _calibrated(
    source: Source,
    plan: PartPlan,
    form: Format,
    label: FileLabel,
    inputs: Inputs | None,
    folder: Path,
    progress: Progress,
) -> PartPlan:
    if not plan.level.needs_calibration or form.calibration_file is None:
        return plan
    path = folder / form.calibration_file(plan, label.stem)
    path.parent.mkdir(exist_ok=True)
    weights = form.content(plan, folder, label).path
    return calibrate.calibrated(source, plan, inputs or shipped_inputs(), path, weights, progress)


def names(plan: PartPlan, stem: str) -> tuple[str, ...]:
    """A part's files, relative to the artifact; the one that a runtime opens stands first."""
    return FORMATS[plan.level.format].file_names(plan, stem)


def requires(plan: PartPlan, folder: Path, stem: str) -> dict[str, object]:
    """What a runtime must offer to open this part, whose files are complete."""
    return FORMATS[plan.level.format].requires(plan, folder, stem)
