"""optimum-onnx: its own export of the checkpoint in float32, in its own class over ONNX Runtime."""

from __future__ import annotations

import importlib
import json
import shutil
import time
from pathlib import Path
from typing import Any


def prepare(job: dict[str, Any]) -> None:
    """Both towers of an embedding model; of an answering one the text alone, with its cache."""
    made, source = Path(job["made"]), Path(job["checkpoint"])
    export = importlib.import_module("optimum.exporters.onnx").main_export
    task = "zero-shot-image-classification" if _embeds(source) else "text-generation-with-past"
    if not _embeds(source):
        source = importlib.import_module("text_checkpoint").text_checkpoint(source, made / "text")
    export(str(source), output=str(made / "model"), task=task, local_files_only=True, do_validation=False)
    shutil.rmtree(made / "text", ignore_errors=True)


def _embeds(checkpoint: Path) -> bool:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    return "siglip" in config["model_type"]


def _options(job: dict[str, Any]) -> Any:
    options = importlib.import_module("onnxruntime").SessionOptions()
    options.intra_op_num_threads = job["threads"]
    return options


class Embedding:
    """One graph of both towers: an image brings a text along."""

    def __init__(self, job: dict[str, Any]) -> None:
        library, folder = importlib.import_module("optimum.onnxruntime"), str(Path(job["made"]) / "model")
        hub = importlib.import_module("transformers")
        self.processor = hub.AutoProcessor.from_pretrained(job["checkpoint"])
        kind = library.ORTModelForZeroShotImageClassification
        self.model = kind.from_pretrained(folder, session_options=_options(job), local_files_only=True)

    def image(self, image: str) -> float:
        """With the shortest text that there is, which it cannot leave out."""
        picture = importlib.import_module("PIL.Image").open(image).convert("RGB")
        started = time.perf_counter()
        given = self.processor(text=["a"], images=picture, padding="max_length", return_tensors="pt")
        self.model(**given)
        return time.perf_counter() - started

    def close(self) -> None:
        """Free it."""
        del self.model


class Answering:
    """The text model."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.torch, library = importlib.import_module("torch"), importlib.import_module("optimum.onnxruntime")
        self.model = library.ORTModelForCausalLM.from_pretrained(
            str(Path(job["made"]) / "model"), session_options=_options(job), local_files_only=True
        )
        self.cache: Any = None
        self.token: Any = None
        self.length = 0

    def prompt(self, ids: list[int]) -> float:
        """Read at once."""
        self.cache, self.length = None, 0
        return self._read(self.torch.tensor([ids]))

    def steps(self, ids: list[int], count: int) -> list[float]:
        """One token after the other."""
        return [1000 * self._read(self.token) for _ in range(count)]

    def _read(self, ids: Any) -> float:
        self.length += ids.shape[1]
        mask = self.torch.ones((1, self.length), dtype=self.torch.int64)
        started = time.perf_counter()
        found = self.model(input_ids=ids, attention_mask=mask, past_key_values=self.cache, use_cache=True)
        seconds = time.perf_counter() - started
        self.cache, self.token = found.past_key_values, found.logits[:, -1:].argmax(-1)
        return seconds

    def close(self) -> None:
        """Free it."""
        del self.model


def start(job: dict[str, Any]) -> Embedding | Answering:
    """See `edgekit.bench.peers.programs`."""
    return Embedding(job) if _embeds(Path(job["checkpoint"])) else Answering(job)
