"""How edgekit opens parts in llama.cpp, and what may be tried to make them faster."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from edgekit.errors import ArtifactError
from edgekit.runtime.base import Decoder, Encoder
from edgekit.runtime.llama import self_test
from edgekit.runtime.llama.decoder import LlamaDecoder, LlamaVision
from edgekit.runtime.parts import DecoderFile, EncoderFile, RunOptions


def open_decoder(file: DecoderFile, options: RunOptions) -> Decoder:
    """A decoder in a GGUF file, its weights laid out as options and the self-test allow.

    Raises:
        ArtifactError: the file is damaged, or llama.cpp refuses it.
        MissingDependencyError: llama.cpp does not work on this CPU.
    """
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
        gpu=options.gpu,
        extra_buffers=extra_buffers,
        exact=options.exact,
    )
    decoder.warnings = (warning,) if warning else ()
    return decoder


def open_vision(file: EncoderFile, options: RunOptions, beside: Decoder | None) -> Encoder:
    """A vision tower in a GGUF file, beside a decoder that llama.cpp opened."""
    if not isinstance(beside, LlamaDecoder):
        raise ArtifactError(f"{file.path}: llama.cpp needs a decoder beside it")
    size = file.spec.shape[0]
    return LlamaVision(file.path, beside, size=size, image_tokens=file.image_tokens, gpu=options.gpu)


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
