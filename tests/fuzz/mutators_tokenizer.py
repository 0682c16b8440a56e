"""Damaged tokenizer.json files: what parses and means something else, more often than what does not parse.

Seeds are small: `seeds()` cuts the reference models' tokenizers down to some hundred pieces.
"""

from __future__ import annotations

import base64
import copy
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.inputs.tokenizer_trial import try_in_a_worker

_PIECES = 400
_SPACE = "\u2581"

# One of every kind of step that the library knows, most of them from other families.
_STEPS: list[dict[str, Any]] = [
    *({"type": kind} for kind in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Nmt", "StripAccents", "ByteLevel")),
    *({"type": kind} for kind in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer", "Fuse", "ByteFallback")),
    {"type": "Prepend", "prepend": _SPACE * 9},
    {"type": "Strip", "strip_left": True, "strip_right": False},
    {"type": "Strip", "content": " ", "start": 9, "stop": 9},
    {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None},
    {"type": "Precompiled", "precompiled_charsmap": ""},
    {"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="},
    {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"\x00\x04\x00\x00" + bytes(1024)).decode()},
    {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"\x00\x04\0\0" + b"\xff" * 1030).decode()},
    {"type": "Replace", "pattern": {"String": ""}, "content": "ab"},
    {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 99},
    {"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": ""},
    {"type": "Replace", "pattern": {"Regex": ""}, "content": "x"},
    {"type": "Replace", "pattern": {"Regex": "(?:" * 400 + "a" + ")" * 400}, "content": "x"},
    {"type": "Replace", "pattern": {"Regex": "a{99999}"}, "content": "x"},
    {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False},
    {"type": "Split", "pattern": {"String": ""}, "behavior": "Removed", "invert": True},
    {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "first", "split": False},
    {"type": "Metaspace", "replacement": "", "prepend_scheme": "always"},
    {"type": "Metaspace", "replacement": "ab", "add_prefix_space": True},
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    {"type": "FixedLength", "length": 0},
    {"type": "Punctuation", "behavior": "Contiguous"},
    {"type": "Digits", "individual_digits": True},
    {"type": "CharDelimiterSplit", "delimiter": "a"},
    {"type": "WordPiece", "prefix": "##", "cleanup": True},
    {"type": "BPEDecoder", "suffix": "</w>"},
    {"type": "CTC", "pad_token": "", "word_delimiter_token": "|", "cleanup": True},
    {"type": "RobertaProcessing", "sep": ["a", 1], "cls": ["b", 2], "trim_offsets": True, "add_prefix_space": True},
    {"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]},
    {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "b"},
    {
        "type": "WordPiece",
        "vocab": {"a": 0},
        "unk_token": "b",
        "continuing_subword_prefix": "",
        "max_input_chars_per_word": 0,
    },
]
_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64, -(2**63), 10**400, 0.0, -0.0, 1.5, 1e308),
    *(-1e308, 1e-320, float("nan"), float("inf"), "", " ", "a", _SPACE, "\0", "\ufffd", "a" * 70_000, "\ud800", "</s>"),
    *([], {}, [[]], [None], [""], ["a", "b", "c"], {"": 0}, {"type": "Sequence"}, {"type": "NFKC"}, "</s>\n" * 400),
]


