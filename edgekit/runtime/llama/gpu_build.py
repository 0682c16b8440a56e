"""Builds of llama.cpp for a GPU, beside the CPU's build that is installed: a folder of libraries each, in the cache.

A process loads one of them, or the one that is installed: see `edgekit.formats.gguf.library.load_from`. Which build
counts is recorded when it has passed its trial.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import Field

from edgekit.artifacts.documents import read_json
from edgekit.artifacts.files import create, rename, sync, sync_folder, write_atomically
from edgekit.artifacts.validation import StrictModel, validated
from edgekit.errors import EdgekitError
from edgekit.machine.cache import cache_folder, private_folder
from edgekit.runtime.llama.build import Plan, build_folder, cached_wheel, plan_build, wheel_of
from edgekit.runtime.llama.build_inputs import VERSION
from edgekit.runtime.llama.gpu_kinds import KINDS, GpuKind

_LIBRARIES = PurePosixPath("llama_cpp/lib")  # in a wheel
_REMEDY = "edgekit setup --gpu auto"


@dataclass(frozen=True)
class GpuBuild:
    """One build: its kind, and its key, which names its folder."""

    kind: GpuKind
    key: str

    @property
    def libraries(self) -> Path:
        """The folder of its libraries."""
        return build_folder(self.key) / "lib"


class _Record(StrictModel):
    """Which build counts."""

    kind: str = Field(max_length=40)
    key: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=200)


def planned(kind: GpuKind, *, force: bool = False, amx: bool = True) -> Plan:
    """The build that `make` makes of the same options, once nothing it needs is missing; takes no time.

    Raises:
        MissingDependencyError: what compiling needs is not there, and the cache has no such build.
        EdgekitError: others can write to the cache, or have.
    """
    plan = plan_build(amx=amx, gpu=kind)
    if force or not cached_wheel(plan):
        kind.require()
    return plan


def make(kind: GpuKind, *, force: bool = False, progress: bool = True, amx: bool = True) -> tuple[GpuBuild, bool]:
    """Build for a kind of GPU, or take the build from the cache; its libraries are unpacked anew in either case.

    Returns:
        The build, and whether nothing had to be compiled.

    Raises:
        MissingDependencyError: as `planned`.
        EdgekitError: as `edgekit.runtime.llama.build.setup`.
    """
    plan = planned(kind, force=force, amx=amx)
    wheel, reused = wheel_of(plan, force=force, progress=progress)
    build = GpuBuild(kind, plan.key)
    _unpack(wheel, build.libraries)
    return build, reused


def _unpack(wheel: Path, target: Path) -> None:
    """Put a wheel's shared libraries into a folder, whole or not at all.

    No file that was there is written to: processes that have loaded it go on with it.
    """
    with tempfile.TemporaryDirectory(prefix=".lib-", dir=target.parent) as temporary, zipfile.ZipFile(wheel) as archive:
        inside = Path(temporary) / "lib"
        inside.mkdir()
        for name in archive.namelist():
            if (path := PurePosixPath(name)).parent == _LIBRARIES and not name.endswith("/"):
                with create(inside / path.name) as stream:
                    stream.write(archive.read(name))
                sync(inside / path.name)
        if not any(inside.iterdir()):
            raise EdgekitError(f"{wheel}: no libraries in {_LIBRARIES}", remedy="edgekit setup --force --gpu auto")
        sync_folder(inside)
        if target.exists():
            target.rename(Path(temporary) / "before")  # a folder's name cannot be given to another while it holds files
        rename(inside, target)


def choose(build: GpuBuild) -> None:
    """Let this build count from now on."""
    write_atomically(_record(), json.dumps({"kind": build.kind.name, "key": build.key}) + "\n")


def forget() -> None:
    """Let none count."""
    _record().unlink(missing_ok=True)


def counts(build: GpuBuild) -> bool:
    """Whether this one does."""
    try:
        return current() == build
    except EdgekitError:
        return False


def current() -> GpuBuild | None:
    """The build that counts; None where there is none.

    Raises:
        EdgekitError: it is another version's, its libraries are gone, or others can write to it.
    """
    path = _record()
    if not path.is_file():
        return None
    private_folder(path.parent)
    record = validated(_Record, read_json(path, EdgekitError), str(path), EdgekitError, remedy=_REMEDY)
    if record.kind not in KINDS:
        raise EdgekitError(f"{path}: kind {record.kind!r}", allowed=", ".join(KINDS), remedy=_REMEDY)
    build = GpuBuild(KINDS[record.kind], record.key)
    if not record.key.startswith(f"{VERSION}-"):
        raise EdgekitError(f"the {build.kind.title} build is not of llama-cpp-python {VERSION}", remedy=_REMEDY)
    if not build.libraries.is_dir():
        raise EdgekitError(f"{build.libraries}: the {build.kind.title} build is gone", remedy=_REMEDY)
    private_folder(build.libraries)
    return build


def _record() -> Path:
    return cache_folder() / "llama-cpp" / "gpu.json"
