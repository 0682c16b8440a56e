"""A test of llama.cpp in a process of its own: a tiny quantized decoder, once with each layout of its weights.

llama.cpp copies quantized matrices into layouts made for the CPU ("extra buffers": AMX tiles, repacked blocks). A
compiler that gets those wrong gives a library that loads well and then crashes, or is wrong, at its first prompt.

Plain ones come first, so that what a crash left says which layout crashed. The weights are random and the same every
time.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.formats.gguf.header import TYPES
from edgekit.machine.temporary import temporary_folder

# One layer of each type that some CPU has a layout for -> where in a block its float16 scales stand, and values for
# them that make random weights some hundredths around zero: a second scale takes off what the first makes positive.
LAYERS: Mapping[str, Mapping[int, float]] = {
    "Q4_0": {0: 1e-2}, "Q8_0": {0: 1e-3}, "Q4_K": {0: 4e-4, 2: 30e-4}, "Q5_K": {0: 2e-4, 2: 31e-4}, "Q6_K": {208: 1e-4},
    "IQ4_XS": {0: 1e-4}, "IQ4_NL": {0: 1e-3}, "Q2_K": {80: 4e-3, 82: 6e-3},
}  # fmt: skip
_TYPE_IDS = {name: number for number, (name, _, _) in TYPES.items()}

# Every matrix is a multiple of a block (256) and of AMX's tiles (32) both ways.
WIDTH = 256
_HEADS, _HEAD_WIDTH = 4, 64
TOKENS = 256
_PROMPT = 40  # matrix by matrix, with an incomplete tile
_ALIGNMENT = 32

MATRICES = {
    "attn_q": WIDTH, "attn_k": WIDTH // 2, "attn_v": WIDTH // 2, "attn_output": WIDTH,
    "ffn_gate": WIDTH, "ffn_up": WIDTH, "ffn_down": WIDTH,
}  # fmt: skip
_NORMS = {
    "attn_norm": WIDTH, "post_attention_norm": WIDTH, "ffn_norm": WIDTH, "post_ffw_norm": WIDTH,
    "attn_q_norm": _HEAD_WIDTH, "attn_k_norm": _HEAD_WIDTH,
}  # fmt: skip


def tiny_decoder() -> bytes:
    """A GGUF file of Gemma 3's architecture with random weights, one layer of each type in `LAYERS`."""
    rng = np.random.default_rng(0)
    tensors = [
        ("token_embd.weight", (TOKENS, WIDTH), "Q6_K", _blocks(rng, "Q6_K", TOKENS)),
        ("output_norm.weight", (WIDTH,), "F32", np.ones(WIDTH, "<f4").tobytes()),
    ]
    for layer, kind in enumerate(LAYERS):
        tensors += [
            (f"blk.{layer}.{name}.weight", (rows, WIDTH), kind, _blocks(rng, kind, rows))
            for name, rows in MATRICES.items()
        ]
        tensors += [
            (f"blk.{layer}.{name}.weight", (width,), "F32", np.ones(width, "<f4").tobytes())
            for name, width in _NORMS.items()
        ]
    return _gguf(tensors)


def logits(path: Path, *, extra_buffers: bool, gpu_layers: int = 0) -> NDArray[np.float32]:
    """Logits [prompt + 1, tokens] of a prompt at once and of one more token, which takes other code."""
    from edgekit.runtime.base import Tokens
    from edgekit.runtime.llama.decoder import LlamaDecoder

    decoder = LlamaDecoder(
        path, context=256, threads=2, image_tokens=1, extra_buffers=extra_buffers, gpu_layers=gpu_layers
    )
    ids = tuple(int(token) for token in np.random.default_rng(1).integers(0, TOKENS, _PROMPT + 1))
    rows = [*decoder.prefill([Tokens(ids[:-1])], range(_PROMPT)), decoder.step(ids[-1:])]
    decoder.close()
    return np.stack(rows)


def logits_by_layout(job: object) -> Iterator[tuple[str, str]]:
    """Each layout's name and its logits, float32 in base64; for `edgekit.machine.worker`."""
    with temporary_folder("self-test") as folder:
        path = folder / "tiny.gguf"
        path.write_bytes(tiny_decoder())
        for name, extra in (("plain", False), ("default", True)):
            yield name, base64.b64encode(logits(path, extra_buffers=extra).tobytes()).decode()


def _blocks(rng: np.random.Generator, kind: str, rows: int) -> bytes:
    """Random blocks of a quantized matrix [rows, WIDTH]: any bytes will do, but for the scales."""
    _, block, block_bytes = TYPES[_TYPE_IDS[kind]]
    blocks = rng.integers(0, 256, (rows * WIDTH // block, block_bytes), np.uint8)
    for place, scale in LAYERS[kind].items():
        blocks[:, place : place + 2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    return blocks.tobytes()


def _gguf(tensors: list[tuple[str, tuple[int, ...], str, bytes]]) -> bytes:
    """A GGUF file, version 3, of tensors (name, shape, type, data)."""
    prefix = "gemma3"
    fields: dict[str, str | int | float] = {
        "general.architecture": prefix,
        "tokenizer.ggml.model": "none",
        f"{prefix}.vocab_size": TOKENS,
        f"{prefix}.block_count": len(LAYERS),
        f"{prefix}.context_length": 256,
        f"{prefix}.embedding_length": WIDTH,
        f"{prefix}.feed_forward_length": WIDTH,
        f"{prefix}.attention.head_count": _HEADS,
        f"{prefix}.attention.head_count_kv": _HEADS // 2,
        f"{prefix}.attention.key_length": _HEAD_WIDTH,
        f"{prefix}.attention.value_length": _HEAD_WIDTH,
        f"{prefix}.attention.layer_norm_rms_epsilon": 1e-6,
        f"{prefix}.attention.sliding_window": 32,
    }
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields))
    header += b"".join(_text(key) + _value(value) for key, value in fields.items())
    data = b""
    for name, shape, kind, content in tensors:
        place = struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), _TYPE_IDS[kind], len(data))
        header += _text(name) + place
        data += content + bytes(-len(content) % _ALIGNMENT)
    return header + bytes(-len(header) % _ALIGNMENT) + data


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _value(value: str | float) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    return struct.pack("<II", 4, value) if isinstance(value, int) else struct.pack("<If", 6, value)
