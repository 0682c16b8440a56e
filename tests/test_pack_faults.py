"""A fault at a file operation of an install, an update or a way back leaves a slot that works, and a rerun ends well.

Between two operations that change a disk nothing on it changes, so a kill at any system call is one of these.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults.injector import FAULTS, Ended, Injector
from faults.installs import made, without_known

from edgekit.artifacts.files import sha256_file
from edgekit.pack import document, signature
from edgekit.pack.install import install, rollback, status, update

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not (shutil.which("cc") or shutil.which("gcc")), reason="LD_PRELOAD and a C compiler"
)

# Command -> the version that it leaves in use, and the one that was before, 0 for none.
WAYS = {"install": (1, 0), "update": (2, 1), "update by difference": (2, 1), "rollback": (1, 2)}
_OF_A_ROOT = {"a", "b", "state.json", "key.pub", "run"}
_WRITES = {"write", "allocate"}


@dataclass
class Range:
    """A folder where commands are run with faults, and what they find there."""

    folder: Path
    shop: Path
    injector: Injector

    @property
    def root(self) -> Path:
        return self.folder / "root"

    def prepare(self, way: str) -> None:
        """Put in place what a command finds."""
        shutil.rmtree(self.root, ignore_errors=True)
        if WAYS[way][1]:
            shutil.copytree(self.shop / f"root-{WAYS[way][1]}", self.root, symlinks=True)

    def points(self, way: str) -> list[str]:
        """The operations of a run without a fault."""
        self.prepare(way)
        ended = self.injector.run(way)
        assert ended.code == 0, ended.said
        self.works(WAYS[way][0])
        return [operation.name for operation in ended.operations]

    def works(self, *versions: int) -> int:
        """One of these is in use, whole, and answers; which."""
        found = status(self.root)
        assert found.bundle.version in versions
        for file in found.bundle.files:
            assert sha256_file(self.root / found.slot / file.path) == file.sha256, file.path
        done = subprocess.run(
            [self.root / "run", "edgekit", ":model"], capture_output=True, text=True, check=False, cwd="/"
        )
        version = found.bundle.version
        assert done.stdout == f"edgekit {version} model {version}\n", done.stderr
        return version

    def trial(self, way: str, fault: str, at: int) -> Ended:
        """A fault, what it left, and the rerun."""
        new, old = WAYS[way]
        self.prepare(way)
        ended = self.injector.run(way, at=at, fault=fault)
        assert ended.code in (0, 1, -9), ended.said
        assert "Traceback" not in ended.said
        if ended.code == 1:
            assert re.search("^edgekit: ", ended.said, re.M), ended.said
        if ended.code == 0:
            assert self.works(new)
        elif old:
            self.works(new, old)
        elif self.root.exists() and (self.root / "state.json").is_file():
            state = (self.root / "state.json").read_text()
            assert '"slot":null' in state or self.works(new)
        if ended.code != -9 and self.root.exists():
            left = {path.name for path in self.root.iterdir()} - _OF_A_ROOT
            assert all(name.endswith(".partial") for name in left), left
        self.again(way, ended)
        return ended

    def again(self, way: str, before: Ended) -> None:
        """Without a fault it ends as it would have, whatever the fault left; and there is a way on."""
        new, old = WAYS[way]
        if way == "rollback":
            if self.works(new, old) == old:
                rollback(self.root)
        elif self.root.exists() and '"slot":"' in _text(self.root / "state.json"):
            update(self.folder / ("two" if new == 2 else "one"), self.root)
        else:
            install(self.folder / "one", self.root, self.folder / "key.pub")
        self.works(new)
        assert {path.name for path in self.root.iterdir()} <= _OF_A_ROOT, before


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


@contextmanager
def laid_out(folder: Path) -> Iterator[Range]:
    """Two bundles, what an update brings of the second, and roots in which they were installed."""
    work, shop, scratch = (folder / name for name in ("work", "shop", "scratch"))
    for place in (work, shop, scratch):
        place.mkdir()
    signature.generate(work / "key")
    made(work / "one", work / "key", 1)
    made(work / "two", work / "key", 2)
    without_known(work / "two", document.read(work / "one")[0], work / "less")
    install(work / "one", shop / "root-1", work / "key.pub")
    shutil.copytree(shop / "root-1", shop / "root-2", symlinks=True)
    update(work / "two", shop / "root-2")
    with Injector(work, scratch, {}, proofs=False, server="faults.installs") as injector:
        yield Range(work, shop, injector)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Range]:
    with laid_out(tmp_path_factory.mktemp("installs")) as found:
        yield found


def struck(names: Sequence[str], fault: str) -> list[int]:
    """The operations that a fault can hit, from 1."""
    spared = {"unlink", "rmdir", "truncate"} if fault == "no space" else set()
    only = _WRITES if fault in ("short write", "torn write") else set(names)
    return [number for number, name in enumerate(names, 1) if name in only and name not in spared]


@pytest.mark.parametrize("way", WAYS)
def test_a_sample_of_faults(place: Range, way: str) -> None:
    names = place.points(way)
    for number, fault in enumerate(FAULTS):
        points = struck(names, fault)
        if points:
            place.trial(way, fault, points[int((number + 0.5) / len(FAULTS) * len(points))])


@pytest.mark.parametrize("way", WAYS)
def test_a_kill_around_the_switch(place: Range, way: str) -> None:
    """Before the rename that switches the old version is in use, after it the new one."""
    place.points(way)
    place.prepare(way)
    operations = place.injector.run(way).operations
    at = max(
        number
        for number, operation in enumerate(operations, 1)
        if operation.name == "rename" and operation.target == place.root / "state.json"
    )
    new, old = WAYS[way]
    for number, version in ((at, old), (at + 1, new)):
        place.prepare(way)
        assert place.injector.run(way, at=number, fault="killed").code == -9
        if version:
            place.works(version)
        else:
            assert '"slot":null' in _text(place.root / "state.json")


@pytest.mark.parametrize("way", ["install", "update"])
def test_what_is_switched_to_is_on_the_disk(place: Range, way: str) -> None:
    """A power failure after the switch loses nothing: each file was synced, or all were, before the rename."""
    place.prepare(way)
    dirty: set[Path] = set()
    switched = False
    for operation in place.injector.run(way).operations:
        path = operation.path
        if operation.name in ("create", "write"):
            dirty.add(path)
        elif operation.name == "fsync":
            dirty.discard(path)
        elif operation.name == "sync":
            dirty.clear()
        elif operation.name == "unlink":
            dirty.discard(path)
        elif operation.name == "rename" and "__pycache__" in path.parts:  # Python's own, when it runs the self-test
            dirty.discard(path)
            dirty.add(operation.target or path)
        elif operation.name == "rename":
            assert path not in dirty, path
            if operation.target == place.root / "state.json":
                switched = True
                assert not {left for left in dirty if left.is_relative_to(place.root)}
    assert switched


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("way", WAYS)
def test_every_fault_everywhere(place: Range, way: str, fault: str) -> None:
    points = struck(place.points(way), fault)
    ended = [place.trial(way, fault, at) for at in points]
    print(f"\n{way}, {fault}: {len(ended)} points, {sum(one.code == -9 for one in ended)} killed", file=sys.stderr)


def test_the_points_are_many(place: Range) -> None:
    """Enough that every step of an install lies between two of them."""
    assert sum(len(place.points(way)) for way in WAYS) >= 300
    assert os.path.lexists(place.root)
