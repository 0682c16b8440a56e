"""What tests are made of: damaged files, folders as bytes, pictures."""

from __future__ import annotations

import json
import multiprocessing
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

Copy = Callable[[Path], Path]

LEVELS = ("BF16", "Q8_0", "Q4_0")  # of the MedGemma-like model, where a test has nothing to say about levels


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def edit_json(path: Path, changes: Mapping[str, Any]) -> None:
    """Set dotted keys of a JSON file; a key whose value is `...` is removed."""
    data = read_json(path)
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        place = data
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place[key]
        if value is ...:
            del place[last]
        else:
            place[int(last) if isinstance(place, list) else last] = value
    path.write_text(json.dumps(data), encoding="utf-8")


def safetensors_bytes(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header, right or wrong: an object, or bytes as they are."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def one_bit_changed(path: Path) -> Iterator[None]:
    """A file with another digit in place of its last: what it holds is as long, and as well-formed, as before."""
    original = path.read_bytes()
    at = max(original.rfind(digit) for digit in b"0123456789")
    path.write_bytes(original[:at] + bytes([original[at] ^ 1]) + original[at + 1 :])
    try:
        yield
    finally:
        path.write_bytes(original)


def photo(width: int, height: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An RGB image with edges, gradients and noise, so that resize filters differ on it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = 127 + 90 * np.sin(x / 7) * np.cos(y / 11) + 38 * ((x // 16 + y // 16) % 2)
    noisy = waves[..., None] + rng.normal(0, 20, (height, width, 3)) + np.array([0, 15, -15])
    return np.clip(noisy, 0, 255).astype(np.uint8)


def hollow_checkpoint(folder: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """A BF16 checkpoint of zeros that takes no disk, its file being all hole; returns its number of weights."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    with (folder / "model.safetensors").open("wb") as file:
        file.write(safetensors_bytes(header))
        file.truncate(file.tell() + end)
    (folder / "config.json").write_text(json.dumps(config))
    return end // 2


def in_a_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """A function's answer from a process of its own, where nobody has used and freed memory before."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def anonymous_bytes() -> int:
    """Memory of this process that no file stands behind, on Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk with room for files of so many bytes, and none larger (POSIX)."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
