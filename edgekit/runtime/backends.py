"""The runtimes that can open an encoder in an ONNX file: one row each."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from edgekit.errors import MissingDependencyError
from edgekit.runtime.base import Encoder
from edgekit.runtime.onnx.interface import EncoderFile
from edgekit.runtime.onnx.openvino_encoder import INSTALL, OpenVinoEncoder, Precision, precisions

# The first is what edgekit requires, and what the others are compared with.
Runtime = Literal["onnxruntime", "openvino", "openvino-bf16"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)


@dataclass(frozen=True)
class Row:
    """One runtime: its name for people, the package it comes in, and OpenVINO's arithmetic where it is that."""

    title: str
    library: str
    precision: Precision | None = None


ROWS: Mapping[str, Row] = {
    "onnxruntime": Row("ONNX Runtime", "onnxruntime"),
    "openvino": Row("OpenVINO", "openvino", "f32"),
    "openvino-bf16": Row("OpenVINO in bf16", "openvino", "bf16"),
}


def open_encoder(file: EncoderFile, runtime: str, threads: int) -> Encoder:
    """Open it in one of `RUNTIMES`.

    Raises:
        ArtifactError: the runtime refuses the file.
        MissingDependencyError: the runtime is not installed.
    """
    if precision := ROWS[runtime].precision:
        return OpenVinoEncoder(file, threads=threads, precision=precision)
    from edgekit.runtime.onnx.session import OrtEncoder

    return OrtEncoder(file, threads=threads)


def usable() -> tuple[Runtime, ...]:
    """Those of `RUNTIMES` that work here and that this CPU is made for."""
    offered = () if lacking() else precisions()
    return tuple(name for name in RUNTIMES if ROWS[name].precision in (None, *offered))


def lacking() -> str | None:
    """Why there is no runtime beside the first, and what would bring one; None where there is."""
    if importlib.util.find_spec("openvino") is None:
        return f"{INSTALL} adds one"
    try:
        precisions()
    except MissingDependencyError as error:
        return f"{error.message}: {error.remedy}"
    return None
