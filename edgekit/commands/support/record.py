"""A patient's record beside a question: its digest in the prompt, and each sentence of the answer held against it."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.terminal import say

if TYPE_CHECKING:
    from edgekit.inputs.fhir.cite import Sentence
    from edgekit.inputs.fhir.digest import Digest
    from edgekit.inputs.fhir.facts import Facts
    from edgekit.inputs.fhir.reader import Record
    from edgekit.runtime.generation.options import GenerationOptions

_SPARE = 64  # tokens of turns around a prompt
_AROUND_IMAGES = 8  # and around each image, with its number


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


@dataclass(frozen=True)
class Asked:
    """A question about a record.

    Attributes:
        question: the user's.
    """

    record: Record
    facts: Facts
    question: str

    def digest(self, tokens: Callable[[str], int], context: int, images: int, decoding: GenerationOptions) -> Digest:
        """What goes before the question.

        Args:
            images: tokens of the images that are shown, too.

        Raises:
            TooLongError: see `edgekit.inputs.fhir.digest.digest`.
        """
        from edgekit.inputs.fhir import cite
        from edgekit.inputs.fhir.digest import digest

        spent = decoding.max_tokens + (decoding.thinking_tokens or 0) + images + _SPARE
        spent += tokens(cite.RULES) + tokens(self.question)
        return digest(self.record, self.facts, self.question, tokens, context - spent)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What to know of the record."""
        said = [f"{self.record.name}: {note}" for note in self.record.notes]
        if self.facts.in_error:
            said.append(f"{self.record.name}: {self.facts.in_error} entries left out, entered in error or refuted")
        if unread := ", ".join(f"{count} {kind}" for kind, count in sorted(self.facts.unread.items())):
            said.append(f"{self.record.name}: not read: {unread}")
        return tuple(said)


def read_record(path: Path, question: str) -> Asked:
    """A record and its facts. Raises InputError as `edgekit.inputs.fhir.reader.read`."""
    from edgekit.inputs.fhir.facts import facts
    from edgekit.inputs.fhir.reader import read

    record = read(path)
    return Asked(record, facts(record), question)


def digest_of(asked: Asked, model: Any, parts: Sequence[Any], decoding: GenerationOptions) -> Digest:
    """The digest for a model, beside what its context takes already. Raises TooLongError as `Asked.digest`."""
    images = sum(not isinstance(part, str) for part in parts) * ((model.settings.image_tokens or 0) + _AROUND_IMAGES)
    return asked.digest(lambda text: len(model.tokenize(text)), model.decoder.context, images, decoding)


def kept_to(digest: Digest, decoding: GenerationOptions) -> GenerationOptions:
    """Answers that cite no line that is none; what the user keeps an answer to counts more."""
    from edgekit.inputs.fhir.cite import grammar
    from edgekit.runtime.grammar.constraints import Lark

    return decoding if decoding.constraint else replace(decoding, constraint=Lark(grammar(digest)))


def told_json(digest: Digest, answer: str, notes: tuple[str, ...]) -> dict[str, Any]:
    """The digest's figures and the sentences' marks, for a program."""
    from edgekit.inputs.fhir.cite import check

    return {
        "tokens": digest.tokens,
        "lines": len(digest.facts),
        "left_out": dict(digest.left_out),
        "notes": list(notes),
        "sentences": [asdict(one) for one in check(answer, digest)],
        "resources": {name: fact.resource for name, fact in digest.facts.items()},
    }


def say_marks(digest: Digest, answer: str, notes: tuple[str, ...]) -> None:
    """The same for people: what was read, and which sentences nothing stands behind."""
    from edgekit.inputs.fhir.cite import check

    left = ", ".join(f"{count} of {name}" for name, count in digest.left_out.items())
    say(f"the record: {len(digest.facts)} lines, {digest.tokens} tokens{f'; left out: {left}' if left else ''}")
    for note in notes:
        say(note)
    sentences = check(answer, digest)
    for one in sentences:
        if one.mark in ("uncited", "wrong"):
            say(f"{_MARKS[one.mark]}{f' ({one.why})' if one.why else ''}: {one.text}")
    if sentences:
        say(_counted(sentences))


_MARKS = {"uncited": "NOT FROM THE RECORD, nothing is cited", "wrong": "WRONG BY WHAT IT CITES"}


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
