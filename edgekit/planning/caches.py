"""What keys and values of a decoder take, by the form in which each library holds them."""

from __future__ import annotations

from collections.abc import Sequence

BATCH = 512  # positions that llama.cpp is given at once
CHUNK = 256  # positions that a graph in ONNX is given at once; an image of more takes a call of its own
# What one key or value takes: blocks of q8_0 have 32 bytes and a scale in half precision.
_BYTES = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32}


def batch_of(image_tokens: int) -> int:
    """Positions that llama.cpp computes at once; an image's all together."""
    return max(BATCH, image_tokens)


def local_positions(window: int, image_tokens: int, chunk: int = CHUNK) -> int:
    """Positions that a graph's local layer holds: what the first of a call's sees, and the call."""
    return window - 1 + max(chunk, image_tokens)


def layer_bytes(global_layers: Sequence[bool], numbers: int, held_as: str, local: int, context: int) -> list[int]:
    """What each layer keeps of a context.

    Args:
        global_layers: whether it keeps all positions.
        numbers: that it keeps of one position, of all sequences.
        held_as: the type of each.
        local: positions that another layer keeps at most.
        context: positions of a sequence.
    """
    position = numbers * _BYTES[held_as]
    return [int(position * (context if every else min(context, local))) for every in global_layers]
