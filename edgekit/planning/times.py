"""How long a variant takes, by a machine's limits and what each kernel reaches of them.

The same figures as `edgekit bench` measures: a question about a new image, a prompt of many tokens, single steps behind
it, one image, one text. Attention of a prompt's tokens to each other is left out, which is little below a few thousand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgekit.families.shapes import DecoderShape, EncoderShape
from edgekit.machine.device import Device
from edgekit.planning.kernels import GPU_BANDWIDTH, GPU_PRODUCTS, Kernel, Number, comparable
from edgekit.planning.memory import NOT_PLACED, laid_out_bytes
from edgekit.planning.offload import Plan, vision_compute
from edgekit.planning.parts import PlannedPart

QUESTION_TOKENS = 24  # of a question beside its image, with what a chat format puts around it
_PROMPT_TOKENS = 512

# What is not arithmetic, in seconds: of a decoder's step and of a call for each layer (threads that wait for each
# other); of opening (imports); of making pixels of an image, and tokens of a text.
LAYER_S, CALL_S = 25e-6, 2e-4
START_S = 0.05
_FEW = 0.001  # of a part's weights
_LEAST_WIDTH = {"decoder": 2560, "image": 1152, "text": 1152}  # that times were fitted to
_PREPARE_S = {"image": 0.012, "text": 0.005}


@dataclass(frozen=True)
class Times:
    """Predictions; None where the device does not say what they follow from, or the variant has no such part.

    Attributes:
        load_s: opening it where the system still has its files in memory; `load_cold_s` from the disk.
        first_token_s: from a question about a new image, where it sees, to the first token.
        estimated: those of these figures that no measurement of such kernels on such a processor backs.
    """

    load_s: float | None = None
    load_cold_s: float | None = None
    image_s: float | None = None
    text_s: float | None = None
    first_token_s: float | None = None
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None
    estimated: tuple[str, ...] = ()

    def answer_s(self, tokens: int = 100) -> float | None:
        """A question about an image with an answer of so many tokens; of a model that embeds, an image."""
        if self.first_token_s is not None and self.decode_tokens_per_s:
            return self.first_token_s + tokens / self.decode_tokens_per_s
        return self.image_s


@dataclass(frozen=True)
class _Cost:
    """Seconds, and whether the shares that they follow from were measured."""

    seconds: float
    measured: bool = True


def _sum(costs: Iterable[_Cost | None]) -> _Cost | None:
    """One after the other; None where one of them is not known."""
    total = _Cost(0.0)
    for cost in costs:
        if cost is None:
            return None
        total = _Cost(total.seconds + cost.seconds, total.measured and cost.measured)
    return total


def times(parts: Sequence[PlannedPart], device: Device, placed: Plan = NOT_PLACED) -> Times:
    """What a variant takes on a device, of which `placed` runs on its GPU."""
    decoder = next((part for part in parts if part.decoder), None)
    load = _load(parts)
    read = _Cost(sum(part.bytes for part in parts) / (1e9 * device.disk_gb_s)) if device.disk_gb_s else None
    found: dict[str, _Cost | None] = {"load_s": load, "load_cold_s": _sum([load, read])}
    for part in parts:
        if part.encoder:
            found[f"{part.kind}_s"] = _item(part, part.encoder, device, placed)
    if decoder and decoder.decoder:
        shape = decoder.decoder
        tokens = QUESTION_TOKENS + (shape.image_tokens if "image_s" in found else 0)
        asked = _prompt(decoder, shape, tokens, device, placed.layers)
        found["first_token_s"] = _sum([asked, *([found["image_s"]] if "image_s" in found else [])])
        found["prefill_tokens_per_s"] = _prompt(decoder, shape, _PROMPT_TOKENS, device, placed.layers)
        found["decode_tokens_per_s"] = _step(decoder, shape, device, placed.layers)
    rates = {"prefill_tokens_per_s": _PROMPT_TOKENS, "decode_tokens_per_s": 1}
    known = {name: cost for name, cost in found.items() if cost}
    figures = {name: rates[name] / cost.seconds if name in rates else cost.seconds for name, cost in known.items()}
    alike = comparable(device) and all(map(is_fitted, parts))
    return Times(**figures, estimated=tuple(name for name, cost in known.items() if not (alike and cost.measured)))


def is_fitted(part: PlannedPart) -> bool:
    """Whether a part is as wide as those of the records: in a narrower one, what is not arithmetic counts most."""
    return part.shape is None or part.shape.hidden >= _LEAST_WIDTH[part.kind]


# ---------------------------------------------------------------- a decoder


def _prompt(part: PlannedPart, shape: DecoderShape, tokens: int, device: Device, gpu_layers: int) -> _Cost | None:
    """A prompt's tokens, and the head once."""
    here, there = _split(part, gpu_layers)
    products = [_products(part, here, tokens, device), _gpu_products(2.0 * tokens * sum(there.values()), device)]
    return _sum([*products, _head(part, shape, device, gpu_layers), _Cost(CALL_S + LAYER_S * shape.layers)])


