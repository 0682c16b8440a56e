"""Device profiles: what a file may say, where each shipped figure comes from, and that every key is read."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import UsageError
from edgekit.machine.cpu import LEVELS
from edgekit.machine.device import CHOICES, Device, missing, text
from edgekit.machine.devices import device

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = [
    *("laptop-8gb-cpu", "laptop-16gb-cpu", "laptop-16gb-amx", "mini-pc-n100", "raspberry-pi-5", "jetson-orin-nano"),
    *("apple-m-8gb", "apple-m-16gb", "android-8gb", "gpu-4gb", "gpu-6gb", "gpu-8gb", "gpu-12gb"),
]
FIGURES = ("cores", "bandwidth_gb_s", "gflops", "disk_gb_s", "gpu_bandwidth_gb_s", "gpu_gflops")
BOARD = {
    "title": "a board",
    "memory_gb": 8,
    "model_memory_gb": 5,
    "cores": 4,
    "bandwidth_gb_s": 12.5,
    "gflops": {"fp32": 100, "int8": 400},
    "sources": {"cores": "measured 2026-12-01 on mains: as the system says"},
}


def stated(data: dict[str, Any]) -> str:
    """TOML of a plain table, by hand."""

    def value(one: Any) -> str:
        if isinstance(one, dict):
            return "{" + ", ".join(f"{key} = {value(two)}" for key, two in one.items()) + "}"
        return str(one).lower() if isinstance(one, bool) else repr(one).replace("'", '"')

    return "".join(f"{key} = {value(one)}\n" for key, one in data.items())


def written(folder: Path, **changed: Any) -> str:
    """The path of a board's file, with some keys changed; None takes one away."""
    path = folder / "board.toml"
    path.write_text(stated({key: one for key, one in {**BOARD, **changed}.items() if one is not None}))
    return str(path)


# ---------------------------------------------------------------- what is shipped


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_says_of_every_figure_where_it_comes_from(name: str) -> None:
    raw = tomllib.loads((ROOT / "devices" / f"{name}.toml").read_text(encoding="utf-8"))
    profile = device(name)
    needed = {key for key in FIGURES if key in raw} | ({"gpu_memory_gb"} if profile.unified_memory else set())
    assert {"cores", "bandwidth_gb_s", "gflops", "disk_gb_s"} <= needed
    assert needed <= set(profile.sources)
    assert not set(CHOICES) & set(profile.sources), "a choice has no source"
    for source in profile.sources.values():
        assert re.match(r"measured \d{4}-\d\d-\d\d|https?://\S+: \S|estimate: \S|NVIDIA, ", source), source
    for kind, rate in profile.gflops.items():
        assert rate < profile.gflops["int8"] or kind == "int8"
    assert profile.bandwidth(1) <= profile.bandwidth_gb_s
    assert bool(profile.gpu_memory_gb) == bool(profile.gpu_bandwidth_gb_s) == bool(profile.gpu_gflops)
    if match := re.search(r"-(\d+)gb", name):
        size = profile.gpu_memory_gb if name.startswith("gpu-") else profile.memory_gb
        assert size == int(match[1])


def test_all_profiles_are_there() -> None:
    assert {path.stem for path in (ROOT / "devices").glob("*.toml")} == set(SHIPPED)


def reads() -> Iterator[str]:
    """Attributes that are read of something called a device or a profile, outside the module that defines them."""
    for path in (ROOT / "edgekit").rglob("*.py"):
        if path.relative_to(ROOT).as_posix() != "edgekit/machine/device.py":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
                    if owner in ("device", "profile", "measured", "found", "shipped", "here"):
                        yield node.attr


def test_every_key_is_read_by_something() -> None:
    assert set(Device.model_fields) - set(reads()) == set()


