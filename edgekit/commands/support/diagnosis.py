"""`edgekit doctor`: what this machine is, which libraries are installed, and what can be done here.

Nothing heavy is imported: versions come from the packages' metadata, and a library that has to be started to be asked
is started in a process of its own, so that one that crashes is a line of the report.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from edgekit.formats import FORMATS
from edgekit.machine.cpu import Cpu, cpu
from edgekit.machine.gpu import Gpu, find_gpus
from edgekit.machine.memory import Memory, memory
from edgekit.machine.nearest import Nearest, nearest
from edgekit.machine.vulkan import VulkanDevice, vulkan_devices
from edgekit.machine.worker import probe
from edgekit.runtime import tuning_results
from edgekit.runtime.backends import BACKENDS, Backend, PartKind, backends_for
from edgekit.runtime.llama import placing, self_test

_EXPORT = 'pip install "edgekit[export]"'
_PROOF = ("torch", "transformers")  # what full precision runs in, to calibrate and to prove


def backends() -> dict[str, Backend]:
    """Library -> the backend that it is first used by: those that a format requires, then those that may be faster."""
    required = {library for name in FORMATS for library in _required(name)}
    first: dict[str, Backend] = {}
    for row in sorted(BACKENDS.values(), key=lambda row: row.library not in required):
        first.setdefault(row.library, row)
    return first


def libraries() -> dict[str, str]:
    """Distribution -> the command that installs it: those that run parts, then those that export takes."""
    commands = {name: backend.install for name, backend in backends().items()}
    writing = [name for form in FORMATS.values() for name in form.libraries]
    for name in (*_PROOF, *writing):
        commands.setdefault(name, _EXPORT)
    return commands


def needs() -> dict[str, tuple[str, ...]]:
    """What one can do with edgekit -> the libraries that it takes."""
    running = {f"run {name.upper()}": _required(name) for name in FORMATS}
    writing = {f"export {name.upper()}": form.libraries for name, form in FORMATS.items()}
    return {**running, **writing, "calibrate and prove": _PROOF}


def _required(file_format: str) -> tuple[str, ...]:
    """The libraries that its encoders and its decoders need at least; a format may hold but one of both."""
    rows = (backends_for(file_format, kind) for kind in get_args(PartKind))
    return tuple(dict.fromkeys(first.library for first, *_ in filter(None, rows)))


@dataclass(frozen=True)
class Library:
    """One library.

    Attributes:
        version: None where it is not installed.
        works: whether it can be used; an installed library may still fail to start.
        detail: what it says about itself, or why it does not work.
        install: the command that brings it, or repairs it.
    """

    name: str
    version: str | None
    works: bool
    detail: str
    install: str


@dataclass(frozen=True)
class Ability:
    """One thing that edgekit does, and what is missing for it here: library -> command."""

    name: str
    missing: dict[str, str]

    @property
    def possible(self) -> bool:
        """Whether it can be done on this machine."""
        return not self.missing


@dataclass(frozen=True)
class Report:
    """All that `diagnose` found.

    Attributes:
        vulkan: what Vulkan's loader finds, software included.
        llama_weights: which layouts of quantized weights llama.cpp may use here; None where it does not start.
        llama_gpu: llama.cpp's build for a GPU, the GPU that it finds, and whether it may be used.
        choices: what `edgekit tune` measured with these libraries.
        device: the profile that is nearest to this machine.
    """

    system: str
    python: str
    cpu: Cpu
    memory: Memory
    disk_free_bytes: int
    gpus: tuple[Gpu, ...]
    vulkan: tuple[VulkanDevice, ...]
    libraries: tuple[Library, ...]
    llama_weights: self_test.SelfTestResult | None
    llama_gpu: str
    abilities: tuple[Ability, ...]
    choices: tuple[tuning_results.TuningResult, ...] = ()
    device: Nearest | None = None

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        plain = asdict(self)
        plain["cpu"]["features"] = list(self.cpu.features)
        for row, ability in zip(plain["abilities"], self.abilities, strict=True):
            row["possible"] = ability.possible
        plain["choices"] = [measured.to_dict() for measured in self.choices]
        return plain

    def __str__(self) -> str:
        lines = [
            f"system   {self.system}, Python {self.python}",
            f"CPU      {self.cpu.name} ({self.cpu.architecture}), {self.cpu.usable_cores} cores usable, "
            f"{self.cpu.physical_cores} physical",
            f"         {' '.join(self.cpu.features) or 'no vector extension known'}",
            f"memory   {_gb(self.memory.total_bytes)}, {_gb(self.memory.available_bytes)} available",
            f"disk     {_gb(self.disk_free_bytes)} free here",
        ]
        lines += [f"GPU      {gpu.name}, {gpu.memory_mib} MiB, {gpu.free_mib} free" for gpu in self.gpus]
        lines += [] if self.gpus else ["GPU      none with an NVIDIA driver"]
        lines += [f"         {device}" for device in self.vulkan]
        lines += [f"device   nearest is {self.device}"] if self.device else []
        lines += ["", "libraries"] + [f"  {_library_line(library)}" for library in self.libraries]
        if self.llama_weights:
            lines.append(f"  llama.cpp with weights laid out for this CPU: {self.llama_weights}")
            lines += [f"  {warning}" for warning in [self.llama_weights.warning] if warning]
            lines.append(f"  llama.cpp on a GPU: {self.llama_gpu}")
        lines += ["", "measured here"] if self.choices else []
        for measured in self.choices:
            lines += [f"  {measured.title}: {measured}{f' ({measured.doubt})' if measured.doubt else ''}"]
            lines += [f"    {run}" for run in measured.runs]
        lines += ["", "what can be done here"] + [f"  {_ability_line(ability)}" for ability in self.abilities]
        return "\n".join(lines)


def diagnose() -> Report:
    """Look at this machine and this Python environment: some seconds; a first self-test of llama.cpp is remembered."""
    commands = libraries()
    looked_at = tuple(_look_at(name, install) for name, install in commands.items())
    works = {library.name for library in looked_at if library.works}
    weights = self_test.result() if "llama_cpp_python" in works else None
    if weights and weights.outcome == "unusable":
        works.discard("llama_cpp_python")
    abilities = tuple(
        Ability(name, {library: commands[library] for library in taken if library not in works})
        for name, taken in needs().items()
    )
    return Report(
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        cpu=cpu(),
        memory=memory(),
        disk_free_bytes=shutil.disk_usage(Path.cwd()).free,
        gpus=find_gpus(),
        vulkan=vulkan_devices(),
        libraries=looked_at,
        llama_weights=weights,
        llama_gpu=placing.state() if weights else "",
        abilities=abilities,
        choices=tuple(tuning_results.load_all()),
        device=nearest(),
    )


def _look_at(name: str, install: str) -> Library:
    """One library: its version from the metadata, and where it runs parts, whether it starts."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Library(name, None, False, "", install)
    backend = backends().get(name)
    works, detail = probe(backend.about) if backend else (True, "")
    return Library(name, version, works, detail, f"{install} --force" if install == "edgekit setup" else install)


def _library_line(library: Library) -> str:
    if library.version is None:
        return f"{library.name:<18} missing: {library.install}"
    if not library.works:
        return f"{library.name:<18} {library.version}, does not work: {library.detail}; try: {library.install}"
    return f"{library.name:<18} {library.version}" + (f"  ({library.detail})" if library.detail else "")


def _ability_line(ability: Ability) -> str:
    if ability.possible:
        return f"{ability.name:<22} yes"
    commands = ", ".join(dict.fromkeys(ability.missing.values()))
    return f"{ability.name:<22} no: needs {', '.join(ability.missing)} ({commands})"


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB"
