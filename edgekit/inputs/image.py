"""Images to pixels, exactly as Hugging Face's Pillow-backed processors do it, without torch.

No URL is ever fetched. A file is decoded in a worker process, with limits of size, memory and time, so that a small
file can neither claim gigabytes nor end the program; what is decoded already (arrays, Pillow images) is converted here.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edgekit.artifacts.manifest import Preprocessing
from edgekit.errors import EdgekitError, EdgekitWarning, InputError, UsageError, WorkerError
from edgekit.inputs import dicom, image_file, image_types, square
from edgekit.inputs.dicom.guard import is_dicom
from edgekit.inputs.image_file import MAX_SIDE, MIN_SIDE, MOST_MEGAPIXELS, check_size, damage_named
from edgekit.inputs.image_types import Range, checked_range
from edgekit.machine.resident import Resident

__all__ = [
    "MAX_MEGAPIXELS",
    "MAX_PIXELS",
    "MAX_SIDE",
    "MIN_SIDE",
    "ImageLike",
    "Picture",
    "PictureWarning",
    "Range",
    "content_hash",
    "load",
    "normalize",
    "read",
    "say",
    "to_pixels",
]

NAMELESS = "the image"  # in messages, where it is no file
MAX_MEGAPIXELS = 40.0  # a mammogram has 13, a camera's photograph up to 24
MAX_PIXELS = int(MAX_MEGAPIXELS * 1e6)
_LIMIT_S = 30.0  # for a picture of the default budget, in proportion for a larger one
_BYTES_PER_PIXEL = 16  # of a file: floating-point colours, uncompressed
_SPARE_BYTES = 16_000_000  # for what a file holds beside its pixels
_RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_BANDS = {"L": 1, "RGB": 3}
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # `Path` makes one slash of two
_ORIENTATION = 0x0112  # EXIF's
_NO_FILE = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
DECODER = Resident(image_file.serve)


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that was read.

    Attributes:
        image: RGB, 8 bits a channel.
        warnings: what to know of how it became that, each beginning with its name. Who takes the picture says them;
            `Picture(picture.image)` is the same one where that was done.
        size: its own width and height, where it was filled up to a square; None where it was not.
    """

    image: Image.Image
    warnings: tuple[str, ...] = ()
    size: tuple[int, int] | None = None


ImageLike = Path | str | bytes | Image.Image | NDArray[Any] | Picture


class PictureWarning(EdgekitWarning):
    """What to know of a picture, where nothing is returned that could carry it."""


def read(
    source: ImageLike,
    *,
    range: Range | None = None,  # noqa: A002 (as users of the option know it)
    max_megapixels: float = MAX_MEGAPIXELS,
    recipe: str = dicom.DEFAULT,
    pad: bool = False,
) -> Picture:
    """An image in RGB, and what to know about it.

    Args:
        source: a file's path, or its bytes; a Pillow image; an array [height, width] or [height, width, 3]. A picture
            that was read already stays as it is.
        range: (low, high), the values that become black and white; `auto` for the picture's own least and greatest.
            None for those of its type: what has no such range (signed, 32 bits, floating point) is refused then.
        max_megapixels: nothing larger is decoded; a JPEG is reduced instead.
        recipe: how a DICOM file of one frame is shown: a name of `edgekit.inputs.dicom.recipes.RECIPES`.
        pad: fill it up with black to a square, as Google's server does; otherwise the model's processor stretches it.

    Raises:
        InputError: no such file, not an image, damaged, outside the limits, its values' meaning is unknown, or its
            decoder died.
        WorkerError: no process can be started to decode a file.
    """
    if isinstance(source, Picture):
        return source
    shown, pixels = checked_range(range), _budget(max_megapixels)
    name = str(source) if isinstance(source, str | Path) else NAMELESS
    try:
        if isinstance(source, str | Path):
            source = _content(source, _SPARE_BYTES + _BYTES_PER_PIXEL * pixels)
        if isinstance(source, bytes) and is_dicom(source):
            image, notes = _of_dicom(source, shown, max_megapixels, recipe)
        else:
            convert = _decoded if isinstance(source, bytes) else _converted
            image, notes = convert(source, shown, pixels)
    except (WorkerError, UsageError):
        raise
    except EdgekitError as error:
        raise InputError(f"{name}: {error.message}", allowed=error.allowed, remedy=error.remedy) from error
    known = tuple(f"{name}: {note}" for note in notes)
    return Picture(square.pad(image).image, known, image.size) if pad else Picture(image, known)


def load(source: ImageLike) -> Image.Image:
    """An image in RGB, as `read` makes it without options; what to know about it becomes Python warnings."""
    picture = read(source)
    say(picture.warnings)
    return picture.image


def say(known: Sequence[str]) -> None:
    """What is known of pictures as Python warnings, where nothing is returned that could carry it."""
    for text in known:
        warnings.warn(text, PictureWarning, stacklevel=3)


