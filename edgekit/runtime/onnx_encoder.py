"""Encoders in ONNX files and the runtimes that can open them: one file, several runtimes."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from edgekit.errors import MissingDependencyError
from edgekit.manifest import Preprocessing
from edgekit.runtime.base import Encoder, EncoderSpec

# The first is what edgekit requires, and what the others are compared with.
Runtime = Literal["onnxruntime", "openvino", "openvino-bf16"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
TITLES: Mapping[str, str] = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "openvino-bf16": "OpenVINO in bf16",
}
# The package that each comes in.
LIBRARIES: Mapping[str, str] = {"onnxruntime": "onnxruntime", "openvino": "openvino", "openvino-bf16": "openvino"}


@dataclass(frozen=True)
class EncoderFile:
    """One ONNX encoder, whoever opens it.

    Attributes:
        output: the graph output that is wanted.
        preprocessing: how pixels are normalized; None for an encoder of ids.
        listed: the files that a manifest vouches for; None without one. See `edgekit.onnx_header.read`.
    """

    path: Path
    spec: EncoderSpec
    output: str
    preprocessing: Preprocessing | None
    listed: tuple[Path, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """For a process that measures it."""
        preprocessing = self.preprocessing and self.preprocessing.model_dump(mode="json")
        return {
            "path": str(self.path),
            "spec": asdict(self.spec),
            "output": self.output,
            "preprocessing": preprocessing,
            "listed": None if self.listed is None else [str(path) for path in self.listed],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EncoderFile:
        """What `to_json` gave."""
        spec = EncoderSpec(data["spec"]["input"], data["spec"]["output"], tuple(data["spec"]["shape"]))
        preprocessing = data["preprocessing"] and Preprocessing.model_validate(data["preprocessing"])
        listed = None if data["listed"] is None else tuple(Path(path) for path in data["listed"])
        return cls(Path(data["path"]), spec, data["output"], preprocessing or None, listed)


def open_encoder(file: EncoderFile, runtime: str, threads: int) -> Encoder:
    """Open it in one of `RUNTIMES`.

    Raises:
        ArtifactError: the runtime refuses the file.
        MissingDependencyError: the runtime is not installed.
    """
    if runtime == "onnxruntime":
        from edgekit.runtime.ort import OrtEncoder

        return OrtEncoder(
            file.path,
            file.spec,
            threads=threads,
            output=file.output,
            preprocessing=file.preprocessing,
            listed=file.listed,
        )
    from edgekit.runtime.ov import OpenVinoEncoder

    return OpenVinoEncoder(
        file.path,
        file.spec,
        threads=threads,
        output=file.output,
        preprocessing=file.preprocessing,
        listed=file.listed,
        precision="bf16" if runtime == "openvino-bf16" else "f32",
    )


def usable() -> tuple[Runtime, ...]:
    """Those of `RUNTIMES` that work here and that this CPU is made for."""
    if lacking():
        return RUNTIMES[:1]
    from edgekit.runtime.ov import precisions

    return RUNTIMES if "bf16" in precisions() else RUNTIMES[:2]


def lacking() -> str | None:
    """Why there is no runtime beside the first, and what would bring one; None where there is."""
    from edgekit.runtime.ov import INSTALL, precisions

    if importlib.util.find_spec("openvino") is None:
        return f"{INSTALL} adds one"
    try:
        precisions()
    except MissingDependencyError as error:
        return f"{error.message}: {error.remedy}"
    return None