def _step(part: PlannedPart, shape: DecoderShape, device: Device, gpu_layers: int) -> _Cost | None:
    """One token: every weight is read once, where it lies, and unpacked."""
    here, there = _split(part, gpu_layers)
    read = [_one_row(part, here, device), _gpu_read(part, there, device)]
    return _sum([*read, _head(part, shape, device, gpu_layers), _Cost(LAYER_S * shape.layers)])


def _head(part: PlannedPart, shape: DecoderShape, device: Device, gpu_layers: int) -> _Cost | None:
    """The output layer for one token; a GPU that runs anything runs it."""
    weights = {part.head_type: shape.head}
    return _gpu_read(part, weights, device) if gpu_layers else _one_row(part, weights, device)


def _split(part: PlannedPart, gpu_layers: int) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """The layers' weights by type: the CPU's, and those of a GPU that runs so many, the output among them."""
    if not gpu_layers:
        return part.multiplied, {}
    left = sum(part.layer_bytes[: len(part.layer_bytes) + 1 - gpu_layers]) / max(sum(part.layer_bytes), 1)
    here = {name: round(left * count) for name, count in part.multiplied.items()}
    return here, {name: count - here[name] for name, count in part.multiplied.items()}


def _products(
    part: PlannedPart, weights: Mapping[str, int], rows: int, device: Device, *, encodes: bool = False
) -> _Cost | None:
    """Matrices with so many weights of each type, for so many rows."""
    costs: list[_Cost | None] = []
    for name, count in weights.items():
        kernel = part.library.kernel(name, encodes=encodes)
        rate = _rate(device, kernel.number)
        measured = kernel.number in device.gflops and _measured(part, kernel, count)
        costs.append(_Cost(2.0 * count * rows / (rate * kernel.many), measured) if rate else None)
    return _sum(costs)


def _one_row(part: PlannedPart, weights: Mapping[str, int], device: Device) -> _Cost:
    """The same for one row: what takes longer of reading them and of unpacking them."""
    total = _Cost(0.0)
    for name, count in weights.items():
        kernel = part.library.kernel(name)
        read = part.stored_bytes(name, count) / (1e9 * device.bandwidth_gb_s * kernel.bandwidth)
        seconds = max(read, 2.0 * count / (1e9 * kernel.one * device.cores))
        total = _Cost(total.seconds + seconds, total.measured and _measured(part, kernel, count))
    return total


def _measured(part: PlannedPart, kernel: Kernel, count: int) -> bool:
    """Whether records back what so many weights cost, or they are so few (norms) that it does not matter."""
    return kernel.is_measured or count < _FEW * part.weights


def _rate(device: Device, number: Number) -> float | None:
    """Operations a second; of a kind that the device does not state, those in single precision, as an estimate."""
    stated = device.gflops.get(number) or device.gflops.get("fp32")
    return 1e9 * stated if stated else None


# ---------------------------------------------------------------- a GPU, of which none was measured


def _gpu_products(operations: float, device: Device) -> _Cost | None:
    if not operations:
        return _Cost(0.0)
    return _Cost(operations / (1e9 * device.gpu_gflops * GPU_PRODUCTS), measured=False) if device.gpu_gflops else None


def _gpu_read(part: PlannedPart, weights: Mapping[str, int], device: Device) -> _Cost | None:
    size = sum(part.stored_bytes(name, count) for name, count in weights.items())
    if not size:
        return _Cost(0.0)
    rate = device.gpu_bandwidth_gb_s
    return _Cost(size / (1e9 * rate * GPU_BANDWIDTH), measured=False) if rate else None


# ---------------------------------------------------------------- an encoder, and opening


def _item(part: PlannedPart, shape: EncoderShape, device: Device, placed: Plan) -> _Cost | None:
    """One image, or one text."""
    attention = 4.0 * shape.positions**2 * shape.hidden * shape.layers
    around = _Cost(_PREPARE_S[part.kind] + CALL_S + LAYER_S * shape.layers)
    if placed.vision and part.library.offloads:
        operations = 2.0 * sum(part.multiplied.values()) * shape.positions + attention
        return _sum([_gpu_products(operations, device), around])
    rate, library = _rate(device, "fp32"), part.library
    if rate is None:
        return None
    passed = shape.layers * vision_compute(shape.positions, shape.hidden, shape.wide) * library.passes
    moved = passed + sum(part.stored_bytes(name, count) for name, count in part.multiplied.items())
    beside = attention / (rate * library.attention) + moved / (1e9 * device.bandwidth_gb_s)
    products = _products(part, part.multiplied, shape.positions, device, encodes=True)
    return _sum([products, _Cost(beside), around])


def _load(parts: Sequence[PlannedPart]) -> _Cost:
    total = START_S
    for part in parts:
        library, kind = part.library, "decoder" if part.kind == "decoder" else "encoder"
        total += library.load_s_per_byte[kind] * part.opened_bytes  # type: ignore[index]
        total += library.load_s_per_byte["laid_out"] * (laid_out_bytes(part) if kind == "decoder" else 0)
        total += library.load_s_per_token * (part.shape.vocabulary if part.shape else 0)
    return _Cost(total)
