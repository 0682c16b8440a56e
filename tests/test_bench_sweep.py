"""Sweeps: figures do not depend on kills, on the order of cells, on where they run, or on how often one comes in."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_job import ROUNDS, Timed, opened, subject, summarized
from bench_stubs import InProcess, dataset

from edgekit.artifacts.folders import claimed
from edgekit.bench import Sweep, as_json, datasets, journal, preflight, runner, worker
from edgekit.bench.cells import Cell, CellTask, ModelRef, Outcome, identity
from edgekit.bench.controls import could_show
from edgekit.bench.decision import gates
from edgekit.bench.decision.planned import check_planned
from edgekit.bench.decision.readings import names
from edgekit.bench.environment import environment
from edgekit.bench.execute import Receiver, needed_bytes, threads
from edgekit.bench.execute.room import Room
from edgekit.bench.execute.station import Station, pieces, sizes
from edgekit.bench.kinds.latency import LatencyTask
from edgekit.bench.ledger import Ledger
from edgekit.bench.records import Measurement
from edgekit.bench.results import Results
from edgekit.bench.subjects import Subject, content, on_devices
from edgekit.bench.tasks import task
from edgekit.errors import EdgekitError, UsageError
from edgekit.metrics import Estimate

HERE = Path(__file__).parent
ROOT = HERE.parent
PYTHON_WITH_RAY = os.environ.get("EDGEKIT_RAY", "")
NAMES = ("finding-phantom", "yesno-phantom", "fidelity-decoder", "fidelity-encoder", "latency")
FEW = ("finding-phantom", "fidelity-encoder", "latency")


def shortened(folder: Path, *names: str, limit: int = 24) -> list[str]:
    """The shipped tasks with few items, as paths."""
    short = {"limit": limit, "text_positions": 60, "chunks": 3, "decode_tokens": 3}
    paths = []
    for name in names:
        lines = (ROOT / "benchmarks" / f"{name}.toml").read_text(encoding="utf-8").splitlines()
        kept = [f"{key} = {short[key]}" if (key := line.split(" =")[0]) in short else line for line in lines]
        paths.append(folder / f"{name}.toml")
        paths[-1].write_text("\n".join(kept), encoding="utf-8")
    return [str(path) for path in paths]


def figures(document: str) -> Any:
    """Everything that must not differ between two runs of one sweep: all but times, and the hash that covers them."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            if value.get("kind") == "latency" and "metrics" in value:
                rounds = sorted({figure["n"] for figure in value["metrics"].values()})
                value = {**value, "metrics": rounds, "details": None}
            left = {key: entry for key, entry in value.items() if key not in ("seconds", "phases")}
            return {key: plain(entry) for key, entry in left.items()}
        return [plain(entry) for entry in value] if isinstance(value, list) else value

    data = json.loads(document)
    data.pop("sha256")
    return plain(data)


# ---------------------------------------------------------------- kills


