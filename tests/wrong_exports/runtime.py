"""Mistakes of who runs a part: what a decoder or an encoder is given, and what it gives back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from proofs import Trial, loaded_as

from edgekit.full_precision import streamed
from edgekit.runtime.base import Embeddings, Tokens
from wrong_exports.entry import FORMATS, WrongExport

_EMBEDDING = "language_model.model.embed_tokens.weight"
_ENCODERS = ("vision", "image_encoder", "text_encoder")
Segments = Sequence[Any]


@contextmanager
def _prefilled(trial: Trial, wrong: Callable[[Trial, list[Any]], Segments]) -> Iterator[Trial]:
    """A decoder gets other segments than it should."""

    def change(decoder: Any) -> None:
        right = decoder.prefill
        decoder.prefill = lambda segments, want=None: right(wrong(trial, list(segments)), want)

    with loaded_as(trial, change) as changed:
        yield changed


def seen_causally(segments: Segments) -> list[Any]:
    """Segments whose images attend to what stands before, as text does."""
    return [replace(s, bidirectional=False) if isinstance(s, Embeddings) else s for s in segments]


def _unscaled_rows(trial: Trial, segments: Segments) -> list[Any]:
    """llama.cpp scales token ids itself, but takes embeddings as they are."""
    unscaled: list[Any] = []
    for segment in segments:
        if isinstance(segment, Embeddings) or not segment.ids:
            unscaled.append(segment)
            continue
        ids, place = np.unique(segment.ids, return_inverse=True)
        rows = streamed.Weights(trial.runs.source).rows(_EMBEDDING, ids.astype(np.int64))[place]
        pieces = (rows[i : i + 256] for i in range(0, len(rows), 256))
        unscaled += [Embeddings(piece, "tokens", bidirectional=False) for piece in pieces]
    return unscaled


def _images(change: Callable[[Any], Any]) -> Callable[[Trial, Segments], Segments]:
    """Each image's embeddings [tokens, hidden] otherwise."""

    def wrong(trial: Trial, segments: Segments) -> Segments:
        return [replace(s, array=change(s.array)) if isinstance(s, Embeddings) else s for s in segments]

    return wrong


def _reversed_images(trial: Trial, segments: Segments) -> Segments:
    """The first image where the last belongs."""
    images = iter([s for s in segments if isinstance(s, Embeddings)][::-1])
    return [next(images) if isinstance(s, Embeddings) else s for s in segments]


def _ids(change: Callable[[tuple[int, ...]], tuple[int, ...]], which: int) -> Callable[[Trial, Segments], Segments]:
    """The text before the first image, or behind the last, otherwise, as long as it is."""

    def wrong(trial: Trial, segments: Segments) -> Segments:
        changed = list(segments)
        assert isinstance(changed[which], Tokens)
        changed[which] = Tokens(change(changed[which].ids))
        return changed

    return wrong


def _forget(decoder: Any) -> None:
    """Each step begins a text of its own."""
    decoder.step = lambda ids: next(iter(decoder.prefill([Tokens(tuple(ids))])))


def _late(decoder: Any) -> None:
    """Each step is given the token before: what it appends is one off."""
    right, last = decoder.step, [2]

    def step(ids: Sequence[int]) -> Any:
        given, last[0] = [last[0]], ids[-1]
        return right(given)

    decoder.step = step


def _twice(decoder: Any) -> None:
    """Each step writes its token twice."""
    right = decoder.step
    decoder.step = lambda ids: right([*ids, ids[-1]])


