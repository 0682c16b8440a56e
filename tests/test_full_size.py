"""The proof at MedGemma 4B's width: right exports pass, known wrong ones fail on the same weights, memory is bounded.

Without anything else, on random weights: seven layers, of which the sixth is global, two vision layers, 262,208 rows
and images of 896 pixels. With a checkpoint folder in EDGEKIT_FULL_CHECKPOINT, on that. Each phase's time and peak of
anonymous memory (mapped files, which the kernel may drop, do not count) are printed: run it with `-m slow -s`.

The reference's results are kept, so that a mistake that can be made on the artifact's side costs that side alone.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from material import anonymous_bytes
from proofs import Unproven, unproven
from wrong_exports import WRONG_EXPORTS, WrongExport

from edgekit.export.synthesize import synthesize
from edgekit.progress import Progress

# Where mistakes are made: part and format -> level.
PROVEN = {
    ("decoder", "gguf"): "Q4_K_M",
    ("decoder", "onnx"): "q4",
    ("vision", "gguf"): "Q8_0",
    ("vision", "onnx"): "fp16",
}
LEVELS = {"gguf": ("Q8_0", "Q4_K_M"), "onnx": ("q4",)}  # 8 bits, mixtures; no calibration, which takes minutes
RECIPE = "medgemma-4b"
LIMIT = 4_000_000_000  # bytes of anonymous memory while transformers runs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc"),
]


class Phases(Progress):
    """Time and peak of anonymous memory of each phase, sampled."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self._label, self._started, self._stop = "", time.monotonic(), threading.Event()
        threading.Thread(target=self._sample, daemon=True).start()

    def start(self, label: str, total: int) -> None:
        self.finish()
        self._label, self._started = label, time.monotonic()

    def finish(self) -> None:
        if self._label:
            seconds, peak = time.monotonic() - self._started, self.peaks.get(self._label, 0)
            print(f"{self._label:<40} {seconds:7.1f} s  {peak / 1e9:6.2f} GB", flush=True)
        self._label = ""

    def close(self) -> None:
        self.finish()
        self._stop.set()

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            self.peaks[self._label] = max(self.peaks.get(self._label, 0), anonymous_bytes())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if given := os.environ.get("EDGEKIT_FULL_CHECKPOINT"):
        yield Path(given)
        return
    folder = tmp_path_factory.mktemp("source")
    synthesize(RECIPE, folder, layers=7, vision_layers=2)
    yield folder
    shutil.rmtree(folder)  # gigabytes, which pytest would keep for three runs


@pytest.fixture(scope="module")
def gguf(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Unproven]:
    with exported(source, tmp_path_factory.mktemp("gguf"), LEVELS["gguf"]) as made:
        yield made


@pytest.fixture(scope="module")
def onnx(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Unproven]:
    with exported(source, tmp_path_factory.mktemp("onnx"), LEVELS["onnx"], {"vision": "fp16"}) as made:
        yield made


@contextmanager
def exported(
    source: Path, folder: Path, levels: tuple[str, ...], parts: dict[str, str] | None = None
) -> Iterator[Unproven]:
    phases = Phases()
    made = unproven(
        source, folder / "artifact", recipe_name=RECIPE, levels=levels, parts=(parts or {},), progress=phases
    )
    yield made
    phases.close()
    shutil.rmtree(made.folder)


def phases_of(model: Unproven) -> Phases:
    phases = model.runs.progress
    assert isinstance(phases, Phases)
    phases.finish()
    return phases


@pytest.mark.parametrize("level", LEVELS["gguf"])
def test_right_exports_are_proven_in_bounded_memory(gguf: Unproven, level: str) -> None:
    """Of each decoder, and of the vision part beside both."""
    decoder, (part,) = gguf.prove("decoder", level), gguf.parts("vision")
    vision = gguf.prove("vision", part.level)
    peaks = {label: peak for label, peak in phases_of(gguf).peaks.items() if "transformers" in label}
    print(f"{level}: {decoder} {vision}", flush=True)
    assert decoder.positions >= 256
    assert decoder.wiring["mean"] < 0.01
    assert vision.wiring["worst"] > 0.9999
    assert peaks
    assert max(peaks.values()) < LIMIT, peaks


@pytest.mark.parametrize("level", LEVELS["onnx"])
def test_right_graphs_are_proven_in_bounded_memory(onnx: Unproven, level: str) -> None:
    decoder = onnx.prove("decoder", level)
    peaks = phases_of(onnx).peaks
    print(f"{level}: {decoder}", flush=True)
    assert decoder.positions >= 256
    assert decoder.wiring["mean"] < 0.01
    assert max(peaks.values()) < LIMIT, peaks


def cases() -> list[Any]:
    """The first mistake of each kind that files can have, of both parts; all: `python tests/wrong_exports`."""
    first: dict[tuple[str, str, str], Any] = {}
    for wrong in (wrong for wrong in WRONG_EXPORTS if wrong.kind != "checkpoint"):  # whose export takes minutes
        for role in wrong.roles:
            level = PROVEN.get((role, wrong.format))
            if level in wrong.levels():
                first.setdefault(
                    (wrong.kind, role, wrong.format), pytest.param(wrong, role, level, id=f"{role}-{wrong}")
                )
    return [*first.values()]


@pytest.mark.parametrize(("wrong", "role", "level"), cases())
def test_known_wrong_exports_are_refused(
    request: pytest.FixtureRequest, wrong: WrongExport, role: str, level: str
) -> None:
    model: Unproven = request.getfixturevalue(wrong.format)
    with wrong.refusal(role) as refused:
        model.prove(role, level, wrong.change)
    phases_of(model)
    print(f"refused: {refused.value.message}", flush=True)
