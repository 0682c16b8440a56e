"""Questions about patients' records whose answers are known: exact match, citations, and what was left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from edgekit import metrics
from edgekit.bench.answers import AskTask
from edgekit.bench.datasets import Dataset, Sample
from edgekit.bench.datasets.record_questions import narrative
from edgekit.bench.items import Item, group_numbers, question
from edgekit.bench.kinds.base import Figures, RunContext
from edgekit.bench.parsers import final_text
from edgekit.bench.predictions import Scores, score_figures
from edgekit.bench.records import Measurement
from edgekit.errors import TooLongError, UsageError
from edgekit.inputs.fhir import cite
from edgekit.inputs.fhir.digest import Digest, digest
from edgekit.inputs.fhir.facts import Facts, facts
from edgekit.inputs.fhir.reader import Record, read
from edgekit.metrics.record_answers import is_right, named
from edgekit.runtime.base import Generation, Model
from edgekit.runtime.generation.options import GenerationOptions
from edgekit.runtime.grammar.constraints import Lark

_BUCKETS = ((1, 2), (3, 5), (6, 10), (11, None))  # active medications of a patient
_ALL_NEEDED = ("trend", "medications", "allergies", "order")
_LETTERS = 12  # characters of a token at most, of what is cut to a budget


class RecordTask(AskTask):
    """`prompt` has {record}, {rules} where answers cite, and {question}.

    Attributes:
        shown: what of the record a question gets to see: edgekit's digest, as `edgekit ask --record` shows it, a plain
            narrative with the newest first, or raw JSON, these cut off at the budget.
        budget: tokens of it.
    """

    kind: Literal["record"]
    shown: Literal["digest", "narrative", "raw"]
    budget: int = Field(gt=0, lt=1 << 24)

    about_images = False
    headline = "exact_match"
    figures = ("citation_precision", "citation_recall", "sentences_not_backed", "medications_omitted")

    def items(self, dataset: Dataset) -> tuple[Item, ...]:
        """One a question; the record comes to it when the model is known that counts its tokens."""
        if any(sample.file is None for sample in dataset.samples):
            raise UsageError(f"the dataset {dataset.source.name} has no records")
        return tuple(
            Item(
                group=sample.group,
                messages=question(sample.question),
                truth=sample.truth,
                id=sample.id,
                topic=sample.topic,
                asked=sample.question,
            )
            for sample in dataset.samples
        )

    def run(self, model: Model, dataset: Dataset, context: RunContext) -> Any:
        """Greedy answers, of a digest such that cite no line that is none, and what they cite."""
        items = self.items(dataset)
        rows = [self._answered(model, sample) for sample in dataset.samples]
        return {
            "rows": rows,
            "truth": [sample.truth for sample in dataset.samples],
            "others": [sample.context.splitlines() for sample in dataset.samples],
            "evidence": [list(sample.evidence) for sample in dataset.samples],
            "groups": group_numbers([item.group for item in items]),
            "topics": [item.topic for item in items],
        }

    def _answered(self, model: Any, sample: Sample) -> dict[str, Any]:
        tokens: Callable[[str], int] = lambda text: len(model.tokenize(text))  # noqa: E731
        assert sample.file is not None
        shown, made = "", None
        try:
            if self.shown == "digest":
                made = digest(*_facts(sample.file), sample.question, tokens, self.budget)
                shown = made.text
            else:
                shown = _cut(_plain(sample.file, self.shown), self.budget, tokens)
        except TooLongError:
            return {"answer": "", "too_long": True, "truncated": False}
        text = self.prompt.replace("{record}", shown, 1).replace("{rules}", cite.RULES, 1)
        text = text.replace("{question}", sample.question)
        grammar = Lark(cite.grammar(made)) if made else None
        options = GenerationOptions(max_tokens=self.max_tokens, thinking=self.thinking, constraint=grammar)
        *_, given = model.generate(list(question(text)), options)
        assert isinstance(given, Generation)
        return {"answer": given.text, "too_long": False, "truncated": given.truncated, **_cited(given.text, made)}

    def summarize(self, results: Sequence[Any], full_precision: Any | None = None) -> Figures:
        """Exact match over all questions and by topic; of a digest what citations are worth; medications left out."""
        given = results[0]
        groups, right = given["groups"], _right(given)
        exact = _right(full_precision) if full_precision else None
        scored = score_figures("exact_match", Scores(right, groups, given["topics"]), exact, self.margin)
        figures = dict(scored.metrics)
        for name, values in (_citations(given) if self.shown == "digest" else {}).items():
            if values:
                figures[name] = metrics.share_interval([v for v, _ in values], [group for _, group in values])
        omitted = _omitted(given)
        if omitted:
            _, shares, patients = zip(*omitted, strict=True)
            figures["medications_omitted"] = metrics.share_interval(shares, patients)
        rows = given["rows"]
        unread = sum(not final_text(row["answer"]) for row in rows)
        details = {
            "parser": "numbers, days and names of the final text, exactly",
            **self.asked([row["truncated"] for row in rows], len(rows), unread),
            "shown": f"{self.shown}, at most {self.budget} tokens",
            "too_long_share": sum(row["too_long"] for row in rows) / len(rows),
            "medications_omitted_by_number": _by_number(omitted),
            **scored.details,
        }
        return Figures(figures, details, scored.paired)

    @classmethod
    def explain(cls, first: Measurement, rows: Sequence[Measurement]) -> str:
        """How it was asked, what was shown, and that intervals resample patients."""
        patients = first.metrics["exact_match"].groups
        shown = f"shown: {first.details['shown']}; intervals resample {patients} patients"
        return cls.said(first, rows, f"exact matches of all questions; {shown}")


@lru_cache(maxsize=8)
def _facts(file: Path) -> tuple[Record, Facts]:
    record = read(file)
    return record, facts(record)


@lru_cache(maxsize=8)
def _plain(file: Path, shown: str) -> str:
    text = file.read_text(encoding="utf-8")
    return narrative(json.loads(text)) if shown == "narrative" else text


def _cut(text: str, budget: int, tokens: Callable[[str], int]) -> str:
    """The beginning of a text that takes at most so many tokens."""
    low, high = 0, min(len(text), _LETTERS * budget)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if tokens(text[:middle]) <= budget else (low, middle - 1)
    return text[:low]


def _cited(answer: str, made: Digest | None) -> dict[str, Any]:
    """The resources that an answer cites, and how its sentences are marked."""
    if made is None:
        return {}
    sentences = cite.check(answer, made)
    ids = [name for one in sentences for name in one.ids if name in made.facts]
    return {
        "cited": sorted({made.facts[name].resource for name in ids}),
        "marks": [one.mark for one in sentences],
    }


def _right(given: Any) -> Any:
    """Whether each answer is exactly right, [n]."""
    each = zip(given["topics"], given["rows"], given["truth"], given["others"], strict=True)
    return np.asarray([is_right(topic, final_text(row["answer"]), *rest) for topic, row, *rest in each], np.float64)


def _citations(given: Any) -> dict[str, list[tuple[float, int]]]:
    """Precision of what answers cite, recall of what they should, the share of sentences with nothing behind them."""
    found: dict[str, list[tuple[float, int]]] = {
        "citation_precision": [], "citation_recall": [], "sentences_not_backed": [],
    }  # fmt: skip
    for row, evidence, topic, group in zip(
        given["rows"], given["evidence"], given["topics"], given["groups"], strict=True
    ):
        cited, needed = {*row.get("cited", ())}, {*evidence}
        hits = len(cited & needed)
        if cited:
            found["citation_precision"].append((hits / len(cited), group))
        if needed:
            found["citation_recall"].append((hits / len(needed) if topic in _ALL_NEEDED else float(hits > 0), group))
        marks = row.get("marks", ())
        if marks:
            found["sentences_not_backed"].append((sum(m in ("uncited", "wrong") for m in marks) / len(marks), group))
    return found


def _omitted(given: Any) -> list[tuple[int, float, int]]:
    """Of each question about medications how many there are, the share that is missing in the answer, the patient."""
    found = []
    for topic, row, truth, group in zip(given["topics"], given["rows"], given["truth"], given["groups"], strict=True):
        if topic == "medications":
            names = truth.split(" | ")
            found.append((len(names), 1 - len(named(row["answer"], names)) / len(names), group))
    return found


def _by_number(omitted: Sequence[tuple[int, float, int]]) -> dict[str, dict[str, float]]:
    """The mean share that is missing, by how many there are."""
    found = {}
    for least, most in _BUCKETS:
        own = [share for count, share, _ in omitted if count >= least and (most is None or count <= most)]
        if own:
            name = f"{least} to {most}" if most else f"{least} or more"
            found[name] = {"n": len(own), "omitted": float(np.mean(own))}
    return found
