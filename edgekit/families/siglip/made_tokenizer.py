"""A tokenizer.json for a checkpoint with SentencePiece's model alone, all that transformers 5 saves of SigLIP's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.errors import CheckpointError
from edgekit.families.siglip.text import siglip_text
from edgekit.families.tokenizer_config import stated_tokens
from edgekit.inputs.tokenizer_schema import check_tokenizer_json
from edgekit.inputs.tokenizer_texts import texts

_MAX_BYTES = 64 << 20
_NAMED = {0: "<pad>", 1: "</s>", 2: "<unk>"}
_TEXTS = 1000
_MAX_DIFFERING = 5  # the tokenizers package composes some rare characters otherwise, and so does every tokenizer.json


def tokenizer_json(checkpoint: Checkpoint) -> bytes | None:
    """The tokenizer of spiece.model in Hugging Face's spelling, checked on texts; None where there is no such file.

    Raises:
        CheckpointError: the file is no SentencePiece model of SigLIP's kind, tokens were added to it that the model of
            SigLIP does not have, or its ids are not those that SentencePiece gives.
    """
    path = checkpoint.path("spiece.model")
    if path is None:
        return None
    _check_added(checkpoint)
    pieces, made = _loaded(path)
    data = json.dumps(made, ensure_ascii=False).encode()
    check_tokenizer_json(data, f"{path}: the tokenizer made of it")
    _compare(path, pieces, Tokenizer.from_buffer(data))
    return data


def _check_added(checkpoint: Checkpoint) -> None:
    config = checkpoint.path("tokenizer_config.json")
    for index, token in (stated_tokens(config) if config else {}).items():
        if _NAMED.get(index) != token.content:
            raise CheckpointError(
                f"{config}: adds token {token.content!r:.60} with id {index}, and there is no tokenizer.json",
                allowed=", ".join(f"{name} {index}" for index, name in _NAMED.items()),
            )


def _loaded(path: Path) -> tuple[Any, dict[str, Any]]:
    """SentencePiece's processor of the file, and a tokenizer.json."""
    from sentencepiece import SentencePieceProcessor
    from sentencepiece import sentencepiece_model_pb2 as proto

    from edgekit.families.siglip import tokenizer_files

    if (size := path.stat().st_size) > _MAX_BYTES:
        raise CheckpointError(f"{path}: {size} bytes", allowed=f"at most {_MAX_BYTES}")
    data, model, pieces = path.read_bytes(), proto.ModelProto(), SentencePieceProcessor()
    try:
        pieces.LoadFromSerializedProto(data)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: not a SentencePiece model: {error!s:.200}") from error
    model.ParseFromString(data)
    named = {index: model.pieces[index].piece for index in _NAMED if index < len(model.pieces)}
    if model.trainer_spec.model_type != proto.TrainerSpec.UNIGRAM or named != _NAMED:
        raise CheckpointError(
            f"{path}: not SigLIP's tokenizer: its first pieces are {list(named.values())}",
            allowed=f"a unigram model that begins with {', '.join(_NAMED.values())}",
        )
    return pieces, tokenizer_files.tokenizer_json(data)


def _compare(path: Path, pieces: Any, made: Tokenizer) -> None:
    known = [pieces.IdToPiece(index).replace("\u2581", " ") for index in range(len(_NAMED), len(pieces))]
    compared = [siglip_text(text) for text in texts(known, ("-",), _TEXTS)]
    expected = [[*ids, 1] for ids in pieces.EncodeAsIds(compared)]
    found = made.encode_batch(compared, add_special_tokens=True)
    wrong = [text for text, ids, other in zip(compared, expected, found, strict=True) if ids != other.ids]
    if len(wrong) > _MAX_DIFFERING:
        raise CheckpointError(
            f"{path}: a tokenizer.json made of it gives other ids than SentencePiece for {len(wrong)} of "
            f"{len(compared)} texts, the first {wrong[0][:60]!r}",
            remedy="put the tokenizer.json of the model that this one was made from beside it",
        )
