"""A part's stored tensors by the hub's names, read and changed where they lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from proofs import Trial

from edgekit.formats.gguf.codecs import CODECS
from edgekit.formats.gguf.header import read_header
from edgekit.formats.onnx.codecs import BlockCodec, ChannelCodec
from edgekit.formats.onnx.layout import TensorLayout, layout_of

Values = NDArray[np.float32]
# ggml's blocks: where their scales lie, as numbers of 16 bits.
SCALES: Mapping[str, tuple[int, ...]] = {
    "Q8_0": (0,), "Q5_0": (0,), "Q5_1": (0, 1), "Q4_0": (0,), "IQ4_NL": (0,), "IQ4_XS": (0,),
    "Q4_K": (0, 1), "Q5_K": (0, 1), "Q6_K": (104,), "Q3_K": (54,), "Q2_K": (40, 41),
}  # fmt: skip
_ROWS = 1 << 14
_NUMPY = {1: np.float32, 2: np.uint8, 3: np.int8, 10: np.float16}


class Stored:
    """The tensors of a part's file; all that was changed can be put back.

    Attributes:
        names: of the tensors, in the file's order.
        changed: those of them that were.
    """

    def __init__(self, trial: Trial) -> None:
        self.plan = trial.plan
        self.names = [planned.name for planned in trial.plan.in_order]
        self._before: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self.changed: set[str] = set()

    def values(self, name: str) -> Values:
        """As float32, a matrix as [outputs, inputs], in whatever sense the file has them."""
        raise NotImplementedError

    def store(self, name: str, values: Values) -> None:
        """Encode other values in their place."""
        raise NotImplementedError

    def raw(self, name: str) -> dict[str, NDArray[Any]]:
        """The stored arrays: `values`, [blocks, bytes] in GGUF, and `scales` where they lie apart."""
        raise NotImplementedError

    def codec(self, name: str) -> str:
        """What a tensor is stored as."""
        raise NotImplementedError

    def flush(self) -> None:
        """Write what was changed."""
        raise NotImplementedError

    def keep(self, name: str, *arrays: NDArray[Any]) -> None:
        """Remember a tensor as it was, the first time."""
        if name not in self.changed:
            self.changed.add(name)
            self._before += [(array, array.copy()) for array in arrays]

    def restore(self) -> None:
        """Put everything back."""
        for array, before in self._before:
            array[...] = before
        self.flush()


def _in_slices(count: int) -> Iterator[slice]:
    """Rows at a time: codecs take many times the memory of what they are given, and a table has 262,208."""
    return (slice(first, first + _ROWS) for first in range(0, count, _ROWS))


class GgufStored(Stored):
    """In a GGUF file."""

    def __init__(self, trial: Trial) -> None:
        super().__init__(trial)
        header = read_header(trial.files[0])
        forms = trial.plan.form.tensors(trial.plan.config)
        self._tensors = {name: header.tensors[form.name] for name, form in forms.items()}
        self._shapes = {planned.name: planned.shape for planned in trial.plan.tensors}
        self._file = np.memmap(trial.files[0], np.uint8, "r+")

    def codec(self, name: str) -> str:
        return self._tensors[name].type

    def values(self, name: str) -> Values:
        codec, shape, data = CODECS[self.codec(name)], self._shapes[name], self._bytes(name)
        decoded = [codec.decode(data[rows]) for rows in _in_slices(len(data))]
        return np.concatenate(decoded).reshape(shape).astype(np.float32, copy=False)

    def store(self, name: str, values: Values) -> None:
        data = self._bytes(name)
        self.keep(name, data)
        numbers = values.reshape(len(data), -1)
        for rows in _in_slices(len(data)):
            data[rows] = CODECS[self.codec(name)].encode(numbers[rows])

    def raw(self, name: str) -> dict[str, NDArray[Any]]:
        data = self._bytes(name)
        self.keep(name, data)
        size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[self.codec(name)]][1]
        return {"values": data.reshape(-1, size)}

    def _bytes(self, name: str) -> NDArray[np.uint8]:
        """[rows, bytes of a row], in the file."""
        rows, tensor = int(np.prod(self._shapes[name][:-1])), self._tensors[name]
        return self._file[tensor.offset : tensor.offset + tensor.bytes].reshape(rows, -1)

    def flush(self) -> None:
        self._file.flush()


class OnnxStored(Stored):
    """In an ONNX part's data file."""

    def __init__(self, trial: Trial) -> None:
        super().__init__(trial)
        path = next(path for path in trial.files if path.name.endswith(".onnx_data"))
        self._layout = layout_of(path.name, trial.plan).tensors
        self.names = [name for name in self.names if name in self._layout]
        self._file = np.memmap(path, np.uint8, "r+")

    def codec(self, name: str) -> str:
        return self._layout[name].codec.name

    def values(self, name: str) -> Values:
        place, (stored, *scales) = self._layout[name], self._arrays(self._layout[name])
        stored = stored.T if place.transposed else stored
        if isinstance(place.codec, BlockCodec):
            width = place.planned.shape[-1]
            parts = [place.codec.decode(stored[one], scales[0][one], width) for one in _in_slices(len(stored))]
            return np.concatenate(parts)
        values = stored.astype(np.float32)
        return values * scales[0][:, None] if isinstance(place.codec, ChannelCodec) else values

    def store(self, name: str, values: Values) -> None:
        place, arrays = self._layout[name], self._arrays(self._layout[name])
        self.keep(name, *arrays)
        rows = values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values[None]
        made = [place.codec.encode(rows[part]) for part in _in_slices(len(rows))]
        encoded, scales = (np.concatenate(both) for both in zip(*made, strict=True))
        encoded = encoded.view(arrays[0].dtype)
        arrays[0][...] = encoded.T if place.transposed else encoded.reshape(arrays[0].shape)
        if len(arrays) > 1:
            arrays[1][...] = scales.reshape(arrays[1].shape)

    def raw(self, name: str) -> dict[str, NDArray[Any]]:
        arrays = self._arrays(self._layout[name])
        self.keep(name, *arrays)
        return dict(zip(("values", "scales"), arrays, strict=False))

    def _arrays(self, place: TensorLayout) -> list[NDArray[Any]]:
        return [
            self._file[array.offset : array.offset + array.bytes].view(_NUMPY[array.element]).reshape(array.shape)
            for array in place.arrays.values()
        ]

    def flush(self) -> None:
        self._file.flush()


@contextmanager
def stored(trial: Trial) -> Iterator[Stored]:
    """The tensors of a part for a while; then they are what they were."""
    opened = GgufStored(trial) if trial.plan.level.format == "gguf" else OnnxStored(trial)
    try:
        yield opened
    finally:
        opened.restore()
