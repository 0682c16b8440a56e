"""tokenizer.json files of others: what is understood is loaded, and nothing else reaches the library behind it."""

from __future__ import annotations

import base64
import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from fuzz import mutators_tokenizer
from material import Copy, edit_json, in_a_new_process, read_json
from tokenizers import Tokenizer

from edgekit.errors import CheckpointError, EdgekitError, UsageError
from edgekit.export import copied_tokenizer
from edgekit.export.adopt import adopt
from edgekit.families.source import open_source
from edgekit.formats.gguf.header import read_header
from edgekit.formats.gguf.tokenizer import tokenizer_of
from edgekit.full_precision.processors import processed
from edgekit.inputs.message import Message
from edgekit.inputs.text import load_tokenizer, read_tokenizer
from edgekit.inputs.tokenizer_schema import check_tokenizer_json
from edgekit.inputs.tokenizer_trial import try_in_a_worker
from edgekit.machine.limits import limit_this_process
from edgekit.machine.worker import run
from edgekit.progress import Progress
from edgekit.prove import publish

transformers = pytest.importorskip("transformers")

TEXT = "The lungs are clear.\n\n\u00b5g \u4e2d\u6587 \U0001fac1 " * 3
FAMILIES = ("medgemma-reference", "medsiglip-reference")
SPACE = "\u2581"
LENGTH_OF_ARRAY = 4 * 256
LONG = "a" * 300


@pytest.fixture(params=FAMILIES)
def source(request: pytest.FixtureRequest) -> Path:
    """The folder of a reference model's tokenizer."""
    folder: Path = request.getfixturevalue(request.param.replace("-reference", "_source"))
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def written(path: Path, source: Path, changes: dict[str, Any]) -> Path:
    """A copy of a model's tokenizer.json with other values."""
    path.write_bytes((source / "tokenizer.json").read_bytes())
    edit_json(path, changes)
    return path


# ---------------------------------------------------------------- what is understood


def test_it_gives_the_ids_that_the_library_gives(source: Path) -> None:
    path = source / "tokenizer.json"
    assert load_tokenizer(path).encode(TEXT).ids == Tokenizer.from_file(str(path)).encode(TEXT).ids


