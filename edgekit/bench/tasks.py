"""Tasks: one evaluation each, data in `benchmarks/<task>.toml`, checked here. A new one of these kinds is one file.

kind               asks                                                   figure
labels             which of the dataset's labels fits an image best       accuracy, balanced accuracy
finding            a question about an image, answered freely, parsed     accuracy, balanced accuracy
yesno              yes/no questions, as many of either answer, parsed     accuracy, balanced accuracy
decoder-fidelity   the reference's own answers and a long text, forced    KL divergence, top-1 agreement
encoder-fidelity   the reference's embeddings of images and prompts       cosine
latency            how long it takes and how much memory                  medians over rounds
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from edgekit.artifacts import find
from edgekit.errors import UsageError
from edgekit.inputs.labels import parse_finding, parse_yes_no

Parser = Callable[[str, tuple[str, ...]], str | None]

# A parser takes a free answer and the names it may give; None is a wrong answer, never one that is left out.
PARSERS: Mapping[str, tuple[str, Parser]] = {
    "first-label": (
        "lower-cased; the first label that occurs as a whole word, the longest at equal position; none: wrong",
        lambda answer, names: parse_finding(answer, names),
    ),
    "first-yes-or-no": (
        "lower-cased; the first word that is yes or no; none: wrong",
        lambda answer, names: parse_yes_no(answer),
    ),
    "highest-score": ("the label with the highest score", lambda answer, names: answer),
}


class _Task(BaseModel):
    """What every task states.

    Attributes:
        name: the file's name.
        title: for people.
        needs: the ability that a model must have.
        headline: the figure that stands for this task in a table, its record's key in `metrics`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str

    needs: ClassVar[str | None] = None
    about_images: ClassVar[bool] = False  # nothing is left of it for a model that sees none
    headline: ClassVar[str] = ""
    accuracy: ClassVar[bool] = False
    compared: ClassVar[bool] = True  # means nothing without the reference's figures on the same inputs

    @property
    def sha256(self) -> str:
        """Identity of everything that the task's file says."""
        described = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()


class _OnImages(_Task):
    """A task on the images of a dataset: `limit` of them, chosen by `seed` (for phantoms: drawn from it)."""

    dataset: str
    limit: int = Field(gt=0)
    seed: int = Field(default=0, ge=0)


class LabelsTask(_OnImages):
    """Prompt-based classification: `prompts` are averaged per label; {name}, {phrase}, {modality} are the label's."""

    kind: Literal["labels"]
    prompts: tuple[str, ...] = Field(min_length=1)
    parser: Literal["highest-score"] = "highest-score"

    needs = "embed_image"
    headline = "accuracy"
    accuracy = True
    compared = False


class AnswerTask(_OnImages):
    """A question about each image, answered by greedy decoding within `max_tokens`.

    `prompt` may contain {question}: the yes/no question of a label, its own or another of the same kind of image.
    """

    kind: Literal["finding", "yesno"]
    prompt: str
    parser: Literal["first-label", "first-yes-or-no"]
    max_tokens: int = Field(gt=0)

    needs = "generate"
    about_images = True
    headline = "accuracy"
    accuracy = True
    compared = False


class DecoderFidelityTask(_OnImages):
    """Logits against the reference's at the same positions: of answers about images where it sees, of one long text.

    `prompt` is asked of every image and the reference's answer to it is forced; `text_prompt` is the question before
    the text; `text_positions` of the text's positions are compared.
    """

    kind: Literal["decoder-fidelity"]
    prompt: str
    max_tokens: int = Field(gt=0)
    text_prompt: str
    text_positions: int = Field(gt=0)
    clear_margin: float = Field(default=0.1, gt=0)

    needs = "generate"
    headline = "kl"


class EncoderFidelityTask(_OnImages):
    """Embeddings against the reference's: of images, and of the dataset's label prompts where the model embeds text."""

    kind: Literal["encoder-fidelity"]
    prompts: tuple[str, ...] = Field(min_length=1)

    headline = "cosine_image"
    about_images = True


class LatencyTask(_OnImages):
    """Times of single requests, one process per row and round: `limit` different images, then `decode_tokens` steps."""

    kind: Literal["latency"]
    prompt: str
    decode_tokens: int = Field(gt=1)

    compared = False


Task = LabelsTask | AnswerTask | DecoderFidelityTask | EncoderFidelityTask | LatencyTask
_TASK: TypeAdapter[Task] = TypeAdapter(Annotated[Task, Field(discriminator="kind")])


def task(name: str) -> Task:
    """The task of this name, checked.

    Raises:
        UsageError: there is no such task, or its file is wrong; the message names the key.
    """
    data = find.load("benchmarks", name)
    return parse({"name": find.find("benchmarks", name).stem, **data})


def parse(data: Mapping[str, Any]) -> Task:
    """Check a task's data.

    Raises:
        UsageError: a key is missing, unknown or wrong.
    """
    try:
        return _TASK.validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != data.get("kind")) or "kind"
        raise UsageError(f"task {data.get('name')}: {where}: {first['msg']}") from error
