"""Artifacts: what DIR holds after success, after errors and after an export was cut off at any moment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from material import LEVELS, contents, edit_json, one_bit_changed, read_json

from edgekit.artifacts import find
from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.levels import LEVELS as LEVEL_ROWS
from edgekit.artifacts.recipes import recipe
from edgekit.errors import ArtifactError, EdgekitError, GateError, UsageError
from edgekit.export import stage
from edgekit.machine.memory import Memory
from edgekit.progress import Progress
from edgekit.prove import publish as artifact

Copy = Callable[[Path], Path]
NAME = "edgekit.json"


def refused(kind: type[EdgekitError], match: str, source: Path, folder: Path, **options: Any) -> EdgekitError:
    """This export fails, and everything in and beside its folder stays as it was."""
    before = contents(folder.parent)
    with pytest.raises(kind, match=match) as caught:
        artifact.export(source, folder, **{"prove": False, **options})
    assert contents(folder.parent) == before
    return caught.value


def beside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.iterdir())


# ---------------------------------------------------------------- the same bytes


def test_two_exports_are_byte_identical(
    medgemma_source: Path, medgemma_artifact: Path, copied: Copy, tmp_path: Path
) -> None:
    """In another process, from a copy of the folder elsewhere, into another folder."""
    elsewhere = copied(medgemma_source)
    command = [
        sys.executable,
        "-m",
        "edgekit",
        "export",
        str(elsewhere),
        "--to",
        str(tmp_path / "new" / "a"),
        "--no-prove",
        *(word for level in LEVELS for word in ("--level", level)),
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert contents(tmp_path / "new" / "a") == contents(medgemma_artifact)


def test_two_onnx_exports_are_byte_identical(
    medsiglip_source: Path, medsiglip_artifact: Path, copied: Copy, tmp_path: Path
) -> None:
    elsewhere = copied(medsiglip_source)
    command = [sys.executable, "-m", "edgekit", "export", str(elsewhere), "--to", str(tmp_path / "a"), "--no-prove"]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([*command, "--level", "fp32"], check=True, capture_output=True, cwd=tmp_path, env=environment)
    assert contents(tmp_path / "a") == contents(medsiglip_artifact)


def test_a_folder_holds_what_its_manifest_lists_and_nothing_else(medgemma_artifact: Path) -> None:
    listed = {entry.path for entry in manifests.read(medgemma_artifact).files}
    assert contents(medgemma_artifact).keys() == {NAME, "README.md", *listed}
    assert beside(medgemma_artifact) == [medgemma_artifact.name]


# ---------------------------------------------------------------- wrong names


def test_an_unknown_level_lists_the_known(medgemma_source: Path, tmp_path: Path) -> None:
    error = refused(UsageError, "unknown level 'Q5_1'", medgemma_source, tmp_path / "a", levels=["Q5_1"])
    assert {"BF16", "Q8_0", "Q4_K_M", "Q2_K"} <= set(re.findall(r"\w+", error.allowed or ""))


def test_an_unknown_part_lists_the_known(medgemma_source: Path, tmp_path: Path) -> None:
    error = refused(UsageError, "unknown part 'head'", medgemma_source, tmp_path / "a", parts={"head": "Q4_0"})
    assert error.allowed == "decoder, vision"


def test_a_part_at_a_level_that_it_cannot_have(medgemma_source: Path, medsiglip_source: Path, tmp_path: Path) -> None:
    what = "image_encoder cannot be exported as Q8_0"
    error = refused(UsageError, what, medsiglip_source, tmp_path / "a", parts={"image_encoder": "Q8_0"})
    assert error.allowed == "levels of onnx"
    error = refused(UsageError, "unknown level 'Q1'", medgemma_source, tmp_path / "a", parts={"vision": "Q1"})
    assert "Q4_0" in (error.allowed or "")


def test_parts_that_no_runtime_opens_together(medgemma_source: Path, tmp_path: Path) -> None:
    what = "vision Q8_0 beside decoder q4: llama.cpp opens vision in gguf only beside a decoder in gguf"
    error = refused(UsageError, what, medgemma_source, tmp_path / "a", levels=["q4"], parts={"vision": "Q8_0"})
    assert (error.allowed or "").startswith("vision at fp32, fp16, int8")
    refused(UsageError, "vision Q8_0 beside", medgemma_source, tmp_path / "a", levels=["Q8_0"], parts={"decoder": "q4"})


def test_an_unknown_recipe_lists_the_known(medgemma_source: Path, tmp_path: Path) -> None:
    error = refused(UsageError, "unknown recipe 'x'", medgemma_source, tmp_path / "a", recipe_name="x")
    assert "reference-medgemma" in (error.allowed or "")


# ---------------------------------------------------------------- a DIR that is something else


def test_another_sources_artifact(
    medgemma_artifact: Path, medgemma_source: Path, medsiglip_source: Path, copied: Copy
) -> None:
    folder = copied(medgemma_artifact)
    refused(ArtifactError, "holds reference-medgemma from the source", medsiglip_source, folder)
    changed = copied(medgemma_source)
    edit_json(changed / "tokenizer_config.json", {"model_max_length": 5})
    refused(ArtifactError, "not this one", changed, folder)


def test_a_folder_that_is_no_artifact(medgemma_source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    refused(ArtifactError, "is not empty and holds no artifact", medgemma_source, tmp_path / "mine")


def test_the_source_itself(medgemma_source: Path, copied: Copy) -> None:
    folder = copied(medgemma_source)
    refused(ArtifactError, "holds no artifact", folder, folder)


def test_a_file(medgemma_source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    refused(ArtifactError, "is a file", medgemma_source, tmp_path / "file")


def test_a_folder_below_a_file(medgemma_source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    refused(ArtifactError, "file", medgemma_source, tmp_path / "file" / "a" / "b")


@pytest.mark.parametrize(("model", "level"), [("medgemma", "Q4_0"), ("medsiglip", "fp16")])
def test_a_tampered_artifact_is_not_added_to(
    request: pytest.FixtureRequest, copied: Copy, model: str, level: str
) -> None:
    """Whichever file of whichever part it is."""
    folder = copied(request.getfixturevalue(f"{model}_artifact"))
    source = request.getfixturevalue(f"{model}_source")
    for entry in (file for part in manifests.read(folder).parts for file in part.files):
        with one_bit_changed(folder / entry.path):
            refused(ArtifactError, re.escape(entry.path) + ": its SHA-256", source, folder, levels=[level])


def test_an_empty_folder_is_used(medgemma_source: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    artifact.export(medgemma_source, tmp_path / "a", levels=["Q4_0"], prove=False)
    assert list(manifests.read(tmp_path / "a").variants) == ["Q4_0"]


READ_ONLY = """
import os, sys
from pathlib import Path
from edgekit.errors import ArtifactError
from edgekit.inputs.text import read_tokenizer
from edgekit.prove import publish as artifact
read_tokenizer(Path(sys.argv[1]) / "tokenizer.json")  # which starts Python, and that may lie where only root may look
if os.getuid() == 0:
    os.setuid(65534)  # permissions do not bind root
