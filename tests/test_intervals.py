"""Intervals and comparisons against scipy, statsmodels and scikit-learn, and how often they hold what they promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit import metrics
from edgekit.metrics import distributions

stats = pytest.importorskip("scipy.stats")


def _shares(hits: int, n: int) -> np.ndarray:
    return np.arange(n) < hits


def _pairs(gained: int, lost: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a level and of full precision, n items of which some were gained and some lost."""
    item = np.arange(n)
    return (item >= lost).astype(float), ((item < lost) | (item >= lost + gained)).astype(float)


@pytest.mark.parametrize("freedom", [1, 2, 4.5, 30, 1e6])
def test_quantiles_of_t_agree_with_scipy(freedom: float) -> None:
    for share in (0.025, 0.3, 0.95, 0.9995):
        mine = distributions.student_quantile(share, freedom)
        assert mine == pytest.approx(stats.t.ppf(share, freedom), rel=1e-7)


@given(st.floats(0, 1), st.floats(0.01, 1e4), st.floats(0.01, 1e4))
def test_the_beta_distribution_agrees_with_scipy(x: float, a: float, b: float) -> None:
    assert distributions.beta_share(x, a, b) == pytest.approx(stats.beta.cdf(x, a, b), abs=1e-9)


@given(st.integers(-1, 60), st.integers(1, 50))
def test_fair_coins_agree_with_scipy(heads: int, n: int) -> None:
    assert distributions.binomial_share(heads, n) == pytest.approx(stats.binom.cdf(heads, n, 0.5), abs=1e-12)


def test_ends_of_a_share_are_the_outer_ones_of_wilson_and_of_half_as_sure_clopper_pearson() -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    for hits, n in ((0, 7), (1, 7), (3, 7), (1, 1000), (999, 1000), (431, 500), (12, 12)):
        mine = metrics.share_interval(_shares(hits, n))
        wilson = proportion.proportion_confint(hits, n, 0.05, "wilson")
        exact = proportion.proportion_confint(hits, n, 0.10, "beta")
        assert mine.low == pytest.approx(min(wilson[0], exact[0]), abs=1e-9)
        assert mine.high == pytest.approx(max(wilson[1], exact[1]), abs=1e-9)


@pytest.mark.parametrize(("n", "least"), [(5, 0.93), (20, 0.92), (100, 0.92), (500, 0.92)])
def test_shares_hold_at_every_truth(n: int, least: float) -> None:
    """The exact coverage at 500 truths, half of them between 0.9 and 0.99999."""
    intervals = [metrics.share_interval(_shares(hits, n)) for hits in range(n + 1)]
    truth = np.concatenate([np.linspace(0.002, 0.998, 250), 1 - np.logspace(-5, -1, 250)])[:, None]
    chance = stats.binom.pmf(np.arange(n + 1), n, truth)
    low, high = (np.asarray([getattr(i, end) for i in intervals]) for end in ("low", "high"))
    covered = (chance * ((low <= truth) & (truth <= high))).sum(axis=1)
    assert covered.min() >= least
    assert covered.mean() >= 0.95


def _clusters(generator: np.random.Generator, count: int, size: int, share: float, alike: float) -> tuple[Any, Any]:
    """Answers that are right with this probability, and their groups; `alike` is the correlation within one."""
    if alike:
        spread = (1 - alike) / alike
        rates = generator.beta(share * spread, (1 - share) * spread, count)
    else:
        rates = np.full(count, share)
    group = np.repeat(np.arange(count), size)
    return (generator.random(len(group)) < rates[group]).astype(float), group


def _covers(draw: Callable[[], metrics.Estimate], truth: float, runs: int) -> float:
    return float(np.mean([e.low <= truth <= e.high for e in (draw() for _ in range(runs))]))


