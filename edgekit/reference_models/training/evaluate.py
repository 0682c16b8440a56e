"""Measures the reference models in float32 on images that nobody trained on.

Real test images where `--data` names the folder, phantoms of an unused seed always. Chest X-rays are split by patient;
brain MRI by image, because no patient is named, so its figures are optimistic. Each figure is an accuracy with its
95 % interval, its count and the accuracy of always answering the most frequent label.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import reference_models as reference
from edgekit.bench.parsers import first_named, first_yes_or_no
from edgekit.errors import UsageError
from edgekit.inputs import labels as vocabulary
from edgekit.inputs import phantoms
from edgekit.inputs.labels import BRAIN, CHEST, Label
from edgekit.metrics import balanced_accuracy, paired_interval, wilson_interval
from edgekit.reference_models.training import conversations, data, images
from edgekit.reference_models.training.judge import Answerer, Classifier

SEED = 20_250
CONTROL_BITS = (3, 2)


@dataclass(frozen=True)
class Case:
    """An image (uint8) with its label; `swap` is an image of another label in the same modality, another patient's."""

    pixels: np.ndarray
    label: Label
    severity: str | None
    swap: np.ndarray


def real_cases(folder: Path, split: str) -> list[Case]:
    """The radiographs of one split."""
    rows, rng = data.radiographs(folder, split), np.random.default_rng(SEED)
    cases = []
    for row in rows:
        others = [
            other
            for other in rows
            if other.modality == row.modality
            and other.label != row.label
            and (not row.patient or other.patient != row.patient)  # MRI names no patients
        ]
        swap = others[rng.integers(len(others))].pixels
        cases.append(Case(row.pixels, vocabulary.label_named(row.label, row.modality), None, swap))
    return cases


def phantom_cases(n: int) -> list[Case]:
    """Fresh phantoms; the next one, which has another finding, is the swap."""
    drawn = list(phantoms.generate(images.TEST_SEED, n))
    return [
        Case(p.image, vocabulary.label_named(p.finding, vocabulary.PHANTOM), p.severity, drawn[(i + 1) % n].image)
        for i, p in enumerate(drawn)
    ]


def _groups(cases: Sequence[Case], drawn: bool) -> dict[str, list[int]]:
    """Named subsets of the cases: all, each modality or severity, each class."""
    groups = {"all": list(range(len(cases)))}
    parts = [f"severity {severity}" for severity in vocabulary.SEVERITIES] if drawn else [CHEST, BRAIN]
    for part in parts:
        groups[part] = [i for i, case in enumerate(cases) if part in (case.label.modality, f"severity {case.severity}")]
    for i, case in enumerate(cases):
        groups.setdefault(f"class {case.label.name}", []).append(i)
    return {name: members for name, members in groups.items() if members}


def figures(cases: Sequence[Case], truth: Sequence[str], answers: Sequence[str | None], drawn: bool) -> dict[str, Any]:
    """Accuracy of `answers` in each group, beside always answering the group's most frequent truth."""
    result: dict[str, Any] = {}
    for name, members in _groups(cases, drawn).items():
        wanted, given = [truth[i] for i in members], [answers[i] for i in members]
        right = sum(a == b for a, b in zip(wanted, given, strict=True))
        result[name] = asdict(wilson_interval(right, len(members)))
        if not name.startswith("class "):
            result[name]["majority"] = max(Counter(wanted).values()) / len(members)
            result[name]["balanced"] = asdict(balanced_accuracy(wanted, given))
    return result


def _damage(truth: Sequence[str], whole: Sequence[str | None], rounded: Sequence[str | None]) -> dict[str, Any]:
    """The paired loss of accuracy through rounding; positive where rounding hurts."""
    before, after = ([float(a == b) for a, b in zip(truth, given, strict=True)] for given in (whole, rounded))
    return asdict(paired_interval(before, after))


def classification(folder: Path, cases: Sequence[Case], labels: Sequence[Label], drawn: bool) -> dict[str, Any]:
    """Prompt-based classification by the MedSigLIP-like model."""
    pixels, truth = [case.pixels for case in cases], [case.label.name for case in cases]
    whole = Classifier(folder).classify(pixels, labels)
    result = {"classification": figures(cases, truth, whole, drawn)}
    for bits in CONTROL_BITS:
        rounded = Classifier(folder, bits).classify(pixels, labels)
        result[f"loss at {bits} bits"] = _damage(truth, whole, rounded)
    return result


def _parsed(answers: Sequence[str], names: Sequence[str]) -> list[str | None]:
    return [first_named(answer, names) for answer in answers]


