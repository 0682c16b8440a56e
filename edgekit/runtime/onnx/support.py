"""What a file needs of ONNX Runtime, and whether the installed one has it: asked before the file is opened.

ONNX Runtime itself refuses what it lacks, but neither says which version has it nor names an operator set plainly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from edgekit.errors import ArtifactError, MissingDependencyError
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
_OTHER_OPSETS = {"com.microsoft": 1, "ai.onnx.ml": 5}  # since 1.18 and in all newer ones

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
    firsts = [_first(header) for header in headers]
    known = [first for first in firsts if first]
    return {
        "opset": max(header.opsets.get("", 1) for header in headers),
        "ir_version": max(header.ir_version for header in headers),
        "domains": sorted({domain for header in headers for domain in header.domains}),
        "minimum_onnxruntime": _spelled(max(OLDEST, *known)) if len(known) == len(firsts) else None,
    }


def check(header: OnnxHeader) -> None:
    """Refuse what the installed ONNX Runtime lacks.

    A release that is newer than edgekit knows is given the benefit of the doubt for opsets and IR versions.

    Raises:
        ArtifactError: an opset, IR version or operator; says what this release has, and which release has more.
        MissingDependencyError: there is no ONNX Runtime.
    """
    version, installed = installed_version()
    row = _row(installed)
    if installed <= NEWEST:
        opset, ir = RELEASES[row] if row else (19, 8)
        for what, found, most in (
            ("opset", header.opsets.get("", 1), opset),
            ("IR version", header.ir_version, ir),
        ):
            if found > most:
                raise _lacks(header, f"{what} {found}", f"{what}s up to {most}", version)
    for domain, most in _OTHER_OPSETS.items():
        if domain in header.domains and header.opsets[domain] > most:
            raise _lacks(header, f"opset {header.opsets[domain]} of {domain}", f"up to {most}", version)
    known = operators()
    for domain, name in sorted(header.operators):
        since = known.get((domain, name))
        full = f"{domain or 'ai.onnx'}.{name}"
        if since is None:
            raise _lacks(header, f"the operator {full}", "no such operator", version)
        if since > header.opsets[domain]:
            raise ArtifactError(
                f"{header.path}: the operator {full} came with opset {since}, the file says {header.opsets[domain]}",
                remedy="export the file again",
            )


def refused(path: Path, error: Exception, verb: Literal["load", "run"] = "load") -> ArtifactError:
    """What ONNX Runtime's own refusal to load or run a file means."""
    version, text = installed_version()[0], str(error)
    update = "pip install -U onnxruntime"
    if missing := re.search(r"Could not find an implementation for (\S+?)\((\d+)\)", text):
        return ArtifactError(
            f"{path}: ONNX Runtime {version} cannot compute the operator {missing[1]} (of opset {missing[2]}) with "
            "these types on a CPU",
            remedy=f"{update}, or another level of this model",
        )
    if opset := re.search(r"Opset (\d+) is under development.*for domain (\S+) is till opset (\d+)", text, re.DOTALL):
        return ArtifactError(
            f"{path}: needs opset {opset[1]} of {opset[2]}; ONNX Runtime {version} has opsets up to {opset[3]}",
            remedy=update,
        )
    return ArtifactError(f"{path}: ONNX Runtime {version} cannot {verb} it: {text:.600}")


def installed_version() -> tuple[str, Version]:
    """ONNX Runtime's version as it is spelled, and its first two numbers. Raises MissingDependencyError."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("ONNX Runtime is not installed", remedy="pip install onnxruntime") from error
    major, minor = str(onnxruntime.__version__).split(".")[:2]
    return onnxruntime.__version__, (int(major), int(minor))


@cache
def operators() -> Mapping[tuple[str, str], int]:
    """Domain and name of every operator that the installed release describes -> the opset that brought it."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    first: dict[tuple[str, str], int] = {}
    for schema in state.get_all_operator_schema():
        key = (schema.domain, schema.name)
        first[key] = min(schema.since_version, first.get(key, schema.since_version))
    return first


def _row(version: Version) -> Version | None:
    return max((row for row in RELEASES if row <= version), default=None)


def _first(header: OnnxHeader) -> Version | None:
    """The first release that has everything the file needs."""
    needs = set(_needs(header))
    return None if None in needs else max((one for one in needs if one), default=min(RELEASES))


def _needs(header: OnnxHeader) -> Iterator[Version | None]:
    for at, wanted in enumerate((header.opsets.get("", 1), header.ir_version)):
        yield next((version for version, row in sorted(RELEASES.items()) if row[at] >= wanted), None)
    for version, names in ADDED.items():
        if any(("com.microsoft", name) in header.operators for name in names):
            yield version


def _lacks(header: OnnxHeader, what: str, has: str, version: str) -> ArtifactError:
    first = _first(header)
    newer = first and first > installed_version()[1]
    return ArtifactError(
        f"{header.path}: needs {what}; ONNX Runtime {version} has {has}",
        allowed=f"ONNX Runtime {_spelled(first)} or newer" if first and newer else None,
        remedy=f"pip install 'onnxruntime>={_spelled(first)}'"
        if first and newer
        else "export the file again, for an older opset and with ONNX Runtime's own operators",
    )


def _spelled(version: Version) -> str:
    return ".".join(map(str, version))
