"""A picture in a square of its own: padded with black, as MedGemma's training did, or stretched, as processors do.

Google's notebook for localisation multiplies bytes by 255 after padding them, which turns grey values around; here
they stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from edgekit.errors import InputError

Box = tuple[float, float, float, float]
_WHOLE = 1000.0  # MedGemma 1.5 writes boxes in thousandths of the square, [y0, x0, y1, x1]


@dataclass(frozen=True, eq=False)
class Padded:
    """A picture in the middle of a black square.

    Attributes:
        left, top: where it begins in it, in pixels.
        size: its own width and height.
    """

    image: Image.Image
    left: int
    top: int
    size: tuple[int, int]

    @property
    def side(self) -> int:
        """The square's."""
        return self.image.width


def pad(image: Image.Image) -> Padded:
    """A picture in the middle of the smallest square that holds it; where one pixel is over, it is at the end."""
    side = max(image.size)
    left, top = (side - image.width) // 2, (side - image.height) // 2
    if image.width == image.height:
        return Padded(image, 0, 0, image.size)
    square = Image.new(image.mode, (side, side))
    square.paste(image, (left, top))
    return Padded(square, left, top, image.size)


def unpadded(box: Box, size: tuple[int, int], *, padded: bool = True) -> Box:
    """A box that a model wrote of a square, in pixels of the picture in it.

    Args:
        box: [y0, x0, y1, x1] in thousandths of the square.
        size: the picture's width and height.
        padded: whether the square was made by `pad`; else the picture was stretched to it.

    Returns:
        (left, top, right, bottom), cut to the picture.

    Raises:
        InputError: it is no box, or lies beside the picture.
    """
    y0, x0, y1, x1 = box
    if not (0 <= y0 < y1 <= _WHOLE and 0 <= x0 < x1 <= _WHOLE):
        raise InputError(f"a box of {[y0, x0, y1, x1]}", allowed="[y0, x0, y1, x1] from 0 to 1000, the less before")
    width, height = size
    if padded:
        side = max(size)
        scale, left, top = (side / _WHOLE, side / _WHOLE), (side - width) // 2, (side - height) // 2
    else:
        scale, left, top = (width / _WHOLE, height / _WHOLE), 0, 0
    found = (x0 * scale[0] - left, y0 * scale[1] - top, x1 * scale[0] - left, y1 * scale[1] - top)
    cut = (max(found[0], 0.0), max(found[1], 0.0), min(found[2], float(width)), min(found[3], float(height)))
    if cut[0] >= cut[2] or cut[1] >= cut[3]:
        raise InputError("a box beside the picture, in what was padded", remedy="ask again, or look at the picture")
    return cut
