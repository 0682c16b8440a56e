"""Exports of another checkpoint than the one that they are said to be of: whole ones, made for each."""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from proofs import Trial, prepared_for_proof
from safetensors.numpy import load_file, save_file

from edgekit.families.source import open_source
from edgekit.prove import FullPrecisionRuns, publish
from wrong_exports.entry import FORMATS, WrongExport

Edit = Callable[[Path], object]


@contextmanager
def _exported(trial: Trial, edit: Edit) -> Iterator[Trial]:
    """A part of a checkpoint that was changed before its export."""
    with tempfile.TemporaryDirectory(prefix="wrong-export-") as scratch:
        root = trial.runs.source.checkpoint.root
        source = Path(shutil.copytree(root, Path(scratch) / "source", copy_function=_copied))
        edit(source)
        level = trial.part.level
        done = publish.export(source, Path(scratch) / "artifact", recipe_name=trial.recipe, levels=[level], prove=False)
        (part,) = (part for part in done.manifest.parts if part.role == trial.part.role and part.level == level)
        yield replace(
            trial,
            files=tuple(done.folder / file.path for file in part.files),
            changed=None,
            part=part,
            opening=prepared_for_proof(done.folder, done.manifest, part),
        )


@contextmanager
def _of_another(trial: Trial, edit: Edit) -> Iterator[Trial]:
    """A right part that is said to be of a checkpoint which was changed after its export."""
    with tempfile.TemporaryDirectory(prefix="wrong-export-") as scratch:
        root = trial.runs.source.checkpoint.root
        source = Path(shutil.copytree(root, Path(scratch) / "source", copy_function=_copied))
        edit(source)
        yield replace(trial, runs=FullPrecisionRuns(open_source(source), trial.runs.progress))


def _copied(path: str, to: str) -> str:
    """Weights, which are written anew where they change, may be gigabytes."""
    if path.endswith(".safetensors"):
        with suppress(OSError):  # another disk
            os.link(path, to)
            return to
    return shutil.copy2(path, to)


def _json(name: str, change: Callable[[dict[str, Any]], object]) -> Edit:
    def edit(source: Path) -> None:
        path = source / name
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit


def _weights(change: Callable[[str, Any], Any]) -> Edit:
    """All tensors, each by its name; 16 bits stay 16 bits."""

    def edit(source: Path) -> None:
        for path in source.glob("*.safetensors"):
            tensors = {name: change(name, value) for name, value in load_file(path).items()}
            path.unlink()
            save_file(tensors, path)

    return edit


def _bits(value: Any) -> Any:
    """The same numbers as float32."""
    return value.astype(np.float32)


def _another(name: str, value: Any) -> Any:
    """Another seed's weights, of the same size."""
    random = np.random.default_rng(len(name))
    wide = _bits(value)
    return random.permutation(wide.ravel()).reshape(wide.shape).astype(value.dtype)


def _tuned(name: str, value: Any) -> Any:
    """A fine-tune that moved every matrix by half of its size."""
    wide = _bits(value)
    if wide.ndim < 2:
        return value
    random = np.random.default_rng(len(name))
    return (wide + 0.5 * wide.std() * random.normal(size=wide.shape)).astype(value.dtype)


def _larger(name: str, value: Any) -> Any:
    """Matrices that an adapter, merged twice, made a little larger."""
    wide = _bits(value)
    return (wide * (1 + 0.02 * (wide.ndim > 1))).astype(value.dtype)


def _text(**values: Any) -> Edit:
    """Of the language model, which may stand alone."""
    return _json("config.json", lambda content: content.get("text_config", content).update(values))


def _rare_stripped(content: dict[str, Any]) -> None:
    """An added token takes the white space before it, which no GGUF file can say."""
    content["added_tokens"][-1]["lstrip"] = True


_WEIGHTS: tuple[tuple[str, Edit], ...] = (
    ("weights are another seed's", _weights(_another)),
    ("weights are another fine-tune's", _weights(_tuned)),
    ("weights are two hundredths larger", _weights(_larger)),
)
_DECODER: tuple[tuple[str, Edit], ...] = (
    ("config.json has another factor", _text(rope_scaling={"factor": 4.0, "rope_type": "linear"})),
    ("config.json has another window", _text(sliding_window=32)),
    ("config.json has another epsilon", _text(rms_norm_eps=1e-5)),
    ("config.json has another scale of attention", _text(query_pre_attn_scalar=128)),
)

_EXPORTED = tuple(
    WrongExport(name, (role,), file_format, "checkpoint", functools.partial(_exported, edit=edit))
    for role, formats, edits in (
        ("decoder", FORMATS, (*_WEIGHTS, *_DECODER)),
        ("vision", FORMATS, _WEIGHTS),
        ("image_encoder", FORMATS[1:], _WEIGHTS),
        ("text_encoder", FORMATS[1:], _WEIGHTS),
    )
    for file_format in formats
    for name, edit in edits
)

CHECKPOINT: tuple[WrongExport, ...] = (
    *_EXPORTED,
    WrongExport(
        "a space before a rare token is read otherwise",
        ("decoder",),
        "gguf",
        "checkpoint",
        functools.partial(_of_another, edit=_json("tokenizer.json", _rare_stripped)),
    ),
)
