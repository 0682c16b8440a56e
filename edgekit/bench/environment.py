"""Where a figure was measured: device, versions, commit. Part of every record."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from edgekit import metrics
from edgekit.bench.cells import identity
from edgekit.machine.cpu import cpu
from edgekit.machine.memory import memory

_PACKAGES = ("numpy", "onnxruntime", "openvino", "llama_cpp_python", "torch", "transformers", "tokenizers", "pillow")
_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Environment:
    """A machine and the software on it.

    Attributes:
        fingerprint: hash of CPU name, architecture, feature flags and cores: machines that measure alike.
        versions: of edgekit and of each library that is installed.
        commit: of the checkout that edgekit runs from, with `+` where files were changed; None for an installed one.
        code: hash of edgekit's own source files.
    """

    fingerprint: str
    cpu: str
    architecture: str
    features: tuple[str, ...]
    cores: int
    memory_bytes: int
    versions: dict[str, str]
    commit: str | None
    code: str
    metric_version: int = metrics.METRIC_VERSION


@cache
def environment() -> Environment:
    """This machine's."""
    here = cpu()
    return Environment(
        fingerprint=identity(here.name, here.architecture, here.flags, here.usable_cores),
        cpu=here.name,
        architecture=here.architecture,
        features=here.features,
        cores=here.usable_cores,
        memory_bytes=memory().total_bytes,
        versions={"edgekit": _version("edgekit") or "not installed", **_library_versions()},
        commit=_commit(),
        code=_code_sha256(),
    )


def _library_versions() -> dict[str, str]:
    return {name: version for name in _PACKAGES if (version := _version(name))}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    root = _PACKAGE.parent
    if not (root / ".git").exists():
        return None
    head = _git(root, "rev-parse", "HEAD")
    return f"{head}{'+' if _git(root, 'status', '--porcelain', '--untracked-files=no') else ''}" if head else None


def _git(root: Path, *arguments: str) -> str:
    # Without the lock that `status` takes to refresh the checkout's index: a benchmark writes nothing there.
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _code_sha256() -> str:
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
