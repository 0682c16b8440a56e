"""Ctrl-C and SIGTERM: any command ends soon, tidies up, and says how to go on; what it started ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from house import House

from edgekit.artifacts.folders import claimed
from edgekit.machine.temporary import temporary_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

SOON_S = 10.0  # two seconds on a machine that does nothing else


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        after_s: from the signal on.
        left: processes that it had started and that still run.
    """

    code: int
    output: str
    after_s: float
    left: list[int]


class Started:
    """A command under way, with folders of its own for its cache and for temporary files."""

    def __init__(self, folder: Path, *arguments: str | Path, checkout: Path | None = None) -> None:
        self.temporary, self.cache = folder / "tmp", folder / "cache"
        self.temporary.mkdir(exist_ok=True)
        named = {"TMPDIR": str(self.temporary), "EDGEKIT_CACHE": str(self.cache)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edgekit", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env={**os.environ, **named, **({"PYTHONPATH": str(checkout)} if checkout else {})},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # who runs tests may ignore it
        )

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so, or the command has ended."""
        deadline = time.monotonic() + 300
        while self.process.poll() is None and not condition():
            assert time.monotonic() < deadline, "it hangs"
            time.sleep(0.02)

    def end(self, *numbers: signal.Signals) -> Ended:
        """Send signals, and see what becomes of it."""
        children = []
        if self.process.poll() is None:
            children = psutil.Process(self.process.pid).children(recursive=True)
        began = time.monotonic()
        for number in numbers:
            self.process.send_signal(number)
            time.sleep(0.05)
        output, _ = self.process.communicate(timeout=120)
        after_s = time.monotonic() - began
        _, left = psutil.wait_procs(children, timeout=SOON_S)
        return Ended(self.process.returncode, output, after_s, [one.pid for one in left])

    def nothing_is_left(self) -> bool:
        """Of what was temporary, wherever it lay."""
        return [*self.temporary.iterdir(), *self.cache.glob("edgekit-*")] == []


# Command -> its arguments, and what it says of going on.
COMMANDS = {
    "export": (["medgemma-reference", "--to", "new", "--level", "Q8_0"], "goes on from the parts"),
    "prove": (["{gguf}", "--level", "Q8_0"], "is as it was"),
    "bench": (["{siglip}", "--task", "labels-phantom"], "goes on from what --to DIR holds"),
    "tune": (["{gguf}", "--level", "Q8_0"], "measures the rest"),
    "ask": (["{gguf}", "Tell me about the lungs " * 60], "interrupted"),
}


SLOW = pytest.mark.slow


@pytest.mark.parametrize("seconds", [pytest.param(1.0, marks=SLOW), 3.0, pytest.param(6.0, marks=SLOW)])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_ends_soon(
    command: str,
    seconds: float,
    medgemma_artifact: Path,
    medsiglip_artifact: Path,
    copied: Callable[[Path], Path],
    tmp_path: Path,
) -> None:
    words, said = COMMANDS[command]
    places = {"gguf": copied(medgemma_artifact), "siglip": copied(medsiglip_artifact)}
    before = {path: path.stat().st_mtime_ns for place in places.values() for path in place.rglob("*")}
    started = Started(tmp_path, command, *(word.format(**places) for word in words))
    began = time.monotonic()
    started.wait_for(lambda: time.monotonic() - began > seconds)  # wherever a busy machine has come to by then
    ended = started.end(signal.SIGINT)
    print(f"{command} after {seconds} s: ended in {ended.after_s:.2f} s")
    assert ended.after_s < SOON_S
    assert "Traceback" not in ended.output
    assert "Exception ignored" not in ended.output
    assert ended.left == []
    assert started.nothing_is_left()
    if ended.code != 0:  # else it was done before
        # Before Python has read the program, the signal's own way to end a process is all there is.
        assert ended.code in (130, -signal.SIGINT)
        assert ended.code == -signal.SIGINT or said in ended.output
        assert {path: path.stat().st_mtime_ns for place in places.values() for path in place.rglob("*")} == before


def test_what_a_terminated_benchmark_made_for_itself_goes_with_it(medsiglip_artifact: Path, tmp_path: Path) -> None:
    started = Started(tmp_path, "bench", medsiglip_artifact, "--task", "labels-phantom")
    watched = psutil.Process(started.process.pid)
    started.wait_for(lambda: any("worker" in " ".join(child.cmdline()) for child in watched.children()))
    ended = started.end(signal.SIGTERM)
    assert (ended.code, ended.left) == (143, [])
    assert ended.after_s < SOON_S
    assert started.nothing_is_left()


def test_an_interrupted_export_goes_on_from_what_is_finished(tmp_path: Path) -> None:
    words = ["export", "medgemma-reference", "--to", str(tmp_path / "a"), "--level", "Q8_0"]
    first = Started(tmp_path, *words)
    finished = tmp_path / ".a.partial"
    first.wait_for(lambda: len(list(finished.glob(".*-Q8_0.json"))) == 2)  # both parts are noted, their proof begins
    assert first.end(signal.SIGINT).code == 130
    made = {path.name: path.stat().st_mtime_ns for path in finished.glob("*.gguf")}
    again = Started(tmp_path, *words, "--no-prove")
    assert again.end().code == 0
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("*.gguf")} == made


# ---------------------------------------------------------------- native code, which Python cannot interrupt

STUCK = '''\
"""Work in native code, with all that a command may have about it."""

from argparse import Namespace
from pathlib import Path

from edgekit.commands import Verb


def sleeps(job: str):
    import os, time

    Path(job).write_text(str(os.getpid()))
    time.sleep(600)
    yield


def run(options: Namespace) -> int:
    import numpy as np

    from edgekit.machine.temporary import temporary_folder
    from edgekit.machine.worker import Worker

    with temporary_folder("stuck") as folder, Worker(sleeps, "worker.pid"):
        (folder / "large").write_bytes(bytes(1000))
        matrix = np.random.default_rng(0).normal(size=(4000, 4000))
        while not Path("worker.pid").is_file():
            pass
        Path("ready").write_text("")
        np.linalg.svd(matrix)  # minutes, in one call
    return 0


VERB = Verb("be stuck", ("stuck",), run, go_on="be patient")
'''


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    made = House(tmp_path_factory.mktemp("stuck"))
    made.write("edgekit/commands/stuck.py", STUCK)
    return made


@pytest.fixture
def stuck(house: House, tmp_path: Path) -> Iterator[Started]:
    started = Started(tmp_path, "stuck", checkout=house.root)
    started.wait_for((tmp_path / "ready").is_file)
    time.sleep(0.3)  # into the call
    yield started
    started.process.kill()
    started.process.wait()


@pytest.mark.parametrize("numbers", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_native_code_is_ended(stuck: Started, numbers: list[signal.Signals]) -> None:
    ended = stuck.end(*numbers)
    print(f"{numbers}: ended in {ended.after_s:.2f} s")
    assert ended.after_s < SOON_S
    assert (ended.code, ended.output) == (128 + numbers[0], "edgekit: interrupted; be patient\n")
    assert ended.left == []
    assert stuck.nothing_is_left()


def test_workers_end_with_a_parent_that_was_killed(stuck: Started) -> None:
    ended = stuck.end(signal.SIGKILL)
    assert ended.code == -signal.SIGKILL
    assert ended.left == []
    # What it left is removed by the next process that has temporary files; what is in use, and what is a user's, stays.
    assert list(stuck.temporary.glob("edgekit-stuck-*"))
    with claimed(stuck.temporary / "edgekit-results"):  # what an interrupted command goes on from
        pass
    code = "from edgekit.machine.temporary import temporary_folder as t\nwith t('next'): pass"
    environment = {**os.environ, "TMPDIR": str(stuck.temporary)}
    with temporary_folder("live", stuck.temporary) as live:
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
        assert {path.name for path in stuck.temporary.iterdir()} == {"edgekit-results", live.name}


# ---------------------------------------------------------------- the context itself

CODE = """
import os, signal
from edgekit.machine.interrupts import Interrupted, ending_promptly
{before}
try:
    with ending_promptly(lambda: "last words"):
        {inside}
