"""Adapts SigLIP's image tower to MedGemma's task: four times the pixels, 16 pooled tokens, then caches those tokens.

As in the real pair, MedGemma's tower starts from SigLIP's with its position embedding resized. A linear head on the
pooled tokens, dropped afterwards, asks for finding, severity and side, so that they survive the pooling.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from PIL import Image

from edgekit.reference import architecture, data, folder, images, loop, phantoms, train_siglip, vocabulary
from edgekit.reference.images import ImageSet

SEED = 20_242
REAL, DRAWN = 26, 14
SIZE = architecture.GEMMA_IMAGE_SIZE
PHANTOMS = 6000
_BILINEAR = Image.Resampling.BILINEAR
_FLIPPABLE = np.array([label.modality != vocabulary.PHANTOM for label in vocabulary.ALL_LABELS])


class Tower(torch.nn.Module):
    """The vision tower and, for training only, a head on its pooled tokens: (n, 3, 224, 224) to labels and grades."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = folder.build(architecture.GEMMA_CONFIG).model.vision_tower
        width = architecture.GEMMA_CONFIG["vision_config"]["hidden_size"]
        self.labels = torch.nn.Linear(architecture.IMAGE_TOKENS * width, len(vocabulary.ALL_LABELS))
        self.severity = torch.nn.Linear(architecture.IMAGE_TOKENS * width, len(vocabulary.SEVERITIES))
        self.side = torch.nn.Linear(architecture.IMAGE_TOKENS * width, len(vocabulary.SIDES))

    def pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features after Gemma's 4x4 average pooling, before its projector: (n, 16, width)."""
        patches = self.vision(pixels).last_hidden_state
        side = int(patches.shape[1] ** 0.5)
        grid = patches.transpose(1, 2).unflatten(2, (side, side))
        return functional.avg_pool2d(grid, side // int(architecture.IMAGE_TOKENS**0.5)).flatten(2).transpose(1, 2)

    def start_from(self, siglip: torch.nn.Module) -> None:
        """Take SigLIP's tower; its 8x8 position embedding is interpolated to 16x16."""
        state = {k: v for k, v in siglip.vision_model.state_dict().items() if not k.startswith("head.")}
        name = "embeddings.position_embedding.weight"
        old, new = state[name], self.vision.state_dict()[name]
        grid = old.T.unflatten(1, (int(len(old) ** 0.5), -1))[None]
        side = int(len(new) ** 0.5)
        state[name] = functional.interpolate(grid, (side, side), mode="bicubic")[0].flatten(1).T
        self.vision.load_state_dict(state)


@dataclass(frozen=True)
class Graded:
    """Phantoms with their `severity` and `side` as positions in the vocabulary's lists, -1 where there is none."""

    images: ImageSet
    severity: np.ndarray
    side: np.ndarray


def graded_phantoms(seed: int, n: int) -> Graded:
    """Phantoms at the tower's size."""
    drawn = list(phantoms.generate(seed, n, SIZE))
    labels = np.array([images.label_index(p.finding, vocabulary.PHANTOM) for p in drawn])
    severity = np.array([vocabulary.SEVERITIES.index(p.severity) if p.severity else -1 for p in drawn])
    side = np.array([vocabulary.SIDES.index(p.side) if p.side else -1 for p in drawn])
    return Graded(ImageSet(np.stack([p.image for p in drawn]), labels), severity, side)


def _loss(
    tower: Tower, pixels: torch.Tensor, labels: np.ndarray, severity: np.ndarray, side: np.ndarray
) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = functional.layer_norm(tower.pooled(pixels).float(), (tower.labels.in_features // 16,)).flatten(1)
        features = functional.dropout(features, 0.1)
        outputs = [head(features).float() for head in (tower.labels, tower.severity, tower.side)]
    wanted = [torch.from_numpy(values) for values in (labels, severity, side)]
    names, grades, sides = (
        functional.cross_entropy(output, target, ignore_index=-1, label_smoothing=0.05)
        for output, target in zip(outputs, wanted, strict=True)
    )
    return names + 0.3 * grades + 0.3 * sides


def _check(tower: Tower, real: ImageSet, drawn: Graded) -> str:
    texts = []
    with torch.no_grad():
        for name, chosen in (("real", real), ("drawn", drawn.images)):
            batches = [images.as_input(chosen.pixels[i : i + 64]) for i in range(0, len(chosen), 64)]
            features = torch.cat([tower.pooled(batch) for batch in batches])
            width = features.shape[-1]
            best = tower.labels(functional.layer_norm(features, (width,)).flatten(1)).argmax(1).numpy()
            each = [float((best == label)[chosen.labels == label].mean()) for label in np.unique(chosen.labels)]
            texts.append(f"{name} {(best == chosen.labels).mean():.3f} [{' '.join(f'{v:.2f}' for v in each)}]")
    return " ".join(texts)


def train(data_folder: Path, work: Path, steps: int) -> None:
    """Train to `steps`, resuming from `work/tower.pt`."""
    torch.manual_seed(SEED)
    tower = Tower()
    tower.start_from(train_siglip.load(work))
    real = images.real_images(data_folder, "train", SIZE, _BILINEAR)
    drawn = graded_phantoms(images.TRAIN_SEED, PHANTOMS)
    choice = images.real_images(data_folder, "val", SIZE, _BILINEAR), graded_phantoms(images.CHOICE_SEED, 240)

    def loss(rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        first, second = images.balanced(real, REAL, rng), images.balanced(drawn.images, DRAWN, rng)
        labels = np.concatenate([real.labels[first], drawn.images.labels[second]])
        pixels = np.concatenate([real.pixels[first], drawn.images.pixels[second]])
        none = np.full(REAL, -1)
        grades = [np.concatenate([none, values[second]]) for values in (drawn.severity, drawn.side)]
        return _loss(tower, images.augmented(pixels, _FLIPPABLE[labels], rng), labels, *grades), {}

    stage = loop.Stage(
        "tower",
        {"tower": tower},
        loss,
        steps,
        6e-4,
        SEED,
        warmup=40,
        check=lambda: _check(tower, *choice),
        check_every=200,
    )
    loop.train(stage, work)


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
def _encode(tower: Tower, batches: list[torch.Tensor]) -> np.ndarray:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return np.concatenate([tower.pooled(batch).float().numpy().astype(np.float16) for batch in batches])


def cache(data_folder: Path, work: Path) -> None:
    """Write `work/cache-*.npy`: real images as they are and once augmented, phantoms as they are, VQA-RAD images."""
    tower, rng = load(work), np.random.default_rng(SEED)
    real = images.real_images(data_folder, "train", SIZE, _BILINEAR)
    drawn = graded_phantoms(images.TRAIN_SEED, PHANTOMS)
    features, labels = [], []
    for i in range(0, len(real), 64):
        pixels, names = real.pixels[i : i + 64], real.labels[i : i + 64]
        features += [images.as_input(pixels), images.augmented(pixels, _FLIPPABLE[names], rng)]
        labels += [names, names]
    encoded = [_encode(tower, [batch]) for batch in features]
    encoded += [_encode(tower, [images.as_input(drawn.images.pixels[i : i + 64])]) for i in range(0, PHANTOMS, 64)]
    none = np.full(2 * len(real), -1)
    np.save(work / "cache-features.npy", np.concatenate(encoded))
    np.save(work / "cache-labels.npy", np.concatenate([*labels, drawn.images.labels]))
    np.save(work / "cache-severity.npy", np.concatenate([none, drawn.severity]))
    np.save(work / "cache-side.npy", np.concatenate([none, drawn.side]))
    files = sorted({question.image for question in data.vqa_rad(data_folder, "train")})
    opened = [
        Image.open(data_folder / "vqa_rad" / name).convert("RGB").resize((SIZE, SIZE), _BILINEAR) for name in files
    ]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in opened]).astype(np.float32)) / 127.5 - 1
    np.save(work / "cache-vqa.npy", _encode(tower, [pixels.permute(0, 3, 1, 2)]))


def load_cache(work: Path) -> Cache:
    """What `cache` wrote about real images and phantoms."""
    return Cache(*(np.load(work / f"cache-{name}.npy") for name in ("features", "labels", "severity", "side")))