def to_pixels(images: Sequence[ImageLike], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Load images and resize them to the encoder's square: uint8 [n, size, size, 3]."""
    side = (preprocessing.size, preprocessing.size)
    resized = [np.asarray(load(image).resize(side, _RESAMPLE[preprocessing.resample])) for image in images]
    return np.stack(resized) if resized else np.zeros((0, *side, 3), np.uint8)


def normalize(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """uint8 [n, size, size, 3] to float32 [n, 3, size, size] as (x / 255 - mean) / std."""
    scaled = pixels.astype(np.float32) * np.float32(1 / 255)
    normalized = (scaled - np.asarray(preprocessing.mean, np.float32)) / np.asarray(preprocessing.std, np.float32)
    return np.ascontiguousarray(normalized.transpose(0, 3, 1, 2))


def content_hash(pixels: NDArray[Any]) -> str:
    """Identity of one preprocessed image, for caches."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _budget(megapixels: Any) -> int:
    """Pixels that may be decoded."""
    if not isinstance(megapixels, int | float) or not 0 < megapixels <= MOST_MEGAPIXELS:
        raise InputError(f"a limit of {megapixels!r:.80} megapixels", allowed=f"above 0, at most {MOST_MEGAPIXELS}")
    return int(megapixels * 1e6)


def _content(source: str | Path, most: int) -> bytes:
    """A file's bytes; only an ordinary file is opened, since a pipe may never end."""
    if _ADDRESS.match(str(source)):
        raise InputError("addresses are never fetched", allowed="a file on this machine")
    try:
        kind = stat.S_IFMT(os.stat(source).st_mode)  # noqa: PTH116 (a Path refuses what it cannot hold)
        if kind != stat.S_IFREG:
            raise InputError(f"no such image file: it is {_NO_FILE.get(kind, 'no ordinary file')}")
        # Not waiting for a pipe's other end, where one took the file's place meanwhile.
        descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(most + 1)
    except ValueError as error:  # a NUL, or what the system's encoding has no bytes for
        raise InputError("no such image file: no name of a file") from error
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            raise InputError(f"no such image file: {error.strerror}") from error
        raise InputError(f"it cannot be read: {error.strerror}", remedy="check its permissions and its disk") from error
    if len(data) > most:
        raise InputError(
            f"a file of more than {most // 1_000_000} MB",
            allowed=f"{_BYTES_PER_PIXEL} bytes for each pixel of the limit, and {_SPARE_BYTES // 1_000_000} MB",
            remedy="save a smaller picture of it, or raise --max-megapixels (in Python: max_megapixels=)",
        )
    return data


def _decoded(data: Any, shown: Range | None, pixels: int) -> tuple[Image.Image, list[str]]:
    """A file's content, decoded in the worker process."""
    limit_s = _LIMIT_S * max(1.0, pixels / MAX_PIXELS)
    answer, raw = DECODER.ask({"range": shown, "pixels": pixels}, data, limit_s=limit_s, most=3 * pixels)
    (width, height), mode = answer["size"], answer["mode"]
    if len(raw) != _BANDS[mode] * width * height:
        raise InputError("its decoder gave another size than it said")
    image = Image.frombytes(mode, (width, height), raw)
    return (image if mode == "RGB" else image.convert("RGB")), answer["warnings"]


def _of_dicom(data: bytes, shown: Range | None, megapixels: float, recipe: str) -> tuple[Image.Image, list[str]]:
    """A DICOM file of one frame. Raises InputError for one of several."""
    from edgekit.inputs.dicom import file, recipes

    frames = len(file.header(data, "", max_megapixels=megapixels).frames)
    if frames > 1:
        raise InputError(
            f"holds {frames} frames", allowed="one picture here", remedy="a study, where series are taken: ask --image"
        )
    (frame,) = file.frames(data, name="", max_megapixels=megapixels)
    made = recipes.shown([frame], recipe, shown)
    return made.images[0].convert("RGB"), [*frame.notes, *made.notes]


def _converted(source: Any, shown: Range | None, pixels: int) -> tuple[Image.Image, list[str]]:
    """What is decoded already, or by Pillow in this process; never the caller's own image."""
    if isinstance(source, Image.Image):
        check_size(source.size, pixels)
        with damage_named(b""):  # which Pillow may decode no sooner than now
            turned = source.getexif().get(_ORIENTATION, 1) != 1  # a photograph would lie on its side, as a file's would
            image, notes = image_file.to_rgb(ImageOps.exif_transpose(source) if turned else source, shown)
            return image.convert("RGB"), notes
    if not isinstance(source, np.ndarray):
        raise InputError(f"it is a {type(source).__name__}", allowed="a path, bytes, a Pillow image or an array")
    values = image_types.of_array(source)
    if values is None or (values.full is None and shown is None):
        allowed = "uint8 [h, w] or [h, w, 3]; uint16 likewise; other numbers with a range"
        raise InputError(f"an array of {source.dtype} {list(source.shape)} is no image", allowed=allowed)
    check_size((values.array.shape[1], values.array.shape[0]), pixels)
    image, notes = image_file.to_rgb(values, shown)
    return image.convert("RGB"), notes