def _rows(change: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Logits of a prompt otherwise."""

    def wrong(decoder: Any) -> None:
        right = decoder.prefill
        decoder.prefill = lambda *given: (np.asarray(change(row), np.float32) for row in right(*given))

    return wrong


def _vectors(change: Callable[[Any], Any]) -> Callable[[Any], None]:
    """What an encoder gives, otherwise."""

    def wrong(encoder: Any) -> None:
        right = encoder.encode
        encoder.encode = lambda batch: np.ascontiguousarray(change(right(batch)), np.float32)

    return wrong


def _given(change: Callable[[Any], Any]) -> Callable[[Any], None]:
    """What an encoder is given, otherwise."""

    def wrong(encoder: Any) -> None:
        right = encoder.encode
        encoder.encode = lambda batch: right(np.ascontiguousarray(change(batch)))

    return wrong


def _grey(batch: Any) -> Any:
    return batch.mean(axis=-1, keepdims=True).repeat(3, -1).astype(np.uint8)


def _broken(row: Any) -> Any:
    """Not a number in half of the logits."""
    return np.where(row > 0, np.nan, 0)


def _decoder(
    name: str, change: Any, formats: tuple[str, ...] = FORMATS, *, sees: bool = False
) -> Iterator[WrongExport]:
    for file_format in formats:
        yield WrongExport(name, ("decoder",), file_format, "runtime", change, sees=sees)


def _encoder(name: str, change: Callable[[Any], None], roles: tuple[str, ...] = ("vision", "image_encoder")) -> Any:
    loaded = functools.partial(loaded_as, change=change)
    if "vision" in roles:
        yield WrongExport(name, ("vision",), "gguf", "runtime", loaded)
    yield WrongExport(name, roles, "onnx", "runtime", loaded)


def _prompt(name: str, wrong: Callable[[Trial, Segments], Segments], *, sees: bool = False) -> Iterator[WrongExport]:
    return _decoder(name, functools.partial(_prefilled, wrong=wrong), sees=sees)


def _loaded(name: str, change: Callable[[Any], None]) -> Iterator[WrongExport]:
    return _decoder(name, functools.partial(loaded_as, change=change))


RUNTIME: tuple[WrongExport, ...] = (
    *_decoder(
        "images are seen causally",
        functools.partial(_prefilled, wrong=lambda trial, segments: seen_causally(segments)),
        ("gguf",),
        sees=True,
    ),
    *_decoder("token embeddings are not scaled", functools.partial(_prefilled, wrong=_unscaled_rows), ("gguf",)),
    *_prompt(
        "images are scaled as tokens are", _images(lambda rows: rows * np.float32(rows.shape[1] ** 0.5)), sees=True
    ),
    *_prompt("images are a sixteenth", _images(lambda rows: rows / np.float32(16)), sees=True),
    *_prompt("an image's tokens are in reverse order", _images(lambda rows: rows[::-1].copy()), sees=True),
    *_prompt("images are exchanged", _reversed_images, sees=True),
    *_prompt("<bos> is not decoded", _ids(lambda ids: (ids[1], *ids[1:]), 0)),
    *_prompt("the end of the prompt is another", _ids(lambda ids: (*ids[:-1], ids[-2]), -1)),
    *_loaded("steps forget the prompt", _forget),
    *_loaded("steps are one late", _late),
    *_loaded("steps write twice", _twice),
    *_loaded("logits are not numbers", _rows(_broken)),
    *_loaded("logits of a prompt are one off", _rows(lambda row: np.roll(row, 1))),
    *_loaded("logits of a prompt are negated", _rows(np.negative)),
    *_encoder("vectors of a batch are exchanged", _vectors(lambda v: v[::-1]), _ENCODERS[1:]),
    *_encoder("vectors are times 16", _vectors(lambda v: 16 * v), _ENCODERS),
    *_encoder("vectors are times 1.01", _vectors(lambda v: 1.01 * v), _ENCODERS),
    *_encoder("vectors are not numbers", _vectors(lambda v: v * np.nan), _ENCODERS),
    *_encoder("pixels are taken as blue, green, red", _given(lambda batch: batch[..., ::-1])),
    *_encoder("pixels are taken as grey", _given(_grey)),
    *_encoder("pixels are upside down", _given(lambda batch: batch[:, ::-1])),
    *_encoder("pixels are mirrored", _given(lambda batch: batch[:, :, ::-1])),
)  # fmt: skip
