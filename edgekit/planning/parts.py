"""What a plan knows of a model: each variant's parts, with sizes, types of weights and shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgekit.artifacts.levels import LEVELS, Level
from edgekit.families import Role
from edgekit.families.shapes import DecoderShape, EncoderShape, Shape
from edgekit.formats import FORMATS
from edgekit.planning.kernels import LIBRARIES, Library

Kind = Literal["decoder", "image", "text"]


@dataclass(frozen=True)
class PlannedPart:
    """One part at one level, written or not.

    Attributes:
        kind: what it does: `decoder`, or encoding an `image` or a `text`.
        bytes: of its files.
        opened_bytes: what its weights take in memory once a runtime holds them, as a manifest says it.
        types: how many weights are stored as which type.
        layer_bytes: of each layer's matrices in its file; empty where nobody says.
        shape: None where nobody says, as of files of others.
        loss: what its proof found against the original weights, None without one.
        id: of the part that was written; empty of one that was not.
    """

    role: str
    level: str
    format: str
    kind: Kind
    bytes: int
    opened_bytes: int
    types: Mapping[str, int]
    shape: Shape | None
    layer_bytes: tuple[int, ...] = ()
    loss: Mapping[str, float] | None = None
    id: str = ""

    @property
    def weights(self) -> int:
        """Number of weights."""
        return sum(self.types.values())

    @property
    def decoder(self) -> DecoderShape | None:
        """Its shape where it is a decoder."""
        return self.shape if isinstance(self.shape, DecoderShape) else None

    @property
    def encoder(self) -> EncoderShape | None:
        """Its shape where it is an encoder."""
        return self.shape if isinstance(self.shape, EncoderShape) else None

    @property
    def library(self) -> Library:
        """What opens its format."""
        return LIBRARIES[self.format]

    @property
    def head_type(self) -> str:
        """The type of the embedding, which is the output head, too."""
        level = LEVELS.get(self.level)
        wanted = level.codec_of("token_embedding") if level else ""
        return wanted if wanted in self.types else max(self.types, key=lambda name: self.types[name])

    @property
    def multiplied(self) -> Mapping[str, int]:
        """Weights by type that every position is multiplied with: all but the head, and what few rows or none are."""
        apart = Counter[str]()
        if self.decoder:
            apart[self.head_type] += self.decoder.head
        elif self.encoder:
            apart[self.head_type] += self.encoder.looked_up
            apart[max(self.types, key=lambda name: self.types[name])] += self.encoder.once
        left = {name: count - apart[name] for name, count in self.types.items()}
        return {name: count for name, count in left.items() if count > 0}

    def stored_bytes(self, name: str, count: int) -> int:
        """What so many weights of a type take in its file."""
        codec = FORMATS[self.format].codecs.get(name)
        return codec.stored_bytes((1, count // 256 * 256)) if codec else count * self.bytes // max(self.weights, 1)


@dataclass(frozen=True)
class PlannedModel:
    """A model that can be planned for.

    Attributes:
        name: of its recipe.
        variants: name -> its parts, in the recipe's order.
        default: the variant that is taken where nothing speaks for another.
        left_out: variants that are not made unless they are named.
        source: what it was planned from, for people: a recipe, a checkpoint or an artifact.
        sha256: of the checkpoint; it reads all weights where nobody has hashed them. None for a recipe alone.
    """

    name: str
    title: str
    stand_in: str | None
    variants: Mapping[str, tuple[PlannedPart, ...]]
    default: str
    source: str
    left_out: tuple[str, ...] = ()
    sha256: Callable[[], str] | None = None

    @property
    def word(self) -> str:
        """What `edgekit plan` takes for it: its recipe's name, or the folder."""
        return self.name if self.source == f"recipe {self.name}" else self.source


def kind_of(role: Role) -> Kind:
    """What a part with this input does."""
    return {"pixels": "image", "ids": "text"}.get(role.input or "", "decoder")  # type: ignore[return-value]


def layer_bytes(role: Role, config: Any, level: Level) -> tuple[int, ...]:
    """What each layer's matrices take in a file of this level, from the first to the last."""
    form, sizes = FORMATS[level.format], Counter[int]()
    for spec in role.tensors(config):
        if spec.position:
            codec = form.codecs[form.codec_of(spec, level)]
            sizes[spec.position.layer] += codec.stored_bytes(form.shape_of(spec, level))
    return tuple(sizes[layer] for layer in sorted(sizes))
