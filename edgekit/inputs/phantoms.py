"""Radiograph-like phantoms: chest images drawn from random anatomy, with one finding or none. numpy only.

They need no data to be shipped, so exports are calibrated, proved and benchmarked on them. Everything follows from
(seed, index): the same pair gives the same image, whatever else was drawn before.

Coordinates: x and y run from -1 to 1 over the image, left to right and top to bottom. As on a radiograph, the
patient's left side is on the right of the image; `side` is the patient's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgekit.inputs.labels import PHANTOM_LABELS, SEVERITIES, SIDES

Plane = NDArray[np.floating[Any]]  # a value for each pixel, (size, size)
_Coordinate = TypeVar("_Coordinate", float, Plane)

FINDINGS: tuple[str, ...] = tuple(label.name for label in PHANTOM_LABELS)
NO_FINDING = "no finding"
ONE_SIDED = frozenset(FINDINGS) - {NO_FINDING, "cardiomegaly"}

# Strength of each finding for mild, moderate, severe; what the number means is said where it is used.
_STRENGTH: dict[str, tuple[float, float, float]] = {
    "nodule": (0.065, 0.09, 0.13),
    "pleural effusion": (0.17, 0.32, 0.55),
    "pneumothorax": (0.10, 0.17, 0.27),
    "consolidation": (0.17, 0.22, 0.30),
    "atelectasis": (0.030, 0.045, 0.065),
    "cardiomegaly": (0.11, 0.19, 0.28),
    "rib fracture": (0.06, 0.085, 0.12),
}


@dataclass(frozen=True)
class Phantom:
    """One drawn radiograph.

    Attributes:
        image: uint8 of shape (size, size), greyscale.
        finding: one of `FINDINGS`.
        severity: one of `SEVERITIES`, or None without a finding.
        side: the patient's side, 'left' or 'right', or None where the finding has none.
        position: (x, y) of the finding's centre in -1..1, or None without a finding.
    """

    image: NDArray[np.uint8]
    finding: str
    severity: str | None
    side: str | None
    position: tuple[float, float] | None


@dataclass(frozen=True)
class _Anatomy:
    """Random body of one phantom; lengths in image units (-1 to 1), `heart` is the half width."""

    width: float
    height: float
    heart: float
    heart_x: float
    diaphragm: tuple[float, float]
    rib_gap: float
    rib_slope: float
    rib_contrast: float
    turn: float
    shift: tuple[float, float]
    zoom: float


@dataclass
class _Canvas:
    """The coordinate grids in the body's frame and the planes that findings change; all float32 of (size, size)."""

    x: Plane
    y: Plane
    body: _Anatomy
    rng: np.random.Generator
    heart_scale: float = 1.0
    lung_factor: Plane | float = 1.0
    opacity: Plane | float = 0.0
    lines: Plane | float = 0.0
    fracture: tuple[int, int, float, float] | None = None


def _step(distance: Plane, softness: float) -> Plane:
    """A soft 0-to-1 edge where `distance` becomes positive."""
    edge: Plane = 0.5 + 0.5 * np.tanh(distance / (2 * softness))
    return edge


def _fourth(value: Plane) -> Plane:
    square = value * value
    return square * square


def _blob(canvas: _Canvas, x: float, y: float, rx: float, ry: float, softness: float = 0.12) -> Plane:
    """A soft ellipse; `softness` is relative to its radius."""
    radius = np.sqrt(((canvas.x - x) / rx) ** 2 + ((canvas.y - y) / ry) ** 2)
    return _step(1 - radius, softness)


def _noise(rng: np.random.Generator, size: int, cells: int) -> Plane:
    """Smooth noise of unit variance at the grid points, `cells` bumps across the image."""
    grid = rng.standard_normal((cells + 2, cells + 2), dtype=np.float32)
    at = np.linspace(0, cells, size, dtype=np.float32)
    cell = at.astype(int)
    part = 0.5 - 0.5 * np.cos(np.pi * (at - cell))
    rows = grid[cell] * (1 - part)[:, None] + grid[cell + 1] * part[:, None]
    noise: Plane = rows[:, cell] * (1 - part) + rows[:, cell + 1] * part
    return noise


