"""One DICOM file: its header without its pixels, and its frames in the units that it states.

It is parsed and decoded in a worker process of its own, within limits of size, memory and time.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import EdgekitError, InputError, WorkerError
from edgekit.inputs.dicom import decode, guard
from edgekit.inputs.dicom.guard import is_dicom
from edgekit.inputs.dicom.types import Frame, FrameHeader, Header, Window
from edgekit.machine.resident import Resident

__all__ = ["directory", "frames", "header", "is_dicom"]

NAMELESS = "the image"
MAX_MEGAPIXELS = 40.0
READER = Resident(decode.serve)
_LIMIT_S, _PER_MEGABYTE_S = 30.0, 0.5
_MOST_SAID_BYTES = 64_000_000  # of what is said beside pixels
_MOST_ANSWER_BYTES = 256_000_000  # of frames that are asked for at once
_SALT = secrets.token_bytes(16)  # of this process: a hash means nothing elsewhere
_SAFELY = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def header(
    source: Path | bytes,
    name: str | None = None,
    *,
    max_megapixels: float = MAX_MEGAPIXELS,
    salt: bytes = _SALT,
) -> Header:
    """A file's header.

    Args:
        source: the file, or its bytes.
        name: what messages call it, nothing for an empty one; its path for None.
        salt: what hashes of the patient begin with; this process's own without it.

    Raises:
        InputError: it cannot be read, is no DICOM file with an image, damaged, or beyond the limits.
        WorkerError: no process can be started to read it.
    """
    name, data = _named(source, name)
    _, raw = _asked(name, {"do": "header", "salt": salt.hex()}, data, max_megapixels, 0)
    said = json.loads(raw)
    places = tuple(_frame_header(one) for one in said.pop("frames"))
    return Header(name=name, frames=places, **{**said, "image_type": tuple(said["image_type"])})


def frames(
    source: Path | bytes,
    wanted: Sequence[int] | None = None,
    *,
    name: str | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Iterator[Frame]:
    """Frames of a file, decoded.

    Args:
        wanted: their numbers, from 0 on; all of them for None.
        max_megapixels: nothing larger is decoded.

    Raises:
        InputError: as `header`; or a frame is compressed by what nothing here decodes, or is of another size than the
            file says.
        WorkerError: as `header`.
    """
    name, data = _named(source, name)
    said = header(data, name, max_megapixels=max_megapixels)
    numbers = list(range(len(said.frames)) if wanted is None else wanted)
    size = 8 * said.rows * said.columns * max(1, said.samples)  # of values of 64 bits
    at_once = max(1, _MOST_ANSWER_BYTES // size)
    for start in range(0, len(numbers), at_once):
        job = {"do": "frames", "wanted": numbers[start : start + at_once]}
        place, raw = _asked(name, job, data, max_megapixels, size * at_once)
        for one in json.loads(raw[:place]):
            array = np.frombuffer(raw, one.pop("type"), int(np.prod(shape := one.pop("shape"))), place).reshape(shape)
            place += array.nbytes
            table = np.frombuffer(raw, np.float64, 2 * one.pop("entries"), place).reshape(-1, 2)
            place += table.nbytes
            yield _frame(array, table, one)


def directory(source: Path) -> list[list[str]]:
    """The files of images that a DICOMDIR names, each by the parts of its path. Raises InputError as `header`."""
    name, data = _named(source, None)
    _, raw = _asked(name, {"do": "directory"}, data, MAX_MEGAPIXELS, 0)
    return list(json.loads(raw))


def _asked(name: str, job: dict[str, Any], data: bytes, max_megapixels: float, most: int) -> tuple[Any, bytes]:
    job = {"salt": _SALT.hex(), "wanted": [], **job, "pixels": int(max_megapixels * 1e6)}
    limit_s = _LIMIT_S + _PER_MEGABYTE_S * (len(data) + most) / 1e6
    try:
        return READER.ask(job, data, limit_s=limit_s, most=most + _MOST_SAID_BYTES)
    except WorkerError:
        raise
    except EdgekitError as error:
        before = f"{name}: " if name else ""
        raise InputError(f"{before}{error.message}", allowed=error.allowed, remedy=error.remedy) from None


def _frame_header(said: dict[str, Any]) -> FrameHeader:
    tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
    return FrameHeader(**tuples)  # type: ignore[arg-type]  # as the worker made them of these fields


def _frame(array: Any, table: Any, said: dict[str, Any]) -> Frame:
    return Frame(
        values=array,
        windows=tuple(Window(*one) for one in said.pop("windows")),
        voi_lut=table if len(table) else None,
        full=tuple(said.pop("full")),
        notes=tuple(said.pop("notes")),
        **said,
    )


def _named(source: Path | bytes, name: str | None) -> tuple[str, bytes]:
    if isinstance(source, bytes):
        return NAMELESS if name is None else name, source
    name = name or str(source)
    try:
        handle = os.open(source, os.O_RDONLY | _SAFELY)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise InputError(f"{name}: no ordinary file")
            data = file.read(guard.MOST_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        gone = isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOTDIR)
        said = "no such file" if gone else f"it cannot be read: {getattr(error, 'strerror', 'no name of a file')}"
        raise InputError(f"{name}: {said}") from error
    if len(data) > guard.MOST_FILE_BYTES:
        raise InputError(f"{name}: larger than {guard.MOST_FILE_BYTES >> 30} GB")
    return name, data
