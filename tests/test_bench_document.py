"""Documents of results: read as they were written, refused where they are not; several as one, two side by side."""

from __future__ import annotations

import csv
import io
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_records import DATA, HERE, THERE, answers, compared, logits, results, row, times
from hypothesis import given
from hypothesis import strategies as st

from edgekit.artifacts.files import sha256_json
from edgekit.bench import as_json, markdown, read, typed, write
from edgekit.bench.decision import Question, gates
from edgekit.bench.decision.pareto import front
from edgekit.bench.report import files
from edgekit.bench.report.files import NAMES, check_place
from edgekit.bench.report.lines import FIELDS, as_csv, as_json_lines
from edgekit.bench.results import Results
from edgekit.bench.runs import Earlier, changes, merge
from edgekit.cli import main
from edgekit.errors import InputError, UsageError
from edgekit.metrics import Estimate

LEVEL = row("Q4_0", answers(0.8, compared(-0.005, 0.0, 0.005, within=True)), logits(0.01), times(300, 3e9))
FULL = row("reference", answers(0.8), logits(1e-5), kind="reference")
RUN = results(FULL, LEVEL)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "results.json"
    path.write_text(as_json(RUN))
    return path


def changed(file: Path, change: Any) -> Path:
    """The file after a change by who writes such files, which has its hash."""
    data = json.loads(file.read_text())
    change(data)
    follows = ("bench_version", "sha256", "controls_show_damage", "controls", "decisions", "changes")
    data["sha256"] = sha256_json({name: value for name, value in data.items() if name not in follows})
    file.write_text(json.dumps(data))
    return file


def test_what_is_written_is_read(file: Path) -> None:
    assert read(file) == RUN
    assert read(file.parent) == RUN
    assert markdown(read(file)) == markdown(RUN)


def test_numbers_that_json_has_not_are_nan_again(tmp_path: Path) -> None:
    infinite = row("Q4_0", replace(logits(1), metrics={"kl": Estimate(float("inf"), float("nan"), float("nan"), 9)}))
    write(results(infinite), tmp_path)
    found = read(tmp_path).records[0].metric("kl")
    assert found is not None
    assert [str(value) for value in (found.value, found.low, found.high)] == ["nan"] * 3
    assert "not finite" in markdown(read(tmp_path))


def drop(*place: str | int) -> Any:
    def change(data: Any) -> None:
        for name in place[:-1]:
            data = data[name]
        del data[place[-1]]

    return change


def put(value: Any, *place: str | int) -> Any:
    def change(data: Any) -> None:
        for name in place[:-1]:
            data = data[name]
        data[place[-1]] = value

    return change


FIRST = ("records", 0, "measurements", 0)
PAIRED = ("records", 1, "measurements", 0, "paired")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop("bench_version"), "bench_version None"),
        (put(0, "bench_version"), "bench_version 0"),
        (put("1", "bench_version"), "bench_version '1'"),
        (put(1, "records", 1, "environment", "metric_version"), "A model, Q4_0: figures of metric version 1"),
        (drop("records"), "no results of a benchmark"),
        (drop(*FIRST, "task"), "results.records.0.measurements.0.task"),
        (put("many", *FIRST, "n"), "results.records.0.measurements.0.n"),
        (put(1, *FIRST, "surprise"), "results.records.0.measurements.0.surprise"),
        (put({}, *FIRST, "metrics", "accuracy"), "metrics.accuracy"),
        (put([], "phases"), "results.phases"),
        (put(True, "bench_version"), "bench_version True"),
        (put(1.0, "bench_version"), "bench_version 1.0"),
        (put("referenz", "records", 0, "kind"), "results.records.0.kind"),
        (put(-1, "records", 0, "bytes"), "bytes -1"),
        (put(-1.0, "records", 1, "measurements", 2, "metrics", "peak_memory_bytes", "low"), "peak_memory_bytes: -1"),
        (put(0.9, *FIRST, "metrics", "accuracy", "low"), "accuracy: an interval from 0.9 to 0.85"),
        (put(7.0, *FIRST, "metrics", "accuracy", "value"), "accuracy: 7 with an interval"),
        (put(1.5, *PAIRED, "p"), "p 1.5"),
        (put({"label": "x"}, *FIRST, "details", "majority_baseline"), "details.majority_baseline.accuracy"),
        (put({"label": "x", "accuracy": 2}, *FIRST, "details", "majority_baseline"), "majority_baseline.accuracy"),
        (put({"a": {"value": 1, "difference": {}}}, *FIRST, "details", "by_topic"), "by_topic.a.difference: no figure"),
        (put({"a": {"value": "1"}}, *FIRST, "details", "by_topic"), "by_topic.a: no figure"),
        (put([1], *FIRST, "details", "step_ms"), "details.step_ms.0"),
        (put({"bandwidth": {}}, *FIRST, "details", "limits"), "details.limits.rates"),
        (drop(*FIRST, "dataset", "title"), "its data has no title"),
        (lambda data: data["records"].append(data["records"][0]), "stands there twice"),
        (lambda data: data["records"][0]["measurements"].append(data["records"][0]["measurements"][0]), "task finding"),
    ],
)
def test_what_is_no_such_document_is_refused_by_name(file: Path, change: Any, said: str) -> None:
    with pytest.raises(InputError, match=r"results\.json: ") as caught:
        read(changed(file, change))
    assert said in str(caught.value)


