"""Which values become black and white: Google's preprocessings by name, one row each.

Sources: Google-Health/medgemma, python/data_accessors/local_file_handlers/generic_dicom_handler.py and the notebook
high_dimensional_ct_hugging_face (1.5); the MedGemma report's section on CT (1.0); Google-Health/medsiglip's server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.errors import InputError, unknown
from edgekit.inputs.dicom import DEFAULT, voi
from edgekit.inputs.dicom.types import Frame
from edgekit.inputs.image_types import Range

FILE = "file"
_CXR, _WHOLE_ACQUISITION = ("CR", "DX"), ("MR",)
_READ = ("CR", "DX", "CT", "MR", "US", "MG", "XC", "OT", "SC", "ES", "GM", "OP", "XA", "RF", "NM", "PT", "")


@dataclass(frozen=True)
class Recipe:
    """How pictures are made of frames.

    Attributes:
        ct: the windows of a CT in Hounsfield units as (low, high): one for a grey picture, three for red, green, blue.
        cxr: of radiographs: `stretched` over the picture's own least and greatest value, or by the `file`'s window.
        note: what is to be known of it.
    """

    ct: tuple[tuple[float, float], ...]
    cxr: str = "stretched"
    note: str = ""


RECIPES: Mapping[str, Recipe] = {
    "medgemma-1.5": Recipe(((-1024, 1024), (-135, 215), (0, 80))),
    "medgemma-1.0": Recipe(((-1225, 1025), (-135, 215), (0, 80))),
    # Its constant has the window's low end without its sign, where the notebook and the report have -135.
    "medgemma-1.5-server": Recipe(
        ((-1024, 1024), (135, 215), (0, 80)),
        note="Google's server shows soft tissue as 0 in green: its window begins at 135 HU, the notebook's at -135",
    ),
    "medsiglip": Recipe(((-1150, 1350),), cxr="file"),
    FILE: Recipe((), cxr="file"),
}


@dataclass(frozen=True)
class Shown:
    """Pictures made of frames.

    Attributes:
        images: in RGB, or grey (L).
        notes: what was shown as what.
    """

    images: tuple[Image.Image, ...]
    notes: tuple[str, ...] = field(default=())


def recipe(name: str) -> Recipe:
    """A recipe by its name. Raises UsageError for another."""
    if name not in RECIPES:
        raise unknown("preprocessing of DICOM", name, RECIPES)
    return RECIPES[name]


def is_shown_together(modality: str, name: str, range: Range | None) -> bool:  # noqa: A002
    """Whether what is black and white follows from all slices of an acquisition, also from those that are not shown."""
    return range == "auto" or (range is None and modality in _WHOLE_ACQUISITION and name != FILE)


def shown(
    frames: Sequence[Frame],
    name: str = DEFAULT,
    range: Range | None = None,  # noqa: A002
    ends: tuple[float, float] | None = None,
) -> Shown:
    """Frames of one acquisition as pictures.

    Args:
        name: of a recipe.
        ends: the least and greatest value of the whole acquisition, where other slices belong to it; see
            `is_shown_together`.
        range: (low, high) in the file's units, of a CT in Hounsfield units, that become black and white in place of
            what the recipe says; `auto` for the least and greatest of all frames.

    Raises:
        InputError: a modality that no recipe reads, or values without any contrast.
        UsageError: there is no such recipe.
    """
    one = recipe(name)
    modality = frames[0].about["modality"] if frames else ""
    if modality not in _READ:
        raise InputError(f"a picture of modality {modality}", allowed=", ".join(filter(None, _READ)))
    if frames and frames[0].kind == "colour":
        return Shown(tuple(_colour(frame) for frame in frames))
    if range == "auto":
        return Shown(tuple(_stretched(frames, ends)), ("shown from its least to its greatest value, as asked for",))
    if range:
        low, high = range
        said = f"shown from {low:g} to {high:g}{f' {frames[0].units}' if frames[0].units else ''}, as asked for"
        return Shown(tuple(_grey(_inverted(voi.between(frame.values, low, high), frame)) for frame in frames), (said,))
    if modality == "CT" and one.ct:
        return _ct(frames, one, name)
    if modality in _CXR and one.cxr == "stretched":
        said = "shown from its least to its greatest value, without a window, as MedGemma was trained"
        return Shown(tuple(_stretched([frame])[0] for frame in frames), (said,))
    if modality in _WHOLE_ACQUISITION and name != FILE:
        said = "shown from the least to the greatest value of all slices together"
        return Shown(tuple(_stretched(frames, ends)), (said,))
    return _as_the_file_says(frames)


def _ct(frames: Sequence[Frame], one: Recipe, name: str) -> Shown:
    if frames[0].units not in ("HU", ""):
        raise InputError(f"a CT in {frames[0].units:.20}", allowed="HU", remedy="--range LOW:HIGH in those")
    notes = [f"CT windows of {name}: {', '.join(f'{low:g} to {high:g} HU' for low, high in one.ct)}"]
    notes += [one.note] if one.note else []
    if not frames[0].units:
        notes.append("the CT states no rescaling: its values are taken for Hounsfield units")
    images = []
    for frame in frames:
        channels = [voi.between(frame.values, low, high) for low, high in one.ct]
        images.append(_grey(channels[0]) if len(channels) == 1 else Image.fromarray(np.stack(channels, axis=-1)))
    return Shown(tuple(images), tuple(notes))


def ends_of(frames: Iterable[Frame]) -> tuple[float, float]:
    """The least and the greatest value of frames, which are looked at one by one."""
    pairs = [(float(frame.values.min()), float(frame.values.max())) for frame in frames]
    return min(low for low, _ in pairs), max(high for _, high in pairs)


def _stretched(frames: Sequence[Frame], ends: tuple[float, float] | None = None) -> list[Image.Image]:
    """From the least to the greatest value of all of them, through 16 bits as Google's server does, and to 8."""
    low, high = ends or ends_of(frames)
    if low == high:
        raise InputError("every pixel has the same value", remedy="choose another picture")
    images = []
    for frame in frames:
        if frame.values.dtype == np.uint8:
            images.append(_grey(_inverted(frame.values, frame)))
            continue
        wide = np.rint((frame.values.astype(np.float64) - low) / (high - low) * 65_535)
        images.append(_grey(_inverted(np.rint(wide / 257).astype(np.uint8), frame)))
    return images


def _as_the_file_says(frames: Sequence[Frame]) -> Shown:
    """By its VOI LUT, its first window, or all that its type can hold."""
    images, notes = [], dict[str, None]()
    for frame in frames:
        if frame.voi_lut is not None:
            values, said = voi.looked_up(frame.values, frame.voi_lut), "by the file's own lookup table"
        elif frame.windows:
            first = frame.windows[0]
            values, said = voi.windowed(frame.values, first), f"by the file's window {first.center:g},{first.width:g}"
            others = len(frame.windows) - 1
            said += f", the first of {others + 1}" if others else ""
        else:
            low, high = frame.full
            values, said = voi.between(frame.values, low, high), f"from {low:g} to {high:g}: the file states no window"
        images.append(_grey(_inverted(values, frame)))
        notes[f"shown {said}"] = None
    return Shown(tuple(images), tuple(notes))


def _inverted(values: NDArray[np.uint8], frame: Frame) -> NDArray[np.uint8]:
    return 255 - values if frame.inverted else values


def _grey(values: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(values))


def _colour(frame: Frame) -> Image.Image:
    """Colours of more than 8 bits as Google's server rounds them."""
    values = frame.values
    if values.dtype != np.uint8:
        values = np.rint(values / (frame.full[1] / 255.0)).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(values))
