"""The fuzzer: readers given damaged inputs in worker processes, and what came of each.

Every input follows from its reader's name and its number, so a finding is repeated by naming both. A worker tells which
input it is about to try before it does, so that a death, a hang or an explosion of memory is that input's, and another
worker goes on with the next one.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import tempfile
import time
import traceback
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from edgekit.errors import EdgekitError

Mutate = Callable[[random.Random, bytes], bytes]
# How an input ended that should have ended in an error of edgekit's own, or in nothing at all.
Fault = Literal["escape", "death", "hang", "slow", "memory", "terminal", "long message"]

HANG_S = 60.0  # a worker that says nothing for so long is killed
SLOW_S = 8.0  # of processor time, for one input: machines are busy, and none of these files is large
FREE_BYTES = 48 << 20  # what a reader may take for the smallest input: libraries that load on the way
GROWTH = 10  # and ten times the input beyond that
MOST_BYTES = 6 << 30  # a worker's address space: an explosion must not take the machine with it
LONGEST_MESSAGE = 2000  # of characters: what, where, allowed, remedy


@dataclass(frozen=True)
class Reader:
    """One way into edgekit for what others wrote.

    Attributes:
        seeds: inputs that are read without an error.
        mutate: makes a damaged input of one of them.
        read: reads an input, in a folder of its own; raises EdgekitError for what it refuses.
        weight: its share of all inputs, beside the others'.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    mutate: Mutate
    read: Callable[[bytes, Path], object]
    weight: int = 1


@dataclass(frozen=True)
class Finding:
    """An input that did what none may do."""

    reader: str
    number: int
    fault: Fault
    what: str


@dataclass
class Outcome:
    """What became of a reader's inputs.

    Attributes:
        refused: inputs by the type of the error that they were refused with.
    """

    reader: str
    inputs: int = 0
    accepted: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    slowest_s: float = 0.0
    most_bytes: int = 0


def input_of(reader: Reader, number: int) -> bytes:
    """The input of this number: the same one in every run."""
    rng = random.Random(f"{reader.name} {number}")
    return reader.mutate(rng, rng.choice(reader.seeds()))


def fuzz(reader: Reader, numbers: range, advance: Callable[[int], None] = lambda done: None) -> Outcome:
    """Try inputs one after the other, each in a process that may die of it."""
    outcome, at = Outcome(reader.name), numbers.start
    context = multiprocessing.get_context("fork")
    while at < numbers.stop:
        ours, theirs = context.Pipe()
        with tempfile.TemporaryDirectory(prefix="edgekit-fuzz-") as folder:
            worker = context.Process(target=_work, args=(reader, range(at, numbers.stop), theirs, Path(folder)))
            worker.start()
            theirs.close()
            done = _listen(ours, worker, at, outcome)
            worker.join()
            ours.close()
        advance(done - at)
        at = done
    return outcome


def _listen(ours: Connection, worker: multiprocessing.process.BaseProcess, at: int, outcome: Outcome) -> int:
    """Take down what a worker says until it ends; returns the number of the next input."""
    while True:
        if not ours.poll(HANG_S):
            worker.kill()
            outcome.inputs += 1
            outcome.findings.append(Finding(outcome.reader, at, "hang", f"no end after {HANG_S:.0f} s"))
            return at + 1
        try:
            message = ours.recv()
        except EOFError:
            worker.join()
            if worker.exitcode == 0:
                return at
            code = worker.exitcode or 0
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            outcome.inputs += 1
            outcome.findings.append(Finding(outcome.reader, at, "death", name))
            return at + 1
        number, refusal, faults, seconds, grown = message
        at = number + 1
        outcome.inputs += 1
        outcome.slowest_s = max(outcome.slowest_s, seconds)
        outcome.most_bytes = max(outcome.most_bytes, grown)
        outcome.findings += [Finding(outcome.reader, number, fault, what) for fault, what in faults]
        if refusal:
            outcome.refused[refusal] = outcome.refused.get(refusal, 0) + 1
        elif not faults:
            outcome.accepted += 1


# ---------------------------------------------------------------- in the worker


def _work(reader: Reader, numbers: range, out: Connection, folder: Path) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries in C complain there about each damaged file
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    for number in numbers:
        data = input_of(reader, number)
        _forget_peak()
        before, began = _resident(), time.process_time()
        refusal, faults = _tried(reader, data, folder)
        seconds, grown = time.process_time() - began, max(0, _peak() - before)
        if seconds > SLOW_S:
            faults.append(("slow", f"{seconds:.1f} s of processor time for {len(data)} bytes"))
        if grown > FREE_BYTES + GROWTH * len(data):
            faults.append(("memory", f"{grown} bytes for {len(data)}"))
        out.send((number, refusal, faults, seconds, grown))
    os._exit(0)  # what a fork inherited of its parent, threads among it, is not its own to end


def _tried(reader: Reader, data: bytes, folder: Path) -> tuple[str | None, list[tuple[Fault, str]]]:
    """The type of the error that an input was refused with, and what was wrong with how."""
    faults: list[tuple[Fault, str]] = []
    try:
        reader.read(data, folder)
    except EdgekitError as error:
        text = str(error)
        if unseen := next((c for c in text if controls(c) and c != "\n"), None):
            faults.append(("terminal", f"{unseen!r} in a message"))
        if len(text) > LONGEST_MESSAGE:
            faults.append(("long message", f"{len(text)} characters"))
        return type(error).__name__, faults
    except BaseException as error:  # noqa: BLE001 - a Rust library's panic is no Exception
        last = traceback.extract_tb(error.__traceback__)[-1]
        return None, [("escape", f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}: {error!s:.200}")]
    return None, []


def controls(character: str) -> bool:
    """Whether a character may control a terminal, or turn the direction of what stands there."""
    turns = unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    return turns or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def _forget_peak() -> None:
    with suppress(OSError):  # where the kernel keeps no peaks, memory is not judged
        Path("/proc/self/clear_refs").write_text("5")


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0


def _peak() -> int:
    return _status("VmHWM")


def _resident() -> int:
    return _status("VmRSS")