@pytest.mark.parametrize("alike", [0, 0.1, 0.5])
def test_agreement_of_999_in_1000_holds_in_groups(alike: float) -> None:
    """What a bootstrap held 63 to 88 % of: the share of equal top tokens at p = 0.999, positions in groups of 64."""
    generator = np.random.default_rng(0)
    assert _covers(lambda: metrics.share_interval(*_clusters(generator, 25, 64, 0.999, alike)), 0.999, 150) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("alike", [0, 0.05, 0.3, 0.9])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("count", [3, 5, 10, 25, 60])
def test_shares_of_groups_hold(count: int, share: float, alike: float) -> None:
    generator = np.random.default_rng(1)
    for size in (4, 64):
        answers = (_clusters(generator, count, size, share, alike) for _ in range(400))
        assert _covers(lambda given=answers: metrics.share_interval(*next(given)), share, 400) >= 0.84


def test_groups_are_worth_what_cluster_robust_errors_say() -> None:
    api = pytest.importorskip("statsmodels.api")
    answers, group = _clusters(np.random.default_rng(5), 300, 8, 0.6, 0.3)
    fitted = api.OLS(answers, np.ones(len(answers))).fit(cov_type="cluster", cov_kwds={"groups": group})
    mine, half = metrics.share_interval(answers, group), 1.96 * float(fitted.bse[0])
    assert (mine.n, mine.groups) == (2400, 300)
    assert (mine.low, mine.high) == pytest.approx((mine.value - half, mine.value + half), abs=0.02 * half + 5e-4)


@pytest.mark.parametrize("together", [1, 8])
def test_one_pair_among_single_items_changes_next_to_nothing(together: int) -> None:
    """One of 420 answers is lost; whether its item, or another, shares a group with one more."""
    level, alone = np.ones(420), np.arange(420)
    level[together] = 0
    pair = np.where(alone == 2, 1, alone)
    for one, other in (
        (metrics.paired_interval(level, np.ones(420), groups=groups) for groups in (alone, pair)),
        (metrics.share_interval(level, groups) for groups in (alone, pair)),
    ):
        assert (other.low, other.high) == pytest.approx((one.low, one.high), rel=0.01)
    needed = [metrics.compare(level, np.ones(420), groups, margin=0.01).items_needed for groups in (alone, pair)]
    assert needed[1] == pytest.approx(needed[0], rel=0.01)


def test_no_sample_of_groups_knows_less_than_one_item_a_group() -> None:
    answers, group = np.repeat([1.0, 1, 1, 0], 5), np.repeat(np.arange(4), 5)
    whole, single = metrics.share_interval(answers, group), metrics.share_interval([1, 1, 1, 0])
    assert (whole.low, whole.high) == pytest.approx((single.low, single.high))


def test_the_beta_distribution_ends_where_rounding_calls_both_sides_the_slower_one() -> None:
    x, a, b = 0.7853766717368164, 28.4285629271628, 7.042072484101948
    assert distributions.beta_share(x, a, b) == pytest.approx(stats.beta.cdf(x, a, b), abs=1e-9)


def test_partly_right_answers_are_surer_than_right_or_wrong_ones() -> None:
    scores = np.random.default_rng(2).beta(8, 2, 400)
    mine, theirs = metrics.share_interval(scores), stats.ttest_1samp(scores, 0.5).confidence_interval()
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=2e-3)
    assert mine.high - mine.low < 0.5 * (metrics.wilson_interval(320, 400).high - metrics.wilson_interval(320, 400).low)


FEW = settings(max_examples=30)  # each takes milliseconds
SCORES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=25)


