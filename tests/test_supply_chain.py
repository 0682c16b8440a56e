"""What `edgekit setup` takes from elsewhere: only files of the stated hash, and from its cache only what it put there.

pip is the real one; where it fetches, it looks into a local folder alone.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.errors import EdgekitError
from edgekit.machine.cache import private_folder
from edgekit.runtime.llama import build, build_inputs

POSIX = pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs POSIX permissions")


@pytest.fixture
def offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip looks into, instead of any index."""
    folder = tmp_path / "offered"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def tampered_source(folder: Path, mark: Path) -> None:
    """The right name and version, a build that runs, and other content: it writes a mark when it is asked anything."""
    backend = f"""
import pathlib
pathlib.Path({str(mark)!r}).write_text("ran")
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = pathlib.Path(folder) / "llama_cpp_python-{build.VERSION}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: llama_cpp_python\\nVersion: {build.VERSION}\\n")
    return info.name
def build_wheel(folder, config_settings=None, metadata_directory=None):
    raise SystemExit(1)
"""
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": backend,
        "PKG-INFO": f"Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: {build.VERSION}\n",
    }
    name = f"llama_cpp_python-{build.VERSION}"
    with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as archive:
        for path, text in files.items():
            data = text.encode()
            entry = tarfile.TarInfo(f"{name}/{path}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def test_a_source_of_another_hash_is_refused_before_it_runs(offered: Path, tmp_path: Path) -> None:
    tampered_source(offered, tmp_path / "mark")
    (tmp_path / "scratch").mkdir()
    with pytest.raises(EdgekitError, match=r"source of llama-cpp-python(.|\n)*DO NOT MATCH THE HASHES") as caught:
        build_inputs.fetch_source(tmp_path / "scratch", dict(os.environ))
    assert build_inputs.SOURCE_SHA256 in caught.value.message
    assert not (tmp_path / "mark").exists()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation", "--dest", str(tmp_path)]
    subprocess.run([*command, f"llama-cpp-python=={build.VERSION}"], check=True, capture_output=True)
    assert (tmp_path / "mark").exists(), "without a hash it runs: the test can fail"


def test_a_build_tool_of_another_hash_is_refused(offered: Path, tmp_path: Path) -> None:
    for name, release, _ in pinned():
        stem = f"{name.replace('-', '_')}-{release}"
        with zipfile.ZipFile(offered / f"{stem}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n")
            wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{stem}.dist-info/RECORD", "")
    with pytest.raises(EdgekitError, match=r"the build tools(.|\n)*DO NOT MATCH THE HASHES"):
        build_inputs.fetch_tools(tmp_path / "tools")
    assert not (tmp_path / "tools").exists()


def pinned() -> list[tuple[str, str, list[str]]]:
    """Name, release and hashes of each build tool."""
    text = build_inputs.REQUIREMENTS.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(*line[0].split("=="), [word.removeprefix("--hash=sha256:") for word in line[1:]]) for line in lines]  # type: ignore[misc]


def test_every_tool_has_one_release_and_its_hashes() -> None:
    """Of cmake and ninja those of all systems: each wheel of a release is another file."""
    tools = {name: hashes for name, _, hashes in pinned()}
    assert tools.keys() == {"scikit-build-core", "cmake", "ninja", "packaging", "pathspec"}
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for hashes in tools.values() for digest in hashes)
    assert min(len(tools["cmake"]), len(tools["ninja"])) > 10
    assert re.fullmatch(r"[0-9a-f]{64}", build_inputs.SOURCE_SHA256)


# ---------------------------------------------------------------- the cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("EDGEKIT_CACHE", str(folder))
    return folder


