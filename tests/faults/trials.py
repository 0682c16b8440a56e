"""One trial: a writer, a fault at one of its operations, and what must hold then.

(a) what it writes is the old or the new one, whole, never a mixture; (b) a rerun succeeds and gives the same bytes; (c)
an error is edgekit's own, with exit code 1 and no traceback; (d) nothing is left behind but what is documented:
`.DIR.partial`, and after a kill `.NAME.RANDOM.partial`, files of an artifact that no manifest lists, and temporary
files, of which the rerun removes all but the last.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from edgekit.artifacts import manifest as manifests
from edgekit.errors import ArtifactError
from edgekit.export import readme

from .injector import Ended, Injector, Operation
from .writers import KNOWN, Writer, home, make_workshop, short_tasks, without_times

_PARTIAL = re.compile(r"\..+\.partial")
# Of the kinds of operations that each fault can hit; the others hit all.
_HITS = {"permission": {"create", "open", "mkdir", "rename", "link", "unlink", "rmdir", "truncate"}}
_HITS |= {"short write": {"write", "allocate"}, "torn write": {"write", "allocate"}}
_SPARED = {"no space": {"unlink", "rmdir", "truncate"}}

Files = dict[str, bytes]


@dataclass
class Tally:
    """What became of the trials of one writer with one fault."""

    points: int = 0
    refused: int = 0  # a typed error
    endured: int = 0  # success all the same
    killed: int = 0
    wrong: list[str] = field(default_factory=list)


class Range:
    """Where trials take place: a root, a workshop, and an injector; a context manager.

    Args:
        folder: an empty one.
        proofs: whether `prove` will be among them.
    """

    def __init__(self, folder: Path, *, proofs: bool = True) -> None:
        self.root, self._shop, scratch = folder / "root", folder / "shop", folder / "scratch"
        for made in (self.root, scratch):
            made.mkdir(parents=True)
        make_workshop(self._shop)
        short_tasks(self._shop)
        self._injector = Injector(self.root, scratch, home(self._shop), proofs=proofs)
        self._clean: dict[str, tuple[Ended, Files, Files]] = {}

    def __enter__(self) -> Self:
        self._injector.__enter__()
        return self

    def __exit__(self, *reason: object) -> None:
        self._injector.__exit__(*reason)

    def clean(self, name: str) -> tuple[Ended, Files, Files]:
        """A run without a fault: how it ended, and what it writes, before and after."""
        if name not in self._clean:
            writer = KNOWN[name]
            self._prepare(writer)
            self._injector.run(writer.call)  # what is made once in a cache is there now, and counts no more
            self._prepare(writer)
            old = self._files(writer)
            ended = self._injector.run(writer.call)
            assert ended.code == 0, ended.said
            assert not self._left(writer, deadly=False), self._left(writer, deadly=False)
            self._clean[name] = ended, old, self._files(writer)
        return self._clean[name]

    def points(self, name: str, fault: str) -> list[int]:
        """The operations that this fault can hit, from 1."""
        operations = self.clean(name)[0].operations
        hit, spared = _HITS.get(fault), _SPARED.get(fault, set())
        return [
            number
            for number, operation in enumerate(operations, 1)
            if (hit is None or operation.name in hit) and operation.name not in spared
        ]

    def trial(self, name: str, fault: str, at: int, tally: Tally) -> None:
        """Run a writer with a fault at one operation, and again without; count what became of it."""
        writer, (_, old, new) = KNOWN[name], self.clean(name)
        self._prepare(writer)
        ended = self._injector.run(writer.call, at=at, fault=fault)
        tally.points += 1
        wrong = list(self._judge(writer, ended, at, old, new))
        if ended.code == -9:
            tally.killed += 1
        elif ended.code == 0:
            tally.endured += 1
        else:
            tally.refused += 1
        wrong += self._rerun(writer, ended, at, new)
        where = ended.operations[at - 1] if len(ended.operations) >= at else None
        tally.wrong += [f"{name}, {fault} at {at} ({where}): {what}" for what in wrong]

    def _judge(self, writer: Writer, ended: Ended, at: int, old: Files, new: Files) -> Iterator[str]:
        deadly = ended.code == -9
        now = self._files(writer)
        if ended.code not in (0, 1, -9):
            yield f"exit code {ended.code}"
        if "Traceback" in ended.said or (ended.code == 1 and not re.search(r"^edgekit: ", ended.said, re.M)):
            yield f"no error of edgekit's own: {ended.said[-300:]}"
        if ended.code == 1 and (place := self._place(ended, at)) and not place.search(ended.said):
            yield f"the error does not name {place.pattern}: {ended.said[-300:]}"
        if ended.code == 0 and now != new:
            yield "said to have succeeded, and did not"
        yield from self._mixture(writer, now, old, new, deadly)
        yield from self._left(writer, deadly=deadly, spared=_spared(ended, at))

    def _place(self, ended: Ended, at: int) -> re.Pattern[str] | None:
        """What an error must name: a folder of the root in which an operation failed."""
        struck = [ended.operations[at - 1].path, *(operation.path for operation in ended.operations[at:])]
        struck = struck if ended.fault == "no space" else struck[:1]  # which strikes again
        areas = {path.relative_to(self.root).parts[0] for path in struck if path.is_relative_to(self.root)}
        named = "|".join(rf"{re.escape(str(self.root))}/{area}\b|(?<!/)\b{area}\b" for area in sorted(areas))
        return re.compile(named) if named else None

    def _mixture(self, writer: Writer, now: Files, old: Files, new: Files, deadly: bool) -> Iterator[str]:
        if not writer.artifact:
            # Files that appear one by one: each is old or new.
            mixed = [path for path in now if now[path] not in (old.get(path), new.get(path))]
            yield from (f"{path} is neither old nor new" for path in mixed)
            return
        folder = self.root / writer.place
        if not folder.exists():
            if old:
                yield "the old artifact is gone"
            return
        try:
            manifest = manifests.read(folder)
            manifests.verify(folder, manifest.files)
        except ArtifactError as error:
            yield f"a mixture: {error}"
            return
        # The README states what the manifest does and follows it; a new artifact appears with both.
        steps = [old, {**new, readme.FILE_NAME: old[readme.FILE_NAME]}, new] if old else [new]
        stating = (manifests.FILE_NAME, readme.FILE_NAME)
        if all(any(now.get(name) != step[name] for name in stating) for step in steps):
            yield f"its {' and '.join(stating)} are neither the old nor the new ones, nor the one behind the other"
        unlisted = now.keys() - {*stating, *(file.path for file in manifest.files)}
        if writer.note in now:
            unlisted -= {writer.note, *old}
        if unlisted and not deadly:
            yield f"left in the artifact: {sorted(unlisted)}"

    def _rerun(self, writer: Writer, before: Ended, at: int, new: Files) -> Iterator[str]:
        finished = self._files(writer) == new
        again = self._injector.run(writer.call)
        if again.code and not (finished and writer.again and writer.again in again.said):
            yield f"the rerun ended with {again.code}: {again.said[-300:]}"
        elif self._files(writer) != new:
            yield "the rerun made something else"
        left = self._left(writer, deadly=before.code == -9, rerun=True, spared=_spared(before, at))
        yield from (f"after the rerun: {path}" for path in left)

    def _prepare(self, writer: Writer) -> None:
        for name in ("out", "tmp"):
            shutil.rmtree(self.root / name, ignore_errors=True)
            (self.root / name).mkdir()
        (self.root / "cache").mkdir(exist_ok=True)
        if not writer.place.startswith("out"):
            shutil.rmtree(self.root / writer.place, ignore_errors=True)
        for place, source in writer.given.items():
            shutil.copytree(self._shop / source, self.root / place)

    def _files(self, writer: Writer) -> Files:
        """What a reader sees: no unfinished files, of a benchmark no times and not what it keeps to go on."""
        place = self.root / writer.place
        seen: Files = {}
        for path in place.rglob("*"):
            relative = path.relative_to(place)
            hidden = any(_PARTIAL.fullmatch(part) for part in relative.parts) or relative.parts[0] == "work"
            if path.is_file() and not hidden:
                data = path.read_bytes()
                if writer.call == "bench":
                    data = without_times(data) if path.suffix == ".json" else b"whole" * data.rstrip().endswith(_ENDS)
                seen[relative.as_posix()] = data
        return seen

    def _left(self, writer: Writer, *, deadly: bool, rerun: bool = False, spared: Path | None = None) -> list[str]:
        """What lies about, apart from what a run may leave, and a temporary file that could not be removed."""
        found = [path for path in self.root.rglob("*") if _PARTIAL.fullmatch(path.name)]
        left = [str(path) for path in found if rerun or not (deadly or path.name == ".a.partial")]
        known = (".ses", "torchinductor")  # of libraries
        temporary = [path for path in (self.root / "tmp").iterdir() if not path.name.startswith(known)]
        temporary = [path for path in temporary if not (spared and spared.is_relative_to(path))]
        return left + ([] if deadly else [str(path) for path in temporary])


def _spared(ended: Ended, at: int) -> Path | None:
    """What the fault kept from being removed."""
    struck = ended.operations[at - 1] if len(ended.operations) >= at else None
    return struck.path if struck and struck.name in ("unlink", "rmdir") else None


_ENDS = (b".", b"</html>", b"|", b"`", b")")


def unsafe(operations: Sequence[Operation], published: Path) -> list[str]:
    """What a power failure could damage: published names given before their content was on the disk, or not kept.

    Args:
        published: the folder whose files count, but for those in `.partial` places.
    """
    dirty: set[Path] = set()
    wrong: list[str] = []
    pending: dict[Path, Path] = {}  # folder -> the name in it that is not known to be on the disk
    for operation in operations:
        path, target = operation.path, operation.target
        if operation.name in ("create", "write", "truncate", "allocate"):
            dirty.add(path)
            if operation.name != "create" and _is_published(path, published):
                wrong.append(f"{path} is written where it is read")
        elif operation.name == "fsync":
            dirty.discard(path)
            pending.pop(path, None)
        elif operation.name in ("rename", "link") and target is not None:
            moved = {p for p in dirty if p == path or p.is_relative_to(path)}
            if _is_published(target, published):
                wrong += [f"{target} got its name before {p} was on the disk" for p in sorted(moved)]
                pending[target.parent] = target
            dirty |= {target / p.relative_to(path) if p != path else target for p in moved}
            if operation.name == "rename":
                dirty -= moved
        elif operation.name == "unlink":
            dirty.discard(path)
    return wrong + [f"the name {name} may be lost" for name in pending.values()]


def _is_published(path: Path, published: Path) -> bool:
    """Whether others may read it: not in an unfinished folder, and not among what a benchmark keeps to go on."""
    parts = path.relative_to(published).parts if path.is_relative_to(published) else ("work",)
    return not any(part == "work" or _PARTIAL.fullmatch(part) for part in parts)


def tried(place: Range, name: str, fault: str, points: Sequence[int]) -> Tally:
    """Trials of one writer with one fault at these operations."""
    tally = Tally()
    for at in points:
        place.trial(name, fault, at, tally)
    return tally
