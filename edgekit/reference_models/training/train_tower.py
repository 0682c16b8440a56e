"""Adapts SigLIP's image tower to MedGemma's task: four times the pixels, 16 pooled tokens, then caches those tokens.

As in the real pair, MedGemma's tower starts from SigLIP's with its position embedding resized. A linear head on the
pooled tokens, dropped afterwards, asks for finding, severity and side, so that they survive the pooling.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from PIL import Image

from edgekit.inputs.labels import ALL_LABELS, SEVERITIES, SIDES
from edgekit.reference_models.training import architecture, data, folder, images, loop, train_siglip
from edgekit.reference_models.training.images import ImageSet
from edgekit.reference_models.training.places import PlaceHead

SEED = 20_242
REAL, DRAWN = 26, 14
SIZE = architecture.GEMMA_IMAGE_SIZE
PHANTOMS = 6000
_BILINEAR = Image.Resampling.BILINEAR


class Tower(torch.nn.Module):
    """The vision tower and, for training only, a head on its pooled tokens: (n, 3, 224, 224) to labels and grades."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = folder.build(architecture.GEMMA_CONFIG).model.vision_tower
        width = architecture.GEMMA_CONFIG["vision_config"]["hidden_size"]
        self.labels = torch.nn.Linear(architecture.IMAGE_TOKENS * width, len(ALL_LABELS))
        self.severity = torch.nn.Linear(architecture.IMAGE_TOKENS * width, len(SEVERITIES))
        self.side = torch.nn.Linear(architecture.IMAGE_TOKENS * width, len(SIDES))

    def pool(self, patches: torch.Tensor) -> torch.Tensor:
        """Gemma's 4x4 average pooling: patch features (n, 256, width) to (n, 16, width), before its projector."""
        side = int(patches.shape[1] ** 0.5)
        grid = patches.transpose(1, 2).unflatten(2, (side, side))
        return functional.avg_pool2d(grid, side // int(architecture.IMAGE_TOKENS**0.5)).flatten(2).transpose(1, 2)

    def pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pooled features (n, 16, width) of images (n, 3, 224, 224)."""
        return self.pool(self.vision(pixels).last_hidden_state)

    def heads(self, pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scores of labels, severities and sides from pooled features (n, 16, width)."""
        features = functional.layer_norm(pooled, pooled.shape[-1:]).flatten(1)
        features = functional.dropout(features, 0.1, self.training)
        return self.labels(features), self.severity(features), self.side(features)

    def start_from(self, siglip: torch.nn.Module) -> None:
        """Take SigLIP's tower; its 8x8 position embedding is interpolated to 16x16."""
        state = {k: v for k, v in siglip.vision_model.state_dict().items() if not k.startswith("head.")}
        name = "embeddings.position_embedding.weight"
        old, new = state[name], self.vision.state_dict()[name]
        grid = old.T.unflatten(1, (int(len(old) ** 0.5), -1))[None]
        side = int(len(new) ** 0.5)
        state[name] = functional.interpolate(grid, (side, side), mode="bicubic")[0].flatten(1).T
        self.vision.load_state_dict(state)


def _loss(
    tower: Tower, places: PlaceHead, batch: ImageSet, rng: np.random.Generator
) -> tuple[torch.Tensor, dict[str, float]]:
    pixels, points = images.augmented(batch, rng)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        patches = tower.vision(pixels).last_hidden_state
    outputs = tower.heads(tower.pool(patches.float()))
    wanted = [torch.from_numpy(values) for values in (batch.labels, batch.severity, batch.side)]
    names, grades, sides = (
        functional.cross_entropy(output, target, ignore_index=-1, label_smoothing=0.05)
        for output, target in zip(outputs, wanted, strict=True)
    )
    placed = places.loss(patches, batch.labels, points, rng)
    figures = {"names": names.item(), "grades": grades.item(), "sides": sides.item(), "place": placed.item()}
    return names + 0.3 * grades + 0.3 * sides + 0.5 * placed, figures


@torch.no_grad()
def _check(tower: Tower, validation: ImageSet) -> str:
    tower.eval()
    parts = [validation.take(np.arange(i, min(i + 64, len(validation)))) for i in range(0, len(validation), 64)]
    outputs = [tower.heads(tower.pool(tower.vision(images.as_input(part.pixels)).last_hidden_state)) for part in parts]
    tower.train()
    names, grades, sides = (torch.cat(each).argmax(1).numpy() for each in zip(*outputs, strict=True))
    each = [float((names == label)[validation.labels == label].mean()) for label in np.unique(validation.labels)]
    real = validation.severity < 0
    graded, sided = validation.severity >= 0, validation.side >= 0
    severe, side = (grades == validation.severity)[graded], (sides == validation.side)[sided]
    return (
        f"all {(names == validation.labels).mean():.3f} [{' '.join(f'{value:.2f}' for value in each)}] "
        f"severity {severe.mean():.3f} side {side.mean():.3f} "
        f"without severity {(names == validation.labels)[real].mean():.3f}"
    )


def _training_sets(data_folder: Path, work: Path) -> tuple[ImageSet, ImageSet]:
    drawn = partial(images.phantom_images, images.TRAIN_SEED, PHANTOMS, SIZE, _BILINEAR)
    real = images.real_images(data_folder, "train", SIZE, _BILINEAR)
    return real, images.stored(work / "phantoms-224.npz", drawn)


def _validation_set(data_folder: Path) -> ImageSet:
    real = images.real_images(data_folder, "val", SIZE, _BILINEAR)
    return real.joined(images.phantom_images(images.VALIDATION_SEED, 240, SIZE, _BILINEAR))


def train(data_folder: Path, work: Path, steps: int) -> None:
    """Train to `steps`, resuming from `work/tower.pt`."""
    torch.manual_seed(SEED)
    tower = Tower()
    tower.start_from(train_siglip.load(work, "siglip-start"))
    tower.train()
    places = PlaceHead(architecture.GEMMA_CONFIG["vision_config"]["hidden_size"])
    real, drawn = _training_sets(data_folder, work)

    def loss(rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        first, second = images.balanced(real, REAL, rng), images.balanced(drawn, DRAWN, rng)
        return _loss(tower, places, real.take(first).joined(drawn.take(second)), rng)

    modules = {"tower": tower, "places": places}
    check = partial(_check, tower, _validation_set(data_folder))
    loop.train(loop.Stage("tower", modules, loss, steps, 6e-4, SEED, warmup=40, check=check, check_every=200), work)


def load(work: Path) -> Tower:
    """The adapted tower, in evaluation mode."""
    tower = Tower()
    loop.restore(work, "tower", {"tower": tower})
    tower.eval()
    return tower


@dataclass(frozen=True)
class Cache:
    """Pooled features of the training images: float16 (n, 16, width), with what is known about each."""

    features: np.ndarray
    labels: np.ndarray
    severity: np.ndarray
    side: np.ndarray


@torch.no_grad()
def _encode(tower: Tower, pixels: torch.Tensor) -> np.ndarray:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features: np.ndarray = tower.pooled(pixels).float().numpy().astype(np.float16)
    return features


def cache(data_folder: Path, work: Path) -> None:
    """Write `work/cache-*.npy`: standardized features of all training images as they are, and of VQA-RAD's."""
    tower = load(work)
    real, drawn = _training_sets(data_folder, work)
    both = real.joined(drawn)
    parts = [both.take(np.arange(i, min(i + 64, len(both)))) for i in range(0, len(both), 64)]
    features = np.concatenate([_encode(tower, images.as_input(part.pixels)) for part in parts])
    mean, spread = features.mean((0, 1), dtype=np.float64), features.std((0, 1), dtype=np.float64)
    saved = {"labels": both.labels, "severity": both.severity, "side": both.side, "mean": mean, "spread": spread}
    for name, values in saved.items():
        np.save(work / f"cache-{name}.npy", values)
    np.save(work / "cache-features.npy", ((features - mean) / spread).astype(np.float16))
    files = sorted({question.image for question in data.vqa_rad(data_folder, "train")})
    opened = [
        Image.open(data_folder / "vqa_rad" / file).convert("RGB").resize((SIZE, SIZE), _BILINEAR) for file in files
    ]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in opened]).astype(np.float32)) / 127.5 - 1
    asked = _encode(tower, pixels.permute(0, 3, 1, 2))
    np.save(work / "cache-vqa.npy", ((asked - mean) / spread).astype(np.float16))


def load_standardized(work: Path) -> Tower:
    """The tower as the cache stage left it, its features of mean 0 and variance 1 over the training images.

    Most of a pooled feature is common to all images, and Gemma's projector divides by its length: what tells images
    apart would reach the decoder faintly. The tower's last norm is affine and pooling is linear, so it can absorb this.
    """
    tower = load(work)
    mean, spread = (torch.from_numpy(np.load(work / f"cache-{name}.npy")).float() for name in ("mean", "spread"))
    norm = tower.vision.post_layernorm
    with torch.no_grad():
        norm.weight.div_(spread)
        norm.bias.sub_(mean).div_(spread)
    return tower


def load_cache(work: Path) -> Cache:
    """What `cache` wrote about real images and phantoms."""
    return Cache(*(np.load(work / f"cache-{name}.npy") for name in ("features", "labels", "severity", "side")))
