"""Wheels: the same content is the same bytes, pip takes them, and they are the ones that another machine needs.

pip, gcc and binutils say what is right.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

import edgekit
from edgekit.cli import main
from edgekit.errors import ArtifactError, MissingDependencyError, UsageError
from edgekit.machine.cpu import platform_name
from edgekit.pack import keys, wheelhouse
from edgekit.pack.build import PackOptions, build
from edgekit.pack.contents import sbom
from edgekit.pack.installed_wheels import installed_wheel, own_wheel
from edgekit.pack.llama_wheel import oldest_glibc, portable
from edgekit.pack.needed_wheels import Interpreter, needed
from edgekit.pack.wheel_files import Wheel, read_wheel, write_wheel
from edgekit.pack.wheelhouse import PYTHON_HERE, Wanted, for_device, gather
from edgekit.progress import Progress
from edgekit.runtime.llama.build import build_folder
from edgekit.runtime.llama.target_build import plan_target
from edgekit.runtime.llama.targets import TARGETS

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
HERE = Interpreter(PYTHON_HERE, platform_name())
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="wheels of Linux")


def wheel(
    name: str,
    version: str = "1.0",
    tag: str = "py3-none-any",
    requires: tuple[str, ...] = (),
    extras: tuple[str, ...] = (),
) -> Wheel:
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    lines += [f"Provides-Extra: {extra}" for extra in extras] + [f"Requires-Dist: {one}" for one in requires]
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    files = {
        f"{name.replace('-', '_')}.py": b"VALUE = 1\n",
        f"{info}/METADATA": ("\n".join(lines) + "\n").encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    return Wheel(name.replace("-", "_"), version, tag, files)


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull}
    return subprocess.run([*PIP, *arguments], capture_output=True, text=True, env=environment, check=False)


# ---------------------------------------------------------------- files


def test_the_same_content_is_the_same_bytes(tmp_path: Path) -> None:
    made = wheel("thing")
    first = write_wheel(made, tmp_path)
    (tmp_path / "again").mkdir()
    before = os.umask(0o077)
    try:
        other = dataclasses.replace(made, files=dict(reversed(made.files.items())))
        second = write_wheel(other, tmp_path / "again")
    finally:
        os.umask(before)
    assert first.read_bytes() == second.read_bytes()
    assert read_wheel(first).files == {**made.files}


def test_pip_takes_it_and_finds_every_hash_right(tmp_path: Path) -> None:
    written = write_wheel(wheel("thing"), tmp_path)
    done = pip("install", "--no-index", "--no-deps", "--target", str(tmp_path / "into"), str(written))
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "into" / "thing-1.0.dist-info" / "RECORD").read_text().splitlines()
    stated = dict(line.split(",")[:2] for line in lines)
    data = (tmp_path / "into" / "thing.py").read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()
    assert stated["thing.py"] == f"sha256={digest.rstrip('=')}"


def test_tags_are_in_the_metadata_one_by_one(tmp_path: Path) -> None:
    tag = "cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64"
    written = write_wheel(wheel("thing", tag=tag), tmp_path)
    with zipfile.ZipFile(written) as archive:
        text = archive.read("thing-1.0.dist-info/WHEEL").decode()
    assert re.findall(r"^Tag: (.*)$", text, re.MULTILINE) == [
        "cp311-cp311-manylinux_2_27_x86_64",
        "cp311-cp311-manylinux_2_28_x86_64",
    ]


def rewritten(path: Path, change: Mapping[str, bytes | None]) -> Path:
    """The wheel with some files replaced, added, or left out."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**files, **change}.items():
            if data is not None:
                archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"thing.py": b"VALUE = 2\n"}, r"thing\.py is not what its RECORD says"),
        ({"more.py": b""}, r"more\.py is not in its RECORD"),
        ({"thing-1.0.dist-info/RECORD": None}, "has no thing-1.0.dist-info/RECORD"),
        ({"thing-1.0.dist-info/RECORD": b"thing.py\n"}, "RECORD cannot be read"),
        ({"thing-1.0.dist-info/RECORD": b"\xff"}, "RECORD cannot be read"),
        ({"thing-1.0.dist-info/RECORD": b"thing.py,md5=x,1\n"}, r"thing\.py is not in its RECORD"),
    ],
)
def test_a_wheel_that_is_not_what_it_says(tmp_path: Path, change: dict[str, bytes | None], match: str) -> None:
    with pytest.raises(ArtifactError, match=match):
        read_wheel(rewritten(write_wheel(wheel("thing"), tmp_path), change))


