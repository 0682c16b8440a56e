"""The build of llama.cpp: its key, its compiler, its cure for AMX, and what happens when it fails."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekit.errors import EdgekitError, MissingDependencyError
from edgekit.machine.cpu import cpu
from edgekit.runtime.llama import build, build_inputs, build_process, compiler
from edgekit.runtime.llama.compiler import Compiler

GCC = Compiler("gcc", (12, 2, 0))

# Fills a tile configuration from its arguments: both must have reached memory when ldtilecfg reads it.
TILE_SOURCE = """
#include <immintrin.h>
struct Config { unsigned char palette, start, reserved[14]; unsigned short columns[16]; unsigned char rows[16]; };
void configure(unsigned short columns, unsigned char rows) {
    Config config = {};
    config.palette = 1;
    config.columns[7] = columns;
    config.rows[7] = rows;
    _tile_loadconfig(&config);
}
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and a machine with a known compiler."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    for name in ("CMAKE_ARGS", "CFLAGS", "CXXFLAGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(build, "find_compiler", lambda: GCC)
    return tmp_path / "cache"


def on(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    """Pretend that the CPU has exactly these flags."""
    monkeypatch.setattr(build, "cpu", lambda: dataclasses.replace(cpu(), flags=flags))


def fake_pip(monkeypatch: pytest.MonkeyPatch, script: str) -> list[tuple[str, ...]]:
    """Replace pip by a script that finds the wheel folder in `folder`; the calls are recorded."""
    calls: list[tuple[str, ...]] = []

    def command(*arguments: str) -> list[str]:
        calls.append(arguments)
        folder = arguments[arguments.index("--wheel-dir") + 1] if "--wheel-dir" in arguments else ""
        return [sys.executable, "-c", f"folder = {folder!r}\n{script if folder else ''}"]

    monkeypatch.setattr(build_inputs, "pip_command", command)
    monkeypatch.setattr(build, "probe", lambda question: (True, "AVX2"))
    return calls


WRITES_WHEEL = "print('  [1/2] one')\nprint('  [2/2] two')\nopen(folder + '/llama.whl', 'w').write('wheel')"


class TestKey:
    def test_same_machine_same_key(self, cache: Path) -> None:
        assert build.plan_build().key == build.plan_build().key
        assert build.plan_build().key.startswith(build.VERSION)

    def test_everything_that_shapes_the_build_is_in_it(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        on(monkeypatch, "avx2")
        keys = [build.plan_build().key, build.plan_build(amx=False).key]
        on(monkeypatch, "avx2", "avx512f")
        keys.append(build.plan_build().key)
        monkeypatch.setattr(build, "find_compiler", lambda: Compiler("gcc", (14, 1, 0)))
        keys.append(build.plan_build().key)
        monkeypatch.setenv("CMAKE_ARGS", "-DGGML_VULKAN=ON")
        keys.append(build.plan_build().key)
        assert len(set(keys)) == len(keys)


class TestAmx:
    @pytest.mark.parametrize(
        ("kind", "version", "flags", "broken"),
        [
            ("gcc", (12, 2, 0), ("amx_tile",), True),
            ("gcc", (13, 2, 0), ("amx_tile",), True),
            ("gcc", (13, 2, 1), ("amx_tile",), False),
            ("gcc", (12, 2, 0), ("avx512f",), False),
            ("clang", (11, 0, 0), ("amx_tile",), False),
        ],
    )
    def test_which_compilers_need_the_repair(
        self, kind: str, version: tuple[int, ...], flags: tuple[str, ...], broken: bool
    ) -> None:
        assert Compiler(kind, version).breaks_amx(dataclasses.replace(cpu(), flags=flags)) is broken

    def test_the_plan_names_the_cure(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        on(monkeypatch, "amx_tile")
        assert "EDGEKIT_AMX=repair" in build.plan_build().options
        assert "EDGEKIT_AMX=off" in build.plan_build(amx=False).options
        on(monkeypatch, "avx2")
        assert "EDGEKIT_AMX=as-is" in build.plan_build().options

    def test_the_header_keeps_every_store(self, tmp_path: Path) -> None:
        gxx = shutil.which("g++")
        if cpu().architecture not in ("x86_64", "amd64") or not gxx or compiler.identify([gxx]).kind != "gcc":
            pytest.skip("needs gcc on x86-64")
        source = tmp_path / "tile.cpp"
        source.write_text(TILE_SOURCE)
        command = [gxx, "-O3", "-mamx-tile", "-Wall", "-Wextra", "-Werror", "-S", "-o", "-", str(source)]
        repaired = subprocess.run([*command, "-include", str(build.AMX_HEADER)], capture_output=True, text=True)
        assert repaired.returncode == 0, repaired.stderr
        assert stores_arguments(repaired.stdout)
        if compiler.identify([gxx]).version <= (13, 2, 0):
            plain = subprocess.run(command, capture_output=True, text=True, check=True)
            assert not stores_arguments(plain.stdout), "this gcc is not broken: breaks_amx() says it is"

    def test_the_header_is_empty_without_amx(self) -> None:
        gxx = shutil.which("g++")
        if not gxx:
            pytest.skip("needs g++")
        command = [gxx, "-E", "-P", "-x", "c++", "-mno-amx-tile", str(build.AMX_HEADER)]
        if cpu().architecture not in ("x86_64", "amd64"):
            command.remove("-mno-amx-tile")
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == ""


def stores_arguments(assembly: str) -> bool:
    """Whether both arguments (registers di and si) are stored before ldtilecfg."""
    before = assembly.split("ldtilecfg")[0]
    return "di, " in before and "si" in before


class TestCompiler:
    def test_the_real_one(self) -> None:
        if not any(map(shutil.which, ("c++", "g++", "clang++"))) or os.name == "nt":
            pytest.skip("no compiler on the path")
        found = compiler.find_compiler()
        assert found.kind in ("gcc", "clang")
        assert found.version > (4,)

    def test_none_names_the_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for tool, text in (("dnf", "dnf install gcc gcc-c++"), ("apt-get", "apt-get install build-essential")):
            (tmp_path / tool).touch(mode=0o755)
            monkeypatch.setenv("PATH", str(tmp_path))
            monkeypatch.setattr(sys, "platform", "linux")
            monkeypatch.delenv("CC", raising=False)
            with pytest.raises(MissingDependencyError, match="no C compiler found") as caught:
                compiler.find_compiler()
            assert text in str(caught.value)

    def test_cxx_that_does_not_exist(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setenv("CC", "no-such-compiler -O2")
        with pytest.raises(MissingDependencyError, match=r"\$CC is 'no-such-compiler -O2', which is not on the path"):
            compiler.find_compiler()

    def test_a_compiler_that_does_not_run(self) -> None:
        with pytest.raises(MissingDependencyError, match="does not work"):
            compiler.identify([sys.executable])


class TestSetup:
    def test_builds_then_reuses(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = fake_pip(monkeypatch, WRITES_WHEEL)
        monkeypatch.setattr(build, "installed_key", lambda: None)
        first = build.setup(progress=False)
        assert not first.reused
        assert first.wheel.read_text() == "wheel"
        assert sorted(path.name for path in first.wheel.parent.iterdir()) == ["build.json", "llama.whl"]
        assert [call[0] for call in calls] == ["install", "download", "wheel", "install"]
        assert "--config-settings=cmake.define.GGML_NATIVE=ON" in calls[2]

        monkeypatch.setattr(build, "installed_key", lambda: first.key)
        second = build.setup(progress=False)
        assert (second.reused, second.key, len(calls)) == (True, first.key, 4)
        assert not build.setup(progress=False, force=True).reused

    def test_failure_quotes_the_compiler_and_leaves_nothing(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_pip(monkeypatch, WRITES_WHEEL + "\nprint('x.cpp:1: error: no such thing')\nraise SystemExit(3)")
        with pytest.raises(EdgekitError, match=r"x\.cpp:1: error: no such thing") as caught:
            build.setup(progress=False)
        log = cache / "llama-cpp" / "build.log"
        assert str(log) in str(caught.value)
        assert list(log.parent.iterdir()) == [log]

    def test_a_build_that_does_not_start(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_pip(monkeypatch, WRITES_WHEEL)
        on(monkeypatch, "amx_tile")
        monkeypatch.setattr(build, "probe", lambda question: (False, "it died with SIGILL"))
        with pytest.raises(EdgekitError, match="does not start: it died with SIGILL") as caught:
            build.setup(progress=False)
        assert caught.value.remedy == "edgekit setup --force --no-amx"

    def test_what_is_shown_follows_ninja(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fake_pip(monkeypatch, WRITES_WHEEL)
        build.setup(progress=False)
        assert capsys.readouterr().err == ""
        build.setup(force=True)  # no terminal, no bar
        assert capsys.readouterr().err.startswith("edgekit: building llama-cpp-python")
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        build.setup(force=True)
        assert "100%" in capsys.readouterr().err

    def test_a_line_now_and_then_where_there_is_no_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        with build_process.shown_fraction("building", every_s=0.05) as reached:
            reached(0.25)
            time.sleep(0.4)
        lines = capsys.readouterr().err.splitlines()
        assert lines[0].startswith("edgekit: building: ")
        assert "edgekit: building: 25% after 0 s" in lines
        assert len(lines) >= 3

    def test_without_pip(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        monkeypatch.setattr(build_inputs.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(MissingDependencyError, match="has no pip"):
            build.setup(progress=False)