def _anatomy(rng: np.random.Generator) -> _Anatomy:
    u = rng.uniform
    return _Anatomy(
        width=u(0.66, 0.82),
        height=u(0.62, 0.76),
        heart=u(0.22, 0.29),
        heart_x=u(0.06, 0.14),
        diaphragm=(u(0.42, 0.60), u(0.42, 0.60)),
        rib_gap=u(0.145, 0.185),
        rib_slope=u(0.25, 0.55),
        rib_contrast=u(0.09, 0.15),
        turn=u(-0.10, 0.10),
        shift=(u(-0.08, 0.08), u(-0.08, 0.08)),
        zoom=u(0.92, 1.12),
    )


def _canvas(rng: np.random.Generator, size: int) -> _Canvas:
    body = _anatomy(rng)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = np.meshgrid(axis - body.shift[0], axis - body.shift[1])
    cos, sin = np.cos(body.turn) / body.zoom, np.sin(body.turn) / body.zoom
    return _Canvas((cos * x - sin * y).astype(np.float32), (sin * x + cos * y).astype(np.float32), body, rng)


def _lung(canvas: _Canvas, sign: int) -> Plane:
    """Air of one lung; `sign` is +1 on the image's right. Bounded by the rib cage, mediastinum and diaphragm."""
    body = canvas.body
    x, y = canvas.x * sign, canvas.y
    cage = 1 - (x / body.width) ** 2 - _fourth((y + 0.10) / (body.height + 0.12))
    dome = body.diaphragm[sign > 0] + 0.55 * (x - 0.38) ** 2
    return _step(cage, 0.05) * _step(x - 0.12 - 0.05 * y, 0.015) * _step(dome - y, 0.012)


def _rib_line(canvas: _Canvas, u: _Coordinate) -> _Coordinate:
    """Height of the first rib at a distance `u` from the spine; the others follow `rib_gap` apart."""
    return -0.72 + canvas.body.rib_slope * u - 0.25 * u * u


def _ribs(canvas: _Canvas) -> Plane:
    """Nine pairs of curved ribs; `fracture` breaks one: (rib, sign, distance from the spine, gap)."""
    gap, u = canvas.body.rib_gap, np.abs(canvas.x)
    along = (canvas.y - _rib_line(canvas, u)) / gap
    rib = np.clip(np.rint(along), 0, 8)
    across: Plane = along - rib
    whole: Plane | float = 1.0
    if canvas.fracture:
        broken, sign, at, opening = canvas.fracture
        here = (rib == broken) & (canvas.x * sign > 0)
        outside = (u - at) / opening
        across = across - np.where(here, 0.32 * _step(outside, 0.1), 0)
        whole = 1 - np.where(here, _step(1 - np.abs(outside), 0.06), 0)
    across = across * (gap / 0.030)
    shaded = whole * np.exp(-across * across) * (0.75 + 0.25 * np.tanh(3 * across))
    return shaded * _step(canvas.body.width * 1.04 - u, 0.02) * _step(u - 0.05, 0.02)


def _in_lung(canvas: _Canvas, sign: int) -> tuple[float, float]:
    """A random point well inside one lung, in the body's frame."""
    body, rng = canvas.body, canvas.rng
    return sign * rng.uniform(0.28, body.width - 0.20), rng.uniform(-0.48, body.diaphragm[sign > 0] - 0.16)


def _nodule(canvas: _Canvas, sign: int, radius: float) -> tuple[float, float]:
    x, y = _in_lung(canvas, sign)
    stretch = canvas.rng.uniform(0.85, 1.15)
    canvas.opacity = _blob(canvas, x, y, radius * stretch, radius / stretch, 0.10) * (0.20 + 0.6 * radius)
    return x, y