class Killed:
    """A benchmark in a process of its own, run again and again in one folder.

    Args:
        command: ends with the folder's name in place of `{out}`.
        begun: whether it says so when it begins.
    """

    def __init__(self, command: Sequence[str], *, begun: bool) -> None:
        self.command, self.begun = command, begun

    def run(self, out: Path, after_s: float | None = None) -> bool:
        """Run it, and kill it after so long; whether it came to its end."""
        filled = [word.format(out=out) for word in self.command]
        process = subprocess.Popen(filled, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=out.parent)
        try:
            if self.begun:
                assert process.stdout
                assert process.stdout.readline() == "begun\n", process.communicate()
            _, said = process.communicate(timeout=after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return False
        assert process.returncode == 0, said
        return True


def ends_alike(killed: Killed, folder: Path, *, kills: int, share: float) -> tuple[list[bool], int]:
    """Kill a run so often at random moments, let it end, and compare with one that was not killed.

    Args:
        share: each moment lies within this part, 1 / share, of a whole run's time, for what is done stays done.

    Returns:
        Which of those runs came to their end before, and how many figures were written down twice.
    """
    whole, often = (folder / name / "measured" for name in ("whole", "often"))  # results name what was typed
    for place in (whole, often):
        place.parent.mkdir()
    started = time.monotonic()
    assert killed.run(whole)
    length = time.monotonic() - started
    chance, came = random.Random(7), []
    for _ in range(kills):
        came.append(killed.run(often, chance.uniform(0, length / share)))
    assert killed.run(often)
    expected, found = ((place / "results.json").read_text(encoding="utf-8") for place in (whole, often))
    assert figures(found) == figures(expected)
    lines = [json.loads(line) for line in (often / "work" / "cells.jsonl").read_bytes().split(b"\n") if _whole(line)]
    return came, len(lines) - len({line["key"] for line in lines})


def _whole(line: bytes) -> bool:
    try:
        return bool(line) and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def test_killed_at_random_moments_it_ends_with_the_same_figures(tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "bench_job.py"), "{out}", *shortened(tmp_path, *FEW)]
    came, twice = ends_alike(Killed(command, begun=True), tmp_path, kills=3, share=2)
    assert not all(came), "nothing was killed"
    assert twice == 0, "a cell was measured again though its figure was written down"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_twenty_random_moments_with_real_models(medsiglip_artifact: Path, tmp_path: Path) -> None:
    """Worker processes outlive their killed parent for a moment, and must not spoil what the next one does.

    Nobody may edit the checkout meanwhile: figures of other code are measured anew, and their records say so.
    """
    tasks = shortened(tmp_path, "labels-phantom", "fidelity-encoder", limit=8)
    named = [word for task in tasks for word in ("--task", task)]
    arguments = ["bench", str(medsiglip_artifact), *named, "--no-controls", "--to", "{out}"]
    killed = Killed([sys.executable, "-m", "edgekit", *arguments], begun=False)
    came, twice = ends_alike(killed, tmp_path, kills=20, share=6)
    assert came.count(False) >= 3
    assert twice == 0


# ---------------------------------------------------------------- order, executors, journals


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> Subject:
    measured = subject()
    monkeypatch.setattr(runner, "subjects", lambda *given: [measured])
    monkeypatch.setattr(preflight, "check", lambda *given: None)  # the artifact has no files
    monkeypatch.setattr(worker, "open_row", opened)
    monkeypatch.setattr(datasets, "load", lambda name, limit, seed, data: dataset(limit))
    monkeypatch.setattr(LatencyTask, "summarize", summarized)
    return measured


def measure(tmp_path: Path, executor: InProcess, *names: str, work: Path | None = None, **more: Any) -> Results:
    sweep = Sweep([Path("dir")], tasks=shortened(tmp_path, *names), **{"rounds": ROUNDS, **more})
    return runner.bench(sweep, work=work, executor=executor)


class Disorderly(Timed):
    """Cells in another order, several at a time, and each outcome twice."""

    def run(self, cells: Sequence[Cell], report: Receiver, *, alone: bool = False) -> None:
        def twice(cell: Cell, outcome: Outcome) -> None:
            report(cell, outcome)
            report(cell, replace(outcome, result=None, error="it came again"))

        shuffled = random.Random(3).sample(list(cells), len(cells))
        started = [threading.Thread(target=super(Disorderly, self).run, args=([cell], twice)) for cell in shuffled]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()


@pytest.mark.usefixtures("stubs")
def test_figures_do_not_depend_on_the_order_or_on_how_often_they_come(tmp_path: Path) -> None:
    orderly, disorderly = (as_json(measure(tmp_path, executor, *FEW)) for executor in (Timed(), Disorderly()))
    assert figures(disorderly) == figures(orderly)


@pytest.mark.usefixtures("stubs")
def test_rounds_go_on_where_they_were_interrupted(tmp_path: Path) -> None:
    work = tmp_path / "work"
    measure(tmp_path, Timed(), "latency", work=work)
    lines = (work / journal.FILE).read_text().splitlines()
    (work / journal.FILE).write_text("\n".join(lines[:-2]) + "\n" + lines[-2][:40])  # killed within a line
    again = Timed()
    results = measure(tmp_path, again, "latency", work=work)
    assert [(cell.row, cell.round) for cell in again.cells] == [("good", 1), ("bad", 1)]
    assert [record.metric("load_s").n for record in results.records] == [ROUNDS] * 3  # type: ignore[union-attr]


