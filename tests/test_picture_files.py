"""Image files: bounds that hold before anything is decoded, what is no image, and what is said of odd pictures."""

from __future__ import annotations

import gzip
import io
import os
import socket
import struct
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from material import photo
from pictures import chunk, png, saved, tiff
from PIL import Image, features

from edgekit.artifacts.manifest import Preprocessing
from edgekit.errors import EdgekitError, InputError
from edgekit.inputs import image_file
from edgekit.inputs.image import MAX_MEGAPIXELS, Picture, PictureWarning, load, read, to_pixels
from edgekit.inputs.message import Image as Shown
from edgekit.inputs.message import Message, with_pictures
from edgekit.machine.resident import Resident

GREY = photo(90, 70)[..., 0]
MEGABYTE = 1_000_000


def zeros(count: int) -> bytes:
    """Compressed."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(min(MEGABYTE, count - i))) for i in range(0, count, MEGABYTE))
    return packed + packer.flush()


def png_of(width: int, height: int, body: bytes, extra: bytes = b"", bits: int = 8, kind: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def webp(kind: bytes, body: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 12 + len(body)) + b"WEBP" + kind + struct.pack("<I", len(body)) + body


def side(width: int) -> bytes:
    return (width - 1).to_bytes(3, "little")


def jpeg(width: int, height: int, scans: int = 0) -> bytes:
    """A file of 64 x 64 that claims another size; progressive where scans are added."""
    data = saved(Image.fromarray(photo(64, 64)), "JPEG", progressive=scans > 0)
    at = data.index(b"\xff\xc2" if scans else b"\xff\xc0")
    data = data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * scans + data[-2:]


def bmp(width: int, height: int, compression: int, body: bytes) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(body), 0, 0, 54 + 1024) + header + bytes(1024) + body


def gif(screen: int, frame: int, frames: int = 1) -> bytes:
    shown = b"\x2c" + struct.pack("<HHHHB", 0, 0, frame, frame, 0x80) + bytes(6) + b"\2\2\x44\1\0"
    return b"GIF89a" + struct.pack("<HHBBB", screen, screen, 0, 0, 0) + shown * frames + b";"


def grey_tiff(tag: int, count: int = 1, value: int | None = None, old: int = 0) -> bytes:
    """A TIFF file in which one field lies."""
    field = struct.pack("<HHI", tag, 4, 1) + (b"" if value is None else struct.pack("<I", old))
    lie = struct.pack("<HHI", tag, 4, count) + (b"" if value is None else struct.pack("<I", value))
    assert field in tiff(GREY)
    return tiff(GREY).replace(field, lie)


TOO_LARGE = {
    "webp": webp(b"VP8X", bytes(4) + side(16_384) + side(16_384)),
    "webp, lossless": webp(b"VP8L", b"\x2f" + struct.pack("<I", 16_383 | 16_383 << 14) + bytes(12)),
    "webp, lossy": webp(b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383) + bytes(12)),
    "png": png_of(8000, 8000, zeros(8000 * 8001)),
    "png of 16 bits": png_of(8000, 8000, zeros(8000 * 16_001), bits=16),
    "gif": gif(60_000, 1),
    "gif, a frame": gif(64, 60_000),
    "bmp": bmp(2**31 - 1, 2, 0, b""),
    "bmp, run lengths": bmp(20_000, 20_000, 1, b"\xff\7" * 1000),
    "ppm": b"P6\n99999999 99999999\n255\n",
    "pgm, deep": b"P5\n99999999 99999999\n4095\n",
    "jpeg": jpeg(65_500, 65_500),
    "tiff": grey_tiff(256, value=2**31, old=90),
}


@pytest.mark.parametrize("kind", TOO_LARGE)
def test_a_picture_above_the_budget_is_refused_by_its_header(kind: str) -> None:
    with pytest.raises(InputError, match=r"\d+ x \d+ pixels") as caught:
        read(TOO_LARGE[kind])
    assert "at most 40 megapixels" in str(caught.value.allowed)


class Watched:
    """A decoder of its own, and the most memory that it held in a job."""

    def __init__(self) -> None:
        self.resident = Resident(image_file.serve)
        self.most = 0

    def decode(self, data: bytes, limit_s: float = 60) -> str:
        """The decoder's complaint, empty for a picture."""
        if self.resident.pid and sys.platform == "linux":
            Path(f"/proc/{self.resident.pid}/clear_refs").write_text("5")  # the peak begins anew
        try:
            job = {"range": None, "pixels": int(MAX_MEGAPIXELS * 1e6)}
            self.resident.ask(job, data, limit_s=limit_s, most=200_000_000)
        except EdgekitError as error:
            return str(error)
        finally:
            if self.resident.pid and sys.platform == "linux":
                lines = Path(f"/proc/{self.resident.pid}/status").read_text().splitlines()
                self.most = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
        return ""


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    made = Watched()
    yield made
    made.resident.close()