@pytest.mark.parametrize(("name", "match"), [("a.whl", "named as wheels"), ("a-1-py3-none-any.whl", "no zip archive")])
def test_no_wheel_at_all(tmp_path: Path, name: str, match: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ArtifactError, match=match):
        read_wheel(tmp_path / name)


# ---------------------------------------------------------------- what is installed here


def test_a_package_packed_again_is_what_was_installed(tmp_path: Path) -> None:
    """Installed from its own wheel by pip, every file is the one that lies here."""
    written = write_wheel(installed_wheel("jinja2"), tmp_path)
    done = pip("install", "--no-index", "--no-deps", "--no-compile", "--target", str(tmp_path / "into"), str(written))
    assert done.returncode == 0, done.stderr
    import jinja2

    here = Path(jinja2.__file__).parent
    there = tmp_path / "into" / "jinja2"
    names = [path.relative_to(there) for path in there.rglob("*") if path.is_file()]
    assert len(names) > 20
    assert all((there / name).read_bytes() == (here / name).read_bytes() for name in names)


def test_one_that_is_not_installed() -> None:
    with pytest.raises(MissingDependencyError, match="no-such-thing is not installed"):
        installed_wheel("no-such-thing")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="the wheel's build backend is not installed")
    return own_wheel(tmp_path_factory.mktemp("own"))


INSTALLED = "import sys; from pathlib import Path; from edgekit.pack.installed_wheels import own_wheel; "


def test_a_checkout_and_an_installation_give_the_same_bytes(own: Path, tmp_path: Path) -> None:
    into = tmp_path / "into"
    done = pip("install", "--no-index", "--no-deps", "--target", str(into), str(own))
    assert done.returncode == 0, done.stderr
    environment = {**os.environ, "PYTHONPATH": str(into)}
    code = INSTALLED + "print(own_wheel(Path(sys.argv[1])))"
    command = [sys.executable, "-P", "-c", code, str(tmp_path)]
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, cwd=tmp_path)
    assert Path(again.stdout.strip()).parent == tmp_path
    assert Path(again.stdout.strip()).read_bytes() == own.read_bytes()
    (into / "edgekit" / "errors.py").write_text("# mine\n" + (into / "edgekit" / "errors.py").read_text())
    changed = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=tmp_path)
    assert "errors.py: was changed since it was installed" in changed.stderr


def test_it_has_what_runs_here(own: Path) -> None:
    files = read_wheel(own).files
    assert files["edgekit/errors.py"] == Path(edgekit.__file__).with_name("errors.py").read_bytes()
    assert "edgekit/data/devices/raspberry-pi-5.toml" in files
    assert not [name for name in files if name.endswith(".pyc")]


# ---------------------------------------------------------------- what another machine needs

SHELF = (
    wheel("app", requires=("base>=1,<2", 'colour>=1; sys_platform == "win32"', 'old; python_version < "3.12"',
                           'fast; platform_machine == "aarch64"', 'app[more]; extra == "all"',
                           'extra1; extra == "more"'),
          extras=("more", "all")),
    wheel("base", "1.2", requires=("deep",)),
    wheel("base", "1.10"),
    wheel("base", "2.0"),
    wheel("deep"), wheel("colour"), wheel("old"), wheel("extra1"),
    wheel("fast", tag="cp311-cp311-manylinux_2_28_aarch64"),
    wheel("fast", tag="cp312-cp312-manylinux_2_17_aarch64"),
    wheel("fast", tag="cp39-abi3-manylinux_2_35_aarch64"),
)  # fmt: skip


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    for one in SHELF:
        write_wheel(one, folder)
    return folder


