"""Gemma's tokenizer from the vocabulary in a GGUF file."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from edgekit.errors import ArtifactError
from edgekit.formats.gguf.header import GgufHeader
from edgekit.inputs.tokenizer_schema import MAX_PIECE

_MAX_CHARACTERS = 1 << 23  # of all pieces; Gemma 3's have 2 million
_NORMAL, _UNKNOWN, _CONTROL, USER_DEFINED = 1, 2, 3, 4  # llama_token_type


def mistyped(header: GgufHeader, markers: Sequence[str]) -> dict[str, int]:
    """The type of those markers in a vocabulary that are no control tokens to llama.cpp, as they must be."""
    tokens = header.texts("tokenizer.ggml.tokens")
    types = header.numbers("tokenizer.ggml.token_type", len(tokens))
    pairs = zip(tokens, types, strict=True)
    return {token: int(kind) for token, kind in pairs if token in markers and kind != _CONTROL}


def tokenizer_of(header: GgufHeader, markers: Sequence[str] = ()) -> Tokenizer:
    """A tokenizer that gives the ids that llama.cpp gives.

    A SentencePiece model of BPE kind merges the neighbours whose union has the best score. The same as ranked merges:
    every way to split a piece into two pieces, the best pieces first (Hugging Face's Gemma converter does it so).

    Args:
        markers: tokens that are control tokens whatever type they have; llama.cpp goes by their type.

    Raises:
        ArtifactError: the vocabulary is of another kind, or contradicts itself.
    """
    kind = header.text("tokenizer.ggml.model")
    if kind != "llama":
        raise ArtifactError(f"{header.path}: a tokenizer of kind {kind!r}", allowed="llama, which is SentencePiece")
    tokens = header.texts("tokenizer.ggml.tokens")
    scores = header.numbers("tokenizer.ggml.scores", len(tokens))
    types = header.numbers("tokenizer.ggml.token_type", len(tokens))
    unknown = header.integer("tokenizer.ggml.unknown_token_id")
    if unknown >= len(tokens):
        raise ArtifactError(f"{header.path}: the unknown token is {unknown}", allowed=f"below {len(tokens)}")
    text = {token: i for i, token in enumerate(tokens) if types[i] == _NORMAL and token not in markers}
    model = models.BPE(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=_merges(text, scores),
        unk_token=tokens[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    typed = zip(tokens, types, strict=True)
    named = [(token, _CONTROL if token in markers else kind) for token, kind in typed if token]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token, kind in named if kind == USER_DEFINED])
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token, kind in named if kind in (_UNKNOWN, _CONTROL)]
    )
    return tokenizer


def _merges(ids: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    lengths = [len(piece) for piece in ids]
    if max(lengths, default=0) > MAX_PIECE or sum(lengths) > _MAX_CHARACTERS:  # all splits of all pieces are tried
        raise ArtifactError(
            f"the vocabulary has {sum(lengths)} characters, and {max(lengths)} in one token",
            allowed=f"at most {_MAX_CHARACTERS}, and {MAX_PIECE} in one token",
        )
    merges: list[tuple[str, str]] = []
    for piece in sorted(ids, key=lambda piece: -scores[ids[piece]]):
        pairs = ((piece[:end], piece[end:]) for end in range(1, len(piece)))
        splits = [(left, right) for left, right in pairs if left in ids and right in ids]
        merges += sorted(splits, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    return merges
