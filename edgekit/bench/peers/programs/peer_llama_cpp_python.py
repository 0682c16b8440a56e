"""llama-cpp-python's high-level class, as its readers are told to use it; `options` are the class's own."""

from __future__ import annotations

import base64
import importlib
import time
from pathlib import Path
from typing import Any


class Peer:
    """A `Llama`, with its handler of images where there is a file for one."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.library = importlib.import_module("llama_cpp")
        options = dict(job["options"])
        if job["vision"]:
            handlers = importlib.import_module("llama_cpp.llama_chat_format")
            options["chat_handler"] = handlers.MTMDChatHandler(clip_model_path=job["vision"], verbose=False)
        self.model = self.library.Llama(job["decoder"], n_ctx=job["context"], verbose=False, **options)

    def first_token(self, text: str, image: str | None) -> float:
        """A question in its chat format."""
        content: Any = text
        if image:
            url = f"data:image/png;base64,{base64.b64encode(Path(image).read_bytes()).decode()}"
            content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
        started = time.perf_counter()
        self.model.create_chat_completion([{"role": "user", "content": content}], max_tokens=1, temperature=0)
        return time.perf_counter() - started

    def prompt(self, ids: list[int]) -> float:
        """Evaluated as a whole, in its own batches."""
        self.model.reset()
        return self._evaluated(ids)

    def steps(self, ids: list[int], count: int) -> list[float]:
        """Sampling is not timed: it is not edgekit's either."""
        milliseconds = []
        for _ in range(count):
            token = self.model.sample(temp=0.0)
            milliseconds.append(1000 * self._evaluated([token]))
        return milliseconds

    def _evaluated(self, ids: list[int]) -> float:
        started = time.perf_counter()
        self.model.eval(ids)
        self.library.llama_synchronize(self.model.ctx)
        return time.perf_counter() - started

    def close(self) -> None:
        """Free it."""
        self.model.close()


def start(job: dict[str, Any]) -> Peer:
    """See `edgekit.bench.peers.programs`."""
    return Peer(job)