def answering(folder: Path, cases: Sequence[Case], labels: Sequence[Label], drawn: bool) -> dict[str, Any]:
    """Freely generated answers of the MedGemma-like model: the finding, and yes/no questions."""
    whole = Answerer(folder)
    pixels, swapped = [case.pixels for case in cases], [case.swap for case in cases]
    names, truth = [label.name for label in labels], [case.label.name for case in cases]
    what = [vocabulary.FINDING_QUESTIONS[0]] * len(cases)
    findings = _parsed(whole.answer(pixels, what), names)
    rng = np.random.default_rng(SEED)
    turns = [conversations.yes_no(case.label, rng) for case in cases]
    questions, replies = [turn.question for turn in turns], [turn.answer for turn in turns]
    yes_no = [first_yes_or_no(answer) for answer in whole.answer(pixels, questions)]
    yes_no_swapped = [first_yes_or_no(answer) for answer in whole.answer(swapped, questions)]
    result = {
        "finding": figures(cases, truth, findings, drawn),
        "finding, image swapped": figures(cases, truth, _parsed(whole.answer(swapped, what), names), drawn),
        "yes/no": figures(cases, replies, yes_no, drawn),
        "yes/no, image swapped": figures(cases, replies, yes_no_swapped, drawn),
        "unparsed": sum(answer is None for answer in findings + yes_no),
    }
    for bits in CONTROL_BITS:
        rounded = _parsed(Answerer(folder, bits).answer(pixels, what), names)
        result[f"loss at {bits} bits"] = _damage(truth, findings, rounded)
    return result


def evaluate(gemma: Path, siglip: Path, folder: Path | None, n: int, split: str = "test") -> dict[str, Any]:
    """All figures: on `n` phantoms, and on real images where `folder` is given."""
    sets = [("phantoms", phantom_cases(n), vocabulary.PHANTOM_LABELS, True)]
    if folder:
        sets.append((f"real {split} images", real_cases(folder, split), vocabulary.LABELS, False))
    return {
        name: {
            "medsiglip-reference": classification(siglip, cases, labels, drawn),
            "medgemma-reference": answering(gemma, cases, labels, drawn),
        }
        for name, cases, labels, drawn in sets
    }


def table(report: dict[str, Any]) -> str:
    """The report as a Markdown table; what swapped images do to single classes stays in the JSON."""
    lines = ["| images | model, task | group | accuracy | n | majority | balanced |", "|---|---|---|---|---|---|---|"]
    for dataset, models in report.items():
        for model, tasks in models.items():
            for task, groups in tasks.items():
                named = groups if isinstance(groups, dict) and "value" not in groups else {"": groups}
                start = f"| {dataset} | {model}, {task} |"
                shown = [name for name in named if not ("swapped" in task and name.startswith("class "))]
                lines += [f"{start} {name} | {_cells(named[name])} |" for name in shown]
    return "\n".join(lines)


def _cells(figure: Any) -> str:
    if not isinstance(figure, dict):
        return f"{figure} | | |"
    value, low, high = (f"{100 * figure[key]:.1f}" for key in ("value", "low", "high"))
    majority, balanced = "", ""
    if "majority" in figure:
        majority, balanced = f"{100 * figure['majority']:.1f}", f"{100 * figure['balanced']['value']:.1f}"
    return f"{value} % [{low}, {high}] | {figure['n']} | {majority} | {balanced}"


_START, _END = "<!-- figures: written by edgekit.reference_models.training.evaluate -->", "<!-- end of figures -->"


def write_card(card: Path, report: dict[str, Any]) -> None:
    """Replace the figures in a model card."""
    text = card.read_text(encoding="utf-8")
    before, after = text.split(_START)[0], text.split(_END)[1]
    card.write_text(f"{before}{_START}\n\n{table(report)}\n\n{_END}{after}", encoding="utf-8")


def _folder(given: Path | None, name: str) -> Path:
    found = given or reference.path(name)
    if found is None:
        raise UsageError(f"the weights of {name} are not installed", remedy="give their folder")
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m edgekit.reference_models.training.evaluate", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the training data; without it only phantoms are used")
    parser.add_argument("--split", default="test", choices=["val", "test"])
    parser.add_argument("--gemma", type=Path, help="another folder than the shipped MedGemma-like model")
    parser.add_argument("--siglip", type=Path, help="another folder than the shipped MedSigLIP-like model")
    parser.add_argument("--phantoms", type=int, default=800)
    parser.add_argument("--out", type=Path, default=Path("evaluation.json"))
    parser.add_argument("--card", type=Path, help="a model card whose figures are replaced")
    given = parser.parse_args()
    gemma, siglip = _folder(given.gemma, reference.NAMES[0]), _folder(given.siglip, reference.NAMES[1])
    report = evaluate(gemma, siglip, given.data, given.phantoms, given.split)
    given.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if given.card:
        write_card(given.card, report)
    print(table(report))


if __name__ == "__main__":
    main()
