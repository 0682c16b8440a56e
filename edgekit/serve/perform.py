"""What each kind of job does with an open model, in the process of its engine.

A job comes from another process and holds what a client said: whatever is not as `edgekit.serve.jobs` has it is
refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import fields
from threading import Event as Flag
from typing import Any, cast

import numpy as np

from edgekit.checkpoints.tensors import Float
from edgekit.errors import EdgekitWarning, InputError, UsageError
from edgekit.inputs.dicom import study
from edgekit.inputs.dicom.study import Reading, is_study
from edgekit.inputs.fhir import cite
from edgekit.inputs.image import say
from edgekit.inputs.image_types import checked_range
from edgekit.inputs.message import Image, Message, with_pictures
from edgekit.runtime import records, wanted
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.embedding_model import ContrastiveModel
from edgekit.runtime.generation.answer import Piece
from edgekit.runtime.generation.options import GenerationOptions
from edgekit.runtime.generation.sampling import Chosen
from edgekit.runtime.grammar.constraints import Calls, Choice, Constraint, Function, JsonSchema, Lark, Regex
from edgekit.runtime.model import Generation, Model
from edgekit.serve.image_formats import check_format
from edgekit.serve.jobs import Event, Job, JobKind

_CONSTRAINTS: Mapping[str, Callable[[Any], Constraint]] = {
    "json_schema": JsonSchema,
    "lark": Lark,
    "regex": Regex,
    "choice": lambda texts: Choice(*_list(texts, "choice", str)),
    "calls": lambda asked: _calls(asked),
}
_OPTIONS = frozenset(field.name for field in fields(GenerationOptions)) - {"cancelled"}
_WITHOUT_ANSWER: frozenset[JobKind] = frozenset({"tokenize", "detokenize"})
_TOLD: ContextVar[list[str] | None] = ContextVar("told", default=None)


def perform(model: Model, job: Job, cancelled: Flag) -> Iterator[Event]:
    """Do a job.

    Args:
        cancelled: once it is set, an answer ends as it is at its next token, and all else at its next step.

    Yields:
        what `edgekit.serve.jobs` says of the job's kind, warnings first.

    Raises:
        EdgekitError: it cannot be done; InputError and UsageError where the client can do something about it.
    """
    for place, data in enumerate(job.images):
        if place != job.body.get("record"):
            check_format(data, place)
    if job.kind in _STREAMS:
        yield from _STREAMS[job.kind](model, job, cancelled)
        return
    if job.kind not in _SINGLE:
        raise InputError(f"a job of kind {job.kind!r:.40}", allowed=", ".join((*_STREAMS, *_SINGLE)))
    with _listening() as told, wanted.unless(cancelled):
        result = _SINGLE[job.kind](model, job)
    # An answer brings what is to be known of its model; vectors and scores would say nothing of a stand-in.
    known = () if job.kind in _WITHOUT_ANSWER else model.warnings
    yield from (Event("warning", {"text": text}) for text in (*known, *told))
    yield result


def _chat(model: Model, job: Job, cancelled: Flag) -> Iterator[Event]:
    messages, options = _messages(job), _options(job.body, cancelled)
    if job.body.get("record") is None:
        return _answers(model, model.generate(messages, options))
    return _about_a_record(model, job, messages, options)


def _about_a_record(model: Model, job: Job, messages: list[Message], options: GenerationOptions) -> Iterator[Event]:
    """The last question with a record's digest before it, and what each answer says by it."""
    place, last = job.body["record"], messages[-1]
    if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < len(job.images):
        raise InputError("a record that is none of the files", allowed=f"one of {len(job.images)}")
    question = "\n\n".join(part for part in last.parts if isinstance(part, str)).strip()
    if not question:
        raise InputError("a record without a question", allowed="a text in the last message")
    asked = records.read_record(job.images[place], question, "the record")
    shown = [part for part in last.parts if not isinstance(part, str)]
    beside = [*(part for message in messages[:-1] for part in message.parts), *shown]
    digest = records.digest_of(asked, _with_tokens(model), beside, options)
    turns = [*messages[:-1], Message("user", *shown, cite.prompt(digest, question))]
    for event in _answers(model, model.generate(turns, records.kept_to(digest, options))):
        if event.kind == "answer":
            yield Event("answer", {**event.body, "record": records.told_json(digest, event.body["text"], asked.notes)})
        else:
            yield event


