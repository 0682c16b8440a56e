"""Mistakes in edgekit.json: what runtimes obey beside the files."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from proofs import Trial, described

from wrong_exports.entry import FORMATS, WrongExport

New = Callable[[Any], Any]


@contextmanager
def _said(trial: Trial, values: Mapping[str, New]) -> Iterator[Trial]:
    right = trial.opening.manifest.settings
    yield described(trial, {key: new(right.get(key)) for key, new in values.items()})


_CHAT: tuple[tuple[str, Mapping[str, New]], ...] = (
    ("the end of a turn does not stop", {"stop_token_ids": lambda ids: [token for token in ids if token != max(ids)]}),
    ("<eos> does not stop", {"stop_token_ids": lambda ids: [token for token in ids if token != min(ids)]}),
    ("another token stops, too", {"stop_token_ids": lambda ids: [*ids, 107]}),
    ("nothing right stops", {"stop_token_ids": lambda ids: [107]}),
    ("an image is another token", {"image_token_id": lambda token: token - 1}),
    ("an image has more tokens", {"image_tokens": lambda count: count + 1}),
    ("the window is another", {"window": lambda window: 2 * window}),
    ("the context is longer", {"context": lambda context: 2 * context}),
    ("the model does not chat", {"chat": lambda _: False}),
)
_PAIR: tuple[tuple[str, Mapping[str, New]], ...] = (
    ("the logit's scale is another", {"logit_scale": lambda scale: scale + 0.1}),
    ("the logit's scale is its exponential", {"logit_scale": lambda scale: min(2.718281828**scale, 99.0)}),
    ("the logit's bias is another", {"logit_bias": lambda bias: bias + 1}),
    ("the logit's bias is negated", {"logit_bias": lambda bias: -bias}),
    ("texts are padded with another id", {"pad_token_id": lambda _: 0}),
    ("texts are shorter", {"text_length": lambda length: length // 2}),
)

MANIFEST: tuple[WrongExport, ...] = (
    *(
        WrongExport(name, ("decoder",), file_format, "manifest", functools.partial(_said, values=values))
        for file_format in FORMATS
        for name, values in _CHAT
    ),
    *(
        WrongExport(name, ("text_encoder",), "onnx", "manifest", functools.partial(_said, values=values))
        for name, values in _PAIR
    ),
)
