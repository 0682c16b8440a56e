"""ONNX Runtime: a decoder with its key/value cache, from the graphs that `edgekit.families.gemma3.graph` describes.

Each sequence has a cache of its own (`edgekit.runtime.onnx.cache`). The graph takes one at a time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
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
from edgekit.planning.caches import CHUNK, local_positions
from edgekit.runtime.base import MOST_ROWS, Embeddings, Float, Segment, Tokens, check_cache
from edgekit.runtime.onnx.cache import KeyValueCache, cache_bytes
from edgekit.runtime.onnx.interface import decoder_shape
from edgekit.runtime.onnx.session import running, session
from edgekit.runtime.sequences import OwnedSequences, check_sequences
from edgekit.runtime.snapshots import fingerprint

Runs = tuple[Segment, ...]


class OrtDecoder(OwnedSequences):
    """An ONNX decoder and its token embedding: `edgekit.runtime.base.Decoder`, `SupportsChunkSize`, `OwnedSequences`.

    Attributes:
        caches: one a sequence.
    """

    def __init__(
        self,
        graphs: tuple[Path, Path],
        *,
        context: int,
        window: int,
        threads: int,
        image_tokens: int = 0,
        prepacking: bool = True,
        listed: Collection[Path] | None = None,
        sequences: int = 1,
    ) -> None:
        """Load both graphs.

        Args:
            graphs: the decoder's, and that of its token embedding.
            context: positions that the cache may hold, of each sequence.
            window: positions that a local layer attends to.
            image_tokens: of one image, which no call may divide.
            prepacking: let ONNX Runtime lay out weights for this CPU, in memory of its own instead of the mapped file.
            listed: the files that a manifest vouches for, as for `edgekit.formats.onnx.header.read`.
            sequences: that are held, each apart from the others.

        Raises:
            ArtifactError: a file is broken or no decoder of edgekit's, or ONNX Runtime refuses it.
            UsageError: memory cannot hold such a context.
        """
        check_sequences(sequences)
        settings = {} if prepacking else {"session.disable_prepacking": "1"}
        headers = [read_checked(path, listed) for path in graphs]
        self._shape = decoder_shape(*headers)
        # An arena would keep, rounded up to powers of two, what the longest prompt needed: 400 MB for 4B at 8,192.
        unmap_large_blocks()
        self._session: Any = session(headers[0], threads=threads, settings=settings, arena=False)
        self._embedding: Any = session(headers[1], threads=threads, arena=False)
        self._paths, self._fingerprint = graphs, fingerprint({*graphs, *(listed or ())})
        self.context, self.threads, self.sequences = context, threads, sequences
        self.hidden, self.vocabulary = self._shape.hidden, self._shape.vocabulary
        self.window, self._image_tokens = window, image_tokens
        self.set_chunk_size(None)

    def set_chunk_size(self, positions: int | None) -> None:
        """See `edgekit.runtime.base.SupportsChunkSize.set_chunk_size`."""
        with self._using("another size of chunks", inside=True):
            self._chunk = positions or CHUNK
            self._longest = max(self._chunk, self._image_tokens)
            local = local_positions(self.window, self._image_tokens, self._chunk)
            check_cache(self.context, partial(cache_bytes, self._shape, local, self.sequences), self.sequences)
            most = min(self.context, local), self.context
            self.caches = [KeyValueCache(self._shape, *most) for _ in range(self.sequences)]
            self._lengths.clear()

    def _check_segments(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            if isinstance(segment, Embeddings) and segment.bidirectional and len(segment) > self._longest:
                raise InputError(f"an image of {len(segment)} tokens", allowed=f"at most {self._longest}")

    def _clear(self, sequence: int) -> None:
        self.caches[sequence].clear()

    def _rows(self, segments: Sequence[Segment], wanted: Sequence[int], sequence: int) -> Iterator[Float]:
        # An image's wanted rows are in memory at once, all of them.
        for runs in calls(segments, wanted, self._chunk, self.length(sequence)):
            yield from self._decode(runs, wanted, sequence)

    def _step(self, ids: Sequence[int], sequence: int) -> Float:
        last = self.length(sequence) + len(ids) - 1
        (row,) = self._rows([Tokens(tuple(ids))], [last], sequence)
        return row

    def _decode(self, runs: Runs, wanted: Sequence[int], sequence: int) -> Float:
        """Append a call's positions to a sequence; logits [n, vocabulary] of those that are wanted."""
        self.check_usable()
        cache, start = self.caches[sequence], self.length(sequence)
        end = start + sum(map(len, runs))
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
        cache.reach(end)
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        cache.bind(binding)
        binding.bind_output(names.LOGITS)
        with running(self._paths[0]):
            self._session.run_with_iobinding(binding)
        self._lengths[sequence] = end
        rows = np.asarray(binding.get_outputs()[-1].numpy(), np.float32)
        expected = (inputs[names.WANTED].size, self.vocabulary)
        if rows.shape != expected:
            raise ArtifactError(f"{self._paths[0]}: {names.LOGITS} is {list(rows.shape)}", allowed=str(list(expected)))
        return rows

    def _embed(self, ids: Sequence[int]) -> Float:
        array = np.asarray(ids, np.int64)[None]
        with running(self._paths[1]):
            return np.asarray(self._embedding.run([names.EMBEDS], {names.IDS: array})[0][0], np.float32)

    def _first(self, sequence: int) -> int:
        return self.caches[sequence].first

    def _cut(self, length: int, sequence: int) -> None:
        """Nothing: the graph takes a slot for the position that it must hold now, and hides those not written yet."""

    def _described(self) -> Mapping[str, object]:
        return {"onnx": "caches", "layers": len(self._shape.caches) // 2, "files": self._fingerprint}

    def _save(self, sequence: int) -> bytes:
        return self.caches[sequence].save(self.length(sequence))

    def _load(self, state: memoryview, length: int, sequence: int) -> None:
        self.caches[sequence].load(state, length, self.window)

    def _free(self) -> None:
        self._session = self._embedding = None
        self.caches.clear()


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
