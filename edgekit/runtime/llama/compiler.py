"""The C++ compiler that CMake would choose here: which it is, its version, and its known traps."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass

from edgekit.errors import MissingDependencyError
from edgekit.machine.cpu import Cpu

# CMake's own order.
_CANDIDATES = {"CC": ("cc", "gcc", "clang"), "CXX": ("c++", "g++", "clang++")}

# clang first: it also defines gcc's.
_VERSION_MACROS = {
    "clang": ("__clang_major__", "__clang_minor__", "__clang_patchlevel__"),
    "gcc": ("__GNUC__", "__GNUC_MINOR__", "__GNUC_PATCHLEVEL__"),
}

# What brings a C and a C++ compiler, by the package manager that is there.
_INSTALL = {
    "apt-get": "apt-get install build-essential",
    "dnf": "dnf install gcc gcc-c++",
    "zypper": "zypper install gcc gcc-c++",
    "pacman": "pacman -S base-devel",
    "apk": "apk add build-base linux-headers",
    "brew": "xcode-select --install",
    "winget": "winget install Microsoft.VisualStudio.2022.BuildTools --override "
    '"--add Microsoft.VisualStudio.Workload.VCTools --includeRecommended"',
}


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler.

    Attributes:
        kind: "gcc", "clang", "unknown", or "msvc", which CMake finds without our help.
        version: as three numbers; empty for the last two.
    """

    kind: str
    version: tuple[int, ...]

    def __str__(self) -> str:
        return " ".join([self.kind, ".".join(map(str, self.version))]).strip()

    def breaks_amx(self, cpu: Cpu) -> bool:
        """Whether code for this CPU's tile unit would crash: see amx_tile_loadconfig.h."""
        return "amx_tile" in cpu.flags and self.kind == "gcc" and self.version <= (13, 2, 0)


def find_compiler() -> Compiler:
    """The compiler that a build here would use.

    Raises:
        MissingDependencyError: there is none; the message names the package to install.
    """
    if sys.platform == "win32":
        return Compiler("msvc", ())
    tool("CC")
    return identify(tool("CXX"))


def identify(command: list[str]) -> Compiler:
    """Ask a compiler for its predefined macros: unlike the text of --version, they are the same everywhere.

    Raises:
        MissingDependencyError: it does not run.
    """
    asked = [*command, "-dM", "-E", "-x", "c++", os.devnull]
    try:
        output = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingDependencyError(
            f"the C++ compiler {shlex.join(command)} does not work: {error}", remedy=install_command()
        ) from error
    macros = dict(re.findall(r"^#define (\w+) (.*)$", output, re.MULTILINE))
    for kind, names in _VERSION_MACROS.items():
        if all(macros.get(name, "").isdigit() for name in names):
            return Compiler(kind, tuple(int(macros[name]) for name in names))
    return Compiler("unknown", ())


def install_command() -> str:
    """How to get a compiler here: the command of the package manager that this system has."""
    if sys.platform == "darwin":
        return _INSTALL["brew"]
    commands = [command for manager, command in _INSTALL.items() if shutil.which(manager)]
    return commands[0] if commands else "install gcc and g++, version 10 or newer, with your system's package manager"


def tool(variable: str) -> list[str]:
    """The command for a language: what $CC or $CXX says, else the first candidate on the path.

    Raises:
        MissingDependencyError: there is none.
    """
    if named := os.environ.get(variable):
        command = shlex.split(named)
        if shutil.which(command[0]):
            return command
        raise MissingDependencyError(f"${variable} is {named!r}, which is not on the path", remedy=install_command())
    for name in _CANDIDATES[variable]:
        if shutil.which(name):
            return [name]
    language = {"CC": "C", "CXX": "C++"}[variable]
    raise MissingDependencyError(
        f"no {language} compiler found: llama.cpp is built on this machine for this CPU",
        allowed=", ".join(_CANDIDATES[variable]) + f", or a command in ${variable}",
        remedy=install_command(),
    )
