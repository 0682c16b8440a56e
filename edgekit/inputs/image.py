"""Images to pixels, exactly as Hugging Face's Pillow-backed processors do it, without torch.

No URL is ever fetched. A file is decoded only after its header's size passed a limit, so that a small file cannot
claim gigabytes.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edgekit.artifacts.manifest import Preprocessing
from edgekit.errors import InputError

MAX_PIXELS = 64_000_000  # a 300-megapixel bomb is refused, a whole-slide overview or a mammogram is not
MIN_SIDE = 2  # a single pixel holds no image; resizing one would pass a constant off as a picture
MAX_SIDE = 20_000
_RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Formats whose decoders are small and common; a medical image in another container is DICOM's business.
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # `Path` makes one slash of two
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")

ImageLike = Path | str | Image.Image | NDArray[np.uint8]


def load(source: ImageLike) -> Image.Image:
    """An image in RGB.

    Args:
        source: a file's path, a Pillow image, or a uint8 array [height, width] or [height, width, 3].

    Raises:
        InputError: no such file, not an image, truncated, or of a size outside the limits.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim not in (2, 3) or (source.ndim == 3 and source.shape[2] != 3):
            raise InputError(
                f"an array of {source.dtype} {list(source.shape)} is no image", allowed="uint8 [h, w] or [h, w, 3]"
            )
        source = Image.fromarray(source)
    if isinstance(source, Image.Image):
        _check_size(source, "the image")
        return _rgb(source, "the image")
    path = Path(source)
    if _ADDRESS.match(str(source)):
        raise InputError(f"{source}: addresses are never fetched", allowed="a file on this machine")
    if not path.is_file():
        raise InputError(f"{path}: no such image file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limits are stricter and say more
            image = Image.open(path, formats=_FORMATS)
            _check_size(image, str(path))
            return _rgb(ImageOps.exif_transpose(image), str(path))  # or a photograph may lie on its side
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not an image", allowed=", ".join(_FORMATS)) from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: {error}", allowed=f"at most {MAX_PIXELS // 1_000_000} megapixels") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's decoders raise all three for damaged files
        raise InputError(f"{path}: damaged or truncated: {error}", remedy="copy the file again") from error


def to_pixels(images: Sequence[ImageLike], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resize images to the encoder's square: uint8 [n, size, size, 3]."""
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


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise InputError(
            f"{name}: {width} x {height} pixels",
            allowed=f"{MIN_SIDE} to {MAX_SIDE} pixels a side, at most {MAX_PIXELS // 1_000_000} megapixels",
        )


def _rgb(image: Image.Image, name: str) -> Image.Image:
    """RGB of 8 bits a channel. 16-bit images are scaled as Google's serving code does it: round(x / 257).

    What is transparent becomes white, as in Hugging Face's processors: the colours beneath are nobody's picture.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.float64)
        if image.mode == "F" or wide.max() > 65535 or wide.min() < 0:
            raise InputError(f"{name}: floating point, or more than 16 bits a pixel", allowed="8 or 16 bits a pixel")
        image = Image.fromarray(np.rint(wide / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
