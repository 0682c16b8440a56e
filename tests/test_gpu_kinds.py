"""What a build for a GPU needs: what is missing is named, with the command that brings it, before anything is built."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli import main
from edgekit.errors import MissingDependencyError, UsageError
from edgekit.machine import vulkan
from edgekit.machine.gpu import Gpu
from edgekit.machine.vulkan import VulkanDevice
from edgekit.runtime.llama import build, gpu_build, gpu_kinds, gpu_setup, self_test
from edgekit.runtime.llama.compiler import Compiler
from edgekit.runtime.llama.gpu_build import GpuBuild
from edgekit.runtime.llama.gpu_trial import GpuTrial
from edgekit.runtime.llama.video import VideoDevice

VERSION = """
#define VK_HEADER_VERSION {patch}
#define VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION(0, {major}, {minor}, VK_HEADER_VERSION)
"""


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Linux system in a folder with nothing on it: programs are in `bin`, the rest lies below `usr`."""
    for name in ("bin", "usr"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(gpu_kinds, "PREFIXES", (str(tmp_path / "usr"),))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("VULKAN_SDK", gpu_kinds.VULKAN_HEADERS):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def program(system: Path, name: str) -> None:
    (system / "bin" / name).touch(mode=0o755)


def headers(folder: Path, version: tuple[int, int, int], *, plus_plus: bool = True) -> None:
    (folder / "vulkan").mkdir(parents=True)
    major, minor, patch = version
    (folder / "vulkan" / "vulkan_core.h").write_text(VERSION.format(major=major, minor=minor, patch=patch))
    if plus_plus:
        (folder / "vulkan" / "vulkan.hpp").touch()


def vulkan_but_headers(system: Path) -> None:
    """All that a build for Vulkan needs, its headers excepted."""
    program(system, "glslc")
    for name in ("lib/x86_64-linux-gnu/libvulkan.so", "share/cmake/SPIRV-Headers/SPIRV-HeadersConfig.cmake"):
        (system / "usr" / name).parent.mkdir(parents=True)
        (system / "usr" / name).touch()


def refusal(name: str) -> MissingDependencyError:
    with pytest.raises(MissingDependencyError) as caught:
        gpu_kinds.KINDS[name].require()
    return caught.value


@pytest.mark.parametrize(
    ("manager", "command"),
    [
        ("apt-get", "apt-get install libvulkan-dev glslc spirv-headers;"),
        ("dnf", "dnf install vulkan-headers vulkan-loader-devel glslc spirv-headers-devel;"),
        ("none", "install libvulkan-dev, glslc, spirv-headers;"),
    ],
)
def test_all_that_vulkan_lacks_is_named_at_once(system: Path, manager: str, command: str) -> None:
    program(system, manager)
    error = refusal("vulkan")
    assert error.remedy
    assert error.remedy.startswith(command)
    said = "\n".join(error.items)
    assert len(error.items) == 4
    for what in ("headers are not there", "libvulkan.so", "glslc", "SPIRV-Headers"):
        assert what in said


@pytest.mark.parametrize("version", [(1, 3, 275), (1, 4, 309), (2, 0, 0)])
def test_headers_that_are_new_enough(system: Path, version: tuple[int, int, int]) -> None:
    vulkan_but_headers(system)
    headers(system / "usr" / "include", version)
    gpu_kinds.KINDS["vulkan"].require()


@pytest.mark.parametrize("version", [(1, 3, 239), (1, 3, 274), (1, 2, 999), (0, 9, 999)])
def test_headers_that_are_too_old(system: Path, version: tuple[int, int, int]) -> None:
    vulkan_but_headers(system)
    program(system, "apt-get")
    headers(system / "usr" / "include", version)
    error = refusal("vulkan")
    (said,) = error.items
    assert ".".join(map(str, version)) in said
    assert "1.3.275" in said
    assert error.remedy
    assert "apt-get install libvulkan-dev" in error.remedy
    assert f"{gpu_kinds.VULKAN_HEADERS}=FOLDER" in error.remedy


def test_headers_that_do_not_say_what_they_are(system: Path) -> None:
    vulkan_but_headers(system)
    (system / "usr" / "include" / "vulkan").mkdir(parents=True)
    for text in ("", "#define VK_HEADER_VERSION x", VERSION.format(major="9" * 50, minor=0, patch="")):
        (system / "usr" / "include" / "vulkan" / "vulkan_core.h").write_text(text)
        assert "of an unknown version" in refusal("vulkan").items[0]


def test_headers_for_c_alone(system: Path) -> None:
    vulkan_but_headers(system)
    headers(system / "usr" / "include", (1, 4, 309), plus_plus=False)
    assert "vulkan.hpp" in refusal("vulkan").items[0]


def test_newer_headers_beside_are_taken_by_their_name(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And by no other: what the user names counts, also where it is wrong."""
    vulkan_but_headers(system)
    headers(system / "usr" / "include", (1, 3, 239))
    headers(system / "newer", (1, 4, 309))
    monkeypatch.setenv(gpu_kinds.VULKAN_HEADERS, str(system / "newer"))
    kind = gpu_kinds.KINDS["vulkan"]
    kind.require()
    assert f"{gpu_kinds.VULKAN_HEADERS}={system / 'newer'}" in kind.definitions
    monkeypatch.setenv(gpu_kinds.VULKAN_HEADERS, str(system / "nowhere"))
    assert f"{gpu_kinds.VULKAN_HEADERS}={system / 'nowhere'}" in refusal("vulkan").items[0]


def test_cuda_and_metal_name_what_they_lack(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(system, "apt-get")
    assert "apt-get install nvidia-cuda-toolkit" in str(refusal("cuda"))
    assert "this is no Mac" in str(refusal("metal"))
    program(system, "nvcc")
    gpu_kinds.KINDS["cuda"].require()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "Xcode" in str(refusal("metal"))


def test_every_kind_says_what_brings_each_thing() -> None:
    assert list(gpu_kinds.KINDS) == ["metal", "cuda", "vulkan"]
    for name, kind in gpu_kinds.KINDS.items():
        assert any(f"GGML_{name.upper()}=ON" == option for option in kind.options)
        assert name == "metal" or all(need.packages for need in kind.needs)


# ---------------------------------------------------------------- the choice

LLVMPIPE, CARD = VulkanDevice("llvmpipe", software=True), VulkanDevice("AMD Radeon", software=False)


@pytest.mark.parametrize(
    ("platform", "nvidia", "nvcc", "devices", "name"),
    [
        ("darwin", False, False, (), "metal"),
        ("linux", True, True, (CARD,), "cuda"),
        ("linux", True, False, (LLVMPIPE, CARD), "vulkan"),
        ("linux", False, True, (CARD,), "vulkan"),
        ("linux", True, False, (LLVMPIPE,), None),
        ("linux", False, False, (), None),
    ],
)
def test_what_auto_chooses(
    system: Path,
    monkeypatch: pytest.MonkeyPatch,
    platform: str,
    nvidia: bool,
    nvcc: bool,
    devices: tuple[VulkanDevice, ...],
    name: str | None,
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(gpu_kinds.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(gpu_kinds, "find_gpus", lambda: (Gpu("H200", 1, 1, "570", "9.0"),) if nvidia else ())
    monkeypatch.setattr(gpu_kinds, "vulkan_devices", lambda: devices)
    if nvcc:
        program(system, "nvcc")
    kind, why = gpu_kinds.chosen("auto")
    assert (kind and kind.name) == name
    assert why


def test_a_kind_by_name() -> None:
    assert gpu_kinds.chosen("none")[0] is None
    assert gpu_kinds.chosen("cuda")[0] is gpu_kinds.KINDS["cuda"]
    with pytest.raises(UsageError, match=r"unknown kind of GPU 'vulcan': did you mean vulkan\?") as caught:
        gpu_kinds.chosen("vulcan")
    assert caught.value.allowed == "auto, metal, cuda, vulkan, none"


def test_no_driver_means_no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        monkeypatch.setenv(name, str(tmp_path / "none.json"))
    assert vulkan.vulkan_devices() == ()


def test_both_builds_have_keys_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "find_compiler", lambda: Compiler("gcc", (12, 2, 0)))
    monkeypatch.delenv(gpu_kinds.VULKAN_HEADERS, raising=False)
    cpu = build.plan_build()
    keys = {cpu.key, *(build.plan_build(gpu=kind).key for kind in gpu_kinds.KINDS.values())}
    monkeypatch.setenv(gpu_kinds.VULKAN_HEADERS, "/elsewhere")
    keys.add(build.plan_build(gpu=gpu_kinds.KINDS["vulkan"]).key)
    assert len(keys) == len(gpu_kinds.KINDS) + 2
    assert build.plan_build() == cpu, "what a GPU needs does not change the CPU's build"


# ---------------------------------------------------------------- the command


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The commands' builds, which are none: what was asked for."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    asked: list[str] = []

    def setup(**options: object) -> build.SetupResult:
        asked.append("cpu")
        return build.SetupResult("0", "key", Path("x.whl"), True, 0.0, "AVX2")

    def setup_gpu(kind: gpu_kinds.GpuKind, **options: object) -> gpu_setup.GpuSetup:
        asked.append(kind.name)
        card = VideoDevice("Vulkan0", "A card", 2_000_000_000, 8_000_000_000)
        trial = GpuTrial(True, "logits within 0.10% of the CPU's")
        return gpu_setup.GpuSetup(GpuBuild(kind, "gpu-key"), card, trial, False, 60.0)

    monkeypatch.setattr(build, "find_compiler", lambda: Compiler("gcc", (12, 2, 0)))
    monkeypatch.setattr(build, "setup", setup)
    monkeypatch.setattr(self_test, "result", lambda **options: self_test.SelfTestResult("ok", "tried"))
    monkeypatch.setattr(gpu_setup, "setup", setup_gpu)
    return asked


def test_setup_builds_nothing_where_anything_is_missing(built: list[str], system: Path) -> None:
    assert main(["setup", "--gpu", "vulcan"]) == 2
    assert main(["setup", "--gpu", "vulkan"]) == 1
    assert built == []


def cached(kind: gpu_kinds.GpuKind) -> Path:
    """A build's wheel as an earlier setup left it in the cache."""
    folder = build.build_folder(build.plan_build(gpu=kind).key)
    folder.mkdir(parents=True, mode=0o700)
    wheel = folder / "llama.whl"
    wheel.write_bytes(b"a wheel")
    record = {"wheel": {"name": wheel.name, "sha256": hashlib.sha256(b"a wheel").hexdigest()}}
    (folder / "build.json").write_text(json.dumps(record))
    return wheel


def test_what_compiling_needs_is_not_asked_of_who_has_the_build(
    built: list[str], system: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = cached(gpu_kinds.KINDS["vulkan"])
    assert main(["setup", "--gpu", "vulkan"]) == 0
    assert built == ["cpu", "vulkan"]
    assert main(["setup", "--gpu", "vulkan", "--force"]) == 1
    assert "cannot be built for Vulkan" in capsys.readouterr().err
    wheel.write_bytes(b"another")
    assert main(["setup", "--gpu", "vulkan"]) == 1
    said = capsys.readouterr().err
    assert "was changed since" in said
    assert "edgekit setup --force --gpu vulkan builds it again" in said
    wheel.unlink()
    assert main(["setup", "--gpu", "vulkan"]) == 1
    assert "cannot be built for Vulkan" in capsys.readouterr().err
    assert built == ["cpu", "vulkan"]


def test_that_there_is_no_gpu_is_said_before_anything_is_built(
    built: list[str], system: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_kinds, "vulkan_devices", lambda: (LLVMPIPE,))
    monkeypatch.setattr(gpu_kinds, "find_gpus", tuple)
    setup, said = build.setup, []

    def listening(**options: Any) -> build.SetupResult:
        said.append(capsys.readouterr().err)
        return setup(**options)

    monkeypatch.setattr(build, "setup", listening)
    assert main(["setup", "--gpu", "auto"]) == 0
    assert main(["setup", "--gpu", "auto", "--json"]) == 0
    assert built == ["cpu", "cpu"]
    assert "no build for a GPU: no Apple GPU" in said[0]
    assert said[1] == ""
    assert json.loads(capsys.readouterr().out)["gpu"] is None


def test_setup_builds_for_both(
    built: list[str], system: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program(system, "nvcc")
    monkeypatch.setattr(gpu_kinds, "find_gpus", lambda: (Gpu("H200", 1, 1, "570", "9.0"),))
    assert main(["setup", "--gpu", "auto"]) == 0
    assert built == ["cpu", "cuda"]
    said = capsys.readouterr().out
    for what in (
        "CUDA: H200 (driver 570)",
        "CUDA build built and tried in 60 s",
        "A card (Vulkan0, 2.0 of 8.0 GB free)",
    ):
        assert what in said
    assert main(["setup", "--gpu", "cuda", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gpu"]["device"] == "A card"


def test_only_none_has_a_build_count_no_more(
    built: list[str], system: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_kinds, "vulkan_devices", lambda: (LLVMPIPE,))
    kept = GpuBuild(gpu_kinds.KINDS["vulkan"], f"{build.VERSION}-x")
    kept.libraries.mkdir(parents=True, mode=0o700)
    gpu_build.choose(kept)
    assert main(["setup", "--gpu", "auto"]) == 0
    assert "no build for a GPU: no Apple GPU" in capsys.readouterr().err
    assert gpu_build.current() == kept
    assert main(["setup", "--gpu", "none"]) == 0
    assert gpu_build.current() is None
    assert built == ["cpu", "cpu"]
