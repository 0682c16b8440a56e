"""From files to the parts of a message: pictures in their order, each slice followed by its number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from PIL import Image as Pillow

from edgekit.errors import InputError
from edgekit.inputs import square
from edgekit.inputs.dicom import DEFAULT, file, folder, recipes
from edgekit.inputs.dicom import series as series_
from edgekit.inputs.dicom.series import MOST_SLICES, Slice
from edgekit.inputs.dicom.types import Frame
from edgekit.inputs.image import Picture
from edgekit.inputs.image_types import Range
from edgekit.inputs.message import Image


@dataclass(frozen=True)
class Reading:
    """How DICOM files become pictures.

    Attributes:
        recipe: a name of `recipes.RECIPES`.
        range: shown in place of what the recipe says, see `recipes.shown`.
        series: which one of several, by its number or UID.
        most: slices of a series.
        max_megapixels: of one frame.
    """

    recipe: str = DEFAULT
    range: Range | None = None
    series: str | None = None
    most: int = MOST_SLICES
    max_megapixels: float = file.MAX_MEGAPIXELS


@dataclass(frozen=True, eq=False)
class Study:
    """Pictures of one series.

    Attributes:
        images: RGB or grey, in their order.
        names: the file of each, and its frame where it has several.
        notes: what was left out, and what is shown as what.
        date: of the study, `YYYY-MM-DD`; "" where the files do not say.
    """

    images: tuple[Pillow.Image, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...]
    date: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """What stands behind each picture in a message: its number, of several."""
        count = len(self.images)
        return tuple(f"SLICE {number}" for number in range(1, count + 1)) if count > 1 else ("",) * count


def read(source: Path | bytes, reading: Reading = Reading(), name: str = file.NAMELESS) -> Study:
    """The pictures of one DICOM file, of a series' folder, of a DICOMDIR or an archive.

    Args:
        name: what messages call a file that is given by its bytes.

    Raises:
        InputError: no image is there, or several patients', or several series' and none is named; or as `file.frames`.
        UsageError: there is no such recipe.
    """
    recipes.recipe(reading.recipe)
    path = name if isinstance(source, bytes) else source
    place = folder.found(source, name)
    if not place.files:
        raise InputError(f"{path}: no DICOM file is there", allowed="DICOM files, or image files one by one")
    sources = dict(place.files)
    headers = [file.header(one, called, max_megapixels=reading.max_megapixels) for called, one in place.files]
    try:
        found = series_.ordered(headers, reading.series)
    except InputError as error:
        raise InputError(f"{path}: {error.message}", allowed=error.allowed, remedy=error.remedy) from error
    taken = series_.sampled(found.slices, reading.most)
    notes = [f"{place.others} other files passed over"] if place.others else []
    notes += found.notes
    if len(taken) < len(found.slices):
        notes.append(f"{len(taken)} of {len(found.slices)} slices are shown, evenly spread")
    if any(one.header.burned_in for one in taken):
        notes.append("the file says that text is burned into its pixels, a name perhaps")
    decoded = list(_decoded(taken, sources, reading))
    ends = None
    together = recipes.is_shown_together(taken[0].header.modality, reading.recipe, reading.range)
    if together and len(taken) < len(found.slices):
        ends = recipes.ends_of(_decoded(found.slices, sources, reading))
    try:
        made = recipes.shown(decoded, reading.recipe, reading.range, ends)
    except InputError as error:
        raise InputError(f"{path}: {error.message}", allowed=error.allowed, remedy=error.remedy) from error
    known = dict.fromkeys(note for frame in decoded for note in frame.notes)
    return Study(made.images, tuple(map(_named, taken)), (*notes, *known, *made.notes), taken[0].header.date)


def _decoded(slices: Sequence[Slice], sources: dict[str, Path | bytes], reading: Reading) -> Iterator[Frame]:
    """Each slice's frame, those of one file at once."""
    for name, of_file in groupby(slices, key=lambda one: one.header.name):
        wanted = [one.index for one in of_file]
        yield from file.frames(sources[name], wanted, name=name, max_megapixels=reading.max_megapixels)


def _named(one: Slice) -> str:
    return one.header.name if len(one.header.frames) == 1 else f"{one.header.name}#{one.index + 1}"


def parts(study: Study, name: str, *, pad: bool = False) -> list[str | Image]:
    """A study as parts of a message: each picture, and of several its number behind it.

    Args:
        name: what is said of it begins with this; it goes with the first picture.
        pad: see `edgekit.inputs.image.read`.
    """
    made: list[str | Image] = []
    known = tuple(f"{name}: {note}" for note in study.notes)
    for image, label in zip(study.images, study.labels, strict=True):
        colour = image.convert("RGB")
        made.append(Image(Picture(square.pad(colour).image, known, colour.size) if pad else Picture(colour, known)))
        made += [label] if label else []
        known = ()
    return made


def is_study(data: bytes) -> bool:
    """Whether bytes are a DICOM file or an archive, which may hold several pictures."""
    return file.is_dicom(data) or folder.is_archive(data)
