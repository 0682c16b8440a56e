"""The command `edgekit bench`: what its exit code says, and what it refuses before it measures."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_records import answers, compared, logits, results, row, times

from edgekit.bench.results import Results
from edgekit.cli import main
from edgekit.errors import unknown

FULL = row("reference", answers(0.8), logits(1e-5), kind="reference")
LEVEL = row("Q4_0", answers(0.8, compared(-0.005, 0.0, 0.005, within=True)), logits(0.01), times(300, 3e9))


def control(low: float, high: float) -> Results:
    """A run whose control row has this drop."""
    drop = compared(low, (low + high) / 2, high)
    return results(FULL, LEVEL, row("control", answers(0.8 + (low + high) / 2, drop), kind="control"))


@pytest.mark.parametrize(
    ("run", "options", "code", "said"),
    [
        (control(-0.5, -0.3), [], 0, ""),
        (control(-0.1, 0.1), [], 1, "exit code 1: a row that was damaged on purpose shows no damage"),
        (results(FULL, row("Q4_0", times(1, 1, error="it crashed"))), [], 1, "1 could not be measured"),
        (results(FULL, LEVEL), ["--gate", "kl <= 0.001"], 1, "exit code 1: no level of a model keeps every gate"),
        (results(FULL, LEVEL), ["--gate", "kl <= 1"], 0, ""),
    ],
    ids=["damage shows", "no damage shows", "an error", "a gate", "a gate that is kept"],
)
def test_the_exit_code_is_explained(
    run: Results,
    options: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("edgekit.bench.bench", lambda *given, **named: run)
    assert main(["bench", str(tmp_path), *options]) == code
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == (1 if code else 0)


def test_of_many_names_the_nearest_are_shown_and_none_is_cut() -> None:
    known = [f"figure_{kind}_{number}" for kind in ("accuracy", "first_token", "memory") for number in range(40)]
    allowed = str(unknown("figure", "figure_memry_7", known).allowed)
    assert allowed.endswith(", or another of 120")
    shown = allowed.split(", ")[:-1]
    assert len(shown) == 8
    assert set(shown) <= set(known)
    assert shown[0] == "figure_memory_7"
    assert unknown("figure", "a", known[:3]).allowed == ", ".join(known[:3])
