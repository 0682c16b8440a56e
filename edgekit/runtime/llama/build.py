"""`edgekit setup`: build llama.cpp for this CPU, once, and install it.

llama-cpp-python is published as source only. Built here, it uses every instruction set this CPU has, which is what
makes it fast; so its wheel fits this kind of CPU and is kept in the user's cache folder under a key of everything that
shaped it. The wheel's tag is `py3-none`: one build serves every Python version.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pydantic import BaseModel, Field

from edgekit.artifacts.files import rename, sha256_file, sha256_json, write_atomically
from edgekit.artifacts.validation import validated
from edgekit.errors import EdgekitError
from edgekit.machine.cache import cache_folder, private_folder
from edgekit.machine.cpu import cpu
from edgekit.machine.memory import memory
from edgekit.machine.worker import probe
from edgekit.runtime.llama import build_inputs
from edgekit.runtime.llama.build_inputs import VERSION
from edgekit.runtime.llama.build_process import run_build
from edgekit.runtime.llama.compiler import Compiler, find_compiler
from edgekit.runtime.llama.gpu_kinds import GpuKind

AMX_HEADER = Path(__file__).with_name("amx_tile_loadconfig.h")
RECIPE = Path(__file__).with_name("llama_build.cmake")
_RECORD = "build.json"  # beside the wheel: what shaped it, its name and its hash

# What a user may set to change the build (another compiler, other options): all of it belongs in the key.
_BUILD_VARIABLES = ("CMAKE_ARGS", "CFLAGS", "CXXFLAGS", "CC", "CXX")

# Headers and second copies of the libraries that llama.cpp would drop into site-packages' own lib/ and include/.
_NOT_PACKAGED = ("lib/**", "include/**", "bin/**")

# The largest source files take this much memory in the compiler.
_BYTES_PER_JOB = 700_000_000


@dataclass(frozen=True)
class Plan:
    """One build: its CMake options and the key of everything that shapes the result.

    Attributes:
        again: the command that compiles it, whatever the cache holds.
        recipe: the CMake file that the package's own reads first.
    """

    options: tuple[str, ...]
    key: str
    ingredients: dict[str, object]
    again: str
    recipe: Path = RECIPE


class _Wheel(BaseModel):
    name: str = Field(pattern=r"^[A-Za-z0-9_.+-]+\.whl$")
    sha256: str


class _Built(BaseModel):
    """What is read of the record of a build."""

    wheel: _Wheel


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
        EdgekitError: others can write to the cache, or have; what is built from has another hash than is stated here;
            the build failed or its result does not start.
    """
    started = time.monotonic()
    plan = plan_build(amx=amx)
    wheel, reused = wheel_of(plan, force=force, progress=progress)
    if force or installed_key() != plan.key:
        _install(wheel)
    alive, message = probe(start_llama)
    if not alive:
        raise EdgekitError(f"llama.cpp was built and installed, but it does not start: {message}", remedy=_remedy(amx))
    return SetupResult(VERSION, plan.key, wheel, reused, time.monotonic() - started, message)


def wheel_of(plan: Plan, *, force: bool = False, progress: bool = True) -> tuple[Path, bool]:
    """The wheel of a build, and whether it came from the cache, which `force` does not ask; raises as `setup` does."""
    folder = build_folder(plan.key)
    private_folder(folder.parent)
    if not force and (wheel := cached_wheel(plan)):
        return wheel, True
    return _build(plan, folder, progress=progress), False


def build_folder(key: str) -> Path:
    """Where a build lies in the cache."""
    return cache_folder() / "llama-cpp" / key


def plan_build(*, amx: bool = True, gpu: GpuKind | None = None) -> Plan:
    """The options for this CPU and compiler, and their key.

    Args:
        gpu: that it is to run on, too.

    Raises:
        MissingDependencyError: there is no compiler.
    """
    compiler, processor = find_compiler(), cpu()
    tiles = "off" if not amx else "repair" if compiler.breaks_amx(processor) else "as-is"
    options = ("GGML_NATIVE=ON", f"EDGEKIT_AMX={tiles}", *(gpu.definitions if gpu else ()))
    ingredients = {**common_ingredients(compiler, options, RECIPE), "cpu": processor.flags or processor.name}
    names = (VERSION, sysconfig.get_platform(), *([gpu.name] if gpu else []), sha256_json(ingredients)[:16])
    again = " ".join(["edgekit setup --force", *([f"--gpu {gpu.name}"] if gpu else [])])
    return Plan(options, "-".join(names), ingredients, again)