@FEW
@given(SCORES, st.data())
def test_an_interval_contains_its_value_and_is_blind_to_order_and_sides(scores: list[float], data: Any) -> None:
    groups = data.draw(st.lists(st.sampled_from("abcd"), min_size=len(scores), max_size=len(scores)))
    order = data.draw(st.permutations(range(len(scores))))
    one = metrics.share_interval(scores, groups)
    assert 0 <= one.low <= one.value <= one.high <= 1
    if len(set(groups)) > 1 or len(scores) > 1:
        assert one.high - one.low > 1e-6  # no finite sample is sure
    other = metrics.share_interval([scores[i] for i in order], [groups[i] for i in order])
    assert (other.low, other.high) == pytest.approx((one.low, one.high), abs=1e-9)
    mirrored = metrics.share_interval([1 - score for score in scores], groups)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((one.low, one.high), abs=1e-9)


@FEW
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 4)), min_size=1, max_size=12))
def test_any_scores_have_figures(items: list[tuple[float, float, int]]) -> None:
    """Scores that differ by next to nothing included."""
    level, exact, groups = (np.asarray(part) for part in zip(*items, strict=True))
    share, found = metrics.share_interval(level, groups), metrics.compare(level, exact, groups, margin=0.01)
    assert 0 <= share.low <= share.value <= share.high <= 1
    assert -1 <= found.difference.low <= found.difference.value <= found.difference.high <= 1
    assert found.p is not None
    assert 0 < found.p <= 1


@FEW
@given(SCORES, st.data())
def test_a_comparison_turned_round_is_its_mirror(scores: list[float], data: Any) -> None:
    exact = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=len(scores), max_size=len(scores)))
    groups = data.draw(st.lists(st.integers(0, 3), min_size=len(scores), max_size=len(scores)))
    there, back = (metrics.compare(*pair, groups, margin=0.1) for pair in ((scores, exact), (exact, scores)))
    assert (-back.difference.high, -back.difference.low) == pytest.approx(
        (there.difference.low, there.difference.high), abs=1e-9
    )
    assert (there.within, there.items_needed) == (back.within, back.items_needed)
    assert there.p == pytest.approx(back.p)
    assert -1 <= there.difference.low <= there.difference.value <= there.difference.high <= 1


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (0, 1), (3, 3), (0, 5), (0, 6), (2, 14), (40, 61)])
def test_p_is_mcnemars(gained: int, lost: int) -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    exact = tables.mcnemar([[50, lost], [gained, 20]], exact=True).pvalue
    # Fagerland 2013: the mid-p value is the exact one without half of what is as likely as the observed on both sides.
    middle = exact - stats.binom.pmf(gained, gained + lost, 0.5) if gained != lost else 1
    mine = metrics.compare(*_pairs(gained, lost, gained + lost + 70))
    assert mine.p == pytest.approx(middle, abs=1e-12)
    assert (mine.gained, mine.lost) == (gained, lost)


@pytest.mark.parametrize("count", [9, 40])
def test_p_of_groups_and_of_partial_scores_is_the_permutation_tests(count: int) -> None:
    """scipy flips all signs, or draws as many."""
    generator = np.random.default_rng(count)
    a, b = generator.choice([0, 0.25, 0.5, 1], (2, count, 3), p=[0.1, 0.3, 0.2, 0.4])
    a += 0.15 * (1 - a)
    groups = np.repeat(np.arange(count), 3)
    sums = (a - b).sum(axis=1)
    theirs = stats.permutation_test(
        (sums, np.zeros(count)), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples",
        vectorized=True, n_resamples=100_000, rng=np.random.default_rng(1),
    )  # fmt: skip
    mine = metrics.compare(a.ravel(), b.ravel(), groups)
    assert mine.p == pytest.approx(theirs.pvalue, abs=1e-9 if count < 12 else 0.015)
    assert (mine.gained, mine.lost) == (None, None)


def test_p_of_a_thousand_changed_items_is_the_normal_one() -> None:
    a, b = np.random.default_rng(1).random((2, 1500))
    a = np.clip(a + 0.02, 0, 1)
    assert metrics.compare(a, b).p == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=0.05)


