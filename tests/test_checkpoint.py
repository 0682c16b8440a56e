"""The checkpoint reader: what the safetensors library and transformers read, and hostile folders."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from material import contents, edit_json, read_json, safetensors_bytes

from edgekit.checkpoints.checkpoint import open_checkpoint
from edgekit.checkpoints.tensors import Tensor, read_header
from edgekit.errors import CheckpointError
from edgekit.families import family_of
from edgekit.prove import publish as artifact

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

from safetensors import SafetensorError  # noqa: E402

Copy = Callable[[Path], Path]
EMBEDDING = "language_model.model.embed_tokens.weight"


def refused(folder: Path, match: str, at: Path) -> CheckpointError:
    """Export `folder`, which must fail as CheckpointError with this text and leave nothing at or beside `at`."""
    before = sorted(at.parent.iterdir())
    with pytest.raises(CheckpointError, match=match) as caught:
        artifact.export(folder, at, prove=False)
    assert sorted(at.parent.iterdir()) == before
    return caught.value


def one_tensor(path: Path, **changes: Any) -> Path:
    """A file of one float32 matrix [2, 3], its header entry changed."""
    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **changes}
    path.write_bytes(safetensors_bytes({"w": entry}, np.arange(6, dtype="<f4").tobytes()))
    return path


def rewrite(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change a checkpoint's tensors through the safetensors library."""
    path = folder / "model.safetensors"
    tensors = change(safetensors_torch.load_file(path))
    safetensors_torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (5, 3), (4, 2, 3), (3, 1, 2, 2)])
