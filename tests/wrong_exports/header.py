"""Mistakes in a GGUF header: the numbers, texts and flags that llama.cpp computes and tokenizes by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gguf

from wrong_exports.entry import Exporter, InapplicableError, WrongExport, by

_TEXT, _EYE, _TOKENS = "gemma3.", "clip.vision.", "tokenizer.ggml."
_WINDOW = f"{_TEXT}attention.sliding_window"
MAX = 1 << 20  # more positions than any text here

_NORMAL, _USERS, _BYTE, _CONTROL, _UNUSED = (
    gguf.TokenType.NORMAL, gguf.TokenType.USER_DEFINED, gguf.TokenType.BYTE, gguf.TokenType.CONTROL,
    gguf.TokenType.UNUSED,
)  # fmt: skip

Header = dict[str, Any]  # of gguf.GGUFValue, by key
New = Callable[[Any], Any]


def changed(prefix: str, values: Mapping[str, New]) -> Callable[[Header], None]:
    """These keys get what functions make of their values."""

    def edit(header: Header) -> None:
        _check(header, *(prefix + key for key in values))
        for key, new in values.items():
            header[prefix + key].value = new(header[prefix + key].value)

    return edit


def added(key: str, value: Any, kind: Any) -> Callable[[Header], None]:
    """A key that does not belong there."""
    return lambda header: header.update({key: gguf.GGUFValue(value, kind)})


def without(*keys: str) -> Callable[[Header], None]:
    """A header that lacks these."""

    def edit(header: Header) -> None:
        _check(header, *keys)
        for key in keys:
            del header[key]

    return edit


def _check(header: Header, *keys: str) -> None:
    if missing := [key for key in keys if key not in header]:
        raise InapplicableError(f"the header has no {', '.join(missing)}")


def _factor(factor: float) -> Callable[[Header], None]:
    """Whether or not global layers are stretched by another."""

    def edit(header: Header) -> None:
        added(f"{_TEXT}rope.scaling.type", "linear", _STRING)(header)
        added(f"{_TEXT}rope.scaling.factor", factor, _F32)(header)

    return edit


def _template(old: str, new: str) -> Callable[[Header], None]:
    return changed("tokenizer.", {"chat_template": lambda text: text.replace(old, new)})


def to(value: Any) -> New:
    """Whatever it was."""
    return lambda _: value


def _bases_exchanged(header: Header) -> None:
    one, other = header[f"{_TEXT}rope.freq_base"], header[f"{_TEXT}rope.freq_base_swa"]
    one.value, other.value = other.value, one.value


def _entries(key: str, change: Callable[[list[Any], list[Any]], object]) -> Callable[[Header], None]:
    """An array of the vocabulary, changed in place; beside it, the tokens."""

    def edit(header: Header) -> None:
        values = list(header[_TOKENS + key].value)
        change(values, header[f"{_TOKENS}tokens"].value)
        header[_TOKENS + key].value = values

    return edit


def _exchange(values: list[Any], one: int, other: int) -> None:
    values[one], values[other] = values[other], values[one]


def _set(values: list[Any], wrong: list[Any]) -> None:
    values[:] = wrong


def _markers(values: list[int], tokens: list[bytes], kind: gguf.TokenType) -> None:
    for name in (b"<start_of_turn>", b"<end_of_turn>"):
        values[tokens.index(name)] = int(kind)


def _ordinary(values: list[int], kind: gguf.TokenType) -> None:
    _set(values, [int(_NORMAL) if value == kind else value for value in values])


def _as_scored(values: list[float], change: Callable[[list[float]], list[float]]) -> None:
    """Scores of the pieces that may be merged; the others' are -1000 and less."""
    own = [i for i, score in enumerate(values) if score > -999999 and score != -1000.0 and score != -10000.0]
    for i, score in zip(own, change([values[i] for i in own]), strict=True):
        values[i] = score


_F32, _U32, _BOOL, _STRING = (
    gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.UINT32, gguf.GGUFValueType.BOOL, gguf.GGUFValueType.STRING,
)  # fmt: skip

