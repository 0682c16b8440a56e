"""A SigLIP tokenizer of any size for checkpoints of random weights: learned pieces, filled up with pairs of them."""

from __future__ import annotations

from pathlib import Path

from edgekit.errors import UsageError
from edgekit.families.learned_pieces import GENERATED, PieceType, learned, pairs, serialized
from edgekit.families.siglip import tokenizer_files


def write(folder: Path, size: int) -> None:
    """Write the files of a tokenizer of `size` tokens; UsageError where that is too few."""
    tokenizer_files.write(folder, pieces(size), GENERATED)


def pieces(size: int) -> bytes:
    """A SentencePiece unigram model of `size` pieces: the reference model's, and pairs that lose to their parts.

    Raises:
        UsageError: smaller than the reference model's vocabulary.
    """
    model = learned("medsiglip-reference", "spiece.model")
    if size < len(model.pieces):
        raise UsageError(f"a vocabulary of {size}", allowed=f"at least {len(model.pieces)}")
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type == PieceType.NORMAL}
    known = set(scores)
    for head, tail in pairs(list(scores)):
        if len(model.pieces) == size:
            break
        if head + tail not in known:
            known.add(head + tail)
            model.pieces.add(piece=head + tail, score=scores[head] + scores[tail] - 1, type=PieceType.NORMAL)
    while len(model.pieces) < size:
        model.pieces.add(piece=f"<filler{len(model.pieces)}>", score=0.0, type=PieceType.UNUSED)
    return serialized(model)
