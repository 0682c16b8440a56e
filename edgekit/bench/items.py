"""Items: what a task asks, one after the other, with the right answer.

An item is messages to a model that answers, or an image to one that embeds; messages without an image are ordinary.
Items of one group (the slices of a patient, the questions about one case) are not independent of each other, so
intervals resample whole groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.inputs.message import Image, Message

_SERIES = 4  # axes of an image that is several


@dataclass(frozen=True, eq=False)  # arrays have no single truth to compare by
class Item:
    """One question of a task.

    Attributes:
        group: items of the same group are not independent.
        messages: the conversation to be answered, empty where an image alone is shown.
        image: what the item shows, uint8 [height, width] or [height, width, 3], or [slices, height, width, 3] of a
            series; None for text alone.
        answers: those allowed, empty where nothing is parsed.
        truth: the right one, None where the full-precision model's answer takes its place.
        id: what the data set calls it, and what is asked of it where one sample gives several items.
        asked: the question alone where its answer is yes or no, so that a parser knows what is being spoken of.
        topic: the subject, finding or kind of question that figures are also given by; empty where there is none.
    """

    group: str
    messages: tuple[Message, ...] = ()
    image: NDArray[np.uint8] | None = None
    answers: tuple[str, ...] = ()
    truth: str | None = None
    id: str = ""
    topic: str = ""
    asked: str = ""


def question(text: str, image: NDArray[np.uint8] | None = None) -> tuple[Message, ...]:
    """One user's turn: an image where there is one, of a series each slice with its number, and the text behind it."""
    if image is None:
        return (Message("user", text),)
    if image.ndim < _SERIES:
        return (Message("user", Image(image), text),)
    slices = [part for number, one in enumerate(image, 1) for part in (Image(one), f"SLICE {number}")]
    return (Message("user", *slices, text),)


def group_numbers(groups: Sequence[str]) -> list[int]:
    """Each item's group as a number, counted in the order in which groups first appear."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(group, len(numbers)) for group in groups]
