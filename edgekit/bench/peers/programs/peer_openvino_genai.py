"""OpenVINO GenAI, with the file of 4 bits that optimum-intel exports for it."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def prepare(job: dict[str, Any]) -> None:
    """With images where the checkpoint has them."""
    config = json.loads((Path(job["checkpoint"]) / "config.json").read_text(encoding="utf-8"))
    task = "image-text-to-text" if "vision_config" in config else "text-generation-with-past"
    command = [Path(sys.executable).with_name("optimum-cli"), "export", "openvino", "--model", job["checkpoint"]]
    options = ["--task", task, "--weight-format", "int4", Path(job["made"]) / "model"]
    if code := subprocess.run([str(word) for word in (*command, *options)], check=False).returncode:
        sys.exit(code)  # the last line is what it said itself
    # transformers 5 writes another file, which the pipeline does not look for: it would resize to another size.
    given, made = Path(job["checkpoint"]) / "preprocessor_config.json", Path(job["made"]) / "model"
    if given.exists() and not (made / given.name).exists():
        shutil.copy(given, made)


class Peer:
    """A pipeline of text, or of images and text."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.library = importlib.import_module("openvino_genai")
        folder = Path(job["made"]) / "model"
        self.sees = job["sees"] and any(folder.glob("*vision*"))
        kind = self.library.VLMPipeline if self.sees else self.library.LLMPipeline
        self.pipeline = kind(str(folder), "CPU", INFERENCE_NUM_THREADS=job["threads"])
        self.prompt_tokens, self.words, self.asked = 0, 0, 0

    def first_token(self, text: str, image: str | None) -> float:
        """A question in Gemma's turns, which its own reader of chat templates cannot always make."""
        given = {"images": [_pixels(image)]} if image and self.sees else {}
        turns = f"<start_of_turn>user\n{text}<end_of_turn>\n<start_of_turn>model\n"
        started = time.perf_counter()
        self._generated(turns, 1, **given)
        return time.perf_counter() - started

    def prompt(self, ids: list[int]) -> float:
        """It takes no ids where it sees images: a text of about as many tokens, which it counts itself."""
        self.words = self.words or self._words(len(ids))
        started = time.perf_counter()
        found = self._generated(self._another(self.words), 1)
        seconds = time.perf_counter() - started
        self.prompt_tokens = found.perf_metrics.get_num_input_tokens()
        return seconds

    def steps(self, ids: list[int], count: int) -> list[float]:
        """By its own clock, which leaves out what turns tokens into text."""
        found = self._generated(self._another(self.words), count + 1)
        return [microseconds / 1000 for microseconds in found.perf_metrics.raw_metrics.m_durations]

    def close(self) -> None:
        """Free it."""
        del self.pipeline

    def _generated(self, text: str, tokens: int, **given: Any) -> Any:
        return self.pipeline.generate(
            text, max_new_tokens=tokens, ignore_eos=True, apply_chat_template=False, do_sample=False, **given
        )

    def _another(self, words: int) -> str:
        """A text that begins as none before: the pipeline keeps what it computed of a beginning, and would skip it."""
        self.asked += 1
        return " ".join([f"text{self.asked}", *(f"word{number}" for number in range(words))])

    def _words(self, tokens: int) -> int:
        found = self._generated(self._another(100), 1)
        return max(1, 100 * tokens // int(found.perf_metrics.get_num_input_tokens()))


def _pixels(image: str) -> Any:
    numpy, pillow = importlib.import_module("numpy"), importlib.import_module("PIL.Image")
    array = numpy.asarray(pillow.open(image).convert("RGB"))
    return importlib.import_module("openvino").Tensor(array[None])


def start(job: dict[str, Any]) -> Peer:
    """See `edgekit.bench.peers.programs`."""
    return Peer(job)
