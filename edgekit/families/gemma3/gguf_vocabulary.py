"""The vocabulary of a GGUF file: token, score and type for every row of the embedding.

It comes from tokenizer.model. Checkpoints that transformers saved have none: then it is rebuilt from tokenizer.json,
and refused unless llama.cpp tokenizes by it as Hugging Face's tokenizer does.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from edgekit.artifacts.files import sha256_file
from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.checkpoints.json_files import read_json
from edgekit.errors import CheckpointError
from edgekit.families.base import Config, TokenId, validate
from edgekit.families.gemma3.chat import MARKERS, is_marker
from edgekit.families.gemma3.config import UNUSED_WITHOUT_VISION
from edgekit.families.gemma3.stops import named_stops, stop_tokens
from edgekit.families.tokenizer_config import StatedToken, stated_tokens
from edgekit.formats.gguf.library import tokenize
from edgekit.formats.plan import PartPlan
from edgekit.inputs.text import load_tokenizer
from edgekit.inputs.tokenizer_texts import COUNT, texts
from edgekit.machine.temporary import temporary_folder

_FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json")
_SPACE = "\u2581"  # SentencePiece's
_TOKEN_BYTES = 8.84  # mean of the 262,144 pieces of Gemma 3's tokenizer in UTF-8
_ROW_BYTES = 8 + 4 + 4  # length of a token, score, type


class Vocabulary(NamedTuple):
    """One entry for each row of the embedding, types as gguf.TokenType has them."""

    tokens: list[bytes]
    scores: list[float]
    types: list[int]


class _NumberedToken(StatedToken):
    id: TokenId


class _TokenizerJson(Config):
    added_tokens: list[_NumberedToken] = Field(default_factory=list)


class _Bpe(Config):
    type: Literal["BPE"]
    byte_fallback: Literal[True]
    vocab: dict[str, TokenId]


class _BpeJson(_TokenizerJson):
    model: _Bpe


def notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What users should know about the vocabulary of this checkpoint's GGUF files."""
    if checkpoint.path("tokenizer.model"):
        return ()
    return (f"no tokenizer.model: the vocabulary is rebuilt from tokenizer.json and checked on {COUNT:,} texts",)


def vocabulary(plan: PartPlan) -> Vocabulary:
    """Tokens, scores and types for every row of the embedding.

    Rows beyond the tokenizer's are padding. Tokens that tokenizer.json or tokenizer_config.json adds are control tokens
    if special, else user-defined: llama.cpp must never split them, and must not read control tokens from a user's text.

    Raises:
        CheckpointError: there is a token beyond the embedding, or a rebuilt vocabulary gives other ids.
    """
    root, config = plan.checkpoint.root, plan.config
    unused = UNUSED_WITHOUT_VISION if config.vision_config is None else frozenset()
    hashes = tuple(sha256_file(root / name) if (root / name).is_file() else None for name in _FILES)
    return _vocabulary(root, hashes, config.text_config.vocab_size, unused)


@lru_cache(maxsize=1)  # for all levels of one export
def _vocabulary(root: Path, hashes: tuple[str | None, ...], rows: int, unused: frozenset[str]) -> Vocabulary:
    original, tokenizer, config = (root / name if there else None for name, there in zip(_FILES, hashes, strict=True))
    if tokenizer is None:
        raise CheckpointError(f"{root}: no tokenizer.json", remedy="download the checkpoint's tokenizer files too")
    vocabulary = _from_sentencepiece(original, rows) if original else _from_json(tokenizer, rows)
    added: dict[int, StatedToken] = {
        token.id: token for token in validate(_TokenizerJson, read_json(tokenizer), tokenizer.name).added_tokens
    }
    if config:
        added |= stated_tokens(config)
    here = {index: token for index, token in added.items() if index < rows or token.content not in unused}
    _add(vocabulary, here, root)
    if original is None:
        special = [token.content for token in here.values() if _is_control(token)]
        _check(vocabulary, tokenizer, special)
    return vocabulary


def add_tokenizer(writer: Any, vocabulary: Vocabulary, root: Path) -> None:
    """Write the tokenizer's keys into a GGUF header.

    Raises:
        CheckpointError: a token of the format is missing.
    """
    tokens, scores, types = vocabulary
    writer.add_tokenizer_model("llama")  # SentencePiece
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    missing = [name for name in ("<bos>", "<eos>", "<unk>", "<pad>") if name.encode() not in tokens]
    if missing:
        raise CheckpointError(f"{root}: the tokenizer has no {', '.join(missing)}")
    writer.add_bos_token_id(tokens.index(b"<bos>"))
    writer.add_eos_token_id(tokens.index(b"<eos>"))
    writer.add_unk_token_id(tokens.index(b"<unk>"))
    writer.add_pad_token_id(tokens.index(b"<pad>"))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_sep_token(False)
    writer.add_add_space_prefix(False)


def vocabulary_bytes(plan: PartPlan) -> int:
    """What tokens, scores, types and the chat template take in a header; without a tokenizer, as many tokens as there
    are rows, each as long as those of Gemma 3 are on average.
    """
    rows, checkpoint = int(plan.config.text_config.vocab_size), plan.checkpoint
    data = checkpoint.json("tokenizer.json").get("model", {})
    tokens = data.get("vocab") if isinstance(data, dict) else None
    lengths = sum(len(token.encode()) for token in tokens) if isinstance(tokens, dict) else rows * _TOKEN_BYTES
    if isinstance(tokens, dict):
        lengths += sum(len(f"[PAD{row}]") for row in range(len(tokens), rows))
    template = checkpoint.chat_template() if tokens else None
    return round(lengths) + rows * _ROW_BYTES + len((template or "").encode())


