"""Figures that compare a model with full precision, and the intervals that say how far to trust them. Only numpy."""

from __future__ import annotations

from edgekit.metrics.comparisons import Comparison, compare
from edgekit.metrics.distances import (
    Quantiles,
    clear_top1_changes,
    cosine,
    kl_divergence,
    log_softmax,
    quantiles,
    relative_error,
    top1_agreement,
)
from edgekit.metrics.intervals import (
    Estimate,
    balanced_accuracy,
    mean_interval,
    paired_interval,
    share_interval,
    wilson_interval,
)
from edgekit.metrics.ranking import (
    Ranking,
    area_interval,
    compare_rankings,
    first_relevant_ranks,
    mean_ranking,
    ranked,
    recall_at,
    standard_error,
    swapped_pairs,
    top_overlap,
)

__all__ = [
    "METRIC_VERSION",
    "Comparison",
    "Estimate",
    "Quantiles",
    "Ranking",
    "area_interval",
    "balanced_accuracy",
    "clear_top1_changes",
    "compare",
    "compare_rankings",
    "cosine",
    "first_relevant_ranks",
    "kl_divergence",
    "log_softmax",
    "mean_interval",
    "mean_ranking",
    "paired_interval",
    "quantiles",
    "ranked",
    "recall_at",
    "relative_error",
    "share_interval",
    "standard_error",
    "swapped_pairs",
    "top1_agreement",
    "top_overlap",
    "wilson_interval",
]

# Raised whenever a figure would change on the same predictions; records of different versions are not compared.
METRIC_VERSION = 2
