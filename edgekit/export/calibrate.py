"""Measure what enters every matrix whose activations a level quantizes, and smooth it.

It is measured on transformers' own model, whose modules hold weights only while they run, so memory holds one matrix
and the activations of a few items. A pass reads every weight once, which at most sizes is a small part of its time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import CheckpointError
from edgekit.export.smooth import Channels, smoothing
from edgekit.families.siglip.text import encode_siglip
from edgekit.families.source import Source
from edgekit.formats import calibration as calibrations
from edgekit.formats.calibration import Calibration
from edgekit.formats.plan import PartPlan
from edgekit.full_precision import processors as hf_inputs
from edgekit.full_precision import streamed
from edgekit.inputs import phantoms
from edgekit.inputs.image import ImageLike, load, normalize, to_pixels
from edgekit.inputs.labels import ALL_LABELS, class_prompts
from edgekit.inputs.message import Image, Message
from edgekit.inputs.passage import sentences
from edgekit.inputs.samples import Inputs, name_of, shipped_inputs
from edgekit.inputs.text import load_tokenizer
from edgekit.progress import Progress
from edgekit.runtime.base import Float

SEED = 40_260  # of the phantoms; training, proof and benchmarks use others
_PATCHES = 16_384  # that images are used up to: 4 images of 896 pixels, 16 of 448
_IMAGES = (4, 64)  # but at least and at most
_TOGETHER = 4096  # patches in one pass: an MLP's activations take 140 MB then
_CAPTIONS = 16  # in one pass
_CHARACTERS = 8000, 1500  # of a text alone, and of one behind an image
_SHIPPED_TEXT = "the text shipped with edgekit"

Pass = Callable[[Any], Any]  # runs transformers' model on a few items


@dataclass(frozen=True)
class Material:
    """What one part is calibrated on.

    Attributes:
        name: what the manifest says was used.
        passes: each runs the model on some of it.
    """

    name: str
    passes: tuple[Pass, ...]


def calibrated(source: Source, plan: PartPlan, inputs: Inputs, path: Path, data: Path, progress: Progress) -> PartPlan:
    """A plan with what calibration found, from the file at `path` where an interrupted run left it, else measured.

    Args:
        data: the part's weights; what an interrupted run wrote of them after another calibration is removed.

    Raises:
        CheckpointError: an activation is NaN or infinite.
    """
    material = material_of(source, plan, inputs)
    if path.is_file():
        found = calibrations.read(path)
        if found.inputs == material.name:
            return plan.calibrated(found)
    progress.start(f"{plan.role} {plan.level.name}: calibration", len(material.passes))
    found = calibration_of(source, plan, material, progress.advance)
    data.unlink(missing_ok=True)
    found.write(path)
    return plan.calibrated(found)


def calibration_of(
    source: Source, plan: PartPlan, material: Material, step: Callable[[], None] = lambda: None
) -> Calibration:
    """Measure, smooth, and say what the ranges are then."""
    seen = measure(source, plan, material.passes, step)
    smoothed = smoothing(plan, seen)
    ranges = {}
    for planned in plan.tensors:
        name = planned.spec.name
        if name in seen:
            exponents = smoothed.get(planned.spec.follows[0]) if planned.spec.follows else None
            factors = calibrations.exponents_to_factors(exponents or [0])
            ranges[name] = seen[name].divided(factors).range
    return Calibration(inputs=material.name, ranges=ranges, smoothing=smoothed)


def measure(
    source: Source, plan: PartPlan, passes: Iterable[Pass], step: Callable[[], None] = lambda: None
) -> dict[str, Channels]:
    """What enters each matrix for which the plan needs a range, by the matrix's name.

    Args:
        step: called after each pass.

    Raises:
        CheckpointError: an activation is NaN or infinite; the message names the matrix that it enters.
    """
    model = streamed.model(plan.config, streamed.Weights(source.checkpoint, source.family))
    watched = watch(source, model, plan.ranged)
    if missing := plan.ranged - set(watched):
        raise ValueError(f"no module multiplies by {sorted(missing)[0]} alone")
    for run in passes:
        run(model)
        step()
    return {name: watcher.channels() for name, watcher in watched.items()}


def watch(source: Source, model: Any, wanted: Collection[str]) -> dict[str, Watcher]:
    """Watch what enters the modules of transformers' model that own these matrices."""
    watched = {}
    for path, module in model.named_modules():
        name = source.family.canonical(f"{path}.weight")
        if name is not None and name in wanted:
            watched[name] = Watcher(f"{source.checkpoint.root}: {name}")
            module.register_forward_pre_hook(watched[name].see)
    return watched


