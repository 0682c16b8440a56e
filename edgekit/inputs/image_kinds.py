"""What a file is that no decoder of ours reads, by its content, and what makes a picture of it."""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from edgekit.errors import InputError

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
_HEAD = 4096  # bytes that are looked at
_TEXT = frozenset(range(32, 256)) | frozenset(b"\t\n\r\f\x1b")
_MANY_ACCENTS = 0.3  # of a text's bytes, in an encoding that has one for each character
_ONE_SLICE = "save one slice as PNG in a viewer (3D Slicer, ITK-SNAP), with the window that a radiologist would use"
_SAVE_AS = "save it as PNG or JPEG where it comes from, or convert it: magick FILE image.png (ImageMagick)"
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")
_ARCHIVES = (b"\x1f\x8b", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\7", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
_VR = (b"AE", b"AS", b"CS", b"DA", b"DS", b"DT", b"IS", b"LO", b"OB", b"PN", b"SH", b"TM", b"UI", b"UL", b"UN", b"US")


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: with its article.
        found: whether a file's first bytes are of it.
        remedy: what makes a picture of it today.
    """

    name: str
    found: Callable[[bytes], bool]
    remedy: str


def begins(*magic: bytes, at: int = 0) -> Callable[[bytes], bool]:
    """Whether one of these stands at an offset."""
    return lambda head: head[at:].startswith(magic)


def _dicom(head: bytes) -> bool:
    """With its preamble, or a bare data set whose first element is of the groups 2 or 8."""
    return head[128:132] == b"DICM" or (head[:2] in (b"\2\0", b"\10\0") and head[3:4] == b"\0" and head[4:6] in _VR)


def _nifti(head: bytes) -> bool:
    first = head[344:348] in (b"n+1\0", b"ni1\0") or head[:4] in (b"\x5c\1\0\0", b"\0\0\1\x5c")
    return first or head[4:8] in (b"n+2\0", b"ni2\0")


def _unpacked(head: bytes) -> bytes:
    """The beginning of what a gzip file holds; empty where it is damaged."""
    try:
        return zlib.decompressobj(wbits=31).decompress(head, 512)
    except zlib.error:
        return b""


def _markup(*names: bytes) -> Callable[[bytes], bool]:
    def found(head: bytes) -> bool:
        text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
        return text.startswith(b"<") and any(name in text for name in names)

    return found


def _text(head: bytes) -> bool:
    if not head or not _TEXT.issuperset(head):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # whose last character may be cut
    except UnicodeDecodeError:
        return sum(byte > 127 for byte in head) < _MANY_ACCENTS * len(head)
    return True


KINDS = (
    Kind(
        "a DICOM file",
        _dicom,
        "convert it with the window stored in it: dcm2img --write-png --use-window 1 FILE image.png (DCMTK; dcmj2pnm "
        "before 3.6.9), or for CT with one that you name: --set-window CENTER WIDTH",
    ),
    Kind(
        "a PDF document",
        lambda head: b"%PDF-" in head[:1024],
        "take the pictures out: pdfimages -png FILE image, or draw a page: pdftoppm -r 150 -png FILE page (poppler)",
    ),
    Kind(
        "a picture in HEIF (HEIC or AVIF)",
        lambda head: head[4:8] == b"ftyp" and any(brand in head[8:64] for brand in _HEIF_BRANDS),
        "heif-convert FILE image.png (libheif), or let the phone take JPEG: Settings, Camera, Formats, Most Compatible",
    ),
    Kind("a picture in JPEG XL", begins(b"\xff\x0a", b"\0\0\0\x0cJXL "), "djxl FILE image.png (libjxl)"),
    Kind(
        "a picture in JPEG 2000",
        begins(b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
        "opj_decompress -i FILE -o image.png (OpenJPEG)",
    ),
    Kind("a NIfTI volume", _nifti, _ONE_SLICE),
    Kind("a NIfTI volume, compressed", lambda head: head[:2] == b"\x1f\x8b" and _nifti(_unpacked(head)), _ONE_SLICE),
    Kind("a volume in NRRD", begins(b"NRRD0"), _ONE_SLICE),
    Kind("a volume in MetaImage (MHA, MHD)", begins(b"ObjectType", b"NDims", b"Comment = "), _ONE_SLICE),
    Kind("an HDF5 file", begins(b"\x89HDF\r\n"), "read it with h5py and give edgekit one slice as an array"),
    Kind("a NumPy array", begins(b"\x93NUMPY"), "in Python: edgekit.Image(numpy.load(FILE), range=(LOW, HIGH))"),
    Kind("a FITS file", begins(b"SIMPLE  ="), _SAVE_AS),
    Kind("a drawing in SVG", _markup(b"<svg"), "draw it: rsvg-convert -w 1024 FILE -o image.png (librsvg)"),
    Kind("a page of HTML", _markup(b"<html", b"<!doctype html", b"<head", b"<body"), "download the picture itself"),
    Kind("a drawing in PostScript", begins(b"%!PS", b"\xc5\xd0\xd3\xc6"), "gs -sDEVICE=png16m -r150 -o image.png FILE"),
    Kind("a picture in PAM", begins(b"P7\n", b"P7\r", b"P7 "), "pamtopng FILE > image.png (Netpbm)"),
    Kind("a Photoshop document", begins(b"8BPS"), _SAVE_AS),
    Kind("a picture in OpenEXR or Radiance HDR", begins(b"v/1\1", b"#?RADIANCE", b"#?RGBE"), _SAVE_AS),
    Kind("an icon", begins(b"\0\0\1\0", b"\0\0\2\0", b"icns"), _SAVE_AS),
    Kind(
        "a video",
        lambda head: (
            head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free")
            or head.startswith((b"\x1a\x45\xdf\xa3", b"\0\0\1\xba", b"\0\0\1\xb3", b"FLV\1", b"\x30\x26\xb2\x75"))
            or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")
        ),
        "take one frame out of it: ffmpeg -ss SECONDS -i FILE -frames:v 1 image.png",
    ),
    Kind(
        "a ZIP archive", begins(b"PK\3\4", b"PK\5\6"), "unpack it (unzip FILE); of an office document, save the picture"
    ),
    Kind(
        "an archive",
        lambda head: head.startswith(_ARCHIVES) or head[257:262] == b"ustar",
        "unpack it, and give the picture that it holds",
    ),
    Kind(
        "a TIFF file in a layout that is not read",
        begins(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        "convert it: magick FILE image.png (ImageMagick); or give an array, with a range unless it is of 8 or 16 bits",
    ),
    Kind("a model, no picture", begins(b"GGUF"), "give the picture that the model shall look at"),
    Kind("a pointer of Git LFS", begins(b"version https://git-lfs"), "fetch the file itself: git lfs pull"),
    Kind("a text", _text, "give the picture itself; a path in a file is not followed"),
)


def unreadable(data: bytes) -> InputError:
    """What to say of a file that no decoder of ours takes for its own."""
    head, allowed = data[:_HEAD], ", ".join(FORMATS)
    if not data:
        return InputError("not an image: the file is empty", allowed=allowed, remedy="copy the file again")
    if not any(head):
        return InputError("not an image: it begins with zeros", allowed=allowed, remedy="copy the file again")
    kind = next((kind for kind in KINDS if kind.found(head)), None)
    if kind is None:
        return InputError("not an image, nor any other kind of file that is known", allowed=allowed, remedy=_SAVE_AS)
    return InputError(f"not an image but {kind.name}", allowed=allowed, remedy=kind.remedy)
