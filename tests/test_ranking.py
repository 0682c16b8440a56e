"""Areas, recalls and ranks against scikit-learn, scipy and the textbook's sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import metrics

sklearn_metrics = pytest.importorskip("sklearn.metrics")
stats = pytest.importorskip("scipy.stats")


def made(seed: int, n: int = 90, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """What is true of items, and scores that know a little of it."""
    generator = np.random.default_rng(seed)
    truth = (generator.random(n) < 0.3).astype(float)
    scores = generator.normal(0, 1, n) + 1.2 * truth
    return truth, np.round(scores, 0 if ties else 9)


def delong(truth: np.ndarray, *scores: np.ndarray) -> np.ndarray:
    """The covariance of areas as DeLong et al. write it: sums over all pairs."""
    up, down = np.flatnonzero(truth == 1), np.flatnonzero(truth == 0)
    kernels = [(s[up][:, None] > s[down]) + 0.5 * (s[up][:, None] == s[down]) for s in scores]
    v10, v01 = np.array([k.mean(axis=1) for k in kernels]), np.array([k.mean(axis=0) for k in kernels])
    return np.atleast_2d(np.cov(v10)) / len(up) + np.atleast_2d(np.cov(v01)) / len(down)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_area_is_scikit_learns_and_mann_whitneys(seed: int, ties: bool) -> None:
    truth, scores = made(seed, ties=ties)
    area = metrics.ranked(truth, scores).area
    assert area == pytest.approx(sklearn_metrics.roc_auc_score(truth, scores), abs=1e-12)
    u = stats.mannwhitneyu(scores[truth == 1], scores[truth == 0]).statistic
    assert area == pytest.approx(u / (truth.sum() * (1 - truth).sum()), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_errors_are_delongs(ties: bool) -> None:
    truth, one = made(1, ties=ties)
    other = one + np.random.default_rng(9).normal(0, 0.7, len(one))
    covariance = delong(truth, one, other)
    a, b = metrics.ranked(truth, one), metrics.ranked(truth, other)
    assert metrics.standard_error(a.influence) == pytest.approx(np.sqrt(covariance[0, 0]), rel=1e-12)
    expected = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert metrics.standard_error(a.influence - b.influence) == pytest.approx(expected, rel=1e-12)
    change = metrics.compare_rankings(a, b, margin=0.2)
    z = (a.area - b.area) / expected
    assert change.p == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-9)
    # an end is DeLong's, or where that of items which fall one by one takes over
    item = 1 / min(truth.sum(), (1 - truth).sum())
    for end, sign in ((change.difference.low, -1), (change.difference.high, 1)):
        assert (end - (a.area - b.area)) * sign == pytest.approx(
            stats.norm.isf(0.025) * np.sqrt(max(expected**2, abs(end) * item)), rel=1e-9
        )
    assert change.within is None
    assert metrics.compare_rankings(a, b, margin=0.9).within is True


def test_groups_are_obuchowskis_clusters() -> None:
    """The variance of clustered areas, written out as in the paper."""
    generator = np.random.default_rng(4)
    groups = np.repeat(np.arange(30), 4)
    truth = (generator.random(120) < 0.4).astype(float)
    scores = generator.normal(0, 1, 120) + truth + np.repeat(generator.normal(0, 1, 30), 4)
    up, down = truth == 1, truth == 0
    kernel = (scores[up][:, None] > scores[down]) + 0.5 * (scores[up][:, None] == scores[down])
    area, m, n = kernel.mean(), up.sum(), down.sum()
    x, y = np.zeros(30), np.zeros(30)
    np.add.at(x, groups[up], kernel.mean(axis=1) - area)
    np.add.at(y, groups[down], kernel.mean(axis=0) - area)
    i10, i01 = len(set(groups[up])), len(set(groups[down]))
    s10, s01 = i10 / ((i10 - 1) * m) * (x**2).sum(), i01 / ((i01 - 1) * n) * (y**2).sum()
    s11 = 30 / 29 * (x * y).sum()
    expected = np.sqrt(s10 / m + s01 / n + 2 * s11 / (m * n))
    found = metrics.ranked(truth, scores, groups)
    assert metrics.standard_error(found.influence, groups) == pytest.approx(expected, rel=0.01)  # of 30 / 29


def test_ten_copies_of_each_item_know_no_more() -> None:
    truth, scores = made(2, 60)
    groups = np.repeat(np.arange(60), 10)
    one = metrics.area_interval(metrics.ranked(truth, scores))
    many = metrics.area_interval(metrics.ranked(np.repeat(truth, 10), np.repeat(scores, 10), groups), groups)
    assert (many.value, many.low, many.high) == pytest.approx((one.value, one.low, one.high), abs=1e-9)
    assert (one.n, many.n) == (60, 600)


@pytest.mark.parametrize(("area", "positives", "negatives"), [(0.7, 10, 40), (0.9, 30, 60), (0.97, 60, 100)])
def test_areas_intervals_cover(area: float, positives: int, negatives: int) -> None:
    """Of 400 simulated studies some 95 % must contain the true area; 91.5 to 98.5 is what chance leaves of that."""
    generator = np.random.default_rng(0)
    shift = stats.norm.ppf(area) * np.sqrt(2)
    truth = np.r_[np.ones(positives), np.zeros(negatives)]
    hits = 0
    for _ in range(400):
        interval = metrics.area_interval(metrics.ranked(truth, generator.normal(0, 1, len(truth)) + shift * truth))
        hits += interval.low <= area <= interval.high
    assert 0.915 <= hits / 400 <= 0.985


def test_the_mean_over_questions_knows_that_they_share_their_images() -> None:
    """Two questions about the same images, and the bootstrap of images as the judge."""
    generator = np.random.default_rng(3)
    truths = (generator.random((2, 200)) < 0.4).astype(float)
    shared = generator.normal(0, 1, 200)
    scores = truths + shared + generator.normal(0, 0.3, (2, 200))
    mean = metrics.mean_ranking([metrics.ranked(t, s) for t, s in zip(truths, scores, strict=True)])
    draws = []
    for _ in range(300):
        at = generator.integers(0, 200, 200)
        pairs = zip(truths[:, at], scores[:, at], strict=True)
        draws.append(np.mean([(s[t == 1][:, None] > s[t == 0]).mean() for t, s in pairs]))
    assert metrics.standard_error(mean.influence) == pytest.approx(np.std(draws), rel=0.15)
    expected = np.mean([sklearn_metrics.roc_auc_score(t, s) for t, s in zip(truths, scores, strict=True)])
    assert mean.area == pytest.approx(expected)


def test_what_nobody_knows_is_left_out_and_what_is_no_number_is_wrong() -> None:
    truth, scores = made(5, 40)
    known = np.r_[truth, [np.nan] * 10]
    found = metrics.ranked(known, np.r_[scores, np.full(10, 99.0)])
    assert found.area == metrics.ranked(truth, scores).area
    assert found.n == 40
    assert not found.influence[40:].any()
    assert metrics.ranked([1, 0], [np.nan, -1e9]).area == 0
    assert metrics.ranked([1, 0], [1e9, np.nan]).area == 0
    assert metrics.ranked([1, 0], [np.nan, np.nan]).area == 0


def test_a_perfect_order_still_has_an_interval() -> None:
    perfect = metrics.area_interval(metrics.ranked([1] * 10 + [0] * 20, np.arange(30)[::-1]))
    assert perfect.value == perfect.high == 1
    assert 0.8 < perfect.low < 1
    # the end is where the true area is z of its own errors away (Newcombe's method 5)
    theta, m, n = perfect.low, 10, 20
    half = (m + n) / 2 - 1
    variance = theta * (1 - theta) / (m * n) * (1 + half * (1 - theta) / (2 - theta) + half * theta / (1 + theta))
    assert 1 - theta == pytest.approx(stats.norm.isf(0.025) * np.sqrt(variance), rel=1e-6)
    worst = metrics.area_interval(metrics.ranked([1] * 10 + [0] * 20, np.arange(30)))
    assert (worst.value, worst.low) == (0, 0)
    assert worst.high == pytest.approx(1 - perfect.low)


def test_an_unchanged_order_is_no_proof_that_nothing_changes() -> None:
    truth, scores = made(6)
    same = metrics.compare_rankings(metrics.ranked(truth, scores), metrics.ranked(truth, 3 * scores - 1), margin=0.01)
    assert same.difference.value == 0
    assert (same.within, same.p) == (None, 1)
    # the rule of three: of items of which none fell, up to 3 in n may fall elsewhere (one-sided; 3.7 for both sides)
    least = min(truth.sum(), (1 - truth).sum())
    assert -same.difference.low == same.difference.high == pytest.approx(-np.log(0.025) / least, rel=0.1)


@pytest.mark.parametrize(("items", "drop", "at_most"), [(14, 0.05, 0), (600, 0.01, 0.02)])
def test_a_level_that_breaks_few_items_is_not_proven_equal(items: int, drop: float, at_most: float) -> None:
    """So many positive items fall to the bottom that the true area drops by as much; a sample may have none of them."""
    generator, truth = np.random.default_rng(0), np.r_[np.ones(items), np.zeros(items)]
    within = 0
    for _ in range(300):
        scores = generator.normal(0, 1, 2 * items) + 1.5 * truth
        exact = metrics.ranked(truth, scores)
        fallen = np.where((truth == 1) & (generator.random(2 * items) < drop / exact.area), -99, scores)
        within += metrics.compare_rankings(metrics.ranked(truth, fallen), exact, margin=0.01).within is True
    assert within <= 300 * at_most


def test_many_items_in_one_order_are_proven_equal() -> None:
    truth, scores = made(3, 4000)
    given_ = metrics.ranked(truth, scores)
    assert metrics.compare_rankings(given_, given_, margin=0.01).within is True
    images = np.arange(4000) // 40  # as few as 100 patients prove nothing
    grouped = metrics.ranked(truth, scores, images)
    assert metrics.compare_rankings(grouped, grouped, images, margin=0.01).within is None


def test_how_many_items_a_drop_needs() -> None:
    """A study of so many items finds a drop of the margin in 4 of 5 runs: simulated with its own error."""
    truth, one = made(7, 100)
    other = one + np.random.default_rng(1).normal(0, 0.5, 100)
    given_, exact = metrics.ranked(truth, other), metrics.ranked(truth, one)
    change = metrics.compare_rankings(given_, exact, margin=0.01)
    assert change.items_needed is not None
    share, least = 100 / change.items_needed, min(truth.sum(), (1 - truth).sum())
    moved = metrics.standard_error(given_.influence - exact.influence)
    error = np.sqrt(max(moved**2, 0.01 / least) * share)
    assert stats.norm.sf(stats.norm.isf(0.025) - 0.01 / error) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.ranked([1, 1], [0, 1]), "2 positive and 0 negative items"),
        (lambda: metrics.ranked([1, 0], [0, 1, 2]), "3 scores of 2 items"),
        (lambda: metrics.mean_ranking([]), "no rankings"),
        (lambda: metrics.top_overlap([[1, 2]], [[1, 2]], 3), "the 3 largest"),
        (lambda: metrics.swapped_pairs([[1]], [[1]]), "orders of rows"),
        (lambda: metrics.first_relevant_ranks([[1, 2]], [[True]]), "relevance"),
    ],
)
def test_what_has_no_figure_is_refused(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()


def test_recall_is_that_of_sorted_neighbours() -> None:
    generator = np.random.default_rng(0)
    similarity, relevant = generator.normal(0, 1, (50, 30)), generator.random((50, 30)) < 0.1
    relevant[0] = False
    ranks = metrics.first_relevant_ranks(similarity, relevant)
    for query in range(50):
        order = np.argsort(-similarity[query])
        found = [place + 1 for place, item in enumerate(order) if relevant[query, item]]
        assert ranks[query] == (found[0] if found else np.inf)
    for k in (1, 5, 10):
        expected = [relevant[q][np.argsort(-similarity[q])[:k]].any() for q in range(50)]
        assert metrics.recall_at(ranks, k).tolist() == [float(e) for e in expected]


def test_a_model_that_finds_all_alike_finds_nothing() -> None:
    relevant = np.eye(6, dtype=bool)
    assert metrics.first_relevant_ranks(np.ones((6, 6)), relevant).tolist() == [6] * 6
    assert metrics.first_relevant_ranks(np.full((6, 6), np.nan), relevant).tolist() == [6] * 6


def test_queries_find_candidates_only() -> None:
    similarity = np.array([[3.0, 2.0, 1.0]])
    relevant = np.array([[True, False, True]])
    assert metrics.first_relevant_ranks(similarity, relevant, np.array([[False, True, True]])).tolist() == [2]


def test_swapped_pairs_are_kendalls() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.normal(0, 1, (20, 8)), generator.normal(0, 1, (20, 8))
    expected = [(1 - stats.kendalltau(a, b).statistic) / 2 for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(metrics.swapped_pairs(one, other), expected, atol=1e-12)
    assert metrics.swapped_pairs(one, 2 * one + 1).tolist() == [0] * 20
    assert metrics.swapped_pairs(one, -one).tolist() == [1] * 20


def test_neighbours_are_those_of_scikit_learn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    generator = np.random.default_rng(0)
    one, other = generator.normal(0, 1, (40, 6)), generator.normal(0, 1, (40, 6))
    found = [
        neighbors.NearestNeighbors(n_neighbors=5, metric="cosine").fit(rows).kneighbors(return_distance=False)
        for rows in (one, other)
    ]
    expected = [len(set(a) & set(b)) / 5 for a, b in zip(*found, strict=True)]
    similarities = []
    for rows in (one, other):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        similarity = unit @ unit.T
        np.fill_diagonal(similarity, -np.inf)
        similarities.append(similarity)
    np.testing.assert_allclose(metrics.top_overlap(*similarities, 5), expected)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(-5, 5)), min_size=2, max_size=40).filter(
        lambda items: len({known for known, _ in items}) == 2
    )
)
def test_an_area_does_not_see_the_scale_and_turns_with_the_sign(items: list[tuple[bool, int]]) -> None:
    truth, scores = (np.array(column, float) for column in zip(*items, strict=True))
    found = metrics.ranked(truth, scores)
    assert found.area == pytest.approx(metrics.ranked(truth, np.exp(scores / 3)).area)
    assert found.area == pytest.approx(1 - metrics.ranked(truth, -scores).area)
    interval = metrics.area_interval(found)
    if min(truth.sum(), len(truth) - truth.sum()) > 1:
        assert 0 <= interval.low <= interval.value <= interval.high <= 1