def test_what_transformers_saves_is_understood(source: Path, tmp_path: Path) -> None:
    """As it is, with tokens added, and after a call that leaves its truncation and padding in the file."""
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(source, local_files_only=True)
    tokenizer.save_pretrained(tmp_path / "as it is")
    tokenizer.add_tokens(["<finding>", "finding:"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<report>"]})
    tokenizer.save_pretrained(tmp_path / "added")
    tokenizer([TEXT, "a"], padding=True, truncation=True, max_length=5)
    tokenizer.save_pretrained(tmp_path / "called")
    for name in ("as it is", "added", "called"):
        loaded = load_tokenizer(tmp_path / name / "tokenizer.json")
        assert loaded.encode(TEXT).ids == tokenizer(TEXT)["input_ids"]


def test_older_spellings_are_understood(medgemma_source: Path, medsiglip_source: Path, tmp_path: Path) -> None:
    merges = [" ".join(pair) for pair in read_json(medgemma_source / "tokenizer.json")["model"]["merges"]]
    gemma = written(tmp_path / "gemma.json", medgemma_source, {"model.merges": merges, "model.ignore_merges": ...})
    assert load_tokenizer(gemma).encode(TEXT).ids == load_tokenizer(medgemma_source / "tokenizer.json").encode(TEXT).ids
    metaspace = {"type": "Metaspace", "replacement": SPACE, "add_prefix_space": True}
    siglip = written(tmp_path / "siglip.json", medsiglip_source, {"pre_tokenizer": metaspace, "decoder": metaspace})
    assert (
        load_tokenizer(siglip).encode(TEXT).ids == load_tokenizer(medsiglip_source / "tokenizer.json").encode(TEXT).ids
    )


@pytest.mark.parametrize("pieces", [60_000, pytest.param(262_144, marks=pytest.mark.slow)])
def test_a_large_vocabulary_is_checked_in_seconds_and_within_ten_times_its_size(pieces: int, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(_large(pieces), ensure_ascii=False, indent=2), encoding="utf-8")
    seconds, memory = in_a_new_process(_cost_of_checking, path)
    assert seconds < 20 * pieces / 262_144  # of computing; 3 for Gemma 3's on a quick machine
    assert memory < 10 * path.stat().st_size


def _large(pieces: int) -> dict[str, Any]:
    """A vocabulary with two merges for each of its pieces, indented, as Gemma 3's."""
    alphabet = [chr(0x4E00 + i) for i in range(520)]
    pairs = [left + right for left in alphabet for right in alphabet][: pieces - len(alphabet) - 1]
    vocab = {piece: i for i, piece in enumerate(["<unk>", *alphabet, *pairs])}
    added = {"content": "<image_soft_token>", "single_word": False, "lstrip": False, "rstrip": False}
    return {
        "version": "1.0",
        "added_tokens": [{"id": len(vocab), **added, "normalized": False, "special": True}],
        "model": {"type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": [list(pair) for pair in pairs] * 2},
    }


def _cost_of_checking(path: Path) -> tuple[float, int]:
    """Seconds of computing, and how far memory rose."""
    data, before = path.read_bytes(), resource.getrusage(resource.RUSAGE_SELF)
    check_tokenizer_json(data, str(path))
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime - before.ru_utime, 1024 * (after.ru_maxrss - before.ru_maxrss)


# ---------------------------------------------------------------- truncation and padding

SECTIONS: dict[str, Any] = {
    "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
    "padding": {
        "strategy": {"Fixed": 40},
        "direction": "Left",
        "pad_to_multiple_of": 7,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    },
}


@pytest.mark.parametrize("names", [("truncation",), ("padding",), ("truncation", "padding")])
def test_truncation_and_padding_are_ignored_and_said(source: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    path = written(tmp_path / "tokenizer.json", source, {name: SECTIONS[name] for name in names})
    loaded = read_tokenizer(path)
    assert loaded.tokenizer.encode(TEXT).ids == load_tokenizer(source / "tokenizer.json").encode(TEXT).ids
    assert len(loaded.notes) == len(names)
    assert all(name in note for name, note in zip(names, loaded.notes, strict=True))
    assert read_tokenizer(source / "tokenizer.json").notes == ()


class _Heard(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_export_and_every_open_say_so(medsiglip_source: Path, copied: Copy, tmp_path: Path) -> None:
    from edgekit.runtime.opening import open_model

    folder, heard = copied(medsiglip_source), _Heard()
    written(folder / "tokenizer.json", medsiglip_source, SECTIONS)
    publish.export(folder, tmp_path / "made", levels=["fp32"], prove=False, progress=heard)
    expected = read_tokenizer(folder / "tokenizer.json").notes
    assert set(expected) <= set(heard.notes)
    model = open_model(tmp_path / "made")
    model.close()
    assert set(expected) <= set(model.warnings)


# ---------------------------------------------------------------- what is refused


def charsmap(array: bytes, texts: bytes = b"a\0") -> dict[str, Any]:
    """A normalizer with a compiled map of this array, and the texts behind it."""
    data = len(array).to_bytes(4, "little") + array + texts
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


def unit(label: int, offset: int = 0, *, leaf: bool = False) -> bytes:
    """A unit of a double array."""
    return (label | offset << 10 | leaf << 8).to_bytes(4, "little")


# Its root leads to position 256, where an `a` leads on to text 3000.
TO_NOWHERE = bytearray(2 * LENGTH_OF_ARRAY)
TO_NOWHERE[0:4] = unit(0, 256)
TO_NOWHERE[4 * (256 ^ 97) : 4 * (256 ^ 97) + 4] = unit(97, 1, leaf=True)
TO_NOWHERE[4 * (256 ^ 97 ^ 1) : 4 * (256 ^ 97 ^ 1) + 4] = (0x8000_0000 + 3000).to_bytes(4, "little")

HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another model": lambda file: file["model"].update(type="WordLevel"),
    "dropout": lambda file: file["model"].update(dropout=0.5),
    "a prefix of pieces": lambda file: file["model"].update(continuing_subword_prefix="##"),
    "a field that is not known": lambda file: file["model"].update(cache_capacity=1 << 62),
    "a section that is not known": lambda file: file.update(models=[]),
    "a flag that is a number": lambda file: file["model"].update(byte_fallback=1),
    "no vocabulary": lambda file: file["model"].update(vocab=type(file["model"]["vocab"])()),
    "an added token's id of another": lambda file: file["added_tokens"][0].update(id=9),
    "an added token twice": lambda file: file["added_tokens"].append(file["added_tokens"][0]),
    "an added token without text": lambda file: file["added_tokens"][0].update(content=""),
    "an added token that may become nothing": lambda file: file["added_tokens"].append(
        {**file["added_tokens"][0], "id": 10**6, "content": "!?", "normalized": True}
    ),
    "a long added token": lambda file: file["added_tokens"].append(
        {**file["added_tokens"][0], "id": 10**6, "content": LONG}
    ),
    "a normalizer that is not known": lambda file: file.update(normalizer={"type": "NFKC"}),
    "sequences in sequences": lambda file: file.update(
        normalizer={"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []}]}
    ),
    "many steps": lambda file: file.update(
        normalizer={"type": "Sequence", "normalizers": [{"type": "Lowercase"}] * 1000}
    ),
    "a replacement that grows": lambda file: file.update(
        normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    ),
    "a pattern that never ends": lambda file: file.update(
        normalizer={"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": ""}
    ),
    "an empty pattern": lambda file: file.update(
        normalizer={"type": "Replace", "pattern": {"String": ""}, "content": " "}
    ),
    "a map that is no base64": lambda file: file.update(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "?"}
    ),
    "a map that is cut": lambda file: file.update(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "AAQAAA=="}
    ),
    "a map of 4 GB": lambda file: file.update(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "/////wAAAAA="}
    ),
    "a map that leads out of itself": lambda file: file.update(
        normalizer=charsmap(unit(0, 512) + bytes(LENGTH_OF_ARRAY - 4))
    ),
    "a map that leads to no text": lambda file: file.update(normalizer=charsmap(bytes(TO_NOWHERE))),
    "a map to a long text": lambda file: file.update(normalizer=charsmap(bytes(LENGTH_OF_ARRAY), b"a" * 1000 + b"\0")),
    "a map to half a character": lambda file: file.update(normalizer=charsmap(bytes(LENGTH_OF_ARRAY), b"\xc3\0")),
    "a pre-tokenizer that is not known": lambda file: file.update(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False}
    ),
    "a decoder that is not known": lambda file: file.update(
        decoder={"type": "Strip", "content": " ", "start": 9, "stop": 9}
    ),
    "a template without the text": lambda file: file["post_processor"].update(single=[]),
    "a template with two texts": lambda file: file["post_processor"].update(
        single=[{"Sequence": {"id": "A", "type_id": 0}}] * 2
    ),
    "a template of a token that is none": lambda file: next(
        iter(file["post_processor"]["special_tokens"].values())
    ).update(ids=[99]),
    "a padding that is none": lambda file: file.update(padding={"strategy": "BatchLongest"}),
    "a truncation below zero": lambda file: file.update(truncation={**SECTIONS["truncation"], "stride": -1}),
    "a truncation beyond numbers": lambda file: file.update(truncation={**SECTIONS["truncation"], "stride": 10**400}),
}
OF_BPE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a merge without its pieces": lambda file: file["model"]["merges"].append(["\u0001", "\u0002"]),
    "a merge of three": lambda file: file["model"]["merges"].append(["a", "b", "c"]),
    "a merge that is none": lambda file: file["model"]["merges"].append(7),
    "two pieces with one id": lambda file: file["model"]["vocab"].update({"\u0001": 5}),
    "an id below zero": lambda file: file["model"]["vocab"].update({"\u0001": -5}),
    "an id that is true": lambda file: file["model"]["vocab"].update({"\u0001": True}),
    "an id beyond numbers": lambda file: file["model"]["vocab"].update({"\u0001": 1 << 40}),
    "an empty piece": lambda file: file["model"]["vocab"].update({"": 10**6}),
    "half of a surrogate pair": lambda file: file["model"]["vocab"].update({"a\ud800": 10**6}),
    "a long piece": lambda file: file["model"]["vocab"].update({LONG: 10**6}),
    "an unknown token that is none": lambda file: file["model"].update(unk_token="\u0001"),
}
OF_UNIGRAM: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no unknown token": lambda file: file["model"].update(unk_id=None),
    "an unknown token beyond the vocabulary": lambda file: file["model"].update(unk_id=1 << 30),
    "a score beyond numbers": lambda file: file["model"]["vocab"].append(["\u0001", float("1e300")]),
    "a score that is true": lambda file: file["model"]["vocab"].append(["\u0001", True]),
    "a piece twice": lambda file: file["model"]["vocab"].append(file["model"]["vocab"][9]),
    "an empty piece": lambda file: file["model"]["vocab"].append(["", -1.0]),
    "half of a surrogate pair": lambda file: file["model"]["vocab"].append(["a\ud800", -1.0]),
    "a piece without a score": lambda file: file["model"]["vocab"].append(["\u0001"]),
}
DAMAGES = [
    *((family, name, damage) for family in FAMILIES for name, damage in HOSTILE.items()),
    *((FAMILIES[0], name, damage) for name, damage in OF_BPE.items()),
    *((FAMILIES[1], name, damage) for name, damage in OF_UNIGRAM.items()),
]


