"""Image sets in memory, resized as the models' processors resize them, and the augmentation of training batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from PIL import Image

from edgekit.inputs import phantoms
from edgekit.inputs.labels import ALL_LABELS, LABELS, PHANTOM, SEVERITIES, SIDES, label_named
from edgekit.reference_models.training import data

TRAIN_SEED, VALIDATION_SEED, TEST_SEED = 1, 2, 3  # phantoms: trained on, decided by, the model card's figures


@dataclass(frozen=True)
class ImageSet:
    """Images with what is known about each.

    Attributes:
        pixels: greyscale uint8 (n, size, size).
        labels: positions in `edgekit.inputs.labels.ALL_LABELS`.
        severity, side: positions in the lists there, -1 where there is none.
        points: (n, 2), x and y of a phantom's finding in -1..1, NaN where there is none.
    """

    pixels: np.ndarray
    labels: np.ndarray
    severity: np.ndarray
    side: np.ndarray
    points: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> ImageSet:
        """The images at these places."""
        return ImageSet(*(getattr(self, field.name)[indices] for field in fields(self)))

    def joined(self, other: ImageSet) -> ImageSet:
        """These images followed by others of the same size."""
        names = [field.name for field in fields(self)]
        return ImageSet(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in names))

    @property
    def flippable(self) -> np.ndarray:
        """Which images may be mirrored: phantoms may not, they have sides to tell."""
        return self.labels < len(LABELS)


def resized(pixels: np.ndarray, size: int, resample: Image.Resampling) -> np.ndarray:
    """One greyscale image as the processor resizes it."""
    return np.asarray(Image.fromarray(pixels).resize((size, size), resample))


def label_index(name: str, modality: str) -> int:
    """Position of a label in `edgekit.inputs.labels.ALL_LABELS`."""
    return ALL_LABELS.index(label_named(name, modality))


def real_images(folder: Path, split: str, size: int, resample: Image.Resampling) -> ImageSet:
    """The radiographs of one split."""
    rows = data.radiographs(folder, split)
    labels = np.array([label_index(row.label, row.modality) for row in rows])
    none = np.full(len(rows), -1)
    pixels = np.stack([resized(row.pixels, size, resample) for row in rows])
    return ImageSet(pixels, labels, none, none, np.full((len(rows), 2), np.nan))


def phantom_images(seed: int, n: int, size: int, resample: Image.Resampling) -> ImageSet:
    """Phantoms drawn at 224 px and resized."""
    drawn = list(phantoms.generate(seed, n))
    labels = np.array([label_index(p.finding, PHANTOM) for p in drawn])
    severity = np.array([SEVERITIES.index(p.severity) if p.severity else -1 for p in drawn])
    side = np.array([SIDES.index(p.side) if p.side else -1 for p in drawn])
    points = np.array([p.position or (np.nan, np.nan) for p in drawn])
    return ImageSet(np.stack([resized(p.image, size, resample) for p in drawn]), labels, severity, side, points)


def stored(path: Path, make: Callable[[], ImageSet]) -> ImageSet:
    """An image set from `path`, made and stored there if it is not yet: drawing takes minutes."""
    if not path.is_file():
        drawn = make()
        np.savez(path, **{field.name: getattr(drawn, field.name) for field in fields(drawn)})
    with np.load(path) as arrays:
        return ImageSet(**arrays)


def balanced(images: ImageSet, n: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of `n` images, every label equally likely."""
    groups = [np.flatnonzero(images.labels == label) for label in np.unique(images.labels)]
    return np.array([rng.choice(groups[i]) for i in rng.permutation(n) % len(groups)])


def as_input(pixels: np.ndarray) -> torch.Tensor:
    """Greyscale uint8 (n, size, size) to float32 (n, 3, size, size) in -1..1, as the processors do."""
    scaled = torch.from_numpy(pixels.astype(np.float32)) / 127.5 - 1
    return scaled[:, None].expand(-1, 3, -1, -1)


def augmented(batch: ImageSet, rng: np.random.Generator, strength: float = 1.0) -> tuple[torch.Tensor, np.ndarray]:
    """Images moved, turned, stretched, re-exposed and, where they may be, mirrored, with their moved points.

    Returns:
        The input of a vision tower as `as_input` makes it, and the points (n, 2) where the augmentation put them.
    """
    n = len(batch)
    spread = np.where(rng.random(n) < 0.8, strength, 0.0)[:, None]  # a fifth stays sharp, as test images are
    turn, zoom, shear = (0.22 * spread, 0.14 * spread, 0.08 * spread)
    angle = rng.uniform(-1, 1, (n, 1)) * turn
    scale = 1 + rng.uniform(-1, 1, (n, 2)) * zoom
    skew = rng.uniform(-1, 1, (n, 1)) * shear
    shift = rng.uniform(-1, 1, (n, 2)) * 0.12 * spread
    mirror = np.where(batch.flippable & (rng.random(n) < 0.5), -1.0, 1.0)[:, None]
    first = np.concatenate([np.cos(angle) * scale[:, :1] * mirror, -np.sin(angle) + skew, shift[:, :1]], 1)
    second = np.concatenate([np.sin(angle) * mirror, np.cos(angle) * scale[:, 1:], shift[:, 1:]], 1)
    matrix = np.stack([first, second], 1)  # from a place in the new image to its place in the old one
    images = torch.from_numpy(batch.pixels.astype(np.float32))[:, None] / 127.5 - 1
    grid = functional.affine_grid(torch.from_numpy(matrix.astype(np.float32)), list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    gain = torch.from_numpy(rng.uniform(0.8, 1.2, (n, 1, 1, 1)).astype(np.float32))
    offset = torch.from_numpy(rng.uniform(-0.15, 0.15, (n, 1, 1, 1)).astype(np.float32))
    points = np.linalg.solve(matrix[:, :, :2], (batch.points - matrix[:, :, 2])[..., None])[..., 0]
    return (moved * gain + offset).clamp(-1, 1).expand(-1, 3, -1, -1), points
