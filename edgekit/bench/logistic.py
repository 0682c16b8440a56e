"""Logistic regression: the linear probe's classifier. Only numpy."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_HISTORY, _MOST_STEPS, _TOLERANCE = 10, 1000, 1e-7


class LogisticRegression:
    """Linear logits of standardized features with an L2 penalty: |w|^2 / 2 + c * the sum of the log losses.

    Two classes have one weight vector, more have one each (multinomial); the intercepts are not penalized. That is the
    objective of scikit-learn's class of this name, behind a StandardScaler.

    Args:
        features: [n, width].
        classes: of each, numbers from 0 on, [n]; at least two of them.
        c: how much the data count beside the penalty.

    Attributes:
        converged: whether the gradient became as small as asked.
    """

    def __init__(self, features: NDArray[np.floating], classes: NDArray[np.integer], c: float = 1.0) -> None:
        given = np.asarray(features, np.float64)
        self._mean, spread = given.mean(axis=0), given.std(axis=0)
        self._spread = np.where(spread > 0, spread, 1)
        count = int(classes.max()) + 1
        if count < 2:
            raise ValueError("one class has nothing to be told from")
        # An L2 penalty does not see rotations, so what no sample has is left out: n directions instead of the width.
        left, stretch, self._axes = np.linalg.svd(self._standard(given), full_matrices=False)
        rows, columns = left * stretch, 1 if count == 2 else count
        shape = (rows.shape[1] + 1, columns)
        truth = np.eye(count)[classes][:, count - columns :]

        def loss(flat: Floats) -> tuple[float, Floats]:
            weights = flat.reshape(shape)
            z = rows @ weights[:-1] + weights[-1]
            classes_z = np.hstack([np.zeros((len(z), 1)), z]) if columns == 1 else z
            high = classes_z.max(axis=1)
            total = high + np.log(np.exp(classes_z - high[:, None]).sum(axis=1))
            error = np.exp(z - total[:, None]) - truth
            gradient = np.vstack([c * rows.T @ error + weights[:-1], c * error.sum(axis=0)])
            value = 0.5 * float(np.square(weights[:-1]).sum()) + c * float((total - (z * truth).sum(axis=1)).sum())
            return value, gradient.ravel()

        flat, self.converged = _minimum(loss, np.zeros(shape[0] * shape[1]))
        self._weights = flat.reshape(shape)

    def logits(self, features: NDArray[np.floating]) -> Floats:
        """[n, classes]; of two classes the first has 0."""
        z = self._standard(np.asarray(features, np.float64)) @ self._axes.T @ self._weights[:-1] + self._weights[-1]
        return np.asarray(np.hstack([np.zeros((len(z), 1)), z]) if z.shape[1] == 1 else z)

    def _standard(self, features: Floats) -> Floats:
        return np.asarray((features - self._mean) / self._spread)


def _minimum(loss: Callable[[Floats], tuple[float, Floats]], start: Floats) -> tuple[Floats, bool]:
    """Where a convex loss is least, and whether its gradient is small there.

    L-BFGS by the two-loop recursion with a backtracking line search (Nocedal and Wright, Numerical Optimization, 2006,
    algorithms 7.4 and 3.1).
    """
    at, (value, slope) = start, loss(start)
    enough = _TOLERANCE * max(1.0, float(np.abs(slope).max()))
    history: deque[tuple[Floats, Floats, float]] = deque(maxlen=_HISTORY)
    for _ in range(_MOST_STEPS):
        if float(np.abs(slope).max()) <= enough:
            return at, True
        direction = -_inverse_hessian_times(slope, history)
        descent, step = float(direction @ slope), 1.0
        if not history:
            step = 1 / max(1.0, float(np.abs(slope).sum()))
        while True:
            moved = at + step * direction
            new_value, new_slope = loss(moved)
            if new_value <= value + 1e-4 * step * descent or step < 1e-12:
                break
            step /= 2
        change, turn = moved - at, new_slope - slope
        if (curvature := float(change @ turn)) > 1e-300:
            history.append((change, turn, curvature))
        if step < 1e-12:
            return at, False
        at, value, slope = moved, new_value, new_slope
    return at, False


def _inverse_hessian_times(slope: Floats, history: deque[tuple[Floats, Floats, float]]) -> Floats:
    vector, shares = slope.copy(), []
    for change, turn, curvature in reversed(history):
        shares.append(float(change @ vector) / curvature)
        vector -= shares[-1] * turn
    if history:
        _, turn, curvature = history[-1]
        vector *= curvature / float(turn @ turn)
    for (change, turn, curvature), share in zip(history, reversed(shares), strict=True):
        vector += change * (share - float(turn @ vector) / curvature)
    return vector
