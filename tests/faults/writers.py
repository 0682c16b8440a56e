"""Everything that writes, each on the tiniest material that takes the same way as a real model does."""

from __future__ import annotations

import io
import json
import os
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from edgekit.artifacts.files import write_atomically
from edgekit.cli import guarded, main
from edgekit.errors import EdgekitError

# Imported before anything is run, so that a fork need not; proofs take some more.
IMPORTS = (
    "edgekit.bench", "edgekit.export.adopt", "edgekit.export.remove", "edgekit.export.synthesize",
    "edgekit.prove.publish", "edgekit.tuning.tune", "edgekit.formats.onnx.writer", "gguf", "onnx", "bench_stubs",
    "llama_cpp",
)  # fmt: skip
FOR_PROOFS = (
    "torch", "transformers.models.siglip", "edgekit.full_precision.model", "edgekit.full_precision.processors",
    "edgekit.full_precision.streamed",
)  # fmt: skip

RECIPES = {
    "tiny": """
extends = "medgemma-4b"
title = "Tiny"
stem = "tiny"
source = "nobody/tiny"
[match]
"text_config.hidden_size" = 64
[config]
boi_token_index = 2040
eoi_token_index = 2041
image_token_index = 2048
mm_tokens_per_image = 64
[config.text_config]
hidden_size = 64
intermediate_size = 64
num_hidden_layers = 1
num_attention_heads = 1
num_key_value_heads = 1
head_dim = 64
query_pre_attn_scalar = 64
vocab_size = 2112
max_position_embeddings = 8192
sliding_window = 64
[config.vision_config]
hidden_size = 64
intermediate_size = 64
num_hidden_layers = 1
num_attention_heads = 1
image_size = 224
""",
    "tiny-siglip": """
extends = "medsiglip"
title = "Tiny SigLIP"
stem = "tiny-siglip"
source = "nobody/tiny-siglip"
[match]
"vision_config.hidden_size" = 64
[config.text_config]
hidden_size = 64
intermediate_size = 64
num_attention_heads = 1
num_hidden_layers = 1
projection_size = 64
vocab_size = 1800
[config.vision_config]
hidden_size = 64
intermediate_size = 64
num_attention_heads = 1
num_hidden_layers = 1
image_size = 224
""",
}


@dataclass(frozen=True)
class Writer:
    """One thing that writes.

    Attributes:
        call: its name in `CALLS`.
        given: what is in place before: a name below the root -> a folder of the workshop.
        place: what it writes, relative to the root.
        artifact: whether that is an artifact, whose manifest says what belongs to it.
        again: what a rerun may say where all was finished already.
        note: a file in the artifact that says what an error kept from being removed, which stays till a rerun does it.
    """

    call: str
    given: Mapping[str, str]
    place: str
    artifact: bool = True
    again: str = ""
    note: str = ""


WRITERS = {
    "export GGUF": Writer("export GGUF", {}, "out/a"),
    "export GGUF, one level more": Writer("export GGUF more", {"out/a": "gguf"}, "out/a"),
    "export ONNX": Writer("export ONNX", {}, "out/a"),
    "prove": Writer("prove", {"out/a": "onnx"}, "out/a"),
    "remove": Writer("remove", {"out/a": "gguf-two"}, "out/a", again="has no level", note=".edgekit-remove.json"),
    "adopt": Writer("adopt", {}, "out/a", again="is not empty"),
    "synthesize": Writer("synthesize", {}, "out/a", artifact=False, again="is not empty"),
    "bench": Writer("bench", {}, "out/m", artifact=False),
    "tune": Writer("tune", {}, "cache/choices", artifact=False),
}
# Each breaks one promise, so that whoever judges can be judged.
WRONG = {
    "writes in place": Writer("writes in place", {"out/a": "gguf"}, "out/a", artifact=False),
    "tears the README": Writer("tears the README", {"out/a": "gguf"}, "out/a"),
    "writes the README first": Writer("writes the README first", {"out/a": "gguf-two"}, "out/a"),
    "leaves a README as it is": Writer("leaves a README as it is", {"out/a": "gguf-two"}, "out/a"),
    "leaves something": Writer("leaves something", {}, "out", artifact=False),
    "prints a traceback": Writer("prints a traceback", {}, "out", artifact=False),
}
KNOWN = {**WRITERS, **WRONG}


