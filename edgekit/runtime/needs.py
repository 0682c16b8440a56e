"""What a long run needs, looked at before it begins: all that is missing in one error, and not one thing an hour."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from edgekit.artifacts.manifest import FileEntry
from edgekit.errors import ArtifactError, EdgekitError, MissingDependencyError, NoSpaceError
from edgekit.machine.memory import memory
from edgekit.machine.worker import probe
from edgekit.runtime.backends import Backend, version_of
from edgekit.runtime.opening import Opening, prepare
from edgekit.runtime.tuning_results import DEFAULT

T = TypeVar("T")
FULL_PRECISION = ("torch", "transformers")  # what it runs in, to calibrate, to prove and to be compared with
_EXPORT = "pip install 'edgekit[export]'"


class Needs:
    """Looks at one thing after the other and keeps what is missing."""

    def __init__(self) -> None:
        self._missing: dict[str, EdgekitError] = {}
        self._hashed: set[FileEntry] = set()
        self._backends: dict[str, str | None] = {}

    def attempt(self, look: Callable[[], T]) -> T | None:
        """Do something that raises EdgekitError where a thing is missing, which is then kept; None in that case."""
        try:
            return look()
        except EdgekitError as error:
            self.add(error)
            return None

    def add(self, error: EdgekitError) -> None:
        """Keep what is missing."""
        self._missing.setdefault(str(error), error)

    def check(self) -> None:
        """Raise what is missing: itself where it is one thing, else one error that lists all."""
        found = list(self._missing.values())
        if len(found) == 1:
            raise found[0]
        if found:
            kinds = {type(error) for error in found}
            kind = kinds.pop() if len(kinds) == 1 else EdgekitError
            listed = [str(error).replace("\n", "; ") for error in found]
            raise kind(f"{len(found)} things are missing; nothing was begun:", items=listed)

    def full_precision(self, weights: int = 0, *, doing: str) -> None:
        """What transformers' model takes: its libraries, and memory for as many weights in float32."""
        for library in FULL_PRECISION:
            if version_of(library) is None:
                self.add(MissingDependencyError(f"{library} is not installed: {doing} needs it", remedy=_EXPORT))
        # Of all memory, not of what is free: a system may have lent some to its cache, or swap.
        if 0 < memory().total_bytes < 4 * weights:
            self._short(f"{doing}: {4 * weights / 1e9:.1f} GB of memory", memory().total_bytes, "in this machine")

    def level(self, folder: Path, name: str, *, weighed: bool = True) -> Opening | None:
        """Whether a level opens: its files are as the manifest says, its libraries start, and there is memory.

        Args:
            weighed: whether memory counts.
        """
        opening = self.attempt(lambda: prepare(folder, name, runtime=DEFAULT, hashed=self._hashed))
        if opening is None:
            return None
        self._hashed.update(entry for part in opening.parts.values() for entry in part.files)
        for role in opening.parts:
            self._library(opening.backends(role)[0])
        size = sum(int(part.requires.get("memory_bytes", 0)) for part in opening.parts.values())
        free = memory().available_bytes
        if weighed and 0 < free < size:
            self._short(f"{folder}, level {name}: {size / 1e9:.1f} GB of memory", free, "free")
        return opening

    def _library(self, backend: Backend) -> None:
        if backend.library not in self._backends:
            installed = version_of(backend.library) is not None
            works, said = probe(backend.about) if installed else (False, "it is not installed")
            self._backends[backend.library] = None if works else said
        if problem := self._backends[backend.library]:
            self.add(MissingDependencyError(f"{backend.library}: {problem}", remedy=backend.install))

    def place(self, folder: Path, size: int = 0) -> None:
        """Whether a folder can be written to, or made, and has room for so many bytes."""
        there = next((path for path in (folder.absolute(), *folder.absolute().parents) if path.exists()), folder)
        if not there.is_dir():
            self.add(ArtifactError(f"{there}: is no folder", remedy=f"choose another place than {folder}"))
        elif not os.access(there, os.W_OK | os.X_OK):
            self.add(ArtifactError(f"{there}: may not be written to", remedy="check its permissions"))
        elif (free := shutil.disk_usage(there).free) < size:
            self.add(
                NoSpaceError(
                    f"{there}: {size / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free",
                    remedy="make room, or choose another disk",
                )
            )

    def _short(self, what: str, have: int, where: str) -> None:
        self.add(EdgekitError(f"{what} are needed, {have / 1e9:.1f} GB are {where}", remedy="leave it out"))
