"""How far an encoder's embeddings are from full precision's: cosines of images, and of texts where it embeds them.

A cosine of 0.99 may mean nothing or everything: embeddings of one kind of image lie close together. So what users do
with them is compared as well: which other images are nearest, in which order the labels fit an image, and how well the
labels' cosines tell images apart (the area under the ROC curve of each label against all others).

The full-precision row runs first and leaves its embeddings under a hash of everything that they depend on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgekit import metrics
from edgekit.artifacts.files import make_folder, replacing
from edgekit.artifacts.validation import Listed
from edgekit.bench import areas
from edgekit.bench.datasets import Dataset
from edgekit.bench.embedding import findings, has_findings
from edgekit.bench.items import Item, group_numbers
from edgekit.bench.kinds.base import FigureColumn, Figures, RunContext, Task
from edgekit.bench.prompts import LabelPrompt
from edgekit.bench.records import Measurement
from edgekit.bench.report.figures import NONE, between, cosine, percent
from edgekit.errors import ArtifactError, UsageError
from edgekit.inputs.labels import class_prompts
from edgekit.metrics import Estimate
from edgekit.runtime.base import Float, Model
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.embedding_model import unit

_BATCH = 8
_NEIGHBOURS = 10


def _change(figure: Estimate | None) -> str:
    return NONE if figure is None else between(figure, "+.3f")


class EncoderFidelityTask(Task):
    """Embeddings of the data set's images, and of its labels' `prompts` where the model embeds text."""

    kind: Literal["encoder-fidelity"]
    prompts: Listed[LabelPrompt] = Field(min_length=1, max_length=1000)

    about_images = True
    needs_full_precision = True
    headline = "cosine_image"
    figures = ("neighbours_kept", "swapped_labels")
    columns = (
        FigureColumn("cosine_image", "image cosine", cosine, digits=5),
        FigureColumn("cosine_text", "text cosine", cosine, digits=5),
        FigureColumn("nearest_kept", "nearest image kept %", percent, 0.01, 1),
        FigureColumn("auc_difference", "AUC change", _change),
    )

    def items(self, dataset: Dataset) -> tuple[Item, ...]:
        """Every image."""
        pairs = zip(dataset.samples, dataset.images, strict=True)
        return tuple(Item(sample.group, image=image) for sample, image in pairs)

    def run(self, model: Model, dataset: Dataset, context: RunContext) -> Any:
        """Cosines: `image` [n] or [n, tokens], `text` [n] where there is one; what of ranks is kept; images' groups.

        Full precision's have `floor`, too: the images' cosines of the same model in bfloat16.
        """
        assert context.stored, "a task that compares with full precision has a place for what that leaves"
        path = context.stored.with_suffix(".npz")
        items = self.items(dataset)
        if context.leaves and not path.is_file():
            _write(path, dict(self._embeddings(model, items, dataset)))
        if not path.is_file():
            raise UsageError(f"{self.name}: the reference left no embeddings: see its row")
        cosines, groups = {}, group_numbers([item.group for item in items])
        expected, actual, left, floor = {}, {}, _read(path), dict[str, Any]()
        for name, vectors in self._embeddings(model, items, dataset):
            known = left.get(name, np.empty(0, np.float32))
            if vectors.shape != known.shape:
                raise ArtifactError(f"{self.name}: {name} embeddings {vectors.shape}", allowed=str(known.shape))
            cosines[name] = _cosines(known, vectors).tolist()
            expected[name], actual[name] = (_pooled(rows) for rows in (known, vectors))
        if context.leaves and context.in_bfloat16:
            other = context.in_bfloat16()
            try:
                floor["floor"] = _cosines(left["image"], _images(other, items)).tolist()
            finally:
                other.close()
        ranks = self._ranks(expected, actual, dataset, groups)
        return {"cosines": cosines, "groups": groups, **ranks, **floor}

    def summarize(self, results: Sequence[Any], full_precision: Any | None = None) -> Figures:
        """Mean and worst cosine."""
        figures, details = {}, dict[str, Any]()
        for name, cosines in results[0]["cosines"].items():
            figures[f"cosine_{name}"] = _mean(cosines, results[0]["groups"] if name == "image" else None)
            details[f"worst_cosine_{name}"] = float(np.min(cosines))
        for name in ("nearest_kept", "neighbours_kept", "swapped_labels"):
            if name in results[0]:
                figures[name] = metrics.share_interval(results[0][name], results[0]["groups"])
        if scored := results[0].get("scored"):
            _, actual, change = areas.figures(areas.of(scored["actual"]), areas.of(scored["expected"]), self.margin)
            assert change, "there is a full-precision side"
            figures["auc_difference"] = change.difference
            details["auc_difference_by_topic"] = {name: of["difference"] for name, of in actual["by_topic"].items()}
        return Figures(figures, details)

    def noise_floor(self, full_precision: Any) -> Estimate | None:
        """The mean cosine of full precision in bfloat16."""
        floor = full_precision.get("floor")
        return _mean(floor, full_precision["groups"]) if floor else None

    @classmethod
    def explain(cls, first: Measurement, rows: Sequence[Measurement]) -> str:
        """What the mean is over."""
        counts = {name: figure.n for name, figure in first.metrics.items()}
        texts = counts.get("cosine_text")
        said = f" and {texts} of the labels' prompts, which are short and much alike" if texts else ""
        kept = "; nearest image kept: the share of images whose nearest other image is full precision's"
        change = "; AUC change: of the labels' cosines, each label against all others, the mean over labels"
        return (
            f"{first.task}: {first.title}; mean over {counts[cls.headline]} vectors of {first.counted} images{said}"
            f"{kept if 'nearest_kept' in counts else ''}{change if 'auc_difference' in counts else ''}."
        )

    def _ranks(
        self, expected: Mapping[str, Float], actual: Mapping[str, Float], dataset: Dataset, groups: Sequence[int]
    ) -> dict[str, Any]:
        """What of the order of neighbours and labels is full precision's, of each image; and both sides' scores."""
        ranks: dict[str, Any] = {}
        one, other = (_alone(side["image"] @ side["image"].T) for side in (expected, actual))
        if len(groups) > 1:
            ranks["nearest_kept"] = metrics.top_overlap(one, other, 1).tolist()
            most = min(_NEIGHBOURS, len(groups) - 1)
            ranks["neighbours_kept"] = metrics.top_overlap(one, other, most).tolist()
        if "text" not in expected:
            return ranks
        labels = {name: self._label_cosines(side) for name, side in (("expected", expected), ("actual", actual))}
        if labels["expected"].shape[1] > 1:
            ranks["swapped_labels"] = metrics.swapped_pairs(labels["expected"], labels["actual"]).tolist()
        asked = findings(dataset)
        both = {name: areas.scored(asked, cosines, groups) for name, cosines in labels.items()}
        if not has_findings(dataset) and both["expected"].rankings:
            ranks["scored"] = {name: asdict(side) for name, side in both.items()}
        return ranks

    def _label_cosines(self, side: Mapping[str, Float]) -> Float:
        """Of images and labels, whose prompts' vectors are averaged, [images, labels]."""
        texts = side["text"].reshape(-1, len(self.prompts), side["text"].shape[-1]).mean(axis=1)
        return np.asarray(side["image"] @ unit(texts).T)

    def _embeddings(
        self, model: Model, items: Sequence[Item], dataset: Dataset
    ) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """`image` [n, hidden] or [n, tokens, hidden], and `text` [n, hidden]."""
        yield "image", _images(model, items)
        if "embed_text" in model.abilities:
            texts = [prompt for label in dataset.labels for prompt in class_prompts(label, self.prompts)]
            yield "text", model.embed_text(texts)


