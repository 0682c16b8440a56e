"""Loss has a limit at every level, which a recipe may move, and nobody as far as a wrong file needs."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
import pytest
from proofs import Unproven, unproven

from edgekit.artifacts.differences import DifferencesError
from edgekit.artifacts.gates import LIMITS, STRETCH, Gates, Limits, beyond
from edgekit.artifacts.levels import LEVELS, limits_of
from edgekit.artifacts.manifest import Parity
from edgekit.artifacts.recipes import recipe
from edgekit.errors import GateError
from edgekit.inputs.samples import shipped_inputs
from edgekit.prove.decoder import decoder_proof
from edgekit.prove.encoder import encoder_proof
from edgekit.prove.loss import check_loss
from edgekit.prove.written import WrittenPart
from edgekit.runtime.manifest_checks import failed_proof

ZEROED_KL = 8.8  # nats that a decoder of the reference model loses at Q4_0 where all of its matrices are zero


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_has_limits_that_no_empty_file_keeps(level: str) -> None:
    limits = LEVELS[level].limits
    assert limits.loss_kl < ZEROED_KL / 2
    assert limits.loss_error < 0.5
    assert limits.loss_cosine > 0.8
    assert limits.loss_top1 >= 0.2
    assert 0 < limits.wiring_kl <= 0.01
    assert 0 < limits.wiring_error < limits.wiring_worst_error <= 0.14
    least = Limits()  # what is accepted of a level that nobody has measured, which others made
    if LEVELS[level].format != "gguf":
        return
    assert all(not list(beyond(metric, stage, figures_at(metric, stage, limits), least)) for metric, stage in STAGES)


STAGES = [("kl", "wiring"), ("cosine", "wiring"), ("cosine", "loss")]


def figures_at(metric: str, stage: str, limits: Limits) -> dict[str, float]:
    """Figures that just keep these limits."""
    return {
        ("kl", "wiring"): {"prompt": limits.wiring_kl},
        ("cosine", "wiring"): {"error": limits.wiring_error, "worst_error": limits.wiring_worst_error},
        ("cosine", "loss"): {"mean": max(limits.loss_cosine, 0.9), "error": limits.loss_error},
    }[metric, stage]


def test_a_refusal_says_its_kind_beside_its_message() -> None:
    with pytest.raises(DifferencesError, match=r"^decoder Q4_0: loss: mean KL 8\.8 nats to the original") as caught:
        check_loss("decoder", "Q4_0", "kl", {"mean": ZEROED_KL, "top1": 0.9}, Gates())
    (one,) = caught.value.differences
    assert (one.kind, one.part) == ("loss", "decoder Q4_0")
    assert one.meaning
    assert one.expected
    assert caught.value.items == ()


def test_more_bits_may_lose_less() -> None:
    for order in (("F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q2_K"), ("fp32", "fp16", "int8", "q4")):
        rows = [LEVELS[level].limits for level in order]
        for less, more in pairwise(rows):
            assert less.loss_kl <= more.loss_kl
            assert less.loss_error <= more.loss_error
            assert less.loss_top1 >= more.loss_top1
            assert less.loss_cosine >= more.loss_cosine


def test_a_recipe_moves_a_limit_so_far_and_no_farther() -> None:
    row = LEVELS["Q4_0"].limits
    gates = Gates(loss_kl={"Q4_0": 0.5, "Q8_0": 1e6}, loss_cosine={"Q4_0": -1.0}, loss_top1={"Q4_0": 0.9})
    found = gates.limits("Q4_0", row)
    assert (found.loss_kl, found.loss_top1) == (0.5, 0.9)
    assert found.loss_cosine == pytest.approx(1 - STRETCH * (1 - row.loss_cosine))
    assert gates.limits("Q8_0", LEVELS["Q8_0"].limits).loss_kl == pytest.approx(STRETCH * LEVELS["Q8_0"].limits.loss_kl)
    untouched = {name: getattr(found, name) for name in LIMITS if name.startswith("wiring")}
    assert untouched == {name: getattr(row, name) for name in untouched}


@pytest.mark.parametrize("name", ["reference-medgemma", "reference-medsiglip", "gemma-3-270m", "medgemma-4b"])
def test_what_recipes_state_is_within_what_they_may(name: str) -> None:
    gates = recipe(name).gates
    for limit in LIMITS:
        for level, stated in getattr(gates, limit).items():
            assert getattr(gates.limits(level, limits_of(level)), limit) == stated, (limit, level)


@pytest.mark.parametrize(
    ("metric", "loss", "said"),
    [
        ("kl", {"mean": 1.6, "top1": 0.9}, r"loss: mean KL 1\.6 nats"),
        ("kl", {"mean": float("nan"), "top1": 0.9}, "loss: mean KL nan"),
        ("kl", {"mean": 0.1, "top1": 0.1}, r"loss: the same top token at a share of 0\.100"),
        ("cosine", {"mean": 0.5, "error": 0.1}, r"loss: mean cosine 0\.5"),
        ("cosine", {"mean": 0.99, "error": 0.6}, r"loss: mean relative error 0\.6"),
    ],
)
def test_a_loss_beyond_its_limit_says_figure_limit_and_who_may_move_it(
    metric: str, loss: dict[str, float], said: str
) -> None:
    with pytest.raises(GateError, match=f"^decoder Q4_0: {said}") as caught:
        check_loss("decoder", "Q4_0", metric, loss, Gates())
    assert caught.value.allowed
    assert "[gates.loss_" in (caught.value.remedy or "")
    check_loss("decoder", "Q4_0", "kl", {"mean": 0.4, "top1": 0.6}, Gates())


# ---------------------------------------------------------------- a file of zeros


@pytest.fixture(scope="module")
def q4(medgemma_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Unproven:
    return unproven(medgemma_source, tmp_path_factory.mktemp("loss") / "medgemma", levels=["Q4_0"])


@pytest.fixture
def zeroed(q4: Unproven) -> Iterator[Unproven]:
    """Both parts without any weights: a graph as right as before."""
    for role, level in (("decoder", "Q4_0"), ("vision", "Q8_0")):
        q4.trial(role, level)  # opened with the right files, whose hashes nobody looks at again
    paths = [q4.folder / file.path for part in q4.manifest.parts for file in part.files]
    for path in paths:
        shutil.copy(path, path.with_suffix(".kept"))
        reader = gguf.GGUFReader(path, "r+")
        for tensor in reader.tensors:
            if tensor.tensor_type not in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
                tensor.data[:] = 0
        reader.data.flush()
    yield q4
    for path in paths:
        path.with_suffix(".kept").replace(path)


def test_a_file_of_zeros_is_refused_by_what_it_lost(zeroed: Unproven) -> None:
    """transformers with the same zeros says the same, so wiring has nothing to say."""
    gates, inputs = zeroed.manifest.gates, shipped_inputs()
    decoder = decoder_proof(anew(zeroed.written("decoder", "Q4_0")), zeroed.runs, inputs, gates)
    with pytest.raises(GateError, match=r"^decoder Q4_0: loss: mean KL \d"):
        decoder.judge(decoder.ask(zeroed.trial("decoder", "Q4_0").opening))
    vision = encoder_proof(anew(zeroed.written("vision", "Q8_0")), zeroed.runs, inputs, gates)
    with pytest.raises(GateError, match=r"^vision Q8_0: (loss: mean cosine|wiring: )"):
        vision.judge(vision.ask(zeroed.trial("vision", "Q8_0").opening))


def anew(written: WrittenPart) -> WrittenPart:
    """Under another id, so that nothing that is kept of the right file counts."""
    return dataclasses.replace(written, part=written.part.model_copy(update={"id": "0" * 64}))


def test_a_recorded_decoder_is_judged_by_all_of_its_figures(q4: Unproven) -> None:
    (part,) = (part for part in q4.manifest.parts if part.role == "decoder")
    right: dict[str, dict[str, float]] = {
        "wiring": {"mean": 5e-5, "worst": 1e-3, "prompt": 6e-5},
        "loss": {"mean": 0.003, "worst": 0.1, "top1": 0.95},
    }
    for change, gate in (
        ({}, None),
        ({"wiring": {**right["wiring"], "prompt": 0.1}}, "wiring_kl"),
        ({"wiring": {"mean": 5e-5, "worst": 1e-3}}, "wiring_kl"),
        ({"wiring": {**right["wiring"], "changed": 100.0}}, "changed_share_quantized"),
        ({"loss": {**right["loss"], "mean": 2.0, "worst": 3.0}}, "loss_kl"),
        ({"loss": {**right["loss"], "top1": 0.1}}, "loss_top1"),
    ):
        figures = {**right, **change}
        parity = Parity(metric="kl", wiring=figures["wiring"], loss=figures["loss"], positions=288, inputs="some")
        loose = q4.manifest.gates.model_copy(update={"wiring_kl": {"Q4_0": 1e6}, "loss_kl": {"Q4_0": 1e6}})
        for gates in (q4.manifest.gates, loose):
            manifest = q4.manifest.model_copy(update={"gates": gates})
            said = failed_proof(manifest, part.model_copy(update={"parity": parity}))
            if gate == "loss_kl" and gates is loose:
                continue  # 2 nats are within what a recipe may allow
            assert (said is None) == (gate is None), (gate, said)
            assert gate is None or f"its own gate {gate} with" in str(said)
    assert np.isfinite(list(dataclasses.asdict(Limits()).values())).all()
