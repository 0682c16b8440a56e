"""JSON and TOML that others wrote: one meaning, bounded, typed by every schema; all else is refused by name."""

from __future__ import annotations

import json
import math
import os
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from material import edit_json, read_json
from pydantic import BaseModel

from edgekit.artifacts import documents, find
from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.recipes import recipe
from edgekit.bench import Sweep, bench, datasets, journal
from edgekit.bench.cells import Outcome
from edgekit.bench.tasks import task
from edgekit.checkpoints.tensors import read_header
from edgekit.cli import main
from edgekit.commands.support.artifact_text import artifact_lines, usage_lines
from edgekit.errors import ArtifactError, CheckpointError, EdgekitError, GateError, UsageError
from edgekit.export.synthesize import synthesize
from edgekit.inputs.prompt_tables import prompt_table
from edgekit.machine.devices import device
from edgekit.prove import publish
from edgekit.runtime import tuning_results
from edgekit.runtime.opening import prepare

Copy = Callable[[Path], Path]
NAME = "edgekit.json"


# ---------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (b"", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b'{"a": NaN}', "a: nan is no finite number"),
        (b'{"a": [1, -Infinity]}', "a.1: -inf is no finite number"),
        (b'{"a": 1e999}', "a: inf is no finite number"),
        (b'{"a": 1, "a": 1}', "two entries of one name"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number of 5000 digits"),
        (b'{"a": ' + b"9" * 41 + b"}", "a number of 41 digits"),
        (b"[" * 70 + b"]" * 70, "nested more than 64 deep"),
        (b'{"a":' * 9_000, "not valid JSON"),
        (b'"\\ud800"', "half a character"),
        (b'{"\\udfff": 1}', "half a character"),
        (b'{"a": ["\\ud83d\\ude00", "\\ude00\\ud83d"]}', "a.1: half a character"),
        (b"[" + b"{}," * 20_000 + b"{}]", "more than 20000 entries"),
    ],
)
def test_json_with_no_meaning_or_two_is_refused_by_name(raw: bytes, match: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=match) as caught:
        documents.read_json(path, CheckpointError)
    assert caught.value.message.startswith(str(path))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**39), 10**39)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


@given(JSON)
def test_json_of_every_kind_is_read_as_the_standard_library_does(value: Any) -> None:
    for ascii_only in (True, False):
        raw = json.dumps(value, ensure_ascii=ascii_only).encode()
        assert documents.json_value(raw, "x", ArtifactError) == value


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()[:-1]))
def test_other_bytes_are_a_typed_error_or_a_value(raw: bytes) -> None:
    with suppress(ArtifactError):
        documents.json_value(raw, "x", ArtifactError)


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "long", "nothing", "large"])
def test_what_is_no_file_of_reasonable_size_is_a_typed_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "long":
        path = tmp_path / ("a" * 5000)
    elif kind == "large":
        path.write_bytes(b" " * (documents.MOST_BYTES + 1))
    with pytest.raises(ArtifactError, match="too large" if kind == "large" else "no such file"):
        documents.read_json(path, ArtifactError)


# ---------------------------------------------------------------- TOML

READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "exports": ("reference-medgemma", recipe),
    "devices": ("raspberry-pi-5", device),
    "benchmarks": ("finding-phantom", task),
    "benchmarks/datasets": ("phantoms", datasets.source),
    "benchmarks/prompts": ("chest-xray-findings", prompt_table),
}


