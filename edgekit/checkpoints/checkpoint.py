"""A Hugging Face checkpoint folder: config.json, safetensors in one file or in shards, tokenizer files.

Nothing in it is trusted: pickles are refused, paths must stay in the folder, and every file has a bounded size.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.artifacts.files import sha256_file, stamp
from edgekit.checkpoints.chat_template import read_chat_templates
from edgekit.checkpoints.json_files import read_json
from edgekit.checkpoints.tensors import Slice, Tensor, read_rows, read_through
from edgekit.checkpoints.weight_files import INDEX, SINGLE, check_adapter, left_unread, open_weights
from edgekit.errors import CheckpointError

_COMPARED = 1 << 22  # numbers of two tensors at a time
_SNAPSHOT = re.compile(r"^models--(.+?)--(.+)$")  # the hub's cache: models--OWNER--NAME/snapshots/COMMIT
COMMIT = re.compile(r"^[0-9a-f]{40}$")
# What identifies a source, beside its weights. READMEs and the like may differ between copies of the same model.
SOURCE_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass
class Checkpoint:
    """A checkpoint folder: config.json, tensors by their stored names, tokenizer files.

    Attributes:
        notes: what lies there and does not count.
    """

    root: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    shards: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    _stamps: Mapping[Path, tuple[int, ...]] = field(default_factory=dict, repr=False)
    _hashes: dict[str, str] = field(default_factory=dict, repr=False)

    def slices(self, tensor: Tensor, rows: int, begin: int = 0) -> Iterator[NDArray[np.float32]]:
        """The tensor in blocks of rows along its first axis, each float32, from row `begin` on.

        Raises:
            CheckpointError: the file ended early, or a weight is not finite.
        """
        return read_rows(tensor, rows, begin)

    def row(self, tensor: Tensor, index: int) -> NDArray[np.float32]:
        """One row along the tensor's first axis, float32."""
        return np.asarray(next(self.slices(tensor, 1, index))[0])

    def in_order(self) -> list[Tensor]:
        """All tensors in the order in which they lie in the shards."""
        place = {shard: index for index, shard in enumerate(self.shards)}
        return sorted(self.tensors.values(), key=lambda tensor: (place[tensor.path], tensor.offset, tensor.bytes))

    def pieces(self, shard: Path, weights: int) -> Iterator[Slice]:
        """A whole shard from its first byte to its last: its header, then its tensors in slices of whole rows.

        Args:
            weights: of a slice, about.

        Raises:
            CheckpointError: the file ends early.
        """
        return read_through(shard, [tensor for tensor in self.in_order() if tensor.path == shard], weights)

    def record_hash(self, shard: Path, digest: str) -> None:
        """Take the SHA-256 of a shard that was just read from end to end, so that `files` need not read it again.

        Raises:
            CheckpointError: the file is not the one that was opened.
        """
        if stamp(shard) != self._stamps[shard] or self._hashes.setdefault(shard.name, digest) != digest:
            raise _changed(shard)

    def check_unchanged(self) -> None:
        """Raise CheckpointError where a file is not the one that was opened."""
        for path, known in self._stamps.items():
            if not path.is_file() or stamp(path) != known:
                raise _changed(path)

    def read(self, tensor: Tensor) -> NDArray[np.float32]:
        """The whole tensor as float32."""
        blocks = list(self.slices(tensor, max(tensor.shape[0] if tensor.shape else 1, 1)))
        return blocks[0] if blocks else np.zeros(tensor.shape, np.float32)

    def path(self, *names: str) -> Path | None:
        """The first of these files that the folder has."""
        return next((self.root / name for name in names if (self.root / name).is_file()), None)

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder; an empty mapping where there is none."""
        path = self.root / name
        return read_json(path) if path.is_file() else {}

    def chat_template(self) -> str | None:
        """The chat template that transformers prefers; None where there is none.

        Raises:
            CheckpointError: see `edgekit.checkpoints.chat_template.read_chat_templates`.
        """
        return next(iter(self.chat_templates().values()), None)

    def chat_templates(self) -> dict[Path, str]:
        """All chat templates, by the file that holds each: see `edgekit.checkpoints.chat_template`."""
        return read_chat_templates(self.root)

    @property
    def revision(self) -> str | None:
        """`owner/name@commit` where the folder is a snapshot in the hub's cache, which names both."""
        folder = self.root.absolute()
        repository = _SNAPSHOT.match(folder.parent.parent.name)
        if repository and folder.parent.name == "snapshots" and COMMIT.match(folder.name):
            return f"{repository[1]}/{repository[2]}@{folder.name}"
        return None

    @cached_property
    def files(self) -> dict[str, str]:
        """SHA-256 of every file that determines the model, by name."""
        return {path.name: self._hash(path) for path in sorted(self._stamps)}

    def _hash(self, path: Path) -> str:
        if path.name not in self._hashes:
            self._hashes[path.name] = sha256_file(path)
        return self._hashes[path.name]

    @property
    def stamp(self) -> str:
        """What tells this source from another without reading it: names, sizes and times of its files."""
        listing = [f"{path.name} {known}" for path, known in sorted(self._stamps.items())]
        return hashlib.sha256("\n".join(listing).encode()).hexdigest()

    @property
    def sha256(self) -> str:
        """One hash over all of `files`."""
        listing = "".join(f"{digest}  {name}\n" for name, digest in self.files.items())
        return hashlib.sha256(listing.encode()).hexdigest()


