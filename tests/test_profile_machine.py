"""Measuring this machine: levels of processors, the disk, the GPU, what is kept, which profile is the nearest."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekit.cli import main
from edgekit.errors import EdgekitError, UsageError, WorkerError
from edgekit.machine import cpuid, cuda, disk, disturbance, here, nearest, profile, worker
from edgekit.machine.cpu import LEVELS, Cpu, cpu, level, levels, linux_name, platform_name
from edgekit.machine.cuda import Reached
from edgekit.machine.device import Device, text
from edgekit.machine.devices import device
from edgekit.machine.gpu import Gpu
from edgekit.machine.vulkan import VulkanDevice
from edgekit.machine.worker import End
from edgekit.pack.bootstrap import here as bootstrap
from edgekit.progress import Progress

# As /proc/cpuinfo lists them, shortened: a Xeon X5570 (2009), a Core i5-4570 (2013), an Atom D2550 (2012), a Xeon Gold
# 6130 (2017), a Raspberry Pi 4's and 5's processor.
NEHALEM = """fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush dts acpi mmx fxsr sse sse2
ss ht tm pbe syscall nx rdtscp lm constant_tsc pni dtes64 monitor vmx est tm2 ssse3 cx16 xtpr pdcm dca sse4_1 sse4_2
popcnt lahf_lm"""
HASWELL = NEHALEM + " aes avx f16c fma movbe xsave abm bmi1 bmi2 avx2 erms"
ATOM = " ".join(NEHALEM.split()).replace(" sse4_1 sse4_2 popcnt", " movbe")
SKYLAKE_SP = HASWELL + " avx512f avx512dq avx512cd avx512bw avx512vl"
CORTEX_A72, CORTEX_A76 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid", "fp asimd aes atomics fphp asimdhp asimddp"


@pytest.mark.parametrize(
    ("architecture", "flags", "expected"),
    [
        ("x86_64", ATOM, ["x86-64"]),
        ("x86_64", NEHALEM, ["x86-64-v2", "x86-64"]),
        ("x86_64", HASWELL, ["x86-64-v3", "x86-64-v2", "x86-64"]),
        ("x86_64", HASWELL.replace(" fma", ""), ["x86-64-v2", "x86-64"]),
        ("x86_64", SKYLAKE_SP, ["x86-64-v4", "x86-64-v3", "x86-64-v2", "x86-64"]),
        ("amd64", "avx avx2 sse3 sse4_2", ["x86-64-v3", "x86-64-v2", "x86-64"]),  # all that Windows says
        ("amd64", "sse3", ["x86-64"]),
        ("aarch64", CORTEX_A72, ["armv8-a"]),
        ("aarch64", CORTEX_A76, ["armv8.2-a+dotprod+fp16", "armv8-a"]),
        ("arm64", "AdvSIMD FEAT_DotProd FEAT_FP16 FEAT_I8MM", [name for name in LEVELS if name.startswith("arm")]),
        ("riscv64", "", ["riscv64"]),
    ],
)
def test_levels_of_known_processors(architecture: str, flags: str, expected: list[str]) -> None:
    assert list(Cpu("a CPU", architecture, tuple(flags.split()), 1, 1).levels) == expected


def dynamic_loader() -> str | None:
    return next((path for path in ("/lib64/ld-linux-x86-64.so.2",) if Path(path).is_file()), None)


@pytest.mark.skipif(dynamic_loader() is None, reason="no glibc on x86-64, which says what it searches")
def test_levels_here_are_those_that_the_c_library_searches() -> None:
    said = subprocess.run([str(dynamic_loader()), "--help"], capture_output=True, text=True, check=True).stdout
    expected = set(re.findall(r"^  (x86-64-v\d) \(supported", said, re.MULTILINE))
    if "x86-64-v" not in said:
        pytest.skip("a glibc before 2.33")
    assert set(levels()) == expected | {"x86-64"}
    assert level() == max(expected, default="x86-64")


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="not Linux")
def test_what_the_processor_says_is_what_the_kernel_says() -> None:
    asked = cpuid.flags(platform.machine().lower())
    if asked is None:
        pytest.skip("nobody can be asked here")
    known = {flag for one in LEVELS.values() for flag in one.flags} | {"asimd", "asimdhp", "asimddp", "i8mm", "bf16"}
    assert asked == known & set(cpu().flags)


EMULATOR = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")


@pytest.mark.slow
@pytest.mark.skipif(EMULATOR is None, reason="no qemu-user")
@pytest.mark.parametrize(("model", "expected"), [("Nehalem", "x86-64-v2"), ("Haswell", "x86-64-v3")])
def test_under_an_emulator_the_level_is_of_what_is_emulated(model: str, expected: str) -> None:
    """The kernel's list is the host's there."""
    code = "from edgekit.machine.cpu import level; print(level())"
    command = [str(EMULATOR), "-cpu", model, sys.executable, "-c", code]
    there = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    done = subprocess.run(command, env=there, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip() == expected


def test_nobody_can_be_asked_of_another_processor() -> None:
    assert cpuid.flags("riscv64") is None


@pytest.mark.parametrize(
    ("system", "machine", "expected"),
    [
        ("linux", "x86_64", "linux-x86_64"),
        ("linux", "aarch64", "linux-aarch64"),
        ("darwin", "arm64", "macos-arm64"),
        ("darwin", "x86_64", "macos-x86_64"),
        ("win32", "AMD64", "windows-x86_64"),
        ("win32", "ARM64", "windows-arm64"),
    ],
)
def test_platforms(monkeypatch: pytest.MonkeyPatch, system: str, machine: str, expected: str) -> None:
    """The installer, which has nothing of edgekit yet, calls each the same."""
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert platform_name() == expected
    assert bootstrap.here().platform == expected
    assert linux_name("ARM64") == "aarch64"


def test_android_is_no_other_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "getandroidapilevel", lambda: 34, raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert platform_name() == "android-aarch64"


# ---------------------------------------------------------------- the disk


def test_a_disk_is_read_and_nothing_is_left(tmp_path: Path) -> None:
    speed, how = disk.read_speed(tmp_path, 1 << 24)
    if speed is None:
        assert how.startswith("not measured: ")
    else:
        assert 1e6 < speed < 1e12
        assert how.startswith("17 MB by one reader")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_memory_is_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "in_memory", lambda device: True)
    assert disk.read_speed(tmp_path) == (None, "not measured: the folder is in memory")


def test_a_disk_that_is_almost_full_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**8))
    assert disk.read_speed(tmp_path) == (None, "not measured: too little of the disk is free")


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no folder in memory here")
def test_this_machines_folder_in_memory_is_seen() -> None:
    assert disk.read_speed(Path("/dev/shm"))[0] is None


# ---------------------------------------------------------------- GPUs


def missing_library(name: str) -> None:
    raise OSError(name)


def test_no_nvidia_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", missing_library)
    assert list(cuda.measure(None)) == []


NUMBER, WORD, SIZE = ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_uint64), ctypes.POINTER(ctypes.c_size_t)
COPY_S, PRODUCT_S = 0.002, 0.004
ATTRIBUTES = {16: 10, 18: 0, 75: 8, 76: 9}  # multiprocessors, integrated, compute capability 8.9


class Driver:
    """NVIDIA's driver as far as it is asked, as functions that ctypes calls: a card of 8 GB with 2 GB free.

    Attributes:
        kernels: the PTX that was loaded.
        shapes: of the grids and blocks that were started.
        fails: names of functions, which say that memory is full.
    """

    def __init__(self, fails: tuple[str, ...] = (), attributes: Mapping[int, int] = ATTRIBUTES) -> None:
        self.kernels: list[str] = []
        self.shapes: list[tuple[int, ...]] = []
        self.fails, self.attributes = fails, attributes
        c = ctypes
        self.cuInit = self.function("cuInit", lambda flags: None, c.c_uint)
        self.cuDeviceGetCount = self.function("cuDeviceGetCount", lambda at: put(at, 1), NUMBER)
        self.cuDeviceGet = self.function("cuDeviceGet", lambda at, number: put(at, 7), NUMBER, c.c_int)
        self.cuDeviceGetName = self.function("cuDeviceGetName", self.name, c.c_void_p, c.c_int, c.c_int)
        self.cuDeviceTotalMem_v2 = self.function("", lambda at, device: put(at, 8 << 30), SIZE, c.c_int)
        self.cuDeviceGetAttribute = self.function("", self.attribute, NUMBER, c.c_int, c.c_int)
        self.cuCtxCreate_v2 = self.function("cuCtxCreate_v2", lambda *given: None, c.c_void_p, c.c_uint, c.c_int)
        self.cuMemGetInfo_v2 = self.function("", lambda free, total: put(free, 2 << 30), SIZE, SIZE)
        self.cuMemAlloc_v2 = self.function("cuMemAlloc_v2", lambda at, size: put(at, 4096), WORD, c.c_size_t)
        self.cuMemFree_v2 = self.function("", lambda address: None, c.c_uint64)
        self.cuMemcpyDtoD_v2 = self.function("", self.copy, c.c_uint64, c.c_uint64, c.c_size_t)
        self.cuCtxSynchronize = self.function("", lambda: None)
        self.cuModuleLoadData = self.function("cuModuleLoadData", self.load, c.c_void_p, c.c_char_p)
        self.cuModuleGetFunction = self.function("", lambda *given: None, c.c_void_p, c.c_void_p, c.c_char_p)
        shape = (c.c_uint,) * 7
        pointers = (c.c_void_p,) * 3
        self.cuLaunchKernel = self.function("", self.launch, c.c_void_p, *shape, *pointers)

    def function(self, name: str, does: Callable[..., None], *takes: Any) -> Any:
        return ctypes.CFUNCTYPE(ctypes.c_int, *takes)(
            lambda *given: 2 if name and name in self.fails else (does(*given), 0)[1]
        )

    def name(self, at: int, size: int, device: int) -> None:
        ctypes.memmove(at, b"A card\0", 7)

    def attribute(self, at: Any, number: int, device: int) -> None:
        put(at, self.attributes[number])

    def copy(self, target: int, source: int, size: int) -> None:
        assert size == 512 << 20, "a quarter of what is free, and beyond any cache"
        time.sleep(COPY_S)

    def load(self, module: int, image: bytes) -> None:
        self.kernels.append(image.decode())

    def launch(self, kernel: int, *given: Any) -> None:
        self.shapes.append(given[:6])
        time.sleep(PRODUCT_S)


def put(at: Any, value: int) -> None:
    at[0] = value


def measured_on(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reached]:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    return (Reached(**json.loads(json.dumps(answer))) for answer in cuda.measure(None))


def test_a_gpu_is_measured_through_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    known, copied, multiplied = measured_on(driver, monkeypatch)
    assert known == Reached("A card", 8 << 30, False)
    assert copied.bytes_per_s is not None
    assert 0.2 < copied.bytes_per_s * COPY_S / (2 * (512 << 20)) <= 1
    assert multiplied.flops is not None
    # 10 multiprocessors, 4 blocks each of 8 warps, 2^15 rounds of 8 products of 16 x 16 with 16 x 8.
    operations = 10 * 4 * 8 * 2**15 * 8 * (2 * 16 * 16 * 8)
    assert 0.2 < multiplied.flops * PRODUCT_S / operations <= 1
    assert set(driver.shapes) == {(40, 1, 1, 256, 1, 1)}
    (kernel,) = driver.kernels
    assert ".target sm_80" in kernel
    assert kernel.count("mma.sync.aligned.m16n8k16") == 8


def test_an_older_gpu_gets_the_product_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(attributes={**ATTRIBUTES, 75: 7, 76: 5, 18: 1})
    *_, last = measured_on(driver, monkeypatch)
    assert last.unified
    assert ".target sm_75" in driver.kernels[0]
    assert driver.kernels[0].count("mma.sync.aligned.m16n8k8.") == 8


@pytest.mark.parametrize(("fails", "known"), [("cuModuleLoadData", 2), ("cuMemAlloc_v2", 1), ("cuCtxCreate_v2", 1)])
def test_what_was_measured_before_a_failure_counts(fails: str, known: int, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = measured_on(Driver((fails,)), monkeypatch)
    assert [next(answers).name for _ in range(known)] == ["A card"] * known
    with pytest.raises(EdgekitError, match="the NVIDIA driver says CUresult 2"):
        next(answers)


@pytest.mark.parametrize("fails", ["cuInit", "cuDeviceGetCount"])
def test_a_driver_without_a_gpu(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(measured_on(Driver((fails,)), monkeypatch)) == []


@pytest.mark.skipif(shutil.which("ptxas") is None, reason="NVIDIA's assembler is not on the path")
@pytest.mark.parametrize(("major", "minor"), [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0)])
def test_the_kernel_is_what_nvidias_assembler_takes(
    major: int, minor: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(attributes={**ATTRIBUTES, 75: major, 76: minor})
    assert list(measured_on(driver, monkeypatch))
    monkeypatch.undo()
    (tmp_path / "kernel.ptx").write_text(driver.kernels[0])
    command = ["ptxas", f"-arch=sm_{major}{minor}", str(tmp_path / "kernel.ptx"), "-o", str(tmp_path / "kernel.o")]
    subprocess.run(command, check=True)


def test_a_process_that_cannot_start_measures_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise OSError("no process")

    monkeypatch.setattr(worker, "run", refuse)
    assert cuda.reached() is None


# ---------------------------------------------------------------- the profile


def doubtful(monkeypatch: pytest.MonkeyPatch, why: str | None) -> None:
    """Have the machine be disturbed, or quiet, while it is measured."""
    monkeypatch.setattr(disturbance.Conditions, "disturbed", property(lambda conditions: why))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Workers that answer at once, by the name of their work; a test changes what they say."""
    said: dict[str, list[Any]] = {
        "measure_bandwidth": [{"1": 1.23456e10}, {"1": 1.23456e10, "2": 2.2e10}],
        "measure_rates": [{"fp32": {"per_s": 1e11, "library": "onnxruntime"}}],
    }

    def run(work: Callable[..., Any], *rest: Any, **named: Any) -> tuple[list[Any], End]:
        answers = said.get(work.__name__, [])
        return answers, End(0 if answers else 1, "" if answers else "it broke")

    monkeypatch.setattr(worker, "run", run)
    doubtful(monkeypatch, None)
    monkeypatch.setattr(profile, "find_gpus", lambda: ())
    monkeypatch.setattr(profile, "vulkan_devices", lambda: ())
    monkeypatch.setattr(profile, "read_speed", lambda folder: (2.5e9, "100 MB by one reader"))
    return said


