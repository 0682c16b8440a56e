"""What this machine is, as bundles and wheels are made for one, and which of them fit (PEP 425, 600)."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_WHEEL = re.compile(r"([\w.]+)-([^-]+)(?:-\d[^-]*)?-([^-]+)-([^-]+)-([^-]+)\.whl")
_OF_PYTHON = re.compile(r"wheels/(?:(3)\.([0-9]{1,2})/)?[^/]+")
_SYSTEMS = {"linux": "linux", "darwin": "macos", "win32": "windows"}
_WINDOWS = {"x86_64": "win_amd64", "arm64": "win_arm64"}
_MANYLINUX = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


class RefusedError(Exception):
    """Why nothing is installed: one line."""


@dataclass(frozen=True)
class Here:
    """A machine as wheels are made for it.

    Attributes:
        python: its version, two numbers.
        platform: as bundles name it: `linux-x86_64`, `macos-arm64`, ...
        version: two numbers: of glibc (0, 0 where there is another C library), or of macOS.
    """

    python: tuple[int, int]
    platform: str
    version: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        return f"Python {self.python[0]}.{self.python[1]} on {self.platform}"


def here() -> Here:
    """This machine, or what its Python takes it for: 32 bits on a processor of 64 are another platform."""
    system, machine = _SYSTEMS.get(sys.platform, sys.platform), platform.machine().lower()
    if machine == "amd64":
        machine = "x86_64"
    if system == "linux" and machine == "arm64":
        machine = "aarch64"
    if sys.maxsize < 1 << 32:
        machine += "-32bit"
    library, glibc = platform.libc_ver()
    said = platform.mac_ver()[0] if system == "macos" else glibc if library == "glibc" else ""
    major, minor = ([int(number) for number in re.findall(r"\d+", said)] + [0, 0])[:2]
    return Here(sys.version_info[:2], f"{system}-{machine}", (major, minor))


def check_platform(document: Mapping[str, Any], machine: Here) -> None:
    """Raise RefusedError where a bundle is for another system, processor or Python.

    Args:
        document: what `bundle.json` says.
    """
    name, mine = document["name"], f"{machine.python[0]}.{machine.python[1]}"
    if document["platform"] != machine.platform:
        raise RefusedError(f"bundle {name} is for {document['platform']}, and this machine is {machine.platform}")
    if mine not in document["python"]:
        raise RefusedError(f"bundle {name} has wheels for Python {', '.join(document['python'])}, and this is {mine}")


def for_python(paths: Iterable[str], machine: Here) -> list[str]:
    """Of a bundle's files the wheels for its Python: `wheels/*.whl`, which every Python takes that the bundle is for,
    and `wheels/3.11/*.whl`, which this one takes and not all do.
    """
    matched = [(path, _OF_PYTHON.fullmatch(path)) for path in paths]
    return [path for path, of in matched if of and (not of[1] or (int(of[1]), int(of[2])) == machine.python)]


def chosen(wheels: Iterable[str], machine: Here) -> list[str]:
    """Of each distribution the wheel that fits a machine.

    Args:
        wheels: paths with `/`.

    Raises:
        RefusedError: none fits, or several do.
    """
    by_name: dict[str, list[str]] = {}
    for wheel in wheels:
        parsed = _WHEEL.fullmatch(wheel.rpartition("/")[2])
        if not parsed:
            raise RefusedError(f"{wheel}: is not named as a wheel is")
        found = by_name.setdefault(re.sub(r"[._]+", "-", parsed[1]).lower(), [])
        if _fits_python(parsed[3], parsed[4], machine) and any(_fits(tag, machine) for tag in parsed[5].split(".")):
            found.append(wheel)
    for name, found in by_name.items():
        if len(found) != 1:
            raise RefusedError(f"{len(found) or 'no'} wheels of {name} fit {machine}, not one")
    return [found[0] for found in by_name.values()]


def _fits_python(pythons: str, abis: str, machine: Here) -> bool:
    major, minor = machine.python
    for tag in pythons.split("."):
        kind, version = tag[:2], tag[2:]
        since = int(version[1:]) if version.startswith(str(major)) and re.fullmatch("[0-9]{1,4}", version[1:]) else None
        for abi in abis.split("."):
            if kind == "py" and abi == "none" and (version == str(major) or (since is not None and since <= minor)):
                return True
            if kind == "cp" and since is not None and abi == "abi3" and since <= minor:
                return True
            if kind == "cp" and since == minor and abi in (tag, "none"):
                return True
    return False


def _fits(tag: str, machine: Here) -> bool:
    system, _, processor = machine.platform.partition("-")
    if tag == "any":
        return True
    if system == "windows":
        return tag == _WINDOWS.get(processor)
    if system == "macos":
        parsed = re.fullmatch(r"macosx_(\d+)_(\d+)_(\w+)", tag)
        if parsed is None or parsed[3] not in (processor, "universal2"):
            return False
        return (int(parsed[1]), int(parsed[2])) <= machine.version
    if tag == f"linux_{processor}":
        return True
    parsed = re.fullmatch(rf"manylinux_(\d+)_(\d+)_{processor}", tag)
    needs = (int(parsed[1]), int(parsed[2])) if parsed else _MANYLINUX.get(tag.removesuffix(f"_{processor}"))
    return needs is not None and needs <= machine.version