def add_stops(writer: Any, vocabulary: Vocabulary, checkpoint: Checkpoint) -> None:
    """Write what ends an answer beside <eos> and what llama.cpp ends at by itself: it has two keys for such tokens.

    Raises:
        CheckpointError: there are more.
    """
    import gguf

    tokens = [token.decode() for token in vocabulary.tokens]
    pairs = ((token, i) for i, token in enumerate(tokens))
    control = {
        token: i for token, i in pairs if vocabulary.types[i] == gguf.TokenType.CONTROL or is_marker(token)
    }
    known = named_stops(control)
    further = {token: i for token, i in stop_tokens(checkpoint, control).items() if token not in known}
    keys = (writer.add_eom_token_id, writer.add_eot_token_id)
    if len(further) > len(keys):
        raise CheckpointError(
            f"{checkpoint.root}: answers end at {', '.join(further)}", allowed=f"{len(keys)} of them in a GGUF file"
        )
    for add, index in zip(keys, further.values(), strict=False):
        add(index)


def _padding(rows: int) -> Vocabulary:
    import gguf

    tokens = [f"[PAD{i}]".encode() for i in range(rows)]
    return Vocabulary(tokens, [-10000.0] * rows, [int(gguf.TokenType.UNUSED)] * rows)


def _from_sentencepiece(path: Path, rows: int) -> Vocabulary:
    import gguf
    from sentencepiece import SentencePieceProcessor

    kinds = gguf.TokenType
    pieces = SentencePieceProcessor()
    try:
        pieces.LoadFromSerializedProto(path.read_bytes())
    except (RuntimeError, OSError) as error:
        raise CheckpointError(f"{path}: not a SentencePiece model: {error}") from error
    if len(pieces) > rows:
        raise CheckpointError(f"{path}: {len(pieces)} tokens, the embedding has {rows} rows")
    ids = list(range(len(pieces)))
    types = [int(kinds.NORMAL)] * len(ids)
    for test, kind in (
        (pieces.IsUnknown, kinds.UNKNOWN),
        (pieces.IsControl, kinds.CONTROL),
        (pieces.IsUnused, kinds.UNUSED),
        (pieces.IsByte, kinds.BYTE),
    ):
        types = [int(kind) if true else old for true, old in zip(test(ids), types, strict=True)]
    vocabulary = _padding(rows)
    try:
        vocabulary.tokens[: len(ids)] = [piece.encode() for piece in pieces.IdToPiece(ids)]
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: a piece that is not UTF-8: {error}") from error
    vocabulary.scores[: len(ids)], vocabulary.types[: len(ids)] = pieces.GetScore(ids), types
    return vocabulary


def _from_json(path: Path, rows: int) -> Vocabulary:
    """Gemma's pieces are numbered in the order of their merges, so a lower id is a better score."""
    import gguf

    vocabulary = _padding(rows)
    for token, i in validate(_BpeJson, read_json(path), path.name).model.vocab.items():
        if i >= rows:
            raise CheckpointError(f"{path}: token {token!r} has id {i}, the embedding has {rows} rows")
        byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
        kind = gguf.TokenType.BYTE if byte else gguf.TokenType.NORMAL
        vocabulary.tokens[i], vocabulary.scores[i], vocabulary.types[i] = (
            token.encode(),
            -float(i),
            int(kind),
        )
    return vocabulary


def _add(vocabulary: Vocabulary, added: dict[int, StatedToken], root: Path) -> None:
    import gguf

    for index, token in added.items():
        if index >= len(vocabulary.tokens):
            raise CheckpointError(
                f"{root}: token {token.content!r} has id {index}, the embedding has {len(vocabulary.tokens)} rows"
            )
        control = _is_control(token)
        text = token.content if control else token.content.replace(_SPACE, " ")
        kind = gguf.TokenType.CONTROL if control else gguf.TokenType.USER_DEFINED
        vocabulary.tokens[index], vocabulary.scores[index], vocabulary.types[index] = (
            text.encode(),
            -1000.0,
            int(kind),
        )


def _is_control(token: StatedToken) -> bool:
    """Markers are, whatever a file says: llama.cpp would read them as text, and show them.

    So is `<mask>`, to transformers' class and to llama.cpp's converter.
    """
    return token.special or token.content in (*MARKERS, "<mask>")


def _check(vocabulary: Vocabulary, tokenizer: Path, special: list[str]) -> None:
    """Compare llama.cpp's ids by this vocabulary with those of Hugging Face's tokenizer.

    Raises:
        CheckpointError: they differ for a text.
    """
    import gguf

    pieces = [token.decode().replace(_SPACE, " ") for token in vocabulary.tokens]
    compared = texts(pieces, special)
    with temporary_folder("vocabulary") as folder:
        path = folder / "vocabulary.gguf"
        writer = gguf.GGUFWriter(path, "gemma3")
        add_tokenizer(writer, vocabulary, tokenizer.parent)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        ours = tokenize(path, compared)
    expected = load_tokenizer(tokenizer).encode_batch(compared, add_special_tokens=False)
    wrong = [text for text, ids, other in zip(compared, ours, expected, strict=True) if ids != other.ids]
    if wrong:
        raise CheckpointError(
            f"{tokenizer}: a vocabulary rebuilt from it gives other ids for {len(wrong)} of {len(compared)} texts, "
            f"the first {wrong[0][:60]!r}",
            remedy="put the tokenizer.model of the model that this one was made from beside it",
        )