def test_a_comparison_holds_at_every_truth_and_errs_in_one_of_twenty() -> None:
    """Exact coverage of the interval and error of the test over a grid of true rates of change, 40 items."""
    n, found = 40, {}
    for gained in range(n + 1):
        for lost in range(gained, n + 1 - gained):
            there = metrics.compare(*_pairs(gained, lost, n), margin=0.2)
            low, high = there.difference.low, there.difference.high
            found[gained, lost], found[lost, gained] = (low, high, there), (-high, -low, there)
    counts = np.asarray(list(found))
    low, high = (np.asarray([entry[i] for entry in found.values()]) for i in (0, 1))
    seen = np.asarray([entry[2].p <= 0.05 for entry in found.values()])
    equal = np.asarray([entry[2].within for entry in found.values()])
    rates = [0, 0.002, 0.01, 0.03, 0.1, 0.2, 0.3]
    for gain, loss in ((g, rate) for g in rates for rate in rates):
        chance = stats.multinomial.pmf(np.c_[counts, n - counts.sum(axis=1)], n, [gain, loss, 1 - gain - loss])
        truth = gain - loss
        assert chance[(low <= truth + 1e-12) & (truth - 1e-12 <= high)].sum() >= 0.92
        if gain == loss:
            assert chance[seen].sum() <= 0.05
        if abs(truth) >= 0.2 - 1e-12:
            assert chance[equal].sum() <= 0.05


def test_paired_scores_without_bounds_have_the_interval_of_their_mean_difference() -> None:
    a, b = np.random.default_rng(0).lognormal(0, 1, (2, 200))
    groups = np.arange(200) // 4
    assert metrics.paired_interval(a, b, groups=groups) == metrics.mean_interval(a - b, groups)
    theirs = stats.ttest_rel(a, b).confidence_interval(0.9)
    mine = metrics.paired_interval(a, b, 0.9)
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=0.06)


@pytest.mark.parametrize("alike", [0, 0.3])
def test_a_drop_in_groups_is_covered(alike: float) -> None:
    generator = np.random.default_rng(3)

    def draw() -> metrics.Estimate:
        lost, group = _clusters(generator, 15, 20, 0.1, alike)
        gained = (generator.random(len(lost)) < 0.05) & (lost == 0)
        exact = lost.astype(bool) | ((generator.random(len(lost)) < 0.8) & ~gained)
        return metrics.paired_interval(exact - lost + gained, exact, groups=group)

    assert _covers(draw, -0.1 + 0.9 * 0.05, 150) >= 0.92


def test_equivalence_agrees_with_two_t_tests() -> None:
    weights = pytest.importorskip("statsmodels.stats.weightstats")
    generator = np.random.default_rng(4)
    exact = generator.beta(5, 2, 400)
    level = np.clip(exact + generator.normal(-0.004, 0.05, 400), 0, 1)
    for margin in (0.003, 0.005, 0.007, 0.0095, 0.02):
        p, *_ = weights.ttost_paired(level, exact, -margin, margin)
        assert abs(p - 0.05) > 0.005, "a margin that does not hang by a thread"
        assert metrics.compare(level, exact, margin=margin).within == (p < 0.05)


def test_no_change_proves_equality_only_with_enough_items() -> None:
    few, many = (metrics.compare(np.ones(n), np.ones(n), margin=0.01) for n in (200, 1273))
    assert (few.within, many.within) == (False, True)
    assert (few.p, few.gained, few.lost) == (1, 0, 0)
    assert few.items_needed == pytest.approx(783, abs=3)  # (1.96 * 0.1 + 0.8416 * sqrt(0.0099))^2 / 0.0001
    assert many.items_needed is None
    assert metrics.compare(np.ones(200), np.ones(200)).within is None