def edited(kind: Any, folder: Path, change: Callable[[str], str]) -> str:
    """The path of a shipped file of a kind with another text."""
    path = folder / "mine.toml"
    path.write_bytes(change(find.find(kind, READERS[kind][0]).read_text()).encode("utf-8", "surrogatepass"))
    return str(path)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    "line",
    [
        "edgekit_x = nan",
        "edgekit_x = [-inf]",
        "edgekit_x = 2024-01-01",
        "edgekit_x = 07:32:00",
        "edgekit_x = 1\nedgekit_x = 1",
        "edgekit_x = " + "9" * 5000,
        "edgekit_x = " + "9" * 50,
        "edgekit_x = " + "[" * 70 + "]" * 70,
        "edgekit_x = " + "[" * 5000,
        ".".join(["a"] * 20_000) + " = 1",  # takes tomllib seconds, and a few times as long minutes
        '"a b" . ' * 100 + "c = 1",
        "edgekit_x = '\ud800'",
        "edgekit_x = [" + "1," * 30_000 + "]",
        "edgekit_x = 1",
    ],
)
def test_toml_with_no_meaning_is_refused_with_the_files_name(kind: str, line: str, tmp_path: Path) -> None:
    name = edited(kind, tmp_path, lambda text: f"{line}\n{text}")
    with pytest.raises(UsageError) as caught:
        READERS[kind][1](name)
    assert "mine" in caught.value.message
    if line != "edgekit_x = 1":
        assert "Extra inputs" not in caught.value.message, "it is refused before any schema sees it"


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("exports", "title", "1"),
        ("exports", "title", '"a\\u001b[31m"'),
        ("exports", "family", "[]"),
        ("exports", "source", '"' + "x" * 3000 + '"'),
        ("exports", "on_request", "[1]"),
        ("devices", "memory_gb", '"8"'),
        ("devices", "memory_gb", "1e300"),
        ("devices", "cores", '"4"'),
        ("devices", "cores", "true"),
        ("devices", "cores", "4.0"),
        ("devices", "cores", "10000000000"),
        ("devices", "context", "10000000000"),
        ("devices", "instruction_sets", '"avx2"'),
        ("benchmarks", "limit", '"3"'),
        ("benchmarks", "limit", "true"),
        ("benchmarks", "limit", "1e3"),
        ("benchmarks", "kind", "[]"),
        ("benchmarks", "kind", "1"),
        ("benchmarks", "max_tokens", "10000000000"),
        ("benchmarks", "dataset", "{}"),
        ("benchmarks/datasets", "order", "true"),
        ("benchmarks/datasets", "order", '"1"'),
        ("benchmarks/datasets", "reader", "1"),
    ],
)
def test_a_field_of_another_kind_or_beyond_all_bounds_is_named(kind: str, key: str, value: str, tmp_path: Path) -> None:
    def change(text: str) -> str:
        kept = [line for line in text.split("\n") if line.split(" =")[0] != key]
        return "\n".join([f"{key} = {value}", *kept])

    with pytest.raises(UsageError, match=key):
        READERS[kind][1](edited(kind, tmp_path, change))


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("name", ["a" * 5000, "a" * 5000 + ".toml", "a\0b.toml", "\ud800", "\x1b[31m", "../x", ""])
def test_a_name_that_no_file_can_have_is_unknown(kind: str, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        READERS[kind][1](name)
    assert len(caught.value.message) <= 500
    assert caught.value.message.isprintable()


LISTED = [
    ("exports", "recipes"),
    ("devices", "devices"),
    ("benchmarks", "tasks"),
    ("benchmarks/labels", "labels"),
]


@pytest.mark.parametrize(("kind", "rows"), LISTED)
def test_one_bad_file_is_a_row_of_the_list(
    kind: Any, rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    (tmp_path / kind).mkdir(parents=True)
    shutil.copy(find.find(kind, find.names(kind)[0]), tmp_path / kind / "a-good.toml")
    (tmp_path / kind / "a-bad.toml").write_text("title = ")
    names = find.names(kind)
    assert main(["list", rows, "--json"]) == 1
    listed = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in listed] == names
    assert [row["name"] for row in listed if "error" in row] == ["a-bad"]
    assert main(["list", rows]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == {"name", *names}
    assert any(line.startswith("a-bad  error: ") and "not valid TOML" in line for line in lines)


# ---------------------------------------------------------------- manifests


def refused(folder: Path, changes: dict[str, Any]) -> str:
    edit_json(folder / NAME, changes)
    with pytest.raises(ArtifactError) as caught:
        manifests.read(folder)
    return caught.value.message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema_version", True),
        ("title", "x" * 1000),
        ("title", "a\x1b]0;b"),
        ("recipe", 7),
        ("license", "x" * 100_000),
        ("foreign", 1),
        ("foreign", "yes"),
        ("source.sha256", "not hexadecimal"),
        ("source.files", {"a": 1}),
        ("tokenizer.bytes", "12"),
        ("tokenizer.bytes", 12.0),
        ("tokenizer.bytes", -1),
        ("tokenizer.bytes", 10**30),
        ("tokenizer.sha256", "\0"),
        ("tokenizer.path", "a" * 5000),
        ("tokenizer.path", ""),
        ("preprocessing.size", "8"),
        ("preprocessing.size", True),
        ("preprocessing.mean", [1e300, 0, 0]),
        ("preprocessing.std", [1e-300, 1, 1]),
        ("preprocessing.std", [1e-38, 1, 1]),
        ("preprocessing.std", ["1", 1, 1]),
        ("parts.0.weights", "5"),
        ("parts.0.weights", 1.5),
        ("parts.0.bits_per_weight", "4"),
        ("parts.0.tensor_types", {"Q4_0": "many"}),
        ("parts.0.tensor_types", {"Q4_0": -1}),
        ("parts.0.requires.memory_bytes", "12"),
        ("parts.0.requires.memory_bytes", [12]),
        ("parts.0.requires.memory_bytes", 1.5),
        ("parts.0.requires.memory_bytes", True),
        ("parts.0.requires.memory_bytes", -1),
        ("parts.0.requires.memory_bytes", 10**30),
        ("parts.0.requires.architecture", []),
        ("parts.0.tools", {"torch": {}}),
        ("parts.0.level", ""),
        ("gates.wiring_kl", 0.1),
        ("gates.wiring_kl", {"Q4_0": "0.1"}),
        ("gates.wiring_kl", {"Q4_0": -1}),
        ("gates.loss_cosine", {"Q4_0": 7}),
        ("gates.clear_margin", 1e6),
        ("settings", {str(i): 1 for i in range(1001)}),
        ("variants.Q4_0.decoder", ["x"]),
    ],
)
def test_every_field_of_a_manifest_is_typed_and_bounded(
    medgemma_artifact: Path, copied: Copy, key: str, value: Any
) -> None:
    message = refused(copied(medgemma_artifact), {key: value})
    names = [name for name in key.split(".") if not name.isdigit()]
    assert names[-1] in message or names[0] in message


