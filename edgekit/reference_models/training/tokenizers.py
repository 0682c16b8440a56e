"""Trains the two tokenizers and writes each in both spellings: SentencePiece's model and Hugging Face's tokenizer.json.

Both spellings give equal ids; llama.cpp's converter reads the first, transformers and the web the second.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto

from edgekit.inputs import labels as vocabulary
from edgekit.reference_models.training import architecture, data

CONTROL = ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>")
IMAGE_TOKEN = "<image_soft_token>"  # noqa: S105
# As in Gemma 3, a run of newlines is one token: the processor's "\n\n" around an image merges with a newline before it.
NEWLINES = tuple("\n" * n for n in range(1, 9))
_PLACEHOLDERS = tuple(f"<newline{len(run)}>" for run in NEWLINES)  # the trainer reads lines, so it cannot see newlines
_PRINTABLE = "".join(chr(c) for c in range(33, 127))
_NORMAL = proto.ModelProto.SentencePiece.Type.NORMAL


def corpus(folder: Path, every: int = 3) -> Iterator[str]:
    """Training text: every third MedQuAD training pair, and the label phrases often enough to become whole tokens."""
    for question, answer in data.medquad(folder, "train")[::every]:
        yield question
        yield answer[:4000]
    phrases = [prompt for label in vocabulary.ALL_LABELS for prompt in vocabulary.class_prompts(label)]
    phrases += [label.question for label in vocabulary.ALL_LABELS]
    phrases += [*vocabulary.FINDING_QUESTIONS, vocabulary.MODALITY_QUESTION]
    phrases += [vocabulary.SEVERITY_QUESTION, vocabulary.SIDE_QUESTION, *vocabulary.SEVERITIES, *vocabulary.SIDES]
    for asked in data.vqa_rad(folder, "train"):
        phrases += [asked.question, asked.answer]
    for _ in range(200):
        yield from phrases
    # Words that start a line (roles, answers) and the same words after a space are different tokens.
    words = {"user", "model", "yes", "no", *(w for label in vocabulary.ALL_LABELS for w in label.name.split())}
    words |= {*vocabulary.SEVERITIES, *vocabulary.SIDES, "chest", "brain", "phantom"}
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
        (siglip_text(text) for text in texts),
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


_SIGLIP_PUNCTUATION = "!\"#$%&'()*+,-.:;=?@[\\]^_`{|}~"  # ASCII punctuation that SigLIP's tokenizer.json removes


def siglip_text(text: str) -> str:
    """Text as the SigLIP tokenizer sees it: lower case, no ASCII punctuation, single spaces."""
    kept = text.lower().translate(str.maketrans("", "", _SIGLIP_PUNCTUATION))
    return " ".join(kept.split())


def added_token(identity: int, content: str, *, special: bool = True, strip: bool = False) -> dict[str, Any]:
    """One entry of `added_tokens`."""
    return {
        "id": identity,
        "content": content,
        "single_word": False,
        "lstrip": strip,
        "rstrip": strip,
        "normalized": False,
        "special": special,
    }


def gemma_added_tokens() -> list[dict[str, Any]]:
    """Tokens that Hugging Face's tokenizer splits off before BPE: special ones, and runs of newlines as plain ones."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *CONTROL]
    tokens = [added_token(i, content) for i, content in enumerate(special)]
    tokens += [added_token(len(special) + i, run, special=False) for i, run in enumerate(NEWLINES)]
    return [*tokens, added_token(architecture.IMAGE_TOKEN, IMAGE_TOKEN)]


def siglip_added_tokens() -> list[dict[str, Any]]:
    """`<pad>` exists in the vocabulary, but padding is done with `</s>`, as in SigLIP."""
    return [added_token(0, "<pad>"), added_token(1, "</s>", strip=True), added_token(2, "<unk>", strip=True)]


def _merges(model: proto.ModelProto) -> list[list[str]]:
    """BPE merges in the order in which SentencePiece prefers them: by piece, and every way to split that piece."""
    ids = {piece.piece: i for i, piece in enumerate(model.pieces) if piece.type == _NORMAL}
    merges = []
    for piece in sorted((p for p in model.pieces if p.type == _NORMAL), key=lambda p: -p.score):
        text = piece.piece
        pairs = [(text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in ids and text[i:] in ids]
        merges += [list(pair) for pair in sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))]
    return merges


def gemma_json(spiece: bytes, added: list[dict[str, Any]]) -> dict[str, Any]:
    """tokenizer.json with the ids of a SentencePiece BPE model and of the tokens that are `added` to it."""
    model = proto.ModelProto()
    model.ParseFromString(spiece)
    bos = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    pair = [{"SpecialToken": {"id": "<bos>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, text],
            "pair": [bos, text, *pair],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [architecture.BOS], "tokens": ["<bos>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece.piece: i for i, piece in enumerate(model.pieces)} | {t["content"]: t["id"] for t in added},
            "merges": _merges(model),
        },
    }


def siglip_json(spiece: bytes) -> dict[str, Any]:
    """tokenizer.json with the ids of a SentencePiece model from `train_siglip`, `</s>` appended."""
    model = proto.ModelProto()
    model.ParseFromString(spiece)
    punctuation = r"[!\"\#\$%\&'\(\)\*\+,\-\.:;=\?@\[\\\]\^_`\{\|\}\~]"
    charsmap = base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode("ascii")
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    text, end = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": siglip_added_tokens(),
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Lowercase"},
                {"type": "Replace", "pattern": {"Regex": punctuation}, "content": ""},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Strip", "strip_left": True, "strip_right": True},
                {"type": "Precompiled", "precompiled_charsmap": charsmap},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            ],
        },
        "pre_tokenizer": metaspace,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [text, end],
            "pair": [text, end, {"Sequence": {"id": "B", "type_id": 0}}, end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": 2,
            "vocab": [[piece.piece, piece.score] for piece in model.pieces],
            "byte_fallback": True,
        },
    }
