"""Audit a GGUF file's header and vocabulary: llama.cpp reads there what transformers reads in the checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import ArtifactError
from edgekit.formats.audit import AuditedPart, Compared
from edgekit.formats.gguf.form import GgufForm, read_checked
from edgekit.formats.gguf.header import GgufHeader
from edgekit.formats.gguf.library import library, tokenized
from edgekit.inputs.text import load_tokenizer
from edgekit.inputs.tokenizer_texts import COUNT, texts
from edgekit.machine import worker
from edgekit.terminal import stripped_line

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # llama_token_type
# What a reader goes by, beside the keys of an architecture and of a tokenizer.
_READ = frozenset(
    f"general.{name}" for name in ("architecture", "type", "alignment", "file_type", "quantization_version")
)
_TEMPLATE = "tokenizer.chat_template"
_SPACE = "\u2581"  # SentencePiece's
_HUB = {"seperator_token_id": "sep_token_id"}  # llama.cpp's spelling
_LIMIT_S = 300.0
_MOST_DIFFERING = 10  # of 5,000 texts: ties between equally good merges are broken differently


def audit(part: AuditedPart, original: Any) -> Iterator[Compared]:
    """See `edgekit.formats.base.Format.audit`.

    Raises:
        ArtifactError: the file is broken, or llama.cpp cannot use its vocabulary.
    """
    form: GgufForm = part.form
    header = read_checked(form, part.files[0])
    for one in _compared(part, form, header, original):
        yield one if one.same else replace(one, meaning=form.meaning(one.name, one.found, one.expected))
    read = (f"{form.architecture}.", "split.", "tokenizer.ggml.", _TEMPLATE)
    for key, value in header.fields.items():
        if key not in _READ and not key.startswith(read):
            yield Compared("constant", key, _plain(value), None, "nothing reads it", is_note=True)


def _compared(part: AuditedPart, form: GgufForm, header: GgufHeader, original: Any) -> Iterator[Compared]:
    for tensor in part.tensors.values():
        yield Compared("tensor", f"the name of {tensor.name}", tensor.file_name, form.hub_name(tensor.name, header))
    yield from form.constants(header, original)
    if form.settings:  # the model's file, which holds the vocabulary
        theirs = _stated(part.root, original.tokenizer)
        lost, there = list(_lost(header, theirs, original)), len(header.texts("tokenizer.ggml.tokens"))
        theirs = {index: token for index, token in theirs.items() if index < there}
        stated = [*lost, *_flags(header, original), *_tokens(header, theirs, original.tokenizer)]
        yield from (*stated, scores := _scores(header, part.root, len(theirs)))
        if all(one.same or one.is_note for one in (*stated, scores)):  # else it is refused, and known why ids differ
            yield _texts(header, theirs, original.tokenizer)
        yield _chat_template(form, header, original)
    # llama.cpp takes another template where tools are given; no checkpoint of these families has one.
    for key, value in header.fields.items():
        if key.startswith(_TEMPLATE) and key != _TEMPLATE:
            yield Compared("template", key, _plain(value), None, "none")


def _flags(header: GgufHeader, original: Any) -> Iterator[Compared]:
    """Ids and flags; what a file leaves out has llama.cpp's value for SentencePiece (`llama_vocab::impl::load`)."""
    tokenizer, fields = original.tokenizer, header.fields
    ids = tokenizer("a")["input_ids"]
    stops = sorted({tokenizer.eos_token_id, *original.eos_token_ids})
    expected: dict[str, Any] = {
        "model": "llama",
        "pre": fields.get("tokenizer.ggml.pre"),  # read for other kinds of tokenizers only
        "bos_token_id": tokenizer.bos_token_id,
        "unknown_token_id": tokenizer.unk_token_id,
        "padding_token_id": tokenizer.pad_token_id if "tokenizer.ggml.padding_token_id" in fields else None,
        "add_bos_token": ids[0] == tokenizer.bos_token_id,
        "add_eos_token": ids[-1] == tokenizer.eos_token_id,
        "add_sep_token": False,
        "add_space_prefix": tokenizer.tokenize("a")[0].startswith(_SPACE),
        "remove_extra_whitespaces": False,
        "token_type_count": fields.get("tokenizer.ggml.token_type_count"),
        "merges": fields.get("tokenizer.ggml.merges"),
    }
    for name in ("eos", "eot", "eom"):  # whichever of its tokens a file names so, answers end at it
        found = fields.get(f"tokenizer.ggml.{name}_token_id")
        expected[f"{name}_token_id"] = found if found in stops or (found is None and name != "eos") else stops[0]
    missing = {
        "add_eos_token": False,
        "add_sep_token": False,
        "add_space_prefix": True,
        "remove_extra_whitespaces": False,
    }
    for name, value in expected.items():
        yield Compared(
            "tokenizer", f"tokenizer.ggml.{name}", fields.get(f"tokenizer.ggml.{name}", missing.get(name)), value
        )
    arrays = ("tokens", "scores", "token_type")
    for key in fields:
        name = key.removeprefix("tokenizer.ggml.")
        if name != key and name not in expected and name not in arrays:
            known = getattr(tokenizer, _HUB.get(name, name), None) if name.endswith("_token_id") else None
            yield Compared("tokenizer", key, _plain(fields[key]), known)


