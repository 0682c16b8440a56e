"""Phantoms follow from their seed alone, show what they say, and cannot be read from 16x16 pixels."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from edgekit.inputs import phantoms
from edgekit.inputs.labels import SEVERITIES, SIDES


def test_the_same_seed_and_index_give_the_same_phantom():
    first, again = list(phantoms.generate(7, 16, 64)), list(phantoms.generate(7, 16, 64))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, again, strict=True))
    assert np.array_equal(phantoms.draw(7, 9, 64).image, first[9].image)
    assert not np.array_equal(phantoms.draw(8, 9, 64).image, first[9].image)


def test_every_finding_comes_equally_often_with_all_severities_and_sides():
    drawn = list(phantoms.generate(1, 40 * len(phantoms.FINDINGS), 32))
    for finding in phantoms.FINDINGS:
        of_finding = [p for p in drawn if p.finding == finding]
        assert len(of_finding) == 40
        severities = {p.severity for p in of_finding}
        assert severities == ({None} if finding == phantoms.NO_FINDING else set(SEVERITIES))
        assert {p.side for p in of_finding} == (set(SIDES) if finding in phantoms.ONE_SIDED else {None})


def test_an_image_is_grey_uint8_of_the_size_asked_for_and_uses_its_range():
    image = phantoms.draw(1, 3, 100).image
    assert (image.shape, image.dtype) == ((100, 100), np.uint8)
    assert image.max() - image.min() > 100


def test_the_position_lies_on_the_side_that_is_named():
    drawn = [p for p in phantoms.generate(3, 160, 32) if p.side]
    assert all(p.position is not None and (p.position[0] > -0.1) == (p.side == "left") for p in drawn)


def test_phantoms_need_no_torch():
    code = "import sys, edgekit.inputs.phantoms as p; p.draw(1, 1, 32); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_a_logistic_regression_on_16x16_pixels_stays_under_60_percent():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def small(seed: int, n: int) -> tuple[np.ndarray, list[str]]:
        drawn = list(phantoms.generate(seed, n))
        pixels = [np.asarray(Image.fromarray(p.image).resize((16, 16), Image.Resampling.BILINEAR)) for p in drawn]
        return np.stack(pixels).reshape(n, -1) / 255, [p.finding for p in drawn]

    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=300))
    model.fit(*small(5, 4000))
    assert model.score(*small(6, 1600)) < 0.60
