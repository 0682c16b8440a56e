"""Pictures that a proof shows: phantoms in grey and in colour, and what photographs have that phantoms have not.

A grey picture is the same with its channels exchanged, a square one the same for a wrong order of its sides, and one
without large even areas hides an offset. Everything follows from fixed seeds; numpy only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.inputs import phantoms

Picture = NDArray[np.uint8]  # [height, width] in grey or [height, width, 3] in colour
_Plane = NDArray[np.floating[Any]]

SEED = 20_260  # training, calibration and benchmarks draw phantoms from others
_WAVES = 24  # of smooth noise
_SKIN, _LESION, _WARM, _COLD = (226, 172, 148), (108, 62, 54), (255, 196, 120), (30, 60, 150)


def pictures() -> tuple[Picture, ...]:
    """In colour, in grey and not square, a photograph, which tell the most; then others of other sizes."""
    grey, tinted, wide = (phantom.image for phantom in phantoms.generate(SEED, 3))
    return _tinted(tinted[:201]), grey[:, :157], _photograph(168, 224), wide[:131], _noise(143, 190)


def channel_test() -> tuple[Picture, ...]:
    """One scene three times, its channels moved on by one each time: only who keeps them apart tells them apart."""
    rng = np.random.default_rng([SEED, 1])
    bright, patterned = (level + level * _waves(rng, 96, 128, most) / 2 for level, most in ((0.7, 3), (0.4, 6)))
    scene = _to_bytes(np.stack([bright, patterned, np.full_like(bright, 0.15)], axis=-1))
    return tuple(np.roll(scene, turn, axis=-1) for turn in range(3))


def extremes() -> tuple[Picture, ...]:
    """Narrow, low, tiny, and larger than any encoder's square: a resize may be another for one of them alone."""
    rng = np.random.default_rng([SEED, 4])
    sides = (24, 320), (320, 24), (20, 20), (1000, 1100)
    return tuple(rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sides)


def _tinted(grey: Picture) -> Picture:
    """From cold shadows to warm lights, as false colours and stained slides are."""
    share = grey[..., None] / np.float32(255)
    return _to_bytes(((1 - share) * _COLD + share * _WARM) / 255)


def _photograph(height: int, width: int) -> Picture:
    """Skin with a dark spot under light from one side, and the camera's grain."""
    rng = np.random.default_rng([SEED, 2])
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    edge = np.hypot((x - 0.2) / 0.4, (y + 0.1) / 0.5) + 0.15 * _waves(rng, height, width, 5)
    spot = (1 / (1 + np.exp(np.clip(14 * (edge - 1), -30, 30))))[..., None]
    colour = (1 - spot) * _SKIN + spot * _LESION + 9 * np.stack([_waves(rng, height, width, 9) for _ in "rgb"], axis=-1)
    light = (0.82 - 0.25 * x + 0.1 * y)[..., None]
    return _to_bytes(colour * light / 255 + rng.normal(0, 0.015, (height, width, 3)))


def _noise(height: int, width: int) -> Picture:
    """Smooth noise in every colour."""
    rng = np.random.default_rng([SEED, 3])
    return _to_bytes(0.5 + 0.5 * np.stack([_waves(rng, height, width, 7) for _ in "rgb"], axis=-1))


def _waves(rng: np.random.Generator, height: int, width: int, most: int) -> _Plane:
    """Noise of about unit range: waves of random direction and phase, at most so many across the picture."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    along, across = rng.uniform(-most, most, (2, _WAVES))
    phase = rng.uniform(0, 2 * np.pi, _WAVES)
    angle = 2 * np.pi * (along * x[..., None] + across * y[..., None]) + phase
    return np.asarray(np.cos(angle).sum(axis=-1) / np.sqrt(2 * _WAVES))


def _to_bytes(colours: _Plane) -> Picture:
    return np.rint(255 * np.clip(colours, 0, 1)).astype(np.uint8)
