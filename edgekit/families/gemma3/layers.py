"""Which of Gemma 3's layers attend to everything: five local ones, then a global one."""

from __future__ import annotations


def is_global(layer: int) -> bool:
    """Whether a layer attends to everything before it; the others see no farther than their window."""
    return (layer + 1) % 6 == 0


def layer_types(layers: int) -> list[str]:
    """What transformers calls each of them."""
    return ["full_attention" if is_global(i) else "sliding_attention" for i in range(layers)]
