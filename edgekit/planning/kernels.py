"""How much of a machine's limits each kind of kernel reaches: one row each, and where its figures were measured.

The limits are those of `edgekit.machine.roofline`: bytes a second out of memory, and operations a second of large
matrix products by kind of number. A prompt and an image are products of many rows, which a kernel does at a share of
the rate of its kind of number; one step of a decoder reads every weight once, at a share of the bandwidth, unless
unpacking the weights takes longer than that (the roofline model: Williams, Waterman and Patterson, 2009).

    Z4   AMD EPYC (Zen 4), 2 cores, llama-cpp-python 0.3.36, ONNX Runtime 1.32, MedGemma 4B's and MedSigLIP's full
         shapes: benchmarks/results/onnx-encoders.md, onnx-full-size.md, onnx-decoder.md
    Z5   AMD EPYC (Zen 5), 2 cores, the same libraries, a model of 0.1 billion weights:
         benchmarks/results/planning.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from edgekit.planning.caches import CHUNK, batch_of, local_positions

CacheType = Literal["f16", "q8_0"]
Number = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True)
class Kernel:
    """One kind of matrix product.

    Attributes:
        number: the kind whose rate bounds it.
        many: share of that rate, for the rows of a prompt or an image.
        one: share of that rate, for one row.
        bandwidth: share of the memory's bandwidth, for one row.
        laid_out: whether the library holds such weights a second time, in an order of its own.
        measured: where.
    """

    number: Number
    many: float
    one: float
    bandwidth: float
    laid_out: bool = False
    measured: str = ""


# llama.cpp's, by type. Q4_0, Q4_K, Q2_K and IQ4_NL are laid out anew for CPUs with AVX2 or ARM's dot products.
_LLAMA: Mapping[str, Kernel] = {
    "F32": Kernel("fp32", 0.6, 0.25, 0.9, measured="Z4"),
    "F16": Kernel("fp32", 0.6, 0.25, 0.9, measured="Z4"),
    "BF16": Kernel("fp32", 0.9, 0.25, 0.9, measured="Z4"),
    "Q8_0": Kernel("int8", 0.23, 0.12, 0.9, measured="Z4"),
    "Q6_K": Kernel("int8", 0.52, 0.1, 0.85, measured="Z4"),
    "Q5_K": Kernel("int8", 0.5, 0.1, 0.85, measured="Z4"),
    "Q5_1": Kernel("int8", 0.2, 0.1, 0.85, measured="Z4"),
    "Q5_0": Kernel("int8", 0.2, 0.1, 0.85, measured="Z4"),
    "Q4_K": Kernel("int8", 0.5, 0.2, 0.9, laid_out=True, measured="Z4"),
    "Q4_1": Kernel("int8", 0.27, 0.1, 0.85, measured="Z4"),
    "Q4_0": Kernel("int8", 0.39, 0.2, 0.98, laid_out=True, measured="Z4"),
    "IQ4_NL": Kernel("int8", 0.39, 0.2, 0.95, laid_out=True, measured="Z4"),
    "IQ4_XS": Kernel("int8", 0.3, 0.1, 0.8, measured="Z4"),
    "Q3_K": Kernel("int8", 0.3, 0.1, 0.8, measured="Z4"),
    "Q2_K": Kernel("int8", 0.4, 0.15, 0.8, laid_out=True, measured="Z4"),
}
_LLAMA_VISION = Kernel("fp32", 0.63, 0.25, 0.9, measured="Z4")  # in single precision, whatever is stored

# ONNX Runtime's, by codec.
_ONNX: Mapping[str, Kernel] = {
    "float32": Kernel("fp32", 0.95, 0.25, 0.9, measured="Z4"),
    "float16": Kernel("fp32", 0.95, 0.25, 0.9, measured="Z4"),
    "int8": Kernel("int8", 0.95, 0.1, 0.9, measured="Z4"),
    "int8_32": Kernel("int8", 0.2, 0.1, 0.9, measured="Z4"),
    "int4_32": Kernel("int8", 0.36, 0.1, 0.7, measured="Z4"),
    "int4_128": Kernel("int8", 0.5, 0.1, 0.7, measured="Z4"),
}


@dataclass(frozen=True)
class Library:
    """How the library that opens a format holds it, and how fast it computes.

    Attributes:
        decoder, encoder: type of weights -> its kernel.
        attention: of an encoder's positions to each other, as a share of the rate in single precision.
        caches: types that keys and values can be asked for as -> what they are held as.
        batch: tokens of an image -> positions that are computed at once.
        local: window, tokens of an image -> positions that a layer with a window keeps.
        maps: whether weights that are not laid out anew stay pages of their file.
        offloads: whether layers can go to a GPU.
        activations: what an encoder's intermediate results take, as a multiple of `offload.vision_compute`, by type of
            weights; of a type that has none, the least of them.
        load_s_per_byte: of a file that the system still has in memory.
    """

    decoder: Mapping[str, Kernel]
    encoder: Mapping[str, Kernel]
    attention: float
    caches: Mapping[CacheType, str]
    batch: Callable[[int], int]
    local: Callable[[int, int], int]
    maps: bool
    offloads: bool
    activations: Mapping[str, float]
    load_s_per_byte: float

    def kernel(self, stored: str, *, encodes: bool = False) -> Kernel:
        """The row for a type; of one that has none, that of the slowest."""
        rows = self.encoder if encodes else self.decoder
        return rows.get(stored) or min(rows.values(), key=lambda kernel: kernel.many)


LIBRARIES: Mapping[str, Library] = {
    "gguf": Library(
        decoder=_LLAMA,
        encoder=dict.fromkeys(_LLAMA, _LLAMA_VISION),
        attention=0.6,
        caches={"f16": "f16", "q8_0": "q8_0"},
        batch=batch_of,
        local=lambda window, image_tokens: window + batch_of(image_tokens),
        maps=True,
        offloads=True,
        activations={"F16": 0.5},
        load_s_per_byte=1e-9,
    ),
    "onnx": Library(
        decoder=_ONNX,
        encoder=_ONNX,
        attention=0.9,
        caches={"f16": "f32"},
        batch=lambda image_tokens: max(CHUNK, image_tokens),
        local=local_positions,
        maps=False,
        offloads=False,
        activations={"float32": 1.25, "int8": 1.5},
        load_s_per_byte=2.2e-9,
    ),
}
