"""Vocabularies of generated tokenizers begin with what the reference models' tokenizers learned from medical text.

They are filled with pairs of such pieces: beginnings of words followed by other parts of words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sentencepiece import sentencepiece_model_pb2 as proto

from edgekit.checkpoints import reference_models
from edgekit.errors import UsageError

GENERATED = {"edgekit_generated": True}  # a key of tokenizer_config.json
PieceType = proto.ModelProto.SentencePiece.Type
_SPACE = "\u2581"


def learned(name: str, file: str) -> proto.ModelProto:
    """The SentencePiece model `file` of a reference model.

    Raises:
        UsageError: the reference models are not installed.
    """
    folder = reference_models.path(name)
    if folder is None:
        raise UsageError("the reference models are not installed", remedy="name a real tokenizer with --tokenizer DIR")
    model = proto.ModelProto()
    model.ParseFromString((folder / file).read_bytes())
    return model


def pairs(pieces: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Beginnings of words with other parts of words, pairs of common ones first; common pieces come first."""
    heads = [piece for piece in pieces if piece.startswith(_SPACE) and piece[1:].isalpha()]
    tails = [piece for piece in pieces if piece.isalpha() and len(piece) > 1]
    for rank in range(len(heads) + len(tails) - 1):
        for i in range(max(0, rank - len(tails) + 1), min(rank + 1, len(heads))):
            yield heads[i], tails[rank - i]


def serialized(model: proto.ModelProto) -> bytes:
    """The bytes of a model whose pieces were replaced or added to."""
    model.trainer_spec.vocab_size = len(model.pieces)
    del model.trainer_spec.control_symbols[:], model.trainer_spec.user_defined_symbols[:]
    return bytes(model.SerializeToString(deterministic=True))