@pytest.mark.usefixtures("stubs")
def test_another_machines_journal_counts_as_ones_own(tmp_path: Path) -> None:
    """Half of the cells in each of two journals, and some in both: nothing is measured again, nothing counts twice."""
    names = ("finding-phantom", "yesno-phantom", "latency")
    expected = measure(tmp_path, Timed(), *names, work=tmp_path / "whole")
    lines = (tmp_path / "whole" / journal.FILE).read_text().splitlines(keepends=True)
    work = tmp_path / "merged"
    with claimed(work):
        (work / journal.FILE).write_text("".join(lines[::2]))
        (work / "theirs.jsonl").write_text("".join(lines[1::2] + lines[:3]))
    executor = Timed()
    results = measure(tmp_path, executor, *names, work=work)
    assert executor.cells == []
    assert figures(as_json(results)) == figures(as_json(expected))


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), [1.5, float("inf")], {"kl": [float("nan"), 1]}]
)
def test_a_journal_keeps_what_is_no_finite_number(tmp_path: Path, value: Any) -> None:
    key = identity("a key")
    journal.append(tmp_path, key, Outcome("task", value, 1.0))
    np.testing.assert_equal(asdict(journal.read(tmp_path)[key]), asdict(Outcome("task", value, 1.0)))
    json.loads((tmp_path / journal.FILE).read_text(), parse_constant=lambda name: pytest.fail(name))


def test_a_line_that_was_cut_off_anywhere_costs_itself_alone(tmp_path: Path) -> None:
    keys = [identity(number) for number in range(3)]
    for key in keys[:2]:
        journal.append(tmp_path, key, Outcome("task", {"é": [1]}, 1.0))
    whole = (tmp_path / journal.FILE).read_bytes()
    second = whole.index(b"\n") + 1
    for end in range(second, len(whole), 7):
        (tmp_path / journal.FILE).write_bytes(whole[:end])
        journal.append(tmp_path, keys[2], Outcome("task", 3, 1.0))
        found = journal.read(tmp_path)
        assert {keys[0], keys[2]} <= found.keys() <= set(keys)
        assert found[keys[2]].result == 3


@pytest.mark.parametrize(
    ("old", "new"), [("0.5", "0.9"), ('"task"', '"tusk"'), ("1.0", "9.0"), ('"sha256"', '"other"')]
)
def test_a_line_that_was_changed_is_none(tmp_path: Path, old: str, new: str) -> None:
    path, key = tmp_path / journal.FILE, identity("a key")
    journal.append(tmp_path, key, Outcome("task", {"right": [0.5]}, 1.0))
    written = path.read_text()
    assert old in written
    path.write_text(new.join(written.rsplit(old, 1)))
    assert journal.read(tmp_path) == {}
    path.write_text(written)
    assert journal.read(tmp_path)[key].result == {"right": [0.5]}


def test_a_line_under_another_tasks_key_is_not_taken(tmp_path: Path) -> None:
    journal.append(tmp_path, identity("a key"), Outcome("task", 1, 1.0))
    assert not Ledger(tmp_path).expect("row", "another", 0, identity("a key"))
    assert Ledger(tmp_path).expect("row", "task", 0, identity("a key"))


# ---------------------------------------------------------------- controls


@pytest.mark.usefixtures("stubs")
def test_coarser_controls_run_only_what_could_show_them(tmp_path: Path) -> None:
    """Fidelity is measured for the control that stays, once, and the others on accuracy alone."""
    executor = Timed()
    results = measure(tmp_path, executor, *NAMES)
    controls = [cell for cell in executor.cells if cell.model.control]
    ran = [(cell.model.control.bits, [task.name for task in cell.tasks]) for cell in controls if cell.model.control]
    accuracy, fidelity = ["finding-phantom", "yesno-phantom"], ["fidelity-decoder", "fidelity-encoder"]
    assert ran == [(3, accuracy), (2, accuracy), (2, fidelity)]
    last = results.records[-1]
    assert [m.task for m in last.measurements] == [*accuracy, *fidelity]
    assert results.shows_damage


