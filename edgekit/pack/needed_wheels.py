"""Which wheels an installation takes, on a machine that is not at hand: pip's choice, made beforehand.

Requirements have conditions ("only on Windows", "only before Python 3.13") and wheels have tags; pip evaluates the
conditions for the interpreter that it runs in, whatever platform it is asked for. Here both are the other machine's.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import ArtifactError, MissingDependencyError

if TYPE_CHECKING:
    from packaging.metadata import RawMetadata
    from packaging.requirements import Requirement
    from packaging.tags import Tag
    from packaging.version import Version

    _Candidates = dict[str, list[tuple[Version, int, Path]]]

NEWEST_GLIBC = 34  # of the systems that have Python 3.11 or later, the oldest (RHEL 9) has this one
_OLDEST_GLIBC = 5  # manylinux1's
_OLDEST_MACOS = (14, 0)
_MOST_METADATA_BYTES = 4 << 20
# System -> os.name, sys.platform, platform.system().
SYSTEMS = {
    "linux": ("posix", "linux", "Linux"),
    "macos": ("posix", "darwin", "Darwin"),
    "windows": ("nt", "win32", "Windows"),
}


@dataclass(frozen=True)
class Interpreter:
    """CPython on another machine.

    Attributes:
        python: its version: `3.11`.
        platform: system and processor: `linux-aarch64`.
    """

    python: str
    platform: str

    @property
    def platforms(self) -> list[str]:
        """The platform tags that it takes, the best first."""
        system, _, machine = self.platform.partition("-")
        if system == "windows":
            return ["win_amd64" if machine == "x86_64" else f"win_{machine}"]
        if system == "macos":
            from packaging.tags import mac_platforms

            return list(mac_platforms(_OLDEST_MACOS, machine))
        newer = [f"manylinux_2_{minor}_{machine}" for minor in range(NEWEST_GLIBC, _OLDEST_GLIBC - 1, -1)]
        return [*newer, *(f"{name}_{machine}" for name in ("manylinux2014", "manylinux2010", "manylinux1", "linux"))]

    @functools.cached_property
    def ranks(self) -> Mapping[Tag, int]:
        """Every tag that it takes, the best with the lowest number."""
        from packaging.tags import compatible_tags, cpython_tags

        major, minor = (int(number) for number in self.python.split("."))
        short, platforms = f"cp{major}{minor}", self.platforms
        tags = [
            *cpython_tags((major, minor), [short], platforms),
            *compatible_tags((major, minor), short, platforms),
        ]
        return {tag: rank for rank, tag in reversed(list(enumerate(tags)))}

    def markers(self, extra: str) -> dict[str, str]:
        """What conditions of requirements are about."""
        system, _, machine = self.platform.partition("-")
        name, platform, title = SYSTEMS[system]
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": name,
            "platform_machine": "AMD64" if self.platform == "windows-x86_64" else machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": title,
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": platform,
            "extra": extra,
        }


@dataclass(frozen=True)
class Missing:
    """A package of which no wheel meets what is required.

    Attributes:
        requirement: all that is required of it together, without conditions, which have been looked at.
        whose: the packages that require it; none where it was asked for by itself.
    """

    requirement: Requirement
    whose: tuple[str, ...]

    def __str__(self) -> str:
        """`tqdm<5,>=4.67, which edgekit and transformers need`."""
        if not self.whose:
            return str(self.requirement)
        *others, last = self.whose
        names = f"{', '.join(others)} and {last}" if others else last
        return f"{self.requirement}, which {names} need{'' if others else 's'}"


@dataclass(frozen=True)
class Needed:
    """What a set of requirements takes, by the packages' normalized names.

    Attributes:
        wheels: the wheel of each package.
        missing: those without one.
    """

    wheels: dict[str, Path]
    missing: dict[str, Missing]


def needed(offered: Iterable[Path], roots: Iterable[str], interpreter: Interpreter) -> Needed:
    """The wheels, of those offered, that some requirements take with all that these require in turn.

    Args:
        roots: requirements as pip takes them: `edgekit[install]`.

    Raises:
        ArtifactError: a wheel's name or metadata cannot be read.
        MissingDependencyError: the library `packaging` is not installed.
    """
    requirement_of = _packaging()
    candidates: _Candidates = {}
    for path in offered:
        _offer(path, interpreter, candidates)
    asked: dict[str, list[tuple[Requirement, str]]] = {}
    found = Needed({}, {})
    read: set[tuple[Path, str]] = set()
    waiting = [(requirement_of(root), "") for root in roots]
    while waiting:
        requirement, whose = waiting.pop()
        name = _normalized(requirement.name)
        asked.setdefault(name, []).append((requirement, whose))
        requirements = [one for one, _ in asked[name]]
        wheel = _chosen(requirements, candidates.get(name, ()))
        if wheel is None:
            found.wheels.pop(name, None)
            found.missing[name] = _missing(name, asked[name])
            continue
        found.wheels[name] = wheel
        for extra in sorted({"", *(extra for one in requirements for extra in one.extras)}):
            if (wheel, extra) not in read:
                read.add((wheel, extra))
                required = map(requirement_of, _requirements(wheel))
                waiting += [(one, name) for one in required if _applies(one, extra, interpreter)]
    return found


def _missing(name: str, asked: Sequence[tuple[Requirement, str]]) -> Missing:
    """What several packages require of one, as one requirement."""
    together = _packaging()(name)
    for requirement, _ in asked:
        together.extras |= requirement.extras
        together.specifier &= requirement.specifier
    return Missing(together, tuple(sorted({whose for _, whose in asked if whose})))


def _applies(requirement: Requirement, extra: str, interpreter: Interpreter) -> bool:
    """Whether a requirement holds on an interpreter for an extra, or without any where that is empty."""
    if requirement.marker is None:
        return not extra
    of_extra = "extra" in str(requirement.marker)
    return of_extra == bool(extra) and requirement.marker.evaluate(interpreter.markers(extra))


def _packaging() -> type[Requirement]:
    try:
        from packaging.requirements import Requirement
    except ImportError as error:
        raise MissingDependencyError(
            "packaging is not installed: wheels are chosen by it", remedy="pip install 'edgekit[pack]'"
        ) from error
    return Requirement


def _normalized(name: str) -> str:
    from packaging.utils import canonicalize_name

    return canonicalize_name(name)


def _offer(path: Path, interpreter: Interpreter, candidates: _Candidates) -> None:
    """Add a wheel to the candidates, where the interpreter takes it."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    try:
        name, version, _, tags = parse_wheel_filename(path.name)
    except InvalidWheelFilename as error:
        raise ArtifactError(f"{path}: {error}", allowed="files named as wheels are") from error
    ranks = [interpreter.ranks[tag] for tag in tags if tag in interpreter.ranks]
    if ranks and _takes(path, interpreter):
        candidates.setdefault(name, []).append((version, -min(ranks), path))


