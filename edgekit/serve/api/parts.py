"""What a message's content is made of, whatever a client calls its parts: texts and images.

An image is a `data:` URL, as an object or bare, or `edgekit-image:ID`, one that was handed over before. Nothing is
fetched: a server that follows a client's links reaches where that client may not.

    {"type": "image_url", "image_url": {"url": "data:image/png;base64,...", "range": [31768, 33168]}}

`range` is for images of more than 8 bits: the values that become black and white, or `auto` for the image's own least
and greatest. Without it an image is shown in all that its type can hold; one that was handed over, as it was then.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from edgekit.errors import InputError
from edgekit.inputs.image_types import checked_range
from edgekit.serve.api.handed_over import HandedOver, UnknownImage
from edgekit.serve.api.reading import ParameterError
from edgekit.serve.image_formats import check_format

HANDED_OVER = "edgekit-image:"
MOST_IMAGES = 32
MOST_RECORD_BYTES = 16 << 20
_ALLOWED = f"a data: URL in base64, or {HANDED_OVER}ID of an image that was handed over"
_BUNDLES = "data:application/fhir+json;base64,..."
_RANGES = "[LOW, HIGH], two finite numbers, or auto"
_TEXTS = ("text", "input_text", "output_text")
_IMAGES = ("image_url", "input_image")
_CONTENTS = ("text", "image_url", "image", "images", "input_audio", "file", "file_data", "refusal")
_DETAILS = ("auto", "low", "high")
_NO_DETAIL = "the detail of an image has no effect: this model sees each image at its one size"

Part = dict[str, Any]  # {"text": "..."} or {"image": place, "range": [low, high]}, as a `Job` has it
Range = list[float] | str


class Collected:
    """The images of one request.

    Attributes:
        images: in the order in which they came; the same one twice is kept once.
        warnings: what the user must know of how they were asked for.
    """

    def __init__(self, handed_over: HandedOver) -> None:
        self.images: list[bytes] = []
        self.warnings: list[str] = []
        self._handed_over = handed_over

    def parts(self, content: Any, where: str) -> list[Part]:
        """A content's parts.

        Args:
            content: a text, or a list of parts; None for nothing.
            where: its parameter, for messages.

        Raises:
            ParameterError: it is neither, or a part is of another kind.
        """
        if content is None:
            return []
        if isinstance(content, str):
            return [{"text": content}]
        if not isinstance(content, list):
            raise ParameterError(where, f"a {type(content).__name__}", allowed="a text, or a list of parts")
        return [self._part(part, f"{where}.{place}") for place, part in enumerate(content)]

    def image(self, given: Any, where: str, range_: Any = None) -> Part:
        """An image, with its place among `images`.

        Args:
            range_: that is given beside it, for a URL that is not in an object.

        Raises:
            ParameterError: it is none, its range is none, or there are too many.
        """
        url, named = (given.get("url"), given.get("range")) if isinstance(given, Mapping) else (given, None)
        if named is not None and range_ is not None:
            raise ParameterError(f"{where}.range", "two ranges of one image", allowed="one of them")
        if isinstance(given, Mapping):
            self._check_detail(given.get("detail"), f"{where}.detail")
        if not isinstance(url, str):
            raise ParameterError(where, f"an image that is a {type(url).__name__}", allowed=_ALLOWED)
        shown = as_range(range_ if named is None else named, f"{where}.range")
        if url.startswith(HANDED_OVER):
            data, held = self._held(url, where)
            shown = held if shown is None else shown
        else:
            data = from_url(url, where)
        place = self._place(data, where)
        return {"image": place} if shown is None else {"image": place, "range": shown}

    def record(self, url: Any, where: str) -> int:
        """The place of a bundle of FHIR among `images`. Raises ParameterError where it is none, or too large."""
        if not isinstance(url, str):
            raise ParameterError(where, f"a record that is a {type(url).__name__}", allowed=_BUNDLES)
        data = from_url(url, where, _BUNDLES)
        if len(data) > MOST_RECORD_BYTES or data.lstrip()[:1] != b"{":
            allowed = f"a Bundle of FHIR R4 in JSON, up to {MOST_RECORD_BYTES >> 20} MB"
            raise ParameterError(where, f"a record of {len(data)} bytes", allowed=allowed)
        self.images.append(data)
        return len(self.images) - 1

    def _place(self, data: bytes, where: str) -> int:
        if data in self.images:
            return self.images.index(data)
        if len(self.images) == MOST_IMAGES:
            raise ParameterError(where, f"more than {MOST_IMAGES} images", allowed=f"up to {MOST_IMAGES}")
        try:
            check_format(data, len(self.images))
        except InputError as error:
            raise ParameterError(where, error.message, allowed=error.allowed, remedy=error.remedy) from error
        self.images.append(data)
        return len(self.images) - 1

    def _check_detail(self, detail: Any, where: str) -> None:
        if detail is not None and detail not in _DETAILS:
            raise ParameterError(where, "no detail of an image", allowed=", ".join(_DETAILS))
        if detail in ("low", "high") and _NO_DETAIL not in self.warnings:
            self.warnings.append(_NO_DETAIL)

    def _held(self, url: str, where: str) -> tuple[bytes, Range | None]:
        try:
            held = self._handed_over.get(url.removeprefix(HANDED_OVER))
        except UnknownImage as error:
            raise ParameterError(where, error.message, remedy=error.remedy) from error
        return held.data, held.range

    def _part(self, part: Any, where: str) -> Part:
        if isinstance(part, str):
            return {"text": part}
        kind = part.get("type") if isinstance(part, Mapping) else None
        own = "image_url" if kind in _IMAGES else "refusal" if kind == "refusal" else "text"
        if isinstance(part, Mapping) and (more := [name for name in _CONTENTS if name != own and part.get(name)]):
            remedy = "a part of its own for each text and each image"
            raise ParameterError(f"{where}.{more[0]}", f"in a part of type {kind!r:.40}", allowed=own, remedy=remedy)
        if kind in _TEXTS and isinstance(part.get("text"), str):
            return {"text": part["text"]}
        if kind == "refusal" and isinstance(part.get("refusal"), str):
            return {"text": part["refusal"]}
        if kind in _IMAGES and part.get("file_id") is None:
            self._check_detail(part.get("detail"), f"{where}.detail")  # where responses have it
            return self.image(part.get("image_url"), f"{where}.image_url", part.get("range"))
        raise ParameterError(where, f"a part of type {kind!r:.40}", allowed="text, image_url")


def as_range(given: Any, where: str) -> Range | None:
    """The values of an image that become black and white, as a `Job` has them.

    Raises:
        ParameterError: it is neither `auto` nor two finite numbers, the lower one first.
    """
    if not isinstance(given, list | str | None):
        raise ParameterError(where, "no range", allowed=_RANGES)
    if isinstance(given, list) and not all(isinstance(one, int | float) and not isinstance(one, bool) for one in given):
        raise ParameterError(where, "a range that is not of numbers", allowed=_RANGES)
    try:
        found = checked_range(given)
    except (InputError, OverflowError) as error:
        raise ParameterError(where, "no range", allowed=_RANGES) from error
    return list(found) if isinstance(found, tuple) else found


def from_url(url: str, where: str, allowed: str = _ALLOWED) -> bytes:
    """The bytes of a `data:` URL.

    Args:
        allowed: what messages name.

    Raises:
        ParameterError: it is another URL, or no base64.
    """
    if url[:5].lower() != "data:":
        kind = "a link" if "://" in url[:40] else "no URL of a kind that is read"
        raise ParameterError(where, f"{kind}: this server fetches nothing", allowed=allowed,
                             remedy="read the file, and send data:image/png;base64,...")  # fmt: skip
    head, comma, data = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ParameterError(where, "a data: URL that is not in base64", allowed=allowed)
    return from_base64(data, where, allowed)


def from_base64(text: str, where: str, allowed: str = _ALLOWED) -> bytes:
    """Bytes, with or without the filling at the end.

    Raises:
        ParameterError: it is no base64.
    """
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ParameterError(where, "no base64", allowed=allowed) from error