def test_slices_reassemble_to_what_the_safetensors_library_reads(
    tmp_path: Path, dtype: str, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(3)
    stored = {name: torch.randn(shape, generator=generator).to(getattr(torch, dtype)) for name in ("a", "b")}
    (tmp_path / "config.json").write_text("{}")
    safetensors_torch.save_file(stored, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    for name, expected in safetensors_torch.load_file(tmp_path / "model.safetensors").items():
        tensor = checkpoint.tensors[name]
        assert np.array_equal(checkpoint.read(tensor), expected.float().numpy())
        for rows in (1, 2, 100):
            blocks = list(checkpoint.slices(tensor, rows))
            whole = np.concatenate([np.atleast_1d(block) for block in blocks]).reshape(shape)
            assert np.array_equal(whole, expected.float().numpy())
            assert all(len(np.atleast_1d(block)) <= rows for block in blocks)


def test_shards_hold_the_same_tensors_as_one_file(medsiglip_source: Path, copied: Copy) -> None:
    folder = copied(medsiglip_source)
    sharded(folder)
    whole, split = open_checkpoint(medsiglip_source), open_checkpoint(folder)
    assert len(split.shards) == 3
    assert split.tensors.keys() == whole.tensors.keys()
    for name, tensor in whole.tensors.items():
        assert np.array_equal(whole.read(tensor), split.read(split.tensors[name])), name


def sharded(folder: Path) -> None:
    """Split model.safetensors into three files and an index, as the hub has large models."""
    tensors = safetensors_torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number in range(3):
        part = {name: tensor for i, (name, tensor) in enumerate(sorted(tensors.items())) if i % 3 == number}
        name = f"model-{number + 1:05}-of-00003.safetensors"
        safetensors_torch.save_file(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


# ---------------------------------------------------------------- key layouts


@pytest.fixture(scope="module")
def transformers_saved(medgemma_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference model as transformers 5 itself names and spells it, beside the original's tokenizer files."""
    folder = tmp_path_factory.mktemp("saved") / "medgemma"
    model = transformers.Gemma3ForConditionalGeneration.from_pretrained(medgemma_source, dtype=torch.bfloat16)
    model.save_pretrained(folder, save_original_format=False)
    for path in medgemma_source.iterdir():
        if not (folder / path.name).exists() and path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def ggufs(folder: Path) -> dict[str, bytes]:
    """The weights of an artifact."""
    return {name: data for name, data in contents(folder).items() if name.endswith(".gguf")}


def exported_like(other: Path, source: Path, at: Path) -> dict[str, bytes]:
    """The weights of `source` at the levels that another artifact has."""
    levels = list(read_json(other / "edgekit.json")["variants"])
    return ggufs(artifact.export(source, at, levels=levels, prove=False).folder)


def test_what_transformers_saves_exports_to_the_same_bytes(
    transformers_saved: Path, medgemma_artifact: Path, tmp_path: Path
) -> None:
    config = read_json(transformers_saved / "config.json")
    names = set(open_checkpoint(transformers_saved).tensors)
    # transformers' own spellings, or this test would compare the hub's layout with itself
    assert "rope_parameters" in config["text_config"]
    assert "rope_scaling" not in config["text_config"]
    assert {"model.language_model.norm.weight", "model.vision_tower.embeddings.patch_embedding.bias"} <= names
    assert exported_like(medgemma_artifact, transformers_saved, tmp_path / "a") == ggufs(medgemma_artifact)


@pytest.mark.parametrize(
    ("prefix", "replacements"),
    [
        ("model.", {"language_model.model.": "language_model."}),  # transformers 4
        ("", {"vision_tower.vision_model.": "vision_tower."}),
    ],
)
def test_every_key_layout_exports_to_the_same_bytes(
    medgemma_source: Path,
    medgemma_artifact: Path,
    copied: Copy,
    tmp_path: Path,
    prefix: str,
    replacements: dict[str, str],
) -> None:
    folder = copied(medgemma_source)

    def rename(tensors: dict[str, Any]) -> dict[str, Any]:
        renamed = {}
        for name, tensor in tensors.items():
            for old, new in replacements.items():
                name = name.replace(old, new, 1)
            renamed[prefix + name] = tensor
        # the tied head, stored although it is the embedding
        return {**renamed, "lm_head.weight": tensors[EMBEDDING].clone()}

    rewrite(folder, rename)
    assert exported_like(medgemma_artifact, folder, tmp_path / "a") == ggufs(medgemma_artifact)


def test_both_rope_spellings_mean_the_same(medgemma_source: Path, transformers_saved: Path) -> None:
    hub, new = read_json(medgemma_source / "config.json"), read_json(transformers_saved / "config.json")
    text = family_of(hub).parse(hub).text_config
    assert text == family_of(new).parse(new).text_config
    full = new["text_config"]["rope_parameters"]["full_attention"]
    assert (text.rope_theta, text.rope_factor) == (full["rope_theta"], full["factor"])
    assert text.rope_local_base_freq == new["text_config"]["rope_parameters"]["sliding_attention"]["rope_theta"]


def test_one_tensor_under_two_spellings_is_refused(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(medgemma_source)
    rewrite(folder, lambda tensors: {**tensors, f"model.{EMBEDDING.replace('.model', '', 1)}": tensors[EMBEDDING] * 2})
    refused(folder, re.escape(EMBEDDING), tmp_path / "a")


@pytest.mark.parametrize("name", ["lm_head.weight", "language_model.lm_head.weight"])
@pytest.mark.parametrize("change", ["one row", "all", "shape", "type"])
def test_an_output_head_that_is_not_the_embedding(
    medgemma_source: Path, copied: Copy, tmp_path: Path, name: str, change: str
) -> None:
    """Trained apart, it differs; stored in another type, it does not."""
    folder = copied(medgemma_source)

    def add(tensors: dict[str, Any]) -> dict[str, Any]:
        head = tensors[EMBEDDING].clone()
        if change == "one row":
            head[-1, 3] += 1
        elif change == "all":
            head *= 1.01
        elif change == "shape":
            head = head[:-1]
        else:
            head = head.float()
        return {**tensors, name: head}

    rewrite(folder, add)
    if change == "type":
        artifact.export(folder, tmp_path / "a", levels=["Q8_0"], prove=False)
    else:
        refused(folder, f"{re.escape(name)} differs from {re.escape(EMBEDDING)}", tmp_path / "a")


def test_tensors_of_several_types_are_one_model(
    medgemma_source: Path, medgemma_artifact: Path, copied: Copy, tmp_path: Path
) -> None:
    """What a training left in float32 and what it saved in float16, as far as both hold the same values."""
    folder = copied(medgemma_source)

    def mix(tensors: dict[str, Any]) -> dict[str, Any]:
        kinds = {}
        for i, (name, tensor) in enumerate(sorted(tensors.items())):
            half = tensor.to(torch.float16)
            exact = torch.equal(half.float(), tensor.float())
            kinds[name] = (tensor, tensor.float(), half if exact else tensor.float())[i % 3]
        return kinds

    rewrite(folder, mix)
    assert {tensor.dtype for tensor in open_checkpoint(folder).tensors.values()} == {"BF16", "F16", "F32"}
    exported_like(medgemma_artifact, folder, tmp_path / "a")
    for path in medgemma_artifact.glob("*.gguf"):
        # the safetensors library orders tensors by type, and a GGUF file has its source's order
        expected, ours = ({t.name: t for t in gguf.GGUFReader(p).tensors} for p in (path, tmp_path / "a" / path.name))
        assert expected.keys() == ours.keys()
        for name, tensor in expected.items():
            assert np.array_equal(tensor.data, ours[name].data), (path.name, name)


# ---------------------------------------------------------------- files that are not what they must be


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"data_offsets": [-24, 0]}, "malformed"),
        ({"data_offsets": [24, 0]}, "-24 bytes"),
        ({"data_offsets": [0, 24, 48]}, "malformed"),
        ({"data_offsets": [0.0, 24.0]}, "malformed"),
        ({"data_offsets": [False, 24]}, "malformed"),
        ({"data_offsets": "ab"}, "malformed"),
        ({"data_offsets": [8, 32]}, "truncated"),
        ({"data_offsets": [0, 10**30]}, "malformed"),
        ({"data_offsets": [0, 20]}, "20 bytes for shape"),
        ({"shape": [3, 3]}, "24 bytes for shape"),
        ({"shape": [2.0, 3]}, "malformed"),
        ({"shape": [True, 6]}, "malformed"),
        ({"shape": [-2, -3]}, "malformed"),
        ({"shape": [[2], 3]}, "malformed"),
        ({"shape": 6}, "malformed"),
        ({"shape": [6, *[1] * 70]}, "malformed"),
        ({"shape": [10**30, 0], "data_offsets": [0, 0]}, "malformed"),
        ({"dtype": "F8_E4M3", "data_offsets": [0, 6]}, "F8_E4M3(.|\n)*F32, F16, BF16"),
        ({"dtype": "I64", "shape": [3]}, "I64"),
        ({"dtype": "BOOL", "shape": [24]}, "BOOL"),
        ({"dtype": ["F32"]}, "malformed"),
        ({"dtype": None}, "malformed"),
    ],
)
def test_a_wrong_header_entry_is_refused(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        read_header(one_tensor(tmp_path / "t.safetensors", **changes))
    assert "t.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("offsets", "size", "match"),
    [
        (((0, 8), (4, 12)), 12, "b begins at byte"),  # overlap
        (((0, 8), (0, 8)), 8, "begins at byte"),  # one inside the other
        (((0, 8), (12, 20)), 20, "b begins at byte"),  # hole
        (((4, 12), (12, 20)), 20, "a begins at byte"),  # hole before the first
        (((0, 8), (8, 16)), 24, "the last tensor ends"),  # data that belongs to nothing
        (((0, 8), (8, 16)), 12, "truncated"),
    ],
)
def test_tensors_must_fill_the_file_without_overlaps_and_holes(
    tmp_path: Path, offsets: tuple[tuple[int, int], ...], size: int, match: str
) -> None:
    entries = [{"dtype": "F32", "shape": [2], "data_offsets": list(pair)} for pair in offsets]
    header = dict(zip("ab", entries, strict=True))
    path = tmp_path / "t.safetensors"
    path.write_bytes(safetensors_bytes(header, bytes(size)))
    with pytest.raises(SafetensorError):  # the format's own library agrees
        safetensors_torch.load_file(path)
    with pytest.raises(CheckpointError, match=match):
        read_header(path)


ENTRY = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "0 bytes are no safetensors"),
        (b"\x08\0\0", "3 bytes are no safetensors"),
        (safetensors_bytes(b"{}", length=2**63), "header of 9223372036854775808(.|\n)*at most 100000000"),
        (safetensors_bytes(b"{}", length=100_000_001), "header of 100000001"),
        (safetensors_bytes(b"{}", length=50_000), "truncated"),
        (safetensors_bytes(b'{"a": '), "not valid JSON"),
        (safetensors_bytes(b"\xff\xfe{}"), "not valid JSON"),
        (safetensors_bytes(b"[" * 50_000), "not valid JSON"),
        (safetensors_bytes(b'{"a": ' + b"9" * 5000 + b"}"), "not valid JSON"),
        (safetensors_bytes([1, 2]), "holds a list"),
        (safetensors_bytes({"w": "F32"}), "malformed"),
        (safetensors_bytes({"w": None}), "malformed"),
        (safetensors_bytes({"w": {}}), "malformed"),
        (safetensors_bytes(f'{{"w":{ENTRY},"w":{ENTRY}}}'.encode(), bytes(4)), "two entries of one name"),
        (safetensors_bytes(f'{{"w":{ENTRY[:-1]},"shape":[1]}}}}'.encode(), bytes(4)), "two entries of one name"),
    ],
)
def test_a_wrong_header_is_refused(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=match):
        read_header(path)


