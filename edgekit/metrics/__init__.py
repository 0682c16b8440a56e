"""Figures that compare a model with full precision, and the intervals that say how far to trust them. Only numpy."""

from __future__ import annotations

from edgekit.metrics.bootstrap import bootstrap_interval, mean_interval
from edgekit.metrics.comparisons import Comparison, compare, holm, items_to_prove
from edgekit.metrics.distances import (
    clear_top1_changes,
    cosine,
    kl_divergence,
    log_softmax,
    relative_error,
    top1_agreement,
)
from edgekit.metrics.estimates import Estimate
from edgekit.metrics.intervals import balanced_accuracy, share_interval, wilson_interval
from edgekit.metrics.paired import paired_interval
from edgekit.metrics.quantiles import Quantiles, quantile_interval, quantiles
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
    "bootstrap_interval",
    "clear_top1_changes",
    "compare",
    "compare_rankings",
    "cosine",
    "first_relevant_ranks",
    "holm",
    "items_to_prove",
    "kl_divergence",
    "log_softmax",
    "mean_interval",
    "mean_ranking",
    "paired_interval",
    "quantile_interval",
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
METRIC_VERSION = 3
