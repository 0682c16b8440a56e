"""Mistakes before a part: how images become pixels, and texts ids."""

from __future__ import annotations

import copy
import functools
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from proofs import Instead, Trial, described

from wrong_exports.entry import FORMATS, WrongExport

Array = Any  # uint8 [height, width, 3]


@contextmanager
def _seen(trial: Trial, change: Callable[[Array], Array]) -> Iterator[Trial]:
    """Pictures are others before they are resized."""
    right = trial.opening

    def items(role: str, images: Sequence[Any], texts: Sequence[str]) -> Any:
        return right.items(role, [change(_rgb(image)) for image in images], texts)

    yield replace(trial, opening=Instead(right, items=items))


@contextmanager
def _preprocessed(trial: Trial, values: Mapping[str, Any]) -> Iterator[Trial]:
    """A manifest that says another preprocessing."""
    right = trial.opening.manifest.preprocessing
    yield described(trial, {}, {key: new(right) if callable(new) else new for key, new in values.items()})


@contextmanager
def _encoded(trial: Trial, change: Callable[[str], str], **options: Any) -> Iterator[Trial]:
    """The prompt's text is another when it reaches the tokenizer."""
    right = trial.opening.tokenizer

    def encode(text: str, **given: Any) -> Any:
        return right.encode(change(text), **{**given, **options})

    opening = trial.opening
    yield replace(trial, opening=opening_with(opening, Instead(right, encode=encode)))


@contextmanager
def _ids(trial: Trial, change: Callable[[Array], Array]) -> Iterator[Trial]:
    """Ids of texts [n, length] are others."""
    right = trial.opening

    def items(role: str, images: Sequence[Any], texts: Sequence[str]) -> Any:
        return np.ascontiguousarray(change(right.items(role, images, texts)))

    yield replace(trial, opening=Instead(right, items=items))


@contextmanager
def _uncleaned(trial: Trial) -> Iterator[Trial]:
    """Texts as they are written, in place of lower case without marks."""
    right = trial.opening

    def items(role: str, images: Sequence[Any], texts: Sequence[str]) -> Any:
        rows = right.items(role, images, texts)
        for row, text in zip(rows, texts, strict=True):
            ids = right.tokenizer.encode(text).ids[: len(row)]
            row[:] = [*ids, *[1] * (len(row) - len(ids))]
        return rows

    yield replace(trial, opening=Instead(right, items=items))


@contextmanager
def _texts(trial: Trial, change: Callable[[str], str]) -> Iterator[Trial]:
    right = trial.opening

    def items(role: str, images: Sequence[Any], texts: Sequence[str]) -> Any:
        return right.items(role, images, [change(text) for text in texts])

    yield replace(trial, opening=Instead(right, items=items))


def opening_with(opening: Any, tokenizer: Any) -> Any:
    """The same with another tokenizer."""
    changed = copy.copy(opening)
    changed.tokenizer = tokenizer
    return changed


def _rgb(image: Any) -> Array:
    return np.asarray(Image.fromarray(np.asarray(image)).convert("RGB"))


def _grey(image: Array) -> Array:
    return image.mean(axis=-1, keepdims=True).repeat(3, axis=-1).astype(np.uint8)


def _red(image: Array) -> Array:
    return image[..., :1].repeat(3, axis=-1)


def _centre(image: Array) -> Array:
    """The middle square alone; of a square, nine tenths of each side."""
    height, width = image.shape[:2]
    side = min(height, width) if height != width else height * 9 // 10
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side].copy()


def _letterboxed(image: Array) -> Array:
    """Black around it, so that it keeps its proportions."""
    height, width = image.shape[:2]
    side = max(height, width, min(height, width) + 8)
    wrong = np.zeros((side, side, 3), np.uint8)
    wrong[:height, :width] = image
    return wrong


def _transposed(image: Array) -> Array:
    return image.transpose(1, 0, 2).copy()


def _half_first(image: Array) -> Array:
    """Shrunk by the nearest pixels before the right filter."""
    return np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.NEAREST))


def _filter(right: Any) -> str:
    return {"bilinear": "bicubic", "bicubic": "bilinear"}[right.resample]