try:
    artifact.export(Path(sys.argv[1]), Path(sys.argv[2]), prove=False)
except ArtifactError as error:
    print(error)
    sys.exit(9)
"""


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="needs POSIX permissions")
def test_a_folder_that_may_not_be_written(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    source, closed = copied(medgemma_source), tmp_path / "closed"
    closed.mkdir()
    for path in [tmp_path, *tmp_path.parents][:-1]:
        if path.stat().st_uid == os.getuid():
            path.chmod(path.stat().st_mode | 0o055)
    closed.chmod(0o555)
    run = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(source), str(closed / "a")], capture_output=True, text=True, check=False
    )
    closed.chmod(0o755)
    assert run.returncode == 9, run.stderr
    assert "Permission denied" in run.stdout
    assert "try: check the path, its permissions and free space" in run.stdout
    assert not any(closed.iterdir())


# ---------------------------------------------------------------- adding levels


def test_added_levels_leave_the_old_parts_untouched(
    medgemma_source: Path, medgemma_artifact: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "a"
    first = artifact.export(medgemma_source, folder, levels=["BF16", "Q8_0"], prove=False)
    inodes = {path.name: path.stat().st_ino for path in folder.iterdir() if path.suffix == ".gguf"}
    second = artifact.export(medgemma_source, folder, levels=["Q4_0"], prove=False)
    # the vision part at Q8_0 is shared
    assert [(part.role, part.level) for part in second.added] == [("decoder", "Q4_0")]
    assert all(part in second.manifest.parts for part in first.manifest.parts)
    assert inodes.items() <= {path.name: path.stat().st_ino for path in folder.iterdir()}.items()
    assert beside(folder) == ["a"]
    assert contents(folder) == contents(medgemma_artifact)
    again = artifact.export(medgemma_source, folder, levels=LEVELS, prove=False)
    assert again.added == ()
    assert contents(folder) == contents(medgemma_artifact)


def test_the_default_is_the_recipes_or_the_first_that_was_asked_for(medgemma_source: Path, tmp_path: Path) -> None:
    def default_with(*levels: str) -> str:
        return artifact.export(medgemma_source, tmp_path / "a", levels=levels, prove=False).manifest.default

    assert default_with("Q4_0", "Q8_0") == "Q4_0"  # the recipe lists Q8_0 before it
    assert default_with("BF16") == "Q4_0"
    assert default_with("Q2_K", "Q4_0+vision-int8") == "Q4_0+vision-int8"
    assert default_with("Q6_K") == "Q4_0+vision-int8"


def test_without_a_name_the_largest_levels_are_left_out(
    medgemma_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = [name for name in recipe("reference-medgemma").variant if name != "Q4_0+vision-int8"]
    own_recipe(tmp_path, monkeypatch, lambda text: text.replace("on_request = []", f"on_request = {large}"))
    notes = Notes()
    found = artifact.export(medgemma_source, tmp_path / "a", prove=False, progress=notes).manifest
    assert list(found.variants) == ["Q4_0+vision-int8"]
    assert notes.said == [f"left out, for they are large: {', '.join(large)}; --level NAME exports them"]
    notes = Notes()
    artifact.export(medgemma_source, tmp_path / "b", levels=["Q4_0"], prove=False, progress=notes)
    assert list(manifests.read(tmp_path / "b").variants) == ["Q4_0"]
    assert notes.said == []


@pytest.mark.parametrize("name", find.names("exports"))
def test_what_is_on_request_is_a_variant(name: str) -> None:
    chosen = recipe(name)
    assert set(chosen.on_request) <= set(chosen.variant)
    weights = 27 if "27b" in name else 12 if "12b" in name else 4 if "4b" in name else 1
    assert set(chosen.on_request) == ({"fp32", "fp16"} if weights >= 4 else set())


def test_a_default_on_request_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_recipe(tmp_path, monkeypatch, lambda text: text.replace("on_request = []", 'on_request = ["Q4_0+vision-int8"]'))
    with pytest.raises(UsageError, match="default 'Q4_0\\+vision-int8' is exported on request only"):
        recipe("reference-medgemma")


def own_recipe(home: Path, monkeypatch: pytest.MonkeyPatch, edit: Callable[[str], str]) -> None:
    """A user's own recipe of the reference model."""
    shipped = find.find("exports", "reference-medgemma").read_text()
    (home / "home" / "exports").mkdir(parents=True)
    assert edit(shipped) != shipped
    (home / "home" / "exports" / "reference-medgemma.toml").write_text(edit(shipped))
    monkeypatch.setenv("EDGEKIT_HOME", str(home / "home"))