def test_nothing_stands_in_a_manifest_twice(medgemma_artifact: Path, copied: Copy) -> None:
    data = read_json(medgemma_artifact / NAME)
    part = data["parts"][0]
    assert "two of one id" in refused(copied(medgemma_artifact), {"parts": [*data["parts"], part]})
    entry = {**data["tokenizer"], "bytes": 1}
    twice = refused(copied(medgemma_artifact), {"support_files": [*data["support_files"], entry]})
    assert "two descriptions of one path" in twice
    itself = {**data["tokenizer"], "path": NAME}
    assert "cannot describe itself" in refused(copied(medgemma_artifact), {"support_files": [itself]})
    swapped = dict(zip(data["variants"]["Q8_0"], reversed(data["variants"]["Q8_0"].values()), strict=True))
    assert "is a part of the role" in refused(copied(medgemma_artifact), {"variants.Q8_0": swapped})


@pytest.mark.parametrize("place", ["tokenizer", "folder"])
def test_a_loop_of_links_is_no_file(medgemma_artifact: Path, copied: Copy, place: str, tmp_path: Path) -> None:
    folder = copied(medgemma_artifact)
    if place == "folder":
        loop = tmp_path / "loop"
        loop.symlink_to(loop)
        with pytest.raises(ArtifactError, match="no such folder"):
            manifests.read(loop)
        with pytest.raises(ArtifactError, match="no such folder"):
            manifests.read(tmp_path / ("a" * 5000))
        return
    path = folder / manifests.read(folder).tokenizer.path
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        manifests.verify(folder, manifests.read(folder).files)


@pytest.mark.parametrize("name", ["a" * 300, "a" * 200 + "/" + "b" * 300])
def test_a_file_of_a_name_that_none_can_have_is_missing(medgemma_artifact: Path, copied: Copy, name: str) -> None:
    folder = copied(medgemma_artifact)
    edit_json(folder / NAME, {"tokenizer.path": name})
    with pytest.raises(ArtifactError, match=r"missing|leads nowhere"):
        manifests.verify(folder, manifests.read(folder).files)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("context", "8192"),
        ("context", [[8192]]),
        ("context", True),
        ("context", 0),
        ("context", 10**30),
        ("context", 8192.0),
        ("window", None),
        ("image_tokens", "16"),
        ("image_token_id", -1),
        ("stop_token_ids", 1),
        ("stop_token_ids", [True]),
        ("stop_token_ids", list(range(5000))),
        ("chat", "no"),
    ],
)
def test_settings_of_a_wrong_kind_are_named_wherever_they_are_used(
    medgemma_artifact: Path, copied: Copy, key: str, value: Any
) -> None:
    folder = copied(medgemma_artifact)
    edit_json(folder / NAME, {f"settings.{key}": value})
    with pytest.raises(ArtifactError, match=f"settings.{key}"):
        prepare(folder, "Q8_0")
    with pytest.raises(ArtifactError, match=f"settings.{key}"):
        usage_lines(folder, manifests.read(folder))


