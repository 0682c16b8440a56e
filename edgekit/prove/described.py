"""The audit of a manifest: what runtimes obey beside a part's files is what the checkpoint says.

No comparison of a part's outputs sees a token that does not end an answer, a logit's scale, or a rare token's id.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from edgekit.artifacts.levels import LEVELS
from edgekit.artifacts.manifest import FILE_NAME
from edgekit.errors import GateError
from edgekit.families.source import Source
from edgekit.formats import Codec
from edgekit.formats.stored import StoredTensor
from edgekit.inputs.tokenizer_texts import texts
from edgekit.prove.written import WrittenPart
from edgekit.runtime.opening import Opening

_ROWS = 16  # of a matrix that are rounded anew
_SCALE, _SHIFT = 4e-3, 0.01
_TOKENIZING = ("normalizer", "pre_tokenizer", "model", "added_tokens")  # what decides a text's ids, in tokenizer.json


def check_described(written: WrittenPart, opening: Opening, source: Source) -> None:
    """Compare settings, preprocessing, the level and the tokenizer beside a part with the checkpoint's.

    What others made may leave settings out, as their files do, and has no level of edgekit's.

    Raises:
        GateError: something differs, or is missing; the message names it and has both values.
    """
    manifest, where = opening.manifest, written.where
    for name, expected in source.settings.items():
        if not manifest.foreign or name in manifest.settings:
            _compare(where, f"settings.{name}", manifest.settings.get(name), expected)
    if manifest.preprocessing and source.preprocessing:
        for name, expected in source.preprocessing.model_dump().items():
            _compare(where, f"preprocessing.{name}", getattr(manifest.preprocessing, name), expected)
    if not manifest.foreign:
        _check_level(written, source)
    if source.family.roles[written.role].input != "pixels" and opening.tokenizer:
        _check_tokenizer(where, opening.tokenizer, source)


def _check_level(written: WrittenPart, source: Source) -> None:
    """A level's limits are for the types that it is of, and each type scales a matrix as rounding to it does."""
    level = LEVELS[written.level]
    for name, codec in source.plan(written.role, level).codecs.items():
        stored = written.tensors.get(name)
        if stored and stored.type != codec.name:
            raise GateError(
                f"{written.where}: audit: {name} is stored as {stored.type}", allowed=f"{codec.name}, by the level"
            )
        # What smoothing multiplies is rounded otherwise; at 8 bits a scale shows anyhow.
        if stored and len(stored.shape) == 2 and not codec.exact and not level.needs_calibration:
            _check_scale(written.where, stored, codec, source)


def _check_scale(where: str, stored: StoredTensor, codec: Codec, source: Source) -> None:
    """Rounding to few bits shrinks a matrix by a hundredth or two, in which another mistake of scale would hide.

    So some rows are rounded anew. Bytes may differ between versions of a library, their scale does not.
    """
    picked = np.unique(np.linspace(0, stored.shape[0] - 1, _ROWS).astype(int))
    right = np.concatenate([source.rows(stored.name, row, row + 1) for row in picked])
    found = np.concatenate([stored.read(row, row + 1) for row in picked])
    rounded = codec.roundtrip(right)
    if not rounded.any():  # nothing that could be scaled
        return
    scale = float(np.vdot(rounded, found) / np.vdot(rounded, rounded))
    shift = float((found - rounded).mean() / np.sqrt(np.square(rounded).mean()))
    if not (abs(scale - 1) <= _SCALE and abs(shift) <= _SHIFT):
        raise GateError(
            f"{where}: audit: {stored.name} is {scale:.4f} times what rounding to {codec.name} makes of it, "
            f"shifted by {shift:.4f} root mean squares",
            allowed=f"1 within {_SCALE}, and 0 within {_SHIFT}",
        )


def _check_tokenizer(where: str, ours: Tokenizer, source: Source) -> None:
    """The tokenizer beside the parts gives the checkpoint's ids: it is the same, or so 5,000 texts say."""
    theirs = source.tokenizer().tokenizer
    if _tokenizing(ours) == _tokenizing(theirs):
        return
    pieces = [piece.replace("\u2581", " ") for piece in theirs.get_vocab(with_added_tokens=False)]
    compared = texts(sorted(pieces), [token.content for token in theirs.get_added_tokens_decoder().values()])
    encoded = (one.encode_batch(compared, add_special_tokens=False) for one in (ours, theirs))
    for text, found, expected in zip(compared, *encoded, strict=True):
        if found.ids != expected.ids:
            raise GateError(
                f"{where}: audit: the tokenizer gives {found.ids[:8]} for {text[:40]!r}",
                allowed=f"{expected.ids[:8]}, by the checkpoint's",
            )


def _tokenizing(tokenizer: Tokenizer) -> dict[str, Any]:
    content = json.loads(tokenizer.to_str())
    return {name: content.get(name) for name in _TOKENIZING}


def _compare(where: str, name: str, found: Any, expected: Any) -> None:
    if _spelled(found) != _spelled(expected):
        raise GateError(
            f"{where}: audit: {FILE_NAME}: {name} is {found!r:.100}",
            allowed=f"{expected!r:.100}, by the checkpoint",
            remedy="the manifest is not what was made from this checkpoint; nothing was published",
        )


def _spelled(value: Any) -> str:
    """As JSON has it; which of several tokens stands first means nothing."""
    numbers = isinstance(value, list | tuple) and all(isinstance(one, int) for one in value)
    return json.dumps(sorted(value) if numbers else value, sort_keys=True)
