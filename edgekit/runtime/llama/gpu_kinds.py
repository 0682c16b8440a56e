"""The kinds of GPUs that llama.cpp can be built for: one row each, with what such a build needs and how to get it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import MissingDependencyError, unknown
from edgekit.machine.gpu import find_gpus
from edgekit.machine.vulkan import vulkan_devices

AUTO, NONE = "auto", "none"

# CMake's own name of it; headers that lie elsewhere than the system's are named so.
VULKAN_HEADERS = "Vulkan_INCLUDE_DIR"
# The oldest whose declarations suffice, by a check of the source's syntax; 1.4.309 was built with, and 1.3.239 lacks
# vk::LayerSettingEXT.
LEAST_VULKAN = (1, 3, 275)

PREFIXES = ("/usr", "/usr/local", "/opt/homebrew")


@dataclass(frozen=True)
class Need:
    """One thing that a build needs.

    Attributes:
        problem: looks for it; what is wrong, None where it is there.
        packages: package manager -> what it calls the package that brings it.
    """

    problem: Callable[[], str | None]
    packages: Mapping[str, str]


@dataclass(frozen=True)
class GpuKind:
    """One kind.

    Attributes:
        title: for people.
        options: CMake's, on top of those for the CPU.
        needs: what must be installed.
        present: what shows that this machine has such a GPU; None where nothing does.
        variables: of the environment, which CMake is given as options where they are set.
        hint: what else may help where something is missing.
        unseen: what to do where a build finds no GPU.
    """

    name: str
    title: str
    options: tuple[str, ...]
    needs: tuple[Need, ...]
    present: Callable[[], str | None]
    variables: tuple[str, ...] = ()
    hint: str | None = None
    unseen: str | None = None

    @property
    def definitions(self) -> tuple[str, ...]:
        """CMake's options, with those that the user's environment adds."""
        named = (f"{name}={value}" for name in self.variables if (value := os.environ.get(name)))
        return (*self.options, *named)

    def require(self) -> None:
        """Raise MissingDependencyError where a build's needs are not met; it lists all, and how to install them."""
        missing = [(need, said) for need in self.needs if (said := need.problem())]
        if missing:
            remedies = [_install(need.packages for need, _ in missing), self.hint]
            raise MissingDependencyError(
                f"llama.cpp cannot be built for {self.title}:",
                items=[said for _, said in missing],
                remedy="; ".join(filter(None, remedies)),
            )


def chosen(name: str) -> tuple[GpuKind | None, str]:
    """The kind of this name, `auto` for what this machine has; None for none. And why.

    Raises:
        UsageError: there is no such kind.
    """
    if name == NONE:
        return None, "as you say"
    if name == AUTO:
        return _found_here()
    if name not in KINDS:
        raise unknown("kind of GPU", name, (AUTO, *KINDS, NONE))
    return KINDS[name], "as you say"


def _found_here() -> tuple[GpuKind | None, str]:
    for kind in KINDS.values():
        if seen := kind.present():
            return kind, seen
    missing = ": nvcc is missing, which is NVIDIA's CUDA toolkit" if shutil.which("nvidia-smi") else ""
    return None, f"no Apple GPU, no NVIDIA driver with nvcc{missing}, and no Vulkan device but software ones"


def _install(needed: Iterable[Mapping[str, str]]) -> str | None:
    """The command that installs all packages, of the package manager that is there; None where there are none."""
    rows = list(needed)
    for manager, command in _MANAGERS.items():
        if shutil.which(manager):
            packages = dict.fromkeys(row[manager] for row in rows if manager in row)
            if packages:
                return f"{command} {' '.join(packages)}"
    names = dict.fromkeys(next(iter(row.values())) for row in rows if row)
    return f"install {', '.join(names)}" if names else None


_MANAGERS = {
    "apt-get": "apt-get install",
    "dnf": "dnf install",
    "pacman": "pacman -S",
    "brew": "brew install",
    "xcode-select": "xcode-select",
}


# ---------------------------------------------------------------- how things are found


def _program(name: str) -> Callable[[], str | None]:
    def problem() -> str | None:
        return None if shutil.which(name) else f"{name} is not on the path"

    return problem


def _first(*patterns: str) -> Path | None:
    """The first file that matches a pattern below one of the usual prefixes."""
    for prefix in map(Path, PREFIXES):
        for pattern in patterns:
            if prefix.is_dir() and (found := next(iter(sorted(prefix.glob(pattern))), None)):
                return found
    return None


def _vulkan_library() -> str | None:
    sdk = os.environ.get("VULKAN_SDK")
    names = ("libvulkan.so", "libvulkan.dylib")
    beside = sdk and any((Path(sdk) / "lib" / name).exists() for name in names)
    patterns = [f"{folder}/{name}" for folder in ("lib", "lib64", "lib/*-linux-gnu*") for name in names]
    return None if beside or _first(*patterns) else "Vulkan's loader is not there to link with (libvulkan.so)"


def _spirv_headers() -> str | None:
    folders = ("share/cmake", "lib/cmake", "lib64/cmake", "lib/*/cmake")
    found = _first(*(f"{folder}/SPIRV-Headers/SPIRV-HeadersConfig.cmake" for folder in folders))
    return None if found or os.environ.get("VULKAN_SDK") else "SPIRV-Headers are not there"


