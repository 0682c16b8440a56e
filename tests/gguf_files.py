"""GGUF files changed by gguf's own reader and writer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

_KINDS = {
    str: gguf.GGUFValueType.STRING,
    bool: gguf.GGUFValueType.BOOL,
    int: gguf.GGUFValueType.UINT32,
    float: gguf.GGUFValueType.FLOAT32,
}


def rewrite(
    source: Path,
    target: Path,
    *,
    fields: Mapping[str, Any] | None = None,
    types: Mapping[str, gguf.GGMLQuantizationType] | None = None,
    added: Mapping[str, np.ndarray[Any, Any]] | None = None,
) -> Path:
    """A copy of a GGUF file.

    Args:
        fields: new values of keys, or what makes them of the old; `...` removes one. A new key is a text, a number or a
            flag.
        types: tensors that are stored as another type.
        added: tensors that the copy has beyond the source's.
    """
    reader, changes = gguf.GGUFReader(source), dict(fields or {})
    kept = {name: one for name, one in reader.fields.items() if not name.startswith("GGUF.")}
    architecture = changes.pop("general.architecture", kept.pop("general.architecture").contents())
    writer = gguf.GGUFWriter(target, architecture)
    for name, one in kept.items():
        value = changes.pop(name, one.contents())
        sub = one.types[-1] if one.types[0] == gguf.GGUFValueType.ARRAY else None
        if value is not ... and callable(value):
            value = value(one.contents())
        if value is not ...:
            writer.add_key_value(name, value, one.types[0], sub)
    for name, value in changes.items():
        writer.add_key_value(name, value, _KINDS[type(value)])
    for one in reader.tensors:
        data, stored = one.data, one.tensor_type
        if types and one.name in types:
            stored = types[one.name]
            data = gguf.quantize(gguf.dequantize(data, one.tensor_type).astype(np.float32), stored)
        writer.add_tensor(one.name, data, raw_dtype=stored)
    for name, data in (added or {}).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