# ---------------------------------------------------------------- what a file may say


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"memory_gb": -1}, "memory_gb: -1"),
        ({"bandwidth_gb_s": 0}, "bandwidth_gb_s: 0"),
        ({"bandwidth_gb_s": True}, "bandwidth_gb_s"),
        ({"cores": 2.5}, "cores"),
        ({"cores": "4"}, "cores: '4'"),
        ({"model_memory_gb": 9}, "model_memory_gb: more than there is"),
        ({"gflops": {"fp32": -5}}, r"gflops\.fp32: -5"),
        ({"gflops": {"fp64": 5}}, "gflops.*fp64"),
        ({"bandwidth_by_threads": {"0": 5}}, "bandwidth_by_threads"),
        ({"bandwidth_by_threads": {"two": 5}}, "bandwidth_by_threads"),
        ({"disk_gb_s": 0}, "disk_gb_s: 0"),
        ({"platform": "beos-ppc"}, "platform: 'beos-ppc'"),
        ({"cpu": "x86-64-v9"}, "cpu: 'x86-64-v9' is no level of linux-x86_64, which are x86-64-v4, x86-64-v3"),
        ({"cpu": "armv8-a"}, "cpu: 'armv8-a' is no level of linux-x86_64"),
        ({"platform": "linux-aarch64", "cpu": "x86-64-v3"}, "which are armv8"),
        ({"gpu_bandwidth_gb_s": 100}, "gpu_memory_gb: is 0, and other keys speak of a GPU"),
        ({"unified_memory": True}, "gpu_memory_gb: is 0"),
        ({"unified_memory": True, "gpu_memory_gb": 9}, "gpu_memory_gb: more than all of unified memory"),
        ({"power": "steam"}, "power: 'steam'"),
        ({"sources": {"speed": "a guess"}}, "sources: 'speed' is no key of a device"),
        ({"sources": {"cores": ""}}, r"sources\.cores"),
        ({"title": None}, "title: is missing"),
        ({"colour": "red"}, "colour: is unknown"),
    ],
)
def test_what_is_wrong_is_said_with_its_key(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"device .*board.toml: .*{said}") as caught:
        device(written(tmp_path, **changed))
    assert "devices/README.md says what each key means" in (caught.value.remedy or "")


@pytest.mark.parametrize(
    ("sets", "platform", "cpu"),
    [
        ([], "linux-x86_64", "x86-64-v3"),
        (["avx2"], "linux-x86_64", "x86-64-v3"),
        (["vnni"], "linux-x86_64", "x86-64-v2"),
        (["neon"], "linux-aarch64", "armv8-a"),
        (["neon", "dotprod", "fp16"], "linux-aarch64", "armv8.2-a+dotprod+fp16"),
    ],
)
def test_a_file_from_before_says_its_processor_by_its_instruction_sets(
    sets: list[str], platform: str, cpu: str, tmp_path: Path
) -> None:
    found = device(written(tmp_path, instruction_sets=sets))
    assert (found.platform, found.cpu) == (platform, cpu)


def test_bandwidth_is_that_of_the_most_threads_measured_of_no_more() -> None:
    found = Device(name="a", **{**BOARD, "bandwidth_by_threads": {"1": 7.0, "4": 12.5, "2": 11.0}})
    assert [found.bandwidth(threads) for threads in (1, 2, 3, 4, 64)] == [7.0, 11.0, 11.0, 12.5, 12.5]
    assert Device(name="a", **BOARD).bandwidth(1) == 12.5


rate = st.floats(1e-3, 1e6)
line = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=60)


@given(
    st.fixed_dictionaries(
        {"title": line, "cores": st.integers(1, 99_999), "bandwidth_gb_s": rate},
        optional={
            "bandwidth_by_threads": st.dictionaries(st.integers(1, 99_999).map(str), rate, max_size=4),
            "gpu_memory_gb": rate,
            "disk_gb_s": st.floats(1e-6, 1e4),
            "power": st.sampled_from(["mains", "battery"]),
            "instruction_sets": st.lists(line, max_size=3).map(tuple),
            "sources": st.dictionaries(st.sampled_from(sorted(Device.model_fields)), line, max_size=3),
            "context": st.integers(1, 1 << 20),
        },
    )
)
def test_a_written_profile_reads_as_it_was(tmp_path_factory: pytest.TempPathFactory, changed: dict[str, Any]) -> None:
    profile = Device(name="board", **{**BOARD, "memory_gb": 8.0, **changed})
    path = tmp_path_factory.mktemp("written") / "board.toml"
    path.write_text(text(profile), encoding="utf-8")
    assert device(str(path)) == profile
    assert tomllib.loads(text(profile))["cores"] == profile.cores


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_reads_as_it_was_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.toml"
    path.write_text(text(device(name)), encoding="utf-8")
    assert device(str(path)) == device(name)


def test_another_processor_is_said() -> None:
    from edgekit.machine.cpu import Cpu

    pi, windows = device("raspberry-pi-5"), Cpu("a CPU", "amd64", ("avx2",), 8, 8)
    assert "a processor of aarch64 (it has amd64)" in (missing(pi, windows, 16 * 10**9) or "")
    assert missing(device("laptop-16gb-cpu"), windows, 16 * 10**9) is None
    mac = Cpu("Apple M2", "arm64", ("AdvSIMD", "FEAT_DotProd", "FEAT_FP16"), 8, 8)
    assert missing(device("apple-m-8gb"), mac, 8 * 10**9) is None


def test_a_device_is_made_for_a_level_that_is_known() -> None:
    assert {device(name).cpu for name in SHIPPED} <= set(LEVELS)
