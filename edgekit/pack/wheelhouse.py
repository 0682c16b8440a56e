"""A wheelhouse: all wheels that edgekit's installation on another machine takes, and no others.

    WHEELS/*.whl           edgekit and what it needs, for each version of Python
    WHEELS/LEVEL/*.whl     llama.cpp, a build for each level of processors (`edgekit.runtime.llama.targets`)

Each is taken from the first of these that has it: a folder of wheels that is given, what is installed here, where that
is the same platform and Python, and the package index, where that was asked for. An installation finds the wheels with
`pip install --no-index --find-links WHEELS --find-links WHEELS/LEVEL edgekit[install] llama-cpp-python`.
"""

from __future__ import annotations

import importlib.metadata
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.artifacts.files import copy, make_folder, replacing
from edgekit.errors import ArtifactError, MissingDependencyError, UsageError
from edgekit.machine.cpu import level as level_here
from edgekit.machine.cpu import platform_name
from edgekit.machine.devices import device
from edgekit.machine.temporary import temporary_folder
from edgekit.pack.installed_wheels import installed_wheel, own_wheel
from edgekit.pack.llama_wheel import llama_wheel
from edgekit.pack.needed_wheels import SYSTEMS, Interpreter, Needed, needed
from edgekit.pack.wheel_files import write_wheel
from edgekit.progress import Progress
from edgekit.runtime.llama.build_inputs import run_pip
from edgekit.runtime.llama.target_build import is_compiled
from edgekit.runtime.llama.targets import TARGETS

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PYTHONS = ("3.11", "3.12", "3.13")
PYTHON_HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
_LLAMA = "llama-cpp-python"
_MOST_ROUNDS = 20  # of what is missing, then what that requires: chains of requirements are not longer


@dataclass(frozen=True)
class Wanted:
    """What a wheelhouse is for.

    Attributes:
        platform: system and processor: `linux-aarch64`.
        levels: of processors, each with a build of llama.cpp; none for what it does not run.
        python: versions of Python: `3.11`.
        extras: of edgekit.
        given: a folder of wheels that are taken first; None without one.
        download: whether what is found nowhere else is fetched from the package index, or compiled.
        constraints: a file of pip's that says which versions are fetched; None for those that are installed here.
    """

    platform: str
    levels: tuple[str, ...]
    python: tuple[str, ...]
    extras: tuple[str, ...] = ("install",)
    given: Path | None = None
    download: bool = False
    constraints: Path | None = None

    @property
    def interpreters(self) -> tuple[Interpreter, ...]:
        """Each Python on the platform."""
        return tuple(Interpreter(version, self.platform) for version in self.python)

    def check(self) -> None:
        """Raise UsageError for what edgekit does not run on, a level of another platform, or no folder."""
        if self.platform.partition("-")[0] not in SYSTEMS:
            raise UsageError(
                f"{self.platform}: edgekit cannot be installed there",
                allowed=", ".join(SYSTEMS),
                remedy="a classifier runs there in a browser: edgekit pack --target web",
            )
        for level in self.levels:
            known = [row.name for row in TARGETS.values() if row.platform == self.platform]
            if known and level not in known:
                raise UsageError(f"{level}: is no level of {self.platform}'s processors", allowed=", ".join(known))
        for version in self.python:
            if version not in PYTHONS:
                raise UsageError(
                    f"{version!r:.40}: is no version of Python that edgekit runs on", allowed=", ".join(PYTHONS)
                )
        if self.given and not self.given.is_dir():
            raise UsageError(f"{self.given}: is no folder", allowed="a folder of wheels")


def for_device(name: str | None, levels: tuple[str, ...] = (), python: tuple[str, ...] = ()) -> Wanted:
    """What a device takes, or this machine for None.

    Args:
        levels: of processors, in place of the device's own.
        python: versions; the one that runs here for none.

    Raises:
        UsageError: there is no such device, or as `Wanted.check`.
    """
    profile = device(name) if name else None
    platform = profile.platform if profile else platform_name()
    wanted = Wanted(platform, levels or (profile.cpu if profile else level_here(),), python or (PYTHON_HERE,))
    wanted.check()
    return wanted


def gather(wanted: Wanted, folder: Path, progress: Progress | None = None) -> tuple[Path, ...]:
    """Put every wheel that is wanted into a folder, made where it is not there.

    Returns:
        Their paths in it, sorted.

    Raises:
        UsageError: as `Wanted.check`.
        ArtifactError: some are found nowhere; all are named. Or one is not what its RECORD says.
        MissingDependencyError: what builds one is not installed.
        EdgekitError: one cannot be fetched or built.
    """
    wanted.check()
    progress = progress or Progress()
    progress.start("gathering wheels", len(wanted.levels) + len(wanted.python))
    with temporary_folder("wheels") as scratch:
        sources = _Sources(wanted, scratch)
        found: dict[str, Path] = {}
        for level in wanted.levels:
            if wheel := sources.llama(level):
                found[f"{level}/{wheel.name}"] = wheel
            progress.advance()
        for interpreter in wanted.interpreters:
            alone = sources.complete(interpreter)
            found |= {path.name: path for path in alone if path not in found.values()}
            progress.advance()
        for name, wheel in found.items():
            make_folder((folder / name).parent)
            with replacing(folder / name) as temporary:
                copy(wheel, temporary)
    progress.finish()
    return tuple(folder / name for name in sorted(found))