def _effusion(canvas: _Canvas, sign: int, height: float) -> tuple[float, float]:
    """Fluid of `height` above the diaphragm, its surface rising to the chest wall."""
    body = canvas.body
    level = body.diaphragm[sign > 0] + 0.06 - height
    side = canvas.x * sign
    surface = level - 0.35 * np.clip(side - 0.35, 0, None) ** 1.5 + 0.02 * np.sin(9 * side)
    canvas.opacity = 0.42 * _step(canvas.y - surface, 0.025) * _step(side - 0.10, 0.02)
    return sign * 0.45, level + height / 2


def _pneumothorax(canvas: _Canvas, sign: int, depth: float) -> tuple[float, float]:
    """Air of `depth` between chest wall and lung: darker, without vessels, behind a thin bright line."""
    body = canvas.body
    side = canvas.x * sign
    edge = body.width * np.sqrt(np.clip(1 - _fourth((canvas.y + 0.10) / (body.height + 0.12)), 0, 1))
    inner = edge - depth * (1.15 - 0.45 * (canvas.y + 0.6))
    beyond = side - inner
    within = (side > 0) & (canvas.y < body.diaphragm[sign > 0])
    canvas.lung_factor = 1 + np.where(within, 0.20 * _step(beyond, 0.01), 0)
    canvas.lines = np.where(within, 0.16 * np.exp(-((beyond / 0.014) ** 2)), 0)
    return sign * (body.width - depth), -0.30


def _consolidation(canvas: _Canvas, sign: int, radius: float) -> tuple[float, float]:
    """A patch with a ragged edge and air left inside."""
    x, y = _in_lung(canvas, sign)
    size = canvas.x.shape[0]
    ragged = _noise(canvas.rng, size, 12)
    distance = np.sqrt((canvas.x - x) ** 2 + ((canvas.y - y) / canvas.rng.uniform(0.8, 1.4)) ** 2) / radius
    cloud = _step(1 - distance + 0.32 * ragged, 0.14)
    canvas.opacity = cloud * (0.20 + 0.05 * _noise(canvas.rng, size, 24))
    return x, y


def _atelectasis(canvas: _Canvas, sign: int, thickness: float) -> tuple[float, float]:
    """Plate-like: a few nearly horizontal dense bands in the lower half of a lung."""
    body, rng = canvas.body, canvas.rng
    x, y = sign * rng.uniform(0.32, body.width - 0.26), rng.uniform(-0.05, body.diaphragm[sign > 0] - 0.12)
    tilt, length = rng.uniform(-0.35, 0.35), rng.uniform(0.17, 0.24)
    along = canvas.x - x
    total: Plane | float = 0.0
    for offset in (0.0, 2.6 * thickness):
        across = (canvas.y - y - offset - tilt * along) / thickness
        total = total + np.exp(-(across**2)) * _step(length - np.abs(along), 0.02)
    canvas.opacity = total * (0.16 + 1.2 * thickness)
    return x, y


def _cardiomegaly(canvas: _Canvas, sign: int, growth: float) -> tuple[float, float]:
    canvas.heart_scale = 1.12 + growth * 1.9
    return canvas.body.heart_x, 0.30


def _fracture(canvas: _Canvas, sign: int, opening: float) -> tuple[float, float]:
    """One rib interrupted, its outer end displaced downwards by a third of the rib distance, callus on both ends."""
    gap, rib = canvas.body.rib_gap, int(canvas.rng.integers(1, 5))
    at = canvas.rng.uniform(0.34, canvas.body.width - 0.26)
    canvas.fracture = (rib, sign, at, opening)
    for end, lower in ((at - opening, 0.0), (at + opening, 0.32 * gap)):
        y = _rib_line(canvas, end) + rib * gap + lower
        canvas.lines = canvas.lines + 0.22 * _blob(canvas, sign * end, y, 0.6 * opening, 0.5 * opening, 0.2)
    return sign * at, _rib_line(canvas, at) + rib * gap


