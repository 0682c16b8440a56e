"""How long a variant takes, by a machine's limits and what each kernel reaches of them.

The same figures as `edgekit bench` measures: a question about a new image, a prompt of many tokens, single steps behind
it, one image, one text. Attention of a prompt's tokens to each other is left out, which is little below a few thousand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.families.shapes import DecoderShape, EncoderShape
from edgekit.machine.devices import Device
from edgekit.planning.kernels import Number
from edgekit.planning.parts import PlannedPart

QUESTION_TOKENS = 24  # of a question beside its image, with what a chat format puts around it

# What is not arithmetic, in seconds: of a decoder's step and of a call for each layer (threads that wait for each
# other), of opening (imports, a tokenizer's and a vocabulary's tokens).
LAYER_S, CALL_S = 25e-6, 2e-4
START_S, TOKEN_S = 0.05, 8e-6


@dataclass(frozen=True)
class Times:
    """Predictions; None where the device does not say what they follow from, or the variant has no such part.

    Attributes:
        load_s: opening it where the system still has its files in memory; `load_cold_s` from the disk.
        first_token_s: from a question about a new image, where it sees, to the first token.
    """

    load_s: float | None = None
    load_cold_s: float | None = None
    image_s: float | None = None
    text_s: float | None = None
    first_token_s: float | None = None
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None

    def answer_s(self, tokens: int = 100) -> float | None:
        """A question about an image with an answer of so many tokens; of a model that embeds, an image."""
        if self.first_token_s is not None and self.decode_tokens_per_s:
            return self.first_token_s + tokens / self.decode_tokens_per_s
        return self.image_s


def times(parts: Sequence[PlannedPart], device: Device) -> Times:
    """What a variant takes on a device's CPU."""
    decoder = next((part for part in parts if part.decoder), None)
    found = {part.kind: _item_s(part, part.encoder, device) for part in parts if part.encoder}
    prompt_s = decode_s = first = None
    if decoder and decoder.decoder:
        shape = decoder.decoder
        prompt_s = _prompt_s(decoder, shape, 512, device)
        decode_s = _step_s(decoder, shape, device)
        sees = "image" in found
        asked = _prompt_s(decoder, shape, QUESTION_TOKENS + (shape.image_tokens if sees else 0), device)
        waits = [asked, found.get("image")] if sees else [asked]
        first = None if None in waits else sum(one for one in waits if one)
    load = _load_s(parts)
    size = sum(part.bytes for part in parts)
    return Times(
        load_s=load,
        load_cold_s=load + size / (1e9 * device.disk_gb_s) if device.disk_gb_s else None,
        image_s=found.get("image"),
        text_s=found.get("text"),
        first_token_s=first,
        prefill_tokens_per_s=512 / prompt_s if prompt_s else None,
        decode_tokens_per_s=1 / decode_s if decode_s else None,
    )


def _rate(device: Device, number: Number) -> float | None:
    """Operations a second; of a kind that the device does not state, those in single precision."""
    stated = device.gflops.get(number) or device.gflops.get("fp32")
    return 1e9 * stated if stated else None


def _products_s(part: PlannedPart, rows: int, device: Device, *, encodes: bool = False) -> float | None:
    """All matrices of a part for so many rows."""
    total = 0.0
    for name, count in part.multiplied.items():
        kernel = part.library.kernel(name, encodes=encodes)
        rate = _rate(device, kernel.number)
        if rate is None:
            return None
        total += 2.0 * count * rows / (rate * kernel.many)
    return total


def _prompt_s(part: PlannedPart, shape: DecoderShape, tokens: int, device: Device) -> float | None:
    """A prompt's tokens, and the head once."""
    products, head = _products_s(part, tokens, device), _head_s(part, shape, device)
    return None if products is None else products + head + CALL_S + LAYER_S * shape.layers


def _head_s(part: PlannedPart, shape: DecoderShape, device: Device) -> float:
    return _one_row_s(part, {part.head_type: shape.head}, device)


def _step_s(part: PlannedPart, shape: DecoderShape, device: Device) -> float:
    """One token: every weight is read once, and unpacked."""
    return _one_row_s(part, part.types, device) + LAYER_S * shape.layers


def _one_row_s(part: PlannedPart, types: Mapping[str, int], device: Device) -> float:
    total = 0.0
    for name, count in types.items():
        kernel = part.library.kernel(name)
        rate = _rate(device, kernel.number)
        read = part.stored_bytes(name, count) / (1e9 * device.bandwidth_gb_s * kernel.bandwidth)
        total += max(read, 2.0 * count / (rate * kernel.one) if rate else 0.0)
    return total


def _item_s(part: PlannedPart, shape: EncoderShape, device: Device) -> float | None:
    """One image, or one text."""
    products = _products_s(part, shape.positions, device, encodes=True)
    rate = _rate(device, "fp32")
    if products is None or rate is None:
        return None
    attention = 4.0 * shape.positions**2 * shape.hidden * shape.layers / (rate * part.library.attention)
    return products + attention + CALL_S + LAYER_S * shape.layers


def _load_s(parts: Sequence[PlannedPart]) -> float:
    total = START_S
    for part in parts:
        total += part.library.load_s_per_byte * part.bytes
        if part.shape:
            total += TOKEN_S * part.shape.vocabulary
    return total
