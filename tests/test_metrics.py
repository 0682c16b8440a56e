"""Metrics against closed forms, scipy and scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edgekit import metrics


def _logits(seed: int, shape: tuple[int, ...] = (50, 40)) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, shape)


def test_kl_of_two_outcomes_is_the_closed_form() -> None:
    p, q = 0.7, 0.2
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    reference, candidate = np.log([[p, 1 - p]]), np.log([[q, 1 - q]]) + 5  # a shift of all logits changes nothing
    assert metrics.kl_divergence(reference, candidate)[0] == pytest.approx(expected, rel=1e-12)


def test_kl_agrees_with_scipy() -> None:
    special, stats = pytest.importorskip("scipy.special"), pytest.importorskip("scipy.stats")
    reference, candidate = _logits(0), _logits(1)
    expected = stats.entropy(special.softmax(reference, axis=1), special.softmax(candidate, axis=1), axis=1)
    np.testing.assert_allclose(metrics.kl_divergence(reference, candidate), expected, rtol=1e-9)


def test_kl_is_zero_for_equal_logits_and_stable_for_large_ones() -> None:
    logits = _logits(0).astype(np.float32)
    assert metrics.kl_divergence(logits, logits).max() == 0
    large = np.array([[1e4, 0.0, -1e4]])
    assert metrics.kl_divergence(large, large - 3e4)[0] == 0
    assert metrics.kl_divergence(large, -large)[0] == pytest.approx(2e4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_shown(bad: float) -> None:
    reference = _logits(0, (3, 5))
    candidate = reference.copy()
    candidate[1, 2] = bad
    divergence = metrics.kl_divergence(reference, candidate)
    assert divergence.tolist() == [0, np.inf, 0]
    assert metrics.top1_agreement(reference, candidate).tolist() == [True, False, True]
    summary = metrics.quantiles(divergence)
    assert (summary.n, summary.nonfinite, summary.median) == (3, 1, 0)
    assert (summary.mean, summary.maximum) == (np.inf, np.inf), "no gate passes for what was left out"


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\(2, 4\) against full precision's of shape \(2, 5\)"):
        metrics.kl_divergence(np.zeros((2, 5)), np.zeros((2, 4)))


def test_clear_changes_ignore_near_ties() -> None:
    reference = np.array([[1.0, 0.95, 0.0], [1.0, 0.0, 0.5], [1.0, 0.0, 0.5]])
    candidate = np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.5]])
    assert metrics.top1_agreement(reference, candidate).tolist() == [False, False, True]
    assert metrics.clear_top1_changes(reference, candidate, margin=0.1) == 1
    assert metrics.clear_top1_changes(reference, candidate, margin=0.01) == 2


def test_cosine_of_rows() -> None:
    a = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [np.nan, 1.0]])
    b = np.array([[0.0, 2.0], [3.0, 3.0], [1.0, 0.0], [1.0, 1.0]])
    result = metrics.cosine(a, b)
    assert result == pytest.approx([0, 1, np.nan, np.nan], nan_ok=True)


def test_wilson_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for successes, n in [(0, 10), (10, 10), (7, 10), (431, 500)]:
        mine = metrics.wilson_interval(successes, n)
        theirs = stats.binomtest(successes, n).proportion_ci(method="wilson")
        assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
        assert mine.low <= mine.value <= mine.high


def test_mean_interval_has_the_width_of_the_normal_one_and_is_seeded() -> None:
    values = np.random.default_rng(3).normal(2, 1, 400)
    interval = metrics.mean_interval(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert interval.low == pytest.approx(interval.value - half, abs=0.02)
    assert interval.high == pytest.approx(interval.value + half, abs=0.02)
    assert metrics.mean_interval(values) == interval


def test_groups_are_resampled_whole() -> None:
    """Ten copies of each of 30 values know no more than the 30 values."""
    values = np.random.default_rng(5).normal(0, 1, 30)
    copies, group = np.repeat(values, 10), np.repeat(np.arange(30), 10)
    alone, clustered, naive = (metrics.mean_interval(*args) for args in ((values,), (copies, group), (copies,)))
    assert (clustered.low, clustered.high) == pytest.approx((alone.low, alone.high), abs=1e-12)
    assert clustered.n == 300
    assert naive.high - naive.low < 0.5 * (clustered.high - clustered.low)


def test_paired_interval_inverts_the_score_test() -> None:
    """At an end d of Tango's interval, the score statistic with the likelihood maximized under p12 - p21 = d is z."""
    gained, lost, n = 12, 2, 50
    a, b = np.array([(1, 0)] * gained + [(0, 1)] * lost + [(1, 1)] * (n - gained - lost)).T
    interval = metrics.paired_interval(a, b)
    for d, z in ((interval.low, 1.959964), (interval.high, -1.959964)):
        p21 = np.linspace(max(1e-9, 1e-9 - d), (1 - d) / 2 - 1e-9, 2_000_001)  # brute force in place of the closed form
        likelihood = gained * np.log(p21 + d) + lost * np.log(p21) + (n - gained - lost) * np.log(1 - d - 2 * p21)
        best = p21[likelihood.argmax()]
        assert (gained - lost - n * d) / math.sqrt(n * (2 * best + d * (1 - d))) == pytest.approx(z, abs=1e-4)
    mirrored = metrics.paired_interval(b, a)
    assert (mirrored.low, mirrored.high) == pytest.approx((-interval.high, -interval.low), abs=1e-9)
    assert interval.value == 0.2
    assert interval.low > 0 or interval.high < 0


