"""The benchmark's rows, cells, processes and controls, and what an interrupt leaves; on stub models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_stubs import StubChat, StubEmbedder, dataset

from edgekit.artifacts.manifest import FileEntry, Gates, Manifest, Preprocessing, Source
from edgekit.bench import cells, datasets, markdown, runner, worker
from edgekit.bench.cells import Cell, Opening, Outcome, Processes
from edgekit.bench.records import Record
from edgekit.bench.results import Results, controls_show_damage
from edgekit.bench.subjects import Row, Subject
from edgekit.errors import EdgekitError, UsageError
from edgekit.runtime.base import Model

FILE = FileEntry(path="tokenizer.json", sha256="0", bytes=1)
MANIFEST = Manifest(
    recipe="stub", title="Stub model", family="medgemma", stand_in="a stub", license="none", modified="",
    source=Source(name="stub", sha256="abc", files={}), tokenizer=FILE, settings={}, parts=(),
    variants={"good": {}}, default="good", gates=Gates(),
    preprocessing=Preprocessing(size=8, resample="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3),
)  # fmt: skip
OPENERS: dict[str, Callable[[Opening], Model]] = {
    "generate": lambda o: StubChat(wrong_every=_wrong(o), noise=0 if o.level is None and o.bits is None else 0.5),
    "embed_image": lambda o: StubEmbedder(wrong_every=_wrong(o)),
}


def _wrong(opening: Opening) -> int:
    """3 bits spoil nothing, 2 with a scale a row every third item; the level `bad` every second."""
    return {"bad": 2}.get(opening.level or "", 3 if opening.bits == 2 and opening.scale == "row" else 0)


class InProcess:
    """Runs cells here and remembers them."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self.stopped = False

    def run(self, cell: Cell) -> Iterator[Outcome]:
        self.cells.append(cell)
        if cell.opening.level == "crash":
            raise EdgekitError("the worker process ended with SIGSEGV: boom")
        done: list[Outcome] = []
        worker.run(Cell.from_json(cell.to_json()), done.append)
        yield from (Outcome(**json.loads(json.dumps(outcome.__dict__))) for outcome in done)

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> InProcess:
    made = InProcess()
    monkeypatch.setattr(runner, "Processes", lambda: made)
    return made


def _tasks(folder: Path, *names: str) -> list[str]:
    """The shipped tasks, shortened."""
    short = {"limit": 24, "text_positions": 60, "decode_tokens": 3}
    paths = []
    for name in names:
        lines = (Path(__file__).parent.parent / "benchmarks" / f"{name}.toml").read_text().splitlines()
        kept = [f"{key} = {short[key]}" if (key := line.split(" =")[0]) in short else line for line in lines]
        paths.append(folder / f"{name}.toml")
        paths[-1].write_text("\n".join(kept))
    return [str(path) for path in paths]


def _subject(
    monkeypatch: pytest.MonkeyPatch, ability: str = "generate", *, source: bool = True, levels: str = "good bad"
) -> None:
    reference = [Row("reference", "reference", Opening("reference", "ref"), "ref")] if source else []
    variants = [Row(name, "variant", Opening("artifact", "dir", name), name, name) for name in levels.split()]
    family = {"generate": "medgemma", "embed_image": "medsiglip"}[ability]
    manifest = MANIFEST.model_copy(update={"family": family})
    checkpoint = Path("ref") if source else None
    subject = Subject(Path("dir"), manifest, checkpoint, frozenset({ability}), (*reference, *variants), 10)
    monkeypatch.setattr(runner, "subjects", lambda *given: [subject])
    monkeypatch.setattr(worker, "open_row", OPENERS[ability])
    monkeypatch.setattr(datasets, "load", lambda name, limit, seed, data: dataset(limit))


def _bench(tmp_path: Path, *names: str, **options: Any) -> Results:
    return runner.bench([Path("dir")], tasks=_tasks(tmp_path, *names), progress=False, **{"rounds": 1, **options})


def _rows(results: Results) -> dict[str, Record]:
    return {record.row: record for record in results.records}


def test_every_row_gets_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: InProcess) -> None:
    _subject(monkeypatch)
    results = _bench(tmp_path, "finding-phantom", "yesno-phantom", "fidelity-decoder", "fidelity-encoder", "latency")
    rows = _rows(results)
    assert list(rows) == ["reference", "good", "bad", "control: decoder at 2 bits, one scale a row"]
    finding = rows["bad"].of("finding-phantom")
    assert finding is not None
    assert finding.metrics["accuracy"].value == 0.5
    assert finding.paired is not None
    assert finding.paired.value == -0.5
    assert finding.paired.high < 0
    reference = rows["reference"].of("finding-phantom")
    assert reference is not None
    assert reference.paired is None
    kl = rows["good"].metric("kl")
    assert kl is not None
    assert kl.value > 0
    assert rows["good"].of("fidelity-decoder").noise_floor == 0  # type: ignore[union-attr]
    assert rows["good"].metric("load_s") is not None
    assert not results.errors


def test_a_control_without_effect_is_tried_at_fewer_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: InProcess
) -> None:
    _subject(monkeypatch)
    results = _bench(tmp_path, "finding-phantom")
    assert [cell.opening.bits for cell in processes.cells if cell.opening.bits] == [3, 2]
    assert results.shows_damage
    assert "Stub model: a control at 3 bits, one scale a row showed no drop in accuracy" in results.notes


