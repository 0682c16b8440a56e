"""OpenVINO: the same ONNX files as ONNX Runtime opens, in another runtime. Optional, never required."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ArtifactError, MissingDependencyError
from edgekit.formats.onnx.operators import read_checked
from edgekit.runtime.base import Float
from edgekit.runtime.onnx.interface import check_vectors, encoder_input
from edgekit.runtime.onnx.names import in_utf8
from edgekit.runtime.owned_parts import OwnedEncoder
from edgekit.runtime.parts import EncoderFile

INSTALL = 'pip install "edgekit[openvino]"'

# What a broken installation raises: files that lack, or that another version left.
_BROKEN = (ImportError, OSError, AttributeError, RuntimeError)

Precision = Literal["f32", "bf16", "f16"]


class OpenVinoEncoder(OwnedEncoder):
    """An ONNX encoder: `edgekit.runtime.base.Encoder`."""

    def __init__(self, file: EncoderFile, *, threads: int, precision: Precision, gpu: bool = False) -> None:
        """Load a file.

        Args:
            threads: of the CPU.
            precision: of the arithmetic where the file holds floats; results are float32 either way.
            gpu: on the first GPU that it has a driver for.

        Raises:
            ArtifactError: the file is broken or no such encoder, or OpenVINO refuses it.
            MissingDependencyError: OpenVINO is not installed.
        """
        self._input = encoder_input(read_checked(file.path, file.listed), file.spec, file.output)
        library()
        from openvino.frontend import FrontEndManager

        settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        if not gpu:
            # A pinned thread waits for its core, which another program may be using.
            settings |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
        try:
            # By name: asked to find out what a file is, the library tries every parser that it has. Weights are mapped.
            frontend = FrontEndManager().load_by_framework("onnx")
            with in_utf8(file.path) as name:
                model = frontend.convert(frontend.load(name, True))
                compiled = core().compile_model(model, "GPU" if gpu else "CPU", settings)
            self._output: Any = compiled.output(file.output)
        except _failures() as error:
            raise _refused(file.path, error, "load") from error
        self.spec, self._file = file.spec, file
        self._request: Any = compiled.create_infer_request()

    def _encode(self, batch: NDArray[Any]) -> Float:
        try:
            self._request.infer({self._input: self._file.batch(batch)}, share_inputs=True)
        except _failures() as error:
            raise _refused(self._file.path, error, "run") from error
        vectors = np.array(self._request.get_tensor(self._output).data, np.float32)  # the library reuses its own memory
        return check_vectors(self._file, vectors, len(batch))

    def _free(self) -> None:
        self._request = self._output = None


@cache
def library() -> Any:
    """The library, which `edgekit.machine.privacy` keeps from reporting to its makers.

    Raises:
        MissingDependencyError: it is not installed, or does not load here.
    """
    try:
        import openvino
    except _BROKEN as error:
        raise MissingDependencyError(f"OpenVINO cannot be loaded: {error}", remedy=INSTALL) from error
    return openvino


def precisions() -> tuple[Precision, ...]:
    """The arithmetic that OpenVINO offers on this CPU.

    Raises:
        MissingDependencyError: it is not installed, or does not work here.
    """
    library()
    try:
        capabilities = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except _BROKEN as error:
        raise MissingDependencyError(f"OpenVINO does not work: {error}", remedy=INSTALL) from error
    return ("f32", "bf16") if "BF16" in capabilities else ("f32",)


def devices() -> tuple[str, ...]:
    """What OpenVINO can compute on here, by its names: CPU, GPU, GPU.1.

    Raises:
        MissingDependencyError: it is not installed, or does not work here.
    """
    library()
    try:
        return tuple(core().available_devices)
    except _BROKEN as error:
        raise MissingDependencyError(f"OpenVINO does not work: {error}", remedy=INSTALL) from error


@cache
def core() -> Any:
    """The library's one device manager, made when it is first asked for."""
    made = library().Core()
    made.set_property({"CACHE_DIR": ""})  # compiled models are not written to disk
    return made


def _refused(path: Path, error: Exception, verb: Literal["load", "run"]) -> ArtifactError:
    said = "; ".join(str(error).split("\n")).strip("; ")
    return ArtifactError(f"{path}: OpenVINO {library().__version__} cannot {verb} it: {said}")


def _failures() -> tuple[type[Exception], ...]:
    """OpenVINO's exceptions, which have no common base."""
    from openvino import frontend

    names = ("GeneralFailure", "InitializationFailure", "NotImplementedFailure", "OpConversionFailure")
    return (RuntimeError, frontend.OpValidationFailure, *(getattr(frontend, name) for name in names))