def _chat_template(form: GgufForm, header: GgufHeader, original: Any) -> Compared:
    stated = header.fields.get(_TEMPLATE)
    found, expected = stated and stated.rstrip("\n"), _template(original)
    variables = {name: text for name, text in original.tokenizer.special_tokens_map.items() if isinstance(text, str)}
    alike = bool(found and expected and found != expected and form.same_turns(found, expected, variables))
    note = "the same turns in other words" if alike else ""
    return Compared("template", _TEMPLATE, found, expected, note, is_note=alike)


def _template(original: Any) -> str | None:
    """The processor's, where a checkpoint states none for its tokenizer."""
    stated = (getattr(one, "chat_template", None) for one in (original.tokenizer, original.processor))
    template = next(filter(None, stated), None)
    template = template.get("default") if isinstance(template, dict) else template
    return template and template.rstrip("\n")


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


@lru_cache(maxsize=1)  # for all levels of one artifact
def _stated(root: Path, tokenizer: Any) -> dict[int, str]:
    """The tokens that a checkpoint states, by id: not those that transformers' class adds by itself, as `<mask>`."""
    path = root / "tokenizer.json"
    stated = load_tokenizer(path).get_vocab(with_added_tokens=True) if path.is_file() else tokenizer.get_vocab()
    return {index: token for token, index in tokenizer.get_vocab().items() if token in stated}


def _lost(header: GgufHeader, theirs: dict[int, str], original: Any) -> Iterator[Compared]:
    """Tokens behind the file's last, but for that of pictures: what stands in its place comes from the projector.

    Nor one that the checkpoint has no row for, as Gemma's text models have none for that of pictures.
    """
    there, picture = len(header.texts("tokenizer.ggml.tokens")), getattr(original.config, "image_token_id", None)
    rows = original.config.get_text_config().vocab_size
    if lost := [index for index in theirs if there <= index < rows and index != picture]:
        name = f"tokenizer.ggml.tokens: token {lost[0]}, and {len(lost) - 1} more behind it,"
        yield Compared("tokenizer", name, None, theirs[lost[0]])


def _tokens(header: GgufHeader, theirs: dict[int, str], tokenizer: Any) -> Iterator[Compared]:
    """Texts and types, the first that is wrong."""
    tokens = header.texts("tokenizer.ggml.tokens")
    types = header.fields.get("tokenizer.ggml.token_type")
    kinds = [NORMAL] * len(tokens) if types is None else types.tolist()
    added = tokenizer.added_tokens_decoder
    for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        text = theirs.get(i)
        allowed = (UNUSED,) if text is None else _kinds(text, i, added, tokenizer)
        if kind not in allowed:
            yield Compared("tokenizer", f"tokenizer.ggml.token_type: token {i}, {token!r:.60},", kind, allowed[0])
            return
        if text is not None and token not in (text, text.replace(_SPACE, " ")):
            yield Compared("tokenizer", f"tokenizer.ggml.tokens: token {i}", token, text)
            return


