"""The self-test of a bundle: what its model answered where it was packed, asked again where it is installed.

    golden.json   questions with their answers, images and texts with their vectors
    *.png         the images

A processor of another kind adds in another order, so logits differ in their last digits, and where activations are
rounded to 8 bits, by more. Where two tokens are about equally likely, either may come: at such a place all of them are
written down, and where another one than here comes, nothing behind it is compared. A token ahead of all others by
`MARGIN` is a test: in right files rounding was seen to move logits by 0.08 (root mean square). Vectors may differ by as
much as a proof lets one of that level differ from exact arithmetic.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image as Pillow
from pydantic import Field

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.documents import read_json
from edgekit.artifacts.files import write_atomically
from edgekit.artifacts.levels import limits_of
from edgekit.artifacts.manifest import Manifest
from edgekit.artifacts.validation import Count, Listed, Name, StrictModel, validated
from edgekit.checkpoints.tensors import Float
from edgekit.errors import BundleError, EdgekitError
from edgekit.inputs import phantoms
from edgekit.inputs.message import Image, Message
from edgekit.metrics import relative_error
from edgekit.runtime import open_model
from edgekit.runtime.generation.options import MOST_LOGPROBS, GenerationOptions
from edgekit.runtime.generation.sampling import Chosen
from edgekit.runtime.model import Generation, Model
from edgekit.runtime.tuning_results import DEFAULT

FILE_NAME = "golden.json"
SCHEMA = 1
MARGIN = 0.5  # nats
_SEED = 770_001  # of phantoms: training, calibration, proofs and benchmarks draw them from others
_IMAGES = ("pneumothorax.png", "no-finding.png")  # phantoms, by their finding
_TOKENS, _CONTEXT = 8, 1024
_DIGITS = 5  # of a vector's numbers: rounding moves a vector of 1,152 by a ten-thousandth of its length
_SHOWN = ("What is the main finding in this image?", "Is there a pneumothorax in this image?")
_ASKED = ("What is a pneumothorax?", "Name the four chambers of the heart.")
_TEXTS = ("no finding", "pneumothorax", "a tumour of the brain")
_REMEDY = "this bundle does not work on this machine: tell whoever made it which processor this is (edgekit doctor)"

_Ids = Annotated[Listed[Count], Field(min_length=1, max_length=MOST_LOGPROBS)]
_Number = Annotated[float, Field(ge=-1.001, le=1.001)]
_File = Annotated[str, Field(max_length=100, pattern=r"^[a-z0-9-]+\.png$")]


class Answer(StrictModel):
    """A question and what was answered.

    Attributes:
        image: the name of a file beside; None for a question without one.
        tokens: for each place of the answer, the ids that may stand there, the one that did first. One alone is clear.
    """

    prompt: Name
    image: _File | None = None
    tokens: Listed[_Ids] = Field(max_length=1000)

    @property
    def clear(self) -> int:
        """How many places lie before the first one at which it may part."""
        return next((at for at, ids in enumerate(self.tokens) if len(ids) > 1), len(self.tokens))


class Vector(StrictModel):
    """The unit vector of an image, by its file's name, or of a text."""

    image: _File | None = None
    text: Name | None = None
    values: Listed[_Number] = Field(min_length=1, max_length=4096)


class Golden(StrictModel):
    """What `golden.json` says.

    Attributes:
        most_error: the relative error (L2) that a vector may have.
    """

    schema_version: int = Field(default=SCHEMA, ge=SCHEMA, le=SCHEMA)
    level: Name
    most_error: float = Field(gt=0, le=1)
    answers: Listed[Answer] = Field(default=(), max_length=100)
    vectors: Listed[Vector] = Field(default=(), max_length=100)

    @property
    def clear(self) -> int:
        """How many tokens and vectors are certain to be compared."""
        return len(self.vectors) + sum(answer.clear for answer in self.answers)


def make(model: Path, level: str, target: Path) -> Golden:
    """Ask a model, and write down what it answers.

    Args:
        model: an artifact folder.
        target: a folder, made where it is not there.

    Raises:
        EdgekitError: the model cannot be opened or asked here.
    """
    target.mkdir(parents=True, exist_ok=True)
    with _opened(model, level) as (opened, manifest):
        sees = opened.abilities & {"embed_image", "classify"}
        images = _images(target, 1 if "generate" in opened.abilities else len(_IMAGES)) if sees else []
        answers = [] if "generate" not in opened.abilities else _answers(opened, target, images)
        vectors = []
        if "embed_image" in opened.abilities:
            rows = opened.embed_image([str(target / name) for name in images])
            vectors += [Vector(image=name, values=_rounded(row)) for name, row in zip(images, rows, strict=True)]
        if "embed_text" in opened.abilities:
            rows = opened.embed_text(_TEXTS)
            vectors += [Vector(text=text, values=_rounded(row)) for text, row in zip(_TEXTS, rows, strict=True)]
    golden = Golden(
        level=level, most_error=_most_error(manifest, level), answers=tuple(answers), vectors=tuple(vectors)
    )
    said = golden.model_dump(mode="json", exclude_none=True)
    write_atomically(target / FILE_NAME, json.dumps(said, separators=(",", ":")) + "\n")
    return golden


