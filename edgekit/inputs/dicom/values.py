"""From what a DICOM file stores to what it means: modality, palettes, windows, for each frame by itself.

An Enhanced object says these in functional groups, shared or of each frame, where the older ones say them once (PS3.3,
C.7.6.16): a reader that looks at the top alone takes stored numbers for Hounsfield units.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import InputError

_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
_HOUNSFIELD = "[hnsf'U]"
_LONGEST_UNIT = 16
_WHOLE = 1e-6  # by so much a slope or an intercept may be off a whole number
_MOST_INT = 2**31 - 1
_MOST_ENTRIES = 1 << 16  # of a lookup table (PS3.3, C.11.1.1.1)


def groups(dataset: Any, index: int) -> Iterator[Any]:
    """Where a frame's attributes may stand: its own functional groups, the shared ones, the top."""
    for name, place in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
        found = dataset.get(name) or ()
        if place < len(found):
            yield found[place]


def macro(dataset: Any, index: int, name: str) -> Any:
    """One functional group of a frame: its only item; None where neither the frame nor all share it."""
    for group in groups(dataset, index):
        if found := group.get(name):
            return found[0]
    return None


def modality(stored: NDArray[Any], dataset: Any, index: int) -> tuple[NDArray[Any], str, tuple[float, float]]:
    """Stored values in the units that the file states (PS3.3, C.11.1).

    Args:
        stored: [rows, columns], integers or floating-point.

    Returns:
        values, int32 where they are whole numbers, else float32; their units; the least and greatest that could be
        stored.

    Raises:
        InputError: a slope without an intercept, or one that is no number; a table that is none.
    """
    place = macro(dataset, index, "PixelValueTransformationSequence") or dataset
    least, most = _stored_range(stored, dataset)
    if table := dataset.get("ModalityLUTSequence"):
        first, entries = lookup(table[0], _words(dataset))
        values = entries[np.clip(stored.astype(np.int64) - first, 0, len(entries) - 1)]
        units = str(table[0].get("ModalityLUTType", ""))
        return values.astype(np.int32), units, (float(entries.min()), float(entries.max()))
    slope, intercept = (number(place, name) for name in ("RescaleSlope", "RescaleIntercept"))
    if (slope is None) != (intercept is None):
        raise InputError("a rescale slope without its intercept, or the other way", allowed="both, or neither")
    units = str(place.get("RescaleType", "") or "")
    ct = str(dataset.get("Modality", "")) == "CT"
    if slope is None and (mapped := real_world(dataset, index)) and mapped[0] == _HOUNSFIELD:
        units, slope, intercept = "HU", *mapped[1:]
    if slope is None or intercept is None:
        return _narrowed(stored), units if not ct else "", (least, most)
    if slope == 0:
        raise InputError("a rescale slope of 0: every value would be the same")
    ends = sorted((least * slope + intercept, most * slope + intercept))
    units = units or ("HU" if ct else "")
    whole = all(abs(value - round(value)) < _WHOLE for value in (slope, intercept))
    if np.issubdtype(stored.dtype, np.integer) and max(map(abs, ends)) < _MOST_INT and (ct or whole):
        exact = stored.astype(np.int64) * round(slope) + round(intercept) if whole else None
        values = exact if exact is not None else np.rint(stored.astype(np.float64) * slope + intercept)
        return values.astype(np.int32), units, (ends[0], ends[1])
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32), units, (ends[0], ends[1])


def real_world(dataset: Any, index: int) -> tuple[str, float | None, float | None] | None:
    """A frame's mapping to real-world values (PS3.3, C.7.6.16.2.11): unit in UCUM, slope, intercept; None without one.

    Raises:
        InputError: as `number`.
    """
    own = dataset.get("RealWorldValueMappingSequence")
    place = macro(dataset, index, "RealWorldValueMappingSequence") or (own[0] if own else None)
    if place is None:
        return None
    codes = place.get("MeasurementUnitsCodeSequence") or ()
    unit = str(codes[0].get("CodeValue", "") or "") if codes else ""
    return unit[:_LONGEST_UNIT], number(place, "RealWorldValueSlope"), number(place, "RealWorldValueIntercept")


