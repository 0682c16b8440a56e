"""The self-test of a bundle: what its model answered where it was packed, asked again where it is installed.

    golden.json   questions with their answers, images and texts with their vectors (`edgekit.pack.golden_file`)
    *.png         the images

A processor of another kind adds in another order, so logits differ in their last digits, and where activations are
rounded to 8 bits, by more. So an answer is compared twice:

- As it comes. Where two tokens are about equally likely, either may; where another one than here does, nothing behind
  it is compared. A token ahead of all others by `MARGIN` must come.
- As it stood: how likely, given the tokens before, those are that were the likeliest here. That sees damage long before
  another token comes.

What an image is embedded as is compared by itself, for an answer need not depend on much of it. All may differ by as
much as a proof lets one of that level differ from exact arithmetic.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.files import write_atomically
from edgekit.artifacts.gates import Limits
from edgekit.artifacts.levels import limits_of
from edgekit.artifacts.manifest import Manifest
from edgekit.checkpoints.tensors import Float
from edgekit.errors import BundleError, EdgekitError
from edgekit.inputs import phantoms
from edgekit.inputs.message import Image, Message
from edgekit.metrics import log_softmax, relative_error
from edgekit.pack.golden_file import FILE_NAME, Answer, Golden, Place, Vector, read
from edgekit.runtime import open_model
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.generation.options import MOST_LOGPROBS, GenerationOptions
from edgekit.runtime.model import Generation, Model
from edgekit.runtime.tuning_results import DEFAULT

_SEED = 770_001  # of phantoms: training, calibration, proofs and benchmarks draw them from others
_IMAGES = ("pneumothorax.png", "no-finding.png")  # phantoms, by their finding
_TOKENS, _CONTEXT = 8, 1024
_DIGITS = 5  # of a vector's numbers: rounding moves a vector of 1,152 by a ten-thousandth of its length
_LOGPROB_DIGITS = 3
# Between two right processors, in deviations that a proof accepts. Between kernels for weights that were laid out and
# those for others, answers of the reference model differed by up to 0.5 (Q4_0) and 0.9 (Q4_K_M).
_DEVIATIONS = 3
_LEAST_LOGPROB_ERROR = 0.01  # nats: proofs of levels without rounding accept less than another order of adding makes
_SAMPLE = 2048  # numbers of what an image is embedded as: 256 tokens of 2,560 each are no file
_SHOWN = ("What is the main finding in this image?", "Is there a pneumothorax in this image?")
_ASKED = ("What is a pneumothorax?", "Name the four chambers of the heart.")
_TEXTS = ("no finding", "pneumothorax", "a tumour of the brain")
_REMEDY = "this bundle does not work on this machine: tell whoever made it which processor this is (edgekit doctor)"


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
        chats = isinstance(opened, ChatModel)
        images = _images(target, 1 if chats else len(_IMAGES)) if opened.abilities & {"embed_image", "classify"} else []
        texts = _TEXTS if "embed_text" in opened.abilities else ()
        inputs = [*((image, None) for image in images), *((None, text) for text in texts)]
        questions = [*((words, image) for image in images for words in _SHOWN), *((words, None) for words in _ASKED)]
        golden = Golden(
            level=level,
            most_error=_most_error(manifest, level),
            most_logprob_error=_most_logprob_error(manifest, level),
            answers=tuple(_answer(opened, target, *one) for one in questions if chats),
            vectors=tuple(_vector(opened, target, *one) for one in inputs),
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
            for number, vector in enumerate(expected.vectors, 1):
                yield number, total
                row = _embedded(opened, golden, vector.image, vector.text)
                _compare_vector(vector, row, expected.most_error)
            for number, answer in enumerate(expected.answers, 1 + len(expected.vectors)):
                yield number, total
                _compare_tokens(answer, _asked(opened, _messages(golden, answer.prompt, answer.image)))
                rows = _logprobs(opened, _messages(golden, answer.prompt, answer.image), answer.tokens)
                _compare_logprobs(answer, rows, expected.most_logprob_error)
    except BundleError:
        raise
    except EdgekitError as error:
        raise BundleError(f"the self-test cannot run: {error.message}", remedy=error.remedy) from error


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


def _messages(folder: Path, words: str, image: str | None) -> list[Message]:
    return [Message("user", *([Image(folder / image)] if image else []), words)]


def _answer(model: Model, folder: Path, words: str, image: str | None) -> Answer:
    messages = _messages(folder, words, image)
    tokens = _asked(model, messages)
    rows = _logprobs(model, messages, tokens)
    places = []
    for token, row in zip(tokens, rows, strict=True):
        likeliest = np.argsort(-row, kind="stable")[:MOST_LOGPROBS]
        logprobs = tuple(round(min(0.0, float(row[one])), _LOGPROB_DIGITS) for one in likeliest)
        places.append(Place(token=token, likeliest=tuple(map(int, likeliest)), logprobs=logprobs))
    return Answer(prompt=words, image=image, places=tuple(places))


def _asked(model: Model, messages: Sequence[Message]) -> tuple[int, ...]:
    """A greedy answer's tokens. Nothing is copied from the prompt: with drafts, equal ones may change places."""
    *_, answer = model.generate(messages, GenerationOptions(max_tokens=_TOKENS, top_logprobs=0, lookup=False))
    assert isinstance(answer, Generation), "the last item of the stream"
    return tuple(chosen.token for chosen in answer.tokens)