def seeds() -> list[bytes]:
    """One small file of each family, with all that real ones have but the number of pieces."""
    from edgekit.checkpoints import reference_models

    found = []
    for name in ("medgemma-reference", "medsiglip-reference"):
        folder = reference_models.path(name)
        assert folder is not None, "they belong to the repository"
        file = json.loads((folder / "tokenizer.json").read_bytes())
        model = file["model"]
        if model["type"] == "BPE":
            model["vocab"] = {piece: i for piece, i in model["vocab"].items() if i < _PIECES}
            model["merges"] = [[a, b] for a, b in model["merges"] if {a, b, a + b} <= model["vocab"].keys()]
            file["added_tokens"] = [token for token in file["added_tokens"] if token["id"] < _PIECES]
        else:
            model["vocab"] = model["vocab"][:_PIECES]
        found.append(json.dumps(file).encode())
    return found


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Another file, damaged in one to four places; the same for the same state of `rng`."""
    if rng.random() < 0.1:
        return _bytes(rng, data)
    try:
        file = json.loads(data)
    except ValueError:
        return _bytes(rng, data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        file = rng.choice((_value, _value, _entry, _step, _wrap, _charsmap, _piece, _added, _score))(rng, file)
    return json.dumps(file).encode("utf-8", "surrogatepass")


def differential(data: bytes) -> str | None:
    """How the library died on a file that was accepted; None where it held, or said no by itself."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_bytes(data)
        try:
            end = try_in_a_worker(path)
        except EdgekitError:
            return None
    return end.problem


def _bytes(rng: random.Random, data: bytes) -> bytes:
    raw = bytearray(data)
    at, end = sorted(rng.randrange(len(raw) + 1) for _ in range(2))
    kind = rng.randrange(6)
    if kind == 0:
        del raw[at:]
    elif kind == 1:
        del raw[at : min(end, at + 9)]
    elif kind == 2:
        raw[at:at] = raw[at : min(end, at + 200)]
    elif kind == 3:
        raw[at:at] = rng.randbytes(rng.randint(1, 4))
    elif kind == 4:
        raw[at:at] = rng.choice((b"[", b'{"a":')) * rng.choice((1, 200, 100_000))
    elif at < len(raw):
        raw[at] ^= 1 << rng.randrange(8)
    return bytes(raw)


def _place(rng: random.Random, value: Any) -> tuple[Any, Any] | None:
    """A container and a key in it, at any depth; vocabularies do not crowd out the rest."""
    while isinstance(value, dict | list) and value:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        if not isinstance(value[key], dict | list) or not value[key] or rng.random() < 0.2:
            return value, key
        value = value[key]
    return None


def _value(rng: random.Random, file: Any) -> Any:
    if place := _place(rng, file):
        container, key = place
        old = container[key]
        number = isinstance(old, int | float) and abs(old) < 2**60
        near = [old + 1, -old, old * 2**20] if number else [[old], {"a": old}]
        container[key] = copy.deepcopy(rng.choice([*_VALUES, *near, *near, *near]))
    return file


def _entry(rng: random.Random, file: Any) -> Any:
    """Something removed, repeated, added or moved."""
    if place := _place(rng, file):
        container, key = place
        kind = rng.randrange(4)
        if kind == 0:
            del container[key]
        elif isinstance(container, list):
            container.insert(rng.randrange(len(container) + 1), copy.deepcopy(container[key]))
        elif kind == 1:
            container[rng.choice(["a", "type", "id", "", str(key).upper()])] = copy.deepcopy(container[key])
        else:
            other = rng.choice(list(container))
            container[key], container[other] = container[other], container[key]
    return file


def _step(rng: random.Random, file: Any) -> Any:
    """A step of another tokenizer, or one of this one's in another place."""
    if isinstance(file, dict):
        name = rng.choice(("normalizer", "pre_tokenizer", "decoder", "post_processor", "model"))
        others = [part for part in file.values() if isinstance(part, dict)]
        step = copy.deepcopy(rng.choice([*_STEPS, *others]))
        old = file.get(name)
        members = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}.get(
            name, "processors"
        )
        if isinstance(old, dict) and rng.random() < 0.5:
            inside = old[members] if isinstance(old.get(members), list) else [old]
            steps = [*inside, step] if rng.random() < 0.5 else [step, *inside]
            step = {"type": "Sequence", members: steps * rng.choice((1, 1, 1, 40))}
        file[name] = step
    return file