@pytest.mark.parametrize(
    ("python", "platform", "wanted"),
    [
        ("3.11", "linux-x86_64", {"app", "base", "old", "extra1"}),
        ("3.12", "linux-x86_64", {"app", "base", "extra1"}),
        ("3.12", "windows-x86_64", {"app", "base", "extra1", "colour"}),
        ("3.11", "linux-aarch64", {"app", "base", "old", "extra1", "fast"}),
        ("3.12", "macos-arm64", {"app", "base", "extra1"}),
    ],
)
def test_conditions_are_about_the_other_machine(shelf: Path, python: str, platform: str, wanted: set[str]) -> None:
    found = needed(shelf.glob("*.whl"), ["app[all]"], Interpreter(python, platform))
    assert found.missing == {}
    assert set(found.wheels) == wanted
    assert found.wheels["base"].name == "base-1.10-py3-none-any.whl"
    if "fast" in wanted:
        assert found.wheels["fast"].name == "fast-1.0-cp311-cp311-manylinux_2_28_aarch64.whl"


def test_extras_that_were_not_asked_for(shelf: Path) -> None:
    assert set(needed(shelf.glob("*.whl"), ["app"], Interpreter("3.12", "linux-x86_64")).wheels) == {"app", "base"}


def test_what_is_missing_is_named_with_whose_it_is(shelf: Path) -> None:
    found = needed(shelf.glob("*.whl"), ["app", "other>3"], Interpreter("3.13", "linux-aarch64"))
    assert {name: str(missing) for name, missing in found.missing.items()} == {
        "fast": "fast, which app needs", "other": "other>3"
    }  # fmt: skip


def test_what_several_need_is_missing_once(tmp_path: Path) -> None:
    """With all that is required of it together, and without the conditions, which hold here."""
    for one in (
        wheel("app", requires=("base", "Deep>=2; python_version < '3.14'", "deep[x]<4")),
        wheel("base", requires=("deep!=3; sys_platform == 'linux'", "deep==9; sys_platform == 'win32'")),
    ):
        write_wheel(one, tmp_path)
    found = needed(tmp_path.glob("*.whl"), ["app"], Interpreter("3.12", "linux-x86_64"))
    assert [str(missing) for missing in found.missing.values()] == ["deep[x]!=3,<4,>=2, which app and base need"]


def test_a_wheel_of_later_pythons_is_not_taken_for_an_earlier_one(tmp_path: Path) -> None:
    """Its tag is every Python's; pip says the same."""
    for version, python in (("1.0", ">=3.9"), ("2.0", ">=3.12")):
        made = wheel("app", version)
        name = f"app-{version}.dist-info/METADATA"
        stated = made.files[name] + f"Requires-Python: {python}\n".encode()
        write_wheel(dataclasses.replace(made, files={**made.files, name: stated}), tmp_path)
    for python, version in (("3.11", "1.0"), ("3.12", "2.0"), ("3.13", "2.0")):
        found = needed(tmp_path.glob("*.whl"), ["app"], Interpreter(python, platform_name()))
        assert found.wheels["app"].name == f"app-{version}-py3-none-any.whl"
        into = tmp_path / python
        command = ("download", "--quiet", "--no-index", "--no-deps", "--find-links", str(tmp_path), "--dest", str(into))
        assert pip(*command, "--only-binary", ":all:", "--python-version", python, "app").returncode == 0
        assert [path.name for path in into.iterdir()] == [found.wheels["app"].name]


def test_a_file_that_is_no_wheel(tmp_path: Path) -> None:
    (tmp_path / "notes.whl").touch()
    with pytest.raises(ArtifactError, match=r"notes\.whl"):
        needed([tmp_path / "notes.whl"], ["app"], HERE)
    (tmp_path / "app-1.0-py3-none-any.whl").write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="is no wheel"):
        needed([tmp_path / "app-1.0-py3-none-any.whl"], ["app"], HERE)


# ---------------------------------------------------------------- processors

# ggml's switch -> what gcc defines where it may use that.
MACROS = {
    "SSE42": "__SSE4_2__", "AVX": "__AVX__", "F16C": "__F16C__", "AVX2": "__AVX2__", "BMI2": "__BMI2__",
    "FMA": "__FMA__", "AVX_VNNI": "__AVXVNNI__", "AVX512": "__AVX512VL__", "AVX512_VBMI": "__AVX512VBMI__",
    "AVX512_VNNI": "__AVX512VNNI__", "AVX512_BF16": "__AVX512BF16__", "AMX_TILE": "__AMX_TILE__",
    "AMX_INT8": "__AMX_INT8__", "AMX_BF16": "__AMX_BF16__",
}  # fmt: skip
ARM_MACROS = {"dotprod": "__ARM_FEATURE_DOTPROD", "fp16": "__ARM_FEATURE_FP16_VECTOR_ARITHMETIC",
              "i8mm": "__ARM_FEATURE_MATMUL_INT8"}  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
