"""What an ONNX part's graphs say of a model: by the shapes of what goes in and comes out, and in their metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import ArtifactError
from edgekit.formats.onnx import names
from edgekit.formats.onnx.form import OnnxForm
from edgekit.formats.onnx.model import OnnxHeader, OnnxValue
from edgekit.formats.onnx.operators import read_checked


def stated(form: OnnxForm, files: Sequence[Path]) -> Mapping[str, Any]:
    """Settings by the manifest's names, as far as the part's first graph fixes them.

    Raises:
        ArtifactError: the graph is broken; see `edgekit.formats.onnx.operators.read_checked`.
    """
    header = read_checked(files[0], files)
    values = {value.name: value for value in (*header.inputs, *header.outputs)}
    if form.output is None:
        sides = {"hidden": _side(values, names.EMBEDS, 2), "vocabulary": _side(values, names.LOGITS, 1)}
    else:
        tokens = _side(values, form.output, 1) if _rank(values, form.output) == 3 else None
        sides = {"hidden": _side(values, form.output, -1), "image_tokens": tokens}
    return {**{name: size for name, size in sides.items() if size is not None}, **_numbers(header)}


def _numbers(header: OnnxHeader) -> dict[str, float]:
    """What `edgekit.formats.onnx.graph.Graph.model` wrote."""
    ours = {key: value for key, value in header.metadata.items() if key.startswith(names.METADATA)}
    try:
        return {key.removeprefix(names.METADATA): float(value) for key, value in ours.items()}
    except ValueError as error:
        raise ArtifactError(f"{header.path}: metadata that is no number: {error!s:.100}") from error


def _rank(values: Mapping[str, OnnxValue], name: str) -> int:
    return len(values[name].shape or ()) if name in values else 0


def _side(values: Mapping[str, OnnxValue], name: str, side: int) -> int | None:
    """A side that is a number; None where there is none. What a graph must have, the runtime says."""
    shape = (values[name].shape if name in values else None) or ()
    size = shape[side] if -len(shape) <= side < len(shape) else None
    return size if isinstance(size, int) else None
