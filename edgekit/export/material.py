"""What a part is calibrated on: images, texts or conversations, by what it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from edgekit.errors import CheckpointError
from edgekit.families.composition import Chat, Contrastive, checked_settings
from edgekit.families.source import Source
from edgekit.formats.plan import PartPlan
from edgekit.full_precision import processors
from edgekit.inputs import phantoms
from edgekit.inputs.image import ImageLike, load, normalize, to_pixels
from edgekit.inputs.message import Image, Message
from edgekit.inputs.passage import sentences
from edgekit.inputs.samples import Inputs, name_of, shipped_inputs
from edgekit.runtime.base import Float

SEED = 40_260  # of the phantoms; training, proof and benchmarks use others
PATCHES = 16_384  # that images are used up to: 4 images of 896 pixels, 16 of 448
_FEWEST_IMAGES, MOST_IMAGES = 4, 64
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


def material_of(source: Source, role: str, inputs: Inputs) -> Material:
    """A user's images and text where given, else what comes with edgekit, made ready for a part."""
    given = source.family.roles[role].input
    return {"pixels": _pictures, "ids": _captions, None: _prompts}[given](source, role, inputs)


def name_of_material(source: Source, plan: PartPlan, inputs: Inputs | None) -> str | None:
    """What the ranges of a part's activations would be measured on, None where its level needs none."""
    if not plan.level.needs_calibration:
        return None
    return material_of(source, plan.role, inputs or shipped_inputs()).name


def name_of_given(source: Source, plan: PartPlan, inputs: Inputs) -> str | None:
    """The same, of a part that is measured on something that a user named; None of others."""
    given = source.family.roles[plan.role].input
    sees = given != "ids" and source.preprocessing is not None
    by_user = (sees and inputs.pictures) or (given != "pixels" and inputs.text_name)
    return name_of_material(source, plan, inputs) if by_user else None


def _patches(source: Source) -> int:
    """Of one image: the rows of the position embedding that its encoder has."""
    role = next(role for role in source.family.roles.values() if role.input == "pixels")
    return next(spec.shape[0] for spec in role.tensors(source.config) if spec.kind == "position")


def _images(source: Source, inputs: Inputs, most: int) -> tuple[Sequence[ImageLike], str]:
    """As many as their size allows; of a user's own, those that the proof does not compare on, if there are enough."""
    count = min(most, max(_FEWEST_IMAGES, PATCHES // _patches(source)))
    if not inputs.pictures:
        return [p.image for p in phantoms.generate(SEED, count)], f"{count} phantoms shipped with edgekit"
    others = inputs.pictures[len(inputs.images) :]
    paths = (others if len(others) >= _FEWEST_IMAGES else inputs.pictures)[:count]
    return paths, name_of(paths)


def _pictures(source: Source, role: str, inputs: Inputs) -> Material:
    images, name = _images(source, inputs, MOST_IMAGES)
    together = max(1, _TOGETHER // _patches(source))
    batches = [images[i : i + together] for i in range(0, len(images), together)]
    return Material(name, tuple(partial(_look, source, role, batch) for batch in batches))


def _look(source: Source, role: str, images: Sequence[ImageLike], model: Any) -> Float:
    """Encode images, which become pixels no sooner than now."""
    assert source.preprocessing is not None, "a part that sees images has a preprocessing"
    pixels = normalize(to_pixels(images, source.preprocessing), source.preprocessing)
    return processors.encode(source.family, model, role, pixels)


def _captions(source: Source, role: str, inputs: Inputs) -> Material:
    """The text's sentences, without those that the proof compares on if there are others, and the family's captions."""
    pair = next(made for made in source.family.compositions if role in made.roles)
    assert isinstance(pair, Contrastive), "what encodes texts is half of a pair"
    lines = sentences(inputs.text)
    captions = [*(lines[len(inputs.captions) :] or lines), *pair.captions()]
    tokenizer = source.tokenizer().tokenizer
    settings = checked_settings(pair.settings, source.settings, str(source.checkpoint.root), CheckpointError)
    ids = pair.text_ids(tokenizer, settings, captions)
    batches = [ids[i : i + _CAPTIONS] for i in range(0, len(ids), _CAPTIONS)]
    name = f"{len(ids)} captions from {inputs.text_name or _SHIPPED_TEXT} and from label prompts"
    return Material(name, tuple(partial(processors.encode, source.family, role=role, batch=batch) for batch in batches))


def _prompts(source: Source, role: str, inputs: Inputs) -> Material:
    """The text alone, and its beginnings behind an image each."""
    whole, part = _CHARACTERS
    messages = [Message("user", inputs.text[:whole])]
    name = inputs.text_name or _SHIPPED_TEXT
    if len(inputs.text) > whole:
        name = f"the first {whole} characters of {name}"
    if source.preprocessing is not None:
        images, images_name = _images(source, inputs, _FEWEST_IMAGES)
        for i, image in enumerate(images):
            beginning = inputs.text[:whole][i * part : (i + 1) * part] or inputs.text[:part]
            messages.append(Message("user", Image(np.asarray(load(image))), beginning))
        name = f"{name} and {images_name}"
    # One prompt in a pass: what fills up a shorter one beside a longer would be measured, too.
    return Material(name, tuple(partial(_continue, source, message) for message in messages))


def _continue(source: Source, message: Message, model: Any) -> Float:
    """Run the decoder on a conversation of one message."""
    prompt = processors.processed(source, [message])
    pixels = prompt["pixel_values"]
    embedded = None
    if pixels is not None:
        chat = next(made for made in source.family.compositions if isinstance(made, Chat) and made.vision)
        embedded = processors.encode(source.family, model, str(chat.vision), pixels)
    return processors.hidden_states(model, [prompt], [[0]], embedded)
