"""The README.md in an artifact: its lines run in the folder, it follows the manifest, nobody's text takes it over."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from material import Copy, contents, edit_json
from PIL import Image

from edgekit import cli
from edgekit.artifacts import manifest as manifests
from edgekit.errors import ArtifactError, UsageError
from edgekit.export import readme
from edgekit.export.adopt import adopt
from edgekit.export.remove import remove
from edgekit.progress import on_stderr
from edgekit.prove import publish


def lines_of(folder: Path) -> list[list[str]]:
    """The command lines, word by word."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    return [shlex.split(line) for line in text.splitlines() if line.startswith("    ")]


def table_of(folder: Path) -> dict[str, list[str]]:
    """The levels' cells by name."""
    rows = [line.split(" | ") for line in (folder / "README.md").read_text(encoding="utf-8").splitlines()]
    return {cells[0].removeprefix("| ").split()[0]: cells[1:] for cells in rows if len(cells) == 5}


def test_its_edgekit_lines_run_in_the_folder(
    medgemma_artifact: Path,
    medsiglip_artifact: Path,
    copied: Copy,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for source, verb in ((medgemma_artifact, "ask"), (medsiglip_artifact, "classify")):
        folder = copied(source)
        monkeypatch.chdir(folder)
        Image.fromarray(np.full((64, 64), 90, np.uint8)).save("chest.png")
        (line,) = [words for words in lines_of(folder) if words[0] == "edgekit"]
        assert line[1] == verb
        assert cli.main(line[1:]) == 0
    assert "normal lungs" in capsys.readouterr().out


def test_the_other_lines_name_files_that_are_there(medgemma_artifact: Path, medsiglip_artifact: Path) -> None:
    served, created = (words for words in lines_of(medgemma_artifact) if words[0] != "edgekit")
    assert served[0] == "llama-server"
    assert created[:3] == ["ollama", "create", "NAME"]
    for words, options in ((served, ("-m", "--mmproj")), (created, ("-f",))):
        for option in options:
            name = words[words.index(option) + 1]
            assert not Path(name).is_absolute()
            assert (medgemma_artifact / name).is_file()
    assert [words[0] for words in lines_of(medsiglip_artifact)] == ["edgekit"]


def test_its_table_is_the_manifests(medgemma_artifact: Path) -> None:
    found = manifests.read(medgemma_artifact)
    table = table_of(medgemma_artifact)
    assert list(table)[1:] == list(found.variants)
    for name in found.variants:
        parts = found.variant(name)[1]
        described, files, megabytes, parity = table[name]
        assert described == ", ".join(f"{role} {part.level}" for role, part in parts.items())
        size = sum((medgemma_artifact / path).stat().st_size for path in files.split(", "))
        assert float(megabytes) == pytest.approx(size / 1e6, abs=0.05)
        assert parity.count("not measured") == 2
    text = (medgemma_artifact / "README.md").read_text()
    assert f"{found.default} (default) |" in text
    assert "Stand-in:" in text
    assert "Not a medical device." in text
    assert readme.quoted(found.license.splitlines()[0]) in text
    assert str(medgemma_artifact) not in text


def test_it_is_rewritten_with_the_proof_and_what_contradicted_the_manifest_is_said(
    medsiglip_artifact: Path, medsiglip_source: Path, copied: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(medsiglip_artifact)
    path, said = folder / "README.md", "README.md says something else than the manifest"
    assert table_of(folder)["fp32"][3].count("not measured") == 2
    path.write_text(path.read_text().replace("Not a medical device.", "A medical device."))
    proven = publish.prove(folder, medsiglip_source, progress=on_stderr()).manifest
    assert said in capsys.readouterr().err
    assert path.read_text() == readme.text(proven)
    assert "Not a medical device." in path.read_text()
    figures = re.findall(r"_encoder cosine ([\d.]+)", table_of(folder)["fp32"][3])
    loss = [proven.variant("fp32")[1][role].parity.loss["mean"] for role in ("image_encoder", "text_encoder")]  # type: ignore[union-attr]
    assert figures == [f"{mean:.5f}" for mean in loss]
    manifests.verify(folder, manifests.read(folder).files)
    assert manifests.read(folder) == proven


def test_of_files_that_others_made(medgemma_artifact: Path, tmp_path: Path) -> None:
    adopted = adopt(next(medgemma_artifact.glob("medgemma-*-Q4_0.gguf")), tmp_path / "theirs")
    text = (adopted.folder / "README.md").read_text()
    assert "**Foreign:** made by others and unproven" in text
    assert "not measured" in text
    manifests.verify(adopted.folder, adopted.manifest.files)


HOSTILE = "<img src=http://x/y.png> ![a](http://x) [b](c) `q` | cell # Head\u202e **bold** &lt; \\"


def test_a_text_of_others_stays_text(medgemma_artifact: Path, copied: Copy) -> None:
    folder = copied(medgemma_artifact)
    edit_json(folder / "edgekit.json", {"title": HOSTILE, "license": HOSTILE, "stand_in": HOSTILE, "modified": HOSTILE})
    before = (folder / "README.md").read_text().splitlines()
    remove(folder, ["Q4_0"])
    text = (folder / "README.md").read_text()
    assert len(text.splitlines()) == len(before) - 1  # one level less, and no line of theirs
    assert "\u202e" not in text
    bare = re.sub(r"\\.", "", text.split("## Levels")[0].partition("-->")[2])  # what is escaped is only text
    assert not re.search(r"[<>\[\]`|]|!\[", bare.replace("`NOTICE`", ""))


@pytest.mark.parametrize("kind", ["text", "a link", "empty", "a folder", "a pipe"])
def test_a_readme_of_somebody_elses_is_never_lost(
    medgemma_source: Path, medgemma_artifact: Path, copied: Copy, tmp_path: Path, kind: str
) -> None:
    """In an artifact of an older edgekit, which wrote none."""
    folder = copied(medgemma_artifact)
    (folder / "README.md").unlink()
    if kind == "a link":
        (tmp_path / "card.md").write_text("a model card")
        (folder / "README.md").symlink_to(tmp_path / "card.md")
    elif kind == "a folder":
        (folder / "README.md").mkdir()
    elif kind == "a pipe":  # which nobody writes to: to open it is to wait for ever
        os.mkfifo(folder / "README.md")
    else:
        (folder / "README.md").write_text("a model card" if kind == "text" else "")
    before = contents(folder)
    attempts: list[Any] = [
        lambda: publish.export(medgemma_source, folder, levels=["Q4_K_M"], prove=False),
        lambda: publish.prove(folder, medgemma_source),
        lambda: remove(folder, ["Q4_0"]),
    ]
    for attempt in attempts:
        with pytest.raises(ArtifactError, match=r"README\.md: is not edgekit's(.|\n)*give it another name"):
            attempt()
        assert contents(folder) == before
    (folder / "README.md").rename(folder / "card.md")
    remove(folder, ["Q4_0"])
    manifests.verify(folder, manifests.read(folder).files)
    assert "Q4_0" not in (folder / "README.md").read_text().partition("## Levels")[2].partition("##")[0]


def test_a_model_card_of_the_source_is_not_shipped_as_ours(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    source = copied(medgemma_source)
    (source / "README.md").write_text("a model card")
    folder = publish.export(source, tmp_path / "a", levels=["Q4_0"], prove=False).folder
    assert "a model card" not in (folder / "README.md").read_text()
    assert (source / "README.md").read_text() == "a model card"


def test_whatever_is_renamed_what_is_listed_is_right(
    medgemma_source: Path, medgemma_artifact: Path, copied: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a level is added: whatever is renamed into the folder, the manifest there describes what is there."""
    folder, replace, seen = copied(medgemma_artifact), os.replace, 0

    def watched(source: Any, target: Any, **options: Any) -> None:
        nonlocal seen
        replace(source, target, **options)
        if Path(target).is_relative_to(folder):
            manifests.verify(folder, manifests.read(folder).files)
            seen += 1

    monkeypatch.setattr(os, "replace", watched)
    publish.export(medgemma_source, folder, levels=["Q4_K_M"], prove=False)
    assert seen > 3


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b", "-x", "a\nb", "a|b", "`a`", "é", "x" * 101])
def test_odd_names_of_levels_are_refused(
    medgemma_artifact: Path, copied: Copy, tmp_path: Path, medgemma_source: Path, name: str
) -> None:
    """They stand in file names, command lines and tables."""
    folder = copied(medgemma_artifact)
    variant = manifests.read(folder).variants["Q4_0"]
    edit_json(folder / "edgekit.json", {"variants": {name: dict(variant)}, "default": name})
    with pytest.raises(ArtifactError, match=r"edgekit\.json: (variants|default)"):
        manifests.read(folder)
    quoted = f'"{name}"'.replace("\n", "\\n")
    recipe = tmp_path / "own.toml"
    recipe.write_text(
        f'extends = "reference-medgemma"\ndefault = {quoted}\n[variant.{quoted}]\ndecoder = "Q4_0"\nvision = "Q8_0"\n'
    )
    with pytest.raises(UsageError, match=r"recipe .*: (variant|default)"):
        publish.export(medgemma_source, tmp_path / "a", recipe_name=str(recipe), prove=False)
