"""What a task kind is: the data of its tasks, how they are run, and what their results say."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from edgekit.artifacts.manifest import Manifest
from edgekit.artifacts.validation import Name, StrictModel
from edgekit.bench.cells import Cell
from edgekit.bench.datasets import Dataset, DatasetSource
from edgekit.bench.items import Item
from edgekit.bench.records import Measurement
from edgekit.metrics import Comparison, Estimate
from edgekit.runtime.base import Model


@dataclass(frozen=True)
class RunContext:
    """What a task finds in its worker.

    Attributes:
        load_s: how long opening the model took.
        stored: path without suffix of the files that the full-precision model leaves for this task; None for a task
            that compares nothing with it.
        leaves: whether this is the full-precision model, which has to leave them.
        in_bfloat16: opens the full-precision model in bfloat16, for a noise floor; None where nobody can.
        load_cold_s: how long opening took with its files on the disk alone; None where that was not measured.
        cell: what the worker was told; None outside of one.
    """

    load_s: float
    stored: Path | None = None
    leaves: bool = False
    in_bfloat16: Callable[[], Model] | None = None
    load_cold_s: float | None = None
    cell: Cell | None = None


@dataclass(frozen=True)
class Figures:
    """What a task's results say.

    Attributes:
        metrics: each figure with its interval and count.
        details: what else belongs to the figures, as JSON can hold it.
        paired: the headline figure minus full precision's on the same items, None where there is nothing to compare.
        n: samples that they are of; None for all of the data set's.
    """

    metrics: dict[str, Estimate]
    details: dict[str, Any] = field(default_factory=dict)
    paired: Comparison | None = None
    n: int | None = None


@dataclass(frozen=True)
class FigureColumn:
    """How the main table shows one figure: its column's head, and a figure's text; and how charts and details do.

    Attributes:
        unit: how much of the figure is one in the head's unit: 0.01 where that is percent.
        digits: behind the point, of a value in that unit.
    """

    figure: str
    head: str
    text: Callable[[Estimate | None], str]
    unit: float = 1.0
    digits: int = 3


class Task(StrictModel, ABC):
    """One evaluation, data in `benchmarks/<task>.toml`. A kind is a subclass with `kind: Literal[...]` and its options;
    a list among them is a `Listed[...]` (`edgekit.artifacts.validation`).

    Attributes:
        name: the file's name.
        kind: how it is asked; its class.
        title: for people.
        dataset: what it is measured on, by name, or a user's own as it is: `limit` samples, chosen by `seed` (phantoms
            are drawn from it).
        margin: how much less than full precision still counts as equal, where the headline is a share.
        on_request: runs only where it is named: it takes longer than who named none would wait.
        ability: what a model must be able to do, None where it is no question.
        about_images: nothing is left of it for a model that sees none.
        needs_full_precision: means nothing without the full-precision model's results on the same items.
        own_figures: of such a task, those that are the model's own and compare it with nothing, as its perplexity.
        streams: the full-precision model may do it with weights that come and go, where memory is short.
        in_rounds: measured again and again, in one process at a time, for figures of time and memory.
        headline: the figure that stands for this task, its key in `metrics`; empty where none does.
        columns: its figures' columns in the main table. The accuracy of the first task has one in any case.
        figures: names of its figures that are neither the headline nor in a column, or what their names begin with.
    """

    name: Name
    kind: Name
    title: Name
    dataset: Name | DatasetSource
    limit: int = Field(gt=0, le=10_000_000)
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    margin: float = Field(default=0.01, gt=0, lt=1)
    on_request: bool = False

    ability: ClassVar[str | None] = None
    about_images: ClassVar[bool] = False
    needs_full_precision: ClassVar[bool] = False
    own_figures: ClassVar[tuple[str, ...]] = ()
    streams: ClassVar[bool] = False
    in_rounds: ClassVar[bool] = False
    headline: ClassVar[str] = ""
    columns: ClassVar[tuple[FigureColumn, ...]] = ()
    figures: ClassVar[tuple[str, ...]] = ()

    @property
    def sha256(self) -> str:
        """Identity of everything that the task's file says."""
        said = self.model_dump(mode="json")
        if isinstance(self.dataset, DatasetSource):
            said["dataset"].pop("file")  # the same data elsewhere is the same
        described = json.dumps(said, sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()

    @abstractmethod
    def items(self, dataset: Dataset) -> tuple[Item, ...]:
        """What is asked, in the data set's order.

        Raises:
            UsageError: this data set has no images or labels to ask about.
        """

    @abstractmethod
    def run(self, model: Model, dataset: Dataset, context: RunContext) -> Any:
        """The worker's half: ask a model every item.

        Returns:
            What JSON can hold; `summarize` gets it.

        Raises:
            EdgekitError: this model cannot be asked.
        """

    def leaves_bytes(self, manifest: Manifest) -> int:
        """About how much the full-precision model of an artifact leaves on the disk for this task, in bytes."""
        return 0

    @abstractmethod
    def summarize(self, results: Sequence[Any], full_precision: Any | None = None) -> Figures:
        """Figures of what `run` returned.

        Args:
            results: one, or one a round.
            full_precision: what `run` returned for the full-precision model, None where there is nothing to compare.
        """

    def noise_floor(self, full_precision: Any) -> Estimate | None:
        """The headline figure of full precision in bfloat16 against float32: less than this is no damage.

        Args:
            full_precision: what `run` returned for it.

        Returns:
            None where nobody ran it in bfloat16.
        """
        return None

    @classmethod
    @abstractmethod
    def explain(cls, first: Measurement, rows: Sequence[Measurement]) -> str:
        """The report's line: how it was asked, what the figures are means of, what chance gives.

        Args:
            first: the measurement of a row.
            rows: those of all rows of one model.
        """
