"""The benchmark's rows, cells, processes and controls, and what an interrupt leaves; on stub models."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_stubs import InProcess, StubChat, StubEmbedder, dataset

from edgekit.artifacts.folders import claimed
from edgekit.artifacts.gates import Gates
from edgekit.artifacts.manifest import FileEntry, Manifest, Preprocessing, SourceRecord
from edgekit.artifacts.manifest import read as read_manifest
from edgekit.bench import Sweep, as_json, datasets, markdown, preflight, runner, worker
from edgekit.bench.cells import Cell, CellTask, Control, ModelRef, Outcome, complete
from edgekit.bench.datasets import Dataset, Sample
from edgekit.bench.environment import environment
from edgekit.bench.execute.local import Local
from edgekit.bench.records import Record
from edgekit.bench.results import Results, controls_show_damage
from edgekit.bench.speed import process
from edgekit.bench.subjects import Subject, TableRow
from edgekit.errors import EdgekitError, UsageError
from edgekit.machine.cpu import cpu
from edgekit.machine.worker import Workers
from edgekit.runtime import tuning_results
from edgekit.runtime.base import Model

FILE = FileEntry(path="tokenizer.json", sha256="0", bytes=1)
MANIFEST = Manifest(
    recipe="stub", title="Stub model", family="medgemma", stand_in="a stub", license="none", modified="",
    source=SourceRecord(name="stub", sha256="abc", files={}), tokenizer=FILE, settings={}, parts=(),
    variants={"good": {}}, default="good", gates=Gates(),
    preprocessing=Preprocessing(size=8, resample="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3),
)  # fmt: skip
OPENERS: dict[str, Callable[[ModelRef], Model]] = {
    "generate": lambda ref: StubChat(wrong_every=_wrong(ref), noise=0 if ref.is_full_precision else 0.5),
    "embed_image": lambda ref: StubEmbedder(wrong_every=_wrong(ref)),
}


def _wrong(ref: ModelRef) -> int:
    """3 bits spoil nothing, 2 with a scale a row every third item; the level `bad` every second."""
    coarse = ref.control is not None and (ref.control.bits, ref.control.scale) == (2, "row")
    return {"bad": 2}.get(ref.level or "", 3 if coarse else 0)


@pytest.fixture
def executor() -> InProcess:
    return InProcess()


def _tasks(folder: Path, *names: str) -> list[str]:
    """The shipped tasks, shortened."""
    short = {"limit": 24, "chunks": 3, "decode_tokens": 3}
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
    original = [TableRow("reference", "reference", ModelRef("ref"), "ref")] if source else []
    variants = [TableRow(name, "variant", ModelRef("dir", name), name, name) for name in levels.split()]
    family = {"generate": "medgemma", "embed_image": "medsiglip"}[ability]
    manifest = MANIFEST.model_copy(update={"family": family})
    checkpoint = Path("ref") if source else None
    subject = Subject(Path("dir"), manifest, checkpoint, frozenset({ability}), (*original, *variants), 10)
    monkeypatch.setattr(runner, "subjects", lambda *given: [subject])
    monkeypatch.setattr(preflight, "check", lambda *given: None)  # these artifacts have no files
    monkeypatch.setattr(process, "limits", lambda folder: None)  # measuring them takes seconds
    monkeypatch.setattr(worker, "open_row", OPENERS[ability])
    monkeypatch.setattr(datasets, "load", lambda name, limit, seed, data: dataset(limit))


def _bench(tmp_path: Path, executor: InProcess, *names: str, work: Path | None = None, rounds: int = 1) -> Results:
    sweep = Sweep([Path("dir")], tasks=_tasks(tmp_path, *names), rounds=rounds)
    return runner.bench(sweep, work=work, progress=False, executor=executor)


def _rows(results: Results) -> dict[str, Record]:
    return {record.row: record for record in results.records}


def test_every_row_gets_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: InProcess) -> None:
    _subject(monkeypatch)
    names = ("finding-phantom", "yesno-phantom", "fidelity-decoder", "fidelity-encoder", "latency")
    results = _bench(tmp_path, executor, *names)
    rows = _rows(results)
    assert list(rows) == ["reference", "good", "bad", "control: decoder at 2 bits, one scale a row"]
    finding = rows["bad"].of("finding-phantom")
    assert finding is not None
    assert finding.metrics["accuracy"].value == 0.5
    assert finding.paired is not None
    assert finding.paired.difference.value == -0.5
    assert finding.paired.difference.high < 0
    reference = rows["reference"].of("finding-phantom")
    assert reference is not None
    assert reference.paired is None
    assert reference.metrics["accuracy"].low < reference.metrics["accuracy"].value
    for name in ("fidelity-decoder", "fidelity-encoder"):
        compared, itself = (rows[row].of(name).metrics for row in ("good", "reference"))  # type: ignore[union-attr]
        assert {name: (figure.low, figure.high) for name, figure in itself.items()} == {
            name: (figure.value, figure.value) for name, figure in itself.items()
        }, "full precision against itself is no sample"
        assert any(figure.low < figure.high for figure in compared.values())
    kl = rows["good"].metric("kl_answers")
    assert kl is not None
    assert kl.value > 0
    assert rows["good"].of("fidelity-decoder").noise_floor == 0  # type: ignore[union-attr]
    assert rows["good"].metric("load_s") is not None
    assert not results.errors


def test_a_tuned_row_says_what_it_ran_with_and_which_rows_there_are_none_of(
    medsiglip_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: InProcess
) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(worker, "open_row", OPENERS["embed_image"])
    monkeypatch.setattr(preflight, "check", lambda *given: None)
    sweep = Sweep([medsiglip_artifact], tasks=_tasks(tmp_path, "labels-phantom"), rounds=1, tuned=True, controls=())
    untuned = runner.bench(sweep, executor=executor)
    assert [record.tuned for record in untuned.records] == [None, None]
    assert "no row as tuned for fp32" in markdown(untuned)
    part = next(part for part in read_manifest(medsiglip_artifact).parts if part.role == "image_encoder")
    run = tuning_results.EncoderRun(runtime="onnxruntime", seconds=1, error=0, worst_error=0)
    tuning_results.save(
        part,
        tuning_results.EncoderResult(
            title="x", role=part.role, level=part.level, part=part.id, threads=cpu().usable_cores, libraries={},
            cpu="x", busy_cores=0, runs=(run,),
        ),
    )  # fmt: skip
    results = runner.bench(sweep, executor=executor)
    said = {"image_encoder": "image_encoder fp32: ONNX Runtime"}
    assert [record["tuned"] for record in json.loads(as_json(results))["records"]] == [None, None, said]
    assert "- fp32, tuned: image_encoder fp32: ONNX Runtime." in markdown(results)
    assert "no row as tuned" not in markdown(results)


def test_a_control_without_effect_is_tried_at_fewer_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: InProcess
) -> None:
    _subject(monkeypatch)
    results = _bench(tmp_path, executor, "finding-phantom")
    assert [cell.model.control.bits for cell in executor.cells if cell.model.control] == [3, 2]
    assert results.shows_damage
    assert "Stub model: a control at 3 bits, one scale a row showed no drop in accuracy" in results.notes


def test_a_table_that_cannot_show_damage_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: InProcess
) -> None:
    _subject(monkeypatch)
    monkeypatch.setattr(worker, "open_row", lambda ref: StubChat())
    results = _bench(tmp_path, executor, "finding-phantom")
    assert not results.shows_damage
    assert not controls_show_damage(results.records)
    assert markdown(results).startswith(
        "**WARNING: Stub model, control: decoder at 2 bits, one scale a tensor: no task shows the damage"
    )


def test_latency_rounds_are_interleaved_and_controls_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: InProcess
) -> None:
    _subject(monkeypatch)
    results = _bench(tmp_path, executor, "latency", rounds=3)
    assert [cell.model.level for cell in executor.cells] == [None, "good", "bad"] * 3
    assert all(executor.alone)
    first = _rows(results)["good"].metric("first_token_ms")
    assert first is not None
    assert (first.value, first.n) == (250, 3)


def test_embedding_models_get_label_tasks_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: InProcess
) -> None:
    _subject(monkeypatch, "embed_image")
    results = _bench(tmp_path, executor, "labels-phantom", "fidelity-encoder")
    assert [m.task for m in results.records[0].measurements] == ["labels-phantom", "fidelity-encoder"]
    assert list(_rows(results))[-1] == "control: image encoder at 2 bits, one scale a row"
    with pytest.raises(UsageError, match="task finding-phantom: none of these models answers questions about images"):
        _bench(tmp_path, executor, "finding-phantom")


def test_without_full_precision_nothing_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: InProcess
) -> None:
    _subject(monkeypatch, source=False)
    results = _bench(tmp_path, executor, "finding-phantom")
    assert list(_rows(results)) == ["good", "bad"]
    assert all(m.paired is None for record in results.records for m in record.measurements)
    assert "nothing is compared with full precision" in results.notes[0]
    with pytest.raises(UsageError, match="fidelity-decoder compares with full precision, and the checkpoint"):
        _bench(tmp_path, executor, "fidelity-decoder")


def test_a_crash_takes_no_other_row_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: InProcess
) -> None:
    _subject(monkeypatch, levels="good crash")
    results = _bench(tmp_path, executor, "finding-phantom", "latency")
    assert len(results.errors) == 2
    assert results.errors[0] == "Stub model, crash, finding-phantom: the worker process ended with SIGSEGV: boom"
    assert _rows(results)["good"].metric("accuracy") is not None
    assert "not measured: Stub model, crash" in markdown(results)


def test_a_control_that_did_not_run_showed_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: InProcess
) -> None:
    """Full precision crashed: there is no drop to look for, and no coarser control is tried in vain."""

    def opened(ref: ModelRef) -> Model:
        if ref.is_full_precision:
            raise EdgekitError("no torch here")
        return StubChat()

    _subject(monkeypatch)
    monkeypatch.setattr(worker, "open_row", opened)
    results = _bench(tmp_path, executor, "finding-phantom")
    assert [cell.model.control.bits for cell in executor.cells if cell.model.control] == [3]
    assert not any("showed no drop" in note for note in results.notes)
    assert results.shows_damage is None
    assert "a row: not run on finding-phantom: full precision was not measured" in markdown(results)


def test_an_unreadable_sample_among_many_leaves_the_others_their_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: InProcess
) -> None:
    _subject(monkeypatch)
    failed = (Sample("nodule", "x", problem="x.jpg is no image"),)
    monkeypatch.setattr(datasets, "load", lambda name, limit, seed, data: replace(dataset(limit), unread=failed))
    results = _bench(tmp_path, executor, "finding-phantom", "fidelity-encoder")
    assert not results.errors
    for measured in results.records[0].measurements:
        assert (measured.n, measured.failed, measured.counted) == (24, ("x.jpg is no image",), "24 of 25")


def test_finished_cells_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: InProcess) -> None:
    _subject(monkeypatch)
    work = tmp_path / "work"
    first = _bench(tmp_path, executor, "finding-phantom", "fidelity-decoder", work=work)
    count = len(executor.cells)
    with (work / "cells.jsonl").open("ab") as stream:
        stream.write(b'\xff\xfe broken\n{"key": "cut sho')
    second = _bench(tmp_path, executor, "finding-phantom", "fidelity-decoder", work=work)
    assert len(executor.cells) == count
    assert [r.measurements[0].metrics for r in first.records] == [r.measurements[0].metrics for r in second.records]


def _asked(cells: list[Cell]) -> list[tuple[str, bool, list[str]]]:
    return [(cell.row, cell.leaves, [task.name for task in cell.tasks]) for cell in cells]


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "another machine"},
        {"versions": {"onnxruntime": "0"}},
        {"code": "other"},
        {"metric_version": 0},
        {"data": 9},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_was_measured_elsewhere_or_on_other_data_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: InProcess, change: dict[str, Any]
) -> None:
    _subject(monkeypatch)
    names = ("finding-phantom", "fidelity-encoder")
    before = _bench(tmp_path, executor, *names, work=tmp_path / "work")
    count = len(executor.cells)
    if "data" in change:
        monkeypatch.setattr(datasets, "load", lambda name, limit, seed, data: dataset(limit, size=change["data"]))
    else:
        changed = replace(environment(), **change)
        monkeypatch.setattr(executor, "environment", lambda device: changed)
    after = _bench(tmp_path, executor, *names, work=tmp_path / "work")
    assert _asked(executor.cells[count:]) == _asked(executor.cells[:count])
    keys = [{m.key for record in results.records for m in record.measurements} for results in (before, after)]
    assert not keys[0] & keys[1]
    stored = [
        {task.stored for cell in cells for task in cell.tasks if task.stored}
        for cells in (executor.cells[:count], executor.cells[count:])
    ]
    assert len(stored[0]) == len(stored[1]) == 1
    assert stored[0] != stored[1]


def test_every_model_is_compared_with_its_own_full_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: InProcess
) -> None:
    measured = []
    for name in ("first", "second"):
        source = TableRow("reference", "reference", ModelRef(f"{name} source"), f"{name} source")
        variant = TableRow("good", "variant", ModelRef(name, "good"), name, "good")
        manifest = MANIFEST.model_copy(update={"title": name})
        measured.append(
            Subject(Path(name), manifest, Path(f"{name} source"), frozenset({"generate"}), (source, variant), 10)
        )
    monkeypatch.setattr(runner, "subjects", lambda *given: measured)
    monkeypatch.setattr(preflight, "check", lambda *given: None)  # these artifacts have no files
    monkeypatch.setattr(worker, "open_row", lambda ref: StubChat(noise=2.0 * ref.folder.startswith("second")))
    monkeypatch.setattr(datasets, "load", lambda name, limit, seed, data: dataset(limit))
    sweep = Sweep([], tasks=_tasks(tmp_path, "fidelity-encoder"), controls=())
    results = runner.bench(sweep, progress=False, executor=executor)
    cosines = [record.metric("cosine_image") for record in results.records]
    assert [figure and figure.value for figure in cosines] == [pytest.approx(1, abs=1e-6)] * 4


def test_tasks_of_different_seeds_see_different_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: InProcess
) -> None:
    def load(name: str, limit: int, seed: int, data: Path | None) -> Dataset:
        """Of the second seed, every image is one that the level `bad` is wrong about."""
        loaded = dataset(limit)
        if seed == 770_002:
            for image in loaded.images:
                image[0, 1] = 0
        return loaded

    _subject(monkeypatch, levels="bad")
    monkeypatch.setattr(datasets, "load", load)
    (first,) = _tasks(tmp_path, "finding-phantom")
    second = tmp_path / "second.toml"
    second.write_text(Path(first).read_text().replace("seed = 770001", "seed = 770002"))
    results = runner.bench(Sweep([], tasks=[first, str(second)], controls=()), progress=False, executor=executor)
    measured = _rows(results)["bad"].measurements
    assert [m.metrics["accuracy"].value for m in measured] == [0.5, 0]
    assert [m.dataset["sha256"] for m in measured] == [dataset(24).sha256, load("", 24, 770_002, None).sha256]


def test_a_worker_reads_its_data_for_every_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: InProcess
) -> None:
    _subject(monkeypatch)
    read: list[int] = []
    monkeypatch.setattr(datasets, "load", lambda name, limit, seed, data: read.append(seed) or dataset(limit))
    (path,) = _tasks(tmp_path, "finding-phantom")
    data = [{**tomllib.loads(Path(path).read_text()), "name": name} for name in ("one", "two")]
    cell = Cell("good", ModelRef("dir", "good"), tuple(map(CellTask, data)), 10, str(tmp_path))
    assert [outcome.error for _ in range(2) for outcome in worker.run(cell)] == [None] * 4
    assert len(read) == 2  # once for both tasks of a cell, and nothing is left for the next cell


def test_a_variant_is_measured_in_its_default_runtime_whatever_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[dict[str, Any]] = []
    monkeypatch.setenv(tuning_results.VARIABLE, "openvino")
    monkeypatch.setattr("edgekit.runtime.open_model", lambda *given, **named: opened.append(named))
    worker.open_row(ModelRef("dir", "good"))
    assert [tuning_results.named(given.get("runtime")) for given in opened] == [tuning_results.DEFAULT]


def test_full_precisions_results_of_other_code_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: InProcess
) -> None:
    _subject(monkeypatch)
    stale = tmp_path / "work" / "reference" / "0123.f32"
    with claimed(tmp_path / "work"):
        stale.parent.mkdir()
    stale.write_bytes(b"old")
    _bench(tmp_path, executor, "fidelity-decoder", work=tmp_path / "work")
    assert not stale.exists()
    assert len(list(stale.parent.glob("*.f32"))) == 1


def _same_size(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_same_size, lambda path: path.write_bytes(b"broken"), Path.unlink])
@pytest.mark.parametrize("suffix", ["f32", "json", "npz", "sha256"])
def test_what_full_precision_left_is_left_anew_where_it_is_not_as_it_was(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    executor: InProcess,
    suffix: str,
    damage: Callable[[Path], None],
) -> None:
    """What was compared with it before stands, and what is compared now is compared with the right one."""
    _subject(monkeypatch, levels="good")
    names, work = ("fidelity-decoder", "fidelity-encoder"), tmp_path / "work"
    _bench(tmp_path, executor, *names, work=work)
    before = {path.name: path.read_bytes() for path in (work / "reference").iterdir()}
    damage(next((work / "reference").glob(f"*.{suffix}")))
    count = len(executor.cells)
    _subject(monkeypatch, levels="good bad")
    results = _bench(tmp_path, executor, *names, work=work)
    assert not results.errors
    rows = [cell.row for cell in executor.cells[count:] if not cell.model.control]
    assert rows == ["ref", "bad"]
    assert {path.name: path.read_bytes() for path in (work / "reference").iterdir()} == before
    expected = _rows(_bench(tmp_path, executor, *names))["bad"].measurements
    assert [m.metrics for m in _rows(results)["bad"].measurements] == [m.metrics for m in expected]


def test_an_interrupt_stops_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: InProcess) -> None:
    _subject(monkeypatch)

    def interrupt(ref: ModelRef) -> Model:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "open_row", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _bench(tmp_path, executor, "finding-phantom")
    assert executor.stopped


def test_wrong_use() -> None:
    with pytest.raises(UsageError, match="0 rounds"):
        runner.bench(Sweep([Path("x")], rounds=0))
    with pytest.raises(UsageError, match="no artifact to measure"):
        runner.bench(Sweep([]))


def test_cells_survive_json() -> None:
    control = ModelRef("folder", control=Control("decoder", 2, "row"))
    for model in (ModelRef("folder", "Q4_0"), ModelRef("folder"), control):
        tasks = (CellTask({"name": "x"}, "key", "hash"), CellTask({"name": "y"}))
        cell = Cell("row", model, tasks, 5, "work", "data", True, 2, (0, 1), 3, "raspberry-pi-5")
        assert Cell.of(json.loads(json.dumps(cell.job()))) == cell
    assert [ModelRef("f").is_full_precision, control.is_full_precision] == [True, False]


def _cells(tmp_path: Path, n: int = 1) -> list[Cell]:
    model = ModelRef(str(tmp_path / "nothing"), "Q4_0")
    tasks = (CellTask({"name": "x"}), CellTask({"name": "y"}))
    return [Cell(str(i), model, tasks, 10, str(tmp_path)) for i in range(n)]


@pytest.mark.parametrize("alone", [True, False])
def test_a_real_worker_says_why_it_cannot_open_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('the current directory was imported')")
    monkeypatch.chdir(tmp_path)
    came: list[tuple[str, Outcome]] = []
    Local().run(_cells(tmp_path, 2), lambda cell, outcome: came.append((cell.row, outcome)), alone=alone)
    assert sorted((row, outcome.task) for row, outcome in came) == [("0", "x"), ("0", "y"), ("1", "x"), ("1", "y")]
    for _, outcome in came:
        assert re.search(r"nothing: no such folder; try: edgekit export", str(outcome.error))


def _opened(cell: Cell, dies_at: str) -> Iterator[Outcome]:
    for task in cell.tasks:
        if task.name in dies_at:
            raise EdgekitError(f"SIGSEGV at {task.name}")
        yield Outcome(task.name, 1, 0.5)


@pytest.mark.parametrize("dies_at", ["", "a", "c", "ac", "ab", "abcd", "d"])
def test_a_worker_that_dies_takes_the_figure_at_which_it_died(tmp_path: Path, dies_at: str) -> None:
    """The tasks behind it run in another process, in the same order, and none runs twice."""
    ran: list[str] = []

    def run(cell: Cell) -> Iterator[Outcome]:
        for outcome in _opened(cell, dies_at):
            ran.append(outcome.task)
            yield outcome

    cell = replace(_cells(tmp_path)[0], tasks=tuple(CellTask({"name": name}) for name in "abcd"))
    expected = [(name, f"SIGSEGV at {name}" if name in dies_at else None) for name in "abcd"]
    assert [(outcome.task, outcome.error) for outcome in complete(cell, run)] == expected
    assert ran == [name for name in "abcd" if name not in dies_at]


def test_what_a_worker_does_not_finish_is_an_error(tmp_path: Path) -> None:
    (cell,) = _cells(tmp_path)
    assert [outcome.error for outcome in complete(cell, lambda _: iter(()))] == ["it was not finished"] * 2


def test_a_stopped_executor_starts_nothing_and_calls_nothing_a_failure(tmp_path: Path) -> None:
    executor, came = Local(), []
    executor.stop()
    executor.run(_cells(tmp_path), lambda cell, outcome: came.append(outcome.error), alone=True)
    assert came == []


@pytest.mark.parametrize("alone", [True, False])
def test_a_cell_that_is_under_way_at_an_interrupt_did_not_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    """As after Ctrl-C, which this process hears of while the cell's process runs."""
    executor, came = Local(), []

    def killed(self: Workers, work: Any, job: Any) -> Iterator[Any]:
        executor.stop()
        raise EdgekitError("the worker process ended with SIGKILL: it wrote nothing")
        yield

    monkeypatch.setattr(Workers, "results", killed)
    executor.run(_cells(tmp_path, 3), lambda cell, outcome: came.append(outcome.error), alone=alone)
    assert came == []
