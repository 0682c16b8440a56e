"""llama.cpp's own `llama-perplexity`: where it is or how it is built, its file of logits, and what it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SOURCES = "llama_cpp_python==0.3.36"  # the release whose libraries edgekit builds
VARIABLE = "EDGEKIT_LLAMA_PERPLEXITY"
_OPTIONS = (
    "CMAKE_BUILD_TYPE=Release", "BUILD_SHARED_LIBS=OFF", "LLAMA_CURL=OFF", "LLAMA_OPENSSL=OFF",
    "LLAMA_BUILD_TESTS=OFF", "LLAMA_BUILD_EXAMPLES=OFF", "LLAMA_BUILD_SERVER=OFF", "LLAMA_BUILD_TOOLS=ON",
    "LLAMA_BUILD_COMMON=ON",
)  # fmt: skip
_LAST = ("Same top p:", "Final estimate:")
_ATTEMPTS = 25
_MAGIC = b"_logits_"
_BELOW = np.float32(16)  # a log probability is kept as far as this below the largest


def program(folder: Path) -> Path:
    """$EDGEKIT_LLAMA_PERPLEXITY, or the program built in this folder from the sources of the package."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama_cpp_python"]
    subprocess.run([*pip, "--dest", folder, SOURCES], check=True)
    with tarfile.open(next(folder.glob("llama_cpp_python-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    sources = next(folder.glob("llama_cpp_python-*/vendor/llama.cpp"))
    build = folder / "build"
    subprocess.run(["cmake", "-S", sources, "-B", build, *(f"-D{option}" for option in _OPTIONS)], check=True)
    subprocess.run(["cmake", "--build", build, "--target", "llama-perplexity", "--parallel"], check=True)
    return build / "bin" / "llama-perplexity"


@dataclass(frozen=True)
class Said:
    """What the program printed.

    Attributes:
        text: all of it.
    """

    text: str

    def figure(self, name: str) -> float:
        """The figure of this name, by a line `NAME: FIGURE ± ...` or `NAME = FIGURE`."""
        found = re.search(rf"{re.escape(name)}\s*[:=]\s*(-?[\d.]+)", self.text)
        assert found, f"{name}: {self.text[-2000:]}"
        return float(found[1])


def run(peer: Path, model: Path, context: int, options: Mapping[str, Path | None]) -> Said:
    """Run it on a GGUF file, a chunk of `context` tokens at a time, on two threads.

    Its logger is a thread that ends with the process, and on a busy machine without the last lines: then once more.
    """
    given = [str(part) for pair in options.items() for part in pair if part is not None]
    command = [str(peer), "-m", str(model), "-c", str(context), "-b", str(context), "-t", "2", *given]
    for _ in range(_ATTEMPTS):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=540)
        assert done.returncode == 0, done.stderr[-2000:]
        if any(last in done.stdout + done.stderr for last in _LAST):
            break
    return Said(done.stdout + done.stderr)


def tokens(path: Path) -> NDArray[np.int32]:
    """The chunks [chunks, context] of its file of logits."""
    raw = path.read_bytes()
    assert raw[:8] == _MAGIC
    context, _, chunks = np.frombuffer(raw, np.int32, 3, 8)
    return np.frombuffer(raw, np.int32, context * chunks, 20).reshape(chunks, context)


def write(path: Path, chunks: Sequence[Sequence[int]], logits: NDArray[np.float32]) -> None:
    """Its file of logits, of anyone's: log probabilities in 16 bits.

    Args:
        chunks: tokens, of equal lengths.
        logits: [positions, vocabulary] of all chunks' second halves, each without its last position.
    """
    context, vocabulary = len(chunks[0]), logits.shape[1]
    assert len(logits) == len(chunks) * (context - 1 - context // 2)
    with path.open("wb") as stream:
        stream.write(_MAGIC + np.asarray([context, vocabulary, len(chunks)], np.int32).tobytes())
        stream.write(np.asarray(chunks, np.int32).tobytes())
        for row in logits:
            stream.write(_packed(row).tobytes())


def _packed(row: NDArray[np.float32]) -> NDArray[Any]:
    largest = row.max()
    least = max(row.min(), largest - _BELOW)
    step = np.float32((largest - least) / 65535)
    total = np.log(np.exp((row - largest).astype(np.float64)).sum())
    steps = np.rint(np.clip((row - least) / step, 0, 65535)).astype(np.uint16)
    head = np.asarray([step, least - largest - total], np.float32).view(np.uint16)
    return np.concatenate([head, steps, np.zeros(len(row) % 2, np.uint16)])
