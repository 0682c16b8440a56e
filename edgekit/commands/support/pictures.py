"""Images of a command line: files of every kind, and studies, which are several pictures with their numbers."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import UsageError
from edgekit.terminal import say

if TYPE_CHECKING:
    from edgekit.inputs.dicom.study import Reading
    from edgekit.inputs.message import Image


def parts_of(paths: Sequence[Path], options: Namespace) -> list[str | Image]:
    """Parts of a message: of an image file one, of a series each slice with its number behind it.

    Several studies follow each other as they are named: MedGemma compares what stands first with what stands behind.

    Raises:
        InputError: as `edgekit.inputs.image.read` and `edgekit.inputs.dicom.study.read`.
        UsageError: there is no such preprocessing.
    """
    parts: list[str | Image] = []
    before = ""
    for path in paths:
        made, date = _parts(path, options)
        if date and before > date:
            say(f"{path} is of {date}, and what stands before it of {before}: the earlier usually stands first")
        parts, before = [*parts, *made], date or before
    return parts


def reading_of(options: Namespace) -> Reading:
    """How DICOM files are to be read. Raises UsageError for a number of slices that is none."""
    from edgekit.inputs.dicom.study import Reading

    if options.slices < 1:
        raise UsageError(f"--slices {options.slices}", allowed="1 or more")
    return Reading(
        recipe=options.preprocess,
        range=options.range,
        series=options.series,
        most=options.slices,
        max_megapixels=options.max_megapixels,
    )


def is_study(path: Path) -> bool:
    """Whether a path is a DICOM file, or holds several."""
    from edgekit.inputs.dicom import folder

    return folder.holds_several(path) or folder.is_dicom_file(path)


def _parts(path: Path, options: Namespace) -> tuple[list[str | Image], str]:
    """Parts of one path, and the day that they are of, where that is stated."""
    from edgekit.inputs.image import read
    from edgekit.inputs.message import Image

    if not is_study(path):
        picture = read(path, range=options.range, max_megapixels=options.max_megapixels, pad=options.pad)
        return [Image(picture)], ""
    from edgekit.inputs.dicom import study

    found = study.read(path, reading_of(options))
    return study.parts(found, str(path), pad=options.pad), found.date
