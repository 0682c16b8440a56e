"""What of a record a question gets to see, within a budget of tokens: the digest, raw JSON, a plain narrative.

    python benchmarks/peers/records.py patient.json ... --tokenizer tokenizer.json

Questions are made from each bundle, and their answers by a walk over its JSON that shares no code with the digest:
the last value of every kind of result, its last two values, all active medications, all active allergies, the last
encounter. A question counts where everything that its answer needs stands in the text. No model is asked: what a model
does not see it cannot answer, and what it sees it may still get wrong. The tasks `ehr-digest`, `ehr-narrative` and
`ehr-raw` ask models.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edgekit.bench.datasets.record_questions import narrative
from edgekit.errors import TooLongError
from edgekit.inputs.fhir.digest import digest
from edgekit.inputs.fhir.facts import facts
from edgekit.inputs.fhir.reader import read

_BUDGETS = (2_000, 4_000, 8_000, 16_000, 32_000)


@dataclass(frozen=True)
class Question:
    """A question, its kind, and the texts of which each must be seen, all of one line's together."""

    kind: str
    text: str
    needs: tuple[tuple[str, ...], ...]


def main() -> None:
    """Print a table: of each kind of question the share that can be answered, by budget and by what is shown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="FILE", help="Gemma's tokenizer.json")
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(options.tokenizer))
    tokens = lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)  # noqa: E731
    asked = [(path, question) for path in options.records for question in questions(path)]
    ways: dict[str, Callable[[Path, str, int], str | None]] = {
        "digest": lambda path, question, budget: _digest(path, question, tokens, budget),
        "narrative, newest first": lambda path, _, budget: _cut(tokenizer, _narrative(path), budget),
        "raw JSON": lambda path, _, budget: _cut(tokenizer, path.read_text(), budget),
    }
    kinds = list(dict.fromkeys(question.kind for _, question in asked))
    counts = {kind: sum(question.kind == kind for _, question in asked) for kind in kinds}
    print(f"| budget, tokens | shown | {' | '.join(f'{kind} (n = {counts[kind]})' for kind in kinds)} |")
    print(f"|---:|---|{'---:|' * len(kinds)}")
    shown: dict[tuple[str, Path, int], str | None] = {}
    for budget in _BUDGETS:
        for way, make in ways.items():
            seen = dict.fromkeys(kinds, 0)
            for path, question in asked:
                key = (way, path, budget)
                if way == "digest" or key not in shown:
                    shown[key] = make(path, question.text, budget)
                seen[question.kind] += _holds(shown[key], question)
            cells = (f"{100 * seen[kind] / counts[kind]:.0f} %" for kind in kinds)
            print(f"| {budget:,} | {way} | {' | '.join(cells)} |", flush=True)


def _holds(text: str | None, question: Question) -> bool:
    lines = [_plain(line) for line in (text or "").splitlines()]
    places = lines if len(lines) > 2 else ["".join(lines)]  # JSON may be one line
    return all(any(all(_plain(part) in line for part in need) for line in places) for need in question.needs)


def _plain(text: str) -> str:
    """A digest has no brackets but those of its ids, and one space where there were several."""
    return " ".join(text.replace("[", "(").replace("]", ")").replace("\u200b", "").split())


def _digest(path: Path, question: str, tokens: Callable[[str], int], budget: int) -> str | None:
    record = read(path)
    try:
        return digest(record, facts(record), question, tokens, budget).text
    except TooLongError:
        return None


def _cut(tokenizer: Tokenizer, text: str, budget: int) -> str:
    found = tokenizer.encode(text[: 12 * budget], add_special_tokens=False)
    return text[: found.offsets[budget - 1][1]] if len(found.ids) > budget else text[: 12 * budget]


# ---------------------------------------------------------------- the second implementation


def _resources(path: Path) -> list[dict[str, Any]]:
    return [entry["resource"] for entry in json.loads(path.read_text())["entry"]]


def questions(path: Path) -> Iterator[Question]:
    """The questions of one bundle, with what their answers need."""
    every = _resources(path)
    values: dict[str, list[tuple[str, str]]] = {}
    for one in every:
        if one["resourceType"] == "Observation" and "valueQuantity" in one and one["status"] == "final":
            name = one["code"]["text"]
            values.setdefault(name, []).append((one["effectiveDateTime"][:10], f"{one['valueQuantity']['value']:.6g}"))
    for name, found in sorted(values.items()):
        found.sort(reverse=True)
        latest = tuple((name, value, date) for date, value in found[:1])
        yield Question("last value", f"What was the last {name}, and when?", latest)
        if len(found) > 1:
            both = tuple((name, value, date) for date, value in found[:2])
            yield Question("last two", f"How did {name} change?", both)
    for kind, resource, is_active in (
        ("active medications", "MedicationRequest", lambda one: one["status"] == "active"),
        ("active allergies", "AllergyIntolerance", lambda one: "active" in str(one["clinicalStatus"])),
    ):
        names = [_name(one, every) for one in every if one["resourceType"] == resource and is_active(one)]
        if names:
            yield Question(kind, f"Which are the {kind}?", tuple((name,) for name in names))
    visits = [one["period"]["start"][:10] for one in every if one["resourceType"] == "Encounter"]
    if visits:
        yield Question("last encounter", "When was the last encounter?", ((max(visits),),))


def _name(one: dict[str, Any], every: list[dict[str, Any]]) -> str:
    concept = one.get("medicationCodeableConcept", one.get("code"))
    if concept is None:
        wanted = one["medicationReference"]["reference"].rpartition(":")[2].rpartition("/")[2]
        concept = next(other["code"] for other in every if other.get("id") == wanted)
    return str(concept.get("text") or concept["coding"][0]["display"])


def _narrative(path: Path) -> str:
    return narrative(json.loads(path.read_text()))


if __name__ == "__main__":
    main()
