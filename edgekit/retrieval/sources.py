"""Many files to pictures, one after the other: what cannot be read is a row with its error, and the rest goes on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit.artifacts.documents import is_folder
from edgekit.artifacts.files import sha256_file
from edgekit.errors import InputError
from edgekit.inputs import square
from edgekit.inputs.dicom import file, folder, recipes, study
from edgekit.inputs.dicom.study import Reading
from edgekit.inputs.image import Picture, read
from edgekit.inputs.image_kinds import begins

# Of files in folders: what else lies there is passed over, and counted.
_PICTURES = begins(b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"GIF8", b"P5", b"P6")


@dataclass(frozen=True, eq=False)
class Row:
    """One picture.

    Attributes:
        name: its file, and `#N` for a frame of several.
        picture: or why there is none.
        file: that it is of.
    """

    name: str
    picture: Picture | InputError
    file: Path


def files_of(paths: Iterable[Path]) -> tuple[list[Path], int]:
    """The files that are named, and those of folders that look like pictures, sorted; how many others lie there.

    A DICOMDIR stands for the files that it names.
    """
    found: list[Path] = []
    others = 0
    for path in paths:
        if not is_folder(path):
            found += _named(path)
            continue
        for above, names, inside in os.walk(path):
            names.sort()
            for name in sorted(inside):
                one = Path(above, name)
                looks = one.is_file() and looks_like_a_picture(one)
                found += [one] if looks else []
                others += not looks
    return found, others


def _named(path: Path) -> list[Path]:
    if path.name.upper() != folder.DIRECTORY:
        return [path]
    try:
        return [Path(called) for called, _ in folder.found(path, str(path)).files]
    except InputError:
        return [path]  # why it cannot be read, its row says


def looks_like_a_picture(path: Path) -> bool:
    """By its first bytes, or as a DICOM file."""
    try:
        with path.open("rb") as stream:
            head = stream.read(134)
    except OSError:
        return True  # what it is, and why it cannot be read, its row says
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return _PICTURES(head) or webp or (file.is_dicom(head) and path.name.upper() != folder.DIRECTORY)


def rows(path: Path, reading: Reading, *, pad: bool = False) -> Iterator[Row]:
    """The pictures of one file: one, or one for each frame, of an archive one for each frame of its DICOM files."""
    try:
        if not folder.is_dicom_file(path) and not folder.is_archive_file(path):
            made = read(path, range=reading.range, max_megapixels=reading.max_megapixels, pad=pad)
            yield Row(str(path), made, path)
            return
        inside = folder.found(path, str(path)).files
    except InputError as error:
        yield Row(str(path), error, path)
        return
    if not inside:
        none = InputError(f"{path}: no DICOM file is in it", allowed="a zip archive of DICOM files")
        yield Row(str(path), none, path)
    for called, source in inside:
        try:
            for name, picture in _frames(called, source, reading, pad=pad):
                yield Row(name, picture, path)
        except InputError as error:
            yield Row(called, error, path)


def _frames(called: str, source: Path | bytes, reading: Reading, *, pad: bool) -> Iterator[tuple[str, Picture]]:
    count = len(file.header(source, called, max_megapixels=reading.max_megapixels).frames)
    for number, frame in enumerate(file.frames(source, name=called, max_megapixels=reading.max_megapixels), 1):
        shown = recipes.shown([frame], reading.recipe, reading.range)
        image = shown.images[0].convert("RGB")
        name = f"{called}#{number}" if count > 1 else called
        notes = tuple(f"{name}: {note}" for note in shown.notes)
        yield name, Picture(square.pad(image).image if pad else image, notes)


def series(path: Path, reading: Reading, *, pad: bool = False) -> tuple[list[Picture], tuple[str, ...]]:
    """The pictures of a series in its order, and what is to be known of it. Raises as `study.read`."""
    found = study.read(path, reading)
    colours = [image.convert("RGB") for image in found.images]
    return [Picture(square.pad(one).image if pad else one) for one in colours], found.notes


def asked_about(path: Path, reading: Reading, *, pad: bool = False) -> list[Picture]:
    """The picture of an image file, or those of a study. Raises InputError as `read` and `study.read`."""
    if folder.holds_several(path) or folder.is_dicom_file(path):
        return series(path, reading, pad=pad)[0]
    return [read(path, range=reading.range, max_megapixels=reading.max_megapixels, pad=pad)]


def patient_of(path: Path, salt: bytes) -> str:
    """A hash of a DICOM file's PatientID, or of an archive's; "" where it has none, or is another file.

    Raises:
        InputError: it cannot be read, or an archive has several patients, of whom one could not be forgotten alone.
    """
    if folder.is_archive_file(path):
        known = {file.header(data, name, salt=salt).patient_id for name, data in folder.found(path, str(path)).files}
        if len(known) > 1:
            raise InputError(f"{path}: an archive of several patients", remedy="unpack it, and name its folder")
        return known.pop() if known else ""
    return file.header(path, salt=salt).patient_id if folder.is_dicom_file(path) else ""


def digest_of(path: Path) -> str:
    """What a file is known by. Raises InputError where it cannot be read."""
    try:
        return sha256_file(path)
    except OSError as error:
        raise InputError(f"{path}: it cannot be read: {error.strerror}") from error