HUNDRED_MB = zeros(100 * MEGABYTE)
DEFLATED = tiff(np.zeros((70, 90), np.uint8), deflated=True)
HOSTILE: dict[str, bytes] = {
    **TOO_LARGE,
    "webp of 36 megapixels in 30 bytes": webp(b"VP8X", bytes(4) + side(6000) + side(6000)),
    "png, a bomb behind the picture": png_of(64, 64, HUNDRED_MB),
    "png, a bomb of a profile": png_of(64, 64, zeros(65 * 64), chunk(b"iCCP", b"x\0\0" + HUNDRED_MB)),
    "png, a bomb of texts": png_of(64, 64, zeros(65 * 64), chunk(b"zTXt", b"k\0\0" + zeros(MEGABYTE)) * 100),
    "png, a bomb of one text": png_of(64, 64, zeros(65 * 64), chunk(b"iTXt", b"k\0\1\0\0\0" + HUNDRED_MB)),
    "png, chunks without end": png_of(64, 64, zeros(65 * 64), chunk(b"tEXt", b"a\0b") * 10_000),
    "gif of 30,000 frames": gif(64, 64, 30_000),
    "tiff, a loop of pages": tiff(GREY, next_page=8),
    "tiff, a strip of 2 GB": grey_tiff(279, value=2**31, old=6300),
    "tiff, a billion strips": grey_tiff(273, count=2**30),
    "tiff, a deflated bomb": DEFLATED.replace(zlib.compress(bytes(6300)), HUNDRED_MB),
    "jpeg of 40 megapixels in 50 scans": jpeg(6300, 6300, 40),
    "jpeg of 400 megapixels": jpeg(20_000, 20_000),
    "jpeg of 2,500 megapixels, progressive": jpeg(50_000, 50_000, 1),
    "bmp, run lengths that end": bmp(6000, 6000, 1, b"\xff\7" * 1000),
    "ppm, a comment without end": b"P6\n#" + b"x" * 100_000,
    "ppm, a number without end": b"P6\n" + b"9" * 300_000,
    "pgm of 36 megapixels, plain, too few": b"P2\n6000 6000\n65535\n" + b"1 " * 100_000,
}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says, and limits, what a process holds")
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_takes_little(kind: str, watched: Watched) -> None:
    watched.decode(saved(Image.fromarray(GREY), "PNG"))
    before = watched.most
    watched.decode(HOSTILE[kind])
    # What a picture of the budget may take; most are refused long before.
    allowed = 700 if "megapixels" in kind else 150
    assert watched.most - before < allowed * MEGABYTE


def test_a_thousand_scans_are_refused_at_once() -> None:
    with pytest.raises(InputError, match="a JPEG of 1011 scans"):
        read(jpeg(1000, 1000, 1001))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what a process holds")
