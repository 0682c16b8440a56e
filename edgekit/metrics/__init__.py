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

__all__ = [
    "METRIC_VERSION",
    "Comparison",
    "Estimate",
    "Quantiles",
    "balanced_accuracy",
    "clear_top1_changes",
    "compare",
    "cosine",
    "kl_divergence",
    "log_softmax",
    "mean_interval",
    "paired_interval",
    "quantiles",
    "relative_error",
    "share_interval",
    "top1_agreement",
    "wilson_interval",
]

# Raised whenever a figure would change on the same predictions; records of different versions are not compared.
METRIC_VERSION = 2
