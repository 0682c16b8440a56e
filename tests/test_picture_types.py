"""Pixel types: what the numbers of every kind of file become, against arithmetic on the array that was written."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from material import photo
from numpy.typing import NDArray
from pictures import chunk, png, saved, tiff
from PIL import Image

from edgekit.errors import InputError
from edgekit.inputs import phantoms
from edgekit.inputs.image import Range, read

RNG = np.random.default_rng(7)
DEEP = RNG.integers(0, 65536, (70, 90), np.uint16)
COLOURS = RNG.integers(0, 65536, (70, 90, 3), np.uint16)
OPACITY = RNG.integers(0, 65536, (70, 90), np.uint16)
NARROW = (RNG.integers(0, 4096, (70, 90))).astype(np.uint16)
HOUNSFIELD = RNG.integers(-1000, 1500, (70, 90)).astype(np.int16)


def rgb(array: NDArray[Any]) -> NDArray[np.uint8]:
    array = np.nan_to_num(array).astype(np.uint8)
    return np.repeat(array[..., None], 3, axis=2) if array.ndim == 2 else array


def by_257(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Integers alone: (x + 128) // 257 is round(x / 257)."""
    return rgb((array.astype(np.int64) + 128) // 257)


def stretched(array: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    return rgb(np.rint((array.astype(np.float64).clip(low, high) - low) / (high - low) * 255))


def pixels(source: Any, **options: Any) -> NDArray[np.uint8]:
    return np.asarray(read(source, **options).image)


def pnm(array: NDArray[Any], most: int, plain: bool = False) -> bytes:
    kind = {(2, False): 5, (3, False): 6, (2, True): 2, (3, True): 3}[array.ndim, plain]
    head = f"P{kind} # a comment\n{array.shape[1]} {array.shape[0]}\n#another\n{most}\n".encode()
    if plain:
        return head + b"# and one\n" + b" ".join(b"%d" % value for value in array.ravel())
    return head + array.astype(">u2" if most > 255 else "u1").tobytes()


# ---------------------------------------------------------------- unsigned 16 bits


SIXTEEN = {
    "png": png(DEEP),
    "png interlaced": png(DEEP, interlaced=True),
    "tiff": tiff(DEEP),
    "tiff, big-endian": tiff(DEEP, order=">"),
    "tiff, deflated": tiff(DEEP, deflated=True),
    "pgm": pnm(DEEP, 65535),
    "pgm, plain": pnm(DEEP, 65535, plain=True),
}
SIXTEEN_COLOURED = {
    "png": png(COLOURS),
    "png interlaced": png(COLOURS, interlaced=True),
    "tiff": tiff(COLOURS, 2),
    "tiff, big-endian": tiff(COLOURS, 2, order=">"),
    "tiff, deflated": tiff(COLOURS, 2, deflated=True),
    "tiff, deflated, big-endian": tiff(COLOURS, 2, deflated=True, order=">"),
    "ppm": pnm(COLOURS, 65535),
    "ppm, plain": pnm(COLOURS, 65535, plain=True),
}


@pytest.mark.parametrize("kind", SIXTEEN)
def test_sixteen_bits_of_grey_are_divided_by_257(kind: str) -> None:
    assert np.array_equal(pixels(SIXTEEN[kind]), by_257(DEEP))


@pytest.mark.parametrize("kind", SIXTEEN_COLOURED)
def test_sixteen_bits_of_colour_likewise(kind: str) -> None:
    """Pillow would keep the upper 8 of them, which differs in every other value."""
    picture = read(SIXTEEN_COLOURED[kind])
    assert np.array_equal(np.asarray(picture.image), by_257(COLOURS))
    assert picture.warnings == ()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflated", [False, True])
def test_planes_of_16_bits(order: Literal["<", ">"], deflated: bool) -> None:
    """Pillow unpacks those of an uncompressed file as bytes, and of a compressed one gives the upper half alone."""
    shown = pixels(tiff(COLOURS, 2, planes=True, order=order, deflated=deflated))
    assert np.abs(shown.astype(int) - by_257(COLOURS)).max() <= deflated


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("colours", [DEEP[..., None], COLOURS])
def test_opacity_of_16_bits(colours: NDArray[np.uint16], interlaced: bool) -> None:
    data = png(np.dstack([colours, OPACITY]), interlaced=interlaced)
    over_white = Image.new("RGBA", (90, 70), "white")
    grey_or_not = colours.squeeze(2) if colours.shape[2] == 1 else colours
    picture = Image.fromarray(np.dstack([by_257(grey_or_not), by_257(OPACITY)[..., 0]]), "RGBA")
    assert np.array_equal(pixels(data), np.asarray(Image.alpha_composite(over_white, picture).convert("RGB")))
    assert "% of it is transparent" in read(data).warnings[0]


def test_opaque_pictures_of_16_bits_say_nothing() -> None:
    full = np.full_like(OPACITY, 65535)
    for file in (png(np.dstack([DEEP, full])), png(np.dstack([COLOURS, full])), tiff(np.dstack([COLOURS, full]), 2)):
        assert read(file).warnings == ()


def test_a_value_that_means_transparent() -> None:
    grey = DEEP.copy()
    grey[:20] = 12345
    expected = by_257(grey)
    expected[grey == 12345] = 255
    assert np.array_equal(pixels(png(grey, chunk(b"tRNS", struct.pack(">H", 12345)))), expected)
    colours = COLOURS.copy()
    colours[:20] = (12345, 2, 65535)
    expected = by_257(colours)
    expected[:20] = 255
    assert np.array_equal(pixels(png(colours, chunk(b"tRNS", struct.pack(">HHH", 12345, 2, 65535)))), expected)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_white_is_zero(bits: int, deflated: bool, order: Literal["<", ">"]) -> None:
    grey = DEEP if bits == 16 else (DEEP >> 8).astype(np.uint8)
    written = tiff((2**bits - 1 - grey.astype(np.int64)).astype(grey.dtype), 0, deflated=deflated, order=order)
    assert np.array_equal(pixels(written), by_257(DEEP) if bits == 16 else rgb(grey))


def test_white_is_zero_with_a_range() -> None:
    assert np.array_equal(pixels(tiff(NARROW, 0), range=(100, 3000)), 255 - stretched(NARROW, 100, 3000))
    assert np.array_equal(pixels(tiff(HOUNSFIELD, 0), range=(-160, 240)), 255 - stretched(HOUNSFIELD, -160, 240))
    assert "below 100, shown white" in read(tiff(NARROW, 0), range=(100, 3000)).warnings[0]


def test_twelve_bits_are_a_type() -> None:
    """Three bytes hold two values."""
    even, odd = NARROW[:, 0::2].astype(int), NARROW[:, 1::2].astype(int)
    packed = np.stack([even >> 4, (even & 15) << 4 | odd >> 8, odd & 255], axis=-1).astype(np.uint8)
    written = tiff(packed.reshape(70, 135), bits=12).replace(
        struct.pack("<HHII", 256, 4, 1, 135), struct.pack("<HHII", 256, 4, 1, 90)
    )
    picture = read(written)
    assert np.array_equal(np.asarray(picture.image), stretched(NARROW, 0, 4095))
    assert picture.warnings == ()


@pytest.mark.parametrize("most", [1, 100, 254, 255, 256, 4095, 65534])
@pytest.mark.parametrize("plain", [False, True])
def test_a_portable_map_says_its_own_range(most: int, plain: bool) -> None:
    for array in (RNG.integers(0, most + 1, (70, 90)), RNG.integers(0, most + 1, (70, 90, 3))):
        picture = read(pnm(array, most, plain))
        assert np.array_equal(np.asarray(picture.image), rgb(np.rint(array / most * 255)))
        assert picture.warnings == ()


@pytest.mark.parametrize(
    "content", [b"P5 70 70 4095\n" + b"\xff" * 9800, b"P5 70 70 4095\n" + bytes(9799), b"P2 70 70 9\n1 x 3"]
)
def test_a_portable_map_that_contradicts_itself(content: bytes) -> None:
    with pytest.raises(InputError, match="damaged or truncated"):
        read(content)


# ---------------------------------------------------------------- a small part of the type


OFFSET = (HOUNSFIELD.astype(np.int32) + 32768).astype(np.uint16)
SMALL_PART: dict[str, tuple[Any, NDArray[np.uint16]]] = {
    "png": (png(NARROW), NARROW),
    "png, coloured": (png(np.repeat(NARROW[..., None], 3, 2)), NARROW),
    "tiff": (tiff(NARROW), NARROW),
    "tiff, coloured": (tiff(np.repeat(NARROW[..., None], 3, 2), 2), NARROW),
    "tiff, white is zero": (tiff(65535 - NARROW, 0), 65535 - NARROW),
    "pgm": (pnm(NARROW, 65535), NARROW),
    "14 bits": (png(NARROW * 4), NARROW * 4),
    "Hounsfield with an offset": (png(OFFSET), OFFSET),
    "array": (NARROW, NARROW),
    "Pillow's": (Image.fromarray(NARROW), NARROW),
}


@pytest.mark.parametrize("kind", SMALL_PART)
def test_a_small_part_of_the_type_is_said_and_left_as_it_is(kind: str) -> None:
    source, array = SMALL_PART[kind]
    picture = read(source)
    shown = by_257(array)
    assert np.array_equal(np.asarray(picture.image), 255 - shown if "white" in kind else shown)
    text = picture.warnings[0]
    assert "WRONG CONTRAST" in text
    assert f"--range={array.min()}:{array.max()}" in text
    assert "--range=auto" in text


@pytest.mark.parametrize("kind", [kind for kind in SMALL_PART if "white" not in kind])
def test_it_is_stretched_when_asked(kind: str) -> None:
    source, array = SMALL_PART[kind]
    low, high = int(array.min()), int(array.max())
    ranges: list[Range] = ["auto", (low, high)]
    for asked in ranges:
        picture = read(source, range=asked)
        assert np.array_equal(np.asarray(picture.image), stretched(array, low, high))
        assert ("WRONG" in str(picture.warnings)) is False
    assert f"its values {low} to {high}" in str(read(source, range="auto").warnings)


def test_marks_burnt_in_do_not_hide_it() -> None:
    marked = NARROW.copy()
    marked[:5, :10] = 65535  # 0.8 % of it
    assert "WRONG CONTRAST" in str(read(marked).warnings)


@pytest.mark.parametrize("array", [DEEP, DEEP // 5 * 3, np.arange(6300, dtype=np.uint16).reshape(70, 90) * 10])
def test_pictures_that_use_their_type_say_nothing(array: NDArray[np.uint16]) -> None:
    assert read(png(array)).warnings == ()


FIELD = np.hypot(*np.mgrid[-1:1:70j, -1:1:90j]) <= 1  # round: 21 % lie in the corners
BAR = np.zeros((70, 90), bool)
BAR[:2] = True  # 2.9 %
WORDS = np.zeros((70, 90), bool)
WORDS[-3:, :40] = True  # 1.9 %


@pytest.mark.parametrize("factor", [1, 4])
@pytest.mark.parametrize(
    "marks",
    [
        {63536: ~FIELD},
        {65535: BAR},
        {63536: ~FIELD, 65535: WORDS},
        {65535: BAR, 30000: WORDS & (DEEP % 8 == 0)},  # an edge of the letters
    ],
)
def test_marks_and_fillings_of_many_pixels_do_not_hide_it_either(
    marks: dict[int, NDArray[np.bool_]], factor: int
) -> None:
    marked = NARROW * np.uint16(factor)
    for value, where in marks.items():
        marked[where] = value
    (text,) = read(png(marked)).warnings
    assert "WRONG CONTRAST" in text
    unmarked = marked[~np.any(list(marks.values()), axis=0)]
    found = text.partition("--range=")[2].partition(" ")[0]
    assert found.split(":")[0] == str(unmarked.min())
    if 30000 not in marks:
        assert found == f"{unmarked.min()}:{unmarked.max()}"
        assert "--range=auto" not in text, "which would reach to the marks"


def test_a_black_filling_of_values_with_an_offset() -> None:
    marked = OFFSET.copy()
    marked[~FIELD] = 0
    inside = marked[FIELD]
    assert f"--range={inside.min()}:{inside.max()} " in str(read(png(marked)).warnings)


@pytest.mark.parametrize("marked", [False, True])
def test_half_of_the_type_is_said_more_softly(marked: bool) -> None:
    array = DEEP // 2
    array[BAR & marked] = 65535
    (text,) = read(png(array)).warnings
    assert "WRONG" not in text
    assert f"--range={array.min()}:{array[~BAR].max() if marked else array.max()}" in text


def test_radiographs_of_their_whole_type_say_nothing() -> None:
    for picture in phantoms.generate(3, 12):
        array = picture.image.astype(np.uint16)
        assert read(png(array * np.uint16(257))).warnings == ()
        marked = array * np.uint16(257)
        marked[:6] = 65535
        assert read(png(marked)).warnings == ()


def test_bright_structures_on_a_dark_ground_are_no_marks() -> None:
    array = RNG.integers(0, 2000, (70, 90)).astype(np.uint16)
    array[20:30, 20:60] = RNG.integers(20000, 65536, (10, 40))
    assert read(png(array)).warnings == ()


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "array"])
def test_a_small_part_of_8_bits_is_said_too(mode: str) -> None:
    dark = RNG.integers(0, 15, (70, 90)).astype(np.uint8)
    picture = read(dark if mode == "array" else saved(Image.fromarray(dark).convert(mode), "PNG"))
    assert np.array_equal(np.asarray(picture.image), rgb(dark))
    (text,) = picture.warnings
    assert "WRONG CONTRAST" in text
    assert "--range=0:14 or --range=auto" in text
    shown = read(dark, range="auto")
    assert np.array_equal(np.asarray(shown.image), stretched(dark, 0, 14))
    assert "WRONG" not in str(shown.warnings)


def test_ordinary_dark_pictures_of_8_bits_say_nothing() -> None:
    dark = RNG.integers(0, 50, (70, 90)).astype(np.uint8)
    dark[30, 30:50] = np.arange(60, 260, 10)  # 0.3 %, and no gap
    assert read(dark).warnings == ()
    assert read(RNG.integers(0, 128, (70, 90)).astype(np.uint8)).warnings == ()


# ---------------------------------------------------------------- ranges


def test_what_lies_outside_is_cut_and_said() -> None:
    picture = read(tiff(NARROW), range=(500.5, 3000))
    assert np.array_equal(np.asarray(picture.image), stretched(NARROW, 500.5, 3000))
    below, above = (NARROW < 500.5).mean(), (NARROW > 3000).mean()
    assert f"{below:.0%} of its values are below 500.5, shown black" in picture.warnings[0]
    assert f"{above:.0%} of its values are above 3000, shown white" in picture.warnings[1]


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "LA", "RGBA", "1", "CMYK"])
def test_a_range_holds_for_8_bits_too(mode: str) -> None:
    image = Image.fromarray(photo(90, 70)).convert(mode)
    plain = np.asarray(image.convert("RGB"))
    shown = pixels(image, range=(40, 200)) if mode == "CMYK" else pixels(saved(image, "PNG"), range=(40, 200))
    assert np.array_equal(shown, stretched(plain, 40, 200))


