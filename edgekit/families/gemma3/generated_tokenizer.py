"""A Gemma 3 tokenizer of any size for checkpoints of random weights.

It begins with learned pieces, goes on with the words of the passage that comes with edgekit, and is filled with pairs
of pieces. Its control tokens have Gemma 3's ids. SentencePiece, tokenizers and transformers give the same ids: every
way to merge a piece is listed, in the order of the pieces' scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from edgekit.errors import UsageError
from edgekit.families.gemma3 import tokenizer_files
from edgekit.families.gemma3.config import MedGemmaConfig
from edgekit.families.hub_files import added_token
from edgekit.families.learned_pieces import GENERATED, PieceType, learned, pairs, serialized
from edgekit.inputs.passage import passage

_BYTES_AT = 238  # where Gemma 3's byte tokens begin
_NAMED = {0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", 105: "<start_of_turn>", 106: "<end_of_turn>"}
_NEWLINES = {107 + n: "\n" * (n + 1) for n in range(31)}
_PLAIN = {4: "<mask>", 5: "[multimodal]", **{6 + n: f"<unused{n}>" for n in range(99)}, **_NEWLINES}
_CONTROLS = {0: PieceType.CONTROL, 1: PieceType.CONTROL, 2: PieceType.CONTROL, 3: PieceType.UNKNOWN}


def write(folder: Path, config: MedGemmaConfig) -> None:
    """Write the files of a tokenizer for this configuration; UsageError where its vocabulary is too small."""
    special, size = dict(_NAMED), config.text_config.vocab_size
    if config.vision_config is not None:
        size = config.image_token_index  # beyond the SentencePiece vocabulary
        special |= {config.boi_token_index: "<start_of_image>", config.eoi_token_index: "<end_of_image>"}
        special |= {size: tokenizer_files.IMAGE_TOKEN}
    added = [added_token(i, text) for i, text in special.items()]
    added += [added_token(i, text, special=False) for i, text in _PLAIN.items() if i not in special]
    added.sort(key=lambda token: token["id"])
    spiece = pieces(size, {token["id"]: token["content"] for token in added if token["id"] < size})
    tokenizer_files.write(folder, spiece, added, GENERATED, indent=None)


def pieces(size: int, fixed: Mapping[int, str]) -> bytes:
    """A SentencePiece BPE model of `size` pieces, of which some are `fixed`, spelled out, at their ids.

    Raises:
        UsageError: too small for the fixed pieces, the bytes and the single characters.
    """
    model = learned("medgemma-reference", "tokenizer.model")
    normal = [piece.piece for piece in model.pieces if piece.type == PieceType.NORMAL]
    single, merged = [p for p in normal if len(p) == 1], [p for p in normal if len(p) > 1]
    taken = {index: (text, _CONTROLS.get(index, PieceType.USER_DEFINED)) for index, text in fixed.items()}
    taken |= {_BYTES_AT + byte: (f"<0x{byte:02X}>", PieceType.BYTE) for byte in range(256)}
    free = size - len(taken) - len(single)
    if free < 0 or max(taken) >= size:
        raise UsageError(f"a vocabulary of {size}", allowed=f"at least {max(len(taken) + len(single), max(taken) + 1)}")
    words = list(_words(model.SerializeToString()))
    # Single characters come before what is merged from them, and all that is merged in the order it was learned.
    pairs_joined = (head + tail for head, tail in pairs(merged))
    filling = iter([*single, *_distinct(free, merged, words, pairs_joined)])
    del model.pieces[:]
    for index in range(size):
        text, kind = taken.get(index) or (next(filling, None), PieceType.NORMAL)
        if text is None:
            text, kind = f"<filler{index}>", PieceType.UNUSED
        # BPE prefers the piece with the higher score.
        model.pieces.add(piece=text, score=-float(index) if kind == PieceType.NORMAL else 0.0, type=kind)
    return serialized(model)


def _words(spiece: bytes) -> Iterator[str]:
    """The passage's words, each after what has to be merged on the way to it, from left to right."""
    tokenizer = SentencePieceProcessor(model_proto=spiece)
    for word in dict.fromkeys(passage().split()):
        joined = ""
        for piece in tokenizer.encode(f" {word}", out_type=str):
            joined += piece
            if joined != piece:
                yield joined


def _distinct(count: int, *sources: Iterable[str]) -> Iterator[str]:
    """The first `count` different pieces of all sources."""
    seen: set[str] = set()
    for source in sources:
        for piece in source:
            if len(seen) == count:
                return
            if piece not in seen:
                seen.add(piece)
                yield piece
