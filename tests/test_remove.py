"""Levels taken out of an artifact: what goes, what stays, what is refused, and what a kill leaves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from material import Copy, contents, read_json

from edgekit import cli
from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.folders import locked
from edgekit.errors import ArtifactError, EdgekitError, UsageError
from edgekit.export import readme
from edgekit.export.remove import remove
from edgekit.prove import publish
from edgekit.runtime import open_model

NOTE = ".edgekit-remove.json"


def whole(folder: Path) -> manifests.Manifest:
    """The manifest, whose every file is there, a README that states it, and nothing else."""
    found = manifests.read(folder)
    manifests.verify(folder, found.files)
    there = contents(folder)
    assert there.keys() == {manifests.FILE_NAME, readme.FILE_NAME, *(entry.path for entry in found.files)}
    assert there[readme.FILE_NAME].decode() == readme.text(found)
    return found


def test_what_is_left_is_what_an_export_of_the_rest_makes(
    medgemma_source: Path, medgemma_artifact: Path, copied: Copy, tmp_path: Path
) -> None:
    """To the byte, table of the README and all; so a level may go and come again."""
    folder = copied(medgemma_artifact)
    before = contents(folder)
    removed = remove(folder, ["Q4_0"])
    rest = publish.export(medgemma_source, tmp_path / "rest", levels=["BF16", "Q8_0"], prove=False)
    assert contents(folder) == contents(rest.folder)
    assert removed.manifest == whole(folder)
    gone = before.keys() - contents(folder).keys()
    assert set(removed.files) == gone == {"medgemma-reference-Q4_0.gguf", "Modelfile.Q4_0"}
    assert removed.freed_bytes == sum(len(before[name]) for name in gone)
    assert [(part.role, part.level) for part in removed.parts] == [("decoder", "Q4_0")]
    publish.export(medgemma_source, folder, levels=["Q4_0"], prove=False)
    assert contents(folder) == before


def test_a_part_that_another_level_needs_stays(medgemma_artifact: Path, copied: Copy) -> None:
    folder = copied(medgemma_artifact)
    vision = manifests.read(folder).variant("Q8_0")[1]["vision"]
    removed = remove(folder, ["Q8_0"])
    assert [part.role for part in removed.parts] == ["decoder"]
    assert whole(folder).variant("Q4_0")[1]["vision"] == vision
    open_model(folder).close()


def test_onnx_parts_and_the_folder_that_they_leave_empty(
    medgemma_source: Path, medgemma_onnx: Path, copied: Copy
) -> None:
    folder = copied(medgemma_onnx)
    publish.export(medgemma_source, folder, levels=["Q4_0"], prove=False)
    assert (folder / "onnx").is_dir()
    remove(folder, ["q4"], default="Q4_0")
    assert not (folder / "onnx").exists()
    assert list(whole(folder).variants) == ["Q4_0"]


def test_files_that_others_put_there_stay(medgemma_artifact: Path, copied: Copy) -> None:
    folder = copied(medgemma_artifact)
    (folder / "notes-Q4_0.gguf").write_text("mine")
    remove(folder, ["Q4_0"])
    assert (folder / "notes-Q4_0.gguf").read_text() == "mine"


REFUSED: dict[str, tuple[list[str], str | None, str, str]] = {
    "unknown": (["Q2_K"], None, "has no level 'Q2_K'", "allowed: BF16, Q8_0, Q4_0"),
    "one of several unknown": (["Q4_0", "q9"], None, "has no level 'q9'", "allowed: BF16"),
    "all": (["BF16", "Q8_0", "Q4_0"], None, "no level would be left", "rm -r"),
    "the default": (["BF16"], None, "BF16 is the default level", "--default Q8_0 or Q4_0"),
    "a default that goes": (["Q4_0"], "Q4_0", "--default 'Q4_0' is no level that is left", "allowed: BF16, Q8_0"),
    "a default that is none": (["Q4_0"], "Q1", "--default 'Q1' is no level that is left", "allowed: BF16, Q8_0"),
}


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_changes_nothing(medgemma_artifact: Path, copied: Copy, case: str, dry_run: bool) -> None:
    levels, default, said, helps = REFUSED[case]
    folder = copied(medgemma_artifact)
    before = contents(folder)
    with pytest.raises(UsageError) as caught:
        remove(folder, levels, default=default, dry_run=dry_run)
    assert said in str(caught.value)
    assert helps in str(caught.value)
    assert contents(folder) == before


def test_a_folder_that_is_no_artifact_and_one_at_work(medgemma_artifact: Path, copied: Copy, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such folder"):
        remove(tmp_path / "none", ["BF16"])
    assert not (tmp_path / "none").exists()
    folder = copied(medgemma_artifact)
    before = contents(folder)
    with locked(folder), pytest.raises(ArtifactError, match="another command is writing here"):
        remove(folder, ["Q4_0"])
    assert contents(folder) == before


def test_a_dry_run_says_what_a_run_does(medgemma_artifact: Path, copied: Copy) -> None:
    folder = copied(medgemma_artifact)
    before = contents(folder)
    said = remove(folder, ["BF16"], default="Q8_0", dry_run=True)
    assert contents(folder) == before
    assert remove(folder, ["BF16"], default="Q8_0") == said
    assert whole(folder).default == "Q8_0"


def test_a_file_with_another_name_frees_nothing(medgemma_artifact: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(medgemma_artifact)
    decoder = folder / "medgemma-reference-Q4_0.gguf"
    os.link(decoder, tmp_path / "kept.gguf")
    removed = remove(folder, ["Q4_0"])
    assert decoder.name in removed.files
    assert removed.freed_bytes < (tmp_path / "kept.gguf").stat().st_size


def killed_at(monkeypatch: pytest.MonkeyPatch, step: int, work: Callable[[], Any]) -> bool:
    """Whether work ended before it renamed or deleted its `step`-th file: then it was killed there."""
    left, replace, unlink = step, os.replace, os.unlink

    def counted(call: Callable[..., None]) -> Callable[..., None]:
        def counts(*given: Any, **options: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            call(*given, **options)

        return counts

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", counted(replace))
        patch.setattr(os, "unlink", counted(unlink))
        try:
            work()
        except KeyboardInterrupt:
            return True
    return False


def test_killed_anywhere_the_artifact_is_whole_and_a_rerun_ends_it(
    medgemma_artifact: Path, copied: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = copied(medgemma_artifact)
    remove(expected, ["Q4_0", "Q8_0"])
    steps = 0
    while True:
        folder = copied(medgemma_artifact)
        killed = killed_at(monkeypatch, steps, lambda folder=folder: remove(folder, ["Q4_0", "Q8_0"]))  # type: ignore[misc]
        found = manifests.read(folder)
        manifests.verify(folder, found.files)
        open_model(folder).close()
        if not killed:
            break
        remove(folder, ["Q4_0", "Q8_0"])
        assert {name: data for name, data in contents(folder).items() if not name.endswith(".partial")} == contents(
            expected
        )
        steps += 1
    assert steps > 6


def test_a_note_cannot_name_what_no_manifest_listed(medgemma_artifact: Path, copied: Copy, tmp_path: Path) -> None:
    """It lies in a folder that others may have made: only a file of the stated content goes, and only from there."""
    folder = copied(medgemma_artifact)
    (tmp_path / "outside").write_text("mine")
    (folder / "thesis.txt").write_text("mine")
    entries: list[dict[str, Any]] = [
        {"path": "../outside", "sha256": "0" * 64, "bytes": 4},
        {"path": str(tmp_path / "outside"), "sha256": "0" * 64, "bytes": 4},
        {"path": "thesis.txt", "sha256": "0" * 64, "bytes": 4},
        manifests.file_entry(folder, folder / "edgekit.json").model_dump(),
        read_json(folder / "edgekit.json")["tokenizer"],
    ]
    (folder / NOTE).write_text(json.dumps({"levels": [], "files": entries}))
    remove(folder, ["Q4_0"])
    assert (tmp_path / "outside").read_text() == (folder / "thesis.txt").read_text() == "mine"
    (folder / "thesis.txt").unlink()
    whole(folder)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[" * 9999, b'{"levels": [3], "files": []}', b" " * 2_000_000])
def test_a_note_that_says_nothing_is_refused(medgemma_artifact: Path, copied: Copy, data: bytes) -> None:
    folder = copied(medgemma_artifact)
    (folder / NOTE).write_bytes(data)
    with pytest.raises(EdgekitError, match=r"edgekit-remove\.json"):
        remove(folder, ["Q4_0"])
    assert "Q4_0" in manifests.read(folder).variants


def test_what_the_file_system_refuses_is_an_error_of_edgekit(medgemma_artifact: Path, copied: Copy) -> None:
    folder = copied(medgemma_artifact)
    (folder / NOTE).mkdir()  # which no file can replace
    with pytest.raises(ArtifactError, match=r"edgekit-remove\.json"):
        remove(folder, ["Q4_0"])
    (folder / NOTE).rmdir()
    assert "Q4_0" in whole(folder).variants


def test_the_command(medgemma_artifact: Path, copied: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied(medgemma_artifact)
    assert cli.main(["remove", str(folder), "--level", "Q4_0", "--dry-run"]) == 0
    assert "would free 3.6 MB: Q4_0" in capsys.readouterr().out
    assert cli.main(["remove", str(folder), "--level", "BF16", "--level", "Q8_0", "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["kind"] == "UsageError"
    assert cli.main(["remove", str(folder), "--level", "Q4_0", "--level", "Q8_0", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["removed"], said["left"], said["default"]) == (["Q8_0", "Q4_0"], ["BF16"], "BF16")
    assert said["freed_bytes"] > 8_000_000
    assert "Modelfile.Q8_0" in said["files"]
    whole(folder)