_DRAW = {
    "nodule": _nodule,
    "pleural effusion": _effusion,
    "pneumothorax": _pneumothorax,
    "consolidation": _consolidation,
    "atelectasis": _atelectasis,
    "cardiomegaly": _cardiomegaly,
    "rib fracture": _fracture,
}


def _compose(canvas: _Canvas) -> Plane:
    """The radiograph as absorption: soft tissue, air, bones, heart, the finding. Float32, about 0..1."""
    body, rng, size = canvas.body, canvas.rng, canvas.x.shape[0]
    torso = _step(1 - _fourth(canvas.x / (body.width + 0.17)) - np.clip(-canvas.y - 0.72, 0, 1) * 2.2, 0.05)
    heart_width = body.heart * canvas.heart_scale
    heart = _blob(canvas, body.heart_x + 0.45 * (heart_width - body.heart), 0.30, heart_width, 0.30, 0.07)
    air = (_lung(canvas, 1) + _lung(canvas, -1)) * (1 - 0.92 * heart)
    vessels = 0.035 * _noise(rng, size, 14) + 0.025 * _noise(rng, size, 30)
    if isinstance(canvas.lung_factor, np.ndarray):
        vessels = vessels * (1 - 4 * np.clip(canvas.lung_factor - 1, 0, 0.25))
    spine = np.exp(-((canvas.x / 0.085) ** 2)) * (0.10 + 0.02 * np.sin(canvas.y * 38 + body.turn * 90))
    picture: Plane = 0.60 * torso + 0.06 * _noise(rng, size, 3) * torso
    picture -= air * (0.40 * canvas.lung_factor - vessels - canvas.opacity - canvas.lines)
    picture += torso * (body.rib_contrast * _ribs(canvas) + spine) + 0.05 * heart
    return picture


def _expose(picture: Plane, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Random gain, gamma, vignette and grain; uint8."""
    size = picture.shape[0]
    picture = np.clip(rng.uniform(0.90, 1.20) * picture + rng.uniform(-0.05, 0.10), 0, 1) ** rng.uniform(0.8, 1.3)
    grain = rng.standard_normal((size, size), dtype=np.float32) + _noise(rng, size, size // 3)
    picture = picture + rng.uniform(0.012, 0.028) * grain
    return np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)


def draw(seed: int, index: int, size: int = 224) -> Phantom:
    """The phantom of one (seed, index), of `size` x `size` pixels; the finding goes round with the index."""
    rng = np.random.default_rng([seed, index])
    finding = FINDINGS[index % len(FINDINGS)]
    canvas = _canvas(rng, size)
    severity, side, position = None, None, None
    if finding != NO_FINDING:
        level = int(rng.integers(len(SEVERITIES)))
        left = bool(rng.integers(2))
        severity, side = SEVERITIES[level], SIDES[0 if left else 1] if finding in ONE_SIDED else None
        x, y = _DRAW[finding](canvas, 1 if left else -1, _STRENGTH[finding][level])
        position = _to_image(canvas.body, x, y)
    return Phantom(_expose(_compose(canvas), rng), finding, severity, side, position)


def _to_image(body: _Anatomy, x: float, y: float) -> tuple[float, float]:
    """From the body's frame to the image's -1..1."""
    cos, sin = np.cos(body.turn) * body.zoom, np.sin(body.turn) * body.zoom
    return float(cos * x + sin * y + body.shift[0]), float(-sin * x + cos * y + body.shift[1])


def generate(seed: int, n: int, size: int = 224) -> Iterator[Phantom]:
    """`n` phantoms of one seed, findings in equal numbers."""
    return (draw(seed, index, size) for index in range(n))