@pytest.mark.usefixtures("quick")
def test_a_profile_says_what_when_and_how(tmp_path: Path) -> None:
    found = profile.measure(tmp_path).device
    assert found.name == "here"
    assert (found.bandwidth_gb_s, dict(found.bandwidth_by_threads)) == (22.0, {"1": 12.3, "2": 22.0})
    assert (found.gflops, found.disk_gb_s, found.gpu_memory_gb) == ({"fp32": 100.0}, 2.5, 0)
    assert (found.platform, found.cpu, found.instruction_sets) == (platform_name(), level(), cpu().features)
    assert found.cores == cpu().physical_cores
    assert 0 < found.model_memory_gb < found.memory_gb
    when = time.strftime("%Y-%m-%d", time.gmtime())
    for key in ("memory_gb", "cores", "bandwidth_gb_s", "bandwidth_by_threads", "gflops", "disk_gb_s"):
        assert re.match(rf"measured {when} on (mains|battery)(; .*)?: \S", found.sources[key]), key
    assert "onnxruntime" in found.sources["gflops"]
    path = tmp_path / "here-too.toml"
    path.write_text(text(found))
    assert device(str(path)).model_copy(update={"name": "here"}) == found


def test_a_library_that_dies_costs_its_own_figure(quick: dict[str, list[Any]], tmp_path: Path) -> None:
    quick["measure_rates"] = []
    found = profile.measure(tmp_path).device
    assert (found.bandwidth_gb_s, found.gflops) == (22.0, {})
    assert "gflops" not in found.sources
    quick["measure_bandwidth"] = []
    with pytest.raises(WorkerError, match="memory's bandwidth cannot be measured: it broke"):
        profile.measure(tmp_path)


