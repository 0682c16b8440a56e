"""`edgekit classify`: score labels for images."""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.commands import Verb
from edgekit.commands.support.options import add_artifact, add_opening, add_pictures
from edgekit.commands.support.printing import print_json, print_lines, print_warnings, told_by_edgekit
from edgekit.errors import ArtifactError, InputError

if TYPE_CHECKING:
    from edgekit.inputs.image import Picture


def add_options(parser: ArgumentParser) -> None:
    """The images, the labels, what scores them."""
    add_artifact(parser)
    parser.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGE", help="one or more; with --json, one object a line"
    )
    parser.add_argument("--label", action="append", required=True, metavar="TEXT", help="may be repeated")
    add_pictures(parser)
    add_opening(parser)


def run(options: Namespace) -> int:
    """Score image by image; as JSON, one line each. One of several that cannot be read is a row with its error."""
    from edgekit.commands.support.uses import check_ability
    from edgekit.inputs.image import Picture
    from edgekit.progress import on_stderr
    from edgekit.runtime import open_model

    check_ability(options.folder, options.level, "classify", shown=True)
    failed, model = 0, None
    said: dict[str, None] = {}  # once each, in order
    with ExitStack() as stack:
        for path, picture in pictures(options):
            if isinstance(picture, InputError):
                if len(options.images) == 1:
                    raise picture
                failed += 1
                print_failed(path, picture, options.json)
                continue
            if model is None:  # no sooner: bad images must not cost the time of loading a model
                model = open_model(
                    options.folder, options.level, options.device, options.context, options.runtime, on_stderr()
                )
                stack.enter_context(closing(model))
                said.update(dict.fromkeys(model.warnings))
            with told_by_edgekit() as told:
                (row,) = model.classify([Picture(picture.image)], options.label)
            said.update(dict.fromkeys(told))
            scores = {label: round(float(score), 6) for label, score in zip(options.label, row, strict=True)}
            if not all(map(math.isfinite, scores.values())):
                raise ArtifactError(f"{options.folder}: scores of {path} are no finite numbers: the model is damaged")
            if options.json:
                print_row(path, scores, (*model.warnings, *picture.warnings, *told))
            else:
                print_scores(path, scores, picture.warnings)
    print_warnings(said)
    return 1 if failed else 0


def pictures(options: Namespace) -> Iterator[tuple[Path, Picture | InputError]]:
    """Each image as it is read, or why it cannot be."""
    from edgekit.inputs.image import read

    for path in options.images:
        try:
            yield path, read(path, range=options.range, max_megapixels=options.max_megapixels)
        except InputError as error:
            yield path, error


def print_row(path: Path, scores: dict[str, float], warnings: tuple[str, ...]) -> None:
    """One image's scores as a line of JSON."""
    row = {"file": str(path), "label": best(scores), "scores": scores, "warnings": warnings}
    print_json(row, indent=None)


def print_scores(path: Path, scores: dict[str, float], warnings: tuple[str, ...]) -> None:
    """One image's scores for people."""
    width, highest = max(map(len, scores)), best(scores)
    lines = [f"  {label:<{width}}  {score:.4f}{'  <' if label == highest else ''}" for label, score in scores.items()]
    print_lines([str(path), *lines])
    print_warnings(warnings)


def best(scores: dict[str, float]) -> str:
    """The label of the highest score."""
    return max(scores, key=lambda label: scores[label])


def print_failed(path: Path, error: InputError, as_json: bool) -> None:
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
    ),
    run,
    add_options,
    order=80,
)
