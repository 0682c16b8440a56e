"""What every family states about itself: its parts, their tensors and what must stay precise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
from edgekit.families.synthesis import Synthesis
from edgekit.formats import FORMATS

Count = Annotated[int, Field(gt=0, lt=1 << 31)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]


class Config(BaseModel):
    """A validated config.json: only these fields ever reach another library."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Role:
    """One part of a family.

    Attributes:
        tensors: its tensors, from the validated configuration.
        output: what it gives for one item.
        forms: format -> what that format wants to be told of this part, of the format's own type. The first is what
            people are offered first.
        input: what one item is, where it encodes items; None for a decoder.
    """

    tensors: Callable[[Any], list[TensorSpec]]
    output: Output
    forms: Mapping[str, Any]
    input: Literal["pixels", "ids"] | None = None

    @property
    def formats(self) -> list[str]:
        """Those that can hold it: it has a form for them, or they need none."""
        return [name for name, row in FORMATS.items() if name in self.forms or not row.needs_form]


@dataclass(frozen=True)
class OllamaDialect:
    """A chat format as Ollama takes it: a template of Go's text/template, and the text that ends an answer."""

    template: str
    stop: str


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
        settings: what runtimes must know beside the parts.
        bases: classes of transformers that save the same model without its head.
        copies: stored names that must repeat another tensor, and that tensor's canonical name.
        tied: whether config.json says that copies need not be stored.
        elsewhere: what canonical names of a larger model's other parts begin with. transformers leaves them unread.
        part_of: that larger model, whose recipes fit its part, too.
        unfit: architectures that are no model of this kind, and what to do instead.
        unused_tokens: tokens that the tokenizer may have beyond the embedding, since no input holds them.
        compositions: the models that its parts make: which roles, and what the manifest must say.
        full_precision: its model in transformers, and Hugging Face's processors of its inputs.
        ollama: its chat format for Ollama, None where it has none.
        synthesis: how checkpoints of random weights are made.
    """

    name: str
    architecture: str
    model_type: str
    roles: Mapping[str, Role]
    parse: Callable[[Mapping[str, Any]], Any]
    canonical: Callable[[str], str | None]
    preprocessing: Callable[[Checkpoint, Any], Preprocessing | None]
    settings: Callable[[Checkpoint, Any], dict[str, Any]]
    compositions: tuple[Composition, ...]
    full_precision: FullPrecision
    bases: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    tied: Callable[[Any], bool] = lambda config: True
    elsewhere: tuple[str, ...] = ()
    part_of: PartOf | None = None
    unfit: Mapping[str, str] = field(default_factory=dict)
    unused_tokens: frozenset[str] = frozenset()
    ollama: OllamaDialect | None = None
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
    return validated(model, data, file, CheckpointError, whole="the file", shows_value=True)


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
