"""What the benchmark makes of scores: comparisons of several levels, margins, figures by topic."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from bench_stubs import StubChat, StubEmbedder, dataset

from edgekit import metrics
from edgekit.bench import predictions
from edgekit.bench.corrections import corrected
from edgekit.bench.datasets import Dataset
from edgekit.bench.environment import Environment
from edgekit.bench.kinds.base import RunContext
from edgekit.bench.predictions import Predictions, Scores
from edgekit.bench.records import Measurement, Record
from edgekit.bench.tasks import parse, task
from edgekit.errors import UsageError

HERE = Environment("f" * 64, "A CPU", "x86_64", ("avx2",), 2, 8_000_000_000, {"edgekit": "0.1.0"}, "c" * 40, "d" * 64)
RIGHT = metrics.Estimate(0.8, 0.7, 0.9, 100)


def _measured(p: float | None, name: str = "finding", data: str = "0") -> Measurement:
    compared = metrics.Comparison(metrics.Estimate(-0.1, -0.2, 0, 100), p=p, margin=0.01)
    about = {"name": "phantoms", "sha256": data}
    return Measurement(f"{name}{p}", name, "finding", name, "accuracy", name, about, 100, {"accuracy": RIGHT}, compared)


def _row(name: str, *measured: Measurement, kind: str = "variant", source: str = "s", fingerprint: str = "f") -> Record:
    where = replace(HERE, fingerprint=fingerprint)
    return Record("A model", "r", None, source, name, kind, None, ("gguf",), None, 1, 4.5, None, None, measured, where)


def _adjusted(*rows: Record) -> list[list[float | None]]:
    return [[m.paired.adjusted_p if m.paired else None for m in row.measurements] for row in corrected(rows)]


def test_levels_that_share_a_full_precision_model_are_corrected_together() -> None:
    full = replace(_measured(None), paired=None)
    rows = [
        _row("reference", full, kind="reference"),
        _row("Q8_0", _measured(0.02), _measured(0.04, "yesno")),
        _row("Q4_0", _measured(0.01)),
        _row("int8", _measured(0.04)),
        _row("control", _measured(0.0001), kind="control"),
    ]
    assert _adjusted(*rows) == [
        [None],
        [pytest.approx(0.04), 0.04],
        [pytest.approx(0.03)],
        [pytest.approx(0.04)],
        [None],
    ]
    assert corrected(rows)[0] == rows[0]


def test_another_model_machine_task_or_data_is_another_question() -> None:
    rows = [
        _row("Q4_0", _measured(0.04)),
        _row("Q4_0", _measured(0.04), source="another model"),
        _row("Q4_0", _measured(0.04), fingerprint="another machine"),
        _row("Q4_0", _measured(0.04, data="other images")),
        _row("Q4_0", _measured(0.04, "another task")),
    ]
    assert _adjusted(*rows) == [[0.04]] * 5


def test_what_failed_or_has_no_test_is_no_comparison() -> None:
    failed = replace(_measured(0.001), error="it crashed")
    assert _adjusted(_row("a", _measured(0.02)), _row("b", failed), _row("c", _measured(None))) == [
        [0.02],
        [None],
        [None],
    ]
    assert corrected([]) == ()


def test_merged_runs_are_corrected_anew() -> None:
    one, other = (_row(name, _measured(0.02)) for name in ("Q8_0", "Q4_0"))
    merged = corrected([*corrected([one]), *corrected([other])])
    assert merged == corrected([one, other]) == corrected(merged)
    assert _adjusted(*merged) == [[0.04], [0.04]]


def test_nobody_asks_how_many_items_a_control_needs() -> None:
    many = replace(_measured(0.5), paired=metrics.Comparison(RIGHT, 0.5, items_needed=9999))
    rows = corrected([_row("Q4_0", many), _row("control", many, kind="control")])
    assert [row.measurements[0].paired.items_needed for row in rows] == [9999, None]  # type: ignore[union-attr]


def test_everything_else_of_a_record_stays() -> None:
    row = _row("Q4_0", _measured(0.02))
    (after,) = corrected([row])
    (measured,) = after.measurements
    assert measured.paired is not None
    assert replace(after, measurements=(replace(measured, paired=replace(measured.paired, adjusted_p=None)),)) == row


def test_a_tasks_margin_is_what_counts_as_equal() -> None:
    asked = task("finding-phantom")
    truth = ("a", "b") * 100
    missed = asdict(Predictions(truth, (*truth[:-1], None), tuple(range(200))))
    right = asdict(Predictions(truth, truth, tuple(range(200))))
    found = {}
    for margin in (0.01, 0.05):
        paired = asked.model_copy(update={"margin": margin}).summarize([missed], right).paired
        assert paired is not None
        found[margin] = paired.margin, paired.within, paired.items_needed is None
    assert asked.margin == 0.01
    assert found == {0.01: (0.01, False, False), 0.05: (0.05, True, True)}


@pytest.mark.parametrize("margin", [0, 1, -0.1, "1 %", float("nan")])
def test_a_wrong_margin_names_its_key(margin: Any) -> None:
    good = task("finding-phantom").model_dump(mode="json")
    with pytest.raises(UsageError, match="task finding-phantom: margin: "):
        parse({**good, "margin": margin})


@pytest.mark.parametrize(("groups", "said"), [(range(6), "n = 6; "), ((0, 0, 0, 1, 1, 1), "n = 6 in 2 groups; ")])
def test_the_report_says_how_many_groups_stand_behind_a_figure(groups: Any, said: str) -> None:
    given = Predictions(("a",) * 6, ("a",) * 5 + (None,), tuple(groups))
    found = predictions.figures(given, None, {"prompt": "What?", "parser": "first-label"})
    measured = replace(_measured(None), n=6, metrics=found.metrics, details=found.details)
    assert said in predictions.explanation(measured, [measured])


TOPICS = ("heart", "lung", "lung", "", "heart", "lung")
EXACT, LEVEL = (1, 1, 1, 1, 1, 0), (1, 0, 0.5, 0, 1, 0)


def test_figures_are_given_by_topic_too() -> None:
    found = predictions.by_topic(Scores(LEVEL, range(6), TOPICS), EXACT)
    assert list(found) == ["heart", "lung"]
    lung = [1, 2, 5]
    expected = metrics.share_interval([LEVEL[i] for i in lung], lung)
    change = metrics.paired_interval([LEVEL[i] for i in lung], [EXACT[i] for i in lung], groups=lung)
    assert found["lung"] == {**asdict(expected), "difference": asdict(change)}
    assert (found["heart"]["value"], found["heart"]["n"], found["heart"]["difference"]["value"]) == (1, 2, 0)
    assert predictions.by_topic(Scores(LEVEL, range(6), TOPICS))["lung"]["difference"] is None
    assert predictions.by_topic(Scores(LEVEL, range(6))) == {}


def test_scores_that_are_partly_right_have_the_same_figures() -> None:
    groups = (0, 0, 1, 1, 2, 2)
    found = predictions.score_figures("f1", Scores(LEVEL, groups, TOPICS), EXACT, 0.02)
    assert found.metrics == {"f1": metrics.share_interval(LEVEL, groups)}
    assert found.paired == metrics.compare(LEVEL, EXACT, groups, margin=0.02)
    assert found.details["by_topic"].keys() == {"heart", "lung"}
    alone = predictions.score_figures("f1", Scores(LEVEL, groups))
    assert (alone.paired, alone.details) == (None, {})


@pytest.mark.parametrize(("name", "model"), [("finding-phantom", StubChat), ("labels-phantom", StubEmbedder)])
def test_a_samples_topic_reaches_the_details(name: str, model: Any) -> None:
    given = dataset(16)
    samples = tuple(replace(s, topic="early" if i < 8 else "late") for i, s in enumerate(given.samples))
    asked = task(name)
    result = asked.run(model(wrong_every=5), Dataset(given.source, samples), RunContext(0.0))
    found = asked.summarize([result], result).details["by_topic"]
    assert {topic: (entry["value"], entry["n"]) for topic, entry in found.items()} == {
        "early": (0.75, 8),  # 0 and 5 are wrong
        "late": (0.75, 8),  # 10 and 15
    }
    assert np.isfinite(found["early"]["difference"]["low"])
    assert "by_topic" not in asked.summarize([asked.run(model(), given, RunContext(0.0))]).details
