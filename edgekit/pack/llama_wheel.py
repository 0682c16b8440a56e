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

from edgekit.pack.wheel_files import Wheel, read_wheel, write_wheel
from edgekit.runtime.llama import target_build
from edgekit.runtime.llama.targets import Target

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
