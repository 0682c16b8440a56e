"""A user's own images and questions as tasks: `--images FOLDER` and `--questions FILE`, no file to be written."""

from __future__ import annotations

from typing import Any

from edgekit.bench.datasets import own
from edgekit.bench.datasets.schema import DatasetSource
from edgekit.bench.kinds import Task
from edgekit.bench.tasks import parse

_ALL = 10_000_000
_MOST_NAMES = 4000  # characters of a question that lists all labels
_UNLISTED = "finding does the image show? Answer with its name"


def tasks(images: str | None, questions: str | None, *, download: bool = False) -> list[Task]:
    """The tasks on a user's own data; what is given for either may hold the other.

    Args:
        images, questions: as `edgekit.bench.datasets.own` takes them.
        download: whether data sets of the hub may be fetched.

    Raises:
        UsageError, InputError: as there.
    """
    sources = [own.images(images, download=download)] if images is not None else []
    sources += [own.questions(questions, download=download)] if questions is not None else []
    return [task for source in sources for task in (_asked(source) if source.columns.question else _labelled(source))]


def _labelled(source: DatasetSource) -> list[Task]:
    """Which label fits best, for models that embed, the same asked of models that answer, and the fidelity of both."""
    names = ", ".join(label.name for label in source.own_labels)
    listed = (
        f"of these does the image show: {names}? Answer with one of them" if len(names) < _MOST_NAMES else _UNLISTED
    )
    labels = {
        "name": source.name,
        "kind": "labels",
        "title": f"{source.title}: which label fits best",
        "prompts": ["{name}", "an image of {phrase}", "a medical image showing {phrase}"],
    }
    asked = {
        "name": f"{source.name}-asked",
        "kind": "finding",
        "title": f"{source.title}: which label, asked",
        "prompt": f"Which {listed} alone.",
        "parser": "first-label",
        "max_tokens": 64,
    }
    encoder = {
        "name": f"{source.name}-encoder",
        "kind": "encoder-fidelity",
        "title": f"{source.title}: embeddings against the reference",
        "limit": 64,  # a model that answers has a megabyte and more for each
        "prompts": labels["prompts"],
    }
    answers = _answers(source, "What is the main finding in this image?")
    return [parse({"dataset": source, "limit": _ALL, **task}) for task in (labels, asked, encoder, answers)]


def _answers(source: DatasetSource, prompt: str) -> dict[str, Any]:
    """What full precision answers, against what a level does."""
    return {
        "name": f"{source.name}-answers",
        "kind": "decoder-fidelity",
        "title": f"{source.title}: answers against the reference's",
        "limit": 240,  # of their logits, see `fidelity-decoder`
        "prompt": prompt,
        "max_tokens": 24,
    }


def _asked(source: DatasetSource) -> list[Task]:
    """Questions with options by their letter, others by the words of their answers; of images, the fidelity, too."""
    if source.columns.options:
        context = "{context}\n" if source.columns.context else ""
        end = 'End with "Final Answer:" followed by the letter of the right option in parentheses.'
        how: dict[str, Any] = {
            "kind": "choice",
            "prompt": f"{context}{{question}}\n{{options}}\n{end}",
            "parser": "final-letter",
            "max_tokens": 1024,
        }
    else:
        prompt = "{question} Answer with a word or a short phrase."
        how = {"kind": "vqa", "prompt": prompt, "max_tokens": 128}
    asked = {"name": source.name, "title": source.title, **how}
    answers = [_answers(source, "{question}")] if source.shows_images else []
    return [parse({"dataset": source, "limit": _ALL, **task}) for task in (asked, *answers)]
