"""Cases become samples: which ones, and their images decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.bench.datasets.base import Sample
from edgekit.bench.datasets.cases import Case
from edgekit.bench.datasets.checks import check, contents
from edgekit.bench.datasets.schema import DatasetSource
from edgekit.errors import EdgekitError, InputError
from edgekit.inputs.dicom import study
from edgekit.inputs.dicom.folder import holds_several, is_dicom_file
from edgekit.inputs.image import read as read_picture
from edgekit.inputs.image import say
from edgekit.machine.memory import memory
from edgekit.terminal import printable

_SHARE = 0.5  # of the memory that is free, which a data set's decoded images may take


def samples(cases: Sequence[Case], source: DatasetSource, limit: int, seed: int, where: str) -> tuple[Sample, ...]:
    """Up to `limit` samples of the split that is read, the same ones for the same seed; an unreadable one says why.

    Where nothing says which ones belong together, those with the same image do.

    Raises:
        InputError: cases that are there twice, a split that leaks, or images that need more memory than there is.
    """
    content = contents(cases)
    chosen = check(cases, source, content, where)
    order = np.random.default_rng(seed).permutation(len(chosen))
    picked = [chosen[i] for i in order[:limit]] if limit < len(chosen) else chosen
    pictures = _Pictures(where)
    labels = tuple(sorted({case.truth for case in cases})) if _are_labels(cases, source) else ()
    made = []
    for i in picked:
        case = cases[i]
        sample = Sample(
            truth=case.truth,
            group=case.group or content.get(i, case.id),
            question=case.question,
            options=case.options or labels,
            id=case.id,
            topic=case.topic,
            context=case.context,
            findings=case.findings,
            boxes=case.boxes,
        )
        made.append(pictures.shown(sample, case, content.get(i, "")))
    pictures.say()
    return tuple(made)


def _are_labels(cases: Sequence[Case], source: DatasetSource) -> bool:
    """Whether the answers themselves are the labels, which no file of ours or of the user's lists."""
    if source.labels or source.modality is not None:
        return False
    return all(case.truth and case.image is not None and not case.question and not case.options for case in cases)


class _Pictures:
    """Decoded images, each once, since many questions may be about one.

    Args:
        where: what an error begins with.
    """

    def __init__(self, where: str) -> None:
        self._where, self._bytes, self._most = where, 0, _SHARE * memory().available_bytes
        self._read: dict[str, NDArray[np.uint8] | str] = {}  # an image, or why there is none
        self._odd: list[str] = []

    def shown(self, sample: Sample, case: Case, content: str) -> Sample:
        """A sample with its image, or with the reason why there is none."""
        if case.image is None:
            return sample
        if content not in self._read:
            self._read[content] = self._decoded(case.image, case.id)
        found = self._read[content]
        return replace(sample, problem=found) if isinstance(found, str) else replace(sample, image=found)

    def say(self) -> None:
        """What is odd about the images, once."""
        if self._odd:
            say([f"{self._where}: {len(self._odd)} of {len(self._read)} images are odd, as is {self._odd[0]}"])

    def _decoded(self, image: Path | bytes, name: str) -> NDArray[np.uint8] | str:
        try:
            pictures, notes = _read(image)
            pixels = _stacked(pictures)
        except InputError as error:
            # Its cause's words, which do not say where the user's folder lies: a report may go to others.
            why = error.__cause__.message if isinstance(error.__cause__, EdgekitError) else "cannot be read"
            return f"{printable(name)}: {why}"
        named = [note.replace(str(image), printable(name)) for note in notes[:1]]
        self._odd += [note if printable(name) in note else f"{printable(name)}: {note}" for note in named]
        self._bytes += pixels.nbytes
        if self._bytes > self._most:
            raise InputError(
                f"{self._where}: {len(self._read) + 1} images take {self._bytes / 1e9:.1f} GB of memory, decoded",
                allowed=f"half of the memory that is free, {self._most / 1e9:.1f} GB",
                remedy="--limit N takes fewer",
            )
        return pixels


def _read(image: Path | bytes) -> tuple[list[NDArray[np.uint8]], tuple[str, ...]]:
    """The pictures of a file, a series' folder, an archive or a DICOMDIR, and what is odd about them."""
    is_series = study.is_study(image) if isinstance(image, bytes) else holds_several(image) or is_dicom_file(image)
    if not is_series:
        picture = read_picture(image)
        return [np.asarray(picture.image)], picture.warnings
    found = study.read(image)
    return [np.asarray(one.convert("RGB")) for one in found.images], found.notes


def _stacked(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """One picture, grey where it is; or those of a series, [slices, height, width, 3]. Raises InputError."""
    first = pictures[0]
    if len(pictures) == 1:
        grey = (first[..., 0] == first[..., 1]).all() and (first[..., 0] == first[..., 2]).all()
        return np.ascontiguousarray(first[..., 0]) if grey else first
    if len({one.shape for one in pictures}) > 1:
        raise InputError("slices of several sizes") from InputError("its slices have several sizes")
    return np.stack(pictures)