def test_a_build_uses_what_the_compiler_means_by_its_level(name: str) -> None:
    """All of it, and nothing else."""
    target = TARGETS[name]
    gcc = shutil.which("gcc" if target.platform == platform_name() else f"{target.platform[6:]}-linux-gnu-gcc")
    if not gcc:
        pytest.skip(f"no gcc for {target.platform}")
    printed = run(gcc, f"-march={name}", "-dM", "-E", "-x", "c", os.devnull)
    defined = set(re.findall(r"^#define (\w+)", printed, re.MULTILINE))
    if target.platform == "linux-x86_64":
        on = {option.removeprefix("GGML_").removesuffix("=ON") for option in target.options if option.endswith("=ON")}
        assert {switch for switch, macro in MACROS.items() if macro in defined} == on
        assert len(target.options) == len(MACROS)
    else:
        assert target.options == (f"GGML_CPU_ARM_ARCH={name}",)
        assert {word for word, macro in ARM_MACROS.items() if macro in defined} == set(name.split("+")[1:])


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# ---------------------------------------------------------------- llama.cpp's wheel


@linux
def test_the_oldest_c_library_is_what_binutils_says() -> None:
    readelf = shutil.which("readelf")
    llama = pytest.importorskip("llama_cpp")
    if not readelf:
        pytest.skip("needs binutils")
    libraries = sorted((Path(llama.__file__).parent / "lib").glob("*.so"))
    assert libraries
    for library in libraries:
        printed = run(readelf, "-V", str(library))
        minors = [int(minor) for minor in re.findall(r"Name: GLIBC_2\.(\d+)", printed)]
        assert oldest_glibc(library.read_bytes()) == max(17, *minors)


def test_the_openmp_library_comes_along(tmp_path: Path) -> None:
    openmp = tmp_path / "libgomp.so.1.0.0"
    openmp.write_bytes(b"\x7fELF\x00GLIBC_2.34\x00GLIBC_PRIVATE\x00")
    plain = wheel("llama_cpp_python", "0.3.36", "py3-none-linux_x86_64")
    info = "llama_cpp_python-0.3.36.dist-info/METADATA"
    said = b"Name: llama_cpp_python\nVersion: 0.3.36\nLicense: MIT\n\nLicense: see above\n"
    library = {"llama_cpp/lib/libllama.so": b"\x00GLIBC_2.29\x00"}
    plain = dataclasses.replace(plain, files={**plain.files, info: said, **library})
    made = portable(plain, "linux-aarch64", openmp)
    assert made.tag == "py3-none-manylinux_2_34_aarch64"
    assert made.files["llama_cpp/lib/libgomp.so.1"] == openmp.read_bytes()
    terms = made.files["llama_cpp_python-0.3.36.dist-info/licenses/libgomp.txt"]
    assert b"GPL-3.0-or-later WITH GCC-exception-3.1" in terms
    path = write_wheel(made, tmp_path)
    assert sbom.read_wheel(path, path.name).license == "MIT AND GPL-3.0-or-later WITH GCC-exception-3.1"
    assert made.files[info].endswith(b"\n\nLicense: see above\n")


# ---------------------------------------------------------------- the wheelhouse