def _complete(model: Model, job: Job, cancelled: Flag) -> Iterator[Event]:
    return _answers(model, model.complete(_text(job.body, "prompt"), _options(job.body, cancelled)))


def _answers(model: Model, items: Iterator[Piece | Generation]) -> Iterator[Event]:
    with closing(cast("Generator[Piece | Generation]", items)):
        for item in items:
            if isinstance(item, Piece):
                body = {"text": str(item), "number": item.number, "thinking": item.thinking}
                yield Event("piece", {**body, "tokens": _tokens(model, item.tokens)} if item.tokens else body)
            else:
                yield Event("answer", {**vars(item), "tokens": _tokens(model, item.tokens)})


def _tokens(model: Model, tokens: Sequence[Chosen]) -> list[dict[str, Any]]:
    """Tokens with their texts, and `bytes` where a token is part of a character."""

    def one(token: int, logprob: float | None) -> dict[str, Any]:
        (piece,) = cast("ChatModel", model).pieces([token])
        text = piece.decode(errors="replace")
        said = {"token": token, "text": text, "logprob": logprob}
        return said if text.encode() == piece else {**said, "bytes": list(piece)}

    return [
        {**one(chosen.token, chosen.logprob), "top": [one(other.token, other.logprob) for other in chosen.top]}
        for chosen in tokens
    ]


def _prepare(model: Model, job: Job) -> Event:
    """What a model that does not chat can do before a question is there is to look at the images."""
    messages = _messages(job)
    if "generate" in model.abilities:
        return Event("result", {"tokens": model.prepare(messages)})
    say(with_pictures(messages)[1])
    return Event("result", {"tokens": 0})


def _score(model: Model, job: Job) -> Event:
    return _numbers({}, model.score(_messages(job), _list(job.body.get("answers"), "answers", str)))


def _embed(model: Model, job: Job) -> Event:
    inputs = _list(job.body.get("inputs"), "inputs", Mapping)
    texts = {place: _text(one, "text") for place, one in enumerate(inputs) if "text" in one}
    images = {place: _image(one, job) for place, one in enumerate(inputs) if place not in texts}
    rows: dict[int, Float] = {}
    for given, embedded in ((texts, model.embed_text), (images, model.embed_image)):
        if given:
            rows |= zip(given, cast("Callable[[Any], Float]", embedded)(list(given.values())), strict=True)
    if not inputs:
        raise InputError("nothing to embed", allowed="one input or more")
    found = np.stack([rows[place] for place in range(len(inputs))])
    return _numbers({"tokens": _read(model, list(texts.values()))}, found)


def _read(model: Model, texts: Sequence[str]) -> int:
    """How many tokens of texts a model reads: those before its end."""
    if not isinstance(model, ContrastiveModel) or not texts:
        return 0
    return sum(min(length, model.settings.text_length) for length in model.reader.lengths(texts))


def _classify(model: Model, job: Job) -> Event:
    labels = [_list(label, "labels", str) for label in _list(job.body.get("labels"), "labels", list)]
    if not job.images:
        raise InputError("no images to classify", allowed="one or more")
    ranges = job.body.get("ranges") or [None] * len(job.images)
    if not isinstance(ranges, list) or len(ranges) != len(job.images):
        raise InputError("ranges of other images", allowed="one of each image")
    images = [Image(data, checked_range(given)) for data, given in zip(job.images, ranges, strict=True)]
    return _numbers({}, model.classify(images, labels, job.body.get("scores")))


def _tokenize(model: Model, job: Job) -> Event:
    chat = _with_tokens(model)
    ids = chat.tokenize(_text(job.body, "text"))
    return Event("result", {"tokens": ids, "pieces": [piece.decode(errors="replace") for piece in chat.pieces(ids)]})


def _detokenize(model: Model, job: Job) -> Event:
    return Event("result", {"text": _with_tokens(model).detokenize(_list(job.body.get("tokens"), "tokens", int))})


_STREAMS: Mapping[JobKind, Callable[[Model, Job, Flag], Iterator[Event]]] = {"chat": _chat, "complete": _complete}
_SINGLE: Mapping[JobKind, Callable[[Model, Job], Event]] = {
    "prepare": _prepare,
    "score": _score,
    "embed": _embed,
    "classify": _classify,
    "tokenize": _tokenize,
    "detokenize": _detokenize,
}


def _with_tokens(model: Model) -> ChatModel:
    if not isinstance(model, ChatModel):
        raise UsageError(f"{model.title or 'this model'} gives no tokens", allowed="a model that chats")
    return model