def test_memory_is_bounded_by_the_header(watched: Watched) -> None:
    """A decoder that wants more than the picture's size explains gets none: tiles of 1 GB in a picture of 64 x 64."""
    fields = [
        (256, 64),
        (257, 64),
        (258, 8),
        (259, 8),
        (262, 1),
        (277, 1),
        (322, 30_000),
        (323, 30_000),
        (324, 500),
        (325, 100),
    ]
    head = struct.pack("<H", len(fields)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    said = watched.decode(b"II*\0" + struct.pack("<I", 8) + head + bytes(1000))
    assert said
    assert watched.most < 300 * MEGABYTE


def test_time_is_bounded(watched: Watched) -> None:
    data = HOSTILE["jpeg of 40 megapixels in 50 scans"]
    watched.decode(b"")
    started = time.monotonic()
    assert "stopped after 0 s" in watched.decode(data, limit_s=0.2)
    assert time.monotonic() - started < 20


def test_a_death_of_the_decoder_is_an_error_of_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(GREY).save(path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr("edgekit.inputs.image.DECODER", Resident(dies))
    with pytest.raises(InputError, match="the process died with SIG") as caught:
        read(path)
    assert str(path) in str(caught.value)


def dies(job: Any, data: bytes) -> tuple[Any, bytes]:
    """A decoder with a fault."""
    os.abort()


# ---------------------------------------------------------------- the budget


def test_the_budget_can_be_set(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(photo(200, 100)).save(path)
    assert read(path, max_megapixels=0.02).image.size == (200, 100)
    for source in (path, path.read_bytes(), photo(200, 100), Image.fromarray(photo(200, 100))):
        with pytest.raises(InputError, match="200 x 100 pixels") as caught:
            read(source, max_megapixels=0.0199)
        assert "0.0199 megapixels" in str(caught.value.allowed)
        assert "--max-megapixels 1 " in str(caught.value.remedy)
    assert read(Image.new("1", (9000, 5000)), max_megapixels=50).image.size == (9000, 5000)


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), 401, "40", None])
def test_what_is_no_budget(wrong: Any) -> None:
    with pytest.raises(InputError, match="megapixels"):
        read(GREY, max_megapixels=wrong)


@pytest.mark.parametrize(("megapixels", "factor"), [(0.3, 1), (0.2, 2), (0.06, 4), (0.015, 8)])
def test_a_jpeg_above_the_budget_is_reduced_while_it_is_read(megapixels: float, factor: int) -> None:
    data = saved(Image.fromarray(photo(640, 400)), "JPEG", quality=95)
    picture = read(data, max_megapixels=megapixels)
    assert picture.image.size == (640 // factor, 400 // factor)
    whole = Image.open(io.BytesIO(data)).convert("RGB").resize(picture.image.size, Image.Resampling.BOX)
    assert np.abs(np.asarray(picture.image).astype(int) - np.asarray(whole)).mean() < 4
    said = f"640 x 400 pixels are above the limit: read at 1/{factor} of that"
    assert (said in str(picture.warnings)) == (factor > 1)


def test_a_jpeg_far_above_the_budget_is_refused() -> None:
    with pytest.raises(InputError, match="640 x 400 pixels"):
        read(saved(Image.fromarray(photo(640, 400)), "JPEG"), max_megapixels=0.003)


def test_a_file_longer_than_any_picture_of_the_budget(tmp_path: Path) -> None:
    path = tmp_path / "image.tiff"
    with path.open("wb") as file:
        file.write(tiff(GREY))
        file.truncate(16_200_000)  # 16 bytes for each of 10,000 pixels, and 16 MB, are fewer
    with pytest.raises(InputError, match="a file of more than 16 MB"):
        read(path, max_megapixels=0.01)


# ---------------------------------------------------------------- what is no image


def nifti(version: int, order: str) -> bytes:
    size, magic = (348, (344, b"n+1\0")) if version == 1 else (540, (4, b"n+2\0\r\n\x1a\n"))
    header = bytearray(struct.pack(f"{order}i", size) + bytes(size - 4))
    header[magic[0] : magic[0] + len(magic[1])] = magic[1]
    return bytes(header)


def tar() -> bytes:
    import tarfile

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("image.png"))
    return stream.getvalue()