except Interrupted as ended:
    print("ended", ended.exit_code)
print("after", {after})
"""


@pytest.mark.parametrize(
    ("before", "inside", "after", "said"),
    [
        ("", "os.kill(os.getpid(), signal.SIGINT)", "1", "ended 130\nafter 1\n"),
        ("", "os.kill(os.getpid(), signal.SIGTERM)", "1", "ended 143\nafter 1\n"),
        ("signal.signal(signal.SIGINT, signal.SIG_IGN)", "os.kill(os.getpid(), signal.SIGINT)", "1", "after 1\n"),
        ("mine = lambda number, frame: None; signal.signal(signal.SIGTERM, mine)", "pass",
         "signal.getsignal(signal.SIGTERM) is mine", "after True\n"),
        # What swallows the first is no way out.
        ("", "exec('''try:\\n os.kill(os.getpid(), signal.SIGINT)\\nexcept BaseException:\\n while True: pass''')", "1",
         "last words\n"),
        # Nor is what native code calls back, through which nothing can be raised.
        pytest.param(
            "import ctypes, time",
            "ctypes.CFUNCTYPE(None)(lambda: os.kill(os.getpid(), signal.SIGINT))(); time.sleep(50)",
            "1",
            "last words\n",
            marks=SLOW,  # memory that is made executable, which not every machine that runs tests allows
        ),
    ],
)  # fmt: skip
def test_a_signal_is_raised_once(before: str, inside: str, after: str, said: str) -> None:
    code = CODE.format(before=before, inside=inside, after=after)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout + done.stderr == said
