"""ONNX Runtime: encoders in plain ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ArtifactError, MissingDependencyError
from edgekit.inputs.image import normalize
from edgekit.manifest import Preprocessing
from edgekit.runtime.base import EncoderSpec, Float


class OrtEncoder:
    """An ONNX encoder: `edgekit.runtime.base.Encoder`."""

    def __init__(
        self, path: Path, spec: EncoderSpec, *, threads: int, output: str, preprocessing: Preprocessing | None
    ) -> None:
        """Load a file.

        Args:
            output: the graph output to return.
            preprocessing: how pixels are normalized; None for an encoder of ids.

        Raises:
            ArtifactError: ONNX Runtime refuses the file.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError("ONNX Runtime is not installed", remedy="pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except _failures() as error:
            raise ArtifactError(f"{path}: ONNX Runtime {onnxruntime.__version__} cannot load it: {error}") from error
        self.spec, self._output, self._preprocessing = spec, output, preprocessing
        self._input = self._session.get_inputs()[0].name

    def encode(self, batch: NDArray[Any]) -> Float:
        """See `edgekit.runtime.base.Encoder.encode`."""
        data = normalize(batch, self._preprocessing) if self._preprocessing else np.asarray(batch, np.int64)
        return np.asarray(self._session.run([self._output], {self._input: data})[0], np.float32)

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def _failures() -> tuple[type[Exception], ...]:
    """ONNX Runtime's exceptions: one per status, without a common base."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
