"""Whether the vocabulary in a GGUF file is one that llama.cpp survives: it believes lengths, types and ids."""

from __future__ import annotations

import re

from edgekit.errors import ArtifactError
from edgekit.formats.gguf.header import GgufHeader
from edgekit.formats.gguf.schema import FieldRule, check_fields, count

_MAX_TOKENS = 1 << 20
_MAX_TOKEN_BYTES = 4096
_MAX_MERGES_BYTES = 64 * 1024 * 1024
_MAX_TEMPLATE = 1 << 20  # characters
_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))  # what SentencePiece falls back to
_ID = re.compile(r"tokenizer\.ggml\.(\w+)_token_id")
_TYPES = (0, 6)  # llama_token_type: least and greatest


def check_vocabulary(header: GgufHeader) -> int:
    """Check everything that llama.cpp reads of a vocabulary.

    Returns:
        The number of tokens.

    Raises:
        ArtifactError: a key is of another type, a length or an id does not fit the tokens, a token stands twice, or
            the byte tokens that texts fall back to are missing.
    """
    strings = FieldRule("array of string", required=True)
    model = FieldRule("string", values=("llama", "gpt2"), required=True)
    check_fields(header, {"tokenizer.ggml.model": model, "tokenizer.ggml.tokens": strings})
    tokens = header.texts("tokenizer.ggml.tokens")
    if not 0 < len(tokens) <= _MAX_TOKENS:
        raise ArtifactError(f"{header.path}: {len(tokens)} tokens", allowed=f"1 to {_MAX_TOKENS}")
    check_fields(header, _rules(header, len(tokens)))
    for key, value in header.fields.items():
        if (named := _ID.fullmatch(key)) and value >= len(tokens):
            raise ArtifactError(f"{header.path}: the {named[1]} token is {value}", allowed=f"below {len(tokens)}")
    _check_tokens(header, tokens)
    if header.text("tokenizer.ggml.model") == "gpt2":
        _check_merges(header)
    elif missing := _BYTES.difference(tokens):
        raise ArtifactError(f"{header.path}: the vocabulary has no token {min(missing)}", allowed="all 256 byte tokens")
    return len(tokens)


def _rules(header: GgufHeader, tokens: int) -> dict[str, FieldRule]:
    """Of keys that are there or not."""
    rules = {
        "tokenizer.ggml.pre": FieldRule("string", length=64),
        # NaN is no score to order pieces by.
        "tokenizer.ggml.scores": FieldRule("array of float32", -1e30, 1e30, length=tokens),
        "tokenizer.ggml.token_type": FieldRule("array of int32", *_TYPES, length=tokens),
        "tokenizer.ggml.token_type_count": count(1 << 16),
        "tokenizer.ggml.remove_extra_whitespaces": FieldRule("bool"),
        "tokenizer.ggml.merges": FieldRule("array of string"),
        "tokenizer.ggml.precompiled_charsmap": FieldRule("array of uint8"),
    }
    for key in header.fields:
        if _ID.fullmatch(key):
            rules[key] = FieldRule("uint32")
        elif key.startswith("tokenizer.ggml.add_"):
            rules[key] = FieldRule("bool")
        elif key.startswith("tokenizer.chat_template"):
            named = key == "tokenizer.chat_templates"
            rules[key] = FieldRule("array of string") if named else FieldRule("string", length=_MAX_TEMPLATE)
    return rules


def _check_tokens(header: GgufHeader, tokens: list[str]) -> None:
    """llama.cpp reads a token up to its first NUL, names empty ones by their ids, and ends where one stands twice."""
    lengths = [len(token.encode()) for token in tokens]
    if max(lengths, default=0) > _MAX_TOKEN_BYTES:
        i = next(i for i, length in enumerate(lengths) if length > _MAX_TOKEN_BYTES)
        raise ArtifactError(f"{header.path}: token {i} is too long", allowed=f"{_MAX_TOKEN_BYTES} bytes")
    names = [token.partition("\0")[0] or f"[EMPTY_{i}]" for i, token in enumerate(tokens)]
    if len(set(names)) == len(names):
        return
    seen: dict[str, int] = {}
    for i, read in enumerate(names):
        if (before := seen.setdefault(read, i)) != i:
            raise ArtifactError(f"{header.path}: the tokens {before} and {i} are both {read!r:.60}")


def _check_merges(header: GgufHeader) -> None:
    if "tokenizer.ggml.merges" not in header.fields:
        raise ArtifactError(f"{header.path}: a tokenizer of kind 'gpt2', and no merges", allowed="llama")
    merges = header.texts("tokenizer.ggml.merges")
    if sum(map(len, merges)) > _MAX_MERGES_BYTES:
        raise ArtifactError(f"{header.path}: its merges are too long", allowed=f"{_MAX_MERGES_BYTES} bytes in all")
    wrong = next((merge for merge in merges if not all(merge.partition("\0")[0][1:].partition(" "))), None)
    if wrong is not None:
        raise ArtifactError(f"{header.path}: a merge is {wrong!r:.60}", allowed="two pieces with a space between them")