def _images(model: Model, items: Sequence[Item]) -> NDArray[np.float32]:
    embed: Any = model.encode_images if isinstance(model, ChatModel) else model.embed_image
    images = [item.image for item in items]
    return np.concatenate([embed(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)])


def _cosines(expected: Float, actual: Float) -> NDArray[np.floating[Any]]:
    """Of vectors [..., width] one by one, [...]."""
    flat = np.asarray(metrics.cosine(*(rows.reshape(-1, expected.shape[-1]) for rows in (expected, actual))))
    return flat.reshape(expected.shape[:-1])


def _mean(cosines: Sequence[Any], groups: Sequence[int] | None) -> Estimate:
    """Of cosines [n], or [n, tokens] whose rows are one image each."""
    values = np.asarray(cosines, np.float64)
    groups = range(len(values)) if groups is None else groups
    return metrics.mean_interval(values, np.repeat(groups, values[0].size), least=-1, most=1)


def _pooled(rows: Float) -> Float:
    """Unit vectors [n, width]: of an image's tokens, their mean's direction."""
    with np.errstate(invalid="ignore"):  # an embedding of zeros has no direction
        return unit(rows if rows.ndim == 2 else rows.mean(axis=1))


def _alone(similarity: Float) -> Float:
    """Similarities of images among each other, an image being nobody's neighbour of its own."""
    np.fill_diagonal(similarity, -np.inf)
    return similarity


def _read(path: Path) -> dict[str, NDArray[np.float32]]:
    try:
        with np.load(path) as left:  # TypeError: one array, and no archive of several
            return {name: np.asarray(left[name], np.float32) for name in left.files}
    except (BadZipFile, EOFError, LookupError, OSError, TypeError, ValueError) as error:
        said = f"{path}: not what full precision left: {error}"
        raise ArtifactError(said, remedy="run the same command again, which leaves it anew") from error


def _write(path: Path, arrays: dict[str, Any]) -> None:
    make_folder(path.parent)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
