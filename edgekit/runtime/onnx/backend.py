"""How edgekit opens parts in ONNX Runtime and OpenVINO."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

from edgekit.artifacts.validation import ANEW
from edgekit.errors import ArtifactError, MissingDependencyError, UsageError
from edgekit.formats.onnx.names import EMBEDDING_STEM
from edgekit.formats.onnx.operators import read_checked
from edgekit.planning.caches import local_positions
from edgekit.runtime.base import Decoder, Encoder
from edgekit.runtime.onnx.cache import cache_bytes as bytes_of_caches
from edgekit.runtime.onnx.decoder import OrtDecoder
from edgekit.runtime.onnx.interface import decoder_shape
from edgekit.runtime.onnx.openvino_encoder import INSTALL, OpenVinoEncoder, Precision, devices, precisions
from edgekit.runtime.onnx.session import CUDA, OrtEncoder
from edgekit.runtime.parts import DecoderFile, EncoderFile, RunOptions


def open_encoder(file: EncoderFile, options: RunOptions, beside: Decoder | None = None) -> Encoder:
    """An encoder in ONNX Runtime."""
    return OrtEncoder(file, threads=options.threads)


def open_cuda(file: EncoderFile, options: RunOptions, beside: Decoder | None = None) -> Encoder:
    """An encoder in ONNX Runtime on an NVIDIA GPU. Raises MissingDependencyError where it cannot be used."""
    _require(file, "ONNX Runtime on CUDA", cuda_problem)
    return OrtEncoder(file, threads=options.threads, provider=CUDA)


def open_decoder(file: DecoderFile, options: RunOptions) -> Decoder:
    """A decoder in ONNX Runtime, from its graph and that of its token embedding.

    Raises:
        ArtifactError: the manifest says no window, or there is no token embedding.
        UsageError: keys and values are to be rounded.
    """
    if options.cache_type != RunOptions.cache_type:
        raise UsageError(f"a cache of {options.cache_type} in ONNX Runtime", allowed=", ".join(OrtDecoder.cache_types))
    return OrtDecoder(
        _graphs(file),
        context=file.context,
        window=file.window,
        threads=options.threads,
        image_tokens=file.image_tokens,
        prepacking=not options.exact,  # it rounds nothing, but holds float32 weights twice
        listed=file.files,
        sequences=options.sequences,
    )


def cache_bytes(file: DecoderFile, options: RunOptions) -> int:
    """What the context takes in memory. Raises ArtifactError where a file is damaged."""
    shape = decoder_shape(*(read_checked(path, file.files) for path in _graphs(file)))
    return bytes_of_caches(shape, local_positions(file.window, file.image_tokens), options.sequences, file.context)


def _graphs(file: DecoderFile) -> tuple[Path, Path]:
    """The decoder's graph and that of its token embedding. Raises ArtifactError where something is missing."""
    if not file.window:
        raise ArtifactError(f"{file.manifest}: settings.window: none for a decoder in onnx")
    embedding = next((path for path in file.files if path.name.startswith(EMBEDDING_STEM)), None)
    if embedding is None:
        raise ArtifactError(f"{file.files[0]}: no {EMBEDDING_STEM}*.onnx beside it", remedy=ANEW)
    return file.files[0], embedding


def open_openvino(file: EncoderFile, options: RunOptions, beside: Decoder | None = None) -> Encoder:
    """An encoder in OpenVINO."""
    return OpenVinoEncoder(file, threads=options.threads, precision="f32")


def open_openvino_bf16(file: EncoderFile, options: RunOptions, beside: Decoder | None = None) -> Encoder:
    """An encoder in OpenVINO, computed in bfloat16."""
    return OpenVinoEncoder(file, threads=options.threads, precision="bf16")


def open_openvino_gpu(file: EncoderFile, options: RunOptions, beside: Decoder | None = None) -> Encoder:
    """An encoder in OpenVINO on a GPU of Intel's, in half precision. Raises MissingDependencyError without one."""
    _require(file, "OpenVINO on a GPU", openvino_gpu_problem)
    return OpenVinoEncoder(file, threads=options.threads, precision="f16", gpu=True)


def providers(job: object) -> Iterator[str]:
    """Where the installed ONNX Runtime can run; for `edgekit.machine.worker.probe`."""
    import onnxruntime

    yield ", ".join(onnxruntime.get_available_providers())


def openvino_precisions(job: object) -> Iterator[str]:
    """In which precisions the installed OpenVINO can run; for `edgekit.machine.worker.probe`."""
    yield ", ".join(precisions())


def openvino_problem() -> str | None:
    """Why OpenVINO cannot be used here; None where it can."""
    return _lacks("f32")


def openvino_bf16_problem() -> str | None:
    """Why OpenVINO cannot compute in bfloat16 here; None where it can."""
    return _lacks("bf16")


def _require(file: EncoderFile, what: str, look: Callable[[], str | None]) -> None:
    read_checked(file.path, file.listed)  # before any library is loaded
    if problem := look():
        raise MissingDependencyError(f"{what}: {problem}", remedy="--runtime default")


def openvino_gpu_problem() -> str | None:
    """Why OpenVINO cannot compute on a GPU here; None where it can."""
    if problem := openvino_problem():
        return problem
    found = devices()
    return None if "GPU" in {name.split(".")[0] for name in found} else f"it finds {', '.join(found)} and no GPU"


def cuda_problem() -> str | None:
    """Why ONNX Runtime cannot compute on an NVIDIA GPU here; None where it may."""
    try:
        import onnxruntime
    except ImportError as error:
        return f"ONNX Runtime cannot be loaded: {error}"
    there = CUDA in onnxruntime.get_available_providers()
    return None if there else f"this ONNX Runtime has no {CUDA}: pip install onnxruntime-gpu in its place"


def _lacks(precision: Precision) -> str | None:
    if importlib.util.find_spec("openvino") is None:
        return f"{INSTALL} adds one"
    try:
        offered = precisions()
    except MissingDependencyError as error:
        return f"{error.message}: {error.remedy}"
    return None if precision in offered else f"this CPU computes in {' and '.join(offered)}"