@pytest.mark.parametrize(
    ("key", "value"), [("logit_scale", 1e300), ("logit_bias", -1e300), ("text_length", 1 << 23), ("hidden", True)]
)
def test_settings_that_no_score_can_come_from_are_named(
    medsiglip_artifact: Path, copied: Copy, key: str, value: Any
) -> None:
    folder = copied(medsiglip_artifact)
    edit_json(folder / NAME, {f"settings.{key}": value})
    with pytest.raises(ArtifactError, match=f"settings.{key}"):
        prepare(folder)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of everything in a JSON value, containers included."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from leaves(item, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


ODD_TEXTS = ["", "x", "\x1b[2J", "\u202etxt", "\x9b31m", "a\nb", "\ud800", "../x", "/x", "a\0", "x" * 3000]
ODD_NUMBERS = [0, -1, 1.5, 10**12, 10**30, 1e300, math.nan, -math.inf]
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [*ODD_TEXTS, *ODD_NUMBERS, None, True, [], {}, [[]], [None], {"a": 1}, {"\x1b": "\x1b"}]
)


@settings(max_examples=600)
@given(data=st.data())
def test_a_manifest_changed_anywhere_is_refused_or_can_be_shown(
    medgemma_artifact: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """Whatever two things are changed: edgekit's own error, if only that a file is missing, after all was shown."""
    changed = read_json(medgemma_artifact / NAME)
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(sorted(leaves(changed), key=repr)))
        changed = replaced(changed, place, data.draw(ODD | JSON))
    (tmp_path / NAME).write_text(json.dumps(changed))
    with pytest.raises(EdgekitError) as caught:
        show_and_verify(tmp_path)
    assert len(caught.value.message) <= 500
    assert "\x1b" not in str(caught.value)


def show_and_verify(folder: Path) -> None:
    found = manifests.read(folder)
    "\n".join([*artifact_lines(folder, found), *usage_lines(folder, found)]).encode()
    json.dumps(found.model_dump(mode="json"), allow_nan=False).encode("ascii")
    manifests.verify(folder, found.files)


@pytest.mark.parametrize("kind", ["entries", "text", "wrong", "escapes", "deep"])
def test_a_manifest_takes_no_more_memory_than_its_size_allows(
    medgemma_artifact: Path, copied: Copy, kind: str, tmp_path: Path
) -> None:
    folder = copied(medgemma_artifact)
    data = read_json(folder / NAME)
    raw = {
        "entries": b'{"a": [' + b"{}," * 340_000 + b"{}]}",
        "text": json.dumps({**data, "license": "x" * 1_000_000}).encode(),
        "wrong": json.dumps({**data, "parts": [{"id": "x" * 1000}] * 900}).encode(),
        "escapes": b'"' + b"\\u00e9" * 170_000 + b'"',
        "deep": b'{"a":' * 200_000,
    }[kind]
    (folder / NAME).write_bytes(raw)
    with pytest.raises(ArtifactError):
        manifests.read(folder)  # what is loaded once is no memory of this file
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError):
            manifests.read(folder)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(raw)


def strict_models() -> list[type[BaseModel]]:
    """Every schema of files that users or others write."""
    from edgekit.artifacts.validation import StrictModel

    found, left = [], [StrictModel]
    while left:
        left += (subclasses := left.pop().__subclasses__())
        found += subclasses
    return [model for model in found if model.__module__.startswith("edgekit.")]


def test_no_schema_takes_one_kind_for_another() -> None:
    models = strict_models()
    assert {"Manifest", "Part", "FileEntry", "Preprocessing", "Recipe", "Gates", "Device", "Task"} <= {
        model.__name__ for model in models
    }
    for model in models:
        config = model.model_config
        # Of a measurement's details, which are each kind's own, only what a report reads is looked at; what other
        # programs write into an image's manifest beside what OCI names is theirs.
        others = {"edgekit.bench.plausible": "allow", "edgekit.pack.registry": "ignore"}
        allowed = {"forbid", *(extra for room, extra in others.items() if model.__module__.startswith(room))}
        assert config.get("strict") is True
        assert config.get("extra") in allowed
        # Figures may be no number: null in a benchmark's document, whose JSON has no NaN either.
        assert config.get("allow_inf_nan") is (model.__module__ == "edgekit.bench.document")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"family": "nobody's"}, 'unknown family|family is "nobody\'s"'),
        ({"parts.0.role": "ear", "variants.fp32": ...}, r"variant fp32 is \['ear fp32'"),
        ({"parts.0.level": "Q9"}, r"variant fp32 is \['image_encoder Q9'"),
        ({"parts.0.level": "Q4_0"}, r"variant fp32 is \['image_encoder Q4_0'"),
    ],
)
def test_what_a_manifest_names_and_nobody_knows_is_refused_by_what_proves_and_measures(
    medsiglip_artifact: Path, medsiglip_source: Path, copied: Copy, changes: dict[str, Any], match: str
) -> None:
    folder = copied(medsiglip_artifact)
    ids = read_json(folder / NAME)["variants"]["fp32"]
    if "variants.fp32" in changes:
        renamed = {"ear" if role == manifests.read(folder).parts[0].role else role: i for role, i in ids.items()}
        changes = {**changes, "variants.fp32": renamed}
    edit_json(folder / NAME, changes)
    with pytest.raises(GateError, match=match):
        publish.prove(folder, medsiglip_source)
    if "family" in changes:
        with pytest.raises(ArtifactError, match=match):
            bench(Sweep([folder], checkpoints=[medsiglip_source], tasks=["labels-phantom"]))


