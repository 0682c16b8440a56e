"""A patient's record beside a question, on the command line."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.terminal import say

if TYPE_CHECKING:
    from edgekit.inputs.fhir.cite import Sentence
    from edgekit.inputs.fhir.digest import Digest
    from edgekit.runtime.records import Asked


def add_record(parser: ArgumentParser) -> None:
    """`--record`."""
    parser.add_argument(
        "--record",
        type=Path,
        metavar="FILE",
        help="a patient's record, a bundle of FHIR R4: what the question needs of it goes before the question, and "
        "every sentence of the answer is held against what it cites",
    )
    parser.add_argument(
        "--fhir-out",
        type=Path,
        metavar="FILE",
        help="write the answer as a FHIR R4 Composition, preliminary, with references to what it cites and without the "
        "patient",
    )


def say_marks(digest: Digest, answer: str, notes: tuple[str, ...]) -> None:
    """The same for people: what was read, and which sentences nothing stands behind."""
    from edgekit.inputs.fhir.cite import check

    left = ", ".join(f"{count} of {name}" for name, count in digest.left_out.items())
    say(f"the record: {len(digest.facts)} lines, {digest.tokens} tokens{f'; left out: {left}' if left else ''}")
    for note in notes:
        say(note)
    sentences = check(answer, digest)
    for one in sentences:
        if one.mark in _MARKS and (one.mark != "cited" or one.why):
            say(f"{_MARKS[one.mark]}{f' ({one.why})' if one.why else ''}: {one.text}")
    if sentences:
        say(_counted(sentences))


_MARKS = {"uncited": "NOT FROM THE RECORD, nothing is cited", "wrong": "WRONG BY WHAT IT CITES",
          "cited": "READ WHAT IT CITES"}  # fmt: skip


def _counted(sentences: list[Sentence]) -> str:
    cited = sum(one.mark == "cited" for one in sentences)
    return f"{cited} of {len(sentences)} sentences cite lines that hold their numbers and dates; read those lines"


def write_answer(path: Path, asked: Asked, digest: Digest, answer: str, model: Any) -> None:
    """The answer as a resource of FHIR, whole or not at all. Raises EdgekitError where it cannot be written."""
    from datetime import UTC, datetime

    from edgekit.artifacts.disk_errors import file_errors
    from edgekit.artifacts.files import write_atomically
    from edgekit.inputs.fhir.cite import check
    from edgekit.inputs.fhir.write import composition

    warning = next((text for text in model.warnings if "stand-in" in text), None)
    made = composition(asked.question, check(answer, digest), digest, model.title, warning, datetime.now(UTC))
    with file_errors(path):
        write_atomically(path, json.dumps(made, ensure_ascii=False, indent=1) + "\n")