def test_as_many_items_as_are_said_to_be_needed_show_the_drop() -> None:
    """With so many items, losing 4 % and gaining 3 %, McNemar's test finds the point in 4 of 5 runs."""
    needed = metrics.compare(*_pairs(15, 20, 500), margin=0.01).items_needed
    assert needed is not None
    gained, lost = np.random.default_rng(0).multinomial(needed, [0.03, 0.04, 0.93], 4000)[:, :2].T
    middle = stats.binom.cdf(gained, gained + lost, 0.5) - 0.5 * stats.binom.pmf(gained, gained + lost, 0.5)
    assert np.mean(middle <= 0.025) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(("gained", "lost", "margin"), [(15, 15, 0.01), (20, 15, 0.03)])
def test_as_many_items_as_are_said_prove_equality(gained: int, lost: int, margin: float) -> None:
    """A level that loses as much as it gains lies within the margin, proven, in 4 of 5 runs.

    Schuirmann's two tests as the 90 % interval of `compare`, simulated.
    """
    needed = metrics.items_to_prove(metrics.compare(*_pairs(gained, lost, 500), margin=margin), margin)
    assert needed is not None
    rate = (gained + lost) / 500 / 2
    drawn = np.random.default_rng(0).multinomial(needed, [rate, rate, 1 - 2 * rate], 150)
    proven = [metrics.compare(*_pairs(up, down, needed), margin=margin).within for up, down, _ in drawn]
    assert 0.7 <= np.mean(proven) <= 0.97


def test_a_level_that_changes_nothing_takes_as_many_items_as_its_interval_says() -> None:
    needed = metrics.items_to_prove(metrics.compare(np.ones(50), np.ones(50), margin=0.01), 0.01)
    assert needed is not None
    assert metrics.compare(np.ones(needed), np.ones(needed), margin=0.01).within
    assert not metrics.compare(np.ones(needed - 2), np.ones(needed - 2), margin=0.01).within
    groups = np.arange(50) // 5
    assert metrics.items_to_prove(
        metrics.compare(np.ones(50), np.ones(50), groups, margin=0.01), 0.01
    ) == pytest.approx(5 * needed, abs=5)


def test_what_is_proven_needs_no_more_items() -> None:
    assert metrics.compare(*_pairs(0, 0, 400), margin=0.01).within
    for gained, lost, n in ((0, 0, 400), (0, 30, 500)):
        assert metrics.compare(*_pairs(gained, lost, n), margin=0.01).items_needed is None
    assert metrics.compare(*_pairs(10, 12, 500), margin=0.01).items_needed


def test_items_of_one_group_need_more_of_them() -> None:
    a, b = _pairs(15, 25, 500)
    groups = np.arange(500) // 5
    alone, together = (metrics.compare(a, b, g, margin=0.01).items_needed for g in (None, groups))
    assert alone is not None
    assert together is not None
    assert 3 * alone < together < 8 * alone  # the changes stand together in fives


def test_holms_correction_agrees_with_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    generator = np.random.default_rng(0)
    for p_values in (*(generator.random(n) ** 4 for n in range(1, 12)), [0.01, 0.01, 0.5], [0.0, 1.0, 1.0]):
        assert metrics.holm(p_values) == pytest.approx(list(multitest.multipletests(p_values, method="holm")[1]))
    assert metrics.holm([]) == []


def test_bca_agrees_with_scipy() -> None:
    values = np.random.default_rng(6).exponential(1, 300)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=8000, method="BCa", rng=np.random.default_rng(0))
    low, high = theirs.confidence_interval
    mine = metrics.bootstrap_interval(lambda weights: float(np.average(values, weights=weights)), 300)
    assert (mine.low, mine.high) == pytest.approx((low, high), abs=0.02)
    mean = metrics.mean_interval(values)
    assert (mean.low, mean.high) == pytest.approx((low, high), abs=0.03)
    assert mean.low <= mine.low + 0.01


