"""ONNX Runtime: a decoder with its key/value cache, from the graphs that `edgekit.families.gemma3.graph` describes.

Caches are numpy arrays to which the session's inputs and outputs are bound alike, so no call copies them. They grow
with the text, for attention reads all of them; those of sliding-window layers become rings at their window's size.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ArtifactError, InputError
from edgekit.formats.onnx import names
from edgekit.formats.onnx.operators import read_checked
from edgekit.machine.memory import unmap_large_blocks
from edgekit.runtime.base import MOST_ROWS, Embeddings, Float, Segment, Tokens, check_cache
from edgekit.runtime.onnx.interface import DecoderShape, decoder_shape
from edgekit.runtime.onnx.session import running, session
from edgekit.runtime.owned_parts import OwnedDecoder

CHUNK = 256  # positions of a call; an image of more takes a call of its own
_GROWTH = 128  # positions by which caches grow


Runs = tuple[Segment, ...]


class OrtDecoder(OwnedDecoder):
    """An ONNX decoder and its token embedding: `edgekit.runtime.base.Decoder`, and `SupportsChunkSize`."""

    def __init__(
        self,
        graphs: tuple[Path, Path],
        *,
        context: int,
        window: int,
        threads: int,
        image_tokens: int = 0,
        prepacking: bool = True,
        chunk: int = CHUNK,
        listed: Collection[Path] | None = None,
    ) -> None:
        """Load both graphs.

        Args:
            graphs: the decoder's, and that of its token embedding.
            context: positions that the cache may hold.
            window: positions that a local layer attends to.
            image_tokens: of one image, which no call may divide.
            prepacking: let ONNX Runtime lay out weights for this CPU, in memory of its own instead of the mapped file.
            chunk: positions of a prompt that are decoded at once.
            listed: the files that a manifest vouches for, as for `edgekit.formats.onnx.header.read`.

        Raises:
            ArtifactError: a file is broken or no decoder of edgekit's, or ONNX Runtime refuses it.
            UsageError: memory cannot hold such a context.
        """
        settings = {} if prepacking else {"session.disable_prepacking": "1"}
        headers = [read_checked(path, listed) for path in graphs]
        self._shape = decoder_shape(*headers)
        # An arena would keep, rounded up to powers of two, what the longest prompt needed: 400 MB for 4B at 8,192.
        unmap_large_blocks()
        self._session: Any = session(headers[0], threads=threads, settings=settings, arena=False)
        self._embedding: Any = session(headers[1], threads=threads, arena=False)
        self._paths = graphs
        self.context, self.threads = context, threads
        self.hidden, self.vocabulary = self._shape.hidden, self._shape.vocabulary
        self._usual_chunk, self._window, self._image_tokens = chunk, window, image_tokens
        self.set_chunk_size(None)

    def set_chunk_size(self, positions: int | None) -> None:
        """See `edgekit.runtime.base.SupportsChunkSize.set_chunk_size`."""
        with self._using("another size of chunks", inside=True):
            self._chunk = positions or self._usual_chunk
            self._longest = max(self._chunk, self._image_tokens)
            local = self._window - 1 + self._longest
            check_cache(self.context, partial(_cache_bytes, self._shape, local))
            self.cache = KeyValueCache(self._shape, min(self.context, local), self.context)
            self.position = 0

    def _check_segments(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            if isinstance(segment, Embeddings) and segment.bidirectional and len(segment) > self._longest:
                raise InputError(f"an image of {len(segment)} tokens", allowed=f"at most {self._longest}")

    def _clear(self) -> None:
        self.cache.clear()

    def _rows(self, segments: Sequence[Segment], wanted: Sequence[int]) -> Iterator[Float]:
        # An image's wanted rows are in memory at once, all of them.
        for runs in calls(segments, wanted, self._chunk, self.position):
            yield from self._decode(runs, wanted)

    def _step(self, ids: Sequence[int]) -> Float:
        last = self.position + len(ids) - 1
        (row,) = self._rows([Tokens(tuple(ids))], [last])
        return row

    def _decode(self, runs: Runs, wanted: Sequence[int]) -> Float:
        """Append a call's positions to the cache; logits [n, vocabulary] of those that are wanted."""
        self.check_usable()
        start, end = self.position, self.position + sum(map(len, runs))
        embedded = [run.array if isinstance(run, Embeddings) else self._embed(run.ids) for run in runs]
        index = [
            np.full(len(run), number if isinstance(run, Embeddings) and run.bidirectional else 0, np.int64)
            for number, run in enumerate(runs, 1)
        ]
        inputs: dict[str, NDArray[Any]] = {
            names.EMBEDS: np.concatenate(embedded, dtype=np.float32)[None],
            names.IMAGES: np.concatenate(index)[None],
            names.POSITIONS: np.arange(start, end, dtype=np.int64)[None],
            names.WANTED: np.array([w - start for w in wanted if start <= w < end], np.int64),
        }
        self.cache.reach(end)
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        self.cache.bind(binding)
        binding.bind_output(names.LOGITS)
        with running(self._paths[0]):
            self._session.run_with_iobinding(binding)
        self.position = end
        rows = np.asarray(binding.get_outputs()[-1].numpy(), np.float32)
        expected = (inputs[names.WANTED].size, self.vocabulary)
        if rows.shape != expected:
            raise ArtifactError(f"{self._paths[0]}: {names.LOGITS} is {list(rows.shape)}", allowed=str(list(expected)))
        return rows

    def _embed(self, ids: Sequence[int]) -> Float:
        array = np.asarray(ids, np.int64)[None]
        with running(self._paths[1]):
            return np.asarray(self._embedding.run([names.EMBEDS], {names.IDS: array})[0][0], np.float32)

    def _free(self) -> None:
        self._session = self._embedding = self.cache = None  # type: ignore[assignment]


