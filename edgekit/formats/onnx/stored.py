"""The tensors of an ONNX part: what its graphs call initializers, decoded from the data file that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.checkpoints.tensor_spec import TensorSpec
from edgekit.errors import ArtifactError
from edgekit.formats import calibration
from edgekit.formats.calibration import Factor
from edgekit.formats.codec import Float
from edgekit.formats.onnx import header
from edgekit.formats.onnx.codecs import CODECS, OnnxCodec
from edgekit.formats.onnx.layout import ELEMENTS, is_stored, is_transposed
from edgekit.formats.onnx.model import TYPES, OnnxTensor
from edgekit.formats.stored import StoredTensor, check_names, wrong_shape

_DTYPES: Mapping[str, Any] = {TYPES[element][0]: dtype for dtype, element in ELEMENTS.items()}


def stored(
    specs: Sequence[TensorSpec], form: object, config: object, files: Sequence[Path]
) -> Mapping[str, StoredTensor]:
    """The tensors of a part's graphs by canonical name; see `edgekit.formats.base.Format.stored`."""
    held = _external(files)
    codecs = {spec.name: codec for spec in specs if is_stored(spec) and (codec := _codec_of(spec, held))}
    expected = {
        f"{spec.name}{array.suffix}": spec
        for spec in specs
        if is_stored(spec)
        for array in (codecs.get(spec.name) or CODECS["float32"]).arrays(spec.shape, transposed=False)
    }
    check_names(files[0], held, expected)
    smoothed = _factors(specs, files)
    return {
        name: _stored(files[0], held, spec, codecs[name], smoothed.get(name, Factor()).inverse)
        for spec in specs
        if (name := spec.name) in codecs
    }


def _factors(specs: Sequence[TensorSpec], files: Sequence[Path]) -> Mapping[str, Factor]:
    """What smoothing multiplied tensors by, as the file that calibration left says."""
    measured = next((path for path in files if path.name.endswith(calibration.SUFFIX)), None)
    smoothing = calibration.read(measured).smoothing if measured else {}
    widths = {spec.follows[0]: spec.shape[-1] for spec in specs if spec.follows}
    for name, exponents in smoothing.items():
        if widths.get(name) != len(exponents):
            raise ArtifactError(f"{measured}: {len(exponents)} channels behind {name}", allowed=f"{widths.get(name)}")
    return calibration.factors(specs, smoothing)


def _external(files: Sequence[Path]) -> dict[str, OnnxTensor]:
    """What the part's graphs hold in files beside them. Graphs that share a name share the data."""
    held: dict[str, OnnxTensor] = {}
    for path in (path for path in files if path.suffix == ".onnx"):
        for tensor in header.read(path, files).external:
            if held.setdefault(tensor.name, tensor) != tensor:
                raise ArtifactError(f"{path}: {tensor.name} lies elsewhere than {files[0].name} says")
    return held


def _codec_of(spec: TensorSpec, held: Mapping[str, OnnxTensor]) -> OnnxCodec | None:
    """The codec whose arrays are there under the tensor's name, with their types."""
    for codec in CODECS.values():
        arrays = codec.arrays(spec.shape, transposed=False)
        found = [held.get(f"{spec.name}{array.suffix}") for array in arrays]
        types = [_DTYPES.get(one.type) if one else None for one in found]
        if types == [array.dtype for array in arrays]:
            return codec
    return None


def _stored(
    path: Path, held: Mapping[str, OnnxTensor], spec: TensorSpec, codec: OnnxCodec, smoothed: Factor
) -> StoredTensor:
    transposed = is_transposed(spec, codec)
    arrays = codec.arrays(spec.shape, transposed=transposed)
    places = [held[f"{spec.name}{array.suffix}"] for array in arrays]
    for array, place in zip(arrays, places, strict=True):
        if place.shape != array.shape:
            raise wrong_shape(path, place.name, place.shape, array.shape)

    def read(first: int, last: int) -> Float:
        values = _mapped(places[0])
        values = values[:, first:last].T if transposed else values[first:last]
        scales = _mapped(places[1])[first:last] if len(places) > 1 else None
        rows = np.array(codec.decode(values, scales, spec.shape[-1]))  # a copy: no page stays mapped
        rows = smoothed.apply(rows.reshape(last - first, *spec.shape[1:]), first)
        return rows - np.float32(1) if spec.add_one else rows

    return StoredTensor(
        spec.name, places[0].name, codec.name, spec.shape, codec.exact, codec.preserves, codec.rounding, read
    )


def _mapped(tensor: OnnxTensor) -> NDArray[Any]:
    assert tensor.file is not None, "only tensors in files beside the graph are read"
    return np.asarray(np.memmap(tensor.file, _DTYPES[tensor.type], "r", tensor.offset, tensor.shape))
