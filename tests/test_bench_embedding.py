"""The tasks of models that embed, on vectors whose right answers are known, against scikit-learn and plain sums."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedders import embedder, picture
from hypothesis import given
from hypothesis import strategies as st

from edgekit.artifacts import find
from edgekit.bench.datasets import Dataset, Sample, source
from edgekit.bench.decision import gates
from edgekit.bench.decision.planned import check_planned
from edgekit.bench.kinds import Task
from edgekit.bench.kinds.base import Figures, RunContext
from edgekit.bench.kinds.linear_probe import fold_of
from edgekit.bench.logistic import LogisticRegression
from edgekit.bench.tasks import parse, task
from edgekit.errors import ArtifactError, UsageError
from edgekit.inputs.labels import PHANTOM, class_prompts, in_modality
from edgekit.inputs.prompt_tables import prompt_table
from edgekit.runtime.base import Model

sklearn_metrics = pytest.importorskip("sklearn.metrics")
linear_model = pytest.importorskip("sklearn.linear_model")
preprocessing = pytest.importorskip("sklearn.preprocessing")

pytestmark = pytest.mark.filterwarnings("ignore::edgekit.inputs.image.PictureWarning")  # images of eight pixels
LABELS = in_modality(PHANTOM)
N, WIDTH = 80, 16
ZERO_SHOT, PROBE, RETRIEVAL = (task(f"{name}-phantom") for name in ("zero-shot", "linear-probe", "retrieval"))
ENCODER = task("fidelity-encoder")
FINDINGS = ("Cardiomegaly", "Pleural Effusion")


def vectors(seed: int = 0, clear: float = 0.7) -> np.ndarray:
    """Images' vectors, which know a little of their label."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(0, 1, (len(LABELS), WIDTH))
    return generator.normal(0, 1, (N, WIDTH)) + clear * centres[np.arange(N) % len(LABELS)]


def texts(*tasks: Task) -> dict[str, np.ndarray]:
    """Vectors of all prompts of tasks, near their label's."""
    centres, generator = np.random.default_rng(99).normal(0, 1, (len(LABELS), WIDTH)), np.random.default_rng(5)
    found = {}
    for given_ in tasks:
        for label, centre in zip(LABELS, centres, strict=True):
            for prompt in class_prompts(label, given_.prompts):  # type: ignore[attr-defined]
                found[prompt] = centre + generator.normal(0, 0.4, WIDTH)
    return found


