"""The decision: which level is taken, what gates and devices say, where the Pareto front lies."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from bench_records import answers, compared, logits, results, row, times
from hypothesis import given
from hypothesis import strategies as st

from edgekit import metrics
from edgekit.bench import markdown
from edgekit.bench.decision import Decision, Question, check_known, decide, gates
from edgekit.bench.decision.pareto import front
from edgekit.bench.decision.readings import first, names, readings
from edgekit.bench.records import Record
from edgekit.errors import UsageError
from edgekit.machine.device import Device
from edgekit.metrics import Estimate

EQUAL = compared(-0.005, 0.0, 0.005, within=True, p=1.0)
UNSEEN = compared(-0.04, 0.0, 0.04, within=False, p=1.0, items_needed=5000)
LESS = compared(-0.2, -0.1, -0.05, within=False, p=0.0001, adjusted_p=0.0003)
REFERENCE = row("reference", answers(0.8), logits(1e-5), times(900, 9e9), kind="reference", size=9 * 10**9)
LARGE = row("Q8_0", answers(0.8, EQUAL), logits(0.001, p99=0.02), times(500, 5e9), size=5 * 10**9)
MIDDLE = row("Q4_K_M", answers(0.8, EQUAL), logits(0.01, p99=0.09), times(300, 3e9), size=3 * 10**9)
SMALL = row("Q2_K", answers(0.7, LESS), logits(0.5, p99=3.0), times(200, 2e9), size=2 * 10**9)
SHOWN = row("control", answers(0.1, compared(-0.8, -0.7, -0.6)), kind="control")
ROWS = (REFERENCE, LARGE, MIDDLE, SMALL, SHOWN)
PI = Device(name="pi", title="A Pi", memory_gb=4, model_memory_gb=3.5, cores=4, bandwidth_gb_s=12)


def decided(*rows: Record, gate: str = "", device: Device | None = None) -> Decision:
    (made,) = decide(rows, Question(gates([gate]) if gate else (), device))
    return made


def chosen(*rows: Record, gate: str = "", device: Device | None = None) -> str | None:
    made = decided(*rows, gate=gate, device=device).chosen
    return made.record.row if made else None


def test_without_a_question_the_smallest_that_is_proven_equal_is_taken() -> None:
    assert chosen(*ROWS) == "Q4_K_M"
    assert "smallest of 2 levels with scores proven to lie within 1 point" in decided(*ROWS).reasons[0]


def test_what_is_not_proven_is_no_equality() -> None:
    rows = [replace(r, measurements=(answers(0.8, UNSEEN),)) for r in (LARGE, MIDDLE)]
    rows[0] = replace(rows[0], measurements=(answers(0.8, compared(-0.03, 0.0, 0.03, within=False)),))
    made = decided(*rows)
    assert made.chosen is not None
    assert made.chosen.record.row == "Q8_0"  # it can have lost 3 points, the other one 4
    # Two one-sided tests of a standard error that gives 3 points at 1.96: 240 ((1.645 + 1.282) (3 / 1.96) / 1)^2.
    assert made.reasons[1].endswith("a level that lost nothing would need 4,816 on finding-phantom")
    assert "5,000" not in " ".join(made.reasons)  # what shows a drop of a point


def test_what_failed_on_a_task_is_not_proven_there() -> None:
    other = answers(0.8, EQUAL, "finding-xray")
    large = replace(LARGE, measurements=(*LARGE.measurements, other))
    killed = replace(other, metrics={}, paired=None, error="killed")
    small = replace(MIDDLE, measurements=(*MIDDLE.measurements, killed))
    assert chosen(large, small) == "Q8_0"
    made = decided(small, replace(SMALL, measurements=(*SMALL.measurements, other)))
    assert made.chosen is not None
    assert made.chosen.record.row == "Q4_K_M"
    assert made.reasons[0].endswith("it was not compared on finding-xray")


def test_where_every_level_has_lost_the_least_loss_is_taken_and_said() -> None:
    worse = compared(-0.4, -0.3, -0.2, adjusted_p=0.0003)
    made = decided(SMALL, replace(LARGE, measurements=(answers(0.5, worse),)))
    assert made.chosen is not None
    assert made.chosen.record.row == "Q2_K"
    assert "proven to have lost" in made.reasons[0]


@pytest.mark.parametrize(("adjusted", "said"), [(0.049, "less"), (0.051, "unseen"), (None, "less")])
def test_a_loss_is_what_is_proven_after_the_correction(adjusted: float | None, said: str) -> None:
    paired = replace(LESS, adjusted_p=adjusted)
    (candidate,) = decided(row("Q2_K", answers(0.7, paired))).candidates
    assert candidate.quality.name.lower() == said


def test_without_scores_nothing_is_chosen_unless_a_gate_says_what_may_be_lost() -> None:
    rows = (row("a", logits(0.01), size=2), row("b", logits(0.5), size=1))
    assert chosen(*rows) is None
    assert "no gate says what may be lost" in decided(*rows).reasons[0]
    assert chosen(*rows, gate="kl <= 0.1") == "a"
    assert chosen(*rows, gate="kl <= 1.1") == "b"


def test_a_gate_is_tested_at_the_bound_of_the_interval() -> None:
    """The upper end of a drop is the lower end of the difference, turned around and in points."""
    (reading,) = readings(SMALL)["accuracy_drop"]
    assert (reading.value, reading.low, reading.high) == pytest.approx((10, 5, 20))
    for limit, kept in ((19.9, False), (20.1, True)):
        (small,) = (c for c in decided(*ROWS, gate=f"accuracy_drop <= {limit}").candidates if c.record is SMALL)
        assert small.allowed is kept
    assert chosen(*ROWS, gate="accuracy_drop <= 20.1") == "Q2_K"  # the gate says what may be lost
    assert chosen(*ROWS, gate="accuracy_drop <= 1, kl_p99 <= 0.2, first_token_s <= 20") == "Q4_K_M"
    assert chosen(*ROWS, gate="decode_tokens_per_s >= 8") == "Q4_K_M"
    assert chosen(*ROWS, gate="decode_tokens_per_s > 8") is None


def test_a_gate_on_times_alone_leaves_the_choice_to_the_scores() -> None:
    assert chosen(*ROWS, gate="first_token_s <= 20") == "Q4_K_M"
    assert chosen(*ROWS, gate="first_token_s <= 0.24") == "Q2_K"
    made = decided(*ROWS, gate="first_token_s <= 0.1")
    assert made.chosen is None
    assert made.reasons == ("no level keeps every gate",)
    assert [c.against for c in made.candidates] == [
        f"first_token_s <= 0.1 is not kept (first_token_s {middle} on latency, its interval's end {end})"
        for middle, end in ((0.5, 0.55), (0.3, 0.33), (0.2, 0.22))
    ]


def test_every_task_must_keep_a_gate_and_one_can_be_named() -> None:
    rows = (row("a", logits(0.01, "fidelity-text"), logits(0.5, "fidelity-images")), row("reference", kind="reference"))
    assert chosen(*rows, gate="kl <= 0.1") is None
    assert chosen(*rows, gate="fidelity-text:kl <= 0.1") == "a"
    assert "fidelity-images" in decided(*rows, gate="kl <= 0.1").candidates[0].against


def test_a_figure_without_an_interval_is_said_to_have_none() -> None:
    (verdict,) = decided(MIDDLE, gate="kl_p90 <= 0.02").candidates[0].verdicts
    assert verdict.passed
    assert verdict.why.endswith("no interval")
    assert "kl_p99" not in names([row("a", logits(0.1))])  # a percentile that the sample cannot carry


@pytest.mark.parametrize("bound", [math.nan, math.inf])
def test_a_bound_that_is_no_number_keeps_no_gate(bound: float) -> None:
    odd = replace(logits(0.1), metrics={"kl": Estimate(0.1, 0.1, bound, 10)})
    assert chosen(row("a", odd), gate="kl <= 1000") is None


def test_what_failed_keeps_no_gate_and_another_model_is_not_asked() -> None:
    broken = replace(MIDDLE, measurements=(answers(0.8, EQUAL), times(1, 1, error="it crashed")))
    assert chosen(broken, gate="first_token_s <= 20") is None
    encoder = replace(MIDDLE, model="Another", measurements=(answers(0.8, EQUAL),))
    assert chosen(encoder, gate="first_token_s <= 20") == "Q4_K_M"


@pytest.mark.parametrize(
    "text",
    ["kl", "kl = 3", "kl <= x", "<= 3", "kl <= 1 2", "", "kl <= 1..2", "a b <= 2", "accuracy <= 1e999", "kl <= nan"],
)
def test_a_gate_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match="gate") as caught:
        gates([text])
    assert "accuracy_drop <= 1" in str(caught.value)
    assert "shares from 0 to 1, drops in points" in str(caught.value)


def test_a_gate_on_what_nobody_measured_names_what_there_is() -> None:
    with pytest.raises(UsageError, match=r"unknown figure in a gate 'kl_p98': did you mean .*kl_p99"):
        check_known(gates(["kl_p98 <= 1"]), ROWS)
    with pytest.raises(UsageError, match="unknown task in a gate 'finding-phantoms': did you mean finding-phantom"):
        check_known(gates(["finding-phantoms:accuracy_drop <= 1"]), ROWS)
    check_known(gates(["accuracy_drop <= 1, finding-phantom:accuracy >= 0.5"]), ROWS)


@pytest.mark.parametrize("gate", ["accuracy >= 50", "finding-phantom:accuracy > -1", "top1 >= 98"])
def test_a_share_is_no_percentage(gate: str) -> None:
    agreeing = replace(logits(0.1), metrics={"top1": Estimate(0.9, 0.8, 0.95, 9, method="Wilson")})
    rows = (REFERENCE, replace(MIDDLE, measurements=(answers(0.8, EQUAL), agreeing)))
    with pytest.raises(UsageError, match="is a share") as caught:
        check_known(gates([gate]), rows)
    assert "a number from 0 to 1" in str(caught.value)
    assert ("accuracy_drop is in points" in str(caught.value)) is ("accuracy" in gate)
    check_known(gates(["accuracy >= 0.5, top1 >= 0.98, accuracy_drop <= 5, first_token_s <= 20"]), ROWS)


def test_a_task_that_failed_or_is_missing_keeps_no_gate() -> None:
    """Two tasks have accuracies; on a level that was killed in one of them, nobody knows what was lost there."""
    other = answers(0.8, EQUAL, "finding-xray")
    whole = replace(LARGE, measurements=(answers(0.8, EQUAL), other))
    killed = replace(other, metrics={}, paired=None, error="killed")
    for rest in ((killed,), ()):
        small = replace(MIDDLE, measurements=(answers(0.8, EQUAL), *rest))
        for gate in ("accuracy_drop <= 1", "accuracy >= 0.5"):
            made = decided(whole, small, gate=gate)
            assert made.chosen is not None
            assert made.chosen.record.row == "Q8_0"
            assert "was not measured on finding-xray" in made.candidates[1].against
    alone = replace(MIDDLE, measurements=(answers(0.8, EQUAL), killed))
    assert chosen(alone, gate="accuracy_drop <= 1") is None  # no other row says that it is a task with an accuracy


def _of_full_precision(accuracy: float, **details: object) -> Record:
    exact = answers(accuracy, task="yesno")
    return replace(REFERENCE, measurements=(replace(exact, details={**exact.details, **details}),))


@pytest.mark.parametrize(
    ("exact", "said"),
    [
        (
            _of_full_precision(0.0, majority_baseline={"label": "no", "accuracy": 0.5}),
            "better than one answer to everything (0.5)",
        ),
        (_of_full_precision(0.0, majority_baseline=None), "better than no right answer at all"),
        (_of_full_precision(0.54, majority_baseline=None, chance=0.5), "better than chance (0.5)"),
        (_of_full_precision(0.8, unparsed_share=0.62), "62 % of full precision's own answers were not understood"),
    ],
)
def test_where_full_precision_is_no_better_than_chance_nothing_is_proven(exact: Record, said: str) -> None:
    levels = [replace(r, measurements=(answers(0.5, EQUAL, "yesno"),)) for r in (LARGE, MIDDLE)]
    made = decided(exact, *levels)
    assert made.chosen is None
    assert "proven" not in made.reasons[0]
    assert said in made.reasons[1]
    assert made.reasons[1].endswith("yesno cannot show a loss")
    assert "yesno" not in made.axes
    refused = decided(exact, *levels, gate="accuracy_drop <= 1")
    assert refused.chosen is None
    assert "yesno cannot show a loss" in refused.candidates[0].against


def test_a_task_that_can_show_a_loss_decides_beside_one_that_cannot() -> None:
    blind = _of_full_precision(0.1)
    full = replace(blind, measurements=(*blind.measurements, answers(0.8)))
    levels = [
        replace(r, measurements=(answers(0.5, EQUAL, "yesno"), answers(0.8, paired)))
        for r, paired in ((LARGE, EQUAL), (MIDDLE, LESS))
    ]
    made = decided(full, *levels)
    assert made.chosen is not None
    assert made.chosen.record.row == "Q8_0"
    assert made.axes == ("finding-phantom", "memory")
    assert chosen(full, *levels, gate="accuracy_drop <= 1") == "Q8_0"


def test_a_suggested_gate_is_on_what_was_measured() -> None:
    images = replace(logits(0.1), metrics={"cosine_image": Estimate(0.99, 0.98, 1, 9)})
    for measured, suggested in ((logits(0.1), '"kl <= 0.05"'), (images, '"cosine_image >= 0.99"')):
        assert suggested in decided(row("a", measured)).reasons[0]
    agreeing = replace(logits(0.1), metrics={"top1": Estimate(0.9, 0.8, 0.95, 9)})
    assert "--gate" not in decided(row("a", agreeing)).reasons[0]


def test_a_broken_drop_says_how_many_items_would_prove_it() -> None:
    near = replace(MIDDLE, measurements=(answers(0.8, compared(-0.03, 0.0, 0.03, within=False)),))
    (candidate,) = decided(near, gate="accuracy_drop <= 1").candidates
    # The interval's end is one test at 2.5 %: 240 ((1.960 + 0.842) (3 / 1.96) / 1)^2.
    assert candidate.against.endswith("; a level that lost nothing would need 4,414 items)")
    same = np.ones(120)
    unchanged = replace(MIDDLE, measurements=(answers(0.8, metrics.compare(same, same, margin=0.01)),))
    (candidate,) = decided(unchanged, gate="accuracy_drop <= 1").candidates
    # Tango's end of n items that did not change is z^2 / (n + z^2): below 0.01 from 381 on.
    assert "accuracy_drop 0 on" in candidate.against
    assert "would need 381 items" in candidate.against
    far = replace(MIDDLE, measurements=(answers(0.8, LESS),))
    assert "would need" not in decided(far, gate="accuracy_drop <= 1").candidates[0].against


def test_times_of_this_machine_are_not_the_devices() -> None:
    made = decided(*ROWS, gate="first_token_s <= 20", device=PI)
    assert "every gate on this machine and fits pi" in made.reasons[0]
    assert made.reasons[-1] == "first_token_s: times are this machine's (A CPU, 2 cores), not pi's"
    assert not any("times are" in reason for reason in decided(*ROWS, gate="kl <= 1", device=PI).reasons)
    same = PI.model_copy(update={"cores": 2, "memory_gb": 8})
    assert not any("times are" in reason for reason in decided(*ROWS, gate="first_token_s <= 20", device=same).reasons)


def test_gates_are_written_as_they_are_read() -> None:
    texts = ["accuracy_drop <= 1", "fidelity-text:kl_p99 < 0.2", "decode_tokens_per_s >= -3e-05"]
    assert [str(gate) for gate in gates([", ".join(texts[:2]), texts[2]])] == texts


def test_units_follow_from_each_other() -> None:
    found = {name: first(MIDDLE, name) for name in ("first_token_s", "peak_memory_gb", "size_mb", "size_gb")}
    values = {name: reading.value for name, reading in found.items() if reading}
    assert values == pytest.approx({"first_token_s": 0.3, "peak_memory_gb": 3, "size_mb": 3000, "size_gb": 3})
    assert "decode_tokens_per_ms" not in names(ROWS)


def test_a_device_forbids_what_is_too_large() -> None:
    assert chosen(*ROWS, device=PI) == "Q4_K_M"
    fits = {c.record.row: c.fit and c.fit.fits for c in decided(*ROWS, device=PI).candidates}
    assert fits == {"Q8_0": False, "Q4_K_M": True, "Q2_K": True}
    tiny = PI.model_copy(update={"model_memory_gb": 0.5})
    made = decided(*ROWS, device=tiny)
    assert made.chosen is None
    assert made.reasons == ("no level fits pi",)
    assert made.candidates[0].against == "takes 5.0 GB, and pi gives a model 0.5 GB"
    peak = replace(MIDDLE, measurements=(*MIDDLE.measurements[:2], times(300, 3.9e9)))
    (candidate,) = decided(peak, device=PI).candidates  # 4 GB as they are sold leave 3.4
    assert candidate.fit is not None
    assert candidate.fit.fits is False
    asked = replace(MIDDLE, memory_bytes=4 * 10**9)  # the manifest knows better than the files' size
    assert chosen(asked, device=PI) is None


def test_rows_that_were_only_timed_are_no_choice() -> None:
    timed = replace(SMALL, row="Q4_K_M, 1 thread", measurements=(times(100, 1e9),))
    assert [c.record.row for c in decided(*ROWS, timed).candidates] == ["Q8_0", "Q4_K_M", "Q2_K"]


def test_a_blind_control_is_said_with_the_decision() -> None:
    blind = replace(SHOWN, measurements=(answers(0.8, EQUAL),))
    assert "no figure here can show any" in decided(*ROWS[:-1], blind).reasons[-1]


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=7))
def test_the_front_is_what_nothing_dominates(points: list[tuple[int, int, int]]) -> None:
    rows = [
        row(str(i), answers(a / 10), replace(logits(0.1), metrics={"kl": Estimate(k, k, k, 9)}), size=s + 1)
        for i, (a, k, s) in enumerate(points)
    ]
    found, axes = front(rows, ["finding-phantom"])
    heights = [(a, -k, -s) for a, k, s in points]
    for i, mine in enumerate(heights):
        better = (all(x >= y for x, y in zip(other, mine, strict=True)) and other != mine for other in heights)
        assert found[i] is not any(better)
    assert axes == ["finding-phantom", "KL", "memory"]


def test_what_was_not_measured_dominates_nothing() -> None:
    unknown = row("unknown", answers(0.9, EQUAL), size=6 * 10**9)
    found, _ = front([LARGE, unknown], ["finding-phantom"])
    assert found == [True, True]  # the more accurate one, and the one with logits and times
    found, _ = front([LARGE, replace(unknown, measurements=())], ["finding-phantom"])
    assert found == [True, False]


def test_the_report_opens_with_the_decision_and_what_it_costs() -> None:
    text = markdown(results(*ROWS), Question(gates(["accuracy_drop <= 1"]), PI))
    assert text.startswith("## Decision\n\n**A model: take Q4_K_M.** The only level that keeps every gate and fits pi.")
    assert text.index("what it costs") < text.index("## A model") < text.index("## Details")
    refused = next(line for line in text.splitlines() if line.startswith("| Q8_0"))
    assert "pi gives a model 3.5 GB" in refused


def test_order_of_rows_changes_nothing() -> None:
    for rows in itertools.permutations(ROWS):
        assert chosen(*rows) == "Q4_K_M"
