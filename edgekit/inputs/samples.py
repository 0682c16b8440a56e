"""What a proof compares on, and calibration measures: pictures and text that come with edgekit, or a user's own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import InputError
from edgekit.inputs import image as images_
from edgekit.inputs.passage import passage, sentences
from edgekit.inputs.pictures import channel_test, extremes
from edgekit.inputs.pictures import pictures as shipped_pictures
from edgekit.inputs.text import MAX_TEXT

IMAGES_IN_PROMPTS = 3
_IMAGES = 8
_OFFERED = _IMAGES + 64
_CAPTIONS = 24
# Figures, marks, capitals, scripts and white space; nothing at all.
_UNLIKE_SENTENCES = (
    "CT 12: 4.5 x 3 cm, -1000 HU (L5/S1)",
    "R\u00d6NTGEN der Gr\u00f6\u00dfe 35 \u00d7 43 cm\u00b2; \u00b5g/mL, 37 \u00b0C",
    "\u041f\u041d\u0415\u0412\u041c\u041e\u041d\u0418\u042f \u80ba\u708e \u0635\u062f\u0631",
    " two  spaces,\ta tab\r\nand a line\n",
    "!?",
    "",
)
_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Inputs:
    """What a proof compares on.

    Attributes:
        images: uint8 arrays [h, w] or [h, w, 3] of different sizes; a decoder's prompts show the first three.
        text: longer than the attention window.
        captions: short texts for a text encoder.
        name: what the manifest says was used.
        pictures: all files that a user's folder offers, the proof's first; none where edgekit's own are shown.
        text_name: what the manifest says of a user's text, None for the one that comes with edgekit.
    """

    images: tuple[NDArray[np.uint8], ...]
    text: str
    captions: tuple[str, ...]
    name: str
    pictures: tuple[Path, ...] = ()
    text_name: str | None = None


def shipped_inputs() -> Inputs:
    """Pictures and a passage that come with edgekit."""
    return given_inputs(None, None)


def shown(inputs: Inputs) -> tuple[NDArray[np.uint8], ...]:
    """The pictures that a proof shows an encoder: a user's own may all be grey, so the channel test is among them."""
    return (*inputs.images, *channel_test())


def read_images(inputs: Inputs) -> tuple[NDArray[np.uint8], ...]:
    """The pictures of which a proof compares the pixels, those that an encoder is shown first."""
    return (*shown(inputs), *extremes())


def read_texts(inputs: Inputs) -> tuple[str, ...]:
    """The texts that a proof gives a text encoder's tokenizer, captions first: sentences may hold nothing but words."""
    return (*inputs.captions, *_UNLIKE_SENTENCES)


def given_inputs(images: Path | None, text: Path | None) -> Inputs:
    """A user's images and text, each in place of what comes with edgekit.

    Args:
        images: a folder; the proof shows its first 8 images by name, calibration the 64 behind them.
        text: a file in UTF-8.

    Raises:
        InputError: too few images or one that is damaged, or a file that is no text.
    """
    paths = _paths(images) if images else ()
    pictures, pictures_name = _given_images(paths) if paths else (shipped_pictures(), "pictures")
    words, words_name = _given_text(text) if text else (passage(), "text")
    shipped = [name for name, given in ((pictures_name, images), (words_name, text)) if not given]
    used = [name for name, given in ((pictures_name, images), (words_name, text)) if given]
    if shipped:
        used.append(f"{' and '.join(shipped)} shipped with edgekit")
    captions = sentences(words)[:_CAPTIONS]
    return Inputs(pictures, words, captions, " and ".join(used), paths, words_name if text else None)


def _paths(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)[:_OFFERED]
    if len(paths) < IMAGES_IN_PROMPTS:
        raise InputError(
            f"{folder}: {len(paths)} images",
            allowed=f"at least {IMAGES_IN_PROMPTS} files with one of the suffixes {' '.join(_SUFFIXES)}",
        )
    return tuple(paths)


def _given_images(paths: Sequence[Path]) -> tuple[tuple[NDArray[np.uint8], ...], str]:
    shown = paths[:_IMAGES]
    return tuple(np.asarray(images_.load(path)) for path in shown), name_of(shown)


def name_of(pictures: Sequence[Path]) -> str:
    """What the manifest says of a user's images: their number and contents, never their place."""
    return f"{len(pictures)} given images (sha256 {_digest([path.read_bytes() for path in pictures])})"


def _given_text(path: Path) -> tuple[str, str]:
    if not path.is_file():
        raise InputError(f"{path}: no such text file")
    if path.stat().st_size > 4 * MAX_TEXT:
        raise InputError(f"{path}: {path.stat().st_size} bytes", allowed=f"at most {MAX_TEXT} characters")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8: {error}", allowed="a text file in UTF-8") from error
    if not text:
        raise InputError(f"{path}: an empty text")
    return text, f"a given text of {len(text)} characters (sha256 {_digest([data])})"


def _digest(files: Sequence[bytes]) -> str:
    """A short hash of several files' contents."""
    return hashlib.sha256("".join(hashlib.sha256(data).hexdigest() for data in files).encode()).hexdigest()[:12]