@pytest.fixture
def built(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheel of a build whose compilers were left out; pip was, too, and notes what it would have installed."""

    def command(*arguments: str) -> list[str]:
        script = ""
        if arguments[0] == "wheel":
            script = f"open({arguments[arguments.index('--wheel-dir') + 1]!r} + '/llama.whl', 'w').write('right')"
        elif "--force-reinstall" in arguments:
            script = f"import pathlib; pathlib.Path({str(cache.parent / 'installed')!r}).touch()"
        return [sys.executable, "-c", script]

    monkeypatch.setattr(build_inputs, "pip_command", command)
    monkeypatch.setattr(build, "probe", lambda question: (True, "AVX2"))
    monkeypatch.setattr(build, "installed_key", lambda: None)
    wheel = build.setup(progress=False).wheel
    (cache.parent / "installed").unlink()
    return wheel


def refused(match: str, cache: Path) -> EdgekitError:
    """Set-up ends with this error, and nothing was installed."""
    with pytest.raises(EdgekitError, match=match) as caught:
        build.setup(progress=False)
    assert not (cache.parent / "installed").exists()
    return caught.value


def test_what_was_built_is_installed_again(built: Path, cache: Path) -> None:
    assert build.setup(progress=False).reused
    assert (cache.parent / "installed").exists()


def test_a_wheel_that_was_changed_is_not_installed(built: Path, cache: Path) -> None:
    built.write_text("wrong")
    error = refused(r"llama\.whl: its SHA-256 is .* it was changed since", cache)
    assert "edgekit setup --force" in str(error.remedy)
    assert not build.setup(progress=False, force=True).reused
    assert built.read_text() == "right"
    assert build.setup(progress=False).reused


def test_a_wheel_that_no_build_recorded_is_not_installed(built: Path, cache: Path) -> None:
    """As one put there by somebody, or an interrupted build: it is built again."""
    (built.parent / "build.json").unlink()
    built.write_text("wrong")
    assert not build.setup(progress=False).reused
    assert built.read_text() == "right"


@pytest.mark.parametrize(
    "record", ["", "[]", "{}", '{"wheel": 3}', '{"wheel": {"name": "llama.whl"}}', "\udcff", "[" * 9999]
)
def test_a_record_that_says_nothing_is_refused(built: Path, cache: Path, record: str) -> None:
    (built.parent / "build.json").write_bytes(record.encode("utf-8", "surrogateescape"))
    assert refused(r"build\.json: ", cache).remedy == "edgekit setup --force"


def test_a_record_cannot_name_a_wheel_elsewhere(built: Path, cache: Path) -> None:
    other = cache.parent / "other.whl"
    other.write_text("wrong")
    record = json.loads((built.parent / "build.json").read_text())
    (built.parent / "build.json").write_text(json.dumps({**record, "wheel": {**record["wheel"], "name": str(other)}}))
    refused(r"build\.json: wheel\.name: ", cache)


OPENED: dict[str, Callable[[Path, Path], Path]] = {
    "the build's folder": lambda cache, built: built.parent,
    "the folder of builds": lambda cache, built: cache / "llama-cpp",
    "the cache": lambda cache, built: cache,
    "above the cache": lambda cache, built: cache.parent,
}


@POSIX
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
@pytest.mark.parametrize("where", OPENED)
def test_a_cache_that_others_can_write_is_not_used(built: Path, cache: Path, where: str, mode: int) -> None:
    """A sticky folder lets nobody rename what is another's, but all may add to it: that is no place for a cache."""
    folder = OPENED[where](cache, built)
    before = folder.stat().st_mode
    folder.chmod(mode)
    try:
        if where == "above the cache" and mode & 0o1000:  # as /tmp is, where this test runs
            assert build.setup(progress=False).reused
        else:
            error = refused(f"{re.escape(str(folder))}: others may write to it", cache)
            assert f"chmod go-w {folder}" in str(error.remedy)
    finally:
        folder.chmod(before)


@POSIX
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give folders away")
@pytest.mark.parametrize("where", OPENED)
def test_a_cache_that_is_another_users_is_not_used(built: Path, cache: Path, where: str) -> None:
    folder = OPENED[where](cache, built)
    os.chown(folder, 65_534, -1)
    try:
        refused(f"{re.escape(str(folder))}: belongs to the user 65534", cache)
    finally:
        os.chown(folder, 0, -1)


@POSIX
def test_a_link_into_an_open_folder_is_seen_through(built: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hall = cache.parent / "hall"
    hall.mkdir()
    cache.rename(hall / "cache")
    cache.symlink_to(hall / "cache")
    assert build.setup(progress=False).reused
    (cache.parent / "installed").unlink()
    hall.chmod(0o777)
    refused(f"{re.escape(str(hall))}: others may write to it", cache)


@POSIX
def test_folders_are_made_for_this_user_alone(cache: Path) -> None:
    before = os.umask(0o002)
    try:
        folder = private_folder(cache / "a" / "b")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (folder, folder.parent, cache)] == [0o700] * 3


# ---------------------------------------------------------------- the real thing


@pytest.mark.slow
def test_a_real_build_takes_nothing_but_what_is_pinned(cache: Path, tmp_path: Path) -> None:
    """In an environment of its own, behind which this one's libraries lie: llama.cpp starts, and is built but once."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    root = Path(__file__).resolve().parent.parent
    (site / "others.pth").write_text(f"{root}\n{sysconfig.get_path('purelib')}\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for reused in (False, True):
        run = [str(python), "-m", "edgekit", "setup", "--json"]
        done = subprocess.run(run, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["reused"] is reused
    assert (site / "llama_cpp").is_dir()
    log = (cache / "llama-cpp" / "build.log").read_text(errors="replace")
    assert "Collecting" not in log
    assert "Downloading" not in log
