"""How a decoder reads running text, against full precision: perplexity, KL divergence, agreement of the top token.

Chunks are llama.cpp's (`llama-perplexity`): texts are joined and tokenized as one, cut into chunks of `context` tokens
whose first is replaced by <bos>, and positions count from the middle of a chunk on, where each has seen enough to
predict what follows. With `stride` 1 the figures are those of `llama-perplexity --kl-divergence`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import Field

from edgekit.artifacts.manifest import Manifest
from edgekit.bench.datasets import Dataset
from edgekit.bench.fidelity import figures
from edgekit.bench.fidelity.distances import Distances
from edgekit.bench.fidelity.reference import Document, Reference, logits_bytes
from edgekit.bench.items import Item
from edgekit.bench.kinds.base import FigureColumn, Figures, RunContext, Task
from edgekit.bench.records import Measurement
from edgekit.bench.report.figures import percent, small
from edgekit.errors import InputError, UsageError
from edgekit.metrics import Estimate
from edgekit.runtime.base import Model, Tokens
from edgekit.runtime.chat_model import ChatModel


class TextFidelityTask(Task):
    """Chunks of a corpus, read as they stand, without a chat template.

    Attributes:
        context: tokens of a chunk.
        chunks: at most so many; each is a group that intervals resample.
        stride: of the second half of a chunk, every so-manieth position is compared.
        clear_margin: a changed top token is clear where full precision's two best logits are farther apart.
    """

    kind: Literal["text-fidelity"]
    context: int = Field(ge=4, lt=1 << 20)
    chunks: int = Field(gt=0, lt=1 << 20)
    stride: int = Field(default=1, gt=0, lt=1 << 20)
    clear_margin: float = Field(default=0.1, gt=0, le=1e6)

    ability = "generate"
    needs_full_precision = True
    streams = True
    own_figures = ("perplexity",)
    headline = "kl"
    columns = (
        FigureColumn("kl", "KL, nats", small),
        FigureColumn("top1", "top-1 %", lambda figure: percent(figure, 2), 0.01, 2),
        FigureColumn("perplexity", "perplexity", lambda figure: f"{figure.value:.4g}" if figure else "-"),
    )

    @property
    def positions(self) -> range:
        """Those of a chunk that are compared: each predicts the token after it, and the last one's is not in it."""
        return range(self.context // 2, self.context - 1, self.stride)

    def items(self, dataset: Dataset) -> tuple[Item, ...]:
        """Every text.

        Raises:
            UsageError: the data set has none.
        """
        texts = [_text(sample.context, sample.question) for sample in dataset.samples]
        if not all(texts):
            raise UsageError(f"{self.name}: the dataset {dataset.source.name} has samples without a text")
        samples = zip(dataset.samples, texts, strict=True)
        return tuple(Item(sample.group, truth=text, id=sample.id, topic=sample.topic) for sample, text in samples)

    def run(self, model: Model, dataset: Dataset, context: RunContext) -> Any:
        """Compare logits with full precision's; the full-precision model itself, running first, leaves them.

        Returns:
            `distances`, and `texts`: of how many the chunks are, the last perhaps in part.
        """
        if not isinstance(model, ChatModel):
            raise UsageError(f"{self.name}: {model.title or 'this model'} has no decoder")
        assert context.stored, "a task that compares with full precision has a place for what that leaves"
        reference = Reference(context.stored, self.name, self.clear_margin)
        texts = [str(item.truth) for item in self.items(dataset)]

        def ids(model: ChatModel, count: int = len(texts)) -> Sequence[int]:
            return model.format.continued("\n\n".join(texts[:count]))

        def documents(model: ChatModel) -> Iterator[Document]:
            return self.documents(ids(model))

        if context.leaves:
            left = reference.left() or reference.leave(model, documents, in_bfloat16=context.in_bfloat16)
            result = left.result
        else:
            result = {"distances": reference.compare(model, documents).plain()}
        chunks = min(self.chunks, len(ids(model)) // self.context)
        counts = range(1, len(texts) + 1)
        read = bisect_left(counts, chunks * self.context, key=lambda count: len(ids(model, count)))
        return {**result, "texts": counts[min(read, len(texts) - 1)]}

    def documents(self, ids: Sequence[int]) -> Iterator[Document]:
        """The chunks of a text's ids, whose first is <bos>.

        Raises:
            InputError: the text is shorter than a chunk.
        """
        if len(ids) < self.context:
            said = f"{self.name}: a text of {len(ids)} tokens"
            allowed = f"at least one chunk of {self.context}"
            raise InputError(said, allowed=allowed, remedy="more texts, or a smaller context")
        for number in range(min(self.chunks, len(ids) // self.context)):
            chunk = (ids[0], *ids[number * self.context + 1 : (number + 1) * self.context])
            follows = [chunk[position + 1] for position in self.positions]
            yield Document([Tokens(chunk)], self.positions, number, follows)

    def leaves_bytes(self, manifest: Manifest) -> int:
        """Logits in float32, one row a position."""
        return logits_bytes(manifest, self.chunks * len(self.positions))

    def summarize(self, results: Sequence[Any], full_precision: Any | None = None) -> Figures:
        """Over all positions, and by full precision's confidence."""
        given = Distances.of(results[0]["distances"])
        floor = figures.floor(full_precision) if full_precision else None
        said = {**figures.details(given, floor), "context": self.context, "stride": self.stride}
        return Figures(figures.figures(given), said, n=results[0].get("texts"))

    def noise_floor(self, full_precision: Any) -> Estimate | None:
        """The divergence of full precision in bfloat16."""
        floor = figures.floor(full_precision)
        return figures.figures(floor)["kl"] if floor else None

    @classmethod
    def explain(cls, first: Measurement, rows: Sequence[Measurement]) -> str:
        """What the means are over, and the noise floor."""
        details = first.details
        return (
            f"{first.task}: {first.title}; {details['positions']} positions of {details['groups']} chunks of "
            f"{details['context']} tokens; KL(reference || level), mean; top-1 is the share of equal top tokens"
            f"{figures.noise(first, rows)}."
        )


def _text(*parts: str) -> str:
    return "\n".join(part for part in parts if part)
