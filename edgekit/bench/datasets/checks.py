"""What would make a figure wrong without anybody's notice: cases that are there twice, and splits that leak."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

from edgekit.artifacts.documents import is_file, is_folder
from edgekit.bench.datasets.cases import Case, some
from edgekit.bench.datasets.schema import DatasetSource
from edgekit.errors import InputError


def contents(cases: Sequence[Case]) -> dict[int, str]:
    """Position of a case -> what its image holds, the same for the same bytes; cases without an image are left out.

    A file is only read where another one has its size; a series' folder is all of its files.
    """
    sizes: dict[Path, int] = {}
    for case in cases:
        if isinstance(case.image, Path) and case.image not in sizes:
            sizes[case.image] = case.image.stat().st_size if is_file(case.image) else -1
    paths_of: dict[int, int] = defaultdict(int)
    for size in sizes.values():
        paths_of[size] += 1
    of_path = {
        path: _of_folder(path) if is_folder(path)
        else _digest(path.read_bytes()) if size >= 0 and paths_of[size] > 1 else _alone(path, size)
        for path, size in sizes.items()
    }
    found = {}
    for position, case in enumerate(cases):
        if case.image is not None:
            found[position] = of_path[case.image] if isinstance(case.image, Path) else _digest(case.image)
    return found


def check(cases: Sequence[Case], source: DatasetSource, content: dict[int, str], where: str) -> list[int]:
    """The positions of the cases that are read: those of the split that are in no other, where that is wanted.

    Raises:
        InputError: an id twice, one image with two labels, a split that is not there, or one that leaks; rows named.
    """
    _once(cases, where)
    _one_label(cases, content, where)
    splits = sorted({case.split for case in cases})
    chosen = [i for i, case in enumerate(cases) if splits == [""] or case.split == source.split]
    if cases and not chosen:
        raise InputError(f"{where}: nothing is in the split {source.split!r}", allowed=", ".join(filter(None, splits)))
    leaked = _leaks(cases, content, source.split)
    if leaked and source.leaks == "refused":
        lines = [f"{cases[i].place} ({cases[i].split}) and {cases[j].place} ({cases[j].split}): {what}"
                 for i, j, what in leaked]  # fmt: skip
        raise InputError(
            f"{where}: {len(leaked)} cases of one split are in another, so its figures would flatter",
            items=some(lines),
            remedy="keep every image and every group in one split",
        )
    out = {i for i, _, _ in leaked}
    return [i for i in chosen if i not in out]


def _once(cases: Sequence[Case], where: str) -> None:
    twice = _shared(range(len(cases)), lambda i: cases[i].id)
    if twice:
        lines = [f"{cases[same[0]].id!r:.80}: {_places(cases, same)}" for same in twice]
        raise InputError(f"{where}: {len(twice)} ids stand for several rows", items=some(lines), remedy="an id a row")


def _one_label(cases: Sequence[Case], content: dict[int, str], where: str) -> None:
    """The same image under two labels: whatever is answered, one of them is wrong."""
    labelled = [i for i in content if cases[i].truth and not cases[i].question]
    two = [same for same in _shared(labelled, content.__getitem__) if len({cases[i].truth for i in same}) > 1]
    if two:
        lines = [", ".join(f"{cases[i].place} ({cases[i].truth})" for i in same[:4]) for same in two]
        what = f"{where}: {len(two)} images have several labels"
        raise InputError(what, items=some(lines), remedy="decide on one, or take them out")


def _leaks(cases: Sequence[Case], content: dict[int, str], split: str) -> list[tuple[int, int, str]]:
    """Cases of a split, each with one of another that has the same image or is of the same group."""
    found: dict[int, tuple[int, int, str]] = {}
    for what, key_of, positions in (
        ("the same image", content.__getitem__, list(content)),
        ("of the same group", lambda i: cases[i].group, [i for i, case in enumerate(cases) if case.group]),
    ):
        for same in _shared(positions, key_of):
            other = next((i for i in same if cases[i].split != split), None)
            if other is not None:
                for i in same:
                    if cases[i].split == split:
                        found.setdefault(i, (i, other, what))
    return [found[i] for i in sorted(found)]


def _shared(positions: Iterable[int], key_of: Callable[[int], Hashable]) -> list[list[int]]:
    """Positions with the same key, where there are several, in their order."""
    by_key: dict[Hashable, list[int]] = defaultdict(list)
    for position in positions:
        by_key[key_of(position)].append(position)
    return [same for same in by_key.values() if len(same) > 1]


def _places(cases: Sequence[Case], same: Sequence[int]) -> str:
    return ", ".join(cases[i].place for i in same[:6])


def _alone(path: Path, size: int) -> str:
    """What no other file is: nothing of where the folder lies, which figures must not depend on."""
    return f"{size} bytes" if size >= 0 else f"missing: {path.parent.name}/{path.name}"


def _of_folder(folder: Path) -> str:
    """Of a series' folder: the same for the same files, whatever they are called."""
    return _digest("".join(sorted(_digest(path.read_bytes()) for path in folder.rglob("*") if is_file(path))).encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