@pytest.mark.usefixtures("quick")
def test_what_could_not_be_measured_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "read_speed", lambda folder: (None, "not measured: the folder is in memory"))
    found = profile.measure(tmp_path).device
    assert (found.disk_gb_s, found.sources["disk_gb_s"]) == (None, "not measured: the folder is in memory")


NVIDIA = Gpu("A card", 8192, 8000, "570", "8.9")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("gpus", "reached", "vulkan", "memory", "speed", "unified"),
    [
        ((NVIDIA,), Reached("A card", 8 << 30, False, 2.3e11, 1.75e13), (), 8.6, (230.0, 17500.0), False),
        ((NVIDIA,), Reached("A card", 8 << 30, False), (), 8.6, (None, None), False),
        ((), None, (VulkanDevice("Radeon", False, 6 << 30), VulkanDevice("Iris", False)), 6.4, (None, None), False),
        ((), None, (VulkanDevice("llvmpipe", True),), 0, (None, None), False),
        ((NVIDIA,), None, (), 0, (None, None), False),
    ],
)
def test_gpus(
    gpus: tuple[Gpu, ...],
    reached: Reached | None,
    vulkan: tuple[VulkanDevice, ...],
    memory: float,
    speed: tuple[float | None, float | None],
    unified: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profile, "find_gpus", lambda: gpus)
    monkeypatch.setattr(profile, "vulkan_devices", lambda: vulkan)
    monkeypatch.setattr(cuda, "reached", lambda: reached)
    found = profile.measure(tmp_path).device
    assert (found.gpu_memory_gb, (found.gpu_bandwidth_gb_s, found.gpu_gflops)) == (memory, speed)
    assert found.unified_memory is unified
    assert ("gpu_memory_gb" in found.sources) is bool(memory)


