"""The audit of a manifest: what runtimes obey beside a part's files is what the checkpoint says.

No comparison of a part's outputs sees a token that does not end an answer, a logit's scale, or a rare token's id.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer

from edgekit.artifacts.level_types import promised_activations, unpromised
from edgekit.artifacts.levels import LEVELS
from edgekit.artifacts.manifest import FILE_NAME, part_id
from edgekit.families.source import Source
from edgekit.formats import Codec, calibration
from edgekit.formats.audit import Compared
from edgekit.formats.calibration import Calibration, Factor
from edgekit.formats.rounding import EXACT
from edgekit.formats.stored import StoredTensor
from edgekit.inputs.text import control_tokens
from edgekit.inputs.tokenizer_texts import texts
from edgekit.prove.written import WrittenPart
from edgekit.runtime.opening import Opening

_ROWS = 16  # of a matrix that are rounded anew
_SCALE, _SHIFT = 4e-3, 0.01
_LOSS = 1.05  # times what rounding anew loses of them: versions of a library choose some scales a little otherwise
# What decides a text's ids, and the text of ids, in tokenizer.json.
_TOKENIZING = ("normalizer", "pre_tokenizer", "model", "added_tokens", "decoder", "post_processor")


def described(written: WrittenPart, opening: Opening, source: Source) -> Iterator[Compared]:
    """What differs from the checkpoint's of the settings, the preprocessing, the level and the tokenizer beside a part.

    What others made has no level of edgekit's, and its settings are what its headers say, which are compared by
    themselves, each key alone; its vocabulary may lack tokens at its end that nobody asks for.
    """
    manifest = opening.manifest
    if not manifest.foreign:
        for name, expected in source.settings.items():
            yield from _differing(f"settings.{name}", manifest.settings.get(name), expected)
        if manifest.preprocessing and source.preprocessing:
            for name, expected in source.preprocessing.model_dump().items():
                yield from _differing(f"preprocessing.{name}", getattr(manifest.preprocessing, name), expected)
        yield from _level(written, source)
        yield from _figures(written, source)
    elif (stops := source.settings.get("stop_token_ids")) is not None:  # of which a header has room for three
        yield from _differing("settings.stop_token_ids", manifest.settings.get("stop_token_ids"), stops)
    if source.family.roles[written.role].input != "pixels" and opening.tokenizer:
        yield from _tokenizer(opening.tokenizer, source, whole=not manifest.foreign)


def _differing(name: str, found: Any, expected: Any) -> Iterator[Compared]:
    if _spelled(found) != _spelled(expected):
        yield Compared("constant", f"{FILE_NAME}: {name}", found, expected)


def _level(written: WrittenPart, source: Source) -> Iterator[Compared]:
    """A level's limits are for the types that it is of, and each type scales a matrix as rounding to it does."""
    yield from _promised(written, source)
    plan = source.plan(written.role, LEVELS[written.level])
    if measured := _measured(written):
        plan = plan.calibrated(measured)
    for name, codec in plan.codecs.items():
        stored = written.tensors.get(name)
        if stored and stored.type != codec.name:
            yield Compared("tensor", name, stored.type, codec.name, allowed=f"{codec.name}, by the level")
        elif stored and len(stored.shape) == 2 and not codec.exact:
            yield from _rounded_anew(stored, codec, plan.factors.get(name, Factor()), source)


def _promised(written: WrittenPart, source: Source) -> Iterator[Compared]:
    """A level's name is known to people, whatever the table of levels says by which a file was written."""
    rounded = promised_activations(written.level)
    if rounded and LEVELS[written.level].activations != rounded:
        yield Compared("constant", f"{written.level}'s activations", LEVELS[written.level].activations, rounded)
    kinds: dict[str, list[tuple[str, int]]] = {}
    for spec in source.family.roles[written.role].tensors(source.config):
        stored = written.tensors.get(spec.name)
        if stored and spec.keep:
            if spec.keep not in stored.preserves:
                yield Compared("tensor", spec.name, stored.type, None, allowed=f"what loses nothing of {spec.keep}")
        elif stored:
            kinds.setdefault(spec.kind, []).append((stored.type, spec.shape[-1]))
    for kind, held in kinds.items():
        for found, allowed in unpromised(written.level, kind, held):
            yield Compared("tensor", f"the type of {kind}", found, None, f"{allowed}, by the name {written.level}")


def _figures(written: WrittenPart, source: Source) -> Iterator[Compared]:
    """What the manifest says of a part's size, types and calibration follows from its files."""
    part, plan, types = written.part, source.plan(written.role, LEVELS[written.level]), Counter[str]()
    for planned in plan.tensors:
        stored = written.tensors.get(planned.name)  # not there: a number that lies in the settings
        types[stored.type if stored else planned.codec.name] += planned.tensor.size
    size, weights = sum(path.stat().st_size for path in written.files), types.total()
    measured = _measured(written)
    stated: dict[str, tuple[Any, Any]] = {
        "id": (part.id, part_id(part.role, part.format, part.level, part.files)),
        "weights": (part.weights, weights),
        "bits_per_weight": (part.bits_per_weight, round(size * 8 / weights, 3)),
        "tensor_types": (dict(part.tensor_types), dict(types)),
        "output": (part.output, source.family.roles[written.role].output),
        "requires.memory_bytes": (part.requires.get("memory_bytes"), max(size, plan.resident_bytes)),
        "calibrated_on": (part.calibrated_on, measured.inputs if measured else None),
    }
    for name, (found, expected) in stated.items():
        yield from _differing(name, found, expected)