def _cache_bytes(shape: DecoderShape, local: int, context: int) -> int:
    """What keys and values of a context take at most, in single precision."""
    return sum(
        4 * heads * width * (context if name in shape.growing else min(context, local))
        for name, (heads, width) in shape.caches.items()
    )


class KeyValueCache:
    """Keys and values of all layers.

    Attributes:
        arrays: by the names of the graph's inputs, [1, heads, capacity, width].
    """

    def __init__(self, shape: DecoderShape, local: int, context: int) -> None:
        """Args: what the graph fixes; positions that local layers and the whole may hold."""
        self._shape = shape
        self._most = {name: context if name in shape.growing else local for name in shape.caches}
        self.clear()

    def clear(self) -> None:
        """Drop all positions and their memory."""
        self._end = 0
        self.arrays: dict[str, Float] = {
            name: np.zeros((1, heads, 0, width), np.float32) for name, (heads, width) in self._shape.caches.items()
        }

    def reach(self, end: int) -> None:
        """Make room for this many positions, one array at a time.

        A position's slot is its remainder by the capacity, so an array grows only while no position has come round.
        """
        if end <= self._end:
            return
        self._end = end + -end % _GROWTH
        for name, old in self.arrays.items():
            capacity = min(self._most[name], self._end)
            if capacity > old.shape[2]:
                new = np.zeros((*old.shape[:2], capacity, old.shape[3]), np.float32)
                new[:, :, : old.shape[2]] = old
                self.arrays[name] = new

    def bind(self, binding: Any) -> None:
        """The same memory as past and as present."""
        for name, array in self.arrays.items():
            place = ("cpu", 0, np.float32, array.shape, array.ctypes.data)
            binding.bind_input(name, *place)
            binding.bind_output(name.replace(names.PAST, names.PRESENT, 1), *place)


def calls(segments: Sequence[Segment], wanted: Sequence[int], chunk: int, start: int = 0) -> Iterator[Runs]:
    """What to decode at once: at most `chunk` positions and MOST_ROWS wanted ones, but an image is never divided.

    Args:
        start: position of the first segment.
    """
    wanted = sorted(set(wanted))
    runs: list[Segment] = []
    position = first = start  # of the next piece, and of the call under way
    for segment in segments:
        end = position + len(segment)
        whole = isinstance(segment, Embeddings) and segment.bidirectional
        begin = position
        while position < end:
            limit = first + chunk
            if (beyond := bisect_left(wanted, first) + MOST_ROWS) < len(wanted):
                limit = min(limit, wanted[beyond])
            if runs and (limit <= position or (whole and limit < end)):
                yield tuple(runs)
                runs, first = [], position
            else:
                stop = end if whole else min(end, limit)
                runs.append(_slice(segment, position - begin, stop - begin))
                position = stop
    if runs:
        yield tuple(runs)


def _slice(segment: Segment, start: int, end: int) -> Segment:
    if isinstance(segment, Tokens):
        return Tokens(segment.ids[start:end])
    return replace(segment, array=segment.array[start:end])