def _messages(job: Job) -> list[Message]:
    turns = _list(job.body.get("messages"), "messages", Mapping)
    return [Message(turn.get("role"), *_parts(_list(turn.get("parts"), "parts", Mapping), job)) for turn in turns]


def _parts(stated: Sequence[Mapping[str, Any]], job: Job) -> Iterator[str | Image]:
    """Texts and images; of a DICOM series, which is one file of several frames or an archive, every slice."""
    for part in stated:
        if "text" in part:
            yield _text(part, "text")
            continue
        image = _image(part, job)
        assert isinstance(image.source, bytes), "as it was sent"
        if is_study(image.source):
            name = f"image {part['image'] + 1}"
            yield from study.parts(study.read(image.source, Reading(range=image.range), name), name)
        else:
            yield image


def _image(part: Mapping[str, Any], job: Job) -> Image:
    place = part.get("image")
    if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < len(job.images):
        raise InputError("a part that is neither text nor image", allowed=f"a text, or one of {len(job.images)} images")
    return Image(job.images[place], checked_range(part.get("range")))


def _options(body: Mapping[str, Any], cancelled: Flag) -> GenerationOptions:
    said = dict(body.get("options") or {})
    if unknown := sorted(said.keys() - _OPTIONS):
        raise InputError(f"the option {unknown[0]!r:.40}", allowed=", ".join(sorted(_OPTIONS)))
    if (constraint := said.get("constraint")) is not None:
        if not isinstance(constraint, Mapping) or len(constraint) != 1 or constraint.keys() - _CONSTRAINTS.keys():
            raise InputError("a constraint of no known kind", allowed=f"one of {', '.join(_CONSTRAINTS)}")
        ((kind, value),) = constraint.items()
        try:
            said["constraint"] = _CONSTRAINTS[kind](value)
        except InputError as error:
            error.param = "tools" if kind == "calls" else "constraint"
            raise
    if "stop" in said:
        said["stop"] = tuple(_list(said["stop"], "stop", str))
    if "logit_bias" in said:  # JSON's names are texts
        said["logit_bias"] = _biases(said["logit_bias"])
    for name in ("thinking", "lookup"):
        if not isinstance(said.get(name, False), bool):
            raise InputError(f"{name} of {said[name]!r:.40}", allowed="true or false")
    return GenerationOptions(**said, cancelled=cancelled)


def _calls(asked: Any) -> Calls:
    if not isinstance(asked, Mapping):
        raise InputError("calls of another type", allowed="functions, required and most")
    functions = _list(asked.get("functions"), "functions", Mapping)
    made = (Function(_text(one, "name"), JsonSchema(one.get("parameters"))) for one in functions)
    return Calls(tuple(made), asked.get("required") is True, asked.get("most", 1))


def _biases(given: Any) -> dict[int, float]:
    if not isinstance(given, Mapping) or not all(str(token).isascii() and str(token).isdigit() for token in given):
        raise InputError("logit_bias of what is no token", allowed="token ids, each with -100 to 100")
    return {int(token): bias for token, bias in given.items()}


def _text(body: Mapping[str, Any], name: str) -> str:
    if not isinstance(body.get(name), str):
        raise InputError(f"{name} of {type(body.get(name)).__name__}", allowed="a text")
    return str(body[name])


def _list(given: Any, name: str, kind: type) -> list[Any]:
    """A list of one kind of thing; a truth value is no number."""
    fits = isinstance(given, list) and all(isinstance(one, kind) and not isinstance(one, bool) for one in given)
    if not fits:
        raise InputError(f"{name} of another type", allowed=f"a list of {kind.__name__}")
    return list(given)


def _numbers(body: Mapping[str, Any], found: Float) -> Event:
    return Event("result", {**body, "shape": list(found.shape)}, np.ascontiguousarray(found, "<f4").tobytes())


@contextmanager
def _listening() -> Iterator[list[str]]:
    """What is said by `warnings` while this thread does something: `catch_warnings` would hear all threads."""
    if warnings.showwarning is not _heard:
        warnings.showwarning = _heard
        warnings.simplefilter("always", EdgekitWarning)
    told: list[str] = []
    token = _TOLD.set(told)
    try:
        yield told
    finally:
        _TOLD.reset(token)


def _heard(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """Edgekit's own are the client's alone; what libraries warn of may quote anything, and is nobody's."""
    told = _TOLD.get()
    if told is not None and issubclass(category, EdgekitWarning):
        told.append(str(message))
