"""Series: in the order in which slices lie, with what is wrong said; windows as Google's own pictures have them."""

from __future__ import annotations

import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import generate_uid
from test_dicom_files import data_of, plain

import edgekit
from edgekit.cli import main
from edgekit.commands.support.boxes import boxes_in
from edgekit.errors import InputError, UsageError
from edgekit.inputs import square
from edgekit.inputs.dicom import recipes, study, voi
from edgekit.inputs.dicom.series import sampled
from edgekit.inputs.dicom.study import Reading
from edgekit.inputs.dicom.types import Window
from edgekit.inputs.image import Picture, read
from edgekit.inputs.message import Image as Part
from edgekit.serve.jobs import Event, Job
from edgekit.serve.perform import perform

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "dicom"
AXIAL = [1.0, 0, 0, 0, 1, 0]
SERIES, STUDY = generate_uid(), generate_uid()


def ct_slice(value: int, z: float, number: int, **more: Any) -> bytes:
    """A CT of one value, in HU, at a place."""
    stored = np.full((4, 4), value + 1024, np.uint16)
    said = {
        "RescaleSlope": "1", "RescaleIntercept": "-1024", "SeriesInstanceUID": SERIES, "StudyInstanceUID": STUDY,
        "ImagePositionPatient": [0, 0, z], "ImageOrientationPatient": AXIAL, "PixelSpacing": [1, 1],
        "InstanceNumber": number, "SeriesNumber": 3, "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    }  # fmt: skip
    return data_of(plain(stored, **{**said, **more}))


def lay(folder: Path, files: list[bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, data in enumerate(files):
        (folder / f"{number:03}.dcm").write_bytes(data)
    return folder


def reds(found: study.Study) -> list[int]:
    """What each slice shows of red: its value in the widest window."""
    return [image.convert("RGB").getpixel((0, 0))[0] for image in found.images]


def test_slices_lie_by_position_and_not_by_number(tmp_path: Path) -> None:
    """Numbers run the other way than the patient."""
    files = [ct_slice(100 * place, 5.0 * place, 10 - place) for place in (3, 0, 4, 1, 2)]
    found = study.read(lay(tmp_path / "ct", files))
    assert reds(found) == sorted(reds(found))
    assert found.labels == ("SLICE 1", "SLICE 2", "SLICE 3", "SLICE 4", "SLICE 5")
    assert not any("left out" in note or "missing" in note for note in found.notes)


ODD = {
    "a gap": ([ct_slice(0, z, 1) for z in (0, 5, 10, 25, 30)], "slices are missing: behind slice 3 lie 15.0 mm"),
    "twice": ([ct_slice(0, z, 1) for z in (0, 5, 5, 10)], "1 of 4 slices left out: another lies at the same place"),
    "a localizer": (
        [*(ct_slice(0, z, 1) for z in (0, 5)), ct_slice(0, 9, 1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])],
        "1 of 3 slices left out: localizers",
    ),
    "derived": (
        [*(ct_slice(0, z, 1) for z in (0, 5)), ct_slice(0, 9, 1, ImageType=["DERIVED", "SECONDARY"])],
        "1 of 3 slices left out: derived",
    ),
    "two acquisitions": (
        [ct_slice(0, z, 1, AcquisitionNumber=1 + (z > 9)) for z in (0, 5, 9, 12, 15)],
        "2 of 5 slices left out: of other acquisitions than 1",
    ),
    "another direction": (
        [*(ct_slice(0, z, 1) for z in (0, 5)), ct_slice(0, 9, 1, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])],
        "in another direction",
    ),
    "times": (
        [ct_slice(0, z, 1, Modality="MR", EchoTime=str(echo)) for z in (0, 5) for echo in (10, 80)],
        "of other times, echoes or weightings",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_of_a_series_is_said(name: str, tmp_path: Path) -> None:
    files, said = ODD[name]
    if name == "times":
        files = [data for data in files if data]
    found = study.read(lay(tmp_path / "ct", files), Reading(range=(-1000.0, 1000.0)))
    assert any(said in note for note in found.notes), found.notes


def test_two_patients_and_two_series_are_refused(tmp_path: Path) -> None:
    folder = lay(tmp_path / "two", [ct_slice(0, 0, 1), ct_slice(0, 5, 2, PatientID="4712")])
    with pytest.raises(InputError, match="images of several patients") as caught:
        study.read(folder)
    assert "471" not in str(caught.value)
    other = generate_uid()
    more = {"SeriesInstanceUID": other, "SeriesNumber": 4, "SeriesDescription": "lung"}
    folder = lay(tmp_path / "series", [ct_slice(0, 0, 1), ct_slice(0, 5, 2, **more)])
    with pytest.raises(InputError, match="images of 2 series") as caught:
        study.read(folder)
    assert "3 (CT, 1); 4 (CT, lung, 1)" in str(caught.value.allowed)
    assert len(study.read(folder, Reading(series="4")).images) == 1
    assert len(study.read(folder, Reading(series=other)).images) == 1
    with pytest.raises(InputError, match="no series 5"):
        study.read(folder, Reading(series="5"))


def test_slices_are_taken_as_the_notebook_takes_them() -> None:
    assert sampled(range(85)) == tuple(range(85))
    found = sampled(range(300))
    assert found == tuple(round(i / 85 * 299) for i in range(1, 86))
    assert len(set(found)) == 85
    assert (found[0], found[-1]) == (4, 299)
    assert sampled(range(3), 1) == (2,)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the CT series")
@pytest.mark.parametrize(
    ("golden", "recipe"), [("ct_default_window.png", "file"), ("ct_force_rgb_window.png", "medgemma-1.5-server")]
)
def test_a_ct_looks_as_googles_own_tests_have_it(golden: str, recipe: str) -> None:
    wanted = np.asarray(Image.open(SHARED / golden).convert("RGB"), np.int16)
    found = study.read(SHARED / "ct_series", Reading(recipe=recipe))
    near = [np.abs(np.asarray(image.convert("RGB"), np.int16) - wanted).max() for image in found.images
            if image.size == (wanted.shape[1], wanted.shape[0])]  # fmt: skip
    assert min(near) <= 1, near


@pytest.mark.parametrize(
    ("recipe", "green"),
    [("medgemma-1.5", [62, 98, 128, 142, 186]), ("medgemma-1.5-server", [0, 0, 0, 0, 0])],
)
def test_the_servers_sign_bug_is_there_under_its_own_name_alone(recipe: str, green: list[int]) -> None:
    values = [read(ct_slice(hu, 0, 1), recipe=recipe).image.getpixel((0, 0))[1] for hu in (-50, 0, 40, 60, 120)]
    assert values == green
    said = read(ct_slice(0, 0, 1), recipe=recipe).warnings
    assert any("begins at 135 HU" in note for note in said) == (recipe == "medgemma-1.5-server")


def test_a_recipe_that_is_none() -> None:
    with pytest.raises(UsageError, match="unknown preprocessing of DICOM 'medgemma'") as caught:
        read(ct_slice(0, 0, 1), recipe="medgemma")
    assert all(name in str(caught.value.allowed) for name in recipes.RECIPES)


@pytest.mark.parametrize("modality", ["CR", "DX"])
def test_a_radiograph_is_stretched_and_monochrome1_turned_after_it(modality: str) -> None:
    stored = np.array([[100, 1100], [600, 350]], np.uint16)
    for photometric, expected in (("MONOCHROME2", [0, 255, 128, 64]), ("MONOCHROME1", [255, 0, 127, 191])):
        data = data_of(plain(stored, Modality=modality, PhotometricInterpretation=photometric, WindowCenter="1", WindowWidth="2"))  # noqa: E501
        assert list(np.asarray(read(data).image)[..., 0].ravel()) == expected
    by_window = read(data_of(plain(stored, Modality=modality, WindowCenter="600", WindowWidth="1000")), recipe="file")
    assert np.asarray(by_window.image)[0, 0, 0] == 0
    assert any("window 600,1000" in note for note in by_window.warnings)


def test_an_mr_is_shown_from_the_least_to_the_greatest_of_all_its_slices(tmp_path: Path) -> None:
    files = [ct_slice(value, z, 1, Modality="MR", RescaleIntercept="0") for z, value in enumerate((-1024, -24, 976))]
    assert reds(study.read(lay(tmp_path / "mr", files))) == [0, 128, 255]


def test_slices_that_are_not_shown_count_for_what_is_black_and_white(tmp_path: Path) -> None:
    """The brightest slice is the first, which the notebook's choice leaves out."""
    more = {"Modality": "MR", "RescaleIntercept": "0"}
    files = [ct_slice(value, z, 1, **more) for z, value in enumerate((976, -1024, -524, -24))]
    folder = lay(tmp_path / "mr", files)
    assert reds(study.read(folder)) == [255, 0, 64, 128]
    assert reds(study.read(folder, Reading(most=2))) == [64, 128]
    assert reds(study.read(folder, Reading(most=2, range="auto"))) == [64, 128]


@pytest.mark.parametrize(
    ("window", "values", "expected"),
    [  # PS3.3, C.11.2.1.2.1: for 2048, 4096 the least value is at 0, the greatest at 4095
        (Window(2048, 4096), [0, 4095, 2048], [0, 255, 128]),
        (Window(0, 1), [-1, 0], [0, 255]),
        (Window(100, 200, "LINEAR_EXACT"), [0, 100, 200], [0, 128, 255]),
        (Window(0, 100, "SIGMOID"), [-1000, 0, 1000], [0, 128, 255]),
    ],
)
def test_windows_are_those_of_the_standard(window: Window, values: list[int], expected: list[int]) -> None:
    assert list(voi.windowed(np.asarray(values), window)) == expected


# ---------------------------------------------------------------- where they lie


def test_an_archive_and_a_multi_frame_file_are_series_too(tmp_path: Path) -> None:
    folder = lay(tmp_path / "ct", [ct_slice(100 * z, z, 1) for z in range(4)])
    (folder / "notes.txt").write_text("none")
    with zipfile.ZipFile(tmp_path / "ct.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    found, plain_found = study.read(tmp_path / "ct.zip"), study.read(folder)
    assert reds(found) == reds(plain_found)
    assert "1 other files passed over" in found.notes
    assert reds(study.read((tmp_path / "ct.zip").read_bytes())) == reds(found)
    many = plain(np.arange(32, dtype=np.uint8).reshape(2, 4, 4), NumberOfFrames=2, Modality="US")
    assert len(study.read(data_of(many)).images) == 2
    with pytest.raises(InputError, match="holds 2 frames"):
        read(data_of(many))


def test_an_archive_that_is_damaged_or_empty(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK\3\4" + b"\0" * 40)
    with pytest.raises(InputError, match="a damaged archive"):
        study.read(tmp_path / "x.zip")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no DICOM file is there"):
        study.read(tmp_path / "none")


def test_a_directory_of_a_medium(tmp_path: Path) -> None:
    from pydicom.data import get_testdata_file

    medium = Path(str(get_testdata_file("DICOMDIR")))
    with pytest.raises(InputError, match=r"images of several patients"):
        study.read(medium)


def test_parts_of_a_message(tmp_path: Path) -> None:
    found = study.read(lay(tmp_path / "ct", [ct_slice(100 * z, z, 1) for z in range(3)]))
    made = study.parts(found, "ct")
    assert [part if isinstance(part, str) else "image" for part in made] == [
        "image", "SLICE 1", "image", "SLICE 2", "image", "SLICE 3",
    ]  # fmt: skip
    first = made[0]
    assert isinstance(first, Part)
    assert isinstance(first.source, Picture)
    assert any("CT windows of medgemma-1.5" in note for note in first.source.warnings)
    one = study.parts(study.read(ct_slice(0, 0, 1)), "one")
    assert len(one) == 1


def test_a_server_takes_a_series_as_one_archive(medgemma_artifact: Path, tmp_path: Path) -> None:
    folder = lay(tmp_path / "ct", [ct_slice(100 * z, z, 1, PatientName="Canary") for z in range(3)])
    with zipfile.ZipFile(tmp_path / "ct.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    data = (tmp_path / "ct.zip").read_bytes()

    def asked(*images: bytes) -> list[Event]:
        parts = [*({"image": place} for place in range(len(images))), {"text": "Is there a nodule?"}]
        body = {"messages": [{"role": "user", "parts": parts}], "options": {"max_tokens": 2}}
        with edgekit.open(medgemma_artifact) as model:
            return list(perform(model, Job("chat", body, images), threading.Event()))

    events, alone = asked(data), asked((folder / "000.dcm").read_bytes())
    assert any("CT windows of medgemma-1.5" in text for text in events[-1].body["warnings"])
    tokens, one = (each[-1].body["prompt_tokens"] for each in (events, alone))
    assert tokens > 2 * one
    assert "anary" not in repr([event.body for event in events])
    with pytest.raises(InputError, match="a damaged archive"):
        asked(b"PK\3\4nothing")


# ---------------------------------------------------------------- squares


def test_padding_keeps_values_and_boxes_lead_back() -> None:
    image = Image.fromarray(np.full((60, 100, 3), 200, np.uint8))
    padded = square.pad(image)
    assert padded.image.size == (100, 100)
    assert (padded.left, padded.top) == (0, 20)
    assert np.asarray(padded.image)[20:80].min() == 200
    assert np.asarray(padded.image)[:20].max() == 0
    assert square.unpadded((200, 100, 800, 900), (100, 60)) == (10, 0, 90, 60)
    assert square.unpadded((0, 0, 500, 1000), (100, 60)) == (0, 0, 100, 30)
    assert square.unpadded((0, 0, 500, 1000), (100, 60), padded=False) == (0, 0, 100, 30)
    for wrong in ((5, 0, 5, 10), (0, 0, 1001, 10), (0, 0, 100, 1000)):
        with pytest.raises(InputError, match="a box"):
            square.unpadded(wrong, (100, 60))


def test_a_padded_picture_is_a_square() -> None:
    image = Image.fromarray(np.full((30, 50, 3), 9, np.uint8))
    assert read(image, pad=True).image.size == (50, 50)
    assert read(image).image.size == (50, 30)


def test_boxes_of_an_answer_lead_back_to_the_picture() -> None:
    """The same place, whatever square the model saw: of a picture of 100 by 60, padded above and below or stretched."""
    image = Image.fromarray(np.full((60, 100, 3), 9, np.uint8))
    told = 'Final Answer: ```json\n[{"box_2d": [200, 100, 800, 900], "label": "heart"}]\n```'
    padded = boxes_in(told, ["Where?", Part(read(image, pad=True))])
    assert padded == [{"label": "heart", "box": [10.0, 0.0, 90.0, 60.0], "size": [100, 60]}]
    assert boxes_in(told, [Part(read(image))])[0]["box"] == [10.0, 12.0, 90.0, 48.0]
    beside = told.replace("200", "0").replace("800", "100")
    assert "beside the picture" in boxes_in(beside, [Part(read(image, pad=True))])[0]["error"]
    assert boxes_in("No box.", [Part(read(image))]) == []
    assert boxes_in(told, [Part(read(image)), Part(read(image))]) == []


def test_two_studies_in_the_wrong_order_are_said(
    medgemma_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, date in (("old", "20190101"), ("new", "20210101")):
        (tmp_path / f"{name}.dcm").write_bytes(ct_slice(0, 0, 1, StudyDate=date))
    old, new = (str(tmp_path / f"{name}.dcm") for name in ("old", "new"))
    words = ["ask", str(medgemma_artifact), "What has changed?", "--max-tokens", "1"]
    for first, second, said in ((old, new, False), (new, old, True)):
        assert main([*words, "--image", first, "--image", second]) == 0
        assert ("is of 2019-01-01, and what stands before it of 2021-01-01" in capsys.readouterr().err) == said