def said_of_values(stored: NDArray[Any], dataset: Any, index: int) -> list[str]:
    """What stored values mean beside what is shown: nothing of it is applied, and so it is said."""
    place = macro(dataset, index, "PixelValueTransformationSequence") or dataset
    rescaled = place.get("RescaleSlope") is not None or "ModalityLUTSequence" in dataset
    notes = []
    mapped = real_world(dataset, index)
    if mapped and not rescaled and mapped[0] != _HOUNSFIELD:
        notes.append(f"stored values are shown: their mapping to {mapped[0] or 'real-world values'} is not applied")
    padding, limit = number(dataset, "PixelPaddingValue"), number(dataset, "PixelPaddingRangeLimit")
    if padding is not None and str(dataset.get("Modality", "")) != "CT":  # whose windows leave it black
        low, high = sorted((padding, padding if limit is None else limit))
        share = float(np.mean((stored >= low) & (stored <= high)))
        if share:
            notes.append(f"{share:.1%} of the frame are padding, which counts where values are stretched to their ends")
    return notes


def _stored_range(stored: NDArray[Any], dataset: Any) -> tuple[float, float]:
    if not np.issubdtype(stored.dtype, np.integer):
        return float(np.min(stored)), float(np.max(stored))
    bits = int(dataset.get("BitsStored", 0) or 8 * stored.dtype.itemsize)
    return (-float(2 ** (bits - 1)), float(2 ** (bits - 1) - 1)) if stored.dtype.kind == "i" else (0.0, 2.0**bits - 1)


def _narrowed(stored: NDArray[Any]) -> NDArray[Any]:
    if not np.issubdtype(stored.dtype, np.integer):
        return stored.astype(np.float32)
    return stored.astype(np.int32) if stored.size == 0 or int(stored.max()) <= _MOST_INT else stored.astype(np.float32)


def _words(dataset: Any) -> str:
    """How 16 bits are written in a file: tables of words, too, follow its byte order."""
    return "<u2" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">u2"


def lookup(item: Any, words: str) -> tuple[int, NDArray[np.int64]]:
    """A lookup table: the first input that it maps, and its entries.

    Args:
        words: the type of its entries where they come as bytes.

    Raises:
        InputError: its descriptor and its data contradict each other.
    """
    try:
        count, first, bits = (int(value) for value in item["LUTDescriptor"].value)
        data = item["LUTData"].value
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("a lookup table without a descriptor of three numbers, or without data") from error
    count = count or _MOST_ENTRIES
    if isinstance(data, bytes | bytearray):
        entries = np.frombuffer(bytes(data[: 2 * _MOST_ENTRIES]), words).astype(np.int64)
    else:
        entries = np.atleast_1d(np.asarray(data, np.int64))
    if not 0 < count <= _MOST_ENTRIES or len(entries) < count or not 0 < bits <= 16:
        raise InputError(f"a lookup table of {len(entries)} entries", allowed=f"{count}, as its descriptor says")
    return first, entries[:count] & ((1 << 16) - 1)


def voi_lut(dataset: Any, index: int) -> NDArray[np.float64] | None:
    """The first VOI LUT of a frame as [values, 2]: input, and output in 0 to 1; None where there is none."""
    place = macro(dataset, index, "FrameVOILUTSequence") or dataset
    if not (tables := place.get("VOILUTSequence")):
        return None
    first, entries = lookup(tables[0], _words(dataset))
    bits = int(tables[0]["LUTDescriptor"].value[2])
    top = (1 << bits) - 1
    return np.stack([first + np.arange(len(entries)), np.minimum(entries, top) / top], axis=1).astype(np.float64)


