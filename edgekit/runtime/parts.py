"""What a backend is given to open: a part's files, what they must hold, and how to run them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.artifacts.manifest import Preprocessing
from edgekit.inputs.image import normalize
from edgekit.planning.kernels import CacheType
from edgekit.runtime.base import EncoderSpec


@dataclass(frozen=True)
class RunOptions:
    """How a backend runs a part.

    Attributes:
        threads: for prompts, images and texts.
        step_threads: for one token after the other; None where a backend has one number for both.
        gpu_layers: of a decoder that run on a GPU, from the last one, the output among them; of an encoder, 1 for all.
        plain_weights: use weights as they lie in the file; what the backend thinks best for False.
        exact: compute and remember in single precision whatever a backend would else round; slower.
        sequences: that a decoder holds, each with the whole context.
        cache_type: what keys and values are rounded to; a backend that does not round takes `f16` as its own type.
    """

    threads: int
    step_threads: int | None = None
    gpu_layers: int = 0
    plain_weights: bool = False
    exact: bool = False
    sequences: int = 1
    cache_type: CacheType = "f16"

    def __str__(self) -> str:
        threads = f"{self.threads}/{self.step_threads}" if self.step_threads else f"{self.threads}"
        return f"{threads} threads{', plain buffers' if self.plain_weights else ''}"


@dataclass(frozen=True)
class Placement:
    """What of a variant's parts runs on a GPU.

    Attributes:
        layers: of its decoder, see `RunOptions.gpu_layers`.
        encoder: whether the encoder beside it does.
        device: what the GPU is called.
        notes: what users must know of it.
    """

    layers: int = 0
    encoder: bool = False
    device: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class EncoderFile:
    """One encoder as every backend needs it described.

    Attributes:
        path: what the backend is given; other files may lie beside it.
        spec: what it takes and gives.
        output: the graph output that is wanted, in formats that name outputs.
        preprocessing: how pixels are normalized; None for an encoder of ids.
        listed: the files that a manifest vouches for; None without one. See `edgekit.formats.onnx.header.read`.
        image_tokens: vectors that one image must become; 0 for an encoder that gives one.
    """

    path: Path
    spec: EncoderSpec
    output: str
    preprocessing: Preprocessing | None
    listed: tuple[Path, ...] | None = None
    image_tokens: int = 0

    def to_json(self) -> dict[str, Any]:
        """For a process that measures it."""
        preprocessing = self.preprocessing and self.preprocessing.model_dump(mode="json")
        return {
            "path": str(self.path),
            "spec": asdict(self.spec),
            "output": self.output,
            "preprocessing": preprocessing,
            "listed": None if self.listed is None else [str(path) for path in self.listed],
            "image_tokens": self.image_tokens,
        }

    def batch(self, items: NDArray[Any]) -> NDArray[Any]:
        """Items as a graph takes them: float32 [n, 3, height, width] of pixels, int64 [n, length] of ids."""
        return normalize(items, self.preprocessing) if self.preprocessing else np.asarray(items, np.int64)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EncoderFile:
        """What `to_json` gave."""
        spec = EncoderSpec(data["spec"]["input"], data["spec"]["output"], tuple(data["spec"]["shape"]))
        preprocessing = data["preprocessing"] and Preprocessing.model_validate(data["preprocessing"])
        listed = None if data["listed"] is None else tuple(Path(path) for path in data["listed"])
        tokens = data["image_tokens"]
        return cls(Path(data["path"]), spec, data["output"], preprocessing or None, listed, tokens)


@dataclass(frozen=True)
class DecoderFile:
    """One decoder as every backend needs it described.

    Attributes:
        files: all of its files; the first is what a backend is given.
        context: positions that the cache must hold.
        window: positions that layers with sliding attention see; 0 where the manifest does not say.
        image_tokens: of one image, which no call may divide.
        manifest: the file that says so.
    """

    files: tuple[Path, ...]
    context: int
    window: int
    image_tokens: int
    manifest: Path

    def to_json(self) -> dict[str, Any]:
        """For a process that measures it."""
        return {**asdict(self), "files": [str(path) for path in self.files], "manifest": str(self.manifest)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DecoderFile:
        """What `to_json` gave."""
        return cls(**{**data, "files": tuple(map(Path, data["files"])), "manifest": Path(data["manifest"])})
