"""One slot: filled from a bundle and from the slot in use, given its environment, tried, and written to the disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.artifacts.documents import is_file
from edgekit.artifacts.files import copy, link_or_copy, sync, sync_folder
from edgekit.errors import BundleError, NoSpaceError
from edgekit.machine.cpu import cpu, levels
from edgekit.machine.worker import death
from edgekit.pack import document
from edgekit.pack.bootstrap.environment import clean_variables, make_environment, python_of, unpacked_bytes
from edgekit.pack.bootstrap.here import RefusedError, check_platform, chosen, for_python, here
from edgekit.pack.bundle import GOLDEN, MODEL, WHEELS, Bundle, BundleFile
from edgekit.progress import Progress, amount

ENVIRONMENT = "env"
TRIAL_LIMIT_S = 3600.0  # of a self-test: an image costs minutes on the slowest machines that are packed for

_SILENT = Progress()


@dataclass(frozen=True)
class Supply:
    """Where the files of a new slot come from.

    Attributes:
        source: the bundle's folder, which may lack what is in `known`.
        used: the slot in use.
        known: its files by their SHA-256; none where there is no such slot, or its document is damaged.
    """

    bundle: Bundle
    source: Path
    used: Path | None = None
    known: Mapping[str, BundleFile] = field(default_factory=dict)

    def origins(self, file: BundleFile) -> tuple[Path, ...]:
        """The places that may have a file, in the order in which they are tried."""
        twin = self.known.get(file.sha256)
        linked = (self.used / twin.path,) if self.used and twin else ()
        return tuple(place for place in (*linked, self.source / file.path) if is_file(place))

    def check(self) -> None:
        """Raise BundleError for a file that is nowhere."""
        lacking = [file.path for file in self.bundle.files if not self.origins(file)]
        if lacking:
            raise BundleError(
                f"{self.source}: is an update of another bundle than the one in use: {len(lacking)} files are in "
                "neither, first of all " + lacking[0],
                remedy="take the whole bundle, or one that was packed with --since the bundle in use",
            )

    def wheels(self) -> list[Path]:
        """The wheels that fit this machine, where they lie now."""
        by_path = {file.path: file for file in self.bundle.files}
        return [self.origins(by_path[path])[0] for path in fitting(self.bundle)]

    @property
    def bytes(self) -> int:
        """What the slot takes that is not linked: files, and the environment."""
        new = sum(file.bytes for file in self.bundle.files if file.sha256 not in self.known)
        with refused():
            return new + unpacked_bytes(self.wheels())


def fitting(bundle: Bundle) -> list[str]:
    """The paths of the wheels that are for this machine; of those in a folder of a processor's level, the best level's.

    Raises:
        BundleError: the bundle is for another system, processor or Python.
    """
    machine = here()
    with refused():
        check_platform(bundle.model_dump(include={"name", "platform", "python"}), machine)
        paths = [file.path for file in bundle.files if file.path.startswith(f"{WHEELS}/")]
        return chosen([*for_python(paths, machine), *_for_processor(paths, bundle)], machine)


def _for_processor(paths: Sequence[str], bundle: Bundle) -> list[str]:
    """The builds for the best level of processors that this one runs."""
    builds = {level: [path for path in paths if path.startswith(f"{WHEELS}/{level}/")] for level in bundle.cpu}
    built = {level: found for level, found in builds.items() if found}
    level = next((level for level in levels() if level in built), None)
    if built and level is None:
        raise BundleError(
            f"bundle {bundle.name} is for processors of {' or '.join(bundle.cpu)}, and {cpu().name} is none",
            remedy="ask for a bundle for this machine: edgekit doctor shows its processor",
        )
    return built[level] if level else []


@contextmanager
def refused() -> Iterator[None]:
    """What the modules of `bootstrap` refuse, as an error of edgekit's."""
    try:
        yield
    except RefusedError as error:
        raise BundleError(str(error), remedy="ask whoever made it for a bundle for this machine") from error


def check_room(slot: Path, needed: int) -> None:
    """Raise NoSpaceError where a slot will not fit into its disk once what is in it is gone."""
    old = [path.lstat() for path in slot.rglob("*")] if slot.exists() else []
    free = shutil.disk_usage(slot.parent).free + sum(status.st_size for status in old if status.st_nlink == 1)
    if free < needed:
        raise NoSpaceError(
            f"{slot.parent}: {free / 1e6:.0f} MB of room, and this bundle takes {needed / 1e6:.0f} MB",
            remedy="make room there, or choose another disk",
        )