@pytest.mark.usefixtures("quick")
def test_unified_memory_is_granted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "find_gpus", lambda: (Gpu("Orin", 0, 0, "540", "8.7"),))
    monkeypatch.setattr(cuda, "reached", lambda: Reached("Orin", 8 << 30, True, 5.8e10, 7.5e12))
    found = profile.measure(tmp_path).device
    assert found.unified_memory
    assert found.gpu_memory_gb == found.model_memory_gb


def test_this_machine_is_measured_in_less_than_a_minute(tmp_path: Path) -> None:
    started = time.monotonic()
    found = profile.measure(tmp_path).device
    assert time.monotonic() - started < 60
    assert 0.5 < found.bandwidth_gb_s < 5000
    assert 1 < found.gflops["fp32"] < 1e6
    assert found.gflops["int8"] > 1
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- what is kept


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.usefixtures("quick")
def test_here_is_measured_once(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = device("here")
    assert "measuring this machine" in capsys.readouterr().err
    (path,) = (cache / "machine").iterdir()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    monkeypatch.setattr(profile, "measure", lambda *given: pytest.fail("it is known"))
    assert device("here") == first == here.known()
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("change", ["old", "damaged", "battery", "library", "wrong"])
def test_what_holds_no_more_is_measured_again(change: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device("here")
    (path,) = (cache / "machine").iterdir()
    if change == "old":
        month_ago = time.time() - here.LATELY_S - 60
        os.utime(path, (month_ago, month_ago))
    elif change == "damaged":
        path.write_bytes(path.read_bytes()[:40])
    elif change == "wrong":
        path.write_text(path.read_text().replace("cores = ", "cores = -"))
    elif change == "battery":
        plugged = profile.on_battery()
        monkeypatch.setattr(profile, "on_battery", lambda: not plugged)
    else:
        monkeypatch.setattr(profile.importlib.metadata, "version", lambda name: "99")
    assert here.known() is None
    assert device("here").bandwidth_gb_s == 22.0
    assert here.known() is not None


@pytest.mark.usefixtures("quick")
def test_what_was_measured_on_a_busy_machine_holds_for_an_hour(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doubtful(monkeypatch, "other work took 84% of the cores")
    assert "other work took 84% of the cores: " in device("here").sources["bandwidth_gb_s"]
    (path,) = (cache / "machine").iterdir()
    assert here.known() is not None
    earlier = time.time() - here.BUSY_S - 60
    os.utime(path, (earlier, earlier))
    assert here.known() is None
    doubtful(monkeypatch, None)
    quiet = device("here")
    os.utime(path)  # of two, the quiet one counts
    assert here.known() == quiet
    assert "other work" not in quiet.sources["bandwidth_gb_s"]


@pytest.mark.usefixtures("quick")
def test_without_a_cache_it_is_measured_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file" / "cache"))
    assert device("here").bandwidth_gb_s == 22.0
    assert device("here").bandwidth_gb_s == 22.0
    assert capsys.readouterr().err.count("measuring") == 2


# ---------------------------------------------------------------- the nearest profile


def of(name: str) -> tuple[dict[str, float], str, tuple[str, ...]]:
    """A shipped profile as if a machine were it."""
    stated = device(name)
    runs = [one for one in LEVELS if LEVELS[one].architecture == LEVELS[stated.cpu].architecture]
    return (
        nearest.of_device(stated),
        LEVELS[stated.cpu].architecture,
        (*runs[runs.index(stated.cpu) :], *stated.instruction_sets),
    )


def shipped() -> list[Device]:
    return [device(path.stem) for path in (Path(__file__).resolve().parent.parent / "devices").glob("*.toml")]


@pytest.mark.parametrize("name", [one.name for one in shipped()])
def test_each_profile_is_nearest_to_itself(name: str) -> None:
    found = nearest.choose(*of(name), shipped())
    assert found is not None
    assert (found.name, found.distance, dict(found.differences)) == (name, 0, {})


@pytest.mark.parametrize(
    ("figures", "processor", "abilities", "expected"),
    [
        ({"memory_gb": 15.3, "cores": 8, "gpu_memory_gb": 0}, "x86_64", ("x86-64-v3", "avx2"), "laptop-16gb-cpu"),
        ({"memory_gb": 7.6, "cores": 2, "gpu_memory_gb": 0}, "x86_64", ("x86-64-v3", "avx2"), "laptop-8gb-cpu"),
        ({"memory_gb": 31.0, "cores": 8, "gpu_memory_gb": 11.5}, "x86_64", ("x86-64-v3", "avx2"), "gpu-12gb"),
        ({"memory_gb": 8.2, "cores": 4, "gpu_memory_gb": 0}, "aarch64", ("armv8-a", "neon"), "raspberry-pi-5"),
    ],
)
def test_the_nearest_of_the_shipped(
    figures: dict[str, float], processor: str, abilities: tuple[str, ...], expected: str
) -> None:
    found = nearest.choose(figures, processor, abilities, shipped())
    assert found is not None
    assert found.name == expected


def test_of_no_profile_none_is_nearest() -> None:
    assert nearest.choose({"cores": 2.0}, "x86_64", (), []) is None


def test_a_wrong_profile_of_the_users_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "broken.toml").write_text("cores = -1")
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    with pytest.raises(UsageError):
        device("broken")
    found = nearest.nearest()
    assert found is not None
    assert str(found).startswith(f"{found.name} (")


# ---------------------------------------------------------------- the command


@pytest.mark.usefixtures("quick", "cache")
def test_the_command_writes_what_it_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "desk.toml"
    assert main(["profile", "--to", str(target)]) == 0
    said = capsys.readouterr()
    assert re.search(r"^bandwidth_by_threads\.2 +22 +0.5 GB", said.out, re.MULTILINE)
    assert re.search(r"^gflops\.fp32 +100 +a product", said.out, re.MULTILINE)
    assert "nearest of the profiles: " in said.err
    assert f"kept for --device here, written to {target}" in said.err
    written = device(str(target))
    assert (written.name, written.bandwidth_gb_s) == ("desk", 22.0)
    target.write_text(f"# ours\n{target.read_text()}")
    assert main(["profile", "--to", str(target)]) == 2
    assert f"--to {target}: is there" in capsys.readouterr().err
    assert target.read_text().startswith("# ours\n")
    assert main(["profile", "--to", str(target), "--force", "--json"]) == 0  # in place of itself
    assert not target.read_text().startswith("# ours\n")
    assert json.loads(capsys.readouterr().out)["device"]["disk_gb_s"] == 2.5
    assert written.model_copy(update={"name": "here"}) == device("here")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "{folder}/notes.txt"], "allowed: the name of a .toml file"),
        (["--to", "{folder}/here.toml"], "allowed: the name of a .toml file other than here.toml"),
        (["--to", "{folder}/taken.toml"], "is there and no device profile"),
        (["--to", "{folder}/taken.toml", "--force"], "is there and no device profile"),
        (["--to", "{folder}/nowhere/desk.toml"], "there is no folder"),
        (["--disk", "{folder}/taken.toml"], "is no folder"),
    ],
)
def test_a_place_that_cannot_be_is_refused_before_anything_is_measured(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "taken.toml").write_text("[project]\nname = 'x'\n")
    monkeypatch.setattr(profile, "measure", lambda *given: pytest.fail("too early"))
    assert main(["profile", *(one.format(folder=tmp_path) for one in arguments)]) == 2
    assert said in capsys.readouterr().err
    assert (tmp_path / "taken.toml").read_text().startswith("[project]")


