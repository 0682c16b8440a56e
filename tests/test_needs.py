"""Benchmarks and proofs look at what they need before they begin, and say all that is missing at once."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from material import Copy, contents, one_bit_changed

from edgekit.artifacts import find
from edgekit.artifacts import manifest as manifests
from edgekit.bench import Sweep, bench
from edgekit.bench.cells import Cell
from edgekit.bench.environment import Environment, environment
from edgekit.bench.execute import Receiver
from edgekit.commands import demo
from edgekit.errors import ArtifactError, EdgekitError, MissingDependencyError, NoSpaceError
from edgekit.machine.memory import Memory
from edgekit.prove import publish
from edgekit.runtime import needs


class Never:
    """An executor that must not be asked for anything."""

    def run(self, cells: Any, report: Receiver, *, alone: bool = False) -> None:
        pytest.fail("it began")

    def stop(self) -> None:
        """Nothing runs."""


class Counts:
    """An executor that only counts."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []

    def environment(self, device: str | None) -> Environment:
        return environment()

    def run(self, cells: Any, report: Receiver, *, alone: bool = False) -> None:
        self.cells += cells

    def stop(self) -> None:
        """Nothing runs."""


def refused(kind: type[EdgekitError], sweep: Sweep, work: Path | None = None) -> str:
    """What a benchmark that never begins says."""
    with pytest.raises(kind) as caught:
        bench(sweep, work=work, progress=False, executor=Never())
    return str(caught.value)


def without(monkeypatch: pytest.MonkeyPatch, *libraries: str) -> None:
    """As if these were not installed."""
    version = importlib.metadata.version

    def found(name: str) -> str:
        if name in libraries:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", found)


def short(folder: Path, name: str) -> list[str]:
    """A shipped task with two items."""
    path = folder / f"{name}.toml"
    path.write_text(re.sub(r"limit = \d+", "limit = 2", find.find("benchmarks", name).read_text()))
    return [str(path)]