def test_a_table_that_cannot_show_damage_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: InProcess
) -> None:
    _subject(monkeypatch)
    monkeypatch.setattr(worker, "open_row", lambda opening: StubChat())
    results = _bench(tmp_path, "finding-phantom")
    assert not results.shows_damage
    assert not controls_show_damage(results.records)
    assert markdown(results).startswith(
        "**WARNING: Stub model, control: decoder at 2 bits, one scale a tensor: no task shows the damage"
    )


def test_latency_rounds_are_interleaved_and_controls_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: InProcess
) -> None:
    _subject(monkeypatch)
    results = _bench(tmp_path, "latency", rounds=3)
    assert [cell.opening.level for cell in processes.cells] == [None, "good", "bad"] * 3
    assert all(cell.core is None for cell in processes.cells)
    first = _rows(results)["good"].metric("first_token_ms")
    assert first is not None
    assert (first.value, first.n) == (250, 3)


def test_embedding_models_get_label_tasks_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: InProcess
) -> None:
    _subject(monkeypatch, "embed_image")
    results = _bench(tmp_path, "labels-phantom", "fidelity-encoder")
    assert [m.task for m in results.records[0].measurements] == ["labels-phantom", "fidelity-encoder"]
    assert list(_rows(results))[-1] == "control: image encoder at 2 bits, one scale a row"
    with pytest.raises(UsageError, match="task finding-phantom: none of these models can generate about images"):
        _bench(tmp_path, "finding-phantom")


def test_without_a_reference_nothing_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: InProcess
) -> None:
    _subject(monkeypatch, source=False)
    results = _bench(tmp_path, "finding-phantom")
    assert list(_rows(results)) == ["good", "bad"]
    assert all(m.paired is None for record in results.records for m in record.measurements)
    assert "nothing is compared with full precision" in results.notes[0]
    with pytest.raises(UsageError, match="fidelity-decoder compares with full precision, and the checkpoint"):
        _bench(tmp_path, "fidelity-decoder")


def test_a_crash_takes_no_other_row_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: InProcess
) -> None:
    _subject(monkeypatch, levels="good crash")
    results = _bench(tmp_path, "finding-phantom", "latency")
    assert len(results.errors) == 2
    assert results.errors[0] == "Stub model, crash, finding-phantom: the worker process ended with SIGSEGV: boom"
    assert _rows(results)["good"].metric("accuracy") is not None
    assert "not measured: Stub model, crash" in markdown(results)


def test_finished_cells_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: InProcess) -> None:
    _subject(monkeypatch)
    work = tmp_path / "work"
    first = _bench(tmp_path, "finding-phantom", "fidelity-decoder", work=work)
    count = len(processes.cells)
    with (work / "cells.jsonl").open("a") as stream:
        stream.write('{"key": "cut sho')
    second = _bench(tmp_path, "finding-phantom", "fidelity-decoder", work=work)
    assert [cell.records_reference for cell in processes.cells[count:]] == [True]
    assert [r.measurements[0].metrics for r in first.records] == [r.measurements[0].metrics for r in second.records]


def test_the_reference_caches_of_other_code_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: InProcess
) -> None:
    _subject(monkeypatch)
    stale = tmp_path / "work" / "reference" / "0123.f32"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"old")
    _bench(tmp_path, "fidelity-decoder", work=tmp_path / "work")
    assert not stale.exists()
    assert len(list(stale.parent.glob("*.f32"))) == 1


def test_an_interrupt_stops_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: InProcess) -> None:
    _subject(monkeypatch)

    def interrupt(opening: Opening) -> Model:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "open_row", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _bench(tmp_path, "finding-phantom")
    assert processes.stopped


def test_wrong_use() -> None:
    with pytest.raises(UsageError, match="0 rounds"):
        runner.bench([Path("x")], rounds=0)
    with pytest.raises(UsageError, match="no artifact to measure"):
        runner.bench([])


def _cell(tmp_path: Path) -> Cell:
    return Cell(Opening("artifact", str(tmp_path / "nothing")), (({"name": "x"}, None),), str(tmp_path))


def test_a_real_worker_says_why_it_cannot_open_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('the current directory was imported')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EdgekitError, match=r"the worker process ended with exit code 1: .*nothing: no such folder"):
        list(Processes().run(_cell(tmp_path)))


def _sleeper(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """A worker that runs this code in place of its own."""
    start = subprocess.Popen

    def popen(command: list[str], **options: Any) -> Any:
        return start([sys.executable, "-c", code], **options)

    monkeypatch.setattr(cells.subprocess, "Popen", popen)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_worker_that_dies_by_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _sleeper(monkeypatch, "import os, sys; print('last words', file=sys.stderr, flush=True); os.kill(os.getpid(), 11)")
    with pytest.raises(EdgekitError, match="ended with SIGSEGV: last words"):
        list(Processes().run(_cell(tmp_path)))


def test_a_worker_is_ended_when_nobody_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = json.dumps({"task": "x", "result": 1, "seconds": 0.5})
    _sleeper(monkeypatch, f"import time; print('''{line}''', flush=True); time.sleep(60)")
    processes, started = Processes(), time.perf_counter()
    outcomes = processes.run(_cell(tmp_path))
    assert next(outcomes).result == 1
    outcomes.close()  # type: ignore[attr-defined]
    assert time.perf_counter() - started < 30
    assert not processes._running
