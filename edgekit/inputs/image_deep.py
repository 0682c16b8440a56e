"""Values of more than 8 bits as files hold them.

Pillow decodes them, keeps the upper half of 16-bit colours, and reads some TIFF layouts in the wrong order of bytes.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from edgekit.inputs import image_pnm, image_types
from edgekit.inputs.image_types import Values

FULL = (0, 65535)
# TIFF layouts that Pillow can decode, but has no row for: byte order, photometric, sample format, fill order, bits.
MORE_TIFF: Mapping[Any, tuple[str, str]] = MappingProxyType(
    {
        (b"MM", 0, (1,), 1, (16,), ()): ("I;16B", "I;16B"),
        (b"II", 0, (2,), 1, (8,), ()): ("L", "L"),
        (b"MM", 0, (2,), 1, (8,), ()): ("L", "L"),
        (b"II", 0, (2,), 1, (16,), ()): ("I", "I;16S"),
        (b"MM", 0, (2,), 1, (16,), ()): ("I", "I;16BS"),
        (b"II", 0, (2,), 1, (32,), ()): ("I", "I;32S"),
        (b"MM", 0, (2,), 1, (32,), ()): ("I", "I;32BS"),
        (b"MM", 1, (1,), 1, (32,), ()): ("I", "I;32B"),
        (b"II", 1, (3,), 1, (64,), ()): ("F", "F;64F"),
        (b"MM", 1, (3,), 1, (64,), ()): ("F", "F;64BF"),
    }
)
_COLOURS = ("RGB", "RGBX", "RGBA", "R", "G", "B", "A")
# libtiff gives numbers in this machine's order; Pillow knows that of unsigned 16 bits alone.
_LITTLE_AND_BIG = (
    ("I;16S", "I;16BS"),
    ("I;32S", "I;32BS"),
    ("I;32", "I;32B"),
    ("F;32F", "F;32BF"),
    ("F;64F", "F;64BF"),
)
_LITTLE = sys.byteorder == "little"
_NATIVE = {big: little for little, big in _LITTLE_AND_BIG} if _LITTLE else dict(_LITTLE_AND_BIG)
# A file's colours read in the wrong order of bytes are their lower halves.
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if _LITTLE else "L"}


def opened(data: bytes, formats: Sequence[str]) -> Image.Image:
    """A file of one of these formats, its header read, and set to decode what it holds."""
    image: Any = Image.open(io.BytesIO(data), formats=tuple(formats))
    if image.format == "TIFF":
        image.tile = [tile._replace(args=(_mended(image, tile), *tile.args[1:])) for tile in image.tile]
    return image  # type: ignore[no-any-return]


def _mended(image: Any, tile: Any) -> str:
    """How a TIFF file's bytes are unpacked."""
    rawmode = str(tile.args[0])
    if tile.codec_name == "libtiff":
        return _NATIVE.get(rawmode, rawmode)
    one_plane = rawmode in ("R", "G", "B", "A")
    if one_plane and image.tag_v2.get(image_types.BITS_PER_SAMPLE, (8,))[0] == 16:
        return f"{rawmode};16{'L' if image.tag_v2.prefix == b'II' else 'B'}"
    return rawmode


def values(image: Image.Image, data: bytes) -> Values | None:
    """The values of an opened picture of more than 8 bits a channel, None of any other; it is loaded then."""
    if image.format == "PPM" and (found := image_pnm.values(data)):
        return found
    rawmodes = [_rawmode(tile) for tile in image.tile] if isinstance(image, ImageFile.ImageFile) else []
    layout, _, order = rawmodes[0].partition(";") if rawmodes else ("", "", "")
    if order.startswith("16") and layout == "LA" and image.mode == "RGBA":  # a PNG's, as four bytes a pixel
        array = _unpacked(image, data, ["RGBA"] * len(rawmodes)).view(">u2").astype(np.uint16)
        return _coloured(array[..., 0], array[..., 1], image)
    if order.startswith("16") and layout in _COLOURS and image.mode in ("RGB", "RGBA"):
        array = np.asarray(image).astype(np.uint16)
        array <<= 8
        array |= _unpacked(image, data, [rawmode[:-1] + _OTHER_ORDER[rawmode[-1]] for rawmode in rawmodes])
        return _coloured(array[..., :3], array[..., 3] if array.shape[2] == 4 else None, image)
    image.load()
    return image_types.of_image(image)


def _rawmode(tile: Any) -> str:
    return str(tile.args[0] if isinstance(tile.args, tuple) else tile.args)


def _unpacked(image: Image.Image, data: bytes, rawmodes: Sequence[str]) -> NDArray[np.uint8]:
    """The same file, its bytes unpacked in another way."""
    again: Any = opened(data, [str(image.format)])
    again.tile = [
        tile._replace(args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode)
        for tile, rawmode in zip(again.tile, rawmodes, strict=True)
    ]
    return np.asarray(again)


def _coloured(array: NDArray[np.uint16], alpha: NDArray[np.uint16] | None, image: Image.Image) -> Values:
    key = image.info.get("transparency")
    opacity = None if alpha is None else image_types.to_8_bits(Values(alpha, FULL, "opacity"), FULL)[0]
    if isinstance(key, tuple) and len(key) == array.shape[-1]:
        opacity = np.where((array == key).all(axis=-1), 0, 255).astype(np.uint8)
    return Values(array, FULL, "16 bits a channel", alpha=opacity)
