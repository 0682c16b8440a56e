"""A benchmark of stub models in a process of its own, to be killed; says `begun` when its imports are done.

    python tests/bench_job.py OUT TASK.toml...

Writes results.json into OUT, and its work beside it. Each answer takes a moment, so that there are moments to be killed
at.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bench_stubs import InProcess, StubChat, dataset

from edgekit import bench
from edgekit.artifacts.gates import Gates
from edgekit.artifacts.manifest import FileEntry, Manifest, Preprocessing, SourceRecord
from edgekit.bench import datasets, preflight, runner, worker
from edgekit.bench.cells import Cell, ModelRef, Outcome
from edgekit.bench.kinds.base import Figures
from edgekit.bench.kinds.latency import LatencyTask
from edgekit.bench.subjects import Subject, TableRow
from edgekit.metrics import Estimate
from edgekit.runtime.base import Generation, Model

ROUNDS = 2
_ANSWER_S = 0.002


class Timed(InProcess):
    """Runs cells here; times are made up, since what measures them looks at files, and stubs have none."""

    def outcomes(self, cell: Cell) -> Iterator[Outcome]:
        if any(task.data["kind"] == "latency" for task in cell.tasks):
            return (Outcome(task.name, {"load_s": 1.0 + cell.round}, 0.1) for task in cell.tasks)
        return super().outcomes(cell)


def summarized(self: LatencyTask, results: Sequence[Any], full_precision: Any | None = None) -> Figures:
    """In place of `LatencyTask.summarize`: the rounds as they came."""
    seconds = [result["load_s"] for result in results]
    return Figures({"load_s": Estimate(seconds[0], min(seconds), max(seconds), len(seconds))}, {"rounds": seconds})


class Slow(StubChat):
    """A stub that takes its time."""

    def generate(self, *given: Any, **named: Any) -> Iterator[str | Generation]:
        time.sleep(_ANSWER_S)
        return super().generate(*given, **named)


def subject() -> Subject:
    """A model with two levels."""
    manifest = Manifest(
        recipe="stub", title="Stub model", family="medgemma", stand_in="a stub", license="none", modified="",
        source=SourceRecord(name="stub", sha256="abc", files={}), parts=(), variants={"good": {}}, default="good",
        tokenizer=FileEntry(path="tokenizer.json", sha256="0", bytes=1), settings={}, gates=Gates(),
        preprocessing=Preprocessing(size=8, resample="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3),
    )  # fmt: skip
    rows = [TableRow("reference", "reference", ModelRef("ref"), "ref")]
    rows += [TableRow(name, "variant", ModelRef("dir", name), name, name) for name in ("good", "bad")]
    return Subject(Path("dir"), manifest, Path("ref"), frozenset({"generate"}), tuple(rows), 10)


def opened(ref: ModelRef) -> Model:
    """Full precision is right; a level is a little off, the one called bad wrong about every second image."""
    coarse = ref.control is not None and (ref.control.bits, ref.control.scale) == (2, "row")
    wrong = {"bad": 2}.get(ref.level or "", 3 if coarse else 0)
    return Slow(wrong_every=wrong, noise=0.0 if ref.is_full_precision else 0.5)


def main(out: Path, tasks: list[str]) -> None:
    """Measure."""
    with (
        patch.object(runner, "subjects", lambda *_: [subject()]),
        patch.object(preflight, "check", lambda *_: None),  # the artifact has no files
        patch.object(worker, "open_row", opened),
        patch.object(datasets, "load", lambda name, limit, seed, data: dataset(limit)),
        patch.object(LatencyTask, "summarize", summarized),
        patch.object(LatencyTask, "explain", lambda first, rows: "made up"),
    ):
        print("begun", flush=True)
        sweep = bench.Sweep([Path("dir")], tasks=tasks, rounds=ROUNDS)
        results = bench.bench(sweep, work=out / "work", executor=Timed())
        bench.write(results, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