def open_checkpoint(root: Path) -> Checkpoint:
    """Open a checkpoint folder.

    Raises:
        CheckpointError: no config.json, no safetensors, a header that is not what the format allows, or two answers to
            what the weights are.
    """
    if not root.is_dir():
        raise CheckpointError(f"{root}: no such folder", remedy="give a downloaded checkpoint's folder")
    check_adapter(root)
    _check_files(root)
    config_path = root / "config.json"
    if not config_path.is_file():
        raise CheckpointError(f"{root}: no config.json", allowed="a Hugging Face checkpoint folder")
    config = read_json(config_path)
    shards, tensors = open_weights(root)
    others = [path for name in SOURCE_FILES if (path := root / name).is_file()]
    stamps = {path: stamp(path) for path in (*shards, *others)}
    return Checkpoint(root, config, tensors, shards, tuple(_notes(root, config)), stamps)


def _check_files(root: Path) -> None:
    """A name that is there and leads nowhere is no file that is absent: without it, the model would be another."""
    for name in (*SOURCE_FILES, SINGLE, INDEX):
        path = root / name
        if os.path.lexists(path) and not path.is_file():
            raise CheckpointError(
                f"{path}: is no file, or a link to none",
                allowed="files, and links to files",
                remedy="download the checkpoint again, or remove that name",
            )


def _notes(root: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """What lies in the folder, or stands in its configuration, and does not count."""
    sections = {"": config, **{f"{key}.": config.get(key) for key in ("text_config", "vision_config")}}
    for where, section in sections.items():
        quantized = section.get("quantization_config") if isinstance(section, dict) else None
        if quantized:
            method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
            yield (
                f"config.json: {where}quantization_config ({method!r:.40}) is left out: the weights are not quantized"
            )
    for name in left_unread(root):
        yield f"{name} is not read: transformers loads the safetensors beside it"


def check_copy(checkpoint: Checkpoint, copy: Tensor, original: Tensor) -> None:
    """Check that a tensor repeats another, in every row, whatever type each is stored in.

    Raises:
        CheckpointError: it does not; the message names both.
    """
    rows = max(1, _COMPARED * max(copy.shape[0], 1) // max(copy.size, 1)) if copy.shape else 1
    pairs = zip(checkpoint.slices(copy, rows), checkpoint.slices(original, rows), strict=True)
    if copy.shape != original.shape or not all(np.array_equal(one, other) for one, other in pairs):
        raise CheckpointError(
            f"{copy.path}: {copy.name} differs from {original.name}, which it must repeat: its embedding is not tied",
            allowed="an output head that is the embedding, as Gemma 3 has it",
        )


def _changed(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path}: was changed while it was read",
        remedy="wait until the download is complete, then run the same command again",
    )