class Watcher:
    """Sums up, channel by channel, all that enters a module."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._low, self._high = np.full(1, np.inf, np.float32), np.full(1, -np.inf, np.float32)

    def see(self, _: Any, arguments: tuple[Any, ...]) -> None:
        """A forward pre-hook."""
        values = arguments[0].detach().flatten(0, -2)
        low, high = values.amin(0).numpy(), values.amax(0).numpy()
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise CheckpointError(
                f"{self._where}: what enters this matrix is not finite",
                remedy="the checkpoint is damaged, or its numbers outgrow float32: download it again",
            )
        self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)

    def channels(self) -> Channels:
        """What was seen."""
        return Channels(self._low, self._high)


# ---------------------------------------------------------------- what it is measured on


def material_of(source: Source, plan: PartPlan, inputs: Inputs) -> Material:
    """A user's images and text where given, else what comes with edgekit, made ready for a part."""
    if plan.role == "text_encoder":
        return _captions(source, plan, inputs)
    if plan.role == "decoder":
        return _prompts(source, plan, inputs)
    images, name = _images(plan, inputs, _IMAGES[1])
    together = max(1, _TOGETHER // plan.config.vision_config.patches)
    batches = [images[i : i + together] for i in range(0, len(images), together)]
    return Material(name, tuple(partial(_look, source, plan.role, batch) for batch in batches))


def material(source: Source, plan: PartPlan, inputs: Inputs | None) -> str | None:
    """What the ranges of a part's activations would be measured on, None where its level needs none."""
    return material_of(source, plan, inputs or shipped_inputs()).name if plan.level.needs_calibration else None


def named(source: Source, plan: PartPlan, inputs: Inputs) -> str | None:
    """The same, of a part that is measured on something that a user named; None of others."""
    sees = plan.role != "text_encoder" and plan.config.vision_config is not None
    reads = plan.role in ("text_encoder", "decoder")
    by_user = bool(sees and inputs.pictures) or bool(reads and inputs.text_name)
    return material(source, plan, inputs) if by_user else None


def _images(plan: PartPlan, inputs: Inputs, most: int) -> tuple[Sequence[ImageLike], str]:
    """As many as their size allows; of a user's own, those that the proof does not compare on, if there are enough."""
    fewest = _IMAGES[0]
    count = min(most, max(fewest, _PATCHES // plan.config.vision_config.patches))
    if not inputs.pictures:
        return [p.image for p in phantoms.generate(SEED, count)], f"{count} phantoms shipped with edgekit"
    others = inputs.pictures[len(inputs.images) :]
    paths = (others if len(others) >= fewest else inputs.pictures)[:count]
    return paths, name_of(paths)


def _look(source: Source, role: str, images: Sequence[ImageLike], model: Any) -> Float:
    """Encode images, which become pixels no sooner than now."""
    preprocessing = source.preprocessing
    assert preprocessing is not None, "a part that sees images has a preprocessing"
    pixels = normalize(to_pixels(images, preprocessing), preprocessing)
    return hf_inputs.encode(source.family, model, role, pixels)


def _captions(source: Source, plan: PartPlan, inputs: Inputs) -> Material:
    """The text's sentences, without those that the proof compares on if there are others, and the prompts of labels."""
    lines = sentences(inputs.text)
    captions = [*(lines[len(inputs.captions) :] or lines)]
    captions += [prompt for label in ALL_LABELS for prompt in class_prompts(label)]
    text = plan.config.text_config
    tokenizer = load_tokenizer(plan.checkpoint.root / "tokenizer.json")
    ids = encode_siglip(tokenizer, captions, text.max_position_embeddings, text.pad_id)
    batches = [ids[i : i + _CAPTIONS] for i in range(0, len(ids), _CAPTIONS)]
    name = f"{len(ids)} captions from {inputs.text_name or _SHIPPED_TEXT} and from label prompts"
    return Material(
        name, tuple(partial(hf_inputs.encode, source.family, role=plan.role, batch=batch) for batch in batches)
    )


def _prompts(source: Source, plan: PartPlan, inputs: Inputs) -> Material:
    """The text alone, and its beginnings behind an image each."""
    whole, part = _CHARACTERS
    messages = [Message("user", inputs.text[:whole])]
    name = inputs.text_name or _SHIPPED_TEXT
    if len(inputs.text) > whole:
        name = f"the first {whole} characters of {name}"
    if plan.config.vision_config:
        images, images_name = _images(plan, inputs, _IMAGES[0])
        for i, image in enumerate(images):
            beginning = inputs.text[:whole][i * part : (i + 1) * part] or inputs.text[:part]
            messages.append(Message("user", Image(np.asarray(load(image))), beginning))
        name = f"{name} and {images_name}"
    # One prompt in a pass: what fills up a shorter one beside a longer would be measured, too.
    return Material(name, tuple(partial(_continue, source, message) for message in messages))


def _continue(source: Source, message: Message, model: Any) -> Float:
    """Run the decoder on a conversation of one message."""
    prompt = hf_inputs.processed(source, [message])
    pixels = prompt["pixel_values"]
    embedded = None if pixels is None else hf_inputs.encode(source.family, model, "vision", pixels)
    return hf_inputs.hidden_states(model, [prompt], [[0]], embedded)
