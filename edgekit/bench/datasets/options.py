"""The answers that a question allows, and which of them is right, in the forms in which data sets say it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.bench.datasets.rows import Row, as_text
from edgekit.bench.datasets.schema import AnswerForm, Columns
from edgekit.errors import UsageError

LETTERS = "ABCDEFGHIJ"
_CHOICES = re.compile(r"(?:Answer Choices:|Options:)\s*(?=\(A\))", re.IGNORECASE)

Options = Mapping[str, str]  # by key: what its source calls an option -> its text, in order


class Unusable(Exception):  # noqa: N818 (never seen: it ends in the list of an InputError)
    """Why a row cannot be used."""


@dataclass(frozen=True)
class Form:
    """How answers say which option they mean.

    Attributes:
        first: what the first option is counted as, where answers are numbers.
    """

    kind: AnswerForm
    first: int = 0

    def right(self, answer: str, options: Options) -> str | None:
        """The option that an answer means; None where it means none in this form."""
        if self.kind == "key":
            return options.get(answer)
        texts = list(options.values())
        if self.kind == "text":
            alike = [text for text in texts if text.casefold() == answer.casefold()]
            return answer if answer in alike else alike[0] if len(alike) == 1 else None  # of NA and Na, the same one
        bare = answer.strip("().: ").upper()
        if self.kind == "letter":
            at = LETTERS.find(bare) if len(bare) == 1 else -1
        else:
            at = int(answer) - self.first if re.fullmatch(r"\d{1,4}", answer, re.ASCII) else -1
        return texts[at] if 0 <= at < len(texts) else None


_FORMS = (Form("text"), Form("letter"), Form("key"), Form("index", 0), Form("index", 1))


def form_of(answers: Sequence[tuple[str, Options]], where: str) -> Form:
    """The form in which every answer means an option, the first of text, letter, key and position; else most of them.

    One form for all: where a question's options are numbers, a position and a text look the same.

    Raises:
        UsageError: they are positions that may count from 0 and from 1.
    """
    understood = {form: sum(form.right(answer, options) is not None for answer, options in answers) for form in _FORMS}
    best = max(_FORMS, key=understood.__getitem__)  # the first of several
    if answers and best == Form("index", 0) and understood[Form("index", 1)] == understood[best]:
        raise UsageError(
            f"{where}: its answers are positions that may count from 0 or from 1",
            allowed="letters or the options' texts as answers; answer_as and first_option in a data set's file",
        )
    return best


def asked(row: Row, columns: Columns) -> tuple[str, Options]:
    """The question, and the answers that it allows, which may stand inside it.

    Raises:
        Unusable: there are fewer than two options, or an empty one.
    """
    text = row.text(columns.question)
    if not columns.options:
        return text, {}
    if columns.options == (columns.question,):
        return inside(text)
    if len(columns.options) == 1:
        return text, _listed(row, columns.options[0])
    options = {name: row.text(name) for name in columns.options}
    while options and not list(options.values())[-1]:  # a question with fewer answers than most
        options.popitem()
    if len(options) < 2 or not all(options.values()):
        raise Unusable(f"options are missing in the columns {', '.join(columns.options)}")
    return text, options


def inside(text: str) -> tuple[str, Options]:
    """A question without the choices in its text, and those: (A) one (B) two ...

    Raises:
        Unusable: it has none.
    """
    starts = list(_CHOICES.finditer(text))
    begin, at = (starts[-1].start(), starts[-1].end()) if starts else (text.find("(A)"), text.find("(A)"))
    marks: list[tuple[int, int]] = []
    for letter in LETTERS if at >= 0 else "":
        found = re.compile(rf"(?:^|(?<=\s))\({letter}\)(?=\s|$)").search(text, at)
        if not found:
            break
        marks.append(found.span())
        at = found.end()
    if len(marks) < 2:
        raise Unusable("its question holds no choices")
    ends = [*(start for start, _ in marks[1:]), len(text)]
    texts = [text[begins:until].strip() for (_, begins), until in zip(marks, ends, strict=True)]
    if not all(texts):
        raise Unusable("one of its choices is empty")
    return text[:begin].strip(), dict(zip(LETTERS, texts, strict=False))


def answer_of(row: Row, column: str) -> str:
    """What stands in the answer's column, or in a list of one there.

    Raises:
        Unusable: nothing, or several answers.
    """
    value = row.get(column)
    if isinstance(value, list | tuple):
        if len(value) != 1:
            raise Unusable(f"{len(value)} answers: {value!r:.80}")
        value = value[0]
    text = as_text(value)
    if not text:
        raise Unusable(f"no answer in the column {column!r}")
    return text


def _listed(row: Row, column: str) -> Options:
    """The options of one cell: a list, an object, either of them as JSON, or between | or ;"""
    value = row.get(column)
    if isinstance(value, str):
        value = _parsed(value)
    found: dict[str, str] = {}
    if isinstance(value, Mapping):
        pairs = next((pair for pair in (("label", "text"), ("key", "value")) if set(value) == set(pair)), None)
        if pairs:  # the columns of a list of objects, as the hub's tables have them
            value = _paired(value[pairs[0]], value[pairs[1]], column)
        found = {str(key): as_text(text) for key, text in value.items() if text is not None}
    elif isinstance(value, Sequence):
        for number, entry in enumerate(value):
            key, text = (entry.get("key"), entry.get("value")) if isinstance(entry, Mapping) else (None, entry)
            found[f"#{number}" if key is None else str(key)] = as_text(text)
    if len(found) < 2 or not all(found.values()):
        raise Unusable(f"no options in the column {column!r}: {row.text(column)!r:.80}")
    return found


def _paired(keys: Any, texts: Any, column: str) -> dict[Any, Any]:
    lists = isinstance(keys, list | tuple) and isinstance(texts, list | tuple) and len(keys) == len(texts)
    named = [as_text(key) for key in keys] if lists else []
    if not lists or len(set(named)) != len(named):
        raise Unusable(f"no list of options and one of keys in the column {column!r}: {keys!r:.60}, {texts!r:.60}")
    return dict(zip(named, texts, strict=True))


def _parsed(text: str) -> Any:
    if text[:1] in "[{":
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise Unusable(f"options that are no JSON: {text!r:.80}") from None
    return [part.strip() for part in re.split(r"\||;|\n", text) if part.strip()]
