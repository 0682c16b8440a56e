"""A stand-in's tokenizer: the real one, copied from a folder, or a generated one of the right size.

The generated one begins with the pieces of the reference models' tokenizers, learned from medical text, goes on with
the words of the passage that comes with edgekit, and is filled with pairs of such pieces. Its control tokens have
Gemma 3's ids. SentencePiece, tokenizers and transformers give the same ids: every way to merge a piece is listed, in
the order of the pieces' scores.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from sentencepiece import sentencepiece_model_pb2 as proto

from edgekit import reference_models as reference
from edgekit.checkpoints.checkpoint import read_json
from edgekit.errors import CheckpointError, UsageError
from edgekit.inputs.passage import passage
from edgekit.inputs.text import load_tokenizer
from edgekit.reference_models.training import tokenizer_files
from edgekit.reference_models.training.tokenizers import IMAGE_TOKEN, added_token

NAMES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "special_tokens_map.json",
    "added_tokens.json",
)
GENERATED = {"edgekit_generated": True}  # a key of tokenizer_config.json

_KINDS = proto.ModelProto.SentencePiece.Type
_SPACE = "\u2581"
_BYTES_AT = 238  # where Gemma 3's byte tokens begin
_TURNS = {105: "<start_of_turn>", 106: "<end_of_turn>"}
_NEWLINES = {107 + n: "\n" * (n + 1) for n in range(31)}
_PLAIN = {4: "<mask>", 5: "[multimodal]", **{6 + n: f"<unused{n}>" for n in range(99)}, **_NEWLINES}


def check(source: Path, rows: int, unused: frozenset[str]) -> None:
    """Whether a folder holds a tokenizer whose ids all have a row in the embedding.

    Args:
        unused: tokens that may lie beyond it, since no input holds them.

    Raises:
        UsageError: no tokenizer.json, or an id beyond the embedding.
        CheckpointError: a file is damaged.
    """
    if not (source / "tokenizer.json").is_file():
        raise UsageError(f"{source}: no tokenizer.json", allowed="a folder with a model's tokenizer files")
    ids = dict(load_tokenizer(source / "tokenizer.json").get_vocab(with_added_tokens=True))
    if (source / "tokenizer_config.json").is_file():
        stated = read_json(source / "tokenizer_config.json").get("added_tokens_decoder") or {}
        ids |= {str(token.get("content")): int(index) for index, token in stated.items()}
    for name in ("tokenizer.model", "spiece.model"):
        if (source / name).is_file():
            pieces = SentencePieceProcessor()
            try:
                pieces.LoadFromFile(str(source / name))
            except (RuntimeError, OSError) as error:
                raise CheckpointError(f"{source / name}: not a SentencePiece model: {error}") from error
            ids[f"the last piece of {name}"] = len(pieces) - 1
    beyond = {token: index for token, index in ids.items() if index >= rows and token not in unused}
    if beyond:
        token, index = max(beyond.items(), key=lambda item: item[1])
        raise UsageError(
            f"{source}: token {token!r} has id {index}, the embedding has {rows} rows",
            allowed=f"ids up to {rows - 1}",
            remedy="take the tokenizer of the same model",
        )


def copy(source: Path, folder: Path) -> None:
    """Copy the tokenizer files that `source` has."""
    for name in NAMES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def generate(folder: Path, raw: Mapping[str, Any]) -> None:
    """Write a generated tokenizer for this config.json."""
    rows = int(raw.get("text_config", raw)["vocab_size"])
    if raw["model_type"] == "siglip":
        tokenizer_files.write_siglip(folder, siglip_spiece(rows), GENERATED)
        return
    special = {0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", **_TURNS}
    size = rows
    if "vision_config" in raw:
        size = raw["image_token_index"]
        special |= {raw["boi_token_index"]: "<start_of_image>", raw["eoi_token_index"]: "<end_of_image>"}
        special |= {size: IMAGE_TOKEN}
    plain = {index: text for index, text in _PLAIN.items() if index not in special}
    added = [added_token(i, text) for i, text in special.items()]
    added += [added_token(i, text, special=False) for i, text in plain.items()]
    added.sort(key=lambda token: token["id"])
    spiece = gemma_spiece(size, {token["id"]: token["content"] for token in added if token["id"] < size})
    tokenizer_files.write_gemma(folder, spiece, added, GENERATED, indent=None)


def gemma_spiece(size: int, fixed: Mapping[int, str]) -> bytes:
    """A SentencePiece BPE model of `size` pieces, of which some are `fixed`, spelled out, at their ids.

    Raises:
        UsageError: too small for the fixed pieces, the bytes and the single characters.
    """
    model = _base("medgemma-reference", "tokenizer.model")
    normal = [piece.piece for piece in model.pieces if piece.type == _KINDS.NORMAL]
    single, merged = [p for p in normal if len(p) == 1], [p for p in normal if len(p) > 1]
    controls = {0: _KINDS.CONTROL, 1: _KINDS.CONTROL, 2: _KINDS.CONTROL, 3: _KINDS.UNKNOWN}
    taken = {index: (text, controls.get(index, _KINDS.USER_DEFINED)) for index, text in fixed.items()}
    taken |= {_BYTES_AT + byte: (f"<0x{byte:02X}>", _KINDS.BYTE) for byte in range(256)}
    free = size - len(taken) - len(single)
    if free < 0 or max(taken) >= size:
        raise UsageError(f"a vocabulary of {size}", allowed=f"at least {max(len(taken) + len(single), max(taken) + 1)}")
    words = list(_words(model))
    # Single characters come before what is merged from them, and all that is merged in the order it was learned.
    pieces = iter([*single, *_distinct(free, merged, words, _pairs(merged))])
    del model.pieces[:]
    for index in range(size):
        text, kind = taken.get(index) or (next(pieces, None), _KINDS.NORMAL)
        if text is None:
            text, kind = f"<filler{index}>", _KINDS.UNUSED
        # BPE prefers the piece with the higher score.
        model.pieces.add(piece=text, score=-float(index) if kind == _KINDS.NORMAL else 0.0, type=kind)
    return _finished(model)


def siglip_spiece(size: int) -> bytes:
    """A SentencePiece unigram model of `size` pieces: the reference model's, and pairs that lose to their parts."""
    model = _base("medsiglip-reference", "spiece.model")
    if size < len(model.pieces):
        raise UsageError(f"a vocabulary of {size}", allowed=f"at least {len(model.pieces)}")
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type == _KINDS.NORMAL}
    heads, tails = _heads_and_tails(list(scores))
    known = set(scores)
    for head, tail in _diagonally(heads, tails):
        if len(model.pieces) == size:
            break
        if head + tail not in known:
            known.add(head + tail)
            model.pieces.add(piece=head + tail, score=scores[head] + scores[tail] - 1, type=_KINDS.NORMAL)
    while len(model.pieces) < size:
        model.pieces.add(piece=f"<filler{len(model.pieces)}>", score=0.0, type=_KINDS.UNUSED)
    return _finished(model)


