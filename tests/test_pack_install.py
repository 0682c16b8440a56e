"""Bundles installed, updated and gone back from, in two slots; and everything for which nothing is touched."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from faults.installs import PYTHON, content, made, wheel, without_known

from edgekit.artifacts.files import sha256_file
from edgekit.cli import main
from edgekit.commands.support import bundles
from edgekit.errors import ArtifactError, BundleError, EdgekitError, NoSpaceError, UsageError
from edgekit.pack import differences, document, launchers, signature, slots
from edgekit.pack.bundle import Bundle
from edgekit.pack.install import install, rollback, status, update
from edgekit.progress import Progress

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX")


@dataclass
class Desk:
    """A key, bundles signed by it, and a root."""

    folder: Path

    @property
    def key(self) -> Path:
        return self.folder / "key.pub"

    @property
    def root(self) -> Path:
        return self.folder / "root"

    def bundle(self, version: int, place: str = "", files: Mapping[str, bytes] | None = None, **more: Any) -> Path:
        """A new bundle; its folder."""
        folder = self.folder / (place or f"v{version}")
        made(folder, self.folder / "key", version, files, **more)
        return folder

    def said(self, *words: str, **variables: str) -> str:
        """What the program says that is installed, from any folder."""
        command = [self.root / "run", "edgekit", *words]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd="/", env={**os.environ, **variables}
        )
        return done.stdout.strip()

    def works(self, version: int) -> None:
        """The version is in use, whole, and answers."""
        found = status(self.root)
        assert found.bundle.version == version
        assert self.said(":model") == f"edgekit {version} model {version}"
        for file in found.bundle.files:
            assert sha256_file(self.root / found.slot / file.path) == file.sha256


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    signature.generate(tmp_path / "key")
    return Desk(tmp_path)


@pytest.fixture
def first(desk: Desk) -> Desk:
    """Version 1 is installed."""
    install(desk.bundle(1), desk.root, desk.key)
    return desk


@pytest.fixture
def second(first: Desk) -> Desk:
    """Version 2 is installed after version 1."""
    update(first.bundle(2), first.root)
    return first


def tree(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything below a folder: inode, mode, content. What Python compiles when it runs is no content."""
    return {
        path.relative_to(folder).as_posix(): (
            path.lstat().st_ino,
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


# ---------------------------------------------------------------- the way of a bundle


def test_installed_updated_and_gone_back(desk: Desk) -> None:
    bundle = install(desk.bundle(1), desk.root, desk.key)
    assert bundle.version == 1
    desk.works(1)
    assert {path.name for path in desk.root.iterdir()} == {"a", "state.json", "key.pub", "run"}
    assert status(desk.root).other is None

    shutil.rmtree(desk.folder / "v1")  # the stick is gone
    update(desk.bundle(2), desk.root)
    desk.works(2)
    other = status(desk.root).other
    assert other is not None
    assert other.version == 1
    assert desk.said("x", EDGEKIT_SLOT="a") == "edgekit 1 x"

    assert rollback(desk.root).version == 1
    desk.works(1)
    with pytest.raises(UsageError, match="has gone back already, to version 1"):
        rollback(desk.root)
    desk.works(1)
    update(desk.folder / "v2", desk.root)
    desk.works(2)
    update(desk.bundle(3), desk.root)
    desk.works(3)
    assert {path.name for path in desk.root.iterdir()} == {"a", "b", "state.json", "key.pub", "run"}


def test_a_slot_is_the_bundle_and_its_environment(first: Desk) -> None:
    ours, slot = tree(first.folder / "v1"), tree(first.root / "a")
    inside = {name: entry for name, entry in slot.items() if name.split("/")[0] != "env"}
    assert {name: entry[2] for name, entry in inside.items()} == {name: entry[2] for name, entry in ours.items()}
    assert os.access(first.root / "a" / "install.sh", os.X_OK)
    assert not os.access(first.root / "a" / "model" / "weights", os.X_OK)


def test_what_is_the_same_is_linked_and_not_copied(second: Desk) -> None:
    slots = [second.root / name for name in "ab"]
    assert (slots[0] / "model/tokenizer").samefile(slots[1] / "model/tokenizer")
    assert not (slots[0] / "model/weights").samefile(slots[1] / "model/weights")
    bundle = status(second.root).bundle
    assert not any((second.folder / "v2" / file.path).samefile(slots[1] / file.path) for file in bundle.files)


def test_the_build_for_this_processor_is_taken(desk: Desk) -> None:
    """Of several: its code is what an environment has, and one that is for others is left alone."""
    files = content(1)
    (ours,) = (path for path in files if "llama" in path)
    theirs = "wheels/armv8-a" if "x86" in ours else "wheels/x86-64-v2"
    files[f"{theirs}/{ours.rpartition('/')[2]}"] = b"a wheel for others"
    install(desk.bundle(1, files=files), desk.root, desk.key)
    (found,) = (desk.root / "a" / "env").rglob("llama_cpp.py")
    assert ours.split("/")[1] in found.read_text()


def test_the_best_build_that_this_processor_runs_is_taken(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several levels, in whatever order a bundle names them."""
    files, build = content(1), "llama_cpp_python-1.0-py3-none-any.whl"
    files = {path: data for path, data in files.items() if "llama" not in path}
    for level in ("x86-64-v2", "x86-64-v3", "x86-64-v4"):
        files[f"wheels/{level}/{build}"] = wheel({"llama_cpp.py": f"LEVEL = {level!r}\n"}, build)
    bundle = desk.bundle(1, files=files, cpu=["x86-64-v2", "x86-64-v4", "x86-64-v3"])
    for runs, best in ((4, "x86-64-v4"), (3, "x86-64-v3"), (2, "x86-64-v2")):
        names = tuple(f"x86-64-v{number}" for number in range(runs, 1, -1))
        monkeypatch.setattr(slots, "levels", lambda names=names: names)
        root = desk.folder / best
        install(bundle, root, desk.key)
        (found,) = (root / "a" / "env").rglob("llama_cpp.py")
        assert found.read_text() == f"LEVEL = {best!r}\n"
    monkeypatch.setattr(slots, "levels", lambda: ("x86-64",))
    with pytest.raises(BundleError, match="is for processors of x86-64-v2 or x86-64-v4 or x86-64-v3"):
        install(bundle, desk.folder / "none", desk.key)


def for_several_pythons(desk: Desk, *others: str) -> Path:
    """A bundle with a package that each version has a wheel of its own of."""
    files = content(1)
    for python in (PYTHON, *others):
        short = f"cp{python.replace('.', '')}"
        name = f"thing-1.0-{short}-{short}-any.whl"
        files[f"wheels/{python}/{name}"] = wheel({"thing.py": f"MADE_FOR = {python!r}\n"}, name)
    return desk.bundle(1, files=files, python=[PYTHON, *others])


def test_a_bundle_for_several_pythons_installs_with_the_one_that_is_here(desk: Desk) -> None:
    bundle = for_several_pythons(desk, "3.98", "3.99")
    install(bundle, desk.root, desk.key)
    (found,) = (desk.root / "a" / "env").rglob("thing.py")
    assert found.read_text() == f"MADE_FOR = {PYTHON!r}\n"
    desk.works(1)


def test_a_root_may_be_moved(first: Desk) -> None:
    moved = first.root.rename(first.folder / "another place")
    done = subprocess.run([moved / "run", "edgekit", ":model", "a b"], capture_output=True, text=True, check=True)
    assert done.stdout == "edgekit 1 model 1 a b\n"


def test_the_launcher_needs_its_program_named(first: Desk) -> None:
    done = subprocess.run([first.root / "run", "ask"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: run edgekit COMMAND ...\n:model is the folder of the model")
    done = subprocess.run(
        [first.root / "run", "edgekit"],
        capture_output=True, text=True, check=False, env={**os.environ, "EDGEKIT_SLOT": "b"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing is installed" in done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [({}, "a/device/it.toml"), ({"EDGEKIT_DEVICE": "mine"}, "mine"), ({"EDGEKIT_DEVICE": ""}, "")],
)
def test_the_launcher_has_the_plan_of_its_own_slot_obeyed(
    first: Desk, given: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEKIT_DEVICE", raising=False)
    profile = first.root / "a" / "device" / "it.toml"
    profile.parent.mkdir()
    profile.touch()
    python = first.root / "a" / "env" / "bin" / "python"
    python.unlink()  # a link to the system's
    python.write_text('#!/bin/sh\necho "${EDGEKIT_DEVICE-none}"\n')
    python.chmod(0o755)
    assert first.said("x", **given) == (str(first.root / said) if "/" in said else said)
    profile.unlink()
    assert first.said("x") == "none"


def test_each_system_has_its_launcher() -> None:
    assert set(launchers.texts("posix")) == {"run"}
    windows = launchers.texts("nt")
    assert set(windows) == {"run.cmd", "run.ps1"}
    assert all(text.isascii() and text.count("\n") == text.count("\r\n") for text in windows.values())
    assert "env\\Scripts\\python.exe" in windows["run.ps1"]


# ---------------------------------------------------------------- what is said meanwhile


class Reported(Progress):
    """What is reported, in order."""

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.notes: list[str] = []

    def start(self, label: str, total: int) -> None:
        self.labels.append(label)

    def note(self, text: str) -> None:
        self.notes.append(text)


def asking(*lines: str) -> dict[str, bytes]:
    """The files of version 2, whose self-test writes these lines beside what libraries write."""
    files = content(2)
    worker = "import sys\nsys.stderr.write('a library says so\\n' * 10_000)\n"
    worker += "".join(f"print({line!r}, flush=True)\n" for line in lines)
    name = "wheels/edgekit-1.0-py3-none-any.whl"
    with zipfile.ZipFile(io.BytesIO(files[name])) as archive:
        program = {path: archive.read(path).decode() for path in archive.namelist() if path.startswith("edgekit/")}
    return {**files, name: wheel({**program, "edgekit/machine/worker.py": worker})}


STEPS = [
    "verifying 0 MB",
    "copying 0 MB",
    "making the environment of 2 wheels",
    "opening the model",
    "waiting for the disk",
    "switching",
]


def test_every_step_is_reported(desk: Desk) -> None:
    steps = Reported()
    install(desk.bundle(1), desk.root, desk.key, steps)
    assert steps.labels == STEPS
    update(desk.bundle(2, files=asking('{"question": 1, "of": 2}', '{"question": 2, "of": 2}', '"ok"')), desk.root)
    steps = Reported()
    rollback(desk.root, steps)
    assert steps.labels == ["verifying 0 MB", "opening the model", "switching"]
    steps = Reported()
    update(desk.folder / "v2", desk.root, progress=steps)
    asked = ["asking the model: question 1 of 2", "asking the model: question 2 of 2"]
    assert steps.labels == [*STEPS[:4], *asked, *STEPS[4:]]


@pytest.mark.parametrize("line", ["", "no JSON", "[", "3", '{"question": "x", "of": 2}', '{"question": 1}', "é"])
def test_what_another_versions_self_test_says_is_left_alone(desk: Desk, line: str) -> None:
    steps = Reported()
    install(desk.bundle(2, files=asking(line)), desk.root, desk.key, steps)
    assert steps.labels == STEPS
    desk.works(2)


def test_a_self_test_that_does_not_end_is_ended(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "TRIAL_LIMIT_S", 0.5)
    files = content(2)
    files["wheels/edgekit-1.0-py3-none-any.whl"] = wheel(
        {"edgekit/__init__.py": "", "edgekit/machine/__init__.py": "", "edgekit/machine/worker.py": "while True: pass"}
    )
    with pytest.raises(BundleError, match="its self-test did not end: stopped after"):
        install(desk.bundle(2, files=files), desk.root, desk.key)
    assert not desk.root.exists()


# ---------------------------------------------------------------- by difference


def test_an_update_brings_only_what_is_new(first: Desk) -> None:
    old, new = status(first.root).bundle, first.bundle(2)
    less = without_known(new, old, first.folder / "less")
    brought = {path.relative_to(less).as_posix() for path in less.rglob("*") if path.is_file()}
    assert brought == {
        "bundle.json", "bundle.sig.json", "model/weights", "golden/expected", "wheels/edgekit-1.0-py3-none-any.whl"
    }  # fmt: skip
    update(less, first.root)
    first.works(2)


def test_a_difference_is_by_content_and_not_by_path() -> None:
    def bundle(**files: str) -> Bundle:
        entries = [
            {"path": path, "bytes": 1, "sha256": digest * 64, "chunks": [digest * 64]} for path, digest in files.items()
        ]
        said = {
            "name": "n", "version": 1, "edgekit": "0", "title": "t", "license": "l", "level": "q", "device": "d",
            "platform": "linux-x86_64", "cpu": ("x86-64-v2",), "python": ("3.11",), "source_sha256": "a",
            "files": tuple(entries),
        }  # fmt: skip
        return Bundle.model_validate(said)

    old, new = bundle(a="1", b="2"), bundle(b="1", c="3", d="2", e="3", f="4")
    assert [file.path for file in differences.missing(new, old)] == ["c", "e", "f"]
    assert differences.missing(old, old) == ()


def test_an_update_of_another_bundle_is_refused(first: Desk) -> None:
    """What it lacks is nowhere; what is in use, and what it replaced, stay."""
    second, third = first.bundle(2), first.bundle(3, files={**content(3), "model/tokenizer": b"a new one"})
    less = without_known(third, document.read(second)[0], first.folder / "less")
    (less / "model" / "tokenizer").unlink()
    before = tree(first.root)
    with pytest.raises(BundleError, match="is an update of another bundle than the one in use: 1 files"):
        update(less, first.root)
    assert tree(first.root) == before


def test_a_first_install_takes_a_whole_bundle(first: Desk) -> None:
    less = without_known(first.bundle(2), status(first.root).bundle, first.folder / "less")
    with pytest.raises(BundleError, match="is missing"):
        install(less, first.folder / "new", first.key)
    assert not (first.folder / "new").exists()


def rot(path: Path) -> None:
    """Change a file as a failing disk does, under all its names."""
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def test_a_file_that_rotted_is_taken_from_the_bundle(first: Desk) -> None:
    rot(first.root / "a" / "model" / "tokenizer")
    update(first.bundle(2), first.root)
    first.works(2)


def test_a_file_that_rotted_is_not_taken_over(first: Desk) -> None:
    less = without_known(first.bundle(2), status(first.root).bundle, first.folder / "less")
    rot(first.root / "a" / "model" / "tokenizer")
    with pytest.raises(BundleError, match="model/tokenizer: not what was signed"):
        update(less, first.root)
    assert status(first.root).bundle.version == 1
    assert not (first.root / "b").exists()


def test_an_update_mends_a_slot_whose_document_is_gone(first: Desk) -> None:
    (first.root / "a" / "bundle.json").write_text("{}")
    with pytest.raises(BundleError):
        status(first.root)
    update(first.bundle(2), first.root)
    first.works(2)


# ---------------------------------------------------------------- the same bundle again


def test_the_bundle_in_use_is_not_installed_again(second: Desk) -> None:
    before, steps = tree(second.root), Reported()
    assert update(second.folder / "v2", second.root, progress=steps).version == 2
    assert tree(second.root) == before
    assert steps.notes == ["version 2 is already in use, its self-test passed: nothing was changed"]
    assert "switching" not in steps.labels


def test_the_bundle_in_use_is_repaired(first: Desk) -> None:
    """As where the system's Python was replaced by a later one."""
    python = first.root / "a" / "env" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3")
    update(first.folder / "v1", first.root)
    first.works(1)
    assert status(first.root).slot == "b"


# ---------------------------------------------------------------- what is refused


class Case(NamedTuple):
    """A bundle that must not be installed, and what is said of it."""

    more: Mapping[str, Any]
    said: str
    files: Mapping[str, bytes] | None = None


REFUSED = {
    "another system": Case({"platform": "macos-arm64"}, "is for macos-arm64, and this machine is"),
    "another Python": Case({"python": ["3.12", "3.13"]}, "has wheels for Python 3.12, 3.13, and this is 3.11"),
    "another processor": Case({"cpu": ["armv9"]}, "is for processors of armv9", {
        "model/weights": b"", "wheels/armv9/llama_cpp_python-1.0-py3-none-any.whl": b""}),
    "a wheel of another Python": Case({}, "no wheels of numpy fit Python", {
        **content(2), "wheels/numpy-2.0-cp399-cp399-manylinux_2_17_x86_64.whl": b""}),
    "a wheel that is none": Case({}, "is no wheel", {**content(2), "wheels/x-1.0-py3-none-any.whl": b"no"}),
    "another answer": Case({}, "its self-test failed on this machine: the answer is another one",
        content(2, expected="another")),
    "no edgekit": Case({}, "its self-test failed on this machine: ", {
        name: data for name, data in content(2).items() if "edgekit-" not in name}),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_bundle_that_does_not_work_here_changes_nothing(first: Desk, name: str) -> None:
    more, said, files = REFUSED[name]
    bundle = first.bundle(2, files=files, **more)
    before = tree(first.root)
    with pytest.raises(BundleError) as caught:
        update(bundle, first.root)
    assert said in str(caught.value)
    assert tree(first.root) == before
    with pytest.raises(BundleError):
        install(bundle, first.folder / "new", first.key)
    assert not (first.folder / "new").exists()


def test_a_failing_bundle_leaves_nothing_to_go_back_to_but_what_works(second: Desk) -> None:
    """The slot that was not in use had to make room."""
    with pytest.raises(BundleError):
        update(second.bundle(3, files=content(3, expected="another")), second.root)
    second.works(2)
    with pytest.raises(UsageError, match="nothing to go back to"):
        rollback(second.root)


def test_another_key_is_refused(first: Desk) -> None:
    signature.generate(first.folder / "other")
    made(first.folder / "theirs", first.folder / "other", 2)
    before = tree(first.root)
    with pytest.raises(BundleError, match="signed by another key"):
        update(first.folder / "theirs", first.root)
    with pytest.raises(BundleError, match="another key than the one that"):
        update(first.folder / "theirs", first.root, first.folder / "other.pub")
    with pytest.raises(BundleError, match="signed by another key"):
        install(first.folder / "theirs", first.folder / "new", first.key)
    assert tree(first.root) == before


def test_a_changed_bundle_is_refused(first: Desk) -> None:
    bundle = first.bundle(2)
    rot(bundle / "model" / "weights")
    before = tree(first.root)
    with pytest.raises(BundleError, match="model/weights"):
        update(bundle, first.root)
    (bundle / "model" / "weights").unlink()
    (bundle / "model" / "weights").symlink_to(first.folder / "v1" / "model" / "weights")
    with pytest.raises(BundleError, match="is a link"):
        update(bundle, first.root)
    assert tree(first.root) == before


def test_an_earlier_version_is_no_update(second: Desk) -> None:
    before = tree(second.root)
    with pytest.raises(BundleError, match=r"is version 1, and \S+ version 2 is in use"):
        update(second.folder / "v1", second.root)
    with pytest.raises(BundleError, match=r"is version 2, and \S+ version 2 is in use"):
        update(second.bundle(2, "again", content(3)), second.root)
    assert tree(second.root) == before


def test_another_name_leads_to_no_earlier_version(second: Desk) -> None:
    with pytest.raises(BundleError, match=r"is version 1, and \S+ version 2 is in use"):
        update(second.bundle(1, "other", name="another.level"), second.root)
    update(second.bundle(3, "later", name="another.level"), second.root)
    with pytest.raises(BundleError, match=r"is version 2, and another\.level version 3 is in use: versions"):
        update(second.folder / "v2", second.root)
    second.works(3)


def test_a_version_that_was_withdrawn_never_comes_back(second: Desk) -> None:
    """By an update, by going back, by another name, or after the bundle that said so was replaced."""
    update(second.bundle(4, minimum_version=3), second.root)
    demanded = "medgemma-4b.q4_k_m.raspberry-pi-5 version 4"
    with pytest.raises(BundleError, match=rf"version 2 was withdrawn from \S+ by {re.escape(demanded)}") as caught:
        rollback(second.root)
    assert caught.value.allowed == "3 or later"
    update(second.bundle(5), second.root)
    for name in ("n", "medgemma-4b.q4_k_m.raspberry-pi-5"):
        with pytest.raises(BundleError, match=rf"{name}: version 2 was withdrawn from \S+ by .*bundles of every name"):
            update(second.bundle(2, f"old-{name}", name=name), second.root)
    second.works(5)
    assert (status(second.root).minimum, status(second.root).minimum_by) == (3, demanded)


def test_a_higher_minimum_takes_the_place_of_a_lower_one_and_not_the_other_way(first: Desk) -> None:
    update(first.bundle(4, minimum_version=3, name="one"), first.root)
    update(first.bundle(5, minimum_version=2, name="two"), first.root)
    assert (status(first.root).minimum, status(first.root).minimum_by) == (3, "one version 4")
    longest = "n" * 200
    update(first.bundle(6, minimum_version=6, name=longest), first.root)
    assert (status(first.root).minimum, status(first.root).minimum_by) == (6, f"{longest} version 6")


def test_what_was_not_there_before_cannot_be_gone_back_to(first: Desk) -> None:
    with pytest.raises(UsageError, match="there is nothing to go back to"):
        rollback(first.root)
    first.works(1)


@pytest.mark.parametrize("path", ["model/weights", "bundle.sig.json", "bundle.json", "env/bin/python"])
def test_a_damaged_slot_is_not_gone_back_to(second: Desk, path: str) -> None:
    place = second.root / "a" / path
    if place.is_symlink():
        place.unlink()
        place.symlink_to("/nowhere/python3")
    else:
        rot(place)
    with pytest.raises(BundleError):
        rollback(second.root)
    second.works(2)


# ---------------------------------------------------------------- roots


def test_a_folder_of_others_is_left_alone(desk: Desk) -> None:
    (desk.root / "a").mkdir(parents=True)
    (desk.root / "a" / "letters").write_text("mine")
    with pytest.raises(UsageError, match="holds files that no bundle put there"):
        install(desk.bundle(1), desk.root, desk.key)
    assert (desk.root / "a" / "letters").read_text() == "mine"
    for act in (lambda: update(desk.folder / "v1", desk.root), lambda: rollback(desk.root), lambda: status(desk.root)):
        with pytest.raises(UsageError):
            act()


def test_a_root_has_one_first_install(first: Desk) -> None:
    before = tree(first.root)
    with pytest.raises(UsageError, match="a bundle is installed here"):
        install(first.bundle(2), first.root, first.key)
    assert tree(first.root) == before


def test_two_at_once_do_not_meet(first: Desk) -> None:
    bundle = first.bundle(2)
    handle = os.open(first.root, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        for act in (lambda: update(bundle, first.root), lambda: rollback(first.root)):
            with pytest.raises(ArtifactError, match="another command is writing here"):
                act()
        first.works(1)  # who only reads need not wait
    finally:
        os.close(handle)
    update(bundle, first.root)
    first.works(2)


@pytest.mark.parametrize(
    "state",
    ["", "{}", "[]", '{"slot":"c","minimum":1,"key":"' + "a" * 64 + '"}', '{"slot":"../a"}', '{"slot":"a","slot":"b"}'],
)
def test_a_damaged_state_is_said(first: Desk, state: str) -> None:
    (first.root / "state.json").write_text(state)
    for act in (lambda: update(first.folder / "v1", first.root), lambda: status(first.root)):
        with pytest.raises(BundleError, match=r"state\.json"):
            act()
    assert (first.root / "a" / "model" / "weights").exists()


def test_a_slot_that_is_a_link_is_not_followed(first: Desk) -> None:
    elsewhere = first.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "letters").write_text("mine")
    (first.root / "b").symlink_to(elsewhere)
    with pytest.raises(EdgekitError):
        update(first.bundle(2), first.root)
    assert (elsewhere / "letters").read_text() == "mine"
    first.works(1)


def test_a_full_stick_is_said_before_anything_goes(second: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(second.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    before = tree(second.root)
    with pytest.raises(NoSpaceError, match="0 MB of room"):
        update(second.bundle(3, files={**content(3), "model/large": bytes(1 << 20)}), second.root)
    assert tree(second.root) == before


# ---------------------------------------------------------------- the commands


Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Said:
    def run(*words: str | Path) -> tuple[int, str, str]:
        code = main([*map(str, words)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_the_commands(desk: Desk, typed: Said) -> None:
    code, out, err = typed("install", desk.bundle(1), "--to", desk.root, "--key", desk.key)
    assert code == 0
    assert "version 1" in out
    assert f"{desk.root}/run edgekit inspect :model" in out
    assert err.splitlines() == [f"edgekit: {step}" for step in STEPS]
    code, out, err = typed("update", desk.bundle(2), "--to", desk.root, "--json")
    assert (code, json.loads(out)["version"], err) == (0, 2, "")
    code, out, err = typed("update", desk.folder / "v2", "--to", desk.root)
    assert code == 0
    assert err.splitlines()[-1] == "edgekit: version 2 is already in use, its self-test passed: nothing was changed"
    code, out, _ = typed("installed", "--to", desk.root, "--json")
    told = json.loads(out)
    assert (told["slot"], told["in_use"]["version"], told["before"]["version"]) == ("b", 2, 1)
    code, out, _ = typed("rollback", "--to", desk.root)
    assert code == 0
    assert "version 1" in out
    code, out, _ = typed("installed", "--to", desk.root)
    assert [line.split()[0] for line in out.splitlines()] == ["in", "before", "after", "minimum", "key"]
    assert "before    nothing to go back to\nafter     " in out
    assert "minimum   none" in out
    code, out, _ = typed("installed", "--to", desk.root, "--json")
    assert (json.loads(out)["before"], json.loads(out)["after"]["version"]) == (None, 2)
    typed("update", desk.bundle(3, minimum_version=2), "--to", desk.root)
    _, out, _ = typed("installed", "--to", desk.root)
    by = "medgemma-4b.q4_k_m.raspberry-pi-5 version 3"
    assert f"minimum   version 2, by {by}; earlier ones of every name were withdrawn" in out
    code, _, err = typed("installed", "--to", desk.folder)
    assert code == 2
    assert "nothing is installed" in err


@pytest.mark.parametrize(
    ("artifact", "expected"),
    [
        ("medgemma_artifact", "edgekit ask :model QUESTION --image FILE"),
        ("medsiglip_artifact", "edgekit classify :model IMAGE --label A --label B"),
    ],
)
def test_what_the_model_can_be_asked_is_said(
    first: Desk, artifact: str, expected: str, request: pytest.FixtureRequest
) -> None:
    """The levels of a bundle's model are one, its default."""
    assert bundles.example(first.root) == "edgekit inspect :model"
    shutil.copytree(request.getfixturevalue(artifact), first.root / "a" / "model", dirs_exist_ok=True)
    assert bundles.example(first.root) == expected


@pytest.mark.parametrize("verb", ["install", "update", "rollback", "installed"])
def test_help_says_what_the_models_name_is(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    assert ":model in it is the folder of its model" in " ".join(capsys.readouterr().out.split())
