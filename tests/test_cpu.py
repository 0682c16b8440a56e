"""What the kernel says about a CPU, read on any machine."""

from __future__ import annotations

import multiprocessing
import os
import sys

import psutil
import pytest

from edgekit.machine import cpu as cpu_module
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


@pytest.mark.parametrize(
    ("said", "level"),
    [
        ({"asimd"}, "armv8-a"),
        ({"asimd", "asimdhp", "asimddp"}, "armv8.2-a+dotprod+fp16"),
        ({"asimd", "asimdhp", "asimddp", "i8mm", "bf16"}, "armv8.2-a+dotprod+fp16+i8mm"),
    ],
)
def test_an_arm_processor_runs_no_more_than_it_says(
    said: set[str], level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Raspberry Pi 5 has no i8mm: the build that uses it would die there."""
    arm = Cpu("a processor", "aarch64", (), 4, 4)
    monkeypatch.setattr(cpu_module, "cpu", lambda: arm)
    monkeypatch.setattr(cpu_module.cpuid, "flags", lambda architecture: frozenset(said))
    assert cpu_module.levels.__wrapped__()[0] == level
