"""Boxes that an answer draws, in pixels of the picture as it is, whatever square the model saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekit.terminal import say

if TYPE_CHECKING:
    from edgekit.inputs.message import Image


def boxes_in(answer: str, parts: Sequence[str | Image]) -> list[dict[str, Any]]:
    """Label and (left, top, right, bottom) of each box; none where an answer draws none, or is about several pictures.

    A box beside the picture, in what was filled up, has `error` in the place of `box`.
    """
    from edgekit.bench.parsers import labelled_boxes
    from edgekit.errors import InputError
    from edgekit.inputs.image import Picture
    from edgekit.inputs.square import unpadded

    pictures = [part.source for part in parts if not isinstance(part, str)]
    if len(pictures) != 1 or not isinstance(picture := pictures[0], Picture) or not (found := labelled_boxes(answer)):
        return []
    size, padded = picture.size or picture.image.size, picture.size is not None
    made: list[dict[str, Any]] = []
    for one in found:
        try:
            corners = [round(value, 1) for value in unpadded(one.box, size, padded=padded)]
            made.append({"label": one.label, "box": corners, "size": list(size)})
        except InputError as error:
            made.append({"label": one.label, "error": error.message})
    return made


def say_boxes(boxes: Sequence[dict[str, Any]]) -> None:
    """The same for people."""
    for one in boxes:
        if "error" in one:
            say(f"{one['label'] or 'a box'}: {one['error']}")
            continue
        left, top, right, bottom = one["box"]
        width, height = one["size"]
        place = f"from {left:g},{top:g} to {right:g},{bottom:g} of {width} x {height} pixels"
        say(f"{one['label'] or 'a box'}: {place}")
