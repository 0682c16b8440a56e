"""ONNX Runtime: encoders in plain ONNX files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ArtifactError
from edgekit.formats.onnx.header import OnnxHeader
from edgekit.formats.onnx.operators import read_checked
from edgekit.machine.cpu import cpu
from edgekit.runtime.base import Float, check_batch
from edgekit.runtime.onnx import support as ort_support
from edgekit.runtime.onnx.interface import check_vectors, encoder_input
from edgekit.runtime.onnx.names import in_utf8
from edgekit.runtime.owned_parts import OwnedEncoder
from edgekit.runtime.parts import EncoderFile

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# Products of single precision are rounded to 19 bits by default where a GPU has units for that.
_OF_PROVIDERS: Mapping[str, Mapping[str, str]] = {CUDA: {"use_tf32": "0"}}


class OrtEncoder(OwnedEncoder):
    """An ONNX encoder: `edgekit.runtime.base.Encoder`, and `SupportsOutputs`."""

    def __init__(self, file: EncoderFile, *, threads: int, provider: str = CPU) -> None:
        """Load a file.

        Args:
            provider: what computes, by ONNX Runtime's names; the CPU computes what it does not.

        Raises:
            ArtifactError: the file is broken or no such encoder, or ONNX Runtime lacks what it needs or refuses it, or
                does not use the provider.
            MissingDependencyError: ONNX Runtime is not installed.
        """
        header = read_checked(file.path, file.listed)
        self._input = encoder_input(header, file.spec, file.output)
        self.output_names = tuple(value.name for value in header.outputs)
        self._session: Any = session(header, threads=threads, provider=provider)
        self.spec, self._file = file.spec, file

    def _encode(self, batch: NDArray[Any]) -> Float:
        with running(self._file.path):
            (vectors,) = self._session.run([self._file.output], {self._input: self._file.batch(batch)})
        return check_vectors(self._file, np.asarray(vectors, np.float32), len(batch))

    def outputs(self, batch: NDArray[Any]) -> dict[str, Float]:
        """See `edgekit.runtime.base.SupportsOutputs.outputs`."""
        with self._using("encoding", inside=True), running(self._file.path):
            check_batch(batch, self.spec)
            values = self._session.run(list(self.output_names), {self._input: self._file.batch(batch)})
        return {name: np.asarray(value, np.float32) for name, value in zip(self.output_names, values, strict=True)}

    def _free(self) -> None:
        self._session = None


def session(
    header: OnnxHeader,
    *,
    threads: int,
    settings: Mapping[str, str] | None = None,
    arena: bool = True,
    provider: str = CPU,
) -> Any:
    """ONNX Runtime's session of a file that `edgekit.formats.onnx.header.read` checked.

    Args:
        provider: see `OrtEncoder`.
        settings: of the session, by ONNX Runtime's names.
        arena: keep memory that was needed once, which saves time where calls need much and alike.

    Raises:
        ArtifactError: ONNX Runtime lacks what the file needs, or refuses it.
        MissingDependencyError: ONNX Runtime is not installed.
    """
    ort_support.check(header)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = arena
    options.log_severity_level = 3
    for name, value in {**_settings(), **(settings or {})}.items():
        options.add_session_config_entry(name, value)
    try:
        with in_utf8(header.path) as name:
            wanted = [(one, dict(_OF_PROVIDERS.get(one, {}))) for one in dict.fromkeys((provider, CPU))]
            made = onnxruntime.InferenceSession(name, options, providers=wanted)
    except _failures() as error:
        raise ort_support.refused(header.path, error) from error
    if (used := made.get_providers()[0]) != provider:  # where one does not start, the library says nothing and goes on
        raise ArtifactError(f"{header.path}: ONNX Runtime cannot start {provider}, and would use {used}")
    return made


@contextmanager
def running(path: Path) -> Iterator[None]:
    """ONNX Runtime's failures in a run, as an ArtifactError of the file."""
    try:
        yield
    except _failures() as error:
        raise ort_support.refused(path, error, "run") from error


def _settings() -> dict[str, str]:
    """Of every session."""
    # The parser would be chosen by the file's name, and only ONNX files were checked.
    entries = {"session.load_model_format": "ONNX"}
    # x86 without VNNI sums products of uint8 activations and int8 weights in pairs at 16 bits, which overflow silently.
    # This makes all weights uint8, whose kernels do not: wherever it is set, so also where it only costs time.
    if "vnni" not in cpu().features:
        entries["session.x64quantprecision"] = "1"
    return entries


def _failures() -> tuple[type[Exception], ...]:
    """ONNX Runtime's exceptions: one per status, without a common base, and RuntimeError where memory is bound."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = (kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
    return (RuntimeError, *kinds)
