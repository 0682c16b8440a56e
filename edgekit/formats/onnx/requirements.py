"""What an ONNX file needs of a runtime: which release of ONNX Runtime is the first that has it all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgekit.formats.onnx.header import OnnxHeader

Version = tuple[int, int]

# ONNX Runtime -> the newest opset and IR version that it opens: what each release from 1.17 to 1.32 answered to graphs
# of one operator. A release between two rows is like the one before it.
RELEASES: Mapping[Version, tuple[int, int]] = {
    (1, 17): (20, 9), (1, 18): (21, 10), (1, 21): (22, 10), (1, 23): (23, 11), (1, 24): (25, 13), (1, 25): (26, 13),
    (1, 32): (28, 14),
}  # fmt: skip
NEWEST: Version = (1, 32)  # that was asked
# What edgekit itself requires, and the oldest in which files of all its levels were run: that an operator is described
# does not say that all its attributes are (MatMulNBits at 8 bits is refused by 1.20, which has the operator).
OLDEST: Version = (1, 24)
OTHER_OPSETS = {"com.microsoft": 1, "ai.onnx.ml": 5}  # since 1.18 and in all newer ones

# com.microsoft's operators that came after 1.17, by the first release that describes them.
ADDED: Mapping[Version, tuple[str, ...]] = {
    (1, 18): ("GemmaRotaryEmbedding", "QMoE", "SparseAttention"),
    (1, 20): ("GatherBlockQuantized",),
    (1, 23): ("PagedAttention",),
    (1, 26): ("CausalConvWithState", "LinearAttention"),
    (1, 27): ("MatMulNBitsMlp", "MatMulNBitsQkv"),
    (1, 29): ("GatedAdd", "GatedRMSNorm", "LinearAttentionGate", "MRotaryEmbedding", "MatMulBlockQuantizedFp4Weight",
              "MatMulBlockQuantizedFp8Weight"),
    (1, 30): ("EngramGate", "GatedDeltaNet", "NGramHashMapping", "VarlenCausalConvWithState"),
    (1, 31): ("BranchwiseRMSNorm", "DynamicSparseAttention", "HyperConnectionPostMix", "HyperConnectionPreMix",
              "PackedSparseAttentionIndexer", "ScaledSiLU", "SparseAttentionIndexer", "SparsePagedAttention",
              "VarlenNGramHashMapping"),
    (1, 32): ("ConvStateReplay", "GatedDeltaNetStateReplay", "GatherPacked", "HyperConnectionLowRankMix",
              "Mamba2Verify", "MatMulNBitsQLoRA", "MatMulPacked", "MoEGroupRouter", "MoEPacked",
              "PackedSparseAttentionIndexerMerge", "RMSNormRotary", "RouterGateUpProj", "SpeculativePrefixCommit",
              "SwiGLU"),
}  # fmt: skip


def requires(headers: Sequence[OnnxHeader]) -> dict[str, Any]:
    """What a runtime must offer to open all graphs of a part, for its manifest.

    Returns:
        `opset`, `ir_version`, `domains` and `minimum_onnxruntime`, which is `OLDEST` or newer, and None where no
        release that edgekit knows opens the files.
    """
    firsts = [first_release(header) for header in headers]
    known = [first for first in firsts if first]
    return {
        "opset": max(header.opsets.get("", 1) for header in headers),
        "ir_version": max(header.ir_version for header in headers),
        "domains": sorted({domain for header in headers for domain in header.domains}),
        "minimum_onnxruntime": spelled(max(OLDEST, *known)) if len(known) == len(firsts) else None,
    }


def release_row(version: Version) -> Version | None:
    """The row of `RELEASES` that a release is like; None for one before the first."""
    return max((row for row in RELEASES if row <= version), default=None)


def first_release(header: OnnxHeader) -> Version | None:
    """The first release that has everything the file needs."""
    needs = set(_needs(header))
    return None if None in needs else max((need for need in needs if need), default=min(RELEASES))


def _needs(header: OnnxHeader) -> Iterator[Version | None]:
    for at, wanted in enumerate((header.opsets.get("", 1), header.ir_version)):
        yield next((version for version, row in sorted(RELEASES.items()) if row[at] >= wanted), None)
    for version, names in ADDED.items():
        if any(("com.microsoft", name) in header.operators for name in names):
            yield version


def spelled(version: Version) -> str:
    """A version as people write it."""
    return ".".join(map(str, version))
