"""The manifest: what is written reads back, what is hostile is refused, what was changed is named."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from material import contents, edit_json, one_bit_changed, read_json

from edgekit.artifacts import manifest as manifests
from edgekit.cli import main
from edgekit.errors import ArtifactError, UsageError
from edgekit.runtime import open_model

Copy = Callable[[Path], Path]
NAME = "edgekit.json"


def test_what_is_written_reads_back(medgemma_artifact: Path, tmp_path: Path) -> None:
    manifest = manifests.read(medgemma_artifact)
    manifests.write(tmp_path, manifest)
    assert manifests.read(tmp_path) == manifest
    assert (tmp_path / NAME).read_bytes() == (medgemma_artifact / NAME).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_every_file_is_listed_with_its_hash_as_sha256sum_prints_it(medgemma_artifact: Path) -> None:
    files = contents(medgemma_artifact)
    del files[NAME], files["README.md"]
    listed = {entry.path: entry for entry in manifests.read(medgemma_artifact).files}
    assert listed.keys() == files.keys()
    for path, data in files.items():
        assert listed[path].sha256 == hashlib.sha256(data).hexdigest()
        assert listed[path].bytes == len(data)


def test_it_holds_no_path_and_no_time_of_this_machine(medgemma_artifact: Path, medgemma_source: Path) -> None:
    text = (medgemma_artifact / NAME).read_text()
    assert str(medgemma_artifact.parent) not in text
    assert str(medgemma_source.parent) not in text
    assert str(Path.home()) not in text or Path.home() == Path("/")
    assert not re.search(r"20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d", text)


def test_parts_with_the_same_content_have_the_same_id_and_no_others() -> None:
    entry = manifests.FileEntry(path="a.gguf", sha256="0" * 64, bytes=3)
    first = manifests.part_id("decoder", "gguf", "Q4_0", (entry,))
    assert first == manifests.part_id("decoder", "gguf", "Q4_0", (entry.model_copy(update={"bytes": 4}),))
    others = [
        manifests.part_id("vision", "gguf", "Q4_0", (entry,)),
        manifests.part_id("decoder", "onnx", "Q4_0", (entry,)),
        manifests.part_id("decoder", "gguf", "Q8_0", (entry,)),
        manifests.part_id("decoder", "gguf", "Q4_0", (entry.model_copy(update={"sha256": "1" * 64}),)),
        manifests.part_id("decoder", "gguf", "Q4_0", (entry, entry)),
    ]
    assert len({first, *others}) == 6


# ---------------------------------------------------------------- hostile


@pytest.mark.parametrize(
    "path",
    ["../secret", "/etc/passwd", "a/../../secret", "..", "C:\\secret", "..\\secret", "a\0b", "a/../../../etc/passwd"],
)
@pytest.mark.parametrize("place", ["tokenizer.path", "support_files.0.path", "parts.0.files.0.path"])
def test_a_path_cannot_leave_the_folder(medgemma_artifact: Path, copied: Copy, place: str, path: str) -> None:
    folder = copied(medgemma_artifact)
    (folder.parent / "secret").write_bytes(b"secret")
    edit_json(folder / NAME, {place: path})
    with pytest.raises(ArtifactError, match=f"{re.escape(repr(path))} leaves the artifact folder"):
        manifests.read(folder)


@pytest.mark.parametrize("path", ["./edgekit.json", "onnx//a", "onnx/./a", "a/"])
def test_a_file_has_one_name(medgemma_artifact: Path, copied: Copy, path: str) -> None:
    """By another one for the manifest, or for a file of another level, `remove` would delete that."""
    folder = copied(medgemma_artifact)
    edit_json(folder / NAME, {"parts.0.files.0.path": path})
    with pytest.raises(ArtifactError, match=re.escape(f"the path {path!r}")):
        manifests.read(folder)


@pytest.mark.parametrize("through", ["file", "folder"])
def test_a_link_cannot_leave_the_folder(medgemma_artifact: Path, copied: Copy, through: str) -> None:
    """Not even to a file with the right content: what a manifest describes is what stands in its folder."""
    folder = copied(medgemma_artifact)
    outside = folder.parent / "outside"
    outside.mkdir()
    name = manifests.read(folder).parts[0].files[0].path
    (folder / name).rename(outside / name)
    if through == "file":
        (folder / name).symlink_to(outside / name)
    else:
        (folder / "sub").symlink_to(outside, target_is_directory=True)
        edit_json(folder / NAME, {"parts.0.files.0.path": f"sub/{name}"})
    with pytest.raises(ArtifactError, match=r"a link that leaves the artifact folder(.|\n)*cp -rL"):
        manifests.read(folder)


def test_links_inside_the_folder_and_to_the_folder_are_fine(medgemma_artifact: Path, copied: Copy) -> None:
    folder = copied(medgemma_artifact)
    name = manifests.read(folder).parts[0].files[0].path
    (folder / name).rename(folder / "elsewhere.gguf")
    (folder / name).symlink_to("elsewhere.gguf")
    link = folder.parent / "link"
    link.symlink_to(folder, target_is_directory=True)
    manifests.verify(link, manifests.read(link).files)


@pytest.mark.parametrize("version", [0, 1, 3, "2", None, [2], ...])
def test_another_schema_is_refused(medgemma_artifact: Path, copied: Copy, version: Any) -> None:
    folder = copied(medgemma_artifact)
    edit_json(folder / NAME, {"schema_version": version})
    with pytest.raises(ArtifactError, match=r"manifest schema_version(.|\n)*allowed: 2"):
        manifests.read(folder)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"schema_version": ' + b"1" * 5000 + b"}", "not valid JSON"),
        (b"[]", "manifest schema_version None"),
        (b'"edgekit"', "manifest schema_version None"),
        (b"{}", "manifest schema_version None"),
        (b'{"schema_version": 2}', "recipe: is missing\nallowed: all of .*recipe.*\ntry: get the folder anew"),
        (b" " * 9_000_000, "larger than a manifest can be"),
    ],
)
def test_a_file_that_is_no_manifest(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(ArtifactError, match=match) as caught:
        manifests.read(tmp_path)
    assert NAME in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("parts.0.files.0.bytes", "many"),
        ("parts.0.files", []),
        ("parts.0.files", None),
        ("parts.0.format", "../pickle"),
        ("parts.0.weights", 0),
        ("parts.0.tensor_types", [1]),
        ("parts.0.parity", {"metric": "kl", "wiring": {}, "loss": {}, "positions": 1, "inputs": "x"}),
        ("preprocessing.size", 10**9),
        ("preprocessing.size", 0),
        ("preprocessing.resample", "best"),
        ("preprocessing.std", [0.5, 0.5, 0.0]),
        ("preprocessing.mean", [0.5, 0.5]),
        ("preprocessing.mean", [float("nan")] * 3),
        ("variants", {}),
        ("variants.Q4_0.decoder", "0" * 64),
        ("default", "Q3_K"),
        ("license", ""),
        ("command", "rm -rf /"),
        ("title", ...),
    ],
)
def test_wrong_fields_are_refused_by_name(medgemma_artifact: Path, copied: Copy, key: str, value: Any) -> None:
    folder = copied(medgemma_artifact)
    edit_json(folder / NAME, {key: value})
    with pytest.raises(ArtifactError) as caught:
        manifests.read(folder)
    named = "default" if key == "variants" else "part" if "variants" in key else key.split(".")[-1]
    assert named in str(caught.value)
    assert NAME in str(caught.value)


def test_a_format_that_nothing_opens_is_named(medgemma_artifact: Path, copied: Copy) -> None:
    folder = copied(medgemma_artifact)
    edit_json(folder / NAME, {f"parts.{i}.format": "pickle" for i in range(len(manifests.read(folder).parts))})
    with pytest.raises(ArtifactError, match=r"edgekit\.json: no backend opens decoder in pickle"):
        open_model(folder)


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """Dotted paths of everything in a JSON value, containers included."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if "." not in str(key):
            yield from leaves(item, f"{path}.{key}" if path else str(key))


