"""Whether a checkpoint's tokenizer is the same to edgekit, which reads tokenizer.json alone, and to transformers.

transformers' classes make parts of a tokenizer themselves: Gemma's its normalizer, fallback and decoder, SigLIP's all
of it, of spiece.model. So vocabularies, ids of texts, and texts of ids are compared, whatever the files say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from edgekit.families.source import TOKENIZER, Source
from edgekit.inputs.text import control_tokens
from edgekit.inputs.tokenizer_texts import COUNT, texts

# SentencePiece composes some rare characters otherwise than the tokenizers package does, and breaks ties between
# equally good divisions in its own way. Two tokenizers of that package have no such excuse.
_MOST_DIFFERING = 10
_SAME_SCORE = 1e-6  # relative, between a float32 and its decimal spelling
_SPACE = "\u2581"  # SentencePiece's

Value = tuple[str, str, Any, Any]  # file, key, edgekit's value and transformers'


def tokenization(source: Source, theirs: Any) -> Iterator[Value]:
    """What is compared of a checkpoint's tokenizer, up to the first difference of each kind.

    Args:
        theirs: transformers' own tokenizer.
    """
    ours = source.tokenizer().tokenizer
    yield from _vocabulary(ours, theirs)
    yield from _scores(ours, theirs)
    chats = source.family.full_precision.processed is not None
    if chats:  # other texts hold none of them
        yield from _added(ours, theirs)
    # Where texts are no prompts, edgekit takes none that spells a special token.
    left_out = control_tokens(ours) if chats else (*control_tokens(ours), *theirs.all_special_tokens)
    pieces = sorted(set(ours.get_vocab(with_added_tokens=False)) - set(left_out))
    special = control_tokens(ours) if chats else ()
    compared = texts([piece.replace(_SPACE, " ") for piece in pieces], special)
    # Theirs makes texts canonical itself.
    canonical = [source.family.full_precision.canonical(text) for text in compared]
    # A prompt holds its special tokens; what wraps other texts is the tokenizer's.
    encoded = [one.ids for one in ours.encode_batch(canonical, add_special_tokens=not chats)]
    yield from _ids(compared, encoded, theirs(compared, add_special_tokens=not chats)["input_ids"], theirs)
    if chats:
        yield from _answers(encoded, ours, theirs)


def _vocabulary(ours: Any, theirs: Any) -> Iterator[Value]:
    """Which token has which id. Tokens that transformers' class adds by itself, as <mask>, are in no text."""
    known, stated = theirs.get_vocab(), ours.get_vocab(with_added_tokens=True)
    for token in sorted(stated):
        if known.get(token) != stated[token]:
            yield TOKENIZER, f"the id of {token!r}", stated[token], known.get(token)
            return


def _added(ours: Any, theirs: Any) -> Iterator[Value]:
    """Where in a text an added token is found: one may be too rare to be in any that is compared."""
    known = theirs.added_tokens_decoder
    for index, token in sorted(ours.get_added_tokens_decoder().items()):
        found, expected = _found(token), _found(known.get(index))
        if found != expected:
            yield TOKENIZER, f"where {token.content!r} is found in a text", found, expected
            return


def _found(token: Any) -> list[str] | None:
    """None for what is no added token, but a piece as others."""
    return token and [name for name in ("lstrip", "rstrip", "single_word") if getattr(token, name)]


def _scores(ours: Any, theirs: Any) -> Iterator[Value]:
    """Where transformers reads SentencePiece's model, each piece is as good there as in tokenizer.json.

    A few scores decide about texts that are too rare to be among those compared.
    """
    if (model := getattr(theirs, "sp_model", None)) is None:
        return
    stated = json.loads(ours.to_str())["model"]["vocab"]
    for index, (piece, score) in enumerate(stated):
        special = model.IsControl(index) or model.IsUnknown(index) or model.IsByte(index) or model.IsUnused(index)
        if not special and not np.isclose(score, known := model.GetScore(index), rtol=_SAME_SCORE, atol=0):
            yield TOKENIZER, f"the score of {piece!r}, which spiece.model states too,", score, known
            return


def _ids(compared: Sequence[str], ours: Sequence[list[int]], theirs: Any, tokenizer: Any) -> Iterator[Value]:
    wrong = [i for i, (ids, other) in enumerate(zip(ours, theirs, strict=True)) if ids != other]
    if len(wrong) > (0 if tokenizer.is_fast else _MOST_DIFFERING):
        first = wrong[0]
        key = f"what {len(wrong)} of {COUNT:,} texts give, as {compared[first][:60]!r},"
        yield TOKENIZER, key, ours[first], theirs[first]


def _answers(encoded: Sequence[list[int]], ours: Any, theirs: Any) -> Iterator[Value]:
    """What people read of ids, all of it and without special tokens.

    transformers' class makes special tokens of those that it has names for, as <mask> and the image's. No answer holds
    them.
    """
    named = {token for token in theirs.special_tokens_map.values() if isinstance(token, str)}
    left_out = {theirs.convert_tokens_to_ids(token) for token in named - set(control_tokens(ours))}
    shown = [ids for ids in encoded if left_out.isdisjoint(ids)]
    for hidden in (False, True):
        found = ours.decode_batch(shown, skip_special_tokens=hidden)
        options = {"skip_special_tokens": hidden, "clean_up_tokenization_spaces": False}
        expected = theirs.batch_decode(shown, **options)
        for ids, text, other in zip(shown, found, expected, strict=True):
            if text != other:
                yield TOKENIZER, f"the text of {ids[:8]}", text, other
                return
