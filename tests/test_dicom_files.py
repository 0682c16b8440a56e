"""One DICOM file: equal to a second decoder, or refused by name; what lies about its size reaches no decoder."""

from __future__ import annotations

import io
import random
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import examples
from pydicom.data import get_testdata_file, get_testdata_files
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    generate_uid,
)

from edgekit.errors import EdgekitError, InputError
from edgekit.inputs.dicom import file, guard
from edgekit.inputs.image import read

GDCM = shutil.which("gdcmconv")
MOST = 3  # frames of one file that are compared

# What has pixels and is refused, and why: a part of the message.
REFUSED = {
    "bad_sequence.dcm": "JPEG lossless",
    "UN_sequence.dcm": "JPEG lossless",
    "SC_rgb_jpeg_gdcm.dcm": "JPEG lossless",
    "JPEG-LL.dcm": "JPEG lossless",
    "JPGLosslessP14SV1_1s_1f_8b.dcm": "JPEG lossless",
    "JPEG-lossy.dcm": "a JPEG of 12 bits",
    "JPGExtended.dcm": "a JPEG of 12 bits",
    "JPEG2000-embedded-sequence-delimiter.dcm": "a compressed frame without a whole header",
    "MR_truncated.dcm": "truncated",
}
WITHOUT = ("without an image", "without pixels", "no DICOM file", "without a transfer syntax", "without its numbers")


def real_files() -> list[Path]:
    """pydicom's own test files and those of pydicom-data, of every name once."""
    found = {Path(name).name: Path(name) for name in get_testdata_files("*") if Path(name).is_file()}
    return [path for name, path in sorted(found.items()) if path.suffix in (".dcm", "")]


