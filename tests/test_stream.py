"""Exports that are killed, that run out of disk, that collide, and whose source changes under them."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Hashable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from material import LEVELS, Copy, contents

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.levels import LEVELS as LEVEL_ROWS
from edgekit.checkpoints.checkpoint import open_checkpoint
from edgekit.errors import ArtifactError, CheckpointError
from edgekit.export import stage, stream
from edgekit.export.job import resolve
from edgekit.families.source import open_source
from edgekit.formats.onnx import writer as onnx
from edgekit.formats.onnx.layout import layout_of
from edgekit.formats.sections import FileContent, Section
from edgekit.progress import Progress
from edgekit.prove import publish as artifact

LEVEL_OPTIONS = [word for level in LEVELS for word in ("--level", level)]


def command(source: Path, folder: Path) -> list[str]:
    return [sys.executable, "-m", "edgekit", "export", str(source), "--to", str(folder), "--no-prove", *LEVEL_OPTIONS]


@pytest.mark.parametrize("moment", [0.02, 0.3, 0.6, 0.9])
def test_killed_at_any_moment_a_rerun_makes_the_same_bytes(
    medgemma_source: Path, medgemma_artifact: Path, tmp_path: Path, moment: float
) -> None:
    """SIGKILL, when the staging folder holds this share of all bytes."""
    folder, staging = tmp_path / "a", tmp_path / ".a.partial"
    whole = sum(path.stat().st_size for path in medgemma_artifact.glob("*.gguf"))
    with subprocess.Popen(command(medgemma_source, folder)) as process:
        while sum(path.stat().st_size for path in staging.glob("*.gguf")) < moment * whole:
            assert process.poll() is None, "too late to kill it"
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert not folder.exists()
    assert staging.is_dir()
    again = Totals()
    artifact.export(medgemma_source, folder, levels=LEVELS, prove=False, progress=again)
    assert contents(folder) == contents(medgemma_artifact)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


class Totals(Progress):
    """Keeps how much each phase had to do."""

    def __init__(self) -> None:
        self.totals: list[int] = []

    def start(self, label: str, total: int) -> None:
        self.totals.append(total)


def interrupted(source: Path, folder: Path, weights: int = 12_000_000) -> Path:
    """A staging folder of an export that Ctrl-C ended after so many weights."""

    class CutOff(Progress):
        left = weights

        def advance(self, units: int = 1) -> None:
            self.left -= units
            if self.left < 0:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        artifact.export(source, folder, levels=LEVELS, prove=False, progress=CutOff())
    return folder.parent / f".{folder.name}.partial"


@pytest.mark.parametrize(
    "damage", ["middle", "tail", "journal cut", "journal longer", "no journal", "no file", "longer"]
)
def test_what_does_not_bear_out_its_journal_is_written_again(
    medgemma_source: Path, medgemma_artifact: Path, tmp_path: Path, damage: str
) -> None:
    staging = interrupted(medgemma_source, tmp_path / "a")
    file = staging / "medgemma-reference-Q8_0.gguf"
    journal = staging / f".{file.name}.journal"
    data, lines = bytearray(file.read_bytes()), journal.read_text().splitlines(keepends=True)
    assert len(lines) > 10
    if damage == "middle":
        data[len(data) // 2] ^= 1
    elif damage == "tail":
        data = data[:-100]
    elif damage == "longer":
        data += b"x" * 1000
    elif damage == "journal cut":
        lines[-1] = lines[-1][:20]
    elif damage == "journal longer":
        lines.append(f"{len(data) + 10_000} {'0' * 64}\n")
    file.write_bytes(data)
    journal.write_text("".join(lines))
    if damage == "no journal":
        journal.unlink()
    elif damage == "no file":
        file.unlink()
    artifact.export(medgemma_source, tmp_path / "a", levels=LEVELS, prove=False)
    assert contents(tmp_path / "a") == contents(medgemma_artifact)


def test_a_resumed_export_does_not_repeat_itself(medgemma_source: Path, tmp_path: Path) -> None:
    whole, rest = Totals(), Totals()
    artifact.export(medgemma_source, tmp_path / "b", levels=LEVELS, prove=False, progress=whole)
    interrupted(medgemma_source, tmp_path / "a", weights=12_000_000)
    artifact.export(medgemma_source, tmp_path / "a", levels=LEVELS, prove=False, progress=rest)
    assert rest.totals[0] < whole.totals[0] - 6_000_000


def test_a_second_export_into_the_same_folder_refuses(
    medgemma_source: Path, medgemma_artifact: Path, tmp_path: Path
) -> None:
    """Two real processes; the first is stopped in its midst, and finishes afterwards as if nothing had been."""
    folder, staging = tmp_path / "a", tmp_path / ".a.partial"
    with subprocess.Popen(command(medgemma_source, folder)) as first:
        while not list(staging.glob("*.gguf")):
            assert first.poll() is None
            time.sleep(0.001)
        first.send_signal(signal.SIGSTOP)
        second = subprocess.run(command(medgemma_source, folder), capture_output=True, text=True, check=False)
        first.send_signal(signal.SIGCONT)
        assert first.wait() == 0
    assert second.returncode == 1
    assert "another command is writing here" in second.stderr
    assert contents(folder) == contents(medgemma_artifact)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    medgemma_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(stage.shutil, "disk_usage", lambda path: usage._replace(free=70_000_000))
    with pytest.raises(ArtifactError, match=r"0\.1 GB are needed for 5 parts, 0\.1 GB are free"):
        artifact.export(medgemma_source, tmp_path / "a", levels=LEVELS, prove=False)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(stage.shutil, "disk_usage", lambda path: usage._replace(free=90_000_000))
    plans = list(resolve(medgemma_source, None, LEVELS, {}).plans())
    stage.check_space(tmp_path, plans[:1], resolve(medgemma_source, None, LEVELS, {}))
    with pytest.raises(ArtifactError, match=r"0\.1 GB are needed for 1 parts \(0\.0 GB of that .*prove them\), 0"):
        stage.check_space(tmp_path, plans[:1], resolve(medgemma_source, None, LEVELS, {}), 40_000_000)


def test_a_disk_that_fills_up_loses_nothing(medgemma_source: Path, medgemma_artifact: Path, tmp_path: Path) -> None:
    """The kernel refuses every file beyond 5 MB, in the midst of the largest."""
    folder = tmp_path / "a"

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))

    failed = subprocess.run(
        command(medgemma_source, folder), preexec_fn=limit, capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1
    assert "no space left" in failed.stderr
    assert "goes on where it stopped" in failed.stderr
    assert not folder.exists()
    rest = Totals()
    artifact.export(medgemma_source, folder, levels=LEVELS, prove=False, progress=rest)
    assert contents(folder) == contents(medgemma_artifact)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("change", ["other bytes", "touched"])
def test_a_source_that_changes_while_it_is_read_is_refused(
    medgemma_source: Path, copied: Copy, tmp_path: Path, change: str
) -> None:
    source = copied(medgemma_source)
    weights = source / "model.safetensors"

    class Meddler(Progress):
        def advance(self, units: int = 1) -> None:
            if change == "touched":
                os.utime(weights)
            else:
                with weights.open("r+b") as file:
                    file.seek(-4, os.SEEK_END)
                    file.write(b"\1\2\3\4")

    with pytest.raises(CheckpointError, match="was changed while it was read"):
        artifact.export(source, tmp_path / "work" / "a", levels=LEVELS, prove=False, progress=Meddler())
    assert not (tmp_path / "work").exists()


def test_what_is_hashed_while_it_is_written_is_not_read_again_for_it(
    medgemma_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []

    def sha256_file(path: Path) -> str:
        hashed.append(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(manifests, "sha256_file", sha256_file)
    done = artifact.export(medgemma_source, tmp_path / "artifact", levels=["Q4_0"])
    assert all(part.parity for part in done.added)
    assert {path.suffix for path in hashed}.isdisjoint({".gguf", ".onnx_data"})
    manifests.verify(done.folder, done.manifest.files)  # and the hashes are right
    assert {path.suffix for path in hashed} >= {".gguf"}


def test_the_source_hash_of_one_pass_is_that_of_the_files(medgemma_source: Path, medgemma_artifact: Path) -> None:
    files = manifests.read(medgemma_artifact).source.files
    for name, digest in files.items():
        assert hashlib.sha256((medgemma_source / name).read_bytes()).hexdigest() == digest
    assert "model.safetensors" in files


def test_an_unwritable_target_is_one_clear_error(medgemma_source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match="file"):
        artifact.export(medgemma_source, tmp_path / "file" / "a", levels=LEVELS, prove=False)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("fate", ["failed", "cancelled"])
def test_nothing_is_written_behind_a_gap(tmp_path: Path, fate: str) -> None:
    """A slice that fails, or that an interruption cancels, must not be followed: its journal would call it whole."""
    section = Section("w", 8, "F32", lambda piece: piece.data, 8, 24)
    path = tmp_path / "x.gguf"
    lost: Future[Mapping[Hashable, Any]] = Future()
    there: Future[Mapping[Hashable, Any]] = Future()
    there.set_result({"F32": b"5678"})
    with stream.OutputFile(FileContent(path, b"h" * 32, (section,))) as output:
        first = output.submit(section, lost, last=False)
        if fate == "failed":
            lost.set_exception(CheckpointError("a weight is NaN"))
        else:
            lost.cancel()
        output.submit(section, there, last=True).result()
        assert first.exception() is not None
    assert path.read_bytes() == b"h" * 32
    assert len((tmp_path / ".x.gguf.journal").read_text().splitlines()) == 1


def test_finished_files_outlive_a_failure_of_what_follows(
    medgemma_source: Path, medgemma_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All weights are written, then something breaks that is no fault of theirs: the rerun writes none again."""
    folder = tmp_path / "a"

    def broken(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(stage, "copy_support", broken)
        with pytest.raises(MemoryError):
            artifact.export(medgemma_source, folder, levels=LEVELS, prove=False)
    rest = Totals()
    artifact.export(medgemma_source, folder, levels=LEVELS, prove=False, progress=rest)
    assert sum(rest.totals) == 0
    assert contents(folder) == contents(medgemma_artifact)


def test_two_exports_that_add_levels_at_once_lose_none(
    medgemma_source: Path, medgemma_artifact: Path, tmp_path: Path
) -> None:
    """Whoever comes second refuses; tried again, it adds to what the first published."""
    folder = tmp_path / "a"
    plain = [sys.executable, "-m", "edgekit", "export", str(medgemma_source), "--to", str(folder), "--no-prove"]
    commands = [[*plain, "--level", level] for level in LEVELS]
    while commands:
        running = [(command, subprocess.Popen(command, stderr=subprocess.PIPE)) for command in commands]
        ended = [(command, process.communicate()[1], process.returncode) for command, process in running]
        assert all(b"another command is writing" in said for _, said, code in ended if code)
        assert any(code == 0 for *_, code in ended)
        commands = [command for command, _, code in ended if code]
    ours, theirs = contents(folder), contents(medgemma_artifact)
    assert ours.keys() == theirs.keys()
    assert all(ours[name] == theirs[name] for name in ours if name.endswith(".gguf"))


@pytest.mark.parametrize("level", ["fp32", "fp16"])
def test_a_matrix_is_transposed_without_copies(medsiglip_source: Path, level: str) -> None:
    """Slices of 7 rows: the file gets the one array that they were put in."""
    checkpoint = open_checkpoint(medsiglip_source)
    part = open_source(medsiglip_source).plan("image_encoder", LEVEL_ROWS[level])
    laid = next(tensor for tensor in layout_of("data", part).tensors.values() if tensor.transposed)
    section = onnx.section_of(part, laid)
    weights = checkpoint.read(laid.planned.tensor)
    assert section.tail is not None
    tail = section.tail()
    for start in range(0, len(weights), 7):
        values, scales = laid.codec.encode(weights[start : start + 7])
        tail.add((values, scales))
    (matrix,) = tail.chunks()
    assert matrix.flags.c_contiguous
    assert matrix is tail.chunks()[0]
    assert np.array_equal(matrix, weights.T.astype(matrix.dtype))
    assert matrix.nbytes == laid.bytes