@pytest.mark.usefixtures("stubs")
def test_no_coarser_control_runs_where_full_precision_is_as_bad_as_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "open_row", lambda ref: opened(ModelRef("dir", "good")))
    monkeypatch.setattr("bench_stubs.StubChat.generate", _says_the_first_label)
    executor = Timed()
    results = measure(tmp_path, executor, "finding-phantom")
    assert [cell.model.control.bits for cell in executor.cells if cell.model.control] == [3]
    assert any("no coarser control was run: full precision itself" in note for note in results.notes)
    assert results.shows_damage is False


@pytest.mark.usefixtures("stubs")
def test_few_samples_are_not_asked_for_damage_that_they_cannot_show(tmp_path: Path) -> None:
    executor = Timed()
    results = measure(tmp_path, executor, "finding-phantom", "fidelity-encoder", limit=19)
    tasks = [[task.name for task in cell.tasks] for cell in executor.cells if cell.model.control]
    assert tasks == [["fidelity-encoder"]]
    assert "no control was run on finding-phantom: fewer than 20 samples show no damage" in results.notes
    assert results.shows_damage is None
    results = measure(tmp_path, Timed(), "finding-phantom", limit=19)
    assert [record.kind for record in results.records] == ["reference", "variant", "variant"]
    assert measure(tmp_path, Timed(), "finding-phantom", limit=20).shows_damage is not None


def _says_the_first_label(*_: Any, **__: Any) -> Any:
    from edgekit.inputs.labels import PHANTOM, in_modality
    from edgekit.runtime.base import Generation

    answer = in_modality(PHANTOM)[0].name
    yield answer
    yield Generation(answer, 10, 5, False, 0.25, 0.5)


@pytest.mark.usefixtures("stubs")
def test_where_only_times_are_measured_there_is_no_control(tmp_path: Path) -> None:
    executor = Timed()
    results = measure(tmp_path, executor, "latency")
    assert [record.kind for record in results.records] == ["reference", "variant", "variant"]
    assert not any(cell.model.control for cell in executor.cells)


@pytest.mark.usefixtures("stubs")
def test_without_controls(tmp_path: Path) -> None:
    results = measure(tmp_path, Timed(), "finding-phantom", controls=())
    assert [record.kind for record in results.records] == ["reference", "variant", "variant"]
    assert "no control was asked for" in results.notes


def _measured(value: float, low: float, **more: Any) -> Measurement:
    details = {"majority_baseline": {"accuracy": 0.5}}
    estimate = {"accuracy": Estimate(value, low, 1.0, 100)}
    given = {"metrics": estimate, "details": details, **more}
    return Measurement("key", "task", "finding", "Title", "accuracy", "hash", {}, 100, **given)


@pytest.mark.parametrize(
    ("exact", "can"),
    [
        (_measured(0.8, 0.7), True),
        (_measured(0.6, 0.5), False),
        (_measured(0.6, 0.4), False),
        (_measured(0.6, 0.4, details={}), True),  # nobody says what chance gives: then nothing right is chance
        (_measured(0.0, 0.0, details={}), False),
        (_measured(0.8, 0.7, metrics={}, error="it crashed"), False),
        (_measured(0.8, 0.7, details={"unparsed_share": 0.6}), False),
        (_measured(0.6, 0.4, details={"chance": 0.5}), False),
        (_measured(0.8, 0.7, details={"majority_baseline": "odd", "unparsed_share": None}), True),
        (None, False),
    ],
)
def test_damage_can_show_where_full_precision_is_better_than_chance(exact: Measurement | None, can: bool) -> None:
    assert could_show(exact) == can


# ---------------------------------------------------------------- gates


@pytest.mark.usefixtures("stubs")
@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ("acuracy >= 0.5", "unknown figure in a gate 'acuracy': did you mean accuracy"),
        ("first_tokn_s <= 1", "unknown figure in a gate 'first_tokn_s': did you mean first_token_ms"),
        ("finding-phantom:kl <= 1", "unknown figure in a gate 'kl'"),
        ("finding:accuracy >= 0.5", "unknown task in a gate 'finding'"),
    ],
)
def test_a_gate_that_no_task_can_answer_is_refused_before_anything_is_measured(
    tmp_path: Path, gate: str, said: str
) -> None:
    executor = Timed()
    with pytest.raises(UsageError, match=said):
        measure(tmp_path, executor, *NAMES, gates=gates([gate]))
    assert executor.cells == []


