"""Slices in the order in which they lie in the patient, and what is wrong with a series, said.

The selection is that of Google's server (`generic_dicom_handler.py`): what was not derived, the largest acquisition,
slices that say where they lie. The order is by position along the normal: instance numbers follow the scanner's whim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from edgekit.errors import InputError
from edgekit.inputs.dicom.types import FrameHeader, Header

MOST_SLICES = 85  # of one question to MedGemma 1.5
_STACKED = ("CT", "MR", "PT")
_SAME_MM = 0.01
_GAP = 1.5  # of the usual distance
_PARALLEL = 1e-3  # by so much direction cosines may differ
_T = TypeVar("_T")


@dataclass(frozen=True)
class Slice:
    """One frame of one file.

    Attributes:
        index: of the frame in its file, from 0 on.
    """

    header: Header
    index: int

    @property
    def place(self) -> FrameHeader:
        """Where it lies."""
        return self.header.frames[self.index]


@dataclass(frozen=True)
class Series:
    """Slices in their order.

    Attributes:
        notes: what was left out, and what is odd of the rest.
    """

    slices: tuple[Slice, ...]
    notes: tuple[str, ...] = ()


def ordered(headers: Sequence[Header], series: str | None = None) -> Series:
    """The slices of one series of one patient.

    Args:
        series: its number, or its UID, where the headers are of several.

    Raises:
        InputError: they are of several patients; of several series, and none is named; or there is none.
    """
    if not headers:
        raise InputError("no DICOM image", allowed="one file or more")
    if len({one.patient for one in headers if one.patient}) > 1:
        raise InputError("images of several patients", allowed="those of one", remedy="name one patient's folder")
    chosen = _of_series(headers, series)
    slices = [Slice(one, index) for one in chosen for index in range(len(one.frames))]
    if chosen[0].modality not in _STACKED:
        return Series(tuple(sorted(slices, key=_by_number)))
    notes: list[str] = []
    for select in (_without_localizers, _not_derived, _one_shape, _one_direction, _with_position, _one_acquisition):
        slices = select(slices, notes)
    return _stacked(slices, notes)


def sampled(slices: Sequence[_T], most: int = MOST_SLICES) -> tuple[_T, ...]:
    """At most so many of them, evenly, as Google's notebook takes them: the last is among them, the first is not."""
    if len(slices) <= most:
        return tuple(slices)
    return tuple(slices[round(number / most * (len(slices) - 1))] for number in range(1, most + 1))


def _of_series(headers: Sequence[Header], named: str | None) -> list[Header]:
    groups: dict[str, list[Header]] = {}
    for one in headers:
        groups.setdefault(one.series, []).append(one)
    if named is not None:
        found = [group for uid, group in groups.items() if named in (uid, str(group[0].series_number))]
        if len(found) != 1:
            raise InputError(
                f"{'no' if not found else 'several'} series {named:.64}", allowed=_listed(groups.values())
            )
        return found[0]
    if len(groups) > 1:
        raise InputError(
            f"images of {len(groups)} series", allowed=f"one of: {_listed(groups.values())}", remedy="--series NUMBER"
        )
    return list(headers)


def _listed(groups: Iterable[Sequence[Header]]) -> str:
    said = []
    for group in sorted(groups, key=lambda one: (one[0].series_number or 0, one[0].series)):
        first, frames = group[0], sum(len(one.frames) for one in group)
        name = str(first.series_number) if first.series_number is not None else first.series or "without a number"
        said.append(f"{name} ({first.modality}{f', {first.description}' if first.description else ''}, {frames})")
    return "; ".join(said)


def _by_number(one: Slice) -> tuple[int, int, str]:
    return (one.header.number if one.header.number is not None else 1 << 31, one.index, one.header.name)


# ---------------------------------------------------------------- what is left out


def _keep(slices: list[Slice], wanted: Callable[[Slice], bool], notes: list[str], what: str) -> list[Slice]:
    """Those that are wanted, where there are any; how many were not is said."""
    kept = [one for one in slices if wanted(one)]
    if not kept or len(kept) == len(slices):
        return slices
    notes.append(f"{len(slices) - len(kept)} of {len(slices)} slices left out: {what}")
    return kept