@pytest.mark.parametrize(
    ("family", "damage"), [(f, d) for f, _, d in DAMAGES], ids=[f"{f.split('-')[0]}: {n}" for f, n, _ in DAMAGES]
)
def test_what_is_not_understood_never_reaches_the_library(
    family: str, damage: Callable[[dict[str, Any]], Any], request: pytest.FixtureRequest
) -> None:
    source: Path = request.getfixturevalue(family.replace("-reference", "_source"))
    file = read_json(source / "tokenizer.json")
    damage(file)
    with pytest.raises(CheckpointError, match=r"^their file: not a tokenizer: ."):
        check_tokenizer_json(json.dumps(file).encode(), "their file")


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"",
            b"{",
            b"[]",
            b"null",
            b"\xff\xfe",
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b'{"version": "1.0", "version": "1.0"}',
        ),
        *(b'{"version": NaN}', b'{"version": 1' + b"0" * 5000 + b"}", b'{"version": "\\ud800"}'),
    ],
    ids=range(11),
)
def test_what_is_no_json_of_one_meaning(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(CheckpointError, match="not a tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path, tmp_path / "none", tmp_path / "loop", tmp_path / ("n" * 300)):
        with pytest.raises(CheckpointError, match="no such file"):
            load_tokenizer(path)


def test_a_panic_is_refused_by_export_proof_and_synthesize(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    """The library's own PanicException is a BaseException: nothing that catches errors sees it."""
    folder = copied(medgemma_source)
    written(
        folder / "tokenizer.json", medgemma_source, {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}
    )
    with pytest.raises(BaseException, match="charsmap") as raised:
        Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert not isinstance(raised.value, Exception)
    with pytest.raises(CheckpointError, match="charsmap"):
        publish.export(folder, tmp_path / "made", levels=["BF16"], prove=False)
    assert not (tmp_path / "made").exists()
    with pytest.raises(CheckpointError, match="charsmap"):
        copied_tokenizer.check(folder, 4096, frozenset())
    with pytest.raises(CheckpointError, match="charsmap"):  # before transformers reads it
        processed(open_source(folder), [Message("user", "a")])


@pytest.mark.parametrize("stated", [[1], {"x": {"content": "a"}}, {"1": "a"}, {"1": {"content": 2}}, "a"])
def test_a_configuration_that_states_nonsense_of_tokens(medgemma_source: Path, copied: Copy, stated: Any) -> None:
    folder = copied(medgemma_source)
    edit_json(folder / "tokenizer_config.json", {"added_tokens_decoder": stated})
    with pytest.raises((CheckpointError, UsageError), match="added_tokens_decoder"):
        copied_tokenizer.check(folder, 4096, frozenset())


def test_a_gguf_vocabulary_of_long_tokens_is_refused_at_once(medgemma_artifact: Path, tmp_path: Path) -> None:
    """All splits of all tokens are tried: of long ones there would be billions."""
    import dataclasses

    (decoder,) = medgemma_artifact.glob("medgemma-*-Q8_0.gguf")
    header = read_header(decoder)
    tokens = header.fields["tokenizer.ggml.tokens"]
    assert len(tokenizer_of(header).get_vocab()) == len(tokens)
    long = [str(i).rjust(1000, "a") for i in range(len(tokens))]
    hostile = dataclasses.replace(header, fields={**header.fields, "tokenizer.ggml.tokens": long})
    with pytest.raises(EdgekitError, match="in one token"):
        tokenizer_of(hostile)
    assert adopt(decoder, tmp_path / "theirs").differing <= 10


# ---------------------------------------------------------------- the trial


def test_a_file_is_tried_once(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known, other = tmp_path / "known.json", tmp_path / "other.json"
    for path, name in ((known, "a"), (other, "b")):
        written(path, source, {"model.byte_fallback": True, "version": "1.0"})
        path.write_bytes(path.read_bytes() + b" " * ord(name))
    load_tokenizer(known)
    assert list((cache / "tried").iterdir())
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no interpreter"))
    moved = known.rename(tmp_path / "moved.json")  # what it is called does not matter
    assert load_tokenizer(moved).encode(TEXT).ids == load_tokenizer(moved).encode(TEXT).ids
    with pytest.raises(CheckpointError, match="no process can be started"):
        load_tokenizer(other)


def test_a_cache_that_cannot_be_written_costs_a_trial_and_nothing_else(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file" / "cache"))
    path = written(tmp_path / "tokenizer.json", source, {"model.byte_fallback": True})
    assert load_tokenizer(path).encode("a").ids


def test_a_file_that_changes_while_it_is_tried_is_refused(source: Path) -> None:
    with pytest.raises(CheckpointError, match="was changed"):
        try_in_a_worker(source / "tokenizer.json", "0" * 64)


def test_a_worker_within_limits_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory: an exception in the worker. Time: its death, though it never returns to Python. The parent sees both."""
    folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    _, end = run(_fills, limit_s=300)
    assert end.problem == "MemoryError"
    _, end = run(_computes, limit_s=300)
    assert end.died == "SIGXCPU"


def _fills(job: None) -> Any:
    limit_this_process(64 << 20, 60)
    yield len(bytearray(32 << 20))
    yield len(bytearray(1 << 30))


def _computes(job: None) -> Any:
    limit_this_process(64 << 20, 1)
    yield sum(range(10**18))


def test_memory_of_this_process_stays_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b"[[" + b"[]," * 1_000_000 + b"[]]]")
    grown = in_a_new_process(_growth, path)
    assert grown < 10 * path.stat().st_size


def _growth(path: Path) -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError):
        load_tokenizer(path)
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)


# ---------------------------------------------------------------- damaged at random


def test_damaged_files_are_refused_or_harmless() -> None:
    """Each in turn in one process: a panic, an abort or a hang of an accepted one ends it."""
    script = "import test_tokenizer_files as t; t.attack(0, 300)"
    tests = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tests, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-2000:]
    accepted, refused = map(int, done.stdout.split("\n")[-2].split())
    assert min(accepted, refused) > 30  # both ways are taken


def attack(start: int, count: int) -> None:
    """Check, load and use damaged files; prints how many were accepted and refused."""
    resource.setrlimit(resource.RLIMIT_CPU, (300, 301))
    seeds, accepted = mutators_tokenizer.seeds(), 0
    for i in range(start, start + count):
        data = mutators_tokenizer.mutate(random.Random(i), seeds[i % len(seeds)])
        try:
            check_tokenizer_json(data, f"input {i}")
        except EdgekitError:
            continue
        accepted += 1
        tokenizer = Tokenizer.from_buffer(data)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        for text in (TEXT, "</s><bos>" * 50, "a" * 3000):
            tokenizer.decode(tokenizer.encode(text).ids)
    print(accepted, count - accepted)


@pytest.mark.slow
def test_many_damaged_files_are_refused_or_harmless() -> None:
    attack(10_000, 20_000)


def test_the_library_is_the_one_that_was_tried(cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version may fail where this one held."""
    path = written(cache.parent / "tokenizer.json", source, {"model.byte_fallback": True})
    path.write_bytes(path.read_bytes() + b"\n")
    load_tokenizer(path)
    count = len(list((cache / "tried").iterdir()))
    monkeypatch.setattr(tokenizers, "__version__", "0.0.0")
    again = path.rename(path.with_name("again.json"))
    load_tokenizer(again)
    assert len(list((cache / "tried").iterdir())) == count + 1