def test_f1_over_classes_has_an_interval() -> None:
    """`bootstrap_interval` with scikit-learn's own F1 against scipy's bootstrap of the same figure."""
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(7)
    truth = generator.choice(3, 250, p=[0.6, 0.3, 0.1])
    predicted = np.where(generator.random(250) < 0.8, truth, generator.choice(3, 250))
    hits = truth == predicted

    def f1(weights: np.ndarray) -> float:
        both, named, true = (np.bincount(of, weights * on, 3) for of, on in ((truth, hits), (predicted, 1), (truth, 1)))
        return float(np.mean(2 * both / (named + true)))

    mine = metrics.bootstrap_interval(f1, 250)
    assert mine.value == pytest.approx(sklearn_metrics.f1_score(truth, predicted, average="macro"))
    theirs = stats.bootstrap(
        (np.arange(250),), lambda rows: f1(np.bincount(rows, minlength=250)), vectorized=False, n_resamples=2000,
        method="BCa", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=0.012)
    wide = metrics.bootstrap_interval(f1, 250, np.arange(250) // 10)
    assert (wide.n, wide.groups, wide.method) == (250, 25, "BCa bootstrap")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "mean", "least"),
    [
        (lambda g, n: g.normal(0, 1, n), 0, 0.92),
        (lambda g, n: g.exponential(1, n), 1, 0.90),
        (lambda g, n: g.lognormal(0, 1, n), math.exp(0.5), 0.85),
    ],
    ids=["normal", "exponential", "lognormal"],
)
@pytest.mark.parametrize("n", [5, 10, 20, 100])
def test_means_hold(n: int, draw: Callable[..., Any], mean: float, least: float) -> None:
    generator = np.random.default_rng(n)
    assert _covers(lambda: metrics.mean_interval(draw(generator, n)), mean, 400) >= least


def test_means_of_few_skewed_groups_hold() -> None:
    generator = np.random.default_rng(8)
    assert _covers(lambda: metrics.mean_interval(generator.exponential(1, 10)), 1, 100) >= 0.88


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_ends_of_a_mean_are_finite_where_most_values_are_alike(count: int) -> None:
    divergences = np.where(np.arange(500) < count, 0.3, 0.0)
    for values, most in ((divergences, math.inf), (1 - divergences[:8], 1.0)):
        found = metrics.mean_interval(values, least=0, most=most)
        assert 0 <= found.low <= found.value <= found.high <= most
        assert math.isfinite(found.high)
    assert metrics.mean_interval(divergences, least=0).high < 10 * (count + 1) * 0.3 / 500


@pytest.mark.filterwarnings("error")
@given(st.lists(st.sampled_from([0.1, 0.2, 0.7]), min_size=2, max_size=9), st.data())
@FEW
def test_a_mean_of_any_groups_has_finite_ends_or_none(values: list[float], data: Any) -> None:
    groups = data.draw(st.lists(st.integers(0, 3), min_size=len(values), max_size=len(values)))
    found = metrics.mean_interval(values, groups, least=0.1, most=0.7)
    if len(set(groups)) > 1:
        assert 0.1 <= found.low <= found.value <= found.high <= 0.7 + 1e-12
    elif len(values) > 1:
        assert math.isnan(found.low)


def test_a_mean_says_where_nothing_can_be_known() -> None:
    of_one_group, alike, infinite = (
        metrics.mean_interval(*args) for args in (([0.1, 0.2], [7, 7]), ([2.0] * 9,), ([1.0, math.inf],))
    )
    assert math.isnan(of_one_group.low)
    assert math.isnan(of_one_group.high)
    assert (alike.low, alike.high, alike.method) == (2, 2, "all alike")
    assert (infinite.value, math.isnan(infinite.high)) == (math.inf, True)


def test_percentiles_that_a_sample_cannot_carry_are_not_given() -> None:
    for n, carried in ((63, (False, False)), (64, (True, False)), (661, (True, False)), (662, (True, True))):
        found = metrics.quantiles(np.arange(float(n)))
        assert (found.p90 is not None, found.p99 is not None) == carried
        assert (found.median, found.maximum) == ((n - 1) / 2, n - 1)
    assert metrics.quantile_interval([], 0.9) is None


