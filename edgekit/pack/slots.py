"""One slot: filled from a bundle and from the slot in use, given its environment, tried, and written to the disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.artifacts.documents import is_file
from edgekit.artifacts.files import copy, link_or_copy, sync, sync_folder
from edgekit.errors import BundleError, NoSpaceError
from edgekit.machine.cpu import cpu, levels
from edgekit.machine.worker import death
from edgekit.pack import document
from edgekit.pack.bootstrap.environment import clean_variables, make_environment, python_of, unpacked_bytes
from edgekit.pack.bootstrap.here import RefusedError, check_platform, chosen, here
from edgekit.pack.bundle import GOLDEN, MODEL, WHEELS, Bundle, BundleFile
from edgekit.progress import Progress

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
        built = {path.split("/")[1] for path in paths if path.count("/") > 1}
        level = next((level for level in levels() if level in built), None)
        if built and level is None:
            raise BundleError(
                f"bundle {bundle.name} is for processors of {' or '.join(bundle.cpu)}, and {cpu().name} is none",
                remedy="ask for a bundle for this machine: edgekit doctor shows its processor",
            )
        return chosen([path for path in paths if path.count("/") == 1 or path.split("/")[1] == level], machine)


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
    progress.start("installing", supply.bundle.bytes)
    for file in supply.bundle.files:
        _place(slot, file, supply)
        progress.advance(file.bytes)
    progress.start("making the environment", 1)
    with refused():
        make_environment(slot / ENVIRONMENT, [slot / path for path in fitting(supply.bundle)])
    progress.finish()


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


def settle(slot: Path) -> None:
    """Wait until a filled slot is on the disk. Raises OSError where the disk failed."""
    if hasattr(os, "sync"):  # all of it at once: one file after the other, an environment takes a stick a minute
        os.sync()
    for path in (slot, *slot.rglob("*")):  # and what failed is said file by file
        if path.is_dir() and not path.is_symlink():
            sync_folder(path)
        elif not path.is_symlink():
            sync(path)


def try_out(slot: Path, bundle: Bundle) -> None:
    """Have a slot's own edgekit ask its model what it was asked where it was packed.

    Raises:
        BundleError: it answers something else, or not at all.
    """
    job = {"golden": str(slot / GOLDEN), "model": str(slot / MODEL), "level": bundle.level}
    command = [str(python_of(slot / ENVIRONMENT)), "-P", "-m", "edgekit.machine.worker", "edgekit.pack.trial:run"]
    remedy = "the slot in use, where there is one, was not touched; tell the bundle's maker what edgekit doctor says"
    try:
        done = subprocess.run(
            command,
            input=json.dumps(job),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=clean_variables(),
            timeout=TRIAL_LIMIT_S,
            check=False,
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        raise BundleError(f"bundle {bundle.name}: its self-test did not end: {error}", remedy=remedy) from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        why = f"it died with {died}" if (died := death(done.returncode)) else (said or ["exit code 1"])[-1]
        raise BundleError(f"bundle {bundle.name}: its self-test failed on this machine: {why}", remedy=remedy)
