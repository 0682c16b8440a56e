"""The libraries that can open a part: one row each. Whatever else asks what can be opened, and by what, asks here."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from edgekit.errors import UsageError
from edgekit.machine.worker import Work
from edgekit.runtime.base import Decoder, Encoder
from edgekit.runtime.llama import backend as llama
from edgekit.runtime.llama.build import start_llama
from edgekit.runtime.onnx import backend as onnx
from edgekit.runtime.onnx.openvino_encoder import INSTALL as INSTALL_OPENVINO
from edgekit.runtime.parts import DecoderFile, EncoderFile, Placement, RunOptions

# Distributions that hold the same library, built for other machines.
_SAME = {"onnxruntime": ("onnxruntime-gpu", "onnxruntime-directml")}

PartKind = Literal["encoder", "decoder"]

OpenEncoder = Callable[[EncoderFile, RunOptions, Decoder | None], Encoder]
OpenDecoder = Callable[[DecoderFile, RunOptions], Decoder]
CacheBytes = Callable[[DecoderFile, RunOptions], int]
Place = Callable[[DecoderFile, Path | None, RunOptions, int], Placement]


def _nothing_wrong() -> str | None:
    return None


@dataclass(frozen=True)
class DecoderOptions:
    """What tuning may try of a backend's decoders, beside numbers of threads for prompts and for steps.

    Attributes:
        layouts: whether weights may be laid out for this CPU: all answers that are worth a try here.
        settled: options as they are obeyed, after the user's environment had its say.
        fingerprint: what figures depend on beside the library's version.
    """

    layouts: Callable[[], Sequence[bool]]
    settled: Callable[[RunOptions], RunOptions]
    fingerprint: Callable[[], str]


@dataclass(frozen=True)
class Backend:
    """One way to open parts.

    Attributes:
        name: what `--runtime` and records call it.
        title: for people.
        library: the distribution that it comes in; several backends may share one.
        install: the command that brings it.
        about: asks the library, in a process of its own, what it can do here.
        encoders, decoders: format -> how a part in it is opened. The first row for a format is what edgekit requires,
            and what others are compared with.
        cache_bytes: what a decoder's context takes in main memory, all sequences of it, before it is taken.
        leans: whether an encoder needs a decoder beside it that this backend opened.
        place: divides a decoder and the encoder that leans on it between the CPU and a GPU, by a budget of video
            memory; None where it runs on the CPU alone.
        problem: why it cannot be used here; None where it can, or where only opening a part shows it.
        options: what tuning may try of its decoders; None for nothing.
        tried: whether a file may end the process in its library, so that `edgekit.runtime.trial` opens each one first.
    """

    name: str
    title: str
    library: str
    install: str
    about: Work
    encoders: Mapping[str, OpenEncoder] = field(default_factory=dict)
    decoders: Mapping[str, OpenDecoder] = field(default_factory=dict)
    cache_bytes: CacheBytes | None = None
    leans: bool = False
    place: Place | None = None
    problem: Callable[[], str | None] = _nothing_wrong
    options: DecoderOptions | None = None
    tried: bool = False

    def opens(self, file_format: str, kind: PartKind) -> bool:
        """Whether it opens such parts."""
        return file_format in (self.encoders if kind == "encoder" else self.decoders)

    @property
    def formats(self) -> frozenset[str]:
        """That it opens anything of."""
        return frozenset((*self.encoders, *self.decoders))


_ROWS = (
    Backend(
        "onnxruntime",
        "ONNX Runtime",
        library="onnxruntime",
        install="pip install onnxruntime",
        about=onnx.providers,
        encoders={"onnx": onnx.open_encoder},
        decoders={"onnx": onnx.open_decoder},
        cache_bytes=onnx.cache_bytes,
        tried=True,
    ),
    Backend(
        "openvino",
        "OpenVINO",
        library="openvino",
        install=INSTALL_OPENVINO,
        about=onnx.openvino_precisions,
        encoders={"onnx": onnx.open_openvino},
        problem=onnx.openvino_problem,
        tried=True,
    ),
    Backend(
        "openvino-bf16",
        "OpenVINO in bf16",
        library="openvino",
        install=INSTALL_OPENVINO,
        about=onnx.openvino_precisions,
        encoders={"onnx": onnx.open_openvino_bf16},
        problem=onnx.openvino_bf16_problem,
        tried=True,
    ),
    Backend(
        "onnxruntime-cuda",
        "ONNX Runtime on CUDA",
        library="onnxruntime",
        install="pip install onnxruntime-gpu",
        about=onnx.providers,
        encoders={"onnx": onnx.open_cuda},
        problem=onnx.cuda_problem,
        tried=True,
    ),
    Backend(
        "openvino-gpu",
        "OpenVINO on a GPU",
        library="openvino",
        install=INSTALL_OPENVINO,
        about=onnx.openvino_precisions,
        encoders={"onnx": onnx.open_openvino_gpu},
        problem=onnx.openvino_gpu_problem,
        tried=True,
    ),
    Backend(
        "llama.cpp",
        "llama.cpp",
        library="llama_cpp_python",
        install="edgekit setup",
        about=start_llama,
        encoders={"gguf": llama.open_vision},
        decoders={"gguf": llama.open_decoder},
        cache_bytes=llama.cache_bytes,
        leans=True,
        place=llama.place,
        tried=True,
        options=DecoderOptions(llama.layouts, llama.settled, llama.fingerprint),
    ),
)

BACKENDS: Mapping[str, Backend] = {row.name: row for row in _ROWS}


def kind_of(role_input: str | None) -> PartKind:
    """Whether a part with this input (of `edgekit.families.base.Role`) encodes items or decodes."""
    return "encoder" if role_input else "decoder"


def backends_for(file_format: str, kind: PartKind) -> tuple[Backend, ...]:
    """The backends that open such parts, the required one first."""
    return tuple(row for row in BACKENDS.values() if row.opens(file_format, kind))


def usable(file_format: str, kind: PartKind) -> tuple[Backend, ...]:
    """Those of `backends_for` that work here and that this CPU is made for."""
    return tuple(row for row in backends_for(file_format, kind) if row.problem() is None)


def runtimes() -> tuple[str, ...]:
    """The names that `--runtime` knows: of backends that share a format and a kind of part with another."""
    kinds = [(name, kind) for row in BACKENDS.values() for name in row.formats for kind in get_args(PartKind)]
    rivals = {row.name for name, kind in kinds if len(rows := backends_for(name, kind)) > 1 for row in rows}
    return tuple(name for name in BACKENDS if name in rivals)


def check_runtime(name: str, formats: Sequence[str], variant: str) -> None:
    """Raise UsageError where a backend is named that opens nothing of these formats."""
    if not BACKENDS[name].formats.intersection(formats):
        needs = " or ".join(sorted(name.upper() for name in BACKENDS[name].formats))
        raise UsageError(f"runtime {name}: no part of {variant} is in {needs}", allowed="default")


@dataclass(frozen=True)
class LeaningPart:
    """An encoder that finds nothing to lean on.

    Attributes:
        role, decoder: the encoder's role, and that of the decoder beside it; None where there is none.
        message: what is wrong.
        formats: in which the encoder would open.
    """

    role: str
    decoder: str | None
    message: str
    formats: tuple[str, ...]


def leaning_part(parts: Mapping[str, tuple[str, PartKind]]) -> LeaningPart | None:
    """The first encoder of a variant that only opens beside a decoder which is not there; None where all can open.

    Args:
        parts: role -> format and kind.
    """
    decoders = {role: file_format for role, (file_format, kind) in parts.items() if kind == "decoder"}
    for role, (file_format, kind) in parts.items():
        rows = backends_for(file_format, "encoder") if kind == "encoder" else ()
        if not rows or any(not row.leans or set(row.decoders).intersection(decoders.values()) for row in rows):
            continue
        wanted = " or ".join(rows[0].decoders)
        message = f"{rows[0].title} opens {role} in {file_format} only beside a decoder in {wanted}"
        formats = dict.fromkeys(name for row in BACKENDS.values() if not row.leans for name in row.encoders)
        return LeaningPart(role, next(iter(decoders), None), message, tuple(formats))
    return None


def libraries(file_format: str) -> dict[str, str | None]:
    """Versions of the libraries that can run a part of this format; None for one that is not installed."""
    names = dict.fromkeys(row.library for row in BACKENDS.values() if file_format in row.formats)
    return {name: version_of(name) for name in names}


def version_of(library: str) -> str | None:
    """Of an installed distribution, or of another one that brings the same library; None where there is none."""
    for name in (library, *_SAME.get(library, ())):
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None
