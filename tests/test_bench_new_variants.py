"""What a new task kind and a new data set cost: one file each, used from the task to the report."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_stubs import InProcess, StubChat

from edgekit.artifacts.gates import Gates
from edgekit.artifacts.manifest import FileEntry, Manifest, Preprocessing, SourceRecord
from edgekit.bench import Sweep, as_json, bench, datasets, kinds, markdown, preflight, runner, worker
from edgekit.bench.cells import ModelRef
from edgekit.bench.report.page import page
from edgekit.bench.results import Results
from edgekit.bench.subjects import Subject, TableRow
from edgekit.bench.tasks import task
from edgekit.errors import UsageError
from edgekit.runtime.base import Generation

MANIFEST = Manifest(
    recipe="stub", title="Stub model", family="medgemma", stand_in=None, license="none", modified="",
    source=SourceRecord(name="stub", sha256="abc", files={}), tokenizer=FileEntry(path="t", sha256="0", bytes=1),
    settings={}, preprocessing=None, parts=(), variants={"good": {}}, default="good", gates=Gates(),
)  # fmt: skip

LENGTH_KIND = '''
"""How long answers are."""

from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from edgekit.bench.answers import answer
from edgekit.bench.items import Item, question
from edgekit.bench.kinds.base import FigureColumn, Figures, Task
from edgekit.metrics import mean_interval


class LengthTask(Task):
    kind: Literal["length"]
    prompt: str

    ability = "generate"
    headline = "characters"
    columns = (FigureColumn("characters", "characters", lambda figure: f"{figure.value:.1f}" if figure else "-"),)

    def items(self, dataset):
        return tuple(Item(sample.group, question(self.prompt, sample.image)) for sample in dataset.samples)

    def run(self, model, dataset, context):
        return [len(answer(model, item, 9).text) for item in self.items(dataset)]

    def summarize(self, results, full_precision=None):
        return Figures({"characters": mean_interval(results[0])}, {"longest": max(results[0])})

    @classmethod
    def explain(cls, first, rows):
        return f"{first.task}: {first.title}; the longest answer has {first.details['longest']} characters."
'''

EXAM_DATA = '''
"""Examination questions, several of one case."""

from edgekit.bench.datasets.base import Reader, Sample


def read(source, limit, seed, data):
    asked = [Sample("AB"[i % 2], f"case {i // 3}", question=f"Question {i}: A or B?", options=("A", "B"))
             for i in range(limit)]
    return tuple(asked)


READER = Reader("exams", read)
'''

EXAM = """
title = "an examination"
citation = "nobody"
license = "CC0"
note = "made up"
reader = "exams"
"""


class Reader(StubChat):
    """Answers A to everything; knows no images."""

    sees = False

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def generate(self, messages, *, max_tokens=256):  # type: ignore[no-untyped-def]
        (message,) = messages
        assert not message.images
        self.asked.append(message.text)
        yield Generation("A, I think", 10, 5, False, 0.1, 0.1)


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a folder of kinds, one of data sets, and one of tasks, searched beside edgekit's own."""
    for name, package in (("kinds", kinds), ("datasets", datasets)):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / name)])
    (tmp_path / "benchmarks" / "datasets").mkdir(parents=True)
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    kinds.kinds.cache_clear()
    before = set(sys.modules)
    yield tmp_path
    monkeypatch.undo()
    for name in set(sys.modules) - before:  # another test may write another file of the same name
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    kinds.kinds.cache_clear()


