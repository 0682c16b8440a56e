"""What the kernel says about a CPU, read on any machine."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest
from material import anonymous_bytes, in_a_new_process

from edgekit.machine import cpu

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
    name, flags, physical = cpu.parse_cpuinfo(INTEL)
    assert (name, physical) == ("Intel(R) Xeon(R) Platinum 8481C", 1)
    assert cpu.Cpu(name, "x86_64", flags, 2, physical).features == ("avx2", "avx512", "vnni", "bf16", "amx")


def test_arm() -> None:
    name, flags, physical = cpu.parse_cpuinfo(RASPBERRY)
    assert (name, physical) == ("Raspberry Pi 5 Model B Rev 1.0", 0)
    assert cpu.Cpu(name, "aarch64", flags, 4, 4).features == ("fp16", "neon", "dotprod")


def test_nothing_to_read() -> None:
    assert cpu.parse_cpuinfo("") == ("", (), 0)
    assert cpu.parse_meminfo("") == cpu.Memory(0, 0)


def test_memory_is_what_the_container_may_use(tmp_path: Path) -> None:
    whole = cpu.parse_meminfo("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:   600 kB\n")
    assert whole == cpu.Memory(1_024_000, 614_400)
    assert cpu._limit(whole, tmp_path) == whole
    (tmp_path / "memory.current").write_text("100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert cpu._limit(whole, tmp_path) == whole
    (tmp_path / "memory.max").write_text("400000\n")
    assert cpu._limit(whole, tmp_path) == cpu.Memory(400_000, 300_000)


def test_cores_that_others_keep_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    # 400 ticks of four cores, 100 of them idle and 100 waiting for a disk: two are busy.
    ticks = iter(["cpu  10 0 10 50 5 0 0 0 0 0\ncpu0 1\n", "cpu  110 50 60 150 105 0 0 0 7 7\ncpu0 1\n"])
    monkeypatch.setattr(cpu, "_read", lambda path: next(ticks))
    monkeypatch.setattr(cpu.os, "cpu_count", lambda: 4)
    assert cpu.busy_cores(0) == pytest.approx(2)
    monkeypatch.setattr(cpu, "_read", lambda path: "")  # not Linux
    assert cpu.busy_cores() == 0


def test_this_machine() -> None:
    here = cpu.cpu()
    assert here.name
    assert 1 <= here.physical_cores <= here.usable_cores
    assert cpu.memory().total_bytes >= cpu.memory().available_bytes > 0


def kept_after_freeing(asked: bool) -> int:
    """Bytes that a process keeps of blocks that it freed, each with a small one above it that it still uses."""
    if asked:
        cpu.return_large_blocks()
    before, used = anonymous_bytes(), []
    for _ in range(2):  # glibc learns from the first round
        blocks = []
        for _ in range(50):
            blocks.append(np.ones(4 << 20, np.uint8))
            used.append(bytearray(100_000))
        del blocks
    return anonymous_bytes() - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_large_blocks_return_to_the_system() -> None:
    assert in_a_new_process(kept_after_freeing, True) < 20e6
    assert in_a_new_process(kept_after_freeing, False) > 100e6, "glibc gives them back by itself now"