def _without_localizers(slices: list[Slice], notes: list[str]) -> list[Slice]:
    return _keep(slices, lambda one: "LOCALIZER" not in one.header.image_type, notes, "localizers")


def _not_derived(slices: list[Slice], notes: list[str]) -> list[Slice]:
    return _keep(slices, lambda one: "DERIVED" not in one.header.image_type, notes, "derived from others")


def _one_shape(slices: list[Slice], notes: list[str]) -> list[Slice]:
    size, spacing = _most_common(slices, lambda one: (_size(one), one.place.spacing))
    what = f"of another size or pixel spacing than {size[1]} x {size[0]}"
    return _keep(slices, lambda one: (_size(one), one.place.spacing) == (size, spacing), notes, what)


def _size(one: Slice) -> tuple[int, int]:
    return one.header.rows, one.header.columns


def _one_direction(slices: list[Slice], notes: list[str]) -> list[Slice]:
    def rounded(one: Slice) -> tuple[float, ...] | None:
        found = one.place.orientation
        return found and tuple(round(cosine / (10 * _PARALLEL)) for cosine in found)

    usual = _most_common(slices, rounded)
    return _keep(slices, lambda one: rounded(one) == usual, notes, "in another direction than most")


def _with_position(slices: list[Slice], notes: list[str]) -> list[Slice]:
    return _keep(slices, lambda one: one.place.position is not None, notes, "they do not say where they lie")


def _one_acquisition(slices: list[Slice], notes: list[str]) -> list[Slice]:
    largest = _most_common(slices, lambda one: one.place.acquisition)
    what = f"of other acquisitions than {largest}, the largest"
    return _keep(slices, lambda one: one.place.acquisition == largest, notes, what)


def _most_common(slices: Sequence[Slice], key: Callable[[Slice], Hashable]) -> Any:
    return Counter(map(key, slices)).most_common(1)[0][0]


# ---------------------------------------------------------------- their order


def _stacked(slices: list[Slice], notes: list[str]) -> Series:
    """By position along the normal; of several at one place the first."""
    if any(one.place.position is None or one.place.orientation is None for one in slices):
        if len(slices) > 1:
            notes.append("ordered by instance number: no slice says where it lies")
        return Series(tuple(sorted(slices, key=_by_number)), tuple(notes))
    cosines = slices[0].place.orientation
    normal = np.cross(cosines[:3], cosines[3:])  # type: ignore[index]  # it is stated
    along = [float(np.dot(normal, np.asarray(one.place.position))) for one in slices]
    placed = sorted(((at, _by_number(one), one) for at, one in zip(along, slices, strict=True)), key=_first)
    kept: list[tuple[float, Slice]] = []
    again = times = 0
    for distance, _, one in placed:
        if kept and distance - kept[-1][0] < _SAME_MM:
            again += one.place.time == kept[-1][1].place.time
            times += one.place.time != kept[-1][1].place.time
            continue
        kept.append((distance, one))
    if again:
        notes.append(f"{again} of {len(placed)} slices left out: another lies at the same place")
    if times:
        notes.append(f"{times} of {len(placed)} slices left out: of other times, echoes or weightings at one place")
    notes += _gaps([distance for distance, _ in kept])
    return Series(tuple(one for _, one in kept), tuple(notes))


def _first(placed: tuple[float, tuple[int, int, str], Slice]) -> tuple[float, tuple[int, int, str]]:
    return placed[:2]


def _gaps(distances: Sequence[float]) -> list[str]:
    steps = np.diff(distances)
    if len(steps) < 2:
        return []
    usual = float(np.median(steps))
    wide = [number for number, step in enumerate(steps, 1) if step > _GAP * usual]
    if not wide:
        return []
    said = f"slices are missing: behind slice {wide[0]} lie {steps[wide[0] - 1]:.1f} mm, usual are {usual:.1f}"
    return [said + (f"; {len(wide)} such gaps" if len(wide) > 1 else "")]