def dataset(n: int = N, per_group: int = 1, **changes: Any) -> Dataset:
    samples = [
        Sample(
            LABELS[i % len(LABELS)].name,
            str(i // (per_group * len(LABELS)) * len(LABELS) + i % len(LABELS)),
            picture(i),
        )
        for i in range(n)
    ]
    return Dataset(source("phantoms"), tuple(replace(sample, **changes) for sample in samples))


def with_findings(n: int = N) -> Dataset:
    """Two findings at once; of every seventh image nobody knows the first."""
    samples = []
    for i in range(n):
        seen = {FINDINGS[0]: None if i % 7 == 0 else i % 2 == 0, FINDINGS[1]: i % 3 == 0}
        samples.append(Sample("", str(i // 2), picture(i), findings=seen))
    return Dataset(source("phantoms"), tuple(samples))


def run(asked: Task, model: Model, data: Dataset, context: RunContext | None = None) -> Any:
    """As a worker's result comes back: through JSON."""
    return json.loads(json.dumps(asked.run(model, data, context or RunContext(0.0)), allow_nan=False))


def figures(asked: Task, model: Model, data: Dataset, exact: Model | None = None) -> Figures:
    return asked.summarize([run(asked, model, data)], run(asked, exact, data) if exact else None)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


# ---------------------------------------------------------------- zero-shot


def published(images: np.ndarray, words: dict[str, np.ndarray], scale: float) -> np.ndarray:
    """Probabilities [images, labels] as the report has them: averaged prompts, cosine, softmax."""
    classes = [np.mean([unit(words[p]) for p in class_prompts(label, ZERO_SHOT.prompts)], axis=0) for label in LABELS]  # type: ignore[attr-defined]
    z = np.exp(scale) * unit(images) @ unit(np.array(classes)).T
    odds = np.exp(z - z.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("scale", [0.0, 2.0, 4.0])
def test_zero_shot_is_the_published_protocol(scale: float) -> None:
    words = texts(ZERO_SHOT)
    found = figures(ZERO_SHOT, embedder(vectors(), words, scale=scale, bias=-7), dataset())
    probabilities, truth = published(vectors(), words, scale), np.arange(N) % len(LABELS)
    expected = [sklearn_metrics.roc_auc_score(truth == i, probabilities[:, i]) for i in range(len(LABELS))]
    assert found.metrics["zero_shot_auc"].value == pytest.approx(np.mean(expected), abs=1e-6)
    by_topic = found.details["by_topic"]
    assert [by_topic[label.name]["value"] for label in LABELS] == pytest.approx(expected, abs=1e-6)
    assert found.details["positives"] == {label.name: N // len(LABELS) for label in LABELS}
    assert found.metrics["zero_shot_auc"].n == N


def test_a_model_that_is_sure_is_still_ordered() -> None:
    """With MedSigLIP's temperature, float32 probabilities are 0 and 1; scikit-learn on exact numbers is the judge."""
    words = texts(ZERO_SHOT)
    found = figures(ZERO_SHOT, embedder(vectors(), words, scale=8.0), dataset())
    assert np.unique(published(vectors(), words, 8.0).astype(np.float32).max(axis=1)).tolist()[-1] == 1
    classes = [np.mean([unit(words[p]) for p in class_prompts(label, ZERO_SHOT.prompts)], axis=0) for label in LABELS]  # type: ignore[attr-defined]
    z = (np.exp(8.0) * unit(vectors()) @ unit(np.array(classes)).T).astype(np.longdouble)
    others = np.array([[row[i] - np.max(np.delete(row, i)) for i in range(len(LABELS))] for row in z])
    truth = np.arange(N) % len(LABELS)
    expected = [sklearn_metrics.roc_auc_score(truth == i, others[:, i].astype(float)) for i in range(len(LABELS))]
    assert found.metrics["zero_shot_auc"].value == pytest.approx(np.mean(expected), abs=0.005)


def test_findings_are_asked_one_by_one_there_against_not_there() -> None:
    asked = parse(
        {**ZERO_SHOT.model_dump(), "prompts": ["{name}"], "absent_prompts": ["no {name}", "{name} is absent"]}
    )
    generator = np.random.default_rng(1)
    images = generator.normal(0, 1, (N, WIDTH))
    names = [name.casefold() for name in FINDINGS]
    words = {text: generator.normal(0, 1, WIDTH) for n in names for text in (n, f"no {n}", f"{n} is absent")}
    found = figures(asked, embedder(images, words, scale=1.0), with_findings())
    for name, there in zip(FINDINGS, names, strict=True):
        absent = unit(np.mean([unit(words[f"no {there}"]), unit(words[f"{there} is absent"])], axis=0))
        margin = unit(images) @ (unit(words[there]) - absent)
        truth = [sample.findings[name] for sample in with_findings().samples]
        known = np.array([value is not None for value in truth])
        expected = sklearn_metrics.roc_auc_score(np.array(truth, float)[known], margin[known])
        assert found.details["by_topic"][name]["value"] == pytest.approx(expected, abs=1e-6)
        assert found.details["by_topic"][name]["n"] == known.sum()
    assert found.details["prompts"]["absent"]["Cardiomegaly"] == ["no cardiomegaly", "cardiomegaly is absent"]


def test_the_published_examples_take_the_templates_place_and_it_is_said() -> None:
    data = {**ZERO_SHOT.model_dump(), "prompts": ["{name}"], "absent_prompts": ["no {name}"]}
    asked = parse({**data, "table": "chest-xray-findings"})
    (cardiomegaly,) = prompt_table("chest-xray-findings")
    names = [*cardiomegaly.present, *cardiomegaly.absent, "pleural effusion", "no pleural effusion"]
    words = {text: np.random.default_rng(i).normal(0, 1, WIDTH) for i, text in enumerate(names)}
    result = run(asked, embedder(vectors(), words), with_findings())  # any other text would have no vector
    found = asked.summarize([result])
    assert found.details["prompts"]["present"]["Cardiomegaly"] == list(cardiomegaly.present)
    assert found.details["prompts_complete"] == []
    assert found.details["prompts_are"] == "1 with a part of it (Cardiomegaly), 1 with the task's own"
    assert "Table A4" in found.details["prompt_sources"]["Cardiomegaly"]


def test_a_table_is_part_of_its_tasks_identity_and_travels_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "benchmarks" / "prompts"
    folder.mkdir(parents=True)
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    text = '[[set]]\nname = "nodule"\npresent = ["a nodule is seen"]\nsource = "ours"\ncomplete = true\n'
    (folder / "mine.toml").write_text(text)
    data = {**ZERO_SHOT.model_dump(exclude={"table"}), "table": "mine"}
    first = parse(data)
    (folder / "mine.toml").write_text(text.replace("is seen", "is visible"))
    assert parse(data).sha256 != first.sha256
    (folder / "mine.toml").unlink()
    again = parse(json.loads(json.dumps(first.model_dump(mode="json"))))  # as another machine gets it
    assert again == first


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "prompt table mine: set: is missing"),
        ('[[set]]\nname = "x"\npresent = []\nsource = "s"\ncomplete = true', r"prompt table mine: set\.0\.present"),
        (
            '[[set]]\nname = "x"\npresent = [""]\nsource = "s"\ncomplete = true',
            r"prompt table mine: set\.0\.present\.0",
        ),
        ('[[set]]\nname = "x"\npresent = ["y"]\nsource = "s"', r"prompt table mine: set\.0\.complete: is missing"),
        ('[[set]]\nname = "x"\npresent = ["y"]\nsource = "s"\ncomplete = true\n' * 2, "two sets of the name 'x'"),
    ],
)
def test_a_wrong_table_names_its_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        prompt_table(str(path))


def test_every_shipped_table_says_whose_it_is_and_that_it_is_not_all() -> None:
    names = find.names("benchmarks/prompts")
    assert {"chest-xray-findings", "diabetic-retinopathy"} <= set(names)
    for name in names:
        for each in prompt_table(name):
            assert "arXiv:2507.05201" in each.source
            assert not each.complete


def test_what_has_no_area_is_refused_before_anything_is_embedded() -> None:
    model = embedder(vectors(), texts(ZERO_SHOT))
    with pytest.raises(
        UsageError, match="zero-shot-phantom: no finding has an area: no finding 1 and 0, nodule 0 and 1"
    ):
        run(ZERO_SHOT, model, dataset(1))
    assert model.image_encoder.encoded == 0  # type: ignore[attr-defined]


def test_findings_that_too_few_images_show_are_left_out_and_named() -> None:
    found = figures(ZERO_SHOT, embedder(vectors(), texts(ZERO_SHOT)), dataset(11))  # three labels twice, five once
    assert found.details["not_measured"] == [label.name for label in LABELS[3:]]
    assert set(found.details["by_topic"]) == {label.name for label in LABELS[:3]}


def test_absence_needs_prompts() -> None:
    with pytest.raises(UsageError, match="no prompts say that 'cardiomegaly' is not there") as caught:
        run(ZERO_SHOT, embedder(vectors(), texts(ZERO_SHOT)), with_findings())
    assert "absent_prompts" in str(caught.value.remedy)


# ---------------------------------------------------------------- what all three share


@pytest.mark.parametrize("asked", [ZERO_SHOT, PROBE, RETRIEVAL], ids=lambda asked: asked.kind)
def test_a_level_is_compared_with_full_precision_on_the_same_images(asked: Task) -> None:
    words, noise = texts(ZERO_SHOT), np.random.default_rng(3).normal(0, 1.5, (N, WIDTH))
    exact, same = embedder(vectors(clear=1.5), words), embedder(vectors(clear=1.5), words)
    damaged = embedder(vectors(clear=1.5) + noise, words)
    alike, worse = figures(asked, same, dataset(), exact), figures(asked, damaged, dataset(), exact)
    assert alike.paired is not None
    assert worse.paired is not None
    assert alike.paired.difference.value == 0
    assert alike.paired.difference.low < 0 < alike.paired.difference.high
    assert worse.paired.difference.high < 0
    change = worse.metrics[asked.headline].value - alike.metrics[asked.headline].value
    assert worse.paired.difference.value == pytest.approx(change)


@pytest.mark.parametrize("asked", [ZERO_SHOT, RETRIEVAL], ids=lambda asked: asked.kind)
def test_images_of_one_patient_know_less(asked: Task) -> None:
    images = vectors(clear=0.5)
    images = images[np.arange(N) // 32 * 8 + np.arange(N) % 8]  # four copies
    alone, grouped = (figures(asked, embedder(images, texts(ZERO_SHOT)), dataset(per_group=n)) for n in (1, 4))
    key = asked.headline
    assert alone.metrics[key].value == pytest.approx(grouped.metrics[key].value)
    widths = [found.metrics[key].high - found.metrics[key].low for found in (alone, grouped)]
    assert widths[1] > 1.3 * widths[0]


def test_tasks_on_the_same_images_embed_them_once() -> None:
    model = embedder(vectors(), texts(ZERO_SHOT))
    for asked in (ZERO_SHOT, PROBE, RETRIEVAL):
        run(asked, model, dataset())
    assert model.image_encoder.encoded == N  # type: ignore[attr-defined]


@pytest.mark.parametrize("asked", [ZERO_SHOT, RETRIEVAL], ids=lambda asked: asked.kind)
def test_a_model_without_texts_says_so(asked: Task) -> None:
    class Blind(Model):
        title = "an encoder"

        def embed_image(self, images: Sequence[Any]) -> Any:
            return unit(vectors())[[image[0, 0] for image in images]].astype(np.float32)

    with pytest.raises(UsageError, match=rf"{asked.name}: an encoder embeds no texts"):
        run(asked, Blind(), dataset())
    alone = RETRIEVAL.model_copy(update={"directions": ("image-to-image",)})
    assert set(run(alone, Blind(), dataset())) == {"image-to-image"}


# ---------------------------------------------------------------- linear probe


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("c", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("shape", [(120, 10), (60, 200)], ids=str)
def test_the_regression_is_scikit_learns(classes: int, c: float, shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(classes)
    truth = np.arange(shape[0]) % classes
    rows = generator.normal(0, 1, shape) * generator.uniform(0.1, 9, shape[1]) + 3
    rows[:, 0] += 2 * truth
    rows[:, 1] = 4  # says nothing
    scaler = preprocessing.StandardScaler().fit(rows)
    judge = linear_model.LogisticRegression(C=c, tol=1e-10, max_iter=20_000).fit(scaler.transform(rows), truth)
    mine = LogisticRegression(rows, truth, c)
    new = generator.normal(3, 4, (30, shape[1]))
    new[:, 1] = 4
    z = mine.logits(new)
    z -= z.max(axis=1, keepdims=True)
    probabilities = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    assert mine.converged
    np.testing.assert_allclose(probabilities, judge.predict_proba(scaler.transform(new)), atol=2e-4)


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="one class"):
        LogisticRegression(np.ones((3, 2)), np.zeros(3, int))


def test_the_probe_is_fitted_without_the_images_that_it_judges() -> None:
    """The whole protocol again with scikit-learn, on the same folds."""
    truth = np.arange(N) % len(LABELS)
    found = run(PROBE, embedder(vectors(), {"x": [1.0] * WIDTH}), dataset(per_group=2))
    groups = np.array(found["groups"])
    folds, rows = fold_of(truth, groups, 5, PROBE.seed), unit(vectors()).astype(np.float32).astype(float)
    expected = np.zeros((N, len(LABELS)))
    for fold in range(5):
        here = folds == fold
        assert not set(groups[here]) & set(groups[~here])
        scaler = preprocessing.StandardScaler().fit(rows[~here])
        judge = linear_model.LogisticRegression(C=1.0, tol=1e-10, max_iter=20_000)
        judge.fit(scaler.transform(rows[~here]), truth[~here])
        expected[here] = judge.predict_proba(scaler.transform(rows[here]))
    np.testing.assert_allclose(1 / (1 + np.exp(-np.array(found["scores"]).T)), expected, atol=2e-3)
    summary = PROBE.summarize([found])
    assert summary.metrics["probe_accuracy"].value == pytest.approx((expected.argmax(axis=1) == truth).mean())
    areas = [sklearn_metrics.roc_auc_score(truth == i, expected[:, i]) for i in range(len(LABELS))]
    assert summary.metrics["probe_auc"].value == pytest.approx(np.mean(areas), abs=2e-3)


def test_vectors_that_know_nothing_give_an_area_of_a_half() -> None:
    noise = np.random.default_rng(11).normal(0, 1, (N, WIDTH))
    found = figures(PROBE, embedder(noise, {"x": [1.0] * WIDTH}), dataset()).metrics["probe_auc"]
    assert found.low < 0.5 < found.high or abs(found.value - 0.5) < 0.1


def test_findings_are_probed_one_by_one_where_they_are_known() -> None:
    images = np.random.default_rng(2).normal(0, 1, (N, WIDTH))
    images[::2, 0] += 4  # cardiomegaly
    found = figures(PROBE, embedder(images, {"x": [1.0] * WIDTH}), with_findings())
    by_topic = found.details["by_topic"]
    assert by_topic["Cardiomegaly"]["value"] > 0.9 > by_topic["Pleural Effusion"]["value"]
    assert by_topic["Cardiomegaly"]["n"] == sum(i % 7 != 0 for i in range(N))
    assert "probe_accuracy" not in found.metrics


def test_a_probe_of_broken_embeddings_says_so() -> None:
    images = vectors()
    images[3] = np.nan
    with pytest.raises(UsageError, match="linear-probe-phantom: 1 embeddings are not finite"):
        run(PROBE, embedder(images, {"x": [1.0] * WIDTH}), dataset())


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=8, max_size=60),
    st.integers(2, 6),
    st.integers(0, 5),
)
def test_folds_keep_groups_together_and_are_the_same_every_time(
    items: list[tuple[int, int]], folds: int, seed: int
) -> None:
    truth, groups = (np.array(column) for column in zip(*items, strict=True))
    place = fold_of(truth, groups, folds, seed)
    assert place.tolist() == fold_of(truth, groups, folds, seed).tolist()
    assert all(len(set(place[groups == group])) == 1 for group in set(groups.tolist()))
    assert place.min() >= 0
    assert place.max() < folds


def test_folds_have_as_much_of_each_class() -> None:
    truth = np.arange(200) % 4
    place = fold_of(truth, np.arange(200), 5, 0)
    counts = [[int(((place == fold) & (truth == label)).sum()) for label in range(4)] for fold in range(5)]
    assert np.ptp(counts) == 0


# ---------------------------------------------------------------- retrieval


def test_retrieval_finds_by_cosine_and_never_in_its_own_group() -> None:
    words = texts(RETRIEVAL)
    found = figures(RETRIEVAL, embedder(vectors(), words), dataset(per_group=2))
    rows, names, truth = unit(vectors()), list(words), np.arange(N) % len(LABELS)
    owners = np.array([names.index(name) // len(RETRIEVAL.prompts) for name in names])  # type: ignore[attr-defined]
    columns = unit(np.array(list(words.values())))
    groups = np.array([int(sample.group) for sample in dataset(per_group=2).samples])
    for k in (1, 5, 10):
        order = np.argsort(-rows @ columns.T, axis=1)[:, :k]
        expected = (owners[order] == truth[:, None]).any(axis=1).mean()
        assert found.metrics[f"recall_at_{k}"].value == pytest.approx(expected)  # the first direction's
        order = np.argsort(-columns @ rows.T, axis=1)[:, :k]
        expected = (truth[order] == owners[:, None]).any(axis=1).mean()
        assert found.metrics[f"text_to_image_recall_at_{k}"].value == pytest.approx(expected)
        similarity = np.where(groups[:, None] == groups[None, :], -9, rows @ rows.T)
        order = np.argsort(-similarity, axis=1)[:, :k]
        expected = (truth[order] == truth[:, None]).any(axis=1).mean()
        assert found.metrics[f"image_to_image_recall_at_{k}"].value == pytest.approx(expected)
    assert found.details["directions"]["text-to-image"]["queries"] == len(names)


def test_samples_with_texts_of_their_own_are_found_by_them() -> None:
    """Reports: each image's own is the right one, and two images may have the same."""
    reports = [f"report {i // 2}" for i in range(20)]
    samples = tuple(Sample("", str(i), picture(i), context=reports[i]) for i in range(20))
    data = Dataset(source("phantoms"), samples)
    images = np.random.default_rng(0).normal(0, 1, (20, WIDTH))
    words = {f"report {i}": images[2 * i] + 0.01 for i in range(10)}  # each is its first image's
    asked = RETRIEVAL.model_copy(update={"directions": ("text-to-image", "image-to-text")})
    found = figures(asked, embedder(images, words), data)
    assert found.metrics["recall_at_1"].value == 1
    assert found.metrics["recall_at_1"].n == 10
    assert found.details["chance"] == pytest.approx(2 / 20)  # two of twenty images answer each report
    columns = unit(np.array(list(words.values())))
    expected = ((unit(images) @ columns.T).argmax(axis=1) == np.arange(20) // 2).mean()
    assert found.metrics["image_to_text_recall_at_1"].value == pytest.approx(expected)


def test_queries_with_nothing_to_find_are_an_error() -> None:
    alone = dataset(8)  # each label once: no other image has it
    with pytest.raises(UsageError, match="retrieval-phantom: image-to-image: no query has anything to find"):
        run(RETRIEVAL, embedder(vectors(), texts(RETRIEVAL)), alone)


def test_gates_may_name_every_figure() -> None:
    found = RETRIEVAL.summarize([run(RETRIEVAL, embedder(vectors(), texts(RETRIEVAL)), dataset())])
    check_planned(gates([f"{name} <= 1" for name in found.metrics]), [RETRIEVAL])
    assert len(found.metrics) == 9


def test_a_wrong_direction_names_the_right_ones() -> None:
    with pytest.raises(UsageError, match=r"task retrieval-phantom: directions\.0: 'sideways'") as caught:
        parse({**RETRIEVAL.model_dump(), "directions": ["sideways"]})
    assert "image-to-text" in str(caught.value.allowed)


# ---------------------------------------------------------------- encoder fidelity


def compared(tmp_path: Path, images: np.ndarray, words: dict[str, np.ndarray] | None = None) -> tuple[Figures, Any]:
    """Full precision's figures of itself are looked at on the way."""
    exact = embedder(vectors(), texts(ENCODER))
    context = RunContext(0.0, tmp_path / "left", leaves=True)
    itself = ENCODER.summarize([run(ENCODER, exact, dataset(), context)])
    assert itself.metrics["nearest_kept"].value == itself.metrics["neighbours_kept"].value == 1
    assert itself.metrics["swapped_labels"].value == itself.metrics["auc_difference"].value == 0
    result = run(ENCODER, embedder(images, words or texts(ENCODER)), dataset(), RunContext(0.0, tmp_path / "left"))
    return ENCODER.summarize([result]), result


@pytest.mark.parametrize("damage", ["cut", "text", "one array", "other names", "objects"])
def test_damaged_embeddings_are_refused(tmp_path: Path, damage: str) -> None:
    compared(tmp_path, vectors())
    path = tmp_path / "left.npz"
    if damage == "one array":
        np.save(path.with_suffix(".npy"), np.zeros(3))
        path.with_suffix(".npy").replace(path)
    elif damage in ("other names", "objects"):
        np.savez(path, **{"objects": {"image": np.array([{}])}, "other names": {"x": np.zeros(3)}}[damage])
    else:
        path.write_bytes(b"broken" if damage == "text" else path.read_bytes()[:-40])
    with pytest.raises(ArtifactError, match=r"left\.npz: not what full precision left|image embeddings"):
        run(ENCODER, embedder(vectors(), texts(ENCODER)), dataset(), RunContext(0.0, tmp_path / "left"))


def test_what_an_encoder_keeps_of_ranks_is_counted(tmp_path: Path) -> None:
    damaged = vectors() + np.random.default_rng(4).normal(0, 0.4, (N, WIDTH))
    found, _ = compared(tmp_path, damaged)
    similarities = []
    for rows in (unit(vectors()), unit(damaged)):
        similarity = rows @ rows.T
        np.fill_diagonal(similarity, -9)
        similarities.append(np.argsort(-similarity, axis=1))
    nearest = (similarities[0][:, 0] == similarities[1][:, 0]).mean()
    assert found.metrics["nearest_kept"].value == pytest.approx(nearest)
    kept = [len(set(a[:10]) & set(b[:10])) / 10 for a, b in zip(*similarities, strict=True)]
    assert found.metrics["neighbours_kept"].value == pytest.approx(np.mean(kept))


def test_an_encoders_areas_are_compared(tmp_path: Path) -> None:
    damaged = vectors() + np.random.default_rng(4).normal(0, 1.0, (N, WIDTH))
    found, _ = compared(tmp_path, damaged)
    words, truth = texts(ENCODER), np.arange(N) % len(LABELS)
    classes = unit(
        np.array([np.mean([unit(words[p]) for p in class_prompts(label, ENCODER.prompts)], axis=0) for label in LABELS])
    )  # type: ignore[attr-defined]
    areas = []
    for rows in (vectors(), damaged):
        cosines = unit(rows) @ classes.T
        areas.append(np.mean([sklearn_metrics.roc_auc_score(truth == i, cosines[:, i]) for i in range(len(LABELS))]))
    assert found.metrics["auc_difference"].value == pytest.approx(areas[1] - areas[0], abs=1e-6)
    assert set(found.details["auc_difference_by_topic"]) == {label.name for label in LABELS}


def test_a_common_shift_hides_in_cosines_and_not_in_ranks(tmp_path: Path) -> None:
    """Embeddings with a large common part: cosines stay near 1 while the neighbours change."""
    common = np.full(WIDTH, 30.0)
    exact = embedder(vectors() + common, texts(ENCODER))
    context = RunContext(0.0, tmp_path / "left", leaves=True)
    run(ENCODER, exact, dataset(), context)
    damaged = embedder(vectors() + common + np.random.default_rng(1).normal(0, 0.8, (N, WIDTH)), texts(ENCODER))
    found = ENCODER.summarize([run(ENCODER, damaged, dataset(), RunContext(0.0, tmp_path / "left"))])
    assert found.metrics["cosine_image"].value > 0.999
    assert found.metrics["nearest_kept"].value < 0.6
