"""Pictures on the command line: options, what is said in text and in JSON, one bad file among many."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from material import photo
from PIL import Image

import edgekit
from edgekit.cli import main
from edgekit.inputs.image import PictureWarning, read
from edgekit.inputs.message import Image as Shown
from edgekit.inputs.message import Message
from edgekit.runtime.base import Generation

NARROW = photo(90, 70)[..., 0].astype(np.uint16) * 16


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A good picture, one of 12 bits in 16, a damaged one, a blank one."""
    Image.fromarray(photo(90, 70)).save(tmp_path / "good.png")
    Image.fromarray(NARROW).save(tmp_path / "narrow.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:2000])
    Image.new("L", (90, 70)).save(tmp_path / "blank.png")
    return tmp_path


def classify(folder: Path, *arguments: str | Path) -> list[str]:
    return ["classify", str(folder), *map(str, arguments), "--label", "normal lungs", "--label", "pneumonia"]


def about(row: dict[str, Any]) -> list[str]:
    """What is said of a row's own picture, not of the model."""
    return [text for text in row["warnings"] if text.startswith(row["file"])]


def rows_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_one_bad_file_among_many_is_a_row(
    medsiglip_artifact: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["bad.png", "good.png", "missing.png", "narrow.png"]
    command = classify(medsiglip_artifact, *(files / name for name in names))
    assert main([*command, "--json"]) == 1
    rows = rows_of(capsys)
    assert [row["file"] for row in rows] == [str(files / name) for name in names]
    assert ["error" in row for row in rows] == [True, False, True, False]
    assert "damaged or truncated" in rows[0]["error"]
    assert (rows[0]["kind"], rows[0]["try"]) == ("InputError", "copy the file again")
    assert "no such image file" in rows[2]["error"]
    assert main([*classify(medsiglip_artifact, files / "good.png"), "--json"]) == 0
    assert rows_of(capsys) == [rows[1]]
    assert main(command) == 1
    plain = capsys.readouterr()
    kinds = [line.split()[0] for line in plain.out.splitlines() if line.startswith("  ")]
    assert kinds == ["error:", "try:", "normal", "pneumonia", "error:", "normal", "pneumonia"]
    assert plain.out.count("  <") == 2
    assert plain.out.count("  error: ") == 2


def test_a_single_bad_file_is_an_error(
    medsiglip_artifact: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*classify(medsiglip_artifact, files / "bad.png"), "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["kind"] == "InputError"


def test_nothing_but_bad_files_needs_no_model(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*classify(files / "no-artifact", files / "bad.png", files / "missing.png"), "--json"]) == 1
    assert ["error" in row for row in rows_of(capsys)] == [True, True]


def test_classify_says_what_is_odd_and_stretches_when_asked(
    medsiglip_artifact: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = classify(medsiglip_artifact, files / "narrow.png", files / "good.png", "--json")
    assert main(command) == 0
    odd, good = rows_of(capsys)
    assert "WRONG CONTRAST" in about(odd)[0]
    assert about(good) == []
    assert good["warnings"] == [text for text in odd["warnings"] if text not in about(odd)], "what is said of the model"
    low, high = int(NARROW.min()), int(NARROW.max())
    assert main([*command, f"--range={low}:{high}"]) == 0
    stretched = rows_of(capsys)[0]
    assert about(stretched) == []
    assert stretched["scores"] != odd["scores"]
    assert main([*command, "--range", "auto"]) == 0
    own = rows_of(capsys)[0]
    assert own["scores"] == stretched["scores"]
    assert f"its values {low} to {high}" in about(own)[0]
    assert main(classify(medsiglip_artifact, files / "narrow.png")) == 0
    assert f"edgekit: {files / 'narrow.png'}: WRONG CONTRAST" in capsys.readouterr().err
    expected = np.rint((NARROW.astype(float) - low) / (high - low) * 255).astype(np.uint8)
    Image.fromarray(expected).save(files / "by hand.png")
    assert main(classify(medsiglip_artifact, files / "by hand.png", "--json")) == 0
    assert rows_of(capsys)[0]["scores"] == stretched["scores"]


def test_ask_says_what_is_odd(medgemma_artifact: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["ask", str(medgemma_artifact), "?", "--level", "Q4_0", "--max-tokens", "2"]
    images = ["--image", str(files / "narrow.png"), "--image", str(files / "blank.png")]
    assert main([*ask, *images, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["warnings"]
    assert any("narrow.png: WRONG CONTRAST" in text for text in said)
    assert any("blank.png: nearly constant" in text for text in said)
    assert main([*ask, *images]) == 0
    assert "blank.png: nearly constant" in capsys.readouterr().err
    assert main([*ask, "--image", str(files / "narrow.png"), "--range=auto", "--json"]) == 0
    assert "were stretched" in str(json.loads(capsys.readouterr().out)["warnings"])


@pytest.mark.parametrize("command", ["ask", "classify"])
def test_the_budget_is_an_option(command: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(files / "good.png")
    arguments = {"ask": ["ask", "DIR", "?", "--image", path], "classify": ["classify", "DIR", path, "--label", "a"]}
    assert main([*arguments[command], "--max-megapixels", "0.001"]) == 1
    assert "at most 0.001 megapixels" in capsys.readouterr().err
    assert main([*arguments[command], "--max-megapixels", "0"]) == 1
    assert "a limit of 0.0 megapixels" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "a:b", "1:2:3", "", ":", "Auto"])
def test_what_is_no_range_is_wrong_usage(text: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["ask", "DIR", "?", "--image", str(files / "good.png"), f"--range={text}"])
    assert caught.value.code == 2
    assert "LOW:HIGH or auto" in capsys.readouterr().err


def test_a_range_from_high_to_low_is_refused(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "DIR", "?", "--image", str(files / "good.png"), "--range=9:1"]) == 1
    assert "a range of (9.0, 1.0)" in capsys.readouterr().err


def test_a_proofs_pictures_are_read_in_the_same_way(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And what is odd of them is said, without a place in the code."""
    export = ["export", "medgemma-reference", "--to", str(files / "new"), "--level", "Q5", "--images", str(files)]
    assert main(export) == 1
    assert "bad.png: damaged or truncated" in capsys.readouterr().err
    (files / "bad.png").unlink()
    assert main(export) == 2
    said = capsys.readouterr().err.splitlines()
    assert any(line.startswith(f"edgekit: {files / 'narrow.png'}: WRONG CONTRAST") for line in said)
    assert "unknown level 'Q5'" in "".join(said)
    assert all(line.startswith(("edgekit: ", "allowed: ", "try: ")) for line in said)


# ---------------------------------------------------------------- in Python


def test_an_answer_carries_what_is_known_of_its_images(medgemma_artifact: Path, files: Path) -> None:
    model = edgekit.open(medgemma_artifact, "Q4_0")
    try:

        def answer(image: Shown) -> Generation:
            *_, last = model.generate([Message("user", image, "?")], max_tokens=1)
            assert isinstance(last, Generation)
            return last

        assert "WRONG CONTRAST" in str(answer(Shown(files / "narrow.png")).warnings)
        assert "were stretched" in str(answer(Shown(files / "narrow.png", range="auto")).warnings)
        assert str(files) not in str(answer(Shown(files / "good.png")).warnings)
        # The same picture by another way gives the same answer.
        low, high = int(NARROW.min()), int(NARROW.max())
        shown = [Shown(files / "narrow.png", range=(low, high)), Shown(read(files / "narrow.png", range="auto"))]
        with pytest.warns(PictureWarning, match="were stretched"):
            scores = [model.score([Message("user", image, "?")], ["yes", "no"]) for image in shown]
        assert np.array_equal(scores[0], scores[1])
        with pytest.warns(PictureWarning, match="nearly constant"):
            model.classify([files / "blank.png"], ["yes", "no"])
    finally:
        model.close()


def test_an_embedding_warns_as_python_does(medsiglip_artifact: Path, files: Path) -> None:
    model = edgekit.open(medsiglip_artifact)
    try:
        with pytest.warns(PictureWarning, match=r"blank.png: nearly constant"):
            model.embed_image([files / "blank.png"])
    finally:
        model.close()


@pytest.mark.skipif(sys.platform != "linux", reason="how processes are found")
def test_a_command_leaves_no_process(files: Path) -> None:
    command = [sys.executable, "-m", "edgekit", "ask", "DIR", "?", "--image", str(files / "good.png")]
    done = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    assert done.wait(timeout=120) == 1
    deadline = time.monotonic() + 20
    while left(done.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left(done.pid) == []


def left(session: int) -> list[int]:
    """Processes of a session; of another's process nothing is read, which can make who reads wait for it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getsid(int(process.name)) == session:
                found.append(int(process.name))
    return found