def _measure(monkeypatch: pytest.MonkeyPatch, model: StubChat, name: str, *, sees: bool) -> Results:
    shown = Preprocessing(size=8, resample="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3) if sees else None
    rows = (
        TableRow("reference", "reference", ModelRef("source"), "full"),
        TableRow("good", "variant", ModelRef("artifact", "good"), "good", "good"),
    )
    manifest = MANIFEST.model_copy(update={"preprocessing": shown})
    subject = Subject(Path("artifact"), manifest, Path("source"), frozenset({"generate"}), rows, 10)
    monkeypatch.setattr(runner, "subjects", lambda *given: [subject])
    monkeypatch.setattr(preflight, "check", lambda *given: None)  # these artifacts have no files
    monkeypatch.setattr(worker, "open_row", lambda ref: model)
    sweep = Sweep([Path("artifact")], tasks=[name], controls=())
    return bench(sweep, progress=False, executor=InProcess())


def test_a_task_kind_is_one_file(added: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (added / "kinds" / "length.py").write_text(LENGTH_KIND)
    (added / "benchmarks" / "talk.toml").write_text(
        'title = "Talkativeness"\nkind = "length"\ndataset = "phantoms"\nlimit = 8\nprompt = "What?"\n'
    )
    assert task("talk").kind == "length"
    results = _measure(monkeypatch, StubChat(), "talk", sees=True)
    assert results.errors == ()
    (_, good) = json.loads(as_json(results))["records"]
    (measured,) = good["measurements"]
    longest, figure = measured["details"]["longest"], measured["metrics"]["characters"]
    assert len("The finding: nodule.") <= figure["value"] <= longest
    assert figure["n"] == 8
    for text in (markdown(results), page(results)):
        assert "characters" in text
        assert f"talk: Talkativeness; the longest answer has {longest} characters." in text


def test_a_wrong_kind_says_which_exist(added: Path) -> None:
    (added / "kinds" / "length.py").write_text(LENGTH_KIND)
    (added / "benchmarks" / "talk.toml").write_text('title = "T"\nkind = "lenght"\ndataset = "phantoms"\nlimit = 8\n')
    with pytest.raises(UsageError, match=r"task talk: kind: 'lenght'\nallowed: .*\blength\b"):
        task("talk")


def test_a_data_set_of_texts_is_a_file_and_its_tasks_are_ordinary(added: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (added / "datasets" / "exams.py").write_text(EXAM_DATA)
    (added / "benchmarks" / "datasets" / "exam.toml").write_text(EXAM)
    (added / "benchmarks" / "exam.toml").write_text(
        'title = "Examination"\nkind = "finding"\ndataset = "exam"\nlimit = 12\n'
        'prompt = "{question} Answer with a letter."\nparser = "first-label"\nmax_tokens = 9\n'
    )
    model = Reader()
    results = _measure(monkeypatch, model, "exam", sees=False)
    assert results.errors == ()
    assert model.asked[:2] == ["Question 0: A or B? Answer with a letter.", "Question 1: A or B? Answer with a letter."]
    measured = results.records[1].of("exam")
    assert measured is not None
    accuracy = measured.metrics["accuracy"]
    assert (accuracy.value, accuracy.n) == (0.5, 12)
    assert "an examination: nobody; licence CC0; made up" in markdown(results)


def test_items_of_one_case_know_less_than_items_of_many(added: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (added / "datasets" / "exams.py").write_text(EXAM_DATA)
    (added / "datasets" / "alone.py").write_text(EXAM_DATA.replace("i // 3", "i").replace('"exams"', '"alone"'))
    for name, text in (("exam", EXAM), ("alone", EXAM.replace('"exams"', '"alone"'))):
        (added / "benchmarks" / "datasets" / f"{name}.toml").write_text(text)
        (added / "benchmarks" / f"{name}.toml").write_text(
            f'title = "Examination"\nkind = "finding"\ndataset = "{name}"\nlimit = 60\n'
            'prompt = "{question}"\nparser = "first-label"\nmax_tokens = 9\n'
        )
    figures = {}
    for name in ("exam", "alone"):
        measured = _measure(monkeypatch, Reader(), name, sees=False).records[1].of(name)
        assert measured is not None
        assert measured.metrics["accuracy"].value == 0.5
        figures[name] = measured
    one, many = (figures[name].metrics["accuracy"] for name in ("exam", "alone"))
    assert (one.low, one.high) != (many.low, many.high)
    assert figures["exam"].paired is not None
    assert figures["exam"].paired.difference.low < figures["alone"].paired.difference.low < 0  # type: ignore[union-attr]