def _base(name: str, file: str) -> proto.ModelProto:
    folder = reference.path(name)
    if folder is None:
        raise UsageError("the reference models are not installed", remedy="name a real tokenizer with --tokenizer DIR")
    model = proto.ModelProto()
    model.ParseFromString((folder / file).read_bytes())
    return model


def _finished(model: proto.ModelProto) -> bytes:
    model.trainer_spec.vocab_size = len(model.pieces)
    del model.trainer_spec.control_symbols[:], model.trainer_spec.user_defined_symbols[:]
    return bytes(model.SerializeToString(deterministic=True))


def _words(model: proto.ModelProto) -> Iterator[str]:
    """The passage's words, each after what has to be merged on the way to it, from left to right."""
    pieces = SentencePieceProcessor(model_proto=model.SerializeToString())
    for word in dict.fromkeys(passage().split()):
        joined = ""
        for piece in pieces.encode(f" {word}", out_type=str):
            joined += piece
            if joined != piece:
                yield joined


def _pairs(pieces: Sequence[str]) -> Iterator[str]:
    """Beginnings of words followed by other parts of words, common ones first."""
    return (head + tail for head, tail in _diagonally(*_heads_and_tails(pieces)))


def _heads_and_tails(pieces: Sequence[str]) -> tuple[list[str], list[str]]:
    heads = [piece for piece in pieces if piece.startswith(_SPACE) and piece[1:].isalpha()]
    return heads, [piece for piece in pieces if piece.isalpha() and len(piece) > 1]


def _diagonally(heads: Sequence[str], tails: Sequence[str]) -> Iterator[tuple[str, str]]:
    for rank in range(len(heads) + len(tails) - 1):
        for i in range(max(0, rank - len(tails) + 1), min(rank + 1, len(heads))):
            yield heads[i], tails[rank - i]


def _distinct(count: int, *sources: Sequence[str] | Iterator[str]) -> Iterator[str]:
    """The first `count` different pieces of all sources."""
    seen: set[str] = set()
    for source in sources:
        for piece in source:
            if len(seen) == count:
                return
            if piece not in seen:
                seen.add(piece)
                yield piece
