"""A DICOM file's bytes to its header and its frames: what `edgekit.inputs.dicom.file` has a worker process do.

Nothing that identifies a patient leaves it: not in an answer, an error or a log.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import struct
import sys
import warnings
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import InputError
from edgekit.inputs.dicom import guard, values
from edgekit.inputs.dicom.guard import Pixels
from edgekit.machine.resident import limit_memory

_SPARE_BYTES = 200_000_000  # the library itself, and what decoders need beside their images
_COPIES = 6  # of one frame: compressed, decoded, in colour, rescaled
_PDF, _PLUGIN = "1.2.840.10008.5.1.4.1.1.104.1", "pylibjpeg"
_TIMES = ("TemporalPositionIdentifier", "TemporalPositionIndex", "TriggerTime", "EchoTime", "DiffusionBValue")
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_LONG = 64  # characters of a text that is said on
# What parsers and decoders raise of files that are none.
_DAMAGE = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError, RuntimeError, OverflowError,
    EOFError, OSError, struct.error, zlib.error, AssertionError, ArithmeticError,
)  # fmt: skip


def serve(job: Any, data: bytes) -> tuple[Any, bytes]:
    """Read a header, or frames.

    Args:
        job: `do`: `header`, `frames` or `directory`; `wanted`: numbers of frames, from 0 on; `pixels`: the budget of
            one frame; `salt`: what a patient's hash begins with, in hexadecimal.
        data: the file.

    Returns:
        nothing, and `Header`'s fields or paths as JSON; or how long such JSON is, and it with a list of `Frame`'s
        fields, with each array's type and shape, and behind it the arrays, each with its lookup table where it has one.
    """
    warnings.simplefilter("ignore")  # which would quote what stands in the file
    logging.disable(logging.CRITICAL)
    sys.excepthook = lambda kind, *_: sys.stderr.write(f"{kind.__name__}\n")  # the same of what nobody foresaw
    limit_memory(_SPARE_BYTES + 3 * len(data))
    try:
        if job["do"] == "directory":
            return None, json.dumps(_directory(data)).encode()
        dataset = _parsed(data, pixels=job["do"] == "frames")
        said = _pixels(dataset, job["pixels"])
        if job["do"] == "header":
            return None, json.dumps(_header(dataset, said, bytes.fromhex(job["salt"]))).encode()
        limit_memory(_SPARE_BYTES + 2 * len(data) + len(job["wanted"]) * _COPIES * said.frame_bytes * 2)
        frames = [_frame(dataset, said, index) for index in job["wanted"]]
    except InputError:
        raise
    except MemoryError as error:
        raise InputError("it needs more memory to decode than its size allows") from error
    except RecursionError as error:
        raise InputError("sequences within sequences, deeper than any file has") from error
    except _damage() as error:
        raise InputError(f"damaged, or no image that can be decoded ({type(error).__name__})") from None
    about = json.dumps([fields for fields, _ in frames]).encode()
    return len(about), b"".join([about, *(array.tobytes() for _, arrays in frames for array in arrays)])


def _damage() -> tuple[type[Exception], ...]:
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return *_DAMAGE, BytesLengthException, InvalidDicomError


def _parsed(data: bytes, *, pixels: bool) -> Any:
    """The dataset. Raises InputError where the file is none, or holds what is no image."""
    import pydicom

    stream = io.BytesIO(data)
    if not guard.is_dicom(data):
        raise InputError("no DICOM file: the letters DICM are not where they must be")
    if data[guard.PREAMBLE + 4 :].startswith(b"\0" * 8) or len(data) < guard.PREAMBLE + 12:
        raise InputError("no DICOM file: nothing follows its beginning")
    meta = _meta(stream)
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if not syntax:
        raise InputError("a file without a transfer syntax", remedy="dcmconv writes it anew")
    if syntax == guard.DEFLATED:
        guard.check_inflated(data[stream.tell() :])
    stream.seek(0)
    dataset = pydicom.dcmread(stream, stop_before_pixels=not pixels)
    if str(dataset.get("SOPClassUID", "")) == _PDF or "EncapsulatedDocument" in dataset:
        raise InputError("an encapsulated document, a PDF for example", allowed="images")
    guard.check_syntax(syntax)
    if "ConcatenationUID" in dataset:
        raise InputError("one piece of a concatenation, which lies in several files", remedy="join them first")
    if "Rows" not in dataset or "Columns" not in dataset:
        raise InputError("a DICOM file without an image", allowed="images")
    if pixels and not any(name in dataset for name in _PIXELS):
        raise InputError("a DICOM file without pixels", remedy="get the file anew: its pixels were left out")
    return dataset


def _directory(data: bytes) -> list[list[str]]:
    """The files of a directory's records of images (PS3.3, F.5)."""
    import pydicom

    stream = io.BytesIO(data)
    if not guard.is_dicom(data):
        raise InputError("no directory of a DICOM medium")
    if str(_meta(stream).get("TransferSyntaxUID", "")) == guard.DEFLATED:
        guard.check_inflated(data[stream.tell() :])
    stream.seek(0)
    records = pydicom.dcmread(stream).get("DirectoryRecordSequence")
    if records is None:
        raise InputError("no directory of a DICOM medium")
    if len(records) > guard.MOST_FRAMES * 10:
        raise InputError(f"a directory of {len(records)} records")
    files = [_list(one.get("ReferencedFileID")) for one in records if one.get("DirectoryRecordType") == "IMAGE"]
    parts = [[str(part) for part in file] for file in files if file]
    if any(part in ("", ".", "..") or set(part) & set("/\\:\0") for file in parts for part in file):
        raise InputError("a directory that names files elsewhere")
    return parts


