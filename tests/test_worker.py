"""Worker processes: results come as they are made, and whatever ends a worker is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import EdgekitError, UsageError
from edgekit.machine import worker
from edgekit.machine.worker import Worker, Workers, death, probe, run


@pytest.fixture(autouse=True)
def _functions_of_this_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers import their functions from this file."""
    folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]  # an empty one is the current
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))


# ---------------------------------------------------------------- what the workers do


def doubles(job: list[int]) -> Iterator[int]:
    for number in job:
        yield 2 * number


def prints(job: Any) -> Iterator[str]:
    print("from Python")
    os.write(1, b"from a library\n")
    yield "only this"


def crashes(job: Any) -> Iterator[str]:
    yield "before"
    print("last words", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def ends_by_ctrl_c(job: Any) -> Iterator[str]:
    yield "before"
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)


def leaves_half_a_line(job: Any) -> Iterator[str]:
    yield "whole"
    os.write(int(job), b'{"half": ')
    os.kill(os.getpid(), signal.SIGSEGV)


def refuses(job: Any) -> Iterator[str]:
    raise UsageError("no such thing", allowed="another", remedy="ask again")
    yield


def fails(job: Any) -> Iterator[str]:
    yield 1 // job


def exits(job: int) -> Iterator[str]:
    sys.exit(job)
    yield


def sleeps(job: Any) -> Iterator[str]:
    yield "asleep"
    time.sleep(60)


def waits_for(job: str) -> Iterator[str]:
    (Path(job) / "pid").write_text(str(os.getpid()))
    yield "asleep"
    time.sleep(60)


def variables(job: list[str]) -> Iterator[str | None]:
    for name in job:
        yield os.environ.get(name)


def says_nothing(job: Any) -> Iterator[str]:
    yield from ()


def imports_from_here(job: Any) -> Iterator[str]:
    yield Path(str(__import__("edgekit").__file__)).as_posix()


def own_interrupt(job: Any) -> Iterator[bool]:
    yield signal.getsignal(signal.SIGINT) is signal.SIG_DFL


# ---------------------------------------------------------------- what the parent sees


def test_results_of_a_job() -> None:
    results, end = run(doubles, [1, 2, 3])
    assert results == [2, 4, 6]
    assert (end.exit_code, end.problem, end.died) == (0, None, None)


def test_a_large_job_arrives_whole() -> None:
    numbers = list(range(100_000))
    assert run(doubles, numbers)[0] == [2 * number for number in numbers]


def test_what_libraries_print_is_no_result() -> None:
    assert run(prints)[0] == ["only this"]


def test_results_come_as_they_are_made() -> None:
    with Worker(sleeps) as process:
        assert next(process.results()) == "asleep"  # long before it ends


def test_a_crash_keeps_what_came_before() -> None:
    results, end = run(crashes)
    assert results == ["before"]
    assert (end.died, end.problem, end.complaint) == ("SIGSEGV", "it died with SIGSEGV", "last words")


def test_a_line_that_a_crash_cut_off_is_none() -> None:
    # The descriptor that `serve` writes results to is the lowest that is free when it starts: 3, or just above.
    for descriptor in (3, 4):
        results, end = run(leaves_half_a_line, descriptor)
        if end.died == "SIGSEGV":
            break
    assert (results, end.died) == (["whole"], "SIGSEGV")


def test_an_error_of_ours_is_one_line() -> None:
    results, end = run(refuses)
    assert (results, end.exit_code) == ([], 1)
    assert end.problem == "no such thing; allowed: another; try: ask again"


def test_other_errors_end_with_their_name() -> None:
    assert str(run(fails, 0)[1].problem).startswith("ZeroDivisionError")
    assert run(exits, 3)[1].problem == "exit code 3"


def test_a_time_limit_keeps_what_came_before() -> None:
    started = time.monotonic()
    results, end = run(sleeps, limit_s=3)
    assert time.monotonic() - started < 30
    assert end.problem == "stopped after 3 s"
    assert end.died is None
    assert results in ([], ["asleep"])  # a busy machine may take longer to start it


def test_a_limit_that_is_not_reached_says_nothing() -> None:
    assert run(doubles, [1], limit_s=600)[1].problem is None


def test_variables_on_top_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "kept")
    monkeypatch.setenv("OVER", "under")
    assert run(variables, ["KEPT", "OVER", "ADDED"], environment={"OVER": "over", "ADDED": "added"})[0] == [
        "kept", "over", "added",
    ]  # fmt: skip


def test_nothing_in_the_current_folder_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('taken over')")
    (tmp_path / "edgekit").mkdir()
    (tmp_path / "edgekit" / "__init__.py").write_text("raise SystemExit('taken over')")
    monkeypatch.chdir(tmp_path)
    (found,), _ = run(imports_from_here)
    assert Path(found).parent.parent == Path(worker.__file__).parent.parent.parent


def test_an_interrupt_is_the_parents_business() -> None:
    assert run(own_interrupt)[0] == [True]


def test_it_ends_with_its_context(tmp_path: Path) -> None:
    def interrupted() -> None:
        with Worker(waits_for, str(tmp_path)) as process:
            next(process.results())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_probe_answers_or_says_why_not() -> None:
    assert probe(prints) == (True, "only this")
    assert probe(crashes) == (False, "it died with SIGSEGV")
    assert probe(refuses) == (False, "no such thing; allowed: another; try: ask again")
    assert probe(says_nothing) == (False, "no answer")


def test_a_probe_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PROBE_LIMIT_S", 0.3)
    assert probe(sleeps) == (False, "no answer within 0 s")


@pytest.mark.parametrize(
    ("code", "name"),
    [(0, None), (1, None), (-11, "SIGSEGV"), (-4, "SIGILL"), (-40, "signal 40"), (0xC000001D, "exception 0xC000001D")],
)
def test_what_ended_a_process(code: int, name: str | None) -> None:
    assert death(code) == name


def test_workers_raise_what_went_wrong() -> None:
    results = Workers().results(crashes, None)
    assert next(results) == "before"
    with pytest.raises(EdgekitError, match="the worker process ended with SIGSEGV: last words"):
        next(results)
    with pytest.raises(EdgekitError, match="ended with exit code 3: it wrote nothing"):
        list(Workers().results(exits, 3))


def test_a_worker_that_ctrl_c_ended_before_us_did_not_fail() -> None:
    results = Workers().results(ends_by_ctrl_c, None)
    assert next(results) == "before"
    with pytest.raises(KeyboardInterrupt):
        next(results)


def test_stopped_workers_end_and_no_more_start() -> None:
    workers, seen = Workers(), []

    def work() -> None:
        try:
            for result in workers.results(sleeps, None):
                seen.append(result)
                workers.stop()
        except EdgekitError as error:
            seen.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert seen[0] == "asleep"
    assert "SIGKILL" in seen[1]
    assert list(workers.results(doubles, [1])) == []


def test_a_worker_nobody_waits_for_is_ended() -> None:
    workers = Workers()
    results = workers.results(sleeps, None)
    next(results)
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 30


def test_it_is_a_program_too() -> None:
    """As the module's own text says: a job on standard input, results on standard output."""
    command = [sys.executable, "-P", "-m", "edgekit.machine.worker", "test_worker:doubles"]
    done = subprocess.run(command, input="[4]", capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == 8
