"""Which image files a server takes: seven formats, told by their first bytes, before anything decodes them.

Pillow reads dozens, whose decoders nobody at a bedside needs and strangers attack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgekit.errors import InputError
from edgekit.inputs.dicom.guard import is_dicom
from edgekit.inputs.image_kinds import begins

_HEAD = 134  # bytes: a DICOM file begins behind a preamble
_BEGINNINGS: Mapping[str, Callable[[bytes], bool]] = {
    "PNG": begins(b"\x89PNG\r\n\x1a\n"),
    "JPEG": begins(b"\xff\xd8\xff"),
    "WebP": lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP",
    "TIFF": begins(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "BMP": begins(b"BM"),
    "DICOM": is_dicom,
    "zip of DICOM": begins(b"PK\x03\x04"),
}


def check_format(data: bytes, place: int) -> None:
    """Raise InputError where a file is in none of the formats.

    Args:
        data: the file.
        place: which of a request's images it is, from 0 on.
    """
    if not any(is_one(data[:_HEAD]) for is_one in _BEGINNINGS.values()):
        said = "is empty" if not data else "is in no format that a server takes"
        raise InputError(f"image {place + 1} {said}", allowed=", ".join(_BEGINNINGS), remedy="save it as PNG or JPEG")
