"""A user's own images and questions as data sets for which no file has to be written.

Labels follow from folders or from a column, and columns are known by their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.artifacts.validation import validated
from edgekit.bench.datasets import folder, hub, rows
from edgekit.bench.datasets.rows import Row
from edgekit.bench.datasets.schema import Columns, DatasetSource, HubSource
from edgekit.checkpoints.hub import is_id
from edgekit.errors import InputError, UsageError
from edgekit.inputs.image import say
from edgekit.inputs.labels import label_of
from edgekit.terminal import stripped_line

# What columns are called, in lower case with _ for spaces, the likeliest first.
NAMES: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "qid", "question_id", "sample_id", "uid"),
    "image": ("image", "file", "file_name", "filename", "image_path", "path", "image_name", "img", "picture"),
    "question": ("question", "prompt", "query"),
    "options": ("options", "choices", "answer_options", "answer_choices"),
    "answer": ("answer", "correct_answer", "correct_option", "truth", "answer_idx", "target"),
    "label": ("label", "class", "diagnosis", "finding", "category", "truth", "target"),
    "group": ("patient", "patient_id", "subject_id", "group", "study", "study_id", "case"),
    "topic": ("topic", "subject", "specialty", "category", "subject_name"),
    "split": ("split", "fold", "set"),
    "context": ("context", "passage", "abstract"),
}
_LETTERED = ("{}", "option_{}", "option{}", "op{}", "choice_{}", "answer_{}")  # a column an option
_TABLES = ("index.csv", "labels.csv", "metadata.csv", "metadata.jsonl")  # as folders of images have them
_MOST_LABELS = 1000
_MINE: Mapping[str, Any] = {"citation": "the user's own data", "license": "the user's own data"}
_NAMES_REMEDY = "name labels and columns in 1 to 200 characters, without control characters"
_OPTIONS: Mapping[str, str] = {"own-images": "--images", "own-questions": "--questions"}
_SPLITS = ("test", "validation", "val", "train")  # of the hub's sets, the first that is there


def images(given: str, *, download: bool = False) -> DatasetSource:
    """A user's own images.

    Args:
        given: a folder with one folder a label, a table with files and labels, or a data set of the hub.
        download: whether the hub's may be fetched.

    Raises:
        UsageError: the path leads nowhere, or a table lacks a column.
        InputError: a table is damaged, or there are no labels.
    """
    if given and Path(given).is_dir() and _table_in(Path(given)) is None:
        return _of_folders(Path(given))
    return _source(given, "own-images", download=download)


def questions(given: str, *, download: bool = False) -> DatasetSource:
    """A user's own questions, likewise: a table with questions and answers, or a data set of the hub."""
    return _source(given, "own-questions", download=download)


def _source(given: str, name: str, *, download: bool) -> DatasetSource:
    if not given:
        option = _OPTIONS[name]
        raise UsageError(f"{option}: nothing is named", allowed=f"{option} PATH, or owner/name on the hub")
    path = Path(given)
    if path.is_dir():
        path = _table_in(path) or path
    if path.is_file():
        return _of_table(path, name)
    if is_id(given) and not path.exists():
        return _of_hub(given, name, download=download)
    raise UsageError(
        f"{given}: {'is a folder' if path.is_dir() else 'does not exist'}",
        allowed=f"a table ({', '.join(rows.SUFFIXES)}), or owner/name on the hub; for images also a folder of folders",
    )


def _table_in(path: Path) -> Path | None:
    return next((path / name for name in _TABLES if (path / name).is_file()), None)


def _of_folders(path: Path) -> DatasetSource:
    labels, left_out = folder.labels(path), folder.left_out(path)
    if left_out:
        say([f"{path}: {left_out}"])
    return _made(
        str(path),
        name="own-images",
        title=f"own images in {_named(path)}",
        note="; ".join(filter(None, (f"{len(labels)} labels, one a folder", left_out))),
        modality="image",
        reader="folder",
        file=str(path.resolve()),
        labels=[{"name": label} for label in labels],
    )


def _of_table(path: Path, name: str) -> DatasetSource:
    found = rows.read(path)
    columns, labels = _columns(found, str(path), name)
    return _made(
        str(path),
        **_described(found, columns, labels),
        name=name,
        title=f"own {'questions' if columns.question else 'images'} in {_named(path)}",
        reader="table",
        file=str(path.resolve()),
    )