def plain(values: np.ndarray[Any, Any], **more: Any) -> Dataset:
    """A CT of these stored values."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    made = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    made.Modality, made.PatientID, made.PatientName = "CT", "4711", "Canary^Secret"
    made.Rows, made.Columns = values.shape[-2:]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8 * values.dtype.itemsize
    made.HighBit, made.PixelRepresentation = made.BitsStored - 1, int(values.dtype.kind == "i")
    made.PixelData = values.tobytes()
    for name, value in more.items():
        setattr(made, name, value)
    return made


def data_of(dataset: Dataset) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


# gdcm writes 16-bit words of these in the wrong order: what else holds the same pixels.
SIBLINGS = {"rtdose_expb.dcm": "rtdose.dcm", "rtdose_expb_1frame.dcm": "rtdose_1frame.dcm"}


def uncompressed(path: Path, folder: Path) -> Iterator[Dataset]:
    """The file as gdcm, and as dcmtk has it uncompressed, as far as they can read it."""
    if path.name in SIBLINGS:
        yield pydicom.dcmread(str(get_testdata_file(SIBLINGS[path.name])))
        return
    for command in (["gdcmconv", "--raw"], ["dcmconv", "+te"], ["dcmdrle"], ["dcmdjpeg"], ["dcmdjpls"]):
        target = folder / "raw.dcm"
        target.unlink(missing_ok=True)
        if shutil.which(command[0]):
            done = subprocess.run([*command, path, target], capture_output=True, check=False, timeout=120)
            made = pydicom.dcmread(target) if not done.returncode and target.exists() else None
            if made is not None and "PixelData" in made and not made.file_meta.TransferSyntaxUID.is_encapsulated:
                yield made


def stored_in(other: Dataset, like: Any, count: int) -> Any:
    """What another decoder stored of the first frames; None where it means something else by its numbers."""
    if other.get("PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2", "RGB"):
        return None
    if "ModalityLUTSequence" in other or "PerFrameFunctionalGroupsSequence" in other:
        return None  # which have tests of their own
    return np.asarray(other.pixel_array).reshape(-1, *like.shape)[:count]


@pytest.mark.skipif(not GDCM, reason="needs gdcmconv (apt install libgdcm-tools)")
def test_real_files_decode_as_a_second_decoder_has_them_or_are_refused_by_name(tmp_path: Path) -> None:
    compared, refused, wrong = [], {}, {}
    for path in real_files():
        try:
            mine = list(file.frames(path, range(min(MOST, len(file.header(path).frames)))))
        except InputError as error:
            refused[path.name] = error.message
            continue
        apart = []
        for other in uncompressed(path, tmp_path):
            if (stored := stored_in(other, mine[0].values, len(mine))) is not None:
                apart.append(max(_apart(frame, stored[number], other) for number, frame in enumerate(mine)))
        if apart:
            compared.append(path.name)
            wrong |= {path.name: min(apart)} if min(apart) > _lossy(path) else {}
    assert wrong == {}
    assert len(compared) >= 60
    for name, said in refused.items():
        if name in REFUSED:
            assert REFUSED[name] in said, name
        else:
            assert any(why in said for why in WITHOUT), (name, said)
    assert set(REFUSED) & {path.name for path in real_files()} <= set(refused)


def _apart(frame: Any, stored: Any, other: Dataset) -> float:
    slope, intercept = float(other.get("RescaleSlope", 1)), float(other.get("RescaleIntercept", 0))
    wide = max(0, int(other.BitsStored) - 16)
    expected = stored * slope + intercept if frame.kind == "grey" else stored >> wide
    apart = float(np.max(np.abs(frame.values.astype(np.float64) - expected)))
    return 0.0 if apart <= 1e-6 * float(np.max(np.abs(expected))) else apart  # of 32 bits


def _lossy(path: Path) -> float:
    """Decoders of baseline JPEG may differ by a step or two, and after their colours more."""
    syntax = str(pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)
    return 4.0 if syntax.endswith((".4.50", ".4.51")) else 1e-6


def test_hounsfield_units_are_exact_and_air_stays_black() -> None:
    """Of an unsigned CT with an intercept of -1024 nothing wraps around."""
    stored = np.array([[0, 1024], [1064, 4095]], np.uint16)
    made = plain(stored, RescaleSlope="1", RescaleIntercept="-1024")
    (frame,) = file.frames(data_of(made))
    assert frame.values.dtype == np.int32
    assert frame.values.tolist() == [[-1024, 0], [40, 3071]]
    assert frame.units == "HU"
    picture = read(data_of(made)).image
    assert picture.getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize(("slope", "intercept"), [("1", "-1024"), ("0.5", "-1000.25"), ("2", "0"), ("-1", "100")])
def test_rescaling_is_what_the_standard_says(slope: str, intercept: str) -> None:
    stored = np.arange(-8, 8, dtype=np.int16).reshape(4, 4)
    (frame,) = file.frames(data_of(plain(stored, Modality="MR", RescaleSlope=slope, RescaleIntercept=intercept)))
    np.testing.assert_allclose(frame.values, stored * float(slope) + float(intercept), atol=1e-5)


def test_enhanced_objects_are_rescaled_frame_by_frame_as_highdicom_has_them() -> None:
    highdicom = pytest.importorskip("highdicom")
    path = Path(str(get_testdata_file("eCT_Supplemental.dcm")))
    image = highdicom.imread(path)
    for number, frame in enumerate(file.frames(path)):
        expected = image.get_frame(number + 1, apply_voi_transform=False, apply_icc_profile=False)
        np.testing.assert_allclose(frame.values, expected, atol=1e-4)
        assert frame.windows
    assert number == 1


@pytest.mark.parametrize("name", ["slope", "intercept"])
def test_half_a_rescaling_is_refused(name: str) -> None:
    more = {"RescaleSlope": "1"} if name == "slope" else {"RescaleIntercept": "-1024"}
    with pytest.raises(InputError, match="a rescale slope without its intercept"):
        list(file.frames(data_of(plain(np.zeros((4, 4), np.uint16), **more))))


# ---------------------------------------------------------------- what lies


def _j2k(rows: int, columns: int) -> bytes:
    """A JPEG 2000 codestream's beginning that says a size."""
    size = b"".join(n.to_bytes(4, "big") for n in (columns, rows, 0, 0, columns, rows, 0, 0))
    return b"\xff\x4f\xff\x51" + (38 + 3).to_bytes(2, "big") + b"\0\0" + size + b"\0\x01\x0f\x01\x01" + b"\0" * 500


