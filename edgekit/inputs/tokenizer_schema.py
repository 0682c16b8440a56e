"""What a tokenizer.json may say: the kinds of model, and the steps around it, that SentencePiece tokenizers have.

The library behind it panics, hangs or fills memory on much that it accepts, so nothing reaches it that is not
understood here. The steps are few and always the same, so they are listed as they stand; only the vocabulary, its
merges, the added tokens and a compiled normalization differ from file to file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgekit.artifacts.documents import unique_names
from edgekit.artifacts.validation import validated
from edgekit.errors import CheckpointError
from edgekit.inputs.charsmap import check_charsmap

MAX_PIECE = 256  # characters; the longest of Gemma 3 has 31
_MAX_TOKENS = 1 << 20
_MAX_SCORE = 1e6  # log probabilities; far beyond any, and sums of them stay finite
_MAX_STEPS = 8
_SPACE = "\u2581"  # SentencePiece's

# Two spellings of one pattern: what SigLIP drops.
_PUNCTUATION = (
    r"[!\"\#\$%\&'\(\)\*\+,\-\.:;=\?@\[\\\]\^_`\{\|\}\~]",
    r"[!" + r'"\#\$%\&' + r"'\(\)\*\+,\-\.:;=\?@\[\\\]\^_`\{\|\}\~]",
)


def _replace(kind: Literal["String", "Regex"], pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def _metaspaces() -> list[dict[str, Any]]:
    """As today's files spell them, and those before `prepend_scheme`."""
    metaspace = {"type": "Metaspace", "replacement": _SPACE}
    schemes = [{"prepend_scheme": scheme} for scheme in ("always", "first", "never")]
    return [
        *({**metaspace, **scheme, "split": split} for scheme in schemes for split in (True, False)),
        *({**metaspace, "add_prefix_space": space} for space in (True, False)),
        *({**metaspace, "str_rep": _SPACE, "add_prefix_space": space} for space in (True, False)),
    ]


_NORMALIZERS: list[dict[str, Any]] = [
    {"type": "Lowercase"},
    {"type": "Strip", "strip_left": True, "strip_right": True},
    {"type": "Strip", "strip_left": False, "strip_right": True},
    _replace("String", " ", _SPACE),
    *(_replace("Regex", pattern, "") for pattern in _PUNCTUATION),
    _replace("Regex", r"\s+", " "),
    _replace("Regex", r" {2,}", " "),
    _replace("Regex", r" {2,}", _SPACE),
]
_SPLIT: dict[str, Any] = {
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}
_PRE_TOKENIZERS: list[dict[str, Any]] = [_SPLIT, *_metaspaces()]
_DECODERS: list[dict[str, Any]] = [
    _replace("String", _SPACE, " "),
    {"type": "ByteFallback"},
    {"type": "Fuse"},
    *_metaspaces(),
]