SMALL = safetensors_bytes(
    {
        "__metadata__": {"format": "pt"},
        "first": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "second": {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]},
        "third": {"dtype": "F16", "shape": [1, 2], "data_offsets": [22, 26]},
    },
    np.arange(13, dtype="<u2").tobytes(),
)


@settings(max_examples=500)
@given(
    cut=st.integers(0, len(SMALL)) | st.none(),
    changes=st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), max_size=3),
)
def test_a_damaged_file_is_refused_or_reads_as_the_safetensors_library_reads_it(
    tmp_path: Path, cut: int | None, changes: list[tuple[int, int]]
) -> None:
    damaged = bytearray(SMALL)
    for place, value in changes:
        damaged[place] = value
    agrees(tmp_path, bytes(damaged[:cut]))


@settings(max_examples=300)
@given(
    header=st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "F16", "BF16"]),
                "shape": st.lists(st.integers(0, 3), max_size=3),
                "data_offsets": st.lists(st.integers(0, 5).map(lambda n: n * 4), min_size=2, max_size=2),
            }
        ),
        max_size=3,
    ),
    size=st.integers(0, 6).map(lambda n: n * 4),
)
def test_any_layout_is_refused_or_reads_as_the_safetensors_library_reads_it(
    tmp_path: Path, header: dict[str, Any], size: int
) -> None:
    agrees(tmp_path, safetensors_bytes(header, bytes(range(size))))


