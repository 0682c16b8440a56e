"""An image file's bytes to RGB, bounded by what its header says: what `edgekit.inputs.image` has a worker process do.

Imports little, since the process that runs it starts while somebody waits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from edgekit.errors import EdgekitError, InputError
from edgekit.inputs import image_deep, image_notes, image_types
from edgekit.inputs.image_kinds import FORMATS, unreadable
from edgekit.inputs.image_types import Range, Values
from edgekit.machine.resident import limit_memory

MIN_SIDE = 2  # a single pixel holds no image; resizing one would pass a constant off as a picture
MAX_SIDE = 20_000
MOST_MEGAPIXELS = 400  # that a user may allow
MAX_SCANS = 100  # of a progressive JPEG, usual are 10: each goes over all of it, and the header does not say how many
_BYTES_PER_PIXEL = 32  # of memory while a picture is decoded: 16 bits, colours and transparency take the most
_SPARE_BYTES = 64_000_000
_COPIES = 4  # of the file, in Pillow and its decoders
_ORIENTATION = 0x0112
_TURNS: Mapping[int, Image.Transpose] = MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)
_REDUCTIONS = (1, 2, 4, 8)  # that a JPEG decoder makes on the way


def serve(job: Any, data: bytes) -> tuple[Any, bytes]:
    """`decode` in a process of its own, which may set limits for all of it.

    Args:
        job: `range` and `pixels`, as `decode` takes them.
        data: an image file.

    Returns:
        `size` (width, height), `mode` and `warnings`; 1 byte a pixel of grey (L), 3 of RGB.
    """
    Image.MAX_IMAGE_PIXELS = None  # ours is stricter, or a user's
    TiffImagePlugin.OPEN_INFO.update(image_deep.MORE_TIFF)
    shown = job["range"]
    image, notes = decode(data, "auto" if shown == "auto" else shown and tuple(shown), job["pixels"], limit_memory)
    return {"size": image.size, "mode": image.mode, "warnings": notes}, image.tobytes()


def decode(
    data: bytes, shown: Range | None, pixels: int, reserve: Callable[[int], None] = lambda more: None
) -> tuple[Image.Image, list[str]]:
    """An image file in RGB or grey, and what to know about it.

    Args:
        data: the file.
        shown: the range of values that becomes 0 to 255, see `edgekit.inputs.image_types`.
        pixels: the budget: nothing larger is decoded.
        reserve: told before each step how many bytes more than now it may take.

    Raises:
        InputError: not an image, damaged, of a size outside the limits, or of values that nobody knows the meaning of.
    """
    reserve(_SPARE_BYTES + _COPIES * len(data))
    try:
        with damage_named(data):
            _check_scans(data)
            check_size(_webp_canvas(data), pixels)
            image = image_deep.opened(data, FORMATS)
            notes = _reduced(image, pixels)
            check_size(image.size, pixels)
            reserve(_SPARE_BYTES + _COPIES * len(data) + _BYTES_PER_PIXEL * image.width * image.height)
            values = image_deep.values(image, data)
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))  # or a photograph may lie on its side
            known = [*image_notes.frames(image, data), *image_notes.profile(image), *image_notes.damage(image, data)]
            rgb, about = to_rgb(image if values is None else values, shown)
    except MemoryError as error:
        raise InputError("it needs more memory to decode than its size allows", remedy="save it as PNG") from error
    if turn is not None:
        rgb = rgb.transpose(turn)
    return rgb, [*notes, *known, *about]


def to_rgb(source: Image.Image | Values, shown: Range | None) -> tuple[Image.Image, list[str]]:
    """RGB or grey (L) of 8 bits a channel, perhaps the source itself, and what to know about it.

    What is transparent becomes white, as in Hugging Face's processors: the colours beneath are nobody's picture.

    Raises:
        InputError: values that nobody knows the meaning of, or no contrast where a range is wanted.
    """
    notes = []
    values = image_types.of_image(source) if isinstance(source, Image.Image) else source
    if values is None:
        assert isinstance(source, Image.Image), "values are there otherwise"
        if source.mode == "CMYK":
            notes.append("its colours are those of a printer (CMYK), converted without its profile")
        if shown is not None:
            values = _ordinary_values(source)
    if values is not None:
        array, about = image_types.to_8_bits(values, shown)
        notes += about
        source = Image.fromarray(array)
        if values.alpha is not None:
            source = source.convert("RGB")
            source.putalpha(Image.fromarray(values.alpha))
    assert isinstance(source, Image.Image), "made of the values otherwise"
    if source.has_transparency_data:
        source = source.convert("RGBA")
        notes += image_notes.transparency(source)
        source = Image.alpha_composite(Image.new("RGBA", source.size, "white"), source)
    rgb = source if source.mode in ("L", "RGB") else source.convert("RGB")
    if values is None:
        counts = np.reshape(rgb.histogram(), (-1, 256)).sum(axis=0)
        notes += image_types.narrow(counts, 255, "8 bits a channel")
    return rgb, [*notes, *image_notes.form(rgb), *image_notes.constancy(rgb)]


def check_size(size: tuple[int, int] | None, pixels: int) -> None:
    """Raise InputError where a picture's width and height are outside the limits; None is nothing to check."""
    if size is None:
        return
    width, height = size
    if min(size) < MIN_SIDE or max(size) > MAX_SIDE or width * height > pixels:
        wanted = -(-width * height // 1_000_000)
        fits = min(size) >= MIN_SIDE and max(size) <= MAX_SIDE and wanted <= MOST_MEGAPIXELS
        raise InputError(
            f"{width} x {height} pixels",
            allowed=f"{MIN_SIDE} to {MAX_SIDE} pixels a side, at most {pixels / 1e6:g} megapixels",
            remedy=f"--max-megapixels {wanted} (in Python: max_megapixels={wanted})" if fits else None,
        )


@contextmanager
def damage_named(data: bytes) -> Iterator[None]:
    """Whatever a decoder raises for a damaged file becomes an InputError; where memory ends, `decode` says so."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limits are stricter and say more
            yield
    except (EdgekitError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise unreadable(data) from error
    except Image.DecompressionBombError as error:
        raise InputError(f"too many pixels: {error}") from error
    except Exception as error:  # Pillow's decoders raise most of what there is: struct.error, TypeError, SyntaxError
        what = str(error) or type(error).__name__
        raise InputError(f"damaged or truncated: {what:.200}", remedy="copy the file again") from error


# ---------------------------------------------------------------- before anything is decoded


def _check_scans(data: bytes) -> None:
    """A JPEG's scans, each of which may take as long as the whole picture."""
    if data.startswith(b"\xff\xd8") and (scans := data.count(b"\xff\xda")) > MAX_SCANS:  # never part of coded data
        raise InputError(f"a JPEG of {scans} scans", allowed=f"at most {MAX_SCANS}", remedy="save it as PNG")


def _webp_canvas(data: bytes) -> tuple[int, int] | None:
    """A WebP file's width and height: its decoder takes memory for them when the file is opened."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    match data[12:16]:
        case b"VP8X":
            return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"VP8 ":
            width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
            return width, height
    return None


def _reduced(image: Image.Image, pixels: int) -> list[str]:
    """Have a JPEG that is too large decoded at a half, a quarter or an eighth of its size, and say so."""
    width, height = image.size
    if image.format not in ("JPEG", "MPO") or (width * height <= pixels and max(image.size) <= MAX_SIDE):
        return []
    for factor in _REDUCTIONS:
        small = -(-width // factor), -(-height // factor)
        if small[0] * small[1] <= pixels and max(small) <= MAX_SIDE:
            image.draft(None, (width // factor, height // factor))
            return [f"{width} x {height} pixels are above the limit: read at 1/{factor} of that"]
    return []


def _ordinary_values(image: Image.Image) -> Values:
    """A picture of 8 bits as values, for a range."""
    if not image.has_transparency_data:
        return Values(np.asarray(image.convert("RGB")), (0, 255), "8 bits a channel")
    array = np.asarray(image.convert("RGBA"))
    return Values(array[..., :3], (0, 255), "8 bits a channel", alpha=array[..., 3])
