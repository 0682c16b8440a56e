"""Which layouts of quantized weights llama.cpp may use here: tested once per library and CPU, then remembered.

`self_test_worker` decodes a tiny model in a process of its own, with plain weights and with the layouts that
llama.cpp makes for the CPU. If only the latter crash or compute something else, models are opened with plain weights:
slower, and right.
"""

from __future__ import annotations

import base64
import importlib
import importlib.util
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.artifacts.documents import read_json
from edgekit.artifacts.files import sha256_file, sha256_json, write_atomically
from edgekit.artifacts.validation import StrictModel, Text, validated
from edgekit.errors import EdgekitError, MissingDependencyError, NoSpaceError, UsageError
from edgekit.machine import worker
from edgekit.machine.cache import cache_folder
from edgekit.machine.cpu import cpu
from edgekit.runtime.llama import self_test_worker
from edgekit.runtime.llama.build import rebuild_command

VARIABLE = "EDGEKIT_LLAMA_BUFFERS"

LIMIT_S = 120.0

# Of the logits' length. Layouts differ in the order of sums and in rounding, by thousandths; one wrong matrix of any
# layer moves the logits by more than a tenth.
TOLERANCE = 0.05

SelfTestOutcome = Literal["ok", "plain buffers only", "unusable", "not known"]


@dataclass(frozen=True)
class SelfTestResult:
    """What the self-test found.

    Attributes:
        outcome: `ok`: llama.cpp's default; `plain buffers only`: its own layouts fail here; `unusable`: plain ones do,
            too; `not known`: the self-test could not be run, so plain ones are used this time.
        detail: what was seen.
    """

    outcome: SelfTestOutcome
    detail: str

    @property
    def extra_buffers(self) -> bool:
        """Whether llama.cpp may lay out weights for this CPU."""
        return self.outcome == "ok"

    @property
    def warning(self) -> str | None:
        """What a user must know, and the command that mends it."""
        if self.extra_buffers or self.detail == _FORCED:
            return None
        return f"llama.cpp runs with plain buffers, which is slower: {self.detail}; to rebuild it: {rebuild_command()}"

    def require(self) -> None:
        """Raise MissingDependencyError where the installed library cannot decode at all."""
        if self.outcome == "unusable":
            raise MissingDependencyError(
                f"llama.cpp does not work on this CPU: {self.detail}", remedy=rebuild_command()
            )

    def __str__(self) -> str:
        return f"{self.outcome} ({self.detail})"


_FORCED = f"{VARIABLE}=plain"


def result(*, fresh: bool = False) -> SelfTestResult:
    """What llama.cpp may do on this CPU: as the user says, as remembered, or by a test of about a second.

    Args:
        fresh: try again, whatever is remembered.

    Raises:
        UsageError: the environment variable holds something else than `plain` or `default`.
    """
    if forced := os.environ.get(VARIABLE):
        if forced not in ("plain", "default"):
            raise UsageError(f"{VARIABLE}={forced}", allowed="plain or default")
        if forced == "default":
            return SelfTestResult("ok", f"{VARIABLE}=default")
        return SelfTestResult("plain buffers only", _FORCED)
    if fresh:
        remembered.cache_clear()
    return remembered(key(), fresh)


def key() -> str:
    """Names everything that a result depends on: the library's files, the CPU and the test."""
    processor = cpu()
    ingredients = [
        [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in _library_files()],
        [processor.name, processor.flags],
        sha256_file(Path(self_test_worker.__file__)),
    ]
    return sha256_json(ingredients)[:24]


# Signals that others send, the kernel for want of memory among them: they say nothing about the library.
_FROM_OUTSIDE = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")


@cache
def remembered(name: str, fresh: bool) -> SelfTestResult:
    """The result of this key, from the cache folder or by a test, also where the cache cannot be written."""
    path = cache_folder() / "llama-cpp" / "trials" / f"{name}.json"
    if not fresh and (stored := _read(path)):
        return stored
    tested = _test()
    if tested.outcome in ("ok", "plain buffers only"):  # a library that fails is tried again: it may be mended
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(asdict(tested)) + "\n")
    return tested


class _Kept(StrictModel):
    """A result as it is remembered."""

    outcome: SelfTestOutcome
    detail: Text


def _read(path: Path) -> SelfTestResult | None:
    try:
        stored = validated(_Kept, read_json(path, EdgekitError), str(path), EdgekitError)
    except EdgekitError:
        return None
    return SelfTestResult(stored.outcome, stored.detail)


def _test() -> SelfTestResult:
    try:
        results, end = worker.run(self_test_worker.logits_by_layout, limit_s=LIMIT_S)
    except (OSError, NoSpaceError) as error:
        return SelfTestResult("not known", f"the self-test could not be started: {error}")
    if end.stopped_after_s is not None:
        return SelfTestResult("not known", f"the self-test did not end: {end.problem}")
    logits = {name: np.frombuffer(base64.b64decode(encoded), np.float32) for name, encoded in results}
    if "default" in logits:
        return _compare(logits)
    if end.died in _FROM_OUTSIDE:
        return SelfTestResult("not known", f"the self-test was ended by {end.died}")
    if end.died:
        return SelfTestResult("plain buffers only" if "plain" in logits else "unusable", f"it died with {end.died}")
    return SelfTestResult("not known", f"the self-test failed: {end.problem}")


def _compare(logits: dict[str, NDArray[np.float32]]) -> SelfTestResult:
    plain, default = logits["plain"], logits["default"]
    if not np.isfinite(plain).all():
        return SelfTestResult("unusable", "its logits are not finite")
    if not np.isfinite(default).all():
        return SelfTestResult("plain buffers only", "its logits are not finite")
    difference = float(np.linalg.norm(default - plain) / np.linalg.norm(plain))
    if difference > TOLERANCE:
        return SelfTestResult("plain buffers only", f"its logits are off by {difference:.0%}")
    return SelfTestResult("ok", f"logits within {difference:.1%} of plain buffers'")


def _library_files() -> list[Path]:
    """The shared libraries that would be loaded, without loading them; none where there are none."""
    importlib.invalidate_caches()  # it may have been installed since this process began
    spec = importlib.util.find_spec("llama_cpp")
    folders = [Path(place) / "lib" for place in (spec.submodule_search_locations or ()) if spec] if spec else []
    if named := os.environ.get("LLAMA_CPP_LIB_PATH"):
        folders = [Path(named)]
    return sorted(path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_file())
