"""Progress: bars on a terminal, a line now and then in a pipe, and a process that died is said at once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.bench import runner
from edgekit.bench.cells import Cell, Outcome, complete
from edgekit.bench.environment import Environment, environment
from edgekit.bench.execute import Receiver
from edgekit.machine.worker import Workers
from edgekit.progress import (
    LINE_EVERY_S,
    Bars,
    Lines,
    Progress,
    Steps,
    amount,
    duration,
    line,
    on_stderr,
    steps_on_stderr,
)


def until(happened: Callable[[], Any], limit_s: float = 60) -> Any:
    """What a question is answered with as soon as it is true."""
    end = time.monotonic() + limit_s
    while not (answer := happened()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
    return answer


def test_a_pipe_gets_lines_of_phase_share_and_rest_until_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    lines = Lines(every_s=0.02)
    said = ""

    def err() -> str:
        nonlocal said
        said += capfd.readouterr().err
        return said

    lines.start("weights", 200)
    until(lambda: "edgekit: weights: 0% after 0 s\n" in err())
    lines.advance(50)
    until(lambda: re.search(r"edgekit: weights: 25% after \d+ s, about \d+ s left\n", err()))
    lines.note("something")
    lines.start("proof", 10)
    until(lambda: "edgekit: proof: 0%" in err())
    assert "edgekit: something\n" in said
    running = threading.active_count()
    lines.finish()
    until(lambda: threading.active_count() < running)
    assert all(text.startswith("edgekit: ") for text in said.splitlines())


def test_a_short_phase_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines.start("weights", 1)
    lines.advance()
    lines.finish()
    lines.finish()
    assert capfd.readouterr() == ("", "")
    assert LINE_EVERY_S == 30


@pytest.mark.parametrize(
    ("done", "total", "seconds", "expected"),
    [
        (0, 10, 30, "x: 0% after 30 s"),
        (5, 10, 30, "x: 50% after 30 s, about 30 s left"),
        (1, 1000, 30, "x: 0% after 30 s"),
        (1, 100, 60, "x: 1% after 60 s, about 99 min left"),
        (1, 10, 7200, "x: 10% after 2.0 h, about 18.0 h left"),
        (10, 10, 300, "x: finishing, 5 min"),
        (11, 10, 30, "x: finishing, 30 s"),
        (0, 0, 30, "x: 30 s so far"),
        (3, 0, 120, "x: 2 min so far"),
    ],
)
def test_a_phase_in_words(done: int, total: int, seconds: float, expected: str) -> None:
    assert line("x", done, total, seconds) == expected


def test_a_duration_in_words() -> None:
    assert [duration(seconds) for seconds in (0, 99, 120, 5940, 6000)] == ["0 s", "99 s", "2 min", "99 min", "1.7 h"]


def test_an_amount_in_words() -> None:
    counts = (0, 499_999, 500_001, 261_700_000, 999_000_000, 2_560_000_000)
    assert [amount(count) for count in counts] == ["0 MB", "0 MB", "1 MB", "262 MB", "999 MB", "2.6 GB"]


def test_every_step_is_said_once_and_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    steps = steps_on_stderr(silent=False)
    assert isinstance(steps, Steps)
    steps.start("verifying 2 MB", 2)
    steps.advance(2)
    assert capfd.readouterr().err == "edgekit: verifying 2 MB\n"
    steps.start("switching", 0)
    steps.note("something")
    steps.finish()
    assert capfd.readouterr().err == "edgekit: switching\nedgekit: something\n"


def test_a_program_is_told_no_steps(capfd: pytest.CaptureFixture[str]) -> None:
    steps = steps_on_stderr(silent=True)
    steps.start("verifying", 1)
    steps.note("something")
    steps.finish()
    assert capfd.readouterr() == ("", "")


def test_a_bar_states_no_share_of_what_nobody_knows(capfd: pytest.CaptureFixture[str]) -> None:
    bars = Bars()
    bars.start("waiting for the disk", 0)
    bars.advance()
    bars.finish()
    shown = capfd.readouterr().err
    assert "waiting for the disk ..." in shown
    assert "%" not in shown
    assert "it/s" not in shown


def test_a_terminal_gets_bars_and_a_pipe_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(on_stderr(), Lines)
    controller, terminal = os.openpty()
    with os.fdopen(terminal, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert isinstance(on_stderr(), Bars)
    os.close(controller)


def test_a_bar_claims_nothing_of_what_is_left_behind_its_last_unit(capfd: pytest.CaptureFixture[str]) -> None:
    bars = Bars()
    bars.start("audit", 2)
    bars.advance(2)
    bars.note("something")
    bars.finish()
    shown = capfd.readouterr().err.replace("\n", "\r").split("\r")
    assert "audit:   0%" in shown[1]
    assert "audit: finishing" in [text.strip() for text in shown]
    assert not [text for text in shown if "100%" in text]
    bars.start("weights", 2)
    bars.finish()
    assert "weights:   0%" in capfd.readouterr().err, "the next phase has a bar again"


def test_a_command_in_a_pipe_says_how_far_it_is(tmp_path: Path) -> None:
    """The seconds between two lines are all that is changed of the real command."""
    code = "import sys; from edgekit import progress\n"
    code += "progress.Lines.__init__.__defaults__ = (0.001,)\n"
    code += "from edgekit.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "synthesize", "medsiglip", str(tmp_path / "s")]
    done = subprocess.run(
        [*command, "--layers", "1", "--vision-layers", "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^edgekit: weights: \d+% after \d+ s", done.stderr, re.MULTILINE)
    assert "\r" not in done.stderr


# ---------------------------------------------------------------- bench


class Notes(Progress):
    """What is reported, in order."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int]] = []
        self.notes: list[str] = []
        self.done = self.finished = 0

    def start(self, label: str, total: int) -> None:
        self.started.append((label, total))

    def advance(self, units: int = 1) -> None:
        self.done += units

    def finish(self) -> None:
        self.finished += 1

    def note(self, text: str) -> None:
        self.notes.append(text)


def dies(job: Any) -> Iterator[Any]:
    """A worker that the system kills, as it does for want of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    yield None


class Killing:
    """Runs cells in real processes, which die."""

    def environment(self, device: str | None) -> Environment:
        return environment()

    def run(self, cells: list[Cell], report: Receiver, *, alone: bool = False) -> None:
        def outcomes(cell: Cell) -> Iterator[Outcome]:
            return (Outcome(**result) for result in Workers().results(dies, cell.job()))

        for cell in cells:
            for outcome in complete(cell, outcomes):
                report(cell, outcome)

    def stop(self) -> None:
        """Nothing runs."""


def test_a_worker_that_was_killed_is_said_at_once_and_phases_report(
    medsiglip_artifact: Path, medsiglip_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))  # the worker imports its function from this file
    notes = Notes()
    sweep = runner.Sweep([medsiglip_artifact], checkpoints=[medsiglip_source], tasks=["labels-phantom"], controls=())
    results = runner.bench(sweep, progress=notes, executor=Killing())  # type: ignore[arg-type]
    assert all("SIGKILL" in error for error in results.errors)
    assert notes.started == [("measuring accuracy and fidelity", 2)]
    assert notes.done == sum(total for _, total in notes.started)
    assert notes.finished
    assert len(notes.notes) == len(set(notes.notes)) == 2, "one for each process, whatever it had to do"
    assert all("SIGKILL" in note for note in notes.notes)
    assert any("fp32" in note for note in notes.notes)
