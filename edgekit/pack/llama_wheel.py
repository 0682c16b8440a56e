"""llama.cpp's wheel for a kind of processor, with what a machine without a compiler lacks, and honest about its needs.

- OpenMP's library comes along, and its licence is named: a system with Python and nothing else has the C and C++
  libraries, and not that one.
- Its tag states the oldest C library that has all it calls (PEP 600), so that pip refuses it elsewhere.
- The same build is the same bytes.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from edgekit.errors import ArtifactError, MissingDependencyError
from edgekit.machine.cpu import LEVELS
from edgekit.pack.wheel_files import Wheel, read_wheel, write_wheel
from edgekit.runtime.llama import target_build
from edgekit.runtime.llama.targets import TARGETS, Target

_LIBRARIES = "llama_cpp/lib"
_OLDEST_GLIBC = 17  # manylinux2014's, the oldest that any wheel here states
_OPENMP_LICENSE = b"GPL-3.0-or-later WITH GCC-exception-3.1"
_OPENMP_TERMS = """{file} is the OpenMP run-time library of the GNU Compiler Collection, as the compiler that built
this package brings it, unchanged. Its terms: GPL-3.0-or-later WITH GCC-exception-3.1. Its source: https://gcc.gnu.org
and the source package gcc of the distribution that the compiler is from.
"""


def llama_wheel(target: Target, folder: Path, *, force: bool = False, progress: bool = True) -> Path:
    """Build llama.cpp for a target, or take the build from the cache; write the wheel into a folder.

    Args:
        force: compile even when the cache has this build.
        progress: show on stderr how far the build is.

    Raises:
        MissingDependencyError: there is no compiler for the target's platform.
        EdgekitError: the build failed.
    """
    built, _ = target_build.compiled(target, force=force, progress=progress)
    return write_wheel(portable(read_wheel(built), target.platform, target_build.openmp_library(target)), folder)


def target_of(level: str, platform: str) -> Target | None:
    """What a build for a level is compiled for on a platform; None where it can be built on that system alone."""
    target = TARGETS.get(level)
    return target if target and target.platform == platform else None


def build_in(folder: Path | None, level: str) -> Path | None:
    """The build for a level in a folder of wheels, as `edgekit.pack.wheelhouse` lays them out; None without one."""
    return next(iter(sorted((folder / level).glob("llama_cpp_python-*.whl"))), None) if folder else None


def no_build(level: str, platform: str, given: Path | None) -> ArtifactError:
    """The error for a level that nothing was built for: each way to go on, and what it costs.

    Args:
        given: the folder of wheels that was looked in; None without one.
    """
    ways, made, target = {}, f"edgekit setup on {platform} makes it", target_of(level, platform)
    if lower := _at_hand(level, platform, given):
        ways[f"--cpu {lower}"] = f"in place of {level}: is built already and runs on such a processor too, slower"
    if target:
        ways["--download"] = _compiling(target)
        made = f"another machine makes it by edgekit wheelhouse --cpu {level} --download --to FOLDER"
    ways["--wheelhouse FOLDER"] = f"takes {level}/llama_cpp_python-*.whl from there; {made}"
    return ArtifactError(
        f"there is no build of llama.cpp for {level}{f' in {given}, nor' if given else ''} here",
        items=[f"{option}: {what}" for option, what in ways.items()],
        remedy=f"the same command with {' or '.join(ways)}",
    )


def _at_hand(level: str, platform: str, given: Path | None) -> str | None:
    """The highest of the lower levels that a build is there for; it runs on a processor of this one, too."""
    architecture = LEVELS[level].architecture if level in LEVELS else None
    names = [name for name, one in LEVELS.items() if one.architecture == architecture]
    for lower in names[names.index(level) + 1 :] if names else ():
        target = target_of(lower, platform)
        if build_in(given, lower) or (target and target_build.is_compiled(target)):
            return lower
    return None


def _compiling(target: Target) -> str:
    """What it takes to build for a target here."""
    try:
        target_build.plan_target(target)
        first = ""
    except MissingDependencyError as error:
        first = f"after {error.remedy} "
    return f"{first}compiles it here, once, for about 4 minutes on two cores, and fetches wheels that are missing"


def portable(wheel: Wheel, platform: str, openmp: Path) -> Wheel:
    """A build's wheel with the OpenMP library in it and the tag of what it needs.

    Args:
        platform: of its libraries: `linux-aarch64`.
        openmp: the library, whose name is the one that llama.cpp's look for, with or without more numbers.
    """
    soname = re.sub(r"(\.so\.\d+).*", r"\1", openmp.name)
    terms = _OPENMP_TERMS.format(file=f"{_LIBRARIES}/{soname}").encode()
    metadata = f"{wheel.info}/METADATA"
    files = {
        **wheel.files,
        metadata: re.sub(rb"(?m)^(License: [^\r\n]+)", rb"\1 AND " + _OPENMP_LICENSE, wheel.files[metadata], count=1),
        f"{_LIBRARIES}/{soname}": openmp.read_bytes(),
        f"{wheel.info}/licenses/{soname.partition('.')[0]}.txt": terms,
    }
    libraries = [data for name, data in files.items() if name.startswith(f"{_LIBRARIES}/")]
    glibc = max(map(oldest_glibc, libraries), default=_OLDEST_GLIBC)
    tag = f"py3-none-manylinux_2_{glibc}_{platform.removeprefix('linux-')}"
    return dataclasses.replace(wheel, tag=tag, files=files)


def oldest_glibc(library: bytes) -> int:
    """The minor number of the oldest glibc 2 that has every symbol a shared library calls.

    Versions of symbols stand as text in its table of names.
    """
    found = [int(minor) for minor in re.findall(rb"\x00GLIBC_2\.(\d{1,3})(?:\.\d+)?(?=\x00)", library)]
    return max([_OLDEST_GLIBC, *found])