def home(shop: Path) -> dict[str, str]:
    """The environment that all of it needs; `shop` is the workshop."""
    return {"EDGEKIT_HOME": str(shop), "FAULT_SHOP": str(shop), "EDGEKIT_LLAMA_BUFFERS": "plain"}


def make_workshop(shop: Path) -> None:
    """Checkpoints and artifacts, made without faults."""
    (shop / "exports").mkdir(parents=True)
    for name, text in RECIPES.items():
        (shop / "exports" / f"{name}.toml").write_text(text)
    with patch.dict(os.environ, home(shop)), redirect_stdout(io.StringIO()):
        for command in (
            ["synthesize", "tiny", shop / "tiny"],
            ["synthesize", "tiny-siglip", shop / "tiny-siglip"],
            ["export", shop / "tiny", "--to", shop / "gguf", "--level", "Q8_0", "--no-prove"],
            ["export", shop / "tiny", "--to", shop / "gguf-two", "--level", "Q8_0", "--level", "BF16", "--no-prove"],
            ["export", shop / "tiny-siglip", "--to", shop / "onnx", "--level", "fp32", "--no-prove"],
        ):
            assert main([*map(str, command)]) == 0
    (shop / "gguf-file").mkdir()
    shutil.copy(shop / "gguf" / "tiny-Q8_0.gguf", shop / "gguf-file" / "theirs.gguf")


def _shop() -> Path:
    return Path(os.environ["FAULT_SHOP"])


def _command(*words: str) -> int:
    """A command of edgekit below the root; `@NAME` is in the workshop."""
    return main([str(_shop() / word[1:]) if word.startswith("@") else word for word in words])


def instant_decoder(job: Any) -> Iterator[dict[str, Any]]:
    """As if a decoder had been measured, and had given logits."""
    from edgekit.tuning import measure

    for threads in job["threads"]:
        measure.save(Path(job["outputs"]) / f"{threads}.npy", np.zeros((1, 4), np.float32))
    yield {"threads": job["threads"][0], "prefill_tokens_per_s": 9.0, "decode_tokens_per_s": 3.0, "peak_bytes": 1}


def _tune() -> int:
    from edgekit.tuning import measure, tune

    with patch.object(measure, "decoder", instant_decoder), patch.object(tune, "busy_cores", lambda: 0.0):
        return _command("tune", "@gguf", "--level", "Q8_0")