def test_a_variant_with_another_part_has_a_name_of_its_own(medgemma_source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    artifact.export(medgemma_source, folder, levels=["Q4_0"], prove=False)
    found = artifact.export(medgemma_source, folder, levels=["Q4_0"], parts={"vision": "BF16"}, prove=False).manifest
    assert list(found.variants) == ["Q4_0", "Q4_0+vision-BF16"]
    plain, mixed = (found.variant(name)[1] for name in found.variants)
    assert plain["decoder"] == mixed["decoder"]
    assert (plain["vision"].level, mixed["vision"].level) == ("Q8_0", "BF16")


def test_a_notice_that_changed_is_replaced_with_the_manifest(
    medgemma_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a"
    artifact.export(medgemma_source, folder, levels=["Q8_0"], prove=False)
    own_recipe(tmp_path, monkeypatch, lambda text: text.replace('license = """', 'license = """corrected notice, '))
    found = artifact.export(medgemma_source, folder, levels=["Q4_0"], prove=False).manifest
    assert "corrected notice" in (folder / "NOTICE").read_text()
    manifests.verify(folder, found.files)


def test_an_error_while_adding_leaves_the_artifact_as_it_was(
    medgemma_source: Path, medgemma_artifact: Path, copied: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(medgemma_artifact)
    refused(UsageError, "unknown level", medgemma_source, folder, levels=["Q4_0", "nonsense"])

    def fail(*_: Any, **__: Any) -> Any:
        raise GateError("refused")

    monkeypatch.setattr(artifact, "prove_parts", fail)
    refused(GateError, "refused", medgemma_source, folder, levels=["Q4_0"], parts={"vision": "Q4_0"}, prove=True)


# ---------------------------------------------------------------- what memory has no room for


class Notes(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.slow
def test_what_memory_has_no_room_for_is_published_unproven(
    medsiglip_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(*levels: str) -> tuple[dict[str, bool], list[str]]:
        notes = Notes()
        found = artifact.export(medsiglip_source, tmp_path / "a", levels=levels, progress=notes).manifest
        return {part.level: part.parity is not None for part in found.parts}, notes.said

    def needs(level: str) -> int:
        parts = manifests.read(tmp_path / "a").variant(level)[1].values()
        return sum(part.requires["memory_bytes"] for part in parts)

    assert export("fp32") == ({"fp32": True}, [])
    monkeypatch.setattr(artifact, "memory", lambda: Memory(10**12, needs("fp32") // 2))
    proven, said = export("fp16", "q4")
    assert proven == {"fp32": True, "fp16": False, "q4": True}
    assert needs("fp16") == pytest.approx(needs("fp32"), rel=0.05)  # though its file is half as large
    q4 = [
        (p.requires["memory_bytes"], p.files[1].bytes) for p in manifests.read(tmp_path / "a").variant("q4")[1].values()
    ]
    assert all(1.02 < memory / file < 1.2 for memory, file in q4)  # norms and tables stay as large as they are
    assert len(said) == 1
    assert re.fullmatch(
        r"fp16 is not proven: it takes .* GB of memory, .* run: edgekit prove DIR --level fp16", said[0]
    )
    # Proving all keeps what is known; what is named is opened whatever it takes.
    artifact.prove(tmp_path / "a", medsiglip_source)
    assert [part.level for part in manifests.read(tmp_path / "a").parts if part.parity is None] == ["fp16", "fp16"]
    found = artifact.prove(tmp_path / "a", medsiglip_source, levels=["fp16"]).manifest
    assert all(part.parity for part in found.parts)


# ---------------------------------------------------------------- errors and interruptions


def test_a_refused_proof_leaves_nothing(medgemma_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gates that no rounded matrix can pass: the files were written, and are gone."""
    impossible = "\n[gates]\nwiring_error = { Q8_0 = 0 }\nwiring_kl = { Q8_0 = 0 }\n"
    own_recipe(tmp_path, monkeypatch, lambda text: re.sub(r"\n\[gates(.|\n)*", "", text) + impossible)
    refused(GateError, "wiring", medgemma_source, tmp_path / "work" / "a", levels=["Q8_0"], prove=True)
    assert beside(tmp_path / "home") == ["home"]


class CutOff(Progress):
    """Ctrl-C after so many weights."""

    def __init__(self, weights: int) -> None:
        self.left = weights
        self.totals: list[int] = []

    def start(self, label: str, total: int) -> None:
        self.totals.append(total)

    def advance(self, units: int = 1) -> None:
        self.left -= units
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("weights", [0, 3_000_000, 6_500_000, 13_500_000])
def test_an_interrupted_export_goes_on_where_it_stopped(
    medgemma_source: Path, medgemma_artifact: Path, tmp_path: Path, weights: int
) -> None:
    folder = tmp_path / "work" / "a"
    cut = CutOff(weights)
    with pytest.raises(KeyboardInterrupt):
        artifact.export(medgemma_source, folder, levels=LEVELS, prove=False, progress=cut)
    assert beside(folder) == [".a.partial"]
    rest = CutOff(10**12)
    artifact.export(medgemma_source, folder, levels=LEVELS, prove=False, progress=rest)
    assert contents(folder) == contents(medgemma_artifact)
    assert beside(folder) == ["a"]
    # Whole tensors that were there are not written again; the embedding, the largest, has 540,672 weights.
    assert rest.totals[0] < cut.totals[0] - weights + 5 * 540_672 or weights == 0


def test_fresh_forgets_what_was_finished(medgemma_source: Path, medgemma_artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work" / "a"
    with pytest.raises(KeyboardInterrupt):
        artifact.export(medgemma_source, folder, levels=LEVELS, prove=False, progress=CutOff(6_500_000))
    rest = CutOff(10**12)
    artifact.export(medgemma_source, folder, levels=LEVELS, prove=False, fresh=True, progress=rest)
    whole = sum(part.weights for part in manifests.read(folder).parts)
    assert rest.totals[0] == whole
    assert contents(folder) == contents(medgemma_artifact)


def test_a_rerun_for_other_levels_publishes_only_those(medgemma_source: Path, tmp_path: Path) -> None:
    """Half a file of a level that nobody wants any more must not come along."""
    folder = tmp_path / "work" / "a"
    with pytest.raises(KeyboardInterrupt):
        artifact.export(medgemma_source, folder, levels=LEVELS, prove=False, progress=CutOff(6_500_000))
    artifact.export(medgemma_source, folder, levels=["Q4_0"], prove=False)
    plain = artifact.export(medgemma_source, tmp_path / "b", levels=["Q4_0"], prove=False).folder
    assert contents(folder) == contents(plain)


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_remainder_is_written_again(
    medgemma_source: Path, medgemma_artifact: Path, tmp_path: Path, damage: str
) -> None:
    """Of a part that was not finished."""
    folder = tmp_path / "work" / "a"
    with pytest.raises(KeyboardInterrupt):
        artifact.export(medgemma_source, folder, levels=LEVELS, prove=False, progress=CutOff(6_500_000))
    begun = folder.parent / ".a.partial" / "medgemma-reference-BF16.gguf"
    begun.write_bytes(begun.read_bytes()[:-9] + (bytes(9) if damage == "changed" else b""))
    artifact.export(medgemma_source, folder, levels=LEVELS, prove=False)
    assert contents(folder) == contents(medgemma_artifact)


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "record"])
def test_a_damaged_finished_part_is_written_again(
    medgemma_source: Path, medgemma_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """It, or the record that says it is finished, is not what the interrupted run left."""
    folder = tmp_path / "work" / "a"
    interrupted_behind_the_files(monkeypatch, medgemma_source, folder, *LEVELS)
    staging = folder.parent / ".a.partial"
    records = [path for path in staging.glob(".*.json") if '"files"' in path.read_text()]
    assert len(records) == len(manifests.read(medgemma_artifact).parts)
    finished = staging / "medgemma-reference-BF16.gguf"
    content = finished.read_bytes()
    if damage == "record":
        for record in records:
            record.write_text(record.read_text()[:40])
    elif damage == "missing":
        finished.unlink()
    else:
        finished.write_bytes(content[:-9] + (bytes(9) if damage == "changed" else b""))
        assert finished.read_bytes() != content
    artifact.export(medgemma_source, folder, levels=LEVELS, prove=False)
    assert contents(folder) == contents(medgemma_artifact)


def test_a_remainder_of_another_source_is_not_taken_over(
    medgemma_source: Path, medgemma_artifact: Path, copied: Copy, tmp_path: Path
) -> None:
    other = copied(medgemma_source)
    data = bytearray((other / "model.safetensors").read_bytes())
    data[-2000:] = bytes(2000)
    (other / "model.safetensors").write_bytes(data)
    folder = tmp_path / "work" / "a"
    with pytest.raises(KeyboardInterrupt):
        artifact.export(other, folder, levels=LEVELS, prove=False, progress=CutOff(13_500_000))
    artifact.export(medgemma_source, folder, levels=LEVELS, prove=False)
    assert contents(folder) == contents(medgemma_artifact)


def test_an_error_removes_the_remainder_too(
    medgemma_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "work" / "a"
    with pytest.raises(KeyboardInterrupt):
        artifact.export(medgemma_source, folder, levels=LEVELS, prove=False, progress=CutOff(6_500_000))

    def fail(*_: Any, **__: Any) -> Any:
        raise GateError("refused")

    monkeypatch.setattr(artifact, "prove_parts", fail)
    with pytest.raises(GateError):
        artifact.export(medgemma_source, folder, levels=LEVELS)
    assert beside(folder) == []


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("files", [0, 1, 5])
def test_killed_while_publishing_a_rerun_has_nothing_to_convert(
    medgemma_source: Path,
    medgemma_artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: int,
    links: bool,
) -> None:
    """Killed when so many files are in DIR: the artifact there is the old one and whole."""
    folder, replace_file = tmp_path / "a", os.replace
    before = artifact.export(medgemma_source, folder, levels=["BF16"], prove=False).manifest
    left = files

    def killed(source: Any, target: Any, **options: Any) -> None:
        nonlocal left
        if Path(target).is_relative_to(folder):
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
        replace_file(source, target, **options)

    def no_links(*_: Any) -> None:
        raise OSError

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            artifact.export(medgemma_source, folder, levels=["Q8_0", "Q4_0"], prove=False)
    assert manifests.read(folder) == before
    manifests.verify(folder, tuple(file for part in before.parts for file in part.files))
    rest = CutOff(10**12)
    artifact.export(medgemma_source, folder, levels=["Q8_0", "Q4_0"], prove=False, progress=rest)
    assert sum(rest.totals) == 0
    assert contents(folder) == contents(medgemma_artifact)
    assert "a" in beside(folder)
    assert ".a.partial" not in beside(folder)


@pytest.mark.parametrize("change", ["method", "codec", "activations"])
def test_what_another_method_made_is_not_taken_over(
    medsiglip_source: Path, medsiglip_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """An interrupted run of an edgekit whose fp32 meant something else left all of its files."""
    folder, fp32 = tmp_path / "a", LEVEL_ROWS["fp32"]
    with monkeypatch.context() as patch:
        if change == "method":
            patch.setattr(stage, "METHOD", stage.METHOD - 1)
        else:
            mixture = {} if change == "activations" else {"attn_q": "float16"}
            activations = "dynamic" if change == "activations" else "float"
            patch.setitem(LEVEL_ROWS, "fp32", replace(fp32, mixture=mixture, activations=activations))
        interrupted_behind_the_files(patch, medsiglip_source, folder, "fp32")
    rest = CutOff(10**12)
    artifact.export(medsiglip_source, folder, levels=["fp32"], prove=False, progress=rest)
    assert sum(rest.totals) > 0
    assert contents(folder) == contents(medsiglip_artifact)


def test_another_choice_of_levels_takes_over_what_both_want(
    medgemma_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_behind_the_files(monkeypatch, medgemma_source, tmp_path / "a", "Q8_0")
    rest = CutOff(10**12)
    found = artifact.export(medgemma_source, tmp_path / "a", levels=["Q8_0", "Q4_0"], prove=False, progress=rest)
    assert rest.totals == [next(p.weights for p in found.manifest.parts if p.level == "Q4_0")]


def interrupted_behind_the_files(monkeypatch: pytest.MonkeyPatch, source: Path, folder: Path, *levels: str) -> None:
    """Ctrl-C when all weights are written and nothing is published."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, "copy_support", interrupt)
        with pytest.raises(KeyboardInterrupt):
            artifact.export(source, folder, levels=levels, prove=False)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_second_export_into_the_same_folder_sees_a_whole_artifact(medgemma_source: Path, tmp_path: Path) -> None:
    """At every moment of an export DIR is absent, or complete."""
    folder, seen = tmp_path / "a", []

    class Watch(Progress):
        def advance(self, units: int = 1) -> None:
            if folder.exists():
                manifests.verify(folder, manifests.read(folder).files)
            seen.append(folder.exists())

    artifact.export(medgemma_source, folder, levels=["Q8_0"], prove=False, progress=Watch())
    assert set(seen) == {False}
    artifact.export(medgemma_source, folder, levels=["BF16"], prove=False, progress=Watch())
    assert seen[-1]


# ---------------------------------------------------------------- proving later


def test_proving_needs_the_source_it_was_made_from(
    medgemma_artifact: Path, medsiglip_source: Path, copied: Copy
) -> None:
    folder = copied(medgemma_artifact)
    before = contents(folder)
    with pytest.raises(UsageError, match="is not the checkpoint that") as caught:
        artifact.prove(folder, medsiglip_source)
    assert read_json(folder / NAME)["source"]["sha256"][:16] in (caught.value.allowed or "")
    assert contents(folder) == before


def test_a_remainders_right_files_prove_nothing_of_wrong_published_ones(
    medsiglip_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted run keeps files under the names of published ones that somebody replaced since."""
    folder = tmp_path / "a"
    artifact.export(medsiglip_source, folder, levels=["fp16"], prove=False)
    interrupted_behind_the_files(monkeypatch, medsiglip_source, folder, "fp16", "q4")
    assert beside(folder) == [".a.partial", "a"]
    zero_a_quarter(folder, "text_encoder")
    wrong = contents(folder)
    with pytest.raises((ArtifactError, GateError)):
        artifact.export(medsiglip_source, folder, levels=["fp16", "q4"])
    assert contents(folder) == wrong


def zero_a_quarter(folder: Path, role: str) -> None:
    """Of the weights of an ONNX part; the manifest describes the file as it now is."""
    manifest = manifests.read(folder)
    (part,) = (part for part in manifest.parts if part.role == role)
    path = folder / next(file.path for file in part.files if file.path.endswith(".onnx_data"))
    weights, quarter = path.read_bytes(), path.stat().st_size // 4
    path.unlink()  # what is linked to it elsewhere stays right
    path.write_bytes(weights[:-quarter] + bytes(quarter))
    assert path.read_bytes() != weights
    files = tuple(manifests.file_entry(folder, folder / file.path) for file in part.files)
    part_id = manifests.part_id(part.role, part.format, part.level, files)
    parts = tuple(p.model_copy(update={"id": part_id, "files": files}) if p == part else p for p in manifest.parts)
    variants = {
        name: {role: part_id if given == part.id else given for role, given in roles.items()}
        for name, roles in manifest.variants.items()
    }
    manifests.write(folder, manifest.model_copy(update={"parts": parts, "variants": variants}))


def test_a_changed_file_is_not_proven(medgemma_onnx: Path, medgemma_source: Path, copied: Copy) -> None:
    """Graphs, weights and what calibration found: each is compared with the manifest before anything runs."""
    folder = copied(medgemma_onnx)
    manifest = manifests.read(folder)
    entries = [*(file for part in manifest.parts for file in part.files), manifest.tokenizer]
    assert {Path(entry.path).suffix for entry in entries} == {".onnx", ".onnx_data", ".json"}
    for entry in entries:
        with one_bit_changed(folder / entry.path):
            before = contents(folder)
            with pytest.raises(ArtifactError, match=re.escape(entry.path) + ": its SHA-256"):
                artifact.prove(folder, medgemma_source)
            assert contents(folder) == before
