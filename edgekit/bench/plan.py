"""Which tasks a benchmark runs on which models, and what its reader must be told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit.artifacts import find
from edgekit.bench import datasets
from edgekit.bench.kinds import Task
from edgekit.bench.subjects import Subject
from edgekit.bench.tasks import task as load_task
from edgekit.errors import InputError, UsageError


def choose(
    names: Sequence[str],
    data: Path | None,
    subjects: Sequence[Subject],
    own: Sequence[Task] = (),
    *,
    download: bool = False,
) -> list[Task]:
    """The tasks on a user's own data, and those that were named, in that order; without names all whose data is here.

    What takes too long for who named none (`Task.on_request`) is not among those. Beside a user's own data, and without
    names, only what says nothing of other data's answers: fidelity and times. Names replace these: of her own data
    there is what they name, or all that is right and wrong where they name none of it.

    Args:
        own: the tasks on the user's own data (`own.tasks`).
        download: fetch the data sets of named tasks that are not here from the hub.

    Raises:
        UsageError: a named task does not exist, lacks its data, or fits none of these models.
    """
    if not names:
        every = [load_task(name) for name in find.names("benchmarks")]
        here = [task for task in every if datasets.is_here(datasets.source(task.dataset), data)]
        if own:
            return [*_askable(_judged(own), subjects), *_compared(own, subjects), *_beside(own, here)]
        _check_data(every, here, data)
        return sorted((task for task in here if not task.on_request), key=_rank)
    mine = _askable([task for task in own if _names_own(names, task)] or _judged(own), subjects) if own else []
    tasks = [load_task(name) for name in names if not any(_names_own([name], task) for task in own)]
    for task in tasks:
        source = datasets.source(task.dataset)
        if not datasets.is_here(source, data):
            if not (download and source.hub):
                if data is None:
                    error = datasets.missing(source, data)
                    raise UsageError(f"task {task.name} needs data", remedy=error.remedy)
                continue  # who reads it says so, with all else that is missing
            datasets.fetch(source)
        if not any(_able(task, subject) for subject in subjects):
            raise UsageError(f"task {task.name}: none of these models {_does(task)}")
    for task in (*mine, *tasks):
        able = [subject for subject in subjects if _able(task, subject)]
        if able and not any(fits(task, subject) for subject in able):
            raise UsageError(
                f"task {task.name} compares with full precision, and the checkpoint is not here",
                remedy="--reference SOURCE, the folder that was exported",
            )
    return [*mine, *tasks]


def _check_data(every: Sequence[Task], here: Sequence[Task], data: Path | None) -> None:
    """Raise InputError for a folder of real data that holds none."""
    wanted = {source.file: None for task in every if (source := datasets.source(task.dataset)).file is not None}
    if data is not None and not any(datasets.source(task.dataset).located(data) for task in here):
        raise InputError(f"{data}: holds no data set that a task is about", allowed=", ".join(map(str, wanted)))


def _names_own(names: Sequence[str], task: Task) -> bool:
    """Whether a task on a user's own data is named: by itself, or by its data set, for what is right and wrong."""
    return task.name in names or (not task.needs_full_precision and datasets.source(task.dataset).name in names)


def _judged(own: Sequence[Task]) -> list[Task]:
    """What is right and wrong on a user's own data."""
    return [task for task in own if not task.needs_full_precision]


def _askable(tasks: Sequence[Task], subjects: Sequence[Subject]) -> list[Task]:
    """Those of a user's own data that are for one of these models.

    Raises:
        UsageError: none is.
    """
    able = [task for task in tasks if any(_able(task, subject) for subject in subjects)]
    if not able:
        titles = dict.fromkeys(datasets.source(task.dataset).title for task in tasks)
        models = ", ".join(subject.manifest.title for subject in subjects)
        raise UsageError(
            f"{', '.join(titles)}: none of these models can be asked about this data: {models}",
            allowed=f"a model that {' or '.join(dict.fromkeys(map(_does, tasks)))}",
        )
    return able


def _compared(own: Sequence[Task], subjects: Sequence[Subject]) -> list[Task]:
    """The fidelity on a user's own data, for these models."""
    return [task for task in own if task.needs_full_precision and any(fits(task, subject) for subject in subjects)]


def _beside(own: Sequence[Task], here: Sequence[Task]) -> list[Task]:
    """Times, and the fidelity that is not measured on a user's own images."""
    kinds = {task.kind for task in own if task.needs_full_precision}
    return [
        task
        for task in here
        if task.in_rounds or (task.needs_full_precision and not (task.kind in kinds and _shows_images(task)))
    ]


def _does(task: Task) -> str:
    """What a model does that a task is for."""
    if task.ability == "embed_image" or task.ability is None:
        return "embeds images"
    return "answers questions" + (" about images" if _about_images(task) else "")


def _rank(task: Task) -> tuple[bool, int]:
    """Real data before drawn, so that the first accuracy, the one in the main table, is of patients where there are."""
    source = datasets.source(task.dataset)
    return source.file is None, source.order


def fits(task: Task, subject: Subject) -> bool:
    """Whether a task can be run on a subject: the ability, and full precision where the task needs it."""
    return _able(task, subject) and (subject.source is not None or not task.needs_full_precision)


def _able(task: Task, subject: Subject) -> bool:
    able = task.ability is None or task.ability in subject.abilities
    return able and (subject.manifest.preprocessing is not None or not _about_images(task))


def _about_images(task: Task) -> bool:
    return task.about_images and _shows_images(task)


def _shows_images(task: Task) -> bool:
    return datasets.source(task.dataset).shows_images


def notes(subjects: Sequence[Subject], tasks: Sequence[Task], tuned: bool = False) -> tuple[str, ...]:
    """What was left out and why.

    Args:
        tasks: those that were chosen.
        tuned: whether each variant was to be measured as it was tuned, too.
    """
    lines = []
    for subject in subjects:
        if subject.source is None:
            lines.append(
                f"{subject.manifest.title}: the checkpoint it was made from is not here, so nothing is compared with "
                "full precision and no control is run (--reference SOURCE names its folder)"
            )
        there = {row.level for row in subject.rows if row.tuned}
        untuned = [row.level for row in subject.rows if row.level and row.level not in there]
        if tuned and untuned:
            lines.append(
                f"{subject.manifest.title}: no row as tuned for {', '.join(untuned)}: nothing of them was tuned here "
                f"with these libraries (edgekit tune {subject.folder})"
            )
    if not any(source.file or source.hub for task in tasks for source in [datasets.source(task.dataset)]):
        lines.append("measured on phantoms only; --data DIR adds real images, --images FOLDER your own")
    return tuple(lines)
