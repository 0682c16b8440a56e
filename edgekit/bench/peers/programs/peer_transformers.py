"""transformers, in the numbers that the checkpoint is stored in, as its model cards show it."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import Any


class _Base:
    """A model and what prepares its inputs."""

    def __init__(self, job: dict[str, Any], kind: str, processor: str) -> None:
        self.torch, library = importlib.import_module("torch"), importlib.import_module("transformers")
        self.torch.set_num_threads(job["threads"])
        self.processor = getattr(library, processor).from_pretrained(job["checkpoint"])
        self.model = getattr(library, kind).from_pretrained(job["checkpoint"], dtype="auto").eval()

    def _timed(self, call: Any) -> float:
        started = time.perf_counter()
        with self.torch.inference_mode():
            call()
        return time.perf_counter() - started

    def close(self) -> None:
        """Free it."""
        del self.model


class Answering(_Base):
    """A model that answers."""

    def __init__(self, job: dict[str, Any]) -> None:
        seeing, blind = ("AutoModelForImageTextToText", "AutoProcessor"), ("AutoModelForCausalLM", "AutoTokenizer")
        super().__init__(job, *(seeing if job["sees"] else blind))
        self.cache: Any = None
        self.token: Any = None

    def first_token(self, text: str, image: str | None) -> float:
        """A question through its chat template."""
        content: Any = text
        if image:
            picture = importlib.import_module("PIL.Image").open(image).convert("RGB")
            content = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
        turns = [{"role": "user", "content": content}]

        def answer() -> None:
            given = self.processor.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
            if "pixel_values" in given:
                given["pixel_values"] = given["pixel_values"].to(self.model.dtype)
            self.model.generate(**given, max_new_tokens=1, do_sample=False)

        return self._timed(answer)

    def prompt(self, ids: list[int]) -> float:
        """Logits of the last position only."""
        given = self.torch.tensor([ids])

        def read() -> None:
            found = self.model(input_ids=given, use_cache=True, logits_to_keep=1)
            self.cache, self.token = found.past_key_values, found.logits[:, -1:].argmax(-1)

        self.cache = None
        return self._timed(read)

    def steps(self, ids: list[int], count: int) -> list[float]:
        """One token after the other."""

        def step() -> None:
            found = self.model(input_ids=self.token, past_key_values=self.cache, use_cache=True)
            self.cache, self.token = found.past_key_values, found.logits[:, -1:].argmax(-1)

        return [1000 * self._timed(step) for _ in range(count)]


class Embedding(_Base):
    """A model that embeds images and texts."""

    def __init__(self, job: dict[str, Any]) -> None:
        super().__init__(job, "AutoModel", "AutoProcessor")

    def image(self, image: str) -> float:
        """Preprocessing included."""
        picture = importlib.import_module("PIL.Image").open(image).convert("RGB")

        def encode() -> None:
            given = self.processor(images=picture, return_tensors="pt").to(self.model.dtype)
            self.model.get_image_features(**given)

        return self._timed(encode)

    def text(self, text: str) -> float:
        """Padded to the model's length, as it was trained."""

        def encode() -> None:
            given = self.processor(text=[text], padding="max_length", truncation=True, return_tensors="pt")
            self.model.get_text_features(input_ids=given["input_ids"])

        return self._timed(encode)


def start(job: dict[str, Any]) -> Answering | Embedding:
    """See `edgekit.bench.peers.programs`."""
    config = json.loads((Path(job["checkpoint"]) / "config.json").read_text(encoding="utf-8"))
    return Embedding(job) if "siglip" in config["model_type"] else Answering(job)
