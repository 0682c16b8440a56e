"""Sets of labels by name: each can be read, scores as transformers does, and nothing ambiguous is taken."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from material import photo
from PIL import Image
from test_classifier import Transformers

from edgekit.artifacts import find as toml
from edgekit.classifier.labels import described, find, read
from edgekit.cli import main
from edgekit.errors import EdgekitError, UsageError

NAMES = toml.names("benchmarks/labels")


@pytest.mark.parametrize("name", NAMES)
def test_a_set_has_a_title_and_labels_that_are_told_apart(name: str) -> None:
    labels, title = described(name)
    assert title
    assert len({prompt for prompts in labels.prompts for prompt in prompts}) == sum(map(len, labels.prompts))


def test_a_finding_of_a_table_is_told_from_its_absence() -> None:
    """One place for the prompts: the benchmark's table."""
    table = toml.load("benchmarks/prompts", "chest-xray-findings")["set"][0]
    labels, _ = described("chest-xray-cardiomegaly")
    assert (labels.names, labels.scores) == (["cardiomegaly", "no cardiomegaly"], "softmax")
    assert labels.prompts == [table["present"], table["absent"]]


@pytest.mark.parametrize("name", NAMES)
def test_a_set_scores_as_transformers_does(
    name: str, medsiglip_source: Path, medsiglip_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    labels, _ = described(name)
    reference = Transformers.of(medsiglip_source, labels)
    for number in range(3):
        Image.fromarray(photo(80 + number, 90)).save(tmp_path / f"{number}.png")
    assert main(["classify", str(medsiglip_artifact), str(tmp_path), "--labels", name, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for number, line in enumerate(lines):
        with Image.open(tmp_path / f"{number}.png") as picture:
            logits = reference.logits(picture)
        odds = np.exp(logits - logits.max())
        expected = odds / odds.sum() if labels.scores == "softmax" else 1 / (1 + np.exp(-logits))
        assert [*line["scores"]] == labels.names
        np.testing.assert_allclose([*line["scores"].values()], expected, atol=1e-3)


def test_a_name_and_a_file_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("diabetic-retinopathy") == toml.find("benchmarks/labels", "diabetic-retinopathy")
    Path("mine").write_text("a\nb\n")
    assert find("mine") == Path("mine")
    Path("diabetic-retinopathy").write_text("a\nb\n")
    with pytest.raises(UsageError, match="a file here, and a set"):
        find("diabetic-retinopathy")
    assert find("./diabetic-retinopathy").samefile("diabetic-retinopathy")
    with pytest.raises(UsageError, match="did you mean diabetic-retinopathy"):
        find("diabetic-retinopaty")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('scores = "softmax"\n[labels]\na = "b"', "softmax over one label"),
        ("[labels]\na = []", "labels"),
        ('[labels]\na = ""', "labels"),
        ('colour = "red"\n[labels]\na = "b"', "colour"),
        ('scores = "best"\n[labels]\na = "b"', "scores"),
        ("[labels]\na = 3", "labels"),
        ('title = "a"', "either labels, or a table"),
        ('table = "chest-xray-findings"', "either labels, or a table"),
        ('table = "chest-xray-findings"\nfinding = "canary"', "no prompts for its absence"),
        ('table = "canary"\nfinding = "a"', "unknown prompt table"),
        ('table = "../../x"\nfinding = "a"', "unknown prompt table"),
        ('table = "chest-xray-findings"\nfinding = "cardiomegaly"\n[labels]\na = "b"', "either labels, or a table"),
        ("[labels", "not valid TOML"),
    ],
)
def test_files_that_are_refused(text: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "l.toml").write_text(text)
    with pytest.raises(EdgekitError, match=match):
        read(tmp_path / "l.toml")


def test_canaries_in_labels_and_names(medsiglip_artifact: Path, tmp_path: Path, capsys: Any) -> None:
    """What labels and files are called is in the table that was asked for, and nowhere else; prompts are nowhere."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(20):
        Image.fromarray(photo(40, 40 + number)).save(folder / f"canary-file-{number}-.png")
    (folder / "canary-file-bad-.png").write_bytes(b"\x89PNG\r\n\x1a\ncanary-bytes")
    labels, target = tmp_path / "labels.toml", tmp_path / "out.csv"
    prompts = {n: [f"canary-prompt-{n}-{k}" for k in range(5)] for n in range(1000)}
    labels.write_text("[labels]\n" + "\n".join(f'"canary-label-{n}" = {json.dumps(one)}' for n, one in prompts.items()))
    words = ["classify", str(medsiglip_artifact), str(folder), "--labels", str(labels), "--csv", str(target)]
    assert main(words) == 1
    said = capsys.readouterr()
    table = target.read_text()
    for word in ("canary-prompt", "canary-bytes"):
        assert word not in said.out + said.err + table
    assert "canary-label" not in said.out + said.err
    assert "canary-file" not in said.out + said.err
    assert table.partition("\n")[0].count("canary-label") == 1000
    for row in table.splitlines()[1:]:
        assert len({*re.findall(r"canary-file-\w+-", row)}) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"in", "labels.toml", "out.csv"}