def _logprobs(model: Model, messages: Sequence[Message], tokens: Sequence[int]) -> NDArray[np.float64]:
    """Log probabilities [len(tokens), vocabulary] in the place of each token, given those before it."""
    assert isinstance(model, ChatModel), "only such a model has answers"
    return log_softmax(model.answer_logits(messages, tokens))


def _limits(manifest: Manifest, level: str, *, decoders: bool) -> list[Limits]:
    """What a proof of each of a level's decoders accepts, or of each of its encoders; a level that nobody measured's
    where there is none.
    """
    parts = [one for one in manifest.variant(level)[1].values() if (one.output == "logits") == decoders]
    return [manifest.gates.limits(part.level, limits_of(part.level)) for part in parts] or [Limits()]


def _most_error(manifest: Manifest, level: str) -> float:
    return min(1.0, max(limit.wiring_worst_error for limit in _limits(manifest, level, decoders=False)))


def _most_logprob_error(manifest: Manifest, level: str) -> float:
    """By the divergence that a proof accepts, which is half the mean square of small differences."""
    divergence = max(limit.wiring_kl for limit in _limits(manifest, level, decoders=True))
    return min(1.0, max(_LEAST_LOGPROB_ERROR, _DEVIATIONS * math.sqrt(2 * divergence)))


def _vector(model: Model, folder: Path, image: str | None, text: str | None) -> Vector:
    row = _embedded(model, folder, image, text)
    return Vector(image=image, text=text, values=tuple(round(float(number), _DIGITS) for number in row))


def _embedded(model: Model, folder: Path, image: str | None, text: str | None) -> Float:
    """The unit vector of an image or a text, or of a sample of what an image is embedded as."""
    if image is None:
        row: Float = model.embed_text([text or ""])[0]
    elif not isinstance(model, ChatModel):
        row = model.embed_image([str(folder / image)])[0]
    else:
        whole = model.encode_images([str(folder / image)]).ravel()
        row = whole[np.linspace(0, whole.size - 1, min(_SAMPLE, whole.size), dtype=np.int64)]
        row /= np.linalg.norm(row)
    return row


def _compare_tokens(expected: Answer, said: Sequence[int]) -> None:
    """Raise BundleError where an answer parts from the expected one at a place that is clear."""
    for at, place in enumerate(expected.places):
        found = said[at] if at < len(said) else None
        acceptable = place.acceptable
        if found == place.token:
            continue
        if place.is_open or (len(acceptable) > 1 and (found is None or found in acceptable)):  # or have ended there
            return
        raise BundleError(
            f"the self-test failed: {expected.prompt!r} is answered by another token at place {at + 1}",
            allowed=f"{' or '.join(map(str, acceptable))}, found {'the end' if found is None else found}",
            remedy=_REMEDY,
        )


def _compare_logprobs(expected: Answer, rows: NDArray[np.float64], most: float) -> None:
    """Raise BundleError where the tokens that were the likeliest are more or less likely than they may be.

    Args:
        rows: [places, vocabulary].
    """
    error = float("inf")
    if all(max(place.likeliest) < rows.shape[1] for place in expected.places):
        pairs = zip(expected.places, rows, strict=True)
        differences = np.concatenate([row[list(place.likeliest)] - place.logprobs for place, row in pairs])
        error = float(np.sqrt(np.mean(differences**2)))
    if not error <= most:
        raise BundleError(
            f"the self-test failed: log probabilities of the answer to {expected.prompt!r} differ by {error:.3g} nats",
            allowed=f"at most {most:.3g}, root mean square",
            remedy=_REMEDY,
        )


def _compare_vector(expected: Vector, row: Float, most: float) -> None:
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
