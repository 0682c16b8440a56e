"""Damaged inputs, thousands of each kind: an error of edgekit's own, or none; never another exception, a death, a hang.

`python tests/fuzz --inputs N` does the same with as many as wanted, and repeats a single one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mutators
import pytest
from engine import Reader, fuzz
from readers import READERS, shares

from edgekit.errors import InputError

INPUTS = 3_000
MANY = 1_000_000


def fuzzed(folder: Path, inputs: int, first: int) -> dict[str, Any]:
    """The command's outcome for each reader: in a process of its own, since workers are forked from it, and a fork of
    one in which other tests have left threads and locks may never end."""
    command = [sys.executable, str(Path(__file__).parent), "--inputs", str(inputs), "--from", str(first)]
    subprocess.run([*command, "--json", str(folder / "outcomes.json")], check=False, capture_output=True)
    return {outcome["reader"]: outcome for outcome in json.loads((folder / "outcomes.json").read_text())}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return fuzzed(tmp_path_factory.mktemp("fuzz"), INPUTS, 0)


@pytest.mark.parametrize("name", READERS)
def test_damaged_inputs_end_in_an_error_of_our_own_or_in_none(outcomes: dict[str, Any], name: str) -> None:
    outcome = outcomes[name]
    assert not outcome["findings"]
    assert outcome["inputs"] == shares(INPUTS)[name]
    assert outcome["refused"] or name == "journal", "these inputs are not damaged"  # which leaves damaged lines out


@pytest.mark.slow
def test_a_million_damaged_inputs(tmp_path: Path) -> None:
    for name, outcome in fuzzed(tmp_path, MANY, INPUTS).items():
        assert not outcome["findings"], name


@pytest.mark.parametrize("name", READERS)
def test_what_is_damaged_is_right_before(name: str, tmp_path: Path) -> None:
    """A fuzzer whose seeds are refused for another reason finds nothing."""
    reader = READERS[name]
    refused = 0
    for seed in reader.seeds():
        try:
            reader.read(seed, tmp_path)
        except InputError:  # some of the texts are meant to be
            refused += 1
    assert refused < len(reader.seeds()) / 2
    assert name == "texts" or not refused


class Raw(InputError):
    """An error that shows what it was given, as edgekit's own no longer can."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.raw = message

    def __str__(self) -> str:
        return self.raw


def reads(number: int, fault: str) -> Reader:
    """A reader that does something wrong with one input of many."""

    def read(data: bytes, folder: Path) -> None:
        if data != b"%d" % number:
            raise InputError("refused")
        if fault == "escape":
            raise ZeroDivisionError
        if fault == "death":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "memory":
            bytearray(200 << 20)
        if fault == "terminal":
            raise Raw("\x1b[2J")
        if fault == "long message":
            raise Raw("a" * 100_000)
        if fault == "slow":
            while time.process_time() < 20:
                pass

    numbers = iter(range(10**6))
    return Reader("made up", lambda: [b""], lambda rng, data: b"%d" % next(numbers), read)


@pytest.mark.parametrize("fault", ["escape", "death", "memory", "terminal", "long message"])
def test_every_fault_is_found_and_the_inputs_behind_it_are_tried(fault: str) -> None:
    outcome = fuzz(reads(3, fault), range(10))
    # A worker that died forgot how far it had counted: the next one begins at its first input again.
    assert fault in [finding.fault for finding in outcome.findings]
    assert outcome.findings[0].number == 3
    assert outcome.inputs == 10


def test_a_number_is_one_input() -> None:
    reader = READERS["pictures"]
    made = [reader.mutate(random.Random(7), reader.seeds()[0]) for _ in range(2)]
    assert made[0] == made[1]


def test_json_damage_is_of_many_kinds() -> None:
    data = b'{"a": {"b": [1, 2.5, "text"]}, "c": null}'
    made = {mutators.json_(random.Random(i), data) for i in range(500)}
    assert len(made) > 300