def test_the_own_range_is_that_of_what_is_seen() -> None:
    grey = np.full((70, 90), 100, np.uint8)
    grey[:, 45:] = 150
    grey[0] = 255
    opacity = np.full((70, 90), 255, np.uint8)
    opacity[0] = 0
    shown = pixels(png(np.dstack([grey, opacity])), range="auto")
    assert set(np.unique(shown[1:])) == {0, 255}


AMBIGUOUS: dict[str, NDArray[Any]] = {
    "int8": (HOUNSFIELD // 16).astype(np.int8),
    "int16": HOUNSFIELD,
    "int32": HOUNSFIELD.astype(np.int32) * 1000,
    "uint32": NARROW.astype(np.uint32) * 1_000_000,
    "float32": (HOUNSFIELD / 1500).astype(np.float32),
    "float64": HOUNSFIELD / 1500,
}


@pytest.mark.parametrize("kind", AMBIGUOUS)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflated", [False, True])
def test_nobody_knows_what_is_black_in_them(kind: str, order: Literal["<", ">"], deflated: bool) -> None:
    array = AMBIGUOUS[kind]
    written = tiff(array, order=order, deflated=deflated)
    low, high = (float(np.float32(end) if array.dtype.kind == "f" else end) for end in (array.min(), array.max()))
    with pytest.raises(InputError, match="bits a pixel") as caught:
        read(written)
    found = str(caught.value.remedy).partition("--range=")[2].partition(",")[0].split(":")
    assert [float(found[0]), float(found[1])] == pytest.approx([low, high], rel=1e-6)
    shown = pixels(written, range=(low, high))
    assert np.abs(shown.astype(int) - stretched(array, low, high)).max() <= (kind == "float64")  # Pillow's are float32
    assert np.array_equal(pixels(written, range="auto"), shown)


def test_signed_bytes_whose_white_is_the_least() -> None:
    array = AMBIGUOUS["int8"]
    with pytest.raises(InputError, match="signed 8 bits a pixel, from -63 to 93"):
        read(tiff(array, 0))
    assert np.array_equal(pixels(tiff(array, 0), range=(-20, 40)), 255 - stretched(array, -20, 40))


@pytest.mark.parametrize("array", [HOUNSFIELD, HOUNSFIELD / 1500, NARROW.astype(np.int64), NARROW.astype(np.uint32)])
def test_arrays_of_them(array: NDArray[Any]) -> None:
    with pytest.raises(InputError, match="other numbers with a range"):
        read(array)
    assert np.array_equal(pixels(array, range=(0, 1)), stretched(array, 0, 1))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pillow_images_of_them(dtype: Any) -> None:
    array = HOUNSFIELD.astype(dtype)
    with pytest.raises(InputError, match="from -1000 to 1499"):
        read(Image.fromarray(array))
    assert np.array_equal(pixels(Image.fromarray(array), range=(-160, 240)), stretched(array, -160, 240))


def test_what_is_no_number_is_black_and_said() -> None:
    array = (HOUNSFIELD / 1500).astype(np.float32)
    array[0, :3] = np.nan, np.inf, -np.inf
    picture = read(tiff(array), range="auto")
    finite = array[np.isfinite(array)]
    expected = stretched(array, finite.min(), finite.max())
    expected[0, 0] = 0
    assert np.array_equal(np.asarray(picture.image), expected)
    assert "3 values are no numbers" in picture.warnings[0]
    with pytest.raises(InputError, match="no number among them"):
        read(np.full((70, 90), math.nan), range="auto")


def test_a_constant_has_no_range_of_its_own() -> None:
    with pytest.raises(InputError, match="every value is 7: there is nothing to stretch"):
        read(np.full((70, 90), 7, np.uint16), range="auto")


@pytest.mark.parametrize(
    "wrong", [(1, 0), (1, 1), (0, math.nan), (-math.inf, 0), (0,), (0, 1, 2), "12", "auto ", 5, ("a", 1), {}]
)
def test_what_is_no_range(wrong: Any) -> None:
    with pytest.raises(InputError, match="a range of"):
        read(NARROW, range=wrong)


# ---------------------------------------------------------------- 8 bits


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
def test_ordinary_files_are_what_hugging_face_makes_of_them(mode: str, tmp_path: Path) -> None:
    convert_to_rgb = pytest.importorskip("transformers.image_transforms").convert_to_rgb
    image = Image.fromarray(photo(90, 70)).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(photo(90, 70, 1)[..., 0]))
    path = tmp_path / "image.png"
    image.save(path)
    assert np.array_equal(pixels(path), np.asarray(convert_to_rgb(Image.open(path))))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB"])
def test_other_colours_are_converted_by_pillow(mode: str) -> None:
    image = Image.fromarray(photo(90, 70))
    data = saved(image.convert("CMYK"), "JPEG") if mode == "CMYK" else saved(image.convert("RGB").convert(mode), "TIFF")
    import io

    picture = read(data)
    assert np.array_equal(np.asarray(picture.image), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert ("CMYK" in str(picture.warnings)) == (mode == "CMYK")