class _Schema(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


_Id = Annotated[int, Field(ge=0, lt=1 << 31)]
_Bounded = Annotated[int, Field(ge=0, lt=1 << 31)]
_Piece = Annotated[str, Field(min_length=1, max_length=MAX_PIECE)]


class _AddedToken(_Schema):
    id: _Id
    content: _Piece
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


class _Place(_Schema):
    id: _Piece
    type_id: _Bounded


class _Text(_Place):
    id: Literal["A", "B"]


class _TextPiece(_Schema):
    Sequence: _Text


class _TokenPiece(_Schema):
    SpecialToken: _Place


_Template = Annotated[list[_TextPiece | _TokenPiece], Field(max_length=_MAX_STEPS)]


class _TemplateToken(_Schema):
    id: _Piece
    ids: Annotated[list[_Id], Field(min_length=1, max_length=1)]
    tokens: Annotated[list[_Piece], Field(min_length=1, max_length=1)]


class _PostProcessor(_Schema):
    type: Literal["TemplateProcessing"]
    single: _Template
    pair: _Template
    special_tokens: Annotated[dict[str, _TemplateToken], Field(max_length=_MAX_STEPS)]


class _Bpe(_Schema):
    type: Literal["BPE"]
    dropout: None = None  # chance has no place in a measurement
    unk_token: str | None = None
    continuing_subword_prefix: Literal[""] | None = None
    end_of_word_suffix: Literal[""] | None = None
    fuse_unk: bool = False
    byte_fallback: bool = False
    ignore_merges: bool = False
    vocab: dict[str, Any]  # large tables are checked by hand: it is faster
    merges: list[Any]


class _Unigram(_Schema):
    type: Literal["Unigram"]
    unk_id: _Id
    vocab: list[Any]
    byte_fallback: bool = False


class _Truncation(_Schema):
    direction: Literal["Left", "Right"] = "Right"
    max_length: _Bounded
    strategy: Literal["LongestFirst", "OnlyFirst", "OnlySecond"]
    stride: _Bounded


class _Fixed(_Schema):
    Fixed: _Bounded


class _Padding(_Schema):
    strategy: Literal["BatchLongest"] | _Fixed
    direction: Literal["Left", "Right"]
    pad_to_multiple_of: _Bounded | None = None
    pad_id: _Id
    pad_type_id: _Bounded
    pad_token: _Piece


class _TokenizerFile(_Schema):
    version: Literal["1.0"]
    truncation: _Truncation | None = None
    padding: _Padding | None = None
    added_tokens: Annotated[list[_AddedToken], Field(max_length=_MAX_TOKENS)] = Field(default_factory=list)
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: _PostProcessor | None = None
    decoder: dict[str, Any] | None = None
    model: Annotated[_Bpe | _Unigram, Field(discriminator="type")]


def check_tokenizer_json(data: bytes, where: str) -> dict[str, int]:
    """Check a tokenizer.json before any library reads it.

    Args:
        where: what messages begin with, its path.

    Returns:
        Its added tokens, by their texts.

    Raises:
        CheckpointError: it is no JSON, or says what no tokenizer of these families says; the message names that.
    """
    try:
        content = json.loads(data, object_pairs_hook=unique_names, parse_constant=_no_number)
        said = f"{where}: not a tokenizer"
        file = validated(_TokenizerFile, content, said, CheckpointError, whole="the file")
        ids = _vocabulary(file.model)
        if isinstance(file.model, _Bpe):
            _check_merges(file.model, ids)
        _check_added(file.added_tokens, ids)
        _check_steps("normalizer", file.normalizer, _NORMALIZERS)
        _check_steps("pre_tokenizer", file.pre_tokenizer, _PRE_TOKENIZERS)
        _check_steps("decoder", file.decoder, _DECODERS)
        added = {token.content: token.id for token in file.added_tokens}
        if file.post_processor:
            _check_template(file.post_processor, ids, added)
    except (ValueError, RecursionError) as error:  # of JSON, and of everything below
        raise CheckpointError(f"{where}: not a tokenizer: {error}", remedy="download it again") from error
    return added


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _vocabulary(model: _Bpe | _Unigram) -> dict[str, int]:
    """Piece -> id."""
    if isinstance(model, _Bpe):
        ids = _bpe_ids(model.vocab)
        if model.unk_token is not None and model.unk_token not in ids:
            raise ValueError(f"unk_token {model.unk_token!r:.60} is not in the vocabulary")
    else:
        ids = _unigram_ids(model.vocab)
        if model.unk_id >= len(ids):
            raise ValueError(f"unk_id {model.unk_id} of {len(ids)} pieces")
    if not 0 < len(ids) <= _MAX_TOKENS:
        raise ValueError(f"a vocabulary of {len(ids)} pieces, and 1 to {_MAX_TOKENS} are possible")
    for piece in ids:
        if not 0 < len(piece) <= MAX_PIECE:
            raise ValueError(f"a piece of {len(piece)} characters, and 1 to {MAX_PIECE} are possible")
        piece.encode()  # JSON can hold half of a surrogate pair, which raises a ValueError
    return ids


def _bpe_ids(vocab: dict[str, Any]) -> dict[str, int]:
    for piece, index in vocab.items():
        if type(index) is not int or not 0 <= index < 1 << 31:
            raise ValueError(f"piece {piece!r:.60} has the id {index!r:.60}")
    if len(set(vocab.values())) != len(vocab):
        raise ValueError("two pieces have one id")
    return vocab


def _unigram_ids(vocab: Sequence[Any]) -> dict[str, int]:
    ids: dict[str, int] = {}
    for entry in vocab:
        match entry:
            case [str(piece), int() | float() as score] if not isinstance(score, bool) and abs(score) <= _MAX_SCORE:
                ids[piece] = len(ids)
            case _:
                raise ValueError(f"entry {len(ids)} of the vocabulary is {entry!r:.60}, and not a piece and its score")
    if len(ids) != len(vocab):
        raise ValueError("a piece stands in the vocabulary twice")
    return ids


def _check_merges(model: _Bpe, ids: Mapping[str, int]) -> None:
    for merge in model.merges:
        match merge.split(" ") if isinstance(merge, str) else merge:  # files before 2024 have "a b"
            case [str(left), str(right)] if left in ids and right in ids and left + right in ids:
                pass
            case _:
                raise ValueError(f"merge {merge!r:.60}, and not two pieces that make a third")


def _check_added(added: Sequence[_AddedToken], ids: Mapping[str, int]) -> None:
    taken = set(ids.values())
    named: set[str] = set()
    for token in added:
        if token.content in named:
            raise ValueError(f"added token {token.content!r:.60} stands there twice")
        if token.id in taken if token.content not in ids else token.id != ids[token.content]:
            raise ValueError(f"added token {token.content!r:.60} has the id {token.id} of another")
        if token.normalized and not any(map(str.isalnum, token.content)):  # it may become nothing, and match anywhere
            raise ValueError(f"added token {token.content!r:.60} is normalized and has no letter")
        named.add(token.content)
        taken.add(token.id)


def _check_steps(name: str, step: dict[str, Any] | None, known: Sequence[dict[str, Any]]) -> None:
    """A step, or a sequence of steps, each as it stands in the list of those that are known."""
    steps = [] if step is None else [step]
    members = {"normalizer": "normalizers", "decoder": "decoders"}.get(name)
    if step and members and step.get("type") == "Sequence" and step.keys() == {"type", members}:
        steps = step[members]
    if not isinstance(steps, list) or len(steps) > _MAX_STEPS:
        raise ValueError(f"{name}: not a list of at most {_MAX_STEPS} steps")
    texts = {_text(entry) for entry in known}
    for entry in steps:
        match entry:
            case {"type": "Precompiled", "precompiled_charsmap": str(charsmap), **others} if name == "normalizer":
                if others:
                    raise ValueError(f"{name}: Precompiled with {', '.join(others):.60}")
                try:
                    check_charsmap(charsmap)
                except ValueError as error:
                    raise ValueError(f"{name}: precompiled_charsmap: {error}") from error
            case _ if _text(entry) not in texts:
                raise ValueError(f"{name}: a step that is not understood: {_text(entry):.120}")


def _text(step: Any) -> str:
    return json.dumps(step, sort_keys=True, ensure_ascii=False)


def _check_template(template: _PostProcessor, ids: Mapping[str, int], added: Mapping[str, int]) -> None:
    for name, token in template.special_tokens.items():
        if name != token.id or added.get(token.tokens[0], ids.get(token.tokens[0])) != token.ids[0]:
            raise ValueError(f"post_processor: {name!r:.60} is token {token.ids[0]}, and not by the vocabulary")
    for pieces, texts in ((template.single, ["A"]), (template.pair, ["A", "B"])):
        if sorted(piece.Sequence.id for piece in pieces if isinstance(piece, _TextPiece)) != texts:
            raise ValueError(f"post_processor: a template that does not have {' and '.join(texts)} once")
        for piece in pieces:
            if isinstance(piece, _TokenPiece) and piece.SpecialToken.id not in template.special_tokens:
                raise ValueError(f"post_processor: {piece.SpecialToken.id!r:.60} is not among its special tokens")