def test_a_recipe_of_an_unknown_family_is_refused(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(find.find("exports", "medgemma-4b").read_text().replace('family = "medgemma"', 'family = "other"'))
    with pytest.raises(UsageError, match="unknown family 'other'"):
        synthesize(str(mine), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_whose_artifact_would_never_open_is_not_exported(
    medsiglip_source: Path, copied: Copy, tmp_path: Path
) -> None:
    folder = copied(medsiglip_source)
    weights = folder / "model.safetensors"
    scale = next(tensor for tensor in read_header(weights) if tensor.name == "logit_scale")
    with weights.open("r+b") as stream:
        stream.seek(scale.offset)
        stream.write(b"\x60" * scale.bytes)  # some 10**19
    with pytest.raises(CheckpointError, match=r"settings\.logit_scale"):
        publish.export(folder, tmp_path / "out", levels=["fp32"], prove=False)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- what edgekit wrote down


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        '{"key": "a1"}',
        '{"key": 1, "outcome": {"task": "t", "result": 1, "seconds": 1}}',
        '{"key": "a1", "outcome": {"task": "t", "result": 1, "seconds": "1"}}',
        '{"key": "a1", "outcome": {"task": "t", "result": 1, "seconds": NaN}}',
        '{"key": "a1", "outcome": {"task": "t", "result": 1, "seconds": -1}}',
        '{"key": "a1", "outcome": {"task": ["t"], "result": 1, "seconds": 1}}',
        '{"key": "a1", "outcome": {"task": "t", "result": NaN, "seconds": 1}}',
        '{"key": "a1", "outcome": {"task": "t", "result": 1, "result": 2, "seconds": 1}}',
        '{"key": "a1", "outcome": {"task": "t", "result": 1, "seconds": 1, "else": 1}}',
        '{"key": "a1", "outcome": {"task": "t", "result": ' + "[" * 100 + "]" * 100 + ', "seconds": 1}}',
    ],
)
def test_a_line_of_a_journal_that_is_none_is_left_out(line: str, tmp_path: Path) -> None:
    kept = Outcome("t", {"right": [1, 0]}, 2.0)
    journal.append(tmp_path, "ab" * 32, kept)
    with (tmp_path / journal.FILE).open("a") as stream:
        stream.write(line + "\n")
    journal.append(tmp_path, "cd" * 32, kept)
    assert journal.read(tmp_path) == {"ab" * 32: kept, "cd" * 32: kept}


RESULT: dict[str, Any] = {
    "kind": "decoder", "title": "t", "role": "decoder", "level": "Q4_0", "part": "ab", "threads": 2, "libraries": {},
    "cpu": "c", "busy_cores": 0.0, "runs": [{"extra_buffers": True, "huge_pages": False, "threads": 2}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("threads", "2"),
        ("threads", True),
        ("threads", 10**9),
        ("busy_cores", "0"),
        ("title", "a\x1b[31m"),
        ("part", "x"),
        ("runs.0.extra_buffers", 1),
        ("runs.0.threads", 2.0),
        ("runs.0.peak_bytes", "1"),
        ("runs", "x"),
        ("kind", "other"),
    ],
)
def test_results_of_tuning_that_are_none_count_as_not_measured(key: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(RESULT))
    assert tuning_results.read(path) is not None
    edit_json(path, {key: value})
    assert tuning_results.read(path) is None
    path.write_text(json.dumps(RESULT)[:-1] + ', "threads": 3}')
    assert tuning_results.read(path) is None
