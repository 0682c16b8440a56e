"""Palettes, YBR, modality tables, odd bits: as dcmtk shows them, or as the standard has it, or refused by name."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from test_dicom_files import data_of, plain, real_files

from edgekit.errors import InputError
from edgekit.inputs.dicom import file, study

DCMTK = shutil.which("dcmj2pnm")
needs_dcmtk = pytest.mark.skipif(not DCMTK, reason="needs dcmj2pnm (apt install dcmtk)")


def shown_by_dcmtk(path: Path, folder: Path, *how: str) -> Any:
    """The first frame as dcmtk shows it; None where it cannot."""
    target = folder / "shown.pnm"
    done = subprocess.run([str(DCMTK), "--write-raw-pnm", *how, path, target], capture_output=True, check=False)
    if done.returncode:
        return None
    with Image.open(target) as picture:
        return np.asarray(picture).astype(int)


@needs_dcmtk
def test_colours_are_those_that_dcmtk_shows(tmp_path: Path) -> None:
    """Palettes and RGB exactly, YBR within what the rounding of a matrix leaves: real files, in both byte orders."""
    apart: dict[str, dict[str, int]] = {}
    for path in real_files():
        try:
            header = file.header(path)
            if header.photometric.startswith("MONOCHROME"):
                continue
            (frame,) = file.frames(path, [0])
        except InputError:
            continue  # which are listed elsewhere
        other = shown_by_dcmtk(path, tmp_path)
        if other is None:
            continue
        mine = frame.values.astype(int) >> (0 if frame.full[1] == 255 else 8)
        assert other.shape == mine.shape
        apart.setdefault(header.photometric, {})[path.name] = int(np.abs(other - mine).max())
    assert set(apart["PALETTE COLOR"].values()) == {0}
    assert len(apart["PALETTE COLOR"]) >= 7
    assert set(apart["RGB"].values()) == {0}
    for name in ("YBR_FULL", "YBR_FULL_422"):
        assert len(apart[name]) >= 3
        assert max(apart[name].values()) <= 2, apart[name]


@needs_dcmtk
def test_a_modality_table_is_the_one_that_dcmtk_looks_up(tmp_path: Path) -> None:
    path = Path(str(get_testdata_file("mlut_18.dcm")))
    (frame,) = file.frames(path)
    values = frame.values.astype(float)
    expected = np.rint((values - values.min()) / np.ptp(values) * 255)
    assert np.abs(shown_by_dcmtk(path, tmp_path, "+Wm") - expected).max() <= 1
    table = pydicom.dcmread(path).ModalityLUTSequence[0]
    stored = pydicom.dcmread(path).pixel_array.astype(int)
    _, first, _ = table.LUTDescriptor
    right = np.asarray(table.LUTData)[np.clip(stored - first, 0, len(table.LUTData) - 1)]
    np.testing.assert_array_equal(frame.values, right)


# ---------------------------------------------------------------- palettes in segments


def with_palette(tables: list[Any], *, segments: list[list[int]] | None = None) -> Dataset:
    """An image of 4 by 4 indices with tables of 16 entries of 16 bits, as they are or in segments."""
    made = plain(np.arange(16, dtype=np.uint8).reshape(4, 4), Modality="US", PhotometricInterpretation="PALETTE COLOR")
    for colour, table, parts in zip(("Red", "Green", "Blue"), tables, segments or tables, strict=True):
        setattr(made, f"{colour}PaletteColorLookupTableDescriptor", [16, 0, 16])
        name = f"{'Segmented' if segments else ''}{colour}PaletteColorLookupTableData"
        setattr(made, name, np.asarray(parts if segments else table, "<u2").tobytes())
    return made


def test_a_palette_in_segments_is_the_one_that_it_spells(tmp_path: Path) -> None:
    """Discrete values, then a line to a value (PS3.3, C.7.9.2): the same written out."""
    steps = [1000 * n for n in range(4)]
    lines = [round(3000 + (end - 3000) * (n + 1) / 12) for end in (63000,) for n in range(12)]
    table = [*steps, *lines]
    segments = [0, 4, *steps, 1, 12, 63000]
    (spelled,) = file.frames(data_of(with_palette([table] * 3)))
    (segmented,) = file.frames(data_of(with_palette([table] * 3, segments=[segments] * 3)))
    assert np.abs(spelled.values.astype(int) - segmented.values).max() <= 1
    assert np.ptp(spelled.values) > 200
    if DCMTK:
        (tmp_path / "p.dcm").write_bytes(data_of(with_palette([table] * 3)))
        np.testing.assert_array_equal(shown_by_dcmtk(tmp_path / "p.dcm", tmp_path), spelled.values)


def test_a_real_palette_in_segments_is_the_same_in_both_byte_orders() -> None:
    little, big = (Path(str(get_testdata_file(f"gdcm-US-ALOKA-16{order}.dcm"))) for order in ("", "_big"))
    (one,), (other,) = (list(file.frames(path, [0])) for path in (little, big))
    np.testing.assert_array_equal(one.values, other.values)
    assert len(np.unique(one.values.reshape(-1, 3), axis=0)) > 50
    assert np.mean(np.ptp(one.values.astype(int), axis=-1) < 9) > 0.5  # an ultrasound is mostly grey


@pytest.mark.parametrize(
    ("segments", "match"),
    [
        ([0, 400, 1], "damaged"),
        ([0, 4, 1, 2, 3, 4], "damaged"),
        ([7, 7, 7], "damaged"),
        ([], "without its red table"),
        ([1, 12, 63000], "damaged"),
    ],
)
def test_segments_that_lie_are_refused(segments: list[int], match: str) -> None:
    made = with_palette([[0] * 16] * 3, segments=[segments] * 3)
    with pytest.raises(InputError, match=match):
        list(file.frames(data_of(made)))


# ---------------------------------------------------------------- what else values may mean


def test_high_bits_elsewhere_are_refused() -> None:
    """12 bits at the top of 16: taken for the low ones, they would be another picture."""
    made = plain(np.arange(16, dtype=np.uint16).reshape(4, 4) << 4, BitsStored=12, HighBit=15)
    with pytest.raises(InputError, match="12 bits of which the highest is bit 15"):
        list(file.frames(data_of(made)))


def mapped(unit: str, slope: float, intercept: float) -> Dataset:
    one, code = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = unit, "UCUM", unit
    one.MeasurementUnitsCodeSequence = [code]
    one.RealWorldValueSlope, one.RealWorldValueIntercept = slope, intercept
    return one


def test_a_ct_whose_units_are_mapped_is_in_hounsfield_units() -> None:
    """Without it the stored numbers would be taken for them."""
    made = plain(np.full((4, 4), 1064, np.uint16), RealWorldValueMappingSequence=[mapped("[hnsf'U]", 1, -1024)])
    (frame,) = file.frames(data_of(made))
    assert (frame.units, frame.values.tolist()) == ("HU", [[40] * 4] * 4)


def test_a_mapping_that_is_not_applied_is_said() -> None:
    stored = np.arange(16, dtype=np.uint16).reshape(4, 4)
    made = plain(stored, Modality="PT", RealWorldValueMappingSequence=[mapped("g/ml", 0.5, 0)])
    found = study.read(data_of(made))
    assert any("mapping to g/ml is not applied" in note for note in found.notes)
    rescaled = plain(stored, Modality="PT", RescaleSlope="0.5", RescaleIntercept="0")
    rescaled.RealWorldValueMappingSequence = [mapped("g/ml", 0.5, 0)]
    assert not any("mapping" in note for note in study.read(data_of(rescaled)).notes)


@pytest.mark.parametrize(("limit", "share"), [(None, "25.0%"), (5000, "50.0%")])
def test_padding_that_counts_is_said(limit: int | None, share: str) -> None:
    stored = np.array([[4000] * 4, [5000] * 4, [1] * 4, [2] * 4], np.uint16)
    more = {} if limit is None else {"PixelPaddingRangeLimit": limit}
    made = plain(stored, Modality="MR", PixelPaddingValue=4000, **more)
    assert any(f"{share} of the frame are padding" in note for note in study.read(data_of(made)).notes)