def agrees(folder: Path, content: bytes) -> None:
    """Either CheckpointError, or the values that the format's own library finds."""
    (folder / "config.json").write_text("{}")
    path = folder / "model.safetensors"
    path.write_bytes(content)
    try:
        checkpoint = open_checkpoint(folder)
        ours = {name: checkpoint.read(tensor) for name, tensor in checkpoint.tensors.items()}
    except CheckpointError:
        return
    theirs = safetensors_torch.load_file(path)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        assert np.array_equal(values, theirs[name].float().numpy())


# ---------------------------------------------------------------- folders that are not what they must be


def test_no_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no such folder", tmp_path / "a")


def test_no_config(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(medgemma_source)
    (folder / "config.json").unlink()
    refused(folder, "no config.json", tmp_path / "a")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "not valid JSON"),
        (b"[]", "holds a list"),
        (b"\xff", "not valid JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not valid JSON"),
        (b'{"architectures": ["a"], "architectures": ["b"]}', "two entries of one name"),
    ],
)
def test_a_config_that_is_no_json_object(
    medgemma_source: Path, copied: Copy, tmp_path: Path, content: bytes, match: str
) -> None:
    folder = copied(medgemma_source)
    (folder / "config.json").write_bytes(content)
    refused(folder, match, tmp_path / "a")


@pytest.mark.parametrize("architectures", [["LlamaForCausalLM"], "SiglipModel", 5, [["SiglipModel"]], {}])
def test_an_unknown_architecture(medsiglip_source: Path, copied: Copy, tmp_path: Path, architectures: Any) -> None:
    folder = copied(medsiglip_source)
    edit_json(folder / "config.json", {"architectures": architectures})
    error = refused(folder, "architecture", tmp_path / "a")
    assert error.allowed == "Gemma3ForConditionalGeneration, Gemma3ForCausalLM, SiglipModel, SiglipVisionModel"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "model.ckpt"])
