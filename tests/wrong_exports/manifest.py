"""Mistakes in edgekit.json: what runtimes obey beside the files."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from proofs import Change, Trial, described, with_files
from tokenizers import Tokenizer

from edgekit.artifacts.levels import LEVELS
from wrong_exports.entry import FORMATS, InapplicableError, WrongExport

_ENCODERS = ("vision", "image_encoder", "text_encoder")
New = Callable[[Any], Any]


@contextmanager
def _said(trial: Trial, values: Mapping[str, New]) -> Iterator[Trial]:
    right = trial.opening.manifest.settings
    if missing := [key for key in values if right.get(key) is None]:
        raise InapplicableError(f"the manifest says no {', '.join(missing)}")
    yield described(trial, {key: new(right[key]) for key, new in values.items()})


def _better(trial: Trial) -> str:
    levels = [level for level, row in LEVELS.items() if row.format == trial.part.format]
    return levels[levels.index(trial.part.level) - 1]


@contextmanager
def _relabelled(trial: Trial) -> Iterator[Trial]:
    """A part that says to be of the next better level, whose limits are tighter, and which users pay more for."""
    yield replace(trial, part=with_files(trial.part.model_copy(update={"level": _better(trial)}), trial.part.files))


@contextmanager
def _tabulated(trial: Trial) -> Iterator[Trial]:
    """The same, by an exporter whose own table says that the better level is so."""
    row = LEVELS[trial.part.level]
    with pytest.MonkeyPatch.context() as patch, _relabelled(trial) as wrong:
        patch.setitem(LEVELS, wrong.part.level, replace(row, name=wrong.part.level))
        yield wrong


@contextmanager
def _misnamed(trial: Trial) -> Iterator[Trial]:
    """A variant has the part, and is called by the next better level."""
    opening = copy.copy(trial.opening)
    variants = {**opening.manifest.variants, _better(trial): {trial.part.role: trial.part.id}}
    opening.manifest = opening.manifest.model_copy(update={"variants": variants})
    yield replace(trial, opening=opening)


@contextmanager
def _tokenized(trial: Trial, change: Callable[[dict[str, Any]], object]) -> Iterator[Trial]:
    """Another tokenizer.json beside the parts."""
    content = json.loads(trial.opening.tokenizer.to_str())
    change(content)
    opening = copy.copy(trial.opening)
    opening.tokenizer = Tokenizer.from_str(json.dumps(content))
    yield replace(trial, opening=opening)


def _pieces_exchanged(content: dict[str, Any]) -> None:
    """Of the rarest, which no proof's text may have."""
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):  # SentencePiece's unigrams: [piece, score]
        vocabulary[-1][0], vocabulary[-2][0] = vocabulary[-2][0], vocabulary[-1][0]
        return
    added = {token["content"] for token in content["added_tokens"]}
    last, before = sorted((name for name in vocabulary if name not in added), key=vocabulary.__getitem__)[:-3:-1]
    vocabulary[last], vocabulary[before] = vocabulary[before], vocabulary[last]


def _rare_stripped(content: dict[str, Any]) -> None:
    """The last of the added tokens that is none of control: no proof's text need have it beside white space."""
    rare = [token for token in content["added_tokens"] if not token["special"]] or content["added_tokens"]
    rare[-1]["lstrip"] = not rare[-1]["lstrip"]


def _without(section: str) -> Callable[[dict[str, Any]], None]:
    """A tokenizer that leaves a step out."""
    return lambda content: content.update({section: None})


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

_TOKENIZER = (
    ("two rare tokens are exchanged", _pieces_exchanged),
    ("texts are not normalized", _without("normalizer")),
    ("a space before a rare token is read otherwise", _rare_stripped),
)
_CHAT_TOKENIZER = (
    ("answers are shown as pieces", _without("decoder")),
    ("nothing begins a text", _without("post_processor")),
)
_READS = (("decoder", "gguf"), ("decoder", "onnx"), ("text_encoder", "onnx"))
_LEVEL: tuple[tuple[str, Change], ...] = (
    ("the level is said to be a better one", _relabelled),
    ("the table of levels has a worse one in its place", _tabulated),
)
_MAIN = (("decoder", "gguf"), ("decoder", "onnx"), ("image_encoder", "onnx"))  # whose level a variant is called by
# Part, format, and the codecs of levels above which stands one of other types.
_BETTER = (
    (("decoder",), "gguf", ("F16", "Q8_0", "Q6_K", "Q5_0", "Q4_0", "Q3_K", "Q2_K")),
    (("vision",), "gguf", ("F16", "Q8_0", "Q5_0", "Q4_0")),
    (("decoder", *_ENCODERS), "onnx", ("float16", "int8")),
)

MANIFEST: tuple[WrongExport, ...] = (
    *(
        WrongExport(name, roles, file_format, "manifest", change, codecs=codecs)
        for name, change in _LEVEL
        for roles, file_format, codecs in _BETTER
    ),
    *(
        WrongExport("a variant is called by a better level", (role,), file_format, "manifest", _misnamed, codecs=codecs)
        for role, file_format in _MAIN
        for roles, formatted, codecs in _BETTER
        if role in roles and file_format == formatted
    ),
    *(
        WrongExport(name, (role,), file_format, "manifest", functools.partial(_tokenized, change=change))
        for name, change in _TOKENIZER
        for role, file_format in _READS
    ),
    *(
        WrongExport(name, ("decoder",), "gguf", "manifest", functools.partial(_tokenized, change=change))
        for name, change in _CHAT_TOKENIZER
    ),
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
