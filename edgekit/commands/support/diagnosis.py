"""`edgekit doctor`: what this machine is, which libraries are installed, and what can be done here.

Nothing heavy is imported: versions come from the packages' metadata, and a library that has to be started to be asked
is started in a process of its own, so that one that crashes is a line of the report.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit.machine.cpu import Cpu, cpu
from edgekit.machine.gpu import Gpu, find_gpus
from edgekit.machine.memory import Memory, memory
from edgekit.machine.worker import Work, probe
from edgekit.runtime import tuning_results
from edgekit.runtime.llama import self_test
from edgekit.runtime.llama.build import start_llama

_EXPORT = 'pip install "edgekit[export]"'

# Distribution -> the command that installs it.
LIBRARIES: dict[str, str] = {
    "onnxruntime": "pip install onnxruntime",
    "llama_cpp_python": "edgekit setup",
    "openvino": 'pip install "edgekit[openvino]"',
    "torch": _EXPORT,
    "transformers": _EXPORT,
    "onnx": _EXPORT,
    "gguf": _EXPORT,
    "sentencepiece": _EXPORT,
}

# What one can do with edgekit -> the libraries that it takes. GGUF levels other than F16 and BF16 are quantized by the
# library inside llama-cpp-python.
ABILITIES: dict[str, tuple[str, ...]] = {
    "run GGUF": ("llama_cpp_python",),
    "run ONNX": ("onnxruntime",),
    "export GGUF": ("gguf", "sentencepiece", "llama_cpp_python"),
    "export ONNX": ("onnx",),
    "calibrate and prove": ("torch", "transformers"),
}


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
        llama_weights: which layouts of quantized weights llama.cpp may use here; None where it does not start.
        choices: what `edgekit tune` measured with these libraries.
    """

    system: str
    python: str
    cpu: Cpu
    memory: Memory
    disk_free_bytes: int
    gpus: tuple[Gpu, ...]
    libraries: tuple[Library, ...]
    llama_weights: self_test.Verdict | None
    abilities: tuple[Ability, ...]
    choices: tuple[tuning_results.TuningResult, ...] = ()

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
        lines += ["", "libraries"] + [f"  {_library_line(library)}" for library in self.libraries]
        if self.llama_weights:
            lines.append(f"  llama.cpp with weights laid out for this CPU: {self.llama_weights}")
            lines += [f"  {warning}" for warning in [self.llama_weights.warning] if warning]
        lines += ["", "measured here"] if self.choices else []
        for measured in self.choices:
            lines += [f"  {measured.title}: {measured}{f' ({measured.doubt})' if measured.doubt else ''}"]
            lines += [f"    {run}" for run in measured.runs]
        lines += ["", "what can be done here"] + [f"  {_ability_line(ability)}" for ability in self.abilities]
        return "\n".join(lines)


def diagnose() -> Report:
    """Look at this machine and this Python environment: some seconds; a first trial of llama.cpp is remembered."""
    libraries = tuple(_look_at(name) for name in LIBRARIES)
    works = {library.name for library in libraries if library.works}
    weights = self_test.verdict() if "llama_cpp_python" in works else None
    if weights and weights.outcome == "unusable":
        works.discard("llama_cpp_python")
    missing = {name: [need for need in needs if need not in works] for name, needs in ABILITIES.items()}
    abilities = tuple(Ability(name, {need: LIBRARIES[need] for need in needs}) for name, needs in missing.items())
    return Report(
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        cpu=cpu(),
        memory=memory(),
        disk_free_bytes=shutil.disk_usage(Path.cwd()).free,
        gpus=find_gpus(),
        libraries=libraries,
        llama_weights=weights,
        abilities=abilities,
        choices=tuple(tuning_results.load_all()),
    )


def onnxruntime_providers(job: object) -> Iterator[str]:
    """Where the installed ONNX Runtime can run; for `edgekit.machine.worker.probe`."""
    import onnxruntime

    yield ", ".join(onnxruntime.get_available_providers())


def openvino_precisions(job: object) -> Iterator[str]:
    """In which precisions the installed OpenVINO can run; for `edgekit.machine.worker.probe`."""
    from edgekit.runtime.onnx import openvino_encoder

    yield ", ".join(openvino_encoder.precisions())


# What a library is asked, in a process of its own.
_QUESTIONS: dict[str, Work] = {
    "llama_cpp_python": start_llama,
    "onnxruntime": onnxruntime_providers,
    "openvino": openvino_precisions,
}


def _look_at(name: str) -> Library:
    """One library: its version from the metadata, and where there is a probe, whether it starts."""
    install = LIBRARIES[name]
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Library(name, None, False, "", install)
    works, detail = probe(_QUESTIONS[name]) if name in _QUESTIONS else (True, "")
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