@pytest.mark.usefixtures("stubs")
def test_a_gate_on_any_figure_of_a_run_may_be_asked_before_it(tmp_path: Path) -> None:
    known = names(measure(tmp_path, Timed(), *NAMES).records)
    assert {"accuracy_drop", "balanced_accuracy", "kl_answers", "cosine_image", "load_s", "load_ms"} <= set(known)
    check_planned(gates([f"{name} <= 1" for name in known]), [task(name) for name in NAMES])


# ---------------------------------------------------------------- limits and places


@pytest.mark.usefixtures("stubs")
def test_a_limit_caps_every_task_and_is_another_task(tmp_path: Path) -> None:
    whole, few, more = (measure(tmp_path, Timed(), "finding-phantom", limit=n) for n in (None, 8, 1000))
    counts = [results.records[0].measurements[0].n for results in (whole, few, more)]
    assert counts == [24, 8, 24]
    keys = [results.records[0].measurements[0].key for results in (whole, few, more)]
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"limit": 0}, "a limit of 0 samples"),
        ({"devices": ["raspberry-pi-5"]}, "machines of a cluster"),
        ({"ray": "auto", "tuned": True}, "holds for one machine"),
    ],
)
def test_what_cannot_be_asked_for_together(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        runner.bench(Sweep([Path("x")], **given))


@pytest.mark.usefixtures("stubs")
def test_a_crash_at_one_task_leaves_the_others_theirs(tmp_path: Path) -> None:
    class Crashing(Timed):
        def run(self, cells: Sequence[Cell], report: Receiver, *, alone: bool = False) -> None:
            for cell in cells:
                super().run([cell], lambda cell, outcome: report(cell, _crash(cell, outcome)), alone=alone)

    def _crash(cell: Cell, outcome: Outcome) -> Outcome:
        hit = cell.model.level == "bad" and outcome.task == "finding-phantom"
        return Outcome(outcome.task, None, 0.0, "it died with SIGSEGV") if hit else outcome

    names = ("finding-phantom", "yesno-phantom", "fidelity-encoder")
    results = measure(tmp_path, Crashing(), *names)
    assert results.errors == ("Stub model, bad, finding-phantom: it died with SIGSEGV",)
    expected = measure(tmp_path, Timed(), *names)

    def others(given: Results) -> list[Measurement]:
        return [
            replace(m, seconds=0.0)
            for record in given.records
            for m in record.measurements
            if (record.row, m.task) != ("bad", "finding-phantom")
        ]

    assert [(m.task, m.metrics) for m in others(results)] == [(m.task, m.metrics) for m in others(expected)]


@pytest.mark.usefixtures("stubs")
@pytest.mark.parametrize("damaged", [None, 3, [], {}, {"truth": ["a"], "predicted": [], "groups": []}], ids=repr)
def test_a_result_of_another_shape_costs_its_own_figure(tmp_path: Path, damaged: Any) -> None:
    """As in a journal of a version with an error: it costs its figure alone, and the next run measures it again."""
    work, names = tmp_path / "work", ("finding-phantom", "yesno-phantom")
    expected = measure(tmp_path, Timed(), *names, work=work, controls=())
    lines = (work / journal.FILE).read_text().splitlines(keepends=True)
    keys = [json.loads(line)["key"] for line in lines if json.loads(line)["outcome"]["task"] == "finding-phantom"]
    (work / journal.FILE).write_text("".join(line for line in lines if keys[-1] not in line))
    journal.append(work, keys[-1], Outcome("finding-phantom", damaged, 1.0))
    results = measure(tmp_path, Timed(), *names, work=work, controls=())
    (error,) = results.errors
    assert error.startswith("Stub model, bad, finding-phantom: no figure follows from what was measured")
    assert [r.of("yesno-phantom") for r in results.records] == [r.of("yesno-phantom") for r in expected.records]
    again = Timed()
    assert figures(as_json(measure(tmp_path, again, *names, work=work, controls=()))) == figures(as_json(expected))
    assert [(cell.row, [task.name for task in cell.tasks]) for cell in again.cells] == [("bad", ["finding-phantom"])]


def test_each_device_has_its_rows_and_full_precision_its_one() -> None:
    (one,) = on_devices([subject()], ["pi"])
    assert [(row.name, row.device) for row in one.rows] == [("reference", None), ("good", "pi"), ("bad", "pi")]
    (two,) = on_devices([subject()], ["pi", "laptop"])
    assert [row.name for row in two.rows] == ["reference", "good on pi", "good on laptop", "bad on pi", "bad on laptop"]
    assert len({row.id for row in two.rows}) == 5
    assert {row.key for row in two.rows} == {"ref", "good", "bad"}, "the same figures: the same keys"


@pytest.mark.parametrize(("cores", "gigabytes", "weights", "each"), [
    (16, 64, 5_000_000, 1), (16, 64, 4_000_000_000, 8), (16, 24, 27_000_000_000, 16), (4, 8, 300_000_000, 2),
    (2, 1, 10, 2),
])  # fmt: skip
def test_a_cells_cores_follow_from_model_and_machine(cores: int, gigabytes: int, weights: int, each: int) -> None:
    here = replace(environment(), cores=cores, memory_bytes=gigabytes * 10**9)
    assert threads(weights, here) == each


# ---------------------------------------------------------------- room


def _cell(weights: int = 0, threads: int | None = 1) -> Cell:
    return Cell("row", ModelRef("dir", "good"), (CellTask({"name": "x"}),), weights, "work", threads=threads)


def test_cells_side_by_side_have_cores_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    room, lock, busy, most = Room({"one": (4, 10**12), "two": (2, 10**12)}), threading.Lock(), [], []

    def use(cell: Cell) -> None:
        with room.place(cell, ("one", "two")) as (name, cores):
            held = {(name, core) for core in cores}
            with lock:
                assert not held & set(busy), "two cells on one core"
                busy.extend(held)
                most.append(len(busy))
            time.sleep(0.005)
            with lock:
                for one in held:
                    busy.remove(one)

    given = [threading.Thread(target=use, args=(_cell(threads=count),)) for count in (1, 2, 1, 2, 1, 1, 2, 2, 1) * 4]
    for thread in given:
        thread.start()
    for thread in given:
        thread.join()
    assert max(most) > 3, "they took turns"


def test_one_cell_runs_whatever_it_needs_and_no_second_beside_it() -> None:
    room, entered = Room({"one": (2, 10)}), []
    with room.place(_cell(weights=10**9, threads=9), ("one",)) as (name, cores):
        assert (name, cores) == ("one", (0, 1))
        waiting = threading.Thread(target=lambda: entered.append(room.place(_cell(), ("one",)).__enter__()))
        waiting.start()
        time.sleep(0.05)
        assert entered == []
    waiting.join(10)
    assert len(entered) == 1


def test_memory_is_counted_where_cores_are_left() -> None:
    room, second = Room({"one": (8, needed_bytes(0) * 2)}), threading.Event()
    with room.place(_cell(), ("one",)), room.place(_cell(), ("one",)):

        def third() -> None:
            with room.place(_cell(), ("one",)):
                second.set()

        waiting = threading.Thread(target=third)
        waiting.start()
        assert not second.wait(0.05)
    waiting.join(10)
    assert second.is_set()


def test_nothing_waits_for_a_machine_that_is_gone() -> None:
    room, raised = Room({"one": (1, 10**12)}), []

    def wait() -> None:
        try:
            room.place(_cell(), ("one",)).__enter__()
        except EdgekitError as error:
            raised.append(str(error))

    with room.place(_cell(), ("one",)):
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.02)
        room.lose("one")
        waiting.join(10)
    assert raised == ["no machine is left that it could run on"]


