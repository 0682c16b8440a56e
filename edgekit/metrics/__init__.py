"""Figures that compare a model with full precision, and the intervals that say how far to trust them. Only numpy."""

from __future__ import annotations

from edgekit.metrics.bootstrap import bootstrap_interval, mean_interval
from edgekit.metrics.comparisons import Comparison, compare, holm
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

__all__ = [
    "METRIC_VERSION",
    "Comparison",
    "Estimate",
    "Quantiles",
    "balanced_accuracy",
    "bootstrap_interval",
    "clear_top1_changes",
    "compare",
    "cosine",
    "holm",
    "kl_divergence",
    "log_softmax",
    "mean_interval",
    "paired_interval",
    "quantile_interval",
    "quantiles",
    "relative_error",
    "share_interval",
    "top1_agreement",
    "wilson_interval",
]

# Raised whenever a figure would change on the same predictions; records of different versions are not compared.
METRIC_VERSION = 2
