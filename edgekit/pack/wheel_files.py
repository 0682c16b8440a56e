"""Wheels as files: read and checked by their RECORD, written so that the same content is the same bytes.

A wheel is a zip archive (PyPA's binary distribution format). What zip files hold beside content is fixed here: the
order, the dates, the permissions, the system; and nothing is compressed, since no two versions of zlib promise the same
bytes.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit.artifacts.files import replacing
from edgekit.errors import ArtifactError
from edgekit.pack.bootstrap.environment import COMPRESSIONS

_NAME = re.compile(r"(?P<name>[\w.]+)-(?P<version>[\w.+!]+)-(?:\d[^-]*-)?(?P<tag>[^-]+-[^-]+-[^-]+)\.whl", re.ASCII)
_MOST_BYTES = 1 << 30  # of a wheel's content: it is read into memory
_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip file can state
_REMEDY = "fetch or build it again"


@dataclass(frozen=True)
class Wheel:
    """A wheel's content.

    Attributes:
        name: the distribution's, as the file's name has it.
        tag: what it runs on: `py3-none-any`; several of a kind are joined by dots.
        files: by their path in the archive, without RECORD.
    """

    name: str
    version: str
    tag: str
    files: Mapping[str, bytes]

    @property
    def info(self) -> str:
        """The folder of its metadata."""
        return f"{self.name}-{self.version}.dist-info"

    @property
    def file_name(self) -> str:
        """The name of its file."""
        return f"{self.name}-{self.version}-{self.tag}.whl"


def read_wheel(path: Path) -> Wheel:
    """A wheel, each of its files compared with the RECORD.

    Raises:
        ArtifactError: it is none, or a file is not what its RECORD says; the message names it.
    """
    parts = _NAME.fullmatch(path.name)
    if not parts:
        raise ArtifactError(f"{path}: is not named as wheels are", allowed="NAME-VERSION-PYTHON-ABI-PLATFORM.whl")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if any(entry.compress_type not in COMPRESSIONS for entry in entries):
                raise ArtifactError(f"{path}: its compression is none that wheels have", remedy=_REMEDY)
            if sum(entry.file_size for entry in entries) > _MOST_BYTES:
                raise ArtifactError(f"{path}: holds more than {_MOST_BYTES >> 20} MiB", remedy=_REMEDY)
            files = {entry.filename: archive.read(entry) for entry in entries}
    # RuntimeError: a member is encrypted.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: is no zip archive: {error}", remedy=_REMEDY) from error
    wheel = Wheel(parts["name"], parts["version"], parts["tag"], files)
    record = f"{wheel.info}/RECORD"
    if record not in files:
        raise ArtifactError(f"{path}: has no {record}", remedy=_REMEDY)
    said = files.pop(record)
    _compare(path, said, files)
    return wheel


def write_wheel(wheel: Wheel, folder: Path) -> Path:
    """Write a wheel into a folder, with the tag in its metadata and a RECORD of its own.

    Raises:
        ArtifactError: it has no WHEEL file.
        OSError: it cannot be written; what was there before is.
    """
    described = f"{wheel.info}/WHEEL"
    if described not in wheel.files:
        raise ArtifactError(f"{wheel.file_name}: has no {described}", remedy=_REMEDY)
    lines = [line for line in wheel.files[described].decode().splitlines() if line and not line.startswith("Tag:")]
    text = "\n".join([*lines, *(f"Tag: {tag}" for tag in _single_tags(wheel.tag))]) + "\n"
    files = {**wheel.files, described: text.encode()}
    # Installers read a wheel's metadata from its end, and the RECORD comes last.
    order = sorted(files, key=lambda name: (name.startswith(f"{wheel.info}/"), name))
    record = [f"{name},sha256={_digest(files[name])},{len(files[name])}\n" for name in order]
    files[f"{wheel.info}/RECORD"] = "".join([*record, f"{wheel.info}/RECORD,,\n"]).encode()
    target = folder / wheel.file_name
    with replacing(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in [*order, f"{wheel.info}/RECORD"]:
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # Unix, a plain file
            archive.writestr(entry, files[name], zipfile.ZIP_STORED)
    return target


def _single_tags(tag: str) -> list[str]:
    """`py2.py3-none-any` is two."""
    pythons, abis, platforms = (part.split(".") for part in tag.split("-"))
    return [f"{python}-{abi}-{platform}" for python in pythons for abi in abis for platform in platforms]


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _compare(path: Path, record: bytes, files: Mapping[str, bytes]) -> None:
    """Raise ArtifactError for the first file that a RECORD does not have, or has with another hash."""
    try:
        rows = [row for row in csv.reader(io.StringIO(record.decode())) if row]
        said = {row[0]: row[1] for row in rows}
    except (UnicodeDecodeError, csv.Error, IndexError) as error:
        raise ArtifactError(f"{path}: its RECORD cannot be read: {error}", remedy=_REMEDY) from error
    for name, data in files.items():
        kind, _, digest = said.get(name, "").partition("=")
        if kind not in ("sha256", "sha384", "sha512"):
            if name.rpartition("/")[2] in ("RECORD.jws", "RECORD.p7s"):  # signatures of the RECORD cannot be in it
                continue
            raise ArtifactError(f"{path}: {name} is not in its RECORD", remedy=_REMEDY)
        found = base64.urlsafe_b64encode(hashlib.new(kind, data).digest()).rstrip(b"=").decode()
        if found != digest.rstrip("="):
            raise ArtifactError(f"{path}: {name} is not what its RECORD says", remedy=_REMEDY)