def _wrap(rng: random.Random, file: Any) -> Any:
    """Sequences in sequences."""
    if isinstance(file, dict):
        name = rng.choice(("normalizer", "decoder", "pre_tokenizer"))
        members = {"normalizer": "normalizers", "decoder": "decoders", "pre_tokenizer": "pretokenizers"}[name]
        for _ in range(rng.choice((1, 2, 100, 150))):
            file[name] = {"type": "Sequence", members: [file.get(name)]}
    return file


def _charsmap(rng: random.Random, file: Any) -> Any:
    """The compiled normalization with some of its bytes changed, or cut, or with another length."""
    steps = (file.get("normalizer") or {}) if isinstance(file, dict) else {}
    steps = steps.get("normalizers") if isinstance(steps, dict) else None
    for step in steps if isinstance(steps, list) else []:
        if isinstance(step, dict) and isinstance(step.get("precompiled_charsmap"), str):
            try:
                raw = bytearray(base64.b64decode(step["precompiled_charsmap"]))
            except ValueError:
                continue
            size = int.from_bytes(raw[:4], "little")
            for _ in range(rng.choice((1, 1, 10, 1000))):
                if raw:
                    # The first units are what every text reaches.
                    span = rng.choice((4, 1028, 4 + size, len(raw)))
                    raw[rng.randrange(max(1, min(span, len(raw))))] = rng.choice((0, 1, 255, rng.randrange(256)))
            if rng.random() < 0.2:
                del raw[rng.randrange(len(raw) + 1) :]
            step["precompiled_charsmap"] = base64.b64encode(raw).decode()
    return file


def _piece(rng: random.Random, file: Any) -> Any:
    """Pieces, merges and ids of the vocabulary."""
    model = file.get("model") if isinstance(file, dict) else None
    vocab = model.get("vocab") if isinstance(model, dict) else None
    odd = rng.choice(("", "\0", "a" * 300, "a" * 9000, _SPACE, "<0x0A>", "<0xZZ>", "</s>", "\u0301", "e\u0301"))
    if isinstance(vocab, dict) and vocab:
        key = rng.choice(list(vocab))
        kind = rng.randrange(5)
        if kind == 0:
            del vocab[key]
        elif kind == 1:
            vocab[odd] = rng.choice((len(vocab), vocab[key], 2**31, 2**32 - 1))
        elif kind == 2:
            vocab[key] = rng.choice((vocab[rng.choice(list(vocab))], 2**32 - 1, 10**7))
        elif isinstance(model.get("merges"), list):
            merges, other = model["merges"], rng.choice(list(vocab))
            merge: Any = rng.choice(([key, other], [key, odd], f"{key} {other}", f"{key}  {other}", [key], ["", ""]))
            merges.insert(rng.randrange(len(merges) + 1), merge)
    elif isinstance(vocab, list) and vocab:
        score = rng.choice((0.0, -1.0, 1e300, -1e300, 5))
        vocab.insert(rng.randrange(len(vocab) + 1), rng.choice(([odd, score], [odd], [odd, score, 1], vocab[0])))
    return file


def _score(rng: random.Random, file: Any) -> Any:
    """All scores of a vocabulary."""
    model = file.get("model") if isinstance(file, dict) else None
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, list):
        factor = rng.choice((0, -1, 1e300, -1e300, 1e-300))
        for entry in vocab:
            if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], float):
                entry[1] *= factor
    return file


def _added(rng: random.Random, file: Any) -> Any:
    """Added tokens: odd texts, flags and ids, one or many."""
    added = file.get("added_tokens") if isinstance(file, dict) else None
    if isinstance(added, list):
        flags = {name: rng.random() < 0.5 for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        content = rng.choice(("", " ", "!!!", "\0", "a", "\u0301", "<x>", "\n", "a" * 9000, _SPACE, "\u00ad", "A!"))
        for i in range(rng.choice((1, 1, 1, 3, 500))):
            identity = rng.choice((0, len(added), 2**32 - 1, 400 + i, rng.randrange(500)))
            added.append({"id": identity, "content": content + (str(i) if i else ""), **flags})
    return file
