"""One option of one part, measured in a process of its own: a crash is a result, and so is the peak of memory.

The functions are `edgekit.machine.worker`'s work. A job holds `file` (an `EncoderFile` or a `DecoderFile`), its
`format` and the `backend` that opens it; an encoder's `threads`, and the files `input` and `output`; a decoder's
`extra_buffers`, `threads`, several numbers of them, and the ids `text` and folder `outputs`. Each result is one
measurement. What is fast may be wrong, so what it gives is left for a comparison with the proven default.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.machine.memory import peak_memory_bytes
from edgekit.runtime.backends import BACKENDS
from edgekit.runtime.base import Decoder, Float, SupportsThreads, Tokens
from edgekit.runtime.parts import DecoderFile, EncoderFile, RunOptions

# An encoder that takes long is run once: what is first is slower by a few hundredths of a second, mapping its weights.
_ENOUGH_S = 4.0
_MOST_RUNS = 5

# Of a decoder: enough for matrices times matrices, and for a median.
COMPARED_TOKENS = 160
_PREFILL_TOKENS = 64
_STEPS = 8
_CONTEXT = 512
# Fewer threads are tried as long as the last try was not slower than the best, in prompts and in steps, by this much.
_HOPELESS = 1.25
# Positions of a text whose logits are compared.
_COMPARED_EVERY, _COMPARED_STEPS = 8, 4


def encoder(job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Seconds of a run over the first item (best of a few) and of loading, and peak memory; outputs go into a file."""
    file, options = EncoderFile.from_json(job["file"]), RunOptions(job["threads"])
    batch = np.load(job["input"], allow_pickle=False)
    started = time.perf_counter()
    opened = BACKENDS[job["backend"]].encoders[job["format"]](file, options, None)
    load_s = time.perf_counter() - started
    seconds: list[float] = []
    while not seconds or (sum(seconds) < _ENOUGH_S and len(seconds) < _MOST_RUNS):
        began = time.perf_counter()
        first = opened.encode(batch[:1])
        seconds.append(time.perf_counter() - began)
    others = [opened.encode(batch[i : i + 1]) for i in range(1, len(batch))]
    save(Path(job["output"]), np.concatenate([first, *others]))
    yield {"seconds": min(seconds), "load_s": load_s, "peak_bytes": peak_memory_bytes()}


def save(path: Path, array: NDArray[Any]) -> None:
    """Write an array as NumPy's file. numpy itself does not say that a disk is full, but how many items it wrote."""
    written = io.BytesIO()
    np.save(written, array, allow_pickle=False)
    path.write_bytes(written.getvalue())


def decoder(job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Speed of prompts and of steps with each number of threads, most first, while fewer may still be better."""
    counts: Sequence[int] = job["threads"]
    options = RunOptions(counts[0], counts[0], plain_weights=not job["extra_buffers"])
    file = replace(DecoderFile.from_json(job["file"]), context=_CONTEXT, image_tokens=1)
    opened = BACKENDS[job["backend"]].decoders[job["format"]](file, options)
    assert isinstance(opened, SupportsThreads), "a backend whose options are tried can change them"
    ids = [int(token) for token in np.random.default_rng(0).integers(0, opened.vocabulary, _PREFILL_TOKENS + 1)]

    def prompt() -> None:
        list(opened.prefill([Tokens(tuple(ids[:-1]))]))

    prompt()  # reads the weights from the disk
    best_prompt = best_step = float("inf")
    for threads in counts:
        opened.set_threads(threads, threads)
        prompt_s = min(_seconds(prompt) for _ in range(2))
        step_s = median(_seconds(lambda: opened.step(ids[-1:])) for _ in range(_STEPS))
        save(Path(job["outputs"]) / f"{threads}.npy", _logits(opened, job["text"]))
        yield {
            "threads": threads,
            "prefill_tokens_per_s": _PREFILL_TOKENS / prompt_s,
            "decode_tokens_per_s": 1 / step_s,
            "peak_bytes": peak_memory_bytes(),
        }
        if prompt_s > best_prompt * _HOPELESS and step_s > best_step * _HOPELESS:
            return
        best_prompt, best_step = min(best_prompt, prompt_s), min(best_step, step_s)


def _logits(opened: Decoder, text: Sequence[int]) -> Float:
    """Logits [n, vocabulary] of a text: spread over a prompt, then of steps."""
    before, steps = text[:-_COMPARED_STEPS], text[-_COMPARED_STEPS:]
    want = range(_COMPARED_EVERY - 1, len(before), _COMPARED_EVERY)
    return np.stack([*opened.prefill([Tokens(tuple(before))], want), *(opened.step([token]) for token in steps)])


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
