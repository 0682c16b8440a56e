"""How far an encoder's embeddings are from full precision's: cosines of images, and of texts where it embeds them.

The full-precision row runs first and leaves its embeddings under a hash of everything that they depend on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgekit import metrics
from edgekit.artifacts.files import make_folder, replacing
from edgekit.artifacts.validation import Listed
from edgekit.bench.datasets import Dataset
from edgekit.bench.items import Item, group_numbers
from edgekit.bench.kinds.base import FigureColumn, Figures, RunContext, Task
from edgekit.bench.prompts import LabelPrompt
from edgekit.bench.records import Measurement
from edgekit.bench.report.figures import cosine
from edgekit.errors import ArtifactError, UsageError
from edgekit.inputs.labels import class_prompts
from edgekit.runtime.base import Model
from edgekit.runtime.chat_model import ChatModel

_BATCH = 8


class EncoderFidelityTask(Task):
    """Embeddings of the data set's images, and of its labels' `prompts` where the model embeds text."""

    kind: Literal["encoder-fidelity"]
    prompts: Listed[LabelPrompt] = Field(min_length=1, max_length=1000)

    about_images = True
    needs_full_precision = True
    headline = "cosine_image"
    columns = (
        FigureColumn("cosine_image", "image cosine", cosine),
        FigureColumn("cosine_text", "text cosine", cosine),
    )

    def items(self, dataset: Dataset) -> tuple[Item, ...]:
        """Every image."""
        pairs = zip(dataset.samples, dataset.images, strict=True)
        return tuple(Item(sample.group, image=image) for sample, image in pairs)

    def run(self, model: Model, dataset: Dataset, context: RunContext) -> Any:
        """Cosines: `image` [n] or [n, tokens], `text` [n] where there is one; and the images' groups."""
        assert context.stored, "a task that compares with full precision has a place for what that leaves"
        path = context.stored.with_suffix(".npz")
        items = self.items(dataset)
        if context.leaves and not path.is_file():
            _write(path, dict(self._embeddings(model, items, dataset)))
        if not path.is_file():
            raise UsageError(f"{self.name}: the reference left no embeddings: see its row")
        cosines = {}
        with np.load(path) as left:
            for name, vectors in self._embeddings(model, items, dataset):
                expected, width = left[name], vectors.shape[-1]
                if vectors.shape != expected.shape:
                    raise ArtifactError(f"{self.name}: {name} embeddings {vectors.shape}", allowed=str(expected.shape))
                flat = metrics.cosine(expected.reshape(-1, width), vectors.reshape(-1, width))
                cosines[name] = flat.reshape(expected.shape[:-1]).tolist()
        return {"cosines": cosines, "groups": group_numbers([item.group for item in items])}

    def summarize(self, results: Sequence[Any], full_precision: Any | None = None) -> Figures:
        """Mean and worst cosine."""
        figures, details = {}, {}
        for name, cosines in results[0]["cosines"].items():
            values = np.asarray(cosines, np.float64)  # [n], or [n, tokens] whose rows are one image each
            groups = results[0]["groups"] if name == "image" else np.arange(len(values))
            figures[f"cosine_{name}"] = metrics.mean_interval(values, np.repeat(groups, values[0].size))
            details[f"worst_cosine_{name}"] = float(values.min())
        return Figures(figures, details)

    @classmethod
    def explain(cls, first: Measurement, rows: Sequence[Measurement]) -> str:
        """What the mean is over."""
        counts = {name: figure.n for name, figure in first.metrics.items()}
        texts = counts.get("cosine_text")
        said = f" and {texts} of the labels' prompts, which are short and much alike" if texts else ""
        return f"{first.task}: {first.title}; mean over {counts[cls.headline]} vectors of {first.counted} images{said}."

    def _embeddings(
        self, model: Model, items: Sequence[Item], dataset: Dataset
    ) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """`image` [n, hidden] or [n, tokens, hidden], and `text` [n, hidden]."""
        embed: Any = model.encode_images if isinstance(model, ChatModel) else model.embed_image
        images = [item.image for item in items]
        yield "image", np.concatenate([embed(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)])
        if "embed_text" in model.abilities:
            texts = [prompt for label in dataset.labels for prompt in class_prompts(label, self.prompts)]
            yield "text", model.embed_text(texts)


def _write(path: Path, arrays: dict[str, Any]) -> None:
    make_folder(path.parent)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
