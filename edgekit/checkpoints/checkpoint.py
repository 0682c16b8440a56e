"""Read a Hugging Face checkpoint folder without trusting it and without holding it in memory.

Only safetensors are read. Headers are parsed here, with bounds, and tensor data is fetched in slices with `pread`, so
that no page of the source stays mapped and peak memory is a few slices of one tensor. Format:
https://huggingface.co/docs/safetensors (8-byte little-endian header length, JSON header, data).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.artifacts.files import sha256_file
from edgekit.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000  # the safetensors specification's own limit
_MAX_JSON_BYTES = 64 * 1024 * 1024
_MAX_NUMBER = 1 << 48  # of a shape or an offset
_MAX_DIMENSIONS = 8
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_SAMPLED_ROWS = 512
_SNAPSHOT = re.compile(r"^models--(.+?)--(.+)$")  # the hub's cache: models--OWNER--NAME/snapshots/COMMIT
COMMIT = re.compile(r"^[0-9a-f]{40}$")
_UNQUANTIZED = "export from the bf16, fp16 or fp32 checkpoint that it was made from"
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


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies: its file, type, shape and byte range."""

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Slice:
    """Some rows of a tensor as they lie in their file; with no tensor, what a file holds before its first.

    Attributes:
        data: little-endian numbers of the tensor's type.
        last: whether the tensor ends with it.
        start: the row of the tensor with which it begins.
    """

    tensor: Tensor | None
    data: bytes
    last: bool
    start: int = 0

    @property
    def name(self) -> str:
        """The tensor's stored name."""
        return self.tensor.name if self.tensor else ""

    @property
    def weights(self) -> int:
        """Numbers in it."""
        return len(self.data) // _ITEM_BYTES[self.tensor.dtype] if self.tensor else 0

    def float32(self) -> NDArray[np.float32]:
        """Its rows, [rows, ...] float32."""
        assert self.tensor is not None
        return to_float32(self.data, self.tensor.dtype).reshape(-1, *self.tensor.shape[1:])

    def check(self) -> None:
        """Raise CheckpointError where a weight is NaN or infinite."""
        if self.tensor and not _all_finite(self.data, self.tensor.dtype):
            raise CheckpointError(f"{self.tensor.path}: {self.name} holds NaN or infinite weights")


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
        first = tensor.shape[0] if tensor.shape else 1
        row_bytes = tensor.bytes // max(first, 1)
        with tensor.path.open("rb") as stream:
            for start in range(begin, first, rows):
                count = min(rows, first - start)
                stream.seek(tensor.offset + start * row_bytes)
                data = stream.read(count * row_bytes)
                if len(data) != count * row_bytes:
                    raise CheckpointError(
                        f"{tensor.path}: the file ends inside {tensor.name}", remedy="download it again"
                    )
                values = to_float32(data, tensor.dtype)
                if not np.isfinite(values).all():
                    raise CheckpointError(f"{tensor.path}: {tensor.name} holds NaN or infinite weights")
                yield values.reshape((count, *tensor.shape[1:]) if tensor.shape else ())

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
        here = [tensor for tensor in self.in_order() if tensor.path == shard]
        with shard.open("rb") as stream:
            yield Slice(None, _exactly(stream, here[0].offset if here else shard.stat().st_size, shard), False)
            for tensor in here:
                rows = tensor.shape[0] if tensor.shape else 1
                row_bytes = tensor.bytes // max(rows, 1)
                step = max(1, weights * rows // max(tensor.size, 1))
                for start in range(0, rows, step):
                    count = min(step, rows - start)
                    yield Slice(tensor, _exactly(stream, count * row_bytes, shard), start + count == rows, start)

    def learn(self, shard: Path, digest: str) -> None:
        """Keep the SHA-256 of a shard that was just read from end to end.

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
        """The chat template from whichever file has it: untrusted code, never rendered outside a sandbox."""
        if path := self.path("chat_template.jinja"):
            try:
                return path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise CheckpointError(f"{path}: not UTF-8: {error}", remedy="download it again") from error
        for name in ("chat_template.json", "tokenizer_config.json"):
            found = self.json(name).get("chat_template")
            if isinstance(found, str):
                return found
        return None

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
            allowed=f"weights of type {', '.join(_ITEM_BYTES)}",
            remedy=_UNQUANTIZED,
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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size.

    Raises:
        CheckpointError: too large, not JSON, or not an object.
    """
    check_size(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: holds a {type(data).__name__}", allowed="a JSON object")
    return data


def check_size(path: Path) -> None:
    """Raise CheckpointError where a JSON file is larger than any of these needs to be."""
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise CheckpointError(f"{path}: {path.stat().st_size} bytes", allowed=f"at most {_MAX_JSON_BYTES} bytes")


def read_header(path: Path) -> list[Tensor]:
    """The tensors that a safetensors file holds.

    Raises:
        CheckpointError: the header is truncated, oversized, no JSON, or describes data that the file does not have.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        if len(prefix) < 8:
            raise CheckpointError(f"{path}: {size} bytes are no safetensors file", remedy="download it again")
        (length,) = struct.unpack("<Q", prefix)
        if length > MAX_HEADER_BYTES:
            raise CheckpointError(f"{path}: a header of {length} bytes", allowed=f"at most {MAX_HEADER_BYTES} bytes")
        if 8 + length > size:
            raise CheckpointError(
                f"{path}: truncated: a header of {length} bytes in a file of {size}", remedy="download it again"
            )
        raw = stream.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header is not valid JSON: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its header holds a {type(header).__name__}", allowed="a JSON object")
    header.pop("__metadata__", None)
    tensors = [_tensor(path, name, entry, 8 + length, size) for name, entry in header.items()]
    end = 8 + length
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.bytes)):
        if tensor.offset != end:
            raise CheckpointError(
                f"{path}: {tensor.name} begins at byte {tensor.offset}, the tensor before it ends at {end}",
                allowed="tensors that follow each other, without overlaps and holes",
            )
        end += tensor.bytes
    if end != size:
        raise CheckpointError(f"{path}: {size} bytes, the last tensor ends at {end}", remedy="download it again")
    return tensors


def to_float32(data: bytes, dtype: str) -> NDArray[np.float32]:
    """Little-endian bytes of a safetensors dtype as a flat float32 array."""
    if dtype == "BF16":  # the upper half of a float32
        wide = np.empty((len(data) // 2, 2), "<u2")
        wide[:, 0], wide[:, 1] = 0, np.frombuffer(data, "<u2")
        return wide.view("<f4").reshape(-1)
    return np.frombuffer(data, "<f4" if dtype == "F32" else "<f2").astype(np.float32)


def _all_finite(data: bytes, dtype: str) -> bool:
    """Whether no number is NaN or infinite: those have all bits of their exponent set."""
    if dtype == "F32":
        return bool(np.isfinite(np.frombuffer(data, "<f4")).all())
    exponent = 0x7F80 if dtype == "BF16" else 0x7C00
    return not ((np.frombuffer(data, "<u2") & exponent) == exponent).any()


def _exactly(stream: Any, count: int, path: Path) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise CheckpointError(f"{path}: ends early", remedy="download it again")
    return bytes(data)


def _changed(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path}: was changed while it was read", remedy="wait until the download is complete and export again"
    )


def _stamp(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two entries with one name, two readers may take different ones, so neither is taken."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has two entries of one name")
    return found


def _tensor(path: Path, name: str, entry: Any, base: int, size: int) -> Tensor:
    """One header entry, every field checked: this is the first thing that a hostile file gets to say."""
    try:
        dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        numbers = (*shape, start, end)
        well_formed = isinstance(dtype, str) and all(type(n) is int and 0 <= n < _MAX_NUMBER for n in numbers)
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: {name}: malformed header entry") from error
    if not well_formed or len(shape) > _MAX_DIMENSIONS:
        raise CheckpointError(f"{path}: {name}: malformed header entry")
    if dtype not in _ITEM_BYTES:
        raise CheckpointError(
            f"{path}: {name} has type {dtype}",
            allowed=", ".join(_ITEM_BYTES),
            remedy=_UNQUANTIZED,
        )
    if end - start != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise CheckpointError(f"{path}: {name}: {end - start} bytes for shape {list(shape)} of {dtype}")
    if base + end > size:
        raise CheckpointError(
            f"{path}: truncated: {name} ends at byte {base + end} of {size}", remedy="download it again"
        )
    return Tensor(name, path, dtype, shape, base + start, end - start)


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
            if not (root / name).is_file():
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
