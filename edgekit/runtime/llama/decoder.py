"""llama.cpp through llama-cpp-python's low-level bindings: a decoder of segments and a vision encoder.

The high-level class is not used: it leaves flash attention off, keeps the whole cache of sliding-window layers,
encodes an image again for every turn, and builds an image prompt without the line breaks that the model was trained
with. Here token ids and image embeddings come from edgekit, so any encoder can stand in front of this decoder.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ArtifactError, InputError, SnapshotError, UsageError
from edgekit.formats.gguf.header import GgufHeader, read_header
from edgekit.formats.gguf.library import library, log_tail
from edgekit.machine.memory import release_mapped
from edgekit.planning.caches import BATCH, batch_of
from edgekit.runtime.base import (
    MOST_ROWS,
    Embeddings,
    EncoderSpec,
    Float,
    Segment,
    check_cache,
)
from edgekit.runtime.llama.cache_form import USUAL_CACHE, CacheForm, layer_cache_bytes
from edgekit.runtime.llama.video import devices_for
from edgekit.runtime.owned_parts import OwnedEncoder
from edgekit.runtime.sequences import OwnedSequences, check_sequences
from edgekit.runtime.snapshots import fingerprint

_ROWS_TOGETHER = 4  # that kernels for laid-out weights work on
_ROWS_A_PASS = 4  # that take as long as a pass over the weights for one
Place = tuple[int, int, bool]  # of an item in a batch: its sequence and position, and whether its logits are wanted


class LlamaDecoder(OwnedSequences):
    """A GGUF decoder with its cache: `edgekit.runtime.base.Decoder`, and all that `OwnedSequences` offers."""

    batched = True
    cache_types = ("f16", "q8_0")

    def __init__(
        self,
        path: Path,
        *,
        context: int,
        threads: int,
        image_tokens: int,
        step_threads: int | None = None,
        gpu_layers: int = 0,
        extra_buffers: bool = False,
        cache: CacheForm = USUAL_CACHE,
    ) -> None:
        """Load a file.

        Args:
            context: tokens that the cache holds, of each sequence.
            threads: for prompts and images.
            image_tokens: of one image; they must fit one micro-batch, or the library aborts the process.
            step_threads: for one token after the other; as many for None.
            gpu_layers: so many run on a GPU, from the last one, with their keys and values; the output counts as one.
            extra_buffers: let llama.cpp lay out weights for this CPU, which only a self-test shows to be right.
            cache: how keys and values are held.

        Raises:
            ArtifactError: the file is damaged, or the library refuses it.
            UsageError: memory cannot hold such a context, or there is no such type.
        """
        check_sequences(cache.sequences)
        if cache.type not in self.cache_types:
            raise UsageError(f"a cache of {cache.type!r:.40}", allowed=", ".join(self.cache_types))
        header = read_header(path)  # a damaged file must not reach the library
        self.sequences, self.cache_type, self.gpu_layers = cache.sequences, cache.held_as, gpu_layers
        batch = batch_of(image_tokens)
        check_cache(context, partial(cache_bytes, header, image_tokens, cache, gpu_layers), cache.sequences)
        self._lib = library()
        self.context, self.threads, self._fingerprint = context, threads, fingerprint([path])
        model_params = self._lib.llama_model_default_params()
        model_params.n_gpu_layers = gpu_layers
        devices = devices_for(self._lib, on_gpu=gpu_layers > 0)
        model_params.devices = ctypes.cast(devices, ctypes.c_void_p) if devices else None
        model_params.use_extra_bufts = extra_buffers
        self.model = self._lib.llama_model_load_from_file(os.fsencode(path), model_params)
        if not self.model:
            raise ArtifactError(f"{path}: llama.cpp cannot load it: {log_tail()}")
        if extra_buffers:
            release_mapped(path)  # most of it is laid out elsewhere now
        params = self._lib.llama_context_default_params()
        params.n_seq_max, params.n_ctx = self.sequences, context * self.sequences
        params.kv_unified = False  # a step of one sequence need not look at the others' keys
        params.n_batch = params.n_ubatch = batch
        params.n_threads, params.n_threads_batch = step_threads or threads, threads
        params.type_k = params.type_v = getattr(self._lib, f"GGML_TYPE_{self.cache_type.upper()}")
        # Flash attention rounds queries to half precision, even beside keys in single; quantized values need it.
        self.flash_attention = (
            self._lib.LLAMA_FLASH_ATTN_TYPE_DISABLED if cache.exact else self._lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
        )
        params.flash_attn_type = self.flash_attention
        params.swa_full = False
        params.op_offload = False  # it copies weights to the GPU that were to stay where they are
        params.no_perf = True
        self._context = self._lib.llama_init_from_model(self.model, params)
        if not self._context:
            self._lib.llama_model_free(self.model)
            raise ArtifactError(f"{path}: llama.cpp cannot make a context of {params.n_ctx} tokens: {log_tail()}")
        self._memory = self._lib.llama_get_memory(self._context)
        self.window = int(self._lib.llama_model_n_swa(self.model))
        self.hidden = int(self._lib.llama_model_n_embd(self.model))
        self.vocabulary = int(self._lib.llama_vocab_n_tokens(self._lib.llama_model_get_vocab(self.model)))

    def _clear(self, sequence: int) -> None:
        if self.sequences == 1:
            self._lib.llama_memory_clear(self._memory, True)
        else:
            self._lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def _rows(self, segments: Sequence[Segment], wanted: Sequence[int], sequence: int) -> Iterator[Float]:
        for segment in segments:
            if isinstance(segment, Embeddings):
                yield from self._decode(segment.array, wanted, sequence, causal=not segment.bidirectional)
            else:
                ids = np.asarray(segment.ids, np.int32)
                for start, end in _chunks(self.length(sequence), len(ids), wanted):
                    yield from self._decode(ids[start:end], wanted, sequence, causal=True)

    def _step(self, ids: Sequence[int], sequence: int) -> Float:
        last = self.length(sequence) + len(ids) - 1
        (row,) = self._decode(np.asarray(ids, np.int32), [last], sequence, causal=True)
        return row

    def _decode_all(self, tokens: Mapping[int, Sequence[int]]) -> dict[int, Float]:
        """In one pass over the weights: the library takes sequences together only where each stands behind the one
        before it, so those between them that are idle are given a token, which is forgotten at once.
        """
        idle = self._beside(tokens)
        added = {sequence: tokens.get(sequence, (0,)) for sequence in sorted({*tokens, *idle})}
        held = {sequence: self.length(sequence) for sequence in idle}
        items = np.concatenate([np.asarray(ids, np.int32) for ids in added.values()])
        places = [
            (sequence, self.length(sequence) + i, sequence in tokens)
            for sequence, ids in added.items()
            for i in range(len(ids))
        ]
        rows = iter(self._call(items, places, causal=True))
        for sequence, length in held.items():
            self._cut(length, sequence)
            self._lengths[sequence] = length
        return {sequence: np.stack([next(rows) for _ in ids]) for sequence, ids in added.items() if sequence in tokens}

    def _beside(self, tokens: Mapping[int, Sequence[int]]) -> list[int]:
        """The idle sequences that are to be computed with these.

        Those between them, where that is less than the passes that it saves; and one more where it makes a third row a
        fourth, since kernels for laid-out weights work on four at a time and take longer for three.
        """
        low, high = min(tokens), max(tokens)
        idle = [number for number in range(low, high) if number not in tokens]
        saved = sum(number + 1 not in tokens for number in tokens) - 1
        if len(idle) >= _ROWS_A_PASS * saved > 0:
            return []
        if low < high and (sum(map(len, tokens.values())) + len(idle)) % _ROWS_TOGETHER == _ROWS_TOGETHER - 1:
            idle += [number for number in (high + 1, low - 1) if number in range(self.sequences)][:1]
        return idle if all(self.length(number) < self.context for number in idle) else []

    def _decode(self, items: NDArray[Any], wanted: Sequence[int], sequence: int, *, causal: bool) -> list[Float]:
        """Append token ids [n] or embeddings [n, hidden] to a sequence; logits rows of the wanted positions in it."""
        start = self.length(sequence)
        positions = range(start, start + len(items))
        here = set(positions).intersection(wanted)
        return self._call(items, [(sequence, position, position in here) for position in positions], causal=causal)

    def _call(self, items: NDArray[Any], places: Sequence[Place], *, causal: bool) -> list[Float]:
        """Decode one batch of token ids [n] or embeddings [n, hidden] in their places; the wanted ones' logits."""
        self.check_usable()
        count = len(items)
        embedded = items.ndim == 2
        batch = self._lib.llama_batch_init(count, self.hidden if embedded else 0, 1)
        sequences, done = {place[0] for place in places}, False
        try:
            batch.n_tokens = count
            if embedded:
                data = np.ascontiguousarray(items, np.float32)
                ctypes.memmove(batch.embd, data.ctypes.data, data.nbytes)
            for i, (sequence, position, wanted) in enumerate(places):
                if not embedded:
                    batch.token[i] = int(items[i])
                batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = position, 1, sequence
                batch.logits[i] = wanted
            self._lib.llama_set_causal_attn(self._context, causal)
            status = self._lib.llama_decode(self._context, batch)
            if status != 0:
                raise InputError(
                    f"llama.cpp cannot decode at position {places[0][1]} (status {status}): {log_tail()}"
                )
            rows = [self._logits(i) for i, place in enumerate(places) if place[2]]
            for sequence, position, _ in places:
                self._lengths[sequence] = position + 1
            done = True
        finally:
            self._lib.llama_set_causal_attn(self._context, True)
            self._lib.llama_batch_free(batch)
            # A batch may be computed in parts, and Ctrl-C may come at any point: nobody knows what it left.
            for sequence in () if done else sequences:
                self._empty(sequence)
        return rows

    def _first(self, sequence: int) -> int:
        # Of the windowed cache, whose room is used again. What the library answers to a cut says nothing of it.
        return int(self._lib.llama_memory_seq_pos_min(self._memory, sequence))

    def _cut(self, length: int, sequence: int) -> None:
        self._lib.llama_memory_seq_rm(self._memory, sequence, length, -1)

    def _described(self) -> Mapping[str, object]:
        lib = self._lib
        return {
            "llama.cpp": f"state {lib.LLAMA_STATE_SEQ_VERSION}",
            "sequences": self.sequences,  # the library wants as many
            "layers": lib.llama_model_n_layer(self.model),
            "flash attention": self.flash_attention,
            "file": self._fingerprint,
        }

    def _save(self, sequence: int) -> bytes:
        size = self._lib.llama_state_seq_get_size(self._context, sequence)
        state = (ctypes.c_uint8 * size)()
        written = self._lib.llama_state_seq_get_data(self._context, state, size, sequence)
        if written != size:
            raise SnapshotError(f"llama.cpp gives {written} of {size} bytes: {log_tail()}")
        return bytes(state)

    def _load(self, state: memoryview, length: int, sequence: int) -> None:
        size = len(state)
        read = self._lib.llama_state_seq_set_data(
            self._context, (ctypes.c_uint8 * size).from_buffer_copy(state), size, sequence
        )
        held = self._lib.llama_memory_seq_pos_max(self._memory, sequence) + 1
        if (read, held) != (size, length):
            raise SnapshotError(f"llama.cpp reads {read} of {size} bytes, {held} of {length} tokens: {log_tail()}")

    def _logits(self, index: int) -> Float:
        pointer = self._lib.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(pointer, (self.vocabulary,)).copy()

    def set_threads(self, threads: int, step_threads: int) -> None:
        """See `edgekit.runtime.base.SupportsThreads.set_threads`."""
        with self._using("other numbers of threads", inside=True):
            self.threads = threads
            self._lib.llama_set_n_threads(self._context, step_threads, threads)

    @property
    def threads_in_use(self) -> tuple[int, int]:
        """Threads for prompts, and for one token after the other, as the library has them."""
        with self._using("a look at its threads", inside=True):
            return self._lib.llama_n_threads_batch(self._context), self._lib.llama_n_threads(self._context)

    def _free(self) -> None:
        if self._context:
            self._lib.llama_free(self._context)
            self._lib.llama_model_free(self.model)
            self._context = self._memory = self.model = None