def _measured(written: WrittenPart) -> Calibration | None:
    path = next((path for path in written.files if path.name.endswith(calibration.SUFFIX)), None)
    return calibration.read(path) if path else None


def _rounded_anew(stored: StoredTensor, codec: Codec, smoothed: Factor, source: Source) -> Iterator[Compared]:
    """Rounding to few bits shrinks a matrix by a hundredth or two, in which another mistake of scale would hide; and a
    type's bound holds for numbers of any kind, so that other weights, a fine-tune's or numbers of fewer bits, would.

    So some rows are rounded anew. Bytes may differ between versions of a library, their scale and their loss do not.
    """
    picked = np.unique(np.linspace(0, stored.shape[0] - 1, _ROWS).astype(int))
    rows = [(int(row), source.rows(stored.name, row, row + 1)) for row in picked]
    right = np.concatenate([values for _, values in rows])
    found = np.concatenate([stored.read(row, row + 1) for row, _ in rows])
    anew = ((row, codec.roundtrip(smoothed.apply(values, row))) for row, values in rows)
    rounded = np.concatenate([smoothed.inverse.apply(values, row) for row, values in anew])
    if not rounded.any():  # nothing that could be scaled
        return
    scale = float(np.vdot(rounded, found) / np.vdot(rounded, rounded))
    shift = float((found - rounded).mean() / np.sqrt(np.square(rounded).mean()))
    if not (abs(scale - 1) <= _SCALE and abs(shift) <= _SHIFT):
        measured = f"{scale:.4f} times what rounding to {codec.name} makes of it, shifted by {shift:.4f} of its size"
        yield Compared("tensor", stored.name, measured, None, allowed=f"1 within {_SCALE}, and 0 within {_SHIFT}")
        return
    lost, least = (float(np.linalg.norm(one - right) / np.linalg.norm(right)) for one in (found, rounded))
    if not lost <= _LOSS * least + EXACT.error:
        name = f"{stored.name} ({stored.file_name}, {stored.type}): what rounding lost of it"
        yield Compared("tensor", name, f"{lost:.3g}", None, allowed=f"{least:.3g}, as rounding to {codec.name} does")


def _tokenizer(ours: Tokenizer, source: Source, *, whole: bool) -> Iterator[Compared]:
    """The tokenizer beside the parts gives the checkpoint's ids and texts: it is the same, or so 5,000 texts say.

    One that was made of others' vocabulary neither adds what wraps a text nor knows what is hidden of an answer.
    """
    theirs = source.tokenizer().tokenizer
    if ours.to_str() == theirs.to_str() or _tokenizing(ours) == _tokenizing(theirs):
        return
    if other := _other_token(ours, theirs) or (_otherwise_found(ours, theirs) if whole else None):
        yield other
        return
    pieces = [piece.replace("\u2581", " ") for piece in theirs.get_vocab(with_added_tokens=False)]
    special = [token for token in control_tokens(theirs) if whole or ours.token_to_id(token) is not None]
    compared = texts(sorted(pieces), special)
    encoded = [
        [encoding.ids for encoding in one.encode_batch(compared, add_special_tokens=whole)] for one in (ours, theirs)
    ]
    pairs = zip(compared, *encoded, strict=True)
    differing = [(text, found, expected) for text, found, expected in pairs if found != expected]
    # One that a header's vocabulary describes breaks ties between equally good merges as it likes.
    if len(differing) > (0 if whole else len(compared) // 100):
        text, found, expected = differing[0]
        yield Compared("tokenizer", f"what the tokenizer gives for {text[:40]!r}", found[:8], expected[:8])
        return
    alike = [found for found, expected in zip(*encoded, strict=True) if found == expected]
    decoded = (one.decode_batch(alike, skip_special_tokens=whole) for one in (ours, theirs))
    for ids, shown, right in zip(alike, *decoded, strict=True):
        if shown != right:
            yield Compared("tokenizer", f"what the tokenizer makes of {ids[:8]}", shown, right)
            return


def _other_token(ours: Tokenizer, theirs: Tokenizer) -> Compared | None:
    """The first id that stands for another token: texts that show it may be too rare to be among those compared.

    What fills a table up to its last row is nobody's token.
    """
    for token, index in sorted(ours.get_vocab(with_added_tokens=True).items(), key=lambda one: one[1]):
        right = theirs.id_to_token(index)
        if right is not None and _spaced(token) != _spaced(right):
            return Compared("tokenizer", f"token {index} of the tokenizer beside the parts", token, right)
    return None


def _otherwise_found(ours: Tokenizer, theirs: Tokenizer) -> Compared | None:
    """The first added token that takes other white space, or stands in other words, than the checkpoint's: likewise."""
    added = theirs.get_added_tokens_decoder()
    for index, token in ours.get_added_tokens_decoder().items():
        found, right = (_flags(one) if one else None for one in (token, added.get(index)))
        if found != right:
            return Compared("tokenizer", f"how token {index}, {token.content!r:.60}, is found", found, right)
    return None


def _flags(token: AddedToken) -> dict[str, bool]:
    return {name: getattr(token, name) for name in ("lstrip", "rstrip", "single_word", "normalized", "special")}


def _spaced(token: str) -> str:
    return token.replace("\u2581", " ")  # some files spell SentencePiece's space so


def _tokenizing(tokenizer: Tokenizer) -> dict[str, Any]:
    content = json.loads(tokenizer.to_str())
    return {name: content.get(name) for name in _TOKENIZING}


def _spelled(value: Any) -> str:
    """As JSON has it; which of several tokens stands first means nothing."""
    numbers = isinstance(value, list | tuple) and all(isinstance(one, int) for one in value)
    return json.dumps(sorted(value) if numbers else value, sort_keys=True)