@pytest.mark.parametrize(("n", "share"), [(64, 0.9), (500, 0.9), (662, 0.99), (3000, 0.99), (101, 0.5)])
def test_percentiles_have_scipys_interval(n: int, share: float) -> None:
    values = np.random.default_rng(n).lognormal(0, 1, n)
    mine = metrics.quantile_interval(values, share)
    assert mine is not None
    theirs = stats.quantile_test(values, p=share).confidence_interval()
    assert (mine.low, mine.high) == (theirs.low, theirs.high)
    assert mine.value == np.quantile(values, share, method="inverted_cdf")


def test_percentiles_of_groups_are_less_sure() -> None:
    generator = np.random.default_rng(9)
    group = np.repeat(np.arange(100), 30)
    values = generator.lognormal(0, 1, 100)[group] * generator.lognormal(0, 0.3, 3000)
    alone, together = (metrics.quantile_interval(values, 0.9, groups) for groups in (None, group))
    assert alone is not None
    assert together is not None
    assert together.value == alone.value
    assert together.high - together.low > 2 * (alone.high - alone.low)
    # A hundred groups do not carry what three thousand values would.
    assert metrics.quantiles(values).p99 is not None
    assert metrics.quantiles(values, group).p99 is None


def test_percentiles_count_what_is_not_finite_as_largest() -> None:
    values = np.r_[np.arange(1000.0), np.full(30, np.inf), np.nan]
    found = metrics.quantile_interval(values, 0.99)
    assert found is not None
    assert found.value == found.high == math.inf


def test_all_right_in_every_class_is_not_certain() -> None:
    truth = ["a"] * 20 + ["b"] * 5
    mine = metrics.balanced_accuracy(truth, truth)
    below = [1 - metrics.share_interval(np.ones(n)).low for n in (20, 5)]
    assert (mine.value, mine.high) == (1, 1)
    assert mine.low == pytest.approx(1 - math.hypot(*below) / 2)
    always = metrics.balanced_accuracy(truth, ["a"] * 25)
    assert always.value == 0.5
    assert always.low < 0.45
    assert always.high > 0.6


@pytest.mark.parametrize("recalls", [(0.5, 0.9), (0.97, 0.999)])
def test_balanced_accuracy_holds(recalls: tuple[float, float]) -> None:
    generator = np.random.default_rng(10)
    truth = ["a"] * 90 + ["b"] * 30

    def draw() -> metrics.Estimate:
        right = generator.random(120) < np.repeat(recalls, (90, 30))
        return metrics.balanced_accuracy(truth, [t if r else None for t, r in zip(truth, right, strict=True)])

    assert _covers(draw, sum(recalls) / 2, 150) >= 0.92


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.share_interval([]), "a share of no scores"),
        (lambda: metrics.share_interval([0.5, math.nan]), "a score that is not between 0 and 1"),
        (lambda: metrics.share_interval([1.5]), "a score that is not between 0 and 1"),
        (lambda: metrics.share_interval([1, 0], [1]), r"groups of shape \(1,\) for 2 items"),
        (lambda: metrics.compare([], []), "paired scores of 0 and 0 items"),
        (lambda: metrics.compare([1], [math.inf]), "a score that is not between 0 and 1"),
        (lambda: metrics.compare([1], [1], margin=0), "a margin of 0"),
        (lambda: metrics.compare([1], [1], margin=math.nan), "a margin of nan"),
        (lambda: metrics.mean_interval([1, 2], [[1], [2]]), r"groups of shape \(2, 1\) for 2 items"),
        (lambda: metrics.bootstrap_interval(lambda w: 0.0, 0), "a figure of no items"),
        (lambda: metrics.quantile_interval([1], 0.2), "the quantile at 0.2"),
    ],
)
def test_what_is_no_figure_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