@pytest.fixture
def _built_once(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """edgekit's own wheel, which takes seconds, is the one that was built for the tests above."""
    monkeypatch.setattr(wheelhouse, "own_wheel", lambda folder: shutil.copy(own, folder / own.name))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with builds of llama.cpp for two levels, both the one that is installed here."""
    pytest.importorskip("llama_cpp")
    folder = tmp_path_factory.mktemp("given")
    for level in ("x86-64-v2", "x86-64-v3"):
        (folder / level).mkdir()
        write_wheel(installed_wheel("llama_cpp_python"), folder / level)
    return folder


@pytest.fixture(scope="module")
def house(own: Path, given: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For this machine, from what is installed: no index is asked."""
    if platform_name() != "linux-x86_64":
        pytest.skip("levels of x86-64")
    folder = tmp_path_factory.mktemp("house")
    wanted = Wanted("linux-x86_64", ("x86-64-v2", "x86-64-v3"), (PYTHON_HERE,), given=given)
    gathered = gather(wanted, folder)
    assert set(gathered) == {path for path in folder.rglob("*") if path.is_file()}
    return folder


def test_pip_resolves_the_same_from_it_alone(house: Path) -> None:
    report = pip(
        "install", "--dry-run", "--ignore-installed", "--quiet", "--no-index", "--find-links", str(house),
        "--find-links", str(house / "x86-64-v2"), "--report", "-", "edgekit[install]", "llama-cpp-python",
    )  # fmt: skip
    assert report.returncode == 0, report.stderr
    taken = {Path(one["download_info"]["url"]).name for one in json.loads(report.stdout)["install"]}
    assert taken == {path.name for path in house.glob("*.whl")} | {path.name for path in house.glob("x86-64-v2/*.whl")}


@pytest.mark.usefixtures("_built_once")
def test_two_wheelhouses_are_the_same_bytes(house: Path, given: Path, tmp_path: Path) -> None:
    gather(Wanted("linux-x86_64", ("x86-64-v2",), (PYTHON_HERE,), given=given), tmp_path / "other")
    files = {path.relative_to(tmp_path / "other"): path for path in (tmp_path / "other").rglob("*.whl")}
    assert len(files) > 20
    assert all((house / name).read_bytes() == path.read_bytes() for name, path in files.items())


@pytest.mark.usefixtures("_built_once")
def test_what_is_found_nowhere_is_all_named(given: Path, tmp_path: Path) -> None:
    wanted = Wanted("linux-aarch64", (), ("3.12",), given=given / "x86-64-v2")
    with pytest.raises(ArtifactError, match=r"no wheel for Python 3\.12 on linux-aarch64") as caught:
        gather(wanted, tmp_path / "new")
    names = [re.split(r"[\[<>=!~,]", item)[0] for item in caught.value.items]
    assert len(names) == len(set(names))
    assert "cryptography<52,>=46, which edgekit needs" in caught.value.items
    assert not [item for item in caught.value.items if ";" in item]
    assert "--download" in str(caught.value.remedy)
    assert not (tmp_path / "new").exists()


@pytest.fixture
def _nothing_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("_nothing_compiled")
def test_a_build_that_nobody_made(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no build of llama\.cpp for x86-64-v2 here") as caught:
        gather(Wanted("linux-x86_64", ("x86-64-v2",), (PYTHON_HERE,)), tmp_path / "new")
    assert [item.partition(":")[0] for item in caught.value.items] == ["--download", "--wheelhouse FOLDER"]
    assert "compiles it here" in caught.value.items[0]
    assert "minutes" in caught.value.items[0]
    assert caught.value.remedy == "the same command with --download or --wheelhouse FOLDER"


@pytest.mark.usefixtures("_nothing_compiled")
def test_a_lower_level_that_is_at_hand_is_named(given: Path, tmp_path: Path) -> None:
    """In the folder that was given, and what was compiled here; the highest of them, and none that needs more."""
    with pytest.raises(ArtifactError, match=r"for x86-64-v4 in .*, nor here") as caught:
        gather(Wanted("linux-x86_64", ("x86-64-v4",), (PYTHON_HERE,), given=given), tmp_path / "new")
    assert caught.value.items[0].startswith("--cpu x86-64-v3: in place of x86-64-v4")
    assert str(caught.value.remedy).startswith("the same command with --cpu x86-64-v3 or --download")
    shutil.copytree(given / "x86-64-v3", tmp_path / "one" / "x86-64-v3")
    with pytest.raises(ArtifactError, match="for x86-64-v2 in") as caught:
        gather(Wanted("linux-x86_64", ("x86-64-v2",), (PYTHON_HERE,), given=tmp_path / "one"), tmp_path / "new")
    assert "--cpu" not in str(caught.value.remedy)
    plan = plan_target(TARGETS["x86-64-v2"])
    built = write_wheel(wheel("llama_cpp_python"), made(build_folder(plan.key)))
    record = {"wheel": {"name": built.name, "sha256": hashlib.sha256(built.read_bytes()).hexdigest()}}
    (built.parent / "build.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match="for x86-64-v3 here") as caught:
        gather(Wanted("linux-x86_64", ("x86-64-v3",), (PYTHON_HERE,)), tmp_path / "new")
    assert caught.value.items[0].startswith("--cpu x86-64-v2: ")


def made(folder: Path) -> Path:
    folder.mkdir(parents=True, mode=0o700)
    return folder


@pytest.mark.usefixtures("_nothing_compiled")
def test_one_levels_build_serves_no_other(given: Path, tmp_path: Path) -> None:
    wanted = Wanted("linux-x86_64", ("x86-64-v3", "x86-64-v4"), (PYTHON_HERE,), given=given)
    with pytest.raises(ArtifactError, match=r"no build of llama\.cpp for x86-64-v4"):
        gather(wanted, tmp_path / "new")


@pytest.mark.usefixtures("_nothing_compiled")
@pytest.mark.parametrize("download", [False, True])
def test_a_build_of_linux_is_none_for_macos(tmp_path: Path, download: bool) -> None:
    """Levels of ARM processors are the same on both."""
    wanted = for_device("apple-m-8gb")
    assert wanted.levels[0] in TARGETS
    with pytest.raises(ArtifactError, match=r"no build of llama\.cpp") as caught:
        gather(dataclasses.replace(wanted, download=download), tmp_path / "new")
    assert caught.value.remedy == "the same command with --wheelhouse FOLDER"
    assert "edgekit setup on macos-arm64" in caught.value.items[0]


def test_a_compiler_that_is_missing_is_named_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "none"), str(Path(sys.executable).parent)]))
    with pytest.raises(ArtifactError, match=r"no build of llama\.cpp") as caught:
        gather(for_device("raspberry-pi-5"), tmp_path / "new")
    assert caught.value.items[0].startswith("--download: after apt-get install g++-aarch64-linux-gnu compiles it here")


