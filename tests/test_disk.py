"""What others put where edgekit writes is left alone, what the disk refuses is said, and nobody's update is lost."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_stubs import InProcess
from material import Copy, contents

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.disk_errors import file_errors, named
from edgekit.artifacts.files import append_line, create, put, write_atomically
from edgekit.artifacts.folders import MARKER, claimed, empty, new_folder, remove
from edgekit.artifacts.manifest import Parity
from edgekit.bench import Sweep, runner
from edgekit.errors import ArtifactError, EdgekitError, NoSpaceError, UsageError
from edgekit.machine.temporary import array_in_a_file, temporary_folder
from edgekit.progress import Progress
from edgekit.prove import publish as artifact

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX links and locks")

NOT_OURS = "holds files that edgekit did not put there"
FIGURES = {"mean": 1.0, "worst": 1.0}
PARITY = Parity(metric="cosine", wiring=FIGURES, loss=FIGURES, positions=1, inputs="some")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """Somebody's folder, somewhere else."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    return folder


def export(source: Path, folder: Path) -> None:
    artifact.export(source, folder, levels=["fp32"], prove=False)


def fill(source: Path, folder: Path) -> None:
    with new_folder(folder) as staging:
        (staging / "file").touch()


# ---------------------------------------------------------------- folders of others


@pytest.mark.parametrize("write", [export, fill])
@pytest.mark.parametrize("kind", ["folder", "link", "link to nothing", "file", "marker is a link"])
def test_what_is_not_edgekits_is_not_touched(
    medsiglip_source: Path, tmp_path: Path, theirs: Path, write: Callable[[Path, Path], None], kind: str
) -> None:
    """In the place of an unfinished folder, while the artifact itself is new."""
    place = tmp_path / ".a.partial"
    if kind == "folder":
        theirs.rename(place)
        theirs = place
    elif kind == "file":
        place.write_text("a file")
    elif kind == "marker is a link":
        place.mkdir()
        (place / "mine").touch()
        (place / MARKER).symlink_to(theirs / "thesis.txt")
    else:
        place.symlink_to(theirs if kind == "link" else tmp_path / "nothing")
    before = contents(tmp_path)
    with pytest.raises(ArtifactError) as refused:
        write(medsiglip_source, tmp_path / "a")
    assert refused.value.remedy
    assert str(place) in str(refused.value)
    assert contents(tmp_path) == before
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "nothing").exists()


def test_an_empty_folder_is_nobodys(medsiglip_source: Path, medsiglip_artifact: Path, tmp_path: Path) -> None:
    """As a kill leaves it between making it and marking it."""
    (tmp_path / ".a.partial").mkdir()
    export(medsiglip_source, tmp_path / "a")
    assert contents(tmp_path / "a") == contents(medsiglip_artifact)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def interrupted(source: Path, folder: Path) -> Path:
    """What an export leaves that Ctrl-C ended in its midst."""

    class CutOff(Progress):
        def advance(self, units: int = 1) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        artifact.export(source, folder, levels=["fp32"], prove=False, progress=CutOff())
    return folder.parent / f".{folder.name}.partial"


@pytest.mark.parametrize(
    "name",
    ["NOTICE", "config.json", "edgekit.json", "onnx/vision_model.onnx", "onnx/text_model.onnx_data",
     "onnx/.text_model.onnx_data.journal", ".image_encoder-fp32.json"],
)  # fmt: skip
def test_nothing_is_written_through_a_link_in_an_unfinished_folder(
    medsiglip_source: Path, medsiglip_artifact: Path, tmp_path: Path, theirs: Path, name: str
) -> None:
    staging = interrupted(medsiglip_source, tmp_path / "a")
    (staging / name).unlink(missing_ok=True)
    (staging / name).symlink_to(theirs / "thesis.txt")
    export(medsiglip_source, tmp_path / "a")
    assert (theirs / "thesis.txt").read_text() == "years of work"
    assert contents(tmp_path / "a") == contents(medsiglip_artifact)
    assert not any(path.is_symlink() for path in (tmp_path / "a").rglob("*"))