def check(golden: Path, model: Path, level: str) -> None:
    """Ask a model here what it was asked where it was packed.

    Args:
        golden: the folder that `make` wrote.
        model: an artifact folder.

    Raises:
        BundleError: an answer or a vector is another one, with the question that it is about; or the model cannot be
            opened or asked here.
    """
    for _ in checking(golden, model, level):
        pass


def checking(golden: Path, model: Path, level: str) -> Iterator[tuple[int, int]]:
    """As `check`, by whoever reads to the end.

    Yields:
        Before each question its number from 1, and how many there are.
    """
    expected = read(golden)
    if expected.level != level:
        raise BundleError(f"{golden / FILE_NAME}: is of {expected.level}, not of {level}")
    try:
        with _opened(model, level) as (opened, _):
            total = len(expected.answers) + len(expected.vectors)
            for number, answer in enumerate(expected.answers, 1):
                yield number, total
                _compare(answer, _asked(opened, golden, answer.prompt, answer.image))
            for number, vector in enumerate(expected.vectors, 1 + len(expected.answers)):
                yield number, total
                if vector.image:
                    (row,) = opened.embed_image([str(golden / vector.image)])
                else:
                    (row,) = opened.embed_text([vector.text or ""])
                _measure(vector, row, expected.most_error)
    except BundleError:
        raise
    except EdgekitError as error:
        raise BundleError(f"the self-test cannot run: {error.message}", remedy=error.remedy) from error


def read(golden: Path) -> Golden:
    """What a self-test's folder says. Raises BundleError where it is none."""
    path = golden / FILE_NAME
    return validated(Golden, read_json(path, BundleError), str(path), BundleError, remedy="get the bundle anew")


@contextmanager
def _opened(model: Path, level: str) -> Iterator[tuple[Model, Manifest]]:
    """The model as anybody opens it who measured nothing, with room for the longest question."""
    manifest = manifests.read(model)
    made_for = manifest.settings.get("context")
    context = min(_CONTEXT, made_for) if isinstance(made_for, int) else None
    with open_model(model, level, context=context, runtime=DEFAULT) as opened:
        yield opened, manifest


def _images(target: Path, most: int) -> list[str]:
    for name in _IMAGES[:most]:
        finding = phantoms.FINDINGS.index(name.removesuffix(".png").replace("-", " "))
        Pillow.fromarray(phantoms.draw(_SEED, finding).image).save(target / name)
    return list(_IMAGES[:most])


def _answers(model: Model, folder: Path, images: Sequence[str]) -> list[Answer]:
    questions = [*((words, image) for image in images for words in _SHOWN), *((words, None) for words in _ASKED)]
    return [
        Answer(prompt=words, image=image, tokens=_acceptable(_asked(model, folder, words, image).tokens))
        for words, image in questions
    ]


def _asked(model: Model, folder: Path, words: str, image: str | None) -> Generation:
    """A greedy answer. Nothing is copied from the prompt: with drafts, equally likely tokens may change places."""
    shown = [Image(folder / image)] if image else []
    options = GenerationOptions(max_tokens=_TOKENS, top_logprobs=MOST_LOGPROBS, lookup=False)
    *_, answer = model.generate([Message("user", *shown, words)], options)
    assert isinstance(answer, Generation), "the last item of the stream"
    return answer


def _acceptable(tokens: Sequence[Chosen]) -> tuple[tuple[int, ...], ...]:
    """For each place the ids within the margin of the likeliest, up to where there are too many to tell."""
    places: list[tuple[int, ...]] = []
    for chosen in tokens:
        best = chosen.top[0].logprob
        near = [one.token for one in chosen.top if one.logprob > best - MARGIN]
        if len(near) == MOST_LOGPROBS:
            break
        places.append((chosen.token, *(token for token in near if token != chosen.token)))
    return tuple(places)


def _compare(expected: Answer, answer: Generation) -> None:
    """Raise BundleError where an answer parts from the expected one at a place that is clear."""
    said = [chosen.token for chosen in answer.tokens]
    for at, ids in enumerate(expected.tokens):
        found = said[at] if at < len(said) else None
        if found == ids[0]:
            continue
        if len(ids) > 1 and (found is None or found in ids):  # it may as well have ended there
            return
        raise BundleError(
            f"the self-test failed: {expected.prompt!r} is answered by another token at place {at + 1}",
            allowed=f"{' or '.join(map(str, ids))}, found {'the end' if found is None else found}",
            remedy=_REMEDY,
        )


def _measure(expected: Vector, row: Float, most: float) -> None:
    """Raise BundleError where a vector lies further from the expected one than it may."""
    given = np.asarray(expected.values)
    error = float(relative_error(given, row)[0]) if row.shape == given.shape else float("inf")
    if not error <= most:
        about = repr(expected.text) if expected.text else expected.image
        raise BundleError(
            f"the self-test failed: the vector of {about} differs by {error:.3g} of its length",
            allowed=f"at most {most:g}",
            remedy=_REMEDY,
        )


def _most_error(manifest: Manifest, level: str) -> float:
    parts = manifest.variant(level)[1].values()
    limits = [manifest.gates.limits(part.level, limits_of(part.level)) for part in parts]
    return min(1.0, max(limit.wiring_worst_error for limit in limits))


def _rounded(row: Float) -> tuple[float, ...]:
    return tuple(round(float(number), _DIGITS) for number in row)
