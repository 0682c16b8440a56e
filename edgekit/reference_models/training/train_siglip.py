"""Trains the MedSigLIP-like reference model: SigLIP's sigmoid loss between images and captions of their labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from PIL import Image
from transformers import SiglipModel

from edgekit.inputs.labels import ALL_LABELS, LABELS, class_prompts
from edgekit.reference_models.training import architecture, folder, images, loop
from edgekit.reference_models.training.captions import token_ids
from edgekit.reference_models.training.images import ImageSet
from edgekit.reference_models.training.places import PlaceHead

SEED = 20_240
REAL, DRAWN = 46, 18  # images of each kind in a batch
PLACE_WEIGHT = 0.5
SIZE = architecture.SIGLIP_IMAGE_SIZE


@dataclass(frozen=True)
class _Sets:
    real: ImageSet
    drawn: ImageSet


def _training_sets(data_folder: Path) -> _Sets:
    bicubic = Image.Resampling.BICUBIC
    return _Sets(
        images.real_images(data_folder, "train", SIZE, bicubic),
        images.phantom_images(images.TRAIN_SEED, 6000, SIZE, bicubic),
    )


def _validation_sets(data_folder: Path) -> _Sets:
    bicubic = Image.Resampling.BICUBIC
    return _Sets(
        images.real_images(data_folder, "val", SIZE, bicubic),
        images.phantom_images(images.VALIDATION_SEED, 400, SIZE, bicubic),
    )


def _prompt_table(spiece: bytes) -> torch.Tensor:
    """Token ids of every class prompt: (labels, templates, 64)."""
    return torch.stack([token_ids(class_prompts(label), spiece) for label in ALL_LABELS])


def contrastive_loss(model: SiglipModel, image: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """SigLIP's sigmoid loss over all image/caption pairs, plus a softmax over captions that speeds it up.

    Args:
        image: embeddings (n, width). ids: (classes, 64), one caption per class. labels: (n,), each image's class.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16):
        text = model.text_model(ids).pooler_output
    cosine = functional.normalize(image.float(), dim=-1) @ functional.normalize(text.float(), dim=-1).T
    logits = cosine * model.logit_scale.exp() + model.logit_bias
    target = functional.one_hot(labels, len(ids)).float()
    sigmoid = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1).mean()
    return sigmoid + functional.cross_entropy(logits, labels, label_smoothing=0.05)


@torch.no_grad()
def class_embeddings(model: SiglipModel, table: torch.Tensor) -> torch.Tensor:
    """Normalized mean of each class's normalized prompt embeddings: (labels, width)."""
    each = functional.normalize(model.text_model(table.flatten(0, 1)).pooler_output.float(), dim=-1)
    return functional.normalize(each.view(*table.shape[:2], -1).mean(1), dim=-1)


@torch.no_grad()
def _accuracy(model: SiglipModel, labelled: ImageSet, classes: torch.Tensor, among: slice) -> tuple[float, list[float]]:
    batches = [images.as_input(labelled.pixels[i : i + 128]) for i in range(0, len(labelled), 128)]
    embedded = torch.cat([model.vision_model(batch).pooler_output for batch in batches])
    best = (embedded @ classes[among].T).argmax(1).numpy() + (among.start or 0)
    each = [float((best == label)[labelled.labels == label].mean()) for label in np.unique(labelled.labels)]
    return float((best == labelled.labels).mean()), each


def _check(model: SiglipModel, table: torch.Tensor, validation: _Sets) -> str:
    classes = class_embeddings(model, table)
    known = len(LABELS)
    texts = []
    real, drawn = slice(0, known), slice(known, None)
    for name, labelled, among in (("real", validation.real, real), ("drawn", validation.drawn, drawn)):
        accuracy, each = _accuracy(model, labelled, classes, among)
        texts.append(f"{name} {accuracy:.3f} [{' '.join(f'{value:.2f}' for value in each)}]")
    return " ".join(texts)


def train(data_folder: Path, work: Path, steps: int, until: int | None = None) -> None:
    """Train to step `until` of `steps`, resuming from `work/siglip.pt`."""
    torch.manual_seed(SEED)
    model = folder.build(architecture.SIGLIP_CONFIG)
    torch.nn.init.constant_(model.logit_scale, np.log(10.0))
    torch.nn.init.constant_(model.logit_bias, -4.0)
    table = _prompt_table((work / "spiece.model").read_bytes())
    sets, validation = _training_sets(data_folder), _validation_sets(data_folder)

    places = PlaceHead(architecture.SIGLIP_CONFIG["vision_config"]["hidden_size"])

    def loss(rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        real, drawn = images.balanced(sets.real, REAL, rng), images.balanced(sets.drawn, DRAWN, rng)
        batch = sets.real.take(real).joined(sets.drawn.take(drawn))
        pixels, points = images.augmented(batch, rng)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            seen = model.vision_model(pixels)
        ids = table[torch.arange(len(table)), torch.from_numpy(rng.integers(table.shape[1], size=len(table)))]
        matched = contrastive_loss(model, seen.pooler_output, ids, torch.from_numpy(batch.labels))
        placed = places.loss(seen.last_hidden_state, batch.labels, points, rng)
        return matched + PLACE_WEIGHT * placed, {"place": placed.item(), "scale": model.logit_scale.exp().item()}

    modules = {"model": model, "places": places}
    check = partial(_check, model, table, validation)
    loop.train(loop.Stage("siglip", modules, loss, steps, 1e-3, SEED, check=check, check_every=250), work, until)


def load(work: Path, name: str = "siglip") -> SiglipModel:
    """The model of one checkpoint, trained or as far as it is."""
    model = folder.build(architecture.SIGLIP_CONFIG)
    loop.restore(work, name, {"model": model})
    return model