def test_everything_that_is_missing_is_said_at_once(
    medgemma_artifact: Path,
    medsiglip_artifact: Path,
    medsiglip_source: Path,
    copied: Copy,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Libraries of both sides, two damaged levels, data, and the place for the results."""
    chat, pair = copied(medgemma_artifact), copied(medsiglip_artifact)
    (chat / "medgemma-reference-Q4_0.gguf").unlink()
    with (pair / "onnx" / "text_model.onnx_data").open("r+b") as weights:
        weights.write(b"\0" * 64)
    without(monkeypatch, "torch", "llama_cpp_python")
    (tmp_path / "data").mkdir()
    (tmp_path / "file").write_text("mine")
    tasks = ["labels-xray", "finding-xray", *short(tmp_path, "labels-phantom")]
    sweep = Sweep([chat, pair], tasks=tasks, data=tmp_path / "data")
    said = refused(EdgekitError, sweep, tmp_path / "file" / "work")
    for part in (
        "things are missing; nothing was begun",
        "torch is not installed", "llama_cpp_python: it is not installed; try: edgekit setup",
        "medgemma-reference-Q4_0.gguf: missing", "text_model.onnx_data: its SHA-256",
        "radiology-160.zip does not exist", "file: is no folder",
    ):  # fmt: skip
        assert part in said, part
    assert said.count("radiology-160.zip does not exist") == 1  # two tasks want it


def test_one_thing_is_an_error_of_its_own_kind(
    medgemma_artifact: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sweep = Sweep([medgemma_artifact], ["Q4_0"], tasks=short(tmp_path, "finding-phantom"))
    with monkeypatch.context() as patch:
        without(patch, "transformers")
        assert "transformers is not installed" in refused(MissingDependencyError, sweep)
    with monkeypatch.context() as patch:
        free = shutil.disk_usage(tmp_path)._replace(free=10_000_000)
        patch.setattr(shutil, "disk_usage", lambda path: free)
        fidelity = Sweep([medgemma_artifact], ["Q4_0"], tasks=["fidelity-text"])
        assert "GB are needed" in refused(NoSpaceError, fidelity, tmp_path / "work")
        assert not (tmp_path / "work").exists()
        counted = Counts()
        bench(sweep, work=tmp_path / "work", progress=False, executor=counted)  # which leaves no logits
        assert counted.cells
    with monkeypatch.context() as patch:
        patch.setattr(needs, "memory", lambda: Memory(8_000_000_000, 1_000_000))
        assert "level Q4_0: 0.0 GB of memory are needed" in refused(EdgekitError, sweep)
    with monkeypatch.context() as patch:
        patch.setattr(needs, "memory", lambda: Memory(10_000_000, 10_000_000))
        assert "comparing with full precision" in refused(EdgekitError, sweep)


def test_a_library_that_does_not_start_is_missing(
    medgemma_artifact: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(needs, "probe", lambda question: (False, "it died with SIGILL"))
    sweep = Sweep([medgemma_artifact], ["Q4_0"], tasks=short(tmp_path, "finding-phantom"))
    assert "llama_cpp_python: it died with SIGILL\ntry: edgekit setup" in refused(MissingDependencyError, sweep)


def test_what_is_whole_begins(medgemma_artifact: Path, tmp_path: Path) -> None:
    counted = Counts()
    sweep = Sweep([medgemma_artifact], tasks=short(tmp_path, "finding-phantom"))
    bench(sweep, work=tmp_path / "work", progress=False, executor=counted)
    assert len(counted.cells) == 4  # the reference, three levels; so few items show no control's damage


PLACE = """
import os, sys
from pathlib import Path
from edgekit.errors import ArtifactError
from edgekit.runtime.needs import Needs
if os.getuid() == 0:
    os.setuid(65534)  # permissions do not bind root
needs = Needs()
needs.place(Path(sys.argv[1]))
needs.place(Path(sys.argv[1]) / "new" / "one")
try:
    needs.check()
except ArtifactError as error:
    print(error)
    sys.exit(9)
"""


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="needs POSIX permissions")
def test_a_folder_that_may_not_be_written_is_said(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    for path in [tmp_path, *tmp_path.parents][:-1]:
        if path.stat().st_uid == os.getuid():
            path.chmod(path.stat().st_mode | 0o055)
    closed.chmod(0o555)
    done = subprocess.run([sys.executable, "-c", PLACE, str(closed)], capture_output=True, text=True, check=False)
    closed.chmod(0o755)
    assert done.returncode == 9, done.stderr
    assert done.stdout.count(f"{closed}: may not be written to") == 1


def test_a_proof_says_everything_at_once(
    medgemma_artifact: Path, medgemma_source: Path, copied: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(medgemma_artifact)

    def began(*given: Any, **named: Any) -> Any:
        pytest.fail("it began")

    monkeypatch.setattr(publish, "prove_parts", began)
    damaged: Callable[[], Any] = lambda: publish.prove(folder, medgemma_source, levels=["Q4_0", "BF16"])  # noqa: E731
    with one_bit_changed(folder / "medgemma-reference-BF16.gguf"):
        before = contents(folder)
        with pytest.raises(ArtifactError, match=r"medgemma-reference-BF16\.gguf: its SHA-256"):
            damaged()
        (folder / "medgemma-reference-Q4_0.gguf").unlink()
        del before["medgemma-reference-Q4_0.gguf"]
        without(monkeypatch, "torch", "transformers")
        with pytest.raises(EdgekitError, match="4 things are missing") as caught:
            damaged()
        assert contents(folder) == before
    for part in ("torch is not", "transformers is not", "BF16.gguf: its SHA-256", "Q4_0.gguf: missing"):
        assert part in str(caught.value)
    assert manifests.read(folder) == manifests.read(medgemma_artifact)


def test_a_proof_needs_room_for_its_logits(
    medgemma_artifact: Path, medgemma_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(medgemma_artifact)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(NoSpaceError, match="GB are needed"):
        publish.prove(medgemma_artifact, medgemma_source, levels=["Q4_0"])


def test_the_demos_scratch_is_under_its_output_and_goes_with_it(
    medgemma_artifact: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a killed one leaves lies where everything else of it does."""
    found = manifests.read(medgemma_artifact)
    monkeypatch.setattr(demo, "export", lambda *given: (medgemma_artifact, found))
    seen: list[Path] = []

    def interrupted(sweep: Sweep, *, work: Path, progress: bool) -> Any:
        seen.append(work)
        (work / "cells.jsonl").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr("edgekit.bench.bench", interrupted)
    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        demo.run(Namespace(to=tmp_path / "out", data=None, json=True))
    assert seen[0].parent == tmp_path / "out"
    assert not any((tmp_path / "out").iterdir())
