"""How edgekit opens parts in llama.cpp, and what may be tried to make them faster."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace

from edgekit.errors import ArtifactError, EdgekitWarning
from edgekit.formats.gguf.header import read_header
from edgekit.runtime.base import Decoder, Encoder
from edgekit.runtime.llama import self_test
from edgekit.runtime.llama.cache_form import CacheForm
from edgekit.runtime.llama.decoder import LlamaDecoder, LlamaVision
from edgekit.runtime.llama.decoder import cache_bytes as llama_cache_bytes
from edgekit.runtime.llama.placing import place
from edgekit.runtime.parts import DecoderFile, EncoderFile, RunOptions

__all__ = ["cache_bytes", "fingerprint", "layouts", "open_decoder", "open_vision", "place", "settled"]


def open_decoder(file: DecoderFile, options: RunOptions) -> Decoder:
    """A decoder in a GGUF file, its weights laid out as options and the self-test allow.

    What a GPU does not take after all, as where others have taken its memory meanwhile, is opened on the CPU, and said.

    Raises:
        ArtifactError: the file is damaged, or llama.cpp refuses it.
        MissingDependencyError: llama.cpp does not work on this CPU.
    """
    if options.gpu_layers:
        try:
            return _decoder(file, options)
        except ArtifactError as error:
            decoder = _decoder(file, replace(options, gpu_layers=0))
            decoder.warnings += (f"on the CPU: the GPU did not take it: {error.message}",)
            return decoder
    return _decoder(file, options)


def _decoder(file: DecoderFile, options: RunOptions) -> LlamaDecoder:
    extra_buffers, warning = False, None
    if not options.plain_weights:
        tested = self_test.result()
        tested.require()
        extra_buffers, warning = tested.extra_buffers, tested.warning
    decoder = LlamaDecoder(
        file.files[0],
        context=file.context,
        threads=options.threads,
        image_tokens=file.image_tokens,
        step_threads=options.step_threads,
        gpu_layers=options.gpu_layers,
        extra_buffers=extra_buffers,
        cache=CacheForm(options.sequences, options.cache_type, options.exact),
    )
    decoder.warnings = (warning,) if warning else ()
    return decoder


def cache_bytes(file: DecoderFile, options: RunOptions) -> int:
    """What the context takes in main memory. Raises ArtifactError where the file is damaged."""
    cache = CacheForm(options.sequences, options.cache_type, options.exact)
    return llama_cache_bytes(read_header(file.files[0]), file.image_tokens, cache, options.gpu_layers, file.context)


def open_vision(file: EncoderFile, options: RunOptions, beside: Decoder | None) -> Encoder:
    """A vision tower in a GGUF file, beside a decoder that llama.cpp opened; on the CPU where the GPU refuses it."""
    if not isinstance(beside, LlamaDecoder):
        raise ArtifactError(f"{file.path}: llama.cpp needs a decoder beside it")
    size, tokens = file.spec.shape[0], file.image_tokens
    if options.gpu_layers:
        try:
            return LlamaVision(file.path, beside, size=size, image_tokens=tokens, gpu=True)
        except ArtifactError as error:
            said = f"{file.path.name} on the CPU: the GPU did not take it: {error.message}"
            warnings.warn(said, EdgekitWarning, stacklevel=2)
    return LlamaVision(file.path, beside, size=size, image_tokens=tokens)


def settled(options: RunOptions) -> RunOptions:
    """Options as they are obeyed: the user's word on weights counts more than what was measured."""
    return replace(options, plain_weights=False) if os.environ.get(self_test.VARIABLE) else options


def layouts() -> Sequence[bool]:
    """What `LlamaDecoder`'s `extra_buffers` may be here: as the user says, or whatever the self-test allows.

    Raises:
        MissingDependencyError: llama.cpp does not work on this CPU.
    """
    tested = self_test.result()
    tested.require()
    if os.environ.get(self_test.VARIABLE):
        return [tested.extra_buffers]
    return [False, True] if tested.extra_buffers else [False]


def fingerprint() -> str:
    """Names the library as it was built: one version may be built in many ways."""
    return self_test.key()
