"""Areas under ROC curves: scores of several findings on the same images, and what follows from them.

Task kinds that end in an area share this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit import metrics
from edgekit.bench.embedding import Finding
from edgekit.bench.report.figures import NONE, between
from edgekit.errors import UsageError
from edgekit.metrics import Comparison, Estimate, Ranking

_LEAST = 2  # groups that show a finding, and that do not: of one alone no variance is known


@dataclass(frozen=True)
class Scored:
    """One score an item and finding.

    Attributes:
        names: the findings'.
        truth: whether each is there, [findings][items]; None where nobody knows.
        scores: larger where it is more probable, [findings][items]; None for what is no number.
        groups: items with equal numbers are not independent.
    """

    names: tuple[str, ...]
    truth: tuple[tuple[bool | None, ...], ...]
    scores: tuple[tuple[float | None, ...], ...]
    groups: tuple[int, ...]

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Finding -> groups that show it, and groups that do not."""
        groups = np.asarray(self.groups)
        return {
            name: (len(set(groups[known == 1])), len(set(groups[known == 0])))
            for name, known in zip(self.names, map(_numbers, self.truth), strict=True)
        }

    @property
    def rankings(self) -> dict[str, Ranking]:
        """Finding -> its ranking, of those that enough groups show, and do not show."""
        rows = zip(self.names, self.truth, self.scores, strict=True)
        counts = self.counts
        return {
            name: metrics.ranked(_numbers(truth), _numbers(scores), self.groups)
            for name, truth, scores in rows
            if min(counts[name]) >= _LEAST
        }


def check_findings(asked: Sequence[Finding], groups: Sequence[int], where: str) -> None:
    """Look before anything is embedded whether an area can be measured.

    Args:
        where: what the message begins with.

    Raises:
        UsageError: no finding is there in two groups, and absent in two.
    """
    counts = Scored(tuple(f.name for f in asked), tuple(f.truth for f in asked), (), tuple(groups)).counts
    if not any(min(count) >= _LEAST for count in counts.values()):
        told = ", ".join(f"{name} {there} and {absent}" for name, (there, absent) in counts.items())
        raise UsageError(
            f"{where}: no finding has an area: {told or 'there is none'}",
            allowed=f"{_LEAST} groups of samples or more that show one, and as many that do not",
            remedy="a larger limit, or another data set",
        )


def figures(
    given: Scored, full_precision: Scored | None, margin: float | None
) -> tuple[Estimate, dict[str, Any], Comparison | None]:
    """The mean area, each finding's in the details, and the mean area minus full precision's.

    Args:
        margin: how much less still counts as equal.
    """
    groups, rankings = np.asarray(given.groups), given.rankings
    mean, paired, by_topic = metrics.mean_ranking(list(rankings.values())), None, {}
    exact = full_precision.rankings if full_precision else {}
    if exact:
        whole = metrics.mean_ranking(list(exact.values()))
        paired = metrics.compare_rankings(mean, whole, groups, margin=margin)
    for name, each in rankings.items():
        change = asdict(metrics.compare_rankings(each, exact[name], groups).difference) if exact else None
        by_topic[name] = {**asdict(metrics.area_interval(each, groups)), "difference": change}
    details = {
        "by_topic": by_topic,
        "positives": {name: sum(t is True for t in row) for name, row in zip(given.names, given.truth, strict=True)},
        "nonfinite": sum(score is None for row in given.scores for score in row),
        "not_measured": [name for name in given.names if name not in rankings],
    }
    return metrics.area_interval(mean, groups), details, paired


def scored(asked: Sequence[Finding], scores: NDArray[np.floating[Any]], groups: Sequence[int]) -> Scored:
    """Scores [items, findings] with what is true."""
    columns = tuple(tuple(x if np.isfinite(x) else None for x in column) for column in scores.T.tolist())
    return Scored(tuple(f.name for f in asked), tuple(f.truth for f in asked), columns, tuple(groups))


def of(result: Mapping[str, Any]) -> Scored:
    """What JSON held."""
    return Scored(**{name: result[name] for name in ("names", "truth", "scores", "groups")})


def area(figure: Estimate | None) -> str:
    """An area with its interval."""
    return NONE if figure is None else between(figure, ".3f")


def _numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else float(value) for value in values])
