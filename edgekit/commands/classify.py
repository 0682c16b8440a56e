"""`edgekit classify`: score labels for images."""

from __future__ import annotations

import csv
import io
import math
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from edgekit.artifacts.documents import is_folder
from edgekit.commands import Verb
from edgekit.commands.support.embedding import add_source, identity, rows_of
from edgekit.commands.support.printing import print_json, print_lines, print_warnings, told_by_edgekit
from edgekit.errors import ArtifactError, InputError, UsageError

if TYPE_CHECKING:
    from edgekit.retrieval.sources import Row
    from edgekit.runtime.model import Model, Scores


def add_options(parser: ArgumentParser) -> None:
    """The images, the labels, what scores them."""
    add_source(parser)
    labels = parser.add_mutually_exclusive_group(required=True)
    labels.add_argument("--label", action="append", metavar="TEXT", help="may be repeated")
    labels.add_argument(
        "--labels",
        metavar="NAME|FILE",
        help="a set of labels (edgekit list labels), or a file: a label a line, or TOML with several prompts of each, "
        "averaged",
    )
    parser.add_argument(
        "--scores",
        choices=("sigmoid", "softmax"),
        help="each label by itself, or all together 1; without it what the file of labels says, or the model has",
    )
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="a row for each image, for folders of any size; a stopped run goes on"
    )


def run(options: Namespace) -> int:
    """Score image by image; as JSON, one line each. One of several that cannot be read is a row with its error."""
    from edgekit.commands.support.uses import check_ability
    from edgekit.retrieval.journal import Journal

    check_ability(options.folder, options.level, "classify", shown=True)
    labels = labels_of(options)
    if not options.csv:
        return _print_all(options, labels)
    with _Opened(options) as opened:
        work = {"model": identity(opened.model, options), "labels": asdict(labels)}
        with Journal(options.csv, work) as journal:
            for file, pictures in groupby(rows_of(options, journal.rows), key=lambda row: row.file):
                journal.add(str(file), {"rows": {one.name: opened.scored(one, labels) for one in pictures}})
            rows = {name: row for file in journal.rows.values() for name, row in file["rows"].items()}
            journal.finish(_table(rows, labels.names))
            failed = [name for name, row in rows.items() if "error" in row]
            counted = f"{options.csv}: {len(rows)} images, {len(failed)} of them could not be read"
    if options.json:
        print_json({"file": str(options.csv), "images": len(rows), "failed": failed})
    else:
        print_lines([counted])
    return 1 if failed else 0


@dataclass(frozen=True)
class Wanted:
    """What is scored.

    Attributes:
        names: of labels, in their order.
        prompts: of each.
        scores: how; None for what the model was trained on.
    """

    names: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    scores: Scores | None


def labels_of(options: Namespace) -> Wanted:
    """The labels of the command line, or of a file.

    Raises:
        InputError: the file is none, or has one twice.
        UsageError: there is no such set.
        UsageError: softmax over one label.
    """
    if options.labels:
        from edgekit.classifier.labels import find, read

        found = read(find(options.labels))
        names, prompts = found.names, [tuple(texts) for texts in found.prompts]
        scores = options.scores or found.scores
    else:
        names, prompts, scores = options.label, [(text,) for text in options.label], options.scores
    if scores == "softmax" and len(names) == 1:
        raise UsageError("softmax over one label is always 1", allowed="another label beside it, or sigmoid")
    return Wanted(tuple(names), tuple(prompts), scores)