def _meta(stream: io.BytesIO) -> Any:
    """The file's meta information; the stream stands behind it."""
    from pydicom.filereader import _read_file_meta_info, read_preamble

    read_preamble(stream, force=False)
    return _read_file_meta_info(stream)


def _pixels(dataset: Any, budget: int) -> Pixels:
    """What it says of its frames. Raises InputError where that is nothing, or beyond the limits."""
    texts = {name: dataset.get(name) for name in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored")}
    try:
        rows, columns, samples, allocated, stored = (int(value) for value in texts.values())
        frames = int(dataset.get("NumberOfFrames", 1) or 1)
    except (TypeError, ValueError) as error:
        raise InputError("an image without its numbers of rows, columns, samples or bits") from error
    if not (0 < rows <= 65_535 and 0 < columns <= 65_535):
        raise InputError(f"an image of {columns} x {rows} pixels")
    if samples not in (1, 3) or allocated not in (1, 8, 16, 32, 64) or not 0 < stored <= allocated:
        raise InputError(f"{samples} samples of {stored} bits in {allocated}", allowed="1 or 3 of 1 to 64 bits")
    if rows * columns > budget:
        raise InputError(
            f"{columns} x {rows} pixels",
            allowed=f"at most {budget / 1e6:g} megapixels",
            remedy="raise --max-megapixels",
        )
    if not 0 < frames <= guard.MOST_FRAMES:
        raise InputError(f"{frames} frames", allowed=f"1 to {guard.MOST_FRAMES}")
    return Pixels(rows, columns, samples, allocated, stored, frames)


# ---------------------------------------------------------------- header


def _header(dataset: Any, said: Pixels, salt: bytes) -> dict[str, Any]:
    patient = "\0".join(str(dataset.get(name, "") or "") for name in ("PatientID", "IssuerOfPatientID"))
    if not patient.strip("\0 "):
        patient = "\0".join(str(dataset.get(name, "") or "") for name in ("PatientName", "PatientBirthDate"))
    known = bool(patient.strip("\0 "))
    own = str(dataset.get("PatientID", "") or "").strip()
    date = str(dataset.get("StudyDate", "") or "")
    burned = str(dataset.get("BurnedInAnnotation", "") or "").upper()
    return {
        "sop_class": _uid(dataset, "SOPClassUID"),
        "instance": _uid(dataset, "SOPInstanceUID"),
        "series": _uid(dataset, "SeriesInstanceUID"),
        "study": _uid(dataset, "StudyInstanceUID"),
        "frame_of_reference": _uid(dataset, "FrameOfReferenceUID"),
        "patient_id": hashlib.sha256(salt + own.encode("utf-8", "replace")).hexdigest() if own else "",
        "patient": hashlib.sha256(salt + patient.encode("utf-8", "replace")).hexdigest() if known else "",
        "modality": _code(dataset.get("Modality")),
        "image_type": [_code(one) for one in _list(dataset.get("ImageType"))][:16],
        "transfer_syntax": str(dataset.file_meta.TransferSyntaxUID),
        "rows": said.rows,
        "columns": said.columns,
        "samples": said.samples,
        "photometric": _code(dataset.get("PhotometricInterpretation")),
        "number": _integer(dataset.get("InstanceNumber")),
        "series_number": _integer(dataset.get("SeriesNumber")),
        "description": _text(dataset.get("SeriesDescription")),
        "date": f"{date[:4]}-{date[4:6]}-{date[6:]}" if len(date) == 8 and date.isdigit() else "",
        "frames": [_place(dataset, index) for index in range(said.frames)],
        "burned_in": {"YES": True, "NO": False}.get(burned),
    }


def _place(dataset: Any, index: int) -> dict[str, Any]:
    """Where a frame lies, by its functional groups or the top."""

    def stands(group: str, name: str, count: int) -> list[float] | None:
        place = values.macro(dataset, index, group) or dataset
        found = values.numbers(place, name)
        return found if len(found) == count else None

    content = values.macro(dataset, index, "FrameContentSequence") or dataset
    times = [str(one) for name in _TIMES if (one := content.get(name, dataset.get(name))) not in (None, "")]
    thick = stands("PixelMeasuresSequence", "SliceThickness", 1)
    acquisition = content.get("FrameAcquisitionNumber", dataset.get("AcquisitionNumber"))
    stack = content.get("StackID")
    named = [str(one)[:_LONG] for one in (stack, acquisition) if one not in (None, "")]
    return {
        "position": stands("PlanePositionSequence", "ImagePositionPatient", 3),
        "orientation": stands("PlaneOrientationSequence", "ImageOrientationPatient", 6),
        "spacing": stands("PixelMeasuresSequence", "PixelSpacing", 2),
        "thickness": thick[0] if thick else None,
        "acquisition": "/".join(named) or None,
        "time": [time[:_LONG] for time in times],
    }


def _uid(dataset: Any, name: str) -> str:
    found = str(dataset.get(name, "") or "")
    return found if len(found) <= _LONG and set(found) <= set("0123456789.") else ""


def _code(value: Any) -> str:
    """A code string; nothing where somebody wrote something else into it."""
    text = str(value or "").strip().upper()
    return text if len(text) <= 16 and all(one.isalnum() or one in "_ " for one in text) else ""


def _text(value: Any) -> str:
    return "".join(one for one in str(value or "") if one.isprintable())[:_LONG].strip()


def _integer(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if not isinstance(value, str) else [value]


# ---------------------------------------------------------------- frames


def _frame(dataset: Any, said: Pixels, index: int) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """One frame's fields, and its values, and its lookup table behind them where it has one."""
    if index >= said.frames:
        raise InputError(f"frame {index + 1}", allowed=f"1 to {said.frames}")
    stored = _decoded(dataset, said, index)
    photometric = _code(dataset.get("PhotometricInterpretation"))
    about = {"modality": _code(dataset.get("Modality")), "photometric": photometric}
    shape = str(dataset.get("PresentationLUTShape", "") or "").strip().upper()
    fields: dict[str, Any] = {
        "units": "", "windows": [], "entries": 0, "inverted": False, "bits": said.stored, "notes": [],
        "about": about,
    }  # fmt: skip
    if photometric == "PALETTE COLOR":
        array: NDArray[Any] = values.palette(stored, dataset)
        fields |= {"kind": "colour", "full": [0, 255]}
    elif said.samples == 3:
        wide = max(0, said.stored - 16)  # bits beyond what any picture shows
        array = stored if stored.dtype == np.uint8 else (stored >> wide).astype(np.uint16)
        fields |= {"kind": "colour", "full": [0, 2 ** (said.stored - wide) - 1]}
    else:
        array, units, full = values.modality(stored, dataset, index)
        fields |= {
            "kind": "grey",
            "units": units,
            "full": list(full),
            "windows": values.windows(dataset, index),
            "inverted": photometric == "MONOCHROME1" or shape == "INVERSE",
            "notes": values.said_of_values(stored, dataset, index),
        }
    array = np.ascontiguousarray(array)
    table = values.voi_lut(dataset, index) if fields["kind"] == "grey" else None
    fields |= {"type": array.dtype.str, "shape": list(array.shape), "entries": 0 if table is None else len(table)}
    return fields, [array] if table is None else [array, table]


def _decoded(dataset: Any, said: Pixels, index: int) -> NDArray[Any]:
    """A frame's stored values: [rows, columns], or RGB [rows, columns, 3]."""
    from pydicom.pixels import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    options: dict[str, Any] = {}
    if str(syntax) not in guard.UNCOMPRESSED:
        guard.check_codestream(str(syntax), _coded(dataset, said, index), said)
        decoder = get_decoder(syntax)
        options = {"decoding_plugin": _PLUGIN} if _PLUGIN in decoder.available_plugins else {}
    else:
        decoder = get_decoder(syntax)
        _check_length(dataset, said)
        high = dataset.get("HighBit", said.stored - 1)
        if high != said.stored - 1:
            raise InputError(f"{said.stored} bits of which the highest is bit {high}", allowed=f"bit {said.stored - 1}")
    array, _ = decoder.as_array(dataset, index=index, raw=False, **options)
    wanted = (said.rows, said.columns) if said.samples == 1 else (said.rows, said.columns, 3)
    if array.shape != wanted:
        raise InputError(f"a decoder gave {array.shape}", allowed=f"{wanted}, as the dataset says")
    return np.asarray(array)


def _coded(dataset: Any, said: Pixels, index: int) -> bytes:
    """A frame as it is compressed."""
    from pydicom.encaps import get_frame

    offsets = None
    if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    return bytes(get_frame(dataset.PixelData, index, number_of_frames=said.frames, extended_offsets=offsets))


def _check_length(dataset: Any, said: Pixels) -> None:
    """Raise InputError where fewer pixels are there than the dataset says; the library would pass over many."""
    (data,) = (dataset[name].value for name in _PIXELS if name in dataset)
    subsampled = str(dataset.get("PhotometricInterpretation", "")) == "YBR_FULL_422"
    bits = said.rows * said.columns * said.samples * said.allocated * said.frames
    need = -(-(bits * 2 // 3 if subsampled else bits) // 8)
    if len(data or b"") < need:
        raise InputError(f"truncated: {len(data or b'')} bytes of pixels", allowed=f"{need}, as the dataset says")
    if len(data) > need + need // 2 + 1024:
        raise InputError(f"{len(data)} bytes of pixels", allowed=f"{need}, as the dataset says")