def test_pickles_are_refused_by_name_and_never_read(
    medgemma_source: Path, copied: Copy, tmp_path: Path, name: str
) -> None:
    folder = copied(medgemma_source)
    (folder / "model.safetensors").unlink()
    marker = tmp_path / "ran"
    # a pickle that leaves a trace when it is loaded
    (folder / name).write_bytes(f"cpathlib\nPath\n(S'{marker}'\ntR(ctouch\n".encode())
    error = refused(folder, re.escape(name), tmp_path / "a")
    assert "safetensors" in (error.allowed or "")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["chat_template.jinja", "generation_config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["a link to nothing", "a folder", "a pipe"])
def test_a_name_that_leads_nowhere_is_no_absent_file(
    medgemma_source: Path, copied: Copy, tmp_path: Path, name: str, kind: str
) -> None:
    """As in a hub's cache of which blobs were removed: without its template, the model would be asked otherwise."""
    folder = copied(medgemma_source)
    (folder / name).unlink()
    if kind == "a link to nothing":
        (folder / name).symlink_to("../../blobs/removed")
    elif kind == "a folder":
        (folder / name).mkdir()
    else:
        os.mkfifo(folder / name)
    refused(folder, rf"{name}: is no file, or a link to none", tmp_path / "a")


def test_a_missing_shard_is_named(medsiglip_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(medsiglip_source)
    sharded(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()
    refused(folder, "model-00002-of-00003.safetensors is missing", tmp_path / "a")


@pytest.mark.parametrize(
    "name", ["../evil.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "pytorch_model.bin"]
)
def test_an_index_cannot_name_files_elsewhere(medsiglip_source: Path, copied: Copy, tmp_path: Path, name: str) -> None:
    folder = copied(medsiglip_source)
    sharded(folder)
    (tmp_path / "evil.safetensors").write_bytes((folder / "model-00001-of-00003.safetensors").read_bytes())
    edit_json(folder / "model.safetensors.index.json", {"weight_map": {"w": name}})
    refused(folder, re.escape(repr(name)), tmp_path / "a")


@pytest.mark.parametrize("weight_map", [None, [], {"w": 5}, "model.safetensors"])
def test_an_index_without_a_weight_map(medsiglip_source: Path, copied: Copy, tmp_path: Path, weight_map: Any) -> None:
    folder = copied(medsiglip_source)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refused(folder, "weight_map", tmp_path / "a")


def test_an_index_that_disagrees_with_its_shards(medsiglip_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(medsiglip_source)
    sharded(folder)
    index = read_json(folder / "model.safetensors.index.json")
    shards = set(index["weight_map"].values())
    index["weight_map"]["logit_scale"] = min(shards - {index["weight_map"]["logit_scale"]})
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "logit_scale is not in model-0000", tmp_path / "a")


def test_a_tensor_in_two_shards(medsiglip_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(medsiglip_source)
    sharded(folder)
    second = folder / "model-00002-of-00003.safetensors"
    first = safetensors_torch.load_file(folder / "model-00001-of-00003.safetensors")
    name = sorted(first)[0]
    safetensors_torch.save_file({**safetensors_torch.load_file(second), name: first[name]}, second)
    refused(folder, f"{re.escape(name)} stands in model-00001", tmp_path / "a")


# ---------------------------------------------------------------- tensors that are not what config.json says


def test_a_tensor_of_the_wrong_shape(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(medgemma_source)
    rewrite(folder, lambda tensors: {**tensors, EMBEDDING: tensors[EMBEDDING].T})
    rows, width = open_checkpoint(medgemma_source).tensors[EMBEDDING].shape
    error = refused(folder, re.escape(f"{EMBEDDING} has shape [{width}, {rows}]"), tmp_path / "a")
    assert error.allowed is not None
    assert f"[{rows}, {width}]" in error.allowed


def test_a_tensor_of_the_wrong_type(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(medgemma_source)
    rewrite(folder, lambda tensors: {**tensors, EMBEDDING: tensors[EMBEDDING].to(torch.int32)})
    error = refused(folder, f"{re.escape(EMBEDDING)} has type I32", tmp_path / "a")
    assert error.allowed == "F32, F16, BF16, F64"


def test_a_missing_tensor(medsiglip_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(medsiglip_source)
    rewrite(folder, lambda tensors: {name: t for name, t in tensors.items() if name != "text_model.head.bias"})
    refused(folder, "text_model.head.bias is missing", tmp_path / "a")


def test_an_unexpected_tensor(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(medgemma_source)
    rewrite(folder, lambda tensors: {**tensors, "language_model.model.layers.0.adapter.weight": torch.zeros(1)})
    refused(folder, "1 unexpected tensors: language_model.model.layers.0.adapter.weight", tmp_path / "a")


def test_an_adapter_is_refused_with_advice(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(medgemma_source)
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    for name in ("", "config.json"):
        if name:
            (folder / name).unlink()
        assert "merge" in str(refused(folder, r"an adapter \(adapter_config.json\)", tmp_path / "a").remedy)


def test_an_adapter_inside_a_model_is_refused_with_advice(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(medgemma_source)
    name = "language_model.model.layers.0.self_attn.q_proj.lora_A.weight"
    rewrite(folder, lambda tensors: {**tensors, name: torch.zeros(1)})
    assert "merge" in str(refused(folder, f"1 unexpected tensors: {re.escape(name)}", tmp_path / "a").remedy)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("name", ["layers.3.mlp.up_proj.weight", "norm.weight"])
def test_weights_that_are_not_finite(
    medgemma_source: Path, copied: Copy, tmp_path: Path, name: str, value: str
) -> None:
    name = f"language_model.model.{name}"
    folder = copied(medgemma_source)

    def poison(tensors: dict[str, Any]) -> dict[str, Any]:
        tensors[name].view(-1)[-1] = float(value)
        return tensors

    rewrite(folder, poison)
    refused(folder, f"{re.escape(name)} holds NaN or infinite", tmp_path / "a")


def test_a_scale_that_is_not_finite(medsiglip_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(medsiglip_source)
    rewrite(folder, lambda tensors: {**tensors, "logit_bias": torch.tensor([float("nan")])})
    refused(folder, "logit_bias holds NaN", tmp_path / "a")


def test_a_file_that_shrinks_after_its_header_was_read(tmp_path: Path) -> None:
    path = one_tensor(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    checkpoint = open_checkpoint(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    tensor: Tensor = checkpoint.tensors["w"]
    with pytest.raises(CheckpointError, match="ends inside w"):
        checkpoint.read(tensor)


# ---------------------------------------------------------------- config.json


BAD_VALUES = ("x", [], {}, [{}], -1, 0, 2**31, 10**400, 1.5, True, float("nan"), float("inf"), None)


@pytest.mark.parametrize("source", ["medgemma_source", "medsiglip_source"])
def test_any_value_in_any_field_is_accepted_or_refused_by_name(
    source: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Whatever stands in config.json, edgekit's own error tells about it; a wrong one never reaches another library."""
    config = read_json(request.getfixturevalue(source) / "config.json")
    family = family_of(config)
    fields = [(None, key) for key in config] + [(p, k) for p in ("text_config", "vision_config") for k in config[p]]
    fields += [("text_config", "rope_parameters"), ("text_config", "layer_types"), (None, "eos_token_id")]
    refusals = 0
    for parent, key in fields:
        for value in BAD_VALUES:
            damaged = json.loads(json.dumps(config))
            (damaged[parent] if parent else damaged)[key] = value
            try:
                parsed = family_of(damaged).parse(damaged)
                for role in family.roles.values():
                    role.tensors(parsed)
            except CheckpointError:
                refusals += 1
    assert refusals > len(fields)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("text_config.num_hidden_layers", 10**9, "text_config.num_hidden_layers"),
        ("text_config.rms_norm_eps", float("nan"), "text_config.rms_norm_eps"),
        ("text_config.final_logit_softcapping", 30.0, "text_config.final_logit_softcapping"),
        ("text_config.attention_bias", True, "text_config.attention_bias"),
        ("text_config.rope_scaling", {"rope_type": "yarn", "factor": 8.0}, "yarn"),
        ("text_config.rope_scaling", {"rope_type": "linear"}, "rope_factor"),
        ("text_config.rope_scaling", {"rope_type": "linear", "factor": 0}, "rope_factor"),
        ("text_config.rope_scaling", 8, "no JSON object"),
        ("text_config.rope_parameters", [1], "no JSON object"),
        ("text_config.rope_parameters", {"full_attention": "linear"}, "no JSON object"),
        (
            "text_config.rope_parameters",
            {"full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_type": "linear", "factor": 2}},
            "local layers",
        ),
        ("text_config.sliding_window_pattern", 4, "5 local : 1 global"),
        ("text_config.layer_types", ["full_attention"] * 7, "5 local : 1 global"),
        ("text_config.num_key_value_heads", 3, "num_key_value_heads"),
        ("tie_word_embeddings", False, "tie_word_embeddings"),
        ("vision_config.num_attention_heads", 7, "num_attention_heads"),
        ("vision_config.hidden_act", "relu", "vision_config.hidden_act"),
        ("text_config.use_bidirectional_attention", True, "use_bidirectional_attention"),
        ("vision_config", None, "vision_config"),
        ("mm_tokens_per_image", 17, "17 tokens"),
        ("mm_tokens_per_image", 10**12, "mm_tokens_per_image"),
    ],
)
def test_a_config_that_another_model_would_have(
    medgemma_source: Path, copied: Copy, tmp_path: Path, field: str, value: Any, match: str
) -> None:
    folder = copied(medgemma_source)
    edit_json(folder / "config.json", {field: value})
    refused(folder, match, tmp_path / "a")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"size": {"height": 64, "width": 64}}, "size"),
        ({"size": {"shortest_edge": 112}}, "size"),
        ({"resample": 5}, "resample 5"),
        ({"resample": [3]}, "resample"),
        ({"image_mean": "gray"}, "mean"),
        ({"image_mean": [0.5]}, "mean"),
        ({"image_std": [0, 0.5, 0.5]}, "std"),
        ({"image_std": [float("nan")] * 3}, "std"),
        ({"do_normalize": False}, "do_normalize False"),
        ({"do_resize": False}, "do_resize False"),
        ({"rescale_factor": 1.0}, "rescale_factor 1.0"),
        ({"do_pan_and_scan": True}, "do_pan_and_scan True"),
    ],
)
def test_preprocessing_that_edgekit_does_not_do(
    medgemma_source: Path, copied: Copy, tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    folder = copied(medgemma_source)
    edit_json(folder / "preprocessor_config.json", changes)
    refused(folder, match, tmp_path / "a")


@pytest.mark.parametrize("value", ["x", [1, "x"], -1, [10**12], {"a": 1}])
def test_stop_tokens_must_be_ids(medgemma_source: Path, copied: Copy, tmp_path: Path, value: Any) -> None:
    folder = copied(medgemma_source)
    edit_json(folder / "generation_config.json", {"eos_token_id": value})
    refused(folder, "generation_config.json: eos_token_id", tmp_path / "a")


EXPORT_WATCHED = """
import sys
from pathlib import Path

def watch(event, details):
    if event == "socket.connect" or (event == "import" and "evil" in details[0]):
        print("reached:", event, details, file=sys.stderr, flush=True)
        import os
        os._exit(77)

sys.addaudithook(watch)
from edgekit.prove import publish as artifact
from edgekit.errors import EdgekitError
try:
    artifact.export(Path(sys.argv[1]), Path(sys.argv[2]), levels=[sys.argv[3]])
except EdgekitError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize(
    ("source", "level"),
    [("medsiglip_source", "fp32"), pytest.param("medgemma_source", "Q8_0", marks=pytest.mark.slow)],
)
def test_code_that_a_checkpoint_names_is_never_run(
    source: str, level: str, request: pytest.FixtureRequest, copied: Copy, tmp_path: Path
) -> None:
    """CVE-2026-4372 and its relatives: export and prove a folder whose every file points at code and at the network."""
    folder = copied(request.getfixturevalue(source))
    marker = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    kinds = ("Config", "Model", "Tokenizer", "Processor", "ImageProcessor")
    code = {"auto_map": {f"Auto{kind}": "evil.Evil" for kind in kinds}}
    implementations = {"_attn_implementation": "evil/kernel", "_attn_implementation_internal": "evil/kernel"}
    experts = {"attn_implementation": "evil/kernel", "_experts_implementation": "evil/kernel"}
    kernels = {**code, **implementations, **experts, "_name_or_path": "evil/model"}
    parts = {f"{part}.{key}": v for part in ("text_config", "vision_config") for key, v in {**code, **kernels}.items()}
    edit_json(folder / "config.json", {**kernels, **parts})
    edit_json(folder / "preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "evil.Evil"}})
    edit_json(folder / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}})
    run = subprocess.run(
        [sys.executable, "-c", EXPORT_WATCHED, str(folder), str(tmp_path / "a"), level],
        input="y\n",
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert not marker.exists()
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "a" / "edgekit.json").is_file()


# ---------------------------------------------------------------- tokenizers


@pytest.mark.parametrize("source", ["medgemma_source", "medsiglip_source"])
def test_a_token_beyond_the_embedding(
    source: str, request: pytest.FixtureRequest, copied: Copy, tmp_path: Path
) -> None:
    """By one: numbers that go on after the vocabulary's are the only ones that the library keeps."""
    folder = copied(request.getfixturevalue(source))
    path = folder / "tokenizer.json"
    rows = read_json(folder / "config.json")["text_config"]["vocab_size"]
    vocabulary = tokenizers.Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    first = max(vocabulary.values()) + 1
    assert first <= rows
    kind = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = read_json(path)
    tokenizer["added_tokens"] += [{"id": i, "content": f"<extra{i}>", **kind} for i in range(first, rows + 1)]
    path.write_text(json.dumps(tokenizer))
    refused(folder, rf"token '<extra{rows}>' has id {rows}, the embedding has {rows} rows", tmp_path / "a")


def test_a_token_that_the_library_would_number_otherwise(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(medgemma_source)
    tokenizer = read_json(folder / "tokenizer.json")
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "id": 10**6, "content": "<far>"})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused(folder, "added token '<far>' is numbered 1000000, which the vocabulary forbids", tmp_path / "a")


def test_an_added_token_beyond_the_embedding(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(medgemma_source)
    token = {"content": "<far>", "special": True}
    edit_json(folder / "tokenizer_config.json", {"added_tokens_decoder.999999": token})
    refused(folder, "'<far>' has id 999999", tmp_path / "a")


@pytest.mark.parametrize(
    "added", [{"x": {"content": "a"}}, {"-1": {"content": "a"}}, {"3": "a"}, {"3": {}}, {"3": {"content": 5}}, [1]]
)
def test_added_tokens_that_are_not_what_they_must_be(
    medgemma_source: Path, copied: Copy, tmp_path: Path, added: Any
) -> None:
    folder = copied(medgemma_source)
    edit_json(folder / "tokenizer_config.json", {"added_tokens_decoder": added})
    refused(folder, "tokenizer_config.json: added_tokens_decoder", tmp_path / "a")


def test_a_missing_tokenizer(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(medgemma_source)
    (folder / "tokenizer.json").unlink()
    refused(folder, "no tokenizer.json", tmp_path / "a")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff\xfe",
        b'{"model": {"vocab": 5}}',
        b'{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}',
    ],
)
def test_a_corrupt_tokenizer(medgemma_source: Path, copied: Copy, tmp_path: Path, content: bytes) -> None:
    folder = copied(medgemma_source)
    (folder / "tokenizer.json").write_bytes(content)
    refused(folder, "tokenizer.json", tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"\x0a\xff\xff\xff\xff\x0f", b"{}"])
def test_a_corrupt_sentencepiece_file(medgemma_source: Path, copied: Copy, tmp_path: Path, content: bytes) -> None:
    folder = copied(medgemma_source)
    (folder / "tokenizer.model").write_bytes(content)
    refused(folder, "tokenizer.model", tmp_path / "a")


def test_a_tokenizer_without_the_formats_tokens(medgemma_source: Path, copied: Copy, tmp_path: Path) -> None:
    folder = copied(medgemma_source)
    edit_json(folder / "tokenizer_config.json", {"added_tokens_decoder.2.content": "<start>"})
    refused(folder, "<bos>", tmp_path / "a")


# ---------------------------------------------------------------- the hub's cache


def test_a_snapshot_of_links_is_the_folder_it_links_to(medgemma_source: Path, tmp_path: Path) -> None:
    """models--OWNER--NAME/snapshots/COMMIT holds links to blobs/HASH."""
    storage = tmp_path / "models--some-one--a-model_1.0"
    snapshot, blobs = storage / "snapshots" / ("0a" * 20), storage / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, path in enumerate(sorted(medgemma_source.iterdir())):
        (blobs / str(i)).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(i))
    checkpoint = open_checkpoint(snapshot)
    assert checkpoint.files == open_checkpoint(medgemma_source).files
    assert checkpoint.revision == f"some-one/a-model_1.0@{'0a' * 20}"
    assert artifact.export(snapshot, tmp_path / "a", levels=["Q8_0"], prove=False).manifest.source.sha256


@pytest.mark.parametrize(
    "path", ["models--a--b/snapshots/main", "models--a--b/x/" + "0a" * 20, "snapshots/" + "0a" * 20]
)
def test_a_folder_that_is_no_snapshot_has_no_revision(tmp_path: Path, path: str) -> None:
    folder = tmp_path / path
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    one_tensor(folder / "model.safetensors")
    assert open_checkpoint(folder).revision is None


# ---------------------------------------------------------------- identity


def test_the_source_hash_depends_on_weights_and_tokenizer_and_on_no_path(medsiglip_source: Path, copied: Copy) -> None:
    original = open_checkpoint(medsiglip_source).sha256
    folder = copied(medsiglip_source)
    (folder / "README.md").write_text("a copy")
    assert open_checkpoint(folder).sha256 == original
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        last = stream.read(1)[0]
        stream.seek(-1, 2)
        stream.write(bytes([last ^ 1]))
    changed = open_checkpoint(folder).sha256
    assert changed != original
    edit_json(folder / "tokenizer_config.json", {"model_max_length": 63})
    assert open_checkpoint(folder).sha256 not in (original, changed)