@pytest.mark.usefixtures("cache")
def test_the_nearest_is_that_of_what_was_measured_now(
    quick: dict[str, list[Any]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    device("here")  # a quiet measurement, which a later one on a busy machine does not replace
    doubtful(monkeypatch, "other work took 84% of the cores")
    quick["measure_bandwidth"] = [{"1": 3e12}]
    assert main(["profile"]) == 0
    assert "bandwidth_gb_s 3000 here" in capsys.readouterr().err


def test_progress_is_told_every_step(quick: dict[str, list[Any]], tmp_path: Path) -> None:
    class Told(Progress):
        steps, done = 0, 0

        def start(self, label: str, total: int) -> None:
            self.steps = total

        def advance(self, units: int = 1) -> None:
            self.done += units

    told = Told()
    profile.measure(tmp_path, told)
    assert told.steps == told.done > 3


def test_a_name_that_is_none_says_what_there_is() -> None:
    with pytest.raises(UsageError, match="unknown device 'laptop-16-cpu': did you mean laptop-16gb-cpu"):
        device("laptop-16-cpu")


def test_what_the_gpu_reached_travels_between_processes() -> None:
    one = Reached("A card", 1, False, 2.0, None)
    assert Reached(**json.loads(json.dumps(asdict(one)))) == one