class _Sources:
    """Where wheels are found, one after the other; what was found lies in a folder of its own or in the user's."""

    def __init__(self, wanted: Wanted, scratch: Path) -> None:
        self._wanted, self._scratch = wanted, scratch
        self._own: Path | None = None
        given = sorted(wanted.given.glob("*.whl")) if wanted.given else []
        # Of edgekit it is the version that packs, whatever a folder has.
        self._offered = [wheel for wheel in given if not wheel.name.startswith("edgekit-")]

    def llama(self, level: str) -> Path | None:
        """The build for a level; None where one that was given serves all levels.

        Raises:
            ArtifactError: there is none.
        """
        given = self._wanted.given and self._wanted.given / level
        wheel = next(iter(sorted(given.glob("llama_cpp_python-*.whl"))), None) if given else None
        if wheel is None and any(path.name.startswith("llama_cpp_python-") for path in self._offered):
            return None
        if wheel is None and level in TARGETS and (self._wanted.download or is_compiled(TARGETS[level])):
            wheel = llama_wheel(TARGETS[level], _made(self._scratch / level))
        if wheel is None:
            build = f"edgekit wheelhouse --cpu {level} --download --to FOLDER"
            foreign = f"edgekit setup on {self._wanted.platform} builds it; put that wheel into a folder"
            raise ArtifactError(
                f"there is no build of llama.cpp for {level}",
                remedy=f"{build if level in TARGETS else foreign}, and name that: --wheelhouse FOLDER",
            )
        self._offered.append(wheel)
        return wheel

    def complete(self, interpreter: Interpreter) -> tuple[Path, ...]:
        """All wheels that a Python takes.

        Raises:
            ArtifactError: some are found nowhere.
        """
        if self._own is None:
            self._own = own_wheel(self._scratch)
            self._offered.append(self._own)
        roots = [f"edgekit[{','.join(self._wanted.extras)}]", *([_LLAMA] if self._wanted.levels else [])]
        found = needed(self._offered, roots, interpreter)
        for _ in range(_MOST_ROUNDS):
            if not found.missing or not self._add(found, interpreter):
                break
            found = needed(self._offered, roots, interpreter)
        if found.missing:
            raise ArtifactError(
                f"no wheel for Python {interpreter.python} on {interpreter.platform}:",
                items=sorted(found.missing),
                remedy="give a folder that has them, or have them fetched: --wheelhouse FOLDER, --download",
            )
        return tuple(found.wheels.values())

    def _add(self, found: Needed, interpreter: Interpreter) -> bool:
        """Offer what is missing, from what is installed or else from the index; whether there is any more."""
        before = len(self._offered)
        if interpreter == Interpreter(PYTHON_HERE, platform_name()):
            for requirement in found.missing.values():
                with suppress(MissingDependencyError, ArtifactError):  # another source may have it
                    self._offer(write_wheel(installed_wheel(requirement.name), self._scratch))
        if len(self._offered) == before and self._wanted.download:
            self._fetch(found, interpreter)
        return len(self._offered) > before

    def _offer(self, wheel: Path) -> None:
        if wheel not in self._offered:
            self._offered.append(wheel)

    def _fetch(self, found: Needed, interpreter: Interpreter) -> None:
        """Fetch what is missing, with what it needs, as pip chooses."""
        constraints = self._wanted.constraints or self._scratch / "installed.txt"
        if not self._wanted.constraints:
            installed = {one.name: one.version for one in importlib.metadata.distributions() if one.name != "edgekit"}
            constraints.write_text("".join(f"{name}=={version}\n" for name, version in sorted(installed.items())))
        folder = self._scratch / f"fetched-{interpreter.python}"
        options = ["--quiet", "--only-binary", ":all:", "--dest", str(folder), "--constraint", str(constraints)]
        options += ["--python-version", interpreter.python, "--implementation", "cp"]
        options += [word for platform in interpreter.platforms for word in ("--platform", platform)]
        asked = sorted({_plain(requirement) for requirement in found.missing.values()})
        run_pip(f"wheels for {interpreter.platform}", "download", *options, *asked)
        for wheel in sorted(folder.glob("*.whl")):
            self._offer(wheel)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def _plain(requirement: Requirement) -> str:
    """A requirement without its condition, which has been looked at."""
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"
