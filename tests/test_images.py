"""Images: Hugging Face's processors and Pillow's own conversions as references, and hostile files."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from material import photo
from PIL import Image, features

from edgekit.artifacts.manifest import Preprocessing
from edgekit.errors import InputError
from edgekit.inputs.image import MAX_PIXELS, MAX_SIDE, content_hash, load, normalize, to_pixels

pytestmark = pytest.mark.filterwarnings("ignore::edgekit.inputs.image.PictureWarning")  # of tiny and flat pictures

SIZES = [(64, 48), (97, 251), (300, 200), (224, 224), (37, 512), (2, 2), (640, 3)]


def preprocessing(size: int = 56, resample: Any = "bilinear") -> Preprocessing:
    return Preprocessing(size=size, resample=resample, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


# ---------------------------------------------------------------- equal to the originals


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["gemma3", "siglip"])
def test_pixels_equal_hugging_faces_processors(kind: str, size: tuple[int, int]) -> None:
    pytest.importorskip("transformers")
    if kind == "gemma3":
        from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil as Processor
    else:
        from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil as Processor
    ours = preprocessing(56, "bilinear" if kind == "gemma3" else "bicubic")
    theirs = Processor(size={"height": 56, "width": 56}, image_mean=list(ours.mean), image_std=list(ours.std))
    image = Image.fromarray(photo(*size))
    expected = theirs(images=[[image]] if kind == "gemma3" else [image], return_tensors="np")["pixel_values"]
    actual = normalize(to_pixels([image], ours), ours)
    assert actual.shape == expected.shape == (1, 3, 56, 56)
    assert actual.dtype == np.float32
    # Their order of operations rounds once more or less often; one grey level would be 1 / 255 / 0.2 = 0.02.
    assert np.abs(actual - expected).max() < 1e-6


@pytest.mark.parametrize(("resample", "size"), [(r, s) for r in ("bilinear", "bicubic") for s in SIZES])
def test_pixels_are_within_two_grey_levels_of_torchs_antialiased_resize(resample: str, size: tuple[int, int]) -> None:
    """The torchvision path: it accumulates in float and rounds once, Pillow in fixed point after each of two passes.

    Measured on this noisy image: one grey level apart in 5 to 26 % of the values, two in less than 0.1 %, never more,
    and 0.06 on average.
    """
    torch = pytest.importorskip("torch")
    image = photo(*size)
    ours = to_pixels([image], preprocessing(56, resample))[0].astype(int)
    batch = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    theirs = torch.nn.functional.interpolate(batch, (56, 56), mode=resample, antialias=True, align_corners=False)
    theirs = theirs.round().clamp(0, 255)[0].permute(1, 2, 0).numpy().astype(int)
    difference = ours - theirs
    assert np.abs(difference).max() <= 2
    assert (np.abs(difference) > 1).mean() < 0.001
    assert np.abs(difference.mean()) < 0.1


def test_filters_differ_on_the_test_image() -> None:
    """Or the comparisons above could not tell a wrong filter."""
    names = ("nearest", "bilinear", "bicubic", "lanczos")
    pixels = [to_pixels([photo(97, 251)], preprocessing(56, name))[0].astype(int) for name in names]
    for i, one in enumerate(pixels):
        for other in pixels[:i]:
            assert np.abs(one - other).max() > 3


@settings(max_examples=50)
@given(st.integers(2, 400), st.integers(2, 400), st.sampled_from(["bilinear", "bicubic"]), st.integers(0, 5))
def test_every_size_becomes_the_encoders_square(width: int, height: int, resample: str, seed: int) -> None:
    pixels = to_pixels([photo(width, height, seed)], preprocessing(28, resample))
    assert pixels.shape == (1, 28, 28, 3)
    assert pixels.dtype == np.uint8


def test_a_constant_image_stays_constant() -> None:
    flat = np.full((90, 31, 3), 77, np.uint8)
    for name in ("nearest", "bilinear", "bicubic", "lanczos"):
        assert (to_pixels([flat], preprocessing(28, name)) == 77).all()


def test_no_images_make_an_empty_batch() -> None:
    assert to_pixels([], preprocessing(28)).shape == (0, 28, 28, 3)


def test_content_hash_depends_on_every_pixel() -> None:
    pixels = to_pixels([photo(60, 60)], preprocessing(28))[0]
    changed = pixels.copy()
    changed[27, 27, 2] ^= 1
    assert content_hash(pixels) == content_hash(pixels.copy()) != content_hash(changed)


# ---------------------------------------------------------------- modes and formats


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff", "webp", "gif", "ppm"])
def test_every_format_reads_as_pillow_reads_it(tmp_path: Path, suffix: str) -> None:
    if suffix == "webp" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    path = saved(tmp_path / f"image.{suffix}", Image.fromarray(photo(50, 40)))
    expected = np.asarray(Image.open(path).convert("RGB"))
    assert np.array_equal(np.asarray(load(path)), expected)
    assert np.array_equal(np.asarray(load(str(path))), expected)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "YCbCr", "HSV"])
def test_modes_become_rgb_as_hugging_face_makes_them(mode: str) -> None:
    convert_to_rgb = pytest.importorskip("transformers.image_transforms").convert_to_rgb
    image = Image.fromarray(photo(50, 40)).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(photo(50, 40, 1)[..., 0]))
    assert np.array_equal(np.asarray(load(image)), np.asarray(convert_to_rgb(image)))


def test_a_transparent_colour_of_a_palette(tmp_path: Path) -> None:
    convert_to_rgb = pytest.importorskip("transformers.image_transforms").convert_to_rgb
    image = Image.fromarray(photo(50, 40)).convert("P")
    path = saved(tmp_path / "image.png", image, transparency=image.getpixel((0, 0)))
    assert load(path).getpixel((0, 0)) == (255, 255, 255)
    assert np.array_equal(np.asarray(load(path)), np.asarray(convert_to_rgb(Image.open(path))))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled_not_cut(tmp_path: Path, suffix: str) -> None:
    values = np.concatenate([np.arange(0, 65536, 13), [65535, 128, 129, 257, 32896]]).astype(np.uint16)
    values = np.resize(values, (71, 73))
    path = saved(tmp_path / f"deep.{suffix}", Image.fromarray(values))
    expected = np.array([[round(int(v) / 257) for v in row] for row in values])
    actual = np.asarray(load(path))
    assert all(np.array_equal(actual[..., channel], expected) for channel in range(3))


@pytest.mark.parametrize(
    "array", [np.full((9, 9), 70_000, np.int32), np.full((9, 9), -1, np.int32), np.ones((9, 9), np.float32)]
)
def test_depths_whose_range_nobody_knows_are_refused(tmp_path: Path, array: Any) -> None:
    with pytest.raises(InputError, match="bits a pixel"):
        load(saved(tmp_path / "deep.tiff", Image.fromarray(array)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_camera_says(tmp_path: Path, orientation: int) -> None:
    load_image = pytest.importorskip("transformers.image_utils").load_image
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "photo.jpg", Image.fromarray(photo(64, 40)), exif=exif)
    expected = load_image(str(path))
    assert np.array_equal(np.asarray(load(path)), np.asarray(expected))
    assert load(path).size == ((64, 40) if orientation < 5 else (40, 64))


def test_arrays(tmp_path: Path) -> None:
    image = photo(20, 30)
    assert np.array_equal(np.asarray(load(image)), image)
    assert np.array_equal(np.asarray(load(image[..., 0])), np.repeat(image[..., :1], 3, axis=2))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((9, 9), np.float32),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros(9, np.uint8),
        np.zeros((1, 9, 9, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_images(array: Any) -> None:
    with pytest.raises(InputError, match=r"allowed: uint8 \[h, w\]"):
        load(array)


# ---------------------------------------------------------------- what must be refused


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header claims any size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def refused(path: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "gif", "bmp"])
def test_truncated_files(tmp_path: Path, suffix: str, share: float) -> None:
    path = saved(tmp_path / f"image.{suffix}", Image.fromarray(photo(200, 150)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(path, "damaged or truncated|not an image")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"%PDF-1.7", b"<svg/>"])
def test_files_that_are_no_images(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(content)
    refused(path, "not an image(.|\n)*allowed: PNG, JPEG")


def test_formats_with_large_decoders_are_not_tried(tmp_path: Path) -> None:
    for suffix in ("pdf", "ico", "tga", "pcx"):
        image = Image.fromarray(photo(32, 32))
        refused(saved(tmp_path / f"image.{suffix}", image), "not an image")


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 500), (500, 1)])
def test_a_single_row_or_column_is_no_image(tmp_path: Path, width: int, height: int) -> None:
    refused(
        saved(tmp_path / "image.png", Image.new("L", (width, height))), f"{width} x {height} pixels(.|\n)*allowed: 2 to"
    )


def test_thirty_thousand_pixels_wide(tmp_path: Path) -> None:
    refused(
        saved(tmp_path / "image.png", Image.new("L", (30_000, 8))), f"30000 x 8 pixels(.|\n)*{MAX_SIDE} pixels a side"
    )


@pytest.mark.parametrize(("width", "height"), [(16_000, 16_000), (12_000, 6_000), (10**6, 10**6), (2**31 - 1, 2)])
def test_a_bomb_is_refused_by_its_header(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(width, height))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # and nothing is printed about it
        refused(path, "pixels|not an image")


def test_a_header_that_claims_more_than_its_data(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(png(2000, 2000, bytes(100)))
    refused(path, "damaged or truncated")


def test_the_pixel_limit_is_what_it_says(tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5)
    assert load(Image.new("L", (side, side))).size == (side, side)
    with pytest.raises(InputError, match="megapixels"):
        load(Image.new("1", (side + 1, side + 1)))


@pytest.mark.parametrize(
    "address",
    ["https://example.com/a.png", "http://127.0.0.1:9/a.png", "file:///etc/passwd", "ftp://x/a.png", "s3://a/b.png"],
)
def test_addresses_are_never_fetched(address: str) -> None:
    for source in (address, Path(address)):  # a path has lost one of the slashes
        with pytest.raises(InputError, match="never fetched"):
            load(source)


@pytest.mark.parametrize("name", ["missing.png", ".", "a\0b.png"])
def test_no_such_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no such image file"):
        load(tmp_path / name)


def encoded(suffix: str) -> bytes:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if suffix in ("JPEG", "PNG", "TIFF", "WEBP") else {}
    Image.fromarray(photo(24, 16)).save(stream, suffix, **options)
    return stream.getvalue()


ENCODED = {name: encoded(name) for name in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WEBP")}


@settings(max_examples=600)
@given(
    kind=st.sampled_from(sorted(ENCODED)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.floats(0.2, 1) | st.just(1.0),
    early=st.booleans(),
)
def test_a_damaged_image_is_read_or_refused(
    tmp_path: Path, kind: str, changes: list[tuple[float, int]], cut: float, early: bool
) -> None:
    """Whatever Pillow's decoders make of it, only InputError may come out."""
    damaged = bytearray(ENCODED[kind])
    reach = min(len(damaged), 120) if early else len(damaged)  # headers are where the decoders' branches are
    for place, value in changes:
        damaged[int(place * reach)] = value
    path = tmp_path / "image"
    path.write_bytes(damaged[: int(len(damaged) * cut)])
    try:
        image = load(path)
    except InputError:
        return
    assert image.mode == "RGB"
    assert min(image.size) >= 2


def test_a_pillow_image_is_turned_as_its_file_is(tmp_path: Path) -> None:
    """Both as transformers' `load_image` turns them."""
    from transformers.image_utils import load_image

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(64, 40)).save(tmp_path / "a.png", exif=exif)
    of_file, of_image = (np.asarray(load(source)) for source in (tmp_path / "a.png", Image.open(tmp_path / "a.png")))
    assert of_file.shape == (64, 40, 3)
    assert np.array_equal(of_file, of_image)
    assert np.array_equal(of_image, np.asarray(load_image(Image.open(tmp_path / "a.png")).convert("RGB")))
