"""How far a decoder's logits are from full precision's at the same positions.

Accuracy moves in steps of one answer; these figures see damage long before an answer changes. Both sides build prompt
and image embeddings themselves, so a level's vision loss counts as well. The full-precision row runs first: it answers
the questions and leaves its answers and logits under a hash of everything that they depend on, and then is measured
like any other row, which gives the noise floor. Logits are streamed row by row: at Gemma's vocabulary a row is 1 MB,
and two thousand of them are never held.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, Strict

from edgekit import metrics
from edgekit.artifacts.documents import is_file, read_json
from edgekit.artifacts.files import create, make_folder, sync, write_atomically
from edgekit.artifacts.manifest import Manifest
from edgekit.artifacts.validation import Listed, Sha256, StrictModel, Text, validated
from edgekit.bench.answers import answer
from edgekit.bench.datasets import Dataset
from edgekit.bench.items import Item, group_numbers, question
from edgekit.bench.kinds.base import FigureColumn, Figures, RunContext, Task
from edgekit.bench.records import Measurement
from edgekit.bench.report.figures import percent, small
from edgekit.errors import ArtifactError, UsageError
from edgekit.inputs.passage import passage
from edgekit.runtime.base import Embeddings, Model, Segment, Tokens
from edgekit.runtime.chat_model import ChatModel

_PROMPT_TOKENS = 16  # of a question, behind its image
_TEXT_GROUP = 64  # positions of running text that count as one group: neighbours are not independent


@dataclass(frozen=True)
class Document:
    """One prompt with a forced answer, and the positions in it that are compared."""

    segments: list[Segment]
    want: range
    after_image: bool

    @property
    def sha256(self) -> str:
        """Identity of its token ids and positions; images count by their place, since each side encodes them itself."""
        ids = [list(s.ids) if isinstance(s, Tokens) else len(s) for s in self.segments]
        return hashlib.sha256(json.dumps([ids, list(self.want)]).encode()).hexdigest()


@dataclass(frozen=True)
class LogitDistance:
    """One entry a position, in the documents' order.

    Attributes:
        kl: KL(full precision || candidate) in nats, inf where a logit is not finite.
        agrees: whether the top token is the same.
        after_image: whether the position stands after an image.
        groups: positions with equal numbers belong together and are resampled together.
        clear_changes: positions whose top token changed though full precision's two best differ by the margin.
    """

    kl: tuple[float, ...]
    agrees: tuple[bool, ...]
    after_image: tuple[bool, ...]
    groups: tuple[int, ...]
    clear_changes: int


_INDEX_BYTES = 1 << 26
_Positive = Annotated[int, Field(gt=0, lt=1 << 40)]


class _Left(StrictModel):
    """What the full-precision model left beside its logits: its answers, what was shown, positions and vocabulary."""

    answers: Listed[str]
    documents: Listed[Sha256]
    shape: Annotated[tuple[_Positive, _Positive], Strict(False)]


class DecoderFidelityTask(Task):
    """Logits after images, where the model sees, and in one long text.

    `prompt` is asked of every image and the full-precision model's answer to it is forced; `text_prompt` is the
    question before the text; `text_positions` of the text's positions are compared.
    """

    kind: Literal["decoder-fidelity"]
    prompt: Text
    max_tokens: int = Field(gt=0, lt=1 << 24)
    text_prompt: Text
    text_positions: int = Field(gt=0, lt=1 << 24)
    clear_margin: float = Field(default=0.1, gt=0, le=1e6)

    ability = "generate"
    needs_full_precision = True
    headline = "kl"
    columns = (
        FigureColumn("kl", "KL, nats", small),
        FigureColumn("top1", "top-1 %", lambda figure: percent(figure, 2)),
    )

    def items(self, dataset: Dataset) -> tuple[Item, ...]:
        """Every image with the question about it, then the text."""
        shown = [
            Item(sample.group, question(self.prompt, image), image=image)
            for sample, image in zip(dataset.samples, dataset.images, strict=True)
        ]
        return (*shown, Item("text", question(self.text_prompt), truth=passage()))

    def run(self, model: Model, dataset: Dataset, context: RunContext) -> Any:
        """Compare logits with full precision's; the full-precision model itself, running first, leaves them."""
        if not isinstance(model, ChatModel):
            raise UsageError(f"{self.name}: {model.title or 'this model'} has no decoder")
        assert context.stored, "a task that compares with full precision has a place for what that leaves"
        items = self.items(dataset)
        if context.leaves:
            self._leave(model, items, context.stored)
        return asdict(self._compare(model, items, context.stored))

    def leaves_bytes(self, manifest: Manifest) -> int:
        """Logits in float32, one row a position: of the text, and after each image of the prompt and the answer."""
        shown = self.limit * (self.max_tokens + _PROMPT_TOKENS) if manifest.preprocessing else 0
        rows = manifest.settings.get("vocabulary")
        # What is no number is refused where the level is opened, in one list with all else that is missing.
        return 4 * (rows if isinstance(rows, int) else 0) * (self.text_positions + shown)

    def summarize(self, results: Sequence[Any], full_precision: Any | None = None) -> Figures:
        """KL and agreement of the top token: over all positions, after images, in the text."""
        distance = LogitDistance(**results[0])
        kl, agrees = np.asarray(distance.kl, np.float64), np.asarray(distance.agrees, np.float64)
        image, groups = np.asarray(distance.after_image, bool), np.asarray(distance.groups)
        figures = {}
        for name, positions in (("", np.ones_like(image)), ("_after_image", image), ("_text", ~image)):
            if positions.any():
                figures[f"kl{name}"] = metrics.mean_interval(kl[positions], groups[positions])
                figures[f"top1{name}"] = metrics.share_interval(agrees[positions], groups[positions])
        details = {
            "kl_quantiles": asdict(metrics.quantiles(kl, groups)),
            "positions": len(kl),
            "positions_after_image": int(image.sum()),
            "clear_top1_changes": distance.clear_changes,
        }
        return Figures(figures, details)

    @classmethod
    def explain(cls, first: Measurement, rows: Sequence[Measurement]) -> str:
        """What the means are over, and the noise floor."""
        floor = f"; the reference against itself {first.noise_floor:.1g}" if first.noise_floor is not None else ""
        where = f"{first.details['positions']} positions, {first.details['positions_after_image']} after an image"
        return (
            f"{first.task}: {first.title}; KL(reference || level), mean over {where}; top-1 is the share of equal "
            f"top tokens{floor}."
        )

    def _leave(self, model: ChatModel, items: Sequence[Item], stored: Path) -> None:
        """Answer the questions, force the answers, write the logits. Nothing where they are written."""
        index, logits = stored.with_suffix(".json"), stored.with_suffix(".f32")
        if index.is_file():
            return
        make_folder(stored.parent)
        shown = [item for item in items if item.image is not None and model.sees]
        answers, hashes, positions = [answer(model, item, self.max_tokens).text for item in shown], [], 0
        with create(logits) as stream:
            for _, document in self._documents(model, items, answers):
                hashes.append(document.sha256)
                for row in model.decoder.prefill(document.segments, document.want):
                    stream.write(np.ascontiguousarray(row, np.float32).tobytes())
                    positions += 1
        sync(logits)
        written = {"answers": answers, "documents": hashes, "shape": [positions, model.decoder.vocabulary]}
        write_atomically(index, json.dumps(written))  # last: its presence says that the rest is complete

    def _compare(self, model: ChatModel, items: Sequence[Item], stored: Path) -> LogitDistance:
        index = stored.with_suffix(".json")
        if not index.is_file():
            raise UsageError(f"{self.name}: the reference left no logits: see its row")
        left = validated(_Left, read_json(index, ArtifactError, most_bytes=_INDEX_BYTES), str(index), ArtifactError)
        logits = stored.with_suffix(".f32")
        if not is_file(logits) or logits.stat().st_size != 4 * left.shape[0] * left.shape[1]:
            raise ArtifactError(f"{logits}: not the logits that {index.name} describes", remedy="remove both")
        expected_rows: NDArray[np.float32] = np.memmap(logits, np.float32, "r", shape=left.shape)
        kl: list[float] = []
        agrees: list[bool] = []
        after_image: list[bool] = []
        groups: list[int] = []
        changes = 0
        for number, (group, document) in enumerate(self._documents(model, items, left.answers)):
            if document.sha256 != left.documents[number]:
                raise ArtifactError(
                    f"{self.name}: document {number}: the model builds another prompt than its reference"
                )
            for i, row in enumerate(model.decoder.prefill(document.segments, document.want)):
                expected = expected_rows[len(kl)]
                kl.append(float(metrics.kl_divergence(expected, row)[0]))
                agrees.append(bool(metrics.top1_agreement(expected, row)[0]))
                changes += metrics.clear_top1_changes(expected, row, self.clear_margin)
                after_image.append(document.after_image)
                groups.append(group if document.after_image else group + i // _TEXT_GROUP)
        return LogitDistance(tuple(kl), tuple(agrees), tuple(after_image), tuple(groups), changes)

    def _documents(
        self, model: ChatModel, items: Sequence[Item], answers: Sequence[str]
    ) -> Iterator[tuple[int, Document]]:
        """Every image with its forced answer, then the long text as an answer; each with its group's number."""
        asked = [item for item in items if item.image is None or model.sees]
        forced = iter(answers)
        for item, group in zip(asked, group_numbers([item.group for item in asked]), strict=True):
            yield group, self._text(model, item) if item.image is None else _shown(model, item, next(forced))

    def _text(self, model: ChatModel, item: Item) -> Document:
        """The long text, cut behind the last position that is compared."""
        text = str(item.truth)
        segments = model.segments(list(item.messages), answer=text)
        total, length = sum(map(len, segments)), len(model.tokenize(text))
        count = min(self.text_positions, length)
        last = segments[-1]
        assert isinstance(last, Tokens), "a forced answer is text"
        end = total - length + count
        segments = [*segments[:-1], Tokens(last.ids[: len(last.ids) - (total - end)])]
        return Document(segments, range(end - count, end), after_image=False)


def _shown(model: ChatModel, item: Item, forced: str) -> Document:
    """A question about an image with its forced answer, compared from the image's end."""
    segments = model.segments(list(item.messages), answer=forced)
    ends = [i for i, segment in enumerate(segments) if isinstance(segment, Embeddings)]
    start = sum(len(segment) for segment in segments[: ends[-1] + 1])
    return Document(segments, range(start, sum(map(len, segments))), after_image=True)
