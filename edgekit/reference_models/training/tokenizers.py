"""Trains the two tokenizers: SentencePiece models, which the architectures' own modules spell as the hub's files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto

from edgekit.families.gemma3.tokenizer_files import IMAGE_TOKEN
from edgekit.families.hub_files import AddedToken, added_token
from edgekit.inputs.labels import (
    ALL_LABELS,
    FINDING_QUESTIONS,
    MODALITY_QUESTION,
    SEVERITIES,
    SEVERITY_QUESTION,
    SIDE_QUESTION,
    SIDES,
    class_prompts,
)
from edgekit.reference_models.training import architecture, data

CONTROL = ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>")
# As in Gemma 3, a run of newlines is one token: the processor's "\n\n" around an image merges with a newline before it.
NEWLINES = tuple("\n" * n for n in range(1, 9))
_PLACEHOLDERS = tuple(f"<newline{len(run)}>" for run in NEWLINES)  # the trainer reads lines, so it cannot see newlines
_PRINTABLE = "".join(chr(c) for c in range(33, 127))


def corpus(folder: Path, every: int = 3) -> Iterator[str]:
    """Training text: every third MedQuAD training pair, and the label phrases often enough to become whole tokens."""
    for question, answer in data.medquad(folder, "train")[::every]:
        yield question
        yield answer[:4000]
    phrases = [prompt for label in ALL_LABELS for prompt in class_prompts(label)]
    phrases += [label.question for label in ALL_LABELS]
    phrases += [*FINDING_QUESTIONS, MODALITY_QUESTION]
    phrases += [SEVERITY_QUESTION, SIDE_QUESTION, *SEVERITIES, *SIDES]
    for asked in data.vqa_rad(folder, "train"):
        phrases += [asked.question, asked.answer]
    for _ in range(200):
        yield from phrases
    # Words that start a line (roles, answers) and the same words after a space are different tokens.
    words = {"user", "model", "yes", "no", *(w for label in ALL_LABELS for w in label.name.split())}
    words |= {*SEVERITIES, *SIDES, "chest", "brain", "phantom"}
    for _ in range(3000):
        yield from sorted(words)
        yield from (" " + word for word in sorted(words))


def _train(texts: Iterable[str], **options: Any) -> proto.ModelProto:
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=buffer, minloglevel=2, num_threads=1, byte_fallback=True, **options
    )
    model = proto.ModelProto()
    model.ParseFromString(buffer.getvalue())
    # The trainer's own settings name paths and threads, and nothing reads them.
    model.trainer_spec.ClearField("input")
    return model


def train_gemma(texts: Iterable[str]) -> bytes:
    """A SentencePiece BPE model of Gemma's kind: identity normalizer, no dummy prefix, byte fallback, controls."""
    model = _train(
        texts,
        model_type="bpe",
        vocab_size=architecture.SENTENCEPIECE_SIZE,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_digits=True,
        pad_id=architecture.PAD,
        eos_id=architecture.EOS,
        bos_id=architecture.BOS,
        unk_id=architecture.UNK,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        unk_piece="<unk>",
        control_symbols=list(CONTROL),
        user_defined_symbols=list(_PLACEHOLDERS),
        required_chars=_PRINTABLE,
    )
    names = dict(zip(_PLACEHOLDERS, NEWLINES, strict=True))
    for piece in model.pieces:
        piece.piece = names.get(piece.piece, piece.piece)
    return bytes(model.SerializeToString(deterministic=True))


def train_siglip(texts: Iterable[str]) -> bytes:
    """A SentencePiece unigram model of SigLIP's kind: lower-cased text without punctuation, `<pad>` 0, `</s>` 1."""
    model = _train(
        (without_punctuation(text) for text in texts),
        model_type="unigram",
        vocab_size=architecture.SIGLIP_PIECES,
        normalization_rule_name="nmt_nfkc",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece="<pad>",
        eos_piece="</s>",
    )
    return bytes(model.SerializeToString(deterministic=True))


# What SigLIP's tokenizer.json removes: "/", "<" and ">" stay, unlike in `edgekit.families.siglip.text`'s texts.
_PUNCTUATION = str.maketrans("", "", "!\"#$%&'()*+,-.:;=?@[\\]^_`{|}~")


def without_punctuation(text: str) -> str:
    """Text as SigLIP's tokenizer.json sees it: lower case, no ASCII punctuation, single spaces."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def gemma_added_tokens() -> list[AddedToken]:
    """Tokens that Hugging Face's tokenizer splits off before BPE: special ones, and runs of newlines as plain ones."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *CONTROL]
    tokens = [added_token(i, content) for i, content in enumerate(special)]
    tokens += [added_token(len(special) + i, run, special=False) for i, run in enumerate(NEWLINES)]
    return [*tokens, added_token(architecture.IMAGE_TOKEN, IMAGE_TOKEN)]