def test_a_changed_figure_is_seen(file: Path) -> None:
    file.write_text(file.read_text().replace('"value": 0.8', '"value": 0.9'))
    with pytest.raises(InputError, match="is not as it was written"):
        read(file)


def test_what_a_kind_did_not_record_then_is_no_error(file: Path) -> None:
    for change in (drop(*FIRST, "details", "prompt"), put("no such kind", *FIRST, "kind")):
        assert "finding-phantom: Findings; n = 240" in markdown(read(changed(file, change)))


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '{"records": 1, "records": 2}', "\0", '{"a": NaN}', "null"])
def test_what_is_no_json_is_refused(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(InputError):
        read(file)
    with pytest.raises(InputError, match="no such file"):
        read(file.with_name("nothing.json"))


@given(place=st.integers(0, 10_000), letter=st.sampled_from('0"{}[],:-enx'))
def test_a_damaged_document_is_read_or_refused(
    place: int, letter: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = as_json(RUN)
    place %= len(text)
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_text(text[:place] + letter + text[place + 1 :])
    with suppress(InputError):
        assert read(path) == RUN  # what was changed is no part of what was measured


def test_a_wrong_place_is_answered_with_the_right_one(file: Path, tmp_path: Path) -> None:
    write(RUN, tmp_path)
    with pytest.raises(InputError, match="a report, and no results") as caught:
        read(tmp_path / "report.html")
    assert caught.value.remedy == "name results.json beside it, or their folder"
    (tmp_path / "new" / "work").mkdir(parents=True)
    with pytest.raises(InputError, match="a run that is not finished"):
        read(tmp_path / "new")


def test_an_absolute_path_is_not_kept() -> None:
    words = ["bench", "/home/somebody/medgemma", "--data=/data/secret/x", "--to", "a b", "./medsiglip"]
    assert typed(RUN, words).command == "edgekit bench medgemma --data=x --to 'a b' ./medsiglip"


# ---------------------------------------------------------------- several runs


def test_a_run_with_itself_counts_once() -> None:
    merged = merge([RUN, RUN])
    assert merged.records == RUN.records
    assert (merged.notes, merged.command) == (RUN.notes, RUN.command)


def test_tasks_of_one_machine_come_together() -> None:
    one = replace(RUN, records=(replace(LEVEL, measurements=LEVEL.measurements[:1]),))
    other = replace(RUN, records=(replace(LEVEL, measurements=LEVEL.measurements[1:]), FULL))
    assert merge([one, other]).records == (LEVEL, FULL)


def test_what_succeeded_takes_the_place_of_what_failed() -> None:
    broken = replace(LEVEL, measurements=(*LEVEL.measurements[:2], times(1, 1, error="it crashed")))
    for runs in ([broken, LEVEL], [LEVEL, broken]):
        assert merge([replace(RUN, records=(record,)) for record in runs]).records == (LEVEL,)


def test_another_machines_scores_are_taken_and_its_times_are_not() -> None:
    small = replace(LEVEL, environment=THERE, measurements=(times(9000, 2e9),))
    merged = merge([RUN, results(small)])
    there = merged.records[-1]
    assert [m.task for m in there.measurements] == ["latency", "finding-phantom", "fidelity-decoder"]
    assert [m.task for m in merged.records[0].measurements] == ["finding-phantom", "fidelity-decoder"]
    assert there.of("latency") == small.measurements[0]
    assert "finding-phantom of the rows of A small CPU, 4 cores was measured on A CPU, 2 cores" in merged.notes
    text = markdown(merged)
    assert "| machine" in text
    assert "A model on A small CPU, 4 cores: take Q4_0." in text


def test_other_weights_are_another_row() -> None:
    other = replace(LEVEL, part_ids={"decoder": "x"}, environment=THERE, measurements=())
    assert merge([RUN, results(other)]).records[-1] == other


@pytest.mark.parametrize("change", [{"task_sha256": "x"}, {"dataset": {**DATA, "sha256": "1"}}])
def test_protocols_are_never_mixed(change: dict[str, Any]) -> None:
    other = replace(LEVEL, environment=THERE, measurements=(replace(LEVEL.measurements[0], **change),))
    with pytest.raises(InputError, match="task finding-phantom: these runs have different files or data of it"):
        merge([RUN, results(other)])


def test_software_is_never_mixed() -> None:
    other = replace(LEVEL, measurements=(replace(LEVEL.measurements[0], key="of other software"),))
    with pytest.raises(InputError, match=r"A model, Q4_0, finding-phantom: runs of different software") as caught:
        merge([RUN, results(other)])
    assert "--against" in str(caught.value)
    of_another = replace(LEVEL.environment, code="of another")
    newer = replace(LEVEL, measurements=(answers(0.5, task="new"),), environment=of_another)
    with pytest.raises(InputError, match=r"A model, Q4_0, new: runs of different software"):
        merge([RUN, results(newer)])


def test_two_runs_side_by_side() -> None:
    faster = replace(LEVEL, measurements=(answers(0.81), logits(0.01), times(100, 3e9)))
    found, notes = changes(RUN, results(faster))
    clear = {change.figure: (change.before.value, change.after.value) for change in found if change.clear}
    assert clear == {"first_token_ms": (300, 100)}
    assert len(found) == 6
    assert notes == []
    other = replace(faster, measurements=(replace(answers(0.5), task_sha256="x"), answers(0.5, task="new")))
    found, notes = changes(RUN, results(other))
    assert found == []
    assert len(notes) == 2
    text = markdown(results(faster), earlier=Earlier("before", RUN))
    assert "## Against before\n\n1 of 6 figures has clearly changed." in text


def test_what_has_no_interval_has_not_clearly_changed() -> None:
    """A single round, or a figure that was the same in all, says nothing of its spread."""
    for low, high, n in ((300, 300, 5), (290, 310, 1), (float("nan"), float("nan"), 5)):
        busy = replace(times(300, 3e9), metrics={"first_token_ms": Estimate(300, low, high, n)})
        before = results(replace(LEVEL, measurements=(replace(busy, details={"disturbed": "others", "rounds": 5}),)))
        faster = results(replace(LEVEL, measurements=(times(100, 3e9),)))
        (change,) = changes(before, faster)[0]
        assert (change.clear, change.disturbed) == (False, True)
        assert "-, disturbed" in markdown(faster, earlier=Earlier("before", before))


def test_times_of_several_runs_are_marked_and_not_compared() -> None:
    slow = replace(LEVEL, row="Q8_0", level="Q8_0", part_ids={"decoder": "Q8_0"}, measurements=(times(900, 5e9),))
    together = merge([results(LEVEL, slow)])
    assert not [m.run for record in together.records for m in record.measurements if m.run]
    assert "latency" in front(together.records, [])[1]
    apart = merge([results(LEVEL), results(slow)])
    assert [m.run for record in apart.records for m in record.measurements if m.task == "latency"] == ["1", "2"]
    assert "of run 1: Q4_0; of run 2: Q8_0" in apart.notes[-1]
    axes = front(apart.records, [])[1]
    assert "memory" in axes
    assert not {"latency", "decoding"} & set(axes)
    assert "times are of several runs, not interleaved" in markdown(apart)
    third = replace(slow, row="Q2_K", part_ids={"decoder": "Q2_K"})
    again = merge([apart, results(third)])
    assert [m.run for r in again.records for m in r.measurements if m.task == "latency"] == ["1.1", "1.2", "2"]


def test_a_run_that_found_its_figures_says_so() -> None:
    done = replace(LEVEL, measurements=tuple(replace(m, seconds=30.0) for m in LEVEL.measurements))
    found = replace(RUN, records=(done,), phases={"latency": 0.1})
    said = "Time: together 0 s, for figures were already in the folder; to measure all takes 90 s."
    assert said in markdown(found)
    assert "already in the folder" not in markdown(replace(found, phases={"latency": 80.0}))


# ---------------------------------------------------------------- lines and the command


def test_lines_have_every_figure() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(RUN))))
    parsed = [json.loads(line) for line in as_json_lines(RUN).splitlines()]
    assert [set(line) for line in parsed] == [set(FIELDS)] * len(rows)
    for line, cells in zip(parsed, rows, strict=True):
        assert cells == {name: "" if value is None else str(value) for name, value in line.items()}
    figures = [(line["row"], line["figure"], line["value"]) for line in parsed]
    for record in RUN.records:
        for measured in record.measurements:
            for name, figure in measured.metrics.items():
                assert (record.row, name, figure.value) in figures
    (difference,) = (line for line in parsed if line["figure"] == "accuracy_difference")
    assert (difference["within"], difference["margin"], difference["low"]) == (True, 0.01, -0.005)
    (failed,) = csv.DictReader(io.StringIO(as_csv(results(row("Q4_0", times(1, 1, error="it, crashed"))))))
    assert (failed["figure"], failed["error"]) == ("", "it, crashed")