def common_ingredients(compiler: Compiler, options: tuple[str, ...], *recipe: Path) -> dict[str, object]:
    """All that shapes a build but the processor that it is for.

    Args:
        recipe: the CMake files that are read.
    """
    read = b"".join(file.read_bytes() for file in (*recipe, AMX_HEADER))
    return {
        "llama_cpp_python": VERSION,
        "source": build_inputs.SOURCE_SHA256,
        "tools": sha256_file(build_inputs.REQUIREMENTS),
        "compiler": str(compiler),
        "options": options,
        "environment": {name: os.environ[name] for name in _BUILD_VARIABLES if name in os.environ},
        "recipe": hashlib.sha256(read).hexdigest(),
        "platform": [sysconfig.get_platform(), *platform.libc_ver()],
    }


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


def cached_wheel(plan: Plan) -> Path | None:
    """The wheel that an earlier such build left in its folder of the cache; None where there is none.

    Raises:
        EdgekitError: others can write to the folder, or the wheel is not the one that was built.
    """
    folder = build_folder(plan.key)
    record = folder / _RECORD
    if not record.is_file():  # not there, or an interrupted build
        return None
    private_folder(folder)
    built = validated(_Built, record.read_bytes(), str(record), EdgekitError, remedy=plan.again).wheel
    wheel = folder / built.name
    if not wheel.is_file():
        return None
    if (found := sha256_file(wheel)) != built.sha256:
        raise EdgekitError(
            f"{wheel}: its SHA-256 is {found[:16]}..., the build's was {built.sha256[:16]}...: it was changed since",
            remedy=f"find out who changed it; {plan.again} builds it again",
        )
    return wheel


def _build(plan: Plan, folder: Path, *, progress: bool) -> Path:
    """Compile into a temporary folder beside the cache, then move the wheel in: the cache never holds half a file."""
    with tempfile.TemporaryDirectory(prefix=".build-", dir=folder.parent) as temporary:
        scratch = Path(temporary)
        environment = build_inputs.fetch_tools(scratch / "tools")
        source = build_inputs.fetch_source(scratch, environment)
        command = build_inputs.pip_command(
            "wheel", str(source), "--no-deps", "--no-index", "--no-build-isolation",
            # pip's own cache knows neither our options nor the CPU.
            "--no-cache-dir", "--wheel-dir", temporary, "-v",
            f"--config-settings=cmake.define.CMAKE_PROJECT_llama_cpp_INCLUDE={plan.recipe.as_posix()}",
            *(f"--config-settings=cmake.define.{option}" for option in plan.options),
            f"--config-settings=wheel.exclude={';'.join(_NOT_PACKAGED)}",
        )  # fmt: skip
        environment = {"CMAKE_BUILD_PARALLEL_LEVEL": str(parallel_jobs()), **environment}
        label = f"llama-cpp-python {VERSION}"
        run_build(command, folder.parent / "build.log", environment=environment, label=label, progress=progress)
        built = next(scratch.glob("*.whl"))
        record = {**plan.ingredients, "wheel": _Wheel(name=built.name, sha256=sha256_file(built)).model_dump()}
        private_folder(folder)
        write_atomically(folder / _RECORD, json.dumps(record, indent=1) + "\n")
        wheel = folder / built.name
        rename(built, wheel)
        return wheel


def parallel_jobs() -> int:
    """As many compilers as there are cores and as memory holds."""
    return max(1, min(cpu().usable_cores, (memory().available_bytes or _BYTES_PER_JOB) // _BYTES_PER_JOB))


def _install(wheel: Path) -> None:
    """Put the wheel into this environment. Its dependencies are edgekit's own, so nothing is fetched."""
    options = ("--no-deps", "--no-index", "--force-reinstall", "--quiet")
    build_inputs.run_pip(str(wheel), "install", *options, str(wheel))


def _remedy(amx: bool) -> str:
    return "edgekit setup --force --no-amx" if amx and "amx_tile" in cpu().flags else "edgekit setup --force"