def _jls(rows: int, columns: int) -> bytes:
    return b"\xff\xd8\xff\xf7\0\x0b\x10" + rows.to_bytes(2, "big") + columns.to_bytes(2, "big") + b"\x01\x01\x11\0" * 40


def compressed(syntax: str, stream: bytes, rows: int = 16, columns: int = 16) -> bytes:
    made = plain(np.zeros((rows, columns), np.uint16))
    made.file_meta.TransferSyntaxUID = syntax
    made.PixelData = encapsulate([stream])
    made["PixelData"].is_undefined_length = True
    return data_of(made)


@pytest.mark.parametrize(
    ("syntax", "stream"), [(JPEG2000Lossless, _j2k(12_000, 12_000)), (JPEGLSLossless, _jls(12_000, 12_000))]
)
def test_a_codestream_of_another_size_is_refused(syntax: str, stream: bytes) -> None:
    with pytest.raises(InputError, match="a compressed frame of 12000 x 12000 pixels"):
        list(file.frames(compressed(syntax, stream)))


def test_what_inflates_without_end_is_refused() -> None:
    made = plain(np.zeros((4, 4), np.uint16))
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    whole = data_of(made)
    place = whole.index(b"\x02\x00\x10\x00")
    length = int.from_bytes(whole[place + 6 : place + 8], "little")
    head = whole[: place + 8 + length]
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join([bomb.compress(bytes(1 << 20)) for _ in range(600)]) + bomb.flush()
    assert len(packed) < 1_000_000
    with pytest.raises(InputError, match="inflates to more"):
        file.header(head + packed)


