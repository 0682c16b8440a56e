"""The report about a machine: complete on this one, honest about what is missing or broken."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import pytest

from edgekit.commands.support import diagnosis
from edgekit.machine.vulkan import VulkanDevice
from edgekit.runtime.llama import self_test


def test_this_machine() -> None:
    report = diagnosis.diagnose()
    plain = json.loads(json.dumps(report.to_dict()))
    assert {library["name"] for library in plain["libraries"]} == set(diagnosis.libraries())
    assert plain["cpu"]["features"] == list(report.cpu.features)
    assert {ability["name"]: ability["possible"] for ability in plain["abilities"]}["run ONNX"] is True
    assert report.cpu.name in str(report)
    assert report.device is not None
    assert plain["device"]["name"] == report.device.name
    assert f"device   nearest is {report.device.name} (" in str(report)


def test_missing_libraries_name_their_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(diagnosis.importlib.metadata, "version", absent)
    text = str(diagnosis.diagnose())
    assert "llama_cpp_python   missing: edgekit setup" in text
    assert 'openvino           missing: pip install "edgekit[openvino]"' in text
    assert "run GGUF               no: needs llama_cpp_python (edgekit setup)" in text
    assert 'calibrate and prove    no: needs torch, transformers (pip install "edgekit[export]")' in text


def test_onnx_is_exported_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are built, not traced; only measuring and comparing run transformers' model."""
    there = {"onnx", "onnxruntime"}

    def version(name: str) -> str:
        if name not in there:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(diagnosis.importlib.metadata, "version", version)
    monkeypatch.setattr(diagnosis, "probe", lambda question: (True, ""))
    possible = {ability.name for ability in diagnosis.diagnose().abilities if ability.possible}
    assert possible == {"run ONNX", "export ONNX"}


def test_a_library_that_crashes_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis.importlib.metadata, "version", lambda name: "1.0")
    monkeypatch.setattr(diagnosis, "probe", lambda question: (False, "it died with SIGILL"))
    report = diagnosis.diagnose()
    assert "llama_cpp_python   1.0, does not work: it died with SIGILL; try: edgekit setup --force" in str(report)
    assert not next(ability for ability in report.abilities if ability.name == "run GGUF").possible


@pytest.mark.parametrize("outcome", ["ok", "plain buffers only", "unusable"])
def test_the_self_test_of_llama_cpp_is_shown(
    monkeypatch: pytest.MonkeyPatch, outcome: self_test.SelfTestOutcome
) -> None:
    monkeypatch.setattr(diagnosis, "probe", lambda question: (True, "AVX2"))
    monkeypatch.setattr(
        diagnosis.self_test, "result", lambda: self_test.SelfTestResult(outcome, "it died with SIGSEGV")
    )
    report = diagnosis.diagnose()
    text = str(report)
    assert f"weights laid out for this CPU: {outcome} (it died with SIGSEGV)" in text
    assert ("edgekit setup --force" in text) is (outcome != "ok")
    assert next(ability for ability in report.abilities if ability.name == "run GGUF").possible is (
        outcome != "unusable"
    )
    assert report.to_dict()["llama_weights"]["outcome"] == outcome


def test_gpus_and_the_build_for_one_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "probe", lambda question: (True, "AVX2"))
    monkeypatch.setattr(diagnosis, "vulkan_devices", lambda: (VulkanDevice("llvmpipe", software=True),))
    monkeypatch.setattr(diagnosis.placing, "state", lambda: "Vulkan on a card: logits within 0.1%")
    report = diagnosis.diagnose()
    assert "llvmpipe (Vulkan, software)" in str(report)
    assert "llama.cpp on a GPU: Vulkan on a card: logits within 0.1%" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["vulkan"] == [
        {"name": "llvmpipe", "software": True, "memory_bytes": 0}
    ]
    monkeypatch.undo()
    monkeypatch.setenv("EDGEKIT_CACHE", "/nowhere")
    assert diagnosis.placing.state() == "not built for a GPU (edgekit setup --gpu auto)"


def test_nothing_heavy_is_imported() -> None:
    heavy = "{'torch', 'transformers', 'onnxruntime', 'onnx', 'llama_cpp'}"
    statement = f"import edgekit.commands.support.diagnosis, sys; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", statement], check=False).returncode == 0
