"""What every encoder keeps, whatever runs it: see `edgekit.runtime.base.Encoder`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cases import EncoderCase
from numpy.typing import NDArray

from edgekit.errors import InputError, UsageError
from edgekit.runtime.base import Encoder


@pytest.fixture(scope="module")
def encoder(encoder_case: EncoderCase) -> Iterator[Encoder]:
    opened = encoder_case.open()
    yield opened
    opened.close()


def items(encoder: Encoder, count: int, seed: int = 0) -> NDArray[Any]:
    rng, shape = np.random.default_rng(seed), (count, *encoder.spec.shape)
    if encoder.spec.input == "ids":
        return rng.integers(3, 60, shape)
    waves = np.add.outer(*(np.sin(np.arange(side) / rng.uniform(5, 40)) for side in shape[1:3]))
    return np.clip(127 + 50 * waves[..., None] + rng.normal(0, 20, shape), 0, 255).astype(np.uint8)


def difference(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all()
    return float((np.linalg.norm(actual - expected, axis=-1) / np.linalg.norm(expected, axis=-1)).max())


def test_vectors_are_float32_one_or_several_an_item(encoder: Encoder) -> None:
    vectors = encoder.encode(items(encoder, 2))
    assert vectors.dtype == np.float32
    assert len(vectors) == 2
    assert vectors.ndim == (3 if encoder.spec.output == "image_tokens" else 2)
    assert np.isfinite(vectors).all()


def test_an_item_does_not_depend_on_its_batch(encoder_case: EncoderCase, encoder: Encoder) -> None:
    batch = items(encoder, 3)
    alone = np.concatenate([encoder.encode(batch[i : i + 1]) for i in range(3)])
    assert difference(encoder.encode(batch), alone) < encoder_case.tolerance
    assert difference(alone[1:2], alone[:1]) > 0, "items differ"


def test_a_result_stays_what_it_is(encoder: Encoder) -> None:
    """The next one is not written over it."""
    first = encoder.encode(items(encoder, 1, 1))
    kept = first.copy()
    encoder.encode(items(encoder, 1, 2))
    assert (first == kept).all()


def test_two_of_them_are_apart(encoder_case: EncoderCase, encoder: Encoder) -> None:
    one, other = items(encoder, 1, 3), items(encoder, 1, 4)
    expected, second = encoder.encode(one), encoder_case.open()
    assert difference(second.encode(one), expected) < encoder_case.tolerance
    second.encode(other)
    second.close()
    assert difference(encoder.encode(one), expected) < encoder_case.tolerance


def test_what_is_no_such_item_is_refused(encoder: Encoder) -> None:
    batch = items(encoder, 1)
    for wrong in (batch[:, :-1], batch[0], batch.astype(np.float64)):
        with pytest.raises(InputError, match=r"a batch of(.|\n)*allowed: (uint8|int64) \[any, "):
            encoder.encode(wrong)
    assert len(encoder.encode(batch)) == 1


def test_closed_it_refuses(encoder_case: EncoderCase) -> None:
    encoder = encoder_case.open()
    encoder.close()
    encoder.close()  # twice does no harm
    with pytest.raises(UsageError, match="this encoder is closed"):
        encoder.encode(items(encoder, 1))
