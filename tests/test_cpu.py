"""What the kernel says about a CPU, read on any machine."""

from __future__ import annotations

import multiprocessing
import os
import sys

import psutil
import pytest

from edgekit.machine.cpu import Cpu, busy_cores, cpu, limit_openmp_spin, parse_cpuinfo

INTEL = """processor	: 0
model name	: Intel(R) Xeon(R) Platinum 8481C
physical id	: 0
core id		: 0
flags		: fpu avx2 avx512f avx512_vnni avx512_bf16 amx_tile amx_int8

processor	: 1
model name	: Intel(R) Xeon(R) Platinum 8481C
physical id	: 0
core id		: 0
flags		: fpu avx2 avx512f
"""

RASPBERRY = """processor	: 0
BogoMIPS	: 108.00
Features	: fp asimd evtstrm aes asimdhp cpuid asimddp

Hardware	: BCM2835
Model		: Raspberry Pi 5 Model B Rev 1.0
"""


def test_intel() -> None:
    name, flags = parse_cpuinfo(INTEL)
    assert name == "Intel(R) Xeon(R) Platinum 8481C"
    assert Cpu(name, "x86_64", flags, 2, 1).features == ("avx2", "avx512", "vnni", "bf16", "amx")


def test_arm() -> None:
    name, flags = parse_cpuinfo(RASPBERRY)
    assert name == "Raspberry Pi 5 Model B Rev 1.0"
    assert Cpu(name, "aarch64", flags, 4, 4).features == ("fp16", "neon", "dotprod")


def test_nothing_to_read() -> None:
    assert parse_cpuinfo("") == ("", ())


def test_this_machine() -> None:
    here = cpu()
    assert here.name
    assert 1 <= here.physical_cores <= here.usable_cores <= (os.cpu_count() or 1)
    if sys.platform == "linux":
        assert here.usable_cores == len(os.sched_getaffinity(0))


def test_cores_that_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 50.0)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 4)
    assert busy_cores() == pytest.approx(2)


def spin() -> None:
    while True:
        pass


def test_a_busy_program_is_seen() -> None:
    other = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
    other.start()
    try:
        assert max(busy_cores() for _ in range(8)) > 0.3
    finally:
        other.kill()
        other.join()


def test_a_user_may_let_threads_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    limit_openmp_spin()
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "infinity")
    limit_openmp_spin()
    assert os.environ["GOMP_SPINCOUNT"] == "infinity"
