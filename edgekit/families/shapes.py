"""What the cost of a part follows from beside its weights: how long, how wide, how many positions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DecoderShape:
    """A decoder.

    Attributes:
        global_layers: of each layer whether it attends to everything before it, and not to a window alone.
        hidden, wide: the model's width, and its MLP's.
        key_values: numbers that a layer keeps of each position, keys and values together.
        window: positions that the other layers see.
        context: positions that it was made for.
        vocabulary: rows of its embedding, which is its output head, too.
        image_tokens: positions of one image; 0 where it sees none.
    """

    global_layers: tuple[bool, ...]
    hidden: int
    wide: int
    key_values: int
    window: int
    context: int
    vocabulary: int
    image_tokens: int = 0

    @property
    def layers(self) -> int:
        """How many."""
        return len(self.global_layers)

    @property
    def head(self) -> int:
        """Weights of the embedding."""
        return self.vocabulary * self.hidden


@dataclass(frozen=True)
class EncoderShape:
    """An encoder, in which every position attends to every one.

    Attributes:
        layers: how many.
        hidden, wide: its width, and its MLP's.
        positions: of one item: an image's patches, a text's tokens.
        vocabulary: rows of its table of tokens; 0 of an encoder of images.
        looked_up: weights of which an item reads some rows and multiplies with none: tables of tokens and positions.
        once: weights that one row of an item is multiplied with, or few: what pools and projects.
    """

    layers: int
    hidden: int
    wide: int
    positions: int
    looked_up: int
    vocabulary: int = 0
    once: int = 0


Shape = DecoderShape | EncoderShape
