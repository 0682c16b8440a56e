"""Perplexity, divergence and agreement beside llama.cpp's own program, on the same files, text and chunks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from perplexity_peer import program, run, tokens, write

from edgekit.bench.datasets import Dataset, load
from edgekit.bench.kinds.base import Figures, RunContext
from edgekit.bench.kinds.text_fidelity import TextFidelityTask
from edgekit.bench.tasks import parse
from edgekit.full_precision.bounded import open_full_precision
from edgekit.inputs.passage import passage
from edgekit.runtime import open_model
from edgekit.runtime.base import Tokens
from edgekit.runtime.chat_model import ChatModel

pytestmark = pytest.mark.slow
CONTEXT = 128


@dataclass(frozen=True)
class Both:
    """Full precision's result and logits, and what llama.cpp's program needs for the same."""

    task: TextFidelityTask
    data: Dataset
    own: Any
    context: RunContext
    chunks: list[tuple[int, ...]]
    text: Path
    base: Path

    def figures(self, artifact: Path, level: str) -> Figures:
        with open_model(artifact, level) as model:
            return self.task.summarize([self.task.run(model, self.data, self.context)], self.own)


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program(tmp_path_factory.mktemp("llama.cpp"))


@pytest.fixture(scope="module")
def both(medgemma_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("perplexity")
    task = parse(
        {
            "name": "passage", "kind": "text-fidelity", "title": "The passage", "dataset": "passage", "limit": 1,
            "context": CONTEXT, "chunks": 1000,
        }
    )  # fmt: skip
    assert isinstance(task, TextFidelityTask)
    data, context = load("passage", 1, 0, None), RunContext(0, folder / "key", leaves=True)
    with open_full_precision(medgemma_source) as model:
        assert isinstance(model, ChatModel)
        own = task.run(model, data, context)
        segments = [d.segments[0] for d in task.documents(model.format.continued(passage()))]
    chunks = [segment.ids for segment in segments if isinstance(segment, Tokens)]
    shape = tuple(json.loads((folder / "key.json").read_text())["shape"])
    text, base = folder / "passage.txt", folder / "base.kld"
    text.write_text(passage(), encoding="utf-8")
    write(base, chunks, np.fromfile(folder / "key.f32", np.float32).reshape(shape))
    return Both(task, data, own, RunContext(0, folder / "key"), chunks, text, base)


def _file(artifact: Path, level: str) -> Path:
    (path,) = artifact.glob(f"medgemma-*-{level}.gguf")
    return path


def test_chunks_are_llama_cpps(peer: Path, both: Both, medgemma_artifact: Path, tmp_path: Path) -> None:
    """Its program makes the same chunks of the same text, and the same perplexity of the same file."""
    made = tmp_path / "theirs.kld"
    options = {"-f": both.text, "--kl-divergence-base": made}
    said = run(peer, _file(medgemma_artifact, "BF16"), CONTEXT, options)
    assert tokens(made)[:, 1:].tolist() == [list(chunk[1:]) for chunk in both.chunks]
    ours = both.figures(medgemma_artifact, "BF16").metrics["perplexity"].value
    assert said.figure("Final estimate: PPL") == pytest.approx(ours, rel=2e-4)


@pytest.mark.parametrize("level", ["BF16", "Q8_0", "Q4_0"])
def test_figures_are_llama_cpps(peer: Path, both: Both, medgemma_artifact: Path, level: str) -> None:
    """Against full precision's logits, which it is given in its own file: 16 bits, hence the tolerances."""
    options = {"--kl-divergence-base": both.base, "--kl-divergence": None}
    said = run(peer, _file(medgemma_artifact, level), CONTEXT, options)
    figures = both.figures(medgemma_artifact, level).metrics
    assert figures["kl"].n == len(both.chunks) * (CONTEXT // 2 - 1)
    assert said.figure("Mean PPL(Q)") == pytest.approx(figures["perplexity"].value, rel=2e-4)
    assert said.figure("Mean PPL(Q)/PPL(base)") == pytest.approx(figures["perplexity_ratio"].value, abs=2e-4)
    assert said.figure("Mean    KLD") == pytest.approx(figures["kl"].value, rel=0.01, abs=5e-6)
    assert said.figure("Median  KLD") == pytest.approx(figures["kl_median"].value, rel=0.02, abs=5e-6)
    if carried := figures.get("kl_p99"):  # which is left out where too few independent positions carry it
        assert said.figure("99.0%   KLD") == pytest.approx(carried.value, rel=0.05, abs=2e-5)
    # Ties within 16 bits of the reference are no agreement that either side could claim.
    assert said.figure("Same top p") == pytest.approx(100 * figures["top1"].value, abs=0.15)
