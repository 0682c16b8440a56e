"""What every family states about itself: its parts, their tensors and what must stay precise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from edgekit.artifacts.manifest import Output, Preprocessing
from edgekit.artifacts.recipes import PartOf
from edgekit.artifacts.validation import validated
from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.checkpoints.tensor_spec import TensorSpec
from edgekit.errors import CheckpointError
from edgekit.families.composition import Composition, reads_text
from edgekit.families.full_precision import FullPrecision
from edgekit.families.shapes import Shape
from edgekit.families.synthesis import Synthesis
from edgekit.formats import FORMATS

Count = Annotated[int, Field(gt=0, lt=1 << 31)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]


class Config(BaseModel):
    """A validated config.json: only these fields ever reach another library."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class ModelConfig(Config):
    """config.json, or a part of it. transformers is as strict: no "3" for 3, no true for 1.

    Attributes:
        per_layer_config: what single layers have for themselves; no checkpoint of these families has any.
        transformers_weights: another file that transformers would load in place of the usual ones.
    """

    model_config = ConfigDict(strict=True)

    per_layer_config: None = None
    transformers_weights: None = None


@dataclass(frozen=True)
class Role:
    """One part of a family.

    Attributes:
        tensors: its tensors, from the validated configuration.
        output: what it gives for one item.
        forms: format -> what that format wants to be told of this part, of the format's own type. The first is what
            people are offered first.
        input: what one item is, where it encodes items; None for a decoder.
        shape: what its times and its memory follow from, from the validated configuration; None where nobody says.
    """

    tensors: Callable[[Any], list[TensorSpec]]
    output: Output
    forms: Mapping[str, Any]
    input: Literal["pixels", "ids"] | None = None
    shape: Callable[[Any], Shape] | None = None

    @property
    def formats(self) -> list[str]:
        """Those that can hold it: it has a form for them, or they need none."""
        return [name for name, row in FORMATS.items() if name in self.forms or not row.needs_form]


@dataclass(frozen=True)
class Family:
    """What MedGemma or MedSigLIP is.

    Attributes:
        architecture: the entry of config.json's `architectures`.
        model_type: of config.json; what it is where no architecture is stated.
        roles: its parts, the main one first.
        parse: config.json -> validated configuration, which nobody but the family looks into.
        canonical: a stored tensor name -> the hub's layout, None for one that is derived from another.
        preprocessing: how images become pixels; None for a model that sees none.
        numbers: of its configuration, by config.json's names, what files of parts state, too, and no runtime asks for.
        settings: what runtimes must know beside the parts, from the checkpoint, its configuration and its tokenizer,
            which is None for a model that reads no text.
        made_files: files that an artifact has in place of the checkpoint's, or beside them, from it and the settings.
        tokenizer_json: the tokenizer in Hugging Face's spelling, for checkpoints that have it in another alone; None
            where they have none that is understood.
        bases: classes of transformers that save the same model without its head.
        copies: stored names that must repeat another tensor, and that tensor's canonical name.
        tied: whether config.json says that copies need not be stored.
        elsewhere: what canonical names of a larger model's other parts begin with. transformers leaves them unread.
        part_of: that larger model, whose recipes fit its part, too.
        unfit: architectures that are no model of this kind, and what to do instead.
        unused_tokens: tokens that the tokenizer may have beyond the embedding, since no input holds them.
        compositions: the models that its parts make: which roles, and what the manifest must say.
        full_precision: its model in transformers, and Hugging Face's processors of its inputs.
        notes: what users should know of a model with these settings.
        ollama: its chat format as a template of Go's text/template, for Ollama; None where it has none.
        synthesis: how checkpoints of random weights are made.
    """

    name: str
    architecture: str
    model_type: str
    roles: Mapping[str, Role]
    parse: Callable[[Mapping[str, Any]], Any]
    canonical: Callable[[str], str | None]
    preprocessing: Callable[[Checkpoint, Any], Preprocessing | None]
    settings: Callable[[Checkpoint, Any, Any], dict[str, Any]]
    compositions: tuple[Composition, ...]
    full_precision: FullPrecision
    bases: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    tied: Callable[[Any], bool] = lambda config: True
    elsewhere: tuple[str, ...] = ()
    part_of: PartOf | None = None
    unfit: Mapping[str, str] = field(default_factory=dict)
    unused_tokens: frozenset[str] = frozenset()
    ollama: str | None = None
    made_files: Callable[[Checkpoint, Mapping[str, Any]], Mapping[str, bytes]] = lambda checkpoint, settings: {}
    tokenizer_json: Callable[[Checkpoint], bytes | None] = lambda checkpoint: None
    notes: Callable[[Mapping[str, Any]], tuple[str, ...]] = lambda settings: ()
    numbers: Callable[[Any], Mapping[str, float]] = lambda config: {}
    synthesis: Synthesis = field(kw_only=True)

    @property
    def reads_text(self) -> bool:
        """Whether it takes texts, so that it has a tokenizer."""
        return any(map(reads_text, self.compositions))

    def role_giving(self, output: Output) -> str | None:
        """The part that gives this; None where the family has none."""
        return next((name for name, role in self.roles.items() if role.output == output), None)

    def tensors(self, config: Any) -> list[TensorSpec]:
        """The tensors of all parts."""
        return [spec for role in self.roles.values() for spec in role.tensors(config)]