def test_paired_interval_has_a_width_where_nothing_changed() -> None:
    same = np.array([1, 0, 1, 1] * 25)
    interval = metrics.paired_interval(same, same)
    assert interval.value == 0
    assert interval.low < -0.01 < 0.01 < interval.high
    assert interval.low <= 0 <= interval.high


def test_paired_interval_covers_the_truth() -> None:
    """Simulated pairs with a true drop of 0.1: some 95 % of the intervals must contain it."""
    generator = np.random.default_rng(0)
    truth = generator.random((300, 200, 2))
    a = truth[..., 0] < 0.8
    b = np.where(truth[..., 1] < 0.125, False, a)  # loses an eighth of what a got right: 0.8 / 8 = 0.1
    hits = [i.low <= 0.1 <= i.high for i in (metrics.paired_interval(*pair) for pair in zip(a, b, strict=True))]
    assert 0.90 <= np.mean(hits) <= 0.99


def test_paired_interval_of_graded_scores_is_the_t_interval() -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b = np.random.default_rng(0).beta(4, 2, (2, 300))
    mine, theirs = metrics.paired_interval(a, b), stats.ttest_rel(a, b).confidence_interval()
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=2e-3)


def test_balanced_accuracy_agrees_with_scikit_learn() -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    truth = generator.choice(["a", "b", "c"], 300, p=[0.7, 0.2, 0.1]).tolist()
    predicted = [t if generator.random() < 0.8 else "a" for t in truth]
    mine = metrics.balanced_accuracy(truth, predicted)
    assert mine.value == pytest.approx(sklearn_metrics.balanced_accuracy_score(truth, predicted))
    assert mine.low < mine.value < mine.high
    unparsed: list[str | None] = [None, *predicted[1:]]
    assert metrics.balanced_accuracy(truth, unparsed).value <= mine.value


def _grouped(seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Rights, others' rights and truths of 40 groups whose five items are alike."""
    generator = np.random.default_rng(seed)
    a, b = (np.repeat(generator.random(40) < share, 5).astype(float) for share in (0.8, 0.6))
    return a, b, ["x" if i % 5 < 2 else "y" for i in range(200)]


def test_groups_of_one_item_change_no_interval() -> None:
    a, b, truth = _grouped()
    groups = np.arange(200)
    predicted = [t if right else None for t, right in zip(truth, a, strict=True)]
    wilson = metrics.wilson_interval(int(a.sum()), 200)
    assert metrics.share_interval(a, groups) == metrics.share_interval(a) == replace(wilson, groups=200)
    assert metrics.paired_interval(a, b, groups=groups) == metrics.paired_interval(a, b)
    assert metrics.balanced_accuracy(truth, predicted, groups) == metrics.balanced_accuracy(truth, predicted)


def test_groups_of_several_items_know_less() -> None:
    a, b, truth = _grouped()
    groups = np.repeat(np.arange(40), 5)
    predicted = [t if right else None for t, right in zip(truth, a, strict=True)]
    pairs = [
        (metrics.share_interval(a, groups), metrics.share_interval(a)),
        (metrics.paired_interval(a, b, groups=groups), metrics.paired_interval(a, b)),
        (metrics.balanced_accuracy(truth, predicted, groups), metrics.balanced_accuracy(truth, predicted)),
    ]
    for grouped, naive in pairs:
        assert grouped.value == naive.value
        assert grouped.n == naive.n == 200
        assert grouped.high - grouped.low > 1.5 * (naive.high - naive.low)  # five alike items: sqrt(5) as wide


def test_groups_that_are_all_alike_still_have_an_interval() -> None:
    groups = np.repeat(np.arange(10), 3)
    share = metrics.share_interval(np.ones(30), groups)
    assert (share.value, share.low, share.n) == (1, metrics.wilson_interval(10, 10).low, 30)
    change = metrics.paired_interval(np.ones(30), np.ones(30), groups=groups)
    tenth = metrics.paired_interval(np.ones(10), np.ones(10))
    assert (change.value, change.low, change.high, change.n) == (0, tenth.low, tenth.high, 30)


def test_a_class_that_a_resample_lacks_is_left_out() -> None:
    truth, predicted = ["x"] * 6 + ["y"] * 2, ["x"] * 4 + ["y"] * 4
    interval = metrics.balanced_accuracy(truth, predicted, [0, 0, 1, 1, 2, 2, 3, 3])
    assert interval.value == pytest.approx((4 / 6 + 1) / 2)
    assert 0 <= interval.low < interval.value < interval.high <= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.wilson_interval(0, 0), "0 successes of 0"),
        (lambda: metrics.mean_interval([]), "the mean of no values"),
        (lambda: metrics.paired_interval([1], [1, 0]), "paired scores of 1 and 2 items"),
        (lambda: metrics.balanced_accuracy([], []), "0 predictions of 0 items"),
    ],
)
def test_no_items_have_no_interval(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