# ---------------------------------------------------------------- a machine of a cluster


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Station]:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return lambda root: Station(str(root))


def _labels_job(folder: str, known: str, task: str) -> dict[str, Any]:
    from edgekit.bench.tasks import task as load_task

    given = CellTask(load_task(task).model_dump(mode="json"))
    return Cell("row", ModelRef(folder, "fp32", content=known), (given,), 10, "elsewhere").job()


def test_a_machine_knows_its_copy_by_its_content_and_measures_no_other(
    medsiglip_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, station: Callable[[Path], Station]
) -> None:
    """Wherever it lies there: in the folder that the benchmark was started in, or in the one that a variable names."""
    (task,) = shortened(tmp_path, "labels-phantom", limit=4)
    known = content(medsiglip_artifact, "fp32")
    copy = Path(shutil.copytree(medsiglip_artifact, tmp_path / "copy"))
    monkeypatch.setenv("EDGEKIT_BENCH_ROOT", str(tmp_path))
    (there,) = station(Path("/not/here")).work(_labels_job(copy.name, known, task))
    assert (there["error"], len(there["result"]["truth"])) == (None, 4)
    monkeypatch.delenv("EDGEKIT_BENCH_ROOT")
    for folder, wanted in ((copy.name, identity("another model")), ("nothing", known)):
        (refused,) = station(tmp_path).work(_labels_job(folder, wanted, task))
        assert "not the folder that is measured" in refused["error"]


