"""A wheelhouse: all wheels that edgekit's installation on another machine takes, and no others.

    WHEELS/*.whl           edgekit and what it needs, for every version of Python that was asked for
    WHEELS/3.11/*.whl      what only this one of several takes
    WHEELS/LEVEL/*.whl     llama.cpp, a build for each level of processors (`edgekit.runtime.llama.targets`)

Each is taken from the first of these that has it: a folder of wheels that is given, what is installed here, where that
is the same platform and Python, and the package index, where that was asked for. An installation finds the wheels with
`pip install --no-index --find-links WHEELS --find-links WHEELS/3.11 --find-links WHEELS/LEVEL edgekit[install]
llama-cpp-python`.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgekit.artifacts.files import copy, make_folder, replacing
from edgekit.errors import ArtifactError, MissingDependencyError, UsageError
from edgekit.machine.cpu import level as level_here
from edgekit.machine.cpu import platform_name
from edgekit.machine.devices import device
from edgekit.machine.temporary import temporary_folder
from edgekit.pack.installed_wheels import installed_wheel, own_wheel
from edgekit.pack.llama_wheel import build_in, llama_wheel, no_build, target_of
from edgekit.pack.needed_wheels import SYSTEMS, Interpreter, Needed, needed
from edgekit.pack.wheel_files import write_wheel
from edgekit.progress import Progress, amount
from edgekit.runtime.llama.build_inputs import run_pip
from edgekit.runtime.llama.target_build import is_compiled
from edgekit.runtime.llama.targets import TARGETS

PYTHONS = ("3.11", "3.12", "3.13")
PYTHON_HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
_HERE = Interpreter(PYTHON_HERE, platform_name())
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
    with temporary_folder("wheels") as scratch:
        sources = _Sources(wanted, scratch, progress)
        try:
            builds = {level: wheel for level in wanted.levels if (wheel := sources.llama(level))}
            # What is installed here comes first: others may take it, too.
            ordered = sorted(wanted.interpreters, key=lambda one: one != _HERE)
            taken = {one.python: sources.complete(one).difference(builds.values()) for one in ordered}
            found = {f"{level}/{wheel.name}": wheel for level, wheel in builds.items()} | _placed(taken)
            total = sum(wheel.stat().st_size for wheel in found.values())
            progress.start(f"copying {len(found)} wheels, {amount(total)}", total)
            for name, wheel in found.items():
                make_folder((folder / name).parent)
                with replacing(folder / name) as temporary:
                    copy(wheel, temporary)
                progress.advance(wheel.stat().st_size)
        finally:
            progress.finish()
    return tuple(folder / name for name in sorted(found))


def _placed(taken: Mapping[str, Iterable[Path]]) -> dict[str, Path]:
    """Where wheels go, by which version of Python takes them: a folder of its own has what not all of them take."""
    common = set.intersection(*map(set, taken.values()))
    own = {f"{python}/{wheel.name}": wheel for python, wheels in taken.items() for wheel in {*wheels} - common}
    return {wheel.name: wheel for wheel in common} | own


class _Sources:
    """Where wheels are found, one after the other; what was found lies in a folder of its own or in the user's."""

    def __init__(self, wanted: Wanted, scratch: Path, progress: Progress) -> None:
        self._wanted, self._scratch, self._progress = wanted, scratch, progress
        self._own: Path | None = None
        self._offered: list[Path] = []
        self._offer_given()
        self._is_llama_given = any(wheel.name.startswith("llama_cpp_python-") for wheel in self._offered)

    def llama(self, level: str) -> Path | None:
        """The build for a level; None where one that was given serves all levels.

        Raises:
            ArtifactError: there is none.
        """
        wheel = build_in(self._wanted.given, level)
        if wheel is None and self._is_llama_given:
            return None
        target = target_of(level, self._wanted.platform)
        if wheel is None and target and (is_compiled(target) or self._wanted.download):
            if not is_compiled(target):
                self._progress.note(f"compiling llama.cpp for {level}, once: about 4 minutes on two cores")
            wheel = llama_wheel(target, _made(self._scratch / level))
        if wheel is None:
            raise no_build(level, self._wanted.platform, self._wanted.given)
        self._offer(wheel)
        return wheel

    def complete(self, interpreter: Interpreter) -> frozenset[Path]:
        """All wheels that a Python takes.

        Raises:
            ArtifactError: some are found nowhere.
        """
        if self._own is None:
            self._progress.start("making edgekit's own wheel", 0)
            self._own = own_wheel(self._scratch)
            self._offer(self._own)
        self._progress.start(f"finding wheels for Python {interpreter.python}", 0)
        self._offer_given(interpreter.python)
        roots = [f"edgekit[{','.join(self._wanted.extras)}]", *([_LLAMA] if self._wanted.levels else [])]
        found = needed(self._offered, roots, interpreter)
        for _ in range(_MOST_ROUNDS):
            if not found.missing or not self._add(found, interpreter):
                break
            found = needed(self._offered, roots, interpreter)
        if found.missing:
            raise ArtifactError(
                f"no wheel for Python {interpreter.python} on {interpreter.platform}:",
                items=[str(found.missing[name]) for name in sorted(found.missing)],
                remedy="add --download, which fetches them from the package index, or --wheelhouse FOLDER, which has "
                "them",
            )
        return frozenset(found.wheels.values())

    def _add(self, found: Needed, interpreter: Interpreter) -> bool:
        """Offer what is missing, from what is installed or else from the index; whether there is any more."""
        before = len(self._offered)
        if interpreter == _HERE:
            for name in found.missing:
                with suppress(MissingDependencyError, ArtifactError):  # another source may have it
                    self._offer(write_wheel(installed_wheel(name), self._scratch))
        if len(self._offered) == before and self._wanted.download:
            self._fetch(found, interpreter)
        return len(self._offered) > before

    def _offer(self, wheel: Path) -> None:
        """Of two wheels of one name the first source's is taken, for every Python."""
        if all(wheel.name != offered.name for offered in self._offered):
            self._offered.append(wheel)

    def _offer_given(self, folder: str = "") -> None:
        """The wheels in a folder of those that were given. Of edgekit it is the version that packs that is taken."""
        for wheel in sorted((self._wanted.given / folder).glob("*.whl")) if self._wanted.given else ():
            if not wheel.name.startswith("edgekit-"):
                self._offer(wheel)

    def _fetch(self, found: Needed, interpreter: Interpreter) -> None:
        """Fetch what is missing, with what it needs, as pip chooses."""
        constraints = self._wanted.constraints or self._scratch / "installed.txt"
        if not self._wanted.constraints:
            installed = {one.name: one.version for one in importlib.metadata.distributions() if one.name != "edgekit"}
            constraints.write_text("".join(f"{name}=={version}\n" for name, version in sorted(installed.items())))
        self._progress.start(f"fetching wheels for Python {interpreter.python}", 0)
        folder = self._scratch / f"fetched-{interpreter.python}"
        options = ["--quiet", "--only-binary", ":all:", "--dest", str(folder), "--constraint", str(constraints)]
        options += ["--python-version", interpreter.python, "--implementation", "cp"]
        options += [word for platform in interpreter.platforms for word in ("--platform", platform)]
        asked = sorted(str(missing.requirement) for missing in found.missing.values())
        run_pip(f"wheels for {interpreter.platform}", "download", *options, *asked)
        for wheel in sorted(folder.glob("*.whl")):
            self._offer(wheel)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder
