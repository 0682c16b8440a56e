"""A virtual environment of wheels in a folder: no index, no network, and no pip, which Debian's Python lacks."""

from __future__ import annotations

import os
import shutil
import sysconfig
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path

from edgekit.pack.bootstrap.here import RefusedError

COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what tools write; Python may lack the others


def make_environment(place: Path, wheels: Iterable[Path]) -> None:
    """An environment of these wheels and nothing else. It has no scripts: `python_of(place) -m NAME` runs it.

    Nothing in it depends on its place, so that it may be moved.

    Args:
        place: a new folder.

    Raises:
        RefusedError: a wheel is none, or this Python cannot make one.
        OSError: the disk is full.
    """
    try:
        import venv
    except ModuleNotFoundError as error:
        raise RefusedError("this Python has no module venv; on Debian, apt-get install python3-venv") from error
    venv.EnvBuilder(symlinks=os.name != "nt").create(place)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(place), "platbase": str(place)}))
    own = {_identity(path) for path in place.rglob("*") if not path.is_dir()}
    for wheel in wheels:
        _unpack(wheel, site, place, own)


def check_place(place: Path) -> None:
    """Raise RefusedError for a folder in which no environment can be: of such a name that it cannot be stated.

    Python's venv refuses what separates paths, and no text has bytes that are no UTF-8.
    """
    name = str(place)
    if not name.isprintable() or (os.pathsep in name):
        raise RefusedError(f"{name!r:.200}: no folder to install into: a name is printable and has no {os.pathsep!r}")


def python_of(place: Path, system: str = os.name) -> Path:
    """The interpreter of an environment.

    Args:
        system: `os.name` where that is.
    """
    return place / "Scripts" / "python.exe" if system == "nt" else place / "bin" / "python"


def clean_variables() -> dict[str, str]:
    """This process's variables, without those that would have another Python find other modules.

    What that Python compiles it does not keep: where a write comes short, as on a disk that is nearly full, 3.11 leaves
    half a compiled file in the environment, with which nothing of it starts any more.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1"}


def unpacked_bytes(wheels: Iterable[Path]) -> int:
    """What wheels take unpacked. Raises RefusedError for one that is none."""
    total = 0
    for wheel in wheels:
        with _opened(wheel) as archive:
            total += sum(member.file_size for member in archive.infolist())
    return total


@contextmanager
def _opened(wheel: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            if any(one.compress_type not in COMPRESSIONS for one in archive.infolist()):
                raise RefusedError(f"{wheel}: is no wheel: its compression is none that wheels have")
            yield archive
    # RuntimeError: a member is encrypted.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeDecodeError) as error:
        raise RefusedError(f"{wheel}: is no wheel: {error}") from error


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _unpack(wheel: Path, site: Path, place: Path, own: Set[tuple[int, int]]) -> None:
    """PEP 427, without scripts, and without headers, which nobody compiles with here.

    Args:
        own: the files that the environment had before any wheel. They stay as they are, and no link is followed: its
            `bin/python` is one to the system's.
    """
    with _opened(wheel) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            parts = member.filename.split("/")
            if any(part in ("", ".", "..") or set(part) & set("\\:\0") for part in parts):
                raise RefusedError(f"{wheel}: holds {member.filename!r:.80}, which is no plain path")
            base: Path | None = site
            if parts[0].endswith(".data") and len(parts) > 2:
                base, parts = {"purelib": site, "platlib": site, "data": place}.get(parts[1]), parts[2:]
            if base is None:
                continue
            target = base.joinpath(*parts)
            above = [target, *target.parents][: len(target.relative_to(place).parts)]
            if any(path.is_symlink() for path in above) or (target.exists() and _identity(target) in own):
                raise RefusedError(f"{wheel}: {member.filename!r:.80} would replace what the environment is made of")
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as given, target.open("wb") as made:
                shutil.copyfileobj(given, made, 1 << 20)
