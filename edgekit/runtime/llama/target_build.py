"""llama.cpp compiled for another processor than the one at hand, or for less than the one at hand can do.

The same sources, build tools and cache as `edgekit setup`'s; a compiler for the other architecture where there is one.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from edgekit.artifacts.files import sha256_json
from edgekit.errors import EdgekitError, MissingDependencyError
from edgekit.machine.cpu import platform_name
from edgekit.runtime.llama.build import RECIPE, Plan, cached_wheel, common_ingredients, wheel_of
from edgekit.runtime.llama.build_inputs import VERSION
from edgekit.runtime.llama.compiler import Compiler, find_compiler, identify, tool
from edgekit.runtime.llama.targets import Target

_PORTABLE = Path(__file__).with_name("llama_portable.cmake")
_OPENMP = "libgomp.so.1"

# Platform -> how Debian and others begin the names of the tools that compile for it.
_TOOLS = {"linux-x86_64": "x86_64-linux-gnu", "linux-aarch64": "aarch64-linux-gnu"}


@dataclass(frozen=True)
class _Toolchain:
    """What compiles for a platform.

    Attributes:
        definitions: CMake's, empty where it finds the compiler itself.
    """

    command: list[str]
    compiler: Compiler
    definitions: tuple[str, ...]


def plan_target(target: Target) -> Plan:
    """The build for a target.

    Raises:
        MissingDependencyError: there is no compiler for its platform, or it is built on that system alone.
    """
    chain = _toolchain(target.platform)
    options = ("GGML_NATIVE=OFF", "EDGEKIT_AMX=as-is", *target.options, *chain.definitions)  # no level has tiles
    ingredients = {**common_ingredients(chain.compiler, options, RECIPE, _PORTABLE), "target": target.name}
    key = "-".join([VERSION, target.platform, target.name, sha256_json(ingredients)[:16]])
    return Plan(options, key, ingredients, f"edgekit wheelhouse --cpu {target.name} --force --to DIR", _PORTABLE)


def compiled(target: Target, *, force: bool = False, progress: bool = True) -> tuple[Path, bool]:
    """The wheel as the build left it, and whether it came from the cache.

    Args:
        force: compile even when the cache has this build.

    Raises:
        MissingDependencyError: as `plan_target`.
        EdgekitError: as `edgekit.runtime.llama.build.setup`.
    """
    return wheel_of(plan_target(target), force=force, progress=progress)


def is_compiled(target: Target) -> bool:
    """Whether the cache has the build for a target, so that nothing need be compiled or fetched."""
    try:
        return cached_wheel(plan_target(target)) is not None
    except MissingDependencyError:
        return False


def openmp_library(target: Target) -> Path:
    """The compiler's OpenMP library, which a system without a compiler need not have.

    Raises:
        EdgekitError: the compiler has none.
    """
    command = [*_toolchain(target.platform).command, f"-print-file-name={_OPENMP}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    if not Path(said).is_file():  # it prints the bare name of what it does not find
        raise EdgekitError(
            f"{command[0]} has no {_OPENMP}, which llama.cpp needs", remedy="install libgomp1 for that platform"
        )
    return Path(said).resolve()


def _toolchain(platform: str) -> _Toolchain:
    """What compiles for a platform here.

    Raises:
        MissingDependencyError: nothing does.
    """
    if platform == platform_name():
        return _Toolchain(tool("CXX"), find_compiler(), ())
    prefix = _TOOLS[platform]
    names = [f"{prefix}-gcc", f"{prefix}-g++"]
    if any(shutil.which(name) is None for name in names):
        raise MissingDependencyError(
            f"no compiler for {platform}: llama.cpp is to be built for it",
            allowed=" and ".join(names),
            remedy=f"apt-get install g++-{prefix.replace('_', '-')}",
        )
    definitions = (
        "CMAKE_SYSTEM_NAME=Linux", f"CMAKE_SYSTEM_PROCESSOR={platform.removeprefix('linux-')}",
        f"CMAKE_C_COMPILER={names[0]}", f"CMAKE_CXX_COMPILER={names[1]}",
    )  # fmt: skip
    return _Toolchain([names[1]], identify([names[1]]), definitions)
