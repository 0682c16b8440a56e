"""llama.cpp through llama-cpp-python's low-level bindings: a decoder of segments and a vision encoder.

The high-level class is not used: it leaves flash attention off, keeps the whole cache of sliding-window layers,
encodes an image again for every turn, and builds an image prompt without the line breaks that the model was trained
with. Here token ids and image embeddings come from edgekit, so any encoder can stand in front of this decoder.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ArtifactError, InputError
from edgekit.families.gemma3.layers import is_global
from edgekit.formats.gguf.header import GgufHeader, read_header
from edgekit.formats.gguf.library import library, log_tail
from edgekit.runtime.base import (
    MOST_ROWS,
    Embeddings,
    EncoderSpec,
    Float,
    Segment,
    check_cache,
)
from edgekit.runtime.owned_parts import OwnedDecoder, OwnedEncoder

_BATCH = 512


class LlamaDecoder(OwnedDecoder):
    """A GGUF decoder with its cache: `edgekit.runtime.base.Decoder`."""

    def __init__(
        self,
        path: Path,
        *,
        context: int,
        threads: int,
        image_tokens: int,
        step_threads: int | None = None,
        gpu: bool = False,
        extra_buffers: bool = False,
        exact: bool = False,
    ) -> None:
        """Load a file.

        Args:
            context: tokens that the cache holds.
            threads: for prompts and images.
            image_tokens: of one image; they must fit one micro-batch, or the library aborts the process.
            step_threads: for one token after the other; as many for None.
            gpu: offload all layers where the library was built for one.
            extra_buffers: let llama.cpp lay out weights for this CPU, which only a self-test shows to be right.
            exact: keep keys and values in single precision, and multiply by them so.

        Raises:
            ArtifactError: the file is damaged, or the library refuses it.
            UsageError: memory cannot hold such a context.
        """
        header = read_header(path)  # a damaged file must not reach the library
        if not gpu:
            check_cache(context, partial(_cache_bytes, header, max(_BATCH, image_tokens)))
        self._lib = library()
        self.context, self.threads = context, threads
        model_params = self._lib.llama_model_default_params()
        model_params.n_gpu_layers = 999 if gpu else 0
        model_params.use_extra_bufts = extra_buffers
        self.model = self._lib.llama_model_load_from_file(os.fsencode(path), model_params)
        if not self.model:
            raise ArtifactError(f"{path}: llama.cpp cannot load it: {log_tail()}")
        params = self._lib.llama_context_default_params()
        params.n_ctx = context
        params.n_batch = params.n_ubatch = max(_BATCH, image_tokens)
        params.n_threads, params.n_threads_batch = step_threads or threads, threads
        if exact:  # flash attention rounds queries to half precision, even beside keys in single
            params.type_k = params.type_v = self._lib.GGML_TYPE_F32
        self.flash_attention = (
            self._lib.LLAMA_FLASH_ATTN_TYPE_DISABLED if exact else self._lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
        )
        params.flash_attn_type = self.flash_attention
        params.swa_full = False
        params.no_perf = True
        self._context = self._lib.llama_init_from_model(self.model, params)
        if not self._context:
            self._lib.llama_model_free(self.model)
            raise ArtifactError(f"{path}: llama.cpp cannot make a context of {context} tokens: {log_tail()}")
        self.hidden = int(self._lib.llama_model_n_embd(self.model))
        self.vocabulary = int(self._lib.llama_vocab_n_tokens(self._lib.llama_model_get_vocab(self.model)))

    def _clear(self) -> None:
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)

    def _rows(self, segments: Sequence[Segment], wanted: Sequence[int]) -> Iterator[Float]:
        for segment in segments:
            if isinstance(segment, Embeddings):
                yield from self._decode(segment.array, wanted, causal=not segment.bidirectional)
            else:
                ids = np.asarray(segment.ids, np.int32)
                for start, end in _chunks(self.position, len(ids), wanted):
                    yield from self._decode(ids[start:end], wanted, causal=True)

    def _step(self, ids: Sequence[int]) -> Float:
        last = self.position + len(ids) - 1
        (row,) = self._decode(np.asarray(ids, np.int32), [last], causal=True)
        return row

    def _decode(self, items: NDArray[Any], wanted: Sequence[int], *, causal: bool) -> list[Float]:
        """Decode one batch of token ids [n] or embeddings [n, hidden]; logits rows of the wanted positions in it."""
        self.check_usable()
        count = len(items)
        embedded = items.ndim == 2
        batch = self._lib.llama_batch_init(count, self.hidden if embedded else 0, 1)
        try:
            batch.n_tokens = count
            if embedded:
                data = np.ascontiguousarray(items, np.float32)
                ctypes.memmove(batch.embd, data.ctypes.data, data.nbytes)
            positions = range(self.position, self.position + count)
            here = set(positions).intersection(wanted)
            for i, position in enumerate(positions):
                if not embedded:
                    batch.token[i] = int(items[i])
                batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = position, 1, 0
                batch.logits[i] = position in here
            self._lib.llama_set_causal_attn(self._context, causal)
            status = self._lib.llama_decode(self._context, batch)
            if status != 0:
                raise InputError(f"llama.cpp cannot decode at position {self.position} (status {status}): {log_tail()}")
            rows = [self._logits(i) for i, position in enumerate(positions) if position in here]
        finally:
            self._lib.llama_set_causal_attn(self._context, True)
            self._lib.llama_batch_free(batch)
        self.position += count
        return rows

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
            self._context = self.model = None


def _cache_bytes(header: GgufHeader, batch: int, context: int) -> int:
    """What keys and values of a context take, in half precision; 0 where the header does not say."""
    prefix = header.text("general.architecture", "")
    window = header.integer(f"{prefix}.attention.sliding_window", 0)
    local = min(context, window + batch) if window else context
    heads, *widths = (
        header.integer(f"{prefix}.attention.{name}", 0) for name in ("head_count_kv", "key_length", "value_length")
    )
    layers = range(min(header.integer(f"{prefix}.block_count", 0), 1024))  # what else it says is found out later
    return sum(2 * heads * sum(widths) * (context if is_global(layer) else local) for layer in layers)


def _chunks(position: int, length: int, wanted: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ranges of a token run of at most _BATCH tokens with at most MOST_ROWS wanted positions each."""
    start = 0
    while start < length:
        end = min(start + _BATCH, length)
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
