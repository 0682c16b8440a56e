"""The GPUs that a build of llama.cpp finds, by ggml's own functions, which the bindings leave out."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from edgekit.formats.gguf.library import library

# ggml_backend_dev_type: of its own memory, or of the machine's.
_GPU, _INTEGRATED = 1, 2


@dataclass(frozen=True)
class VideoDevice:
    """A GPU as the library sees it.

    Attributes:
        name: the library's, as `Vulkan0`.
        description: the driver's.
        free_bytes, total_bytes: of its memory, as the driver reports them.
    """

    name: str
    description: str
    free_bytes: int
    total_bytes: int

    def __str__(self) -> str:
        return f"{self.description} ({self.name}, {self.free_bytes / 1e9:.1f} of {self.total_bytes / 1e9:.1f} GB free)"


def first_gpu(lib: Any) -> int | None:
    """The handle of the GPU that everything runs on: the first, one with memory of its own if there is any.

    llama.cpp takes the same for a vision part. Which is the first, the driver's own variables decide.
    """
    kind, ask = _function(lib, "ggml_backend_dev_by_type", ctypes.c_void_p, ctypes.c_int), (_GPU, _INTEGRATED)
    return next((handle for handle in map(kind, ask) if handle), None)


def devices_for(lib: Any, *, on_gpu: bool) -> ctypes.Array[Any] | None:
    """The list of devices that a model may use, ended by a null: one GPU, or none at all.

    Without one, the library takes all that it finds, also for what was to be computed here. None for a library that
    knows of no GPUs.
    """
    if not lib.llama_supports_gpu_offload():
        return None
    handle = first_gpu(lib) if on_gpu else None
    return (ctypes.c_void_p * 2)(handle, None)


def found(job: object) -> Iterator[dict[str, Any]]:
    """The first GPU, if there is any; for `edgekit.machine.worker`, since drivers may die of being asked."""
    lib = library()
    if (lib.llama_supports_gpu_offload()) and (handle := first_gpu(lib)):
        yield asdict(_described(lib, handle))


def _described(lib: Any, handle: int) -> VideoDevice:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    size = ctypes.POINTER(ctypes.c_size_t)
    memory = _function(lib, "ggml_backend_dev_memory", None, ctypes.c_void_p, size, size)
    memory(handle, ctypes.byref(free), ctypes.byref(total))
    name, description = (
        _function(lib, f"ggml_backend_dev_{what}", ctypes.c_char_p, ctypes.c_void_p)(handle).decode("utf-8", "replace")
        for what in ("name", "description")
    )
    return VideoDevice(name, description, free.value, total.value)


def _function(lib: Any, name: str, result: Any, *arguments: Any) -> Any:
    """A function of ggml's: the loader finds it in what libllama itself needs."""
    function = getattr(lib.llama_cpp._lib, name)
    function.restype, function.argtypes = result, arguments
    return function
