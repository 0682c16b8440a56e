"""NVIDIA GPUs as their driver's tool prints them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from edgekit.machine.gpu import Gpu, find_gpus, parse_gpus


def test_gpus() -> None:
    output = "NVIDIA H100 80GB HBM3, 81559, 81000, 570.1, 9.0\nOrin (nvgpu), [N/A], [N/A], 540.4, 8.7\nnot a row\n"
    assert parse_gpus(output) == (
        Gpu("NVIDIA H100 80GB HBM3", 81559, 81000, "570.1", "9.0"),
        Gpu("Orin (nvgpu)", 0, 0, "540.4", "8.7"),
    )


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert find_gpus() == ()


def test_a_driver_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho a, 1, 1, 2, 3\nexit 9\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert find_gpus() == ()