def _kinds(token: str, index: int, added: Any, tokenizer: Any) -> tuple[int, ...]:
    """The types that a token may have: those of an added one never let it be split."""
    if index == tokenizer.unk_token_id:
        return UNKNOWN, CONTROL
    if index in added:
        # llama.cpp's own converter calls `<mask>` and `<unused0>` control tokens, though no file does.
        return (CONTROL,) if added[index].special else (USER_DEFINED, CONTROL)
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return (BYTE,)
    return NORMAL, UNUSED


def _texts(header: GgufHeader, theirs: dict[int, str], tokenizer: Any) -> Compared:
    """For how many texts llama.cpp gives other ids than transformers."""
    differing, first = _differing(_Vocabulary(_digest(header, tokenizer), header, theirs, tokenizer))
    name = f"the number of texts with other ids by llama.cpp than by transformers{first}"
    found = differing if differing > _MOST_DIFFERING else 0
    return Compared("tokenizer", name, found, 0, f"at most {_MOST_DIFFERING} of {COUNT:,}", texts=COUNT)


@dataclass(frozen=True)
class _Vocabulary:
    """A vocabulary, which all levels of an artifact share."""

    digest: str
    header: GgufHeader = field(compare=False)
    stated: dict[int, str] = field(compare=False)
    tokenizer: Any = field(compare=False)


def _digest(header: GgufHeader, tokenizer: Any) -> str:
    """Of everything that decides about ids, in the file and in the checkpoint."""
    digest = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode())
    for key in sorted(key for key in header.fields if key.startswith("tokenizer.ggml.")):
        value = header.fields[key]
        data = value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
        digest.update(f"{key} {len(data)} ".encode() + data)
    return digest.hexdigest()


@lru_cache(maxsize=8)
def _differing(vocabulary: _Vocabulary) -> tuple[int, str]:
    """How many texts get other ids, and the first of them, for people."""
    pieces = [token.replace(_SPACE, " ") for token in vocabulary.header.texts("tokenizer.ggml.tokens")]
    added = vocabulary.tokenizer.added_tokens_decoder
    special = [added[index].content for index in vocabulary.stated if index in added and added[index].special]
    compared = texts(pieces, special)
    library()  # or it is not installed
    theirs, end = worker.run(tokenized, {"path": str(vocabulary.header.path), "texts": compared}, limit_s=_LIMIT_S)
    if end.problem:
        raise ArtifactError(
            f"{vocabulary.header.path}: llama.cpp cannot use its vocabulary: {stripped_line(end.problem)}"
        )
    ours = vocabulary.tokenizer.backend_tokenizer.encode_batch(compared, add_special_tokens=False)
    wrong = [text for text, ids, other in zip(compared, theirs, ours, strict=True) if ids != other.ids]
    return len(wrong), f", the first {wrong[0][:60]!r}," if wrong else ""


def _scores(header: GgufHeader, root: Path, count: int) -> Compared:
    """Whether pieces are as good, compared with each other, as in the checkpoint: only their order matters."""
    key = "tokenizer.ggml.scores"
    right = _checkpoint_scores(root / "tokenizer.model", count)
    found = np.asarray(header.numbers(key, len(header.texts("tokenizer.ggml.tokens"))), np.float32)
    types = header.fields.get("tokenizer.ggml.token_type")
    right = right[: len(found)]
    pieces = np.arange(len(right)) if types is None else np.flatnonzero(types[: len(right)] == NORMAL)
    order = pieces[np.argsort(-right[pieces], kind="stable")]
    wrong = np.flatnonzero(np.sign(np.diff(found[order])) != np.sign(np.diff(right[order])))
    if not len(wrong):
        return Compared("tokenizer", key, True, True)
    pair = order[wrong[0] : wrong[0] + 2]
    name = f"{key}: of tokens {pair[0]} and {pair[1]}"
    return Compared("tokenizer", name, found[pair].tolist(), right[pair].tolist())


def _checkpoint_scores(path: Path, count: int) -> Any:
    """SentencePiece's, float32; without its model, an earlier piece is a better one, as its trainer numbers them."""
    from sentencepiece import SentencePieceProcessor

    if not path.is_file():
        return -np.arange(count, dtype=np.float32)
    pieces = SentencePieceProcessor()
    pieces.LoadFromSerializedProto(path.read_bytes())
    return np.asarray(pieces.GetScore(list(range(len(pieces)))), np.float32)