class _Opened:
    """The model, loaded when the first image was read: bad images must not cost the time of loading it."""

    def __init__(self, options: Namespace) -> None:
        self._options, self._stack = options, ExitStack()
        self.said: dict[str, None] = {}  # once each, in order

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._stack.close()

    @cached_property
    def model(self) -> Model:
        """It, open."""
        from edgekit.progress import on_stderr
        from edgekit.runtime import open_model

        options = self._options
        model = open_model(
            options.folder, options.level, options.device, options.context, options.runtime, on_stderr()
        )
        self._stack.enter_context(closing(model))
        self.said.update(dict.fromkeys(model.warnings))
        return model

    def scored(self, row: Row, labels: Wanted) -> dict[str, Any]:
        """One image's scores by label, and what to know of it; or its error."""
        from edgekit.inputs.image import Picture

        if isinstance(row.picture, InputError):
            error = row.picture
            return {"error": error.message, "allowed": error.allowed, "try": error.remedy}
        chosen = {"scores": labels.scores} if labels.scores else {}
        texts = [one[0] if len(one) == 1 else one for one in labels.prompts]
        with told_by_edgekit() as told:
            (values,) = self.model.classify([Picture(row.picture.image)], texts, **chosen)
        self.said.update(dict.fromkeys(told))
        scores = {label: round(float(score), 6) for label, score in zip(labels.names, values, strict=True)}
        if not all(map(math.isfinite, scores.values())):
            raise ArtifactError(
                f"{self._options.folder}: scores of {row.name} are no finite numbers: the model is damaged"
            )
        return {"scores": scores, "warnings": [*row.picture.warnings], "told": [*told]}


def _print_all(options: Namespace, labels: Wanted) -> int:
    failed = count = 0
    with _Opened(options) as opened:
        for row in rows_of(options):
            count += 1
            if isinstance(row.picture, InputError):
                if len(options.images) == 1 and not is_folder(options.images[0]):
                    raise row.picture
                failed += 1
                print_failed(row.name, row.picture, options.json)
                continue
            found = opened.scored(row, labels)
            if options.json:
                known = (*opened.model.warnings, *found["warnings"], *found["told"])
                print_row(row.name, found["scores"], known)
            else:
                print_scores(row.name, found["scores"], tuple(found["warnings"]))
        if not count:
            raise InputError(f"{options.images[0]}: no picture is there", allowed="image and DICOM files")
        print_warnings(opened.said)
    return 1 if failed else 0


def _table(rows: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> str:
    """All rows as CSV: the file, its best label, each score, what to know of it, its error."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "label", *names, "warnings", "error"])
    for name, row in rows.items():
        scores = row.get("scores")
        values = [scores[label] for label in names] if scores else [""] * len(names)
        warnings = "; ".join([*row.get("warnings", ()), *row.get("told", ())])
        writer.writerow([name, best(scores) if scores else "", *values, warnings, row.get("error", "")])
    return text.getvalue()


def print_row(path: str, scores: dict[str, float], warnings: tuple[str, ...]) -> None:
    """One image's scores as a line of JSON."""
    row = {"file": str(path), "label": best(scores), "scores": scores, "warnings": warnings}
    print_json(row, indent=None)


def print_scores(path: str, scores: dict[str, float], warnings: tuple[str, ...]) -> None:
    """One image's scores for people."""
    width, highest = max(map(len, scores)), best(scores)
    lines = [f"  {label:<{width}}  {score:.4f}{'  <' if label == highest else ''}" for label, score in scores.items()]
    print_lines([str(path), *lines])
    print_warnings(warnings)


def best(scores: dict[str, float]) -> str:
    """The label of the highest score."""
    return max(scores, key=lambda label: scores[label])


def print_failed(path: str, error: InputError, as_json: bool) -> None:
    """The row of an image that cannot be read."""
    if as_json:
        fields = {"file": str(path), "error": error.message, "allowed": error.allowed, "try": error.remedy}
        stated = {key: value for key, value in fields.items() if value}
        print_json({**stated, "kind": type(error).__name__}, indent=None)
    else:
        print_lines([str(path), *(f"  {line}" for line in f"error: {error}".split("\n"))])


VERB = Verb(
    "score labels for images",
    (
        'classify ./medsiglip chest.png --label "normal lungs" --label pneumonia',
        'classify ./medsiglip *.tif --range=auto --label "normal lungs" --label pneumonia --json',
        "classify ./medsiglip ./images --labels findings.toml --csv scores.csv",
        "classify ./medsiglip ./images --labels chest-xray-chexpert --csv scores.csv",
    ),
    run,
    add_options,
    order=80,
)