def _bench() -> int:
    """The benchmark's own files; its models are stubs, and run here."""
    from bench_stubs import InProcess, StubChat, dataset

    from edgekit import bench
    from edgekit.artifacts.gates import Gates
    from edgekit.artifacts.manifest import FileEntry, Manifest, Preprocessing, SourceRecord
    from edgekit.bench import datasets, preflight, runner, worker
    from edgekit.bench.cells import ModelRef
    from edgekit.bench.subjects import Subject, TableRow

    manifest = Manifest(
        recipe="stub", title="Stub model", family="medgemma", stand_in="a stub", license="none", modified="",
        source=SourceRecord(name="stub", sha256="abc", files={}), parts=(), variants={"good": {}}, default="good",
        tokenizer=FileEntry(path="tokenizer.json", sha256="0", bytes=1), settings={}, gates=Gates(),
        preprocessing=Preprocessing(size=8, resample="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3),
    )  # fmt: skip
    rows = (
        TableRow("reference", "reference", ModelRef("ref"), "ref"),
        TableRow("good", "variant", ModelRef("dir", "good"), "good", "good"),
    )
    subject = Subject(Path("dir"), manifest, Path("ref"), frozenset({"generate"}), rows, 10)
    tasks = [str(_shop() / f"{name}.toml") for name in ("finding-phantom", "fidelity-decoder", "fidelity-encoder")]

    def run(_: Any) -> int:
        sweep = bench.Sweep([Path("dir")], tasks=tasks, rounds=1, controls=())
        results = bench.bench(sweep, work=Path("out/m/work"), executor=InProcess())
        bench.write(results, Path("out/m"))
        if results.errors:
            raise EdgekitError(results.errors[0])
        return 0

    with (
        patch.object(runner, "subjects", lambda *_: [subject]),
        patch.object(preflight, "check", lambda *_: None),  # the artifact has no files
        patch.object(worker, "open_row", lambda _: StubChat(noise=0.5)),
        patch.object(datasets, "load", lambda *_: dataset(6)),
    ):
        return guarded(run, Namespace(json=False, debug=False))


def short_tasks(shop: Path) -> None:
    """The shipped tasks, shortened, in the workshop."""
    short = {"limit": 6, "chunks": 2, "decode_tokens": 3}
    for name in ("finding-phantom", "fidelity-decoder", "fidelity-encoder"):
        lines = (Path(__file__).parents[2] / "benchmarks" / f"{name}.toml").read_text().splitlines()
        kept = [f"{key} = {short[key]}" if (key := line.split(" =")[0]) in short else line for line in lines]
        (shop / f"{name}.toml").write_text("\n".join(kept))


def _write_in_place(name: str) -> int:
    def run(_: Any) -> int:
        with Path("out/a", name).open("wb", buffering=0) as file:
            file.write(b"half and ")
            file.write(b"half")
        return 0

    return guarded(run, Namespace(json=False, debug=False))


def _make_default(*, readme_first: bool) -> int:
    """Another default level: its README before its manifest, or none where the manifest says so already."""
    from edgekit.artifacts import manifest as manifests
    from edgekit.export import readme

    def run(_: Any) -> int:
        folder = Path("out/a")
        manifest = manifests.read(folder)
        changed = manifest.model_copy(update={"default": "BF16"})
        if readme_first:
            write_atomically(folder / readme.FILE_NAME, readme.text(changed))
            manifests.write(folder, changed)
        elif changed != manifest:
            readme.publish(folder, changed)
        return 0

    return guarded(run, Namespace(json=False, debug=False))


def _leave_something() -> int:
    def run(_: Any) -> int:
        Path("out/.x.partial").write_text("x")
        Path("out/.x.partial").rename("out/x")
        return 0

    return guarded(run, Namespace(json=False, debug=False))


def _print_a_traceback() -> int:
    Path("out/x").write_text("x")
    return 0


CALLS: Mapping[str, Callable[[], int]] = {
    "export GGUF": partial(_command, "export", "@tiny", "--to", "out/a", "--level", "Q8_0", "--no-prove"),
    "export GGUF more": partial(_command, "export", "@tiny", "--to", "out/a", "--level", "BF16", "--no-prove"),
    "export ONNX": partial(_command, "export", "@tiny-siglip", "--to", "out/a", "--level", "fp32", "--no-prove"),
    "prove": partial(_command, "prove", "out/a", "--reference", "@tiny-siglip"),
    "adopt": partial(_command, "adopt", "@gguf-file/theirs.gguf", "--to", "out/a"),
    "remove": partial(_command, "remove", "out/a", "--level", "BF16", "--default", "Q8_0"),
    "synthesize": partial(_command, "synthesize", "tiny", "out/a"),
    "bench": _bench,
    "tune": _tune,
    "writes in place": partial(_write_in_place, "NOTICE"),
    "tears the README": partial(_write_in_place, "README.md"),
    "writes the README first": partial(_make_default, readme_first=True),
    "leaves a README as it is": partial(_make_default, readme_first=False),
    "leaves something": _leave_something,
    "prints a traceback": _print_a_traceback,
}


_TIMES = ("seconds", "phases", "environment")


def without_times(data: bytes) -> bytes:
    """A benchmark's results without what differs between two runs."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items() if key not in _TIMES}
        return [plain(entry) for entry in value] if isinstance(value, list) else value

    results = json.loads(data)
    results.pop("sha256", None)  # covers the times, too
    return json.dumps(plain(results), sort_keys=True).encode()
