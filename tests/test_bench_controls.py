"""Control rows round as coarsely as they say."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.bench.controls import LADDER, Rounding

WEIGHTS = np.random.default_rng(0).normal(0, 1, (6, 50)).astype(np.float32) * np.array(
    [[1], [2], [3], [4], [5], [60]], np.float32
)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_rows_hold_as_many_values_as_the_bits_allow(bits: int) -> None:
    rounded = Rounding(bits, "row").apply(WEIGHTS)
    step = np.abs(WEIGHTS).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    assert np.abs(rounded - WEIGHTS).max() <= step.max() / 2 * 1.0001
    assert max(len(np.unique(row)) for row in rounded) <= 2**bits - 1
    np.testing.assert_allclose(np.abs(rounded).max(axis=1), np.abs(WEIGHTS).max(axis=1), rtol=1e-6)


def test_one_scale_a_tensor_is_set_by_its_largest_row() -> None:
    rounded = Rounding(2, "tensor").apply(WEIGHTS)
    assert len(np.unique(rounded)) <= 3
    assert not rounded[:4].any()  # far below half of the largest weight


def test_zeros_stay_zero_and_shapes_stay() -> None:
    zeros = np.zeros((2, 3, 4), np.float32)
    assert not Rounding(3, "row").apply(zeros).any()
    assert Rounding(3, "tensor").apply(zeros).shape == (2, 3, 4)


def test_every_rung_does_more_harm() -> None:
    errors = [float(np.square(rounding.apply(WEIGHTS) - WEIGHTS).mean()) for rounding in LADDER]
    assert errors == sorted(errors)
    assert LADDER[0] == Rounding(3, "row")
    assert str(LADDER[-1]) == "2 bits, one scale a tensor"