def _unaccented(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def _padded_left(ids: Array) -> Array:
    length = (ids != 1).sum(axis=1) + 1  # the end's id is the padding's
    return np.stack([np.roll(row, len(row) - n) for row, n in zip(ids, length, strict=True)])


_PICTURES: tuple[tuple[str, Callable[[Array], Array]], ...] = (
    ("images are blue, green, red", lambda image: image[..., ::-1].copy()),
    ("images are grey", _grey),
    ("images are red alone", _red),
    ("images are cut to their centre", _centre),
    ("images keep their proportions", _letterboxed),
    ("images lie on their side", _transposed),
    ("images are mirrored", lambda image: image[:, ::-1].copy()),
    ("images are inverted", lambda image: 255 - image),
    ("images are brighter", lambda image: np.minimum(image.astype(np.int16) + 8, 255).astype(np.uint8)),
    ("images are shrunk twice", _half_first),
    ("narrow images are cut", lambda image: image[: 8 * image.shape[1]] if len(image) > 8 * image.shape[1] else image),
    ("large images are shrunk twice", lambda image: _half_first(image) if image.size > 1_000_000 else image),
)
_PREPROCESSING: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("images are resized otherwise", {"resample": _filter}),
    ("images are resized by the nearest pixel", {"resample": "nearest"}),
    ("images are resized by Lanczos' filter", {"resample": "lanczos"}),
    ("the mean is ImageNet's", {"mean": (0.485, 0.456, 0.406)}),
    ("the deviation is ImageNet's", {"std": (0.229, 0.224, 0.225)}),
    ("pixels are in 0 .. 1", {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}),
    ("pixels are in 0 .. 255", {"mean": (0.0, 0.0, 0.0), "std": (0.00392156862745098,) * 3}),
    ("the mean is one grey level off", {"mean": (0.504, 0.504, 0.504)}),
    ("images are of another size", {"size": lambda right: right.size + 14}),
)
_BREAKS = "images lack their line breaks"
_PROMPTS: tuple[tuple[str, Callable[[str], str]], ...] = (
    (_BREAKS, lambda text: text.replace("\n\n<start_of_image>", "<start_of_image>")),
    ("the template's role is another", lambda text: text.replace("<start_of_turn>model", "<start_of_turn>assistant")),
    ("turns lack their line breaks", lambda text: text.replace("<end_of_turn>\n", "<end_of_turn>")),
    ("a space stands first", lambda text: f" {text}"),
    ("<bos> is doubled", lambda text: f"<bos>{text}"),
    ("<bos> is missing", lambda text: text.removeprefix("<bos>")),
)


def _pictures(name: str, change: Any) -> Iterator[WrongExport]:
    for file_format, roles in (("gguf", ("vision",)), ("onnx", ("vision", "image_encoder"))):
        yield WrongExport(name, roles, file_format, "inputs", change)


def _captions(name: str, change: Any) -> WrongExport:
    return WrongExport(name, ("text_encoder",), "onnx", "inputs", change)


INPUTS: tuple[WrongExport, ...] = (
    *(w for name, change in _PICTURES for w in _pictures(name, functools.partial(_seen, change=change))),
    *(w for name, new in _PREPROCESSING for w in _pictures(name, functools.partial(_preprocessed, values=new))),
    *(
        WrongExport(
            name, ("decoder",), file_format, "inputs", functools.partial(_encoded, change=change), sees=name == _BREAKS
        )
        for file_format in FORMATS
        for name, change in _PROMPTS
    ),
    _captions("texts are padded on the left", functools.partial(_ids, change=_padded_left)),
    _captions(
        "texts are padded with another id", functools.partial(_ids, change=lambda ids: np.where(ids == 1, 0, ids))
    ),
    _captions("texts lack their end", functools.partial(_ids, change=lambda ids: np.where(ids == 1, 2, ids))),
    _captions("texts keep capitals and marks", _uncleaned),
    _captions("texts have a mark behind them", functools.partial(_ids, change=lambda ids: np.roll(ids, 1, axis=1))),
    _captions("texts lose their figures", functools.partial(_texts, change=lambda text: re.sub(r"\d", "", text))),
    _captions("texts lose their accents", functools.partial(_texts, change=_unaccented)),
    _captions("texts are cut", functools.partial(_texts, change=lambda text: text[: len(text) // 2])),
)