def test_the_command_merges_decides_and_sets_the_exit_code(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small"
    write(results(replace(LEVEL, environment=THERE, measurements=(times(9000, 2e9),))), small)
    assert main(["report", str(file), str(small), "--to", str(tmp_path / "both")]) == 0
    assert capsys.readouterr().out.startswith("## Decision")
    assert len(read(tmp_path / "both").records) == 3
    assert {path.name for path in (tmp_path / "both").iterdir()} == {
        "results.json", "report.md", "report.html", "figures.csv", "figures.jsonl",
    }  # fmt: skip
    assert main(["report", str(file), "--gate", "first_token_s <= 0.331"]) == 0
    capsys.readouterr()
    assert main(["report", str(file), "--gate", "first_token_s <= 0.329", "--json"]) == 1
    (made,) = json.loads(capsys.readouterr().out)["decisions"]
    assert made["chosen"] is None
    assert main(["report", str(file), "--device", "raspberry-pi-5", "--output", "csv"]) == 0
    assert capsys.readouterr().out.startswith("model,recipe")
    assert main(["report", str(file), "--against", str(small), "--output", "html"]) == 0
    assert "only in the later run" in capsys.readouterr().out


def test_nothing_of_the_users_is_overwritten(file: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    for name in ("report.md", "results.json"):
        mine.mkdir()
        (mine / name).write_text("my own")
        assert main(["report", str(file), "--to", str(mine)]) == 2
        assert {path.name: path.read_text() for path in mine.iterdir()} == {name: "my own"}
        (mine / name).unlink()
        mine.rmdir()
    for _ in range(2):  # its own is replaced
        write(RUN, mine)
    (mine / "results.json").rename(mine / ".results.json.0123456789abcdef.partial")  # killed before its last step
    write(RUN, mine)
    assert {path.name for path in mine.iterdir()} == set(NAMES)
    (mine / "report.md").unlink()
    (mine / "report.md").mkdir()
    with pytest.raises(UsageError, match=r"report\.md would be overwritten"):
        check_place(mine)
    with pytest.raises(UsageError, match="is no folder"):
        check_place(file)


def test_what_cannot_be_written_whole_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(RUN, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(results: Results) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "as_csv", full)
    with pytest.raises(OSError, match="No space"):
        write(results(FULL), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_unknown_gate_writes_nothing(file: Path, tmp_path: Path) -> None:
    assert main(["report", str(file), "--to", str(tmp_path / "new"), "--gate", "nothing <= 1"]) == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("gate", "code"), [("kl <= 0.021", 0), ("kl <= 0.019", 1), ("kl_p98 <= 1", 2)])
def test_a_gate_sets_the_exit_code_of_bench_and_costs_no_figure(
    gate: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgekit.bench.bench", lambda *given, **named: RUN)
    assert main(["bench", str(tmp_path), "--to", str(tmp_path / "out"), "--gate", gate]) == code
    assert read(tmp_path / "out").records == RUN.records
    assert read(tmp_path / "out").command == f"edgekit bench {tmp_path.name} --to out --gate '{gate}'"
    assert capsys.readouterr().out.startswith("## Decision")


def test_the_command_says_what_is_wrong(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(file), "--gate", "first_tokn_s <= 1"]) == 2
    told = capsys.readouterr()
    assert told.out.startswith("## Decision")  # the figures are not lost
    assert "unknown figure in a gate 'first_tokn_s': did you mean first_token_s?" in told.err
    assert main(["report", str(file), "--gate", "nonsense"]) == 2
    assert main(["report", str(file), "--device", "nonsense"]) == 2
    changed(file, put(9, "bench_version"))
    assert main(["report", str(file)]) == 1
    assert "measure again with this edgekit" in capsys.readouterr().err


def test_the_document_has_the_decision() -> None:
    data = json.loads(as_json(RUN, Question(gates(["kl <= 0.5"]))))
    (made,) = data["decisions"]
    assert made["chosen"] == "Q4_0"
    assert made["levels"] == {"Q4_0": {"quality": "equal", "gates": {"kl <= 0.5": True}, "fits": None, "against": ""}}
    assert made["machine"] == f"{HERE.cpu}, 2 cores"
