"""The set-up in the Makefile: it must stop before pip downloads CUDA libraries that nothing here can use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("make") or shutil.which("nvidia-smi") is not None,
    reason="the check is for Linux without an NVIDIA GPU",
)


def check(index: Path, *requires: str) -> subprocess.CompletedProcess[str]:
    """Run the Makefile's check against an index with one package, `faketorch`, that requires these."""
    folder = "faketorch-1.0.dist-info"
    with zipfile.ZipFile(index / "faketorch-1.0-py3-none-any.whl", "w") as wheel:
        needs = "".join(f"Requires-Dist: {name}\n" for name in requires)
        wheel.writestr(f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: faketorch\nVersion: 1.0\n{needs}")
        wheel.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{folder}/RECORD", "")
    rule = f'ask:; @"{sys.executable}" -c "$$REFUSE_CUDA" faketorch==1.0'
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)}
    command = ["make", "--silent", "-f", str(MAKEFILE), f"--eval={rule}", "ask"]
    return subprocess.run(command, cwd=index, env=environment, capture_output=True, text=True, check=False)


def test_stops_and_names_the_variable(tmp_path: Path) -> None:
    done = check(tmp_path, "numpy", "nvidia_cublas_cu13==13.1; platform_system == 'Linux'", "cuda-bindings")
    assert done.returncode != 0
    assert "needs nvidia_cublas_cu13, cuda-bindings, and this machine has no NVIDIA GPU" in done.stderr
    assert "make ask TORCH_INDEX=https://" in done.stderr


def test_lets_a_cpu_build_pass(tmp_path: Path) -> None:
    done = check(tmp_path, "numpy", "nvidia-cublas; platform_system == 'Windows'", "nvidia-nccl; extra == 'cuda'")
    assert (done.returncode, done.stderr) == (0, "")