BAD: dict[str, tuple[Callable[[Dataset], None], str]] = {
    "no rows": (lambda d: delattr(d, "Rows"), "without an image"),
    "none": (lambda d: setattr(d, "Rows", 0), "image of 4 x 0"),
    "huge": (lambda d: (setattr(d, "Rows", 60_000), setattr(d, "Columns", 60_000)), "megapixels|60000 x 60000"),
    "frames": (lambda d: setattr(d, "NumberOfFrames", 10**9), "1000000000 frames"),
    "more frames": (lambda d: setattr(d, "NumberOfFrames", 5), "truncated"),
    "short": (lambda d: setattr(d, "PixelData", b"\0\0"), "truncated"),
    "long": (lambda d: setattr(d, "PixelData", b"\0" * 100_000), "100000 bytes of pixels"),
    "samples": (lambda d: setattr(d, "SamplesPerPixel", 2), "2 samples"),
    "slope": (lambda d: (setattr(d, "RescaleSlope", "0"), setattr(d, "RescaleIntercept", "0")), "slope of 0"),
    "concatenation": (lambda d: setattr(d, "ConcatenationUID", generate_uid()), "concatenation"),
    "palette": (lambda d: setattr(d, "PhotometricInterpretation", "PALETTE COLOR"), "a palette without"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line_without_the_patient(name: str) -> None:
    harm, said = BAD[name]
    made = plain(np.zeros((4, 4), np.uint16))
    harm(made)
    with pytest.raises(InputError, match=said) as caught:
        list(file.frames(data_of(made)))
    text = str(caught.value)
    assert "Canary" not in text
    assert "4711" not in text
    assert "\n" not in caught.value.message


def test_a_large_lookup_table_and_many_frames_are_told() -> None:
    """More than a worker's answers usually say."""
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [65_535, 0, 16], np.arange(65_535, dtype=np.uint16).tobytes()
    item["LUTData"].VR = "OW"
    item["LUTDescriptor"].VR = "US"
    made = plain(np.arange(6000, dtype=np.uint8).reshape(1500, 2, 2), NumberOfFrames=1500, Modality="OT")
    made.VOILUTSequence = [item]
    found = file.header(data_of(made))
    assert len(found.frames) == 1500
    frames = list(file.frames(data_of(made), range(20)))
    assert [frame.voi_lut.shape for frame in frames] == [(65_535, 2)] * 20
    assert frames[-1].values.tolist() == [[76, 77], [78, 79]]


def test_a_document_and_a_video_are_called_what_they_are() -> None:
    made = plain(np.zeros((4, 4), np.uint16), EncapsulatedDocument=b"%PDF")
    with pytest.raises(InputError, match="an encapsulated document"):
        file.header(data_of(made))
    with pytest.raises(InputError, match="a video"):
        guard.check_syntax("1.2.840.10008.1.2.4.102")


def test_a_header_names_no_patient() -> None:
    made = plain(np.zeros((4, 4), np.uint16), InstitutionName="Canary Hospital", StudyDate="20200131")
    found = file.header(data_of(made))
    assert "Canary" not in repr(found)
    assert "4711" not in repr(found)
    assert found.patient
    assert found.date == "2020-01-31"
    assert file.header(data_of(made), salt=b"a").patient_id != file.header(data_of(made), salt=b"b").patient_id


def mutated(number: int, sources: list[bytes]) -> bytes:
    """A real file with a few bytes changed, cut or repeated, from a seed."""
    rng = random.Random(number)
    data = bytearray(rng.choice(sources))
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        place = rng.randrange(len(data)) if rng.random() < 0.3 else rng.randrange(min(len(data), 3000))
        match rng.randrange(4):
            case 0:
                data[place] = rng.randrange(256)
            case 1:
                data[place : place + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"])
            case 2:
                del data[place : place + rng.randrange(1, 64)]
            case _:
                data[place:place] = data[place : place + rng.randrange(1, 64)]
        data = data or bytearray(b"\0")
    return bytes(data)


def fuzzed(count: int) -> dict[str, int]:
    names = ["CT_small.dcm", "MR_small_RLE.dcm", "emri_small_jpeg_2k_lossless.dcm", "MR_small_jpeg_ls_lossless.dcm",
             "SC_rgb_jpeg_dcmtk.dcm", "image_dfl.dcm", "eCT_Supplemental.dcm", "examples_palette.dcm"]  # fmt: skip
    sources = [Path(str(get_testdata_file(name))).read_bytes() for name in names]
    read_, said = 0, list[str]()
    for number in range(count):
        data = mutated(number, sources)
        try:
            for frame in file.frames(data, [0]):
                assert frame.values.ndim == (2 if frame.kind == "grey" else 3)
            read_ += 1
        except InputError as error:
            said.append(error.message)
    assert not [text for text in said if "\n" in text or "died with" in text or "did not expect" in text]
    return {"read": read_, "refused": len(said)}


def test_mutated_files_are_read_or_refused() -> None:
    seen = fuzzed(300)
    assert min(seen.values()) > 20


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_100_000_mutated_files_are_read_or_refused() -> None:
    import psutil

    seen = fuzzed(100_000)
    assert sum(seen.values()) == 100_000
    worker = psutil.Process(file.READER.pid)
    assert worker.memory_info().rss < 1e9


def test_an_example_of_every_colour_is_a_picture() -> None:
    for name in ("palette_color", "rgb_color", "ybr_color", "overlay"):
        path = Path(str(examples.get_path(name)))
        frame = next(iter(file.frames(path, [0])))
        assert frame.kind == ("grey" if name == "overlay" else "colour")


def test_a_file_that_is_none(tmp_path: Path) -> None:
    for path in (tmp_path / "none.dcm", tmp_path):
        with pytest.raises(EdgekitError, match=r"no such file|no ordinary file|cannot be read"):
            file.header(path)
