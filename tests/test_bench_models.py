"""What a worker measures, on stub models whose right answers and damage are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_stubs import StubChat, StubEmbedder, dataset

from edgekit import metrics
from edgekit.bench import predictions
from edgekit.bench.datasets import Dataset
from edgekit.bench.kinds.base import RunContext
from edgekit.bench.predictions import Predictions
from edgekit.bench.tasks import task
from edgekit.errors import UsageError
from edgekit.inputs.labels import PHANTOM, in_modality
from edgekit.machine.memory import peak_memory_bytes
from edgekit.runtime.base import Model

FINDING, YES_NO, LABELS = task("finding-phantom"), task("yesno-phantom"), task("labels-phantom")
ENCODER, LATENCY = task("fidelity-encoder"), task("latency")


def _predict(model: Model, asked: Any, n: int) -> Predictions:
    return Predictions(**asked.run(model, dataset(n), RunContext(load_s=1.5)))


def test_answers_are_parsed_and_counted() -> None:
    measured = _predict(StubChat(wrong_every=4), FINDING, 40)
    assert measured.right.sum() == 30
    assert measured.answers[1] == "The finding: nodule."
    assert measured.truncated == 0


def test_an_answer_that_names_nothing_is_wrong() -> None:
    class Mute(StubChat):
        def generate(self, messages, *, max_tokens=256):  # type: ignore[no-untyped-def]
            *_, last = super().generate(messages, max_tokens=max_tokens)
            yield type(last)("I cannot say", 10, 5, False, 0.1, 0.1)

    measured = _predict(Mute(), FINDING, 5)
    assert measured.predicted == (None,) * 5
    assert not measured.right.any()


def test_truncated_answers_are_counted() -> None:
    short = FINDING.model_copy(update={"max_tokens": 3})
    assert _predict(StubChat(), short, 5).truncated == 5


def test_labels_whose_scores_are_no_numbers_are_none() -> None:
    class Broken(StubEmbedder):
        def classify(self, images, labels):  # type: ignore[no-untyped-def]
            scores = super().classify(images, labels)
            scores[::2, 3] = np.nan
            return scores

    measured = _predict(Broken(), LABELS, 8)
    assert measured.predicted[::2] == (None,) * 4
    assert measured.right.tolist() == [0, 1] * 4
    assert LABELS.summarize([asdict(measured)]).details["nonfinite"] == 4


def test_yes_no_questions_are_balanced_and_answerable() -> None:
    measured = _predict(StubChat(prefix=""), YES_NO, 80)
    assert measured.right.all()
    assert measured.truth.count("yes") == 40
    labels = [label.name for label in in_modality(PHANTOM)]
    yes_by_label = dict.fromkeys(labels, 0)
    for i, answer in enumerate(measured.truth):
        yes_by_label[labels[i % 8]] += answer == "yes"
    assert min(yes_by_label.values()) > 0  # the answer must not follow from the label


def test_always_yes_is_right_half_of_the_time() -> None:
    class Yes(StubChat):
        def generate(self, messages, *, max_tokens=256):  # type: ignore[no-untyped-def]
            *_, last = super().generate(messages, max_tokens=max_tokens)
            yield type(last)("Yes!", 10, 5, False, 0.1, 0.1)

    assert _predict(Yes(), YES_NO, 80).right.sum() == 40


def test_classification_takes_every_label_with_its_prompts() -> None:
    model = StubEmbedder(wrong_every=5)
    measured = _predict(model, LABELS, 40)
    assert measured.right.sum() == 32
    assert [count for count, _ in model.batches] == [16, 16, 8]
    assert "a phantom showing a nodule" in model.batches[0][1][1]


@pytest.mark.parametrize(
    ("kind", "shapes"), [(StubEmbedder, {"image": (20,), "text": (16,)}), (StubChat, {"image": (20, 4)})]
)
def test_embeddings_are_compared_one_by_one(tmp_path: Path, kind: type, shapes: dict[str, tuple[int, ...]]) -> None:
    store = tmp_path / "key"
    same = ENCODER.run(kind(), dataset(20), RunContext(0, store, leaves=True))["cosines"]
    assert {name: np.shape(values) for name, values in same.items()} == shapes
    assert np.min(same["image"]) == pytest.approx(1, abs=1e-6)
    noisy = ENCODER.run(kind(noise=0.3), dataset(20), RunContext(0, store))["cosines"]
    assert np.mean(noisy["image"]) < 0.99 or np.min(noisy["image"]) < 0.999


def test_an_encoders_noise_floor_is_that_of_bfloat16(tmp_path: Path) -> None:
    """And not of float32 against itself, which has none."""
    context = RunContext(0, tmp_path / "key", leaves=True, in_bfloat16=lambda: StubEmbedder(noise=0.01))
    own = ENCODER.run(StubEmbedder(), dataset(20), context)
    clean = np.array([1.0, *[0.0] * 7])
    noisy = clean + 0.01
    floor = ENCODER.noise_floor(own)
    assert floor is not None
    assert (floor.value, floor.n) == (pytest.approx(noisy @ clean / np.linalg.norm(noisy), abs=1e-6), 20)
    alone = ENCODER.run(StubEmbedder(), dataset(20), RunContext(0, tmp_path / "other", leaves=True))
    assert ENCODER.noise_floor(alone) is None


def test_without_full_precision_there_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the reference left no embeddings"):
        ENCODER.run(StubEmbedder(), dataset(6), RunContext(0, tmp_path / "key"))


def test_latency_of_a_chat_model() -> None:
    found = LATENCY.run(StubChat(), dataset(4), RunContext(load_s=1.5, load_cold_s=4.5))
    figures = found["figures"]
    assert (figures["load_s"], figures["load_cold_s"]) == (1.5, 4.5)
    assert figures["first_token_ms"] == figures["first_token_cold_ms"] == figures["first_token_prefix_known_ms"] == 250
    assert figures["decode_tokens_per_s"] > 10
    assert figures["prefill_tokens_per_s"] > 10
    assert figures["image_encode_ms"] > 0
    assert "text_encode_ms" not in figures
    assert (found["prompt_tokens"], found["steps"], len(found["samples"]["step_ms"])) == (512, 136, 135)


def test_latency_of_an_embedding_model() -> None:
    figures = LATENCY.run(StubEmbedder(), dataset(4), RunContext(load_s=1.5))["figures"]
    memory = {"peak_memory_bytes", "own_memory_bytes", "mapped_memory_bytes"}
    assert {"load_s", "image_encode_ms", "images_per_s", "text_encode_ms"} == set(figures) - memory


def test_latency_uses_new_images_for_encoding() -> None:
    seen = []

    class Watched(StubChat):
        def encode_images(self, images):  # type: ignore[no-untyped-def]
            seen.extend(image.tobytes() for image in images)
            return super().encode_images(images)

    data = dataset(4)
    LATENCY.run(Watched(), data, RunContext(load_s=1.5))
    assert len(set(seen)) == 4
    assert not {image.tobytes() for image in data.images[1:]} & set(seen)


def test_peak_memory_is_in_bytes() -> None:
    before = peak_memory_bytes()
    block = np.ones(30_000_000, np.uint8)
    assert before + 10_000_000 < peak_memory_bytes() < before + 100_000_000 or before > block.nbytes
    assert 10_000_000 < before < 10_000_000_000


EACH, TOGETHER = tuple(range(60)), tuple(i // 10 for i in range(60))  # 60 items, of one group each or of six
HALF = tuple(i // 10 % 2 == 0 for i in range(60))  # right and wrong in whole groups, as a patient's images often are


def _wider(figures: Mapping[str, Any], alone: Mapping[str, Any]) -> dict[str, bool]:
    """Whether each interval is wider than that of the same values with a group each."""
    assert figures.keys() == alone.keys()
    pairs = {name: (_dict(figures[name]), _dict(alone[name])) for name in figures}
    assert all(a["value"] == b["value"] and a["n"] == b["n"] for a, b in pairs.values())
    return {name: a["high"] - a["low"] > 1.5 * (b["high"] - b["low"]) for name, (a, b) in pairs.items()}


def _dict(estimate: Any) -> Mapping[str, float]:
    return estimate if isinstance(estimate, Mapping) else asdict(estimate)


def test_accuracies_of_groups_know_less_than_of_items() -> None:
    truth = ("a", "b") * 30
    predicted = tuple(label if right else "c" for label, right in zip(truth, HALF, strict=True))
    exact = Predictions(truth, truth, EACH)
    together, alone = (
        predictions.figures(Predictions(truth, predicted, groups), exact, {}) for groups in (TOGETHER, EACH)
    )
    assert _wider(together.metrics, alone.metrics) == {"accuracy": True, "balanced_accuracy": True}
    assert _wider(together.details["per_class"], alone.details["per_class"]) == {"a": True, "b": True}
    assert _wider({"paired": together.paired.difference}, {"paired": alone.paired.difference}) == {"paired": True}


@pytest.mark.parametrize("tokens", [1, 4])
def test_cosines_of_groups_know_less_than_of_images(tokens: int) -> None:
    values = np.repeat(np.asarray(HALF, np.float64), tokens)
    image = values.reshape(60, tokens) if tokens > 1 else values
    cosines = {"image": image.tolist(), "text": [1.0, 0.5, 0.0]}
    together, alone = (
        ENCODER.summarize([{"cosines": cosines, "groups": list(groups)}]).metrics for groups in (TOGETHER, EACH)
    )
    assert _wider(together, alone) == {"cosine_image": True, "cosine_text": False}  # texts belong to no patient
    each_token = {"cosine_image": metrics.mean_interval(values)}
    assert _wider({"cosine_image": alone["cosine_image"]}, each_token) == {"cosine_image": tokens > 1}


def test_samples_of_one_patient_stay_together(tmp_path: Path) -> None:
    given = dataset(6)
    samples = tuple(replace(sample, group=f"patient {i // 3}") for i, sample in enumerate(given.samples))
    data, numbers = Dataset(given.source, samples), [0, 0, 0, 1, 1, 1]
    context = RunContext(0, tmp_path / "key", leaves=True)
    for asked, model in (
        (FINDING, StubChat()),
        (YES_NO, StubChat()),
        (LABELS, StubEmbedder()),
        (ENCODER, StubEmbedder()),
    ):
        assert list(asked.run(model, data, context)["groups"]) == numbers, asked.name
