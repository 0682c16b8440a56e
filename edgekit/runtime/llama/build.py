"""`edgekit setup`: build llama.cpp for this CPU, once, and install it.

llama-cpp-python is published as source only. Built here, it uses every instruction set this CPU has, which is what
makes it fast; so its wheel fits this kind of CPU and is kept in the user's cache folder under a key of everything that
shaped it. The wheel's tag is `py3-none`: one build serves every Python version.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from edgekit.artifacts.files import rename, sha256_json, write_atomically
from edgekit.errors import EdgekitError, MissingDependencyError
from edgekit.machine.cache import cache_folder
from edgekit.machine.cpu import cpu
from edgekit.machine.memory import memory
from edgekit.machine.worker import probe
from edgekit.runtime.llama.build_process import run_build
from edgekit.runtime.llama.compiler import find_compiler

VERSION = "0.3.36"

AMX_HEADER = Path(__file__).with_name("amx_tile_loadconfig.h")
_CMAKE_FILE = Path(__file__).with_name("llama_build.cmake")

# What a user may set to change the build (another compiler, CUDA, Vulkan): all of it belongs in the key.
_BUILD_VARIABLES = ("CMAKE_ARGS", "CFLAGS", "CXXFLAGS", "CC", "CXX")

# Headers and second copies of the libraries that llama.cpp would drop into site-packages' own lib/ and include/.
_NOT_PACKAGED = ("lib/**", "include/**", "bin/**")

# The largest source files take this much memory in the compiler.
_BYTES_PER_JOB = 700_000_000


@dataclass(frozen=True)
class Plan:
    """One build: its CMake options and the key of everything that shapes the result."""

    options: tuple[str, ...]
    key: str
    ingredients: dict[str, object]


@dataclass(frozen=True)
class SetupResult:
    """What `setup` did.

    Attributes:
        reused: whether nothing had to be compiled.
        system_info: the instruction sets that the installed library says it uses.
    """

    version: str
    key: str
    wheel: Path
    reused: bool
    seconds: float
    system_info: str


def setup(*, force: bool = False, progress: bool = True, amx: bool = True) -> SetupResult:
    """Build llama-cpp-python for this CPU, or take the build from the cache; install it here; check that it starts.

    Args:
        force: compile even when the cache has this build.
        progress: show on stderr how far the build is.
        amx: False compiles without the tile unit of recent Intel CPUs (slower; for a compiler that gets it wrong).

    Raises:
        MissingDependencyError: no compiler, or no pip in this environment.
        EdgekitError: the build failed or its result does not start.
    """
    started = time.monotonic()
    plan = plan_build(amx=amx)
    folder = cache_folder() / "llama-cpp" / plan.key
    wheel = next(iter(sorted(folder.glob("*.whl"))), None)
    reused = wheel is not None and not force
    if wheel is None or force:
        wheel = _build(plan, folder, progress=progress)
    if force or installed_key() != plan.key:
        _install(wheel)
    alive, message = probe(start_llama)
    if not alive:
        raise EdgekitError(f"llama.cpp was built and installed, but it does not start: {message}", remedy=_remedy(amx))
    return SetupResult(VERSION, plan.key, wheel, reused, time.monotonic() - started, message)


def plan_build(*, amx: bool = True) -> Plan:
    """The options for this CPU and compiler, and their key.

    Raises:
        MissingDependencyError: there is no compiler.
    """
    compiler, processor = find_compiler(), cpu()
    tiles = "off" if not amx else "repair" if compiler.breaks_amx(processor) else "as-is"
    options = ("GGML_NATIVE=ON", f"EDGEKIT_AMX={tiles}")
    ingredients: dict[str, object] = {
        "llama_cpp_python": VERSION,
        "compiler": str(compiler),
        "options": options,
        "environment": {name: os.environ[name] for name in _BUILD_VARIABLES if name in os.environ},
        "recipe": hashlib.sha256(_CMAKE_FILE.read_bytes() + AMX_HEADER.read_bytes()).hexdigest(),
        "platform": [sysconfig.get_platform(), *platform.libc_ver()],
        "cpu": processor.flags or processor.name,
    }
    return Plan(options, f"{VERSION}-{sysconfig.get_platform()}-{sha256_json(ingredients)[:16]}", ingredients)


def installed_key() -> str | None:
    """The key of the build installed here; None where there is none, or one that did not come from the cache."""
    try:
        origin = importlib.metadata.distribution("llama_cpp_python").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return None
    # pip records the wheel's path, and the key is the folder it lies in.
    return PurePosixPath(urlsplit(json.loads(origin)["url"]).path).parent.name if origin else None


def start_llama(job: object) -> Iterator[str]:
    """Start the installed library and yield the instruction sets that it uses; for `edgekit.machine.worker.probe`."""
    import llama_cpp

    llama_cpp.llama_backend_init()
    text = llama_cpp.llama_print_system_info().decode()  # "CPU : AVX2 = 1 | AMX_INT8 = 0 |"
    pairs = [word.split(" = ") for word in text.replace(":", "|").split("|")]
    yield " ".join(pair[0].strip() for pair in pairs if len(pair) == 2 and pair[1].strip() == "1")


def rebuild_command() -> str:
    """The command that builds llama.cpp again, without what this CPU's compiler may have got wrong."""
    return _remedy(amx=True)


def _build(plan: Plan, folder: Path, *, progress: bool) -> Path:
    """Compile into a temporary folder beside the cache, then move the wheel in: the cache never holds half a file."""
    _requirepip_command()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=folder.parent) as scratch:
        command = pip_command(
            "wheel", f"llama-cpp-python=={VERSION}", "--no-deps", "--no-binary", "llama-cpp-python",
            # pip's own cache knows neither our options nor the CPU.
            "--no-cache-dir", "--wheel-dir", scratch, "-v",
            f"--config-settings=cmake.define.CMAKE_PROJECT_llama_cpp_INCLUDE={_CMAKE_FILE.as_posix()}",
            *(f"--config-settings=cmake.define.{option}" for option in plan.options),
            f"--config-settings=wheel.exclude={';'.join(_NOT_PACKAGED)}",
        )  # fmt: skip
        label = f"llama-cpp-python {VERSION}"
        run_build(command, folder.parent / "build.log", jobs=parallel_jobs(), label=label, progress=progress)
        built = next(Path(scratch).glob("*.whl"))
        folder.mkdir(exist_ok=True)
        write_atomically(folder / "build.json", json.dumps(plan.ingredients, indent=1) + "\n")
        wheel = folder / built.name
        rename(built, wheel)
        return wheel


def parallel_jobs() -> int:
    """As many compilers as there are cores and as memory holds."""
    return max(1, min(cpu().usable_cores, (memory().available_bytes or _BYTES_PER_JOB) // _BYTES_PER_JOB))


def _install(wheel: Path) -> None:
    """Put the wheel into this environment. Its dependencies are edgekit's own, so nothing is fetched."""
    _requirepip_command()
    command = pip_command("install", "--no-deps", "--no-index", "--force-reinstall", "--quiet", str(wheel))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EdgekitError(f"{wheel} could not be installed: {done.stderr.strip()}", remedy="edgekit setup --force")


def _requirepip_command() -> None:
    if importlib.util.find_spec("pip") is None:
        raise MissingDependencyError(f"{sys.executable} has no pip", remedy=f"{sys.executable} -m ensurepip")


def pip_command(*arguments: str) -> list[str]:
    """This environment's pip as a command."""
    return [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", *arguments]


def _remedy(amx: bool) -> str:
    return "edgekit setup --force --no-amx" if amx and "amx_tile" in cpu().flags else "edgekit setup --force"