_DECODER: tuple[tuple[str, Callable[[Header], object]], ...] = (
    ("epsilon of the norms is 1e-5", changed(_TEXT, {"attention.layer_norm_rms_epsilon": to(1e-5)})),
    ("epsilon of the norms is 1e-3", changed(_TEXT, {"attention.layer_norm_rms_epsilon": to(1e-3)})),
    ("epsilon of the norms is 0", changed(_TEXT, {"attention.layer_norm_rms_epsilon": to(0.0)})),
    ("the global base is 5e5", changed(_TEXT, {"rope.freq_base": to(5e5)})),
    ("the global base is the local one", changed(_TEXT, {"rope.freq_base": to(1e4)})),
    ("the local base is the global one", changed(_TEXT, {"rope.freq_base_swa": to(1e6)})),
    ("the global base is missing", without(f"{_TEXT}rope.freq_base")),
    ("bases of rotation are exchanged", _bases_exchanged),
    ("the factor is 7", _factor(7.0)),
    ("the factor is 8.01", _factor(8.01)),
    ("global layers are not stretched", changed(_TEXT, {"rope.scaling.factor": to(1.0)})),
    ("the scaling is missing", without(f"{_TEXT}rope.scaling.type", f"{_TEXT}rope.scaling.factor")),
    ("the scaling's type is none", changed(_TEXT, {"rope.scaling.type": to("none")})),
    ("the scaling's type is yarn", changed(_TEXT, {"rope.scaling.type": to("yarn")})),
    ("local layers see everything", changed(_TEXT, {"attention.sliding_window": to(MAX)})),
    ("the window is missing", without(_WINDOW)),
    ("the window is one too long", changed(_TEXT, {"attention.sliding_window": lambda window: window + 1})),
    ("the window is one too short", changed(_TEXT, {"attention.sliding_window": lambda window: window - 1})),
    ("the window is half", changed(_TEXT, {"attention.sliding_window": lambda window: window // 2})),
    ("every fifth layer is global", added(f"{_TEXT}attention.sliding_window_pattern", 5, _U32)),
    ("final logits are capped at 30", added(f"{_TEXT}final_logit_softcapping", 30.0, _F32)),
    ("final logits are capped at 50", added(f"{_TEXT}final_logit_softcapping", 50.0, _F32)),
    ("attention logits are capped at 50", added(f"{_TEXT}attn_logit_softcapping", 50.0, _F32)),
    ("attention has a scale of its own", added(f"{_TEXT}attention.scale", 0.1, _F32)),
    ("embeddings have a scale of their own", added(f"{_TEXT}embedding_scale", 1.0, _F32)),
    ("attention is not causal", added(f"{_TEXT}attention.causal", False, _BOOL)),
    ("half of each head rotates", added(f"{_TEXT}rope.dimension_count", 32, _U32)),
    ("keys and queries share more heads", changed(_TEXT, {"attention.head_count_kv": lambda heads: heads // 2})),
    ("the context is another", changed(_TEXT, {"context_length": lambda context: context // 2})),
    ("scores are zero", _entries("scores", lambda v, _: _as_scored(v, lambda own: [0.0] * len(own)))),
    ("scores are in reverse order", _entries("scores", lambda v, _: _as_scored(v, lambda own: own[::-1]))),
    ("scores are one off", _entries("scores", lambda v, _: _as_scored(v, lambda own: own[1:] + own[:1]))),
    ("two tokens are exchanged", _entries("tokens", lambda v, _: _exchange(v, 400, 401))),
    ("a token is another", _entries("tokens", lambda v, _: v.__setitem__(500, b"\xe2\x96\x81zzz"))),
    ("no token is a control", _entries("token_type", lambda v, _: _ordinary(v, _CONTROL))),
    ("turn markers are ordinary text", _entries("token_type", lambda v, t: _markers(v, t, _NORMAL))),
    ("turn markers are a user's", _entries("token_type", lambda v, t: _markers(v, t, _USERS))),
    ("bytes are ordinary tokens", _entries("token_type", lambda v, _: _ordinary(v, _BYTE))),
    ("<bos> is another", changed(_TOKENS, {"bos_token_id": lambda token: token + 1})),
    ("<bos> is missing", without(f"{_TOKENS}bos_token_id")),
    ("<eos> is another", changed(_TOKENS, {"eos_token_id": lambda token: token + 2})),
    ("<eos> is missing", without(f"{_TOKENS}eos_token_id")),
    ("<eos> is <bos>", changed(_TOKENS, {"eos_token_id": to(2)})),
    ("the end of a turn is another", added(f"{_TOKENS}eot_token_id", 3, _U32)),
    ("<unk> is another", changed(_TOKENS, {"unknown_token_id": lambda token: token + 1})),
    ("<pad> is another", changed(_TOKENS, {"padding_token_id": lambda token: token + 1})),
    ("no <bos> is put before a prompt", changed(_TOKENS, {"add_bos_token": to(False)})),
    ("whether <bos> is put before a prompt is missing", without(f"{_TOKENS}add_bos_token")),
    ("<eos> is put behind a prompt", changed(_TOKENS, {"add_eos_token": to(True)})),
    ("a separator is put behind a prompt", changed(_TOKENS, {"add_sep_token": to(True)})),
    ("a space is put before a prompt", changed(_TOKENS, {"add_space_prefix": to(True)})),
    ("whether a space is put before a prompt is missing", without(f"{_TOKENS}add_space_prefix")),
    ("spaces at the ends are cut", added(f"{_TOKENS}remove_extra_whitespaces", True, _BOOL)),
    ("the tokenizer is of another kind", changed(_TOKENS, {"model": to("gpt2")})),
    ("the template is another", _template("model", "assistant")),
    ("the template lacks its line breaks", _template("\\n", "")),
    ("the template puts no <bos> first", _template("bos_token", "''")),
    ("the template is missing", without("tokenizer.chat_template")),
)  # fmt: skip

_PROJECTOR: tuple[tuple[str, Callable[[Header], object]], ...] = (
    ("epsilon of the norms is 1e-5", changed(_EYE, {"attention.layer_norm_epsilon": to(1e-5)})),
    ("epsilon of the norms is 1e-3", changed(_EYE, {"attention.layer_norm_epsilon": to(1e-3)})),
    ("the activation is GELU's quick form", changed("clip.", {"use_gelu": to(False)})),
    ("the activation is not said", without("clip.use_gelu")),
    ("the activation is SiLU", added("clip.use_silu", True, _BOOL)),
    ("the mean is ImageNet's", changed(_EYE, {"image_mean": to([0.485, 0.456, 0.406])})),
    ("the deviation is ImageNet's", changed(_EYE, {"image_std": to([0.229, 0.224, 0.225])})),
    ("the mean is one grey level off", changed(_EYE, {"image_mean": to([0.5, 0.5, 0.504])})),
    ("there are half as many heads", changed(_EYE, {"attention.head_count": lambda heads: heads // 2})),
    ("patches are pooled by two", added(f"{_EYE}projector.scale_factor", 2, _U32)),
    ("the projector is another's", changed("clip.", {"projector_type": to("mlp")})),
    ("features are of another width", changed(_EYE, {"projection_dim": lambda width: width * 2})),
)  # fmt: skip
# Of these nothing is computed: people choose a file by them, programs obey some, and texts are shown by others.
_SAID: tuple[tuple[str, Callable[[Header], object]], ...] = (
    ("the name is another model's", changed("general.", {"name": to("MedGemma 27B IT")})),
    ("the license is another", changed("general.", {"license": to("MIT")})),
    ("the file's type is another", changed("general.", {"file_type": lambda kind: kind + 1})),
    ("there is a key that nobody knows", added("general.description", "MedGemma 27B IT", _STRING)),
)
_UNREAD: tuple[tuple[str, Callable[[Header], object]], ...] = (
    ("answers are drawn hot", added("general.sampling.temp", 2.0, _F32)),
    ("there is a template for tools", added("tokenizer.chat_template.tool_use", "IGNORE ALL", _STRING)),
    ("an ordinary token is unused", _entries("token_type", lambda v, _: v.__setitem__(500, int(_UNUSED)))),
    ("a row of no token is ordinary", _entries("token_type", lambda v, _: v.__setitem__(-1, int(_NORMAL)))),
    ("a marker's score is a piece's", _entries("scores", lambda v, t: v.__setitem__(t.index(b"<end_of_turn>"), 1.0))),
    ("all scores are doubled", _entries("scores", lambda v, _: _set(v, [2 * score for score in v]))),
)


def _wrong(name: str, role: str, edit: Callable[[Header], object]) -> WrongExport:
    exporter = Exporter(header=edit)
    settings = {"local layers see everything": {"window": MAX}}.get(name)
    return WrongExport(name, (role,), "gguf", "header", by(exporter, settings), exporter=exporter)


HEADER: tuple[WrongExport, ...] = (
    *(_wrong(name, "decoder", edit) for name, edit in _DECODER),
    *(_wrong(name, "vision", edit) for name, edit in _PROJECTOR),
    *(_wrong(name, "vision", edit) for name, edit in _SAID),
    *(_wrong(name, "decoder", edit) for name, edit in _UNREAD),
)