# ---------------------------------------------------------------- several versions of Python

BOTH = (
    wheel("base", requires=("fast", 'old; python_version < "3.12"')),
    wheel("fast", tag="cp311-cp311-manylinux_2_17_x86_64"),
    wheel("fast", tag="cp312-cp312-manylinux_2_17_x86_64"),
    wheel("old", tag="cp311-cp311-manylinux_2_17_x86_64"),
    wheel("edgekit", requires=("base", "stable")),
    wheel("stable", tag="cp311-abi3-manylinux_2_17_x86_64"),
)


class Phases(Progress):
    """What is reported, in order."""

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.totals: list[int] = []
        self.done: list[int] = []

    def start(self, label: str, total: int) -> None:
        self.labels.append(label)
        self.totals.append(total)
        self.done.append(0)

    def advance(self, units: int = 1) -> None:
        self.done[-1] += units


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels for two versions of Python, of which edgekit needs few."""
    folder = tmp_path / "both"
    folder.mkdir()
    for one in BOTH:
        write_wheel(one, folder)
    own = next(folder.glob("edgekit-*"))
    monkeypatch.setattr(wheelhouse, "own_wheel", lambda scratch: shutil.copy(own, scratch / own.name))
    return folder


@pytest.mark.parametrize("pythons", [("3.11", "3.12"), ("3.12", "3.11")])
def test_what_one_python_takes_and_not_all_lies_in_its_folder(
    both: Path, tmp_path: Path, pythons: tuple[str, ...]
) -> None:
    """And from there the same is gathered again."""
    wanted = Wanted("linux-x86_64", (), pythons, extras=(), given=both)
    for name in ("new", "again"):
        gather(wanted, tmp_path / name)
        found = {path.relative_to(tmp_path / name).as_posix() for path in (tmp_path / name).rglob("*.whl")}
        assert found == {
            "base-1.0-py3-none-any.whl",
            "edgekit-1.0-py3-none-any.whl",
            "stable-1.0-cp311-abi3-manylinux_2_17_x86_64.whl",
            "3.11/fast-1.0-cp311-cp311-manylinux_2_17_x86_64.whl",
            "3.11/old-1.0-cp311-cp311-manylinux_2_17_x86_64.whl",
            "3.12/fast-1.0-cp312-cp312-manylinux_2_17_x86_64.whl",
        }
        wanted = dataclasses.replace(wanted, given=tmp_path / "new")
    gather(dataclasses.replace(wanted, python=("3.11",)), tmp_path / "one")
    assert not [path for path in (tmp_path / "one").iterdir() if path.is_dir()]
    assert len(list((tmp_path / "one").glob("*.whl"))) == 5


def test_a_python_that_has_no_wheel_is_named(both: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no wheel for Python 3\.13 on linux-x86_64") as caught:
        gather(Wanted("linux-x86_64", (), ("3.11", "3.13"), extras=(), given=both), tmp_path / "new")
    assert caught.value.items == ("fast, which base needs",)


def test_shares_are_stated_of_what_is_known(both: Path, tmp_path: Path) -> None:
    phases = Phases()
    gather(Wanted("linux-x86_64", (), ("3.11", "3.12"), extras=(), given=both), tmp_path / "new", phases)
    assert phases.labels == [
        "making edgekit's own wheel",
        "finding wheels for Python 3.11",
        "finding wheels for Python 3.12",
        "copying 6 wheels, 0 MB",
    ]
    assert phases.totals[:-1] == [0, 0, 0]
    size = sum(path.stat().st_size for path in (tmp_path / "new").rglob("*.whl"))
    assert (phases.totals[-1], phases.done[-1]) == (size, size)


def test_a_level_of_another_platform_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no level of linux-aarch64's processors") as caught:
        for_device("raspberry-pi-5", ("x86-64-v3",))
    assert "armv8.2-a+dotprod+fp16" in str(caught.value.allowed)
    with pytest.raises(UsageError, match="is no folder"):
        gather(Wanted("linux-x86_64", (), (PYTHON_HERE,), given=tmp_path / "none"), tmp_path / "new")
    with pytest.raises(UsageError, match="android-aarch64: edgekit cannot be installed there"):
        Wanted("android-aarch64", (), (PYTHON_HERE,)).check()
    for python in ("2.7", "3", "3.99", "three", "3.11.4"):
        with pytest.raises(UsageError, match="no version of Python that edgekit runs on"):
            for_device(None, python=(python,))


@pytest.mark.usefixtures("_built_once")
def test_the_command_says_what_it_gathered(
    given: Path, house: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["wheelhouse", "--cpu", "x86-64-v3", "--wheelhouse", str(given), "--to", str(tmp_path / "new"), "--json"]
    assert main(asked) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["platform"], said["cpu"], said["python"]) == ("linux-x86_64", ["x86-64-v3"], [PYTHON_HERE])
    found = {path.relative_to(tmp_path / "new").as_posix(): path.read_bytes() for path in tmp_path.rglob("*.whl")}
    assert {row["path"]: row["sha256"] for row in said["wheels"]} == {
        name: hashlib.sha256(data).hexdigest() for name, data in found.items()
    }
    assert [name for name in found if "/" in name] == [f"x86-64-v3/{next(house.glob('x86-64-v3/*')).name}"]


@pytest.mark.usefixtures("_built_once")
def test_a_bundle_brings_them(medsiglip_artifact: Path, house: Path, tmp_path: Path) -> None:
    """All but llama.cpp, which an ONNX file does not need."""
    keys.generate(tmp_path / "key")
    options = PackOptions("laptop-16gb-cpu", tmp_path / "key", "fp32")
    bundle = build(medsiglip_artifact, options, tmp_path / "bundle", Progress())
    brought = {file.path: file.sha256 for file in bundle.files if file.path.startswith("wheels/")}
    there = {f"wheels/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in house.glob("*.whl")}
    assert brought == there


@pytest.mark.slow
@linux
def test_a_new_environment_runs_from_it_alone(house: Path, tmp_path: Path) -> None:
    """With the interpreter alone: no index, no compiler, nothing of this environment."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    python = str(tmp_path / "env" / "bin" / "python")
    environment = {"PATH": "/nowhere", "HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    command = [python, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", str(house)]
    command += ["--find-links", str(house / "x86-64-v2"), "edgekit[install]", "llama-cpp-python"]
    subprocess.run(command, check=True, env=environment)
    run = [python, "-m", "edgekit", "list", "devices"]
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "raspberry-pi-5" in done.stdout
