"""What a GGUF file of edgekit's own says of itself: these keys, and none that is not compared with anything."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from edgekit.formats.audit import AuditedPart, Compared
from edgekit.formats.gguf.header import GgufHeader
from edgekit.formats.label import FileLabel

_SAID = frozenset({"general.architecture", *(f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type"))})


def of_the_label(part: AuditedPart, label: FileLabel, header: GgufHeader) -> Iterator[Compared]:
    """What people read in the file, and choose it by."""
    import gguf

    weights = sum(math.prod(tensor.shape) for tensor in part.tensors.values())
    expected: dict[str, Any] = {
        "type": gguf.GGUFType.MODEL if part.form.settings else gguf.GGUFType.MMPROJ,
        "name": label.title,
        "license": label.license,
        "size_label": gguf.size_label(weights, 0, 0, 0),
        "file_type": _file_type(part),
        "quantization_version": gguf.GGML_QUANT_VERSION,
    }
    for name, value in expected.items():
        yield Compared("constant", f"general.{name}", header.fields.get(f"general.{name}"), value)


def of_nothing(header: GgufHeader, compared: Sequence[Compared]) -> Iterator[Compared]:
    """Keys that nobody compares: a program may obey them, one day or already, as `general.sampling`."""
    known = _SAID.union(one.name for one in compared)
    for key, value in header.fields.items():
        if key not in known:
            yield Compared("constant", key, plain(value), None, "no such key in files of edgekit's own")


def plain(value: Any) -> Any:
    """A value of a header without numpy."""
    return value.tolist() if hasattr(value, "tolist") else value


def _file_type(part: AuditedPart) -> int:
    """By llama.cpp's own table; a mixture that it does not have goes by what most of its weights are."""
    import gguf

    numbers = {re.sub("^(MOSTLY|ALL)_|_MOE$", "", one.name): int(one) for one in gguf.LlamaFileType}
    if part.level in numbers:
        return numbers[part.level]
    weights = Counter[str]()
    for tensor in part.tensors.values():
        weights[tensor.type] += math.prod(tensor.shape)
    return numbers[weights.most_common(1)[0][0]]