def _of_hub(given: str, name: str, *, download: bool) -> DatasetSource:
    there = HubSource(id=given)
    kept = hub.fetch(there) if download else hub.cached(there)
    if kept is None:
        raise UsageError(f"{given}: neither a folder, a file, nor in the hub's cache", remedy="--download fetches it")
    names = hub.splits(there, kept)
    split = next((split for split in _SPLITS if split in names), None)
    if split is None:
        raise UsageError(f"{given}: its splits are {', '.join(names)}", allowed=", ".join(_SPLITS))
    found = hub.rows(HubSource(id=given, split=split), kept)
    columns, labels = _columns(found, given, name)
    return _made(
        given,
        **_described(found, columns, labels),
        name=name,
        title=f"{given}, {split}",
        citation=f"https://huggingface.co/datasets/{given}",
        license="as its page says",
        reader="hub",
        hub={"id": given, "split": split},
    )


def _made(where: str, **said: Any) -> DatasetSource:
    """A data set of what a user's files say, within the limits of everybody's.

    Raises:
        InputError: a label or a column's name is longer than one may be, empty, or has control characters in it.
    """
    return validated(DatasetSource, {**_MINE, **said}, where, InputError, remedy=_NAMES_REMEDY)


def _named(path: Path) -> str:
    return stripped_line(path.resolve().name, 100)


def _described(found: Sequence[Row], columns: Columns, labels: Sequence[str]) -> dict[str, Any]:
    note = f"{len(labels)} labels" if labels else f"columns {', '.join(_used(columns))}"
    split = "test"
    if columns.split:
        there = {row.text(columns.split) for row in found}
        split = next((name for name in _SPLITS if name in there), "test")
    return {
        "note": note,
        "split": split,
        "modality": "image" if columns.image else None,
        "columns": columns.model_dump(),
        "labels": [{"name": label} for label in labels],
    }


def _used(columns: Columns) -> Iterable[str]:
    for value in columns.model_dump().values():
        yield from (value,) if isinstance(value, str) else value or ()


def _columns(found: Sequence[Row], where: str, name: str) -> tuple[Columns, list[str]]:
    """Which column is what, and the labels where it is a table of labelled images.

    Args:
        name: the data set's: what is missing is said of what was asked for.

    Raises:
        UsageError: no columns of images and labels or of questions and answers; it names what is there.
    """
    there = list({name: None for row in found[:100] for name in row.values})
    known = {"_".join(name.lower().replace("-", " ").split()): name for name in there}
    is_ = {meaning: next((known[name] for name in names if name in known), None) for meaning, names in NAMES.items()}
    common: dict[str, Any] = {key: is_[key] for key in ("id", "image", "group", "split")}
    if is_["question"] and is_["answer"]:
        options = (is_["options"],) if is_["options"] else _lettered(known)
        if is_["context"] and not options:
            raise UsageError(
                f"{where}: a column {is_['context']!r} beside open questions", remedy="put its text into the question"
            )
        more = {key: is_[key] for key in ("question", "answer", "context", "topic")}
        return Columns(**common, **more, options=options), []
    if is_["image"] and is_["label"] and not is_["question"]:
        labels = sorted({label_of(row.text(is_["label"]), "image").name for row in found} - {""})
        if not 2 <= len(labels) <= _MOST_LABELS:
            where = f"{where}: {len(labels)} different labels in the column {is_['label']!r}"
            raise InputError(where, allowed=f"2 to {_MOST_LABELS}")
        return Columns(**common, answer=is_["label"]), labels
    wanted = ("image", "label") if name == "own-images" and not is_["question"] else ("question", "answer")
    lacking = [key for key in wanted if not is_[key]]
    named = "; ".join(f"{key}: {', '.join(NAMES[key])}" for key in lacking)
    raise UsageError(
        f"{where}: no column of {' and of '.join(lacking)} among {', '.join(map(str, there))}",
        allowed=f"images with labels, or questions with answers, called {named}",
    )


def _lettered(known: Mapping[str, str]) -> tuple[str, ...]:
    """A column for each option, by its letter or number."""
    for form in _LETTERED:
        for signs in ("abcdefghij", "1234567890"):
            names = [known[form.format(sign)] for sign in signs if form.format(sign) in known]
            if len(names) > 1:
                return tuple(names)
    return ()
