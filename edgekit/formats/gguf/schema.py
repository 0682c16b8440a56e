"""What keys and tensors of a GGUF file must be, stated in tables, and whether a header's are.

llama.cpp takes many of them for granted and ends the process over another type, shape or range; others it obeys,
and answers something else without a word.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.errors import ArtifactError
from edgekit.formats.gguf.header import TYPES, GgufHeader

FLOATS = frozenset({"F32", "F16", "BF16"})
# What ggml multiplies with; it has no products of integers and of 64 bits.
MATRICES = frozenset(name for name, _, _ in TYPES.values()) - {"I8", "I16", "I32", "I64", "F64"}
VECTOR = frozenset({"F32"})  # ggml adds and multiplies element by element in float32 only


@dataclass(frozen=True)
class FieldRule:
    """What the value of a key must be.

    Attributes:
        kind: as `GgufHeader.kinds` has it.
        least, most: of a number, or of each in an array.
        length: of an array; characters, at most, of a string.
        values: the only ones allowed.
    """

    kind: str
    least: float = -math.inf
    most: float = math.inf
    required: bool = False
    length: int | None = None
    values: tuple[Any, ...] = ()


@dataclass(frozen=True)
class TensorRule:
    """What a tensor must be.

    Attributes:
        shape: rows first.
        types: ggml's names of those that it may be stored as.
    """

    shape: tuple[int, ...]
    types: Collection[str]
    required: bool = True


def count(most: int, *, least: int = 1, required: bool = False) -> FieldRule:
    """A whole number that llama.cpp reads as unsigned 32 bits."""
    return FieldRule("uint32", least, most, required)


# What llama.cpp reads of any file.
GENERAL: Mapping[str, FieldRule] = {
    "general.architecture": FieldRule("string", length=64, required=True),
    "general.type": FieldRule("string", length=64),
    "general.name": FieldRule("string", length=4096),
    "general.description": FieldRule("string", length=1 << 20),
    "general.file_type": count(1023, least=0),
    "general.quantization_version": count(2, least=0),
    "split.count": FieldRule("uint16"),
    "split.no": FieldRule("uint16"),
    "split.tensors.count": FieldRule("int32"),
}


def check_fields(header: GgufHeader, rules: Mapping[str, FieldRule]) -> None:
    """Raise ArtifactError where a key is missing, or its value is of another type, size or range."""
    for key, rule in rules.items():
        if key not in header.fields:
            if rule.required:
                raise ArtifactError(f"{header.path}: the header has no {key}", allowed=f"a {rule.kind}")
            continue
        value, kind = header.fields[key], header.kinds[key]
        if kind != rule.kind:
            raise ArtifactError(
                f"{header.path}: {key} is {value!r:.60}, stored as {kind}", allowed=f"{rule.kind}, as it is read"
            )
        _check_value(header, key, rule)


def _check_value(header: GgufHeader, key: str, rule: FieldRule) -> None:
    value = header.fields[key]
    if rule.values and value not in rule.values:
        raise ArtifactError(f"{header.path}: {key} is {value!r:.60}", allowed=" or ".join(map(repr, rule.values)))
    if isinstance(value, str):
        if rule.length is not None and len(value) > rule.length:
            raise ArtifactError(f"{header.path}: {key} has {len(value)} characters", allowed=f"at most {rule.length}")
        return
    if isinstance(value, list):
        return
    many = rule.kind.startswith("array")
    if many and rule.length is not None:
        header.numbers(key, rule.length)
    bounds = (rule.least, rule.most)
    inside = bool(((value >= bounds[0]) & (value <= bounds[1])).all()) if many else bounds[0] <= value <= bounds[1]
    if not inside:
        shown = value.tolist() if many else value
        raise ArtifactError(f"{header.path}: {key} is {shown!r:.80}", allowed=f"{bounds[0]:g} to {bounds[1]:g}")


def check_known(header: GgufHeader, namespace: str, known: Collection[str], ignored: tuple[str, ...] = ()) -> None:
    """Raise ArtifactError for a key that would make llama.cpp run another model than the one that is known here.

    Args:
        namespace: what the keys begin with.
        ignored: what those begin with that llama.cpp does not read.
    """
    for key in header.fields:
        if key.startswith(namespace) and key not in known and not key.startswith(ignored):
            raise ArtifactError(f"{header.path}: an unknown key {key:.100}: no such model is known here")


def check_tensors(header: GgufHeader, rules: Mapping[str, TensorRule]) -> None:
    """Raise ArtifactError where a tensor is missing, unknown, or of another type or shape."""
    if unknown := [name for name in header.tensors if name not in rules]:
        raise ArtifactError(f"{header.path}: unknown {_named(unknown)}: no such model is known here")
    for name, tensor in header.tensors.items():
        rule = rules[name]
        if tensor.shape != rule.shape:
            raise ArtifactError(
                f"{header.path}: {name} has the shape {list(tensor.shape)}",
                allowed=f"{list(rule.shape)}, by its header",
            )
        if tensor.type not in rule.types:
            raise ArtifactError(
                f"{header.path}: {name} is stored as {tensor.type}", allowed=", ".join(sorted(rule.types))
            )
    if missing := [name for name, rule in rules.items() if rule.required and name not in header.tensors]:
        raise ArtifactError(f"{header.path}: has no {_named(missing)}", remedy="download or convert it again")


def _named(names: Sequence[str]) -> str:
    """The first tensors of several, and how many there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    shown = ", ".join(repr(name)[:80] for name in names[:3])
    return f"tensor{'s' if len(names) > 1 else ''} {shown}{more}"