def fill(slot: Path, supply: Supply, progress: Progress) -> None:
    """Put every file of a bundle into a new slot, each hashed where it then lies, and the environment.

    Raises:
        BundleError: a file is not the one that was signed.
        OSError: the disk is full, or failed.
    """
    progress.start(f"copying {amount(supply.bundle.bytes)}", supply.bundle.bytes)
    for file in supply.bundle.files:
        _place(slot, file, supply)
        progress.advance(file.bytes)
    wheels = [slot / path for path in fitting(supply.bundle)]
    progress.start(f"making the environment of {len(wheels)} wheels", sum(wheel.stat().st_size for wheel in wheels))
    with refused():
        make_environment(slot / ENVIRONMENT, _counted(wheels, progress))
    progress.finish()


def _counted(wheels: Sequence[Path], progress: Progress) -> Iterator[Path]:
    """Each wheel; it is done when the next one is asked for."""
    for wheel in wheels:
        yield wheel
        progress.advance(wheel.stat().st_size)


def _place(slot: Path, file: BundleFile, supply: Supply) -> None:
    """A file of the slot in use may have rotted on the disk; then the bundle's is taken, where it brings one."""
    target = slot / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    *linked, last = supply.origins(file)
    for origin in (*linked, last):
        (copy if origin == supply.source / file.path else link_or_copy)(origin, target)
        try:
            document.hash_files(slot, [file], _SILENT)
        except BundleError:
            if origin == last:
                raise
            target.unlink()
            continue
        break
    if file.executable:
        target.chmod(0o755)


def settle(slot: Path, progress: Progress) -> None:
    """Wait until a filled slot is on the disk. Raises OSError where the disk failed."""
    progress.start("waiting for the disk", 0)
    if hasattr(os, "sync"):  # all of it at once: one file after the other, an environment takes a stick a minute
        os.sync()
    for path in (slot, *slot.rglob("*")):  # and what failed is said file by file
        if path.is_dir() and not path.is_symlink():
            sync_folder(path)
        elif not path.is_symlink():
            sync(path)


def try_out(slot: Path, bundle: Bundle, progress: Progress) -> None:
    """Have a slot's own edgekit ask its model what it was asked where it was packed.

    Raises:
        BundleError: it answers something else, or not at all.
    """
    job = {"golden": str(slot / GOLDEN), "model": str(slot / MODEL), "level": bundle.level}
    command = [str(python_of(slot / ENVIRONMENT)), "-P", "-m", "edgekit.machine.worker", "edgekit.pack.trial:run"]
    remedy = "the slot in use, where there is one, was not touched; tell the bundle's maker what edgekit doctor says"
    progress.start("opening the model", 0)
    try:
        code, complaint = _told(command, json.dumps(job), lambda told: _show_question(told, progress))
    except OSError as error:
        raise BundleError(f"bundle {bundle.name}: its self-test did not end: {error}", remedy=remedy) from error
    finally:
        progress.finish()
    if code:
        said = [line for line in complaint.splitlines() if line.strip()]
        why = f"it died with {died}" if (died := death(code)) else (said or ["exit code 1"])[-1]
        raise BundleError(f"bundle {bundle.name}: its self-test failed on this machine: {why}", remedy=remedy)


def _show_question(told: str, progress: Progress) -> None:
    """What `edgekit.pack.trial` yields, of this version or another, which may say nothing or something else."""
    with suppress(ValueError):
        match json.loads(told):
            case {"question": int(number), "of": int(total)}:
                progress.start(f"asking the model: question {number} of {total}", 0)


def _told(command: Sequence[str], job: str, hear: Callable[[str], Any]) -> tuple[int, str]:
    """Run a slot's program, and hear each line that it writes; its exit code and what it complained of.

    Raises:
        OSError: it does not start, or takes longer than `TRIAL_LIMIT_S` (TimeoutError).
    """
    with (
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=clean_variables(),
        ) as process,
        ThreadPoolExecutor(1) as other,
    ):
        assert process.stdin, "opened as a pipe"
        assert process.stdout, "opened as a pipe"
        assert process.stderr, "opened as a pipe"
        complaint = other.submit(process.stderr.read)
        late = threading.Event()
        limit = threading.Timer(TRIAL_LIMIT_S, _kill, [process, late])
        limit.daemon = True
        limit.start()
        try:
            with suppress(BrokenPipeError), process.stdin as stdin:  # it may have died before it read its job
                stdin.write(job)
            for line in process.stdout:
                hear(line)
            process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            limit.cancel()
    if late.is_set():
        raise TimeoutError(f"stopped after {TRIAL_LIMIT_S:.0f} s")
    return process.returncode, complaint.result()


def _kill(process: subprocess.Popen[str], late: threading.Event) -> None:
    late.set()
    process.kill()