def windows(dataset: Any, index: int) -> list[tuple[float, float, str]]:
    """Centre, width and function of each window of a frame, as far as they can be."""
    place = macro(dataset, index, "FrameVOILUTSequence") or dataset
    centers, widths = numbers(place, "WindowCenter"), numbers(place, "WindowWidth")
    function = str(place.get("VOILUTFunction", "") or "LINEAR").strip().upper()
    function = function if function in _FUNCTIONS else "LINEAR"
    least = 1.0 if function == "LINEAR" else 0.0
    pairs = zip(centers, widths, strict=False)
    return [(center, width, function) for center, width in pairs if width >= least and width > 0]


def numbers(place: Any, name: str) -> list[float]:
    """The finite numbers of an attribute; none where it is missing or holds something else."""
    value = place.get(name)
    values = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    try:
        found = [float(one) for one in values if one is not None and one != ""]
    except (TypeError, ValueError):
        return []
    return found if all(map(np.isfinite, found)) else []


def number(place: Any, name: str) -> float | None:
    """The one number of an attribute; None where it is missing, or empty.

    Raises:
        InputError: it is there, and no number.
    """
    value = place.get(name)
    if value is None or value == "":
        return None
    found = numbers(place, name)
    if len(found) != 1:
        raise InputError(f"{name} is no number")
    return found[0]


def palette(stored: NDArray[Any], dataset: Any) -> NDArray[np.uint8]:
    """Indices of a palette to 8-bit RGB [rows, columns, 3] (PS3.3, C.7.6.3.1.5 and .6, and C.7.9.2 of segments).

    Raises:
        InputError: a colour's table is missing, or not what its descriptor says.
    """
    if "SegmentedRedPaletteColorLookupTableData" in dataset:
        return _segmented(stored, dataset)
    channels = []
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTable"
        if f"{name}Descriptor" not in dataset or f"{name}Data" not in dataset:
            raise InputError(f"a palette without its {colour.lower()} table")
        count, first, bits = (int(value) for value in dataset[f"{name}Descriptor"].value)
        count, data = count or _MOST_ENTRIES, bytes(dataset[f"{name}Data"].value)
        wide = len(data) >= 2 * count  # entries of 8 bits may be packed, or padded to 16 each
        words = np.frombuffer(data[: len(data) // 2 * 2], _words(dataset))
        entries = (words if wide else words.astype("<u2").view("u1")).astype(np.int64)
        if len(entries) < count or bits not in (8, 16):
            raise InputError(f"a palette of {len(entries)} entries", allowed=f"{count}, as its descriptor says")
        shade = entries[:count] >> 8 if bits == 16 else entries[:count] & 0xFF
        channels.append(shade[np.clip(stored.astype(np.int64) - first, 0, count - 1)])
    return np.stack(channels, axis=-1).astype(np.uint8)


def _segmented(stored: NDArray[Any], dataset: Any) -> NDArray[np.uint8]:
    """By tables that are stated as segments, which the library expands."""
    from pydicom.pixels import apply_color_lut

    for colour in ("Red", "Green", "Blue"):
        count, first, bits = (int(value) for value in dataset[f"{colour}PaletteColorLookupTableDescriptor"].value)
        if bits not in (8, 16) or not 0 <= count < _MOST_ENTRIES:
            raise InputError(f"a palette of {count} entries of {bits} bits")
        if not dataset.get(f"Segmented{colour}PaletteColorLookupTableData"):
            raise InputError(f"a palette without its {colour.lower()} table")
    # Within the table before the library takes it for 8 bits: an index beyond them would begin anew.
    within = np.clip(stored.astype(np.int64), first, first + (count or _MOST_ENTRIES) - 1)
    mapped = apply_color_lut(within, dataset)
    return np.asarray(mapped if mapped.dtype == np.uint8 else mapped >> 8, np.uint8)