VALUES: list[Any] = [None, "", "x", -1, 0, 10**12, 1.5, True, [], [[]], {}, {"a": 1}, [None], "../x"]


@settings(max_examples=250)
@given(data=st.data())
def test_any_change_is_refused_or_harmless(medgemma_artifact: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Opening an artifact whose manifest was changed anywhere succeeds or raises edgekit's own error."""
    folder = tmp_path / "artifact"
    if not folder.exists():
        folder.mkdir()
        for path in medgemma_artifact.iterdir():
            (folder / path.name).hardlink_to(path)
        (folder / NAME).unlink()
    original = read_json(medgemma_artifact / NAME)
    (folder / NAME).write_text(json.dumps(original))
    place = data.draw(st.sampled_from(sorted(leaves(original))))
    edit_json(folder / NAME, {place: data.draw(st.sampled_from(VALUES))})
    with suppress(ArtifactError, UsageError):
        open_model(folder, "Q8_0", context=64).close()


# ---------------------------------------------------------------- tampering


@pytest.mark.parametrize("kind", ["changed", "longer", "shorter", "missing", "folder"])
def test_a_file_that_is_not_the_manifests_is_named(medgemma_artifact: Path, copied: Copy, kind: str) -> None:
    folder = copied(medgemma_artifact)
    for entry in manifests.read(folder).files:
        path = folder / entry.path
        original = path.read_bytes()
        if kind == "changed":
            path.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        elif kind == "longer":
            path.write_bytes(original + b"\0")
        elif kind == "shorter":
            path.write_bytes(original[:-1])
        else:
            path.unlink()
            if kind == "folder":
                path.mkdir()
        with pytest.raises(ArtifactError, match=re.escape(str(path))):
            manifests.verify(folder, manifests.read(folder).files)
        if kind == "folder":
            path.rmdir()
        path.write_bytes(original)
    manifests.verify(folder, manifests.read(folder).files)


def test_what_was_hashed_vouches_for_no_other_file(medgemma_artifact: Path, copied: Copy) -> None:
    folder = copied(medgemma_artifact)
    hashed, tampered, *_ = entries = manifests.read(folder).files
    with one_bit_changed(folder / tampered.path):
        with pytest.raises(ArtifactError, match=re.escape(str(folder / tampered.path))):
            manifests.verify(folder, entries, [hashed])
        named_alike = tampered.model_copy(update={"sha256": hashed.sha256})
        with pytest.raises(ArtifactError, match=re.escape(str(folder / tampered.path))):
            manifests.verify(folder, entries, [named_alike])


def test_no_folder_and_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such folder"):
        manifests.read(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match=f"has no {NAME}"):
        manifests.read(tmp_path)
    (tmp_path / NAME).mkdir()
    with pytest.raises(ArtifactError, match=f"has no {NAME}"):
        manifests.read(tmp_path)


def test_unknown_variants_list_the_known(medgemma_artifact: Path) -> None:
    manifest = manifests.read(medgemma_artifact)
    with pytest.raises(UsageError, match=r"no level 'Q5_K'(.|\n)*allowed: BF16, Q8_0, Q4_0"):
        manifest.variant("Q5_K")
    assert manifest.variant(None)[0] == manifest.default


# ---------------------------------------------------------------- what cannot be


PARITY = {
    "metric": "cosine",
    "wiring": {"mean": 1.0, "worst": 1.0, "error": 1e-6, "worst_error": 1e-5},
    "loss": {"mean": 1.0, "worst": 0.99999, "error": 1e-6},
}


@pytest.mark.parametrize(
    "figures",
    [
        {"wiring": {"mean": 3.0, "worst": 0.9}},
        {"wiring": {"mean": 0.9, "worst": 0.99}},
        {"loss": {"mean": -1.0, "worst": -2.0}},
        {"loss": {"mean": 1e308, "worst": 0.9}},
        {"metric": "kl", "wiring": {"mean": -1.0, "worst": 0.1}, "loss": {"mean": 0.1, "worst": 0.2}},
        {"metric": "kl", "wiring": {"mean": 0.2, "worst": 0.1}, "loss": {"mean": 0.1, "worst": 0.2}},
    ],
)
def test_figures_that_no_proof_can_have_found_are_refused(
    medsiglip_artifact: Path, copied: Copy, figures: dict[str, Any]
) -> None:
    folder = copied(medsiglip_artifact)
    right = {**PARITY, "positions": 3, "inputs": "phantoms"}
    edit_json(folder / NAME, {"parts.0.parity": right})
    manifests.read(folder)
    edit_json(folder / NAME, {"parts.0.parity": {**right, **figures}})
    with pytest.raises(ArtifactError, match=r"parts\.0\.parity: .*cannot be"):
        manifests.read(folder)


@pytest.mark.parametrize(
    ("figures", "gate"),
    [
        ({}, None),
        ({"wiring": {"mean": 1.0, "worst": 0.9, "error": 1e-6, "worst_error": 0.4}}, "wiring_worst_error with 0.4"),
        ({"wiring": {"mean": 1.0, "worst": 1.0, "error": 0.3, "worst_error": 1e-6}}, "wiring_error with 0.3"),
        ({"wiring": {"mean": 1.0, "worst": 1.0}}, "wiring_error with no figure"),
        ({"loss": {"mean": 0.9, "worst": 0.9, "error": 1e-6}}, "loss_cosine with 0.9"),
        ({"loss": {"mean": 1.0, "worst": 1.0, "error": 0.5}}, "loss_error with 0.5"),
    ],
)
@pytest.mark.parametrize("loose", [False, True])
def test_a_recorded_proof_that_fails_its_gate_is_said(
    medsiglip_artifact: Path, copied: Copy, figures: dict[str, Any], gate: str | None, loose: bool
) -> None:
    """Every figure counts, and who writes false figures gains nothing by writing loose gates beside them."""
    folder = copied(medsiglip_artifact)
    found = {**PARITY, "positions": 3, "inputs": "phantoms", **figures}
    edit_json(folder / NAME, {"parts.0.parity": found})
    if loose:
        names = {"wiring_error": 1e6, "wiring_worst_error": 1e6, "loss_cosine": -1, "loss_error": 1e6}
        edit_json(folder / NAME, {f"gates.{name}": {"fp32": limit} for name, limit in names.items()})
    with open_model(folder) as model:
        said = [text for text in model.warnings if "its recorded proof fails its own gate" in text]
    assert len(said) == (gate is not None)
    assert all(f"gate {gate}: do not trust it" in text for text in said)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"family": "."}, "unknown family '.'"),
        ({"settings.logit_scale": "2"}, "settings.logit_scale"),
        ({"parts.0.level": "../x"}, r"parts\.0\.level"),
    ],
)
def test_inspect_says_what_an_open_would(
    medsiglip_artifact: Path, copied: Copy, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], match: str
) -> None:
    folder = copied(medsiglip_artifact)
    edit_json(folder / NAME, changes)
    assert main(["inspect", str(folder)]) == 1
    assert re.search(match, capsys.readouterr().err)


def test_a_token_without_a_row_is_named_when_a_model_is_opened(medsiglip_artifact: Path, copied: Copy) -> None:
    folder = copied(medsiglip_artifact)
    edit_json(folder / NAME, {"settings.vocabulary": 1599, "foreign": True})
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: token .* has id 1599, the embedding has 1599 rows"):
        open_model(folder)