def vulkan_headers() -> Path | None:
    """Where Vulkan's headers are, as CMake looks for them; None where there are none."""
    sdk = os.environ.get("VULKAN_SDK")
    places = [os.environ.get(VULKAN_HEADERS), sdk and f"{sdk}/include", *(f"{prefix}/include" for prefix in PREFIXES)]
    if places[0]:
        places = places[:1]
    folders = (Path(place) for place in places if place)
    return next((folder for folder in folders if (folder / "vulkan" / "vulkan_core.h").is_file()), None)


def header_version(folder: Path) -> tuple[int, ...] | None:
    """The version of Vulkan's headers; None where they do not say."""
    text = (folder / "vulkan" / "vulkan_core.h").read_text(encoding="utf-8", errors="replace")
    complete = re.search(
        r"^#define VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION\(0, (\d+), (\d+), VK_HEADER_VERSION\)", text, re.M
    )
    patch = re.search(r"^#define VK_HEADER_VERSION (\d+)$", text, re.M)
    return (int(complete[1]), int(complete[2]), int(patch[1])) if complete and patch else None


def _vulkan_headers_problem() -> str | None:
    least = ".".join(map(str, LEAST_VULKAN))
    folder = vulkan_headers()
    if folder is None:
        named = os.environ.get(VULKAN_HEADERS)
        where = f" in {VULKAN_HEADERS}={named}" if named else ""
        return f"Vulkan's headers are not there{where}; version {least} or newer is needed"
    version = header_version(folder)
    if version is None or version < LEAST_VULKAN or not (folder / "vulkan" / "vulkan.hpp").is_file():
        said = ".".join(map(str, version)) if version else "of an unknown version"
        return f"Vulkan's headers in {folder} are {said}; version {least} or newer is needed, with vulkan.hpp"
    return None


def _vulkan_gpu() -> str | None:
    hardware = [device for device in vulkan_devices() if not device.software]
    return str(hardware[0]) if hardware else None


def _nvidia_gpu() -> str | None:
    gpus = find_gpus()
    return f"{gpus[0].name} (driver {gpus[0].driver}), and nvcc" if gpus and _nvcc() is None else None


def _apple_gpu() -> str | None:
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    return "an Apple GPU" if apple else None


def _command_line_tools() -> str | None:
    if sys.platform != "darwin":
        return "Metal is macOS's: this is no Mac"
    try:
        found = subprocess.run(["xcode-select", "-p"], capture_output=True, check=False, timeout=20).returncode == 0
    except (OSError, subprocess.SubprocessError):
        found = False
    return None if found else "Xcode's command line tools are not there"


_nvcc = _program("nvcc")

_ROWS = (
    GpuKind(
        "metal",
        "Metal",
        options=("GGML_METAL=ON", "GGML_METAL_EMBED_LIBRARY=ON"),
        needs=(Need(_command_line_tools, {"xcode-select": "--install"} if sys.platform == "darwin" else {}),),
        present=_apple_gpu,
    ),
    GpuKind(
        "cuda",
        "CUDA",
        options=("GGML_CUDA=ON",),
        needs=(Need(_nvcc, {"apt-get": "nvidia-cuda-toolkit", "dnf": "cuda-toolkit", "pacman": "cuda"}),),
        present=_nvidia_gpu,
        variables=("CMAKE_CUDA_ARCHITECTURES",),
        unseen="look at nvidia-smi, and at CUDA_VISIBLE_DEVICES",
        hint="or, where it is installed, put its folder on the path (usually /usr/local/cuda/bin)",
    ),
    GpuKind(
        "vulkan",
        "Vulkan",
        options=("GGML_VULKAN=ON",),
        needs=(
            Need(
                _vulkan_headers_problem,
                {
                    "apt-get": "libvulkan-dev",
                    "dnf": "vulkan-headers",
                    "pacman": "vulkan-headers",
                    "brew": "vulkan-headers",
                },
            ),
            Need(
                _vulkan_library,
                {
                    "apt-get": "libvulkan-dev",
                    "dnf": "vulkan-loader-devel",
                    "pacman": "vulkan-icd-loader",
                    "brew": "vulkan-loader",
                },
            ),
            Need(_program("glslc"), {"apt-get": "glslc", "dnf": "glslc", "pacman": "shaderc", "brew": "shaderc"}),
            Need(
                _spirv_headers,
                {
                    "apt-get": "spirv-headers",
                    "dnf": "spirv-headers-devel",
                    "pacman": "spirv-headers",
                    "brew": "spirv-headers",
                },
            ),
        ),
        present=_vulkan_gpu,
        variables=(VULKAN_HEADERS,),
        unseen="look at vulkaninfo --summary; software devices are used only where GGML_VK_VISIBLE_DEVICES names them",
        hint=f"where a release's headers are too old, unpack a newer release's package beside: {VULKAN_HEADERS}=FOLDER",
    ),
)

# In the order of preference.
KINDS: Mapping[str, GpuKind] = {row.name: row for row in _ROWS}
