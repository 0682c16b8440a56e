"""What is read of a DICOM file: its header without its pixels, and its frames in the units that the header states.

Nothing here holds a name, a birth date or a number of a patient: `patient` is a hash that tells two patients of one
reading apart, and means nothing outside of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

Kind = Literal["grey", "colour"]


@dataclass(frozen=True)
class Window:
    """A window of the VOI LUT module (PS3.3 C.11.2.1.2), in the units of the frame.

    Attributes:
        center, width: as the file states them; width above 0 (at least 1 where linear).
        function: `LINEAR` (which is off by a half: C.11.2.1.2.1), `LINEAR_EXACT` or `SIGMOID`.
    """

    center: float
    width: float
    function: Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"] = "LINEAR"


@dataclass(frozen=True)
class FrameHeader:
    """Where one frame lies in the patient, of a file with one frame or of an Enhanced object's functional groups.

    Attributes:
        position: mm, of the centre of the first voxel (ImagePositionPatient); None where it is not stated.
        orientation: direction cosines of a row and of a column (ImageOrientationPatient).
        spacing: mm between rows and between columns.
        thickness: mm.
        acquisition: AcquisitionNumber, or what stands for it in an Enhanced object (its stack and time).
        time: where one place was taken several times (TemporalPositionIndex, TriggerTime, DiffusionBValue, EchoTime),
            the values that tell them apart.
    """

    position: tuple[float, float, float] | None = None
    orientation: tuple[float, float, float, float, float, float] | None = None
    spacing: tuple[float, float] | None = None
    thickness: float | None = None
    acquisition: str | None = None
    time: tuple[str, ...] = ()


@dataclass(frozen=True)
class Header:
    """One file without its pixels.

    Attributes:
        name: the file, as messages call it.
        sop_class, instance, series, study, frame_of_reference: UIDs; "" where they are missing.
        patient: a hash of what identifies the patient, "" where the file says nothing; equal within one process only.
        patient_id: the same of PatientID alone, with the caller's own salt.
        modality: CR, DX, CT, MR, US, MG, XC, ...; "" where it is missing.
        image_type: ImageType's values, such as ORIGINAL, PRIMARY, AXIAL or LOCALIZER.
        transfer_syntax: UID.
        rows, columns: pixels.
        samples: 1 or 3 (or 4).
        photometric: PhotometricInterpretation.
        number: InstanceNumber; None where it is missing.
        series_number, description: of the series; the description without control characters, "" where missing.
        date: of the study, `YYYY-MM-DD`, "" where missing.
        frames: one for each frame.
        burned_in: BurnedInAnnotation says that names may stand in the pixels; None where it is not stated.
    """

    name: str
    sop_class: str
    instance: str
    series: str
    study: str
    frame_of_reference: str
    patient: str
    patient_id: str
    modality: str
    image_type: tuple[str, ...]
    transfer_syntax: str
    rows: int
    columns: int
    samples: int
    photometric: str
    number: int | None
    series_number: int | None
    description: str
    date: str
    frames: tuple[FrameHeader, ...]
    burned_in: bool | None = None


@dataclass(frozen=True, eq=False)
class Frame:
    """One decoded frame, after the modality LUT or rescale, before any window.

    Attributes:
        values: grey: [rows, columns], int32 where slope and intercept are whole numbers (HU of CT), else float32;
            colour: uint8 or uint16 [rows, columns, 3] in RGB.
        kind: grey or colour.
        units: what the values are: `HU` of a CT, RescaleType or the modality LUT's type where stated, else "".
        full: least and greatest value that the type could hold after rescaling: what has no window is shown over it.
        windows: those of the file for this frame, the first is its default.
        voi_lut: a VOI LUT as [values, 2]: input and output in 0 to 1; None where there is none. It goes before windows.
        inverted: MONOCHROME1, or an inverse presentation LUT: white is the least value, after VOI.
        bits: BitsStored.
        notes: what to know of how it was read.
        about: what else a recipe may ask for (`modality`, `photometric`, ...): no identifiers.
    """

    values: NDArray[Any]
    kind: Kind
    units: str
    full: tuple[float, float]
    windows: tuple[Window, ...]
    voi_lut: NDArray[Any] | None
    inverted: bool
    bits: int
    notes: tuple[str, ...]
    about: Mapping[str, str]
