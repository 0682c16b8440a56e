"""The key/value cache of one sequence, for the graphs that `edgekit.families.gemma3.graph` describes.

Caches are numpy arrays to which the session's inputs and outputs are bound alike, so no call copies them. They grow
with the text, for attention reads all of them; those of sliding-window layers become rings at their window's size.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import SnapshotError
from edgekit.formats.onnx import names
from edgekit.runtime.base import Float
from edgekit.runtime.onnx.interface import DecoderShape

_GROWTH = 128  # positions by which caches grow
_SAVED = struct.Struct("<Q")
_STORED = np.dtype("<f4")


def cache_bytes(shape: DecoderShape, local: int, sequences: int, context: int) -> int:
    """What keys and values of contexts take at most, in single precision."""
    return sequences * sum(
        4 * heads * width * (context if name in shape.growing else min(context, local))
        for name, (heads, width) in shape.caches.items()
    )


class KeyValueCache:
    """Keys and values of all layers.

    Attributes:
        arrays: by the names of the graph's inputs, [1, heads, capacity, width].
        first: the first position that local layers still hold. What was written over one stays written when a
            sequence is cut, so it never falls.
    """

    def __init__(self, shape: DecoderShape, local: int, context: int) -> None:
        """Args: what the graph fixes; positions that local layers and the whole may hold."""
        self._shape, self._local = shape, local
        self._most = {name: context if name in shape.growing else local for name in shape.caches}
        self.clear()

    def clear(self) -> None:
        """Drop all positions and their memory."""
        self._end = self.first = 0
        self.arrays: dict[str, Float] = {
            name: np.zeros((1, heads, 0, width), np.float32) for name, (heads, width) in self._shape.caches.items()
        }

    def reach(self, end: int) -> None:
        """Make room for this many positions, one array at a time, before they are written.

        A position's slot is its remainder by the capacity, so an array grows only while no position has come round.
        """
        self.first = max(self.first, end - self._local)
        if end <= self._end:
            return
        grown = end + -end % _GROWTH
        for name, old in self.arrays.items():
            capacity = min(self._most[name], grown)
            if capacity > old.shape[2]:
                new = np.zeros((*old.shape[:2], capacity, old.shape[3]), np.float32)
                new[:, :, : old.shape[2]] = old
                self.arrays[name] = new
        self._end = grown  # last: Ctrl-C may come before

    def bind(self, binding: Any) -> None:
        """The same memory as past and as present."""
        for name, array in self.arrays.items():
            place = ("cpu", 0, np.float32, array.shape, array.ctypes.data)
            binding.bind_input(name, *place)
            binding.bind_output(name.replace(names.PAST, names.PRESENT, 1), *place)

    def save(self, length: int) -> bytes:
        """The first position that local layers hold, and all that layers hold of the first so many, by their names."""
        parts = [_SAVED.pack(self.first)]
        for name, array in sorted(self.arrays.items()):
            held = array[0][:, self._slots(name, self._from(name, self.first), length)]
            parts.append(held.astype(_STORED).tobytes())
        return b"".join(parts)

    def load(self, state: memoryview, length: int, window: int) -> None:
        """Hold what `save` gave, of which a smaller ring takes the end.

        Args:
            window: positions that local layers see.

        Raises:
            SnapshotError: it is not as long as it must be, or lacks positions that what follows would see.
        """
        if len(state) < _SAVED.size:
            raise SnapshotError(f"a snapshot of {len(state)} bytes", allowed=f"at least {_SAVED.size}")
        (first,) = _SAVED.unpack_from(state)
        if first > max(0, length - window + 1):
            raise SnapshotError(f"a snapshot of {length} tokens that begins at {first}", allowed="what the window sees")
        runs = {name: length - self._from(name, first) for name in sorted(self.arrays)}
        sizes = {name: runs[name] * heads * width for name, (heads, width) in self._shape.caches.items()}
        if len(state) != (size := _SAVED.size + _STORED.itemsize * sum(sizes.values())):
            raise SnapshotError(f"a snapshot of {length} tokens in {len(state)} bytes", allowed=str(size))
        self.clear()
        self.reach(length)
        self.first, at = max(self.first, first), _SAVED.size
        for name, run in runs.items():
            heads, width = self._shape.caches[name]
            held = np.frombuffer(state, _STORED, sizes[name], at).reshape(heads, run, width)
            begin = self._from(name, self.first)
            self.arrays[name][0][:, self._slots(name, begin, length)] = held[:, run - (length - begin) :]
            at += held.nbytes

    def _from(self, name: str, first: int) -> int:
        return 0 if name in self._shape.growing else first

    def _slots(self, name: str, first: int, end: int) -> NDArray[np.int64]:
        return np.asarray(np.arange(first, end) % self.arrays[name].shape[2])
