"""The peers: one row each, and beside it a file in `programs` that says how it is driven."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal


@dataclass(frozen=True)
class Peer:
    """Another program.

    Attributes:
        name: what `--peer` calls it.
        title: for people.
        packages: what its environment is made of, as pip has them; the first is its own. Empty for a program that pip
            does not have.
        takes: the artifact's GGUF files, or the checkpoint.
        abilities: of models that it can open.
        without: what pip installs with them and must not be there.
        prepares: whether it makes files of its own from the checkpoint.
        settings: how it is set, a row each: label -> options, in which THREADS stands for their number.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    takes: Literal["gguf", "checkpoint"]
    abilities: frozenset[str]
    without: tuple[str, ...] = ()
    prepares: bool = False
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})

    @property
    def distributions(self) -> tuple[str, ...]:
        """The packages' names, without versions and extras."""
        return tuple(one.split("==")[0].split(">")[0].split("<")[0].split("[")[0] for one in self.packages)

    @property
    def program(self) -> str:
        """The module in `programs`."""
        return f"peer_{self.name.replace('-', '_')}"


THREADS = "THREADS"
_ANSWERS, _EMBEDS = frozenset({"generate"}), frozenset({"embed_image"})
_TORCH, _OLDER = "torch==2.13.0", "transformers>=4.57,<4.58"

_ROWS = (
    Peer(
        "llama-cpp-python",
        "llama-cpp-python",
        ("llama_cpp_python", "numpy"),
        "gguf",
        _ANSWERS,
        settings={
            "defaults": {},
            "best settings": {"n_threads": THREADS, "n_threads_batch": THREADS, "flash_attn": True},
        },
    ),
    Peer("llama-server", "llama-server", (), "gguf", _ANSWERS),
    Peer(
        "onnxruntime-genai",
        "ONNX Runtime GenAI, int4, text alone",
        # The newest whose builder makes a Gemma 3: 0.16 and 0.18 want classes that transformers 4 lacks, and read
        # Gemma 3's rope_parameters wrongly with transformers 5.
        ("onnxruntime-genai==0.15.2", _TORCH, _OLDER, "onnx", "onnx-ir", "onnxruntime", "sentencepiece"),
        "checkpoint",
        _ANSWERS,
        prepares=True,
    ),
    Peer(
        "optimum-onnx",
        "optimum-onnx, float32",
        ("optimum-onnx[onnxruntime]==0.1.0", "optimum>=2,<2.2", _TORCH, _OLDER, "pillow", "sentencepiece", "protobuf"),
        "checkpoint",
        _ANSWERS | _EMBEDS,
        prepares=True,
    ),
    Peer(
        "openvino-genai",
        "OpenVINO GenAI, int4",
        ("openvino-genai", "optimum-intel[openvino]", _TORCH, "pillow"),
        "checkpoint",
        _ANSWERS,
        # The one on PyPI is made for CUDA, and transformers fails with it beside torch for CPUs.
        without=("torchvision",),
        prepares=True,
    ),
    Peer(
        "transformers",
        "transformers, as stored",
        ("transformers>=5.3,<6", _TORCH, "pillow", "sentencepiece", "protobuf"),
        "checkpoint",
        _ANSWERS | _EMBEDS,
    ),
)

PEERS: Mapping[str, Peer] = MappingProxyType({row.name: row for row in _ROWS})
