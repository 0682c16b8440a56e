"""How far a decoder's answers are from full precision's: its logits at full precision's own answer, and its own answer.

Full precision answers every question greedily; each row is forced along that answer and compared at the answer's own
positions, where a model decides, and not at those of the template before it. Then it answers by itself: an answer that
differs is a flip. Both sides build prompt and image embeddings themselves, so a level's vision loss counts as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from pydantic import Field

from edgekit import metrics
from edgekit.artifacts.manifest import Manifest
from edgekit.artifacts.validation import Text
from edgekit.bench.answers import answer
from edgekit.bench.datasets import Dataset
from edgekit.bench.fidelity import figures
from edgekit.bench.fidelity.distances import Distances
from edgekit.bench.fidelity.reference import Document, Reference, logits_bytes
from edgekit.bench.items import Item, group_numbers, question
from edgekit.bench.kinds.base import FigureColumn, Figures, RunContext, Task
from edgekit.bench.records import Measurement
from edgekit.bench.report.figures import percent, small
from edgekit.errors import UsageError
from edgekit.metrics import Estimate
from edgekit.runtime.base import Model
from edgekit.runtime.chat_model import ChatModel

_QUESTION = "{question}"


class DecoderFidelityTask(Task):
    """Answers to questions about images, or to those of texts.

    Attributes:
        prompt: what is asked; `{question}` stands for the sample's own question.
        max_tokens: of an answer.
        clear_margin: a changed top token is clear where full precision's two best logits are farther apart.
    """

    kind: Literal["decoder-fidelity"]
    prompt: Text
    max_tokens: int = Field(gt=0, lt=1 << 24)
    clear_margin: float = Field(default=0.1, gt=0, le=1e6)

    ability = "generate"
    about_images = True
    needs_full_precision = True
    headline = "kl_answers"
    figures = ("top1_answers",)
    columns = (
        FigureColumn("kl_answers", "KL in answers, nats", small),
        FigureColumn("answer_flips", "changed answers %", percent, 0.01, 1),
    )

    def items(self, dataset: Dataset) -> tuple[Item, ...]:
        """Every sample's question, with its image where it has one.

        Raises:
            UsageError: the prompt asks for questions that the data set does not have.
        """
        if _QUESTION in self.prompt and not all(sample.question for sample in dataset.samples):
            raise UsageError(f"{self.name}: the dataset {dataset.source.name} has no questions")
        return tuple(
            Item(
                sample.group,
                question(self.prompt.replace(_QUESTION, sample.question), sample.image),
                image=sample.image,
                id=sample.id,
                topic=sample.topic,
            )
            for sample in dataset.samples
        )

    def run(self, model: Model, dataset: Dataset, context: RunContext) -> Any:
        """Force full precision's answers and compare, then answer; full precision itself, running first, leaves its."""
        if not isinstance(model, ChatModel):
            raise UsageError(f"{self.name}: {model.title or 'this model'} has no decoder")
        assert context.stored, "a task that compares with full precision has a place for what that leaves"
        items, reference = self.items(dataset), Reference(context.stored, self.name, self.clear_margin)
        groups = group_numbers([item.group for item in items])
        asked = {"groups": groups, "images": sum(item.image is not None for item in items)}
        left = reference.left()
        if context.leaves:
            if left is None:
                answers = self._answers(model, items)
                forced = partial(_forced, items=items, groups=groups, answers=answers)
                left = reference.leave(model, forced, answers, context.in_bfloat16)
            return {**left.result, **asked}
        left = reference.required()
        distances = reference.compare(model, partial(_forced, items=items, groups=groups, answers=left.answers))
        return {"distances": distances.plain(), "answers": self._answers(model, items), **asked}

    def _answers(self, model: ChatModel, items: Sequence[Item]) -> list[str]:
        return [answer(model, item, self.max_tokens).text for item in items]

    def leaves_bytes(self, manifest: Manifest) -> int:
        """Logits in float32, one row a token of the answers, and one for the end."""
        return logits_bytes(manifest, self.limit * (self.max_tokens + 1))

    def summarize(self, results: Sequence[Any], full_precision: Any | None = None) -> Figures:
        """Divergence and agreement at the answers' positions, and the share of answers that changed."""
        given, exact = results[0], full_precision or results[0]
        distances = Distances.of(given["distances"])
        floor = figures.floor(full_precision) if full_precision else None
        changed = np.asarray([a != b for a, b in zip(given["answers"], exact["answers"], strict=True)], np.float64)
        found = figures.figures(distances, "_answers")
        found["answer_flips"] = metrics.share_interval(changed, given["groups"])
        said = {
            **figures.details(distances, floor),
            "answers": len(changed),
            "images": given["images"],
        }
        return Figures(found, said)

    def noise_floor(self, full_precision: Any) -> Estimate | None:
        """The divergence of full precision in bfloat16."""
        floor = figures.floor(full_precision)
        return figures.figures(floor, "_answers")["kl_answers"] if floor else None

    @classmethod
    def explain(cls, first: Measurement, rows: Sequence[Measurement]) -> str:
        """What the means are over, and the noise floor."""
        details = first.details
        return (
            f"{first.task}: {first.title}; KL(reference || level), mean over the {details['positions']} positions of "
            f"the reference's {details['answers']} answers, {details['images']} of them about an image"
            f"{figures.noise(first, rows)}; a changed answer is a greedy one that differs from the reference's."
        )


def _forced(
    model: ChatModel, items: Sequence[Item], groups: Sequence[int], answers: Sequence[str]
) -> Iterator[Document]:
    """Each question with its forced answer, compared where that is predicted: from its first token to its end."""
    for item, group, text in zip(items, groups, answers, strict=True):
        segments = model.segments(list(item.messages), answer=text)
        total = sum(map(len, segments))
        yield Document(segments, range(total - len(model.tokenize(text)) - 1, total), group)
