"""Whether a build for a GPU computes here what the CPU does: tried in processes of its own, then remembered.

The tiny model of `self_test_worker`, which has a layer of every type of weights, is decoded by the installed build, on
the CPU with plain weights, and by the build for the GPU with all layers there.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.artifacts.documents import read_json
from edgekit.artifacts.files import sha256_file, sha256_json, stamp, write_atomically
from edgekit.artifacts.validation import StrictModel, Text, validated
from edgekit.errors import EdgekitError
from edgekit.formats.gguf.library import libraries_in
from edgekit.machine import worker
from edgekit.machine.cache import cache_folder
from edgekit.machine.cpu import cpu
from edgekit.machine.temporary import temporary_folder
from edgekit.runtime.llama import self_test_worker, video
from edgekit.runtime.llama.gpu_build import GpuBuild
from edgekit.runtime.llama.video import VideoDevice

LIMIT_S = 1800.0  # a driver may compile every kernel at its first use: Mesa's software device takes minutes

# Of the logits' length, as in `self_test`: a GPU's kernels sum in another order and round factors to half precision or
# to 8 bits, which moves these logits by 0.02; one wrong matrix of any layer moves them by more than a tenth.
TOLERANCE = 0.05


@dataclass(frozen=True)
class GpuTrial:
    """What a trial found.

    Attributes:
        passed: whether the build may be used.
        detail: what was seen.
    """

    passed: bool
    detail: str


class _Kept(StrictModel):
    """A trial that was passed, as it is remembered."""

    detail: Text


def look(build: GpuBuild) -> VideoDevice:
    """The GPU that a build finds now, with its free memory.

    Raises:
        EdgekitError: it finds none, does not load, or dies of looking.
    """
    title = build.kind.title
    try:
        answers, end = worker.run(video.found, limit_s=LIMIT_S, environment=_environment(build))
    except OSError as error:
        raise EdgekitError(f"no process can be started to look for a GPU: {error.strerror or error}") from error
    if answers:
        return VideoDevice(**answers[-1])
    if end.problem:
        raise EdgekitError(
            f"llama.cpp's {title} build cannot look for a GPU: {end.problem}",
            remedy=f"edgekit setup --gpu {build.kind.name} unpacks it anew; with --force, compiles it anew",
        )
    raise EdgekitError(f"llama.cpp's {title} build finds no GPU", remedy=build.kind.unseen)


def result(build: GpuBuild, device: VideoDevice, *, fresh: bool = False) -> GpuTrial:
    """Whether a build may be used on a device, as remembered or by a trial of some seconds.

    Args:
        fresh: try again, whatever is remembered.
    """
    path = cache_folder() / "llama-cpp" / "trials" / f"gpu-{key(build, device)}.json"
    if not fresh and (detail := _read(path)):
        return GpuTrial(True, detail)
    tried = _compare(build)
    if tried.passed:  # what failed is tried again: it may be mended
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps({"detail": tried.detail}) + "\n")
    return tried


def key(build: GpuBuild, device: VideoDevice) -> str:
    """Names all that a trial depends on and that can be known: libraries, device, CPU, and what is tried."""
    files = [[path.name, stamp(path)] for path in sorted(build.libraries.iterdir())]
    tested = sha256_file(Path(self_test_worker.__file__))
    return sha256_json([build.key, files, device.name, device.description, cpu().name, cpu().flags, tested])[:24]


def logits(job: Mapping[str, Any]) -> Iterator[str]:
    """The tiny model's logits with a job's `gpu_layers`, float32 in base64; for `edgekit.machine.worker`."""
    with temporary_folder("gpu-trial") as folder:
        path = folder / "tiny.gguf"
        path.write_bytes(self_test_worker.tiny_decoder())
        rows = self_test_worker.logits(path, extra_buffers=False, gpu_layers=job["gpu_layers"])
        yield base64.b64encode(rows.tobytes()).decode()


def _compare(build: GpuBuild) -> GpuTrial:
    layers = len(self_test_worker.LAYERS) + 1
    try:
        on_cpu = _logits("the installed build on the CPU", 0, {})
        on_gpu = _logits(f"the {build.kind.title} build", layers, _environment(build))
    except EdgekitError as error:
        return GpuTrial(False, error.message)
    if not np.isfinite(on_gpu).all():
        return GpuTrial(False, "its logits are not finite")
    difference = float(np.linalg.norm(on_gpu - on_cpu) / np.linalg.norm(on_cpu))
    if difference > TOLERANCE:
        return GpuTrial(False, f"its logits are off by {difference:.0%} of the CPU's")
    return GpuTrial(True, f"logits within {difference:.2%} of the CPU's")


def _logits(who: str, layers: int, environment: Mapping[str, str]) -> NDArray[np.float32]:
    try:
        answers, end = worker.run(logits, {"gpu_layers": layers}, limit_s=LIMIT_S, environment=environment)
    except OSError as error:
        raise EdgekitError(f"no process can be started to try it: {error.strerror or error}") from error
    if not answers:
        raise EdgekitError(f"{who} gave no logits: {end.problem or 'it wrote nothing'}")
    return np.frombuffer(base64.b64decode(answers[-1]), np.float32)


def _environment(build: GpuBuild) -> dict[str, str]:
    # llama.cpp would start a debugger to say where it died.
    return {**libraries_in(build.libraries), "GGML_NO_BACKTRACE": "1"}


def _read(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return validated(_Kept, read_json(path, EdgekitError), str(path), EdgekitError).detail
    except EdgekitError:
        return None
