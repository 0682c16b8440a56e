"""Distances of a model's outputs from full precision's: KL divergence in nats, agreement of top tokens, cosine.

Divergences are KL(full precision || candidate). Everything is computed in float64. Values that are not finite are never
dropped: a row of logits with NaN or an infinity has a divergence of inf, and a vector with one a cosine of NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def log_softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """Log probabilities [..., vocabulary] of logits, shifted by each row's maximum so that exp cannot overflow."""
    wide = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which callers report as what it is
        shifted = wide - wide.max(axis=-1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def kl_divergence(full_precision: ArrayLike, logits: ArrayLike) -> NDArray[np.float64]:
    """KL(full precision || candidate) in nats of each row.

    Args:
        full_precision: logits [n, vocabulary], or [vocabulary] for one row.
        logits: the candidate's, of the same shape.

    Returns:
        [n], at least 0; inf for a row in which either side has a value that is not finite.
    """
    expected, actual = _rows(full_precision), _rows(logits)
    if expected.shape != actual.shape:
        raise ValueError(f"logits of shape {actual.shape} against full precision's of shape {expected.shape}")
    finite = np.isfinite(expected).all(axis=-1) & np.isfinite(actual).all(axis=-1)
    divergence = np.full(len(expected), np.inf)
    log_p, log_q = log_softmax(expected[finite]), log_softmax(actual[finite])
    # Rounding can take the sum a little below zero, which no divergence is.
    divergence[finite] = np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=-1), 0)
    return divergence


def top1_agreement(full_precision: ArrayLike, logits: ArrayLike) -> NDArray[np.bool_]:
    """Whether both sides' largest logit is the same token, bool [n]; False for rows that are not finite."""
    expected, actual = _rows(full_precision), _rows(logits)
    finite = np.isfinite(expected).all(axis=-1) & np.isfinite(actual).all(axis=-1)
    return np.asarray((expected.argmax(axis=-1) == actual.argmax(axis=-1)) & finite)


def clear_top1_changes(full_precision: ArrayLike, logits: ArrayLike, margin: float) -> int:
    """Rows whose top token changed although full precision's two best logits differ by more than `margin`."""
    expected = _rows(full_precision)
    best = np.partition(expected, -2, axis=-1)[:, -2:]
    clear = best[:, 1] - best[:, 0] > margin
    return int((clear & ~top1_agreement(expected, logits)).sum())


def cosine(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Cosine of each pair of rows [n, width], [n]; NaN where a vector is zero or not finite."""
    left, right = _rows(a), _rows(b)
    norms = np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((left * right).sum(axis=-1) / norms)


def relative_error(full_precision: ArrayLike, candidate: ArrayLike) -> NDArray[np.float64]:
    """How far each vector [n, width] lies from full precision's, as a share of that one's length: |c - f| / |f|, [n].

    A cosine cannot see length; this sees both. It is inf where full precision's vector is zero or a side is not finite.
    """
    expected, actual = _rows(full_precision), _rows(candidate)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        error = np.linalg.norm(actual - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    return np.asarray(np.where(np.isfinite(error), error, np.inf))


def _rows(values: ArrayLike) -> NDArray[np.float64]:
    return np.atleast_2d(np.asarray(values, np.float64))