@pytest.mark.parametrize("size", [0, 1, (1 << 23) - 1, 1 << 23, (1 << 23) + 1, 20_000_000])
def test_what_full_precision_left_travels_whole(tmp_path: Path, station: Callable[[Path], Station], size: int) -> None:
    data = random.Random(size).randbytes(size)
    (tmp_path / "abc.f32").write_bytes(data)
    there = station(tmp_path)
    sent, given = 0, list(pieces(tmp_path / "abc.f32"))
    for number, piece in enumerate(given):
        assert there.sizes("abc") == {}, "half a file has no name"
        sent += len(piece)
        there.receive("abc.f32", piece, first=number == 0, last=sent == size)
    assert there.sizes("abc") == {"abc.f32": size}
    assert b"".join(there.send("abc.f32")) == data
    there.close()


def test_the_file_that_says_all_is_there_travels_last(tmp_path: Path) -> None:
    for second, name in enumerate(("abc.f32", "abc.json")):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (100 + second, 100 + second))
    assert list(sizes(tmp_path, "abc")) == ["abc.f32", "abc.json"]


# ---------------------------------------------------------------- a cluster


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not PYTHON_WITH_RAY, reason="EDGEKIT_RAY names no Python that has ray; see test_serve_ray")
@pytest.mark.skipif(sys.platform != "linux", reason="several addresses of the loopback")
@pytest.mark.parametrize(("kill", "tag"), [(2, None), (None, "raspberry-pi-5")], ids=["a node dies", "a tag"])
def test_a_cluster_gives_the_figures_of_one_machine(
    medsiglip_artifact: Path, tmp_path: Path, kill: int | None, tag: str | None
) -> None:
    """Two nodes; one of them ends as by a power cut while it measures, or has the tag of a device."""
    tasks = shortened(tmp_path, "labels-phantom", "fidelity-encoder", "latency", limit=12)
    given = {"artifacts": [str(medsiglip_artifact)], "tasks": tasks, "rounds": ROUNDS, "controls": []}
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # its sockets' names are long
    settings = {
        "sweep": {**given, "devices": [tag] if tag else []},
        "work": str(tmp_path / "work"),
        "kill": kill,
        "tag": tag,
        "results": str(tmp_path / "cluster.json"),
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    try:
        done = subprocess.run(
            [PYTHON_WITH_RAY, str(HERE / "ray_bench.py"), str(tmp_path / "settings.json")],
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 0, done.stderr[-4000:]
    sweep = Sweep([medsiglip_artifact], tasks=tasks, rounds=ROUNDS, controls=())
    expected, found = (_scores(json.loads(text)) for text in (
        as_json(runner.bench(sweep)), (tmp_path / "cluster.json").read_text(encoding="utf-8")
    ))  # fmt: skip
    assert found == expected
    lines = [json.loads(line)["key"] for line in (tmp_path / "work" / journal.FILE).read_text().splitlines()]
    assert len(lines) == len(set(lines)), "a figure was written down twice"


def _scores(document: dict[str, Any]) -> list[Any]:
    """Every figure that is no time, and of times over how many rounds they are."""
    return [
        [record["row"], m["task"], m["error"], m["paired"]]
        + [(name, figure["n"] if m["kind"] == "latency" else figure) for name, figure in sorted(m["metrics"].items())]
        for record in document["records"]
        for m in record["measurements"]
    ]
