"""What every family states about itself: its parts, its tensors and what must stay precise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from edgekit.artifacts.levels import Place
from edgekit.artifacts.manifest import Output, Preprocessing
from edgekit.artifacts.validation import validated
from edgekit.checkpoints.checkpoint import Checkpoint, Tensor, check_copy
from edgekit.errors import CheckpointError
from edgekit.families.synthesis import Synthesis

Count = Annotated[int, Field(gt=0, lt=1 << 31)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]


class Config(BaseModel):
    """A validated config.json: only these fields ever reach another library."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Slot:
    """One tensor of a checkpoint and what becomes of it.

    Attributes:
        name: its name in the hub's key layout.
        shape: what config.json says it must be.
        kind: what a level's mixture may single out: `matrix`, `token_embedding`, `norm`, ...
        gguf: its name in a GGUF file, None where that format has no place for it.
        keep: the type it has at every level, None where the level decides.
        add_one: Gemma's norms compute with (1 + w); GGUF stores the sum.
        scale: what a GGUF tensor is multiplied by (after `add_one`), where its reader assumes another constant.
        place: the layer it belongs to, for mixtures that treat layers differently; None outside the layers.
        padded: the axis that a GGUF level may fill with zeros up to whole blocks without changing any result.
        follows: what makes the channels that enter this matrix, and nothing else reads them but matrices that say the
            same: a norm's, or a matrix's, weight and bias. Dividing these by a factor for each channel, and multiplying
            this matrix's columns by it, changes nothing.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    gguf: str | None = None
    keep: Literal["F32", "F16"] | None = None
    add_one: bool = False
    scale: float = 1.0
    place: Place | None = None
    padded: int | None = None
    follows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Role:
    """One part of a family.

    Attributes:
        formats: which formats can hold it today.
        slots: its tensors, from the validated configuration.
        output: what it gives for one item.
        gguf_architecture: `general.architecture` of its GGUF file.
        onnx_stems: of its ONNX graphs, as Transformers.js and optimum look for them.
    """

    formats: tuple[str, ...]
    slots: Callable[[Any], list[Slot]]
    output: Output
    gguf_architecture: str | None = None
    onnx_stems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """What MedGemma or MedSigLIP is.

    Attributes:
        architecture: the entry of config.json's `architectures`.
        parse: config.json -> validated configuration.
        canonical: a stored tensor name -> the hub's layout, None for one that is derived from another.
        preprocessing: how images become pixels; None for a model that sees none.
        settings: what runtimes must know beside the parts.
        copies: stored names that must repeat another tensor, and that tensor's canonical name.
        unused_tokens: tokens that the tokenizer may have beyond the embedding, since no input holds them.
        synthesis: how checkpoints of random weights are made.
    """

    name: str
    architecture: str
    roles: Mapping[str, Role]
    parse: Callable[[Mapping[str, Any]], Any]
    canonical: Callable[[str], str | None]
    preprocessing: Callable[[Checkpoint, Any], Preprocessing | None]
    settings: Callable[[Checkpoint, Any], dict[str, Any]]
    copies: Mapping[str, str] = field(default_factory=dict)
    unused_tokens: frozenset[str] = frozenset()
    synthesis: Synthesis = field(kw_only=True)


ModelT = TypeVar("ModelT", bound=BaseModel)


def validate(model: type[ModelT], data: Any, file: str) -> ModelT:
    """Check what a JSON file of a checkpoint says against a schema.

    Raises:
        CheckpointError: a field is missing or wrong; the message names it.
    """
    return validated(model, data, file, CheckpointError, whole="the file", shows_value=True)


def tensors_of(family: Family, checkpoint: Checkpoint, slots: list[Slot]) -> dict[str, Tensor]:
    """The stored tensor of each slot, by canonical name, shapes checked.

    Raises:
        CheckpointError: a tensor is missing or has another shape than config.json says.
    """
    stored = {canonical: tensor for name, tensor in checkpoint.tensors.items() if (canonical := family.canonical(name))}
    found = {}
    for slot in slots:
        tensor = stored.get(slot.name)
        if tensor is None:
            raise CheckpointError(f"{checkpoint.root}: tensor {slot.name} is missing")
        if tensor.shape != slot.shape:
            raise CheckpointError(
                f"{tensor.path}: {tensor.name} has shape {list(tensor.shape)}",
                allowed=f"{list(slot.shape)}, by config.json",
            )
        found[slot.name] = tensor
    return found


def check_tensors(family: Family, checkpoint: Checkpoint, config: Any) -> None:
    """Check that the checkpoint has all tensors of all roles, and no others.

    Raises:
        CheckpointError: a tensor is missing, unexpected, there twice, or has the wrong shape.
    """
    slots = [slot for role in family.roles.values() for slot in role.slots(config)]
    spellings: dict[str, str] = {}
    for name in checkpoint.tensors:
        canonical = family.canonical(name)
        if canonical is not None and spellings.setdefault(canonical, name) != name:
            raise CheckpointError(f"{checkpoint.root}: {name} and {spellings[canonical]} are the same tensor")
    found = tensors_of(family, checkpoint, slots)
    unexpected = [name for canonical, name in spellings.items() if canonical not in found]
    if unexpected:
        adapter = any("lora_" in name for name in unexpected)
        raise CheckpointError(
            f"{checkpoint.root}: {len(unexpected)} unexpected tensors: {', '.join(sorted(unexpected)[:3])}",
            remedy="merge the adapter into the model and save that" if adapter else None,
        )
    for name, original in family.copies.items():
        if name in checkpoint.tensors:
            check_copy(checkpoint, checkpoint.tensors[name], found[original])


def preprocessing_of(checkpoint: Checkpoint, size: int, default_resample: int) -> Preprocessing:
    """Preprocessing as preprocessor_config.json states it, for a square of `size` pixels.

    Raises:
        CheckpointError: the file asks for something that the image pipeline does not do.
    """
    data = checkpoint.json("preprocessor_config.json")
    names = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's codes, which the hub's files use
    code, stated = data.get("resample", default_resample), data.get("size", {"height": size, "width": size})
    if code not in list(names) or stated != {"height": size, "width": size}:
        raise CheckpointError(
            f"{checkpoint.root}/preprocessor_config.json: resample {code!r}, size {stated!r}",
            allowed=f"resample 0 to 3, height and width {size}, as config.json's vision tower",
        )
    # What every image goes through here, and what none does.
    steps = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_pan_and_scan": False}
    for step, done in steps.items():
        if data.get(step) not in (done, None):
            raise CheckpointError(
                f"{checkpoint.root}/preprocessor_config.json: {step} {data[step]!r}", allowed=f"{done} or none"
            )
    if (factor := data.get("rescale_factor")) not in (1 / 255, None):
        raise CheckpointError(
            f"{checkpoint.root}/preprocessor_config.json: rescale_factor {factor!r}", allowed="1 / 255 or none"
        )
    mean, std = data.get("image_mean") or [0.5] * 3, data.get("image_std") or [0.5] * 3
    fields = {"size": size, "resample": names[code], "mean": mean, "std": std}
    return validate(Preprocessing, fields, "preprocessor_config.json")
