"""A Hugging Face checkpoint folder: config.json, safetensors in one file or in shards, tokenizer files.

Nothing in it is trusted: pickles are refused, paths must stay in the folder, and every file has a bounded size.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.artifacts.documents import is_file
from edgekit.artifacts.files import sha256_file
from edgekit.checkpoints.chat_template import read_chat_templates
from edgekit.checkpoints.json_files import read_json
from edgekit.checkpoints.tensors import (
    ITEM_BYTES,
    UNQUANTIZED,
    Slice,
    Tensor,
    read_header,
    read_rows,
    read_through,
)
from edgekit.errors import CheckpointError

_SAMPLED_ROWS = 512
_SNAPSHOT = re.compile(r"^models--(.+?)--(.+)$")  # the hub's cache: models--OWNER--NAME/snapshots/COMMIT
COMMIT = re.compile(r"^[0-9a-f]{40}$")
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
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
    """A checkpoint folder: config.json, tensors by their stored names, tokenizer files."""

    root: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    shards: tuple[Path, ...]
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
        if _stamp(shard) != self._stamps[shard] or self._hashes.setdefault(shard.name, digest) != digest:
            raise _changed(shard)

    def check_unchanged(self) -> None:
        """Raise CheckpointError where a file is not the one that was opened."""
        for path, stamp in self._stamps.items():
            if not path.is_file() or _stamp(path) != stamp:
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
        listing = [f"{path.name} {stamp}" for path, stamp in sorted(self._stamps.items())]
        return hashlib.sha256("\n".join(listing).encode()).hexdigest()

    @property
    def sha256(self) -> str:
        """One hash over all of `files`."""
        listing = "".join(f"{digest}  {name}\n" for name, digest in self.files.items())
        return hashlib.sha256(listing.encode()).hexdigest()


def open_checkpoint(root: Path) -> Checkpoint:
    """Open a checkpoint folder.

    Raises:
        CheckpointError: no config.json, no safetensors, or a header that is not what the format allows.
    """
    if not root.is_dir():
        raise CheckpointError(f"{root}: no such folder", remedy="give a downloaded checkpoint's folder")
    config_path = root / "config.json"
    if (root / "adapter_config.json").is_file() and not any((root / name).is_file() for name in (SINGLE, INDEX)):
        raise CheckpointError(
            f"{root}: an adapter (adapter_config.json) without the model it belongs to",
            allowed="a whole model",
            remedy="merge it (peft: merge_and_unload(), then save_pretrained) and export the folder that this writes",
        )
    if not config_path.is_file():
        raise CheckpointError(f"{root}: no config.json", allowed="a Hugging Face checkpoint folder")
    config = read_json(config_path)
    if quantized := config.get("quantization_config"):
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
        raise CheckpointError(
            f"{config_path}: the weights are quantized already ({method!r})",
            allowed=f"weights of type {', '.join(ITEM_BYTES)}",
            remedy=UNQUANTIZED,
        )
    shards = _shards(root)
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        for tensor in read_header(shard):
            if tensor.name in tensors:
                raise CheckpointError(f"{shard}: {tensor.name} stands in {tensors[tensor.name].path.name} too")
            tensors[tensor.name] = tensor
    _check_index(root, tensors)
    others = [path for name in SOURCE_FILES if (path := root / name).is_file()]
    return Checkpoint(root, config, tensors, tuple(shards), {path: _stamp(path) for path in (*shards, *others)})


def check_copy(checkpoint: Checkpoint, copy: Tensor, original: Tensor) -> None:
    """Check that a tensor repeats another, by some hundred of its rows: one that was trained apart differs in all.

    Raises:
        CheckpointError: it does not; the message names both.
    """
    same = copy.shape == original.shape
    if same:
        rows = np.unique(np.linspace(0, copy.shape[0] - 1, _SAMPLED_ROWS, dtype=np.int64))
        same = all(np.array_equal(checkpoint.row(copy, int(i)), checkpoint.row(original, int(i))) for i in rows)
    if not same:
        raise CheckpointError(
            f"{copy.path}: {copy.name} differs from {original.name}, which it must repeat: its embedding is not tied",
            allowed="an output head that is the embedding, as Gemma 3 has it",
        )


def _changed(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path}: was changed while it was read", remedy="wait until the download is complete and export again"
    )


def _stamp(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _shards(root: Path) -> list[Path]:
    index = root / INDEX
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
            raise CheckpointError(f"{index}: no weight_map from tensor names to file names")
        names = sorted(set(weight_map.values()))
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise CheckpointError(f"{index}: {name!r} is no safetensors file of this folder")
            if not is_file(root / name):
                raise CheckpointError(
                    f"{root}: shard {name} is missing, though the index lists it", remedy="download it again"
                )
        return [root / name for name in names]
    single = root / SINGLE
    if single.is_file():
        return [single]
    pickles = sorted(path.name for path in root.iterdir() if path.suffix in _PICKLE_SUFFIXES)
    if pickles:
        raise CheckpointError(
            f"{root}: {', '.join(pickles[:3])}: pickle files can run code when they are read and are refused",
            allowed="model.safetensors, or shards with model.safetensors.index.json",
            remedy="download the safetensors version of this model",
        )
    raise CheckpointError(f"{root}: no model.safetensors", allowed="model.safetensors, or shards with an index")


def _check_index(root: Path, tensors: Mapping[str, Tensor]) -> None:
    index = root / INDEX
    if not index.is_file():
        return
    for name, shard in read_json(index)["weight_map"].items():
        if name not in tensors or tensors[name].path.name != shard:
            raise CheckpointError(
                f"{root}: {name} is not in {shard}, though the index says so", remedy="download it again"
            )
