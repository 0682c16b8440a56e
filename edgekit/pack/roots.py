"""Where bundles are installed: a root with two slots, and one document that says which of them is used.

    state.json   the slot in use, the earliest version that may still be installed, whose bundles are taken
    key.pub      the public key of those bundles
    a/  b/       a slot: a bundle's files, and env/, the environment made of its wheels
    run          runs what is in the slot in use: `run edgekit ask :model "..."`; run.cmd and run.ps1 on Windows

A slot whose `bundle.json` is there is whole and passed its self-test: that file comes last and goes first. The slot in
use is never touched; replacing `state.json` is what changes it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from edgekit.artifacts.documents import is_file, read_json
from edgekit.artifacts.files import sync_folder, write_atomically
from edgekit.artifacts.folders import locked
from edgekit.artifacts.validation import StrictModel, validated
from edgekit.errors import BundleError, UsageError
from edgekit.pack import document, launchers
from edgekit.pack.bundle import DOCUMENT, Bundle

STATE, KEY = "state.json", "key.pub"

SlotName = Literal["a", "b"]


class State(StrictModel):
    """What `state.json` says.

    Attributes:
        slot: the one in use; None before the first install has ended.
        minimum: the highest `minimum_version` of any bundle that was ever installed here, whatever its name.
        minimum_by: that bundle, `NAME version N`; None where none demanded one.
        key: the id of the key that signs the bundles of this root.
    """

    schema_version: Literal[1] = 1
    slot: SlotName | None = None
    minimum: Annotated[int, Field(ge=1, lt=1 << 31)] = 1
    minimum_by: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._+-]{0,199} version [0-9]{1,10}$")] | None = None
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Root:
    """A root, as it was when it was read."""

    folder: Path
    state: State | None

    @property
    def used(self) -> Path | None:
        """The slot in use."""
        return self.folder / self.state.slot if self.state and self.state.slot else None

    @property
    def minimum(self) -> int:
        """The earliest version that may be installed."""
        return self.state.minimum if self.state else 1

    def check_version(self, bundle: Bundle) -> None:
        """Raise BundleError for a version that must not be installed here any more.

        A root counts one row of versions for bundles of all names, as each may take another's place.
        """
        if bundle.version < self.minimum:
            by = f" by {self.state.minimum_by}" if self.state and self.state.minimum_by else ""
            raise BundleError(
                f"{bundle.name}: version {bundle.version} was withdrawn from {self.folder}{by}, which was installed "
                "there: versions there count for bundles of every name",
                allowed=f"{self.minimum} or later",
                remedy="get a later version from whoever made it, or install it into another folder",
            )

    @property
    def other(self) -> Path:
        """The slot that is not in use."""
        return self.folder / ("b" if self.state and self.state.slot == "a" else "a")

    def switch(self, key: str, slot: Path | None, bundle: Bundle | None = None) -> None:
        """Use a slot from now on, or none, in one atomic and durable step.

        Args:
            bundle: what is in it now, where it is new; from then on its minimum holds.
        """
        said: dict[str, object] = {"slot": slot.name if slot else None, "key": key}
        if bundle and bundle.minimum_version > self.minimum:
            said |= {"minimum": bundle.minimum_version, "minimum_by": f"{bundle.name} version {bundle.version}"}
        elif self.state:
            said |= {"minimum": self.state.minimum, "minimum_by": self.state.minimum_by}
        state = State.model_validate(said)
        write_atomically(self.folder / STATE, state.model_dump_json() + "\n")


def read(folder: Path) -> Root:
    """A root; one without a state where nothing was installed in it.

    Raises:
        BundleError: its state is damaged.
    """
    path = folder / STATE
    if not is_file(path):
        return Root(folder, None)
    remedy = f"if {folder} is a root of edgekit's, remove {STATE} there and install the bundle again"
    return Root(folder, validated(State, read_json(path, BundleError), str(path), BundleError, remedy=remedy))


def installed(folder: Path) -> tuple[Root, Path]:
    """A root and its slot in use.

    Raises:
        UsageError: nothing is installed in it.
        BundleError: as `read`.
    """
    root = read(folder)
    if root.used is None:
        raise UsageError(f"{folder}: nothing is installed here", remedy=f"edgekit install BUNDLE --to {folder}")
    return root, root.used


def bundle_in(folder: Path) -> Path:
    """The bundle that a folder is, or that is in use in it, where it is a root.

    Raises:
        UsageError: it is neither.
        BundleError: as `read`.
    """
    if is_file(folder / DOCUMENT):
        return folder
    used = read(folder).used
    if used is None:
        raise UsageError(f"{folder}: holds no bundle", allowed="a bundle, or a folder that one is installed in")
    return used


def readable(slot: Path) -> Bundle | None:
    """The bundle that is in a slot; None where it is empty, was not finished, or has a damaged document."""
    try:
        return document.read(slot)[0] if is_file(slot / DOCUMENT) else None
    except BundleError:
        return None


@contextmanager
def alone(folder: Path) -> Iterator[Root]:
    """A root that no other process installs into until the end; made where it is not there.

    Windows has no locks of folders: there, nobody else is seen.

    Raises:
        UsageError: it holds what edgekit did not put there.
        ArtifactError: another process is at work there.
        BundleError: as `read`.
    """
    if os.name == "nt":
        folder.mkdir(parents=True, exist_ok=True)
        yield _checked(folder)
        return
    with locked(folder):
        yield _checked(folder)


def _checked(folder: Path) -> Root:
    root = read(folder)
    begun = f".{STATE}."  # what a process left that was killed before anything else was there
    if root.state is None and any(not path.name.startswith(begun) for path in folder.iterdir()):
        raise UsageError(
            f"{folder}: holds files that no bundle put there", allowed="a new folder, an empty one, or an earlier ROOT"
        )
    return root


def clear(slot: Path) -> None:
    """Remove a slot, first what says that it is whole."""
    if is_file(slot / DOCUMENT):
        (slot / DOCUMENT).unlink()
        sync_folder(slot)
    if slot.exists():
        shutil.rmtree(slot)


def forget(folder: Path) -> None:
    """Remove what a first install put into a root, as far as it can be, and the root where that is all there was."""
    with suppress(OSError):
        for name in ("a", "b"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in (*launchers.texts(), KEY, STATE):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