def test_links_in_a_folder_that_is_emptied_lead_nowhere(tmp_path: Path, theirs: Path) -> None:
    with claimed(tmp_path / "a"):
        (tmp_path / "a" / "below").mkdir()
        (tmp_path / "a" / "below" / "link").symlink_to(theirs)
        (tmp_path / "a" / "link").symlink_to(theirs)
        (tmp_path / "a" / "file").symlink_to(theirs / "thesis.txt")
        empty(tmp_path / "a")
        assert list(contents(tmp_path / "a")) == [MARKER]
        remove(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert (theirs / "thesis.txt").exists()


def test_a_folder_that_changed_hands_is_not_emptied(tmp_path: Path, theirs: Path) -> None:
    """Somebody put another folder, or a link to one, in its place meanwhile."""
    with claimed(tmp_path / "a"):
        (tmp_path / "a").rename(tmp_path / "b")
        (tmp_path / "a").symlink_to(theirs)
        with pytest.raises(ArtifactError, match="is a link"):
            empty(tmp_path / "a")
        (tmp_path / "a").unlink()
        theirs.rename(tmp_path / "a")
        with pytest.raises(ArtifactError, match=NOT_OURS):
            empty(tmp_path / "a")
        remove(tmp_path / "a")
    assert (tmp_path / "a" / "thesis.txt").exists()


def test_an_artifacts_folder_that_is_a_link_out_is_refused(
    medsiglip_source: Path, medsiglip_artifact: Path, copied: Copy, theirs: Path
) -> None:
    """Where a level would be added."""
    folder = copied(medsiglip_artifact)
    (folder / "onnx").rename(theirs / "onnx")
    (folder / "onnx").symlink_to(theirs / "onnx")
    before = contents(theirs)
    with pytest.raises(ArtifactError, match="link"):
        artifact.export(medsiglip_source, folder, levels=["fp16"], prove=False)
    assert contents(theirs) == before


# ---------------------------------------------------------------- files of others


@pytest.mark.parametrize("kind", ["link", "folder", "file"])
@pytest.mark.parametrize("middle", ["", "PID.", "0123456789abcdef."])
def test_a_temporary_file_is_nobody_elses(tmp_path: Path, theirs: Path, middle: str, kind: str) -> None:
    place = tmp_path / f".x.json.{middle.replace('PID', str(os.getpid()))}partial"
    if kind == "link":
        place.symlink_to(theirs / "thesis.txt")
    elif kind == "folder" or len(middle) > 10:  # a file of that name is what a killed process leaves
        kind = "folder"
        theirs.rename(place)
        theirs = place
    else:
        place.write_text("mine")
    write_atomically(tmp_path / "x.json", "new")
    assert (tmp_path / "x.json").read_text() == "new"
    assert (theirs / "thesis.txt").read_text() == "years of work"
    assert place.is_symlink() is (kind == "link")
    assert kind != "file" or place.read_text() == "mine"


KILLED = """
import os, signal, sys
from pathlib import Path
from edgekit.artifacts.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", KILLED, path], check=False).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1  # the second removed the first's
    write_atomically(path, "new")
    assert [found.name for found in tmp_path.iterdir()] == ["x.json"]


def test_what_a_living_process_writes_is_not_taken_for_a_remainder(tmp_path: Path) -> None:
    other = tmp_path / ".x.json.0123456789abcdef.partial"
    with other.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_atomically(tmp_path / "x.json", "new")
        assert other.exists()
    write_atomically(tmp_path / "x.json", "new")
    assert not other.exists()


def test_a_new_file_replaces_a_link_and_not_what_it_names(tmp_path: Path, theirs: Path) -> None:
    (tmp_path / "x").symlink_to(theirs / "thesis.txt")
    with create(tmp_path / "x") as file:
        file.write(b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    (tmp_path / "y").symlink_to(theirs / "thesis.txt")
    put(tmp_path / "x", tmp_path / "y", link=False)
    assert not (tmp_path / "y").is_symlink()
    assert (theirs / "thesis.txt").read_text() == "years of work"


# ---------------------------------------------------------------- a benchmark's folder


def bench(work: Path) -> None:
    runner.bench(Sweep([]), work=work, progress=False, executor=InProcess())


@pytest.fixture
def nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "subjects", lambda *_: [])
    monkeypatch.setattr(runner, "choose", lambda *_, **__: [])


@pytest.mark.usefixtures("nothing_to_measure")
@pytest.mark.parametrize("kind", ["folder", "link", "link inside"])
def test_a_benchmark_removes_nothing_of_others(tmp_path: Path, theirs: Path, kind: str) -> None:
    work = tmp_path / "m" / "work"
    work.parent.mkdir()
    if kind == "folder":
        (theirs / "reference").mkdir()
        (theirs / "thesis.txt").rename(theirs / "reference" / "thesis.txt")
        theirs = theirs.rename(work)
    elif kind == "link":
        work.symlink_to(theirs)
    else:
        with claimed(work):
            (work / "reference").symlink_to(theirs)
    before = contents(tmp_path)
    with pytest.raises(ArtifactError, match="is a link" if "link" in kind else NOT_OURS):
        bench(work)
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("nothing_to_measure")
def test_two_benchmarks_do_not_share_a_folder(tmp_path: Path) -> None:
    bench(tmp_path / "work")
    with claimed(tmp_path / "work"), pytest.raises(ArtifactError, match="another command is writing here"):
        bench(tmp_path / "work")


@pytest.mark.parametrize("torn", [b"", b'{"a": 1}\n', b'{"a": 1}\n{"b"', b'{"b'])
def test_a_line_behind_a_torn_one_is_whole(tmp_path: Path, torn: bytes) -> None:
    journal = tmp_path / "journal"
    journal.write_bytes(torn)
    append_line(journal, '{"c": 3}')
    append_line(journal, '{"d": 4}')
    assert journal.read_bytes().splitlines()[-2:] == [b'{"c": 3}', b'{"d": 4}']
    assert journal.read_bytes().startswith(torn)
    link = tmp_path / "link"
    link.symlink_to(journal)
    with pytest.raises(OSError, match="symbolic link"):
        append_line(link, "x")


# ---------------------------------------------------------------- what the disk refuses


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (errno.ENOSPC, NoSpaceError, "no space left on the disk"),
        (errno.EDQUOT, NoSpaceError, "no space left in the quota"),
        (errno.EFBIG, NoSpaceError, "no space left on the disk for a file of this size"),
        (errno.EIO, ArtifactError, "Input/output error"),
        (errno.EROFS, ArtifactError, "Read-only file system"),
        (errno.EACCES, ArtifactError, "Permission denied"),
    ],
)
def test_a_refusal_names_the_place(tmp_path: Path, code: int, kind: type[EdgekitError], said: str) -> None:
    def fail(where: Path, named_as: Path | None = None) -> None:
        with file_errors(where):
            if named_as is None:
                raise OSError(code, os.strerror(code))
            with named(tmp_path / "not this"), named(named_as):
                raise OSError(code, os.strerror(code))

    with pytest.raises(kind, match=f"^{tmp_path / 'a'}: {said}"):
        fail(tmp_path / "a")
    with pytest.raises(kind, match=f"^{tmp_path / 'b'}: {said}") as caught:
        fail(tmp_path / "a", tmp_path / "b")
    assert caught.value.remedy


def test_a_full_folder_for_temporary_files_is_not_blamed_on_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "small"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))

    def fill_up() -> None:
        with file_errors(tmp_path / "target" / "a"), temporary_folder("test"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(NoSpaceError, match=f"^{place}: no space left") as caught:
        fill_up()
    assert "TMPDIR" in (caught.value.remedy or "")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path.parent))  # where the target lies too
    with pytest.raises(NoSpaceError) as caught, file_errors(tmp_path / "target" / "a"), named(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "TMPDIR" not in (caught.value.remedy or "")


def test_no_folder_for_temporary_files_is_not_blamed_on_the_target(
    medsiglip_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is written already stays for the rerun."""

    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    with monkeypatch.context() as patch:

        def full(*_: Any) -> None:
            patch.setattr(tempfile, "gettempdir", none)
            array_in_a_file((1, 1))

        patch.setattr(artifact, "prove_parts", full)
        with pytest.raises(ArtifactError, match=r"^\$TMPDIR: No usable temporary directory"):
            artifact.export(medsiglip_source, tmp_path / "a", levels=["fp32"])
    assert list((tmp_path / ".a.partial").rglob("*.onnx_data"))


def test_a_pipe_that_nobody_reads_is_no_disk(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), file_errors(tmp_path):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


# ---------------------------------------------------------------- two at once


class Meanwhile(Progress):
    """Somebody else does something, once, while an export computes."""

    def __init__(self, what: Callable[[], object]) -> None:
        self._what: Callable[[], object] | None = what

    def advance(self, units: int = 1) -> None:
        if self._what:
            self._what()
        self._what = None


def record_parity(folder: Path) -> None:
    """What a proof does in the end."""
    found = manifests.read(folder)
    parts = tuple(part.model_copy(update={"parity": PARITY}) for part in found.parts)
    manifests.write(folder, found.model_copy(update={"parts": parts}))


def test_an_export_keeps_what_a_proof_found_meanwhile(
    medsiglip_source: Path, medsiglip_artifact: Path, copied: Copy
) -> None:
    folder = copied(medsiglip_artifact)
    meanwhile = Meanwhile(lambda: record_parity(folder))
    artifact.export(medsiglip_source, folder, levels=["fp16"], prove=False, progress=meanwhile)
    parity = {part.level: part.parity for part in manifests.read(folder).parts}
    assert parity == {"fp32": PARITY, "fp16": None}
    manifests.verify(folder, manifests.read(folder).files)


def test_an_export_does_not_bring_back_what_was_removed_meanwhile(
    medsiglip_source: Path, medsiglip_artifact: Path, copied: Copy
) -> None:
    folder = copied(medsiglip_artifact)
    artifact.export(medsiglip_source, folder, levels=["q4"], prove=False)

    def slim() -> None:
        found = manifests.read(folder)
        parts = tuple(part for part in found.parts if part.level != "q4")
        changed = {"parts": parts, "variants": {"fp32": found.variants["fp32"]}, "default": "fp32"}
        manifests.write(folder, found.model_copy(update=changed))
        for name in (file.path for part in found.parts if part.level == "q4" for file in part.files):
            (folder / name).unlink()

    artifact.export(medsiglip_source, folder, levels=["fp16"], prove=False, progress=Meanwhile(slim))
    found = manifests.read(folder)
    assert set(found.variants) == {"fp32", "fp16"}
    assert {part.level for part in found.parts} == {"fp32", "fp16"}
    manifests.verify(folder, found.files)


@pytest.mark.parametrize("changed", ["source/model.safetensors", "artifact/tokenizer.json", "artifact/onnx/v*_data"])
def test_a_proof_of_files_that_are_exchanged_meanwhile_counts_for_none(
    medsiglip_source: Path, medsiglip_artifact: Path, copied: Copy, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """The ones that were hashed, and are named in the manifest, are then not the ones that were compared."""
    root, pattern = changed.split("/", 1)
    folders = {"source": copied(medsiglip_source), "artifact": copied(medsiglip_artifact)}
    place, before = next(folders[root].glob(pattern)), contents(folders["artifact"])

    def meanwhile(parts: list[Any], *_: Any) -> list[Parity]:
        place.with_name("new").write_bytes(place.read_bytes())
        place.with_name("new").replace(place)
        return [PARITY] * len(parts)

    monkeypatch.setattr(artifact, "prove_parts", meanwhile)
    monkeypatch.setattr(artifact, "check_scores", lambda *_: None)
    with pytest.raises(EdgekitError, match=f"{place}: was changed while it was"):
        artifact.prove(folders["artifact"], folders["source"])
    assert contents(folders["artifact"]) == before


COUNT = """
import sys
from pathlib import Path
from edgekit.artifacts import manifest
for _ in range(40):
    manifest.update(Path(sys.argv[1]), lambda m: m.model_copy(update={"title": str(int(m.title) + 1)}))
"""


def test_no_update_of_a_manifest_is_lost(medsiglip_artifact: Path, copied: Copy) -> None:
    """Three processes count in one place, one of them through a link."""
    folder = copied(medsiglip_artifact)
    manifests.write(folder, manifests.read(folder).model_copy(update={"title": "0"}))
    link = folder.with_name("link")
    link.symlink_to(folder)
    running = [subprocess.Popen([sys.executable, "-c", COUNT, place]) for place in (folder, folder, link)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert manifests.read(folder).title == "120"
    assert contents(folder).keys() == contents(medsiglip_artifact).keys()


@pytest.mark.slow
def test_a_proof_and_an_export_at_once_lose_nothing(
    medsiglip_source: Path, medsiglip_artifact: Path, copied: Copy
) -> None:
    """Two real processes, whichever ends first."""
    folder = copied(medsiglip_artifact)
    edgekit = [sys.executable, "-m", "edgekit"]
    running = [
        subprocess.Popen([*edgekit, "prove", folder, "--level", "fp32"], stdout=subprocess.DEVNULL),
        subprocess.Popen([*edgekit, "export", medsiglip_source, "--to", folder, "--level", "fp16", "--no-prove"]),
    ]
    assert [process.wait() for process in running] == [0, 0]
    found = manifests.read(folder)
    assert {part.level: part.parity is not None for part in found.parts} == {"fp32": True, "fp16": False}
    manifests.verify(folder, found.files)


def test_support_files_that_did_not_change_stay(medsiglip_source: Path, medsiglip_artifact: Path, copied: Copy) -> None:
    """Between them and the manifest no reader can see a mixture of two exports."""
    folder = copied(medsiglip_artifact)
    before = {path.name: path.stat().st_ino for path in folder.iterdir() if path.is_file()}
    artifact.export(medsiglip_source, folder, levels=["fp16"], prove=False)
    after = {path.name: path.stat().st_ino for path in folder.iterdir() if path.is_file()}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {manifests.FILE_NAME, "README.md"}, "which state the levels"


def test_a_publication_that_fails_leaves_the_old_artifact_alone(
    medsiglip_source: Path, medsiglip_artifact: Path, copied: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, replace = copied(medsiglip_artifact), os.replace
    before = contents(folder)

    def refuse(source: Path, target: Path) -> None:
        if Path(target) == folder / manifests.FILE_NAME:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(ArtifactError, match="Input/output error"):
            artifact.export(medsiglip_source, folder, levels=["fp16"], prove=False)
    assert contents(folder) == before
    assert json.loads((folder.with_name(f".{folder.name}.partial") / ".stamp").read_text())
    artifact.export(medsiglip_source, folder, levels=["fp16"], prove=False)
    assert not list(folder.parent.glob(".*.partial"))


@pytest.mark.parametrize("name", [".", ""])
def test_the_folder_that_a_shell_stands_in_is_not_replaced(
    medsiglip_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UsageError, match="is the current folder"):
        artifact.export(medsiglip_source, Path(name), levels=["fp32"], prove=False)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
