"""How much of a machine's limits each kind of kernel reaches: one row each, and which records say so.

The limits are those of `edgekit.machine.roofline`: bytes a second out of memory, and operations a second of large
matrix products by kind of number. A prompt and an image are products of many rows, which a kernel does at a share of
the rate of its kind of number; one step of a decoder reads every weight once, at a share of the bandwidth, unless the
cores take longer to unpack and multiply them (the roofline model: Williams, Waterman and Patterson, 2009). What a core
unpacks has little to do with the rate of large products, so that is stated by itself.

Shares follow from latencies and limits of the same run (benchmarks/results/planning.md says which records, and how far
predictions lie from them and from others): on AMD EPYC (AVX-512 with VNNI and BF16, no AMX), 2 cores,
llama-cpp-python 0.3.36, ONNX Runtime 1.32. A row that names no records is an estimate, after rows that are alike; on
another kind of processor every row is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from edgekit.machine.device import Device
from edgekit.machine.profile import MEASURED
from edgekit.planning.caches import CHUNK, batch_of, local_positions

CacheType = Literal["f16", "q8_0"]
Number = Literal["fp32", "bf16", "int8"]

# What a GPU reaches of its own limits; nobody measured one here. An RTX 4060 Laptop decodes Llama 3.1 8B at 4.9 GB with
# 47.2 tokens a second, nine tenths of its 256 GB/s (https://github.com/AlexsJones/llmfit/pull/958); products: a guess.
GPU_BANDWIDTH, GPU_PRODUCTS = 0.9, 0.5


@dataclass(frozen=True)
class Kernel:
    """One kind of matrix product.

    Attributes:
        number: the kind whose rate bounds it.
        many: share of that rate, for the rows of a prompt or an image.
        one: 10**9 operations a second of one core, two for each weight, for one row.
        bandwidth: share of the memory's bandwidth, for one row.
        laid_out: whether the library holds such weights a second time, in an order of its own.
        measured: the records that the shares follow from; empty where they are estimated.
    """

    number: Number
    many: float
    one: float
    bandwidth: float
    laid_out: bool = False
    measured: str = ""

    @property
    def is_measured(self) -> bool:
        """Whether records say so."""
        return bool(self.measured)


# In benchmarks/results.
_SLICE, _SIGLIP, _WHOLE = "medgemma-4b-slice.json", "medsiglip-448-slice.json", "medgemma-4b.json"

# llama.cpp's, by type. Q4_0, Q4_K, Q2_K and IQ4_NL are laid out anew for CPUs with AVX2 or ARM's dot products. With one
# row BF16 alone waits for memory on two cores, where a core may do more than is said here; the others for the cores.
_LLAMA: Mapping[str, Kernel] = {
    "F32": Kernel("fp32", 0.6, 20, 0.93),
    "F16": Kernel("fp32", 0.82, 19.8, 0.93, measured=_SLICE),
    "BF16": Kernel("bf16", 0.575, 23, 0.93, measured=_SLICE),
    "Q8_0": Kernel("int8", 0.174, 31.6, 0.93, measured=_SLICE),
    "Q6_K": Kernel("int8", 0.423, 40.1, 0.93, measured=_SLICE),
    "Q5_K": Kernel("int8", 0.458, 29.9, 0.93, measured=_SLICE),
    "Q5_1": Kernel("int8", 0.17, 28, 0.93),
    "Q5_0": Kernel("int8", 0.17, 28, 0.93),
    "Q4_K": Kernel("int8", 0.243, 48.1, 0.93, laid_out=True, measured=_SLICE),
    "Q4_1": Kernel("int8", 0.17, 28, 0.93),
    "Q4_0": Kernel("int8", 0.309, 49, 0.93, laid_out=True, measured=_SLICE),
    "IQ4_NL": Kernel("int8", 0.24, 45, 0.93, laid_out=True),
    "IQ4_XS": Kernel("int8", 0.45, 29, 0.93, measured=_SLICE),
    "Q3_K": Kernel("int8", 0.446, 34.9, 0.93, measured=_SLICE),
    "Q2_K": Kernel("int8", 0.2, 76, 0.93, laid_out=True, measured=_SLICE),
}
_LLAMA_VISION = Kernel("fp32", 0.63, 20, 0.93, measured=_WHOLE)  # in single precision, whatever is stored

# ONNX Runtime's, by codec. Of its decoders in floating point nobody measured one at full width.
_ONNX: Mapping[str, Kernel] = {
    "float32": Kernel("fp32", 0.95, 20, 0.93),
    "float16": Kernel("fp32", 0.87, 20, 0.93),
    "int8": Kernel("int8", 0.75, 27.4, 0.93, measured=_SLICE),
    "int8_32": Kernel("int8", 0.158, 43, 0.95, measured=_SLICE),
    "int4_32": Kernel("int8", 0.243, 40.8, 0.93, measured=_SLICE),
    "int4_128": Kernel("int8", 0.334, 62.1, 0.93, measured=_SLICE),
}
_ONNX_ENCODER: Mapping[str, Kernel] = {
    "float32": replace(_ONNX["float32"], measured=_SIGLIP),
    "float16": replace(_ONNX["float16"], measured=_SIGLIP),
    "int8": replace(_ONNX["int8"], measured=_SIGLIP),
    "int8_32": replace(_ONNX["int8_32"], measured=_SIGLIP),
    "int4_32": replace(_ONNX["int4_32"], measured=_SIGLIP),
    "int4_128": replace(_ONNX["int4_128"], many=0.39, measured=_SIGLIP),
}


@dataclass(frozen=True)
class Library:
    """How the library that opens a format holds it, and how fast it computes.

    Attributes:
        decoder, encoder: type of weights -> its kernel.
        attention: of an encoder's positions to each other, as a share of the rate in single precision.
        passes: how often an encoder's layer reads or writes its intermediate results (`offload.vision_compute`) beside
            its products: activations, norms, and rounding to 8 bits.
        caches: types that keys and values can be asked for as -> what they are held as.
        batch: tokens of an image -> positions that are computed at once.
        local: window, tokens of an image -> positions that a layer with a window keeps.
        maps: whether weights that are not laid out anew stay pages of their file.
        offloads: whether layers can go to a GPU.
        activations: what an encoder's intermediate results take, as a multiple of `offload.vision_compute`, by type of
            weights; of a type that has none, the least of them.
        load_s_per_token: of opening, for each row of a vocabulary: the tokenizer's, and the library's own.
        load_s_per_byte: of a file that the system still has in memory, `decoder` or `encoder`; `laid_out`, of what is
            laid out anew besides.
    """

    decoder: Mapping[str, Kernel]
    encoder: Mapping[str, Kernel]
    attention: float
    passes: float
    caches: Mapping[CacheType, str]
    batch: Callable[[int], int]
    local: Callable[[int, int], int]
    maps: bool
    offloads: bool
    activations: Mapping[str, float]
    load_s_per_token: float
    load_s_per_byte: Mapping[Literal["decoder", "encoder", "laid_out"], float]

    def kernel(self, stored: str, *, encodes: bool = False) -> Kernel:
        """The row for a type; of one that has none, that of the slowest, as an estimate."""
        rows = self.encoder if encodes else self.decoder
        return rows.get(stored) or replace(min(rows.values(), key=lambda kernel: kernel.many), measured="")


LIBRARIES: Mapping[str, Library] = {
    "gguf": Library(
        decoder=_LLAMA,
        encoder=dict.fromkeys(_LLAMA, _LLAMA_VISION),
        attention=0.25,
        passes=0,
        caches={"f16": "f16", "q8_0": "q8_0"},
        batch=batch_of,
        local=lambda window, image_tokens: window + batch_of(image_tokens),
        maps=True,
        offloads=True,
        activations={"F16": 0.5},
        load_s_per_token=8e-6,
        load_s_per_byte={"decoder": 0.13e-9, "encoder": 0.13e-9, "laid_out": 0.6e-9},
    ),
    "onnx": Library(
        decoder=_ONNX,
        encoder=_ONNX_ENCODER,
        attention=0.62,
        passes=4,
        caches={"f16": "f32"},
        batch=lambda image_tokens: max(CHUNK, image_tokens),
        local=local_positions,
        maps=False,
        offloads=False,
        activations={"float32": 1.25, "float16": 1.25, "int8": 1.7, "int4_32": 2.0, "int4_128": 2.0},
        load_s_per_token=4.2e-6,
        load_s_per_byte={"decoder": 1.8e-9, "encoder": 0.78e-9, "laid_out": 0.0},
    ),
}


_LIMITS = ("gflops", "bandwidth_gb_s")  # what times follow from


def comparable(device: Device) -> bool:
    """Whether rows hold on a device: a processor of the kind that was measured, by limits that are no estimates, and
    that nothing disturbed while they were measured."""
    guessed = any(device.sources.get(key, "").startswith("estimate") for key in _LIMITS)
    return device.cpu == "x86-64-v4" and "amx" not in device.instruction_sets and not guessed and not doubt(device)


def doubt(device: Device) -> str:
    """What disturbed the measurement of a device's limits, as its profile says it; empty where nothing did."""
    heads = (device.sources.get(key, "").partition(": ")[0] for key in _LIMITS)
    return next((said for head in heads if head.startswith(MEASURED) and (said := head.partition("; ")[2])), "")
