"""Threads follow the load of the machine, and not its every tick."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import psutil
import pytest

from edgekit.runtime.generation import load
from edgekit.runtime.generation.load import ThreadsByLoad, foreign_cores


class Threads:
    """What has threads."""

    def __init__(self, prompts: int, steps: int) -> None:
        self.threads_in_use = (prompts, steps)
        self.set: list[tuple[int, int]] = []

    def set_threads(self, threads: int, step_threads: int) -> None:
        self.set.append((threads, step_threads))


def looked(monkeypatch: pytest.MonkeyPatch, decoder: Any, seen: list[float], cores: int) -> None:
    clock = [0.0]
    monkeypatch.setattr(load.time, "monotonic", lambda: clock[0])
    readings = iter([0.0, *seen])
    follower = ThreadsByLoad(decoder, lambda: next(readings), cores)
    for _ in seen:
        follower.before_a_step()  # too early to look
        clock[0] += 1
        follower.before_a_step()


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([0.0, 0.1, 0.0], []),
        ([1.0, 0.0, 1.0, 0.0], []),  # no two looks in a row
        ([1.0, 1.0], [(4, 3)]),
        ([1.0, 1.1, 0.9, 0.0, 0.0], [(4, 3), (4, 4)]),
        ([4.0, 4.0, 4.0], [(4, 1)]),
        ([0.4, 0.4], []),
    ],
)
def test_as_many_as_there_are_free_cores(
    monkeypatch: pytest.MonkeyPatch, seen: list[float], expected: list[tuple[int, int]]
) -> None:
    decoder = Threads(4, 4)
    looked(monkeypatch, decoder, seen, cores=4)
    assert decoder.set == expected


def test_never_more_than_it_was_opened_with_and_one_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    few, one = Threads(4, 2), Threads(4, 1)
    looked(monkeypatch, few, [1.0, 1.0, 0.0, 0.0], cores=4)
    assert few.set == []
    looked(monkeypatch, one, [4.0, 4.0], cores=4)
    assert one.set == []


@pytest.mark.skipif(not psutil.LINUX, reason="what others use is read as Linux counts it")
def test_another_program_is_seen_and_ones_own_work_is_not() -> None:
    """By the times of both: how busy the machine is otherwise does not matter."""

    def worked(seconds: float) -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        read = foreign_cores()
        read()
        times, began = psutil.Process(other.pid).cpu_times(), time.monotonic()
        worked(0.5)
        elapsed = time.monotonic() - began
        now = psutil.Process(other.pid).cpu_times()
        found = read()
    finally:
        other.kill()
        other.wait()
    theirs = (now.user + now.system - times.user - times.system) / elapsed
    assert found > 0.7 * theirs
    total = psutil.cpu_count() or 1
    assert found <= total - 0.5 / elapsed + 0.3, "our own half second of work is not another's"
