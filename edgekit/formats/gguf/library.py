"""llama.cpp's library through llama-cpp-python's low-level bindings, loaded once, and what its vocabulary code says."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from edgekit.errors import ArtifactError, MissingDependencyError, UsageError
from edgekit.machine.cpu import limit_openmp_spin

_LOADING = threading.Lock()  # two threads may open a model each, and initializing is not for two
_FOLDERS = ("LLAMA_CPP_LIB_PATH", "MTMD_CPP_LIB")  # where the bindings look for libraries that are not their own


def library() -> Any:
    """The bindings, initialized once, their logs kept off the terminal.

    Raises:
        MissingDependencyError: llama-cpp-python is not installed, or does not load here.
        UsageError: this process is a fork of the one that loaded it.
    """
    with _LOADING:
        bindings, process = _loaded()
    if process != os.getpid():
        # OpenMP would wait for the parent's threads, for ever.
        raise UsageError(
            "llama.cpp was loaded before this process was forked, and cannot compute in it",
            remedy="start processes with multiprocessing's 'spawn', or open models behind the fork alone",
        )
    return bindings


def libraries_in(folder: Path) -> dict[str, str]:
    """The variables by which a process loads llama.cpp's libraries from a folder, and not those installed here."""
    return dict.fromkeys(_FOLDERS, str(folder))


def load_from(folder: Path) -> bool:
    """Have this process, and those that it starts, take llama.cpp's libraries from a folder; it can load but one build.

    Returns:
        Whether it does: not where it has loaded others, or the user's environment names others.
    """
    wanted = libraries_in(folder)
    with _LOADING:
        named = {name: os.environ[name] for name in _FOLDERS if name in os.environ}
        if named == wanted:
            return True
        if named or _loaded.cache_info().currsize:
            return False
        os.environ.update(wanted)
    return True


@cache
def _loaded() -> tuple[Any, int]:
    """The bindings, and the process that loaded them."""
    limit_openmp_spin()
    try:
        import llama_cpp
        from llama_cpp import mtmd_cpp
    except (ImportError, OSError, RuntimeError) as error:  # the package raises RuntimeError for a missing library
        if folder := os.environ.get(_FOLDERS[0]):  # `edgekit setup` mends what is installed, and nothing there
            raise MissingDependencyError(f"llama.cpp cannot be loaded from {folder}: {error}") from error
        raise MissingDependencyError(f"llama.cpp cannot be loaded: {error}", remedy="edgekit setup") from error
    keep_log(llama_cpp)
    for setter in ("mtmd_log_set", "mtmd_helper_log_set"):
        if hasattr(mtmd_cpp, setter):
            getattr(mtmd_cpp, setter)(_LOG.callback(llama_cpp.llama_log_callback), ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp, os.getpid()


class _Log:
    """Keeps the last lines that the library logged, for error messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._callback: Any = None

    def callback(self, kind: Any) -> Any:
        if self._callback is None:  # ctypes needs the object to outlive the library
            self._callback = kind(self._keep)
        return self._callback

    def _keep(self, level: int, text: bytes, user_data: Any) -> None:
        self.lines = [*self.lines[-19:], text.decode("utf-8", "replace").strip()]

    def tail(self) -> str:
        return "; ".join(line for line in self.lines[-3:] if line)


_LOG = _Log()


def keep_log(llama_cpp: Any) -> None:
    """Have the bindings log to where `log_tail` reads, and not to the terminal."""
    llama_cpp.llama_log_set(_LOG.callback(llama_cpp.llama_log_callback), ctypes.c_void_p(0))


def log_tail() -> str:
    """The last lines that the library logged, for error messages."""
    return _LOG.tail()


def tokenized(job: Mapping[str, Any]) -> Iterator[list[int]]:
    """`tokenize` of a job's `path` and `texts`, for `edgekit.machine.worker`: a vocabulary may end the process."""
    yield from _each_tokenized(Path(job["path"]), job["texts"])


def tokenize(path: Path, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text by the vocabulary of a GGUF file, which needs no tensors; special tokens are read as such.

    Raises:
        ArtifactError: the library refuses the file.
    """
    return list(_each_tokenized(path, texts))


def _each_tokenized(path: Path, texts: Sequence[str]) -> Iterator[list[int]]:
    lib = library()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise ArtifactError(f"{path}: llama.cpp cannot load it: {log_tail()}")
    try:
        vocabulary = lib.llama_model_get_vocab(model)
        for data in (text.encode() for text in texts):
            room = (lib.llama_token * (len(data) + 1))()
            count = lib.llama_tokenize(vocabulary, data, len(data), room, len(room), False, True)
            yield [int(token) for token in room[:count]]
    finally:
        lib.llama_model_free(model)
