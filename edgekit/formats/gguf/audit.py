"""Audit a GGUF file's header and vocabulary: llama.cpp reads there what transformers reads in the checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgekit.errors import ArtifactError
from edgekit.formats.audit import AuditedPart, Compared
from edgekit.formats.gguf import own
from edgekit.formats.gguf.form import GgufForm, read_checked
from edgekit.formats.gguf.header import GgufHeader
from edgekit.formats.gguf.library import library, tokenized
from edgekit.inputs.text import load_tokenizer
from edgekit.inputs.tokenizer_texts import COUNT, texts
from edgekit.machine import worker
from edgekit.progress import Progress
from edgekit.terminal import stripped_line

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # llama_token_type
# What a reader goes by, beside the keys of an architecture and of a tokenizer.
_READ = frozenset(
    f"general.{name}" for name in ("architecture", "type", "alignment", "file_type", "quantization_version")
)
_TEMPLATE = "tokenizer.chat_template"
_ADDED, _PADDING = -1000.0, -10000.0  # scores of what is no piece, as llama.cpp's converter has them
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
    compared = list(_compared(part, form, header, original))
    for one in compared:
        yield one if one.same else replace(one, meaning=form.meaning(one.name, one.found, one.expected))
    if part.label:
        yield from own.of_nothing(header, compared)
        return
    read = (f"{form.architecture}.", "split.", "tokenizer.ggml.", _TEMPLATE)
    for key, value in header.fields.items():
        if key not in _READ and not key.startswith(read):
            said = "programs sample so" if key.startswith("general.sampling.") else "nothing reads it"
            yield Compared("constant", key, own.plain(value), None, said, is_note=True)


def _compared(part: AuditedPart, form: GgufForm, header: GgufHeader, original: Any) -> Iterator[Compared]:
    for tensor in part.tensors.values():
        yield Compared("tensor", f"the name of {tensor.name}", tensor.file_name, form.hub_name(tensor.name, header))
    if part.label:
        yield from own.of_the_label(part, part.label, header)
    yield from form.constants(header, original)
    if form.settings:  # the model's file, which holds the vocabulary
        theirs, ours, pieces = _stated(part.root, original.tokenizer), bool(part.label), _pieces(part.root)
        lost, there = list(_lost(header, theirs, original)), len(header.texts("tokenizer.ggml.tokens"))
        theirs = {index: token for index, token in theirs.items() if index < there}
        added, unknown = original.tokenizer.added_tokens_decoder, original.tokenizer.unk_token_id
        markers = form.markers if ours else None
        kinds = partial(_kinds, added=added, unknown=unknown, unused=pieces.unused, markers=markers)
        stated = [*lost, *_flags(header, original, ours=ours), *_tokens(header, theirs, kinds)]
        stated += _strict({index: added[index] for index in theirs if index in added})
        stated += _scores(header, pieces, len(theirs), [index for index in theirs if index in added], ours=ours)
        yield from stated
        if all(one.same or one.is_note for one in stated):  # else it is refused, and known why ids differ
            yield _texts(header, theirs, original.tokenizer, part.progress)
        yield _chat_template(form, header, original)
    # llama.cpp takes another template where tools are given; no checkpoint of these families has one.
    for key, value in header.fields.items():
        if key.startswith(_TEMPLATE) and key != _TEMPLATE:
            yield Compared("template", key, own.plain(value), None, "none")


def _flags(header: GgufHeader, original: Any, *, ours: bool) -> Iterator[Compared]:
    """Ids and flags; what a file leaves out has llama.cpp's value for SentencePiece (`llama_vocab::impl::load`)."""
    tokenizer, fields = original.tokenizer, header.fields
    ids = tokenizer("a")["input_ids"]
    stops = sorted({tokenizer.eos_token_id, *original.eos_token_ids})
    expected: dict[str, Any] = {
        "model": "llama",
        **({"pre": "default"} if ours else {}),  # read for other kinds of tokenizers only, as are the last two
        "bos_token_id": tokenizer.bos_token_id,
        "unknown_token_id": tokenizer.unk_token_id,
        "padding_token_id": tokenizer.pad_token_id if "tokenizer.ggml.padding_token_id" in fields else None,
        "add_bos_token": ids[0] == tokenizer.bos_token_id,
        "add_eos_token": ids[-1] == tokenizer.eos_token_id,
        "add_sep_token": False,
        "add_space_prefix": tokenizer.tokenize("a")[0].startswith(_SPACE),
        "remove_extra_whitespaces": False,
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
    elsewhere = ("tokens", "scores", "token_type", *(() if ours else ("pre", "token_type_count", "merges")))
    for key in fields:
        name = key.removeprefix("tokenizer.ggml.")
        if name != key and name not in expected and name not in elsewhere:
            known = getattr(tokenizer, _HUB.get(name, name), None) if name.endswith("_token_id") else None
            yield Compared("tokenizer", key, own.plain(fields[key]), known)


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


def _tokens(
    header: GgufHeader, theirs: dict[int, str], kinds: Callable[[str, int], tuple[int, ...]]
) -> Iterator[Compared]:
    """Texts and types, the first that is wrong."""
    tokens = header.texts("tokenizer.ggml.tokens")
    types = header.fields.get("tokenizer.ggml.token_type")
    found = [NORMAL] * len(tokens) if types is None else types.tolist()
    for i, (token, kind) in enumerate(zip(tokens, found, strict=True)):
        text = theirs.get(i)
        allowed = (UNUSED,) if text is None else kinds(text, i)
        if kind not in allowed:
            name = f"tokenizer.ggml.token_type: token {i}, {token!r:.60},"
            yield Compared("tokenizer", name, _called(kind), _called(allowed[0]))
            return
        if text is not None and token not in (text, text.replace(_SPACE, " ")):
            yield Compared("tokenizer", f"tokenizer.ggml.tokens: token {i}", token, text)
            return


def _called(kind: int) -> str:
    import gguf

    names = {int(one): one.name for one in gguf.TokenType}
    return f"{kind} ({names.get(kind, 'none of ggml')})"


def _strict(added: Mapping[int, Any]) -> Iterator[Compared]:
    """The first added token that takes the white space beside it, or stands for whole words alone: llama.cpp finds it
    wherever it stands, and a rare one is in too few of the texts that are compared.
    """
    for index, token in added.items():
        if flags := [name for name in ("lstrip", "rstrip", "single_word") if getattr(token, name)]:
            name = f"tokenizer.ggml.tokens: token {index}, {token.content!r:.60},"
            yield Compared("tokenizer", name, "one wherever it stands", f"one with {', '.join(flags)}")
            return


def _kinds(
    token: str,
    index: int,
    *,
    added: Mapping[int, Any],
    unknown: int | None,
    unused: Collection[int],
    markers: Collection[str] | None,
) -> tuple[int, ...]:
    """The types that a token may have: those of an added one never let it be split; of an unused one nothing is shown.

    Args:
        added: the tokenizer's own, by id.
        unused: pieces that SentencePiece does not use.
        markers: tokens that are control tokens in edgekit's own files; None for files of others.
    """
    ours = markers is not None
    if index == unknown:
        return UNKNOWN, CONTROL
    if index in added:
        if added[index].special or (markers and added[index].content in markers):
            return (CONTROL,)
        # llama.cpp's own converter calls `<mask>` and `<unused0>` control tokens, though no file does.
        return (USER_DEFINED,) if ours else (USER_DEFINED, CONTROL)
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return (BYTE,)
    return ((UNUSED,) if ours else (UNUSED, NORMAL)) if index in unused else (NORMAL,)


def _texts(header: GgufHeader, theirs: dict[int, str], tokenizer: Any, progress: Progress) -> Compared:
    """For how many texts llama.cpp gives other ids than transformers."""
    differing, first = _differing(_Vocabulary(_digest(header, tokenizer), header, theirs, tokenizer, progress))
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
    progress: Progress = field(compare=False)


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
    vocabulary.progress.start(f"{vocabulary.header.path.name}: ids of texts", len(compared))
    theirs, job = [], {"path": str(vocabulary.header.path), "texts": compared}
    with worker.Worker(tokenized, job, limit_s=_LIMIT_S) as running:
        for ids in running.results():
            theirs.append(ids)
            vocabulary.progress.advance()
        end = running.wait()
    if end.problem:
        raise ArtifactError(
            f"{vocabulary.header.path}: llama.cpp cannot use its vocabulary: {stripped_line(end.problem)}"
        )
    ours = vocabulary.tokenizer.backend_tokenizer.encode_batch(compared, add_special_tokens=False)
    wrong = [text for text, ids, other in zip(compared, theirs, ours, strict=True) if ids != other.ids]
    return len(wrong), f", the first {wrong[0][:60]!r}," if wrong else ""


class _Pieces(NamedTuple):
    """Of SentencePiece's model: scores, float32, None without a model; and the pieces that it does not use."""

    scores: Any
    unused: frozenset[int]


def _pieces(root: Path) -> _Pieces:
    from sentencepiece import SentencePieceProcessor

    path = root / "tokenizer.model"
    if not path.is_file():
        return _Pieces(None, frozenset())
    pieces = SentencePieceProcessor()
    pieces.LoadFromSerializedProto(path.read_bytes())
    ids = list(range(len(pieces)))
    unused = (i for i, true in zip(ids, pieces.IsUnused(ids), strict=True) if true)
    return _Pieces(np.asarray(pieces.GetScore(ids), np.float32), frozenset(unused))


def _scores(
    header: GgufHeader, pieces: _Pieces, count: int, added: Collection[int], *, ours: bool
) -> Iterator[Compared]:
    """Whether pieces are as good, compared with each other, as in the checkpoint: only their order matters.

    Those of tokens that no text is cut into matter to nobody: in files of others they are a note.

    Args:
        count: of the checkpoint's tokens.
        added: tokens that are no pieces.
        ours: whether the file is edgekit's own, each score of which is known.
    """
    key, size = "tokenizer.ggml.scores", len(header.texts("tokenizer.ggml.tokens"))
    # Without a model, an earlier piece is a better one, as its trainer numbers them.
    right = -np.arange(count, dtype=np.float32) if pieces.scores is None else pieces.scores
    right = right[:size]
    found = np.asarray(header.numbers(key, size), np.float32)
    types = header.fields.get("tokenizer.ggml.token_type")
    ordinary = np.arange(len(right)) if types is None else np.flatnonzero(types[: len(right)] == NORMAL)
    order = ordinary[np.argsort(-right[ordinary], kind="stable")]
    wrong = np.flatnonzero(np.sign(np.diff(found[order])) != np.sign(np.diff(right[order])))
    if len(wrong):
        pair = order[wrong[0] : wrong[0] + 2]
        yield Compared(
            "tokenizer", f"{key}: of tokens {pair[0]} and {pair[1]}", found[pair].tolist(), right[pair].tolist()
        )
        return
    yield Compared("tokenizer", key, True, True)
    exact = np.full(size, _PADDING, np.float32)
    exact[: len(right)] = right
    exact[[i for i in added if i < size]] = _ADDED
    compared = np.arange(size) if ours else np.setdiff1d(np.arange(size), ordinary)
    if len(differing := compared[found[compared] != exact[compared]]):
        first = differing[0]
        name = f"{key}: of token {first}, and {len(differing) - 1} more"
        yield Compared("tokenizer", name, float(found[first]), float(exact[first]), is_note=not ours)
