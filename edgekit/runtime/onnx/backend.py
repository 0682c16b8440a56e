"""How edgekit opens parts in ONNX Runtime and OpenVINO."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from edgekit.artifacts.validation import ANEW
from edgekit.errors import ArtifactError, MissingDependencyError
from edgekit.formats.onnx.names import EMBEDDING_STEM
from edgekit.runtime.base import Decoder, Encoder
from edgekit.runtime.onnx.decoder import OrtDecoder
from edgekit.runtime.onnx.openvino_encoder import INSTALL, OpenVinoEncoder, Precision, precisions
from edgekit.runtime.onnx.session import OrtEncoder
from edgekit.runtime.parts import DecoderFile, EncoderFile, RunOptions


def open_encoder(file: EncoderFile, options: RunOptions, beside: Decoder | None = None) -> Encoder:
    """An encoder in ONNX Runtime."""
    return OrtEncoder(file, threads=options.threads)


def open_decoder(file: DecoderFile, options: RunOptions) -> Decoder:
    """A decoder in ONNX Runtime, from its graph and that of its token embedding.

    Raises:
        ArtifactError: the manifest says no window, or there is no token embedding.
    """
    if not file.window:
        raise ArtifactError(f"{file.manifest}: settings.window: none for a decoder in onnx")
    embedding = next((path for path in file.files if path.name.startswith(EMBEDDING_STEM)), None)
    if embedding is None:
        raise ArtifactError(f"{file.files[0]}: no {EMBEDDING_STEM}*.onnx beside it", remedy=ANEW)
    return OrtDecoder(
        (file.files[0], embedding),
        context=file.context,
        window=file.window,
        threads=options.threads,
        image_tokens=file.image_tokens,
        prepacking=not options.exact,  # it rounds nothing, but holds float32 weights twice
        listed=file.files,
    )


def open_openvino(file: EncoderFile, options: RunOptions, beside: Decoder | None = None) -> Encoder:
    """An encoder in OpenVINO."""
    return OpenVinoEncoder(file, threads=options.threads, precision="f32")


def open_openvino_bf16(file: EncoderFile, options: RunOptions, beside: Decoder | None = None) -> Encoder:
    """An encoder in OpenVINO, computed in bfloat16."""
    return OpenVinoEncoder(file, threads=options.threads, precision="bf16")


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


def _lacks(precision: Precision) -> str | None:
    if importlib.util.find_spec("openvino") is None:
        return f"{INSTALL} adds one"
    try:
        offered = precisions()
    except MissingDependencyError as error:
        return f"{error.message}: {error.remedy}"
    return None if precision in offered else f"this CPU computes in {' and '.join(offered)}"
