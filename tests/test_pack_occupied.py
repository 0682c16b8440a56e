"""A slot that somebody still runs from is not emptied: real processes, real locks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults.installs import made

from edgekit import cli
from edgekit.errors import ArtifactError, BundleError, UsageError
from edgekit.pack import keys, occupied, roots
from edgekit.pack.install import install, rollback, status, update
from edgekit.progress import Progress

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX")
REPOSITORY = Path(__file__).resolve().parent.parent
LIMIT_S = 120

# What every command does before all else, by an interpreter that says that it is the slot's.
RUNS = """
import sys
from pathlib import Path
from edgekit.pack import occupied
with occupied.held(Path(sys.argv[1])):
    print("runs", flush=True)
    sys.stdin.read()
"""


@contextmanager
def running(slot: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs from a slot."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", RUNS, slot / "env"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert process.stdout
    assert process.stdin
    try:
        assert process.stdout.readline() == "runs\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Version 2 in slot b, after version 1 in slot a."""
    keys.generate(tmp_path / "key")
    for version in (1, 2, 3, 4):
        made(tmp_path / f"v{version}", tmp_path / "key", version)
    install(tmp_path / "v1", tmp_path / "root", tmp_path / "key.pub")
    update(tmp_path / "v2", tmp_path / "root")
    return tmp_path / "root"


def test_what_runs_from_the_slot_is_named_and_its_files_stay(root: Path) -> None:
    before = sorted(root.rglob("*"))
    with running(root / "a") as process:
        with pytest.raises(UsageError, match="is in use by") as caught:
            update(root.parent / "v3", root)
        assert caught.value.remedy == "end it and update again, or --wait until it has ended"
        if sys.platform == "linux":
            assert f"process {process.pid} ({sys.executable} -P -c" in caught.value.message
        assert sorted(root.rglob("*")) == before
        assert status(root).bundle.version == 2
    update(root.parent / "v3", root)
    assert status(root).bundle.version == 3


def test_what_runs_from_the_slot_in_use_is_in_the_way_of_the_update_after_the_next(root: Path) -> None:
    with running(root / "b") as process:
        update(root.parent / "v3", root)
        with pytest.raises(UsageError, match="is in use by"):
            update(root.parent / "v4", root)
        assert process.poll() is None
        assert rollback(root).version == 2
        update(root.parent / "v4", root)
    assert status(root).bundle.version == 4


def test_the_system_lets_go_for_whoever_was_killed(root: Path) -> None:
    with running(root / "a") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        update(root.parent / "v3", root)
    assert status(root).bundle.version == 3


def test_several_run_from_one_slot(root: Path) -> None:
    with running(root / "a") as one, running(root / "a") as other:
        one.kill()
        one.wait()
        with pytest.raises(UsageError, match="is in use by"):
            update(root.parent / "v3", root)
        assert other.poll() is None


def test_an_update_can_wait(root: Path) -> None:
    told: list[str] = []
    heard = threading.Event()

    class Told(Progress):
        def note(self, text: str) -> None:
            told.append(text)
            heard.set()

    def waits() -> None:
        update(root.parent / "v3", root, progress=Told(), wait=True)

    with running(root / "a") as process:
        waiting = threading.Thread(target=waits)
        waiting.start()
        assert heard.wait(LIMIT_S)
        assert status(root).bundle.version == 2
        process.kill()
        waiting.join(LIMIT_S)
        assert not waiting.is_alive()
    assert status(root).bundle.version == 3
    assert [text.endswith(": waiting for its end") for text in told] == [True]


def test_nobody_starts_in_a_slot_that_is_being_emptied(root: Path) -> None:
    with (
        occupied.unused(root / "a", None),
        pytest.raises(BundleError, match="an update is replacing"),
        occupied.held(root / "a" / "env"),
    ):
        pytest.fail("it started")
    with occupied.held(root / "a" / "env"):
        pass


def test_nobody_starts_in_a_slot_that_is_not_full_yet(root: Path) -> None:
    (root / "a" / "bundle.json").unlink()
    with pytest.raises(BundleError, match="is being filled"), occupied.held(root / "a" / "env"):
        pytest.fail("it started")


def test_whoever_is_at_work_in_a_root_is_named(root: Path, tmp_path: Path) -> None:
    with roots.alone(root), pytest.raises(ArtifactError, match=f"writing here: process {os.getpid()} "):
        rollback(root)


@pytest.mark.parametrize("act", [rollback, lambda root: update(root, root)])
def test_a_root_that_is_none_is_not_made(act: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing is installed"):
        act(tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


def test_an_environment_that_is_no_slots_is_not_held(root: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    (plain / "env").mkdir(parents=True)
    with occupied.held(plain / "env"), occupied.held(), occupied.unused(plain, None):
        pass
    with occupied.unused(root / "never there", None):
        pass


def test_every_command_holds_the_slot_that_it_runs_from(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the prefix of its interpreter, which is the slot's environment."""
    monkeypatch.setattr(sys, "prefix", str(root / "a" / "env"))
    seen = []

    def run(_: object) -> int:
        with pytest.raises(UsageError, match="is in use by"):
            update(root.parent / "v3", root)
        seen.append(status(root).bundle.version)
        return 0

    assert cli.guarded(run, cli.parser().parse_args(["installed", "--to", str(root)])) == 0
    assert seen == [2]
    update(root.parent / "v3", root)
    assert status(root).bundle.version == 3