def _chosen(asked: Iterable[Requirement], offered: Iterable[tuple[Version, int, Path]]) -> Path | None:
    """The newest that all allow; of several of one version the one whose tag fits best."""
    allowed = [one for one in offered if all(each.specifier.contains(one[0], prereleases=True) for each in asked)]
    return max(allowed)[2] if allowed else None


def _requirements(wheel: Path) -> tuple[str, ...]:
    """What a wheel's metadata requires."""
    return tuple(_metadata(wheel).get("requires_dist", ()))


def _takes(wheel: Path, interpreter: Interpreter) -> bool:
    """Whether a wheel is for a version of Python: one in Python alone says so in its metadata, not in its tag.

    Which release of that version a machine will have nobody knows: it is taken for a late one.
    """
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        return SpecifierSet(_metadata(wheel).get("requires_python", "")).contains(f"{interpreter.python}.99")
    except InvalidSpecifier as error:
        raise ArtifactError(f"{wheel}: its Requires-Python cannot be read: {error}") from error


def _metadata(wheel: Path) -> RawMetadata:
    from packaging.metadata import parse_email

    folder = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(f"{folder}/METADATA").file_size > _MOST_METADATA_BYTES:
                raise ArtifactError(f"{wheel}: its metadata is larger than {_MOST_METADATA_BYTES >> 20} MiB")
            raw, _ = parse_email(archive.read(f"{folder}/METADATA"))
    except (zipfile.BadZipFile, KeyError) as error:
        raise ArtifactError(f"{wheel}: is no wheel: {error}", remedy="fetch or build it again") from error
    return raw
