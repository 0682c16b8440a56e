"""ONNX Runtime GenAI: its builder's file of 4 bits, text alone, since its Gemma 3 sees images causally."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_CHUNK = 512  # tokens of a prompt at once, as its own chunked prefill has it


def prepare(job: dict[str, Any]) -> None:
    """Its builder needs several times the model in memory."""
    made = Path(job["made"])
    text = importlib.import_module("text_checkpoint").text_checkpoint(Path(job["checkpoint"]), made / "text")
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", text, "-o", made / "model"]
    options = ["-p", "int4", "-e", "cpu", "-c", made / "cache", "--extra_options", "prune_lm_head=true"]
    if code := subprocess.run([str(word) for word in (*builder, *options)], check=False).returncode:
        sys.exit(code)  # the last line is what it said itself
    for left in ("text", "cache"):
        shutil.rmtree(made / left, ignore_errors=True)


class Peer:
    """A model, and for each prompt a generator."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.library = importlib.import_module("onnxruntime_genai")
        config = self.library.Config(str(Path(job["made"]) / "model"))
        threads = {"intra_op_num_threads": job["threads"]}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
        self.model, self.context = self.library.Model(config), job["context"]
        self.generator: Any = None

    def prompt(self, ids: list[int]) -> float:
        """In pieces, as it reads long prompts."""
        self.generator = None  # the next one's cache would stand beside this one's
        params = self.library.GeneratorParams(self.model)
        params.set_search_options(max_length=self.context, min_length=self.context, do_sample=False)
        self.generator = self.library.Generator(self.model, params)
        numpy = importlib.import_module("numpy")
        started = time.perf_counter()
        for start in range(0, len(ids), _CHUNK):
            self.generator.append_tokens(numpy.asarray(ids[start : start + _CHUNK], numpy.int32))
        return time.perf_counter() - started

    def steps(self, ids: list[int], count: int) -> list[float]:
        """The first takes the logits that the prompt left, so it is no step."""
        self.generator.generate_next_token()
        milliseconds = []
        for _ in range(count):
            started = time.perf_counter()
            self.generator.generate_next_token()
            milliseconds.append(1000 * (time.perf_counter() - started))
        return milliseconds

    def close(self) -> None:
        """Free it, the generator first."""
        self.generator = None
        del self.model


def start(job: dict[str, Any]) -> Peer:
    """See `edgekit.bench.peers.programs`."""
    return Peer(job)
