"""Where DICOM files lie: one by one, in folders, behind a DICOMDIR, in a zip archive; within limits."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from edgekit.artifacts.documents import is_file, is_folder
from edgekit.errors import InputError
from edgekit.inputs.dicom import file
from edgekit.inputs.dicom.guard import MAGIC, MOST_FILE_BYTES, PREAMBLE

DIRECTORY = "DICOMDIR"
MOST_FILES = 20_000
_HEAD = PREAMBLE + len(MAGIC)
_ZIP = b"PK\x03\x04"
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError)


@dataclass(frozen=True)
class Found:
    """DICOM files of one place.

    Attributes:
        files: what messages call each, and the file or its bytes.
        others: how many files beside them are none.
    """

    files: tuple[tuple[str, Path | bytes], ...]
    others: int = 0


def holds_several(path: Path) -> bool:
    """Whether a path is no single image file: a folder, a DICOMDIR, an archive."""
    return is_folder(path) or path.name.upper() == DIRECTORY or is_archive_file(path)


def is_archive_file(path: Path) -> bool:
    """Whether a path is a file that begins as a zip archive does."""
    return is_file(path) and is_archive(_head(path))


def is_archive(data: bytes) -> bool:
    """Whether bytes begin as a zip archive does."""
    return data[: len(_ZIP)] == _ZIP


def is_dicom_file(path: Path) -> bool:
    """Whether a path is one DICOM file, by its beginning."""
    return is_file(path) and file.is_dicom(_head(path))


def found(source: Path | bytes, name: str) -> Found:
    """The DICOM files of a folder and those below it, of a DICOMDIR, of an archive, or one file.

    Args:
        source: where it is, or an archive's or a file's bytes.
        name: what messages call those bytes.

    Raises:
        InputError: there are too many, or the archive is damaged; a DICOMDIR names what is not there or elsewhere.
    """
    if isinstance(source, bytes):
        is_archive = source[:4] == _ZIP
        return _unpacked(io.BytesIO(source), name) if is_archive else Found(((name, source),))
    path = source
    if is_folder(path):
        return _walked(path)
    if path.name.upper() == DIRECTORY:
        return Found(tuple(_listed(path)))
    if is_archive_file(path):
        with path.open("rb") as stream:
            return _unpacked(stream, str(path))
    return Found(((str(path), path),))


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_HEAD)
    except OSError:
        return b""


def _walked(folder: Path) -> Found:
    files: list[tuple[str, Path | bytes]] = []
    others = 0
    for above, names, inside in os.walk(folder):
        names.sort()
        for name in sorted(inside):
            if len(files) + others >= MOST_FILES:
                raise InputError(f"{folder}: more than {MOST_FILES} files", remedy="name one study's folder")
            path = Path(above, name)
            if not path.is_file() or name.upper() == DIRECTORY or not file.is_dicom(_head(path)):
                others += name.upper() != DIRECTORY
                continue
            files.append((str(path), path))
    return Found(tuple(files), others)


def _listed(directory: Path) -> Iterator[tuple[str, Path]]:
    """The images that a DICOMDIR names, below its own folder (PS3.10, 8.6)."""
    root = directory.parent.resolve()
    for parts in file.directory(directory):
        path = directory.parent.joinpath(*parts)
        if not path.resolve().is_relative_to(root):
            raise InputError(f"{directory}: names a file outside of its own folder")
        if not is_file(path):
            raise InputError(f"{path}: is named by the {DIRECTORY}, and is not there", remedy="copy the whole medium")
        yield str(path), path


def _unpacked(stream: IO[bytes], archive: str) -> Found:
    files: list[tuple[str, Path | bytes]] = []
    others = size = 0
    try:
        with zipfile.ZipFile(stream) as opened:
            members = [one for one in opened.infolist() if not one.is_dir()]
            if len(members) > MOST_FILES:
                raise InputError(f"{archive}: {len(members)} files", allowed=f"at most {MOST_FILES}")
            for member in sorted(members, key=lambda one: one.filename):
                with opened.open(member) as inside:
                    head = inside.read(_HEAD)
                    if not file.is_dicom(head) or PurePosixPath(member.filename).name.upper() == DIRECTORY:
                        others += 1
                        continue
                    data = head + inside.read(MOST_FILE_BYTES - size)
                    size += len(data)
                    if inside.read(1):
                        raise InputError(f"{archive}: unpacks to more than {MOST_FILE_BYTES >> 30} GB")
                files.append((f"{archive}:{member.filename}", data))
    except _DAMAGED as error:
        raise InputError(f"{archive}: a damaged archive ({type(error).__name__})", allowed="a zip archive") from error
    return Found(tuple(files), others)