ModelT = TypeVar("ModelT", bound=BaseModel)


def validate(model: type[ModelT], data: Any, file: str) -> ModelT:
    """Check what a JSON file of a checkpoint says against a schema.

    Raises:
        CheckpointError: a field is missing or wrong; the message names it.
    """
    return validated(model, data, file, CheckpointError, whole="the file")


_PILLOW = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's codes, which the hub's files use
_DEFAULT_SIZE = 224  # pixels; of the image processors of both architectures
# What every image goes through here, and what none does.
_STEPS = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_pan_and_scan": False,
    "do_center_crop": False,
    "do_pad": False,
}


def preprocessing_of(checkpoint: Checkpoint, size: int, default_resample: int, processor: str) -> Preprocessing:
    """Preprocessing as `AutoProcessor` reads it from a checkpoint, for a square of `size` pixels.

    transformers 5 writes it into processor_config.json, older versions into preprocessor_config.json; where both hold
    it, transformers 5 reads the first, and other programs the second.

    Args:
        default_resample: Pillow's code that transformers takes where none is stated.
        processor: transformers' name of the image processor, whose variants end in Fast or Pil.

    Raises:
        CheckpointError: no file holds it, two hold others, or one asks for something that the image pipeline does not
            do.
    """
    inner, outer = (checkpoint.root / name for name in ("processor_config.json", "preprocessor_config.json"))
    stated = {}
    if (data := checkpoint.json(inner.name).get("image_processor")) is not None:
        stated[inner] = data
    if outer.is_file():
        stated[outer] = checkpoint.json(outer.name)
    if not stated:
        raise CheckpointError(
            f"{checkpoint.root}: no file says how images become pixels",
            allowed=f"{outer.name}, or image_processor in {inner.name}",
            remedy="take the file from the model that this one was made from",
        )
    found = {path: _preprocessing(path, data, size, default_resample, processor) for path, data in stated.items()}
    first, *others = found.values()
    for other in others:
        differing = next((key for key, value in first if value != getattr(other, key)), None)
        if differing:
            raise CheckpointError(
                f"{checkpoint.root}: {inner.name} and {outer.name} differ: {differing} is {getattr(first, differing)} "
                f"in the one, {getattr(other, differing)} in the other",
                remedy="remove the one that the model was not trained with",
            )
    return first


def _preprocessing(where: Path, data: Any, size: int, default_resample: int, processor: str) -> Preprocessing:
    if not isinstance(data, dict):
        raise CheckpointError(f"{where}: image_processor holds a {type(data).__name__}", allowed="a JSON object")
    kind = data.get("image_processor_type")
    if kind not in (None, processor, f"{processor}Fast", f"{processor}Pil"):
        allowed = f"{processor}, or its Fast variant"
        raise CheckpointError(f"{where}: image_processor_type {kind!r:.80}", allowed=allowed)
    # A key that is absent means transformers' default, null that the step is left out.
    code, stated = data.get("resample", default_resample), data.get("size", _DEFAULT_SIZE)
    if type(code) is not int or code not in _PILLOW or stated not in (size, {"height": size, "width": size}):
        raise CheckpointError(
            f"{where}: resample {code!r}, size {stated!r}",
            allowed=f"resample 0 to 3, height and width {size}, as config.json's vision tower",
        )
    for step, done in _STEPS.items():
        if bool(data.get(step, done)) != done:
            raise CheckpointError(f"{where}: {step} {data[step]!r:.80}", allowed=f"{done}")
    if (factor := data.get("rescale_factor", 1 / 255)) != 1 / 255:
        raise CheckpointError(f"{where}: rescale_factor {factor!r:.80}", allowed="1 / 255")
    mean, std = data.get("image_mean", [0.5] * 3), data.get("image_std", [0.5] * 3)
    fields = {"size": size, "resample": _PILLOW[code], "mean": mean, "std": std}
    return validate(Preprocessing, fields, where.name)
