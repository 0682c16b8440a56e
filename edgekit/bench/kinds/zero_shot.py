"""Zero-shot classification as Google measured MedSigLIP: averaged prompts, a softmax, areas under ROC curves.

The embeddings of several prompts are averaged for each class, an image's logits of the classes go through a softmax,
and the area is that of a class's probability against all others (MedGemma Technical Report, arXiv:2507.05201, 3.6). On
images that may show several findings at once, each finding is a question of its own with two classes: it is there, or
it is not. A model that was trained on these very labels is no zero-shot classifier, whatever this file is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgekit.artifacts.validation import Listed
from edgekit.bench import areas
from edgekit.bench.datasets import Dataset
from edgekit.bench.embedding import (
    averaged_vectors,
    contrastive,
    findings,
    has_findings,
    image_vectors,
    log_odds,
    logits,
)
from edgekit.bench.items import Item, group_numbers
from edgekit.bench.kinds.base import FigureColumn, Figures, RunContext, Task
from edgekit.bench.prompts import LabelPrompt
from edgekit.bench.records import Measurement
from edgekit.errors import UsageError
from edgekit.inputs.labels import Label, class_prompts
from edgekit.inputs.prompt_tables import PromptTable
from edgekit.runtime.base import Float, Model
from edgekit.runtime.embedding_model import ContrastiveModel


class ZeroShotTask(Task):
    """`prompts` say that a finding is there, or name a label; `absent_prompts` that a finding is not.

    {name}, {phrase} and {modality} in them are the label's; a finding's name is its phrase. `table` names a file of
    `benchmarks/prompts`, whose sets take the templates' place for the findings, or labels, that they name.
    """

    kind: Literal["zero-shot"]
    prompts: Listed[LabelPrompt] = Field(min_length=1, max_length=1000)
    absent_prompts: Listed[LabelPrompt] = Field(default=(), max_length=1000)
    table: PromptTable = ()

    ability = "embed_image"
    about_images = True
    headline = "zero_shot_auc"
    columns = (FigureColumn("zero_shot_auc", "zero-shot AUC", areas.area),)

    def items(self, dataset: Dataset) -> tuple[Item, ...]:
        """Every image."""
        pairs = zip(dataset.samples, dataset.images, strict=True)
        return tuple(Item(sample.group, image=image, id=sample.id) for sample, image in pairs)

    def run(self, model: Model, dataset: Dataset, context: RunContext) -> Any:
        """Scores of every finding on every image; and the prompts that stood for it."""
        items, asked = self.items(dataset), findings(dataset)
        groups, embedder = group_numbers([item.group for item in items]), contrastive(model, self.name)
        areas.check_findings(asked, groups, self.name)
        labels = self._labels(dataset, [finding.name for finding in asked])
        present = [self._present(label) for label in labels]
        absent = [self._absent(label) for label in labels] if has_findings(dataset) else []
        images = image_vectors(embedder, [item.image for item in items if item.image is not None])
        scores = _scores(embedder, images, present, absent)
        return {**asdict(areas.scored(asked, scores, groups)), "present": present, "absent": absent}

    def summarize(self, results: Sequence[Any], full_precision: Any | None = None) -> Figures:
        """The mean area over the findings."""
        exact = areas.of(full_precision) if full_precision else None
        figure, details, paired = areas.figures(areas.of(results[0]), exact, self.margin)
        names, said = results[0]["names"], {key: results[0][key] for key in ("present", "absent")}
        prompts = {key: dict(zip(names, sets, strict=True)) for key, sets in said.items() if sets}
        details |= {"prompts": prompts, "chance": 0.5, **self._sources(names)}
        return Figures({self.headline: figure}, details, paired)

    @classmethod
    def explain(cls, first: Measurement, rows: Sequence[Measurement]) -> str:
        """How it was asked, over what the mean is, and whether the prompts are the published ones."""
        details = first.details
        against = "there against not there" if "absent" in details["prompts"] else "one against all others"
        left_out = ", ".join(details["not_measured"])
        said = f"; not measured, for too few images show it or too few do not: {left_out}" if left_out else ""
        return (
            f"{first.task}: {first.title}; n = {first.counted}; area under the ROC curve, {against}, the mean over "
            f"{len(details['by_topic'])} findings; prompts averaged, {details['prompts_are']}{said}; chance gives 0.5."
        )

    def _labels(self, dataset: Dataset, names: Sequence[str]) -> list[Label]:
        if not has_findings(dataset):
            return list(dataset.labels)
        modality = dataset.source.modality or "image"
        return [Label(name, modality, name, "") for name in map(str.casefold, names)]

    def _present(self, label: Label) -> tuple[str, ...]:
        known = self._sets().get(label.name.casefold())
        return known.present if known else class_prompts(label, self.prompts)

    def _absent(self, label: Label) -> tuple[str, ...]:
        known = self._sets().get(label.name.casefold())
        prompts = known.absent if known else class_prompts(label, self.absent_prompts)
        if not prompts:
            raise UsageError(
                f"{self.name}: no prompts say that {label.name!r:.80} is not there",
                remedy="absent_prompts in the task's file, or absent in the table's set",
            )
        return prompts

    def _sets(self) -> dict[str, Any]:
        return {each.name.casefold(): each for each in self.table}

    def _sources(self, names: Sequence[str]) -> dict[str, Any]:
        """Which findings have published prompts, all of them or a part, and what to say of that."""
        used = {name: known for name in names if (known := self._sets().get(name.casefold()))}
        published = [name for name in names if name in used and used[name].complete]
        in_part = [name for name in names if name in used and not used[name].complete]
        own = len(names) - len(used)
        said = [
            f"{len(published)} findings with all that the table's source has" if published else "",
            f"{len(in_part)} with a part of it ({', '.join(in_part)})" if in_part else "",
            f"{own} with the task's own" if own else "",
        ]
        return {
            "prompt_sources": {name: known.source for name, known in used.items()},
            "prompts_complete": published,
            "prompts_are": ", ".join(filter(None, said)),
        }


def _scores(
    model: ContrastiveModel, images: Float, present: Sequence[Sequence[str]], absent: Sequence[Sequence[str]]
) -> NDArray[np.float64]:
    """Log odds after a softmax, [images, findings]: over all labels, or over there and not there of each finding."""
    there = logits(model, images, averaged_vectors(model, present))
    return there - logits(model, images, averaged_vectors(model, absent)) if absent else log_odds(there)
