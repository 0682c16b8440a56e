"""Distances of a decoder's logits from full precision's, in text and in answers, on stub models of known damage."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_stubs import VOCABULARY, StubChat, StubEmbedder, dataset
from scipy.special import log_softmax
from scipy.stats import entropy

from edgekit.bench.datasets import Dataset, DatasetSource, Sample, load, source
from edgekit.bench.datasets.corpus import READER
from edgekit.bench.fidelity.distances import Distances
from edgekit.bench.kinds.base import RunContext, Task
from edgekit.bench.kinds.text_fidelity import TextFidelityTask
from edgekit.bench.tasks import parse, task
from edgekit.errors import ArtifactError, InputError, UsageError
from edgekit.runtime.base import Model, Tokens

ANSWERS = task("fidelity-decoder")
TEXT = parse(
    {
        "name": "text", "kind": "text-fidelity", "title": "Text", "dataset": "passage", "limit": 1,
        "context": 32, "chunks": 6,
    }
)  # fmt: skip
TEXTS = Dataset(source("passage"), tuple(Sample("", str(i), question=f"{i} and more of it. " * 5) for i in range(5)))
POSITIONS = 6 * 15
BOTH = pytest.mark.parametrize(("asked", "data"), [(TEXT, TEXTS), (ANSWERS, dataset(6))], ids=["text", "answers"])


def _run(asked: Task, data: Dataset, model: Model, work: Path, *, leaves: bool = False, noise: float = 0.0) -> Any:
    context = RunContext(0, work / "key", leaves, lambda: StubChat(noise=noise))
    return json.loads(json.dumps(asked.run(model, data, context)))


@pytest.fixture
def left(tmp_path: Path) -> Callable[..., tuple[Any, Path]]:
    """Has full precision leave its logits; what it says, and where they are."""

    def leave(asked: Task, data: Dataset, noise: float = 0.0) -> tuple[Any, Path]:
        return _run(asked, data, StubChat(), tmp_path, leaves=True, noise=noise), tmp_path

    return leave


def test_one_position_by_scipy() -> None:
    generator = np.random.default_rng(5)
    expected, actual = generator.normal(0, 3, (2, 50, 40)).astype(np.float32)
    distances = Distances()
    for i, (one, other) in enumerate(zip(expected, actual, strict=True)):
        distances.add(one, other, group=i, follows=7, margin=0.1)
    log_p, log_q = (log_softmax(rows.astype(np.float64), axis=1) for rows in (expected, actual))
    np.testing.assert_allclose(distances.kl, entropy(np.exp(log_p), np.exp(log_q), axis=1), rtol=1e-9)
    np.testing.assert_allclose(distances.loss, -log_q[:, 7], rtol=1e-12)
    np.testing.assert_allclose(distances.expected_loss, -log_p[:, 7], rtol=1e-12)
    np.testing.assert_allclose(distances.confidence, np.exp(log_p).max(axis=1), rtol=1e-12)
    assert distances.agrees == list(expected.argmax(axis=1) == actual.argmax(axis=1))
    assert Distances.of(json.loads(json.dumps(distances.plain()))) == distances


def test_rows_that_a_file_leaves_out_count_for_neither_side() -> None:
    expected, distances = np.random.default_rng(1).normal(size=40).astype(np.float32), Distances()
    distances.add(expected, expected[:38], group=0, follows=3, margin=0.1)
    assert distances.kl == [0]
    with pytest.raises(ValueError, match="40 logits against full precision's 38"):
        distances.add(expected[:38], expected, group=0, follows=3, margin=0.1)


@BOTH
def test_full_precision_has_no_distance_from_itself(
    asked: Task, data: Dataset, left: Callable[..., tuple[Any, Path]]
) -> None:
    own, work = left(asked, data)
    again = _run(asked, data, StubChat(), work)
    for result in (own, again):
        figures = asked.summarize([result], own)
        assert figures.metrics[asked.headline].value == 0
        assert figures.details["beyond_noise"] is False
        assert figures.details["clear_top1_changes"] == figures.details["nonfinite"] == 0
    floor = asked.noise_floor(own)
    assert floor is not None
    assert floor.value == 0


@BOTH
def test_damage_shows_and_only_beyond_the_noise(
    asked: Task, data: Dataset, left: Callable[..., tuple[Any, Path]]
) -> None:
    own, work = left(asked, data, noise=0.05)
    light, heavy = (asked.summarize([_run(asked, data, StubChat(noise=noise), work)], own) for noise in (0.05, 2.0))
    floor = asked.noise_floor(own)
    assert floor is not None
    assert 0 < floor.value == light.metrics[asked.headline].value < 0.01 < 0.3 < heavy.metrics[asked.headline].value
    assert (light.details["beyond_noise"], heavy.details["beyond_noise"]) == (False, True)
    top1 = asked.headline.replace("kl", "top1")
    assert heavy.metrics[top1].value < 0.8 < light.metrics[top1].value
    assert heavy.details["clear_top1_changes"] > 0
    assert heavy.details["noise_floor"]["kl"]["value"] == floor.value


@BOTH
def test_logits_that_are_not_finite_are_counted(
    asked: Task, data: Dataset, left: Callable[..., tuple[Any, Path]]
) -> None:
    own, work = left(asked, data)
    broken = asked.summarize([_run(asked, data, StubChat(broken=True), work)], own)
    assert broken.metrics[asked.headline].value == float("inf")
    assert broken.metrics[asked.headline.replace("kl", "top1")].value == 0
    assert broken.details["nonfinite"] == broken.details["positions"]
    assert broken.details["beyond_noise"] is True


def test_figures_by_full_precisions_confidence() -> None:
    confidence = [0.1, 0.49, 0.5, 0.95, 0.99, 1.0]
    given = Distances([1.0, 3, 5, 7, 9, 11], [True, False, *[True] * 4], confidence, list(range(6)))
    details = TEXT.summarize([{"distances": given.plain(), "floor": None}]).details
    means = {where: figure["value"] for where, figure in details["kl_by_confidence"].items()}
    assert means == {"0 to 0.5": 2, "0.5 to 0.9": 5, "0.9 to 0.99": 7, "0.99 to 1": 10}
    assert details["top1_by_confidence"]["0 to 0.5"]["value"] == 0.5
    assert sum(figure["n"] for figure in details["kl_by_confidence"].values()) == 6


def test_perplexity_is_that_of_the_text(left: Callable[..., tuple[Any, Path]]) -> None:
    own, work = left(TEXT, TEXTS)
    noisy = TEXT.summarize([_run(TEXT, TEXTS, StubChat(noise=1.0), work)], own)
    assert isinstance(TEXT, TextFidelityTask)
    model, text = StubChat(noise=1.0), "\n\n".join(sample.question for sample in TEXTS.samples)
    losses = []
    ids = [2, *[ord(c) % VOCABULARY for c in text]]
    for chunk in (ids[i : i + 32] for i in range(0, 6 * 32, 32)):
        chunk[0] = 2  # llama.cpp's chunks, written down once more
        rows = list(model.decoder.prefill([Tokens(tuple(chunk))], range(16, 31)))
        losses += [-log_softmax(row.astype(np.float64))[token] for row, token in zip(rows, chunk[17:], strict=True)]
    assert noisy.metrics["perplexity"].value == pytest.approx(np.exp(np.mean(losses)))
    exact = TEXT.summarize([own]).metrics["perplexity"].value
    assert noisy.metrics["perplexity_ratio"].value == pytest.approx(noisy.metrics["perplexity"].value / exact)
    assert noisy.details["groups"] == 6
    assert noisy.metrics["kl"].n == POSITIONS


@pytest.mark.parametrize(("chunks", "read"), [(1, 1), (3, 2), (6, 3), (100, 5)])
def test_n_is_of_the_texts_that_were_read(chunks: int, read: int, left: Callable[..., tuple[Any, Path]]) -> None:
    """Five of 90 characters, a token each, with two of a break between them and one before all; a chunk is 32."""
    few = TEXT.model_copy(update={"chunks": chunks})
    own, work = left(few, TEXTS)
    assert few.summarize([own]).n == few.summarize([_run(few, TEXTS, StubChat(), work)], own).n == read
    assert few.summarize([own]).details["positions"] == min(chunks, (1 + 5 * 90 + 4 * 2) // 32) * 15


def test_a_chunk_takes_every_position_of_the_stride() -> None:
    strided = TEXT.model_copy(update={"stride": 4})
    assert isinstance(strided, TextFidelityTask)
    assert list(strided.positions) == [16, 20, 24, 28]
    documents = list(strided.documents(range(100)))
    assert len(documents) == 3
    assert [list(one.follows) for one in documents][1] == [49, 53, 57, 61]


def test_an_answers_positions_are_its_own(left: Callable[..., tuple[Any, Path]]) -> None:
    own, work = left(ANSWERS, dataset(6))
    index = json.loads((work / "key.json").read_text())
    assert index["answers"][1] == "The finding: nodule."
    assert len(own["distances"]["kl"]) == sum(len(answer) + 1 for answer in index["answers"])
    assert (work / "key.f32").stat().st_size == 4 * VOCABULARY * len(own["distances"]["kl"])
    assert sorted(set(own["distances"]["groups"])) == list(range(6))


def test_answers_that_change_are_counted(left: Callable[..., tuple[Any, Path]]) -> None:
    own, work = left(ANSWERS, dataset(6))
    found = ANSWERS.summarize([_run(ANSWERS, dataset(6), StubChat(wrong_every=3), work)], own)
    assert found.metrics["answer_flips"].value == pytest.approx(2 / 6)
    assert ANSWERS.summarize([own]).metrics["answer_flips"].value == 0
    assert found.details["images"] == 6


def test_answers_of_one_patient_stay_together(tmp_path: Path) -> None:
    given = dataset(6)
    samples = tuple(replace(sample, group=f"patient {i // 3}") for i, sample in enumerate(given.samples))
    result = _run(ANSWERS, Dataset(given.source, samples), StubChat(), tmp_path, leaves=True)
    assert sorted(set(result["distances"]["groups"])) == [0, 1]
    assert result["groups"] == [0, 0, 0, 1, 1, 1]


def test_texts_may_be_asked_about_too(tmp_path: Path) -> None:
    asked = ANSWERS.model_copy(update={"prompt": "{question}", "about_images": False})
    with pytest.raises(UsageError, match="has no questions"):
        _run(asked, dataset(3), StubChat(), tmp_path, leaves=True)


def test_intervals_of_groups_are_wider() -> None:
    half, each = [0.0, 1.0] * 40, list(range(80))
    together = [i // 20 for i in each]
    values = np.sort(half).tolist()
    wide, narrow = (
        TEXT.summarize([{"distances": Distances(values, [v > 0 for v in values], half, groups, values, half).plain()}])
        for groups in (together, each)
    )
    for name in ("kl", "top1", "perplexity"):
        widths = [found.metrics[name].high - found.metrics[name].low for found in (wide, narrow)]
        assert widths[0] > 1.5 * widths[1], name


def test_another_prompt_is_refused(left: Callable[..., tuple[Any, Path]]) -> None:
    class Other(StubChat):
        def tokenize(self, text: str) -> list[int]:
            return [1, *super().tokenize(text)]

    _, work = left(ANSWERS, dataset(6))
    with pytest.raises(ArtifactError, match="document 0: the model builds another prompt than its reference"):
        _run(ANSWERS, dataset(6), Other(), work)


@pytest.mark.parametrize("damaged", ["cut", "gone", "index"])
def test_damaged_logits_are_refused(damaged: str, left: Callable[..., tuple[Any, Path]]) -> None:
    _, work = left(TEXT, TEXTS)
    path = work / "key.f32"
    if damaged == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    elif damaged == "gone":
        path.unlink()
    else:
        (work / "key.json").write_text('{"answers": 5}')
    with pytest.raises(ArtifactError, match=r"key\.(f32|json)"):
        _run(TEXT, TEXTS, StubChat(), work)


@BOTH
def test_without_full_precision_there_is_a_reason(asked: Task, data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the reference left no logits"):
        _run(asked, data, StubChat(), tmp_path)
    with pytest.raises(UsageError, match="has no decoder"):
        _run(asked, data, StubEmbedder(), tmp_path)


def test_interrupted_full_precision_is_not_taken_for_a_finished_one(tmp_path: Path) -> None:
    class Interrupted(StubChat):
        def segments(self, messages, answer=None):  # type: ignore[no-untyped-def]
            if answer is not None and messages[0].images[0][0, 1] == 3:
                raise KeyboardInterrupt
            return super().segments(messages, answer)

    with pytest.raises(KeyboardInterrupt):
        _run(ANSWERS, dataset(6), Interrupted(), tmp_path, leaves=True)
    assert not list(tmp_path.glob("key.*"))
    own = _run(ANSWERS, dataset(6), StubChat(), tmp_path, leaves=True)
    assert ANSWERS.summarize([_run(ANSWERS, dataset(6), StubChat(), tmp_path)], own).metrics["kl_answers"].value == 0


def test_what_full_precision_left_is_not_computed_again(left: Callable[..., tuple[Any, Path]]) -> None:
    own, work = left(TEXT, TEXTS, noise=0.1)

    class Idle(StubChat):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = None  # type: ignore[assignment]

    assert _run(TEXT, TEXTS, Idle(), work, leaves=True) == own


def test_as_many_positions_as_a_task_may_have(left: Callable[..., tuple[Any, Path]]) -> None:
    """More entries than a file that people write may have."""
    many = TEXT.model_copy(update={"chunks": 150})
    texts = Dataset(TEXTS.source, TEXTS.samples * 50)
    own, work = left(many, texts)
    assert len(own["distances"]["kl"]) == 150 * 15
    assert many.summarize([_run(many, texts, StubChat(), work)], own).metrics["kl"].value == 0


def test_percentiles_are_those_that_the_sample_carries() -> None:
    values = np.random.default_rng(3).exponential(size=1000).tolist()
    for n, names in ((63, ["median"]), (64, ["median", "p90"]), (662, ["median", "p90", "p99"])):
        given = Distances(values[:n], [True] * n, [0.5] * n, list(range(n)))
        found = TEXT.summarize([{"distances": given.plain(), "floor": None}]).metrics
        assert [name for name in found if name.startswith("kl_")] == [f"kl_{name}" for name in names]
        for name, share in zip(names, (0.5, 0.9, 0.99), strict=False):
            assert found[f"kl_{name}"].value == np.quantile(values[:n], share, method="inverted_cdf")


CORPUS = {"title": "t", "citation": "c", "license": "l", "note": "n", "reader": "corpus"}


def _corpus(folder: Path, name: str, text: str | bytes, limit: int = 100, seed: int = 0) -> tuple[Sample, ...]:
    raw = text.encode() if isinstance(text, str) else text
    (folder / name).write_bytes(raw)
    return READER.read(DatasetSource(name="x", file=name, **CORPUS), limit, seed, folder)  # type: ignore[arg-type]


def test_documents_of_a_text(tmp_path: Path) -> None:
    text = "Q: a?\nA: b.\n\n\n  \nQ: c?\nA: d.\n"
    for name, raw in (("x.txt", text.encode()), ("x.txt.gz", gzip.compress(text.encode()))):
        samples = _corpus(tmp_path, name, raw)
        assert {s.id: s.question for s in samples} == {"line 1": "Q: a?\nA: b.", "line 6": "Q: c?\nA: d."}
        assert len({sample.group for sample in samples}) == 2


def test_documents_of_records(tmp_path: Path) -> None:
    lines = '{"id": 1, "question": "why?", "label": ["B"]}\n\n{"text": " so "}\n'
    assert {s.id: s.question for s in _corpus(tmp_path, "x.jsonl", lines)} == {"line 1": "why?", "line 3": "so"}
    record = {"QUESTION": "q?", "CONTEXTS": ["one", "two"], "LONG_ANSWER": "yes", "YEAR": "2011"}
    for whole, name in (({"123": record}, "123"), ([record], "entry 1")):
        (sample,) = _corpus(tmp_path, "x.json", json.dumps(whole))
        assert (sample.id, sample.question) == (name, "one\ntwo\nq?\nyes")


def test_the_seed_chooses_documents(tmp_path: Path) -> None:
    text = "\n\n".join(f"text {i}" for i in range(50))
    first, again, other = (_corpus(tmp_path, "x.txt", text, 10, seed) for seed in (1, 1, 2))
    assert [s.id for s in first] == [s.id for s in again] != [s.id for s in other]
    assert len(first) == 10


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("x.txt", b"\xff\xfe", "not UTF-8 at byte 0"),
        ("x.txt.gz", b"no gzip", "damaged"),
        ("x.txt.gz", gzip.compress(b"a text", mtime=0)[:-9], "damaged"),
        ("x.jsonl", '{"text": "a"}\n{"text": ', "line 2: no JSON"),
        ("x.jsonl", '{"text": "a"}\n[1]', "line 2: no text"),
        ("x.json", '{"1": {"text": "a"}, "2": {"YEAR": "2011"}}', "2: no text"),
        ("x.json", '"a"', "neither an object nor a list"),
        ("x.json", "[" * 100_000, "no JSON"),
        ("x.csv", "a,b", "no corpus is kept as .csv"),
    ],
)
def test_bad_corpora_are_refused(tmp_path: Path, name: str, raw: str | bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        _corpus(tmp_path, name, raw)


def test_a_corpus_that_is_not_there_or_too_short(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load("medquad-text", 10, 0, tmp_path)
    short = Dataset(source("passage"), (Sample("", "0", question="short"),))
    with pytest.raises(InputError, match="a text of 6 tokens"):
        _run(TEXT, short, StubChat(), tmp_path, leaves=True)
    with pytest.raises(UsageError, match="samples without a text"):
        _run(TEXT, dataset(2), StubChat(), tmp_path, leaves=True)
