"""ONNX Runtime: encoders in plain ONNX files."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit import onnx_header
from edgekit.inputs.image import normalize
from edgekit.manifest import Preprocessing
from edgekit.runtime import ort_support
from edgekit.runtime.base import EncoderSpec, Float


class OrtEncoder:
    """An ONNX encoder: `edgekit.runtime.base.Encoder`."""

    def __init__(
        self,
        path: Path,
        spec: EncoderSpec,
        *,
        threads: int,
        output: str,
        preprocessing: Preprocessing | None,
        listed: Collection[Path] | None = None,
    ) -> None:
        """Load a file.

        Args:
            output: the graph output to return.
            preprocessing: how pixels are normalized; None for an encoder of ids.
            listed: the files that a manifest vouches for, as for `edgekit.onnx_header.read`.

        Raises:
            ArtifactError: the file is broken, or ONNX Runtime lacks what it needs or refuses it.
            MissingDependencyError: ONNX Runtime is not installed.
        """
        self._session: Any = session(path, threads=threads, listed=listed)
        self.spec, self._output, self._preprocessing = spec, output, preprocessing
        self._input = self._session.get_inputs()[0].name

    def encode(self, batch: NDArray[Any]) -> Float:
        """See `edgekit.runtime.base.Encoder.encode`."""
        data = normalize(batch, self._preprocessing) if self._preprocessing else np.asarray(batch, np.int64)
        return np.asarray(self._session.run([self._output], {self._input: data})[0], np.float32)

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def session(
    path: Path,
    *,
    threads: int,
    settings: Mapping[str, str] | None = None,
    arena: bool = True,
    listed: Collection[Path] | None = None,
) -> Any:
    """ONNX Runtime's session of a file that was checked before.

    Args:
        settings: of the session, by ONNX Runtime's names.
        arena: keep memory that was needed once, which saves time where calls need much and alike.
        listed: the files that a manifest vouches for, as for `edgekit.onnx_header.read`.

    Raises:
        ArtifactError: the file is broken, or ONNX Runtime lacks what it needs or refuses it.
        MissingDependencyError: ONNX Runtime is not installed.
    """
    ort_support.check(onnx_header.read(path, listed))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = arena
    options.log_severity_level = 3
    for name, value in (settings or {}).items():
        options.add_session_config_entry(name, value)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except _failures() as error:
        raise ort_support.refused(path, error) from error


def _failures() -> tuple[type[Exception], ...]:
    """ONNX Runtime's exceptions: one per status, without a common base."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
