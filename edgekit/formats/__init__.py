"""File formats: one folder each, which is found by being there."""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.artifacts.discovery import values
from edgekit.formats.base import Format
from edgekit.formats.codec import Codec
from edgekit.formats.label import FileLabel

__all__ = ["FORMATS", "Codec", "FileLabel", "Format", "codec"]

FORMATS: Mapping[str, Format] = {form.name: form for form in values(__name__, "FORMAT", folders=True)}


def codec(name: str) -> Codec:
    """The codec of this name, of whichever format has it.

    Raises:
        KeyError: none has.
    """
    return next(form.codecs[name] for form in FORMATS.values() if name in form.codecs)
