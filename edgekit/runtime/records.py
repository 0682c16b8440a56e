"""A patient's record before a question: its digest in the prompt, and each sentence of the answer held against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from edgekit.inputs.fhir import cite
from edgekit.inputs.fhir.digest import Digest, digest
from edgekit.inputs.fhir.facts import Facts, facts
from edgekit.inputs.fhir.reader import Record, read
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.generation.options import GenerationOptions
from edgekit.runtime.grammar.constraints import Lark

_SPARE = 64  # tokens of turns around a prompt
_AROUND_IMAGES = 8  # and around each image, with its number
_LEAST_ANSWER = 512  # tokens that are kept free where an answer may be as long as the context has room


@dataclass(frozen=True)
class Asked:
    """A question about a record.

    Attributes:
        question: the user's.
    """

    record: Record
    facts: Facts
    question: str

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What to know of the record."""
        said = [f"{self.record.name}: {note}" for note in self.record.notes]
        if self.facts.in_error:
            said.append(f"{self.record.name}: {self.facts.in_error} entries left out, entered in error or refuted")
        if unread := ", ".join(f"{count} {kind}" for kind, count in sorted(self.facts.unread.items())):
            said.append(f"{self.record.name}: not read: {unread}")
        return tuple(said)


def read_record(source: Path | bytes, question: str, name: str | None = None) -> Asked:
    """A record and its facts. Raises InputError as `edgekit.inputs.fhir.reader.read`."""
    record = read(source, name)
    return Asked(record, facts(record), question)


def digest_of(asked: Asked, model: ChatModel, beside: Sequence[Any], decoding: GenerationOptions) -> Digest:
    """What goes before the question, within what a model's context leaves.

    Args:
        beside: all else that the model reads: texts, and images.

    Raises:
        TooLongError: see `edgekit.inputs.fhir.digest.digest`.
    """
    context = model.decoder.context
    texts = [part for part in beside if isinstance(part, str)]
    images = (len(beside) - len(texts)) * ((model.settings.image_tokens or 0) + _AROUND_IMAGES)
    answer = decoding.max_tokens if decoding.max_tokens < context else _LEAST_ANSWER
    spent = answer + (decoding.thinking_tokens or 0) + images + _SPARE

    def tokens(text: str) -> int:
        return len(model.tokenize(text))

    spent += sum(map(tokens, [cite.RULES, asked.question, *texts]))
    return digest(asked.record, asked.facts, asked.question, tokens, context - spent)


def kept_to(digest: Digest, decoding: GenerationOptions) -> GenerationOptions:
    """Answers that cite no line that is none; what the user keeps an answer to counts more."""
    return decoding if decoding.constraint else replace(decoding, constraint=Lark(cite.grammar(digest)))


def told_json(digest: Digest, answer: str, notes: tuple[str, ...]) -> dict[str, Any]:
    """The digest's figures and the sentences' marks, for a program."""
    return {
        "tokens": digest.tokens,
        "lines": len(digest.facts),
        "left_out": dict(digest.left_out),
        "notes": list(notes),
        "sentences": [asdict(one) for one in cite.check(answer, digest)],
        "resources": {name: fact.resource for name, fact in digest.facts.items()},
    }