def numpy_file() -> bytes:
    stream = io.BytesIO()
    np.save(stream, GREY)
    return stream.getvalue()


OTHERS: dict[str, tuple[bytes, str, str]] = {
    "dicom without its preamble": (b"\10\0\5\0CS\12\0ISO_IR 100", "DICOM", "--use-window"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3", "PDF", "pdfimages"),
    "pdf behind a line": (b"\r\n%PDF-1.4", "PDF", "pdftoppm"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "HEIF", "heif-convert"),
    "heic of a phone": (b"\0\0\0\x24ftypmsf1\0\0\0\0msf1hevc" + bytes(64), "HEIF", "Most Compatible"),
    "avif": (b"\0\0\0\x1cftypavif\0\0\0\0mif1avif" + bytes(64), "HEIF", "heif-convert"),
    "nifti": (nifti(1, "<"), "NIfTI", "3D Slicer"),
    "nifti, big-endian": (nifti(1, ">"), "NIfTI", "slice"),
    "nifti 2": (nifti(2, "<"), "NIfTI", "slice"),
    "nifti, compressed": (gzip.compress(nifti(1, "<") + bytes(100_000)), "NIfTI volume, compressed", "slice"),
    "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64), "JPEG 2000", "opj_decompress"),
    "jpeg 2000, a codestream": (b"\xff\x4f\xff\x51" + bytes(64), "JPEG 2000", "OpenJPEG"),
    "jpeg xl": (b"\xff\x0a" + bytes(range(64)), "JPEG XL", "djxl"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG", "rsvg-convert"),
    "svg behind a declaration": (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- x -->\n<svg/>", "SVG", "rsvg-convert"),
    "mha": (b"ObjectType = Image\nNDims = 3\n", "MetaImage", "slice"),
    "nrrd": (b"NRRD0005\ntype: short\n", "NRRD", "slice"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5", "h5py"),
    "npy": (numpy_file(), "NumPy", "numpy.load"),
    "mp4": (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "video", "ffmpeg"),
    "quicktime": (b"\0\0\0\x14ftypqt  \0\0\2\0qt  ", "video", "one frame"),
    "webm": (b"\x1a\x45\xdf\xa3" + bytes(64), "video", "ffmpeg"),
    "avi": (b"RIFF\0\0\0\0AVI LIST", "video", "ffmpeg"),
    "zip": (b"PK\3\4" + bytes(64), "ZIP", "unzip"),
    "gzip": (gzip.compress(b"anything"), "archive", "unpack"),
    "tar": (tar(), "archive", "unpack"),
    "html": (b"\n<!DOCTYPE html><html><title>404</title>", "HTML", "download"),
    "text": ("Röntgenbild.png\n".encode(), "a text", "itself"),
    "text, in Chinese, cut within a letter": ("胸部\n".encode() * 1000, "a text", "itself"),
    "text of an old encoding": ("Röntgenbild.png\n".encode("latin-1"), "a text", "itself"),
    "high bytes": (np.random.default_rng(0).integers(128, 256, 500).astype(np.uint8).tobytes(), "known", "magick"),
    "printable bytes": (np.random.default_rng(0).integers(32, 256, 500).astype(np.uint8).tobytes(), "known", "magick"),
    "any bytes": (np.random.default_rng(0).integers(0, 256, 500).astype(np.uint8).tobytes(), "known", "magick"),
    "pam": (b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 1\nMAXVAL 255\nENDHDR\nabcd", "PAM", "pamtopng"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS", "git lfs pull"),
    "gguf": (b"GGUF\3\0\0\0", "model", "picture"),
    "tiff of other samples": (tiff(np.zeros((9, 9, 2), np.uint16)), "TIFF", "magick"),
    "empty": (b"", "empty", "copy"),
    "zeros": (bytes(5000), "zeros", "copy"),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("name", ["image.png", "photo.jpg"])
def test_what_is_no_image_is_known_by_its_content(kind: str, name: str, tmp_path: Path) -> None:
    content, what, how = OTHERS[kind]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"not an image.*{what}") as caught:
        read(path)
    assert how in str(caught.value.remedy)
    assert str(caught.value.allowed).startswith("PNG, JPEG")


@pytest.mark.parametrize("name", ["scan.dcm", "vol.nii.gz", "photo.heic", "report.pdf", "noname"])
def test_a_name_alone_says_nothing(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(png(GREY))
    assert read(path).image.size == (90, 70)


def test_a_tiff_file_that_is_a_dicom_file_too() -> None:
    """Slide scanners write such files: a TIFF header in DICOM's preamble."""
    data = bytearray(tiff(np.zeros((64, 64), np.uint8)))
    directory = data[8:]
    both = b"II*\0" + struct.pack("<I", 160) + bytes(120) + b"DICM" + bytes(28) + bytes(directory)
    strip = struct.unpack_from("<I", data, 8 + 2 + 12 * 5 + 8)[0]
    at = 160 + 2 + 12 * 5 + 8
    both = both[:at] + struct.pack("<I", strip + 152) + both[at + 4 :]
    assert read(both).image.size == (64, 64)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX's kinds of files")
def test_what_is_no_file_at_all(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "missing.png")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket.png"))
    cases = {
        "pipe.png": "a pipe",
        "folder.png": "a directory",
        "loop.png": "",
        "nowhere.png": "",
        "socket.png": "a socket",
    }
    for name, what in cases.items():
        with pytest.raises(InputError, match=f"{name}: no such image file: .*{what}"):
            read(tmp_path / name)
    listening.close()
    for device in ("/dev/zero", "/dev/null", "/dev/stdin"):
        if Path(device).is_char_device():
            with pytest.raises(InputError, match="it is a device"):
                read(device)
    for name in ("a" * 300, "x\ud800y", "", "image.png/under.png"):
        with pytest.raises(InputError, match="no such image file"):
            read(tmp_path / name)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="the administrator may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(png(GREY))
    path.chmod(0)
    with pytest.raises(InputError, match="it cannot be read: Permission denied"):
        read(path)


@pytest.mark.parametrize("wrong", [None, 5, object(), [1, 2], {"a": 1}])
def test_what_is_nothing_like_an_image(wrong: Any) -> None:
    with pytest.raises(InputError, match="it is a "):
        read(wrong)


def test_a_lazy_pillow_image_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(saved(Image.fromarray(photo(200, 150)), "PNG")[:3000])
    with pytest.raises(InputError, match="damaged or truncated"):
        read(Image.open(path))


# ---------------------------------------------------------------- what is said


def frames(kind: str) -> bytes:
    others = [Image.fromarray(photo(90, 70, seed)) for seed in (1, 2)]
    return saved(Image.fromarray(photo(90, 70)), kind, save_all=True, append_images=others)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_of_several_is_used_and_said(kind: str) -> None:
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    data = frames(kind)
    picture = read(data)
    assert np.array_equal(np.asarray(picture.image), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    what = "pages" if kind == "TIFF" else "frames"
    assert picture.warnings == (f"the image: the first of its 3 {what} is used",)


@pytest.mark.parametrize("between", [b"", b"\n"])
@pytest.mark.parametrize("header", [b"P4 90 70\n", b"P5 90 70 255\n", b"P5 90 70 999\n", b"P6\n#x\n90 70\n255\n"])
def test_portable_maps_behind_one_another_are_several(header: bytes, between: bytes) -> None:
    size = {b"4": 70 * 12, b"5": 6300 * (2 if b"999" in header else 1), b"6": 3 * 6300}[header[1:2]]
    body = (bytes(range(1, 4)) * size)[:size]
    one = header + body
    said = "the first of its {} pictures is used"
    assert "is used" not in str(read(one + between).warnings)
    assert said.format(2) in str(read(one + between + one).warnings)
    assert said.format(3) in str(read(one + between + one + between + b"P5 1 1 255\n\0").warnings)
    assert said.format("more than 1000") in str(read(one + b"P5 1 1 255\n\0" * 2000).warnings)
    assert said.format(2) in str(read(one + b"P5 9999999999 9999999999 255\n").warnings)
    assert np.array_equal(np.asarray(read(one + one).image), np.asarray(read(one).image))


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    ("loss", "options", "said"),
    [
        ("cut", {}, "of its rows are one colour"),
        ("cut", {"subsampling": 0}, "of its rows are one colour"),
        ("cut", {"optimize": True}, "of its rows are one colour"),
        ("cut", {"progressive": True}, "its finer details are missing"),
        ("zeros", {}, "of its rows are one block repeated"),
        ("zeros", {"subsampling": 0}, "of its rows are one block repeated"),
        ("zeros", {"progressive": True}, "its finer details are missing"),
    ],
)
def test_a_jpeg_whose_data_end_early(loss: str, mode: str, options: dict[str, Any], said: str) -> None:
    whole = saved(Image.fromarray(photo(320, 240)).convert(mode), "JPEG", quality=85, **options)
    assert read(whole).warnings == ()
    # A file's last scan may hold half of it, which are the least bits of details.
    kept = len(whole) // 3 if "progressive" in options else len(whole) // 2 + 150
    lost = b"" if loss == "cut" else bytes(len(whole) - kept - 2)
    (text,) = read(whole[:kept] + lost + b"\xff\xd9").warnings
    assert said in text
    assert "may be damaged" in text


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_margins_alarm_nobody(level: int) -> None:
    array = photo(320, 240)
    array[160:] = level
    assert read(saved(Image.fromarray(array), "JPEG")).warnings == ()


def test_grey_rows_of_a_file_without_loss_alarm_nobody() -> None:
    array = photo(320, 240)
    array[160:] = 128
    assert read(png(array)).warnings == ()
    assert "the last 33 % of its rows are one colour" in str(read(saved(Image.fromarray(array), "JPEG")).warnings)


def test_pages_are_counted_up_to_a_thousand() -> None:
    page = tiff(GREY, next_page=0)
    last = 8 + 2 + 12 * 11  # where the next directory's place stands
    chain = bytearray()
    for i in range(3000):
        directory = bytearray(page[8 : last + 4])
        directory[-4:] = struct.pack("<I", len(page) + (i + 1) * len(directory) if i < 2999 else 0)
        chain += directory
    first = page[:last] + struct.pack("<I", len(page)) + page[last + 4 :]
    assert "the first of its more than 1000 pages" in str(read(first + bytes(chain)).warnings)
    assert read(tiff(GREY, next_page=8)).warnings == ()  # a directory that follows itself is one


def test_a_cameras_preview_alarms_nobody() -> None:
    data = frames("MPO")
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert read(data).warnings == ()


@pytest.mark.parametrize("level", [0, 100, 255])
@pytest.mark.parametrize("spread", [0, 2])
def test_a_nearly_constant_picture(level: int, spread: int) -> None:
    noise = np.random.default_rng(0).integers(-spread, spread + 1, (70, 90, 3))
    array = np.clip(level + noise, 0, 255).astype(np.uint8)
    array[0, :5] = 128  # a mark
    assert "nearly constant" in str(read(array).warnings)
    assert "nearly constant" in str(read(png(array)).warnings)


RAMP, LINE = np.tile(np.arange(90, dtype=np.uint8), (70, 1)), np.eye(70, 90, dtype=np.uint8) * 255


@pytest.mark.parametrize("array", [GREY, RAMP, LINE])
def test_a_picture_of_some_contrast_is_none(array: Any) -> None:
    assert read(array).warnings == ()


@pytest.mark.parametrize(
    ("opacity", "said"), [(255, ""), (254, "100.0 % of it"), (128, "100.0 % of it"), (0, "ALL of it")]
)
def test_transparency_is_said(opacity: int, said: str) -> None:
    picture = read(png(np.dstack([photo(90, 70), np.full((70, 90), opacity, np.uint8)])))
    assert (said in str(picture.warnings)) if said else picture.warnings == ()


def test_a_transparent_background_is_said_with_its_share() -> None:
    array = np.dstack([GREY, np.full((70, 90), 255, np.uint8)])
    array[:7, :, 1] = 0
    assert read(png(array)).warnings == ("the image: 10.0 % of it is transparent, and becomes white",)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((256, 64), []),
        ((257, 64), ["squeezed"]),
        ((64, 300), ["squeezed"]),
        ((64, 64), []),
        ((63, 80), ["are few"]),
        ((2, 2), ["are few"]),
        ((300, 20), ["squeezed", "are few"]),
    ],
)
def test_extreme_forms_and_sizes_are_said(size: tuple[int, int], said: list[str]) -> None:
    notes = [note for note in read(photo(*size)).warnings if "constant" not in note]
    assert len(notes) == len(said)
    assert all(word in note for word, note in zip(said, notes, strict=True))


def test_profiles_but_srgb_are_said() -> None:
    from PIL import ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert read(saved(Image.fromarray(photo(90, 70)), "JPEG", icc_profile=srgb)).warnings == ()
    other = bytes(128) + b"Display P3" + bytes(400)
    assert "profile is not sRGB" in str(read(saved(Image.fromarray(photo(90, 70)), "JPEG", icc_profile=other)).warnings)


def test_warnings_begin_with_the_name(tmp_path: Path) -> None:
    path = tmp_path / "blank.png"
    Image.new("L", (90, 70)).save(path)
    assert all(text.startswith(f"{path}: ") for text in read(path).warnings)


# ---------------------------------------------------------------- who is told


def test_who_gets_no_picture_gets_python_warnings() -> None:
    preprocessing = Preprocessing(size=28, resample="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.warns(PictureWarning, match="nearly constant"):
        load(np.zeros((70, 90), np.uint8))
    with pytest.warns(PictureWarning, match="nearly constant"):
        to_pixels([np.zeros((70, 90), np.uint8)], preprocessing)


@pytest.mark.filterwarnings("error")
def test_what_was_said_is_not_said_again() -> None:
    picture = read(np.zeros((70, 90), np.uint8))
    assert picture.warnings
    load(Picture(picture.image))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_picture_is_never_the_callers_own_image(mode: str) -> None:
    image = Image.fromarray(photo(90, 70)).convert(mode)
    picture = read(image)
    before = np.asarray(picture.image)
    image.paste(0, (0, 0, 90, 70))
    assert picture.image.mode == "RGB"
    assert np.array_equal(np.asarray(picture.image), before)


def test_a_message_says_how_its_images_are_read(tmp_path: Path) -> None:
    path = tmp_path / "ct.png"
    path.write_bytes(png(GREY.astype(np.uint16) * 16))
    turn = Message("user", "before", Shown(path, range="auto"), "after", Shown(GREY))
    (made,), known = with_pictures([turn])
    assert (made.role, made.parts[0], made.parts[2]) == ("user", "before", "after")
    first, second = (image.image for image in made.images if isinstance(image, Picture))
    expected = np.rint((GREY.astype(float) - GREY.min()) / (int(GREY.max()) - int(GREY.min())) * 255)
    assert np.array_equal(np.asarray(first)[..., 0], expected)
    assert np.array_equal(np.asarray(second)[..., 0], GREY)
    assert len(known) == 1
    assert "were stretched" in known[0]
    assert with_pictures([made])[1] == ()
    with pytest.raises(InputError, match="90 x 70 pixels"):
        with_pictures([Message("user", Shown(path, max_megapixels=0.001))])


def test_threads_read_side_by_side(tmp_path: Path) -> None:
    wrong: list[int] = []
    for seed in range(4):
        Image.fromarray(photo(90, 70, seed)).save(tmp_path / f"{seed}.png")

    def many(seed: int) -> None:
        for _ in range(10):
            if not np.array_equal(np.asarray(load(tmp_path / f"{seed}.png")), photo(90, 70, seed)):
                wrong.append(seed)

    threads = [threading.Thread(target=many, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert wrong == []