def cache_bytes(header: GgufHeader, image_tokens: int, cache: CacheForm, gpu_layers: int, context: int) -> int:
    """What keys and values of a decoder's sequences take in main memory; 0 where the file does not say.

    Args:
        image_tokens: of one image.
        gpu_layers: see `LlamaDecoder`; theirs lie in video memory.
        context: tokens that each sequence holds.
    """
    each = layer_cache_bytes(header, batch_of(image_tokens), context, cache)
    return sum(each[: max(len(each) + 1 - gpu_layers, 0)])


def _chunks(position: int, length: int, wanted: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ranges of a token run of at most BATCH tokens with at most MOST_ROWS wanted positions each."""
    start = 0
    while start < length:
        end = min(start + BATCH, length)
        inside = [w - position for w in wanted if position + start <= w < position + end]
        if len(inside) > MOST_ROWS:
            end = inside[MOST_ROWS]
        yield start, end
        start = end


class LlamaVision(OwnedEncoder):
    """A vision tower and projector in a GGUF file: `edgekit.runtime.base.Encoder`.

    The library wants a language model beside it, though it only compares widths.
    """

    def __init__(self, path: Path, decoder: LlamaDecoder, *, size: int, image_tokens: int, gpu: bool = False) -> None:
        """Load a file. Raises ArtifactError where it contradicts itself, or the library cannot run it."""
        read_header(path)
        self._lib = library()
        from llama_cpp import mtmd_cpp

        self._mtmd = mtmd_cpp
        self.spec = EncoderSpec("pixels", "image_tokens", (size, size, 3))
        self._tokens, self._hidden, self._size = image_tokens, decoder.hidden, size
        self._decoder, self.ownership = decoder, decoder.ownership
        params = mtmd_cpp.mtmd_context_params_default()
        params.use_gpu, params.print_timings, params.n_threads = gpu, False, decoder.threads
        params.warmup = False  # encoding a blank image would cost as much as a real one
        params.flash_attn_type = decoder.flash_attention
        self._marker = mtmd_cpp.mtmd_default_marker()
        self._context = mtmd_cpp.mtmd_init_from_file(os.fsencode(path), decoder.model, params)
        if not self._context:
            raise ArtifactError(f"{path}: llama.cpp cannot load it: {log_tail()}")

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, or the decoder whose model it reads."""
        return super().is_closed or self._decoder.is_closed

    def _encode(self, batch: NDArray[Any]) -> Float:
        return np.stack([self._encode_one(image) for image in batch])

    def _encode_one(self, image: NDArray[np.uint8]) -> Float:
        self.check_usable()
        mtmd = self._mtmd
        data = np.ascontiguousarray(image)
        bitmap = mtmd.mtmd_bitmap_init(self._size, self._size, data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)))
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            text = mtmd.mtmd_input_text(self._marker, len(self._marker), False, True)
            bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
            if status := mtmd.mtmd_tokenize(self._context, chunks, ctypes.byref(text), bitmaps, 1):
                raise InputError(f"llama.cpp cannot prepare the image (status {status}): {log_tail()}")
            for i in range(mtmd.mtmd_input_chunks_size(chunks)):
                chunk = mtmd.mtmd_input_chunks_get(chunks, i)
                if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE:
                    if status := mtmd.mtmd_encode_chunk(self._context, chunk):
                        raise InputError(f"llama.cpp cannot encode the image (status {status}): {log_tail()}")
                    count = int(mtmd.mtmd_input_chunk_get_n_tokens(chunk))
                    if count != self._tokens:
                        raise ArtifactError(f"the vision file gives {count} tokens an image", allowed=str(self._tokens))
                    pointer = mtmd.mtmd_get_output_embd(self._context)
                    return np.ctypeslib.as_array(pointer, (count, self._hidden)).copy()
            raise InputError("llama.cpp found no image in its own prompt")
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)

    def _free(self) -> None:
        if self._context:
            self._mtmd.mtmd_free(self._context)
            self._context = None
